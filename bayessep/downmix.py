"""One channel of several: their mean, unless that is where they cancel each other."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

Samples = Float[np.ndarray, "channels N"]

_LEAST = 0.01  # of the energy of the channels that their mean must have; of unrelated ones it has 1 / channels
_LOUD = 1e-4  # mean square of a mean that is no hiss: 40 dB below full scale


def standing_for_all(pieces: Iterable[Samples]) -> int | None:
    """Which channel stands for all of them: none, which means their mean, or the loudest where the mean cancels.

    One channel is the other upside down where a cable is wired the wrong way. What decides is the energy of all pieces, so that
    hiss before the sound does not, unless the mean of a piece is loud: then no more are looked at. Silence decides nothing.
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
    """All channels as one: their mean, or where it cancels the loudest."""
    return mixed_down(samples, standing_for_all([samples]))[0]


def mixed_down(samples: Samples, channel: int | None) -> Float[np.ndarray, "1 N"]:
    """That channel, or the mean of all."""
    return samples.mean(axis=0, keepdims=True) if channel is None else samples[channel : channel + 1]
