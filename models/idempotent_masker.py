"""A mask that leaves instrumental music alone, and songs without their voices: learned without a voice alone, or a matched pair.

Michelashvili, Benaim, Wolf, “Semi-supervised monaural singing voice separation with a masking network trained on synthetic
mixtures” (2019), paper 002: the network g masks a mixture a so that accompaniment is left; b = a - g(a) is the estimate of the
voice. It learns from mixtures a and from instrumental music c that has nothing to do with them: g does nothing to c (R1) nor to
g(a) (R2); of the synthetic mixture b + c it leaves c (R3), and takes b (R4); g(a) is to sound like c (GAN_C), and b + c like a
mixture (GAN_A). Sizes, weights and all that the poster leaves open are those of the authors' code. Images are magnitudes from 0
to 1, compressed (to the power 0.3), as 2 y - 1, from -1 to 1; masks, sums and differences act on y.

Two things are done in another way than there, with the same results: g(a) and the synthetic mixture serve the discriminators and
then the generator, for between them g does not change; and what is independent goes through g together, for no image changes what
g does to another. Only running statistics notice, which move twice in a step there where their four images move them here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from bayessep.errors import UserError
from bayessep.models.image_layers import Conv, InstanceNorm, LayerNorm, Maps, Pool, Residual, narrow, pooled, shown
from bayessep.models.waveform_separation import abstract

Images = Float[Array, "B T F"]
"""From -1, silence, to 1."""


@dataclass(frozen=True)
class Weights:
    """Of the losses in what the generator learns; the discriminators' have those of GAN_C and GAN_A.

    Raises:
        UserError: one is negative, or no number.
    """

    R1: float = 20.0
    R2: float = 20.0
    R3: float = 20.0
    R4: float = 20.0
    GAN_C: float = 10.0
    GAN_A: float = 10.0

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if not 0 <= weight < math.inf:
                raise UserError(f"the weight of {name} is {weight}, but must be at least 0, and finite.")
        if not any(vars(self).values()):
            raise UserError("every loss is switched off: there is nothing to learn from.")

    def without(self, *names: str) -> Weights:
        """The same with some losses switched off: the ablations of table 3.

        Raises:
            UserError: there is no such loss, or none is left.
        """
        if unknown := [name for name in names if name not in LOSSES]:
            raise UserError(f"there is no loss {unknown[0]!r}; there are {', '.join(LOSSES)}.")
        return dataclasses.replace(self, **dict.fromkeys(names, 0.0))


LOSSES = tuple(f.name for f in dataclasses.fields(Weights))


@dataclass(frozen=True)
class IdempotentMasker:
    """Sizes of the three networks, what they look at, and how they learn.

    Attributes:
        bins: of a frame, F; the transform has twice as many samples, and its highest bin is left out.
        frames: of an image, T.
        hop: samples between frames.
        channels: of the generator's first layer; the next two have twice and four times as many.
        blocks: residual blocks of its encoder, and as many of its decoder.
        critic: channels of the first layer of the discriminators.
        layers: of theirs that halve an image, each with twice as many channels as the one before.
        scales: at which they look at it, each half as fine as the one before.
        weights: of the losses.
        rate: of Adam, for both optimizers.
        decay: what is added to gradients of each parameter, as a share of it (an L2 penalty).
        halved: steps after which the rate is halved, again and again.
        pool: of so many earlier images, discriminators are shown one in place of every second new one; 0: new ones alone.

    Raises:
        UserError: a number is out of range, or images cannot be halved as often as they are.
    """

    bins: int = 256
    frames: int = 256
    hop: int = 64
    channels: int = 64
    blocks: int = 4
    critic: int = 64
    layers: int = 4
    scales: int = 3
    weights: Weights = Weights()
    rate: float = 1e-4
    decay: float = 1e-4
    halved: int = 100_000
    pool: int = 0

    def __post_init__(self) -> None:
        for name in ("hop", "channels", "blocks", "critic", "layers", "scales", "halved"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        for name in ("bins", "frames"):
            size, part = getattr(self, name), max(4, 2 ** (self.layers + self.scales - 1))
            if size < 16 or size % part:
                raise UserError(f"{name} is {size}, but must be a multiple of {part}, and at least 16.")
        if self.hop > self.bins:
            raise UserError(
                f"hop is {self.hop}, but frames of {2 * self.bins} samples must overlap by half: give {self.bins} at most."
            )
        if not 0 < self.rate < math.inf or not 0 <= self.decay < math.inf or self.pool < 0:
            raise UserError(f"rate is {self.rate}, decay {self.decay}, pool {self.pool}: the first must be above 0, none below.")


PRESETS = {
    "paper": IdempotentMasker(),
    "small": IdempotentMasker(frames=64, hop=256, channels=8, blocks=1, critic=16, rate=2e-4),
}
"""The paper's 11.1 million parameters, and 8.3 million of each discriminator; and what learns on a CPU, from images as long."""


