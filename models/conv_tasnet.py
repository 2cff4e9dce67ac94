"""Conv-TasNet: learned filter bank, masks from dilated convolutions, and synthesis filter bank (Luo, Mesgarani, 2019).

The network is that of paper 001: two sources in fixed order, ReLU masks, no skip paths, convolutions without bias. Symbols:

| symbol | field | |
|---|---|---|
| N | `filters` | filters of the encoder |
| L | `length` | filter length in samples; frames overlap by half |
| B | `bottleneck` | channels between blocks |
| H | `hidden` | channels inside them |
| P | `kernel` | taps of a depthwise convolution |
| X | `blocks` | blocks per repeat; the dilation of block x is 2^x |
| R | `repeats` | number of repeats |

Time is the first axis of an example, (T, channels): a 1×1 convolution is then a matrix product, and a depthwise one a sum of P
shifted products, which on CPUs is several times faster than XLA's convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from bayessep.errors import UserError
from bayessep.models.precision import check_precision, product
from bayessep.models.waveform_separation import (
    Batch,
    Metrics,
    State,
    abstract,
    check_rate,
    consistent,
    heard_frames,
    learn,
    started,
    together_here,
)

NORMS = ("global", "cumulative", "frame")
MASKS = ("relu", "sigmoid")
BANKS = ("random", "fourier")
EPS = 1e-8
"""Added to variances, as in paper 001's code."""
Rows = tuple[Bool[Array, "T 1"] | None, Bool[Array, "T 1"] | None]
"""Frames that belong to the recording, and frames over which the norm ``global`` is computed; None: all."""


