"""Networks of speech-music detectors from the literature: from patches of features to a vector (`speech_music_detector`).

| name | network | source |
|---|---|---|
| b1 | four convolutions, four dense layers | Doukhan et al., MIREX 2018 |
| b2 | three convolutions, two wide dense layers | Papakostas, Giannakopoulos, 2018 |
| b3 | temporal convolutions in 24 residual blocks | Lemaire, Holzapfel, ISMIR 2019 |
| b4 | mel-band-shaped kernels, three convolutions, two dense layers | Jang et al., 2019 |
| b4-nofc | b4 without its dense layers | paper 003, section III-D |
| frames | b3's blocks on long segments: a vector for every 40 ms | the model that ships |

Sizes and details follow the code of paper 003's authors, with which its results were obtained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

from bayessep.errors import UserError
from bayessep.features import mel_filters
from bayessep.models.image_layers import in_pairs
from bayessep.stft import Stft

NETWORKS = ("b1", "b2", "b3", "b4", "b4-nofc", "frames")
STRIDE = 4
"""Frames of features per output vector of the network ``frames``."""
HEADS = ("single", "multi", "cascaded")


@dataclass(frozen=True)
class Detector:
    """Network, heads, and shape of the input.

    Attributes:
        network: one of `NETWORKS`.
        head: one of `HEADS`: classes only; multi-task; or multi-task with the ratio fed to the other two related tasks.
        width: dimension D of a frame of features.
        parts: 2 if features of the harmonic and the percussive part are concatenated.
        length: frames L of a patch.
        dropout: of b3 and frames; the authors of b3 drew one between 0.05 and 0.5 for each training.
        classes: 3 as in the paper, or 4 with neither speech nor music.
        rate: learning rate of Adam; 0 takes the optimiser of the paper's code for each network.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    network: str = "b3"
    head: str = "multi"
    width: int = 240
    parts: int = 2
    length: int = 68
    dropout: float = 0.2
    classes: int = 3
    rate: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("network", NETWORKS), ("head", HEADS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is not known; choose one of {', '.join(known)}.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}, but must be at least 0 and below 1.")
        if self.classes not in (3, 4):
            raise UserError(f"classes is {self.classes}, but must be 3 or 4.")
        if not 0 <= self.rate < 1:
            raise UserError(f"rate is {self.rate}, but must be at least 0 and below 1.")
        if self.width < 1 or self.length < 1 or self.parts not in (1, 2) or self.width % self.parts:
            raise UserError(f"{self.width} numbers a frame, of {self.parts} parts, {self.length} frames: impossible.")
        if self.network == "frames" and self.length < STRIDE:
            raise UserError(f"the network frames needs {STRIDE} frames at least, not {self.length}.")


# --- layers --------------------------------------------------------------------------------------------------------------

GLOROT = nnx.initializers.glorot_uniform()
_SMALL, _ABOVE_ZERO = nnx.initializers.normal(0.01), nnx.initializers.constant(0.1)


