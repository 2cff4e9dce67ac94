"""Patches to train and to test detectors on: recordings of speech and of music, alone and mixed.

Training draws anew every epoch (`Pool`): crops of speech, of music, and of both at a ratio of whole decibels. Tests take every
recording whole, and mixtures as paper 003 makes them (section III-A), each at one ratio, all ratios alike.
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
"""Ratios of paper 003 in decibels: speech over music."""


class Item(NamedTuple):
    """Sound of one speaker or artist, at least some seconds of it, without pauses."""

    name: str
    group: str
    samples: Float[np.ndarray, " N"]


class Items(NamedTuple):
    """What is known to be speech alone, and music alone."""

    speech: list[Item]
    music: list[Item]


def read_items(sounds: Iterable[Sound], sample_rate: int = 16000, *, pauses: bool = False, seconds: float = 20.0) -> list[Item]:
    """Recordings prepared as the paper's, short ones of one split group joined until they last `seconds`.

    Each is centred, scaled to a greatest magnitude of 1, and cut of its pauses unless `pauses`. The paper's corpus has files of
    minutes; joined, a word or two is not a recording of its own, whose every band would be standardised by what little it says.

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
    """What is learned from, so that a training goes on with nothing else."""
    digest = hashlib.sha256()
    counts: dict[str, Any] = {}
    for what, own in items._asdict().items():
        counts[what] = {"items": len(own), "groups": len({item.group for item in own})}
        for item in own:
            digest.update(f"{what} {item.name} {len(item.samples)}\n".encode())
            digest.update(np.ascontiguousarray(item.samples).tobytes())
    return counts | {"sha256": digest.hexdigest()}


def about_parts(parts: Any) -> dict[str, Any]:
    """The same of a division: what is learned from and what is validated with."""
    return {part: about_items(getattr(parts, part)) for part in ("learn", "held")}


def seconds_of(items: Sequence[Item], rate: int) -> float:
    """How long they last in all, at so many samples a second."""
    return sum(len(item.samples) for item in items) / rate


def mix(speech: Float[np.ndarray, " N"], music: Float[np.ndarray, " N"], smr_db: float | int) -> Float[np.ndarray, " N"]:
    """Speech and music at a ratio of their energies, scaled to a greatest magnitude of 1."""
    return normalise(speech + gain_of(speech, music, smr_db) * music)


def gain_of(speech: Float[np.ndarray, " N"], music: Float[np.ndarray, " N"], smr_db: float | int) -> np.float32:
    """By what the music is multiplied for that ratio; NumPy's `mixing.scale_to_ratio`, for which silence is no error."""
    return np.float32(np.sqrt(np.mean(speech**2) / max(10 ** (smr_db / 10) * np.mean(music**2), 1e-12)))


# --- training: crops, drawn anew -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """How an epoch's sound is drawn.

    Attributes:
        crops: of each class.
        crop_seconds: length of each; bands are standardised over a crop.
        patch: frames that a network looks at.
        augment: send each crop through filters, rooms, codecs and noise (`augmentation`).
        plain: share of the crops, or scenes, that stay as they were recorded all the same.
        neither: a fourth class, of noise from loud to hardly audible.
        standardised: bands are standardised over each crop, as in the paper; else levels in decibels are left as they are.

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
        """Whether the next crop is."""
        return self.augment and rng.random() >= self.plain


class Pool(NamedTuple):
    """Features of the crops of one epoch; of scenes, with a label for each of S vectors (`detector_scenes.frame_labels`)."""

    features: Float[np.ndarray, "n T D"]
    label: Int[np.ndarray, "n *S"]
    smr_db: Float[np.ndarray, "n *S"]  # of crops, 0 where nothing is mixed


def draw_pool(items: Items, front: Front, drawing: Drawing, rng: np.random.Generator) -> Pool:
    """Crops of every class; of recordings in proportion to how long they are."""
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
    """Their sound, their classes, their ratios."""
    n = round(drawing.crop_seconds * front.sample_rate) + front.stft.n_fft - front.hop
    made: list[tuple[np.ndarray, int, float]] = []
    for _ in range(drawing.crops):
        made += [_drawn(label, items, n, front.sample_rate, drawing, rng) for label in _classes(drawing)]
    return made


