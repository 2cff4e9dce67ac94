"""Resampling: the only module that changes sample rates."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from jaxtyping import Float

from bayessep.errors import UserError

Samples = Float[np.ndarray, "channels N"]


def resampled_length(n_samples: int, from_rate: int, to_rate: int) -> int:
    """Return the number of samples after resampling: rounded half up, but at least one if there was one.

    Raises:
        UserError: a rate is not positive.
    """
    if from_rate <= 0 or to_rate <= 0:
        raise UserError(f"cannot resample from {from_rate} Hz to {to_rate} Hz; give a positive sample rate.")
    return max(min(n_samples, 1), (2 * n_samples * to_rate + from_rate) // (2 * from_rate))


def resample(samples: Float[np.ndarray, "*c N"], from_rate: int, to_rate: int) -> Float[np.ndarray, "*c M"]:
    """Resample along the last axis to `resampled_length` samples, band-limited (soxr, high quality).

    Raises:
        UserError: a rate is not positive.
    """
    if from_rate == to_rate:
        return samples
    rows = samples.reshape(-1, samples.shape[-1])
    out = np.concatenate(list(resampled([rows], from_rate, to_rate)), axis=1)
    return np.ascontiguousarray(out).reshape(*samples.shape[:-1], -1)


def played(samples: Float[np.ndarray, " N"], speed: float) -> Float[np.ndarray, " M"]:
    """Play `speed` times faster, as a tape: pitch changes with speed, and N / speed samples remain, rounded. Band-limited.

    Raises:
        UserError: the speed is not positive.
    """
    if speed <= 0:
        raise UserError(f"cannot play at {speed:g} times the speed; give a positive speed.")
    return samples if speed == 1.0 else soxr.resample(samples, speed, 1.0, quality="HQ")


def resampled(pieces: Iterable[Samples], from_rate: int, to_rate: int) -> Iterator[Samples]:
    """Resample sound that arrives in pieces; the concatenated output equals that of `resample`."""
    stream, piece, n_in, n_out = None, np.zeros((1, 0), np.float32), 0, 0
    for piece in pieces:
        resampled_length(n_in, from_rate, to_rate)  # checks the rates
        if stream is None:
            stream = soxr.ResampleStream(from_rate, to_rate, len(piece), dtype=str(piece.dtype), quality="HQ")
        out = stream.resample_chunk(np.ascontiguousarray(piece.T)).T
        n_in, n_out = n_in + piece.shape[1], n_out + out.shape[1]
        yield out
    if stream is not None:
        out = stream.resample_chunk(np.zeros((0, len(piece)), piece.dtype), last=True).T
        # The resampler has its own rounding of lengths, and returns nothing for a single sample.
        length = max(0, resampled_length(n_in, from_rate, to_rate) - n_out)
        yield np.concatenate([out, piece[:, -1:].repeat(length, axis=1)], axis=1)[:, :length]