def _three_wide(key: Key[Array, ""], shape: tuple[int, int], dtype: Any = jnp.float32) -> Float[Array, "a b"]:
    """Glorot uniform initialisation of a convolution of three taps, laid out as one matrix."""
    return GLOROT(key, (3, shape[0] // 3, shape[1]), dtype).reshape(shape)


Noise = nnx.Rngs | None
"""Random keys for dropout in training mode; None means inference mode, which is deterministic."""


def batch_norm(n: int, rngs: nnx.Rngs, momentum: float = 0.9) -> nnx.BatchNorm:
    """Batch normalisation with Keras's epsilon, as in the authors' code, but running statistics that settle in tens of steps.

    With Keras's momentum of 0.99 they take hundreds: after 300 steps, activations of the deepest of these networks still had a
    different scale in testing than in training, and it called everything speech.
    """
    return nnx.BatchNorm(n, momentum=momentum, epsilon=1e-3, rngs=rngs)


def normalised(norm: nnx.BatchNorm, x: Array, noise: Noise) -> Array:
    """Normalise by batch statistics in training mode, else by running statistics."""
    return norm(x, use_running_average=noise is None)


def _dropped(dropout: nnx.Dropout, x: Array, noise: Noise) -> Array:
    return dropout(x, deterministic=noise is None, rngs=noise)


class Dense(nnx.Module):
    """Dense layer, batch normalisation, ReLU, dropout."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        dropout: float,
        rngs: nnx.Rngs,
        kernel_init: nnx.Initializer = GLOROT,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
    ) -> None:
        self.linear = nnx.Linear(n_in, n_out, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)
        self.norm = batch_norm(n_out, rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Float[Array, "*B n"], noise: Noise = None) -> Float[Array, "*B m"]:
        return _dropped(self.dropout, nnx.relu(normalised(self.norm, self.linear(x), noise)), noise)


def _seen(x: Float[Array, "... n"], size: Sequence[int], strides: Sequence[int]) -> list[Float[Array, "... n"]]:
    """Strided slices of x, one for each position of a kernel that moves over the axes before the last without padding."""
    moved = x.shape[-1 - len(size) : -1]
    ends = [(n - k) // stride * stride + 1 for n, k, stride in zip(moved, size, strides, strict=True)]

    def at(place: tuple[int, ...]) -> Float[Array, "... n"]:
        return x[(..., *(slice(k, k + end, by) for k, end, by in zip(place, ends, strides, strict=True)), slice(None))]

    return [at(place) for place in np.ndindex(*size)]


def convolved(
    x: Float[Array, "B *T n"], kernel: Float[Array, "*k n m"], strides: Sequence[int], padding: str
) -> Float[Array, "B *S m"]:
    """1-D or 2-D convolution; on a CPU, a sum of one matrix product per kernel position.

    With the channel counts of most layers here, its gradients are faster than XLA's, as examples are processed one by one and stay
    in the cache. The most common kernel takes fewer products (`in_pairs`). Such a loop does not shard over several devices, which
    therefore use XLA's convolution.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        names = ("NWC", "WIO", "NWC") if x.ndim == 3 else ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names)
    size = kernel.shape[:-2]
    if size == (3, 3) and set(strides) == {1} and min(kernel.shape[2:]) >= WIDE:
        return _in_pairs(x, kernel, padding)
    around = jnp.pad(x, ((0, 0), *lax.padtype_to_pads(x.shape[1:-1], size, strides, padding), (0, 0)))

    @jax.checkpoint  # storing the slices of every kernel position would multiply the memory
    def one(example: Float[Array, "*T n"]) -> Float[Array, "*S m"]:
        seen = _seen(example, size, strides)
        if example.shape[-1] < WIDE:
            return jnp.concatenate(seen, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
        return reduce(add, (x @ kernel[at] for x, at in zip(seen, np.ndindex(*size), strict=True)))

    return lax.map(one, around)


WIDE = 16
"""Channels from which one product per kernel position, or `in_pairs`, pays off; with fewer, all positions share one product."""
CELLS = 1024
"""Output cells convolved at a time: with fewer, reading the kernel dominates; more do not fit into the cache."""


def _in_pairs(x: Float[Array, "B F T n"], kernel: Float[Array, "3 3 n m"], padding: str) -> Float[Array, "B G S m"]:
    """`convolved` for 3×3 kernels of stride 1; odd output sizes are padded by a row or column, which is cut off again."""
    edges = lax.padtype_to_pads(x.shape[1:-1], (3, 3), (1, 1), padding)
    made = [n + sum(edge) - 2 for n, edge in zip(x.shape[1:-1], edges, strict=True)]
    even = [(before, after + n % 2) for (before, after), n in zip(edges, made, strict=True)]
    some = min(len(x), -(-CELLS // math.prod(made)))
    around = jnp.pad(x, ((0, -len(x) % some), *even, (0, 0)))
    found = lax.map(lambda part: in_pairs(part, kernel), around.reshape(-1, some, *around.shape[1:]))
    return found.reshape(-1, *found.shape[2:])[: len(x), : made[0], : made[1]]


class Kernels(nnx.Module):
    """2-D convolution with trainable kernel and bias."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: tuple[int, int],
        padding: str,
        rngs: nnx.Rngs,
        stride: int = 1,
        kernel_init: nnx.Initializer = GLOROT,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
    ) -> None:
        self.strides, self.padding = (stride, stride), padding
        self.kernel = nnx.Param(kernel_init(rngs.params(), (*size, n_in, n_out)))
        self.bias = nnx.Param(bias_init(rngs.params(), (n_out,)))

    def __call__(self, x: Float[Array, "B F T n"]) -> Float[Array, "B G S m"]:
        return convolved(x, self.kernel[...], self.strides, self.padding) + self.bias[...]


class Convolution(nnx.Module):
    """Convolution over frequency and time, batch normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int], padding: str, rngs: nnx.Rngs) -> None:
        self.convolution = Kernels(n_in, n_out, kernel, padding, rngs)
        self.norm = batch_norm(n_out, rngs)

    def __call__(self, x: Float[Array, "B F T n"], noise: Noise = None) -> Float[Array, "B G S m"]:
        return nnx.relu(normalised(self.norm, self.convolution(x), noise))


def _through(layers: Iterable[Callable[[Array, Noise], Array]], x: Array, noise: Noise) -> Array:
    for layer in layers:
        x = layer(x, noise)
    return x


def _maximum(
    x: Float[Array, "B F T n"], window: tuple[int, int], strides: tuple[int, int] | None = None, padding: str = "VALID"
) -> Float[Array, "B G S n"]:
    """Max pooling, for windows no larger than the picture; equal maxima share the gradient.

    It is computed term by term, as the gradients of XLA's own take several times as long on a CPU.
    """
    strides = strides or window
    edges = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    around = jnp.pad(x, ((0, 0), *edges, (0, 0)), constant_values=-np.inf)
    return reduce(jnp.maximum, _seen(around, window, strides))


def _halved(n: int, times: int = 1) -> int:
    """Size after max pooling by 2 with padding at the end, applied `times` times."""
    return -(-n // 2**times)


def _flat(config: Detector, channels: int, bins: int, frames: int) -> int:
    """Size of the flattened output of the convolutions.

    Raises:
        UserError: it is empty, because the patch is smaller than the kernels.
    """
    if bins < 1 or frames < 1:
        raise UserError(f"{config.network} cannot look at {config.length} frames of {config.width}: its kernels are larger.")
    return channels * bins * frames


def _picture(x: Float[Array, "B L D"]) -> Float[Array, "B D L 1"]:
    return x.swapaxes(1, 2)[..., None]


# --- networks: patches to vectors -----------------------------------------------------------------------------------------


class B1(nnx.Module):
    """Doukhan et al.: convolutions with small kernels, then max pooling over 12 frames, all that remains of the paper's patches."""

    def __init__(self, config: Detector, rngs: nnx.Rngs) -> None:
        sizes = ((1, 64, (4, 5)), (64, 128, (3, 3)), (128, 128, (3, 3)), (128, 256, (3, 3)))
        self.convolutions = nnx.List([Convolution(*size, "VALID", rngs) for size in sizes])
        bins = _halved((config.width - 3) // 2 - 4) - 2
        left = _flat(config, 256, bins, (_halved((config.length - 4) // 2 - 4) - 2) // 12)
        self.dense = nnx.List(
            [Dense(left if n == 0 else 512, 512, rate, rngs) for n, rate in enumerate((0.2, 0.3, 0.4, 0.5))]
        )
        self.n_out = 512

    def __call__(self, x: Float[Array, "B L D"], noise: Noise = None) -> Float[Array, "B n"]:
        one, two, three, four = self.convolutions
        y = _maximum(one(_picture(x), noise), (2, 2))
        y = _maximum(three(two(y, noise), noise), (2, 2), padding="SAME")
        y = _maximum(four(y, noise), (1, 12))
        return _through(self.dense, y.reshape(len(y), -1), noise)


def _normalised_locally(x: Float[Array, "B F T n"]) -> Float[Array, "B F T n"]:
    """Local response normalisation over the 11 surrounding channels (TensorFlow's, radius 5)."""
    energy = lax.reduce_window(x**2, 0.0, lax.add, (1, 1, 1, 11), (1, 1, 1, 1), "SAME")
    root = lax.rsqrt(1 + 1e-4 * energy)
    return x * root * jnp.sqrt(root)  # power -3/4 by roots, which are much faster than powers


class B2(nnx.Module):
    """Papakostas and Giannakopoulos: an image network with two dense layers of 4096; its output layer starts like the others'."""

    def __init__(self, config: Detector, rngs: nnx.Rngs) -> None:
        def convolution(n_in: int, n_out: int, size: int, stride: int, padding: str) -> Kernels:
            return Kernels(n_in, n_out, (size, size), padding, rngs, stride, _SMALL, _ABOVE_ZERO)

        self.one = convolution(1, 96, 5, 2, "VALID")
        self.two = convolution(96, 384, 3, 2, "VALID")
        self.three = convolution(384, 512, 3, 1, "SAME")
        bins, frames = (_halved((_halved((n - 3) // 2) - 1) // 2, 2) for n in (config.width, config.length))
        left = _flat(config, 512, bins, frames)
        self.dense = nnx.List([Dense(n, 4096, 0.5, rngs, _SMALL, _ABOVE_ZERO) for n in (left, 4096)])
        self.n_out = 4096

    def __call__(self, x: Float[Array, "B L D"], noise: Noise = None) -> Float[Array, "B n"]:
        y = _picture(x)
        for layer in (self.one, self.two):
            y = _maximum(nnx.relu(_normalised_locally(layer(y))), (3, 3), (2, 2), "SAME")
        y = _maximum(nnx.relu(self.three(y)), (3, 3), (2, 2), "SAME")
        return _through(self.dense, y.reshape(len(y), -1), noise)


class TemporalBlock(nnx.Module):
    """Residual block with a dilated convolution over time."""

    def __init__(self, n: int, dilation: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.dilation = dilation
        self.dilated = nnx.Linear(3 * n, n, kernel_init=_three_wide, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, broadcast_dims=(1,))  # whole channels
        self.mix = nnx.Linear(n, n, kernel_init=GLOROT, rngs=rngs)

    def __call__(self, x: Float[Array, "B L n"], noise: Noise = None) -> Float[Array, "B L n"]:
        # Three shifted copies and a matrix product compile in half the time of a dilated convolution, with faster gradients.
        around = jnp.pad(x, ((0, 0), (self.dilation, self.dilation), (0, 0)))
        copies = [lax.slice_in_dim(around, k * self.dilation, k * self.dilation + x.shape[1], axis=1) for k in range(3)]
        y = nnx.relu(self.dilated(jnp.concatenate(copies, axis=-1)))
        y = y / (jnp.abs(y).max(-1, keepdims=True) + 1e-5)
        return x + self.mix(_dropped(self.dropout, y, noise))


class B3(nnx.Module):
    """Lemaire and Holzapfel: temporal convolutional network of three stacks of blocks with dilations 1, 2, ..., 128."""

    channels = 32

    def __init__(self, config: Detector, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(config.width, self.channels, kernel_init=GLOROT, rngs=rngs)
        dilations = [2**k for _ in range(3) for k in range(8)]
        self.blocks = nnx.List([TemporalBlock(self.channels, d, config.dropout, rngs) for d in dilations])
        self.n_out = config.length * self.channels

    def __call__(self, x: Float[Array, "B L D"], noise: Noise = None) -> Float[Array, "B n"]:
        y = _through(self.blocks, self.first(x), noise)
        return nnx.relu(y).reshape(len(y), -1)


class Frames(nnx.Module):
    """B3's blocks over a long segment, with a vector for every `STRIDE` frames; the receptive field is 5 s to each side.

    Lemaire and Holzapfel's own network also has an output for every frame; paper 003 applied it to patches.
    """

    channels = 48

    def __init__(self, config: Detector, rngs: nnx.Rngs) -> None:
        self.norm = batch_norm(config.width, rngs, momentum=0.99)
        self.first = nnx.Linear(config.width, self.channels, kernel_init=GLOROT, rngs=rngs)
        dilations = [2**k for _ in range(2) for k in range(6)]
        self.blocks = nnx.List([TemporalBlock(self.channels, d, config.dropout, rngs) for d in dilations])
        self.n_out = self.channels

    def __call__(self, x: Float[Array, "B L D"], noise: Noise = None) -> Float[Array, "B S n"]:
        whole = x[:, : x.shape[1] // STRIDE * STRIDE]
        pooled = whole.reshape(len(x), -1, STRIDE, x.shape[2]).mean(2)
        return nnx.relu(_through(self.blocks, self.first(normalised(self.norm, pooled, noise)), noise))


def _bands(n_bins: int, bands: int) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Non-zero weights of mel filters at 16 kHz, with their bins and bands."""
    filters = mel_filters(Stft(n_fft=2 * (n_bins - 1), hop=160), 16000, bands)
    bins, band = np.nonzero(filters)
    return filters[bins, band], bins, band


class MelKernels(nnx.Module):
    """Convolution with mel-shaped kernels: three per band, of five frames over the band's bins, initialised with the mel filter."""

    def __init__(self, n_bins: int, bands: int) -> None:
        self.n_bins, self.bands = n_bins, bands
        weights, *_ = _bands(n_bins, bands)
        self.weights = nnx.Param(jnp.asarray(np.tile(weights[:, None, None], (1, 5, 3))))

    def __call__(self, x: Float[Array, "B L F"]) -> Float[Array, "B M L 3"]:
        _, bins, band = _bands(self.n_bins, self.bands)
        kernel = jnp.zeros((5, self.n_bins, self.bands, 3), x.dtype).at[:, bins, band].set(self.weights[...].swapaxes(0, 1))
        y = convolved(x, kernel.reshape(5, self.n_bins, -1), (1,), "SAME")
        return y.reshape(*y.shape[:2], self.bands, 3).swapaxes(1, 2)


class B4(nnx.Module):
    """Jang et al.: learned mel bands, then ordinary convolutions, and two dense layers (or none)."""

    def __init__(self, config: Detector, rngs: nnx.Rngs) -> None:
        bands = 64 if config.parts == 1 else 120
        self.parts = config.parts
        self.bands = nnx.List([MelKernels(config.width // config.parts, bands) for _ in range(config.parts)])
        self.convolutions = nnx.List([Convolution(a, b, (3, 3), "SAME", rngs) for a, b in ((3, 32), (32, 64), (64, 128))])
        self.dropout = nnx.Dropout(0.4)
        left = _flat(config, 128, _halved(config.parts * bands, 3), _halved(config.length, 3))
        wide = () if config.network == "b4-nofc" else ((left, 2048), (2048, 1024))
        self.dense = nnx.List([Dense(a, b, 0.4, rngs) for a, b in wide])
        self.n_out = wide[-1][1] if wide else left

    def __call__(self, x: Float[Array, "B L D"], noise: Noise = None) -> Float[Array, "B n"]:
        halves = jnp.split(x, self.parts, axis=-1)
        y = jnp.tanh(jnp.concatenate([bands(half) for bands, half in zip(self.bands, halves, strict=True)], axis=1))
        for layer in self.convolutions:
            y = _maximum(_dropped(self.dropout, layer(y, noise), noise), (2, 2), padding="SAME")
        return _through(self.dense, y.reshape(len(y), -1), noise)


MADE = {"b1": B1, "b2": B2, "b3": B3, "b4": B4, "b4-nofc": B4, "frames": Frames}
"""Network classes by the names of `NETWORKS`."""
