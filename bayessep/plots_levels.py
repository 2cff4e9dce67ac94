"""Figure of paper 000's experiment: scores against the speech-to-music ratio of the mixture.

As in `bayessep.plots`: every function returns a figure, which `bayessep.plots.png` turns into bytes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from bayessep.plots import STYLE


@rc_context(STYLE)
def levels_figure(
    levels: Mapping[str, Mapping[float, tuple[float, float]]], colours: Mapping[str, str], title: str, unit: str
) -> Figure:
    """Draw a line with error bars for each row: (mean, margin) by ratio in dB.

    Rows with a colour are in the legend; those without are grey, and named at their right end.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for n, (row, by_ratio) in enumerate(levels.items()):
        ratios = sorted(by_ratio)
        means, margins = np.array([by_ratio[r] for r in ratios]).T
        offset = 0.3 * (n / max(len(levels) - 1, 1) - 0.5)  # side by side, or the bars would hide each other
        named = row in colours
        style: dict[str, Any] = {"color": colours.get(row, "#8a8a8a"), "linestyle": "-" if named else ":"}
        style |= {"label": row} if named else {}
        axes.errorbar(np.array(ratios) + offset, means, margins, marker="o" if named else ".", ms=4, capsize=2, lw=1.2, **style)
        if not named:
            axes.annotate(row, (ratios[-1] + 0.9, means[-1]), fontsize=7, va="center", color=style["color"])
    axes.set(xlabel="speech-to-music ratio of the mixture (dB)", ylabel=unit, title=title)
    axes.grid(axis="y")
    axes.legend(fontsize=7.5)
    axes.margins(x=0.15)
    return figure
