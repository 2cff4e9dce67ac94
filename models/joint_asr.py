"""Joint tuning of a separator and a recogniser as one differentiable program (paper 001, sections III-C and IV-C).

The separated speech waveform, scaled to a fixed peak as always in the recogniser, is the input of the recogniser's features. The
loss is L = L_sep + α L_asr: the negative mean SI-SDR of both sources in decibels, plus α times the cross-entropy summed over labels
and utterances; the paper has α = 2. Each part has its own Adam, as in the authors' code; a part that is not tuned is frozen,
running statistics included, and runs in inference mode.
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
"""What is tuned: the separator, with gradients through the recogniser; the recogniser; or both."""


@dataclass(frozen=True)
class JointAsr:
    """Configuration of the joint model; the defaults are paper 001's.

    Attributes:
        front: the separator.
        back: the recogniser.
        tuned: one of `TUNED`.
        weight: α; 0 trains the separator alone on the recogniser's utterances, without running the recogniser.
        rate, steps: learning rate of both Adams, and the steps of its cosine decay to zero; 0 keeps it constant.

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
        # The joint rate applies; resetting the parts' own lets all share one compiled program.
        for name in (FRONT, BACK):
            part = getattr(self, name)
            object.__setattr__(self, name, dataclasses.replace(part, rate=type(part).rate, steps=0))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tuned parts."""
        return (FRONT, BACK) if self.tuned == BOTH else (self.tuned,)

    @property
    def separator(self) -> ModuleType:
        """Module of the front end."""
        return conv_tasnet if isinstance(self.front, ConvTasNet) else blstm_mask


class Batch(NamedTuple):
    """Padded mixtures, their speech, and their label sequences; the padding may hold any values."""

    mixture: Float[Array | np.ndarray, "B N"]
    speech: Float[Array | np.ndarray, "B N"]
    samples: Int[Array | np.ndarray, " B"]
    labels: Int[Array | np.ndarray, "B L"]
    length: Int[Array | np.ndarray, " B"]


class State(NamedTuple):
    """Training state."""

    front: PyTree  # parameters of the separator
    back: PyTree  # parameters of the recogniser
    statistics: PyTree  # running means and variances of the recogniser
    optimisers: dict[str, optax.OptState]  # of the tuned parts


class Metrics(NamedTuple):
    """Metrics of a batch: L, L_sep, L_asr, mean cross-entropy per label, label accuracy, and SI-SDR in decibels."""

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
    """Separate mixtures into speech and music; everything after the first `samples` of each mixture is zero.

    Each mixture is normalised to a mean square of 1, as in `neural`, and its scale is restored.
    """
    inside = within(mixture.shape[1], samples)
    power = jnp.square(mixture).sum(1, keepdims=True, where=inside) / jnp.maximum(samples, 1)[:, None].astype(mixture.dtype)
    scale = jnp.sqrt(power + 1e-9)
    heard = jnp.where(inside, mixture / scale, jnp.float32(0))
    separated = partial(config.separator.separated, config.front, front)
    if isinstance(config.front, ConvTasNet) and together_here() == 1:  # one by one: a single example fits into the cache
        found = lax.map(lambda one: separated(one[0][None], one[1])[0], (heard, samples))
    else:
        found = separated(heard, samples)
    found = jnp.where(inside[:, None], found * scale[:, None], jnp.float32(0))
    return found[:, 0], found[:, 1]


def separate(config: JointAsr, front: PyTree, mixture: Float[Array, "B N"], samples: Int[Array, " B"]) -> Float[Array, "B N"]:
    """Separated speech (`speech_of`), compiled once per pair of networks, whichever part is tuned."""
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
    """Separate mixtures and recognise their speech by beam search; return the hypotheses and the separated speech."""
    speech = separate(config, front, mixture, samples)
    return beam_search.decode(config.back, back, statistics, speech, samples, width, most), speech


# --- training ------------------------------------------------------------------------------------------------------------


def init(config: JointAsr, key: Key[Array, ""]) -> State:
    """Training state with both parts freshly initialised."""
    front, back = jax.random.split(key)
    recogniser = attention_asr.init(config.back, back)
    return joined(config, config.separator.init(config.front, front).parameters, recogniser.parameters, recogniser.statistics)


def joined(config: JointAsr, front: PyTree, back: PyTree, statistics: PyTree) -> State:
    """Training state from a separator and a recogniser that were trained separately."""
    carried = optimiser(config.rate, config.steps)
    parts = {FRONT: front, BACK: back}
    return State(front, back, statistics, {name: carried.init(parts[name]) for name in config.parts})


def losses(
    config: JointAsr, front: PyTree, back: PyTree, statistics: PyTree, batch: Batch, key: Key[Array, ""] | None = None
) -> tuple[Metrics, PyTree]:
    """Return the metrics and the recogniser's running statistics; with a key, the recogniser runs in training mode."""
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
    """Take one step of Adam for each tuned part; the metrics are those before it."""
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
    """Metrics in inference mode."""
    return losses(config, state.front, state.back, state.statistics, batch)[0]
