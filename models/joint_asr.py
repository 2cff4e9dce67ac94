"""A separator before a recogniser as one differentiable program, and what is tuned of it (paper 001, sections III-C and IV-C).

The waveform of the speech that the separator finds goes into the features of the recogniser, scaled to a greatest magnitude as the
recogniser always does. What is learned from is L = L_sep + α L_asr: minus the mean SI-SDR of both sources in decibels, and the
cross-entropy summed over labels and utterances, of which the paper takes α = 2. Each part has an Adam of its own, as in the
authors' code; a part that is not tuned stays exactly as it is, its running statistics included, and works as at work.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from bayessep.errors import UserError
from bayessep.models import attention_asr, beam_search, blstm_mask, conv_tasnet
from bayessep.models.attention_asr import AttentionAsr, within
from bayessep.models.beam_search import Found
from bayessep.models.blstm_mask import BlstmMask
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.models.waveform_separation import check_rate, optimiser, si_sdr, together_here

FRONT, BACK, BOTH = "front", "back", "both"
TUNED = (FRONT, BACK, BOTH)
"""What can be tuned: the separator, with gradients through the recogniser; the recogniser; or both."""


@dataclass(frozen=True)
class JointAsr:
    """What is joined, and how it is tuned; the defaults are paper 001's.

    Attributes:
        front: the separator.
        back: the recogniser.
        tuned: one of `TUNED`.
        weight: α; 0 trains a separator on the speech of recognisers, and nothing is recognised.
        rate, steps: of both Adams, and in which their rate falls to nothing; 0: it stays.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    front: ConvTasNet | BlstmMask = ConvTasNet()
    back: AttentionAsr = AttentionAsr()
    tuned: str = BOTH
    weight: float = 2.0
    rate: float = 1e-4
    steps: int = 0

    def __post_init__(self) -> None:
        if self.tuned not in TUNED:
            raise UserError(f"tuned is {self.tuned!r}; choose one of {', '.join(TUNED)}.")
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"weight is {self.weight}, but must be finite and at least 0.")
        check_rate(self.rate, self.steps)
        # Rates are of the whole, and programs are compiled once whatever the parts were trained with.
        for name in (FRONT, BACK):
            part = getattr(self, name)
            object.__setattr__(self, name, dataclasses.replace(part, rate=type(part).rate, steps=0))

    @property
    def parts(self) -> tuple[str, ...]:
        """Those that are tuned."""
        return (FRONT, BACK) if self.tuned == BOTH else (self.tuned,)

    @property
    def separator(self) -> ModuleType:
        """The module of the front end."""
        return conv_tasnet if isinstance(self.front, ConvTasNet) else blstm_mask


class Batch(NamedTuple):
    """Mixtures, the speech in them, and what is said; beyond their ends may be anything."""

    mixture: Float[Array | np.ndarray, "B N"]
    speech: Float[Array | np.ndarray, "B N"]
    samples: Int[Array | np.ndarray, " B"]
    labels: Int[Array | np.ndarray, "B L"]
    length: Int[Array | np.ndarray, " B"]


class State(NamedTuple):
    """What training carries."""

    front: PyTree  # parameters of the separator
    back: PyTree  # parameters of the recogniser
    statistics: PyTree  # its running means and variances
    optimisers: dict[str, optax.OptState]  # of the parts that are tuned


class Metrics(NamedTuple):
    """Of a batch: L, L_sep, L_asr, cross-entropy of a label, share of labels that were likeliest, and SI-SDR in decibels."""

    loss: Float[Array, ""]
    separation: Float[Array, ""]
    recognition: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    right: Float[Array, ""]
    speech: Float[Array, ""]
    music: Float[Array, ""]


# --- separation before recognition ---------------------------------------------------------------------------------------


