"""Transcribe recordings of any length to timed words; any recogniser of a few seconds of speech can be plugged in (`Recogniser`).

    from bayessep.recognition import Word

    class Whisper:  # as an example, with the library faster-whisper
        sample_rate, seconds = 16000, 28.0

        def __init__(self):
            from faster_whisper import WhisperModel
            self.model = WhisperModel("small.en")

        def recognise(self, speech):
            segments, _ = self.model.transcribe(speech, word_timestamps=True)
            return [Word(w.word.strip(), w.start, w.end, w.probability) for s in segments for w in s.words]

In a file my_recognisers.py, ``bayessep transcribe AUDIO --recogniser my_recognisers:Whisper`` uses it.
"""

from __future__ import annotations

import html
import importlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from bayessep import audio
from bayessep.errors import UserError
from bayessep.recognition import PUNCTUATION, Pocketsphinx, Word
from bayessep.separators import Progress, silent
from bayessep.waveforms import check_mono

FORMATS = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "json": ".json"}
"""Output formats of transcripts, and their file extensions."""
BLOCK_SECONDS = 30.0
QUIET = 0.05
"""Window in seconds over which power is measured to find where to cut a recording."""
FAINT = 1e-3
"""Relative to the peak so far: a piece that does not exceed it holds no speech."""
LINE, LASTING, SHORTEST, PAUSE = 42, 6.0, 0.05, 0.8
"""Limits of captions: characters per line, with two lines at most; longest and shortest duration in seconds (players drop captions
of no length); pause in seconds that ends a caption."""


@runtime_checkable
class Recogniser(Protocol):
    """A speech recogniser: turns a piece of speech into words."""

    @property
    def sample_rate(self) -> int:
        """Sample rate of its input, in hertz."""
        ...

    @property
    def seconds(self) -> float:
        """Longest input in seconds; longer recordings are cut where they are quiet."""
        ...

    def recognise(self, speech: Float[np.ndarray, " N"]) -> Sequence[Word]:
        """Return the words in a mono waveform, with times in seconds from its first sample."""
        ...


class Transcript(NamedTuple):
    """The words of a recording."""

    words: list[Word]
    duration: float  # seconds
    draws: int = 0  # number of draws it was `compared` with

    @property
    def text(self) -> str:
        """The words, joined by spaces."""
        return " ".join(word.word for word in self.words)


# --- recognising ---------------------------------------------------------------------------------------------------------


def transcribe(path: str | Path, recogniser: Recogniser | None = None, *, progress: Progress = silent) -> Transcript:
    """Transcribe a recording of any length, in bounded memory.

    Args:
        path: the recording, which is downmixed.
        recogniser: None takes `Pocketsphinx`.
        progress: called with "recognising", seconds done and seconds in all.

    Raises:
        UserError: as `audio.read`, or as the recogniser does.
    """
    recogniser = recogniser or Pocketsphinx()
    rate, info = recogniser.sample_rate, audio.probe(path)
    most = max(1, round(info.frames / info.sample_rate))
    blocks = (block.samples[0] for block in audio.blocks(path, BLOCK_SECONDS, sample_rate=rate, mono=True))
    return _recognised(recogniser, blocks, lambda end: progress("recognising", min(most, round(end)), most, float("nan")))


def transcribe_samples(samples: Float[np.ndarray, " N"], recogniser: Recogniser | None = None) -> Transcript:
    """Transcribe a mono waveform at the sample rate of the recogniser.

    Raises:
        UserError: a sample is not finite, or as the recogniser does.
    """
    check_mono(samples, "the waveform")
    return _recognised(recogniser or Pocketsphinx(), [np.asarray(samples, np.float32)], lambda _: None)


def _recognised(
    recogniser: Recogniser, blocks: Iterable[Float[np.ndarray, " n"]], done: Callable[[float], None]
) -> Transcript:
    """Transcribe a waveform that comes in blocks; `done` is called with the number of seconds processed."""
    rate, words, begin, loudest = recogniser.sample_rate, [], 0, 0.0
    for piece in pieces(blocks, round(recogniser.seconds * rate), rate):
        loud = float(np.abs(piece).max())
        loudest = max(loudest, loud)
        if loud > FAINT * loudest:
            words += heard(recogniser, piece, begin / rate)
        begin += len(piece)
        done(begin / rate)
    return Transcript(words, begin / rate)


