"""Find out how music repeats when only a part of it is known: where it starts over, and what a missing part sounds like.

The known frames are slid along the mixture; the correlation peaks wherever they are played, so its period is the period of
the music. The rest of the period is then estimated, bin by bin, by the median over the repeats (as REPET does), which
speech over any single repeat does not reach. These are starting values: the model learns the entries themselves.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.signal import correlate


class Repetition(NamedTuple):
    """A period in frames, and the frames of it that were not known, in playing order after the known ones."""

    period: int
    first: int  # frame of the mixture in which the known part first starts (may be negative)
    missing: Float[np.ndarray, "L F"]
    score: float  # correlation of the known part with itself one period later, 0 to 1


def similarity(mixture: Float[np.ndarray, "T F"], known: Float[np.ndarray, "K F"]) -> Float[np.ndarray, " n"]:
    """Normalised correlation of the known frames with the mixture, for each frame they may start in.

    Square roots of magnitudes, less their mean over time, so that neither loud frames nor a steady hum decide.
    """
    a, b = np.sqrt(mixture), np.sqrt(known)
    a, b = a - a.mean(0), b - b.mean(0)
    products = correlate(a, b, mode="valid", method="fft")[:, 0]
    energy = np.convolve((a**2).sum(1), np.ones(len(b)), mode="valid")
    return products / np.maximum(np.sqrt(energy * (b**2).sum()), 1e-12)


def find(
    mixture: Float[np.ndarray, "T F"], known: Float[np.ndarray, "K F"], *, threshold: float = 0.35
) -> Repetition | None:
    """The period of the known music in the mixture, or None where it is not met at least twice.

    `threshold` is the least autocorrelation of `similarity` at the period, relative to its variance.
    """
    n_known = len(known)
    if n_known < 4 or len(mixture) < 2 * n_known + 4:
        return None
    score = similarity(mixture, known)
    centred = score - score.mean()
    longest = len(centred) // 2  # at least two periods to compare
    if longest <= n_known:
        return None
    raw = correlate(centred, centred, mode="full", method="fft")[len(centred) - 1 :]
    # Dividing by the number of pairs keeps long periods comparable; 5 frames of grace on that number keep chance peaks down.
    strength = raw / (np.arange(len(centred), 0, -1) + 5) / max(centred.var(), 1e-12)
    # Multiples of the period correlate as well as the period does: take the first lag that comes near the best.
    lags = strength[n_known : longest + 1]
    near = np.flatnonzero(lags >= 0.85 * lags.max())
    first = near[: np.argmax(np.diff(near, append=near[-1] + 2) > 1) + 1]  # the lags of the first peak
    period = n_known + int(first[np.argmax(lags[first])])
    if strength[period] < threshold:
        return None
    phase = int(np.argmax([score[p::period].mean() for p in range(period)])) if period <= len(score) else 0
    missing = [
        np.median(mixture[np.arange((phase + k) % period, len(mixture), period)], axis=0)
        for k in range(n_known, period)
    ]
    rows = np.stack(missing) if missing else np.zeros((0, mixture.shape[1]), mixture.dtype)
    return Repetition(period, phase, rows.astype(mixture.dtype), float(strength[period]))
