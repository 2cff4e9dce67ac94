"""Time-frequency mask from a bidirectional LSTM: the frequency-domain separator of paper 001 (section III-A).

Magnitudes of 25 ms frames, 10 ms apart, pass through bidirectional LSTM layers; a linear layer with a sigmoid turns them into a
speech mask. The mask is applied to the complex spectrogram of the mixture; the music is the remainder. The paper states neither
the loss nor the number of masks: here there is one mask, and the loss is that of `conv_tasnet`, so that the two can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Key, PyTree

from bayessep.errors import UserError
from bayessep.models.precision import check_precision, linear
from bayessep.models.recurrent import Lstm
from bayessep.models.waveform_separation import Batch, Metrics, State, abstract, check_rate, learn, started
from bayessep.stft import Stft, istft, stft


@dataclass(frozen=True)
class BlstmMask:
    """Sizes; the defaults are paper 001's.

    Attributes:
        layers: bidirectional LSTM layers.
        units: units per direction.
        window, hop: of the spectrogram, in samples: 25 ms and 10 ms at 16 kHz.
        precision: of the factors of matrix products; ``bfloat16`` is for hardware that multiplies it faster.
        rate, steps: Adam's learning rate, and the steps of its cosine decay to zero; 0 keeps it constant.

    Raises:
        UserError: the precision is not known, or a number is out of range.
    """

    layers: int = 5
    units: int = 320
    window: int = 400
    hop: int = 160
    precision: str = "float32"
    rate: float = 1e-3
    steps: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "units", "window", "hop"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        check_precision(self.precision)
        check_rate(self.rate, self.steps)
        _ = self.stft

    @property
    def stft(self) -> Stft:
        """Transform on whose bins and frames the mask is defined."""
        return Stft(n_fft=self.window, hop=self.hop, pad_end=True)

    @property
    def context(self) -> int:
        """Context in samples on each side of a window: a second at 16 kHz, as the memory of an LSTM has no sharp end."""
        return 100 * self.hop


PRESETS = {"paper": BlstmMask(), "small": BlstmMask(2, 160)}
"""The network of paper 001, and one that two CPU cores can train."""


class Network(nnx.Module):
    """Stack of bidirectional LSTM layers: magnitudes to speech masks."""

    def __init__(self, config: BlstmMask, rngs: nnx.Rngs) -> None:
        bins, units = config.stft.n_bins, config.units
        sizes = [bins] + [2 * units] * (config.layers - 1)
        self.forward = nnx.List([Lstm(n, units, rngs) for n in sizes])
        self.backward = nnx.List([Lstm(n, units, rngs) for n in sizes])
        self.precision = config.precision
        self.linear = nnx.Linear(2 * units, bins, rngs=rngs)

    def __call__(self, magnitude: Float[Array, "B T F"], valid: Bool[Array, "T b"] | None = None) -> Float[Array, "B T F"]:
        x = magnitude.swapaxes(0, 1)
        for forward, backward in zip(self.forward, self.backward, strict=True):
            both = forward(x, False, valid, self.precision), backward(x, True, valid, self.precision)
            x = jnp.concatenate(both, axis=-1)
        return jax.nn.sigmoid(linear(self.linear, x, self.precision)).swapaxes(0, 1)


def graph(config: BlstmMask) -> nnx.GraphDef:
    """Graph definition of the network, without parameters."""
    return abstract(Network, config).graph


def parameter_count(config: BlstmMask) -> int:
    """Number of trainable parameters."""
    return abstract(Network, config).size


def separated(
    config: BlstmMask, parameters: PyTree, mixture: Float[Array, "B N"], length: Array | None = None
) -> Float[Array, "B 2 N"]:
    """Separate mixtures into speech and music, which sum to the mixture.

    `length` as in `conv_tasnet.separated`, except that the last hop differs slightly from that of the recording alone, as one more
    frame contributes to it.
    """
    spectrum = stft(mixture, config.stft)
    frames = jnp.arange(spectrum.shape[1])[:, None]
    valid = None if length is None else frames < jnp.atleast_1d(-(-length // config.hop) + 1)[None]
    mask = nnx.merge(graph(config), parameters)(jnp.abs(spectrum), valid)
    masked = lax.complex(spectrum.real * mask, spectrum.imag * mask)
    speech = istft(masked, config.stft, mixture.shape[-1])
    return jnp.stack([speech, mixture - speech], axis=1)


@partial(jax.jit, static_argnames=("config",))
def predict(
    config: BlstmMask, parameters: PyTree, mixture: Float[Array, "B N"], length: Array | None = None
) -> Float[Array, "B 2 N"]:
    """Compiled `separated`."""
    return separated(config, parameters, mixture, length)


def init(config: BlstmMask, key: Key[Array, ""]) -> State:
    """Return a freshly initialised network and optimiser."""
    return started(Network(config, nnx.Rngs(key)), config.rate, config.steps)


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: BlstmMask, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
    """Take one step of Adam on the negative mean SI-SDR of both sources; it is deterministic, and ignores the key."""
    return learn(partial(separated, config), config.rate, state, batch, steps=config.steps)
