"""Readers of published corpora in their original layout: MUSAN, labelled radio broadcasts, training recordings for detectors.

Loaders return `bayessep.data.Recording`, whose split groups (an artist, a speaker) must stay on one side of a split; `folds`
assigns them.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import audio, segments
from bayessep.data import Recording, read_folder, read_manifest
from bayessep.errors import UserError
from bayessep.timeline import MUSIC, NOISE, SPEECH, Segment, fill_gaps, flatten

# --- MUSAN ---------------------------------------------------------------------------------------------------------------

MUSAN = {
    "music": ("fma", "fma-western-art", "hd-classical", "jamendo", "rfm"),
    "speech": ("librivox", "us-gov"),
    "noise": ("free-sound", "sound-bible"),
}
"""The parts of MUSAN, and the folders of each."""

_GENDERS = {"m": "male", "f": "female"}
_SPELLINGS = {"kevin_macload": "kevin_macleod"}  # the licence page of hd-classical misspells the name


def read_musan(
    folder: str | Path,
    *,
    parts: Collection[str] = tuple(MUSAN),
    vocals: bool = True,
    missing: Callable[[str], object] | None = None,
) -> list[Recording]:
    """Read unpacked MUSAN (Snyder, Chen, Povey, arXiv:1510.08484, openslr.org/17), in wav or flac.

    Each of the folders of `MUSAN`, such as ``music/fma``, holds recordings, ``ANNOTATIONS`` and ``LICENSE``. A line of ANNOTATIONS
    holds, separated by blanks, the name of a recording and, for music, its genres, Y or N for vocals, the artist and perhaps the
    composer; for speech, the speaker's gender and the language.

    Music has its genres as note and its artist as split group, across folders. Speech has the gender (male, female) as note and its
    own name as split group, because MUSAN names no speakers. The licence is the one that LICENSE gives for the recording, in short
    form, or empty if it gives none.

    Args:
        folder: the folder that holds music, speech and noise, or its parent.
        parts: which of them to read.
        vocals: whether to include music with vocals.
        missing: called with a sentence for each thing that the published corpus has and this folder lacks. If None, that is an
            error.

    Raises:
        UserError: a part is not one of MUSAN's, a folder or recording or ANNOTATIONS of music is missing, there is no
            recording at all, or a line or recording cannot be read.
    """
    top = Path(folder)
    top = top / "musan" if (top / "musan").is_dir() else top
    if unknown := sorted(set(parts) - set(MUSAN)):
        raise UserError(f"{', '.join(unknown)} is not part of MUSAN; choose from {', '.join(MUSAN)}.")
    if not any((top / part).is_dir() for part in parts):
        raise UserError(f"{top} holds none of the folders {', '.join(parts)}; give the folder to which MUSAN was unpacked.")

    def lacks(sentence: str) -> None:
        if missing is None:
            raise UserError(f"{sentence}; unpack MUSAN again, or name the parts that you have.")
        missing(sentence)

    found = [r for part in MUSAN if part in parts for name in MUSAN[part] for r in _musan(top, part, name, lacks)]
    if not found:
        raise UserError(f"{top} holds no recordings of MUSAN; they end in .wav or .flac.")
    return [r for r, sung in found if vocals or not sung]


def _musan(top: Path, part: str, name: str, lacks: Callable[[str], object]) -> Iterator[tuple[Recording, bool]]:
    """Yield the recordings of one folder, and whether they have vocals."""
    folder = top / part / name
    if not folder.is_dir():
        lacks(f"{folder} is missing")
        return
    paths = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".wav", ".flac")}
    lines = _lines(folder / "ANNOTATIONS")
    if not lines and part == "music":
        lacks(f"{folder / 'ANNOTATIONS'} is missing")
    known = {fields[0]: (n, fields) for n, line in lines if (fields := line.split())[0].startswith(f"{part}-")}
    if absent := [stem for stem in known if stem not in paths]:
        lacks(f"{folder} lacks {absent[0]} and {len(absent) - 1} more" if len(absent) > 1 else f"{folder} lacks {absent[0]}")
    if not paths:
        lacks(f"{folder} holds no recordings")
    licences = _licences([line for _, line in _lines(folder / "LICENSE")])
    for stem, path in paths.items():
        number, fields = known.get(stem, (0, [stem]))
        group, note, sung = stem, "", False
        if part == "music" and len(fields) > 1:
            if len(fields) < 3 or fields[2] not in ("Y", "N"):
                wanted = "recording, genres, Y or N for vocals, artist"
                raise UserError(f"{folder / 'ANNOTATIONS'}, line {number}: expected {wanted}; download the file again.")
            note, sung = fields[1], fields[2] == "Y"
            artist = fields[3].lower() if len(fields) > 3 else stem
            group = _SPELLINGS.get(artist, artist)
        elif part == "speech" and len(fields) > 1:
            note = _GENDERS.get(fields[1].lower(), fields[1])
        info = audio.probe(path)
        seconds, licence = info.frames / info.sample_rate, licences.get(stem, licences.get("", ""))
        where = f"MUSAN/{part}/{name}/{path.name}"
        yield Recording(path, part, group, seconds, info.sample_rate, info.channels, "", note, licence, where), sung


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the non-blank lines of a text file with their numbers; none if there is no file.

    Raises:
        UserError: the file exists but cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); it must be text in UTF-8.") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


_CODE = re.compile(r"CC0(?: \d\.\d)?|CC BY(?:-[A-Z]{2})*(?: \d\.\d)?(?: [A-Z]{2}\b)?")
_TERMS = {"BY": "attribution", "NC": r"non-?commercial", "ND": r"no-?deriv", "SA": r"share-? ?alike"}


def _licence(line: str) -> str:
    """Return the licence that a line of LICENSE names, such as CC BY-SA 3.0 or Public domain; empty if it names none.

    If the words and the licence code contradict each other, the code counts.
    """
    if re.match(r"https?:|permissions beyond", line, re.IGNORECASE):
        return ""
    if code := _CODE.search(line):
        return code.group()
    if re.search(r"public domain", line, re.IGNORECASE):
        return "Public domain"
    if not re.search(r"attribution.*licen[sc]e|licen[sc]e.*attribution", line, re.IGNORECASE):
        return ""
    terms = "-".join(code for code, words in _TERMS.items() if re.search(words, line, re.IGNORECASE))
    version = re.search(r"\d\.\d", line)
    return f"CC {terms}{f' {version.group()}' if version else ''}"


def _licences(lines: Sequence[str]) -> dict[str, str]:
    """Return the licence of each recording, and under "" the one of all recordings without their own.

    Rules of equals signs separate blocks of names and statements. A licence applies to the names since the previous licence, and
    to those after it if no other follows. A licence in a block without names applies to the whole folder.
    """
    found: dict[str, str] = {}
    block: list[str] = []
    for line in [*lines, "=" * 10]:
        if not line.startswith("=" * 10):
            block.append(line)
            continue
        names: list[str] = []
        last = ""
        for entry in block:
            if re.match(r"(music|speech|noise)-[\w-]+\d", entry):
                names.append(entry.split()[0])
            elif licence := _licence(entry):
                last = licence
                found |= dict.fromkeys(names, licence)
                names = []
        if last:
            found |= dict.fromkeys(names, last)
            if not any(re.match(r"(music|speech|noise)-[\w-]+\d", entry) for entry in block):
                found.setdefault("", last)
        block = []
    return found


# --- broadcasts with labels ----------------------------------------------------------------------------------------------

Labelled = tuple[Recording, list[Segment]]


def read_dafx12(folder: str | Path) -> list[Labelled]:
    """Read radio broadcasts with labels of speech and music, as in Schlüter and Sonnleitner (DAFx 2012).

    That corpus is not published; this reads the layout that its users describe, and similar ones. Audio may lie anywhere in the
    folder. The labels of ``x.wav`` are searched in this order:

    1. ``labels/speech/x.csv`` and ``labels/music/x.csv`` below the folder, or ``x.speech`` and ``x.music`` beside the audio.
       Each is a table of segments: start and duration in seconds, and 1 for speech (music), 0 otherwise. The first line names the
       columns; if one of them is called end, it replaces the duration. Without a header, a row is start, end and optionally 1 or
       0, or the word. Columns are separated by commas, semicolons, tabs or blanks. Time that is on in neither file is noise, so
       the segments cover the whole recording.
    2. one file beside the audio that `bayessep.segments.read` reads: ``x.csv``, ``.tsv``, ``.txt``, ``.rttm``, ``.TextGrid``
       or ``.json``, with the labels speech, music, speech+music.

    The split group is the station if the name looks like ``332-RSR3-2012_02_01_10_45_01`` or ``FM4-h1``, as in the corpus, else
    the name itself; the category is broadcast.

    Raises:
        UserError: there is no audio, a recording has no labels or only one file of a pair, or a file cannot be read.
    """
    top = Path(folder)
    found = []
    for r in read_folder(top, "broadcast"):
        station = re.fullmatch(r"(?:\d+-)?([A-Za-z]\w*?)-(?:h\d+|\d{4}_.*)", r.path.stem)
        found.append((r._replace(split_group=station[1] if station else r.path.stem), _labels(top, r)))
    return found


def _labels(top: Path, recording: Recording) -> list[Segment]:
    path = recording.path
    kinds = (SPEECH, MUSIC)
    for pair in (
        {kind: top / "labels" / kind / f"{path.stem}.csv" for kind in kinds},
        {kind: path.with_suffix(f".{kind}") for kind in kinds},
    ):
        there = [file.is_file() for file in pair.values()]
        if all(there):
            on = [s for kind, file in pair.items() for s in _stretches(file, kind)]
            return fill_gaps(flatten(on), recording.duration, NOISE)
        if any(there):
            raise UserError(f"{pair[kinds[there.index(False)]]} does not exist, but its counterpart does; {path} needs both.")
    for suffix in (".csv", ".tsv", ".txt", ".rttm", ".TextGrid", ".json"):
        if (file := path.with_suffix(suffix)).is_file():
            return segments.read(file)
    raise UserError(f"{path} has no labels; put {path.stem}.speech and {path.stem}.music, or {path.stem}.csv, beside it.")


def _stretches(path: Path, label: str) -> list[Segment]:
    """Read the segments that a table marks as on; an empty table has none."""
    lines = _lines(path)
    delimiter = next((d for d in "\t;," if lines and d in lines[0][1]), None)

    def cells(line: str) -> list[str]:
        return [c.strip() for c in (line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter)))]

    has_end = True
    if lines and re.match(r"[a-z]{2,}(?<!nan)(?<!inf)\b", lines[0][1], re.IGNORECASE):
        has_end = bool({"end", "stop", "offset", "end_time", "tmax"} & {c.lower() for c in cells(lines.pop(0)[1])})
    words = {"": True, "1": True, label: True, "0": False, f"no{label}": False, f"non-{label}": False, f"no-{label}": False}
    found = []
    for number, line in lines:
        row = [*cells(line), ""]
        try:
            start, second = (float(c) for c in row[:2])
            on = words[(row[2] if len(row) > 3 else "").lower()]
        except (ValueError, KeyError):
            wanted = f"start, {'end' if has_end else 'duration'} and 1 or 0"
            raise UserError(f"{path}, line {number}: expected {wanted}, found {line!r}.") from None
        end = second if has_end else start + second
        if not (np.isfinite([start, end]).all() and 0 <= start <= end):
            raise UserError(f"{path}, line {number}: the stretch from {start:g} s to {end:g} s is not valid; correct the times.")
        if on and end > start:
            found.append(Segment(start, end, label))
    return found


# --- folds ---------------------------------------------------------------------------------------------------------------


def folds(recordings: Iterable[Recording], n: int = 3) -> list[list[Recording]]:
    """Divide recordings into n folds of almost equal duration, as paper 003 does with MUSAN (section III-A).

    No split group is in two folds. Each category, and within it each note (genre, gender), is spread as evenly as that allows:
    groups are assigned from the longest to the shortest, each to the fold that so far has the least of the group's material,
    measured as shares of its notes, its categories and the total. The result does not depend on the order of the recordings.

    The authors' code deals files in turn, genre by genre, so an artist may be in several folds.

    Raises:
        UserError: there are fewer groups than folds, or n is below 1.
    """
    groups: dict[str, list[Recording]] = defaultdict(list)
    for r in sorted(recordings, key=lambda r: str(r.path)):
        groups[r.split_group].append(r)
    if n < 1 or len(groups) < n:
        raise UserError(f"{len(groups)} split groups cannot be divided into {n} folds; use fewer folds or more recordings.")

    def seconds(of: Iterable[Recording]) -> dict[tuple[str, ...], float]:
        """Sum the durations of each note, each category and everything."""
        sums: dict[tuple[str, ...], float] = defaultdict(float)
        for r in of:
            for key in ((r.category, r.note), (r.category,), ()):
                sums[key] += r.duration
        return sums

    weights = {name: seconds(of) for name, of in groups.items()}
    total = seconds(r for of in groups.values() for r in of)
    dealt: list[list[Recording]] = [[] for _ in range(n)]
    held: list[dict[tuple[str, ...], float]] = [defaultdict(float) for _ in range(n)]
    for name in sorted(groups, key=lambda name: (-weights[name][()], name)):
        own = weights[name]
        shares = {key: w / total[key] for key, w in own.items() if w > 0}
        fullness = [
            (sum(w * fold[key] for key, w in shares.items()), fold[()], len(of)) for fold, of in zip(held, dealt, strict=True)
        ]
        fold = fullness.index(min(fullness))
        dealt[fold] += groups[name]
        for key, w in own.items():
            held[fold][key] += w
    return [sorted(fold, key=lambda r: str(r.path)) for fold in dealt]


# --- training data of detectors ------------------------------------------------------------------------------------------


class Sound(NamedTuple):
    """A recording that may consist of several files."""

    recording: Recording
    paths: tuple[Path, ...]  # the recording is their sum, sample by sample

    def read(self, sample_rate: int | None = None) -> Float[np.ndarray, " N"]:
        """Read it downmixed to mono, at a sample rate in hertz (None: its own).

        Raises:
            UserError: a file cannot be read, or the files differ in length.
        """
        parts = [audio.read(path, mono=True, sample_rate=sample_rate).samples[0] for path in self.paths]
        if len({len(part) for part in parts}) > 1:
            raise UserError(f"{self.paths[0]} is not as long as its other stems; export the stems again.")
        return np.sum(parts, axis=0)


class DetectorRecordings(NamedTuple):
    """Recordings of speech alone, and of music alone."""

    speech: list[Sound]
    music: list[Sound]


def detector_recordings(
    folder: str | Path, *, redistributable: bool = False, needed: Collection[str] = (SPEECH, MUSIC)
) -> DetectorRecordings:
    """List the training recordings of a speech and music detector in a folder with manifest.csv.

    Speech is the category speech, and broadcast/sm_hpss/sp.mp3. Music is the categories music and songs, the stems of a song
    (vocals and accompaniment in one folder below stems/, which sum to it), and broadcast/sm_hpss/mu.mp3. Singing alone is
    neither.

    Args:
        folder: as for `bayessep.data.read_manifest`.
        redistributable: keep only what `may_be_redistributed`.
        needed: classes that must not be empty.

    Raises:
        UserError: the manifest cannot be used, a song lacks one of its stems, or a needed class is empty.
    """
    top = Path(folder)
    speech, music = [], []
    stems: dict[Path, list[Recording]] = defaultdict(list)
    for r in read_manifest(top):
        place = r.path.relative_to(top).as_posix()
        if r.category == "stems":
            stems[r.path.parent].append(r)
        elif r.category == "speech" or place == "broadcast/sm_hpss/sp.mp3":
            speech.append(Sound(r._replace(category=SPEECH), (r.path,)))
        elif r.category in ("music", "songs") or place == "broadcast/sm_hpss/mu.mp3":
            music.append(Sound(r._replace(category=MUSIC), (r.path,)))
    for place, parts in stems.items():
        if sorted(r.path.stem for r in parts) != ["accompaniment", "vocals"]:
            given = ", ".join(r.path.name for r in parts)
            raise UserError(f"{place} has the stems {given} in the manifest; a song needs vocals and accompaniment.")
        parts.sort(key=lambda r: r.path)
        licence = "; ".join(dict.fromkeys(r.licence for r in parts))
        music.append(Sound(parts[0]._replace(category=MUSIC, licence=licence), tuple(r.path for r in parts)))
    return _usable(DetectorRecordings(speech, music), redistributable, needed, f"{top / 'manifest.csv'} lists")


def speech_and_music(
    folder: str | Path,
    *,
    redistributable: bool = False,
    missing: Callable[[str], object] | None = None,
    needed: Collection[str] = (SPEECH, MUSIC),
) -> DetectorRecordings:
    """List speech and music in a folder with manifest.csv (`detector_recordings`), or in unpacked MUSAN.

    Args:
        folder: see above.
        redistributable: keep only what `may_be_redistributed`.
        missing: as `read_musan`.
        needed: classes that must not be empty; of MUSAN, only these are read.

    Raises:
        UserError: the folder is neither, a part of it is missing, or a needed class is empty.
    """
    top = Path(folder)
    if (top / "manifest.csv").is_file():
        return detector_recordings(top, redistributable=redistributable, needed=needed)
    if not any((place / part).is_dir() for place in (top, top / "musan") for part in (MUSIC, SPEECH)):
        raise UserError(f"{top} has neither a manifest.csv nor MUSAN's folders music and speech; give a folder that has.")
    found = read_musan(top, parts=[kind for kind in (MUSIC, SPEECH) if kind in needed], missing=missing)
    sounds = DetectorRecordings(*([Sound(r, (r.path,)) for r in found if r.category == kind] for kind in (SPEECH, MUSIC)))
    return _usable(sounds, redistributable, needed, f"{top} holds")


def _usable(of: DetectorRecordings, redistributable: bool, needed: Collection[str], found: str) -> DetectorRecordings:
    """Keep what may be used; `found` starts the error message about an empty class."""
    chosen = DetectorRecordings(*([s for s in kind if may_be_redistributed(s.recording) or not redistributable] for kind in of))
    for what, sounds in chosen._asdict().items():
        if what in needed and not sounds:
            raise UserError(f"{found} no {what} that can be used here; add some.")
    return chosen


_FREE = re.compile(r"CC0|CC[ -]BY|public domain|\bMIT\b|\bBSD\b|\bApache\b|no restriction", re.IGNORECASE)
_BOUND = re.compile(
    r"((?<![a-z0-9])|(?<=BY))N[CD]([\s_-]*(SA|ND))?(?![a-z])|(?<![a-z])(non[\s_-]*commercial|no[\s_-]*deriv)"
    r"|\b(research|evaluation|campaign|unstated|not stated|unknown|releases)\b",
    re.IGNORECASE,
)


def may_be_redistributed(recording: Recording) -> bool:
    """Return whether the licence of a recording allows redistribution of what is made of it, such as weights or a mixture.

    Licences that name a free one (CC0, CC BY, CC BY-SA, public domain, MIT, BSD, Apache) qualify; those with NC or ND, for research
    or an evaluation campaign only, or unstated do not. Nor does the GPL, unless it is one of several to choose from: derived works
    may be redistributed under the GPL only, and weights are not under it. A statement about the repository that a file came from
    counts only if there is no other. “Releases are …” is about an artist, not this recording, and does not qualify. Nor does music
    of MUSAN whose track is not named: some of MUSAN's music is ND. MUSAN's speech is in the public domain.
    """
    own = _own_licence(recording)
    if "MUSAN" in own and recording.category != SPEECH:
        return False
    return bool(_FREE.search(own)) and not _BOUND.search(own)


def is_under_gpl_alone(recording: Recording) -> bool:
    """Return whether what is made of a recording may be redistributed under the GPL only."""
    return "GPL" in _own_licence(recording) and not may_be_redistributed(recording)


def _own_licence(recording: Recording) -> str:
    """Return what a licence says about the recording itself, or about its repository if it says nothing else."""
    stated = [part.strip() for part in recording.licence.split(";")]
    return "; ".join(part for part in stated if not part.startswith("repo ")) or recording.licence
