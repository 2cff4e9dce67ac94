"""Transfer of a patch detector to broadcasts, as in paper 003 (section III-H, Table V).

A trained detector keeps its network and one of its heads, speech or music, and is fine-tuned to decide whether that sound is on in
most frames of a patch, alone or with the other. Pauses are kept, features are standardised over each recording, and batches are
balanced. At inference a patch starts at every frame, and a median over 501 frames smooths the probabilities, as in the authors'
code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from scipy.ndimage import median_filter
from scipy.special import expit

from bayessep import audio, corpora
from bayessep.detector_data import Items
from bayessep.detector_scenes import Scene, draw_scene
from bayessep.detector_training import Recipe
from bayessep.errors import UserError
from bayessep.features import Front, extract_in_pieces, normalise, standardise
from bayessep.models import speech_music_detector as detector
from bayessep.models.detector_networks import Detector
from bayessep.models.speech_music_detector import State
from bayessep.stft import frame_times
from bayessep.timeline import Segment, frame_switches
from bayessep.train import Task, fixed, started_from

HEADS = ("music", "speech")
RATE = 2e-3  # learning rate of Nadam
MEDIAN = 501  # frames of the median filter


class Broadcast(NamedTuple):
    """Features of a recording, and whether music and speech are on in each frame."""

    features: Float[np.ndarray, "T D"]
    music: Bool[np.ndarray, " T"]
    speech: Bool[np.ndarray, " T"]

    def on(self, head: str, length: int) -> Bool[np.ndarray, " P"]:
        """Return whether a sound is on in most frames of the patch that starts at each frame."""
        sums = np.cumsum(np.pad(getattr(self, head).astype(np.int64), (1, 0)))
        return 2 * (sums[length:] - sums[:-length]) > length


def broadcast(
    samples: Float[np.ndarray, " N"],
    switches: Callable[[Float[np.ndarray, " T"]], tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]],
    front: Front,
) -> Broadcast:
    """Make a `Broadcast` of a waveform at `Front.sample_rate`; `switches` says if music, and speech, is on at times in seconds."""
    features = np.asarray(standardise(extract_in_pieces(normalise(samples), front)))
    return Broadcast(features, *switches(frame_times(len(features), front.stft, front.sample_rate)))


class Parts(NamedTuple):
    """Training, validation and test broadcasts; test sets by name."""

    learn: list[Broadcast]
    held: list[Broadcast]
    tests: dict[str, list[Broadcast]]


def generated(
    items: tuple[Items, Items, Items], counts: tuple[int, int, int], seconds: float, front: Front, seed: Sequence[int]
) -> Parts:
    """Generate training, validation and test broadcasts from recordings (`bayessep.detector_scenes`).

    `counts` gives the number in each set, `seconds` their length. Training and validation broadcasts are augmented with rooms,
    codecs and noise; test broadcasts are as recorded.
    """
    made: list[list[Broadcast]] = []
    for n, (of, count) in enumerate(zip(items, counts, strict=True)):
        rng = np.random.default_rng([*seed, n])
        scenes = [draw_scene(of, seconds, front.sample_rate, rng, augment=n < 2) for _ in range(count)]
        made.append([broadcast(scene.samples, partial(_heard, scene, front.sample_rate), front) for scene in scenes])
    return Parts(made[0], made[1], {"generated": made[2]})


def _heard(scene: Scene, rate: int, times: Float[np.ndarray, " T"]) -> tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    speech, music = scene.on(times * rate)
    return music, speech


def listed(folder: Path) -> dict[str, list[corpora.Labelled]]:
    """List labelled broadcasts (`bayessep.corpora.read_dafx12`) by the folder that they are in: train, valid, test-….

    Raises:
        UserError: one of these folders is missing, or labels are missing or cannot be read.
    """
    sets: dict[str, list[corpora.Labelled]] = {}
    for one in corpora.read_dafx12(folder):
        sets.setdefault(one[0].path.relative_to(folder).parts[0].lower(), []).append(one)
    if not all(any(name.startswith(kind) for name in sets) for kind in ("train", "valid", "test")):
        wanted = "folders that begin with train, valid and test (test-swiss, test-austrian)"
        raise UserError(f"{folder} does not say what to learn from and what to test on; put the broadcasts into {wanted}.")
    return sets


def labelled(folder: Path, front: Front) -> Parts:
    """Read the broadcasts of `listed` and extract their features.

    Raises:
        UserError: as `listed` and `audio.read`.
    """

    def heard(one: corpora.Labelled) -> Broadcast:
        recording, segments = one
        samples = audio.read(recording.path, mono=True, sample_rate=front.sample_rate).samples[0]
        return broadcast(samples, partial(_labelled_on, segments), front)

    sets = {name: [heard(one) for one in of] for name, of in listed(folder).items()}
    learn, held = ([b for name, of in sets.items() if name.startswith(kind) for b in of] for kind in ("train", "valid"))
    return Parts(learn, held, {name: of for name, of in sets.items() if name.startswith("test")})


def _labelled_on(
    segments: Sequence[Segment], times: Float[np.ndarray, " T"]
) -> tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    on = frame_switches(segments, times)
    return on.music, on.speech


# --- training ------------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Patches, and whether the target sound is on."""

    features: Float[np.ndarray, "N L D"]
    on: Bool[np.ndarray, " N"]


