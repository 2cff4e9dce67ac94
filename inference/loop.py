"""The loop that runs every algorithm: under jit, until the objective converges, with progress reports and interruption.

An algorithm is a pair of pure functions, `init(key) -> state` and `step(key, state) -> (state, info)`, whose info has a
scalar `objective`. Both are `jax.tree_util.Partial` objects, so that a second problem of the same shapes compiles nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Algorithm(NamedTuple):
    """`init(key) -> state` and `step(key, state) -> (state, info)`; pure, and both pytrees."""

    init: Callable[..., Any]
    step: Callable[..., Any]


class Fit(NamedTuple):
    """Result of a run: final state and info, and `trace`, whose i-th of `steps` entries is the objective that step i reports."""

    state: Any
    info: Any
    trace: Float[Array, " steps"]
    converged: bool
    steps: int


class _Carry(NamedTuple):
    key: PRNGKeyArray
    state: Any
    info: Any
    trace: Float[Array, " max_steps"]
    step: Int[Array, ""]
    converged: Bool[Array, ""]


@partial(jax.jit, inline=True)
def _step(algorithm_step, key, state):
    """One step, jitted on its own so that it is traced once although both functions below call it."""
    return algorithm_step(key, state)


@partial(jax.jit, static_argnames=("window", "min_steps"), donate_argnames=("carry",))
def _advance(algorithm_step, carry: _Carry, until, tolerance, *, window: int, min_steps: int) -> _Carry:
    def proceed(c: _Carry):
        return (c.step < until) & ~c.converged

    def body(c: _Carry):
        key, step_key = jax.random.split(c.key)
        state, info = _step(algorithm_step, step_key, c.state)
        trace = c.trace.at[c.step].set(info.objective)
        before = trace[jnp.maximum(c.step - window, 0)]
        still = jnp.abs(info.objective - before) <= tolerance * jnp.abs(info.objective)
        broken = ~jnp.isfinite(info.objective)
        converged = ((c.step >= max(window, min_steps)) & still) | broken
        return _Carry(key, state, info, trace, c.step + 1, converged)

    return jax.lax.while_loop(proceed, body, carry)


@partial(jax.jit, static_argnames="max_steps")
def _begin(algorithm_step, key, state, *, max_steps: int) -> _Carry:
    """Initial carry, copied because its buffers are donated from chunk to chunk; jitted, as the step is traced for its shapes."""
    _, info = jax.eval_shape(_step, algorithm_step, key, state)
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), info)
    trace = jnp.zeros(max_steps, info.objective.dtype)
    state = jax.tree.map(jnp.copy, state)
    return _Carry(jnp.copy(key), state, blank, trace, jnp.zeros((), jnp.int32), jnp.zeros((), bool))


def fit(
    algorithm: Algorithm,
    key: PRNGKeyArray,
    *,
    max_steps: int = 200,
    tolerance: float = 1e-5,
    window: int = 1,
    min_steps: int = 1,
    state: Any = None,
    progress: Callable[[int, float], None] | None = None,
    report_every: int = 10,
) -> Fit:
    """Run until the objective changes by at most `tolerance`, relatively, over `window` steps, or `max_steps` are done.

    Convergence is tested only after `min_steps` steps. `progress(steps done, objective)` is called between chunks of
    `report_every` steps, where a KeyboardInterrupt is served too.

    Raises FloatingPointError if the objective becomes infinite or NaN: the state is then useless.
    """
    key_init, key_run = jax.random.split(key)
    if state is None:
        state = jax.jit(_call)(algorithm.init, key_init)
    carry = _begin(algorithm.step, key_run, state, max_steps=max_steps)
    done = 0
    while done < max_steps and not bool(carry.converged):
        until = max_steps if progress is None else min(done + report_every, max_steps)
        carry = _advance(algorithm.step, carry, until, tolerance, window=window, min_steps=min_steps)
        done = int(carry.step)
        if progress is not None:
            progress(done, float(carry.trace[done - 1]))
    trace = carry.trace[:done]
    if done and not bool(jnp.isfinite(trace[-1])):
        raise FloatingPointError(f"the objective became {float(trace[-1])} at step {done}")
    return Fit(carry.state, carry.info, trace, bool(carry.converged), done)


@partial(jax.jit, static_argnames=("n", "thin", "keep"))
def _collect(algorithm_step, key, state, *, n: int, thin: int, keep):
    def one(state, key):
        state, _ = jax.lax.scan(lambda s, k: (algorithm_step(k, s)[0], None), state, jax.random.split(key, thin))
        return state, keep(state)

    return jax.lax.scan(one, state, jax.random.split(key, n))


def collect(
    algorithm: Algorithm,
    key: PRNGKeyArray,
    *,
    warmup: int,
    samples: int,
    thin: int = 1,
    keep: Callable[[Any], Any] = lambda state: state,
    state: Any = None,
) -> tuple[Any, Any]:
    """Run a sampler: discard `warmup` steps, then keep every `thin`-th of the following states, as `keep(state)`.

    Returns the last state and the kept values, stacked along a first axis of length `samples`.
    """
    key_init, key_warm, key_run = jax.random.split(key, 3)
    if state is None:
        state = jax.jit(_call)(algorithm.init, key_init)
    if warmup:
        state, _ = _collect(algorithm.step, key_warm, state, n=1, thin=warmup, keep=_nothing)
    return _collect(algorithm.step, key_run, state, n=samples, thin=thin, keep=keep)


def _call(function, key):
    return function(key)


def _nothing(state):
    return ()
