"""What detectors look at: mel spectrograms in decibels, and their harmonic and percussive parts.

The features of Bhattacharjee, Prasanna, Guha, “Clean vs. Overlapped Speech-Music Detection Using Harmonic-Percussive Features and
Multi-Task Learning” (2022), as functions of arrays under ``jax.jit``: `hpss`, `mel`, `decibels`, and what is made of them
(`FEATURES`, `extract`). Time is the first axis. `remove_silence` and `normalise` prepare a waveform as the paper does.

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
    """Harmonic and percussive part of a magnitude spectrogram: medians of so many frames, or bins, and soft masks of power 2.

    The values of ``librosa.decompose.hpss(x.T, kernel_size=(harmonic, percussive), power=2.0)``: the same medians, and masks that
    differ in the last bits, because the compiler adds a product in one rounding.
    """
    # A program for each, because in one the compiler would compute the medians again for each part.
    h, p = median(x, harmonic, axis=-2), median(x, percussive, axis=-1)
    return HarmonicPercussive(_share(x, h, p), _share(x, p, h))


@jax.jit
def _share(x: Float[Array, "*B T F"], own: Float[Array, "*B T F"], other: Float[Array, "*B T F"]) -> Float[Array, "*B T F"]:
    greater = jnp.maximum(own, other)
    nothing = greater < jnp.finfo(x.dtype).tiny  # as librosa has it: where neither says anything, half each
    greater = jnp.where(nothing, 1, greater)
    mine, theirs = (own / greater) ** 2, (other / greater) ** 2
    return x * jnp.where(nothing, 0.5, mine / jnp.where(nothing, 1, mine + theirs))


# --- mel bands and decibels ----------------------------------------------------------------------------------------------


def _hz_to_mel(hz: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Slaney's scale: linear up to 1000 Hz, which are 15 mel, and logarithmic above."""
    return np.where(hz < 1000, hz * (3 / 200), 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _mel_to_hz(mel: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.where(mel < 15, mel * (200 / 3), 1000 * 6.4 ** ((mel - 15) / 27))


@lru_cache
def mel_filters(settings: Stft, sample_rate: int, bands: int) -> Float[np.ndarray, "F M"]:
    """Triangles of equal area, equally far apart on Slaney's mel scale up to half the rate: `librosa.filters.mel`, transposed."""
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
    """Triangles whose greatest value is 1, equally far apart on the mel scale of HTK up to half the rate.

    Those of recognisers: ``librosa.filters.mel(htk=True, norm=None)``, transposed.
    """
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + sample_rate / 1400), bands + 2) / 2595) - 1)
    return _triangles(settings, sample_rate, edges, 1.0)


def log_mel(waveform: Float[Array, "*B N"], settings: Stft, sample_rate: int, bands: int) -> Float[Array, "*B T M"]:
    """Natural logarithm of mel bands of magnitudes (`peaked_filters`): the acoustic features of paper 001 (section IV-B).

    Gradients are finite in silence: nothing is below 1e-6 before the logarithm.
    """
    spectrum = stft(waveform, settings)
    magnitude = jnp.sqrt(jnp.maximum(spectrum.real**2 + spectrum.imag**2, 1e-12))
    filters = jnp.asarray(peaked_filters(settings, sample_rate, bands))
    return jnp.log(jnp.maximum(jnp.matmul(magnitude, filters, precision="highest"), 1e-6))


FLOOR = -100.0
"""The level of silence, in decibels: none is below it."""


def level_of(power: Float[Array | np.ndarray, "*B T F"]) -> Float[Array | np.ndarray, "*B T F"]:
    """10 log10 of a power, at least `FLOOR`."""
    xp = jnp if isinstance(power, jax.Array) else np  # in numpy, nothing is compiled for each length
    return 10 * xp.log10(xp.maximum(power, 10 ** (FLOOR / 10)))


def decibels(power: Float[Array, "*B T F"], range_db: float | int = 80.0) -> Float[Array, "*B T F"]:
    """The level of a power (`level_of`), at most `range_db` below the greatest of a recording: `librosa.power_to_db`."""
    level = level_of(power)
    return jnp.maximum(level, level.max(axis=(-2, -1), keepdims=True) - range_db)


