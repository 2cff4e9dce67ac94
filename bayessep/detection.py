"""Where in a recording speech sounds, and where music: what `bayessep detect` does, in bounded memory.

Levels of harmonic and percussive mel bands (`features.stream_levels`) go through a network that says of every 40 ms how probable
music, speech, both and neither are. Its probabilities are calibrated (`Calibration`) by recordings that it was not trained on.
Segments are the most probable path through four states that tend to stay as they are (Viterbi), without stretches that are
shorter than a shortest duration.
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
"""The model that ships."""

LABELS = (timeline.MUSIC, timeline.SPEECH, timeline.BOTH, timeline.SILENCE)
"""Of the classes of the network, in its order. Silence is neither speech nor music: noise, too."""


class Detection(NamedTuple):
    """What is on when, and how sure that is."""

    segments: list[Segment]  # they cover the recording; labels of `LABELS`, each with its probability
    hop: float  # seconds between frames of the next two; frame n is that from n * hop to (n + 1) * hop
    speech: Float[np.ndarray, " T"]  # calibrated P(speech sounds), alone or over music
    music: Float[np.ndarray, " T"]  # calibrated P(music sounds)
    duration: float  # seconds


class Smoothing(NamedTuple):
    """How segments are made of frames."""

    stay: float = 4.0  # seconds that a state tends to last
    shortest: float = 0.4  # seconds; what is shorter joins what came before
    shortest_silence: float = 0.6  # pauses between words are no silence


RUNS = "--network frames --neither --not-standardised"
"""What `bayessep train detector` must be told, at least, to make what is run here."""


class Calibration(NamedTuple):
    """How logits become probabilities: vector scaling with one scale (Guo et al., ICML 2017)."""

    temperature: float = 1.0  # by which logits are divided
    bias: tuple[float, ...] = (0.0,) * len(LABELS)  # what is added then, of each class


class Network(NamedTuple):
    """A trained detector, ready to be run: one network or several, of whose logits it takes the mean."""

    recipe: Recipe
    states: tuple[detector.State, ...]
    calibration: Calibration = Calibration()


@cache
def shipped_network() -> Network:
    """The detector that ships.

    Raises:
        UserError: its file is damaged.
    """
    return network_of(shipped.read(MODEL))


_NONE = "these are no weights of a detector"


def network_of(weights: Weights) -> Network:
    """A detector from a file of weights.

    Raises:
        UserError: they are those of another network, or of one that must have heard a recording to its end, or no numbers.
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
    """The networks of a file of weights, of whatever kind; they can be run, and not be trained on.

    Raises:
        UserError: they are those of another network, or no numbers.
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
    """What `network_of` and `states_of` read."""
    settings = {"recipe": asdict(recipe), **calibration._asdict(), "members": len(states), "labels": list(LABELS), **about}
    return Weights(shipped.flat(tuple((state.parameters, state.statistics) for state in states)), settings)


# --- frames --------------------------------------------------------------------------------------------------------------

WINDOW = 1500
"""Frames of 40 ms that the network is run on at a time, a minute."""
CONTEXT = 126
"""Frames on each side that it sees of a frame: twice 1 + 2 + ... + 32."""


def logits(levels: Iterable[Float[np.ndarray, "t D"]], network: Network) -> Iterator[Float[np.ndarray, "s C"]]:
    """What the network says of a recording whose levels come in pieces, whatever their sizes.

    Beyond its ends, a recording goes on as silence.
    """
    width = network.recipe.front.width
    silent = np.full((CONTEXT * STRIDE, width), FLOOR, np.float32)
    held = [silent]
    count = len(silent)
    left = 0  # of the recording itself, rows that are held beyond the first context and have not been said of
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
    """The pieces, the last of them with word that it is the last."""
    last = None
    for piece in levels:
        if last is not None:
            yield last, False
        last = piece
    if last is not None:
        yield last, True


def probabilities(logits: Float[np.ndarray, "T C"], calibration: Calibration) -> Float[np.ndarray, "T C"]:
    """Calibrated probabilities of the classes."""
    return special.softmax(logits / calibration.temperature + np.array(calibration.bias), axis=-1).astype(np.float32)


# --- segments ------------------------------------------------------------------------------------------------------------


def viterbi(evidence: Float[np.ndarray, "T C"], stay: float) -> Int[np.ndarray, " T"]:
    """The most probable path through states of which each goes on with probability `stay`, else to any other alike.

    `evidence` is a log likelihood of each frame, up to a constant.
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
    """Segments that cover a recording, from calibrated probabilities of its frames."""
    stay = np.exp(-hop / smoothing.stay)
    path = viterbi(np.log(np.maximum(p, 1e-6)), float(stay))
    path = _without_short(path, round(smoothing.shortest_silence / hop), LABELS.index(timeline.SILENCE))
    times = (np.arange(len(p)) + 0.5) * hop
    return timeline.from_frames(
        [LABELS[state] for state in path],
        times,
        duration,
        min_duration=smoothing.shortest - 1e-6,  # times of frames are rounded
        probabilities=p[np.arange(len(p)), path].astype(np.float64),
    )


