"""Online variational inference: recordings that do not fit in memory, a batch of frames at a time.

Stochastic natural-gradient ascent (Hoffman et al. 2013): for each batch its local blocks are fitted with the shared blocks
held, the batch's counts are taken as if the whole recording sounded like it, and the shared Gamma posteriors move towards the
conditional this gives, by a step that shrinks as (delay + t) ** -forget. With one batch of everything and a step of one it is CAVI.
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
    """Step t moves the shared blocks by (delay + t) ** -forget; `forget` in (0.5, 1] makes it converge."""

    delay: float = 1.0
    forget: float = 0.7


class State(NamedTuple):
    """What is carried from batch to batch: the shared blocks, by name, and how many batches were seen."""

    shared: dict[str, Gamma]
    batches: Int[Array, ""]


class Info(NamedTuple):
    """Of one batch: its objective, as the last of the local sweeps met it, and the local state (posterior of its own frames)."""

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
    """Online inference over problems of `module` (`conjugate.ConjugateModel`) that share some blocks.

    `step` takes the next batch as a `problem`, a function `start(key)` for its starting posterior (the shared blocks of which are
    replaced by the state's) and `share`, how many times the batch goes into the whole. Batches of equal shapes compile once.
    Shared blocks that are read as ``"fixed"`` stay as they are. Hyper-parameters are not learned.
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
    problem = dataclasses.replace(problem, learn=type(problem.learn)())  # of a batch alone it would be none of the whole
    key_start, key_read, key_sweep = jax.random.split(key, 3)
    posterior = start(key_start)._replace(**state.shared)
    local = conjugate.make_state(key_read, module, problem, posterior, readings)
    # The shared blocks enter as they would in a sweep, but only the batch's own blocks move.
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
    """A step in natural parameters (shape and inverse scale) towards the prior plus `share` times the batch's evidence."""
    inverse = 1 / now.scale
    shape_target = prior.shape + share * (batch.shape - prior.shape)
    inverse_target = 1 / prior.scale + share * (1 / batch.scale - 1 / prior.scale)
    shape = now.shape + step_size * (shape_target - now.shape)
    return Gamma(shape, 1 / (inverse + step_size * (inverse_target - inverse)))
