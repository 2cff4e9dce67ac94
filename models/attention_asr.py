"""Speech to labels by attention: the recogniser of paper 001 (sections III-B, IV-B).

Log-mel features go through two convolutions that keep every fourth frame, layers of LSTM in both directions and a normalisation;
the decoder looks at what comes out through attention that knows where it looked before (Chorowski et al., 2015), says a label, and
is told which one it was. Labels are what a vocabulary makes of words (`bayessep.vocabulary`); the first two of them begin and end
every utterance, and both are said.

| here | Chorowski et al., 2015 | shape |
|---|---|---|
| `heard` | h | B S E |
| `attention` | α | B S |
| `glimpse` | g | B E |
| `said`, `state` | s of both layers | B D |

Padding changes nothing: features beyond the end of an utterance are not looked at, in training neither.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from bayessep.errors import UserError
from bayessep.features import log_mel
from bayessep.models.detector_networks import Noise, convolved
from bayessep.models.recurrent import Lstm, remembered, uniform
from bayessep.models.waveform_separation import check_rate, optimiser
from bayessep.stft import Stft

BEGIN, END = 0, 1
"""Labels that begin and end every utterance."""
LIMIT, SECONDS = 10_000, 60
"""Of an utterance, at most: labels; and seconds, for attention holds a matrix of the square of its places."""


@dataclass(frozen=True)
class AttentionAsr:
    """Sizes; the defaults are paper 001's.

    Attributes:
        labels: that there are, `BEGIN` and `END` among them (K).
        layers: of LSTM in both directions.
        units: of each of their directions, and of both layers of the decoder.
        channels: of both convolutions.
        attention: width of what places are compared in.
        filters, reach: kernels that see where was looked before, and how many places each of them sees.
        dropout: between layers of the encoder.
        smoothing: of the truth, given to all other labels.
        mels: bands of the features.
        window, hop, sample_rate: of their spectrogram.
        peak: an utterance is scaled to it first; the authors' code does so to speech that was separated, and only to that.
        rate, steps: of Adam, and in which its rate falls to nothing; 0: it stays.

    Raises:
        UserError: a number is out of range.
    """

    labels: int = 9515
    layers: int = 5
    units: int = 320
    channels: int = 32
    attention: int = 640
    filters: int = 10
    reach: int = 100
    dropout: float = 0.2
    smoothing: float = 0.1
    mels: int = 40
    window: int = 400
    hop: int = 160
    sample_rate: int = 16_000
    peak: float = 0.5
    rate: float = 1e-3
    steps: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "units", "channels", "attention", "filters", "reach", "window", "hop", "sample_rate"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.labels < 3:
            raise UserError(f"labels is {self.labels}, but must be at least 3: two of them begin and end an utterance.")
        if self.mels < 4:
            raise UserError(f"mels is {self.mels}, but must be at least 4: two convolutions keep every fourth.")
        for name, most in (("dropout", 1.0), ("smoothing", 1 - 1 / self.labels)):  # smoothed by so much, all labels are alike
            if not 0 <= getattr(self, name) < most:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 0 and below {most:g}.")
        if not 0 < self.peak <= 1:
            raise UserError(f"peak is {self.peak}, but must be above 0, and at most 1.")
        check_rate(self.rate, self.steps)
        _ = self.stft

    @property
    def stft(self) -> Stft:
        """Frames that begin with the first sample and end with the last that fills one."""
        return Stft(n_fft=self.window, hop=self.hop, center=False)

    def unsmoothed(self, probability: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
        """How likely labels are, of the probabilities that a network gives them which has learned the smoothed truth best.

        It gives (1 - ε) p + ε (1 - p) / (K - 1) to a label of the probability p.
        """
        other = self.smoothing / (self.labels - 1)
        return np.clip((probability - other) / (1 - self.smoothing - other), 0.0, 1.0)

    @property
    def shortest(self) -> int:
        """Samples of an utterance, at least: those of one place."""
        return self.window + 6 * self.hop


PRESETS = {
    "paper": AttentionAsr(),
    "small": AttentionAsr(labels=40, layers=2, units=96, channels=16, attention=96, reach=20),
}
"""The paper's 30.5 million parameters, and what learns a few words on two cores. Labels are as many as a vocabulary has."""


class Batch(NamedTuple):
    """Utterances and what is said in them; behind their ends may be anything."""

    waveform: Float[Array | np.ndarray, "B N"]
    samples: Int[Array | np.ndarray, " B"]  # of each that are speech
    labels: Int[Array | np.ndarray, "B L"]  # `BEGIN`, …, `END`
    length: Int[Array | np.ndarray, " B"]  # of these labels