# --- images --------------------------------------------------------------------------------------------------------------


def magnitudes(x: Images) -> Images:
    """From -1 … 1 to 0 … 1, where masks, sums and differences are made."""
    return (x + 1) / 2


def image(y: Images) -> Images:
    """From 0 … 1 to -1 … 1, where distances are taken."""
    return 2 * y - 1


def masked(mask: Images, x: Images) -> Images:
    """What a mask, 0 to 1, leaves of an image."""
    return image(mask * magnitudes(x))


def added(x: Images, y: Images) -> Images:
    """Two sounds at once, no louder than 1: synthetic mixtures."""
    return image(jnp.clip(magnitudes(x) + magnitudes(y), 0, 1))


def taken_off(x: Images, y: Images) -> Images:
    """What is left of x without y: the estimate b of the voice, of a and g(a)."""
    return image(jnp.clip(magnitudes(x) - magnitudes(y), 0, 1))


# --- networks ------------------------------------------------------------------------------------------------------------


class Generator(nnx.Module):
    """A mask between 0 and 1 of each cell of an image: twice halved, through residual blocks, twice doubled."""

    def __init__(self, config: IdempotentMasker, rngs: nnx.Rngs) -> None:
        c = config.channels
        self.enter = nnx.List([Conv(rngs, 7, 1, c), Conv(rngs, 4, c, 2 * c, 2), Conv(rngs, 4, 2 * c, 4 * c, 2)])
        self.norms = nnx.List([InstanceNorm(n * c) for n in (1, 2, 4)])
        self.blocks = nnx.List([Residual(rngs, 4 * c) for _ in range(2 * config.blocks)])
        self.up = nnx.List([Conv(rngs, 5, 4 * c, 2 * c), Conv(rngs, 5, 2 * c, c)])
        self.up_norms = nnx.List([LayerNorm(rngs, 2 * c), LayerNorm(rngs, c)])
        self.leave = Conv(rngs, 7, c, 1)

    def __call__(self, images: Images, learning: bool) -> Images:
        x = images[..., None]
        for layer, norm in zip(self.enter, self.norms, strict=True):
            x = nnx.relu(norm(layer(x), learning))
        for block in self.blocks:
            x = block(x, learning)
        for layer, norm in zip(self.up, self.up_norms, strict=True):
            x = nnx.relu(norm(layer(x, larger=True)))
        return nnx.sigmoid(self.leave(x))[..., 0]


class Discriminator(nnx.Module):
    """How real an image is, part by part, at several scales: 1 is real."""

    def __init__(self, config: IdempotentMasker, rngs: nnx.Rngs) -> None:
        widths = [1, *(config.critic * 2**n for n in range(config.layers))]

        pairs, start = list(zip(widths[:-1], widths[1:], strict=True)), narrow(config.critic)

        def scale() -> list[Conv]:
            return [*(Conv(rngs, 4, *pair, 2, start) for pair in pairs), Conv(rngs, 1, widths[-1], 1, 1, start)]

        self.scales = nnx.List([nnx.List(scale()) for _ in range(config.scales)])

    def __call__(self, images: Images) -> list[Maps]:
        x, found = images[..., None], []
        for n, (*halving, last) in enumerate(self.scales):
            x = pooled(x) if n else x
            y = x
            for layer in halving:
                y = nnx.leaky_relu(layer(y), 0.2)
            found.append(last(y))
        return found


