"""What networks are made of that make images from images: convolutions of mirrored edges, norms, residual blocks; pools."""

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
"""(B, H, W, C)."""


def convolve(x: Maps, kernel: Float[Array, "h w C D"]) -> Maps:
    """Where the kernel lies inside."""
    height, width, n_in, n_out = kernel.shape
    pairs = (x.shape[1] - height) % 2 == (x.shape[2] - width) % 2 == 1
    large = x.shape[0] * x.shape[1] * x.shape[2] * n_in * n_out >= LARGE
    if large and height == width and height in _PAIRED and pairs:
        return lax.platform_dependent(x, kernel, cpu=in_pairs, default=directly)
    return directly(x, kernel)


LARGE = 10_000_000
"""Multiplications of a tap from which `in_pairs` is worth the time that its many parts take to compile."""


def directly(x: Maps, kernel: Float[Array, "h w C D"]) -> Maps:
    """`convolve`, by the platform's own."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Minimal(NamedTuple):
    """Two places of a convolution by as many products as there are inputs: what inputs and taps are added to, and products."""

    inputs: np.ndarray  # (products, taps + 1)
    taps: np.ndarray  # (products, taps)
    places: np.ndarray  # (2, products)


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
    """Term by term: products of matrices as small as these are slow."""
    return [reduce(add, (weight * part for weight, part in zip(row, parts, strict=True) if weight)) for row in weights]


def _sums_of_grid(weights: np.ndarray, grid: Grid) -> Grid:
    """Of columns, then of rows."""
    columns = [_sums(weights, column) for column in zip(*grid, strict=True)]
    return [_sums(weights, row) for row in zip(*columns, strict=True)]


def _sums_of_cells(weights: np.ndarray, x: Maps) -> Grid:
    """Of the neighbours of every second cell, in both directions."""
    size = weights.shape[1]

    def every(axis: int) -> list[slice]:
        return [slice(n, x.shape[axis] - size + n + 1, 2) for n in range(size)]

    bands = _sums(weights, [x[:, at] for at in every(1)])
    return [_sums(weights, [band[:, :, at] for at in every(2)]) for band in bands]


def _pairwise(what: Callable[[Array, Array], Array], left: Grid, right: Grid) -> Grid:
    return [[what(*of) for of in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def in_pairs(x: Maps, kernel: Float[Array, "k k C D"]) -> Maps:
    """`convolve` for 2×2 or 3×3 taps where its result has an even number of rows and columns, two of each at once.

    With 9 products of matrices in place of 16, and 16 in place of 36: F(2×2, 2×2) and F(2×2, 3×3) of Lavin and Gray, “Fast
    algorithms for convolutional neural networks” (2016). Its gradients are products of matrices too, of which a CPU makes many
    more in a second than of convolutions; those of 3×3 taps are made by hand, so there is no forward mode (`jax.jvp`).
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
    """Of inputs, as a convolution of its own; of taps, by products of the same sums. Twice as fast as what follows by itself."""
    x, kernel = seen
    by = _PAIRED[3]
    whole = jnp.pad(slope, ((0, 0), (2, 2), (2, 2), (0, 0)))
    taps = _pairwise(_correlated, _sums_of_cells(by.inputs, x), _sums_of_cells(by.places.T, slope))
    of_taps = jnp.stack([jnp.stack(row) for row in _sums_of_grid(by.taps.T, taps)])
    return _products(whole, kernel[::-1, ::-1].swapaxes(2, 3)), of_taps


def _correlated(x: Maps, y: Maps) -> Float[Array, "C D"]:
    """Over all cells: as a product of matrices, for in one of maps XLA makes the sums of cells transposed, which is far slower."""
    return lax.dot_general(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), (((0,), (0,)), ((), ())))


_threes.defvjp(_threes_forward, _threes_back)


def halved(x: Maps, kernel: Float[Array, "4 4 C D"]) -> Maps:
    """A 4×4 convolution of every second place, as one of 2×2 of images whose cells are 2×2 of theirs: far faster on a CPU."""
    b, h, w, c = x.shape
    cells = x.reshape(b, h // 2, 2, w // 2, 2, c).swapaxes(2, 3).reshape(b, h // 2, w // 2, 4 * c)
    taps = kernel.reshape(2, 2, 2, 2, c, -1).swapaxes(1, 2).reshape(2, 2, 4 * c, -1)
    return convolve(cells, taps)


def _under(x: Float[Array, "... C"], taps: int, axis: int) -> Float[Array, "... {taps}*C"]:
    """What lies under so many taps along an axis, place by place, as channels."""
    places = x.shape[axis] - taps + 1
    return jnp.concatenate([lax.slice_in_dim(x, n, n + places, axis=axis) for n in range(taps)], axis=-1)


def from_one(x: Maps, kernel: Float[Array, "k k 1 D"]) -> Maps:
    """A convolution of a single channel, as one product of matrices: all cells under the kernel become channels first."""
    k = len(kernel)
    return _under(_under(x, k, 1), k, 2) @ kernel.swapaxes(0, 1).reshape(k * k, -1)


def to_one(x: Maps, kernel: Float[Array, "k k C 1"]) -> Maps:
    """A convolution to a single channel, as one product of matrices: with each tap by itself, and then their sum."""
    k, height, width = len(kernel), x.shape[1] - len(kernel) + 1, x.shape[2] - len(kernel) + 1
    found = x @ kernel.reshape(k * k, -1).T
    found = sum((found[:, n : n + height, :, n * k : n * k + k] for n in range(1, k)), found[:, :height, :, :k])
    return sum((found[:, :, n : n + width, n : n + 1] for n in range(1, k)), found[:, :, :width, :1])


def reflected(x: Maps, by: int) -> Maps:
    """Mirrored at its edges."""
    return jnp.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), mode="reflect") if by else x


