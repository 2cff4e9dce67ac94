"""Find recordings: folders with a manifest, plain folders, and the generated broadcast."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bayessep.audio import probe
from bayessep.broadcast import Broadcast, generate_broadcast
from bayessep.errors import UserError

__all__ = [
    "Broadcast", "Recording", "audio_files", "files_in", "gather", "generate_broadcast", "read_folder", "read_manifest", "select",
    "without_endings",
]  # fmt: skip


class Recording(NamedTuple):
    """One audio file and what is known about it."""

    path: Path
    category: str  # speech, music, singing, songs, stems, broadcast …
    split_group: str  # recordings of one group (a speaker, an artist) stay on the same side of a train/test split
    duration: float  # seconds
    sample_rate: int
    channels: int
    transcript: str = ""
    note: str = ""
    licence: str = ""
    source: str = ""


MANIFEST_COLUMNS = (
    "path", "category", "split_group", "duration_s", "sample_rate", "channels", "transcript", "genre_or_note",
    "source_repo", "source_path", "licence",
)  # fmt: skip
AUDIO_EXTENSIONS = frozenset(
    {".wav", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aiff", ".aif", ".au", ".caf"}
)
CONTAINER_EXTENSIONS = frozenset({".mp2", ".mp4", ".mov", ".mkv", ".mka", ".webm", ".aac", ".wma"})
"""Further extensions that commands look for in folders; most of these files can only be read with the extra `containers`."""


def read_manifest(folder: str | Path) -> list[Recording]:
    """Read ``manifest.csv`` in a folder; its paths are relative to that folder.

    Raises:
        UserError: the manifest is missing, lacks columns, holds a value that should be a number and is not, is not
            CSV, or lists a file that does not exist or by an absolute path.
    """
    manifest = Path(folder) / "manifest.csv"
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{manifest} does not exist: give a folder that has a manifest.csv") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{manifest} cannot be read ({error}): it must be a CSV file in UTF-8") from None

    rows = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        absent = [c for c in MANIFEST_COLUMNS if c not in (rows.fieldnames or ())]
        if absent:
            raise UserError(f"{manifest} lacks the columns {', '.join(absent)}: add them to its first line")
        return [_recording(manifest, rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise UserError(f"{manifest}, line {rows.line_num}: {error}; a quotation mark may be unpaired") from None


def _recording(manifest: Path, line: int, row: dict[str, str]) -> Recording:
    if None in row or None in row.values():
        raise UserError(f"{manifest}, line {line}: this row has more or fewer fields than the header")
    path = manifest.parent / row["path"]
    if Path(row["path"]).is_absolute():
        raise UserError(f"{manifest}, line {line}: {row['path']} is an absolute path; make it relative to the manifest's folder")
    if not path.is_file():
        raise UserError(
            f"{manifest}, line {line}: lists {row['path']}, which does not exist; add the file or remove the row"
        )
    try:
        duration, sample_rate, channels = (
            float(row["duration_s"]),
            int(row["sample_rate"]),
            int(row["channels"]),
        )
    except ValueError as error:
        raise UserError(
            f"{manifest}, line {line}: duration_s, sample_rate and channels must be numbers ({error})"
        ) from None
    return Recording(
        path, row["category"], row["split_group"], duration, sample_rate, channels,
        row["transcript"], row["genre_or_note"], row["licence"], f"{row['source_repo']}/{row['source_path']}",
    )  # fmt: skip


def files_in(folder: Path) -> Iterator[Path]:
    """Yield all files except hidden ones, following links to folders; each folder once, under its own path if that is inside.

    Raises:
        UserError: a folder cannot be read.
    """

    def closed(place: str | Path, reason: str) -> UserError:
        return UserError(f"{place} cannot be read ({reason.lower()}): name recordings, or another folder")

    def failed(error: OSError) -> None:
        raise closed(error.filename, error.strerror or str(error)) from None

    seen, waiting = set(), [folder]
    for start in waiting:  # links are appended, and followed after all real folders have been visited
        for top, folders, names in os.walk(start, onerror=failed):
            own = os.stat(top)
            if (own.st_dev, own.st_ino) in seen:
                folders.clear()
                continue
            seen.add((own.st_dev, own.st_ino))
            if not os.access(top, os.X_OK):  # its names can be listed, but its files cannot be opened
                raise closed(top, "permission denied")
            shown = sorted(name for name in folders if not name.startswith("."))
            links = [name for name in shown if os.path.islink(Path(top) / name)]
            waiting += [Path(top) / name for name in links]
            folders[:] = [name for name in shown if name not in links]
            yield from (Path(top) / name for name in names if not name.startswith("."))


def audio_files(folder: str | Path, endings: Collection[str] = AUDIO_EXTENSIONS) -> list[Path]:
    """List the audio files in a folder and its subfolders, by extension, sorted by path.

    Hidden files and folders, whose names begin with a dot, are left out: private files of other programs, and unfinished results.

    Raises:
        UserError: the folder does not exist or holds no audio, or a folder in it cannot be read.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder: give one that holds audio files")
    paths = sorted(p for p in files_in(folder) if p.suffix.lower() in endings and os.path.isfile(p))
    if not paths:
        raise UserError(f"{folder} holds no audio: expected files ending in {', '.join(sorted(endings))}")
    return paths


