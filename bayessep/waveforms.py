"""Validation of waveforms: unsuitable arrays are rejected with a message that says what to pass instead."""

import numpy as np
from jaxtyping import ArrayLike

from bayessep.errors import UserError

MOST_CHANNELS = 64
"""Most channels of an array with fewer samples than channels, beyond which its axes are taken to be swapped."""


def check_mixture(samples: ArrayLike, name: str = "the mixture") -> None:
    """Raise a UserError unless these are channels of finite samples, (C, N)."""
    shape = np.shape(samples)
    if len(shape) != 2:
        raise UserError(f"a mixture has shape (channels, samples), not {shape}; for one channel, give mixture[None].")
    if not shape[0]:
        raise UserError(f"{name} has no channel: its shape (channels, samples) is {shape}.")
    if shape[0] > max(MOST_CHANNELS, shape[1]):
        raise UserError(f"a mixture has shape (channels, samples); {shape} would be {shape[0]} channels: give mixture.T.")
    _check_finite(samples, name)


def check_mono(samples: ArrayLike, name: str) -> None:
    """Raise a UserError unless these are finite samples of one channel, (N,)."""
    check_one_channel(samples, name)
    _check_finite(samples, name)


def check_one_channel(samples: ArrayLike, name: str) -> None:
    """Raise a UserError unless the samples have one channel, (N,), without checking their values."""
    if np.ndim(samples) != 1:
        raise UserError(f"{name} has shape (samples,), not {np.shape(samples)}; of (1, samples), give samples[0].")


def _check_finite(samples: ArrayLike, name: str) -> None:
    if not np.isfinite(samples).all():
        raise not_finite(name)


def not_finite(name: str) -> UserError:
    """Return the error for samples that are NaN or infinite."""
    return UserError(f"{name} holds a NaN or infinite sample; leave it out.")
