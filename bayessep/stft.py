"""The short-time Fourier transform: frames of a waveform and the way back, as pure functions.

Every spectrogram of the project comes from here. Time is the first of the two axes: a spectrogram is
(..., T frames, F bins). `Stft` holds the settings; it is hashable, so functions may take it as a static
argument under ``jax.jit``.

Values are those of librosa (transposed). Framing needs no index arithmetic: with q = ceil(n_fft / hop), the
waveform is cut into blocks of one hop, and a frame is q consecutive blocks concatenated; overlap-add is
the reverse, a sum of q shifted blocks. That is q contiguous copies for any hop, both forwards and in
the gradient. (Compiling takes a second for q of about 50; nobody needs more.)

Long audio goes through `stream_init`, `stream_push`, `stream_finish` and their inverses `istream_*`, which
return exactly the frames and samples of the one-shot functions in bounded memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float

from bayessep.errors import UserError

# Weights of cosines; as in scipy.signal.windows.general_cosine, whose import would take half a second.
_COSINES = {"hann": (0.5, 0.5), "hamming": (0.54, 1 - 0.54), "blackman": (0.42, 0.5, 0.08), "boxcar": (1,), "rectangular": (1,)}
WINDOWS = (*_COSINES, "bartlett", "sqrt_hann")
PAD_MODES = ("constant", "reflect")
Shape = Sequence[int]

# Window values this small relative to the largest are zero up to rounding: Blackman's first value is -1e-17.
_ROUNDED_ZERO = 1e-12
# scipy.signal.check_NOLA calls a window/hop pair invertible when the summed squared windows stay above this.
_NOLA_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Stft:
    """Settings of a short-time Fourier transform; names, defaults and values follow librosa.

    Attributes:
        n_fft: length of a frame and of its Fourier transform, in samples.
        hop: samples from one frame to the next.
        window: one of `WINDOWS`, in its periodic form; ``sqrt_hann`` is the square root of ``hann``.
        win_length: samples of the window, zero-padded on both sides to ``n_fft``; None for ``n_fft``.
        center: frame t is centred on sample t * hop, with half a frame of padding at the ends;
            otherwise it starts there.
        pad_mode: content of that padding, zeros ("constant") or the mirrored signal ("reflect").
        pad_end: add a frame if the last sample would not lie well inside one. Without it (as in librosa)
            the last samples may be covered only by the faint edge of one window: they are recovered from an
            unchanged spectrum, but changes to a spectrum are magnified there a thousandfold, into a click.

    Raises:
        UserError: a setting is out of range.
    """

    n_fft: int = 1024
    hop: int = 512
    window: str = "hann"
    win_length: int | None = None
    center: bool = True
    pad_mode: str = "constant"
    pad_end: bool = False

    def __post_init__(self) -> None:
        if self.n_fft < 2:
            raise UserError(f"n_fft is {self.n_fft}, but a frame needs at least 2 samples.")
        if self.hop < 1:
            raise UserError(f"hop is {self.hop}, but frames must be at least 1 sample apart.")
        if self.window not in WINDOWS:
            raise UserError(f"window {self.window!r} is not known; choose one of {', '.join(WINDOWS)}.")
        if self.win_length is not None and not 1 <= self.win_length <= self.n_fft:
            raise UserError(f"win_length is {self.win_length}, but must be from 1 to n_fft = {self.n_fft}.")
        if self.pad_mode not in PAD_MODES:
            raise UserError(f"pad_mode {self.pad_mode!r} is not known; choose one of {', '.join(PAD_MODES)}.")

    @property
    def n_bins(self) -> int:
        """Number of frequency bins from 0 to half the sample rate: F = n_fft // 2 + 1."""
        return self.n_fft // 2 + 1


def stft_for_rate(sample_rate: int, window_seconds: float | int = 0.064, overlap: float | int = 0.5) -> Stft:
    """Return settings for separation at any sample rate: frames of about ``window_seconds``, 1024/512 at 16 kHz.

    n_fft is the nearest even number without prime factors above 5, for which the transform is fast. The end
    is padded (`Stft.pad_end`), because the spectra will be modified and listened to.

    Raises:
        UserError: the rate or the window is not positive, or the overlap is not in [0, 1).
    """
    if sample_rate <= 0 or window_seconds <= 0:
        raise UserError(f"a window of {window_seconds} s at {sample_rate} Hz is impossible; give positive numbers.")
    if not 0 <= overlap < 1:
        raise UserError(f"overlap is {overlap}, but must be at least 0 and below 1.")
    n_fft = _nearest_even_smooth(sample_rate * window_seconds)
    return Stft(n_fft=n_fft, hop=max(1, round(n_fft * (1 - overlap))), pad_end=True)


