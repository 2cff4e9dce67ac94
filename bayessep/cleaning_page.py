"""HTML page for a cleaned recording: detected speech and music, their uncertainty, and players with spectrograms of both stems.

Everything is read from the files a block at a time: the page of an hour takes no more memory than that of a minute.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import Float

from bayessep import audio, plots, report
from bayessep.cleaning import Cleaned
from bayessep.detection import Detection
from bayessep.report import polyline, svg, thinned
from bayessep.stft import stft_for_rate
from bayessep.streaming import spectra
from bayessep.timeline import Segment
from bayessep.transcription import UNSURE, Transcript, captions

_WIDTH = 900  # pixels


class Look(NamedTuple):
    """Waveform envelope and spectrogram of a recording, one entry for each column of a picture."""

    low: Float[np.ndarray, " W"]  # smallest and largest sample
    high: Float[np.ndarray, " W"]
    power: Float[np.ndarray, "W K"]  # mean over frames and channels
    seconds: float
    sample_rate: int


def look(path: Path) -> Look:
    """Read the envelope and the spectrogram of a file."""
    info = audio.probe(path)
    width = min(_WIDTH, info.frames)
    low, high = np.zeros(width, np.float32), np.zeros(width, np.float32)
    at = 0
    for block in audio.blocks(path, 10.0):
        samples = block.samples
        column = np.arange(at, at + samples.shape[1]) * width // info.frames
        np.minimum.at(low, column, samples.min(0))
        np.maximum.at(high, column, samples.max(0))
        at += samples.shape[1]
    window = stft_for_rate(info.sample_rate)
    n_frames = max(1, -(-info.frames // window.hop))
    width = min(_WIDTH, n_frames)
    power, count, at = np.zeros((width, window.n_fft // 2 + 1)), np.zeros(width), 0
    for frames in spectra(path, window):
        column = np.minimum(np.arange(at, at + frames.shape[1]), n_frames - 1) * width // n_frames
        np.add.at(power, column, (np.abs(frames) ** 2).mean(0))
        np.add.at(count, column, 1)
        at += frames.shape[1]
    return Look(low, high, power / np.maximum(count, 1)[:, None] + 1e-24, info.frames / info.sample_rate, info.sample_rate)


def render(
    recording: Path,
    stems: dict[str, Path],
    detection: Detection,
    found: Cleaned,
    told: Sequence[str],
    embed: bool,
    said: Transcript | None = None,
) -> str:
    """Render the page, to be saved beside the stems.

    Args:
        recording: the recording that was cleaned.
        stems: their paths by name.
        detection: where speech and music were detected.
        found: result of the cleaning.
        told: sentences that summarise it.
        embed: whether the page contains the sound; otherwise it plays the files.
        said: transcript of the speech, if there is one.
    """
    mixture = look(recording)
    top = 10 * float(np.log10(mixture.power.max()))
    scale = plots.Normalize(top - plots.RANGE_DB, top)
    seconds = mixture.seconds
    tracks = [_track("recording", mixture, recording, scale, embed)]
    tracks += [_track(name, look(path), path, scale, embed) for name, path in stems.items()]
    middle = (np.arange(len(detection.speech)) + 0.5) / len(detection.speech)
    presence = "".join(
        svg(_area(middle, values, what), f"Probability of {what} over time, {values.mean():.2f} on average", "1", "0", "low")
        for what, values in (("speech", detection.speech), ("music", detection.music))
    )
    x = thinned(found.times / seconds)
    lines = [
        polyline(x, np.clip(thinned(plots.running_median(values)), 0, 1), f"line {stem}")
        for stem, values in found.uncertainty.items()
    ]
    return Template(_PAGE).substitute(
        title=html.escape(recording.name),
        style=report.STYLE + _STYLE,
        script=report.SCRIPT,
        told="".join(f"<p>{html.escape(sentence)}</p>" for sentence in told),
        waveform=_waveform(mixture, detection.segments) + report.strip("detected", detection.segments, seconds),
        presence=presence,
        uncertainty=svg("".join(lines), "Relative standard deviation of both stems over time", "100 %", "0"),
        said="" if said is None else _words(said),
        recording=tracks[0],
        stems="".join(tracks[1:]),
    )


def _track(name: str, seen: Look, path: Path, scale: plots.Normalize, embed: bool) -> str:
    picture = report.data_url("image/png", plots.power_png(seen.power, scale))
    top = f"{seen.sample_rate / 2000:g} kHz"
    if embed:
        source = report.audio_data(audio.read(path).samples, seen.sample_rate)
    else:  # stems lie beside the page, the recording where it was
        source = quote(path.name) if name != "recording" else path.resolve().as_uri()
    return f"""
