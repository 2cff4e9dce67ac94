"""Augmentation for training on few recordings: rooms, filters, band limits, codecs and noise.

Recordings of one class tend to share a recording chain (speech as 16 kHz FLAC, music as 44.1 kHz OGG), and a network learns the
chain instead of the class. Here every piece gets a random chain. Effects are those of pedalboard (extra ``train``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float

from bayessep import extras
from bayessep.resampling import played

Sound = Float[np.ndarray, " N"]


class Chances(NamedTuple):
    """Probability of each effect for a piece of sound."""

    speed: float = 0.7  # of a source, before it is mixed
    room: float = 0.25
    equaliser: float = 0.5
    compressor: float = 0.3
    band_limit: float = 0.4
    codec: float = 0.3
    noise: float = 0.3
    gain: float = 1.0


FASTEST = 1.25
"""Largest factor by which a source is sped up or slowed down."""


def source(
    x: Sound, sample_rate: int, rng: np.random.Generator, chances: Chances = Chances()
) -> Float[np.ndarray, " M"]:
    """Augment a source before mixing: at random, change its speed and pitch together, and add a room."""
    if rng.random() < chances.speed:
        factor = np.exp(rng.uniform(-np.log(FASTEST), np.log(FASTEST)))
        x = played(x, round(100 * factor) / 100)
    return reverberated(x, sample_rate, rng) if rng.random() < chances.room else x


def reverberated(x: Sound, sample_rate: int, rng: np.random.Generator) -> Sound:
    """Add the reverberation of a room between a cupboard and a hall."""
    pedalboard = _pedalboard()
    wet = rng.uniform(0.02, 0.3)
    size, damping = rng.uniform(0.05, 0.7), rng.uniform(0.2, 0.9)
    room = pedalboard.Reverb(room_size=size, damping=damping, wet_level=wet, dry_level=1 - wet, width=0.0)
    return _applied([room], x, sample_rate)


def channel(x: Sound, sample_rate: int, rng: np.random.Generator, chances: Chances = Chances()) -> Sound:
    """Apply a random channel: equaliser, compressor, band limit, noise, codec and gain."""
    effects = (
        (chances.equaliser, equalised),
        (chances.compressor, compressed),
        (chances.band_limit, band_limited),
        (chances.noise, noisy),
        (chances.codec, coded),
    )
    for chance, effect in effects:
        if rng.random() < chance:
            x = effect(x, sample_rate, rng)
    return x * np.float32(10 ** (rng.uniform(-24, 0) / 20)) if rng.random() < chances.gain else x


def equalised(x: Sound, sample_rate: int, rng: np.random.Generator) -> Sound:
    """Apply two shelving filters of up to ±9 dB and a peak filter of up to ±6 dB."""
    pedalboard = _pedalboard()
    return _applied(
        [
            pedalboard.LowShelfFilter(cutoff_frequency_hz=rng.uniform(80, 400), gain_db=rng.uniform(-9, 9)),
            pedalboard.PeakFilter(cutoff_frequency_hz=rng.uniform(300, 3500), gain_db=rng.uniform(-6, 6), q=rng.uniform(0.4, 2)),
            pedalboard.HighShelfFilter(cutoff_frequency_hz=rng.uniform(1500, 6000), gain_db=rng.uniform(-9, 9)),
        ],
        x,
        sample_rate,
    )


def compressed(x: Sound, sample_rate: int, rng: np.random.Generator) -> Sound:
    """Compress the dynamics as broadcasters do; at times with distortion."""
    pedalboard = _pedalboard()
    compressor = pedalboard.Compressor(
        threshold_db=rng.uniform(-35, -12), ratio=rng.uniform(2, 8), attack_ms=rng.uniform(1, 20), release_ms=rng.uniform(50, 400)
    )
    effects = [compressor, pedalboard.Gain(gain_db=rng.uniform(0, 12))]
    if rng.random() < 0.25:
        effects.append(pedalboard.Distortion(drive_db=rng.uniform(3, 15)))
    y = _applied(effects, x, sample_rate)
    return y * np.float32(min(1.0, 0.99 / max(np.abs(y).max(), 1e-9)))


def band_limited(x: Sound, sample_rate: int, rng: np.random.Generator) -> Sound:
    """Low-pass (-70 dB above 3.1 kHz to 0.98 of the Nyquist frequency) and at times high-pass, with a cut-off of 60 to 400 Hz."""
    top = np.exp(rng.uniform(np.log(2800), np.log(0.45 * sample_rate)))
    low = scipy.signal.cheby2(12, 70, min(1.1 * top, 0.49 * sample_rate), fs=sample_rate, output="sos")
    x = np.asarray(scipy.signal.sosfilt(low, x))
    if rng.random() < 0.3:
        x = np.asarray(scipy.signal.sosfilt(scipy.signal.butter(3, rng.uniform(60, 400), "high", fs=sample_rate, output="sos"), x))
    return x.astype(np.float32)


def noisy(x: Sound, sample_rate: int, rng: np.random.Generator) -> Sound:
    """Add noise, 25 to 60 dB below the sound."""
    y = noise(len(x), sample_rate, rng)
    level = np.sqrt((x**2).mean()) * 10 ** (rng.uniform(-60, -25) / 20)
    return x + np.float32(level) * y


def noise(n: int, sample_rate: int, rng: np.random.Generator) -> Sound:
    """Return n samples of noise, neither speech nor music, with an RMS of 1.

    Its colour is random; it is steady or fluctuating, at times with mains hum, crackle, or a pure tone.
    """
    x = np.asarray(scipy.signal.lfilter([1.0], [1.0, -rng.uniform(0.0, 0.98)], rng.standard_normal(n)))
    for _ in range(rng.integers(0, 3)):  # resonances, as of a wall or a machine
        hz, q, gain_db = rng.uniform(100, 0.4 * sample_rate), rng.uniform(0.5, 4), rng.uniform(-15, 15)
        x = np.asarray(scipy.signal.sosfilt(_resonance(hz, q, gain_db, sample_rate), x))
    if rng.random() < 0.4:
        steps = np.exp(rng.normal(0, rng.uniform(0.2, 1.0), max(2, round(n / sample_rate * rng.uniform(0.5, 6)))))
        x = x * np.interp(np.arange(n), np.linspace(0, n, len(steps)), steps)
    x = x / max(np.sqrt((x**2).mean()), 1e-9)
    t = np.arange(n) / sample_rate
    if rng.random() < 0.3:
        partials = np.arange(1, 9)[:, None]
        amplitudes = rng.uniform(0, 1, (8, 1)) / partials
        hum = (amplitudes * np.sin(2 * np.pi * rng.choice([50, 60]) * partials * t + rng.uniform(0, 6, (8, 1)))).sum(0)
        x = x + rng.uniform(0.1, 2) * hum
    if rng.random() < 0.15:
        x = x + rng.uniform(0.05, 0.5) * np.sin(2 * np.pi * rng.uniform(300, 0.45 * sample_rate) * t)
    if rng.random() < 0.15:
        clicks = (rng.random(n) < rng.uniform(1, 40) / sample_rate) * rng.normal(0, rng.uniform(2, 20), n)
        x = x + scipy.signal.lfilter([1.0], [1.0, -rng.uniform(0, 0.9)], clicks)
    return (x / max(np.sqrt((x**2).mean()), 1e-9)).astype(np.float32)


def _resonance(hz: float, q: float, gain_db: float, sample_rate: int) -> Float[np.ndarray, "1 6"]:
    """Return a peaking filter (boost or cut) as a second-order section, with `gain_db` at `hz` (Audio EQ Cookbook)."""
    a, w = 10 ** (gain_db / 40), 2 * np.pi * hz / sample_rate
    alpha = np.sin(w) / (2 * q)
    b, c = [1 + alpha * a, -2 * np.cos(w), 1 - alpha * a], [1 + alpha / a, -2 * np.cos(w), 1 - alpha / a]
    return np.array([[*b, *c]]) / c[0]


def coded(x: Sound, sample_rate: int, rng: np.random.Generator) -> Sound:
    """Code with MP3 at a random quality or, at times, with GSM full rate."""
    pedalboard = _pedalboard()
    telephone = rng.random() < 0.15
    codec = pedalboard.GSMFullRateCompressor() if telephone else pedalboard.MP3Compressor(vbr_quality=rng.uniform(2, 9.5))
    # Clip as a converter does: LAME ends the process at samples far beyond full scale.
    return _applied([codec], np.clip(x, -1, 1), sample_rate)


def _applied(effects: list[Any], x: Sound, sample_rate: int) -> Sound:
    y = _pedalboard().Pedalboard(effects)(np.ascontiguousarray(x, np.float32), sample_rate)
    return np.asarray(y, np.float32)[: len(x)]


def _pedalboard() -> Any:
    return extras.library("pedalboard", "train")
