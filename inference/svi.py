"""Stochastic variational inference: gradient steps on a sampled evidence lower bound of any NumPyro program.

NumPyro computes the objective (`TraceMeanField_ELBO`: sampled likelihood, closed-form divergences where available), optax
makes the steps, and this file connects both to `loop.fit` (use a `window` of some ten steps, since the objective is noisy).

Two kinds of guide are supported: `GammaGuide`, independent Gamma distributions started at a given posterior, and NumPyro's
own autoguides, such as `normal_guide` (independent log-normals for positive variables). The first draws through
`gamma.draw_unit`, whose gradient is some hundred times cheaper on a CPU than that of jax.random.gamma.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions.kl import kl_divergence
from numpyro.infer import SVI, TraceMeanField_ELBO, init_to_value
from numpyro.infer.autoguide import AutoGuide, AutoNormal
from numpyro.infer.svi import SVIState
from numpyro.primitives import Messenger

from bayessep import gamma
from bayessep.gamma import Gamma
from bayessep.inference.loop import Algorithm


class PathwiseGamma(dist.Gamma):
    """NumPyro's Gamma, drawn by `gamma.draw_unit`; its divergence from another Gamma is `bayessep.gamma.kl`.

    `unit` is the logarithm of a ready-made draw from Gamma(concentration, 1), which `sample` then returns, rescaled.
    """

    def __init__(self, concentration: Any, rate: Any, unit: Array | None = None):
        self.unit = unit
        super().__init__(concentration, rate)

    def sample(self, key: Any, sample_shape=()):
        concentration, rate = cast(Any, (self.concentration, self.rate))  # NumPyro does not say that they are arrays
        if self.unit is not None and not sample_shape:
            return jnp.exp(self.unit - jnp.log(rate))
        shape = jnp.broadcast_to(concentration, sample_shape + self.batch_shape)
        return jnp.exp(gamma.draw_unit(key, shape) - jnp.log(rate))


@kl_divergence.register(PathwiseGamma, dist.Gamma)  # pyright: ignore[reportFunctionMemberAccess]
def _kl(q, p):
    shape, rate = (jnp.asarray(value, jnp.result_type(q.concentration)) for value in (p.concentration, p.rate))
    return gamma.kl(Gamma(q.concentration, 1 / q.rate), Gamma(shape, 1 / rate))


# --- guides ---------------------------------------------------------------------------------------


class GammaGuide(NamedTuple):
    """Guide of independent Gammas for every latent site of a program; guides of equal programs are equal and compile once.

    Its parameters are the logarithms of shape and mean (orthogonal in the Fisher metric, unlike shape and scale), named after
    their site; `start` creates them.
    """

    program: Callable[..., None]

    def __call__(self, *args: Any, **static: Any) -> None:
        sites = _latent_sites(self.program, *args, **static)
        shapes = {name: jnp.exp(_parameter(f"{name}.log_shape")) for name in sites}
        # One draw for all sites, so that the generator, which takes most of a second to compile, is compiled only once.
        key = numpyro.prng_key()
        ends = np.cumsum([shape.size for shape in shapes.values()])[:-1]
        units: Sequence[Any] = [None] * len(sites)
        if key is not None and sites:
            units = jnp.split(gamma.draw_unit(key, jnp.concatenate([s.ravel() for s in shapes.values()])), ends)
        for (name, site), unit in zip(sites.items(), units, strict=True):
            shape, mean = shapes[name], jnp.exp(_parameter(f"{name}.log_mean"))
            unit = None if unit is None else unit.reshape(shape.shape)
            numpyro.sample(name, PathwiseGamma(shape, shape / mean, unit).to_event(site["fn"].event_dim))

    @staticmethod
    def start(found: Mapping[str, Gamma | Array]) -> dict[str, Array]:
        """Return the guide's parameters at a given posterior; arrays are values of the program's own parameters."""
        parameters: dict[str, Array] = {}
        for name, q in found.items():
            if isinstance(q, Gamma):
                shape, mean = jnp.broadcast_arrays(q.shape, jnp.maximum(gamma.mean(q), jnp.finfo(q.scale.dtype).tiny))
                parameters |= {f"{name}.log_shape": jnp.log(shape), f"{name}.log_mean": jnp.log(mean)}
            else:
                parameters[name] = q
        return parameters

    @staticmethod
    def posterior(parameters: Mapping[str, Array]) -> dict[str, Gamma | Array]:
        """Return the posterior at given parameters: the inverse of `start`."""
        found: dict[str, Gamma | Array] = {}
        for name, value in parameters.items():
            site, _, which = name.partition(".")
            if which == "log_shape":
                shape = jnp.exp(value)
                found[site] = Gamma(shape, jnp.exp(parameters[f"{site}.log_mean"]) / shape)
            elif not which:
                found[site] = value
        return found


def _parameter(name: str) -> Array:
    value = numpyro.param(name)
    if value is None:
        raise ValueError(f"the guide has no value for {name}: pass `start` a Gamma for each latent site of the program")
    return cast(Array, value)


def normal_guide(
    program: Callable[..., None], found: Mapping[str, Gamma | Array], *, scale: float = 0.1
) -> AutoGuide:
    """Return NumPyro's AutoNormal (independent log-normals for positive sites), started at the means of `found`.

    Any other autoguide can be used instead, but those with a joint latent site ignore frame weights.
    """
    values = {name: gamma.mean(q) if isinstance(q, Gamma) else q for name, q in found.items()}
    return AutoNormal(program, init_loc_fn=init_to_value(values=values), init_scale=scale)


def _latent_sites(program: Callable[..., None], *args: Any, **static: Any) -> dict[str, dict[str, Any]]:
    """Trace the program's latent sites for their shapes and scales; under jit, the values are never computed."""
    with numpyro.handlers.block(), numpyro.handlers.trace() as trace, _Ones():
        program(*args, **static)
    return {name: s for name, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}


