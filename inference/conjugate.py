"""Coordinate updates of a conditionally conjugate model: the sweep that CAVI, ICM and Gibbs share.

Each block's full conditional is a Gamma distribution. How it is read (`bayessep.gamma.read`) determines the algorithm:
arithmetic and geometric mean for CAVI, mode for ICM, a draw for Gibbs. The model supplies the algebra through the functions of
`ConjugateModel` and is otherwise opaque.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bayessep.inference.loop import Algorithm


@runtime_checkable
class ConjugateModel(Protocol):
    """Interface of a model module whose problems can be inferred here (`models.conditionals` implements it).

    Every function but `rescale` takes the problem first (`draw_local` after the key). `moments`, `posterior` and `readings` are
    NamedTuples over the same blocks; if these are not the blocks of the jingle mixture, pass a `Schedule` that names them.

    A problem has `hyper` (the initial hyper-parameters), `candidates` (None, or how many entries of its `catalogue` a frame
    keeps), `unit_filter` (whether `rescale` follows each sweep) and `learn` (a NamedTuple of bool: what `learn` may change); for
    Gibbs sampling also `has_music`, and optionally `frames` with `x` and `weight`. The results of `local`, `recount` and
    `draw_local` have `responsibility`, which `Info` reports, and `jumps`, which is passed to `learn`; their other fields are used
    by the model alone.
    """

    Blocks: Any

    def read(self, problem, name, posterior, reading, key) -> Any: ...
    def local(self, problem, hyper, moments, candidates) -> Any: ...
    def recount(self, problem, moments, step, candidates) -> Any: ...
    def draw_local(self, key, problem, hyper, moments) -> Any: ...
    def conditional(self, problem, hyper, name, moments, step, candidates) -> Any: ...
    def constant(self, problem) -> Any: ...
    def objective(self, problem, hyper, posterior, moments, readings, step, of_data) -> Any: ...
    def learn(self, problem, hyper, posterior, moments, readings, jumps) -> Any: ...
    def rescale(self, moments, posterior) -> Any: ...
    def flat(self, problem) -> Any: ...
    def any_candidates(self, problem) -> Any: ...
    def choose_candidates(self, problem, hyper, moments, n_candidates, current) -> Any: ...


def usual(module: ConjugateModel, problem: Any, reading: str) -> Any:
    """Return `reading` for every block except those with flat priors: parameters, read as their mode (maximum likelihood)."""
    return module.Blocks(*("mode" if flat else reading for flat in module.flat(problem)))


class Schedule(NamedTuple):
    """Order of updates within a sweep: the full local step precedes the first group, an update of its counts each further group.

    Two groups converge in fewer sweeps than one, as in multiplicative updates; any order is monotone.
    """

    groups: tuple[tuple[str, ...], ...] = (("excitations", "gain"), ("templates", "filter", "catalogue"))
    learn_after: int = 10  # sweeps before hyper-parameters move
    learn_every: int = 1
    prune_after: int = 3  # candidates are chosen anew in each of the first so many sweeps,
    prune_every: int = 10  # and in every so many-th sweep after that
    hold: tuple[tuple[str, int], ...] = ()  # (block, sweeps): blocks kept at their start during their first sweeps


class State(NamedTuple):
    """State before a sweep: posterior, moments, hyper-parameters and candidates."""

    posterior: Any  # blocks of Gamma
    moments: Any  # blocks of Moments, as read
    hyper: Any
    candidates: Int[Array, "T K"] | None
    sweep: Int[Array, ""]
    of_data: Any  # the constant part of the objective (`ConjugateModel.constant`)


class Info(NamedTuple):
    """Report of a sweep: the objective at the state it started from, with the local step at its optimum."""

    objective: Float[Array, ""]
    responsibility: Float[Array, "T K"]


def make_state(
    key, module: ConjugateModel, problem, posterior: Any, readings: Any, fixed: Literal["mean", "log_mode"] = "mean"
) -> State:
    """Return a state with moments read from a given posterior; `fixed` reads fixed blocks as distributions ("mean") or points."""
    moments = {}
    for name, k in zip(readings._fields, jax.random.split(key, len(readings._fields)), strict=True):
        reading = getattr(readings, name)
        reading = fixed if reading == "fixed" else reading
        moments[name] = module.read(problem, name, getattr(posterior, name), reading, k)
    state = State(posterior, type(posterior)(**moments), problem.hyper, None, jnp.zeros((), jnp.int32), module.constant(problem))
    # Arbitrary candidates will do: the first sweep begins by choosing, and choosing here too would be compiled a second time.
    return state._replace(candidates=module.any_candidates(problem)) if _pruned(problem) else state


def _pruned(problem) -> bool:
    return problem.candidates is not None and problem.candidates < problem.catalogue.shape[0]


def sweep(
    key: PRNGKeyArray, state: State, problem: Any, *, module: Any, readings: Any, schedule: Schedule, sampled: bool
) -> tuple[State, Info]:
    """Update every block that is not fixed, once; return the new state and the report."""
    posterior, moments, hyper, candidates, count, of_data = state
    keys = iter(jax.random.split(key, 2 * len(readings._fields) + 2))
    if _pruned(problem):
        due = (count < schedule.prune_after) | (count % schedule.prune_every == 0)
        candidates = jax.lax.cond(
            due,
            lambda: module.choose_candidates(problem, hyper, moments, problem.candidates, candidates),
            lambda: candidates,
        )
    held = dict(schedule.hold)
    info = step = None
    for group in schedule.groups:
        if sampled:
            step = module.draw_local(next(keys), problem, hyper, moments)
        elif step is None:
            step = module.local(problem, hyper, moments, candidates)
        else:
            step = module.recount(problem, moments, step, candidates)
        if info is None:
            objective = module.objective(problem, hyper, posterior, moments, readings, step, of_data)
            info = Info(objective, step.responsibility)
        for name in group:
            reading = getattr(readings, name)
            if reading == "fixed":
                continue
            q = module.conditional(problem, hyper, name, moments, step, candidates)
            m = module.read(problem, name, q, reading, next(keys))
            if name in held:
                free = count >= held[name]
                q, m = jax.tree.map(
                    lambda new, old, free=free: jnp.where(free, new, old),
                    (q, m),
                    (getattr(posterior, name), getattr(moments, name)),
                )
            posterior, moments = posterior._replace(**{name: q}), moments._replace(**{name: m})
    assert info is not None and step is not None, "a schedule has at least one group"
    if problem.unit_filter:
        moments, posterior = module.rescale(moments, posterior)
    if any(problem.learn):
        due = (count >= schedule.learn_after) & (count % schedule.learn_every == 0)
        hyper = jax.lax.cond(due, lambda: module.learn(problem, hyper, posterior, moments, readings, step.jumps), lambda: hyper)
    return State(posterior, moments, hyper, candidates, count + 1, of_data), info


def algorithm(
    module: Any,
    problem: Any,
    initial: Callable[[PRNGKeyArray], Any],
    *,
    readings: Any,
    schedule: Schedule = Schedule(),
    sampled: bool = False,
    fixed: Literal["mean", "log_mode"] = "mean",
) -> Algorithm:
    """Return the pair (init, step) for a problem of `module`; `initial(key)` returns the starting posterior.

    Blocks read as ``"fixed"`` stay as they start: Gamma distributions, or with ``fixed="log_mode"`` points at their means.

    An `initial` that is a `jax.tree_util.Partial` over a hashable function is compiled once for all problems of equal shapes.
    """
    choices = _Choices(module, readings, schedule, sampled, fixed)
    initial = initial if isinstance(initial, Partial) else Partial(initial)
    return Algorithm(Partial(_Init(choices), problem, initial), Partial(_Step(choices), problem))


class _Choices(NamedTuple):
    module: Any
    readings: Any
    schedule: Schedule
    sampled: bool
    fixed: Literal["mean", "log_mode"]


class _Step(NamedTuple):
    """A hashable function of the static choices: equal choices compile once (see `loop`)."""

    choices: _Choices

    def __call__(self, problem, key, state):
        c = self.choices
        return sweep(
            key, state, problem, module=c.module, readings=c.readings, schedule=c.schedule, sampled=c.sampled
        )


class _Init(NamedTuple):
    choices: _Choices

    def __call__(self, problem, initial, key):
        key_start, key_read = jax.random.split(key)
        c = self.choices
        return make_state(key_read, c.module, problem, initial(key_start), c.readings, c.fixed)