def heard(recogniser: Recogniser, piece: Float[np.ndarray, " n"], begin: float) -> list[Word]:
    """Recognise a piece that starts at `begin` seconds; clip word times to the piece and keep them in order.

    Raises:
        UserError: the recogniser fails, or returns no words with finite times and confidence, or times far beyond the piece.
    """
    end, last, found = begin + len(piece) / recogniser.sample_rate, begin, []
    try:
        every = list(recogniser.recognise(piece))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        raise UserError(f"the recogniser {type(recogniser).__name__} failed ({type(error).__name__}: {error}).") from error
    for word in every:
        try:
            text = "".join(c if c.isprintable() else " " for c in str(word.word))
            said = Word(" ".join(text.split()), float(word.start), float(word.end), float(word.confidence))
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise UserError(f"the recogniser says {word!r}, which is not a word with start, end and confidence.") from None
        if not all(map(math.isfinite, said[1:])):
            raise UserError(f"the recogniser says {said.word!r} from {said.start} to {said.end}, which are not valid times.")
        if said.start > 2 * (length := end - begin) + 1:
            raise UserError(f"the recogniser says {said.word!r} at {said.start:g} s of {length:g} s; times are in seconds.")
        if said.word:
            start = min(max(begin + said.start, last), end)
            last = min(max(begin + said.end, start), end)
            found.append(Word(said.word, start, last, min(max(said.confidence, 0.0), 1.0)))
    return found


