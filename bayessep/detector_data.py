"""Training and test data for detectors: recordings of speech and of music, alone and mixed.

Training draws new crops every epoch (`Pool`): speech, music, and both mixed at a ratio of whole decibels. Tests use every recording
in full, and mixtures made as in paper 003 (section III-A), each at a single ratio, with all ratios equally frequent.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bayessep import augmentation
from bayessep.corpora import Sound
from bayessep.errors import UserError
from bayessep.features import Front, extract, normalise, remove_silence, standardise
from bayessep.models.speech_music_detector import BOTH, MUSIC, NEITHER, SPEECH, Batch, ratio_target

SMRS = np.arange(-5, 21)
"""Speech-to-music ratios of paper 003, in decibels."""


class Item(NamedTuple):
    """Samples of one split group (a speaker or an artist): a recording, or several joined (`read_items`)."""

    name: str
    group: str
    samples: Float[np.ndarray, " N"]


class Items(NamedTuple):
    """Recordings of speech alone, and of music alone."""

    speech: list[Item]
    music: list[Item]


def read_items(sounds: Iterable[Sound], sample_rate: int = 16000, *, pauses: bool = False, seconds: float = 20.0) -> list[Item]:
    """Read recordings and prepare them as in the paper, joining short ones of a split group until they last `seconds`.

    Each is centred and scaled to a peak magnitude of 1; pauses are removed unless `pauses`. The paper's files last minutes:
    without joining, a word or two would be a recording of its own, standardised band by band on very little sound. The last item
    of a group may be shorter than `seconds`; items that are silent or shorter than 0.1 s are dropped.

    Raises:
        UserError: a recording cannot be read.
    """
    groups: dict[str, list[Sound]] = defaultdict(list)
    for sound in sorted(sounds, key=lambda s: str(s.recording.path)):
        groups[sound.recording.split_group].append(sound)
    items = []
    for group, members in groups.items():
        held: list[np.ndarray] = []
        for sound in members:
            x = normalise(sound.read(sample_rate))
            held.append(x if pauses else normalise(remove_silence(x, sample_rate)))
            if sum(map(len, held)) >= seconds * sample_rate or sound is members[-1]:
                name = f"{group} {sound.recording.category} {len(items)}"
                items.append(Item(name, group, np.concatenate(held).astype(np.float32)))
                held = []
    return [item for item in items if len(item.samples) >= sample_rate // 10 and item.samples.any()]


def about_items(items: Any) -> dict[str, Any]:
    """Return counts and a digest of the training data, so that a training is resumed only with the same data."""
    digest = hashlib.sha256()
    counts: dict[str, Any] = {}
    for what, own in items._asdict().items():
        counts[what] = {"items": len(own), "groups": len({item.group for item in own})}
        for item in own:
            digest.update(f"{what} {item.name} {len(item.samples)}\n".encode())
            digest.update(np.ascontiguousarray(item.samples).tobytes())
    return counts | {"sha256": digest.hexdigest()}


def about_parts(parts: Any) -> dict[str, Any]:
    """Return `about_items` of both parts of a division: training data and validation data."""
    return {part: about_items(getattr(parts, part)) for part in ("learn", "held")}


def seconds_of(items: Sequence[Item], rate: int) -> float:
    """Return the total duration of the items in seconds; `rate` is in hertz."""
    return sum(len(item.samples) for item in items) / rate


def mix(speech: Float[np.ndarray, " N"], music: Float[np.ndarray, " N"], smr_db: float | int) -> Float[np.ndarray, " N"]:
    """Mix speech and music at a ratio of their energies; centre the sum and scale it to a peak magnitude of 1."""
    return normalise(speech + gain_of(speech, music, smr_db) * music)


def gain_of(speech: Float[np.ndarray, " N"], music: Float[np.ndarray, " N"], smr_db: float | int) -> np.float32:
    """Return the gain of the music that gives this ratio: `mixing.scale_to_ratio` in NumPy, without an error for silence."""
    return np.float32(np.sqrt(np.mean(speech**2) / max(10 ** (smr_db / 10) * np.mean(music**2), 1e-12)))


# --- training: new crops every epoch -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """How the sound of an epoch is drawn.

    Attributes:
        crops: number of crops of each class.
        crop_seconds: length of a crop; bands are standardised over a crop.
        patch: input frames of a network.
        augment: send each crop through filters, rooms, codecs and noise (`augmentation`).
        plain: share of the crops, or scenes, that `augment` leaves as recorded.
        neither: add a fourth class, of noise from loud to hardly audible.
        standardised: standardise bands over each crop, as in the paper; otherwise levels in decibels are only scaled (`scaled`).

    Raises:
        UserError: a number is not positive, or not finite.
    """

    crops: int = 24
    crop_seconds: float = 20.0
    patch: int = 68
    augment: bool = False
    neither: bool = False
    standardised: bool = True
    plain: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crops", "crop_seconds", "patch"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}, but must be positive, and finite.")
        if not 0 <= self.plain <= 1:
            raise UserError(f"plain is {self.plain}, but must be from 0 to 1.")

    def altered(self, rng: np.random.Generator) -> bool:
        """Draw whether the next crop is augmented."""
        return self.augment and rng.random() >= self.plain


class Pool(NamedTuple):
    """Features and labels of an epoch's crops, or of its scenes, with S labels each (`detector_scenes.frame_labels`)."""

    features: Float[np.ndarray, "n T D"]
    label: Int[np.ndarray, "n *S"]
    smr_db: Float[np.ndarray, "n *S"]  # of crops, 0 unless mixed


