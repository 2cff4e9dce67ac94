"""Masking network for singing voice separation, trained without isolated voices or matched pairs.

Michelashvili, Benaim, Wolf, “Semi-supervised monaural singing voice separation with a masking network trained on synthetic
mixtures” (2019), paper 002: the network g masks a mixture a so that the accompaniment remains; b = a - g(a) is the voice estimate.
It learns from mixtures a and unmatched instrumental music c: g leaves c (R1) and g(a) (R2) unchanged; from the synthetic mixture
b + c it keeps c (R3) and removes b (R4); g(a) should sound like c (GAN_C), and b + c like a mixture (GAN_A). Sizes, weights and
all that the poster leaves open follow the authors' code. Images are magnitudes y from 0 to 1, compressed (to the power 0.3) and
mapped to 2 y - 1, from -1 to 1; masks, sums and differences act on y.

Two things differ from that code, with the same training: g(a) and the synthetic mixture are computed once for the discriminators
and the generator, as g does not change between their steps; and independent images pass through g in one batch, as its norms
treat each image alone. Running statistics differ: there, each pass through g moves them, five in a step, two of which see a; here
two batches do, less the images of losses that are switched off. So a switched-off loss changes what g does at inference, too.
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
"""Spectrogram images from -1 (silence) to 1."""


@dataclass(frozen=True)
class Weights:
    """Loss weights of the generator; the discriminators' losses use those of GAN_C and GAN_A.

    Raises:
        UserError: a weight is negative or not finite.
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
        """Switch some losses off, as in the ablations of table 3.

        Raises:
            UserError: there is no such loss, or none remains.
        """
        if unknown := [name for name in names if name not in LOSSES]:
            raise UserError(f"there is no loss {unknown[0]!r}; there are {', '.join(LOSSES)}.")
        return dataclasses.replace(self, **dict.fromkeys(names, 0.0))

    def milder(self, times: float) -> Weights:
        """Scale the weights of R1 to R4; with smaller ones, more is removed after few steps.

        Raises:
            UserError: a weight is negative or not finite.
        """
        return dataclasses.replace(self, **{name: times * getattr(self, name) for name in ("R1", "R2", "R3", "R4")})


LOSSES = tuple(f.name for f in dataclasses.fields(Weights))


@dataclass(frozen=True)
class IdempotentMasker:
    """Sizes of the three networks and their images, and training settings.

    Attributes:
        bins: frequency bins F of an image; the transform has 2 F samples, and its Nyquist bin is dropped.
        frames: frames T of an image.
        hop: hop of the frames in samples.
        channels: channels of the generator's first layer; the next two have twice and four times as many.
        blocks: residual blocks of the encoder, and again of the decoder.
        critic: channels of the discriminators' first layer.
        layers: stride-2 layers of a discriminator, each with twice the channels of the one before.
        scales: scales of a discriminator, each at half the resolution of the one before.
        weights: loss weights.
        rate: learning rate of both Adam optimisers.
        decay: factor of the L2 penalty: this share of each parameter is added to its gradient.
        halved: steps after which the learning rate is halved, repeatedly.
        pool: size of the replay buffer, from which discriminators see an earlier image in half of the cases; 0: no buffer.
        listening: steps of discriminator pre-training, before all others (`masker_training.pretrain`).
        logit: added to the bias of the generator's last layer: roughly the logit of the initial masks.

    Raises:
        UserError: a number is out of range, or images cannot be halved as often as the networks do.
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
        if not 0 < self.rate < math.inf:
            raise UserError(f"rate is {self.rate}, but must be above 0, and finite.")
        for name in ("decay", "pool", "listening"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 0, and finite.")
        if not math.isfinite(self.logit):
            raise UserError(f"logit is {self.logit}, but must be finite.")


PRESETS = {
    "paper": IdempotentMasker(),
    "small": IdempotentMasker(frames=64, hop=256, channels=8, blocks=1, critic=16, rate=2e-4, listening=3000, logit=2.0),
}
"""The paper's 11.1 million parameters, plus 8.3 million per discriminator; and a CPU version, with images of equal duration."""