class _Scaled(NamedTuple):
    """A guide with the scales of the program's sites (frame weights), which autoguides do not take over."""

    guide: Callable[..., Any]
    program: Callable[..., None]

    def __call__(self, *args, **static):
        scales = {name: site["scale"] for name, site in _latent_sites(self.program, *args, **static).items()}
        with _SiteScale(scales):
            return self.guide(*args, **static)


class _Ones(Messenger):
    """Set every random site to ones, where only its shape matters."""

    def process_message(self, msg):
        if msg["type"] == "sample" and msg["value"] is None:
            own = [p.dtype for p in jax.tree.leaves(msg["fn"]) if jnp.issubdtype(getattr(p, "dtype", int), jnp.floating)]
            shape = msg["fn"].shape(msg["kwargs"].get("sample_shape", ()))
            msg["value"] = jnp.ones(shape, jnp.result_type(*own) if own else None)  # as precise as what it depends on


class _SiteScale(Messenger):
    def __init__(self, scales):
        self.scales = scales
        super().__init__()

    def process_message(self, msg):
        if msg["type"] == "sample" and self.scales.get(msg["name"]) is not None:
            msg["scale"] = self.scales[msg["name"]]


# --- the algorithm --------------------------------------------------------------------------------


class State(NamedTuple):
    """Parameters of guide and program in unconstrained space, with the optimiser's state (NumPyro's form)."""

    optimizer: Any


class Info(NamedTuple):
    """Report of a step: an unbiased estimate of the evidence lower bound at the state it started from."""

    objective: Float[Array, ""]


@functools.cache
def adam(
    rate: float = 0.1, *, steps: int = 300, final: float = 0.05, hold: tuple[tuple[str, int], ...] = ()
) -> optax.GradientTransformation:
    """Return Adam with cosine decay of the learning rate from `rate` to `final * rate` over `steps`.

    `hold` holds pairs (site of a `GammaGuide`, steps): the site stays at its start for that many steps. Equal settings return the
    same object, so that a second problem of the same shapes compiles nothing.
    """
    falling = optax.adam(optax.cosine_decay_schedule(rate, steps, final), b1=0.9, b2=0.99)
    return optax.chain(falling, _held(dict(hold))) if hold else falling


