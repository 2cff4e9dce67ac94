"""Deep Karaoke: a network with one wide hidden layer that predicts the vocal mask of 20 spectrogram frames at once.

Simpson, Roma, Plumbley, “Deep Karaoke: Extracting Vocals from Musical Mixtures Using a Convolutional Deep Neural Network” (2015):
the network learns the ideal binary mask of windows of 20 frames. The predictions of overlapping windows are averaged in each cell,
and the mean is compared with a confidence threshold alpha (equations 1 and 2). Sizes and details that the text leaves open are
those of the authors' code; where text and code differ, `averaged` follows the text, and optionally the code. Any other source can
take the place of the vocals, such as speech.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from bayessep.errors import UserError
from bayessep.features import patches
from bayessep.models.precision import check_precision, linear
from bayessep.models.waveform_separation import State, abstract


@dataclass(frozen=True)
class DeepKaraoke:
    """Sizes of the network, and training settings.

    Attributes:
        bins: frequency bins F of a frame.
        frames: frames L of a window.
        width: hidden units; the paper has as many as inputs.
        bias: constant subtracted from the pre-activations of hidden units, so that they are nearly inactive at first.
        rate: learning rate of SGD.
        momentum: momentum of SGD.
        precision: of the factors of matrix products; ``bfloat16`` is for hardware that multiplies it faster.

    Raises:
        UserError: the precision is not known, or a number is out of range.
    """

    bins: int = 1025
    frames: int = 20
    width: int = 20500
    bias: float = 6.0
    rate: float = 0.1
    momentum: float = 0.5
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("bins", "frames", "width"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not math.isfinite(self.bias) or not 0 < self.rate < math.inf:
            raise UserError(f"bias is {self.bias} and rate {self.rate}, but both must be finite, and the rate above 0.")
        check_precision(self.precision)
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum is {self.momentum}, but must be at least 0 and below 1.")


PRESETS = {"paper": DeepKaraoke(), "small": DeepKaraoke(width=256, bias=2.0)}
"""The paper's 840 million parameters (3.4 GB, and as much again for momentum and for gradients), and 80 times fewer.

The small network has a smaller bias, as with so few hidden units, nearly inactive ones learn nothing.
"""
AVERAGING = ("overlap", "window")
"""How predictions become a mask: see `averaged`."""


# --- windows -------------------------------------------------------------------------------------------------------------


def windows_of(x: Float[Array | np.ndarray, "T F"], length: int, hop: int) -> Float[np.ndarray, "n L F"]:
    """Split into windows of `length` frames, `hop` frames apart, without copies; incomplete windows at the end are dropped.

    An input shorter than one window is padded with silence. The paper trains with length 20 and hop 60; its code cuts
    round((T - 20) / 60) windows, sometimes one fewer than here.

    Raises:
        UserError: there is no frame, or a length or hop below 1.
    """
    frames = np.asarray(x)
    if 0 < len(frames) < length:
        frames = np.pad(frames, ((0, length - len(frames)), (0, 0)))
    return patches(frames, length, hop)


def ideal_binary_mask(
    speech: Float[Array | np.ndarray, "T F"], music: Float[Array | np.ndarray, "T F"]
) -> Float[np.ndarray, "T F"]:
    """Ideal binary mask: 1 where the magnitude of the speech (the paper's vocals) is the greater, else 0 (section II)."""
    return np.asarray(np.asarray(speech) > np.asarray(music), np.float32)


# --- network -------------------------------------------------------------------------------------------------------------


def _layer(n_in: int, n_out: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Dense layer initialised uniformly in ±4 sqrt(6 / (n_in + n_out)), biases included, as in the authors' code."""
    bound = 4 * math.sqrt(6 / (n_in + n_out))

    def uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32, out_sharding=None) -> Float[Array, "..."]:
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return nnx.Linear(n_in, n_out, kernel_init=uniform, bias_init=uniform, rngs=rngs)


class Network(nnx.Module):
    """L F inputs (a window flattened frame by frame), a hidden layer of biased sigmoids, and L F output probabilities."""

    def __init__(self, config: DeepKaraoke, rngs: nnx.Rngs) -> None:
        n = config.frames * config.bins
        self.bias, self.precision = config.bias, config.precision
        self.hidden, self.out = _layer(n, config.width, rngs), _layer(config.width, n, rngs)

    def __call__(self, windows: Float[Array, "B L F"]) -> Float[Array, "B L F"]:
        hidden = nnx.sigmoid(linear(self.hidden, windows.reshape(len(windows), -1), self.precision) - self.bias)
        return nnx.sigmoid(linear(self.out, hidden, self.precision)).reshape(windows.shape)


def graph(config: DeepKaraoke) -> nnx.GraphDef:
    """Graph definition of the network, without parameters."""
    return abstract(Network, config).graph


def parameter_count(config: DeepKaraoke) -> int:
    """Number of trainable parameters, counted without allocating them."""
    return abstract(Network, config).size


@partial(jax.jit, static_argnames=("config",))
def predict(config: DeepKaraoke, parameters: PyTree, windows: Float[Array, "B L F"]) -> Float[Array, "B L F"]:
    """Probability that each cell belongs to the speech, given mixture magnitudes divided by the training scale."""
    return nnx.merge(graph(config), parameters)(windows)


# --- training ------------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Windows of scaled mixture magnitudes, and their ideal binary masks (or any targets from 0 to 1)."""

    magnitude: Float[Array | np.ndarray, "B L F"]
    target: Float[Array | np.ndarray, "B L F"]


CLIP = 100.0
"""Maximum norm of a gradient; with the preset small, on the songs examined, it was from 5 to 32: only outliers are changed."""


def optimiser(config: DeepKaraoke) -> optax.GradientTransformation:
    """SGD with momentum, after clipping of the gradient (`CLIP`), which the paper does not mention."""
    return optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(config.rate, config.momentum))


