"""Detection of speech and music in recordings of any length, in bounded memory: `bayessep detect`.

A network maps levels of harmonic and percussive mel bands (`features.stream_levels`) to probabilities of music, speech, both and
neither for every 40 ms. They are calibrated (`Calibration`) on recordings held out of training. Segments are the Viterbi path of a
four-state hidden Markov model that favours staying in a state, with runs below a minimum duration removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy import special

from bayessep import audio, shipped, timeline
from bayessep.detector_data import scaled
from bayessep.detector_training import Recipe
from bayessep.errors import UserError
from bayessep.features import FLOOR, Front, stream_levels
from bayessep.models import speech_music_detector as detector
from bayessep.models.detector_networks import STRIDE
from bayessep.shipped import Weights
from bayessep.timeline import Segment
from bayessep.train import Progress
from bayessep.waveforms import check_mono

MODEL = "detector"
"""Name of the shipped model."""

LABELS = (timeline.MUSIC, timeline.SPEECH, timeline.BOTH, timeline.SILENCE)
"""Labels of the network's classes, in its order. Silence means neither speech nor music, so noise counts as silence."""


class Detection(NamedTuple):
    """Segments of a recording, and calibrated probabilities of its frames."""

    segments: list[Segment]  # covering the recording; with labels from `LABELS` and probabilities
    hop: float  # seconds per frame of the next two; frame n lasts from n * hop to (n + 1) * hop
    speech: Float[np.ndarray, " T"]  # calibrated P(speech sounds), alone or over music
    music: Float[np.ndarray, " T"]  # calibrated P(music sounds)
    duration: float  # seconds


class Smoothing(NamedTuple):
    """How frames are turned into segments."""

    stay: float = 4.0  # time constant of a state, in seconds: it persists for a hop with probability exp(-hop / stay)
    shortest: float = 0.4  # seconds; a shorter segment joins the one before it
    shortest_silence: float = 0.6  # seconds; pauses between words do not count as silence


RUNS = "--network frames --neither --not-standardised"
"""Flags that `bayessep train detector` needs, at least, to train a detector that can be run here."""


class Calibration(NamedTuple):
    """Calibration of logits: vector scaling with a single scale (Guo et al., ICML 2017)."""

    temperature: float = 1.0  # divides the logits
    bias: tuple[float, ...] = (0.0,) * len(LABELS)  # added afterwards, per class


class Network(NamedTuple):
    """A trained detector, ready to run: one network, or an ensemble whose logits are averaged."""

    recipe: Recipe
    states: tuple[detector.State, ...]
    calibration: Calibration = Calibration()


@cache
def shipped_network() -> Network:
    """Load the shipped detector.

    Raises:
        UserError: its file is damaged.
    """
    return network_of(shipped.read(MODEL))


_NONE = "these are not the weights of a detector"


def network_of(weights: Weights) -> Network:
    """Build a detector from a weights file.

    Raises:
        UserError: the weights belong to another network, or to one that cannot be run on recordings, or are no valid numbers.
    """
    try:
        recipe = shipped.config_of(Recipe, weights.settings["recipe"])
        temperature, members = float(weights.settings["temperature"]), int(weights.settings.get("members", 1))
        bias = tuple(map(float, weights.settings.get("bias", Calibration().bias)))
    except (KeyError, TypeError, ValueError) as error:
        other = weights.settings.get("network")
        what = f"those of {other}" if isinstance(other, str) else str(error)
        raise UserError(f"{_NONE} ({what}); bayessep train detector {RUNS} makes some.") from None
    if recipe.network != "frames":
        what = f"a detector of the network {recipe.network} looks at single patches, and is not run on recordings"
        raise UserError(f"{what}; bayessep train detector {RUNS} makes one that is.")
    if not 0 < temperature < np.inf or members < 1 or len(bias) != len(LABELS) or not np.isfinite(bias).all():
        raise UserError(f"{_NONE} (temperature {temperature}, bias {bias}, {members} networks).")
    return Network(recipe, states_of(recipe, weights, members), Calibration(temperature, bias))


