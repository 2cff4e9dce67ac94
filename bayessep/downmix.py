"""One channel of several: their mean, unless that is where they cancel each other."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

Samples = Float[np.ndarray, "channels N"]

_LEAST = 0.01  # of the energy of the channels that their mean must have; of unrelated ones it has 1 / channels


def standing_for_all(pieces: Iterable[Samples]) -> int | None:
    """Which channel stands for all of them: none, which means their mean, or the loudest where the mean cancels in every piece.

    One channel is the other upside down where a cable is wired the wrong way. The first piece in which their mean is heard
    decides; silence decides nothing.
    """
    energy = np.zeros(1)
    for piece in pieces:
        own = (piece.astype(np.float64) ** 2).sum(1)
        if len(own) == 1 or (piece.mean(0, dtype=np.float64) ** 2).sum() > _LEAST * own.mean():
            return None
        energy = energy + own
    return int(energy.argmax()) if energy.any() else None


def mixed_down(samples: Samples, channel: int | None) -> Float[np.ndarray, "1 N"]:
    """That channel, or the mean of all."""
    return samples.mean(axis=0, keepdims=True) if channel is None else samples[channel : channel + 1]
