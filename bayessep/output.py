"""Write folders of results atomically, with a file that records what a folder holds."""

import json
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bayessep.errors import UserError

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a command."""


@contextmanager
def draft(folder: Path, replacing: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder whose contents move to `folder` when the ``with`` block ends without an error.

    Existing files are replaced one by one, each atomically; others stay, except those in `replacing`, paths within `folder` of an
    earlier result that this one supersedes: they are removed if possible. After an exception, including an interruption, the
    folder is as it was before, or absent if it did not exist. It is created at the beginning of the block, so that an unwritable
    place is detected before the work is done.

    Raises:
        UserError: the folder cannot be written to, at the beginning or later (a full disk).
    """
    folder = Path(folder)
    made: list[Path] = []
    part = folder / f".{uuid.uuid4().hex[:12]}.part"
    try:
        try:
            for path in (*reversed(folder.parents), folder):
                if not path.exists():
                    made.append(path)  # recorded before mkdir: an interruption may come right after it
                    path.mkdir(exist_ok=True)  # another process may create it at the same time
            part.mkdir()
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            yield part
            _publish(part, folder, replacing)
        except OSError as error:
            # Inputs have been read and checked before: an OSError here comes from writing.
            raise _unwritable(folder, error) from error
        except UserError as error:
            # The error names the temporary folder: name the final one instead.
            raise UserError(str(error).replace(str(part), str(folder))) from error
    except BaseException:
        with _uninterrupted():  # some programs send a second signal
            shutil.rmtree(part, ignore_errors=True)
            for path in reversed(made):
                with suppress(OSError):  # not empty: another process wrote there too
                    path.rmdir()
        raise
    shutil.rmtree(part, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    reason = (error.strerror or str(error)).rstrip(".").lower()
    return UserError(f"cannot write to {folder}: {reason}; choose another folder with -o.")


def _publish(part: Path, folder: Path, replacing: Sequence[str]) -> None:
    """Move every file to its place, after everything that can fail; interruptions are ignored during the moves.

    JSON files describe the others, so they are moved last, and earlier ones are removed first: even if the process is killed in
    between, no JSON file describes files that it does not belong to.
    """
    def last(path: Path) -> tuple[bool, int, Path]:
        vouches = path.suffix == ".json"
        return vouches, -len(path.parts) if vouches else 0, path  # of JSON files the outermost last, as it describes the others

    files = sorted((path for path in part.rglob("*") if path.is_file()), key=last)
    moves = [(path, folder / path.relative_to(part)) for path in files]
    for _, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        no_folder(target)
    old = {folder / name for name in replacing} - {target for _, target in moves}
    with _uninterrupted():
        for path in old:  # removed while the JSON file that they belong to still exists
            with suppress(OSError):  # already gone, or not a file; or its folder holds other files
                path.unlink()
                path.parent.rmdir()
        for _, target in moves[1:]:
            if target.suffix == ".json":
                target.unlink(missing_ok=True)
        for source, target in moves:
            os.replace(source, target)


def no_folder(target: Path) -> None:
    """Raise a UserError if a folder is in the way of a result; `draft` would detect it only after the work is done."""
    if os.path.isdir(target):
        raise UserError(f"cannot write {target}: it is a folder; remove it, or choose another folder with -o.")


def keep_inputs(folder: Path, names: Iterable[str], inputs: Iterable[str | Path]) -> None:
    """Raise a UserError if a result, one of `names` in `folder`, would overwrite an input."""
    results = {(Path(folder) / name).resolve() for name in names}
    for path in map(Path, inputs):
        if path.resolve() in results:
            raise UserError(f"{path} would be replaced by a result of the same name; choose another folder with -o.")


def settle(path: Path, setup: Mapping[str, Any], other: Callable[[Any, dict[str, Any]], str], *, writes: bool = True) -> None:
    """Record in a JSON file, written atomically, what a folder holds, unless the file says that it holds something else.

    Args:
        path: of the file; its folder is created if necessary.
        setup: description of what the folder is to hold.
        other: called with the contents of an existing file and the new contents (`setup` after a round trip through JSON, which it
            may still change); returns a name of what the folder holds instead, or an empty string if the two agree. If it raises
            an exception of malformed contents (ValueError, TypeError, KeyError, AttributeError), the file counts as unreadable.
        writes: whether this process writes the file; otherwise it only compares.

    Raises:
        UserError: the folder holds something else or cannot be written to, or the file cannot be read.
    """
    folder, now = path.parent, json.loads(json.dumps(setup))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            try:
                found = other(json.loads(path.read_text(encoding="utf-8")), now)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UserError(f"{path} cannot be read; choose another folder with -o.") from None
            if found:
                raise UserError(f"{folder} holds {found}; choose another folder with -o.")
        if writes:
            part = path.with_name(f".{path.name}.{os.getpid()}")
            part.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
            os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with -o.") from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread is ever interrupted
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
