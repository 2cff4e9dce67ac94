"""A folder of results that appears whole or not at all, and a file in it that says what it holds."""

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
    """A place to write results, which become the contents of `folder` when the ``with`` block ends well.

    Files that are there already are replaced one by one, each atomically; others stay, except the files of `replacing`, paths in
    `folder` of an earlier result that these take the place of: they are removed, as far as that can be done. After an
    exception, an interruption included, the folder is as it was before, and is not there if it was not. It is made at the
    beginning of the block: a place that cannot be written is found out before the work is done.

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
                    made.append(path)  # before it is there: an interruption may come as soon as it is
                    path.mkdir(exist_ok=True)  # others may begin just now, too
            part.mkdir()
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            yield part
            _publish(part, folder, replacing)
        except OSError as error:
            # What was read has been checked long ago: what fails here is the writing.
            raise _unwritable(folder, error) from error
        except UserError as error:
            # Whoever wrote there named the place that he knew.
            raise UserError(str(error).replace(str(part), str(folder))) from error
    except BaseException:
        with _uninterrupted():  # by the next signal, of which some programs send two
            shutil.rmtree(part, ignore_errors=True)
            for path in reversed(made):
                with suppress(OSError):  # no longer empty: somebody else wrote there too
                    path.rmdir()
        raise
    shutil.rmtree(part, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    reason = (error.strerror or str(error)).rstrip(".").lower()
    return UserError(f"cannot write to {folder}: {reason}; choose another folder with -o.")


def _publish(part: Path, folder: Path, replacing: Sequence[str]) -> None:
    """Move every file to its place. Whatever can fail comes first; an interruption during the moves is ignored.

    What vouches for the others, an account in JSON, is moved last, and an earlier one is removed first: whatever ends the process
    in between leaves none that speaks of files that are not its own.
    """
    def last(path: Path) -> tuple[bool, int, Path]:
        vouches = path.suffix == ".json"
        return vouches, -len(path.parts) if vouches else 0, path  # and of accounts that which speaks of the others

    files = sorted((path for path in part.rglob("*") if path.is_file()), key=last)
    moves = [(path, folder / path.relative_to(part)) for path in files]
    for _, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        no_folder(target)
    old = {folder / name for name in replacing} - {target for _, target in moves}
    with _uninterrupted():
        for path in old:  # while the account is there that says whose they are
            with suppress(OSError):  # it is gone already, or is no file; or other files are in its folder
                path.unlink()
                path.parent.rmdir()
        for _, target in moves[1:]:
            if target.suffix == ".json":
                target.unlink(missing_ok=True)
        for source, target in moves:
            os.replace(source, target)


def no_folder(target: Path) -> None:
    """Raise a UserError where a folder is in the way of a result: `draft` would find it out when the work is done."""
    if os.path.isdir(target):
        raise UserError(f"cannot write {target}: it is a folder; remove it, or choose another folder with -o.")


def keep_inputs(folder: Path, names: Iterable[str], inputs: Iterable[str | Path]) -> None:
    """Raise a UserError where a result, one of `names` in `folder`, would take the place of an input."""
    results = {(Path(folder) / name).resolve() for name in names}
    for path in map(Path, inputs):
        if path.resolve() in results:
            raise UserError(f"{path} would be replaced by a result of the same name; choose another folder with -o.")


def settle(path: Path, setup: Mapping[str, Any], other: Callable[[Any, dict[str, Any]], str], *, writes: bool = True) -> None:
    """Write down in JSON what a folder holds, whole or not at all, unless the file says that it holds something else.

    Args:
        path: of the file; its folder is made if need be.
        setup: what the folder is to hold.
        other: told what the file says and what it is to say (`setup` as JSON has it, still to be changed), names what the folder
            holds instead; nothing if it may go on. A file that it cannot make sense of is one that cannot be read.
        writes: whether this process writes; otherwise it only compares.

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