def states_of(recipe: Recipe, weights: Weights, members: int = 1) -> tuple[detector.State, ...]:
    """Return the networks of a weights file, of any kind, for inference only: they carry no optimiser state.

    Raises:
        UserError: the weights belong to another network, or are no valid numbers.
    """
    like = jax.eval_shape(lambda key: detector.init(recipe.detector, key), jax.random.key(0))
    try:
        numbers = shipped.numbers(weights, members * ((like.parameters, like.statistics),))
    except ValueError as error:
        raise UserError(f"{_NONE} ({error}); bayessep train detector {RUNS} makes some.") from None
    return tuple(detector.State(parameters, statistics, ()) for parameters, statistics in numbers)


def weights_of(
    recipe: Recipe, states: Sequence[detector.State], calibration: Calibration = Calibration(), **about: object
) -> Weights:
    """Pack networks as the weights that `network_of` and `states_of` read."""
    settings = {"recipe": asdict(recipe), **calibration._asdict(), "members": len(states), "labels": list(LABELS), **about}
    return Weights(shipped.flat(tuple((state.parameters, state.statistics) for state in states)), settings)


# --- frames --------------------------------------------------------------------------------------------------------------

WINDOW = 1500
"""Frames of 40 ms that are computed per run of the network: a minute."""
CONTEXT = 126
"""Receptive field of the network on each side of a frame, in frames: twice 1 + 2 + ... + 32."""


