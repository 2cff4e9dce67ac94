"""Layers of image-to-image networks: convolutions with reflection padding, norms, residual blocks; and a replay buffer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

Maps = Float[Array, "B _ _ _"]
"""Feature maps of shape (B, H, W, C)."""


def convolve(x: Maps, kernel: Float[Array, "h w C D"]) -> Maps:
    """2-D convolution without padding ("valid"), by the fastest algorithm for the platform."""
    height, width, n_in, n_out = kernel.shape
    pairs = (x.shape[1] - height) % 2 == (x.shape[2] - width) % 2 == 1
    large = x.shape[0] * x.shape[1] * x.shape[2] * n_in * n_out >= LARGE
    if large and height == width and height in _PAIRED and pairs:
        return lax.platform_dependent(x, kernel, cpu=in_pairs, default=directly)
    return directly(x, kernel)


LARGE = 10_000_000
"""Multiplications per tap from which `in_pairs` is worth its longer compilation."""


def directly(x: Maps, kernel: Float[Array, "h w C D"]) -> Maps:
    """`convolve` by XLA's own convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Minimal(NamedTuple):
    """Transforms of a minimal filtering algorithm (Winograd): two outputs of a 1-D convolution from `taps + 1` products."""

    inputs: np.ndarray  # input transform (products, taps + 1)
    taps: np.ndarray  # filter transform (products, taps)
    places: np.ndarray  # output transform (2, products)


_PAIRED = {
    2: Minimal(
        np.array([[1, -1, 0], [0, 1, 0], [0, -1, 1]], np.float32),
        np.array([[1, 0], [1, 1], [0, 1]], np.float32),
        np.array([[1, 1, 0], [0, 1, 1]], np.float32),
    ),
    3: Minimal(
        np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32),
        np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32),
        np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32),
    ),
}

Grid = list[list[Array]]
"""Arrays in rows and columns."""