class Parts(NamedTuple):
    """Numbers of a generator."""

    parameters: PyTree  # that it learns
    statistics: PyTree  # running means and variances, of the images that it saw


def size_of(kind: type[Generator] | type[Discriminator], config: IdempotentMasker) -> int:
    """Numbers that a network learns, counted without making them."""
    parameters = nnx.state(nnx.eval_shape(lambda: kind(config, nnx.Rngs(0))), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


@partial(jax.jit, static_argnames=("config",))
def predict(config: IdempotentMasker, parts: Parts, images: Images) -> Images:
    """Masks, 0 to 1, by running statistics: each cell's share of the accompaniment."""
    return nnx.merge(abstract(Generator, config).graph, *parts)(images, False)


# --- losses --------------------------------------------------------------------------------------------------------------

Loss = Float[Array, ""]


def distance(x: Images, y: Images) -> Loss:
    """Mean absolute difference. (The poster writes sums.)"""
    return jnp.abs(x - y).mean()


def identity(c: Images, g_c: Images) -> Loss:
    """R1: nothing is done to instrumental music."""
    return distance(g_c, c)


def idempotence(g_a: Images, g_g_a: Images) -> Loss:
    """R2: nothing is done to what is left of a mixture."""
    return distance(g_g_a, g_a)


def accompaniment_kept(c: Images, g_abar: Images) -> Loss:
    """R3: what is left of a synthetic mixture is its music."""
    return distance(g_abar, c)


def voice_taken(b: Images, abar: Images, g_abar: Images) -> Loss:
    """R4: what is taken off a synthetic mixture is the voice in it."""
    return distance(taken_off(abar, g_abar), b)


def deceives(fake: Sequence[Maps]) -> Loss:
    """GAN_C of g(a), GAN_A of synthetic mixtures: how far what a discriminator says of them is from “real”, over its scales.

    By least squares, as in the code; the poster leaves the loss open.
    """
    return jnp.stack([((said - 1) ** 2).mean() for said in fake]).sum()


def told_apart(fake: Sequence[Maps], real: Sequence[Maps]) -> Loss:
    """What a discriminator learns: 0 of what was made, 1 of what was recorded."""
    return jnp.stack([(said**2).mean() for said in fake]).sum() + deceives(real)


# --- training ------------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """All that is ever seen: mixtures, and music that has nothing to do with them. There is no place for a voice."""

    mixture: Float[Array | np.ndarray, "B T F"]  # a
    music: Float[Array | np.ndarray, "B T F"]  # c


class State(NamedTuple):
    """What training carries. Of discriminators there are those whose losses are switched on, by the names of `critics_of`."""

    generator: Parts
    critics: dict[str, PyTree]  # their parameters
    optimisers: tuple[optax.OptState, optax.OptState]  # of the generator and of the discriminators
    pools: dict[str, Pool]


def optimiser(config: IdempotentMasker) -> optax.GradientTransformation:
    """Adam, whose gradients have the penalty in them, and whose rate is halved at times; for either side."""
    rate = optax.exponential_decay(config.rate, config.halved, 0.5, staircase=True)
    return optax.chain(optax.add_decayed_weights(config.decay), optax.adam(rate, 0.5, 0.999))


def critics_of(config: IdempotentMasker) -> dict[str, float]:
    """The discriminators that there are, C of g(a) and A of synthetic mixtures, and their weights."""
    weights = {"C": config.weights.GAN_C, "A": config.weights.GAN_A}
    return {name: weight for name, weight in weights.items() if weight}


def init(config: IdempotentMasker, key: Key[Array, ""]) -> State:
    """Networks that have learned nothing yet. (Not jitted: dozens of draws of numbers in one program take minutes to compile.)"""
    of_generator, of_critics = jax.random.split(key)
    generator = Parts(*nnx.split(Generator(config, nnx.Rngs(of_generator)), nnx.Param, nnx.BatchStat)[1:])
    names = critics_of(config)
    keys = dict(zip(names, jax.random.split(of_critics, len(names)), strict=True)) if names else {}
    critics = {name: nnx.state(Discriminator(config, nnx.Rngs(key)), nnx.Param) for name, key in keys.items()}
    optimisers = optimiser(config).init(generator.parameters), optimiser(config).init(critics)
    pools = {name: Pool(jnp.zeros((config.pool, config.frames, config.bins)), jnp.zeros((), jnp.int32)) for name in names}
    return State(generator, critics, optimisers, pools if config.pool else {})


class Made(NamedTuple):
    """What g makes of a batch, and the distances by the names of their losses."""

    accompaniment: Images  # g(a)
    voice: Images  # b
    synthetic: Images  # b + c
    again: Images | None  # g(g(a))
    music: Images | None  # g(c)
    losses: dict[str, Loss]


def make(g: Callable[[Images], Images], batch: Batch, weights: Weights) -> Made:
    """One look at a batch: a and c go through g together, and then g(a) and b + c, as far as there are losses for them."""
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
    """The sum of losses as they count."""
    return sum((losses[name] * np.float32(weights[name]) for name in losses), jnp.zeros(()))


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: IdempotentMasker, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, dict[str, Loss]]:
    """One iteration: a step of the discriminators, then one of the generator, against the discriminators as they are now.

    Returns:
        What is carried; and the losses: those of `LOSSES` that are switched on, D_C and D_A of the discriminators before their
        step, and loss, what the generator's step makes smaller.
    """
    weights, critics = vars(config.weights), critics_of(config)

    def look(parameters: PyTree) -> tuple[tuple[Loss, dict[str, Images]], tuple[dict[str, Loss], PyTree]]:
        # Copies of the statistics, for variables are moved only where they were made.
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
        # One program for each, for in loops convolutions of a CPU are many times slower.
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
    return np.float32(weight) * told_apart(*zip(*(jnp.split(of, 2) for of in said), strict=True))


