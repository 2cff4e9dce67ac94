"""Conversion between words and recogniser labels (subwords or characters), by the SentencePiece library (extra ``asr``).

The first two labels start and end every utterance; the third stands for unknown symbols.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from bayessep import extras
from bayessep.errors import UserError
from bayessep.models.attention_asr import BEGIN, END

CHARACTERS = 0
"""Vocabulary size that makes every occurring character a label."""


class Spelled(NamedTuple):
    """A word and the range of labels that spell it, from `first` up to but excluding `last`."""

    word: str
    first: int
    last: int


def learned(texts: Iterable[str], size: int = CHARACTERS) -> bytes:
    """Learn a vocabulary of the characters of texts, or of up to `size` labels by byte-pair encoding.

    Raises:
        UserError: the texts have no words, the size is too small for their characters, or SentencePiece is not installed.
    """
    texts, made = [text for text in texts if text.strip()], io.BytesIO()
    if not texts:
        raise UserError("the transcripts have no words to make a vocabulary from.")
    characters = set("".join(texts)) | {" "}
    if size and size < len(characters) + 3:
        least = f"the characters of the transcripts alone are {len(characters) + 3}; give 0 for these"
        raise UserError(f"a vocabulary of {size} labels is too small: {least}.")
    extras.library("sentencepiece", "asr").SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=made,
        model_type="bpe" if size else "char",
        vocab_size=size or len(characters) + 3,
        hard_vocab_limit=False,
        character_coverage=1.0,
        max_sentence_length=max(4192, *(len(text.encode()) + 1 for text in texts)),  # longer ones would be dropped silently
        normalization_rule_name="identity",  # transcripts are normalised already
        bos_id=BEGIN,
        eos_id=END,
        unk_id=END + 1,
        pad_id=-1,
        num_threads=1,  # for reproducible results
        minloglevel=2,
    )
    return made.getvalue()


def size_of(vocabulary: bytes) -> int:
    """Return the number of labels of a vocabulary."""
    return _processor(vocabulary).get_piece_size()


def labels_of(vocabulary: bytes, text: str) -> list[int]:
    """Return the labels of an utterance, including the start and end labels."""
    return [BEGIN, *_processor(vocabulary).encode(text), END]


def spelled(vocabulary: bytes, labels: Sequence[int]) -> list[Spelled]:
    """Return the words that labels spell, up to the end label."""
    processor = _processor(vocabulary)
    words: list[Spelled] = []
    for n, label in enumerate(labels):
        if label == END:
            break
        piece = "" if label == BEGIN else "\N{REPLACEMENT CHARACTER}" if label == END + 1 else processor.id_to_piece(label)
        for k, part in enumerate(piece.split("\N{LOWER ONE EIGHTH BLOCK}")):  # the library's symbol for a space
            if k or (part and not words):
                words.append(Spelled(part, n, n + 1))
            elif part:
                words[-1] = Spelled(words[-1].word + part, words[-1].first, n + 1)
    return [word for word in words if word.word]


@lru_cache(8)
def _processor(vocabulary: bytes) -> Any:
    library = extras.library("sentencepiece", "asr")
    try:
        return library.SentencePieceProcessor(model_proto=vocabulary)
    except Exception:  # the library may raise anything for foreign bytes
        raise UserError("this is not a SentencePiece vocabulary.") from None