def pieces(blocks: Iterable[Float[np.ndarray, " n"]], most: int, sample_rate: int) -> Iterator[Float[np.ndarray, " n"]]:
    """Split a recording that comes in blocks into pieces of at most `most` samples, cut where their second half is quietest."""
    held, size = np.zeros(0, np.float32), max(1, round(QUIET * sample_rate))
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > most:
            late = held[most // 2 : most]
            powers = np.square(late[: len(late) // size * size].reshape(-1, size)).mean(-1)
            # The last of equally quiet windows, so that pieces of silence are long.
            cut = most if not len(powers) else most // 2 + (len(powers) - 1 - int(powers[::-1].argmin())) * size + size // 2
            yield held[:cut]
            held = held[cut:]
    if len(held):
        yield held


# --- agreement between draws of a separation -----------------------------------------------------------------------------

UNSURE = "(?)"
"""Marks words that change from draw to draw."""
SLACK = 0.1
"""Largest gap in seconds between the times of a word in two draws: the precision of recognisers."""


def compared(found: Transcript, draws: Sequence[Transcript]) -> Transcript:
    """Set the agreement of each word: the share of draws whose transcripts have the same word in the same place.

    Draws are posterior samples of the separated speech (`bayessep.draws`): a word that changes between them is uncertain, however
    confident the recogniser is of each.
    """
    agreed = np.zeros(len(found.words))
    for other in draws:
        agreed[_agreed(found.words, other.words)] += 1
    shares = agreed / len(draws) if draws else agreed + 1
    words = [word._replace(agreement=float(share)) for word, share in zip(found.words, shares, strict=True)]
    return Transcript(words, found.duration, len(draws))


def _agreed(ours: Sequence[Word], theirs: Sequence[Word]) -> list[int]:
    """Return the indices of our words that are matched one to one by the same words of theirs, nearest pairs first."""
    places: dict[str, list[int]] = {}
    for m, word in enumerate(theirs):
        places.setdefault(_bare(word), []).append(m)
    pairs = [
        (abs(theirs[m].start + theirs[m].end - word.start - word.end), n, m)
        for n, word in enumerate(ours)
        for m in places.get(_bare(word), [])
        if theirs[m].start < word.end + SLACK and theirs[m].end > word.start - SLACK
    ]
    found, taken = set[int](), set[int]()
    for _, n, m in sorted(pairs):
        if n not in found and m not in taken:
            found.add(n)
            taken.add(m)
    return sorted(found)


def _bare(word: Word) -> str:
    """Return a word as compared, without punctuation, which recognisers set depending on the following words."""
    text = word.word
    for what, instead in PUNCTUATION.items():
        text = re.sub(what, instead.strip(), text)
    return text.casefold() or word.word


# --- choosing one --------------------------------------------------------------------------------------------------------


def plugged_in(name: str) -> Recogniser:
    """Make a recogniser from an external ``module:callable``, which may lie in the working folder.

    Raises:
        UserError: it cannot be made, or the result is no `Recogniser`.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f"there is no recogniser {name!r}; choose pocketsphinx, attention-asr or your own as MODULE:CALLABLE.")
    if "" not in sys.path:  # not removed again: a plug-in may import more when it is used
        sys.path.insert(0, "")
    try:
        made: Any = getattr(importlib.import_module(module), attribute)()
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        raise UserError(f"recogniser {name} cannot be made ({type(error).__name__}: {error}).") from error
    if not isinstance(made, Recogniser):
        raise UserError(f"{name} made {type(made).__name__}, which lacks one of sample_rate, seconds and recognise.")
    rate, seconds = made.sample_rate, made.seconds
    if not (isinstance(rate, int) and isinstance(seconds, int | float) and math.isfinite(seconds) and rate > 0 and seconds >= 1):
        numbers = f"a sample_rate of {rate!r} and seconds of {seconds!r}"
        raise UserError(f"{name} has {numbers}; they must be a positive whole number, and at least 1.")
    return made


# --- writing -------------------------------------------------------------------------------------------------------------


class Caption(NamedTuple):
    """One or two lines that are shown together."""

    start: float
    end: float
    lines: list[str]


def captions(words: Sequence[Word]) -> list[Caption]:
    """Group words into captions of at most two lines of `LINE` characters and `LASTING` seconds, without a pause of `PAUSE`."""
    found: list[Caption] = []
    for word in words:
        word = word if word.agreement == 1 else word._replace(word=word.word + UNSURE)
        last = found[-1] if found else None
        joined = last is not None and word.start - last.end < PAUSE and word.end - last.start <= LASTING
        if last is not None and joined and len(last.lines[-1]) + 1 + len(word.word) <= LINE:
            found[-1] = Caption(last.start, word.end, [*last.lines[:-1], f"{last.lines[-1]} {word.word}"])
        elif last is not None and joined and len(last.lines) < 2:
            found[-1] = Caption(last.start, word.end, [*last.lines, word.word])
        else:
            found.append(Caption(word.start, word.end, [word.word]))
    return [caption._replace(end=max(caption.end, caption.start + SHORTEST)) for caption in found]


_ANGLES = str.maketrans("<>", "‹›")


def text_of(transcript: Transcript, format: str) -> str:
    """Format a transcript as one of `FORMATS` except JSON, for which see `document_of`."""
    if format == "text":
        return "".join(" ".join(caption.lines) + "\n" for caption in captions(transcript.words))
    plain, comma = format == "srt", "," if format == "srt" else "."
    blocks = []
    for n, caption in enumerate(captions(transcript.words), start=1):
        lines = "\n".join(caption.lines)
        times = f"{_clock(caption.start, comma)} --> {_clock(caption.end, comma)}"
        # Players take text in angle brackets for tags: WebVTT has entities to escape it, SubRip has not.
        head, lines = (f"{n}\n", lines.translate(_ANGLES)) if plain else ("", html.escape(lines, quote=False))
        blocks.append(f"{head}{times}\n{lines}\n")
    return ("" if plain else "WEBVTT\n\n") + "\n".join(blocks)


def _clock(seconds: float, comma: str) -> str:
    whole = round(1000 * seconds)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{comma}{whole % 1000:03}"


def document_of(transcript: Transcript) -> dict[str, Any]:
    """Return the JSON document: times in seconds to the millisecond, confidence to four digits; with draws, also agreement."""
    words: list[dict[str, Any]] = []
    for w in transcript.words:
        one = {"word": w.word, "start": round(w.start, 3), "end": round(w.end, 3), "confidence": round(w.confidence, 4)}
        words.append(one | ({"agreement": round(w.agreement, 4), "unsure": w.agreement < 1} if transcript.draws else {}))
    document: dict[str, Any] = {"text": transcript.text, "words": words, "duration": round(transcript.duration, 6)}
    return document | ({"draws": transcript.draws} if transcript.draws else {})


def transcript_of(document: Mapping[str, Any]) -> Transcript:
    """Read a transcript from a document of `document_of`."""
    words = [Word(**{name: value for name, value in one.items() if name in Word._fields}) for one in document["words"]]
    return Transcript(words, document["duration"], document.get("draws", 0))