class Places(NamedTuple):
    """Starts of patches, as recording and frame, with the target sound off and on."""

    off: Int[np.ndarray, "n 2"]
    on: Int[np.ndarray, "m 2"]


def places(of: Sequence[Broadcast], head: str, length: int) -> Places:
    """Find the patches in which the sound of a head is off, and those in which it is on.

    Raises:
        UserError: it is never on, or always on.
    """
    found = [b.on(head, length) for b in of]
    both = [
        np.array([(n, first) for n, on in enumerate(found) for first in np.flatnonzero(on == state)], np.int64).reshape(-1, 2)
        for state in (False, True)
    ]
    if not all(map(len, both)):
        raise UserError(f"broadcasts to learn from need stretches with {head} and stretches without it; label some more of them.")
    return Places(*both)


def draw(of: Sequence[Broadcast], where: Places, length: int, each: int, rng: np.random.Generator) -> Batch:
    """Draw a balanced batch: `each` patches without the sound, then as many with it."""
    chosen = np.concatenate([state[rng.integers(0, len(state), each)] for state in where])
    x = np.stack([of[n].features[first : first + length] for n, first in chosen])
    return Batch(x.astype(np.float32), np.arange(2 * each) >= each)


def _loss(model: detector.SpeechMusicDetector, head: str, batch: Batch, noise: nnx.Rngs | None) -> Float[Array, ""]:
    logit = getattr(model(jnp.asarray(batch.features), noise), head)
    return optax.sigmoid_binary_cross_entropy(logit, jnp.asarray(batch.on, logit.dtype)).mean()


@partial(jax.jit, static_argnames=("config", "head"))
def tune(config: Detector, head: str, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Float[Array, ""]]:
    """Take one Nadam step on one head's loss and return the loss before it. The parameters of the other heads do not change."""

    def loss(parameters: PyTree) -> tuple[Float[Array, ""], tuple[Float[Array, ""], PyTree]]:
        model = nnx.merge(detector.graph(config), parameters, state.statistics, copy=True)
        found = _loss(model, head, batch, nnx.Rngs(key))
        penalty = 0.01 * (getattr(model, head).hidden.linear.kernel[...] ** 2).sum()
        return found + penalty, (found, nnx.state(model, nnx.BatchStat))

    gradient, (found, statistics) = jax.grad(loss, has_aux=True)(state.parameters)
    change, carried = optax.nadam(RATE).update(gradient, state.optimiser, state.parameters)
    return State(optax.apply_updates(state.parameters, change), statistics, carried), found