class State(NamedTuple):
    """What training carries."""

    parameters: PyTree
    statistics: PyTree  # running means and variances of batch normalisation
    optimiser: optax.OptState


class Metrics(NamedTuple):
    """Of a batch: the loss, cross-entropy of a label, and the share of labels that were likeliest, with those before it known."""

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    right: Float[Array, ""]


def within(size: int, count: Int[Array, " B"]) -> Bool[Array, "B {size}"]:
    """Which of so many are among the first of each utterance."""
    return jnp.arange(size)[None] < count[:, None]


# --- what is heard -------------------------------------------------------------------------------------------------------


def places(config: AttentionAsr, samples: Int[Array, " B"]) -> Int[Array, " B"]:
    """How many places the decoder can look at, one for every fourth frame: S of utterances of so many samples."""
    frames = (samples - config.window) // config.hop + 1
    for _ in range(2):
        frames = (frames - 3) // 2 + 1
    return jnp.maximum(frames, 0)


def features(config: AttentionAsr, waveform: Float[Array, "B N"], samples: Int[Array, " B"]) -> Float[Array, "B T M"]:
    """Log-mel features of utterances, each scaled to `AttentionAsr.peak`."""
    heard = jnp.where(within(waveform.shape[1], samples), waveform, jnp.float32(0))
    greatest = jnp.abs(heard).max(1, keepdims=True)
    return log_mel(heard * (config.peak / jnp.maximum(greatest, 1e-8)), config.stft, config.sample_rate, config.mels)


