"""Inference with trained recognisers: weights with their vocabulary, and recognisers by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from bayessep import extras, shipped, transcription, vocabulary
from bayessep.errors import UserError
from bayessep.models import attention_asr, beam_search
from bayessep.models.attention_asr import AttentionAsr, State
from bayessep.recognition import Pocketsphinx, Word
from bayessep.shipped import Weights

POCKETSPHINX, ATTENTION = "pocketsphinx", "attention-asr"
WIDTH = 4
"""Beam width (paper 001's code)."""


class AttentionRecogniser(NamedTuple):
    """The network of paper 001, trained."""

    config: AttentionAsr
    parameters: PyTree
    statistics: PyTree
    vocabulary: bytes
    seconds: float  # longest utterance in training
    labels: int  # maximum number of labels per utterance

    @property
    def sample_rate(self) -> int:
        """Sample rate of its input, in hertz."""
        return self.config.sample_rate

    def recognise(self, speech: Float[np.ndarray, " N"]) -> list[Word]:
        """Recognise the words in a piece of speech.

        Times are the centres of the encoder positions with the most attention, to some hundredths of a second. Confidence is the
        joint probability of the labels of a word, each given those before it, corrected for the label smoothing of training.
        """
        if len(speech) < self.config.shortest:
            return []
        size = max(len(speech), round(self.seconds * self.sample_rate))  # one compiled program for all
        padded = jnp.asarray(np.pad(speech, (0, size - len(speech)))[None])
        samples = jnp.array([len(speech)])
        said = beam_search.decode(self.config, self.parameters, self.statistics, padded, samples, WIDTH, self.labels)
        labels, probability, place = (np.asarray(x)[0, : int(said.length[0])] for x in (said.labels, said.probability, said.place))
        sure, step, rate = self.config.unsmoothed(probability), 4 * self.config.hop, self.sample_rate
        found = []
        for one in vocabulary.spelled(self.vocabulary, labels.tolist()):
            looked = place[one.first : one.last]
            start, last = (float((at * step + self.config.shortest / 2) / rate) for at in (looked.min(), looked.max()))
            found.append(Word(one.word, start, max(last, start + step / rate), float(np.prod(sure[one.first : one.last]))))
        return found


# --- weights -------------------------------------------------------------------------------------------------------------

VOCABULARY = "vocabulary"
"""Name of the vocabulary's bytes among the arrays."""


def weights_of(config: AttentionAsr, state: State, words: bytes, seconds: float, labels: int, about: Mapping[str, Any]) -> Weights:
    """Pack a trained recogniser for a weights file; `about` describes its training data."""
    arrays = shipped.flat({"parameters": state.parameters, "statistics": state.statistics})
    settings = {"network": ATTENTION, "config": dataclasses.asdict(config), "seconds": seconds, "labels": labels}
    return Weights(arrays | {VOCABULARY: np.frombuffer(words, np.uint8)}, settings | dict(about))


def recogniser_of(weights: Weights) -> AttentionRecogniser:
    """Build a recogniser from its weights.

    Raises:
        UserError: the weights are of something else.
    """
    settings, arrays = weights.settings, dict(weights.arrays)
    try:
        if (network := settings.get("network", "something else")) != ATTENTION:
            raise ValueError(f"they are of {network}")
        config = shipped.config_of(AttentionAsr, settings["config"])
        seconds, labels = float(settings["seconds"]), int(settings["labels"])
        if not (1 <= seconds <= attention_asr.SECONDS and 2 <= labels <= attention_asr.LIMIT):
            raise ValueError(f"utterances of {seconds} s and {labels} labels")
        words = arrays.pop(VOCABULARY).astype(np.uint8).tobytes()
        if (size := vocabulary.size_of(words)) != config.labels:
            raise ValueError(f"a vocabulary of {size} labels for {config.labels}")
        like: State = jax.eval_shape(lambda key: attention_asr.init(config, key), jax.random.key(0))
        tree = shipped.numbers(Weights(arrays, settings), {"parameters": like.parameters, "statistics": like.statistics})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"these are not the weights of a recogniser ({error}); bayessep train {ATTENTION} makes some.") from None
    return AttentionRecogniser(config, tree["parameters"], tree["statistics"], words, seconds, labels)


def named(name: str | None, weights: Path | None = None) -> transcription.Recogniser:
    """Return the recogniser of a name or of a weights file; pocketsphinx if neither is given.

    Raises:
        UserError: the name is unknown, it needs weights or takes none, or it is not installed.
    """
    if weights is not None:
        if name not in (None, ATTENTION):
            raise UserError(f"--weights are for {ATTENTION}: leave out either them or --recogniser {name}.")
        return shipped.made_of_file(weights, recogniser_of)
    if name == ATTENTION:
        if ATTENTION in shipped.names():
            return recogniser_of(shipped.read(ATTENTION))
        raise UserError(f"no {ATTENTION} is installed; give --weights FILE, a file that bayessep train {ATTENTION} has written.")
    if name not in (None, POCKETSPHINX):
        return transcription.plugged_in(name)
    extras.library(POCKETSPHINX, "asr")  # a missing library is reported before a recording is read
    return Pocketsphinx()