# --- features ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Front:
    """How a waveform becomes the features of a detector (paper 003, section III-C).

    Attributes:
        feature: one of `FEATURES`.
        bands: of the mel scale.
        harmonic: frames of the median that keeps harmonics (l_harm).
        percussive: bins of the median that keeps percussion (l_perc).
        range_db: levels are cut so far below the greatest of a recording.
        sample_rate: in hertz.
        frame: samples of a frame, 25 ms.
        hop: samples from frame to frame, 10 ms.
        n_fft: samples that its Fourier transform has, with zeros around the frame; 0 for none. B4 has 512.

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
                raise UserError(f"{name} is {getattr(self, name)}, but a median has a middle of odd numbers only.")
        if self.n_fft and self.n_fft < self.frame:
            raise UserError(f"n_fft is {self.n_fft}, but a frame has {self.frame} samples; make it 0, or at least as many.")

    @property
    def stft(self) -> Stft:
        """Frames that begin with the first sample and end with the last that fills one, as the paper's."""
        return Stft(n_fft=self.n_fft or self.frame, hop=self.hop, win_length=self.frame, center=False)

    @property
    def width(self) -> int:
        """Numbers that a frame has: D."""
        made = FEATURES[self.feature]
        return len(made.which) * (self.bands if made.mel else self.stft.n_bins)


class Feature(NamedTuple):
    """What a name of the paper stands for."""

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
    """The feature of a magnitude spectrogram, each recording in decibels of its own greatest.

    LMS is the mel spectrogram of powers. Of the harmonic and the percussive part, magnitudes are put into bands and then squared,
    as in the code of the paper's authors. That code also doubles the decibels of LMS, which cuts it at 40 dB: `range_db` of 40.
    """
    parts = _bands(magnitude, front)
    return jnp.concatenate([decibels(x, front.range_db) for x in parts] if FEATURES[front.feature].log else parts, axis=-1)


def _bands(magnitude: Float[Array, "*B T F"], front: Front) -> list[Float[Array, "*B T M"]]:
    """Each part of the feature: the power of its bands, if there will be a logarithm."""
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
        # Without logarithm, MS is of powers; what was split stays magnitudes.
        x = jnp.matmul(x**2 if name == "whole" else x, filters, precision="highest")
    return x if not made.log or (made.mel and name == "whole") else x**2


def extract(waveform: Float[Array, "*B N"], front: Front = Front()) -> Float[Array, "*B T D"]:
    """The feature of a waveform at `Front.sample_rate`.

    Raises:
        UserError: the waveform is shorter than one frame.
    """
    return spectral(jnp.abs(stft(waveform, front.stft)), front)


PIECE = 1000
"""Frames that `extract_in_pieces` works on at a time."""