def logits(levels: Iterable[Float[np.ndarray, "t D"]], network: Network) -> Iterator[Float[np.ndarray, "s C"]]:
    """Yield the network's logits for a recording whose levels come in pieces of any size.

    The recording is padded with silence at both ends.
    """
    width = network.recipe.front.width
    silent = np.full((CONTEXT * STRIDE, width), FLOOR, np.float32)
    held = [silent]
    count = len(silent)
    left = 0  # rows of the recording itself that are held but have no logits yet
    for piece, ended in _ending(levels):
        held.append(piece)
        count += len(piece)
        left += len(piece)
        if ended:
            left = left // STRIDE * STRIDE
            rest = -(-max(left, 0) // (WINDOW * STRIDE)) * WINDOW * STRIDE
            held.append(np.full((max(0, rest + 2 * len(silent) - count), width), FLOOR, np.float32))
            count += len(held[-1])
        while (left >= (WINDOW + CONTEXT) * STRIDE) or (ended and left >= STRIDE):
            rows = np.concatenate(held)
            window = jnp.asarray(scaled(rows[: (WINDOW + 2 * CONTEXT) * STRIDE]))[None]
            said = [np.asarray(detector.predict(network.recipe.detector, s, window).classes[0]) for s in network.states]
            made = min(WINDOW, left // STRIDE)
            yield np.mean(said, axis=0)[CONTEXT : CONTEXT + made]
            held, count, left = [rows[WINDOW * STRIDE :]], count - WINDOW * STRIDE, left - WINDOW * STRIDE


def _ending(levels: Iterable[Float[np.ndarray, "t D"]]) -> Iterator[tuple[Float[np.ndarray, "t D"], bool]]:
    """Yield the pieces, each with whether it is the last."""
    last = None
    for piece in levels:
        if last is not None:
            yield last, False
        last = piece
    if last is not None:
        yield last, True


def probabilities(logits: Float[np.ndarray, "T C"], calibration: Calibration) -> Float[np.ndarray, "T C"]:
    """Return calibrated class probabilities."""
    return special.softmax(logits / calibration.temperature + np.array(calibration.bias), axis=-1).astype(np.float32)


# --- segments ------------------------------------------------------------------------------------------------------------


def viterbi(evidence: Float[np.ndarray, "T C"], stay: float) -> Int[np.ndarray, " T"]:
    """Return the most probable state path of a model that stays in a state with probability `stay` and else moves uniformly.

    `evidence` is the log likelihood of each state in each frame, up to a constant.
    """
    n, states = evidence.shape
    step = np.full((states, states), np.log((1 - stay) / (states - 1)))
    np.fill_diagonal(step, np.log(stay))
    best = evidence[0].astype(np.float64)
    came = np.empty((n, states), np.int32)
    for t in range(1, n):
        ways = best[:, None] + step
        came[t] = ways.argmax(0)
        best = ways.max(0) + evidence[t]
    path = np.empty(n, np.int32)
    path[-1] = int(best.argmax())
    for t in range(n - 1, 0, -1):
        path[t - 1] = came[t, path[t]]
    return path


def segments_of(p: Float[np.ndarray, "T C"], hop: float, duration: float, smoothing: Smoothing = Smoothing()) -> list[Segment]:
    """Return segments that cover a recording, from calibrated probabilities of its frames."""
    stay = np.exp(-hop / smoothing.stay)
    path = viterbi(np.log(np.maximum(p, 1e-6)), float(stay))
    path = _without_short(path, round(smoothing.shortest_silence / hop), LABELS.index(timeline.SILENCE))
    times = (np.arange(len(p)) + 0.5) * hop
    return timeline.from_frames(
        [LABELS[state] for state in path],
        times,
        duration,
        min_duration=smoothing.shortest - 1e-6,  # allows for rounding of frame times
        probabilities=p[np.arange(len(p)), path].astype(np.float64),
    )


def _without_short(path: Int[np.ndarray, " T"], shortest: int, state: int) -> Int[np.ndarray, " T"]:
    """Split runs of a state that are shorter than `shortest` between their neighbours, half each."""
    path = path.copy()
    for first, end in timeline.runs(path == state):
        if end - first < shortest and (first > 0 or end < len(path)):
            before = path[first - 1] if first > 0 else path[end]
            after = path[end] if end < len(path) else before
            path[first : (first + end) // 2], path[(first + end) // 2 : end] = before, after
    return path


# --- recordings ----------------------------------------------------------------------------------------------------------

BLOCK_SECONDS = 20.0
HELD = 60_000_000
"""Samples of a recording kept in memory (a quarter of a gigabyte, an hour); longer recordings are read twice."""
QUIETEST, LOUDEST, MOST = -24.0, -17.0, 40.0
"""Decibels: the range that the loudness of a recording is brought into (`loudness`), that of training scenes before augmentation;
and the largest gain applied for it, up or down."""


def loudness(blocks: Iterable[Float[np.ndarray, " _"]], sample_rate: int) -> float:
    """Return the loudness of a waveform that comes in blocks, in dB relative to a full-scale square wave; -inf for silence.

    It is the mean power of tenths of a second at most 10 dB below the mean power of all above -70 dB, or of all within
    10 dB of the loudest if the recording is very quiet: pauses do not count.
    """
    n = max(1, round(0.1 * sample_rate))
    means, left = [], np.zeros(0)
    for block in blocks:
        squares = np.concatenate([left, block.astype(np.float64) ** 2])
        whole = len(squares) // n * n
        means.append(squares[:whole].reshape(-1, n).mean(1))
        left = squares[whole:]
    if len(left):
        means.append(left.mean(keepdims=True))
    power = np.concatenate([*means, np.zeros(1)])
    if not power.any():
        return -np.inf
    heard = power[power > min(1e-7, 0.1 * power.max())]
    return float(10 * np.log10(heard[heard >= 0.1 * heard.mean()].mean()))


def level_gain(level: float) -> np.float32:
    """Return the gain from a loudness to the range of training, so that detection does not depend on the playback volume."""
    return np.float32(10 ** (np.clip(np.clip(level, QUIETEST, LOUDEST) - level, -MOST, MOST) / 20))


def detect(path: str | Path, *, network: Network | None = None, progress: Progress = lambda *_: None) -> Detection:
    """Detect speech and music in a recording of any length.

    Args:
        path: the recording.
        network: the detector; None takes the shipped one.
        progress: called with "detecting", seconds done and seconds in all.

    Raises:
        UserError: as `audio.read`; or the recording is digital silence throughout.
    """
    network = network or shipped_network()
    rate = network.recipe.front.sample_rate
    info = audio.probe(path)
    most, length, held = max(1, round(info.frames / info.sample_rate)), 0, []

    def read() -> Iterator[np.ndarray]:
        return (block.samples[0] for block in audio.blocks(path, BLOCK_SECONDS, sample_rate=rate, mono=True))

    def told(blocks: Iterable[np.ndarray], before: int) -> Iterator[np.ndarray]:
        """Pass blocks on and report progress; each of the two passes, loudness and network, counts as half of the work."""
        done = before
        for block in blocks:
            done += len(block)
            progress("detecting", min(most, round(done / rate / 2)), most, float("nan"))
            yield block

    def measured() -> Iterator[np.ndarray]:
        nonlocal length
        for block in told(read(), 0):
            length += len(block)
            held.append(block.copy())  # a copy, not a view that keeps a larger array alive
            if length > HELD:  # too long to keep: it is read a second time
                held.clear()
            yield block

    level = loudness(measured(), rate)
    if level == -np.inf:
        raise UserError(f"{path} is silent: there is nothing to detect; give a recording with sound in it.")
    gain = level_gain(level)
    found = logits_of((gain * block for block in told(held if length <= HELD else read(), length)), network)
    # The duration in the header, unless it is off by more than the rounding of resampling.
    duration = info.frames / info.sample_rate
    duration = duration if abs(duration - length / rate) <= 1 / rate else length / rate
    return _made(found, length, duration, network)


def detect_samples(samples: Float[np.ndarray, " N"], network: Network | None = None) -> Detection:
    """Detect speech and music in a mono waveform at the sample rate of the network (16 kHz).

    Raises:
        UserError: the waveform is empty, has a sample that is not finite, or is digital silence throughout.
    """
    network = network or shipped_network()
    check_mono(samples, "the waveform")
    if not samples.any():
        raise UserError("the waveform is silent: there is nothing to detect; give one with sound in it.")
    said = logits_of([levelled(samples, network)], network)
    return _made(said, len(samples), len(samples) / network.recipe.front.sample_rate, network)


def levelled(samples: Float[np.ndarray, " N"], network: Network) -> Float[np.ndarray, " N"]:
    """Return the waveform at a loudness that the network was trained on."""
    return samples.astype(np.float32) * level_gain(loudness([samples], network.recipe.front.sample_rate))


def logits_of(blocks: Iterable[Float[np.ndarray, " n"]], network: Network) -> Float[np.ndarray, "T C"]:
    """Return the network's logits for a waveform that comes in blocks; the last vector may lie beyond its end."""
    front = network.recipe.front
    return np.concatenate(list(logits(stream_levels(_in_silence(blocks, front), front), network)))


def _in_silence(blocks: Iterable[Float[np.ndarray, " n"]], front: Front) -> Iterator[Float[np.ndarray, " n"]]:
    """Pad with silence, so that the middle of each group of `STRIDE` frames lies where `Detection.hop` puts it.

    The padding at the end gives the last sample its frames.
    """
    yield np.zeros((front.frame - front.hop) // 2, np.float32)
    yield from blocks
    yield np.zeros(front.frame + STRIDE * front.hop, np.float32)


def _made(said: Float[np.ndarray, "T C"], samples: int, duration: float, network: Network) -> Detection:
    front = network.recipe.front
    frame = STRIDE * front.hop
    hop = frame / front.sample_rate
    p = probabilities(said, network.calibration)[: -(-samples // frame)]
    speech, music = LABELS.index(timeline.SPEECH), LABELS.index(timeline.MUSIC)
    both = p[:, LABELS.index(timeline.BOTH)]
    # Rounding may take a sum beyond 1.
    speaks, plays = (np.minimum(p[:, state] + both, 1) for state in (speech, music))
    return Detection(segments_of(p, hop, duration), hop, speaks, plays, duration)
