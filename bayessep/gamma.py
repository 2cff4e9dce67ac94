"""The Gamma distribution for conjugate inference: moments, divergences, draws, updates and fits.

Everywhere in this project a Gamma distribution is given by **shape and scale** (mean = shape * scale), as in equation 15 of
paper 000. Expected Poisson log likelihoods involve the log of its geometric mean, E[log x] = psi(shape) + log(scale), so
`geometric_mean` and `log_mean` are as important here as `mean`.

In float32, psi and log Gamma come from short series with a recurrence, several times cheaper than the general special
functions and accurate to a few units in the last place; in float64, the reference, the special functions themselves are used.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma as _digamma
from jax.scipy.special import gammaln as _gammaln
from jaxtyping import Array, Float, PRNGKeyArray

Reading = Literal["fixed", "mean", "mode", "log_mode", "sample"]
"""How an algorithm reads the Gamma conditional of a block (`read`)."""


class Gamma(NamedTuple):
    """Independent Gamma distributions, one for each cell; `shape` and `scale` may broadcast against each other."""

    shape: Float[Array, "..."]
    scale: Float[Array, "..."]


class Moments(NamedTuple):
    """Moments of a positive quantity that enter a Poisson likelihood: its arithmetic mean and its geometric mean.

    For a point estimate or a sample both are the point itself.
    """

    mean: Float[Array, "..."]
    geometric: Float[Array, "..."]


def point(value: Float[Array, "..."]) -> Moments:
    """Moments of a quantity that is known exactly."""
    return Moments(value, value)


# --- special functions ---------------------------------------------------------------------------------------------------

_SHIFT = 4  # the recurrence shifts every argument by this much before the asymptotic series is used


def _shifted(a):
    """Return (a + 4, sum of 1/(a+k), product of (a+k)) for k = 0..3, with one division."""
    ends = a * (a + 3)
    middle = ends + 2  # (a + 1)(a + 2)
    product = ends * middle
    reciprocals = (2 * a + 3) * (ends + middle) / product
    return a + _SHIFT, reciprocals, product


def _exp_digamma_series(z):
    """exp(psi(z)) for z >= 4: the asymptotic series of exp(psi(y + 1/2)) in 1/y."""
    y = z - 0.5
    r = 1 / (y * y)
    return y + (1 / 24 - r * (37 / 5760 - r * (10313 / 2903040 - r * (5509121 / 1393459200)))) / y


def _digamma_tail(z):
    """log(z) - psi(z) for z >= 4."""
    inverse = 1 / z
    r = inverse * inverse
    return 0.5 * inverse + r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240))))


def digamma(a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """psi(a) for a > 0: relative error below 2e-6 in float32 away from its zero at 1.4616, exact function in float64."""
    if a.dtype == jnp.float64:
        return _digamma(a)
    z, reciprocals, _ = _shifted(a)
    return jnp.log(z) - _digamma_tail(z) - reciprocals


def log_minus_digamma(a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log(a) - psi(a) for a > 0, precise even where the two are large and nearly equal."""
    if a.dtype == jnp.float64:
        return jnp.log(a) - _digamma(a)
    z, reciprocals, _ = _shifted(a)
    return _digamma_tail(z) + reciprocals - jnp.log1p(_SHIFT / a)


def exp_digamma(a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """exp(psi(a)) for a > 0, the geometric mean of Gamma(a, 1); underflows to 0 below a of about 0.01 in float32."""
    if a.dtype == jnp.float64:
        return jnp.exp(_digamma(a))
    z, reciprocals, _ = _shifted(a)
    return _exp_digamma_series(z) * jnp.exp(-reciprocals)


def log_gamma(a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log Gamma(a) for a > 0, by Stirling's series after the recurrence in float32."""
    if a.dtype == jnp.float64:
        return _gammaln(a)
    z, _, product = _shifted(a)
    return (z - 0.5) * jnp.log(z) - z + _HALF_LOG_2_PI + _stirling_series(z) - jnp.log(product)


_HALF_LOG_2_PI = 0.9189385332046727


def _stirling_series(z):
    """log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2 for z >= 4."""
    inverse = 1 / z
    r = inverse * inverse
    return (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r * (1 / 1680)))) * inverse


def _beside_stirling(a):
    """log Gamma(a) - (a - 1/2) log a + a - log(2 pi) / 2 for every a > 0: the remainder of Stirling's formula."""
    plain = log_gamma(a) - ((a - 0.5) * jnp.log(a) - a + _HALF_LOG_2_PI)
    if a.dtype == jnp.float64:
        return plain
    return jnp.where(a < _SHIFT, plain, _stirling_series(jnp.maximum(a, _SHIFT)))


# --- the distribution ----------------------------------------------------------------------------------------------------


def mean(q: Gamma) -> Float[Array, "..."]:
    """E[x]."""
    return q.shape * q.scale


