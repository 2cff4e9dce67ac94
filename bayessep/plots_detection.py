"""Figures on detection: separability of the classes, recall of overlap, and calibration of probabilities.

As in `bayessep.plots`: every function returns a figure, which `bayessep.plots.png` turns into bytes.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from bayessep.detection_scores import Reliability
from bayessep.plots import COLOURS, MUSIC_COLOUR, SPEECH_COLOUR, STYLE
from bayessep.separability import Embedding
from bayessep.timeline import MUSIC, SPEECH


@rc_context(STYLE)
def separability_figure(embeddings: Mapping[str, Embedding], notes: Mapping[str, str] | None = None) -> Figure:
    """Draw Figure 2 of paper 003: scatter plots of the embeddings side by side, each with its name and a note below."""
    figure = Figure(figsize=(4.5 * len(embeddings), 4.4), layout="constrained")
    for axes, (name, (points, speech)) in zip(
        figure.subplots(1, len(embeddings), squeeze=False)[0], embeddings.items(), strict=True
    ):
        order = np.random.default_rng(0).permutation(len(points))  # or the class drawn last would hide the other
        colours = np.where(speech, SPEECH_COLOUR, MUSIC_COLOUR)[order]
        axes.scatter(*points[order].T, s=7, c=colours.tolist(), alpha=0.7, linewidths=0)
        axes.set(title=name, xticks=[], yticks=[], xlabel=(notes or {}).get(name, ""))
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        for label, colour in (("speech", SPEECH_COLOUR), ("music", MUSIC_COLOUR)):
            axes.scatter([], [], s=25, c=colour, label=label)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


@rc_context(STYLE)
def overlap_figure(levels: Mapping[str, Mapping[int, tuple[float, float]]], modified: Mapping[str, str]) -> Figure:
    """Draw Figure 4 of paper 003: recall of overlap, (mean, deviation) by ratio in dB, for baselines and modified systems.

    A deviation that is NaN, as with a single fold, has no bar. `modified` maps each baseline to its modified system; the two share
    a colour.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    partner = {after: before for before, after in modified.items()}
    colours = dict(zip(dict.fromkeys(partner.get(row, row) for row in levels), COLOURS.values(), strict=False))
    sides = figure.subplots(1, 2, sharey=True)
    for axes, title, later in zip(sides, ("baselines", "modified"), (False, True), strict=True):
        for row, by_ratio in levels.items():
            if (row in partner) == later:
                means, deviations = np.array(list(by_ratio.values())).T
                style = {"color": colours.get(partner.get(row, row), "#8a8a8a"), "marker": "o", "ms": 4, "capsize": 2, "lw": 1.2}
                axes.errorbar(list(by_ratio), means, deviations, label=row, **style)
        axes.set(title=title, xlabel="speech-to-music ratio (dB)")
        axes.grid(axis="y")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.05), ncols=2)  # curves may be anywhere
    sides[0].set(ylabel="recall of speech+music (%), ± deviation over folds", ylim=(0, 102))
    return figure


@rc_context(STYLE)
def reliability_figure(curves: Mapping[str, Reliability]) -> Figure:
    """Draw reliability diagrams: observed frequency against predicted probability, and a histogram of it, one line for each name.

    On the diagonal, probabilities are calibrated. Empty bins have no point; the area of a point grows with its count.
    """
    figure = Figure(figsize=(4.8, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4.2, 1])
    above.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=0.8, linestyle=":")
    fixed = {SPEECH: SPEECH_COLOUR, MUSIC: MUSIC_COLOUR}
    others = iter(c for c in COLOURS.values() if c not in fixed.values())
    for name, curve in curves.items():
        colour, some = fixed.get(name) or next(others), curve.counts > 0
        share = curve.counts / curve.counts.sum()
        above.plot(curve.probability[some], curve.frequency[some], color=colour, label=f"{name} (error {curve.error:.3f})")
        above.scatter(
            curve.probability[some], curve.frequency[some], s=8 + 150 * share[some], color=colour, linewidths=0, alpha=0.7
        )
        below.stairs(share, curve.edges, color=colour, linewidth=1.2)
    above.set(ylabel="how often it was so", title="Reliability", xlim=(0, 1), ylim=(-0.02, 1.02))
    above.legend(loc="upper left")
    below.set(xlabel="probability that was given", ylabel="share", ylim=(0, None))
    return figure