def speech_of(
    config: JointAsr, front: PyTree, mixture: Float[Array, "B N"], samples: Int[Array, " B"]
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
    """Speech and music that the separator finds in mixtures of so many samples each; nothing behind their ends.

    It is given each at a mean square of 1, as separators at work are.
    """
    inside = within(mixture.shape[1], samples)
    power = jnp.square(mixture).sum(1, keepdims=True, where=inside) / jnp.maximum(samples, 1)[:, None].astype(mixture.dtype)
    scale = jnp.sqrt(power + 1e-9)
    heard = jnp.where(inside, mixture / scale, jnp.float32(0))
    separated = partial(config.separator.separated, config.front, front)
    if isinstance(config.front, ConvTasNet) and together_here() == 1:  # one after the other: a cache holds one
        found = lax.map(lambda one: separated(one[0][None], one[1])[0], (heard, samples))
    else:
        found = separated(heard, samples)
    found = jnp.where(inside[:, None], found * scale[:, None], jnp.float32(0))
    return found[:, 0], found[:, 1]


def separate(config: JointAsr, front: PyTree, mixture: Float[Array, "B N"], samples: Int[Array, " B"]) -> Float[Array, "B N"]:
    """The speech of `speech_of`, compiled once for a separator, whatever is tuned of it."""
    return _separate(JointAsr(config.front, config.back), front, mixture, samples)


@partial(jax.jit, static_argnames=("config",))
def _separate(config: JointAsr, front: PyTree, mixture: Float[Array, "B N"], samples: Int[Array, " B"]) -> Float[Array, "B N"]:
    return speech_of(config, front, mixture, samples)[0]


def decode(
    config: JointAsr,
    front: PyTree,
    back: PyTree,
    statistics: PyTree,
    mixture: Float[Array, "B N"],
    samples: Int[Array, " B"],
    width: int = 4,
    most: int = beam_search.MOST,
) -> tuple[Found, Float[Array, "B N"]]:
    """What is said in mixtures, and their speech."""
    speech = separate(config, front, mixture, samples)
    return beam_search.decode(config.back, back, statistics, speech, samples, width, most), speech


# --- learning ------------------------------------------------------------------------------------------------------------


def init(config: JointAsr, key: Key[Array, ""]) -> State:
    """Parts that have learned nothing yet."""
    front, back = jax.random.split(key)
    recogniser = attention_asr.init(config.back, back)
    return joined(config, config.separator.init(config.front, front).parameters, recogniser.parameters, recogniser.statistics)


def joined(config: JointAsr, front: PyTree, back: PyTree, statistics: PyTree) -> State:
    """Parts that were trained apart, to be tuned."""
    carried = optimiser(config.rate, config.steps)
    parts = {FRONT: front, BACK: back}
    return State(front, back, statistics, {name: carried.init(parts[name]) for name in config.parts})


def losses(
    config: JointAsr, front: PyTree, back: PyTree, statistics: PyTree, batch: Batch, key: Key[Array, ""] | None = None
) -> tuple[Metrics, PyTree]:
    """L and its parts; and the running statistics of the recogniser. With a key, the recogniser works as while training."""
    mixture, true, samples = (jnp.asarray(x) for x in (batch.mixture, batch.speech, batch.samples))
    speech, music = speech_of(config, front, mixture, samples)
    inside = within(mixture.shape[1], samples)
    found = [si_sdr(x, y, inside).mean() for x, y in ((true, speech), (mixture - true, music))]
    separation = -(found[0] + found[1]) / 2
    said = attention_asr.Metrics(*3 * (jnp.zeros(()),))
    if config.weight:
        heard = attention_asr.Batch(speech, samples, batch.labels, batch.length)
        said, statistics = attention_asr.losses(config.back, back, statistics, heard, key)
    return Metrics(separation + config.weight * said.loss, separation, *said, *found), statistics


@partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def step(config: JointAsr, state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
    """One step of Adam for each part that is tuned; the losses are those before it."""
    before = {FRONT: state.front, BACK: state.back}

    def loss(tuned: dict[str, PyTree]) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        parts = before | tuned
        noise = key if BACK in tuned else None
        found, statistics = losses(config, parts[FRONT], parts[BACK], state.statistics, batch, noise)
        return found.loss, (found, statistics)

    gradient, (found, statistics) = jax.grad(loss, has_aux=True)({name: before[name] for name in config.parts})
    after, carried = dict(before), {}
    for name in config.parts:
        change, carried[name] = optimiser(config.rate, config.steps).update(gradient[name], state.optimisers[name], before[name])
        after[name] = optax.apply_updates(before[name], change)
    return State(after[FRONT], after[BACK], statistics, carried), found


@partial(jax.jit, static_argnames=("config",))
def measure(config: JointAsr, state: State, batch: Batch) -> Metrics:
    """The losses at work."""
    return losses(config, state.front, state.back, state.statistics, batch)[0]