@partial(jax.jit, static_argnames=("config",))
def init(config: DeepKaraoke, key: Key[Array, ""]) -> State:
    """Return a freshly initialised network and optimiser."""
    parameters = nnx.state(Network(config, nnx.Rngs(key)), nnx.Param)
    return State(parameters, optimiser(config).init(parameters))


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: DeepKaraoke, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Float[Array, ""]]:
    """Take one step of SGD and return the loss before it: half the squared error per window, averaged over the batch.

    The step is deterministic; `bayessep.train` passes a key to every step.
    """

    def loss(parameters: PyTree) -> Float[Array, ""]:
        error = nnx.merge(graph(config), parameters)(batch.magnitude) - batch.target
        return 0.5 * (error**2).sum() / error.shape[0]

    found, gradient = jax.value_and_grad(loss)(state.parameters)
    change, carried = optimiser(config).update(gradient, state.optimiser, state.parameters)
    return State(optax.apply_updates(state.parameters, change), carried), found


# --- masks of whole recordings -------------------------------------------------------------------------------------------


@jax.jit
def _overlapped(predicted: Float[Array, "B L F"], n: Int[Array, ""]) -> Float[Array, "S F"]:
    """Overlap-add of the first n of B windows that are one frame apart: S = B + L - 1 frames."""
    batch, length, bins = predicted.shape
    counted = jnp.where(jnp.arange(batch)[:, None, None] < n, predicted, 0)

    def add(k: Int[Array, ""], total: Float[Array, "S F"]) -> Float[Array, "S F"]:
        here = lax.dynamic_slice_in_dim(total, k, batch) + lax.dynamic_index_in_dim(counted, k, 1, keepdims=False)
        return lax.dynamic_update_slice_in_dim(total, here, k, 0)

    return lax.fori_loop(0, length, add, jnp.zeros((batch + length - 1, bins), predicted.dtype))