@dataclass(frozen=True)
class ConvTasNet:
    """Sizes and variants of the network; the defaults are paper 001's.

    Attributes:
        filters, length, bottleneck, hidden, kernel, blocks, repeats: N, L, B, H, P, X, R.
        mask: ``relu`` as in the paper, or ``sigmoid``.
        norm: range of the normalisation inside blocks. ``global``: the whole recording, as in the paper, on all of which every
            output then depends a little. ``cumulative``: all frames so far. ``frame``: each frame independently.
        causal: no frame depends on later ones. A sample depends on fewer than L later samples, which share frames with it.
        consistent: stems sum to the mixture (`waveform_separation.consistent`).
        bank: initial encoder and decoder. ``random``: as in the paper. ``fourier``: windowed sines and cosines with either sign,
            2 L filters, from which the decoder reconstructs the encoder's input perfectly; better after short training.
        precision: of the factors of matrix products; ``bfloat16`` is for hardware that multiplies it faster.
        rate, steps: Adam's learning rate, and the steps of its cosine decay to zero; 0 keeps it constant.

    Raises:
        UserError: a name is not known, a number is out of range, or a causal network has the norm ``global``.
    """

    filters: int = 256
    length: int = 20
    bottleneck: int = 256
    hidden: int = 512
    kernel: int = 3
    blocks: int = 8
    repeats: int = 4
    mask: str = "relu"
    norm: str = "global"
    causal: bool = False
    consistent: bool = False
    bank: str = "random"
    precision: str = "float32"
    rate: float = 1e-3
    steps: int = 0

    def __post_init__(self) -> None:
        for name, known in (("mask", MASKS), ("norm", NORMS), ("bank", BANKS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is not known; choose one of {', '.join(known)}.")
        for name in ("filters", "length", "bottleneck", "hidden", "kernel", "blocks", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.length % 2:
            raise UserError(f"length is {self.length}, but must be even: frames overlap by half.")
        if self.bank == "fourier" and self.filters != 2 * self.length:
            raise UserError(f"filters is {self.filters}, but must be twice the length {self.length} where the bank is fourier.")
        if self.kernel % 2 == 0:
            raise UserError(f"kernel is {self.kernel}, but must be odd, so that it is centred.")
        if self.causal and self.norm == "global":
            raise UserError("a causal network cannot have the norm global, which looks ahead; take cumulative or frame.")
        check_precision(self.precision)
        check_rate(self.rate, self.steps)

    @property
    def hop(self) -> int:
        """Hop of the frames, in samples."""
        return self.length // 2

    @property
    def context(self) -> int:
        """Receptive field to each side in samples, not counting norms over time."""
        frames = self.repeats * (2**self.blocks - 1) * (self.kernel - 1) // (1 if self.causal else 2)
        return (frames + 1) * self.hop + self.length


PRESETS = {
    "paper": ConvTasNet(),
    "small": ConvTasNet(512, 256, 128, 192, 3, 7, 2, consistent=True, bank="fourier"),
}
"""The network of paper 001, and one that two CPU cores can train."""


class Blocks(NamedTuple):
    """Parameters of all blocks, those of repeat r and block x at index [r, x]; or of some blocks, with fewer leading axes."""

    enter: Float[Array, "*A B H"]
    slope: Float[Array, "*A 2"]  # of both PReLUs
    gain: Float[Array, "*A 2 H"]  # of both norms
    bias: Float[Array, "*A 2 H"]
    taps: Float[Array, "*A P H"]
    leave: Float[Array, "*A H B"]


def fourier_bank(length: int) -> tuple[Float[np.ndarray, "L N"], Float[np.ndarray, "N L"]]:
    """Encoder and decoder with L / 2 frequencies, N = 2 L filters: cosines, sines, and the negative of each.

    Frequencies lie midway between those of the discrete Fourier transform, so that each has both a cosine and a sine. The ReLU
    loses nothing of a filter paired with its negative, and the squared windows of half-overlapping frames sum to 1.
    """
    n = np.arange(length)
    angle = np.pi * (2 * n[None] + 1) * (2 * np.arange(length // 2)[:, None] + 1) / (2 * length)
    waves = np.concatenate([np.cos(angle), np.sin(angle)]) * np.sin(np.pi * (n + 0.5) / length)
    both = np.concatenate([waves, -waves]) * (2 / length) ** 0.5
    return both.T, both


class Network(nnx.Module):
    """The network for waveforms of any length."""

    def __init__(self, config: ConvTasNet, rngs: nnx.Rngs) -> None:
        def drawn(*shape: int, fan: int, before: tuple[int, ...] = ()) -> nnx.Param:
            """Xavier normal initialisation: the variance is 2 / (fan in + fan out).

            Fans are those of one frame and one channel. PyTorch, and so paper 001's code, counts the taps of all filters of a
            convolution, and draws smaller weights for encoder and taps; the norms after them undo that.
            """
            return nnx.Param(jax.random.normal(rngs.params(), (*before, *shape)) * jnp.float32((2 / fan) ** 0.5))

        c, every = config, (config.repeats, config.blocks)
        self.encoder = drawn(c.length, c.filters, fan=c.length + c.filters)
        self.decoder = drawn(c.filters, c.length, fan=c.length + c.filters)
        if c.bank == "fourier":
            self.encoder, self.decoder = (nnx.Param(jnp.asarray(w, jnp.float32)) for w in fourier_bank(c.length))
        self.norm_gain, self.norm_bias = nnx.Param(jnp.ones(c.filters)), nnx.Param(jnp.zeros(c.filters))
        self.narrow = drawn(c.filters, c.bottleneck, fan=c.filters + c.bottleneck)
        self.enter = drawn(c.bottleneck, c.hidden, fan=c.bottleneck + c.hidden, before=every)
        self.slope = nnx.Param(jnp.full((*every, 2), 0.25, jnp.float32))
        # Paper 001's code draws gains and biases at random, too, which looks like an oversight: here they start at 1 and 0.
        self.gain, self.bias = nnx.Param(jnp.ones((*every, 2, c.hidden))), nnx.Param(jnp.zeros((*every, 2, c.hidden)))
        self.taps = drawn(c.kernel, c.hidden, fan=2 * c.kernel, before=every)
        self.leave = drawn(c.hidden, c.bottleneck, fan=c.bottleneck + c.hidden, before=every)
        self.masks = drawn(c.bottleneck, 2 * c.filters, fan=c.bottleneck + 2 * c.filters)

    @property
    def stacked(self) -> Blocks:
        """Parameters of all blocks."""
        return Blocks(*(getattr(self, name)[...] for name in Blocks._fields))


def graph(config: ConvTasNet) -> nnx.GraphDef:
    """Graph definition of the network, without parameters."""
    return abstract(Network, config).graph


def parameter_count(config: ConvTasNet) -> int:
    """Number of trainable parameters; the paper's network has 8,710,720."""
    return abstract(Network, config).size


# --- one example ---------------------------------------------------------------------------------------------------------


def framed(x: Float[Array, " N"], hop: int) -> Float[Array, "T L"]:
    """Split into frames of two hops, from the one ending with the first hop to the one starting at the last; N is whole hops."""
    hops = jnp.pad(x, (hop, hop)).reshape(-1, hop)
    return jnp.concatenate([hops[:-1], hops[1:]], axis=1)


def overlapped(frames: Float[Array, "*A T L"]) -> Float[Array, "*A N"]:
    """Overlap-add of frames: the inverse of `framed` but for a factor of 2."""
    first, second = jnp.split(frames, 2, axis=-1)
    hops = second[..., :-1, :] + first[..., 1:, :]
    return hops.reshape(*hops.shape[:-2], -1)


def prelu(x: Float[Array, "T n"], slope: Float[Array, ""]) -> Float[Array, "T n"]:
    """Parametric ReLU: negative values are multiplied by `slope`."""
    return jnp.where(x >= 0, x, slope * x)


def _kept(x: Float[Array, "T n"], valid: Bool[Array, "T 1"] | None) -> Float[Array, "T n"]:
    return x if valid is None else jnp.where(valid, x, jnp.float32(0))


class Moments(NamedTuple):
    """Statistics of all activations so far, for the cumulative norm; means, as sums would lose precision in streams of hours."""

    frames: Float[Array, ""]
    mean: Float[Array, ""]
    square: Float[Array, ""]


def normalisation(
    x: Float[Array, "T n"], norm: str, valid: Bool[Array, "T 1"] | None, before: Moments | None = None
) -> tuple[Float[Array, "#T 1"], Float[Array, "#T 1"], Moments | None]:
    """Mean and inverse standard deviation for normalising each frame, and the statistics to continue with (cumulative norm).

    Over more than a frame, variances are computed as E[x²] - E[x]², which float32 cannot resolve if the mean is a thousand
    standard deviations; after a PReLU it is about one.
    """
    if norm == "frame":
        mean = x.mean(1, keepdims=True)
        return mean, lax.rsqrt(((x - mean) ** 2).mean(1, keepdims=True) + EPS), None
    if norm == "global":
        count = jnp.float32(x.size) if valid is None else x.shape[1] * valid.sum().astype(x.dtype)
        x = _kept(x, valid)
        mean = x.sum() / count
        return mean[None, None], lax.rsqrt(jnp.maximum((x**2).sum() / count - mean**2, 0) + EPS)[None, None], None
    past = Moments(*(jnp.zeros((), x.dtype),) * 3) if before is None else before
    frames = past.frames + jnp.arange(1, len(x) + 1, dtype=x.dtype)
    # Accumulate deviations from the past mean: changes below its precision leave it as it is.
    mean = past.mean + jnp.cumsum(x.mean(1) - past.mean) / frames
    square = past.square + jnp.cumsum((x**2).mean(1) - past.square) / frames
    spread = lax.rsqrt(jnp.maximum(square - mean**2, 0) + EPS)
    return mean[:, None], spread[:, None], Moments(frames[-1], mean[-1], square[-1])


def _affine(
    x: Float[Array, "T H"], own: Blocks, n: int, norm: str, rows: Rows, before: Moments | None
) -> tuple[Float[Array, "T H"], Moments | None]:
    mean, inverse, after = normalisation(x, norm, rows[1], before)
    return _kept((x - mean) * (inverse * own.gain[n][None]) + own.bias[n][None], rows[0]), after


def _moved(x: Float[Array, "T H"], by: int) -> Float[Array, "T H"]:
    """Delay frames by `by` (advance them if negative), shifting zeros in and dropping what leaves."""
    by = max(-len(x), min(by, len(x)))
    kept = x[: len(x) - by] if by >= 0 else x[-by:]
    return jnp.pad(kept, ((max(by, 0), max(-by, 0)), (0, 0)))


def depthwise(
    x: Float[Array, "T H"], taps: Float[Array, "P H"], dilation: int, causal: bool, past: Float[Array, "S H"] | None = None
) -> Float[Array, "T H"]:
    """Dilated depthwise convolution, padded with zeros, or preceded by the `past` frames of a stream."""
    reach = (len(taps) - 1) * dilation
    if past is not None:
        padded = jnp.concatenate([past, x])
        shifted = [padded[k * dilation : k * dilation + len(x)] * tap[None] for k, tap in enumerate(taps)]
    else:  # shift the products, not x: that avoids a padded copy of x, and the backward pass keeps less
        late = [(reach if causal else reach // 2) - k * dilation for k in range(len(taps))]
        shifted = [_moved(x * tap[None], by) for by, tap in zip(late, taps, strict=True)]
    return sum(shifted, start=jnp.zeros((), x.dtype))


class Past(NamedTuple):
    """State of a causal block between pieces of a stream."""

    frames: Float[Array, "S H"]  # last inputs of the depthwise convolution, as many as it reaches back
    moments: tuple[Moments, Moments]  # of both norms


def block(
    y: Float[Array, "T B"],
    own: Blocks,
    dilation: int,
    config: ConvTasNet,
    rows: Rows = (None, None),
    past: Past | None = None,
) -> tuple[Float[Array, "T B"], Past | None]:
    """Residual block: 1×1 to H channels, depthwise convolution, 1×1 back to B; given a past, it returns the next one."""
    before = (None, None) if past is None else past.moments
    h = prelu(product(y, own.enter, config.precision), own.slope[0])
    h, first = _affine(h, own, 0, config.norm, rows, before[0])
    entered = h
    h = prelu(depthwise(h, own.taps, dilation, config.causal, None if past is None else past.frames), own.slope[1])
    h, second = _affine(h, own, 1, config.norm, rows, before[1])
    y = y + product(h, own.leave, config.precision)
    if past is None:
        return y, None
    frames = jnp.concatenate([past.frames, entered])[len(entered) :]
    return y, Past(frames, (first or past.moments[0], second or past.moments[1]))


def encoded(model: Network, frames: Float[Array, "T L"], config: ConvTasNet) -> tuple[Float[Array, "T N"], Float[Array, "T B"]]:
    """Encoder output for frames, and its normalised projection to B channels, the input of the blocks."""
    w = jax.nn.relu(product(frames, model.encoder[...], config.precision))
    mean, inverse, _ = normalisation(w, "frame", None)
    y = (w - mean) * inverse * model.norm_gain[...][None] + model.norm_bias[...][None]
    return w, product(y, model.narrow[...], config.precision)


def decoded(model: Network, w: Float[Array, "T N"], y: Float[Array, "T B"], config: ConvTasNet) -> Float[Array, "2 T L"]:
    """Mask the encoded mixture and decode it to frames of both sources."""
    masks = product(y, model.masks[...], config.precision).reshape(len(y), 2, -1)
    masks = jax.nn.relu(masks) if config.mask == "relu" else jax.nn.sigmoid(masks)
    both = (masks * w[:, None]).swapaxes(0, 1)
    return jnp.stack([product(one, model.decoder[...], config.precision) for one in both])


def _one(
    config: ConvTasNet, model: Network, mixture: Float[Array, " N"], length: Array | None, at_work: bool
) -> Float[Array, "2 N"]:
    hop, n = config.hop, len(mixture)
    whole = jnp.pad(mixture, (0, -n % hop))
    w, y = encoded(model, framed(whole, hop), config)
    valid = None
    if length is not None:  # frames that contain samples of the recording
        valid = (jnp.arange(len(y)) < (length + hop - 1) // hop + 1)[:, None]
    loud = heard_frames(mixture, hop) if at_work and config.norm == "global" else None
    heard = valid if loud is None else loud if valid is None else valid & loud

    # The backward pass keeps the matrix products of a repeat, which are most of its work, and recomputes everything else.
    @partial(jax.checkpoint, policy=jax.checkpoint_policies.checkpoint_dots)
    def repeat(y: Float[Array, "T B"], own: Blocks) -> tuple[Float[Array, "T B"], None]:
        for x in range(config.blocks):
            y, _ = block(y, Blocks(*(part[x] for part in own)), 2**x, config, (valid, heard))
        return y, None

    # Up to two repeats are unrolled, which avoids copies of what the backward pass keeps; for more, memory would grow by half.
    y, _ = lax.scan(repeat, y, model.stacked, unroll=config.repeats <= 2)
    return overlapped(decoded(model, w, y, config))[:, :n]


# --- batches -------------------------------------------------------------------------------------------------------------


def separated(
    config: ConvTasNet, parameters: PyTree, mixture: Float[Array, "B N"], length: Array | None = None, at_work: bool = False
) -> Float[Array, "B 2 N"]:
    """Separate mixtures into speech and music.

    Args:
        config: config of the network.
        parameters: its parameters.
        mixture: waveforms at the sample rate of the training.
        length: number of valid samples, one for all recordings or one for each (all N by default); the rest must be zeros.
            Recordings of many lengths so share one compiled program, with the same result as each would have alone.
        at_work: leave stretches of silence out of the norm ``global`` (`heard_frames`); training does not.
    """
    model = nnx.merge(graph(config), parameters)
    if len(mixture) == 1:  # no batch axis of size one, with which XLA's products for the gradients are slower
        found = _one(config, model, mixture[0], length if length is None else length.reshape(()), at_work)[None]
    else:
        each = None if length is None or not length.ndim else 0
        found = jax.vmap(lambda x, n: _one(config, model, x, n, at_work), (0, each))(mixture, length)
    return consistent(mixture, found) if config.consistent else found


@partial(jax.jit, static_argnames=("config",))
def predict(
    config: ConvTasNet, parameters: PyTree, mixture: Float[Array, "B N"], length: Array | None = None
) -> Float[Array, "B 2 N"]:
    """Compiled `separated`, as separation at work calls it."""
    return separated(config, parameters, mixture, length, at_work=True)


def init(config: ConvTasNet, key: Key[Array, ""]) -> State:
    """Return a freshly initialised network and optimiser."""
    return started(Network(config, nnx.Rngs(key)), config.rate, config.steps)


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: ConvTasNet, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
    """Take one step of Adam on the negative mean SI-SDR of both sources; it is deterministic, and ignores the key."""
    return learn(partial(separated, config), config.rate, state, batch, together_here(), config.steps)


# --- streaming, causal networks only -------------------------------------------------------------------------------------


class Stream(NamedTuple):
    """State of a stream between pieces of a recording."""

    hop: Float[Array, " hop"]  # last hop of the mixture
    half: Float[Array, "2 hop"]  # second half of the last frame of each source, for overlap-add
    past: tuple[Float[Array, "R S H"], ...]  # for each dilation: the last inputs of its convolutions
    frames: Int[Array, ""]  # number of frames so far
    moments: Float[Array, "R X 2 2"]  # `Moments` of the norms, without the number of frames


def stream_init(config: ConvTasNet) -> Stream:
    """Initial state of a stream.

    Raises:
        UserError: the network is not causal.
    """
    if not config.causal:
        raise UserError("only causal networks can separate a stream; train one with --causal.")
    c = config
    past = tuple(jnp.zeros((c.repeats, (c.kernel - 1) * 2**x, c.hidden)) for x in range(c.blocks))
    return Stream(jnp.zeros(c.hop), jnp.zeros((2, c.hop)), past, jnp.zeros((), jnp.int32), jnp.zeros((c.repeats, c.blocks, 2, 2)))


@partial(jax.jit, static_argnames=("config",))
def stream_push(
    config: ConvTasNet, parameters: PyTree, state: Stream, samples: Float[Array, " N"]
) -> tuple[Stream, Float[Array, "2 N"]]:
    """Process the next samples, a multiple of the hop; the output is delayed by one hop.

    All pieces of a recording followed by one hop of silence give the output of `predict` for the whole.
    """
    if len(samples) % config.hop or not len(samples):
        raise UserError(f"pieces must be multiples of {config.hop} samples long, not {len(samples)}.")
    model, hops = nnx.merge(graph(config), parameters), jnp.concatenate([state.hop, samples]).reshape(-1, config.hop)
    w, y = encoded(model, jnp.concatenate([hops[:-1], hops[1:]], axis=1), config)
    kept: list[list[Array]] = [[] for _ in range(config.blocks)]
    moments = []
    for r in range(config.repeats):
        for x in range(config.blocks):
            before = [Moments(state.frames.astype(y.dtype), *state.moments[r, x, n]) for n in range(2)]
            past = Past(state.past[x][r], (before[0], before[1]))
            y, after = block(y, Blocks(*(part[r, x] for part in model.stacked)), 2**x, config, past=past)
            assert after is not None  # as there is a past
            kept[x].append(after.frames)
            moments.append(jnp.stack([jnp.stack(of[1:]) for of in after.moments]))
    frames = decoded(model, w, y, config)
    first, second = jnp.split(frames, 2, axis=-1)
    late = jnp.concatenate([state.half[:, None], second[:, :-1]], axis=1) + first
    found = late.reshape(2, -1)
    if config.consistent:
        found = consistent(hops[:-1].reshape(-1), found)
    so_far = jnp.stack(moments).reshape(state.moments.shape)
    return Stream(hops[-1], second[:, -1], tuple(map(jnp.stack, kept)), state.frames + len(y), so_far), found