def _held(steps: Mapping[str, int]) -> optax.GradientTransformation:
    """Suppress the updates of each named site during its first `steps[site]` steps."""

    def init(params: Any) -> Any:
        del params
        return jnp.zeros((), jnp.int32)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        free = {name: state >= steps.get(name.partition(".")[0], 0) for name in updates}
        return {name: jnp.where(free[name], change, 0) for name, change in updates.items()}, state + 1

    return optax.GradientTransformation(init, update)


def svi(
    program: Callable[..., None],
    guide: Callable[..., Any],
    *args: Any,
    start: Mapping[str, Array] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    particles: int = 1,
    **static: Any,
) -> Algorithm:
    """Return (init, step) that raise a sampled evidence lower bound of `program(*args, **static)`.

    `args` are traced, `static` must be hashable. `start` holds initial values by parameter; a `GammaGuide` needs all of
    them (`GammaGuide.start`). The bound is that of the program: if it sums out variables that CAVI factorises, it lies
    above CAVI's bound at equal posteriors of the other variables.
    """
    if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
        # An autoguide traces its program on its first call, which must not happen under jit. Its start is deterministic.
        numpyro.handlers.seed(guide, jax.random.key(0))(*args, **static)
    choices = _Choices(program, guide, optimizer or adam(), particles, tuple(sorted(static.items())))
    values = None if start is None else dict(start)
    return Algorithm(Partial(_Init(choices), args, values), Partial(_Step(choices), args, values))


class _Choices(NamedTuple):
    program: Callable[..., None]
    guide: Callable[..., Any]
    optimizer: optax.GradientTransformation
    particles: int
    static: tuple[tuple[str, Any], ...]

    def engine(self, args, values, particles: int | None = None) -> SVI:
        """Return NumPyro's SVI object, which gets the parameters' constraints from an init; this is traced, not computed."""
        loss = TraceMeanField_ELBO(particles or self.particles, vectorize_particles=False)
        made = SVI(self.program, _Scaled(self.guide, self.program), self.optimizer, loss, **dict(self.static))
        jax.eval_shape(lambda: made.init(jax.random.key(0), *args, init_params=values).optim_state)
        return made


class _Init(NamedTuple):
    choices: _Choices

    def __call__(self, args, values, key):
        made = self.choices.engine(args, values)
        return State(made.init(key, *args, init_params=values).optim_state)


class _Step(NamedTuple):
    choices: _Choices

    def __call__(self, args, values, key, state):
        made = self.choices.engine(args, values)
        new, loss = made.update(SVIState(state.optimizer, None, key), *args)
        return State(new.optim_state), Info(-loss)


# --- reading the result ---------------------------------------------------------------------------


class Bound(NamedTuple):
    """A sampled evidence lower bound, with the standard error of the estimate."""

    mean: Float[Array, ""]
    error: Float[Array, ""]


def parameters(algorithm: Algorithm, state: State) -> dict[str, Array]:
    """Return the parameters of guide and program at a state, each in its constrained space."""
    step = cast(Any, algorithm.step)  # a Partial over the static choices
    choices, (args, values) = step.func.choices, step.args
    return choices.engine(args, values).get_params(SVIState(state.optimizer, None, None))


def posterior(algorithm: Algorithm, state: State) -> dict[str, Gamma | Array]:
    """Return the posterior that a `GammaGuide` has learned: a Gamma per site, a value per parameter of the program."""
    return GammaGuide.posterior(parameters(algorithm, state))


def bound(algorithm: Algorithm, state: State, key: PRNGKeyArray, *, particles: int = 100) -> Bound:
    """Estimate the evidence lower bound at a state from `particles` draws."""
    return _bound(algorithm.step, state, key, particles)


@partial(jax.jit, static_argnames="particles")
def _bound(step, state: State, key: PRNGKeyArray, particles: int) -> Bound:
    args, values = step.args
    made = step.func.choices.engine(args, values, particles=1)
    keys = jax.random.split(key, particles)
    draws = -jax.lax.map(lambda key: made.evaluate(SVIState(state.optimizer, None, key), *args), keys)
    return Bound(draws.mean(), draws.std(ddof=1) / jnp.sqrt(draws.size).astype(draws.dtype))