class Convolution(nnx.Module):
    """Every second frame and band: a convolution, batch normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(uniform(rngs.params(), (3, 3, n_in, n_out), 9 * n_in))
        self.bias = nnx.Param(uniform(rngs.params(), (n_out,), 9 * n_in))
        self.norm = nnx.BatchNorm(n_out, momentum=0.9, rngs=rngs)

    def __call__(self, x: Float[Array, "B T M n"], valid: Bool[Array, "B t"], noise: Noise) -> Float[Array, "B t m k"]:
        around = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
        y = convolved(around, self.kernel[...], (2, 2), "VALID") + self.bias[...][None, None, None]
        return nnx.relu(self.norm(y, use_running_average=noise is None, mask=valid[:, :, None, None]))


class Encoder(nnx.Module):
    """From features to what places are heard as."""

    def __init__(self, config: AttentionAsr, rngs: nnx.Rngs) -> None:
        self.config = config
        self.convolutions = nnx.List([Convolution(1, config.channels, rngs), Convolution(config.channels, config.channels, rngs)])
        sizes = [-(-config.mels // 4) * config.channels] + [2 * config.units] * (config.layers - 1)
        self.forward = nnx.List([Lstm(n, config.units, rngs) for n in sizes])
        self.backward = nnx.List([Lstm(n, config.units, rngs) for n in sizes])
        self.dropout = nnx.Dropout(config.dropout)
        self.norm = nnx.LayerNorm(2 * config.units, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "B T M"], count: Int[Array, " B"], noise: Noise = None) -> Float[Array, "B S E"]:
        """What is heard of each place; `count` of each utterance are its own (`places`), and the others are silent."""
        y = x[..., None]
        for layer, double in zip(self.convolutions, (2, 1), strict=True):
            # Of what the first makes, the second looks at twice as many and one.
            y = layer(y, within((y.shape[1] - 3) // 2 + 1, count * double + double - 1), noise)
        inside = within(y.shape[1], count).T
        y = y.reshape(*y.shape[:2], -1).swapaxes(0, 1)
        for n, (forward, backward) in enumerate(zip(self.forward, self.backward, strict=True)):
            if n:
                y = self.dropout(y, deterministic=noise is None, rngs=noise)
            y = jnp.concatenate([forward(y, False, inside), backward(y, True, inside)], axis=-1)
        return jnp.where(inside[..., None], self.norm(y), jnp.float32(0)).swapaxes(0, 1)


# --- what is said --------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """What the decoder carries from label to label: hidden and cell of both layers, and where it looked."""

    said: Float[Array, "B D"]
    said_cell: Float[Array, "B D"]
    state: Float[Array, "B D"]
    state_cell: Float[Array, "B D"]
    attention: Float[Array, "B S"]


class Heard(NamedTuple):
    """What the decoder looks at, and what of it does not change from label to label."""

    places: Float[Array, "B S E"]
    compared: Float[Array, "B S A"]
    inside: Bool[Array, "B S"]
    bands: Float[Array, "S Z"]  # of `Attention.bands`


class Attention(nnx.Module):
    """Where to look: by what was said, by what is heard, and by where was looked before."""

    def __init__(self, config: AttentionAsr, rngs: nnx.Rngs) -> None:
        d, e, a = config.units, 2 * config.units, config.attention
        self.reach = config.reach
        self.of_said = nnx.Param(uniform(rngs.params(), (d, a), d))
        self.of_heard = nnx.Param(uniform(rngs.params(), (e, a), e))
        self.bias = nnx.Param(uniform(rngs.params(), (a,), e))
        self.kernel = nnx.Param(uniform(rngs.params(), (config.reach, config.filters), config.reach))
        self.of_before = nnx.Param(uniform(rngs.params(), (config.filters, a), config.filters))
        self.energy = nnx.Param(uniform(rngs.params(), (a,), a))

    def bands(self, size: int) -> Float[Array, "S Z"]:
        """The convolution over S places as a matrix (Z = S times filters): in a loop over labels a CPU is faster so."""
        apart = np.arange(size)[:, None] - np.arange(size) + self.reach // 2
        within = (apart >= 0) & (apart < self.reach)
        taken = self.kernel[...][np.clip(apart, 0, self.reach - 1)]
        return jnp.where(within[..., None], taken, jnp.float32(0)).reshape(size, -1)

    def __call__(self, heard: Heard, said: Float[Array, "B D"], before: Float[Array, "B S"]) -> Float[Array, "B S"]:
        seen = (before @ heard.bands).reshape(*before.shape, -1) @ self.of_before[...]
        compared = jnp.tanh((said @ self.of_said[...])[:, None] + heard.compared + seen)
        return jax.nn.softmax(jnp.where(heard.inside, compared @ self.energy[...], jnp.float32(-1e9)))


class Decoder(nnx.Module):
    """Two layers of LSTM that say labels."""

    def __init__(self, config: AttentionAsr, rngs: nnx.Rngs) -> None:
        d, e = config.units, 2 * config.units
        self.attend = Attention(config, rngs)
        self.of_glimpse = nnx.Linear(e, d, rngs=rngs)
        self.of_state = nnx.Linear(d, d, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(d, config.labels, rngs=rngs)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.labels, 4 * d)))  # of gates at once
        self.enter_said = nnx.Param(uniform(rngs.params(), (d + e, 4 * d), d + e))
        self.enter_state = nnx.Param(uniform(rngs.params(), (2 * d + e, 4 * d), 2 * d + e))
        self.bias_said = nnx.Param(uniform(rngs.params(), (4 * d,), d))
        self.bias_state = nnx.Param(uniform(rngs.params(), (4 * d,), d))
        self.units = d

    def listens(self, heard: Float[Array, "B S E"], count: Int[Array, " B"]) -> Heard:
        """What is the same for all labels."""
        attend = self.attend
        inside, bias = within(heard.shape[1], count), attend.bias[...][None, None]
        return Heard(heard, heard @ attend.of_heard[...] + bias, inside, attend.bands(heard.shape[1]))

    def begin(self, heard: Heard) -> Memory:
        """Nothing was said and nowhere was looked."""
        nothing = jnp.zeros((len(heard.places), self.units))
        return Memory(nothing, nothing, nothing, nothing, jnp.zeros(heard.inside.shape))

    def looks(self, heard: Heard, memory: Memory) -> tuple[Float[Array, "B D"], Float[Array, "B S"], Float[Array, "B E"]]:
        """What `says` makes the next label of, where it looks for it, and what it sees there."""
        attention = self.attend(heard, memory.said, memory.attention)
        glimpse = jnp.einsum("bs,bse->be", attention, heard.places)
        return jnp.tanh(self.of_glimpse(glimpse) + self.of_state(memory.state)), attention, glimpse

    def says(self, looked: Float[Array, "*B D"]) -> Float[Array, "*B K"]:
        """Logits of labels."""
        return self.out(looked)

    def embedded(self, label: Int[Array, "*B"]) -> Float[Array, "*B _"]:
        """What `told` is told of a label."""
        return self.embedding[...][label]

    def told(
        self, memory: Memory, embedded: Float[Array, "B _"], attention: Float[Array, "B S"], glimpse: Float[Array, "B E"]
    ) -> Memory:
        """What is carried on once the label is known."""
        entered = jnp.concatenate([memory.said, glimpse], axis=-1) @ self.enter_said[...] + self.bias_said[...][None]
        said, said_cell = remembered(entered + embedded, memory.said_cell)
        entered = jnp.concatenate([said, memory.state, glimpse], axis=-1) @ self.enter_state[...] + self.bias_state[...][None]
        state, state_cell = remembered(entered, memory.state_cell)
        return Memory(said, said_cell, state, state_cell, attention)


class Recogniser(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: AttentionAsr, rngs: nnx.Rngs) -> None:
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)

    def __call__(
        self, x: Float[Array, "B T M"], count: Int[Array, " B"], labels: Int[Array, "B L"], noise: Noise = None
    ) -> Float[Array, "B L K"]:
        """Logits of every label, where those before it are known."""
        heard = self.decoder.listens(self.encoder(x, count, noise), count)

        @jax.checkpoint  # to keep what is compared at every label would take L times the memory
        def one(memory: Memory, embedded: Float[Array, "B _"]) -> tuple[Memory, Float[Array, "B D"]]:
            looked, attention, glimpse = self.decoder.looks(heard, memory)
            return self.decoder.told(memory, embedded, attention, glimpse), looked

        # Labels are many: what is as large as they are stays outside of the loop, whose gradients add up at every step.
        embedded = self.decoder.embedded(labels.swapaxes(0, 1))
        return self.decoder.says(lax.scan(one, self.decoder.begin(heard), embedded)[1]).swapaxes(0, 1)


@lru_cache
def _split(config: AttentionAsr) -> tuple[nnx.GraphDef, PyTree, PyTree]:
    graph, parameters, statistics = nnx.split(nnx.eval_shape(lambda: Recogniser(config, nnx.Rngs(0))), nnx.Param, nnx.BatchStat)
    return graph, parameters, statistics


def graph(config: AttentionAsr) -> nnx.GraphDef:
    """The network without its numbers."""
    return _split(dataclasses.replace(config, rate=AttentionAsr.rate, steps=0))[0]


def parameter_count(config: AttentionAsr) -> int:
    """Numbers that are learned."""
    return sum(leaf.size for leaf in jax.tree.leaves(_split(config)[1]))


# --- learning ------------------------------------------------------------------------------------------------------------


def init(config: AttentionAsr, key: Key[Array, ""]) -> State:
    """A recogniser that has learned nothing yet."""
    _, parameters, statistics = nnx.split(Recogniser(config, nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
    return State(parameters, statistics, optimiser(config.rate, config.steps).init(parameters))


def again(config: AttentionAsr, state: State) -> State:
    """A recogniser that has learned something, and an optimiser that has not."""
    return state._replace(optimiser=optimiser(config.rate, config.steps).init(state.parameters))


def losses(
    config: AttentionAsr, parameters: PyTree, statistics: PyTree, batch: Batch, key: Key[Array, ""] | None = None
) -> tuple[Metrics, PyTree]:
    """Cross-entropy with smoothed truth, summed over labels and utterances, as in the authors' code; and the running statistics.

    With a key as while training; without, as at work.
    """
    model = nnx.merge(graph(config), parameters, statistics, copy=True)
    labels, length = jnp.asarray(batch.labels), jnp.asarray(batch.length)
    samples = jnp.asarray(batch.samples)
    x = features(config, jnp.asarray(batch.waveform), samples)
    said = model(x, places(config, samples), labels, None if key is None else nnx.Rngs(key))
    likely = jax.nn.log_softmax(said)
    true = jnp.take_along_axis(likely, labels[..., None], -1)[..., 0]
    others = (likely.sum(-1) - true) / (config.labels - 1)
    inside = within(labels.shape[1], length)
    number = jnp.maximum(length.sum(), 1).astype(likely.dtype)
    loss = -jnp.where(inside, (1 - config.smoothing) * true + config.smoothing * others, jnp.float32(0)).sum()
    right = (inside & (said.argmax(-1) == labels)).sum().astype(likely.dtype) / number
    return Metrics(loss, -jnp.where(inside, true, jnp.float32(0)).sum() / number, right), nnx.state(model, nnx.BatchStat)


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: AttentionAsr, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
    """One step of Adam; the losses are those before it."""

    def loss(parameters: PyTree) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        found, statistics = losses(config, parameters, state.statistics, batch, key)
        return found.loss, (found, statistics)

    gradient, (found, statistics) = jax.grad(loss, has_aux=True)(state.parameters)
    change, carried = optimiser(config.rate, config.steps).update(gradient, state.optimiser, state.parameters)
    return State(optax.apply_updates(state.parameters, change), statistics, carried), found


@partial(jax.jit, static_argnames=("config",))
def measure(config: AttentionAsr, state: State, batch: Batch) -> Metrics:
    """The losses at work."""
    return losses(config, state.parameters, state.statistics, batch)[0]
