"""Input features of detectors: mel spectrograms in decibels, and their harmonic and percussive parts.

The features of Bhattacharjee, Prasanna, Guha, “Clean vs. Overlapped Speech-Music Detection Using Harmonic-Percussive Features and
Multi-Task Learning” (2022), as functions of arrays under ``jax.jit``: `hpss`, `log_mel`, `decibels`, and what is built on them
(`FEATURES`, `extract`). Time comes before frequency. `remove_silence` and `normalise` prepare a waveform as the paper does.

Sustained sounds are horizontal lines of a spectrogram and percussive ones vertical lines, so a median along time keeps the
former and one along frequency the latter (Fitzgerald, “Harmonic/percussive separation using median filtering”, 2010).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.ndimage import median_filter

from bayessep.errors import UserError
from bayessep.medians import median
from bayessep.stft import Stft, bin_frequencies, frame_count, stft

# --- harmonic and percussive parts ---------------------------------------------------------------------------------------


class HarmonicPercussive(NamedTuple):
    """Two parts of a magnitude spectrogram that sum to it."""

    harmonic: Float[Array, "*B T F"]
    percussive: Float[Array, "*B T F"]


def hpss(x: Float[Array, "*B T F"], harmonic: int = 21, percussive: int = 11) -> HarmonicPercussive:
    """Split a magnitude spectrogram by medians over `harmonic` frames and `percussive` bins, and soft masks of power 2.

    The result is that of ``librosa.decompose.hpss(x.T, kernel_size=(harmonic, percussive), power=2.0)``: the medians are identical,
    the masks differ in the last bits, because the compiler fuses a multiplication and an addition into one rounding.
    """
    # Separate programs: in a single one the compiler would recompute the medians for each part.
    h, p = median(x, harmonic, axis=-2), median(x, percussive, axis=-1)
    return HarmonicPercussive(_share(x, h, p), _share(x, p, h))


@jax.jit
def _share(x: Float[Array, "*B T F"], own: Float[Array, "*B T F"], other: Float[Array, "*B T F"]) -> Float[Array, "*B T F"]:
    greater = jnp.maximum(own, other)
    nothing = greater < jnp.finfo(x.dtype).tiny  # as in librosa: where both are zero, half each
    greater = jnp.where(nothing, 1, greater)
    mine, theirs = (own / greater) ** 2, (other / greater) ** 2
    return x * jnp.where(nothing, 0.5, mine / jnp.where(nothing, 1, mine + theirs))


# --- mel bands and decibels ----------------------------------------------------------------------------------------------


def _hz_to_mel(hz: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Convert hertz to Slaney's mel scale: linear up to 1000 Hz (15 mel), logarithmic above."""
    return np.where(hz < 1000, hz * (3 / 200), 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _mel_to_hz(mel: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.where(mel < 15, mel * (200 / 3), 1000 * 6.4 ** ((mel - 15) / 27))


@lru_cache
def mel_filters(settings: Stft, sample_rate: int, bands: int) -> Float[np.ndarray, "F M"]:
    """Return triangles of equal area, equally spaced on Slaney's mel scale up to Nyquist: `librosa.filters.mel`, transposed."""
    top = _hz_to_mel(np.array([sample_rate / 2]))[0]
    edges = _mel_to_hz(np.linspace(0, top, bands + 2))
    return _triangles(settings, sample_rate, edges, 2 / (edges[2:] - edges[:-2]))


def _triangles(
    settings: Stft, sample_rate: int, edges: Float[np.ndarray, " n"], height: Float[np.ndarray, " M"] | float
) -> Float[np.ndarray, "F M"]:
    hz = bin_frequencies(settings, sample_rate)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)))
    filters = (triangles * height).astype(np.float32)
    filters.setflags(write=False)  # callers share it
    return filters


@lru_cache
def peaked_filters(settings: Stft, sample_rate: int, bands: int) -> Float[np.ndarray, "F M"]:
    """Return triangles of unit peak, equally spaced on HTK's mel scale up to the Nyquist frequency.

    Recognisers use them: ``librosa.filters.mel(htk=True, norm=None)``, transposed.
    """
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + sample_rate / 1400), bands + 2) / 2595) - 1)
    return _triangles(settings, sample_rate, edges, 1.0)