@partial(jax.jit, static_argnames=("config", "head"))
def _validated(config: Detector, head: str, state: State, batch: Batch) -> Float[Array, ""]:
    return _loss(nnx.merge(detector.graph(config), state.parameters, state.statistics), head, batch, None)


def task(
    recipe: Recipe, head: str, state: State, learn: Sequence[Broadcast], held: Sequence[Broadcast], about: Mapping[str, Any] = {}
) -> Task[State, Batch]:
    """Build the task that fine-tunes a detector trained by `recipe`, with multi-task heads, on one of its heads.

    Raises:
        UserError: training or validation broadcasts lack patches with the sound, or without it.
    """
    config, length, each = recipe.detector, recipe.patch, 3 * recipe.each // 2
    learned, seen = places(learn, head, length), places(held, head, length)
    validation = [draw(held, seen, length, 64, np.random.default_rng([recipe.seed, 6, n])) for n in range(6)]

    return Task(
        lambda _: State(state.parameters, state.statistics, optax.nadam(RATE).init(state.parameters)),
        fixed(tune, config, head),
        lambda n: draw(learn, learned, length, each, np.random.default_rng([recipe.seed, 5, n])),
        lambda state: {"loss": float(np.mean([_validated(config, head, state, batch) for batch in validation]))},
        {"head": head, "optimiser": "nadam", "rate": RATE, "each": each, "recipe": asdict(recipe)}
        | started_from((state.parameters, state.statistics))
        | dict(about),
    )


# --- inference -----------------------------------------------------------------------------------------------------------

BLOCK = 256


def probabilities(recipe: Recipe, head: str, state: State, features: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " P"]:
    """Return the probability that a sound is on in the patch that starts at each frame."""
    windows = np.lib.stride_tricks.sliding_window_view(features, recipe.patch, axis=0).transpose(0, 2, 1)
    said = []
    for first in range(0, len(windows), BLOCK):
        block = np.ascontiguousarray(windows[first : first + BLOCK], np.float32)
        padded = np.pad(block, ((0, BLOCK - len(block)), (0, 0), (0, 0)))  # one compiled program for all lengths
        said.append(np.asarray(getattr(detector.predict(recipe.detector, state, jnp.asarray(padded)), head))[: len(block)])
    return expit(np.concatenate(said))


Counts = list[list[int]]
"""Confusion matrix: truth (off, on) by decision (off, on)."""


def counts(truth: Bool[np.ndarray, " P"], said: Bool[np.ndarray, " P"]) -> Counts:
    """Count each decision for each truth."""
    return np.bincount(2 * truth.astype(int) + said, minlength=4).reshape(2, 2).tolist()


def score(
    recipe: Recipe, states: Mapping[str, State], of: Sequence[Broadcast], median: int = MEDIAN
) -> dict[str, dict[str, Counts]]:
    """Count decisions on music, speech and both at once, with and without the median, over the patches of all frames."""
    sums: dict[str, dict[str, np.ndarray]] = {}
    for one in of:
        if len(one.features) < recipe.patch:
            continue
        truth = {head: one.on(head, recipe.patch) for head in HEADS}
        raw = {head: probabilities(recipe, head, states[head], one.features) for head in HEADS}
        smooth = {head: median_filter(p, median, mode="nearest") for head, p in raw.items()}
        for way, p in (("median", smooth), ("none", raw)):
            said = {head: p[head] > 0.5 for head in HEADS}
            pairs = {head: (truth[head], said[head]) for head in HEADS}
            pairs["both"] = (truth["music"] & truth["speech"], said["music"] & said["speech"])
            for what, pair in pairs.items():
                held = sums.setdefault(way, {})
                held[what] = held.get(what, 0) + np.array(counts(*pair))
    return {way: {what: n.tolist() for what, n in held.items()} for way, held in sums.items()}
