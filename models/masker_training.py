"""Adversarial training of the idempotent masker on mixtures and unmatched instrumental music (paper 002).

Networks and losses are in `models.idempotent_masker`. The discriminators may be pre-trained (`pretrain`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from bayessep.models.idempotent_masker import (
    Discriminator,
    Generator,
    IdempotentMasker,
    Images,
    Loss,
    Parts,
    Weights,
    accompaniment_kept,
    added,
    begin,
    discriminator_loss,
    generator_loss,
    idempotence,
    identity,
    magnitudes,
    masked,
    predict,
    taken_off,
    voice_taken,
)
from bayessep.models.image_layers import Pool, shown
from bayessep.models.waveform_separation import abstract


class Batch(NamedTuple):
    """Mixtures and unmatched instrumental music: all that training ever sees. There is no field for a voice."""

    mixture: Float[Array | np.ndarray, "B T F"]  # a
    music: Float[Array | np.ndarray, "B T F"]  # c


class State(NamedTuple):
    """Training state; it holds only discriminators whose losses are switched on, under the names of `critics_of`."""

    generator: Parts
    critics: dict[str, PyTree]  # parameters of the discriminators
    optimisers: tuple[optax.OptState, optax.OptState]  # of the generator and of the discriminators
    pools: dict[str, Pool]


def optimiser(config: IdempotentMasker) -> optax.GradientTransformation:
    """Adam with an L2 penalty in the gradients and a learning rate halved at intervals, for generator and discriminators."""
    rate = optax.exponential_decay(config.rate, config.halved, 0.5, staircase=True)
    return optax.chain(optax.add_decayed_weights(config.decay), optax.adam(rate, 0.5, 0.999))


def critics_of(config: IdempotentMasker) -> dict[str, float]:
    """Active discriminators and their loss weights: C judges g(a), A judges synthetic mixtures."""
    weights = {"C": config.weights.GAN_C, "A": config.weights.GAN_A}
    return {name: weight for name, weight in weights.items() if weight}


def init(config: IdempotentMasker, key: Key[Array, ""], heard: PyTree = None) -> State:
    """Initialise generator, discriminators and optimisers; `heard` are pre-trained discriminator parameters (`Pretraining.critic`).

    Not jitted: dozens of random draws in one program take minutes to compile.
    """
    of_generator, of_critics = jax.random.split(key)
    generator = begin(config, of_generator)
    names = critics_of(config)
    if heard is None:
        keys = jax.random.split(of_critics, max(1, len(names)))
        critics = {name: _critic(config, key) for name, key in zip(names, keys, strict=False)}
    else:
        both = {"C": jax.tree.map(jnp.array, heard), "A": inverted(heard)}
        critics = {name: both[name] for name in names}
    optimisers = optimiser(config).init(generator.parameters), optimiser(config).init(critics)
    pools = {name: Pool(jnp.zeros((config.pool, config.frames, config.bins)), jnp.zeros((), jnp.int32)) for name in names}
    return State(generator, critics, optimisers, pools if config.pool else {})


def _critic(config: IdempotentMasker, key: Key[Array, ""]) -> PyTree:
    return nnx.state(Discriminator(config, nnx.Rngs(key)), nnx.Param)


# --- pre-training of the discriminators ----------------------------------------------------------------------------------


class Pretraining(NamedTuple):
    """Pre-training state of a discriminator, before there is a generator."""

    critic: PyTree
    optimiser: optax.OptState


TOGETHER, LISTENING_RATE = 4, 5e-4
"""Batch size (images of each kind) and learning rate of the pre-training."""


def pretraining(config: IdempotentMasker, key: Key[Array, ""]) -> Pretraining:
    """Initialise a discriminator and its optimiser for pre-training."""
    critic = _critic(config, key)
    return Pretraining(critic, optimiser(_for_pretraining(config)).init(critic))


def pretrain(
    config: IdempotentMasker, state: Pretraining, batch: Batch, key: Key[Array, ""]
) -> tuple[Pretraining, dict[str, Loss]]:
    """Pre-train a discriminator to tell mixtures (fake, 0) from instrumental music (real, 1). The key is not used.

    This is the task of d_C while g is still the identity, g(a) = a. Against untrained discriminators, g tends to collapse to a
    mask of ones, where the adversarial losses are the only ones left and have no gradient that leads away; the smaller the
    networks, the more surely it does. The paper has no such pre-training.
    """
    del key
    fake, real = map(jnp.asarray, batch)
    loss, slope = jax.value_and_grad(partial(_judged, config))(state.critic, fake, real, 1.0)
    critic, carried = _moved(_for_pretraining(config), slope, state.optimiser, state.critic)
    return Pretraining(critic, carried), {"loss": loss}


@partial(jax.jit, static_argnames=("config",))
def pretraining_loss(config: IdempotentMasker, critic: PyTree, batch: Batch) -> Loss:
    """Loss that `pretrain` minimises: 0.5 per scale for a discriminator that cannot tell the two apart."""
    fake, real = map(jnp.asarray, batch)
    return _judged(config, critic, fake, real, 1.0)


def inverted(critic: PyTree) -> PyTree:
    """Return parameters of the discriminator 1 - D, for which mixtures are real and music is fake.

    That is the task of d_A while g is still the identity, as synthetic mixtures are then music alone.
    """

    def turned(path: tuple[Any, ...], x: Array | np.ndarray) -> Array:
        layer = path[2].key
        if layer < last:
            return jnp.array(x)
        return jnp.asarray(1 - x if path[3].key == "bias" else -x)

    last = max(path[2].key for path, _ in jax.tree.leaves_with_path(critic))
    return jax.tree.map_with_path(turned, critic)


def _for_pretraining(config: IdempotentMasker) -> IdempotentMasker:
    return dataclasses.replace(config, rate=LISTENING_RATE)


# --- adversarial training ------------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """Generator outputs for a batch, and the reconstruction losses by name."""

    accompaniment: Images  # g(a)
    voice: Images  # b
    synthetic: Images  # b + c
    again: Images | None  # g(g(a))
    music: Images | None  # g(c)
    losses: dict[str, Loss]


def make(g: Callable[[Images], Images], batch: Batch, weights: Weights) -> Made:
    """Run g on a batch: a and c in one pass, then g(a) and b + c in another, skipping images whose losses are switched off."""
    a, c = map(jnp.asarray, batch)

    def together(images: Mapping[str, Images]) -> dict[str, Images]:
        found = g(jnp.concatenate(list(images.values()))) if images else jnp.zeros((0, *a.shape[1:]))
        return dict(zip(images, jnp.split(found, max(1, len(images))), strict=False))

    first = together({"a": a} | ({"c": c} if weights.R1 else {}))
    g_a, g_c = first["a"], first.get("c")
    b = taken_off(a, g_a)
    abar = added(b, c)
    second = together(({"g_a": g_a} if weights.R2 else {}) | ({"abar": abar} if weights.R3 or weights.R4 else {}))
    g_g_a, g_abar = second.get("g_a"), second.get("abar")
    losses: dict[str, Loss] = {}
    if g_c is not None:
        losses["R1"] = identity(c, g_c)
    if g_g_a is not None:
        losses["R2"] = idempotence(g_a, g_g_a)
    if g_abar is not None:
        losses |= {"R3": accompaniment_kept(c, g_abar), "R4": voice_taken(b, abar, g_abar)}
    losses = {name: loss for name, loss in losses.items() if getattr(weights, name)}
    return Made(g_a, b, abar, g_g_a, g_c, losses)


def weighed(losses: Mapping[str, Loss], weights: Mapping[str, float]) -> Loss:
    """Weighted sum of losses."""
    return sum((losses[name] * np.float32(weights[name]) for name in losses), jnp.zeros(()))


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: IdempotentMasker, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, dict[str, Loss]]:
    """Run one iteration: a step of the discriminators, then one of the generator against the updated discriminators.

    Returns:
        The new state, and the losses: those of `LOSSES` that are switched on; D_C and D_A of the discriminators, before their
        step; and loss, the generator's total.
    """
    weights, critics = vars(config.weights), critics_of(config)

    def look(parameters: PyTree) -> tuple[tuple[Loss, dict[str, Images]], tuple[dict[str, Loss], PyTree]]:
        # A copy of the statistics: variables can be updated only inside the function that creates them.
        statistics = jax.tree.map(lambda x: x, state.generator.statistics)
        network = nnx.merge(abstract(Generator, config).graph, parameters, statistics)
        made = make(lambda x: masked(network(x, True), x), batch, config.weights)
        fake = {"C": made.accompaniment, "A": made.synthetic}
        return (weighed(made.losses, weights), {name: fake[name] for name in critics}), (
            made.losses,
            nnx.state(network, nnx.BatchStat),
        )

    (near, fake), back, (losses, statistics) = jax.vjp(look, state.generator.parameters, has_aux=True)
    judges, of_judges, pools, slopes = state.critics, state.optimisers[1], state.pools, {}
    if critics:
        pools, seen = _from_pools(pools, fake, key)
        real = {"C": jnp.asarray(batch.music), "A": jnp.asarray(batch.mixture)}
        # Unrolled over the discriminators: inside a loop, convolutions on a CPU are many times slower.
        judged = {
            name: jax.value_and_grad(partial(_judged, config))(judges[name], seen[name], real[name], critics[name])
            for name in critics
        }
        judges, of_judges = _moved(config, {name: slope for name, (_, slope) in judged.items()}, of_judges, judges)
        deceived = {
            name: jax.value_and_grad(partial(_deceived, config))(fake[name], judges[name], critics[name]) for name in critics
        }
        for name, weight in critics.items():
            said, slopes[name] = deceived[name]
            near += said
            losses |= {f"GAN_{name}": said / np.float32(weight), f"D_{name}": judged[name][0] / np.float32(weight)}
    parameters, of_generator = _moved(config, back((jnp.ones(()), slopes))[0], state.optimisers[0], state.generator.parameters)
    return State(Parts(parameters, statistics), judges, (of_generator, of_judges), pools), losses | {"loss": near}


def _judged(config: IdempotentMasker, critic: PyTree, fake: Images, real: Images, weight: float) -> Loss:
    said = nnx.merge(abstract(Discriminator, config).graph, critic)(jnp.concatenate([fake, real]))
    return np.float32(weight) * discriminator_loss(*zip(*(jnp.split(of, 2) for of in said), strict=True))


def _deceived(config: IdempotentMasker, fake: Images, critic: PyTree, weight: float) -> Loss:
    return np.float32(weight) * generator_loss(nnx.merge(abstract(Discriminator, config).graph, critic)(fake))


def _from_pools(pools: dict[str, Pool], fake: dict[str, Images], key: Key[Array, ""]) -> tuple[dict[str, Pool], dict[str, Images]]:
    """Draw the fake images for each discriminator from the new ones and its replay buffer."""
    if not pools:
        return pools, fake
    keys = dict(zip(fake, jax.random.split(key, len(fake)), strict=True))
    found = {name: shown(pools[name], images, keys[name]) for name, images in fake.items()}
    return {name: pool for name, (pool, _) in found.items()}, {name: images for name, (_, images) in found.items()}


def _moved(config: IdempotentMasker, gradient: PyTree, carried: Any, parameters: PyTree) -> tuple[PyTree, Any]:
    change, carried = optimiser(config).update(gradient, carried, parameters)
    return optax.apply_updates(parameters, change), carried


@partial(jax.jit, static_argnames=("config", "own"))
def measure(config: IdempotentMasker, parts: Parts, batch: Batch, own: bool = False) -> dict[str, Loss]:
    """Reconstruction losses of a batch in inference mode (with running or `own` statistics), and their weighted sum, called loss.

    All of them are zero for a mask of ones, which only the discriminators penalise, so they cannot select the best checkpoint.
    Also changed_twice, |g(g(a)) - g(a)| / |g(a)|, and changed_music, |g(c) - c| / |c|, of compressed magnitudes; and taken, the
    share of the mixtures that is removed.
    """
    made = make(lambda x: masked(predict(config, parts, x, own), x), batch, Weights())
    assert made.again is not None and made.music is not None  # as all losses are switched on

    def relative(x: Images, y: Images) -> Loss:
        return jnp.abs(x - y).sum() / jnp.maximum(2 * magnitudes(y).sum(), np.float32(1e-9))

    shares = {
        "changed_twice": relative(made.again, made.accompaniment),
        "changed_music": relative(made.music, jnp.asarray(batch.music)),
    }
    return (
        made.losses
        | shares
        | {"taken": relative(made.accompaniment, jnp.asarray(batch.mixture)), "loss": weighed(made.losses, vars(config.weights))}
    )