def log_mel(waveform: Float[Array, "*B N"], settings: Stft, sample_rate: int, bands: int) -> Float[Array, "*B T M"]:
    """Return the natural logarithm of mel bands of magnitudes (`peaked_filters`): acoustic features of paper 001 (section IV-B).

    Magnitudes and bands are floored at 1e-6, so gradients are finite in silence.
    """
    spectrum = stft(waveform, settings)
    magnitude = jnp.sqrt(jnp.maximum(spectrum.real**2 + spectrum.imag**2, 1e-12))
    filters = jnp.asarray(peaked_filters(settings, sample_rate, bands))
    return jnp.log(jnp.maximum(jnp.matmul(magnitude, filters, precision="highest"), 1e-6))


FLOOR = -100.0
"""Lower limit of levels, in decibels: the level of silence."""


def level_of(power: Float[Array | np.ndarray, "*B T F"]) -> Float[Array | np.ndarray, "*B T F"]:
    """Return the level 10 log10(power), at least `FLOOR`."""
    xp = jnp if isinstance(power, jax.Array) else np  # in numpy, nothing is compiled for each length
    return 10 * xp.log10(xp.maximum(power, 10 ** (FLOOR / 10)))


def decibels(power: Float[Array, "*B T F"], range_db: float | int = 80.0) -> Float[Array, "*B T F"]:
    """Return the level of a power (`level_of`), clipped at `range_db` below the recording's maximum: `librosa.power_to_db`."""
    level = level_of(power)
    return jnp.maximum(level, level.max(axis=(-2, -1), keepdims=True) - range_db)


# --- features ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Front:
    """How a waveform becomes the features of a detector (paper 003, section III-C).

    Attributes:
        feature: one of `FEATURES`.
        bands: number of mel bands.
        harmonic: frames of the median that keeps harmonics (l_harm).
        percussive: bins of the median that keeps percussion (l_perc).
        range_db: levels are clipped at so many decibels below the maximum of a recording.
        sample_rate: sample rate in hertz.
        frame: frame length in samples, 25 ms.
        hop: hop in samples, 10 ms.
        n_fft: length of the Fourier transform, with zero-padding around the frame; 0 for the frame length. B4 uses 512.

    Raises:
        UserError: a setting is out of range.
    """

    feature: str = "LMHPS-EF"
    bands: int = 120
    harmonic: int = 21
    percussive: int = 11
    range_db: float = 80.0
    sample_rate: int = 16000
    frame: int = 400
    hop: int = 160
    n_fft: int = 0

    def __post_init__(self) -> None:
        if self.feature not in FEATURES:
            raise UserError(f"feature {self.feature!r} is not known; choose one of {', '.join(FEATURES)}.")
        for name in ("bands", "harmonic", "percussive", "sample_rate", "range_db"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}, but must be positive.")
        for name in ("harmonic", "percussive"):
            if getattr(self, name) % 2 == 0:
                raise UserError(f"{name} is {getattr(self, name)}, but must be odd, so that the median has a middle.")
        if self.n_fft and self.n_fft < self.frame:
            raise UserError(f"n_fft is {self.n_fft}, but a frame has {self.frame} samples; make it 0, or at least as many.")

    @property
    def stft(self) -> Stft:
        """Settings of the transform: no padding, so frames start at sample 0 and the last is complete, as in the paper."""
        return Stft(n_fft=self.n_fft or self.frame, hop=self.hop, win_length=self.frame, center=False)

    @property
    def width(self) -> int:
        """Number of features per frame, D."""
        made = FEATURES[self.feature]
        return len(made.which) * (self.bands if made.mel else self.stft.n_bins)


class Feature(NamedTuple):
    """Definition of a feature that the paper names."""

    mel: bool
    log: bool
    which: tuple[str, ...]  # of "whole", "harmonic", "percussive"; several side by side (early fusion)


FEATURES = {
    "S": Feature(False, False, ("whole",)),
    "LS": Feature(False, True, ("whole",)),
    "MS": Feature(True, False, ("whole",)),
    "LMS": Feature(True, True, ("whole",)),
    "LMHS": Feature(True, True, ("harmonic",)),
    "LMPS": Feature(True, True, ("percussive",)),
    "HPS-EF": Feature(False, False, ("harmonic", "percussive")),
    "LHPS-EF": Feature(False, True, ("harmonic", "percussive")),
    "MHPS-EF": Feature(True, False, ("harmonic", "percussive")),
    "LMHPS-EF": Feature(True, True, ("harmonic", "percussive")),
}