def gather(
    given: Iterable[str | Path], is_result: Callable[[Path], bool] = lambda path: False
) -> list[tuple[Path, Path]]:
    """List the recordings that a command is given, each once; a folder stands for the audio files in it and in its subfolders.

    Each comes with its relative path for the results: its path below the given folder, else its name.

    Args:
        given: recordings and folders.
        is_result: whether a file in a folder is a result of the command; those are left out.

    Raises:
        UserError: a folder holds no audio, or only results.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # by resolved path
    endings = AUDIO_EXTENSIONS | CONTAINER_EXTENSIONS
    for top in map(Path, given):
        inside = os.path.isdir(top)
        paths = [path for path in audio_files(top, endings) if not is_result(path)] if inside else [top]
        if not paths:
            raise UserError(f"{top} holds no audio but results of an earlier call: name a folder of recordings, or single files.")
        for path in paths:
            found.setdefault(path.resolve(), (path, path.relative_to(top if inside else top.parent)))
    return list(found.values())


def without_endings(places: Sequence[Path]) -> list[Path]:
    """Return names for the results of recordings: their paths without the extension, unless several would share a name."""

    def stem(place: Path) -> Path:
        return place.with_suffix("") if place.stem.strip(".") else place  # a stem of dots could mean the parent folder

    shared = Counter(map(stem, places))
    return [place if shared[stem(place)] > 1 else stem(place) for place in places]


def read_folder(folder: str | Path, category: str = "") -> list[Recording]:
    """Find every audio file in a folder and its subfolders, sorted by path.

    The split group of a file is the subfolder of ``folder`` that contains it, or its own name if there is none.

    Raises:
        UserError: the folder does not exist, holds no audio, or holds a file with an audio extension that is not
            audio.
    """
    folder = Path(folder)
    paths = audio_files(folder)
    found = []
    for path in paths:
        info, inside = probe(path), path.relative_to(folder)
        group = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        found.append(Recording(path, category, group, info.frames / info.sample_rate, info.sample_rate, info.channels))
    return found


def select(
    recordings: Iterable[Recording],
    *,
    category: str | Collection[str] | None = None,
    split_group: str | Collection[str] | None = None,
    without_licence_terms: Collection[str] = (),
    min_seconds: float | int = 0.0,
) -> list[Recording]:
    """Keep the recordings that meet all given conditions, in order.

    ``without_licence_terms={"NC", "ND"}`` leaves out every licence with one of these terms, such as CC BY-NC-ND 3.0.
    """
    categories = {category} if isinstance(category, str) else category
    groups = {split_group} if isinstance(split_group, str) else split_group
    terms = set(without_licence_terms)
    return [
        r for r in recordings
        if (categories is None or r.category in categories)
        and (groups is None or r.split_group in groups)
        and terms.isdisjoint(r.licence.replace("-", " ").replace("(", " ").replace(")", " ").split())
        and r.duration >= min_seconds
    ]  # fmt: skip