def extract_in_pieces(waveform: Float[np.ndarray, " N"], front: Front = Front()) -> Float[np.ndarray, "T D"]:
    """`extract` of a recording of any length, through programs that are compiled once.

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
    """Levels in decibels of a recording that comes in blocks, `PIECE` frames at a time; of a feature with a logarithm.

    They are not cut below the greatest, which is known only at the end. No frame depends on where blocks or pieces begin.
    """
    for parts in stream_bands(blocks, front):
        yield np.concatenate([level_of(x) for x in parts], axis=-1)


def stream_bands(blocks: Iterable[Float[np.ndarray, " n"]], front: Front) -> Iterator[list[Float[np.ndarray, "t M"]]]:
    """Each part of the feature before any logarithm, `PIECE` frames at a time; nothing of less than a frame."""
    context = front.harmonic // 2
    window = np.arange(-context, PIECE + context)
    needed = (len(window) - 1) * front.hop + front.stft.n_fft
    held, begin, first = np.zeros(0, np.float32), 0, 0  # `held` begins with frame `begin`; `first` is the next one to be made
    for samples, ended in _ending(blocks):
        if samples is not None:
            held = np.concatenate([held, np.asarray(samples, np.float32)])
        n = begin + frame_count(len(held), front.stft)
        while first < n and (ended or n >= first + PIECE + context):
            rows = (first + window) % (2 * n)  # mirrored at both ends, as a median of all of it sees them
            rows = np.where(rows < n, rows, 2 * n - 1 - rows) - begin
            piece = held[: needed + context * front.hop]
            magnitude = _magnitude(jnp.asarray(np.pad(piece, (0, needed + context * front.hop - len(piece)))), front)
            last = min(first + PIECE, n)
            # Rows beyond the end of the last piece are made and thrown away.
            found = _bands(magnitude[np.clip(rows, 0, len(magnitude) - 1)], front)
            yield [np.asarray(x)[context : context + last - first] for x in found]
            first = last
            spent = max(0, first - context) - begin
            held, begin = held[spent * front.hop :], begin + spent


def _ending(blocks: Iterable[Float[np.ndarray, " n"]]) -> Iterator[tuple[Float[np.ndarray, " n"] | None, bool]]:
    """The blocks, and word that there are no more."""
    for block in blocks:
        yield block, False
    yield None, True


@partial(jax.jit, static_argnames=("front",))
def _magnitude(waveform: Float[Array, " N"], front: Front) -> Float[Array, "T F"]:
    return jnp.abs(stft(waveform, front.stft))


def standardise(x: Float[Array | np.ndarray, "*B T D"]) -> Float[Array | np.ndarray, "*B T D"]:
    """Mean 0 and deviation 1 over the frames of each recording, band by band; 0 where nothing changes."""
    xp = jnp if isinstance(x, jax.Array) else np  # in numpy, nothing is compiled for each length
    mean = x.mean(axis=-2, keepdims=True)
    centred = x - mean
    deviation = xp.sqrt((centred**2).mean(axis=-2, keepdims=True))
    # The mean of what nothing changes is rounded.
    return centred / xp.where(deviation > 1e-5 * xp.abs(mean), deviation, 1)


def patches(x: Float[np.ndarray, "T D"], length: int = 68, hop: int | None = None) -> Float[np.ndarray, "P L D"]:
    """Pieces of `length` frames, each `hop` after the one before (None: after its end); what is left over is dropped.

    A recording that is shorter is repeated until it fills one, as in the paper's code.

    Raises:
        UserError: there is no frame, or a length or hop below 1.
    """
    hop = length if hop is None else hop
    if length < 1 or hop < 1:
        raise UserError(f"pieces of {length} frames every {hop} are impossible; take positive numbers.")
    if len(x) == 0:
        raise UserError("there is no frame to cut a piece from; the recording is shorter than one frame.")
    if len(x) < length:
        x = np.resize(x, (length, x.shape[1]))
    return np.lib.stride_tricks.sliding_window_view(x, length, axis=0)[::hop].transpose(0, 2, 1)


# --- waveforms -----------------------------------------------------------------------------------------------------------


def normalise(waveform: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Without its mean, and with a greatest magnitude of 1; silence stays silence."""
    centred = waveform - waveform.mean() if len(waveform) else waveform
    greatest = np.abs(centred).max(initial=0.0)
    return centred / greatest if greatest > 0 else centred


class Pauses(NamedTuple):
    """What counts as a pause (paper 003: “a heuristic-based energy threshold”; values of its authors' code)."""

    threshold: float = 0.025  # of the greatest root mean square of a frame
    smooth: int = 5  # frames of the median over decisions
    shortest: float = 0.075  # seconds; shorter pauses stay
    frame: float = 0.025  # seconds
    hop: float = 0.010


def remove_silence(
    waveform: Float[np.ndarray, " N"], sample_rate: int, pauses: Pauses = Pauses(), *, as_released: bool = False
) -> Float[np.ndarray, " M"]:
    """The waveform without its pauses.

    With `as_released` as the code of the paper's authors has it: nothing is removed unless there are two pauses at least, and the
    length stays what it was, the end filled with ones. These ones reach the features and the energies that mixtures are made
    with, so this is for matching published numbers and for nothing else.
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
        # A run to the last frame takes the samples behind it along.
        kept[first * hop : len(waveform) if end == len(quiet) else end * hop] = False
    sounding = waveform[kept]
    if not as_released:
        return sounding
    return np.concatenate([sounding, np.ones(len(waveform) - len(sounding), waveform.dtype)])
