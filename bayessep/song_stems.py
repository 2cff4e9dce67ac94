"""Find and read songs with separate vocals and accompaniment, in the folder layouts of common corpora.

| | |
|---|---|
| a manifest | ``manifest.csv`` lists files of the category stems: ``…/<song>/{vocals,accompaniment}.*`` |
| any folder | ``[songs/]<song>/{vocals,accompaniment}.*`` |
| MUSDB18, as wav | ``{train,test}/<song>/{mixture,vocals,bass,drums,other}.wav`` |
| MUSDB18, as stem files | ``{train,test}/<song>.stem.mp4`` (`TRACKS`), which PyAV reads |
| DSD100 | ``Sources/{Dev,Test}/<song>/{vocals,bass,drums,other}.wav``, ``Mixtures/{Dev,Test}/<song>/mixture.wav`` |

Songs of a manifest whose folder names differ only after the last underscore are excerpts of one song, and share a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import audio, data
from bayessep.errors import UserError

VOCALS, ACCOMPANIMENT, MIXTURE = "vocals", "accompaniment", "mixture"
INSTRUMENTS = ("bass", "drums", "other")
PARTS = {"train": "train", "test": "test", "Dev": "train", "Test": "test"}
"""Folder names of the parts of corpora, and which part each is."""
TRACKS = {VOCALS: (4,), ACCOMPANIMENT: (1, 2, 3), MIXTURE: (0,)}
"""Audio tracks of an MUSDB18 stem file, counted from 0."""


class Source(NamedTuple):
    """File and audio track of a stem."""

    path: Path
    track: int = 0


class Listed(NamedTuple):
    """Song that was found but not yet read; a stem with several sources is their sum."""

    name: str
    group: str  # shared by all excerpts of a song
    part: str  # train or test; empty if the corpus has no such parts
    vocals: tuple[Source, ...]
    accompaniment: tuple[Source, ...]
    mixture: tuple[Source, ...] = ()  # empty if no file holds it
    artist: str = ""  # split group of a manifest; empty if unknown


def listed(folder: str | Path) -> list[Listed]:
    """List the songs of a folder in one of the layouts above, sorted by name.

    Raises:
        UserError: as `data.read_manifest`; the folder is in none of the layouts, a song lacks a part, or two have one name.
    """
    top = Path(folder)
    if (top / "manifest.csv").exists():
        found = list(_of_manifest(top))
    elif not top.is_dir():
        raise UserError(f"{top} is not a folder; give a folder of songs.")
    else:
        found = [*_of_stem_files(top), *_of_folders(top)]
        if not found:
            raise UserError(
                f"{top} has no songs with their parts: neither <song>/vocals and <song>/accompaniment, nor MUSDB18 or DSD100, "
                "nor a manifest.csv; give a folder in one of these layouts."
            )
    names = [song.name for song in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{top} has several songs named {min(twice)}; give each song a name of its own.")
    return sorted(found)


def read(song: Listed, sample_rate: int, *, mono: bool = True) -> tuple[Float[np.ndarray, "C N"], Float[np.ndarray, "C N"]]:
    """Read the vocals and the accompaniment of a song, of equal length.

    Raises:
        UserError: as `read_part`, also where the two differ in length or in channels.
    """
    vocals, accompaniment = (read_part(song.name, of, sample_rate, mono=mono) for of in (song.vocals, song.accompaniment))
    _check_alike(song.name, [vocals.shape, accompaniment.shape])
    return vocals, accompaniment


def read_part(name: str, sources: Sequence[Source], sample_rate: int, *, mono: bool = True) -> Float[np.ndarray, "C N"]:
    """Read and sum sources of the song `name`; no other file is opened.

    Raises:
        UserError: as `audio.read`; or the sources differ in length or in channels.
    """
    found = [audio.read(one.path, mono=mono, sample_rate=sample_rate, track=one.track).samples for one in sources]
    _check_alike(name, [samples.shape for samples in found])
    return np.sum(found, axis=0)


def _check_alike(name: str, shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) > 1:
        lengths = " and ".join(f"{c} × {n}" for c, n in dict.fromkeys(shapes))
        raise UserError(f"the stems of {name} have {lengths} samples; they must be equally long.")


def _of_manifest(top: Path) -> Iterator[Listed]:
    found: dict[Path, dict[str, Source]] = {}
    artists: dict[Path, str] = {}
    for r in data.select(data.read_manifest(top), category="stems"):
        found.setdefault(r.path.parent, {})[r.path.stem] = Source(r.path)
        artists[r.path.parent] = r.split_group
    if not found:
        raise UserError(f"{top / 'manifest.csv'} lists no files of the category stems; add songs with vocals and accompaniment.")
    for place, parts in found.items():
        yield _pair(place.name, place, parts, group=place.name.rpartition("_")[0])._replace(artist=artists[place])


def _of_folders(top: Path) -> Iterator[Listed]:
    """Songs of all folders, at any depth, that contain vocals."""
    of: dict[Path, dict[str, Source]] = {}
    for path in data.audio_files(top) if any(path.stem == VOCALS for path in data.files_in(top)) else []:
        if path.stem in (VOCALS, ACCOMPANIMENT, MIXTURE, *INSTRUMENTS):
            if (before := of.setdefault(path.parent, {}).get(path.stem)) is not None:
                raise UserError(f"{before.path} and {path} are the same part of one song; remove one of them.")
            of[path.parent][path.stem] = Source(path)
    for place, parts in of.items():
        if VOCALS in parts:
            part, kind = place.parent, place.parent.parent  # in DSD100, mixtures are in folders of their own
            apart = kind.parent / "Mixtures" / part.name / place.name if kind.name == "Sources" else place
            yield _pair(place.name, place, dict(of.get(apart, {})) | parts)


def _pair(name: str, place: Path, parts: Mapping[str, Source], group: str = "") -> Listed:
    """Build a song from its parts; without an accompaniment file, all instruments form the accompaniment.

    Raises:
        UserError: a part is missing.
    """
    if VOCALS in parts and ACCOMPANIMENT not in parts and any(name in parts for name in INSTRUMENTS):
        needed = (VOCALS, *INSTRUMENTS)
    else:
        needed = (VOCALS, ACCOMPANIMENT)
    if absent := [part for part in needed if part not in parts]:
        raise UserError(f"{place} lacks the {absent[0]}; each song needs vocals and accompaniment.")
    mixture = (parts[MIXTURE],) if MIXTURE in parts else ()
    own = (parts[VOCALS],), tuple(parts[n] for n in needed[1:]), mixture
    return Listed(name, group or name, PARTS.get(place.parent.name, ""), *own)


def _of_stem_files(top: Path) -> Iterator[Listed]:
    for path in sorted(path for path in data.files_in(top) if path.name.endswith(".stem.mp4")):
        name, part = path.name.removesuffix(".stem.mp4"), PARTS.get(path.parent.name, "")
        own = {what: tuple(Source(path, track) for track in tracks) for what, tracks in TRACKS.items()}
        yield Listed(name, name, part, own[VOCALS], own[ACCOMPANIMENT], own[MIXTURE])
