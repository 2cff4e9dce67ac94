"""Attention-based encoder-decoder speech recogniser of paper 001 (sections III-B, IV-B).

The encoder passes log-mel features through two convolutions that keep every fourth frame, bidirectional LSTM layers and layer
normalisation. The decoder attends to the encoder states with location-aware attention (Chorowski et al., 2015), predicts a label,
and is then fed that label (teacher forcing in training, the hypothesis in beam search). Labels are the output units into which a
vocabulary divides words (`bayessep.vocabulary`); the first two begin and end every utterance, and both are predicted.

| here | Chorowski et al., 2015 | shape |
|---|---|---|
| `heard` (encoder states) | h | B S E |
| `attention` (weights) | α | B S |
| `glimpse` (context vector) | g | B E |
| `said`, `state` (hidden states of the two decoder layers) | s | B D |

Padding changes nothing: features beyond the end of an utterance are masked, in training as well.
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
from bayessep.models.recurrent import Lstm, lstm_step, uniform
from bayessep.models.waveform_separation import check_rate, optimiser
from bayessep.stft import Stft

BEGIN, END = 0, 1
"""Labels of the start and the end of every utterance."""
LIMIT, SECONDS = 10_000, 60
"""Longest utterance, in labels and in seconds; the latter because a matrix in attention grows with the square of the length."""


@dataclass(frozen=True)
class AttentionAsr:
    """Sizes; the defaults are paper 001's.

    Attributes:
        labels: number of labels K, including `BEGIN` and `END`.
        layers: bidirectional LSTM layers of the encoder.
        units: per direction of the encoder's LSTM, and in each of the decoder's two layers.
        channels: of both convolutions.
        attention: dimension in which the attention energies are computed.
        filters, reach: number and width (in encoder states) of the convolution kernels over the previous attention weights.
        dropout: between LSTM layers of the encoder.
        smoothing: label smoothing ε, shared among all other labels.
        mels: number of mel bands.
        window, hop, sample_rate: of the spectrogram, in samples, and in Hz.
        peak: peak amplitude to which each utterance is scaled; the authors' code scales separated speech only.
        rate, steps: Adam's learning rate, and the steps of its cosine decay to zero; 0 keeps it constant.

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
        """Transform without centring: the first frame starts at the first sample, the last is the last complete one."""
        return Stft(n_fft=self.window, hop=self.hop, center=False)

    def unsmoothed(self, probability: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
        """Undo label smoothing: map a network's probabilities back to label probabilities p.

        A network that fits the smoothed targets perfectly outputs (1 - ε) p + ε (1 - p) / (K - 1).
        """
        other = self.smoothing / (self.labels - 1)
        return np.clip((probability - other) / (1 - self.smoothing - other), 0.0, 1.0)

    @property
    def shortest(self) -> int:
        """Fewest samples of an utterance: those that give one encoder state."""
        return self.window + 6 * self.hop


PRESETS = {
    "paper": AttentionAsr(),
    "small": AttentionAsr(labels=40, layers=2, units=96, channels=16, attention=96, reach=20),
}
"""The paper's 30.5 million parameters, and a network that learns a few words on two CPU cores. Set `labels` to the vocabulary's."""


class Batch(NamedTuple):
    """Padded utterances and their label sequences; the padding may hold any values."""

    waveform: Float[Array | np.ndarray, "B N"]
    samples: Int[Array | np.ndarray, " B"]  # of each utterance, without padding
    labels: Int[Array | np.ndarray, "B L"]  # `BEGIN`, …, `END`
    length: Int[Array | np.ndarray, " B"]  # number of labels, without padding


class State(NamedTuple):
    """Training state."""

    parameters: PyTree
    statistics: PyTree  # running means and variances of batch normalisation
    optimiser: optax.OptState


class Metrics(NamedTuple):
    """Metrics of a batch: loss, mean cross-entropy per label, and label accuracy under teacher forcing."""

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    right: Float[Array, ""]


def within(size: int, count: Int[Array, " B"]) -> Bool[Array, "B {size}"]:
    """Padding mask: True at the first `count` of `size` positions of each utterance."""
    return jnp.arange(size)[None] < count[:, None]


# --- encoder -------------------------------------------------------------------------------------------------------------


def state_count(config: AttentionAsr, samples: Int[Array, " B"]) -> Int[Array, " B"]:
    """Number S of encoder states (one for every fourth frame) of utterances with the given numbers of samples."""
    frames = (samples - config.window) // config.hop + 1
    for _ in range(2):
        frames = (frames - 3) // 2 + 1
    return jnp.maximum(frames, 0)


def features(config: AttentionAsr, waveform: Float[Array, "B N"], samples: Int[Array, " B"]) -> Float[Array, "B T M"]:
    """Log-mel features of utterances, each first scaled to the peak amplitude `AttentionAsr.peak`."""
    heard = jnp.where(within(waveform.shape[1], samples), waveform, jnp.float32(0))
    greatest = jnp.abs(heard).max(1, keepdims=True)
    return log_mel(heard * (config.peak / jnp.maximum(greatest, 1e-8)), config.stft, config.sample_rate, config.mels)


class Convolution(nnx.Module):
    """Convolution of stride 2 in time and frequency, batch normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(uniform(rngs.params(), (3, 3, n_in, n_out), 9 * n_in))
        self.bias = nnx.Param(uniform(rngs.params(), (n_out,), 9 * n_in))
        self.norm = nnx.BatchNorm(n_out, momentum=0.9, rngs=rngs)

    def __call__(self, x: Float[Array, "B T M n"], valid: Bool[Array, "B t"], noise: Noise) -> Float[Array, "B t m k"]:
        around = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
        y = convolved(around, self.kernel[...], (2, 2), "VALID") + self.bias[...][None, None, None]
        return nnx.relu(self.norm(y, use_running_average=noise is None, mask=valid[:, :, None, None]))


class Encoder(nnx.Module):
    """Encoder: log-mel features to encoder states."""

    def __init__(self, config: AttentionAsr, rngs: nnx.Rngs) -> None:
        self.config = config
        self.convolutions = nnx.List([Convolution(1, config.channels, rngs), Convolution(config.channels, config.channels, rngs)])
        sizes = [-(-config.mels // 4) * config.channels] + [2 * config.units] * (config.layers - 1)
        self.forward = nnx.List([Lstm(n, config.units, rngs) for n in sizes])
        self.backward = nnx.List([Lstm(n, config.units, rngs) for n in sizes])
        self.dropout = nnx.Dropout(config.dropout)
        self.norm = nnx.LayerNorm(2 * config.units, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "B T M"], count: Int[Array, " B"], noise: Noise = None) -> Float[Array, "B S E"]:
        """Encoder states, of which the first `count` of each utterance are valid (see `state_count`) and the rest are zero."""
        y = x[..., None]
        for layer, double in zip(self.convolutions, (2, 1), strict=True):
            # For `count` valid outputs, the second convolution reads 2 count + 1 frames of the first.
            y = layer(y, within((y.shape[1] - 3) // 2 + 1, count * double + double - 1), noise)
        inside = within(y.shape[1], count).T
        y = y.reshape(*y.shape[:2], -1).swapaxes(0, 1)
        for n, (forward, backward) in enumerate(zip(self.forward, self.backward, strict=True)):
            if n:
                y = self.dropout(y, deterministic=noise is None, rngs=noise)
            y = jnp.concatenate([forward(y, False, inside), backward(y, True, inside)], axis=-1)
        return jnp.where(inside[..., None], self.norm(y), jnp.float32(0)).swapaxes(0, 1)


# --- decoder -------------------------------------------------------------------------------------------------------------


class DecoderState(NamedTuple):
    """Decoder state between labels: hidden and cell states of both LSTM layers, and the last attention weights."""

    said: Float[Array, "B D"]
    said_cell: Float[Array, "B D"]
    state: Float[Array, "B D"]
    state_cell: Float[Array, "B D"]
    attention: Float[Array, "B S"]


class EncoderMemory(NamedTuple):
    """Encoder states, with everything the decoder derives from them once per utterance."""

    states: Float[Array, "B S E"]  # encoder states
    keys: Float[Array, "B S A"]  # their projection for the attention energies, V h + b
    inside: Bool[Array, "B S"]  # padding mask
    bands: Float[Array, "S Z"]  # of `Attention.bands`


class Attention(nnx.Module):
    """Location-aware attention: weights from the first decoder layer, the encoder states and the previous weights."""

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
        """Convolution over S encoder states as a matrix (Z = S × filters), which is faster on a CPU in the loop over labels."""
        apart = np.arange(size)[:, None] - np.arange(size) + self.reach // 2
        within = (apart >= 0) & (apart < self.reach)
        taken = self.kernel[...][np.clip(apart, 0, self.reach - 1)]
        return jnp.where(within[..., None], taken, jnp.float32(0)).reshape(size, -1)

    def __call__(self, heard: EncoderMemory, said: Float[Array, "B D"], before: Float[Array, "B S"]) -> Float[Array, "B S"]:
        seen = (before @ heard.bands).reshape(*before.shape, -1) @ self.of_before[...]
        compared = jnp.tanh((said @ self.of_said[...])[:, None] + heard.keys + seen)
        return jax.nn.softmax(jnp.where(heard.inside, compared @ self.energy[...], jnp.float32(-1e9)))


class Decoder(nnx.Module):
    """Two-layer LSTM decoder with attention; one label per step."""

    def __init__(self, config: AttentionAsr, rngs: nnx.Rngs) -> None:
        d, e = config.units, 2 * config.units
        self.attend = Attention(config, rngs)
        self.of_glimpse = nnx.Linear(e, d, rngs=rngs)
        self.of_state = nnx.Linear(d, d, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(d, config.labels, rngs=rngs)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.labels, 4 * d)))  # straight to the gates
        self.enter_said = nnx.Param(uniform(rngs.params(), (d + e, 4 * d), d + e))
        self.enter_state = nnx.Param(uniform(rngs.params(), (2 * d + e, 4 * d), 2 * d + e))
        self.bias_said = nnx.Param(uniform(rngs.params(), (4 * d,), d))
        self.bias_state = nnx.Param(uniform(rngs.params(), (4 * d,), d))
        self.units = d

    def prepare(self, heard: Float[Array, "B S E"], count: Int[Array, " B"]) -> EncoderMemory:
        """Compute everything that is the same at every label."""
        attend = self.attend
        inside, bias = within(heard.shape[1], count), attend.bias[...][None, None]
        return EncoderMemory(heard, heard @ attend.of_heard[...] + bias, inside, attend.bands(heard.shape[1]))

    def begin(self, heard: EncoderMemory) -> DecoderState:
        """Initial decoder state: all zeros."""
        nothing = jnp.zeros((len(heard.states), self.units))
        return DecoderState(nothing, nothing, nothing, nothing, jnp.zeros(heard.inside.shape))

    def attended(
        self, heard: EncoderMemory, memory: DecoderState
    ) -> tuple[Float[Array, "B D"], Float[Array, "B S"], Float[Array, "B E"]]:
        """Attend, and return the features for the output layer (`logits`), the attention weights and the context vector."""
        attention = self.attend(heard, memory.said, memory.attention)
        glimpse = jnp.einsum("bs,bse->be", attention, heard.states)
        return jnp.tanh(self.of_glimpse(glimpse) + self.of_state(memory.state)), attention, glimpse

    def logits(self, looked: Float[Array, "*B D"]) -> Float[Array, "*B K"]:
        """Logits of the next label."""
        return self.out(looked)

    def embedded(self, label: Int[Array, "*B"]) -> Float[Array, "*B _"]:
        """Label embedding, as `advance` adds it to the gates of the first layer."""
        return self.embedding[...][label]

    def advance(
        self, memory: DecoderState, embedded: Float[Array, "B _"], attention: Float[Array, "B S"], glimpse: Float[Array, "B E"]
    ) -> DecoderState:
        """Advance both LSTM layers by one step, given the embedding of the label and the context vector."""
        entered = jnp.concatenate([memory.said, glimpse], axis=-1) @ self.enter_said[...] + self.bias_said[...][None]
        said, said_cell = lstm_step(entered + embedded, memory.said_cell)
        entered = jnp.concatenate([said, memory.state, glimpse], axis=-1) @ self.enter_state[...] + self.bias_state[...][None]
        state, state_cell = lstm_step(entered, memory.state_cell)
        return DecoderState(said, said_cell, state, state_cell, attention)


class Recogniser(nnx.Module):
    """Complete recogniser: encoder and decoder."""

    def __init__(self, config: AttentionAsr, rngs: nnx.Rngs) -> None:
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)

    def __call__(
        self, x: Float[Array, "B T M"], count: Int[Array, " B"], labels: Int[Array, "B L"], noise: Noise = None
    ) -> Float[Array, "B L K"]:
        """Logits of every label under teacher forcing."""
        heard = self.decoder.prepare(self.encoder(x, count, noise), count)

        @jax.checkpoint  # storing the attention activations of every label would take L times the memory
        def one(memory: DecoderState, embedded: Float[Array, "B _"]) -> tuple[DecoderState, Float[Array, "B D"]]:
            looked, attention, glimpse = self.decoder.attended(heard, memory)
            return self.decoder.advance(memory, embedded, attention, glimpse), looked

        # With many labels, embedding and output layer are large; inside the scan their gradients would be summed at every step.
        embedded = self.decoder.embedded(labels.swapaxes(0, 1))
        return self.decoder.logits(lax.scan(one, self.decoder.begin(heard), embedded)[1]).swapaxes(0, 1)


@lru_cache
def _split(config: AttentionAsr) -> tuple[nnx.GraphDef, PyTree, PyTree]:
    graph, parameters, statistics = nnx.split(nnx.eval_shape(lambda: Recogniser(config, nnx.Rngs(0))), nnx.Param, nnx.BatchStat)
    return graph, parameters, statistics


def graph(config: AttentionAsr) -> nnx.GraphDef:
    """Graph definition of the network, without parameters."""
    return _split(dataclasses.replace(config, rate=AttentionAsr.rate, steps=0))[0]


def parameter_count(config: AttentionAsr) -> int:
    """Number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(_split(config)[1]))


