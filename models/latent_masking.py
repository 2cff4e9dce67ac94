"""GLO masking, a baseline of paper 002: separation by generative latent optimisation with one generator per source.

Halperin, Ephrat, Hoshen, “Neural separation of observed and unobserved distributions” (2019), after Bojanowski et al. (2018).
First, a music generator is trained jointly with a latent vector for each music image. Then it is frozen; for each mixture, a latent
vector of its music and one of its voice are learned, together with a second generator for the voices, so that both outputs sum to
the mixture. The mask of the music is its share of that sum in each cell. Nothing keeps the second generator from producing music
too, which limits the method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from bayessep.errors import UserError
from bayessep.models.idempotent_masker import Loss, magnitudes
from bayessep.models.image_layers import Conv, LayerNorm
from bayessep.models.waveform_separation import abstract

DOUBLED = 4  # number of upsampling layers, from the first feature maps to the image


@dataclass(frozen=True)
class LatentMasking:
    """Sizes of both generators, and training settings.

    Attributes:
        bins, frames: size of an image, F and T.
        latent: dimension Z of the latent vectors.
        channels: channels of the last feature maps; the first have eight times as many.
        rate: Adam's learning rate for the generators; that of the latent vectors is ten times as high.

    Raises:
        UserError: a number is out of range.
    """

    bins: int = 256
    frames: int = 64
    latent: int = 64
    channels: int = 8
    rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("latent", "channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        for name in ("bins", "frames"):
            if getattr(self, name) < 3 * 2**DOUBLED or getattr(self, name) % 2**DOUBLED:
                least = 3 * 2**DOUBLED
                raise UserError(f"{name} is {getattr(self, name)}, but must be a multiple of {2**DOUBLED}, and at least {least}.")
        if not 0 < self.rate < math.inf:
            raise UserError(f"rate is {self.rate}, but must be above 0, and finite.")


class Maker(nnx.Module):
    """Generator: maps latent vectors, normalised to unit length, to magnitudes in 0 … 1."""

    def __init__(self, config: LatentMasking, rngs: nnx.Rngs) -> None:
        c = config.channels
        self.size = config.frames // 2**DOUBLED, config.bins // 2**DOUBLED
        widths = [max(1, 8 >> n) * c for n in range(DOUBLED + 1)]
        wide = math.prod(self.size) * widths[0]
        self.enter = nnx.Param(jax.random.normal(rngs.params(), (config.latent, wide)))
        self.up = nnx.List([Conv(rngs, 5, *pair) for pair in zip(widths[:-1], widths[1:], strict=True)])
        self.norms = nnx.List([LayerNorm(rngs, n) for n in widths[1:]])
        self.leave = Conv(rngs, 3, widths[-1], 1)

    def __call__(self, latent: Float[Array, "B Z"]) -> Float[Array, "B T F"]:
        z = latent / jnp.maximum(jnp.linalg.norm(latent, axis=1, keepdims=True), np.float32(1e-6))
        x = nnx.relu(z @ self.enter[...]).reshape(len(z), *self.size, -1)
        for layer, norm in zip(self.up, self.norms, strict=True):
            x = nnx.relu(norm(layer(x, larger=True)))
        return nnx.sigmoid(self.leave(x))[..., 0]


class Part(NamedTuple):
    """One generator with its latent vectors."""

    maker: PyTree  # parameters of the generator
    latent: Float[Array, "n Z"]  # one vector per image


class Learned(NamedTuple):
    """Trainable variables: one generator with its latent vectors and, for mixtures, the latent vectors of their music."""

    own: Part
    music: Float[Array, "n Z"] | None


class State(NamedTuple):
    """Training state."""

    learned: Learned
    optimiser: optax.OptState


class Batch(NamedTuple):
    """Images and their indices."""

    number: Int[Array | np.ndarray, " B"]
    image: Float[Array | np.ndarray, "B T F"]


@partial(jax.jit, static_argnames=("config",))
def made(config: LatentMasking, maker: PyTree, latent: Float[Array, "B Z"]) -> Float[Array, "B T F"]:
    """Generate magnitudes from latent vectors."""
    return nnx.merge(abstract(Maker, config).graph, maker)(latent)


def _optimiser(config: LatentMasking) -> optax.GradientTransformation:
    rates: dict[Any, Any] = {"maker": optax.adam(config.rate, 0.5, 0.999), "latent": optax.adam(10 * config.rate, 0.5, 0.999)}

    def kinds(learned: Any) -> Any:
        latent = jax.tree.map(lambda _: "latent", learned)
        return latent._replace(own=latent.own._replace(maker=jax.tree.map(lambda _: "maker", learned.own.maker)))

    return optax.multi_transform(rates, kinds)


@partial(jax.jit, static_argnames=("config", "images", "mixed"))
def init(config: LatentMasking, key: Key[Array, ""], images: int, mixed: bool = False) -> State:
    """Initialise a generator and random latent vectors for a number of images, which are mixtures if `mixed`."""
    of_maker, of_own, of_music = jax.random.split(key, 3)
    own = Part(nnx.split(Maker(config, nnx.Rngs(of_maker)))[1], jax.random.normal(of_own, (images, config.latent)))
    learned: Any = Learned(own, jax.random.normal(of_music, (images, config.latent)) if mixed else None)
    return State(learned, _optimiser(config).init(learned))


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(
    config: LatentMasking, state: State, batch: Batch, key: Key[Array, ""], kept: PyTree | None = None
) -> tuple[State, dict[str, Loss]]:
    """Take one step of Adam on the L1 error of music images, or of mixtures, whose music the frozen generator `kept` makes.

    The key is not used.
    """
    del key
    rows, y = jnp.asarray(batch.number), magnitudes(jnp.asarray(batch.image))

    def loss(learned: Learned) -> Loss:
        found = made(config, learned.own.maker, learned.own.latent[rows])
        if learned.music is not None:
            found = found + made(config, kept, learned.music[rows])
        return jnp.abs(found - y).mean()

    learned: Any = state.learned
    found, gradient = jax.value_and_grad(loss)(learned)
    change, carried = _optimiser(config).update(gradient, state.optimiser, learned)
    moved: Any = optax.apply_updates(learned, change)
    return State(moved, carried), {"loss": found}


@partial(jax.jit, static_argnames=("config",))
def shares(config: LatentMasking, kept: PyTree, state: State, number: Int[Array, " B"]) -> Float[Array, "B T F"]:
    """Music mask of the mixtures with the given indices: the share of music in each cell, 0.5 where both outputs are zero."""
    own, latent = state.learned
    if latent is None:
        raise ValueError("shares are those of mixtures; this state is of music alone")
    music, voice = made(config, kept, latent[number]), made(config, own.maker, own.latent[number])
    both = music + voice
    return jnp.where(both > 0, music / jnp.where(both > 0, both, 1), 0.5)
