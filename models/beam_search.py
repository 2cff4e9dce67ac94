"""Beam search for the most probable label sequences under `attention_asr` (as in paper 001's code)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from bayessep.models.attention_asr import END, AttentionAsr, DecoderState, features, graph, state_count

MOST = 200
"""Longest label sequence of an utterance."""


class Found(NamedTuple):
    """Best hypothesis for each utterance."""

    labels: Int[Array, "B L"]
    length: Int[Array, " B"]  # number of labels; the last is `END` unless the limit was reached
    log_probability: Float[Array, " B"]  # of the whole sequence
    probability: Float[Array, "B L"]  # of each label given those before it
    place: Int[Array, "B L"]  # encoder state with the largest attention weight; states are four hops apart


class _Beams(NamedTuple):
    memory: DecoderState  # of B W hypotheses
    labels: Int[Array, "B W L"]
    probability: Float[Array, "B W L"]
    place: Int[Array, "B W L"]
    score: Float[Array, "B W"]  # best first
    ended: Bool[Array, "B W"]


@partial(jax.jit, static_argnames=("config", "width", "most"))
def decode(
    config: AttentionAsr,
    parameters: PyTree,
    statistics: PyTree,
    waveform: Float[Array, "B N"],
    samples: Int[Array, " B"],
    width: int = 4,
    most: int = MOST,
) -> Found:
    """Decode utterances by beam search for the label sequence of highest probability; a `width` of 1 is greedy decoding.

    The search stops once the best hypothesis of every utterance has ended, as in the authors' code, or after `most` labels.
    """
    model = nnx.merge(graph(config), parameters, statistics)
    count = state_count(config, samples)
    encoded = model.encoder(features(config, waveform, samples), count)
    size = len(waveform)
    heard = model.decoder.prepare(jnp.repeat(encoded, width, axis=0), jnp.repeat(count, width))

    def apart(x: Array) -> Array:
        return x.reshape(size, width, *x.shape[1:])

    def chosen(x: Array, parent: Int[Array, "B W"]) -> Array:
        return jnp.take_along_axis(x, parent.reshape(size, width, *(1,) * (x.ndim - 2)), 1)

    def goes_on(carried: tuple[Int[Array, ""], _Beams]) -> Bool[Array, ""]:
        n, beams = carried
        return (n < most) & ~beams.ended[:, 0].all()

    def one(carried: tuple[Int[Array, ""], _Beams]) -> tuple[Int[Array, ""], _Beams]:
        n, beams = carried
        looked, attention, glimpse = model.decoder.attended(heard, beams.memory)
        likely = jnp.where(beams.ended[..., None], only_end, apart(jax.nn.log_softmax(model.decoder.logits(looked))))
        score, best = lax.top_k((beams.score[..., None] + likely).reshape(size, -1), width)
        parent, label = best // config.labels, best % config.labels

        def followed(x: Array) -> Array:
            return chosen(apart(x), parent).reshape(x.shape)

        attention = followed(attention)
        embedded = model.decoder.embedded(label.reshape(-1))
        memory = model.decoder.advance(jax.tree.map(followed, beams.memory), embedded, attention, followed(glimpse))
        now = label, jnp.exp(score - chosen(beams.score, parent)), apart(attention).argmax(-1).astype(jnp.int32)
        before = (chosen(x, parent) for x in (beams.labels, beams.probability, beams.place))
        labels, probability, place = (x.at[..., n].set(value) for x, value in zip(before, now, strict=True))
        return n + 1, _Beams(memory, labels, probability, place, score, chosen(beams.ended, parent) | (label == END))

    only_end = jnp.where(jnp.arange(config.labels) == END, jnp.float32(0), -jnp.inf)
    nothing = jnp.full((size, width, most), END, jnp.int32)
    alone = jnp.broadcast_to(jnp.where(jnp.arange(width) == 0, jnp.float32(0), -jnp.inf), (size, width))
    begun = model.decoder.begin(heard)
    beams = _Beams(begun, nothing, jnp.ones(nothing.shape), jnp.zeros_like(nothing), alone, jnp.zeros((size, width), bool))
    n, beams = lax.while_loop(goes_on, one, (jnp.int32(0), beams))
    labels = beams.labels[:, 0]
    ends = labels == END
    length = jnp.minimum(jnp.where(ends.any(1), ends.argmax(1) + 1, n), n).astype(jnp.int32)
    return Found(labels, length, beams.score[:, 0], beams.probability[:, 0], beams.place[:, 0])
