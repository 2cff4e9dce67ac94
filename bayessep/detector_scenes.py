"""Synthetic scenes for training and testing the detector that is run on recordings: speech and music that come and go,
as in a broadcast.

A scene is made of real recordings, and its labels are known by construction: a track of speech and a track of music, each switched
on and off, over a noise floor, all through one channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bayessep import augmentation
from bayessep.detector_data import SMRS, Drawing, Item, Items, Pool, featured, in_rounds, one_of
from bayessep.features import Front
from bayessep.models.detector_networks import STRIDE
from bayessep.models.speech_music_detector import BOTH, MUSIC, NEITHER, SPEECH, Batch, ratio_target

STATES = (MUSIC, SPEECH, BOTH, NEITHER)
SHARES = (0.3, 0.3, 0.3, 0.1)  # weights of the next state, which differs from the current one
SECONDS = (1.5, 9.0)  # range of the duration of a state
FADE = 0.05  # seconds on each side of a switch over which a track fades


class Scene(NamedTuple):
    """A waveform, and whether speech and music are on, sample by sample."""

    samples: Float[np.ndarray, " N"]
    speech: Bool[np.ndarray, " N"]
    music: Bool[np.ndarray, " N"]
    smr_db: float  # where both are on

    def on(self, at: Float[np.ndarray, " T"]) -> tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
        """Return whether speech, and whether music, is on at positions in samples; beyond the end, the last sample counts."""
        n = np.minimum(at.astype(int), len(self.samples) - 1)
        return self.speech[n], self.music[n]


def draw_scene(
    items: Items, seconds: float, sample_rate: int, rng: np.random.Generator, *, augment: bool = True, smr_db: float | None = None
) -> Scene:
    """Draw a scene: stretches of speech, music, both and neither in random order; one ratio where both are on."""
    n = round(seconds * sample_rate)
    states = np.concatenate(list(_stretches(n, sample_rate, rng)))[:n]
    speech_on, music_on = np.isin(states, (SPEECH, BOTH)), np.isin(states, (MUSIC, BOTH))
    smr = float(rng.choice(SMRS)) if smr_db is None else smr_db
    speech, music = (_track(of, n, sample_rate, rng, augment) for of in items)
    if augment:  # two voices at once still are speech, and two pieces of music still are music
        speech, music = (
            x + np.float32(10 ** (rng.uniform(-15, 0) / 20)) * _track(of, n, sample_rate, rng, augment) if rng.random() < 0.2 else x
            for x, of in zip((speech, music), items, strict=True)
        )
    level = np.sqrt((speech**2).mean())
    # With `augment`, the level of music alone is random; under speech, the ratio sets it.
    alone = 10 ** (rng.uniform(-9, 9) / 20) if augment else 1.0
    under = 10 ** (-smr / 20)
    gain = np.where(states == BOTH, under, max(alone, under) if augment else alone)[_nearest(music_on)]
    music = music * np.float32(level / max(np.sqrt((music**2).mean()), 1e-9)) * _smooth(gain, sample_rate)
    x = speech * _smooth(speech_on, sample_rate) + music * _smooth(music_on, sample_rate)
    # Noise is never louder than the music under speech; without `augment` it is faint, but pauses are not digital silence.
    floor = rng.uniform(-60, min(-2, -smr)) if augment else -55.0
    if not augment or rng.random() < 0.9:
        x = x + np.float32(level * 10 ** (floor / 20)) * augmentation.noise(n, sample_rate, rng)
    x = x * np.float32(0.9 / max(np.abs(x).max(), 1e-9))
    return Scene(augmentation.channel(x, sample_rate, rng) if augment else x.astype(np.float32), speech_on, music_on, smr)


def _stretches(n: int, sample_rate: int, rng: np.random.Generator):
    made, state = 0, -1
    while made < n:
        shares = np.array(SHARES) * (np.array(STATES) != state)
        state = int(rng.choice(STATES, p=shares / shares.sum()))
        length = math.ceil(rng.uniform(*SECONDS) * sample_rate)
        yield np.full(length, state)
        made += length


def _track(of: Sequence[Item], n: int, sample_rate: int, rng: np.random.Generator, augment: bool) -> Float[np.ndarray, " n"]:
    """Concatenate recordings, each scaled to the same power, to n samples; longer ones are drawn more often."""
    parts, held = [], 0
    while held < n:
        x = one_of(of, rng).samples
        most = math.ceil((n - held) * augmentation.FASTEST) + 1 if augment else n - held
        first = rng.integers(0, max(1, len(x) - most + 1))
        x = x[first : first + most]
        if augment:
            x = augmentation.source(x, sample_rate, rng)
        parts.append(x / np.float32(max(np.sqrt((x**2).mean()), 1e-6)))
        held += len(x)
    return np.concatenate(parts)[:n]


def _nearest(on: Bool[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Return for each sample the nearest one that is on, so that a track fades with the gain it has where it is on."""
    n, places = np.arange(len(on)), np.flatnonzero(on)
    if not len(places):
        return n
    after = np.searchsorted(places, n)
    left, right = places[np.maximum(after - 1, 0)], places[np.minimum(after, len(places) - 1)]
    return np.where(np.abs(n - left) <= np.abs(right - n), left, right)


def _smooth(on: np.ndarray, sample_rate: int) -> Float[np.ndarray, " N"]:
    """Smooth steps by a moving average over twice `FADE`."""
    width = 2 * round(FADE * sample_rate) + 1
    sums = np.cumsum(np.pad(on.astype(np.float64), (width // 2 + 1, width // 2), mode="edge"))
    return ((sums[width:] - sums[:-width]) / width).astype(np.float32)


def frame_labels(scene: Scene, front: Front, n_frames: int) -> Int[np.ndarray, " S"]:
    """Return the class at the middle of every group of `STRIDE` feature frames."""
    middles = (np.arange(n_frames // STRIDE) * STRIDE + (STRIDE - 1) / 2) * front.hop + front.frame / 2
    return classes(*scene.on(middles))


def classes(speech: Bool[np.ndarray, " T"], music: Bool[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """Return the class for each combination of speech and music."""
    return np.select([speech & music, speech, music], [BOTH, SPEECH, MUSIC], NEITHER)


def draw_scenes(items: Items, front: Front, drawing: Drawing, rng: np.random.Generator) -> Pool:
    """Draw an epoch's scenes, three times `Drawing.crops`: as many as there are crops of three classes."""
    seconds, rate = drawing.crop_seconds, front.sample_rate
    scenes = [draw_scene(items, seconds, rate, rng, augment=drawing.altered(rng)) for _ in range(3 * drawing.crops)]
    parts = [
        featured(np.stack([s.samples for s in scenes[k : k + 8]]), front, standardised=drawing.standardised)
        for k in range(0, len(scenes), 8)
    ]
    features = np.concatenate(parts)
    labels = np.stack([frame_labels(scene, front, features.shape[1]) for scene in scenes])
    return Pool(features, labels, np.repeat(np.array([[s.smr_db] for s in scenes]), labels.shape[1], axis=1))


def scene_batch(pool: Pool, each: int, rng: np.random.Generator) -> Batch:
    """Draw whole scenes of an epoch, none repeated before all others, with a class and a ratio for every 40 ms."""
    rows = in_rounds(len(pool.label), each, rng)
    label = pool.label[rows]
    return Batch(pool.features[rows], label.astype(np.int32), ratio_target(label, pool.smr_db[rows]))
