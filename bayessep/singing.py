"""Synthetic songs from speech and music, to train detectors on more singing and maskers on more songs.

Singing is speech whose pitch follows a melody and whose vowels last. So speech is turned into singing: its pitch is moved to notes
of a scale (by the Rubber Band library, through pedalboard of extra ``train``), with glides and vibrato, and it is slowed down. Over
music it makes a song, which counts as music. Only the given recordings are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from bayessep import extras
from bayessep.audio import resample
from bayessep.detector_data import Item, Items, one_of

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
"""Semitones above the tonic: major, minor, and both with five notes."""

HOP = 0.016  # seconds between pitch values
GLIDE = 0.05  # seconds from note to note
RATE = 48000  # Hz; Rubber Band updates the pitch every 1024 samples, here every 21 ms
LOUDER = (-6.0, 8.0)  # range of the level of a voice over its accompaniment, in dB
ALONE = 0.15  # default share of unaccompanied voices


def sung(speech: Float[np.ndarray, " N"], sample_rate: int, rng: np.random.Generator) -> Float[np.ndarray, " M"]:
    """Turn speech into singing of the same words, 1.25 to 2.5 times as long."""
    pitch = _pitch(speech, sample_rate)
    shift = np.clip(melody(pitch, rng) - pitch, -14, 14)
    x = resample(speech, sample_rate, RATE)
    at = np.arange(len(x)) / RATE / HOP
    slower = 1 / rng.uniform(1.25, 2.5)
    stretched = extras.library("pedalboard", "train").time_stretch(
        np.ascontiguousarray(x, np.float32), RATE, slower, np.interp(at, np.arange(len(shift)), shift), preserve_formants=True
    )
    return resample(np.asarray(stretched, np.float32).reshape(-1), RATE, sample_rate)


def melody(pitch: Float[np.ndarray, " T"], rng: np.random.Generator) -> Float[np.ndarray, " T"]:
    """Draw a melody that follows a voice's pitch, both in semitones: held notes of a scale, with glides and vibrato."""
    scale = np.array(SCALES[rng.integers(len(SCALES))])
    tonic, higher, wider = rng.uniform(0, 12), rng.uniform(-2, 7), rng.uniform(0.5, 2.0)
    steps = np.sort(np.add.outer(12 * np.arange(-2, 9), scale).ravel()) + tonic
    centre, target, first = float(np.median(pitch)), np.empty(len(pitch)), 0
    while first < len(pitch):
        last = first + max(2, round(rng.lognormal(np.log(0.25), 0.6) / HOP))
        wanted = centre + higher + wider * (np.median(pitch[first:last]) - centre) + rng.normal(0, 2)
        target[first:last] = steps[np.abs(steps - wanted).argmin()]
        first = last
    target = ndimage.uniform_filter1d(target, max(1, round(GLIDE / HOP)), mode="nearest")
    depth, rate = rng.uniform(0, 0.6), rng.uniform(4.5, 6.5)
    swelling = ndimage.gaussian_filter1d(rng.standard_normal(len(pitch)), 0.4 / HOP)
    swelling = np.clip(0.5 + swelling / max(2 * swelling.std(), 1e-9), 0, 1)
    return target + depth * swelling * np.sin(2 * np.pi * rate * HOP * np.arange(len(pitch)) + rng.uniform(0, 6))


def _pitch(x: Float[np.ndarray, " N"], sample_rate: int) -> Float[np.ndarray, " T"]:
    """Track the pitch of a voice in semitones above 55 Hz, every `HOP`, interpolating linearly over unvoiced frames."""
    librosa = extras.library("librosa", "train")
    hop = round(HOP * sample_rate)
    hz = librosa.yin(x, fmin=65, fmax=450, sr=sample_rate, frame_length=4 * hop, hop_length=hop)
    level = librosa.feature.rms(y=x, frame_length=4 * hop, hop_length=hop)[0][: len(hz)]
    semitones = ndimage.median_filter(12 * np.log2(hz / 55), 5)
    steady = np.abs(np.gradient(semitones)) < 1.5
    voiced = np.flatnonzero(steady & (level > 0.1 * level.max()))
    return np.interp(np.arange(len(hz)), voiced, semitones[voiced]) if len(voiced) else semitones


class Sung(NamedTuple):
    """A voice and its accompaniment, in the split group of the music; unaccompanied, `under` is silence."""

    name: str
    group: str
    voice: Float[np.ndarray, " N"]
    under: Float[np.ndarray, " N"]


def songs(
    items: Items,
    sample_rate: int,
    rng: np.random.Generator,
    *,
    seconds: float = 30.0,
    alone: float = ALONE,
    quieter: float = 0.0,
) -> list[Item]:
    """Make songs from all music, in pieces of at most `seconds`, each with a random voice; a share `alone` is unaccompanied.

    Voices are `quieter` decibels below `LOUDER`. A song belongs to the split group of its music, so songs of held-out music are
    held out too, provided speech is also divided.
    """
    made = voices(items, sample_rate, rng, seconds=seconds, alone=alone, quieter=quieter)
    return [Item(song.name, song.group, song.voice + song.under) for song in made]


def voices(
    items: Items,
    sample_rate: int,
    rng: np.random.Generator,
    *,
    seconds: float = 30.0,
    alone: float = ALONE,
    quieter: float = 0.0,
    spoken: bool = False,
) -> Iterator[Sung]:
    """Yield the parts of `songs`: voice and accompaniment; if `spoken`, the voice is unmodified speech."""
    n = round(seconds * sample_rate)
    for item in items.music:
        for k in range(0, len(item.samples), n):
            under = item.samples[k : k + n].astype(np.float32)
            if len(under) >= 2 * sample_rate:
                voice = _voice(items.speech, len(under), sample_rate, rng, spoken)
                gain = 10 ** ((rng.uniform(*LOUDER) - quieter) / 20) * np.sqrt((under**2).mean() / max((voice**2).mean(), 1e-12))
                voice = (np.float32(gain) * voice).astype(np.float32)
                yield Sung(f"{item.name}, sung {k // n}", item.group, voice, 0 * under if rng.random() < alone else under)


def _voice(
    speech: Sequence[Item], n: int, sample_rate: int, rng: np.random.Generator, spoken: bool
) -> Float[np.ndarray, " {n}"]:
    """Return n samples of singing, or of speech if `spoken`, by one speaker."""
    source = one_of(speech, rng).samples
    most = min(len(source), n)
    first = rng.integers(0, len(source) - most + 1)
    x = source[first : first + most]
    return np.resize(x if spoken else sung(x, sample_rate, rng), n)