def _deceived(config: IdempotentMasker, fake: Images, critic: PyTree, weight: float) -> Loss:
    return np.float32(weight) * deceives(nnx.merge(abstract(Discriminator, config).graph, critic)(fake))


def _from_pools(pools: dict[str, Pool], fake: dict[str, Images], key: Key[Array, ""]) -> tuple[dict[str, Pool], dict[str, Images]]:
    """What is shown to each discriminator."""
    if not pools:
        return pools, fake
    keys = dict(zip(fake, jax.random.split(key, len(fake)), strict=True))
    found = {name: shown(pools[name], images, keys[name]) for name, images in fake.items()}
    return {name: pool for name, (pool, _) in found.items()}, {name: images for name, (_, images) in found.items()}


def _moved(config: IdempotentMasker, gradient: PyTree, carried: Any, parameters: PyTree) -> tuple[PyTree, Any]:
    change, carried = optimiser(config).update(gradient, carried, parameters)
    return optax.apply_updates(parameters, change), carried


@partial(jax.jit, static_argnames=("config",))
def measure(config: IdempotentMasker, parts: Parts, batch: Batch) -> dict[str, Loss]:
    """Distances of a batch at work, by running statistics, and their sum as they count, which is called loss.

    A mask of ones has none of them: only discriminators speak against it, so no training is told by them when it is best. Also
    changed_twice, |g(g(a)) - g(a)| over |g(a)|, and changed_music, |g(c) - c| over |c|, of compressed magnitudes; and taken, the
    share of the mixtures that is taken off.
    """
    made = make(lambda x: masked(predict(config, parts, x), x), batch, Weights())
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
