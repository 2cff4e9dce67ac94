"""Downmix to one channel: the mean, unless the channels cancel each other."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

Samples = Float[np.ndarray, "channels N"]

_LEAST = 0.01  # least energy of the mean, as a share of the channels' mean energy; 1 / channels if they are uncorrelated
_LOUD = 1e-4  # mean square above which the mean is not just hiss: 40 dB below full scale


def standing_for_all(pieces: Iterable[Samples]) -> int | None:
    """Choose the channel to use for a downmix: None for the mean of all, or the loudest channel if they cancel.

    A miswired cable inverts the polarity of one channel. The energy of all pieces decides, so that hiss before the sound does not;
    but as soon as the mean of a piece is loud, the rest is not read. For silence the result is None.
    """
    energy, of_mean = np.zeros(1), 0.0
    for piece in pieces:
        own = (piece.astype(np.float64) ** 2).sum(1)
        heard = float((piece.mean(0, dtype=np.float64) ** 2).sum())
        if len(own) == 1 or heard > max(_LEAST * own.mean(), _LOUD * piece.shape[1]):
            return None
        energy, of_mean = energy + own, of_mean + heard
    return int(energy.argmax()) if of_mean <= _LEAST * energy.mean() and energy.any() else None


def to_mono(samples: Samples) -> Float[np.ndarray, " N"]:
    """Mix all channels down to one: their mean, or the loudest where they cancel."""
    return mixed_down(samples, standing_for_all([samples]))[0]


def mixed_down(samples: Samples, channel: int | None) -> Float[np.ndarray, "1 N"]:
    """Return the given channel, or the mean of all if it is None."""
    return samples.mean(axis=0, keepdims=True) if channel is None else samples[channel : channel + 1]
