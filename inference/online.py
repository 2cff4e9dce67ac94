"""Online variational inference for recordings that do not fit in memory, one batch of frames at a time.

Stochastic natural-gradient ascent (Hoffman et al. 2013): for each batch the local blocks are fitted with the shared blocks held
fixed, the batch's counts are scaled up as if the whole recording were like it, and the shared Gamma posteriors move towards the
resulting conditional by a step size of (delay + t) ** -forget. A single batch of everything with a step size of one is CAVI.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bayessep.gamma import Gamma
from bayessep.inference import conjugate
from bayessep.inference.conjugate import Schedule


class Rate(NamedTuple):
    """Step size of batch t = 0, 1, …: (delay + t) ** -forget; it converges for `forget` in (0.5, 1]."""

    delay: float = 1.0
    forget: float = 0.7


class State(NamedTuple):
    """State carried from batch to batch: the shared blocks, by name, and the number of batches seen."""

    shared: dict[str, Gamma]
    batches: Int[Array, ""]


class Info(NamedTuple):
    """Report of one batch: the objective at the start of its last local sweep, and the local state (posterior of its frames)."""

    objective: Float[Array, ""]
    local: conjugate.State


class OnlineAlgorithm(NamedTuple):
    """`init(posterior) -> state`; `step(key, state, problem, start, share) -> (state, info)`."""

    init: Callable[..., State]
    step: Callable[..., tuple[State, Info]]


def online(
    module: Any,
    readings: Any,
    *,
    shared: tuple[str, ...] = ("templates", "filter"),
    sweeps: int = 20,
    rate: Rate = Rate(),
    schedule: Schedule = Schedule(),
) -> OnlineAlgorithm:
    """Return an online algorithm over problems of `module` (`conjugate.ConjugateModel`) that share some blocks.

    `step` takes the next batch as a `problem`, a function `start(key)` that returns its starting posterior (whose shared blocks are
    replaced by those of the state) and `share`, the size of the whole relative to the batch. Batches of equal shapes compile once.
    Shared blocks read as ``"fixed"`` stay as they are. Hyper-parameters are not learned.
    """
    choices = _Choices(module, readings, tuple(n for n in shared if getattr(readings, n) != "fixed"), sweeps, rate, schedule)

    def init(posterior: Any) -> State:
        return State({name: getattr(posterior, name) for name in choices.shared}, jnp.zeros((), jnp.int32))

    def step(key: PRNGKeyArray, state: State, problem: Any, start: Callable[..., Any], share: float) -> tuple[State, Info]:
        start = start if isinstance(start, Partial) else Partial(start)
        return _step(key, state, problem, start, jnp.asarray(share, problem.frames.x.dtype), choices=choices)

    return OnlineAlgorithm(init, step)


class _Choices(NamedTuple):
    module: Any
    readings: Any
    shared: tuple[str, ...]
    sweeps: int
    rate: Rate
    schedule: Schedule


def _step_untraced(key, state: State, problem, start, share, *, choices: _Choices) -> tuple[State, Info]:
    module, readings = choices.module, choices.readings
    problem = dataclasses.replace(problem, learn=type(problem.learn)())  # hyper-parameters of one batch would not suit the whole
    key_start, key_read, key_sweep = jax.random.split(key, 3)
    posterior = start(key_start)._replace(**state.shared)
    local = conjugate.make_state(key_read, module, problem, posterior, readings)
    # The shared blocks enter as in any sweep, but only the batch's own blocks are updated.
    own = readings._replace(**dict.fromkeys(choices.shared, "fixed"))

    def one(carry, key):
        carry, info = conjugate.sweep(
            key, carry, problem, module=module, readings=own, schedule=choices.schedule, sampled=False
        )
        return carry, info.objective

    local, objective = jax.lax.scan(one, local, jax.random.split(key_sweep, choices.sweeps))
    counts = module.local(problem, local.hyper, local.moments, local.candidates)
    seen = state.batches.astype(problem.frames.x.dtype)
    step_size = (choices.rate.delay + seen) ** -choices.rate.forget
    shared = {
        name: _towards(
            state.shared[name],
            getattr(problem.hyper.prior, name),
            module.conditional(problem, problem.hyper, name, local.moments, counts, local.candidates),
            share,
            step_size,
        )
        for name in choices.shared
    }
    return State(shared, state.batches + 1), Info(objective[-1], local)


_step = jax.jit(_step_untraced, static_argnames="choices")


def _towards(now: Gamma, prior: Gamma, batch: Gamma, share, step_size) -> Gamma:
    """Step in the natural parameters (shape and inverse scale) towards the prior plus `share` times the batch's evidence."""
    inverse = 1 / now.scale
    shape_target = prior.shape + share * (batch.shape - prior.shape)
    inverse_target = 1 / prior.scale + share * (1 / batch.scale - 1 / prior.scale)
    shape = now.shape + step_size * (shape_target - now.shape)
    return Gamma(shape, 1 / (inverse + step_size * (inverse_target - inverse)))
