"""What separators of waveforms share: what they are shown, what is asked of them, and one step of learning it.

Speech is the first source and music the second, always: nothing is permuted (paper 001, section III-A).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from bayessep.errors import UserError

SOURCES = ("speech", "music")
_EPS = 1e-8  # of paper 001's code


class Batch(NamedTuple):
    """Mixtures with what they are made of; the sources sum to the mixture."""

    mixture: Float[Array | np.ndarray, "B N"]
    sources: Float[Array | np.ndarray, "B 2 N"]


class State(NamedTuple):
    """What training carries."""

    parameters: PyTree
    optimiser: optax.OptState


class Metrics(NamedTuple):
    """Means over a batch: the loss, and SI-SDR of each source in decibels."""

    loss: Float[Array, ""]
    speech: Float[Array, ""]
    music: Float[Array, ""]


def si_sdr(
    reference: Float[Array, "*B N"], estimate: Float[Array, "*B N"], inside: Bool[Array, "*#B N"] | None = None
) -> Float[Array, "*B"]:
    """Scale-invariant signal-to-distortion ratio in decibels, of signals without their means (Le Roux et al., 2019).

    `metrics.si_sdr` is what results are measured with; this one can be differentiated, silence included. Of signals of unequal
    length, only the samples that are `inside` of each are looked at.
    """
    s, x = (y - y.mean(-1, keepdims=True, where=inside) for y in (reference, estimate))
    if inside is not None:
        s, x = (jnp.where(inside, y, jnp.float32(0)) for y in (s, x))
    scale = (x * s).sum(-1, keepdims=True) / ((s**2).sum(-1, keepdims=True) + _EPS)
    heard, wrong = ((scale * s) ** 2).sum(-1), ((x - scale * s) ** 2).sum(-1)
    return 10 / jnp.log(jnp.float32(10)) * jnp.log(heard / (wrong + _EPS) + _EPS)


def consistent(mixture: Float[Array, "*B N"], sources: Float[Array, "*B 2 N"]) -> Float[Array, "*B 2 N"]:
    """Sources that sum to the mixture: what is missing is given to both, in equal parts (Wisdom et al., 2019)."""
    return sources + (mixture - sources.sum(-2))[..., None, :] / 2


def check_rate(rate: float, steps: int) -> None:
    """Refuse what `optimiser` cannot work with.

    Raises:
        UserError: a number is out of range.
    """
    if not 0 < rate < 1:
        raise UserError(f"rate is {rate}, but must be above 0 and below 1.")
    if steps < 0:
        raise UserError(f"steps is {steps}, but must be at least 0.")


def optimiser(rate: float, steps: int = 0) -> optax.GradientTransformation:
    """Adam, with gradients whose length is at most 5 (paper 001's code).

    In so many steps, the rate falls to nothing along half a cosine; 0: it stays.
    """
    falling = optax.cosine_decay_schedule(rate, steps) if steps else rate
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(falling))


class Abstract(NamedTuple):
    """A network without its numbers."""

    graph: nnx.GraphDef
    size: int  # how many numbers it learns


@lru_cache
def abstract(network: Callable[[Any, nnx.Rngs], nnx.Module], config: Any) -> Abstract:
    """What a network of a config consists of, without making it."""
    graph, parameters = nnx.split(nnx.eval_shape(lambda: network(config, nnx.Rngs(0))))
    return Abstract(graph, sum(leaf.size for leaf in jax.tree.leaves(parameters)))


def started(network: nnx.Module, rate: float, steps: int = 0) -> State:
    """A network that has learned nothing yet, and its optimiser."""
    return again(nnx.split(network)[1], rate, steps)


def again(parameters: PyTree, rate: float, steps: int = 0) -> State:
    """A network that has learned something, and an optimiser that has not."""
    return State(parameters, optimiser(rate, steps).init(parameters))


Separate = Callable[[PyTree, Float[Array, "B N"]], Float[Array, "B 2 N"]]


def losses(separate: Separate, parameters: PyTree, batch: Batch) -> Metrics:
    """Minus the mean SI-SDR of both sources (paper 001, section III-A), and each of them."""
    found = si_sdr(jnp.asarray(batch.sources), separate(parameters, jnp.asarray(batch.mixture))).mean(0)
    return Metrics(-found.mean(), found[0], found[1])


def learn(
    separate: Separate, rate: float, state: State, batch: Batch, together: int = 0, steps: int = 0
) -> tuple[State, Metrics]:
    """One step of the optimiser; the losses are those before it.

    Args:
        separate: the network, of its parameters and a batch of mixtures.
        rate: of Adam.
        state: what is carried.
        batch: what is learned from.
        together: how many examples go through the network at a time, a divisor of B, and 0 for all of them. Gradients are the
            same; fewer need less memory, and on a CPU they are faster, for what one example needs stays in the cache.
        steps: in which the rate falls (`optimiser`).
    """

    def loss(parameters: PyTree, part: Batch) -> tuple[Float[Array, ""], Metrics]:
        found = losses(separate, parameters, part)
        return found.loss, found

    size = len(batch.mixture)
    if together in (0, size):
        gradient, found = jax.grad(loss, has_aux=True)(state.parameters, batch)
    else:
        parts = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), batch)

        def add(sums: PyTree, part: Batch) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, sums, jax.grad(loss, has_aux=True)(state.parameters, part)), None

        zeros = jax.tree.map(jnp.zeros_like, state.parameters), Metrics(*(jnp.zeros(()),) * 3)
        sums, _ = lax.scan(add, zeros, parts)
        gradient, found = jax.tree.map(lambda x: x * jnp.asarray(together / size, x.dtype), sums)
    change, carried = optimiser(rate, steps).update(gradient, state.optimiser, state.parameters)
    return State(optax.apply_updates(state.parameters, change), carried), found


def together_here() -> int:
    """How many examples at a time suit the machine: one on a single CPU; all where there is an accelerator, or several devices."""
    return 1 if jax.default_backend() == "cpu" and jax.device_count() == 1 else 0


SILENT = 1e-4
"""Of the mean square of the loudest quarter of a second: what has less is silence."""
STRETCH = 4000
"""Samples: a quarter of a second at 16 kHz."""


def heard_frames(mixture: Float[Array, " N"], hop: int) -> Bool[Array, "T 1"]:
    """Whether each frame is in a stretch of `STRETCH` samples, or next to one, that is no silence; all of them, in silence alone.

    Mixtures in training pause for less. Silence of seconds changes mean and variance of a window as nothing does that was learned
    from, and what sounds beside it is taken apart worse by some decibels.
    """
    n_frames, size = -(-len(mixture) // hop) + 1, max(1, STRETCH // hop)
    power = jnp.pad(jnp.square(mixture), (0, -len(mixture) % (size * hop))).reshape(-1, size * hop).mean(1)
    sounds = jnp.pad(power >= SILENT * power.max(), 1)
    near = sounds[:-2] | sounds[1:-1] | sounds[2:]
    return jnp.repeat(jnp.append(near, near[-1]), size)[:n_frames, None]