def featured(waveforms: Float[np.ndarray, "n N"], front: Front, *, standardised: bool = True) -> Float[np.ndarray, "n T D"]:
    """What a network looks at, of waveforms that are equally long."""
    found = np.asarray(extract(jnp.asarray(waveforms), front))
    return np.asarray(standardise(found)) if standardised else scaled(found)


def scaled(levels: Float[np.ndarray, "*B T D"]) -> Float[np.ndarray, "*B T D"]:
    """Decibels as numbers around 0, wherever they come from: for recordings that are not known to their end."""
    return (levels + 30) / 20


def one_of(items: Sequence[Item], rng: np.random.Generator) -> Item:
    """One of them at random, in proportion to how long they are."""
    weights = np.array([len(item.samples) for item in items], np.float64)
    return items[rng.choice(len(items), p=weights / weights.sum())]


def _classes(drawing: Drawing) -> tuple[int, ...]:
    return (MUSIC, SPEECH, BOTH, NEITHER) if drawing.neither else (MUSIC, SPEECH, BOTH)


def _drawn(
    label: int, items: Items, n: int, sample_rate: int, drawing: Drawing, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " n"], int, float]:
    """One crop: its sound, its class, its ratio."""
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
    """`count` numbers below n at random, none again before all others."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]


NOISE_STEPS = (5e-3, 1e-3, 5e-4, 1e-4)


def draw_batch(pool: Pool, patch: int, each: int, rng: np.random.Generator) -> Batch:
    """As many patches of every class, from anywhere in the crops; with a little noise, as the paper's code adds to features."""
    rows = np.concatenate([rng.choice(np.flatnonzero(pool.label == label), each) for label in np.unique(pool.label)])
    first = rng.integers(0, pool.features.shape[1] - patch + 1, len(rows))
    x = np.stack([pool.features[row, at : at + patch] for row, at in zip(rows, first, strict=True)])
    x = x + np.float32(rng.choice(NOISE_STEPS)) * rng.standard_normal(x.shape, np.float32)
    return Batch(x, pool.label[rows].astype(np.int32), ratio_target(pool.label[rows], pool.smr_db[rows]))


# --- tests: every recording, whole ---------------------------------------------------------------------------------------

MIXED_SECONDS = 20.0
"""About as long as each mixture lasts: a long recording would be most of the overlap, at a single ratio."""


def mixtures(
    items: Items, smr_db: float | None = None, *, sample_rate: int = 16000, seed: int = 0
) -> list[tuple[Float[np.ndarray, " N"], float]]:
    """Mixtures to test on and their ratios: pieces of speech and of music in pairs drawn at random, none again before all others.

    As many as the kind that has more pieces has, rounded up so that each of `SMRS` is as frequent; or all at one ratio. Music that
    is shorter is played over and over.

    Raises:
        UserError: there is no speech, or no music.
    """
    rng = np.random.default_rng([seed, 9])
    pieces = []
    for what, of in zip(Items._fields, items, strict=True):
        if not of:
            raise UserError(f"there is no {what} to mix that is more than silence; give other recordings.")
        counts = [max(1, round(len(item.samples) / (MIXED_SECONDS * sample_rate))) for item in of]
        pieces.append([x for item, n in zip(of, counts, strict=True) for x in np.array_split(item.samples, n)])
    count = -(-max(map(len, pieces)) // len(SMRS)) * len(SMRS)
    orders = [in_rounds(len(of), count, rng) for of in (*pieces, SMRS)]
    made = []
    for s, m, ratio in zip(*orders, strict=True):
        speech, smr = pieces[0][s], float(SMRS[ratio]) if smr_db is None else smr_db
        made.append((mix(speech, np.resize(pieces[1][m], speech.shape), smr), smr))
    return made