def spectral(magnitude: Float[Array, "*B T F"], front: Front = Front()) -> Float[Array, "*B T D"]:
    """Compute the feature of a magnitude spectrogram; levels are clipped relative to each recording's own maximum.

    LMS takes mel bands of powers. For the harmonic and percussive parts, mel bands of magnitudes are squared, as in the authors'
    code. That code also doubles the decibels of LMS, which clips it at 40 dB: set `range_db` to 40.
    """
    parts = _bands(magnitude, front)
    return jnp.concatenate([decibels(x, front.range_db) for x in parts] if FEATURES[front.feature].log else parts, axis=-1)


def _bands(magnitude: Float[Array, "*B T F"], front: Front) -> list[Float[Array, "*B T M"]]:
    """Compute each part of the feature before any logarithm: as powers, if a logarithm follows."""
    made = FEATURES[front.feature]
    parts = {"whole": magnitude}
    if made.which != ("whole",):
        parts |= zip(("harmonic", "percussive"), hpss(magnitude, front.harmonic, front.percussive), strict=True)
    return [_one(parts[name], name, front) for name in made.which]


@partial(jax.jit, static_argnames=("name", "front"))
def _one(x: Float[Array, "*B T F"], name: str, front: Front) -> Float[Array, "*B T M"]:
    made = FEATURES[front.feature]
    if made.mel:
        filters = jnp.asarray(mel_filters(front.stft, front.sample_rate, front.bands))
        # MS, without logarithm, is of powers; harmonic and percussive parts remain magnitudes.
        x = jnp.matmul(x**2 if name == "whole" else x, filters, precision="highest")
    return x if not made.log or (made.mel and name == "whole") else x**2


def extract(waveform: Float[Array, "*B N"], front: Front = Front()) -> Float[Array, "*B T D"]:
    """Compute the feature of a waveform at `Front.sample_rate`.

    Raises:
        UserError: the waveform is shorter than one frame.
    """
    return spectral(jnp.abs(stft(waveform, front.stft)), front)


PIECE = 1000
"""Frames that `extract_in_pieces` computes at a time."""


def extract_in_pieces(waveform: Float[np.ndarray, " N"], front: Front = Front()) -> Float[np.ndarray, "T D"]:
    """Compute `extract` for a recording of any length, with programs that are compiled once.

    Raises:
        UserError: the waveform is shorter than one frame.
    """
    pieces = list(stream_bands([waveform], front))
    if not pieces:
        raise UserError(f"a waveform of {len(waveform)} samples is shorter than a frame of {front.stft.n_fft}.")
    parts = [np.concatenate(part) for part in zip(*pieces, strict=True)]
    if FEATURES[front.feature].log:
        parts = [np.maximum(level, level.max() - np.float32(front.range_db)) for level in map(level_of, parts)]
    return np.concatenate(parts, axis=-1)


def stream_levels(blocks: Iterable[Float[np.ndarray, " n"]], front: Front = Front()) -> Iterator[Float[np.ndarray, "t D"]]:
    """Yield levels in decibels of a recording that comes in blocks, `PIECE` frames at a time; for features with a logarithm.

    They are not clipped relative to the maximum, which is known only at the end. No frame depends on block or piece boundaries.
    """
    for parts in stream_bands(blocks, front):
        yield np.concatenate([level_of(x) for x in parts], axis=-1)


def stream_bands(blocks: Iterable[Float[np.ndarray, " n"]], front: Front) -> Iterator[list[Float[np.ndarray, "t M"]]]:
    """Yield the parts of the feature before any logarithm, `PIECE` frames at a time; nothing for less than one frame."""
    context = front.harmonic // 2
    window = np.arange(-context, PIECE + context)
    needed = (len(window) - 1) * front.hop + front.stft.n_fft
    held, begin, first = np.zeros(0, np.float32), 0, 0  # `held` starts at frame `begin`; `first` is the next one to compute
    for samples, ended in _ending(blocks):
        if samples is not None:
            held = np.concatenate([held, np.asarray(samples, np.float32)])
        n = begin + frame_count(len(held), front.stft)
        while first < n and (ended or n >= first + PIECE + context):
            rows = (first + window) % (2 * n)  # mirrored at both ends, as in a median over the whole
            rows = np.where(rows < n, rows, 2 * n - 1 - rows) - begin
            piece = held[: needed + context * front.hop]
            magnitude = _magnitude(jnp.asarray(np.pad(piece, (0, needed + context * front.hop - len(piece)))), front)
            last = min(first + PIECE, n)
            # Rows beyond the end of the last piece are computed and discarded.
            found = _bands(magnitude[np.clip(rows, 0, len(magnitude) - 1)], front)
            yield [np.asarray(x)[context : context + last - first] for x in found]
            first = last
            spent = max(0, first - context) - begin
            held, begin = held[spent * front.hop :], begin + spent


