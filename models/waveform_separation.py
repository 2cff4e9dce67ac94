"""Common parts of waveform separators: batches, the SI-SDR loss, the optimiser and the training step.

Speech is always the first source and music the second: there is no permutation-invariant training (paper 001, section III-A).
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
_EPS = 1e-8  # as in paper 001's code


class Batch(NamedTuple):
    """Mixtures and their sources, which sum to the mixture."""

    mixture: Float[Array | np.ndarray, "B N"]
    sources: Float[Array | np.ndarray, "B 2 N"]


class State(NamedTuple):
    """Training state."""

    parameters: PyTree
    optimiser: optax.OptState


class Metrics(NamedTuple):
    """Means over a batch: loss, and SI-SDR of each source in decibels."""

    loss: Float[Array, ""]
    speech: Float[Array, ""]
    music: Float[Array, ""]


def si_sdr(
    reference: Float[Array, "*B N"], estimate: Float[Array, "*B N"], inside: Bool[Array, "*#B N"] | None = None
) -> Float[Array, "*B"]:
    """Scale-invariant signal-to-distortion ratio in decibels of zero-mean signals (Le Roux et al., 2019), for training.

    It is differentiable even for silence; results are measured with `metrics.si_sdr`. The mask `inside` excludes padding of
    signals of unequal length.
    """
    s, x = (y - y.mean(-1, keepdims=True, where=inside) for y in (reference, estimate))
    if inside is not None:
        s, x = (jnp.where(inside, y, jnp.float32(0)) for y in (s, x))
    scale = (x * s).sum(-1, keepdims=True) / ((s**2).sum(-1, keepdims=True) + _EPS)
    heard, wrong = ((scale * s) ** 2).sum(-1), ((x - scale * s) ** 2).sum(-1)
    return 10 / jnp.log(jnp.float32(10)) * jnp.log(heard / (wrong + _EPS) + _EPS)


def consistent(mixture: Float[Array, "*B N"], sources: Float[Array, "*B 2 N"]) -> Float[Array, "*B 2 N"]:
    """Make sources sum to the mixture by adding half of the residual to each (mixture consistency; Wisdom et al., 2019)."""
    return sources + (mixture - sources.sum(-2))[..., None, :] / 2


def check_rate(rate: float, steps: int) -> None:
    """Check the arguments of `optimiser`.

    Raises:
        UserError: a number is out of range.
    """
    if not 0 < rate < 1:
        raise UserError(f"rate is {rate}, but must be above 0 and below 1.")
    if steps < 0:
        raise UserError(f"steps is {steps}, but must be at least 0.")


def optimiser(rate: float, steps: int = 0) -> optax.GradientTransformation:
    """Adam with gradients clipped to a global norm of 5 (paper 001's code).

    The learning rate decays to zero over `steps` along half a cosine; 0 keeps it constant.
    """
    falling = optax.cosine_decay_schedule(rate, steps) if steps else rate
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(falling))


class Abstract(NamedTuple):
    """Structure of a network, without parameters."""

    graph: nnx.GraphDef
    size: int  # number of trainable parameters


@lru_cache
def abstract(network: Callable[[Any, nnx.Rngs], nnx.Module], config: Any) -> Abstract:
    """Structure of a network with a given config, without allocating its parameters."""
    graph, parameters = nnx.split(nnx.eval_shape(lambda: network(config, nnx.Rngs(0))))
    return Abstract(graph, sum(leaf.size for leaf in jax.tree.leaves(parameters)))


def started(network: nnx.Module, rate: float, steps: int = 0) -> State:
    """Initial training state of a freshly initialised network."""
    return again(nnx.split(network)[1], rate, steps)


def again(parameters: PyTree, rate: float, steps: int = 0) -> State:
    """Training state with given parameters and a fresh optimiser."""
    return State(parameters, optimiser(rate, steps).init(parameters))


Separate = Callable[[PyTree, Float[Array, "B N"]], Float[Array, "B 2 N"]]


def losses(separate: Separate, parameters: PyTree, batch: Batch) -> Metrics:
    """Loss, the negative mean SI-SDR of both sources (paper 001, section III-A), and the SI-SDR of each."""
    found = si_sdr(jnp.asarray(batch.sources), separate(parameters, jnp.asarray(batch.mixture))).mean(0)
    return Metrics(-found.mean(), found[0], found[1])


def learn(
    separate: Separate, rate: float, state: State, batch: Batch, together: int = 0, steps: int = 0
) -> tuple[State, Metrics]:
    """Take one step of the optimiser; the metrics are those before it.

    Args:
        separate: the network, a function of parameters and a batch of mixtures.
        rate: learning rate of Adam.
        state: training state.
        batch: mixtures and sources.
        together: size of the micro-batches whose gradients are accumulated, a divisor of B; 0 takes the batch at once. Gradients
            are the same; small micro-batches need less memory, and are faster on a CPU, as one example fits into the cache.
        steps: length of the learning-rate decay (`optimiser`).
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
    """Micro-batch size that suits the device: one example on a single CPU; 0 (all) on an accelerator or several devices."""
    return 1 if jax.default_backend() == "cpu" and jax.device_count() == 1 else 0


SILENT = 1e-4
"""A stretch is silent if its mean square is below this share of the loudest stretch's."""
STRETCH = 4000
"""Length of the stretches, in samples: a quarter of a second at 16 kHz."""


def heard_frames(mixture: Float[Array, " N"], hop: int) -> Bool[Array, "T 1"]:
    """Mark the frames whose stretch of `STRETCH` samples, or a neighbouring one, is not silent; all frames if everything is silent.

    Training mixtures contain only shorter pauses. Seconds of silence shift the mean and variance of a window beyond anything seen
    in training, and whatever sounds in the same window is then separated worse, by some decibels.
    """
    n_frames, size = -(-len(mixture) // hop) + 1, max(1, STRETCH // hop)
    power = jnp.pad(jnp.square(mixture), (0, -len(mixture) % (size * hop))).reshape(-1, size * hop).mean(1)
    sounds = jnp.pad(power >= SILENT * power.max(), 1)
    near = sounds[:-2] | sounds[1:-1] | sounds[2:]
    return jnp.repeat(jnp.append(near, sounds[-2]), size)[:n_frames, None]  # silence follows
