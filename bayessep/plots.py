"""Figures of separations: spectrograms and masks, scores, convergence, and uncertainty.

Figures are returned, and pictures are returned as PNG bytes; nothing is shown, and no global state of matplotlib is
changed. Speech is blue and music orange everywhere; methods keep their colours from figure to figure.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image
from scipy.ndimage import median_filter

from bayessep.comparison import MIXTURE, Comparison, cell, exact
from bayessep.estimates import Estimate
from bayessep.metrics import StemScores
from bayessep.pipeline import Separation
from bayessep.preparation import window_of
from bayessep.stft import bin_frequencies, frame_times, stft, stft_for_rate
from bayessep.timeline import BOTH, MUSIC, NOISE, SILENCE, SPEECH, UNLABELLED, Segment

# Okabe and Ito's colours, which are safe for colour-blind readers.
SPEECH_COLOUR, MUSIC_COLOUR = "#0072B2", "#D55E00"
COLOURS = {
    MIXTURE: "#8a8a8a",
    "nmf": "#E69F00",
    "variational": "#0072B2",
    "icm": "#D55E00",
    "joint": "#009E73",
    "svi": "#56B4E9",
    "unsupervised": "#CC79A7",
    "conv-tasnet": "#7a5195",
}
LINES = {"nmf": "-", "variational": "-", "icm": "--", "joint": "-", "svi": ":", "unsupervised": "-."}
LABEL_COLOURS = {
    SPEECH: SPEECH_COLOUR, MUSIC: MUSIC_COLOUR, BOTH: "#8E6C8A", SILENCE: "#e4e4e4", NOISE: "#b0b0b0", UNLABELLED: "#f4f4f4",
}  # fmt: skip
_INK = ["#ffffff", "#dfe3ec", "#93a4c8", "#4b5b96", "#1d1f4e", "#08081c"]
LOUDNESS = LinearSegmentedColormap.from_list("loudness", _INK)
SHARE = LinearSegmentedColormap.from_list("share", [MUSIC_COLOUR, "#f0b48c", "#f7f7f5", "#86bfdf", SPEECH_COLOUR])
PRESENCE = LinearSegmentedColormap.from_list("presence", ["#f4f4f4", "#f0b48c", MUSIC_COLOUR])
RANGE_DB = 70.0  # from the loudest bin of the mixture down to white

STYLE: dict[Any, Any] = {  # the stubs of rc_context expect a literal type for the keys
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.6,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
}


def png(figure: Figure, dpi: int = 100) -> bytes:
    """Render a figure as a PNG with a palette of 256 colours: reproducible bytes, a third of the usual size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    picture = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    compact = io.BytesIO()
    picture.save(compact, "PNG", optimize=True)
    return compact.getvalue()


# --- spectrograms -------------------------------------------------------------------------------------------------


def spectrogram_db(waveform: Float[np.ndarray, "C N"], sample_rate: int) -> Float[np.ndarray, "T F"]:
    """Return the level in dB of every frame and bin, from the mean magnitude over channels. Silence is at -240 dB."""
    spectrum = stft(jnp.asarray(waveform, jnp.float32), stft_for_rate(sample_rate))
    return 20 * np.log10(np.maximum(np.abs(np.asarray(spectrum)).mean(0), 1e-12))


def scale_of(mixture: Float[np.ndarray, "C N"], sample_rate: int) -> Normalize:
    """Return the colour scale that the mixture and all of its stems share: `RANGE_DB` down from its loudest bin."""
    top = float(spectrogram_db(mixture, sample_rate).max())
    return Normalize(top - RANGE_DB, top)