def _ending(blocks: Iterable[Float[np.ndarray, " n"]]) -> Iterator[tuple[Float[np.ndarray, " n"] | None, bool]]:
    """Yield the blocks, then an end marker."""
    for block in blocks:
        yield block, False
    yield None, True


@partial(jax.jit, static_argnames=("front",))
def _magnitude(waveform: Float[Array, " N"], front: Front) -> Float[Array, "T F"]:
    return jnp.abs(stft(waveform, front.stft))


def standardise(x: Float[Array | np.ndarray, "*B T D"]) -> Float[Array | np.ndarray, "*B T D"]:
    """Standardise each band to mean 0 and standard deviation 1 over a recording's frames; constant bands become 0."""
    xp = jnp if isinstance(x, jax.Array) else np  # in numpy, nothing is compiled for each length
    mean = x.mean(axis=-2, keepdims=True)
    centred = x - mean
    deviation = xp.sqrt((centred**2).mean(axis=-2, keepdims=True))
    # The tolerance allows for rounding of the mean of a constant band.
    return centred / xp.where(deviation > 1e-5 * xp.abs(mean), deviation, 1)


def patches(x: Float[np.ndarray, "T D"], length: int = 68, hop: int | None = None) -> Float[np.ndarray, "P L D"]:
    """Cut patches of `length` frames every `hop` frames (None: without overlap); the remainder is dropped.

    A shorter recording is repeated until it fills one patch, as in the paper's code.

    Raises:
        UserError: there is no frame, or `length` or `hop` is below 1.
    """
    hop = length if hop is None else hop
    if length < 1 or hop < 1:
        raise UserError(f"pieces of {length} frames every {hop} are impossible; give positive numbers.")
    if len(x) == 0:
        raise UserError("there is no frame to cut a piece from; the recording is shorter than one frame.")
    if len(x) < length:
        x = np.resize(x, (length, x.shape[1]))
    return np.lib.stride_tricks.sliding_window_view(x, length, axis=0)[::hop].transpose(0, 2, 1)


# --- waveforms -----------------------------------------------------------------------------------------------------------


def normalise(waveform: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Subtract the mean and scale to a peak magnitude of 1; silence stays silence."""
    centred = waveform - waveform.mean() if len(waveform) else waveform
    greatest = np.abs(centred).max(initial=0.0)
    return centred / greatest if greatest > 0 else centred


class Pauses(NamedTuple):
    """What counts as a pause (paper 003: “a heuristic-based energy threshold”; values of its authors' code)."""

    threshold: float = 0.025  # relative to the largest frame RMS
    smooth: int = 5  # frames of the median filter over decisions
    shortest: float = 0.075  # seconds; shorter pauses are kept
    frame: float = 0.025  # seconds
    hop: float = 0.010


def remove_silence(
    waveform: Float[np.ndarray, " N"], sample_rate: int, pauses: Pauses = Pauses(), *, as_released: bool = False
) -> Float[np.ndarray, " M"]:
    """Remove the pauses of a waveform.

    `as_released` reproduces the authors' code: nothing is removed unless there are at least two pauses, and the length is kept by
    filling the end with ones. The ones enter the features and the energies used for mixing, so this is only for matching published
    numbers.
    """
    frame, hop = round(pauses.frame * sample_rate), round(pauses.hop * sample_rate)
    if len(waveform) < frame:
        return waveform
    windows = np.lib.stride_tricks.sliding_window_view(waveform, frame)[::hop]
    rms = np.sqrt((windows.astype(np.float64) ** 2).mean(1))
    quiet = median_filter((rms < pauses.threshold * rms.max()).astype(np.uint8), pauses.smooth, mode="nearest")
    edges = np.flatnonzero(np.diff(quiet, prepend=0, append=0))
    runs = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if (b - a) * hop > pauses.shortest * sample_rate]
    if as_released and len(runs) < 2:
        return waveform
    kept = np.ones(len(waveform), bool)
    for first, end in runs:
        # A run that reaches the last frame includes the samples after it.
        kept[first * hop : len(waveform) if end == len(quiet) else end * hop] = False
    sounding = waveform[kept]
    if not as_released:
        return sounding
    return np.concatenate([sounding, np.ones(len(waveform) - len(sounding), waveform.dtype)])