def variance(q: Gamma) -> Float[Array, "..."]:
    """Var[x]."""
    return q.shape * q.scale**2


def geometric_mean(q: Gamma) -> Float[Array, "..."]:
    """exp(E[log x]) (paper 000, equations 16 and 17)."""
    return exp_digamma(q.shape) * q.scale


def log_mean(q: Gamma) -> Float[Array, "..."]:
    """E[log x]; finite where `geometric_mean` has underflowed."""
    return digamma(q.shape) + jnp.log(q.scale)


def mode(q: Gamma) -> Float[Array, "..."]:
    """The most probable value, (shape - 1) * scale; 0 where the shape is below 1, as the density has its pole there."""
    return jnp.maximum(q.shape - 1, 0) * q.scale


def log_prob(q: Gamma, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log density at x > 0."""
    return (q.shape - 1) * jnp.log(x) - x / q.scale - log_gamma(q.shape) - q.shape * jnp.log(q.scale)


def kl(q: Gamma, p: Gamma) -> Float[Array, "..."]:
    """KL(q || p), cell by cell.

    It is computed from the ratio of the means and the remainders of log Gamma and psi after Stirling's formula. Unlike the terms of
    the textbook formula these do not grow with the shapes, which in float32 would cancel out a small divergence of large shapes.
    A flat p (infinite scale) has no density to compare with; see `flat`.
    """
    ratio = q.shape / p.shape * (q.scale / p.scale)
    return (
        p.shape * (ratio - 1 - jnp.log(ratio))
        - (q.shape - p.shape) * log_minus_digamma(q.shape)
        + 0.5 * jnp.log(q.shape / p.shape)
        + _beside_stirling(p.shape)
        - _beside_stirling(q.shape)
    )


def entropy(q: Gamma) -> Float[Array, "..."]:
    """Differential entropy, cell by cell."""
    return q.shape + jnp.log(q.scale) + log_gamma(q.shape) + (1 - q.shape) * digamma(q.shape)


def sample(key: PRNGKeyArray, q: Gamma) -> Float[Array, "..."]:
    """Draw one value per cell, via its logarithm; below shape 0.1 some draws underflow to 0 in float32."""
    shape, scale = jnp.broadcast_arrays(q.shape, q.scale)
    return jnp.exp(draw_unit(key, shape)) * scale


_BOOST = 4  # added to the shape of draws, so that proposals are nearly always accepted
_PROPOSALS = 3  # all of them are rejected once in ten million draws; the last one is then taken


@jax.custom_jvp
def _draw_large(shape: Float[Array, "*s"], uniform: Float[Array, "6 *s"]) -> Float[Array, "*s"]:
    """Draw the logarithm of a Gamma(shape, 1) variate for shapes of at least 4: cubes of normals (Marsaglia and Tsang 2000).

    Its derivative holds the accepted normal fixed. Ignoring the acceptance step makes it inexact: by 0.5 % at shape 4, falling as
    shape^-2.
    """
    normal = jnp.sqrt(jnp.asarray(2, shape.dtype)) * jax.lax.erf_inv(2 * uniform[:_PROPOSALS] - 1)
    d = (shape - 1 / 3)[None]
    root = jnp.maximum(1 + normal * jax.lax.rsqrt(9 * d), 1e-3)
    log_cube = 3 * jnp.log(root)
    accepted = jnp.log(uniform[_PROPOSALS:]) < 0.5 * normal**2 + d * (1 - root**3 + log_cube)
    first = jnp.argmax(accepted.at[-1].set(True), axis=0, keepdims=True)
    return jnp.log(d[0]) + jnp.take_along_axis(log_cube, first, 0)[0]


@_draw_large.defjvp
def _draw_large_jvp(primals, tangents):
    log_draw = _draw_large(*primals)
    d = primals[0] - 1 / 3
    return log_draw, (1.5 * jnp.exp((jnp.log(d) - log_draw) / 3) - 0.5) / d * tangents[0]


def draw_unit(key: PRNGKeyArray, shape: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Draw the logarithm of a Gamma(shape, 1) variate, differentiable in the shape.

    A draw at a larger shape is shrunk by powers of uniforms (X_a = X_{a+1} U^{1/a}, four times over). These contribute nearly all
    of the derivative, and exactly, so that in expectation it is off by less than 0.1 % at any shape.
    """
    # One call for all random numbers: compiling the generator costs a second each time.
    uniform = jax.random.uniform(key, (2 * _PROPOSALS + _BOOST, *shape.shape), shape.dtype, minval=1e-7)
    log_shrink = jnp.log(uniform[2 * _PROPOSALS :])
    log_draw = _draw_large(shape + _BOOST, uniform[: 2 * _PROPOSALS])
    return log_draw + sum(log_shrink[i] / (shape + i) for i in range(_BOOST))


def sample_share(key: PRNGKeyArray, a: Float[Array, "*s"], b: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Draw from Beta(a, b): the share of the first in the sum of two Gamma draws, of shapes a and b."""
    first, second = draw_unit(key, jnp.stack([a, b]))
    return jax.nn.sigmoid(first - second)


def around(mean: Float[Array, "*s"], shape: float | int) -> Gamma:
    """Gamma distributions with the given means and one common shape: the larger, the more concentrated around the mean."""
    return Gamma(jnp.full_like(mean, shape), mean / shape)


def flat(like: Float[Array, "*s"]) -> Gamma:
    """The flat density on x > 0 (shape 1, infinite scale): with it, a mode is a maximum-likelihood estimate."""
    return Gamma(jnp.ones_like(like), jnp.full_like(like, jnp.inf))


def multiply(prior: Gamma, counts: Float[Array, "..."], exposure: Float[Array, "..."]) -> Gamma:
    """Posterior after Poisson counts whose rate is the unknown times `exposure` (paper 000, equations 14 and 15).

    `exposure` must be positive where the prior is flat.
    """
    shape = prior.shape + counts
    return Gamma(shape, jnp.broadcast_to(1 / (1 / prior.scale + exposure), shape.shape))


def read(q: Gamma, reading: Reading, key: PRNGKeyArray | None = None) -> Moments:
    """Read a Gamma conditional as moments; the reading distinguishes variational Bayes, ICM and Gibbs sampling.

    - ``"mean"``: arithmetic and geometric mean (variational Bayes);
    - ``"mode"``: the mode (ICM, MAP), at least the smallest normal number so that zero is not an absorbing state;
    - ``"log_mode"``: the mode of log x, shape * scale, which exists for every shape and keeps MAP monotone below shape 1;
    - ``"sample"``: a draw (Gibbs).
    """
    match reading:
        case "mean":
            return Moments(mean(q), geometric_mean(q))
        case "mode":
            return point(jnp.maximum(mode(q), jnp.finfo(q.shape.dtype).tiny))
        case "log_mode":
            return point(mean(q))
        case "sample":
            if key is None:
                raise ValueError("reading a Gamma as a sample needs a key")
            return point(sample(key, q))
        case _:
            raise ValueError(f"a Gamma conditional cannot be read as {reading!r}")


def log_prior(prior: Gamma, posterior: Gamma, moments: Moments, reading: Reading) -> Float[Array, "..."]:
    """Return a block's prior term in the objective of its reading, cell by cell.

    It is minus the KL divergence for a mean; for a mode, the log density of the point (of log x for a log-mode), up to the
    infinite constant of a flat prior.
    """
    if reading == "mean":
        return -kl(posterior, prior)
    x, power = moments.mean, prior.shape - (0 if reading == "log_mode" else 1)
    constant = log_gamma(prior.shape) + prior.shape * jnp.log(prior.scale)
    proper = jnp.isfinite(prior.scale)
    log_x = jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
    return power * log_x - jnp.where(proper, x / prior.scale + jnp.where(proper, constant, 0), 0)


# --- learning shapes and scales ------------------------------------------------------------------------------------------


def _solve_shape(c: Float[Array, "*s"], steps: int = 6) -> Float[Array, "*s"]:
    """Solve log a - psi(a) = c for a > 0 by Newton's method in log a, where the left side is nearly linear in 1/a.

    At smaller c the shape is bounded, where the left side and its slope are still more than rounding: about 1 / (2 c).
    """
    c = jnp.maximum(c, 1e-6 if c.dtype == jnp.float64 else 1e-5)
    # Minka's start, within 1.5 % of the root everywhere.
    start = (3 - c + jnp.sqrt((c - 3) ** 2 + 24 * c)) / (12 * c)

    def newton(_, a):
        value, slope = jax.jvp(log_minus_digamma, (a,), (a,))  # the slope in log a
        return a * jnp.exp((c - value) / slope)

    return jax.lax.fori_loop(0, steps, newton, start)


def fit(mean_x: Float[Array, "*s"], mean_log_x: Float[Array, "*s"]) -> Gamma:
    """Return the Gamma with this mean and log-mean: maximum likelihood from (expected) sufficient statistics."""
    shape = _solve_shape(jnp.log(mean_x) - mean_log_x)
    return Gamma(shape, mean_x / shape)


def fit_shape(
    prior_mean: Float[Array, "*s"], mean_ratio: Float[Array, "*s"], mean_log_ratio: Float[Array, "*s"]
) -> Gamma:
    """Fit the shape with the mean held fixed; ratios are x / prior_mean (Cemgil 2009, the mean form, one shape tied over cells)."""
    shape = _solve_shape(mean_ratio - mean_log_ratio - 1)
    return Gamma(shape, prior_mean / shape)
