"""Neural egg separation, a baseline of paper 002: masks learned from music and iteratively refined voice estimates.

Halperin, Ephrat, Hoshen, “Neural separation of observed and unobserved distributions” (2019): given are mixtures Y and unmatched
music B. The initial voice estimate X of each mixture is a faint copy of it. In every round, a network learns to recover B from
B + X, with X from any mixture, and what it removes from each Y becomes the new estimate. The network here is the generator of
`idempotent_masker`, on the same images, so that methods are compared and not networks.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from bayessep.models.idempotent_masker import (
    Generator,
    IdempotentMasker,
    Images,
    Loss,
    Parts,
    added,
    begin,
    distance,
    image,
    magnitudes,
    masked,
    predict,
    taken_off,
)
from bayessep.models.waveform_separation import abstract

FAINT = 0.1
"""Initial voice estimate: this share of the mixture's magnitudes."""
RATE = 1e-3
"""Adam's learning rate in the authors' code; the optimiser is reset in every round."""


class Batch(NamedTuple):
    """Voice estimates and music, which `step` and `measure` mix."""

    voice: Float[Array | np.ndarray, "B T F"]
    music: Float[Array | np.ndarray, "B T F"]


class State(NamedTuple):
    """Training state of a round."""

    generator: Parts
    optimiser: optax.OptState


_ADAM = optax.adam(RATE, 0.5, 0.999)


def first_guesses(mixtures: Images, power: float) -> Images:
    """Initial voice estimates, faint copies of the mixtures; `power` is the exponent of the images' magnitude compression."""
    return image(np.float32(FAINT**power) * magnitudes(mixtures))


@partial(jax.jit, static_argnames=("config",))
def init(config: IdempotentMasker, key: Key[Array, ""]) -> State:
    """Return a freshly initialised generator and optimiser."""
    return again(begin(config, key))


def again(generator: Parts) -> State:
    """Keep the generator of the previous round and reset the optimiser."""
    return State(generator, _ADAM.init(generator.parameters))


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: IdempotentMasker, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, dict[str, Loss]]:
    """Take one step of Adam on recovering the music from its mixture with a voice estimate. The key is not used."""
    del key
    voice, music = map(jnp.asarray, batch)
    mixture = added(voice, music)

    def loss(parameters: PyTree) -> tuple[Loss, PyTree]:
        statistics = jax.tree.map(lambda x: x, state.generator.statistics)
        network = nnx.merge(abstract(Generator, config).graph, parameters, statistics)
        found = distance(masked(network(mixture, True), mixture), music)
        return found, nnx.state(network, nnx.BatchStat)

    (found, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(state.generator.parameters)
    change, carried = _ADAM.update(gradient, state.optimiser)
    return State(Parts(optax.apply_updates(state.generator.parameters, change), statistics), carried), {"loss": found}


@partial(jax.jit, static_argnames=("config",))
def measure(config: IdempotentMasker, parts: Parts, batch: Batch) -> Loss:
    """Loss of `step` in inference mode (running statistics)."""
    mixture = added(jnp.asarray(batch.voice), jnp.asarray(batch.music))
    return distance(masked(predict(config, parts, mixture), mixture), jnp.asarray(batch.music))


def guesses(
    config: IdempotentMasker, parts: Parts, mixtures: Float[np.ndarray, "n T F"], together: int = 16
) -> Float[np.ndarray, "n T F"]:
    """Voice estimates for the next round: what the network removes from each mixture."""
    found = []
    for first in range(0, len(mixtures), together):
        some = jnp.asarray(mixtures[first : first + together])
        padded = jnp.pad(some, ((0, together - len(some)), (0, 0), (0, 0)), constant_values=-1)
        taken = taken_off(padded, masked(predict(config, parts, padded), padded))
        found.append(np.asarray(taken)[: len(some)])
    return np.concatenate(found) if found else np.zeros_like(mixtures)
