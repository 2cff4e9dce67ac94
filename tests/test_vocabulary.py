"""Words, labels, and words again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayessep import vocabulary
from bayessep.errors import UserError
from bayessep.models.attention_asr import BEGIN, END

pytest.importorskip("sentencepiece", reason="SentencePiece is not installed")
TEXTS = ["one two three", "it's the bow's end", "zero five nine", "three threes"]
WORDS = sorted({word for text in TEXTS for word in text.split()})


@pytest.fixture(scope="module", params=[0, 30])
def made(request: pytest.FixtureRequest) -> bytes:
    """Characters, and subwords."""
    return vocabulary.learned(TEXTS, request.param)


@given(st.lists(st.sampled_from(WORDS), max_size=6))
@settings(max_examples=30, deadline=None)
def test_words_come_back(made: bytes, words: list[str]) -> None:
    labels = vocabulary.labels_of(made, " ".join(words))
    assert labels[0] == BEGIN and labels[-1] == END and max(labels) < vocabulary.size_of(made)
    found = vocabulary.spelled(made, labels)
    assert [word.word for word in found] == words
    for word in found:  # of its labels and no others
        assert "".join(one.word for one in vocabulary.spelled(made, labels[word.first : word.last])) == word.word


def test_the_same_texts_make_the_same_vocabulary_and_what_it_lacks_is_marked(made: bytes) -> None:
    assert len(made) < 20_000
    assert vocabulary.learned(TEXTS, 0) == vocabulary.learned(TEXTS, 0)
    (word,) = vocabulary.spelled(made, vocabulary.labels_of(made, "q"))
    assert word.word == "\N{REPLACEMENT CHARACTER}"


def test_long_transcripts_are_learned_from() -> None:
    made = vocabulary.learned(["ab", "z" * 5000])
    assert [word.word for word in vocabulary.spelled(made, vocabulary.labels_of(made, "zz"))] == ["zz"]


def test_subwords_are_fewer_than_characters() -> None:
    characters, subwords = (vocabulary.labels_of(vocabulary.learned(TEXTS, n), "three threes") for n in (0, 30))
    assert len(subwords) < len(characters)


def test_what_makes_no_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="have no words"):
        vocabulary.learned(["", " "])
    with pytest.raises(UserError, match="too small"):
        vocabulary.learned(TEXTS, 5)
    with pytest.raises(UserError, match="not a SentencePiece vocabulary"):
        vocabulary.size_of(b"something else")
