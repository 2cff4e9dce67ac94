"""Figures 2 and 3 of paper 004: measures against the confidence of a mask, and the trade-off between SAR and SIR.

As in `bayessep.plots`: every function returns a figure, which `bayessep.plots.png` turns into bytes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure

from bayessep.plots import STYLE

MEASURE_COLOURS = {"SDR": "#009E73", "SIR": "#D55E00", "SAR": "#0072B2"}
METHOD_COLOURS = ("#D55E00", "#0072B2")
MARKERS = ("o", "s")


class Curves(NamedTuple):
    """Means and half-widths of intervals by measure, at each confidence α; a single pair for methods without one."""

    alphas: Sequence[float]
    levels: Mapping[str, Float[np.ndarray, "n 2"]]


@rc_context(STYLE)
def confidence_figure(curves: Mapping[tuple[str, str], Curves], methods: Sequence[str], rows: Sequence[str]) -> Figure:
    """Draw measures against confidence, with their intervals: a column for each method, a row for each source."""
    figure = Figure(figsize=(9.5, 2.5 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), len(methods), sharex=True, sharey="row", squeeze=False)
    for across, row in zip(grid, rows, strict=True):
        for axes, method in zip(across, methods, strict=True):
            alphas, levels = curves[method, row]
            for name, values in levels.items():
                at, (means, margins) = (alphas, values.T) if len(alphas) else ((0, 1), np.repeat(values.T, 2, axis=1))
                colour = MEASURE_COLOURS.get(name)
                axes.fill_between(at, means - margins, means + margins, color=colour, alpha=0.15, linewidth=0)
                axes.plot(at, means, color=colour, label=name, marker="o" if len(alphas) else "", ms=3)
            axes.grid(axis="y")
            axes.set_xlim(0, 1)
        # With few songs, intervals are far wider than the curves: scale the axis to the means.
        every = [values[:, 0] for method in methods for values in curves[method, row].levels.values()]
        means = np.concatenate(every)
        if np.isfinite(means).any():
            spare = max(3.0, 0.35 * float(np.nanmax(means) - np.nanmin(means)))
            across[0].set_ylim(float(np.nanmin(means)) - spare, float(np.nanmax(means)) + spare)
        across[0].set_ylabel(f"{row} (dB)")
    for axes, method in zip(grid[0], methods, strict=True):
        axes.set_title(method)
    for axes in grid[-1]:
        axes.set_xlabel("confidence α")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


@rc_context(STYLE)
def trade_off_figure(
    curves: Mapping[str, Mapping[str, Float[np.ndarray, "n 2"]]], points: Mapping[str, tuple[float, float]]
) -> Figure:
    """Draw SAR against SIR: a panel for each source, with a curve for each method and a point for the ideal binary mask."""
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (row, of) in zip(panels, curves.items(), strict=True):
        for (method, curve), colour, marker in zip(of.items(), METHOD_COLOURS, MARKERS, strict=False):
            axes.plot(*curve.T, color=colour, marker=marker, ms=4, label=method)
        if row in points:
            axes.plot(*points[row], color="#222222", marker="*", ms=10, linestyle="none", label="ideal binary mask")
        axes.set(title=row, xlabel="SIR (dB)")
        axes.grid(True)
        axes.margins(0.08)
    panels[0].set_ylabel("SAR (dB)")
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower right", ncols=3)
    return figure
