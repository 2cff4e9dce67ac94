"""Templates of 20 frames: what paper 004 compares its network with, non-negative factors of the same windows.

Simpson, Roma, Plumbley, “Deep Karaoke” (2015), section II, after Grais and Erdogan (2011). Windows, unpacked frame by frame into
rows of V, are factored as V ≈ H W under the Kullback-Leibler divergence, once for each source, by the multiplicative updates of
Lee and Seung (2001). In a mixture both sources' templates are kept and only their activations are found; the share of the first
is V₁ / (V₁ + V₂). The paper has 1500 templates for each source and, in its code, 100 sweeps.

Here a window is a row, so that W of the paper is our templates transposed.
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

_FLOOR = 1e-20
"""Under quotients: far below any sound, and far enough above 0 for its inverse to be a float32."""


class Factors(NamedTuple):
    """H and W of V ≈ H W."""

    activations: Float[Array, "n K"]
    templates: Float[Array, "K D"]


@jax.jit
def divergence(windows: Float[Array, "n D"], factors: Factors) -> Float[Array, ""]:
    """Sum over all cells of v log(v / v') - v + v', v' being those of H W. It never rises in a `sweep`."""
    model = factors.activations @ factors.templates
    return (xlogy(windows, windows / jnp.maximum(model, _FLOOR)) - windows + model).sum()


def _uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Above 0, where a multiplicative update would stay for ever."""
    return 1 - jax.random.uniform(key, shape, dtype)


@partial(jax.jit, static_argnames=("templates",))
def start(key: Key[Array, ""], windows: Float[Array, "n D"], templates: int) -> Factors:
    """Uniform in (0, 1]."""
    one, two = jax.random.split(key)
    n, size = windows.shape
    return Factors(_uniform(one, (n, templates), windows.dtype), _uniform(two, (templates, size), windows.dtype))


def _missed(windows: Float[Array, "n D"], factors: Factors) -> Float[Array, "n D"]:
    """V / (H W): by how much each cell ought to be louder."""
    return windows / jnp.maximum(factors.activations @ factors.templates, _FLOOR)


def _or_one(sums: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Those of templates that have died are 0, and so is what they would divide."""
    return jnp.where(sums > 0, sums, 1)


def _activated(windows: Float[Array, "n D"], factors: Factors) -> Factors:
    """The update of the activations."""
    h, w = factors
    return Factors(h * (_missed(windows, factors) @ w.T) / _or_one(w.sum(1))[None], w)


@jax.jit
def sweep(windows: Float[Array, "n D"], factors: Factors) -> Factors:
    """One update of the activations, one of the templates; templates that sum to 1, and activations that make up for it."""
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


def fit(key: Key[Array, ""], windows: Float[Array | np.ndarray, "n D"], templates: int, sweeps: int = 100) -> Float[Array, "K D"]:
    """Templates of one source from magnitudes of its own windows, each summing to 1; silent windows are left out.

    Raises:
        UserError: a number is below 1, or every window is silent.
    """
    _refuse(templates=templates, sweeps=sweeps)
    sounding = np.asarray(windows)
    sounding = sounding[sounding.any(axis=1)]
    if len(sounding) == 0:
        raise UserError("every window is silent; give some in which the source is heard.")
    return _learned(key, jnp.asarray(sounding), templates, sweeps).templates


@partial(jax.jit, static_argnames=("sweeps",))
def activations(
    key: Key[Array, ""], windows: Float[Array, "n D"], templates: Float[Array, "K D"], sweeps: int = 100
) -> Float[Array, "n K"]:
    """How much of each template is in each window, the templates being kept; from a uniform random start.

    The divergence is convex in them, so the start matters little. It is the same for all windows, so that what is found in one
    does not depend on those beside it.
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
    """The first source's part of each cell, V₁ / (V₁ + V₂) with exponent 1; half where neither has any."""
    h = activations(key, windows, jnp.concatenate([first, second]), sweeps)
    one, two = h[:, : len(first)] @ first, h[:, len(first) :] @ second
    return jnp.where(one + two > 0, one / _or_one(one + two), 0.5)


@partial(jax.jit, static_argnames=("free",))
def half_kept(windows: Float[Array, "n D"], factors: Factors, free: int) -> Factors:
    """A sweep in which the first so many templates are updated, and the others kept (Smaragdis, Raj, Shashanka, 2007)."""
    h, w = factors = _activated(windows, factors)
    found = w[:free] * (h[:, :free].T @ _missed(windows, factors)) / _or_one(h[:, :free].sum(0))[:, None]
    sums = found.sum(1)
    return Factors(h.at[:, :free].multiply(sums), w.at[:free].set(found / _or_one(sums)[:, None]))


@partial(jax.jit, static_argnames=("free", "sweeps"))
def free_shares(
    key: Key[Array, ""], windows: Float[Array, "n D"], kept: Float[Array, "K D"], free: int, sweeps: int = 100
) -> Float[Array, "n D"]:
    """Semi-supervised: the part of each cell that is of a source of which nothing is known, beside one whose templates are kept.

    Args:
        key: of the random start.
        windows: of the mixture; D is the bins of a frame where a window is a frame.
        kept: templates of the known source.
        free: how many templates the other source is given.
        sweeps: over both.
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
    """The mean share of the first source in each cell of a mixture, over windows that move on by one frame.

    What `deep_karaoke.averaged` does with the network's windows, it does with these; `deep_karaoke.thresholded` makes masks of
    the result. The scale of the magnitudes does not matter. A window has D / F frames.

    Raises:
        UserError: as `deep_karaoke.averaged`, or sweeps are below 1, or the templates are not of windows with so many bins.
    """
    _refuse(sweeps=sweeps)
    bins, size = magnitude.shape[1], first.shape[1]
    if bins < 1 or size % bins or second.shape[1] != size:
        raise UserError(f"templates of {size} and {second.shape[1]} numbers are not of the same windows of {bins} bins.")

    def said(windows: Float[Array, "B L F"]) -> Float[Array, "B L F"]:
        return shares(key, windows.reshape(len(windows), -1), first, second, sweeps).reshape(windows.shape)

    return averaged(said, magnitude, size // bins, averaging, batch, rescaled)