# Rows of an image that is doubled in size, each as sums of five taps: for its rows in pairs, (2, taps that are left, 5).
_HALVED = np.array(
    [[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]], np.float32
)


def doubled(x: Maps, kernel: Float[Array, "5 5 C D"]) -> Maps:
    """Every cell four times, mirrored at the edges, and a 5×5 convolution of that: the same with 9 products in place of 25.

    Of each 2×2 cells of the large image there is one convolution of the small one, whose taps are sums of the kernel's. It sees
    edges repeated; mirrored, they differ in the outermost line, of which the outermost cells alone see the difference.
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
    """Half as fine: means over 3×3 cells, of those that there are."""

    sums = lax.reduce_window(x, np.float32(0), lax.add, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    counts = np.full(sums.shape[1:3], 9, np.float32)
    counts[0], counts[:, 0], counts[0, 0] = 6, 6, 4  # the last row and column of an even number have all
    return sums / counts[None, :, :, None]


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Normal numbers: the first of a power of two of them, for each count is a program to compile, and networks have many."""
    count = math.prod(shape)
    return jax.random.normal(key, (1 << (count - 1).bit_length(),))[:count].reshape(shape)


def kaiming(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Normal, with a variance of 2 over the inputs of a unit (He et al., 2015): the generator."""
    return normal(key, shape) * math.sqrt(2 / math.prod(shape[:-1]))


def narrow(first: int) -> Callable[[Key[Array, ""], tuple[int, ...]], Float[Array, "..."]]:
    """Normal, with a standard deviation of 0.02 where the first layer has 64 channels, as in the code: the discriminators.

    With fewer, it is as much greater as keeps activations as large; else narrow discriminators would hear nothing at first.
    """
    return lambda key, shape: normal(key, shape) * np.float32(0.02 * math.sqrt(64 / first))


class Conv(nnx.Module):
    """A convolution of mirrored edges; of stride 2, with 4×4 taps."""

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
    """Each channel of each image with a mean of 0 and a variance of 1; at work, those of the training take their place."""

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
    """Each image with a mean of 0 and a deviation of 1, then a gain and a bias of each channel; gains start between 0 and 1."""

    def __init__(self, rngs: nnx.Rngs, channels: int) -> None:
        self.gain = nnx.Param(jax.random.uniform(rngs.params(), (1, 1, 1, channels)))
        self.bias = nnx.Param(jnp.zeros((1, 1, 1, channels)))

    def __call__(self, x: Maps) -> Maps:
        centred = x - x.mean((1, 2, 3), keepdims=True)
        cells = math.prod(x.shape[1:])
        # Beside nothing at all, a deviation has no slope: the least number that there is keeps it finite.
        tiny = np.float32(np.finfo(np.float32).tiny)
        deviation = jnp.sqrt((centred**2).sum((1, 2, 3), keepdims=True) / (cells - 1) + tiny)
        return centred / (deviation + EPS) * self.gain[...] + self.bias[...]


class Residual(nnx.Module):
    """Two convolutions of 3×3, and what went in."""

    def __init__(self, rngs: nnx.Rngs, channels: int) -> None:
        self.first, self.second = (Conv(rngs, 3, channels, channels) for _ in range(2))
        self.norm, self.last_norm = InstanceNorm(channels), InstanceNorm(channels)

    def __call__(self, x: Maps, learning: bool) -> Maps:
        hidden = nnx.relu(self.norm(self.first(x), learning))
        return x + self.last_norm(self.second(hidden), learning)


# --- earlier images ------------------------------------------------------------------------------------------------------


class Pool(NamedTuple):
    """Earlier images, for discriminators."""

    images: Float[Array, "P T F"]
    held: Int[Array, ""]


def shown(pool: Pool, images: Float[Array, "B T F"], key: Key[Array, ""]) -> tuple[Pool, Float[Array, "B T F"]]:
    """What discriminators get for new images: half of the time, once there are enough, earlier ones, whose places they take."""

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