<figure class="track {name}">
  <figcaption>{name}</figcaption>
  <div class="frame"><span class="top">{top}</span><span class="bottom">0</span>
    <div class="picture"><img src="{picture}" alt="Spectrogram of the {name}, 0 to {top} over {seen.seconds:.0f} seconds">
    <i class="playhead"></i></div></div>
  <audio controls preload="metadata" aria-label="{name}" src="{source}"></audio>
</figure>"""


def _words(said: Transcript) -> str:
    """Render the transcript, caption by caption."""
    lines = [
        f"<p><time>{int(caption.start) // 60}:{int(caption.start) % 60:02}</time> {html.escape(' '.join(caption.lines))}</p>"
        for caption in captions(said.words)
    ]
    unsure = f" Words marked {html.escape(UNSURE)} differ between {said.draws} draws of the speech." if said.draws else ""
    return f"<h2>Transcript</h2><p>Made by a machine.{unsure}</p>" + ("".join(lines) or "<p>No words were recognised.</p>")


def _waveform(seen: Look, segments: Sequence[Segment]) -> str:
    """Draw the waveform over segments in the colours of their labels."""
    parts = [
        f'<rect x="{1000 * s.start / seen.seconds:.1f}" y="0" width="{1000 * (s.end - s.start) / seen.seconds:.1f}" height="100" '
        f'fill="{plots.LABEL_COLOURS.get(s.label, "#999")}" opacity="0.35"/>'
        for s in segments
    ]
    peak = max(float(np.abs(np.concatenate([seen.low, seen.high])).max()), 1e-9)
    x = (np.arange(len(seen.low)) + 0.5) * 1000 / len(seen.low)
    upper, lower = 50 - 50 * seen.high / peak, 50 - 50 * seen.low / peak
    corners = [*zip(x, upper, strict=True), *zip(x[::-1], lower[::-1], strict=True)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    return svg("".join(parts) + f'<polygon class="wave" points="{points}"/>', "Waveform of the recording", "", "")


def _area(x: np.ndarray, y: np.ndarray, what: str) -> str:
    x, y = thinned(x), thinned(y)
    corners = [(float(x[0]), 0.0), *zip(x, y, strict=True), (float(x[-1]), 0.0)]
    points = " ".join(f"{1000 * a:.1f},{100 - 100 * b:.1f}" for a, b in corners)
    return f'<polygon class="area {what}" points="{points}"/>'


_STYLE = """
.wave { fill: var(--ink); opacity: .8; } .area.speech { fill: var(--speech); opacity: .7; }
.key b { font-weight: 500; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>$style</style></head><body><main>
<h1>$title</h1>
$told
<h2>Detected speech and music</h2>
$waveform
<h3>Probability of <b class="speech">speech</b>, and of <b class="music">music</b></h3>
$presence
$said
<h2>The recording</h2>$recording
<h2>The stems</h2>
$stems
<h3>Uncertainty: standard deviation of <b class="speech">speech</b> and <b class="music">music</b>, relative to
each</h3>$uncertainty
<footer><p>Spectrograms: the stronger, the louder, on one scale down to 70 dB below the loudest point of the recording. Click
one to play from there. Uncertainty is a running median over half a second, capped at 100 %, and 0 where a sound is heard
alone.</p></footer>
</main><script>$script</script></body></html>
"""