# --- training ------------------------------------------------------------------------------------------------------------


def init(config: AttentionAsr, key: Key[Array, ""]) -> State:
    """Return a freshly initialised recogniser and optimiser."""
    _, parameters, statistics = nnx.split(Recogniser(config, nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
    return State(parameters, statistics, optimiser(config.rate, config.steps).init(parameters))


def again(config: AttentionAsr, state: State) -> State:
    """Keep the recogniser's parameters and reset the optimiser."""
    return state._replace(optimiser=optimiser(config.rate, config.steps).init(state.parameters))


def losses(
    config: AttentionAsr, parameters: PyTree, statistics: PyTree, batch: Batch, key: Key[Array, ""] | None = None
) -> tuple[Metrics, PyTree]:
    """Return the metrics of a batch and the new running statistics.

    The loss is cross-entropy with label smoothing, summed over labels and utterances as in the authors' code. With a key, the
    network runs in training mode (dropout, batch statistics); without one, in inference mode.
    """
    model = nnx.merge(graph(config), parameters, statistics, copy=True)
    labels, length = jnp.asarray(batch.labels), jnp.asarray(batch.length)
    samples = jnp.asarray(batch.samples)
    x = features(config, jnp.asarray(batch.waveform), samples)
    said = model(x, state_count(config, samples), labels, None if key is None else nnx.Rngs(key))
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
    """Take one step of Adam; the metrics are those before it."""

    def loss(parameters: PyTree) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        found, statistics = losses(config, parameters, state.statistics, batch, key)
        return found.loss, (found, statistics)

    gradient, (found, statistics) = jax.grad(loss, has_aux=True)(state.parameters)
    change, carried = optimiser(config.rate, config.steps).update(gradient, state.optimiser, state.parameters)
    return State(optax.apply_updates(state.parameters, change), statistics, carried), found


@partial(jax.jit, static_argnames=("config",))
def measure(config: AttentionAsr, state: State, batch: Batch) -> Metrics:
    """Metrics in inference mode."""
    return losses(config, state.parameters, state.statistics, batch)[0]