def averaged(
    said: Callable[[Float[Array, "B L F"]], Float[Array, "B L F"]],
    magnitude: Float[Array | np.ndarray, "T F"],
    frames: int,
    averaging: str = "overlap",
    batch: int = 128,
    rescaled: bool = False,
) -> Float[np.ndarray, "T F"]:
    """Average the predictions for windows that advance by one frame (the sums of equations 1 and 2).

    - ``"overlap"``, the text: each cell gets the mean over all windows that cover it, L of them, fewer within L - 1 frames of
      either end.
    - ``"window"``, the authors' code: the mean over the L frames inside one window is assigned to the window's first frame. Frames
      at the end in which no window begins get the mean of the last one.

    At most one batch of windows is in memory; a recording shorter than a window is padded with silence.

    Args:
        said: predicts a mask for each window of a batch; the batch size is always the same.
        magnitude: magnitudes in the scale that `said` expects.
        frames: frames of a window, L.
        averaging: one of `AVERAGING`.
        batch: windows per batch.
        rescaled: rescale the result to 0 … 1 by its minimum and maximum, as the code does and the text does not.

    Raises:
        UserError: a setting is impossible, or there is no frame.
    """
    if averaging not in AVERAGING:
        raise UserError(f"averaging {averaging!r} is not known; choose one of {', '.join(AVERAGING)}.")
    if batch < 1:
        raise UserError(f"batch is {batch}, but must be at least 1.")
    windows = windows_of(magnitude, frames, 1)
    n = len(windows)
    mean = np.zeros((n + frames - 1, windows.shape[2]), np.float32)
    for begin in range(0, n, batch):
        some = windows[begin : begin + batch]
        # The last batch is padded, so that all share one compiled program.
        found = said(jnp.asarray(np.pad(some, ((0, batch - len(some)), (0, 0), (0, 0)))))
        if averaging == "overlap":
            added = mean[begin : begin + batch + frames - 1]
            added += np.asarray(_overlapped(found, jnp.asarray(len(some), jnp.int32)))[: len(added)]
        else:
            mean[begin : begin + len(some)] = np.asarray(found.mean(1))[: len(some)]
    if averaging == "overlap":
        mean /= np.convolve(np.ones(n, np.float32), np.ones(frames, np.float32))[:, None]
    else:
        mean[n:] = mean[n - 1]
    mean = mean[: len(magnitude)]
    low, high = mean.min(), mean.max()
    return (mean - low) / (high - low) if rescaled and high > low else mean


def averaged_mask(
    config: DeepKaraoke,
    parameters: PyTree,
    magnitude: Float[Array | np.ndarray, "T F"],
    scale: float | int,
    averaging: str = "overlap",
    batch: int = 128,
    rescaled: bool = False,
) -> Float[np.ndarray, "T F"]:
    """Average probability that each cell of a mixture belongs to the speech; see `averaged`.

    `scale` is the divisor of the training mixtures, their largest magnitude.

    Raises:
        UserError: as `averaged`, or the scale is not positive, or the network has another number of bins.
    """
    if not 0 < scale < math.inf:
        raise UserError(f"scale is {scale}, but must be above 0 and finite.")
    if magnitude.shape[1] != config.bins:
        raise UserError(f"the spectrogram has {magnitude.shape[1]} bins, but the network looks at {config.bins}.")
    said = partial(predict, config, parameters)
    return averaged(said, magnitude / np.float32(scale), config.frames, averaging, batch, rescaled)


class Masks(NamedTuple):
    """Binary masks for the complex spectrogram of the mixture."""

    vocal: Float[Array | np.ndarray, "T F"]
    other: Float[Array | np.ndarray, "T F"]


def check_alpha(alpha: float | None) -> None:
    """Check a confidence threshold; None stands for no threshold.

    Raises:
        UserError: it is not between 0 and 1.
    """
    if alpha is not None and not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}, but must be above 0 and below 1.")


def thresholded(mean: Float[Array | np.ndarray, "T F"], alpha: float) -> Masks:
    """Binary masks: vocals where the mean is above alpha, the rest where it is below 1 - alpha (equations 1 and 2).

    With a high alpha, each mask keeps only confident cells, and some belong to neither; with a low alpha, some belong to both. Only
    alpha = 0.5 partitions the cells, except that those at exactly 0.5 belong to neither. A separator whose stems must sum to the
    mixture takes ``thresholded(mean, 0.5).vocal``, and 1 minus it for the other stem.

    Raises:
        UserError: alpha is not between 0 and 1.
    """
    check_alpha(alpha)
    return Masks((mean > alpha).astype(mean.dtype), (mean < 1 - alpha).astype(mean.dtype))
