"""Common part of the verbs that analyse each recording they are given: detect and transcribe."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bayessep import data, devices, output
from bayessep.errors import UserError
from bayessep.terminal import Terminal, spared, to_json
from bayessep.train import Progress

Listen = Callable[[Path, Progress], dict[str, Any]]
"""Analyse one recording; returns the result as a JSON document."""


class BatchVerb(NamedTuple):
    """A verb that analyses recordings."""

    name: str
    endings: Mapping[str, str]  # file extension of each format; json is one of them
    plain: str  # default format
    format_of: Callable[[Path], str]  # format for a file, by its extension; raises UserError
    begin: Callable[[], Listen]  # called once, after the output has been checked
    text_of: Callable[[dict[str, Any], str, Path], str]  # renders a document in a format
    reads: Sequence[Path] = ()  # other input files, which no result may overwrite
    named: frozenset[str] = frozenset()  # formats whose lines name the recording, by the stem of its path


class Task(NamedTuple):
    """A recording, and the file for its result; None is standard output."""

    recording: Path
    target: Path | None


def tasks(verb: BatchVerb, recordings: Sequence[Path], place: Path | None, format: str, several: bool) -> list[Task]:
    """List the recordings and their output files; a folder stands for the audio files in it and in its subfolders.

    With several recordings `place` is a folder, else a file. A file in that folder is named after its recording, without the
    extension unless two recordings would share a name.

    Raises:
        UserError: a folder holds no audio, two recordings have one name, or a recording would be replaced.
    """
    found, ending = data.gather(recordings), verb.endings[format]
    called = data.without_endings([p for _, p in found])
    files = [place / p.with_name(f"{p.name}{ending}") if several and place is not None else place for p in called]
    planned = [Task(recording, file) for (recording, _), file in zip(found, files, strict=True)]
    names: dict[Path | str, Path] = {}
    for path, target in planned:
        name = target or (path.stem if format in verb.named else str(path))
        if name in names:
            again = f"run {verb.name} on each of them, with a different -o"
            raise UserError(f"{names[name]} and {path} would both be called {name}; {again}.")
        names[name] = path
    targets = [task.target for task in planned if task.target is not None]
    for target in targets:
        _check(target)
    output.keep_inputs(Path(), map(str, targets), [*(path for path, _ in found), *verb.reads])
    return planned


def run(verb: BatchVerb, recordings: Sequence[Path], place: Path | None, format: str | None, terminal: Terminal) -> int:
    """Analyse recordings one after the other; return how many failed.

    A recording that fails does not stop the others; if it is the only one, its error is raised.

    Raises:
        UserError: as `tasks` and `verb.begin`; the output cannot be written; or the only recording cannot be read.
    """
    if place is None and terminal.json and format not in (None, "json"):
        raise UserError(f"--json and --format {format} would both go to standard output; leave one out, or use -o.")
    several = len(recordings) > 1 or os.path.isdir(recordings[0])
    if place is not None and not several:
        place = place.resolve() if place.is_symlink() else place  # write to the target of a link, and keep the link
        _check(place)
    endings = [ending.lower() for ending in verb.endings.values()]
    if place is not None and several and place.suffix.lower() in endings and not os.path.isdir(place):
        raise UserError(f"-o {place} must be a folder for several recordings; name one, and choose the format with --format.")
    chosen = format or (verb.plain if place is None or several else verb.format_of(place))
    planned = tasks(verb, recordings, place, chosen, several)
    if place is not None:
        _try(place if several else place.parent)
    listen = verb.begin()
    as_json = terminal.json or (place is None and chosen == "json")
    documents: list[dict[str, Any]] = []
    failures: list[str] = []
    for n, (path, target) in enumerate(planned, start=1):
        if len(planned) > 1:
            terminal.note(f"{n}/{len(planned)}: {path}")
        before = len(failures)
        with spared(path, failures.append, alone=len(planned) == 1):
            with terminal.working() as progress:
                document = listen(path, progress)
            if target is not None:
                text = verb.text_of(document, chosen, path)
                with output.draft(target.parent) as part:
                    (part / target.name).write_text(text, encoding="utf-8", errors="replace", newline="")
        devices.forget_programs()
        if len(failures) > before:
            documents.append({"path": str(path), "error": failures[-1]})
            continue
        documents.append({"path": str(path)} | document if several else document)
        if not as_json:
            whose = "# " + " ".join(str(path).split("\n")) + "\n" if several and chosen not in verb.named else ""
            terminal.out(f"{target}\n" if target is not None else whose + verb.text_of(document, chosen, path))
    if as_json:
        terminal.out(to_json(documents if several else documents[0]))
    for failure in failures:
        terminal.warn(f"failed: {failure}")
    return len(failures)


def _check(target: Path) -> None:
    if os.path.isdir(target):
        raise UserError(f"{target} is a folder; name a file with -o, or give several recordings.")
    if os.path.exists(target) and not os.path.isfile(target):
        raise UserError(f"{target} is not a file that can be replaced; leave out -o to write to standard output.")


class _Tried(Exception):
    pass


def _try(folder: Path) -> None:
    """Check that a folder can be written to, and leave it as it was."""
    with suppress(_Tried), output.draft(folder):
        raise _Tried
