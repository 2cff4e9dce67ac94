"""Calibration of the uncertainty of masks: temper an overconfident posterior, and measure how well uncertainty predicts error.

The model's own posterior of a bin's share is too narrow: magnitudes do not add up, mean field ignores dependence between
blocks, and templates are not speech. On recordings (the tables of ``bayessep reproduce``) the log-odds of the
true share lie around *half* of those of the mask, about normally distributed, with a standard deviation that hardly depends on
how sure the mask is. Uncertainty is therefore read from this distribution: log-odds divided by a temperature, with a spread around
them. The mask itself is not changed: the standard deviation is around the mean of that distribution, which is nearer to even
shares. The defaults of both were chosen on six mixtures, at 0 and 15 dB, none of which is in those tables.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float
from scipy import special

LEVELS = (0.5, 0.8, 0.95)
_EDGE = 1e-6  # shares are clipped this far from 0 and 1, to keep their log-odds finite


class Tempering(NamedTuple):
    """Distribution of the log-odds of true shares: normal around those of the mask, divided by `temperature`."""

    temperature: float
    spread: float


def tempered_std(mask: Float[np.ndarray, "*s"], tempering: Tempering) -> Float[np.ndarray, "*s"]:
    """Return the standard deviation of the share in each bin under the tempered distribution."""
    return np.asarray(_std(jnp.asarray(mask, jnp.float32), *map(jnp.float32, tempering)), mask.dtype)


@jax.jit
def _std(mask: Float[Array, "*s"], temperature: Float[Array, ""], spread: Float[Array, ""]) -> Float[Array, "*s"]:
    """Compute it by Gauss-Hermite quadrature for the smaller of the share and its complement, which have equal deviations."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    small = jnp.clip(jnp.minimum(mask, 1 - mask), _EDGE, 0.5)
    centre = jnp.log(small / (1 - small)) / temperature
    shares = [(w, jax.nn.sigmoid(centre + spread * node)) for node, w in zip(nodes, weights / weights.sum(), strict=True)]
    mean = sum(w * share for w, share in shares)
    return jnp.sqrt(sum(w * (share - mean) ** 2 for w, share in shares))


def interval(
    mask: Float[np.ndarray, "*s"], std: Float[np.ndarray, "*s"], level: float, tempering: Tempering | None
) -> tuple[Float[np.ndarray, "*s"], Float[np.ndarray, "*s"]]:
    """Return the central interval (low, high) of each bin's share with probability `level`.

    Without `tempering` it is that of the Beta distribution with the given mean and standard deviation. An end within 0.01 of 0 or 1
    is moved there: a silent source has a share of exactly 0, which finite log-odds cannot reach.
    """
    tails = (0.5 - level / 2, 0.5 + level / 2)
    if tempering is not None:
        centre = _log_odds(mask) / tempering.temperature
        low, high = (special.expit(centre + tempering.spread * special.ndtri(tail)) for tail in tails)
        return _to_the_end(low, high)
    mean = np.clip(mask, 1e-4, 1 - 1e-4).astype(np.float64)
    most = mean * (1 - mean)
    counts = most / np.clip(std.astype(np.float64) ** 2, 1e-9, 0.999 * most) - 1
    # Round to twelve digits: otherwise rounding could put the end of an inner interval at 0 slightly outside the outer one.
    low, high = (special.betaincinv(mean * counts, (1 - mean) * counts, tail).round(12) for tail in tails)
    return _to_the_end(low, high)


def _to_the_end(low: np.ndarray, high: np.ndarray, near: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    return np.where(low < near, 0.0, low), np.where(high > 1 - near, 1.0, high)


def _log_odds(mask: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(mask.astype(np.float64), _EDGE, 1 - _EDGE))


def rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Return Spearman's rank correlation."""
    return float(np.corrcoef(scipy.stats.rankdata(x), scipy.stats.rankdata(y))[0, 1])


class Calibration(NamedTuple):
    """Agreement of uncertainty and error."""

    rank_correlation: float  # Spearman's, of the posterior standard deviation and the true error, over bins
    coverage: tuple[float, ...]  # of the central intervals at `LEVELS`: fraction of bins whose true share lies inside


def calibrate(
    mask: Float[np.ndarray, "T F"],
    std: Float[np.ndarray, "T F"],
    speech: Float[np.ndarray, "T F"],
    music: Float[np.ndarray, "T F"],
    tempering: Tempering | None,
) -> Calibration:
    """Compare a mask and its uncertainty with the true shares.

    The true share is that of the speech in the sum of both magnitudes, as in the model. Inaudible bins, below a hundredth of the
    mean magnitude, are left out.
    """
    total = speech + music
    heard = total > 0.01 * total.mean()
    truth, mask, std = speech[heard] / total[heard], mask[heard], std[heard]
    coverage = []
    for level in LEVELS:
        low, high = interval(mask, std, level, tempering)
        coverage.append(float(((low <= truth) & (truth <= high)).mean()))
    return Calibration(rank_correlation(std, np.abs(truth - mask)), tuple(coverage))
