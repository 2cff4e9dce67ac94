"""Transcribed speech, from a folder with a manifest or from LibriSpeech, and random utterances made of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bayessep import audio, corpora, data
from bayessep.errors import UserError
from bayessep.recognition import RATE, normalised
from bayessep.resampling import played

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GAPS = (0.05, 0.35)
"""Range of the silence, in seconds, between concatenated recordings and before and after all of them."""


class Spoken(NamedTuple):
    """A recording and its words."""

    name: str
    group: str  # its speaker
    samples: Float[np.ndarray, " N"]  # mono at `RATE`, with a peak magnitude of 1
    words: str  # `recognition.normalised`


class Listed(NamedTuple):
    """A transcribed recording before it is read."""

    path: Path
    group: str
    words: str
    licence: str = ""


def listed(folder: str | Path, *, only: Collection[str] = (), redistributable: bool = False) -> list[Listed]:
    """List the recordings with transcripts in a folder with manifest.csv, or in unpacked LibriSpeech, sorted by path.

    Args:
        folder: as above.
        only: allowed words; recordings with other words are left out. Empty: all are kept.
        redistributable: keep only recordings that `corpora.may_be_redistributed`; needs a manifest.

    Raises:
        UserError: the folder is neither, a file is missing or unreadable, nothing is left, or jiwer is not installed.
    """
    top = Path(folder)
    if (top / "manifest.csv").exists():
        spoken = data.select(data.read_manifest(top), category="speech")  # not songs, whose words are over music
        usable = (r for r in spoken if r.transcript and (not redistributable or corpora.may_be_redistributed(r)))
        every = [Listed(r.path, r.split_group, normalised(r.transcript), r.licence) for r in usable]
    elif redistributable:
        raise UserError(f"{top} has no manifest.csv that names licences; only with one can some be left out.")
    else:
        every = list(_librispeech(top))
    found = sorted(one for one in every if one.words and (not only or set(one.words.split()) <= set(only)))
    if not found:
        kind = " that may be passed on" * redistributable + f" of the words {', '.join(only)} alone" * bool(only)
        raise UserError(f"{top} lists no speech with a transcript{kind}; add some.")
    return found


def _librispeech(top: Path) -> Iterator[Listed]:
    """List LibriSpeech: folders speaker/chapter, each with a transcript file whose lines hold a recording's name and its words."""
    files = sorted(path for path in data.files_in(top) if path.name.endswith(".trans.txt"))
    if not files:
        raise UserError(f"{top} has neither a manifest.csv nor LibriSpeech's transcripts (*.trans.txt); give a folder that has.")
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeError) as error:
            raise UserError(f"{file} cannot be read ({error}); unpack the corpus again.") from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name, _, words = line.strip().partition(" ")
            path = file.parent / f"{name}.flac"
            if not path.is_file():
                raise UserError(f"{file}, line {number}: {path.name} does not exist; unpack the corpus again.")
            yield Listed(path, file.parent.parent.name, normalised(words))


def read(every: Iterable[Listed]) -> list[Spoken]:
    """Read listed recordings.

    Raises:
        UserError: one cannot be read, or is silent.
    """
    return [Spoken(one.path.name, one.group, _loud(one.path), one.words) for one in every]


def _loud(path: Path) -> Float[np.ndarray, " N"]:
    samples = audio.read(path, mono=True, sample_rate=RATE).samples[0]
    greatest = np.abs(samples).max(initial=0.0)
    if not greatest:
        raise UserError(f"{path} is silent, but its transcript has words; leave it out.")
    return (samples / greatest).astype(np.float32)


# --- utterances ----------------------------------------------------------------------------------------------------------


class Utterances(NamedTuple):
    """A batch of utterances, zero-padded to the maximum length."""

    waveform: Float[np.ndarray, "B N"]
    samples: Int[np.ndarray, " B"]
    words: list[str]
    groups: list[str]  # speakers


def fitting(every: Sequence[Spoken], seconds: float, speed: float = 1.0) -> list[Spoken]:
    """Return the recordings that fit into `seconds`, with pauses around them, even when slowed down by `speed`.

    Raises:
        UserError: none does.
    """
    found = [one for one in every if len(one.samples) * speed + 2 * GAPS[1] * RATE <= round(seconds * RATE)]
    if not found:
        raise UserError(f"no recording is shorter than {seconds:g} s, with {2 * GAPS[1]:g} s around it; allow longer utterances.")
    return found


def said(
    every: Sequence[Spoken], count: int, seconds: float, joined: int, rng: np.random.Generator, speed: float = 1.0
) -> Utterances:
    """Draw utterances, each of up to `joined` random recordings of one speaker, as many as fit into `seconds`.

    Each recording is played at a random speed, up to `speed` times faster or slower, which also shifts its pitch. Recordings that
    are too long on their own are not drawn (`fitting`).

    Raises:
        UserError: all of them are too long.
    """
    room, fit = round(seconds * RATE), fitting(every, seconds, speed)
    of_speaker: dict[str, list[Spoken]] = {}
    for one in fit:
        of_speaker.setdefault(one.group, []).append(one)
    waveform, samples = np.zeros((count, room), np.float32), np.zeros(count, np.int64)
    words, groups = [], []
    for n in range(count):
        groups.append(fit[rng.integers(len(fit))].group)
        own = of_speaker[groups[-1]]
        parts, text = [_pause(rng)], []
        for _ in range(rng.integers(1, joined + 1)):
            one = own[rng.integers(len(own))]
            more = [played(one.samples, speed ** rng.uniform(-1, 1)), _pause(rng)]
            if sum(map(len, parts + more)) > room:
                break
            parts += more
            text.append(one.words)
        whole = np.concatenate(parts)
        waveform[n, : len(whole)], samples[n] = whole, len(whole)
        words.append(" ".join(text))
    return Utterances(waveform, samples, words, groups)


def _pause(rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    return np.zeros(round(rng.uniform(*GAPS) * RATE), np.float32)
