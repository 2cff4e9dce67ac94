"""Rows of `make bench` about the recogniser of paper 001: how long learning and decoding take beside what is heard."""

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import Side

RATE, SECONDS, UTTERANCES, LABELS = 16_000, 4.0, 16, 32
DURATION = SECONDS * UTTERANCES


def _batch(labels: int) -> Any:
    """Utterances of noise, for what is said in them does not matter to how long it takes."""
    from bayessep.models.attention_asr import BEGIN, END, Batch

    rng = np.random.default_rng(0)
    waveform = rng.standard_normal((UTTERANCES, round(SECONDS * RATE)), np.float32)
    said = rng.integers(END + 1, labels, (UTTERANCES, LABELS))
    said[:, 0], said[:, -1] = BEGIN, END
    return Batch(waveform, np.full(UTTERANCES, waveform.shape[1]), said, np.full(UTTERANCES, LABELS))


def step(config: Any) -> Side:
    """A step of its training."""
    import jax

    from bayessep.models import attention_asr

    state, key = attention_asr.init(config, jax.random.key(0)), jax.random.key(0)
    batch = jax.tree.map(jax.numpy.asarray, _batch(config.labels))

    def ours() -> float:
        nonlocal state
        state, found = attention_asr.step(config, state, batch, key)
        return float(jax.block_until_ready((state, found))[1].loss)

    return ours


def decoding(config: Any, width: int = 4) -> Side:
    """Beam search; what has learned nothing hardly ever ends, so all of it is said."""
    import jax

    from bayessep.models import attention_asr, beam_search

    state, batch = attention_asr.init(config, jax.random.key(0)), _batch(config.labels)
    given = state.parameters, state.statistics, jax.numpy.asarray(batch.waveform), jax.numpy.asarray(batch.samples)

    def ours() -> np.ndarray:
        return np.asarray(beam_search.decode(config, *given, width, LABELS).labels)

    return ours
