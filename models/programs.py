"""The jingle mixture as NumPyro programs, for gradient-based inference (SVI, NUTS).

Models, symbols and problems are those of `jingle_mixture`. Latent sources are summed out of the Poisson likelihood, the
catalogue index r by the sum over entries or the forward algorithm of `frame_prior`, so that all remaining unknowns are
positive and continuous. Sites are named as the fields of `Blocks`:

| site | shape | |
|---|---|---|
| `templates` | B F | |
| `excitations` | T B | in a plate over frames, scaled by their weights |
| `filter` | F | a `numpyro.param` where its prior is flat |
| `gain` | T | as the filter; a random gain is scaled as the excitations |
| `catalogue` | L F | only the L latent entries, in order |

x is real, so the Poisson likelihood is formal and enters through `numpyro.factor`.

**The gradient comes from the local step.** The derivative of a log likelihood with latent variables summed out is the
expected derivative of the complete-data log likelihood (Fisher's identity): in the conjugate algebra, expected counts / value -
exposure for every cell. `log_likelihood` passes this to jax as a custom derivative. A gradient then costs one local step, the same
two passes over the catalogue as a step of CAVI, and stores no (T, J, F) array.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints

from bayessep import gamma
from bayessep.gamma import Gamma
from bayessep.models import conditionals, frame_prior
from bayessep.models.jingle_mixture import Blocks, JingleMixture, build, read

_LIKELIHOOD_ONLY = Blocks(*("fixed" for _ in Blocks._fields))
_PER_FRAME = ("excitations", "gain")


class Choices(NamedTuple):
    """Static choices of a program, needed before any array is traced; `choose` derives them from a problem."""

    n_bases: int
    parameters: tuple[str, ...] = ("filter", "gain")  # maximum-likelihood points instead of random variables
    latent: tuple[int, ...] = ()  # rows of the catalogue that are learned


def choose(problem: JingleMixture, *, n_bases: int) -> Choices:
    """Derive the static choices: filter and gain with flat priors become parameters, latent entries are those in `problem.latent`.

    The problem's arrays must be concrete: call this outside jit.
    """
    prior = problem.hyper.prior
    flat = tuple(name for name in ("filter", "gain") if np.any(np.isinf(getattr(prior, name).scale)))
    return Choices(n_bases, flat, tuple(np.flatnonzero(np.asarray(problem.latent)).tolist()))


# --- the likelihood -------------------------------------------------------------------------------


@jax.custom_jvp
def log_likelihood(
    problem: JingleMixture, values: Blocks, candidates: Int[Array, "T K"] | None = None
) -> Float[Array, ""]:
    """Return log p(x | values), sources and r summed out, each frame counted `problem.frames.weight` times.

    `values` are points, the catalogue with all its rows. Terms in x alone are included, as in `conditionals.objective`.
    Differentiable only in `values` (of the catalogue, only in its latent entries), to any order. For a chain with weights other
    than one, the gradient is the weighted sum of the frames' own gradients, which is also what CAVI follows.
    """
    return _evaluate(problem, values, candidates)[0]


@log_likelihood.defjvp
def _log_likelihood_jvp(primals, tangents):
    problem, values, candidates = primals
    value, slopes = _evaluate(problem, values, candidates)
    change = jnp.zeros_like(value)
    for slope, tangent in zip(slopes, tangents[1], strict=True):
        change = change + (slope * tangent).sum()
    return value, change


@partial(jax.jit, inline=True)
def _evaluate(problem: JingleMixture, values: Blocks, candidates) -> tuple[Float[Array, ""], Blocks]:
    """The log likelihood and its gradient, block by block; under jit, unused results are not computed.

    Jitted on its own so that it is traced only once: a guide runs the program to find its sites, and SVI runs it again.
    """
    problem = dataclasses.replace(problem, rule="exact")
    moments = Blocks(*(gamma.point(value) for value in values))
    step = conditionals.local(problem, problem.hyper, moments, candidates)
    value = conditionals.objective(problem, problem.hyper, problem.hyper.prior, moments, _LIKELIHOOD_ONLY, step)
    value = value - frame_prior.log_dirichlet(problem.hyper.frame_prior, problem.concentration)

    def slope(name):
        # With a prior of shape 0 and a tiny inverse scale, the conditional's shape is the counts and its inverse scale the
        # exposure. (With an inverse scale of 0, second derivatives would divide zero by zero where there is no exposure.)
        at = jnp.maximum(getattr(values, name), jnp.finfo(value.dtype).tiny)
        nothing = Gamma(jnp.zeros_like(at), jnp.full_like(at, 1e15))
        hyper = problem.hyper._replace(prior=problem.hyper.prior._replace(**{name: nothing}))
        bare = conditionals.conditional(problem, hyper, name, moments, step, candidates)
        return conditionals.cell_weights(problem, name) * (bare.shape / at - 1 / bare.scale)

    return value, Blocks(*(slope(name) for name in Blocks._fields))


# --- the programs ---------------------------------------------------------------------------------


def jingle_mixture(
    problem: JingleMixture,
    candidates: Int[Array, "T K"] | None = None,
    given: Mapping[str, Array] | None = None,
    *,
    choices: Choices,
) -> None:
    """NumPyro program of `problem`: the generative model of paper 000, equations 1 to 6, with sources and r summed out.

    `candidates` are the only catalogue entries that a frame may use (see `conditionals.choose_candidates`); `given` holds the
    values of blocks that are known, by site, and are then not inferred. Frame weights must be positive: the excitations of a frame
    of weight zero would not enter the objective. The log density equals `conditionals.objective` of points read as modes,
    constants included.
    """
    given = {} if given is None else given
    n_frames, n_bins = problem.frames.x.shape
    shapes = Blocks(
        templates=(choices.n_bases, n_bins),
        excitations=(n_frames, choices.n_bases),
        filter=(n_bins,),
        gain=(n_frames,),
        catalogue=(len(choices.latent), n_bins),
    )
    frames = numpyro.plate("frames", n_frames, dim=-1)

    def block(name: str) -> Array:
        shape = getattr(shapes, name)
        if name in given:
            return given[name]
        if name in choices.parameters:
            start = jnp.ones(shape, problem.frames.x.dtype)
            return cast(Array, numpyro.param(name, start, constraint=constraints.positive))
        prior = _prior(problem, name, shape, choices)
        density = dist.Gamma(prior.shape, 1 / prior.scale)
        if name not in _PER_FRAME:
            return cast(Array, numpyro.sample(name, density.to_event(len(shape))))
        with frames, numpyro.handlers.scale(scale=problem.frames.weight):
            return cast(Array, numpyro.sample(name, density.to_event(len(shape) - 1)))

    ones = jnp.ones((n_frames + n_bins,), problem.frames.x.dtype)
    values = Blocks(
        templates=block("templates"),
        excitations=block("excitations"),
        filter=block("filter") if problem.has_music else ones[:n_bins],
        gain=block("gain") if problem.has_music else ones[:n_frames],
        catalogue=_all_entries(problem, block("catalogue") if choices.latent else None, choices),
    )
    numpyro.factor("likelihood", log_likelihood(problem, values, candidates))


def nmf(
    x: Float[Array, "T F"],
    *,
    n_bases: int,
    templates: Gamma,
    excitations: Gamma,
    weight: Float[Array, " T"] | None = None,
    observed: Float[Array, "T F"] | None = None,
) -> None:
    """Gamma-Poisson NMF: the program of `jingle_mixture` without a catalogue; the priors broadcast to (B, F) and (T, B)."""
    flat = gamma.flat(jnp.ones(1, x.dtype))
    prior = Blocks(templates, excitations, flat, flat, Gamma(*(value[None] for value in flat)))
    jingle_mixture(build(x, prior=prior, weight=weight, observed=observed), choices=Choices(n_bases))


def _prior(problem: JingleMixture, name: str, shape: tuple[int, ...], choices: Choices) -> Gamma:
    """The prior of a site, broadcast from its tied shape to every cell."""
    prior = getattr(problem.hyper.prior, name)
    if name == "catalogue":
        prior = _latent_rows(problem, prior, choices)
    return Gamma(*(jnp.broadcast_to(value, shape) for value in prior))


def _latent_rows(problem: JingleMixture, q: Gamma, choices: Choices) -> Gamma:
    full = jnp.broadcast_shapes(*(value.shape for value in q), problem.catalogue.shape)
    return Gamma(*(jnp.broadcast_to(value, full)[np.array(choices.latent, int)] for value in q))


def _all_entries(problem: JingleMixture, latent: Float[Array, "L F"] | None, choices: Choices) -> Float[Array, "J F"]:
    """The whole catalogue, with the values `latent` in its latent rows."""
    if latent is None:
        return problem.catalogue
    return problem.catalogue.at[np.array(choices.latent, int)].set(latent)


# --- between blocks and sites ---------------------------------------------------------------------


def sites(
    problem: JingleMixture, posterior: Blocks, choices: Choices, moments: Blocks | None = None
) -> dict[str, Gamma | Array]:
    """Convert a posterior over blocks, as the other algorithms hold it, to one by site, as a start for a guide or a sampler.

    Random sites get their Gamma. Parameters get their point in `moments`, as an algorithm read it, or else the mean.
    """
    found = {"templates": posterior.templates, "excitations": posterior.excitations}
    if problem.has_music:
        found |= {"filter": posterior.filter, "gain": posterior.gain}
    if choices.latent:
        found["catalogue"] = _latent_rows(problem, posterior.catalogue, choices)

    def value(name: str, q: Gamma) -> Gamma | Array:
        if name not in choices.parameters:
            return q
        return gamma.mean(q) if moments is None else getattr(moments, name).mean

    return {name: value(name, q) for name, q in found.items()}


def blocks(problem: JingleMixture, found: Mapping[str, Gamma | Array], choices: Choices) -> Blocks:
    """Convert values by site to Gammas for each cell of each block, the inverse of `sites`.

    A point becomes a Gamma with the point as its mean; a block without a site becomes ones.
    """
    n_frames, n_bins = problem.frames.x.shape
    n_entries = problem.catalogue.shape[0]
    shapes = Blocks((choices.n_bases, n_bins), (n_frames, choices.n_bases), (n_bins,), (n_frames,), (n_entries, n_bins))

    def one(name: str, shape: tuple[int, ...]) -> Gamma:
        ones = jnp.ones(shape, problem.frames.x.dtype)
        q = found.get(name, ones)
        q = q if isinstance(q, Gamma) else Gamma(jnp.ones_like(q), q)
        if name != "catalogue" or not choices.latent:
            return q
        rows = np.array(choices.latent, int)
        return Gamma(*(ones.at[rows].set(value) for value in q))

    return Blocks(*(one(name, shape) for name, shape in shapes._asdict().items()))


def readings(found: Mapping[str, Gamma | Array]) -> Blocks:
    """Return how to read the result of `blocks`: the Gammas in `found` as distributions, everything else as points."""
    return Blocks(*("mean" if isinstance(found.get(name), Gamma) else "log_mode" for name in Blocks._fields))


def moments(problem: JingleMixture, found: Mapping[str, Gamma | Array], choices: Choices) -> Blocks:
    """Return the moments of every block from the values inferred by site, for `sources.sources` and `conditionals.local`.

    A Gamma gives its arithmetic and geometric mean, an array is a point. Blocks without a site are ones.
    """
    each = zip(Blocks._fields, blocks(problem, found, choices), readings(found), strict=True)
    return Blocks(*(read(problem, name, q, reading) for name, q, reading in each))
