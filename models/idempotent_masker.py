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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from bayessep.errors import UserError
from bayessep.models.image_layers import Conv, InstanceNorm, LayerNorm, Maps, Residual, narrow, pooled
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

    def milder(self, times: float) -> Weights:
        """The same with so many times as much of R1 to R4: with less, more is taken off after few steps.

        Raises:
            UserError: a weight is negative, or no number.
        """
        return dataclasses.replace(self, **{name: times * getattr(self, name) for name in ("R1", "R2", "R3", "R4")})


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
        listening: steps in which discriminators learn alone, before all others (`masker_training.listen`).
        logit: of masks at first, about: the bias of the generator's last layer.

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
    listening: int = 0
    logit: float = 0.0

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
        if self.listening < 0 or not math.isfinite(self.logit):
            raise UserError(f"listening is {self.listening}, logit {self.logit}: the first must be at least 0, the other finite.")


PRESETS = {
    "paper": IdempotentMasker(),
    "small": IdempotentMasker(frames=64, hop=256, channels=8, blocks=1, critic=16, rate=2e-4, listening=3000, logit=2.0),
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
        self.leave.bias[...] += config.logit

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


def begin(config: IdempotentMasker, key: Key[Array, ""]) -> Parts:
    """A generator that has learned nothing yet."""
    return Parts(*nnx.split(Generator(config, nnx.Rngs(key)), nnx.Param, nnx.BatchStat)[1:])


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