def spectrogram_png(
    waveform: Float[np.ndarray, "C N"], sample_rate: int, scale: Normalize, *, width: int = 900, height: int = 160
) -> bytes:
    """Render a spectrogram without axes, from the first sample to the last and from 0 Hz to the Nyquist frequency.

    It has at most `width` by `height` pixels; power is averaged where there are more frames or bins.
    """
    window = stft_for_rate(sample_rate)
    levels = spectrogram_db(waveform, sample_rate)[: max(1, -(-waveform.shape[1] // window.hop))]
    return power_png(_pooled(10 ** (levels / 10), width), scale, height=height)


def power_png(power: Float[np.ndarray, "T F"], scale: Normalize, *, height: int = 160) -> bytes:
    """Render positive powers as a spectrogram without axes, one pixel wide for each frame."""
    return _picture(scale(10 * np.log10(_pooled(power.T, height).T)), LOUDNESS)


def _pooled(rows: Float[np.ndarray, "T F"], most: int) -> Float[np.ndarray, "t F"]:
    """Average neighbouring rows so that at most `most` remain."""
    if len(rows) <= most:
        return rows
    edges = np.linspace(0, len(rows), most + 1).astype(int)
    return np.add.reduceat(rows, edges[:-1], axis=0) / np.diff(edges)[:, None]


def _picture(values: Float[np.ndarray, "T F"], colours: Colormap, levels: int = 48) -> bytes:
    """Encode values from 0 to 1 as a PNG, time to the right and frequency upwards; a small palette keeps it small."""
    index = np.clip(np.asarray(values) * (levels - 1) + 0.5, 0, levels - 1).astype(np.uint8)
    palette = (np.array([colours(k / (levels - 1))[:3] for k in range(levels)]) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(index.T[::-1]))
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# --- parts of figures ---------------------------------------------------------------------------------------------


def draw_spectrogram(
    axes: Axes, waveform: Float[np.ndarray, "C N"], sample_rate: int, scale: Normalize, top: float | int | None = None
) -> AxesImage:
    """Draw a spectrogram up to `top` Hz, by default the Nyquist frequency, in kHz over seconds."""
    window = stft_for_rate(sample_rate)
    frequencies = bin_frequencies(window, sample_rate)
    keep = frequencies <= (frequencies[-1] if top is None else top)
    levels = spectrogram_db(waveform, sample_rate)[:, keep]
    return _draw(axes, levels, frame_times(len(levels), window, sample_rate), frequencies[keep], LOUDNESS, scale)


def draw_mask(axes: Axes, found: Separation | Estimate) -> AxesImage:
    """Draw the (posterior mean) share of speech in every bin, in kHz over seconds."""
    return _draw(axes, found.mask, found.times, found.frequencies, SHARE, Normalize(0, 1))


def _draw(
    axes: Axes, values: np.ndarray, times: np.ndarray, frequencies: np.ndarray, colours: Colormap, scale: Normalize
) -> AxesImage:
    """Draw an image whose pixels are centred on frames and bins."""
    frame, bin_ = float(times[1] - times[0]) / 2, float(frequencies[1] - frequencies[0]) / 2
    left, right = float(times[0]) - frame, float(times[-1]) + frame
    bottom, top = (float(frequencies[0]) - bin_) / 1000, (float(frequencies[-1]) + bin_) / 1000
    image = axes.imshow(values.T, origin="lower", aspect="auto", cmap=colours, norm=scale, interpolation="antialiased")
    image.set_extent((left, right, bottom, top))
    axes.set_ylim(0, top)
    return image


def ink_on(colour: str) -> str:
    """Return the text colour that is legible on a background colour."""
    return "white" if sum(to_rgb(colour)) < 1.8 else "#333333"


def draw_labels(axes: Axes, segments: Sequence[Segment], bottom: float | int = 0.0, height: float | int = 1.0) -> None:
    """Draw segments as a strip, each with its label where there is room."""
    longest = max((s.end for s in segments), default=1.0)
    for s in segments:
        colour = LABEL_COLOURS.get(s.label, "#b0b0b0")
        axes.add_patch(Rectangle((s.start, bottom), s.end - s.start, height, facecolor=colour, edgecolor="white", lw=0.8))
        if s.end - s.start > 0.012 * len(s.label) * longest:
            ink = ink_on(colour)
            place = ((s.start + s.end) / 2, bottom + height / 2)
            axes.annotate(s.label, place, ha="center", va="center_baseline", color=ink, fontsize=7.5)


def draw_traces(axes: Axes, separations: Mapping[str, Separation]) -> None:
    """Draw how much of each method's gain in its bound was still missing, sweep by sweep.

    Bounds of different methods are not comparable (other data, other priors, a log posterior instead of a bound), so
    every trace is divided by its own rise: 1 is the first sweep, 0 would be the last. Where an objective overshoots its
    last value, as with stochastic gradients, the absolute distance is drawn.
    """
    for name, found in separations.items():
        missing = gain_missing(found.trace)
        axes.plot(np.arange(1, len(missing) + 1), missing, LINES.get(name, "-"), color=COLOURS.get(name), label=name)
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.5)
    axes.grid(True, axis="y")
    axes.set_xlabel("sweep, or gradient step of svi")


def gain_missing(trace: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """Return the distance of an objective from its last value, relative to that of its first value; NaN where it is zero."""
    finite = np.asarray(trace, np.float64)
    distance = np.abs(finite[-1] - finite)
    return np.where(distance > 0, distance / max(distance[0], 1e-300), np.nan)


def _name(axes: Axes, name: str, note: str = "") -> None:
    """Write the name of a row of small multiples to its left."""
    text = f"{name}\n{note}" if note else name
    axes.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=6, multialignment="right", color="#222222")


def _frequency_axis(axes: Axes, top_khz: float | int) -> None:
    """Label the frequency axis (kHz) with a few round frequencies."""
    step = next(step for step in (1, 2, 4, 8, 1e9) if top_khz < 2.5 * step)
    axes.set_yticks(np.arange(0, 1.01 * top_khz, step))
    axes.tick_params(axis="y", labelsize=7.5)


# --- figures ------------------------------------------------------------------------------------------------------


@rc_context(STYLE)
def compare_figure(
    comparison: Comparison,
    mixture: Float[np.ndarray, "C N"],
    references: Mapping[str, Float[np.ndarray, " N"]] | None = None,
    labels: Sequence[Segment] | None = None,
    excerpt: float | int = 10.0,
) -> Figure:
    """Draw all results of a comparison on one page.

    At the top, for every method, the spectrogram of the estimated speech and the mask, under those of the mixture and, if
    known, of the true speech: `excerpt` seconds from the middle, as more would blur. Below, scores, traces, and where each
    method found music.
    """
    found, apart, rate = comparison.separations, comparison.apart, comparison.sample_rate
    scored = any(row.speech is not None for row in comparison.rows)
    upper, lower = 1.05 * (len(apart) + 1), 0.2 * len(comparison.rows) + 1.15
    heights = [upper, *([lower] * (scored + bool(found)))]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    top, *bottom = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_methods(top, apart, mixture, rate, references or {}, excerpt)
    if scored:
        draw_scores(bottom[0], {row.method: row.speech for row in comparison.rows}, "speech")
    if found:
        left, right = bottom[-1].subplots(1, 2, width_ratios=[1, 1.25])
        draw_traces(left, found)
        left.set_title("Bound still to gain, relative to each method’s rise")
        left.legend(ncols=2, loc="upper right", handlelength=1.8, columnspacing=1)
        _draw_presence(right, found, mixture.shape[1] / rate, labels)
    return figure


def _draw_methods(
    page: FigureBase,
    found: Mapping[str, Separation | Estimate],
    mixture: np.ndarray,
    rate: int,
    references: Mapping[str, np.ndarray],
    excerpt: float | int,
) -> None:
    seconds, scale = mixture.shape[1] / rate, scale_of(mixture, rate)
    start = max(0.0, (seconds - excerpt) / 2)
    shown = (start, min(seconds, start + excerpt))
    top = max(float(s.frequencies[-1]) for s in found.values())
    rows = page.subplots(len(found) + 1, 2, sharex=True, sharey=True, squeeze=False)
    levels = draw_spectrogram(rows[0, 0], mixture, rate, scale, top)
    _name(rows[0, 0], "mixture")
    rows[0, 0].set_title("The mixture, then the speech found by each method (kHz)")
    if "speech" in references:
        draw_spectrogram(rows[0, 1], references["speech"][None], rate, scale, top)
        rows[0, 1].set_title("The true speech, then the mask of each method")
    else:
        rows[0, 1].set_axis_off()
        rows[0, 1].set_title("The mask of each method")
    masks: list[AxesImage] = []
    for (left, right), (name, one) in zip(rows[1:], found.items(), strict=True):
        draw_spectrogram(left, one.speech, rate, scale, top)
        _name(left, name)
        masks.append(draw_mask(right, one))
    for axes in rows.flat:
        axes.set_xlim(*shown)
        _frequency_axis(axes, top / 1000)
        axes.tick_params(axis="x", length=2)
    for axes in rows[-1]:
        axes.set_xlabel("seconds")
    below = {"location": "right", "pad": 0.01, "aspect": 22, "shrink": 0.5}
    page.colorbar(levels, ax=rows[:, 0].tolist(), label="level (dB)", **below)
    page.colorbar(masks[-1], ax=rows[:, 1].tolist(), label="share of speech", ticks=[0, 0.5, 1], **below)


def draw_scores(page: FigureBase, scores: Mapping[str, StemScores | None], stem: str) -> None:
    """Draw SDR, SIR and SAR as bars side by side. Bars beyond the methods' range, such as the SAR of a mixture, are cut."""
    names = list(scores)
    panels = [("sdr", "SDR", "all errors"), ("sir", "SIR", "the other stem"), ("sar", "SAR", "artefacts")]
    for axes, (field, title, against) in zip(page.subplots(1, 3, sharey=True), panels, strict=True):
        values = [np.nan if s is None else exact(getattr(s, field)) for s in scores.values()]
        usual = [v for name, v in zip(names, values, strict=True) if name != MIXTURE and np.isfinite(v)]
        low, high = min([0.0, *usual]), max([1.0, *usual])
        width = high - low
        for n, (name, value) in enumerate(zip(names, values, strict=True)):
            length = float(np.clip(np.nan_to_num(value, posinf=1e9, neginf=-1e9), low - 0.1 * width, high + 0.1 * width))
            colour = COLOURS.get(name, "#555555")
            axes.barh(n, length, height=0.66, color=colour, alpha=0.45 if abs(value) > abs(length) + 1e-9 else 1.0)
            axes.annotate(
                cell(value, 1), (max(length, 0.0), n), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_xlim(low - 0.1 * width if low < 0 else 0, high + 0.25 * width)
        axes.axvline(0, color="#666666", lw=0.6)
        axes.set_title(f"{title} of the {stem} (dB): {against}")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks([])


def _draw_presence(
    axes: Axes, found: Mapping[str, Separation], seconds: float | int, labels: Sequence[Segment] | None
) -> None:
    """Draw P(music) of each method as a strip, under the labels if there are any."""
    names = [*(["labels"] if labels else []), *found]
    for n, name in enumerate(names):
        if labels and n == 0:
            draw_labels(axes, labels, n - 0.42, 0.84)
            continue
        one = found[name]
        extent = (float(one.times[0]), float(one.times[-1]), n + 0.42, n - 0.42)
        axes.imshow(one.p_music[None], extent=extent, cmap=PRESENCE, norm=Normalize(0, 1), aspect="auto")
    axes.set_xlim(0, float(seconds))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel("seconds")
    axes.set_title("Probability of music, from none (pale) to certain (orange)")


@rc_context(STYLE)
def trace_figure(separations: Mapping[str, Separation]) -> Figure:
    """Draw the bound of every method in its own units, and how much of its rise was missing, sweep by sweep."""
    figure = Figure(figsize=(9, 0.9 + 1.1 * ((len(separations) + 2) // 3) + 2.2), layout="constrained")
    rows = (len(separations) + 2) // 3
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.3 * rows, 2.4])[:, 0]
    panels = upper.subplots(rows, 3, squeeze=False)
    for axes, (name, found) in zip(panels.flat, separations.items(), strict=False):
        axes.plot(np.arange(1, len(found.trace) + 1), found.trace, color=COLOURS.get(name))
        axes.set_title(name)
        shown = found.trace[len(found.trace) // 20 :]
        axes.set_ylim(shown.min() - 0.05 * np.ptp(shown) - 1e-9, shown.max() + 0.1 * np.ptp(shown) + 1e-9)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in list(panels.flat)[len(separations) :]:
        axes.set_axis_off()
    axes = lower.subplots()
    draw_traces(axes, separations)
    axes.set_title("Gain still missing, relative to each method’s own rise")
    axes.legend(ncols=3, loc="upper right")
    return figure


@rc_context(STYLE)
def uncertainty_figure(found: Separation, mixture: Float[np.ndarray, "C N"], sample_rate: int) -> Figure:
    """Draw the uncertainty of each stem over time: posterior standard deviation relative to the stem."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.2])
    draw_spectrogram(above, mixture, sample_rate, scale_of(mixture, sample_rate), float(found.frequencies[-1]))
    _frequency_axis(above, float(found.frequencies[-1]) / 1000)
    above.set_title("The mixture (kHz)")
    for stem, values in uncertainty(found, mixture, sample_rate).items():
        colour = SPEECH_COLOUR if stem == "speech" else MUSIC_COLOUR
        below.plot(found.times, values, color=colour, lw=0.7, alpha=0.3)
        below.plot(found.times, running_median(values), color=colour, label=stem)
    below.set_xlim(0, mixture.shape[1] / sample_rate)
    below.set_ylim(0, 1)
    below.grid(True, axis="y")
    below.set_xlabel("seconds")
    below.set_title("Posterior standard deviation of each stem, relative to it (off the scale where a stem is nearly silent)")
    below.legend(ncols=2, loc="upper right")
    return figure


def running_median(values: Float[np.ndarray, " T"], frames: int = 31) -> Float[np.ndarray, " T"]:
    """Return the running median over `frames` frames, about half a second at the usual hop."""
    return median_filter(np.asarray(values), min(frames, len(values)), mode="nearest")


def uncertainty(
    found: Separation, mixture: Float[np.ndarray, "C N"], sample_rate: int
) -> dict[str, Float[np.ndarray, " T"]]:
    """Return `Separation.uncertainty`, given the waveform of the mixture instead of its magnitudes."""
    spectrum = stft(jnp.asarray(mixture, jnp.float32), window_of(found.settings, sample_rate))
    return found.uncertainty(np.abs(np.asarray(spectrum)).mean(0)[:, : found.mask.shape[1]])


@rc_context(STYLE)
def mask_figure(found: Separation, mixture: Float[np.ndarray, "C N"], sample_rate: int) -> Figure:
    """Draw the spectrogram of a mixture, with the mask and its standard deviation below."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    rows = figure.subplots(3, 1, sharex=True, sharey=True)
    levels = draw_spectrogram(rows[0], mixture, sample_rate, scale_of(mixture, sample_rate), float(found.frequencies[-1]))
    shares = draw_mask(rows[1], found)
    spread = _draw(rows[2], found.mask_std, found.times, found.frequencies, LOUDNESS, Normalize(0, 1))
    titles = ["Mixture (dB)", "Share of speech, posterior mean", "Uncertainty of the share (posterior standard deviation)"]
    for axes, image, title in zip(rows, (levels, shares, spread), titles, strict=True):
        axes.set_title(title)
        axes.set_xlim(0, mixture.shape[1] / sample_rate)
        _frequency_axis(axes, float(found.frequencies[-1]) / 1000)
        figure.colorbar(image, ax=axes, pad=0.01, aspect=12)
    rows[-1].set_xlabel("seconds")
    rows[1].set_ylabel("kHz")
    return figure