def draw_pool(items: Items, front: Front, drawing: Drawing, rng: np.random.Generator) -> Pool:
    """Draw crops of every class and extract their features; a recording's probability is proportional to its length."""
    made = draw_crops(items, front, drawing, rng)
    features = [
        np.asarray(featured(np.stack([x for x, _, _ in made[k : k + 8]]), front, standardised=drawing.standardised))
        for k in range(0, len(made), 8)
    ]
    return Pool(
        np.concatenate(features), np.array([label for _, label, _ in made]), np.array([smr for _, _, smr in made], np.float64)
    )


def draw_crops(
    items: Items, front: Front, drawing: Drawing, rng: np.random.Generator
) -> list[tuple[Float[np.ndarray, " N"], int, float]]:
    """Draw the waveform, the class and the speech-to-music ratio of each crop."""
    n = round(drawing.crop_seconds * front.sample_rate) + front.stft.n_fft - front.hop
    made: list[tuple[np.ndarray, int, float]] = []
    for _ in range(drawing.crops):
        made += [_drawn(label, items, n, front.sample_rate, drawing, rng) for label in _classes(drawing)]
    return made


def featured(waveforms: Float[np.ndarray, "n N"], front: Front, *, standardised: bool = True) -> Float[np.ndarray, "n T D"]:
    """Return the network's input features for waveforms of equal length."""
    found = np.asarray(extract(jnp.asarray(waveforms), front))
    return np.asarray(standardise(found)) if standardised else scaled(found)


def scaled(levels: Float[np.ndarray, "*B T D"]) -> Float[np.ndarray, "*B T D"]:
    """Map decibels to values around 0 by a fixed shift and scale, which needs no statistics of the whole recording."""
    return (levels + 30) / 20


def one_of(items: Sequence[Item], rng: np.random.Generator) -> Item:
    """Draw an item with probability proportional to its length."""
    weights = np.array([len(item.samples) for item in items], np.float64)
    return items[rng.choice(len(items), p=weights / weights.sum())]


def _classes(drawing: Drawing) -> tuple[int, ...]:
    return (MUSIC, SPEECH, BOTH, NEITHER) if drawing.neither else (MUSIC, SPEECH, BOTH)


def _drawn(
    label: int, items: Items, n: int, sample_rate: int, drawing: Drawing, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " n"], int, float]:
    """Draw the waveform, the class and the ratio of one crop."""
    altered = drawing.altered(rng)

    def one(of: Sequence[Item]) -> np.ndarray:
        x = one_of(of, rng).samples
        most = math.ceil(n * augmentation.FASTEST) + 1 if altered else n
        first = rng.integers(0, max(1, len(x) - most + 1))
        x = np.resize(x[first : first + most], most)
        return augmentation.source(x, sample_rate, rng)[:n] if altered else x

    smr = 0.0
    if label == BOTH:
        smr = float(rng.choice(SMRS))
        x = mix(one(items.speech), one(items.music), smr)
    elif label == NEITHER:
        x = augmentation.noise(n, sample_rate, rng) * np.float32(0.3 * 10 ** (rng.uniform(-60, 0) / 20))
    else:
        x = one(items.speech if label == SPEECH else items.music)
    return (augmentation.channel(x, sample_rate, rng) if altered else x).astype(np.float32), label, smr


def in_rounds(n: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, " c"]:
    """Draw `count` integers below n at random, none repeated before all others were drawn."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]


NOISE_STEPS = (5e-3, 1e-3, 5e-4, 1e-4)


def draw_batch(pool: Pool, patch: int, each: int, rng: np.random.Generator) -> Batch:
    """Draw `each` patches of every class from anywhere in the crops, with a little noise, as the paper's code adds to features."""
    rows = np.concatenate([rng.choice(np.flatnonzero(pool.label == label), each) for label in np.unique(pool.label)])
    first = rng.integers(0, pool.features.shape[1] - patch + 1, len(rows))
    x = np.stack([pool.features[row, at : at + patch] for row, at in zip(rows, first, strict=True)])
    x = x + np.float32(rng.choice(NOISE_STEPS)) * rng.standard_normal(x.shape, np.float32)
    return Batch(x, pool.label[rows].astype(np.int32), ratio_target(pool.label[rows], pool.smr_db[rows]))


# --- tests: whole recordings ---------------------------------------------------------------------------------------------

MIXED_SECONDS = 20.0
"""Approximate length of a test mixture: otherwise one long recording, at one ratio, would dominate the overlap."""


def mixtures(
    items: Items, smr_db: float | None = None, *, sample_rate: int = 16000, seed: int = 0
) -> list[tuple[Float[np.ndarray, " N"], float]]:
    """Return test mixtures and their ratios: pieces of speech and music paired at random, all used before any repeats.

    Their number is that of the pieces of the larger class, rounded up so that every ratio of `SMRS` is equally frequent; or all are
    at `smr_db`. Music that is shorter than the speech is looped.

    Raises:
        UserError: there is no speech, or no music.
    """
    rng = np.random.default_rng([seed, 9])
    pieces = []
    for what, of in zip(Items._fields, items, strict=True):
        if not of:
            raise UserError(f"all {what} to mix is silent; give recordings with sound in them.")
        counts = [max(1, round(len(item.samples) / (MIXED_SECONDS * sample_rate))) for item in of]
        pieces.append([x for item, n in zip(of, counts, strict=True) for x in np.array_split(item.samples, n)])
    count = -(-max(map(len, pieces)) // len(SMRS)) * len(SMRS)
    orders = [in_rounds(len(of), count, rng) for of in (*pieces, SMRS)]
    made = []
    for s, m, ratio in zip(*orders, strict=True):
        speech, smr = pieces[0][s], float(SMRS[ratio]) if smr_db is None else smr_db
        made.append((mix(speech, np.resize(pieces[1][m], speech.shape), smr), smr))
    return made
