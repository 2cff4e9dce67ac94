"""Masks learned from music and from ever better guesses of what is heard over it: a baseline of paper 002.

Halperin, Ephrat, Hoshen, “Neural separation of observed and unobserved distributions” (2019): there are mixtures Y, and music B
that has nothing to do with them. A first guess X of the voice is a faint copy of each mixture. Round by round, a network learns to
find B in B + X, X being of any mixture, and new guesses are what it takes off each Y. Here it is the generator of
`idempotent_masker`, on the same images, so that the methods and not the networks are compared.
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
"""Of the magnitudes of a mixture, taken for its voice at first."""
RATE = 1e-3
"""Of Adam, in the authors' code; it begins anew in every round."""


class Batch(NamedTuple):
    """Guesses of voices, and music: they are mixed where they are used."""

    voice: Float[Array | np.ndarray, "B T F"]
    music: Float[Array | np.ndarray, "B T F"]


class State(NamedTuple):
    """What a round carries."""

    generator: Parts
    optimiser: optax.OptState


_ADAM = optax.adam(RATE, 0.5, 0.999)


def first_guesses(mixtures: Images, power: float) -> Images:
    """Faint copies; `power` is that to which magnitudes are raised in images."""
    return image(np.float32(FAINT**power) * magnitudes(mixtures))


@partial(jax.jit, static_argnames=("config",))
def init(config: IdempotentMasker, key: Key[Array, ""]) -> State:
    """A network that has learned nothing yet."""
    return again(begin(config, key))


def again(generator: Parts) -> State:
    """The network of the round before, and an optimiser that begins anew."""
    return State(generator, _ADAM.init(generator.parameters))


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: IdempotentMasker, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, dict[str, Loss]]:
    """Learn to find the music in a mixture of it and of a guess. The key is not used."""
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
    """The same loss at work, by running statistics."""
    mixture = added(jnp.asarray(batch.voice), jnp.asarray(batch.music))
    return distance(masked(predict(config, parts, mixture), mixture), jnp.asarray(batch.music))


def guesses(
    config: IdempotentMasker, parts: Parts, mixtures: Float[np.ndarray, "n T F"], together: int = 16
) -> Float[np.ndarray, "n T F"]:
    """What the network takes off each mixture: the voices of the next round."""
    found = []
    for first in range(0, len(mixtures), together):
        some = jnp.asarray(mixtures[first : first + together])
        padded = jnp.pad(some, ((0, together - len(some)), (0, 0), (0, 0)), constant_values=-1)
        taken = taken_off(padded, masked(predict(config, parts, padded), padded))
        found.append(np.asarray(taken)[: len(some)])
    return np.concatenate(found) if found else np.zeros_like(mixtures)
