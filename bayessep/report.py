"""Self-contained HTML page for a comparison: players, spectrograms, scores, and the uncertainty of each method."""

import base64
import html
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import Float

from bayessep import audio, plots
from bayessep.comparison import CAPTION, Comparison, cell, columns
from bayessep.errors import UserError
from bayessep.estimates import SUMMARIES, Estimate
from bayessep.pipeline import Separation
from bayessep.resampling import resample
from bayessep.settings import METHODS
from bayessep.timeline import Segment

Signal = Float[np.ndarray, "C N"]


def write_report(
    path: Path,
    comparison: Comparison,
    mixture: Signal,
    sample_rate: int,
    *,
    references: Mapping[str, Float[np.ndarray, " N"]] | None = None,
    labels: Sequence[Segment] | None = None,
    title: str = "Speech and music, separated",
    intro: str = "",
) -> None:
    """Write a self-contained HTML file, whole or not at all.

    Args:
        path: of the file.
        comparison: what `compare` found in this mixture.
        mixture: float waveform, all channels.
        sample_rate: in Hz.
        references: true stems, mono; they get players of their own.
        labels: known segments of speech and music, drawn above those that the methods found.
        title: heading of the page.
        intro: first paragraph (plain text), on what was separated.

    Raises:
        UserError: the file cannot be written.
    """
    page = render(comparison, mixture, sample_rate, references or {}, labels or [], title, intro)
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place.") from error


def render(
    comparison: Comparison,
    mixture: Signal,
    sample_rate: int,
    references: Mapping[str, Float[np.ndarray, " N"]],
    labels: Sequence[Segment],
    title: str,
    intro: str,
) -> str:
    """Render the page as HTML."""
    scale = plots.scale_of(mixture, sample_rate)
    seconds = mixture.shape[1] / sample_rate

    def track(name: str, waveform: Signal, kind: str) -> str:
        return _track(name, waveform, sample_rate, scale, kind)

    known = [track(f"true {name}", np.asarray(w)[None], name) for name, w in references.items()]
    methods = [
        _estimate(name, found, track)
        if isinstance(found, Estimate)
        else _method(name, found, comparison, mixture, track, labels, seconds)
        for name, found in comparison.apart.items()
    ]
    contents = "".join(f'<li><a href="#{name}">{name}</a></li>' for name in comparison.apart)
    return Template(_PAGE).substitute(
        title=html.escape(title),
        style=STYLE,
        script=SCRIPT,
        intro=f"<p>{html.escape(intro)}</p>" if intro else "",
        contents=contents,
        scores=_table(comparison),
        mixture=track("mixture", mixture, "mixture"),
        references="".join(known),
        references_heading="<h2>The true sources</h2>" if known else "",
        reasoning=_REASONING.format(_setting(comparison)) if comparison.separations else "",
        traces=_TRACES + _traces(comparison.separations) if comparison.separations else "",
        methods="".join(methods),
    )


def _setting(comparison: Comparison) -> str:
    """Describe the common settings of all methods in one sentence."""
    one = next(iter(comparison.separations.values())).settings
    return html.escape(
        f"{one.bases} speech templates, at most {one.sweeps} sweeps on the mixture and {one.training_sweeps} on the training "
        f"speech, seed {one.seed}, frequencies up to {one.max_frequency / 1000:g} kHz modelled. Training, shared by the "
        f"methods that use it, took {comparison.training_seconds:.1f} s."
    )


# --- sound --------------------------------------------------------------------------------------------------------


HEARD = 48_000  # Hz, the highest sample rate on the page


