"""Words and their errors."""

import importlib

import numpy as np
import pytest

from bayessep import recognition
from bayessep.errors import UserError


@pytest.mark.parametrize(
    ("truth", "found", "errors", "words"),
    [
        ("Six spoons of fresh snow peas.", "six spoons of fresh snow peas", 0, 6),
        ("Six spoons, of fresh", "six of fresh fish", 2, 4),
        ("it's the bow's end", "its the bow's end", 1, 4),
        ("I don’t know ‘why’", "i don't know why", 0, 4),
        ("a [adif] bunch of <noise> words", "a bunch of words", 0, 4),
        ('the "lower-case" letters', "the lower case letters", 0, 4),
        ("anything", "", 1, 1),
    ],
)
def test_words_are_compared_without_case_and_punctuation(truth: str, found: str, errors: int, words: int) -> None:
    assert recognition.word_errors(truth, found) == (errors, words)


def test_a_transcript_without_words_is_refused() -> None:
    with pytest.raises(UserError, match="no words"):
        recognition.word_errors("...", "some words")


def test_a_library_that_is_not_there_is_named(monkeypatch) -> None:
    def refuse(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UserError, match=r"jiwer is not installed; pip install 'bayessep\[asr\]'"):
        recognition.word_errors("a", "b")


def test_loudness_does_not_matter() -> None:
    if not recognition.is_installed():
        pytest.skip("pocketsphinx, of the extra asr, is not installed")
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert recognition.transcribe(1e-3 * noise) == recognition.transcribe(0.5 * noise)