def _without_short(path: Int[np.ndarray, " T"], shortest: int, state: int) -> Int[np.ndarray, " T"]:
    """Shorter runs of a state given to what is around them, half each."""
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
"""Samples of a recording that are held (a quarter of a gigabyte, an hour); longer ones are read twice."""
QUIETEST, LOUDEST, MOST = -24.0, -17.0, 40.0
"""Decibels: between which recordings are heard (`loudness`), as scenes to learn from are before they are altered; and by how much
they are made louder or softer for it, at most."""


def loudness(blocks: Iterable[Float[np.ndarray, " _"]], sample_rate: int) -> float:
    """Of a waveform that comes in blocks, in dB below a square wave at full scale; minus infinity of silence.

    The mean power of tenths of a second that are no more than 10 dB below the mean power of all above -70 dB: pauses do not count.
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
    """What brings a waveform of a loudness to where networks learned: what is called music shall not hang on a volume control."""
    return np.float32(10 ** (np.clip(np.clip(level, QUIETEST, LOUDEST) - level, -MOST, MOST) / 20))


def detect(path: str | Path, *, network: Network | None = None, progress: Progress = lambda *_: None) -> Detection:
    """Find the speech and the music of a recording of any length.

    Args:
        path: the recording.
        network: a detector; None takes the one that ships.
        progress: called with "listening", seconds done and seconds in all.

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
        """Either time that it is heard is half of the work."""
        done = before
        for block in blocks:
            done += len(block)
            progress("listening", min(most, round(done / rate / 2)), most, float("nan"))
            yield block

    def measured() -> Iterator[np.ndarray]:
        nonlocal length
        for block in told(read(), 0):
            length += len(block)
            held.append(block.copy())  # not all of which it is a part
            if length > HELD:  # it is read once more, then
                held.clear()
            yield block

    level = loudness(measured(), rate)
    if level == -np.inf:
        raise UserError(f"{path} is silent: there is nothing to hear in it; give another recording.")
    gain = level_gain(level)
    found = logits_of((gain * block for block in told(held if length <= HELD else read(), length)), network)
    # What its header says, unless it is wrong by more than the rounding of resampling.
    duration = info.frames / info.sample_rate
    duration = duration if abs(duration - length / rate) <= 1 / rate else length / rate
    return _made(found, length, duration, network)


def detect_samples(samples: Float[np.ndarray, " N"], network: Network | None = None) -> Detection:
    """The same of a waveform at the sample rate of the network (16 kHz), one channel.

    Raises:
        UserError: there is no sample, one that is no number, or nothing but digital silence.
    """
    network = network or shipped_network()
    check_mono(samples, "the waveform")
    if not samples.any():
        raise UserError("the waveform is silent: there is nothing to hear in it; give another one.")
    said = logits_of([levelled(samples, network)], network)
    return _made(said, len(samples), len(samples) / network.recipe.front.sample_rate, network)


def levelled(samples: Float[np.ndarray, " N"], network: Network) -> Float[np.ndarray, " N"]:
    """A waveform as loud as the network shall hear it."""
    return samples.astype(np.float32) * level_gain(loudness([samples], network.recipe.front.sample_rate))


def logits_of(blocks: Iterable[Float[np.ndarray, " n"]], network: Network) -> Float[np.ndarray, "T C"]:
    """What the network says of a waveform that comes in blocks; its last vector may be of what lies beyond the end."""
    front = network.recipe.front
    return np.concatenate(list(logits(stream_levels(_in_silence(blocks, front), front), network)))


def _in_silence(blocks: Iterable[Float[np.ndarray, " n"]], front: Front) -> Iterator[Float[np.ndarray, " n"]]:
    """With as much silence before it as puts the middle of `STRIDE` frames where `Detection.hop` says it is.

    And with as much behind it as gives the last sample its frames.
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
    # A sum of two may be rounded beyond 1.
    speaks, plays = (np.minimum(p[:, state] + both, 1) for state in (speech, music))
    return Detection(segments_of(p, hop, duration), hop, speaks, plays, duration)