def _sums(weights: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """Linear combinations of arrays, summed term by term, as products with such small matrices are slow."""
    return [reduce(add, (weight * part for weight, part in zip(row, parts, strict=True) if weight)) for row in weights]


def _sums_of_grid(weights: np.ndarray, grid: Grid) -> Grid:
    """Apply a 1-D transform to the columns of a grid, then to its rows."""
    columns = [_sums(weights, column) for column in zip(*grid, strict=True)]
    return [_sums(weights, row) for row in zip(*columns, strict=True)]


def _sums_of_cells(weights: np.ndarray, x: Maps) -> Grid:
    """Apply a 1-D transform along both axes to the windows at every second cell."""
    size = weights.shape[1]

    def every(axis: int) -> list[slice]:
        return [slice(n, x.shape[axis] - size + n + 1, 2) for n in range(size)]

    bands = _sums(weights, [x[:, at] for at in every(1)])
    return [_sums(weights, [band[:, :, at] for at in every(2)]) for band in bands]


def _pairwise(what: Callable[[Array, Array], Array], left: Grid, right: Grid) -> Grid:
    return [[what(*of) for of in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def in_pairs(x: Maps, kernel: Float[Array, "k k C D"]) -> Maps:
    """Winograd version of `convolve` for 2×2 or 3×3 kernels and outputs with an even number of rows and columns.

    It takes 9 matrix products in place of 16, or 16 in place of 36: F(2×2, 2×2) and F(2×2, 3×3) of Lavin and Gray, “Fast algorithms
    for convolutional neural networks” (2016). Its gradients are matrix products too, which a CPU computes much faster than
    convolutions; those of 3×3 kernels are written by hand, so there is no forward mode (`jax.jvp`).
    """
    return (_threes if len(kernel) == 3 else _products)(x, kernel)


def _products(x: Maps, kernel: Float[Array, "k k C D"]) -> Maps:
    by = _PAIRED[len(kernel)]
    taps = _sums_of_grid(by.taps, [list(row) for row in kernel])
    found = _sums_of_grid(by.places, _pairwise(jnp.matmul, _sums_of_cells(by.inputs, x), taps))
    joined = jnp.stack([jnp.stack(row, axis=3) for row in found], axis=2)
    return joined.reshape(len(x), 2 * joined.shape[1], -1, joined.shape[-1])


@jax.custom_vjp
def _threes(x: Maps, kernel: Float[Array, "3 3 C D"]) -> Maps:
    return _products(x, kernel)


def _threes_forward(x: Maps, kernel: Float[Array, "3 3 C D"]) -> tuple[Maps, tuple[Maps, Float[Array, "3 3 C D"]]]:
    return _products(x, kernel), (x, kernel)


def _threes_back(seen: tuple[Maps, Float[Array, "3 3 C D"]], slope: Maps) -> tuple[Maps, Float[Array, "3 3 C D"]]:
    """Backward pass: Winograd convolution for inputs, products of transformed arrays for taps; twice as fast as JAX's."""
    x, kernel = seen
    by = _PAIRED[3]
    whole = jnp.pad(slope, ((0, 0), (2, 2), (2, 2), (0, 0)))
    taps = _pairwise(_correlated, _sums_of_cells(by.inputs, x), _sums_of_cells(by.places.T, slope))
    of_taps = jnp.stack([jnp.stack(row) for row in _sums_of_grid(by.taps.T, taps)])
    return _products(whole, kernel[::-1, ::-1].swapaxes(2, 3)), of_taps


def _correlated(x: Maps, y: Maps) -> Float[Array, "C D"]:
    """Correlation over all cells, on flattened maps: on 4-D maps, XLA transposes the transformed inputs, which is far slower."""
    return lax.dot_general(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), (((0,), (0,)), ((), ())))


_threes.defvjp(_threes_forward, _threes_back)


def halved(x: Maps, kernel: Float[Array, "4 4 C D"]) -> Maps:
    """4×4 convolution of stride 2, as a 2×2 convolution after space-to-depth of 2×2 cells, which is far faster on a CPU."""
    b, h, w, c = x.shape
    cells = x.reshape(b, h // 2, 2, w // 2, 2, c).swapaxes(2, 3).reshape(b, h // 2, w // 2, 4 * c)
    taps = kernel.reshape(2, 2, 2, 2, c, -1).swapaxes(1, 2).reshape(2, 2, 4 * c, -1)
    return convolve(cells, taps)


def _under(x: Float[Array, "... C"], taps: int, axis: int) -> Float[Array, "... {taps}*C"]:
    """Unfold windows of `taps` cells along an axis into channels (im2col)."""
    places = x.shape[axis] - taps + 1
    return jnp.concatenate([lax.slice_in_dim(x, n, n + places, axis=axis) for n in range(taps)], axis=-1)


def from_one(x: Maps, kernel: Float[Array, "k k 1 D"]) -> Maps:
    """Convolution of a single input channel as one matrix product, after unfolding all cells under the kernel into channels."""
    k = len(kernel)
    return _under(_under(x, k, 1), k, 2) @ kernel.swapaxes(0, 1).reshape(k * k, -1)


def to_one(x: Maps, kernel: Float[Array, "k k C 1"]) -> Maps:
    """Convolution to a single output channel: one matrix product with all taps, whose results are then shifted and summed."""
    k, height, width = len(kernel), x.shape[1] - len(kernel) + 1, x.shape[2] - len(kernel) + 1
    found = x @ kernel.reshape(k * k, -1).T
    found = sum((found[:, n : n + height, :, n * k : n * k + k] for n in range(1, k)), found[:, :height, :, :k])
    return sum((found[:, :, n : n + width, n : n + 1] for n in range(1, k)), found[:, :, :width, :1])


def reflected(x: Maps, by: int) -> Maps:
    """Pad height and width by reflection."""
    return jnp.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), mode="reflect") if by else x


# Filter transforms of `doubled`: sums of the five taps, for even and odd rows of the upsampled image (2, 3 taps, 5 taps).
_HALVED = np.array(
    [[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]], np.float32
)


def doubled(x: Maps, kernel: Float[Array, "5 5 C D"]) -> Maps:
    """Nearest-neighbour upsampling by 2, reflection padding and a 5×5 convolution, with 9 matrix products in place of 25.

    Each of the 2×2 phases of the large image is a 3×3 convolution of the small one, whose taps are sums of the kernel's. That pads
    by repeating the edges; reflection differs in the outermost line, which only the outermost cells see and which is corrected.
    """
    taps = jnp.einsum("pai,qbj,ijcd->abcpqd", _HALVED, _HALVED, kernel)
    found = convolve(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge"), taps.reshape(*taps.shape[:3], -1))
    b, h, w, _ = found.shape
    found = found.reshape(b, h, w, 2, 2, -1).swapaxes(2, 3).reshape(b, 2 * h, 2 * w, -1)

    def line(change: Float[Array, "B N C"], taps: Float[Array, "5 C D"], mode: str) -> Float[Array, "B 2*N D"]:
        seen = jnp.pad(jnp.repeat(change, 2, axis=1), ((0, 0), (2, 2), (0, 0)), mode=mode)
        return _under(seen, len(taps), 1) @ taps.reshape(-1, taps.shape[-1])

    for edge, next_to_it in ((0, 1), (-1, -2)):
        found = found.at[:, edge].add(line(x[:, next_to_it] - x[:, edge], kernel[edge], "reflect"))
    for edge, next_to_it in ((0, 1), (-1, -2)):
        found = found.at[:, :, edge].add(line(x[:, :, next_to_it] - x[:, :, edge], kernel[:, edge], "edge"))
    return found


def pooled(x: Maps) -> Maps:
    """3×3 average pooling of stride 2; padding does not count."""

    sums = lax.reduce_window(x, np.float32(0), lax.add, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    counts = np.full(sums.shape[1:3], 9, np.float32)
    counts[0], counts[:, 0], counts[0, 0] = 6, 6, 4  # with even sizes, the last row and column need no padding
    return sums / counts[None, :, :, None]


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal draws, cut from a power of two of them, as every new count would compile another program."""
    count = math.prod(shape)
    return jax.random.normal(key, (1 << (count - 1).bit_length(),))[:count].reshape(shape)


def kaiming(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Kaiming normal initialisation, variance 2 / fan-in (He et al., 2015), for the generator."""
    return normal(key, shape) * math.sqrt(2 / math.prod(shape[:-1]))


def narrow(first: int) -> Callable[[Key[Array, ""], tuple[int, ...]], Float[Array, "..."]]:
    """Normal initialisation for the discriminators: standard deviation 0.02 with 64 channels in the first layer, as in the code.

    With fewer channels it grows so as to keep the scale of the activations; otherwise the output of narrow discriminators would
    hardly depend on their input at first.
    """
    return lambda key, shape: normal(key, shape) * np.float32(0.02 * math.sqrt(64 / first))


class Conv(nnx.Module):
    """Convolution with reflection padding; one of stride 2 must have 4×4 taps."""

    def __init__(self, rngs: nnx.Rngs, taps: int, n_in: int, n_out: int, stride: int = 1, start: Callable = kaiming) -> None:
        self.padding, self.stride = (taps - stride) // 2, stride
        self.kernel, self.bias = nnx.Param(start(rngs.params(), (taps, taps, n_in, n_out))), nnx.Param(jnp.zeros((1, 1, 1, n_out)))

    def __call__(self, x: Maps, larger: bool = False) -> Maps:
        kernel = self.kernel[...]
        if larger:
            return doubled(x, kernel) + self.bias[...]
        way = halved if self.stride == 2 else from_one if kernel.shape[2] == 1 else to_one if kernel.shape[3] == 1 else convolve
        return way(reflected(x, self.padding), kernel) + self.bias[...]


MOMENTUM, EPS = 0.1, 1e-5


class InstanceNorm(nnx.Module):
    """Instance normalisation without gain and bias; inference uses the running statistics of training."""

    def __init__(self, channels: int) -> None:
        self.mean = nnx.BatchStat(jnp.zeros((1, 1, 1, channels)))
        self.variance = nnx.BatchStat(jnp.ones((1, 1, 1, channels)))

    def __call__(self, x: Maps, learning: bool) -> Maps:
        if not learning:
            return (x - self.mean[...]) * lax.rsqrt(self.variance[...] + EPS)
        mean = x.mean((1, 2), keepdims=True)
        centred = x - mean
        variance = (centred**2).mean((1, 2), keepdims=True)
        cells = x.shape[1] * x.shape[2]
        for running, seen in ((self.mean, mean), (self.variance, variance * (cells / (cells - 1)))):
            running[...] += MOMENTUM * (lax.stop_gradient(seen).mean(0, keepdims=True) - running[...])
        return centred * lax.rsqrt(variance + EPS)


class LayerNorm(nnx.Module):
    """Layer normalisation over a whole image, with gain and bias per channel; gains are initialised uniformly in 0 … 1."""

    def __init__(self, rngs: nnx.Rngs, channels: int) -> None:
        self.gain = nnx.Param(jax.random.uniform(rngs.params(), (1, 1, 1, channels)))
        self.bias = nnx.Param(jnp.zeros((1, 1, 1, channels)))

    def __call__(self, x: Maps) -> Maps:
        centred = x - x.mean((1, 2, 3), keepdims=True)
        cells = math.prod(x.shape[1:])
        # The square root has no finite gradient at zero variance: the smallest normal number keeps it finite.
        tiny = np.float32(np.finfo(np.float32).tiny)
        deviation = jnp.sqrt((centred**2).sum((1, 2, 3), keepdims=True) / (cells - 1) + tiny)
        return centred / (deviation + EPS) * self.gain[...] + self.bias[...]


class Residual(nnx.Module):
    """Residual block of two 3×3 convolutions, without an activation after the addition."""

    def __init__(self, rngs: nnx.Rngs, channels: int) -> None:
        self.first, self.second = (Conv(rngs, 3, channels, channels) for _ in range(2))
        self.norm, self.last_norm = InstanceNorm(channels), InstanceNorm(channels)

    def __call__(self, x: Maps, learning: bool) -> Maps:
        hidden = nnx.relu(self.norm(self.first(x), learning))
        return x + self.last_norm(self.second(hidden), learning)


# --- replay buffer -------------------------------------------------------------------------------------------------------


class Pool(NamedTuple):
    """Replay buffer of earlier generated images, for discriminators."""

    images: Float[Array, "P T F"]
    held: Int[Array, ""]  # number of images so far, at most P


def shown(pool: Pool, images: Float[Array, "B T F"], key: Key[Array, ""]) -> tuple[Pool, Float[Array, "B T F"]]:
    """Fill the buffer with new images; once it is full, exchange half of them, at random, for images of the buffer."""

    def one(pool: Pool, given: tuple[Float[Array, "T F"], Key[Array, ""]]) -> tuple[Pool, Float[Array, "T F"]]:
        new, key = given
        which, whether = jax.random.split(key)
        full = pool.held == len(pool.images)
        place = jnp.where(full, jax.random.randint(which, (), 0, len(pool.images)), pool.held)
        old = lax.dynamic_index_in_dim(pool.images, place, keepdims=False)
        swapped = full & jax.random.bernoulli(whether)
        images = lax.dynamic_update_index_in_dim(pool.images, jnp.where(swapped | ~full, new, old), place, 0)
        return Pool(images, jnp.where(full, pool.held, pool.held + 1)), jnp.where(swapped, old, new)

    return lax.scan(one, pool, (images, jax.random.split(key, len(images))))