def _nearest_even_smooth(target: float | int) -> int:
    """The number 2^a 3^b 5^c with a >= 1 that is nearest to ``target``."""
    limit = 2 * max(target, 2)  # there is a power of two between target and limit
    exponents = range(int(math.log2(limit)) + 1)
    smooth = (2 ** (a + 1) * 3**b * 5**c for a in exponents for b in exponents for c in exponents)
    return min(smooth, key=lambda n: (abs(n - target), n))


# --- frames, times and frequencies --------------------------------------------------------------------------


def frame_count(n_samples: int, settings: Stft) -> int:
    """Return the number of frames T of a waveform; 0 if it is too short for one (`stft` then raises an error)."""
    beyond_first = n_samples - settings.n_fft + 2 * _lead(settings)
    if settings.pad_end:
        return 1 + max(0, -(-beyond_first // settings.hop))
    return max(0, 1 + beyond_first // settings.hop)


def frame_times(n_frames: int, settings: Stft, sample_rate: int) -> Float[np.ndarray, " T"]:
    """Return the centre of each frame in seconds (float64)."""
    return (np.arange(n_frames) * settings.hop + _centre_of_first(settings)) / sample_rate


def bin_frequencies(settings: Stft, sample_rate: int) -> Float[np.ndarray, " F"]:
    """Return the frequency of each bin in hertz (float64)."""
    return np.arange(settings.n_bins) * (sample_rate / settings.n_fft)


def _lead(settings: Stft) -> int:
    """Samples of padding before the first sample of the waveform."""
    return settings.n_fft // 2 if settings.center else 0


def _reach(n_frames: int, settings: Stft) -> int:
    """Samples of the waveform, and of padding after it, up to the end of the last frame."""
    return (n_frames - 1) * settings.hop + settings.n_fft - _lead(settings)


def _centre_of_first(settings: Stft) -> int:
    """Sample on which frame 0 is centred."""
    return settings.n_fft // 2 - _lead(settings)


def _hops_per_frame(settings: Stft) -> int:
    """q, the number of hop-long blocks a frame reaches into."""
    return -(-settings.n_fft // settings.hop)


# --- windows ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _window(settings: Stft) -> Float[np.ndarray, " n_fft"]:
    """The periodic window in float64, zero-padded on both sides to n_fft."""
    length = settings.win_length or settings.n_fft
    name, angle = settings.window.removeprefix("sqrt_"), np.linspace(-np.pi, np.pi, length + 1)[:-1]
    if length == 1:
        window = np.ones(1)
    elif name == "bartlett":
        window = 1 - np.abs(angle) / np.pi
    else:
        window = np.sum([weight * np.cos(k * angle) for k, weight in enumerate(_COSINES[name])], axis=0)
    window = window if settings.window == name else np.sqrt(window)
    before = (settings.n_fft - length) // 2
    return np.pad(window, (before, settings.n_fft - length - before))


@lru_cache(maxsize=64)
def _squared_blocks(settings: Stft) -> Float[np.ndarray, "q hop"]:
    """The squared window in hop-long blocks, the last one padded with zeros."""
    q = _hops_per_frame(settings)
    squared = np.pad(_window(settings) ** 2, (0, q * settings.hop - settings.n_fft))
    return squared.reshape(q, settings.hop)


def is_invertible(settings: Stft) -> bool:
    """Return whether overlapping squared windows leave no gap (nonzero overlap-add), as `istft` requires."""
    return bool(_squared_blocks(settings).sum(axis=0).min() > _NOLA_TOLERANCE)


def _require_invertible(settings: Stft) -> None:
    if not is_invertible(settings):
        length = settings.win_length or settings.n_fft
        raise UserError(
            f"a {settings.window} window of {length} samples with hop {settings.hop} cannot be inverted, "
            "because its copies leave gaps; use a smaller hop."
        )


@lru_cache(maxsize=64)
def _synthesis_window(settings: Stft) -> Float[np.ndarray, " n_fft"]:
    """The window divided by the sum of squared windows, where all q windows overlap."""
    total = _squared_blocks(settings).sum(axis=0)
    return _window(settings) / np.tile(total, _hops_per_frame(settings))[: settings.n_fft]


def _edge_gain(blocks: np.ndarray, n_frames: int | None, settings: Stft) -> Float[np.ndarray, "B hop"]:
    """Gain that numbered blocks of one hop need after synthesis when only frames 0 … n_frames-1 exist.

    (None: frames continue without end.) It is the full sum of squared windows over the sum of those present:
    1 except in q-1 blocks at either end. Samples that no window reaches are left unchanged (gain 1).
    """
    squared = _squared_blocks(settings)
    frame_of_part = blocks[:, None] - np.arange(len(squared))  # part i of frame b-i falls into block b
    exists = (frame_of_part >= 0) & (frame_of_part < (np.inf if n_frames is None else n_frames))
    present = exists.astype(float) @ squared
    total = squared.sum(axis=0)
    reached = present > _ROUNDED_ZERO**2 * total.max()
    return total / np.where(reached, present, total)


# --- the transform and its inverse --------------------------------------------------------------------------


@partial(jax.jit, static_argnames="settings")
def stft(signal: Float[Array | np.ndarray, "*batch N"], settings: Stft) -> Complex[Array, "*batch T F"]:
    """Return the short-time Fourier transform of waveforms: T = `frame_count` frames of F = ``settings.n_bins`` bins.

    Args:
        signal: waveforms in float32 or float64 (giving complex64 or complex128), with any leading dimensions.
        settings: see `Stft`; static under jit.

    Raises:
        UserError: without centring, the waveform is shorter than one frame; or there is nothing to mirror.
    """
    signal = jnp.asarray(signal)
    n_samples = signal.shape[-1]
    n_frames = frame_count(n_samples, settings)
    if n_frames == 0:
        raise UserError(
            f"a waveform of {n_samples} samples is shorter than one frame of {settings.n_fft}; "
            "use a longer one, or set center or pad_end."
        )
    lead = _lead(settings)
    tail = _reach(n_frames, settings) - n_samples  # negative: this many samples no frame reaches
    if lead and settings.pad_mode == "reflect":
        if n_samples < 2:
            raise UserError(f'a waveform of {n_samples} sample cannot be mirrored; use pad_mode "constant".')
        around = [(0, 0)] * (signal.ndim - 1) + [(lead, max(tail, 0))]
        signal, lead, tail = jnp.pad(signal, around, mode="reflect"), 0, min(tail, 0)
    # Blocks extend to the end of the last frame's last block; samples beyond the frame are cut off again.
    tail += _hops_per_frame(settings) * settings.hop - settings.n_fft
    return _analyse(_pad(signal, lead, tail), n_frames, settings)


@partial(jax.jit, static_argnames=("settings", "length"))
def istft(
    spectrum: Complex[Array | np.ndarray, "*batch T F"], settings: Stft, length: int
) -> Float[Array, "*batch {length}"]:
    """Return the waveform whose `stft` is nearest to a spectrogram by least squares (Griffin and Lim, 1984).

    Frames are windowed again, added up and divided by the sum of squared windows. For the spectrogram of a
    waveform of ``length`` samples this is that waveform; samples that no frame reaches are zero.

    Args:
        spectrum: complex spectrogram.
        settings: those of the analysis; static under jit.
        length: samples to return; static under jit.

    Raises:
        UserError: window and hop cannot be inverted (`is_invertible`).
    """
    _require_invertible(settings)
    spectrum = jnp.asarray(spectrum)
    n_frames, q = spectrum.shape[-2], _hops_per_frame(settings)
    blocks = _overlap_add(spectrum, settings)
    ends = np.union1d(np.arange(q - 1), np.arange(n_frames, n_frames + q - 1))  # where windows are missing
    blocks = blocks.at[..., ends, :].multiply(_row(_edge_gain(ends, n_frames, settings), blocks))
    padded = blocks.reshape(*blocks.shape[:-2], -1)
    lead = _lead(settings)
    return _pad(padded, -lead, length + lead - padded.shape[-1])


def _row(rows: Array | np.ndarray, like: Float[Array, "*batch B hop"]) -> Float[Array, "..."]:
    """Cast a constant to the dtype and rank of an array, for multiplication with it."""
    return jnp.asarray(rows, like.dtype).reshape((1,) * (like.ndim - rows.ndim) + rows.shape)


def _pad(signal: Float[Array, "*batch N"], before: int, after: int) -> Float[Array, "*batch M"]:
    """Pad with zeros before and after; negative amounts cut samples off."""
    widths = [(0, 0, 0)] * (signal.ndim - 1) + [(before, after, 0)]
    return lax.pad(signal, jnp.zeros((), signal.dtype), widths)


def _analyse(padded: Float[Array, "*batch M"], n_frames: int, settings: Stft) -> Complex[Array, "*batch T F"]:
    """Spectra of T frames; ``padded`` holds exactly their T + q - 1 blocks."""
    q, batch = _hops_per_frame(settings), padded.shape[:-1]
    blocks = padded.reshape(*batch, n_frames + q - 1, settings.hop)
    frames = jnp.stack([blocks[..., i : i + n_frames, :] for i in range(q)], axis=-2)
    frames = frames.reshape(*batch, n_frames, q * settings.hop)[..., : settings.n_fft]
    return jnp.fft.rfft(frames * _row(_window(settings), frames))


def _overlap_add(spectrum: Complex[Array, "*batch T F"], settings: Stft) -> Float[Array, "*batch B hop"]:
    """Window the frames and overlap-add them into B = T + q - 1 blocks of one hop."""
    q = _hops_per_frame(settings)
    frames = jnp.fft.irfft(spectrum, settings.n_fft)
    frames = _pad(frames * _row(_synthesis_window(settings), frames), 0, q * settings.hop - settings.n_fft)
    parts = frames.reshape(*frames.shape[:-1], q, settings.hop)
    batch = [(0, 0)] * (parts.ndim - 3)
    shifted = (jnp.pad(parts[..., i, :], [*batch, (i, q - 1 - i), (0, 0)]) for i in range(q))
    return reduce(jnp.add, shifted)


# --- block by block -----------------------------------------------------------------------------------------


class StreamState(NamedTuple):
    """State that `stream_push` carries from block to block."""

    recent: Float[np.ndarray, "*batch B"]  # the last samples pushed, as many as a later frame can still need
    n_samples: int  # pushed so far
    n_frames: int  # handed out so far


def stream_init(settings: Stft, batch_shape: Shape = (), dtype: Any = np.float32) -> StreamState:
    """Begin a block-by-block analysis of waveforms (\\*batch_shape, N)."""
    del settings  # the initial state does not depend on them
    return StreamState(np.zeros((*batch_shape, 0), dtype), 0, 0)


def stream_push(
    state: StreamState, block: Float[Array | np.ndarray, "*batch B"], settings: Stft
) -> tuple[StreamState, Complex[Array, "*batch T F"]]:
    """Push the next block, of any length, and return the frames it completes (possibly none).

    The state lives on the host and only whole frames enter the compiled transform, so blocks of constant
    length lead to only two shapes to compile for, not to a new one each time.
    """
    recent = np.concatenate([state.recent, np.asarray(block, state.recent.dtype)], axis=-1)
    n_samples, lead = state.n_samples + block.shape[-1], _lead(settings)
    # Number of frames that do not reach beyond the last sample.
    complete = max(0, 1 + (n_samples + lead - settings.n_fft) // settings.hop)
    if settings.pad_mode == "reflect" and n_samples <= lead:
        complete = 0  # not enough samples to mirror yet
    frames = _stream_frames(recent, n_samples, state.n_frames, complete, 0, settings)
    # Keep the samples from the start of the next frame, and enough for mirroring at the end.
    keep = max(n_samples - (complete * settings.hop - lead), settings.n_fft + settings.hop)
    return StreamState(recent[..., max(0, recent.shape[-1] - keep) :], n_samples, complete), frames


def stream_finish(state: StreamState, settings: Stft) -> Complex[Array, "*batch T F"]:
    """Return the last frames, which need the end of the waveform. All frames together equal `stft` of all blocks.

    Raises:
        UserError: as `stft` does.
    """
    n_frames = frame_count(state.n_samples, settings)
    if state.n_frames == 0:  # no frame was complete so far; all samples are still held
        return stft(state.recent, settings)
    tail = _reach(n_frames, settings) - state.n_samples
    return _stream_frames(state.recent, state.n_samples, state.n_frames, n_frames, max(tail, 0), settings)


def _stream_frames(
    recent: np.ndarray, n_samples: int, first: int, stop: int, tail: int, settings: Stft
) -> Complex[Array, "*batch T F"]:
    """Frames first … stop-1, where ``recent`` ends at sample ``n_samples``; ``tail`` of padding follows."""
    if stop <= first:
        dtype = jax.dtypes.canonicalize_dtype(np.result_type(recent.dtype, np.complex64))
        return jnp.zeros((*recent.shape[:-1], 0, settings.n_bins), dtype)
    start = first * settings.hop - _lead(settings)  # of frame `first`, in samples of the waveform
    begin = start - (n_samples - recent.shape[-1])  # and in samples of `recent`
    head = max(0, -begin)
    mode = settings.pad_mode if settings.center else "constant"
    around = [(0, 0)] * (recent.ndim - 1) + [(head, tail)]
    padded = np.pad(recent, around, mode=mode) if head or tail else recent  # type: ignore[call-overload]
    begin += head
    whole = padded[..., begin : begin + (stop - first - 1) * settings.hop + settings.n_fft]
    return stft(whole, replace(settings, center=False, pad_end=False))


class InverseStreamState(NamedTuple):
    """State that `istream_push` carries from call to call."""

    overlap: Float[Array, "*batch K hop"]  # K = q-1 blocks of sums to which later frames will still add
    held: Float[np.ndarray, "*batch H"]  # finished samples kept back: the waveform may end before them
    n_frames: int  # pushed so far
    n_samples: int  # handed out so far


def istream_init(settings: Stft, batch_shape: Shape = (), dtype: Any = np.float32) -> InverseStreamState:
    """Begin a synthesis from spectra (\\*batch_shape, T, F); ``dtype`` is that of the waveform.

    Raises:
        UserError: window and hop cannot be inverted (`is_invertible`).
    """
    _require_invertible(settings)
    shape = (*batch_shape, _hops_per_frame(settings) - 1, settings.hop)
    overlap = jnp.zeros(shape, jax.dtypes.canonicalize_dtype(dtype))
    return InverseStreamState(overlap, np.zeros((*batch_shape, 0), dtype), 0, 0)


def istream_push(
    state: InverseStreamState, frames: Complex[Array | np.ndarray, "*batch T F"], settings: Stft
) -> tuple[InverseStreamState, Float[np.ndarray, "*batch n"]]:
    """Push any number of further frames and return the samples that are final (possibly none)."""
    count = frames.shape[-2]
    if count == 0:
        return state, state.held[..., :0]
    gains = _edge_gain(np.arange(state.n_frames, state.n_frames + count), None, settings)
    done, overlap = _synthesise(state.overlap, frames, gains, settings)
    before = max(0, _lead(settings) - state.n_frames * settings.hop)  # padding, which is not handed out
    held = np.concatenate([state.held, np.asarray(done)[..., before:]], axis=-1)
    # A waveform may end up to two hops before the last block its frames complete.
    final = max(0, held.shape[-1] - 2 * settings.hop)
    new = InverseStreamState(overlap, held[..., final:], state.n_frames + count, state.n_samples + final)
    return new, held[..., :final]


def istream_finish(state: InverseStreamState, settings: Stft, length: int) -> Float[np.ndarray, "*batch n"]:
    """Return the rest of a waveform of ``length`` samples. All samples together equal `istft` of all frames.

    Raises:
        UserError: more than ``length`` samples have been handed out already.
    """
    missing = length - state.n_samples
    if missing < 0:
        raise UserError(f"the waveform should have {length} samples, but its frames go on beyond that.")
    numbers = np.arange(state.n_frames, state.n_frames + state.overlap.shape[-2])
    gains = _edge_gain(numbers, state.n_frames, settings)
    last = np.asarray(state.overlap) * gains.astype(state.overlap.dtype)
    before = max(0, _lead(settings) - state.n_frames * settings.hop)
    rest = np.concatenate([state.held, last.reshape(*last.shape[:-2], -1)[..., before:]], axis=-1)[..., :missing]
    return np.pad(rest, [(0, 0)] * (rest.ndim - 1) + [(0, missing - rest.shape[-1])])


@partial(jax.jit, static_argnames="settings")
def _synthesise(
    overlap: Float[Array, "*batch K hop"],
    frames: Complex[Array | np.ndarray, "*batch T F"],
    gains: Float[Array | np.ndarray, "T hop"],
    settings: Stft,
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch K hop"]]:
    """Add frames to the sums carried over; return the finished samples and the new sums."""
    count = frames.shape[-2]
    blocks = _overlap_add(jnp.asarray(frames), settings)
    blocks = blocks.at[..., : overlap.shape[-2], :].add(overlap)
    done = blocks[..., :count, :] * _row(gains, blocks)
    return done.reshape(*done.shape[:-2], -1), blocks[..., count:, :]
