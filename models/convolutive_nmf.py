"""NMF with templates of 20 frames: the baseline of paper 004, which factorises the same windows that its network sees.

Simpson, Roma, Plumbley, “Deep Karaoke” (2015), section II, after Grais and Erdogan (2011). Windows, flattened frame by frame into
rows of V, are factorised as V ≈ H W under the Kullback-Leibler divergence, once for each source, by the multiplicative updates of
Lee and Seung (2001). In a mixture the templates of both sources are fixed and only their activations are estimated; the share of
the first source is V₁ / (V₁ + V₂). The paper has 1500 templates per source and, in its code, 100 sweeps.

Here a window is a row, so W of the paper is the transpose of the templates here.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Key

from bayessep.errors import UserError
from bayessep.models.deep_karaoke import averaged
from bayessep.models.sizes import roomy

_FLOOR = 1e-20
"""Lower bound of denominators: far below any sound, yet large enough for its inverse to be representable in float32."""


class Factors(NamedTuple):
    """Factors of V ≈ H W: activations H and templates W."""

    activations: Float[Array, "n K"]
    templates: Float[Array, "K D"]


@jax.jit
def divergence(windows: Float[Array, "n D"], factors: Factors) -> Float[Array, ""]:
    """Return the Kullback-Leibler divergence, the sum of v log(v / v') - v + v' over all cells, with v' from H W.

    It never increases in a `sweep`.
    """
    model = factors.activations @ factors.templates
    return (xlogy(windows, windows / jnp.maximum(model, _FLOOR)) - windows + model).sum()


def _uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Uniform numbers in (0, 1]: above 0, since a multiplicative update never leaves zero."""
    return 1 - jax.random.uniform(key, shape, dtype)


@partial(jax.jit, static_argnames=("templates",))
def start(key: Key[Array, ""], windows: Float[Array, "n D"], templates: int) -> Factors:
    """Return random factors, uniform in (0, 1]."""
    one, two = jax.random.split(key)
    n, size = windows.shape
    return Factors(_uniform(one, (n, templates), windows.dtype), _uniform(two, (templates, size), windows.dtype))


def _missed(windows: Float[Array, "n D"], factors: Factors) -> Float[Array, "n D"]:
    """V / (H W): the factor by which the model falls short in each cell."""
    return windows / jnp.maximum(factors.activations @ factors.templates, _FLOOR)


def _or_one(sums: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Replace zero sums by 1: those of templates that have died, whose numerators are 0 as well."""
    return jnp.where(sums > 0, sums, 1)


def _activated(windows: Float[Array, "n D"], factors: Factors) -> Factors:
    """Update the activations once."""
    h, w = factors
    return Factors(h * (_missed(windows, factors) @ w.T) / _or_one(w.sum(1))[None], w)


@jax.jit
def sweep(windows: Float[Array, "n D"], factors: Factors) -> Factors:
    """Update activations and then templates once; normalise the templates to sum 1 and rescale the activations to compensate."""
    h, w = factors = _activated(windows, factors)
    w = w * (h.T @ _missed(windows, factors)) / _or_one(h.sum(0))[:, None]
    sums = w.sum(1)
    return Factors(h * sums[None], w / _or_one(sums)[:, None])


@partial(jax.jit, static_argnames=("templates", "sweeps"))
def _learned(key: Key[Array, ""], windows: Float[Array, "n D"], templates: int, sweeps: int) -> Factors:
    return lax.fori_loop(0, sweeps, lambda _, factors: sweep(windows, factors), start(key, windows, templates))


def _refuse(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} is {count}, but must be at least 1.")


ROOM = 1024
"""Number of windows from which a fit is not padded, as its sweeps then take long beside compiling."""


def fit(key: Key[Array, ""], windows: Float[Array | np.ndarray, "n D"], templates: int, sweeps: int = 100) -> Float[Array, "K D"]:
    """Learn templates of one source, each summing to 1, from magnitudes of its windows; silent windows are left out.

    Up to `ROOM` windows, silence behind them fills their number up to one of few for which programs are compiled. Its activations
    become zero before they are ever used, and the random start of the others does not depend on their number.

    Raises:
        UserError: `templates` or `sweeps` is below 1, or every window is silent.
    """
    _refuse(templates=templates, sweeps=sweeps)
    sounding = np.asarray(windows)
    sounding = sounding[sounding.any(axis=1)]
    if len(sounding) == 0:
        raise UserError("every window is silent; give some that contain the source.")
    if len(sounding) < ROOM:
        sounding = np.pad(sounding, ((0, roomy(len(sounding), 4) - len(sounding)), (0, 0)))
    return _learned(key, jnp.asarray(sounding), templates, sweeps).templates


@partial(jax.jit, static_argnames=("sweeps",))
def activations(
    key: Key[Array, ""], windows: Float[Array, "n D"], templates: Float[Array, "K D"], sweeps: int = 100
) -> Float[Array, "n K"]:
    """Estimate the activations of fixed templates in each window, from a uniform random start.

    The divergence is convex in the activations, so the start matters little. It is the same for all windows, so that the result
    for one window does not depend on the others.
    """
    begun = Factors(jnp.tile(_uniform(key, (1, len(templates)), windows.dtype), (len(windows), 1)), templates)
    return lax.fori_loop(0, sweeps, lambda _, factors: _activated(windows, factors), begun).activations


@partial(jax.jit, static_argnames=("sweeps",))
def shares(
    key: Key[Array, ""],
    windows: Float[Array, "n D"],
    first: Float[Array, "K D"],
    second: Float[Array, "J D"],
    sweeps: int = 100,
) -> Float[Array, "n D"]:
    """Return the first source's share of each cell, V₁ / (V₁ + V₂) with exponent 1; one half where both are zero."""
    h = activations(key, windows, jnp.concatenate([first, second]), sweeps)
    one, two = h[:, : len(first)] @ first, h[:, len(first) :] @ second
    return jnp.where(one + two > 0, one / _or_one(one + two), 0.5)


@partial(jax.jit, static_argnames=("free",))
def half_kept(windows: Float[Array, "n D"], factors: Factors, free: int) -> Factors:
    """Run a sweep that updates only the first `free` templates and keeps the others (Smaragdis, Raj, Shashanka, 2007)."""
    h, w = factors = _activated(windows, factors)
    found = w[:free] * (h[:, :free].T @ _missed(windows, factors)) / _or_one(h[:, :free].sum(0))[:, None]
    sums = found.sum(1)
    return Factors(h.at[:, :free].multiply(sums), w.at[:free].set(found / _or_one(sums)[:, None]))


@partial(jax.jit, static_argnames=("free", "sweeps"))
def free_shares(
    key: Key[Array, ""], windows: Float[Array, "n D"], kept: Float[Array, "K D"], free: int, sweeps: int = 100
) -> Float[Array, "n D"]:
    """Semi-supervised NMF: return an unknown source's share of each cell, beside a known source with fixed templates.

    Args:
        key: for the random start.
        windows: of the mixture; D is the number of bins if a window is a single frame.
        kept: templates of the known source.
        free: number of templates of the unknown source.
        sweeps: number of sweeps over activations and free templates.
    """
    one, two = jax.random.split(key)
    begun = Factors(
        _uniform(one, (len(windows), free + len(kept)), windows.dtype),
        jnp.concatenate([_uniform(two, (free, windows.shape[1]), windows.dtype) / windows.shape[1], kept]),
    )
    h, w = lax.fori_loop(0, sweeps, lambda _, factors: half_kept(windows, factors, free), begun)
    unknown, known = h[:, :free] @ w[:free], h[:, free:] @ w[free:]
    return jnp.where(unknown + known > 0, unknown / _or_one(unknown + known), 0.5)


def averaged_shares(
    key: Key[Array, ""],
    magnitude: Float[Array | np.ndarray, "T F"],
    first: Float[Array, "K D"],
    second: Float[Array, "J D"],
    sweeps: int = 100,
    averaging: str = "overlap",
    batch: int = 128,
    rescaled: bool = False,
) -> Float[np.ndarray, "T F"]:
    """Return the first source's mean share in each cell of a mixture, averaged over windows with a hop of one frame.

    The windows are averaged by `deep_karaoke.averaged`, as those of the network are; `deep_karaoke.thresholded` turns the result
    into masks. The scale of the magnitudes does not matter. A window has D / F frames.

    Raises:
        UserError: as `deep_karaoke.averaged`; or sweeps are below 1, or the templates do not fit windows of F bins.
    """
    _refuse(sweeps=sweeps)
    bins, size = magnitude.shape[1], first.shape[1]
    if bins < 1 or size % bins or second.shape[1] != size:
        raise UserError(f"templates of {size} and {second.shape[1]} numbers are not of the same windows of {bins} bins.")

    def said(windows: Float[Array, "B L F"]) -> Float[Array, "B L F"]:
        return shares(key, windows.reshape(len(windows), -1), first, second, sweeps).reshape(windows.shape)

    return averaged(said, magnitude, size // bins, averaging, batch, rescaled)
