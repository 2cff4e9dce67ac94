"""Rows of `make bench` about the recogniser of paper 001: how long learning and decoding take beside what is heard."""

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import Side
from tests.benchmarks.waveforms import learning

RATE, SECONDS, UTTERANCES, LABELS = 16_000, 4.0, 16, 32


def _batch(labels: int, utterances: int = UTTERANCES) -> Any:
    """Utterances of noise, for what is said in them does not matter to how long it takes."""
    from bayessep.models.attention_asr import BEGIN, END, Batch

    rng = np.random.default_rng(0)
    waveform = rng.standard_normal((utterances, round(SECONDS * RATE)), np.float32)
    said = rng.integers(END + 1, labels, (utterances, LABELS))
    said[:, 0], said[:, -1] = BEGIN, END
    return Batch(waveform, np.full(utterances, waveform.shape[1]), said, np.full(utterances, LABELS))


def step(config: Any) -> Side:
    """A step of its training."""
    from bayessep.models import attention_asr

    return learning(attention_asr, config, _batch(config.labels))


def joint_step(config: Any, utterances: int) -> Side:
    """A step of tuning a separator and the recogniser behind it together."""
    from bayessep.models import joint_asr

    batch = _batch(config.back.labels, utterances)
    music = np.random.default_rng(1).standard_normal(batch.waveform.shape, np.float32)
    return learning(joint_asr, config, joint_asr.Batch(batch.waveform + music, *batch))


def decoding(config: Any, width: int = 4) -> Side:
    """Beam search; what has learned nothing hardly ever ends, so all of it is said."""
    import jax

    from bayessep.models import attention_asr, beam_search

    state, batch = attention_asr.init(config, jax.random.key(0)), _batch(config.labels)
    given = state.parameters, state.statistics, jax.numpy.asarray(batch.waveform), jax.numpy.asarray(batch.samples)

    def ours() -> np.ndarray:
        return np.asarray(beam_search.decode(config, *given, width, LABELS).labels)

    return ours
