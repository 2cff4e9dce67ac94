"""A speech recogniser and word error rates. Both libraries come with the extra ``asr``.

The recogniser is pocketsphinx with the English model in its wheel: small, and usable offline. It gets about a third of the words
of clean read speech wrong, so its word error rate shows how much a separation costs or saves, not how well machines can
recognise speech.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import extras
from bayessep.errors import UserError

RATE = 16000  # of the recogniser, in Hz
PUNCTUATION = {
    r"(?<=\w)[\N{RIGHT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}](?=\w)": "'",
    r"[^\w\s']|_": " ",
}
"""Patterns removed before words are compared, with their replacements; apostrophes in words stay, in one spelling."""


class WordErrors(NamedTuple):
    """Word error counts of a transcript."""

    errors: int  # substitutions, deletions and insertions
    words: int  # in the true transcript


def is_installed() -> bool:
    """Return whether both libraries are installed."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("pocketsphinx", "jiwer"))


class Word(NamedTuple):
    """A recognised word."""

    word: str
    start: float  # seconds from the start of the audio
    end: float
    confidence: float  # the recogniser's probability that it is correct
    agreement: float = 1.0  # share of the draws of a separation that contain it (`transcription.compared`)


class Pocketsphinx(NamedTuple):
    """Recogniser of general English, small and inaccurate, that comes with the extra ``asr``."""

    sample_rate: int = RATE
    seconds: float = 30.0

    def recognise(self, speech: Float[np.ndarray, " N"]) -> list[Word]:
        """Recognise the words in speech, lower-cased; loudness does not matter.

        Raises:
            UserError: the recogniser is not installed.
        """
        if transcribe(speech) == "":
            return []
        decoder = _decoder()
        frames = float(decoder.config["frate"])
        words = [segment for segment in decoder.seg() if segment.word[0] not in "<[+"]
        return [  # alternative pronunciations are numbered, as in our(2)
            Word(s.word.split("(")[0], s.start_frame / frames, (s.end_frame + 1) / frames, min(1.0, float(s.prob))) for s in words
        ]


def transcribe(speech: Float[np.ndarray, " N"]) -> str:
    """Transcribe speech at 16 kHz to lower-case words; loudness does not matter.

    Raises:
        UserError: the recogniser is not installed.
    """
    decoder = _decoder()
    loudness = np.abs(speech).max()
    samples = (speech / max(float(loudness), 1e-9) * 16000).astype(np.int16)
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return "" if found is None else found.hypstr


def normalised(text: str) -> str:
    """Normalise text for comparison: lower case, no punctuation but apostrophes, nothing in brackets (noises and fragments).

    Raises:
        UserError: jiwer is not installed.
    """
    jiwer = extras.library("jiwer", "asr")
    steps = [jiwer.RemoveKaldiNonWords(), jiwer.ToLowerCase(), jiwer.SubstituteRegexes(PUNCTUATION)]
    return " ".join(jiwer.Compose(steps)(text).split())


def word_errors(truth: str, found: str) -> WordErrors:
    """Count word errors between two transcripts, after `normalised`.

    Raises:
        UserError: jiwer is not installed, or the true transcript has no words.
    """
    jiwer, (truth, found) = extras.library("jiwer", "asr"), (normalised(text) for text in (truth, found))
    if not truth:
        raise UserError("the true transcript has no words to compare with.")
    counts = jiwer.process_words(truth, found)
    errors = counts.substitutions + counts.deletions + counts.insertions
    return WordErrors(errors, counts.hits + counts.substitutions + counts.deletions)


@cache
def _decoder() -> Any:
    return extras.library("pocketsphinx", "asr").Decoder(samprate=RATE, loglevel="FATAL", maxhmmpf=3000, maxwpf=10, fwdflat=False)