# --- images --------------------------------------------------------------------------------------------------------------


def magnitudes(x: Images) -> Images:
    """Map images from -1 … 1 to compressed magnitudes 0 … 1, on which masks, sums and differences act."""
    return (x + 1) / 2


def image(y: Images) -> Images:
    """Map compressed magnitudes 0 … 1 to images -1 … 1, on which distances are measured."""
    return 2 * y - 1


def masked(mask: Images, x: Images) -> Images:
    """Apply a mask, 0 to 1, to an image."""
    return image(mask * magnitudes(x))


def added(x: Images, y: Images) -> Images:
    """Add two images, clipped at 1: synthetic mixtures."""
    return image(jnp.clip(magnitudes(x) + magnitudes(y), 0, 1))


def taken_off(x: Images, y: Images) -> Images:
    """Subtract y from x, clipped at 0: the voice estimate b, from a and g(a)."""
    return image(jnp.clip(magnitudes(x) - magnitudes(y), 0, 1))


# --- networks ------------------------------------------------------------------------------------------------------------


class Generator(nnx.Module):
    """Network g: a mask in 0 … 1 for every cell, by two stride-2 convolutions, residual blocks and twofold upsampling."""

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
    """Multi-scale patch discriminator: score maps of an image at several scales; 1 means real."""

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
    """Variables of a generator."""

    parameters: PyTree  # trainable
    statistics: PyTree  # running means and variances of instance normalisation


def begin(config: IdempotentMasker, key: Key[Array, ""]) -> Parts:
    """Return a freshly initialised generator."""
    return Parts(*nnx.split(Generator(config, nnx.Rngs(key)), nnx.Param, nnx.BatchStat)[1:])


def size_of(kind: type[Generator] | type[Discriminator], config: IdempotentMasker) -> int:
    """Number of trainable parameters, counted without allocating them."""
    parameters = nnx.state(nnx.eval_shape(lambda: kind(config, nnx.Rngs(0))), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


@partial(jax.jit, static_argnames=("config", "own"))
def predict(config: IdempotentMasker, parts: Parts, images: Images, own: bool = False) -> Images:
    """Accompaniment masks, 0 to 1: normalised by running statistics, or, as in training, each image by its `own`.

    Running statistics, which the authors' code uses, are those of songs, music and masked images alike.
    """
    statistics = jax.tree.map(jnp.array, parts.statistics)  # a copy, as learning changes them
    return nnx.merge(abstract(Generator, config).graph, parts.parameters, statistics)(images, own)


# --- losses --------------------------------------------------------------------------------------------------------------

Loss = Float[Array, ""]


def distance(x: Images, y: Images) -> Loss:
    """Mean absolute difference (the poster writes sums)."""
    return jnp.abs(x - y).mean()


def identity(c: Images, g_c: Images) -> Loss:
    """R1: g leaves instrumental music unchanged."""
    return distance(g_c, c)


def idempotence(g_a: Images, g_g_a: Images) -> Loss:
    """R2: g leaves its own output g(a) unchanged."""
    return distance(g_g_a, g_a)


def accompaniment_kept(c: Images, g_abar: Images) -> Loss:
    """R3: g recovers the music of a synthetic mixture."""
    return distance(g_abar, c)


def voice_taken(b: Images, abar: Images, g_abar: Images) -> Loss:
    """R4: what g removes from a synthetic mixture is the voice in it."""
    return distance(taken_off(abar, g_abar), b)


def generator_loss(fake: Sequence[Maps]) -> Loss:
    """Generator's adversarial loss: squared distance of the scores from 1 (“real”), summed over scales.

    This is GAN_C for g(a) and GAN_A for synthetic mixtures. Least squares (LSGAN) as in the code; the poster leaves the loss open.
    """
    return jnp.stack([((said - 1) ** 2).mean() for said in fake]).sum()


def discriminator_loss(fake: Sequence[Maps], real: Sequence[Maps]) -> Loss:
    """Discriminator's LSGAN loss: target 0 for generated images and 1 for real ones, summed over scales."""
    return jnp.stack([(said**2).mean() for said in fake]).sum() + generator_loss(real)