def audio_data(waveform: Signal, sample_rate: int) -> str:
    """Encode sound as a data URL: Ogg Vorbis in one or two channels at no more than 48 kHz, turned down if it would clip."""
    heard = waveform if len(waveform) <= 2 else waveform.mean(0, keepdims=True)
    if sample_rate > HEARD:  # inaudible; and libvorbis ends the process at rates that it does not know
        heard, sample_rate = resample(heard, sample_rate, HEARD), HEARD
    heard = (heard * audio.common_gain(heard)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.ogg"
        with audio.Writer(path, sample_rate, len(heard)) as writer:
            for start in range(0, heard.shape[1], 1 << 16):  # the Vorbis encoder fails on very long blocks
                writer.append(heard[:, start : start + (1 << 16)])
        return data_url("audio/ogg", path.read_bytes())


def data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _track(name: str, waveform: Signal, sample_rate: int, scale: plots.Normalize, kind: str) -> str:
    """Render a player under a spectrogram, with a line that moves over it during playback."""
    seconds = waveform.shape[1] / sample_rate
    picture = plots.spectrogram_png(waveform, sample_rate, scale)
    label = html.escape(name)
    alt = f"Spectrogram of the {label}, 0 to {sample_rate / 2000:g} kHz over {seconds:.0f} seconds"
    return f"""
<figure class="track {kind}">
  <figcaption>{label}</figcaption>
  <div class="frame"><span class="top">{sample_rate / 2000:g} kHz</span><span class="bottom">0</span>
    <div class="picture"><img src="{data_url("image/png", picture)}" alt="{alt}"><i class="playhead"></i></div></div>
  <audio controls preload="metadata" aria-label="{label}" src="{audio_data(waveform, sample_rate)}"></audio>
</figure>"""


# --- pictures -----------------------------------------------------------------------------------------------------


def polyline(x: np.ndarray, y: np.ndarray, kind: str) -> str:
    """Draw a line in an SVG picture 1000 wide and 100 high; x and y go from 0 to 1, and NaN in y leaves gaps."""
    stretches: list[list[str]] = [[]]
    for a, b in zip(x, y, strict=True):
        if np.isfinite(b):
            stretches[-1].append(f"{1000 * a:.1f},{100 * (1 - b):.1f}")
        elif stretches[-1]:
            stretches.append([])
    return "".join(f'<polyline class="{kind}" points="{" ".join(points)}"/>' for points in stretches if points)


def svg(content: str, description: str, top: str, bottom: str, kind: str = "") -> str:
    """Put SVG content into the same frame as spectrograms, so that their time axes are aligned."""
    return f"""
<div class="frame {kind}"><span class="top">{top}</span><span class="bottom">{bottom}</span>
  <svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{html.escape(description)}">{content}</svg>
</div>"""


def thinned(values: np.ndarray, most: int = 900) -> np.ndarray:
    """Average neighbouring values so that at most `most` remain: a line cannot show more than there are pixels."""
    together = max(1, -(-len(values) // most))
    first = np.arange(0, len(values), together)
    return np.add.reduceat(values, first) / np.diff(first, append=len(values)) if together > 1 else values


def _uncertainty(found: Separation, mixture: Signal, sample_rate: int, seconds: float) -> str:
    values = plots.uncertainty(found, mixture, sample_rate)
    x = thinned(found.times / seconds)
    lines = [
        polyline(x, np.clip(thinned(plots.running_median(v)), 0, 1), f"line {stem}") for stem, v in values.items()
    ]
    said = "Relative standard deviation of speech and music over time; the median is " + " and ".join(
        f"{np.median(v):.2f} for the {stem}" for stem, v in values.items()
    )
    return svg("".join(lines), said, "100 %", "0")


def _presence(found: Separation, labels: Sequence[Segment], seconds: float) -> str:
    """Draw P(music) as an area, with strips of the given and the inferred labels."""
    x, p = thinned(found.times / seconds), thinned(found.p_music)
    corners = [(0.0, 0.0), *zip(x, p, strict=True), (float(x[-1]), 0.0)]
    points = " ".join(f"{1000 * a:.1f},{100 - 100 * b:.1f}" for a, b in corners)
    said = f"Probability of music over time, {found.p_music.mean():.2f} on average"
    area = svg(f'<polygon class="area music" points="{points}"/>', said, "1", "0", "low")
    strips = [strip("given", labels, seconds)] if labels else []
    return area + "".join([*strips, strip("found", found.segments, seconds)])


def strip(name: str, segments: Sequence[Segment], seconds: float) -> str:
    """Draw segments as a strip of coloured stretches with their labels."""
    colours = [plots.LABEL_COLOURS.get(s.label, "#999999") for s in segments]
    parts = [
        f'<span class="stretch" style="left:{100 * s.start / seconds:.2f}%;width:{100 * (s.end - s.start) / seconds:.2f}%;'
        f'background:{colour};color:{plots.ink_on(colour)}" title="{html.escape(s.label)}, {s.start:.1f} to '
        f'{s.end:.1f} s">{html.escape(s.label) if s.end - s.start > 0.1 * seconds else ""}</span>'
        for s, colour in zip(segments, colours, strict=True)
    ]
    spoken = "; ".join(f"{s.label} {s.start:.1f}–{s.end:.1f} s" for s in segments[:40])
    described = html.escape(f"Labels {name}: {spoken}")
    return f"""
<div class="frame strip"><span class="top">{name}</span><div class="picture" role="img" aria-label="{described}">
{"".join(parts)}</div></div>"""


def _traces(separations: Mapping[str, Separation]) -> str:
    """Plot the gain in the bound that is still missing, all methods in one picture, over four decades on a logarithmic scale."""
    longest = max(len(s.trace) for s in separations.values())
    lines, names = [], []
    for name, found in separations.items():
        missing = plots.gain_missing(found.trace)
        height = 1 + np.log10(np.maximum(missing, 1e-4)) / 4
        colour = plots.COLOURS.get(name, "#888")
        line = polyline(np.arange(len(missing)) / max(longest - 1, 1), height, "line")
        lines.append(line.replace("<polyline", f'<polyline style="stroke:{colour}"'))
        names.append(f'<li><i style="background:{colour}"></i>{name}</li>')
    said = f"Gain in the bound still missing after each of up to {longest} sweeps or steps, from all of it to a ten thousandth"
    return svg("".join(lines), said, "all", "10⁻⁴", "tall") + f'<ul class="key">{"".join(names)}</ul>'


def _own_trace(found: Separation) -> str:
    """Plot the objective in its own units, without the first twentieth, which would flatten the rest."""
    trace = np.asarray(found.trace, np.float64)
    shown = trace[len(trace) // 20 :]
    low, high = float(shown.min()), float(shown.max())
    x = np.linspace(0, 1, len(shown))
    line = polyline(thinned(x), thinned((shown - low) / max(high - low, 1e-12)), "line")
    ends = f"{cell(low, 0)} to {cell(high, 0)}"
    said = f"The objective over {len(trace)} {METHODS[found.settings.method].unit}, from {ends}"
    return f"<h3>Objective, step by step: {ends}</h3>" + svg(line, said, "", "", "low")


def _method(name, found: Separation, comparison: Comparison, mixture: Signal, track, labels, seconds: float) -> str:
    """Render the section of a Bayesian method."""
    rate = comparison.sample_rate
    ended = "converged" if found.converged else "was stopped"
    period = "" if found.period is None else f" It found that the music repeats every {found.period:.2f} s."
    summary = METHODS[name].summary
    steps = f"{found.steps} {METHODS[name].unit}"
    said = f"{summary[:1].upper()}{summary[1:]}. It {ended} after {steps} and {found.seconds:.1f} s.{period}"
    return f"""
<section id="{name}"><h2>{name}</h2><p>{html.escape(said)}</p>
{track(f"speech by {name}", found.speech, "speech")}{track(f"music by {name}", found.music, "music")}
<h3>Uncertainty: standard deviation of <b class="speech">speech</b> and <b class="music">music</b>, relative to
each</h3>{_uncertainty(found, mixture, rate, seconds)}
<h3>Probability of music</h3>{_presence(found, labels, seconds)}
{_own_trace(found)}</section>"""


def _estimate(name: str, found: Estimate, track) -> str:
    """Render the section of a method without a posterior."""
    said = f"{SUMMARIES.get(name, name)}. It took {found.seconds:.1f} s."
    return f"""
<section id="{name}"><h2>{name}</h2><p>{html.escape(said)}</p>
{track(f"speech by {name}", found.speech, "speech")}{track(f"music by {name}", found.music, "music")}</section>"""


def _table(comparison: Comparison) -> str:
    found = columns(comparison)
    head = "".join(f'<th scope="col">{html.escape(c.heading)}</th>' for c in found)
    rows = []
    for n, row in enumerate(comparison.rows):
        marks = [' class="best"' if c.best == n else "" for c in found]
        cells = "".join(
            f"<td{mark}>{cell(c.values[n], c.decimals)}</td>" for mark, c in zip(marks, found, strict=True)
        )
        rows.append(f'<tr><th scope="row">{html.escape(row.method)}</th>{cells}</tr>')
    return f"""<div class="wide"><table><caption>{html.escape(CAPTION)} The best value of a column is bold.</caption>
<thead><tr><th scope="col">method</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>"""


_REASONING = """ The Bayesian methods are different ways of inference in one model: music is a
catalogue of short spectra, some or all of them known from an example; speech is a sum of
templates learned from other speech. They differ in how they treat what is unknown.
They share these settings: {}"""

_TRACES = """<h2>Convergence</h2>
<p>Every Bayesian method raises an objective, sweep by sweep: a lower bound on how probable the recording is under its model, or for
<em>icm</em> the logarithm of the posterior density. Their values cannot be compared, so each line shows how much of a
method’s <em>own</em> rise was still missing. It shows how each
converged, not which is better; one that was stopped before it converged had more to gain.</p>
"""

# --- the page -----------------------------------------------------------------------------------------------------

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>$style</style></head><body><main>
<h1>$title</h1>
$intro
<p>A recording of speech over music was separated into the two.$reasoning</p>
<nav aria-label="Methods"><ul>$contents</ul></nav>
<h2>The mixture</h2>$mixture
$references_heading$references
<h2>Scores</h2>
<p>SDR counts all errors of an estimate, SMR (or SIR) only what is left of the other source, SAR only what the
separation itself added. Higher is better; 10 dB more is a tenth of the error. The row <em>mixture</em> is the starting
point: the mixture as the estimate of both. It has no artefacts, so no method beats its SAR.</p>
$scores
$traces
$methods
<footer><p>Spectrograms: the stronger, the louder, on one scale down to 70 dB below the loudest point of the mixture. Click one to
play from there. Uncertainty is a running median over half a second, capped at 100 %: a stem that is nearly silent is never
certain. Mean-field posteriors are usually too narrow; compare uncertainties within a method, not between methods.</p></footer>
</main><script>$script</script></body></html>
"""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c22; --soft: #5d6068; --line: #d9dbe0; --raised: #f6f7f9;
  --speech: #0072b2; --music: #d55e00; }
@media (prefers-color-scheme: dark) { :root { --paper: #15161a; --ink: #e8e8ec; --soft: #a2a6b0; --line: #34363e;
  --raised: #1e2026; --speech: #56b4e9; --music: #f08a3c; }
  .track img { filter: invert(1) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { margin: 3rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { margin: 1.3rem 0 .3rem 4.2rem; font-size: .85rem; font-weight: 500; color: var(--soft); }
p { max-width: 46rem; }
a { color: var(--speech); }
b.speech { color: var(--speech); } b.music { color: var(--music); }
nav ul, ul.key { list-style: none; margin: 1rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; }
ul.key { margin-left: 4.2rem; font-size: .85rem; } ul.key i { display: inline-block; width: 1.2rem; height: .25rem;
  margin-right: .4rem; vertical-align: middle; }
.track { margin: 1.1rem 0 0; }
.track figcaption { margin-left: 4.2rem; font-weight: 600; border-left: .3rem solid var(--soft); padding-left: .5rem;
  margin-bottom: .3rem; line-height: 1.2; }
.track.speech figcaption { border-color: var(--speech); } .track.music figcaption { border-color: var(--music); }
.track audio { display: block; width: calc(100% - 4.2rem); margin: .3rem 0 0 4.2rem; height: 2.2rem; }
.frame { position: relative; margin-left: 4.2rem; height: 7rem; border: 1px solid var(--line); background: var(--raised); }
.frame.low { height: 3.2rem; } .frame.tall { height: 13rem; } .frame.strip { height: 1.3rem; border-top: 0; }
.frame > .top, .frame > .bottom { position: absolute; right: 100%; margin-right: .4rem; font-size: .72rem; line-height: 1;
  color: var(--soft); white-space: nowrap; }
.frame > .top { top: 0; } .frame > .bottom { bottom: 0; } .frame.strip > .top { top: .3rem; }
.picture { position: absolute; inset: 0; overflow: hidden; } .track .picture { cursor: pointer; }
.picture img, .frame svg { width: 100%; height: 100%; display: block; }
.playhead { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; background: var(--music); opacity: 0; }
.playhead.on { opacity: 1; }
.stretch { position: absolute; top: 0; bottom: 0; font-size: .7rem; line-height: 1.25rem; text-align: center;
  overflow: hidden; border-right: 1px solid var(--paper); }
polyline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; stroke: var(--ink); }
.line.speech { stroke: var(--speech); } .line.music { stroke: var(--music); } .area.music { fill: var(--music); opacity: .7; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
caption { caption-side: bottom; text-align: left; font-size: .85rem; color: var(--soft); padding-top: .5rem; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400; }
thead th { color: var(--soft); font-size: .85rem; } th:first-child { text-align: left; } .best { font-weight: 700; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); font-size: .85rem; color: var(--soft); }
"""

SCRIPT = """
const players = [...document.querySelectorAll('.track audio')];
for (const player of players) {
  const track = player.closest('.track'), picture = track.querySelector('.picture'), head = track.querySelector('.playhead');
  const show = () => { head.classList.add('on'); head.style.left = 100 * player.currentTime / (player.duration || 1) + '%';
    if (!player.paused) requestAnimationFrame(show); };
  player.addEventListener('play', () => { for (const other of players) if (other !== player) other.pause(); show(); });
  player.addEventListener('seeked', show);
  picture.addEventListener('click', event => { const box = picture.getBoundingClientRect();
    player.currentTime = (event.clientX - box.left) / box.width * (player.duration || 0); player.play(); });
}
"""
