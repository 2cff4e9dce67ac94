"""Terminal input and output: results on standard output, everything else on standard error, failures as one sentence.

Nothing heavy is imported here, so that ``bayessep --help`` is fast.
"""

import io
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperCommand

from bayessep.errors import UserError
from bayessep.output import ENDING

USER_ERROR, NUMERICAL_ERROR = 2, 1  # exit codes; 128 plus the number of the signal after an interruption


def told_of(error: Exception, of: object) -> str:
    """Describe an error in a sentence that names the item it belongs to; the message of a UserError is returned as it is."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, FloatingPointError):
        return f"{of}: {_broke_down(error)}; please report it."
    if isinstance(error, OSError) and error.strerror:
        return f"{of}: {_refused(error)}."
    lines = str(error).strip().splitlines() or ["nothing else is known"]
    return f"{of}: this should not have happened ({type(error).__name__}: {lines[0].rstrip('.')}); please report it."


def _refused(error: OSError) -> str:
    """Return the reason of the operating system, and the file if it is known."""
    return (error.strerror or str(error)).lower() + (f" ({error.filename})" if error.filename else "")


def _broke_down(error: FloatingPointError) -> str:
    return f"the computation broke down ({str(error).rstrip('.')})"


@contextmanager
def spared(of: object, failed: Callable[[str], None], *, alone: bool) -> Iterator[None]:
    """Catch errors in the block so that one of several items may fail; `failed` gets the message.

    The error is raised if the item is `alone`, or after an interruption.
    """
    try:
        yield
    except Exception as error:
        if alone or _interrupted.is_set():
            raise
        failed(told_of(error, of))


def writable(text: str) -> str:
    """Replace what UTF-8 cannot encode by question marks: file names may hold bytes in another encoding."""
    return text.encode("utf-8", "replace").decode("utf-8")


def leave(code: int) -> None:
    """End the process at once: while XLA is compiling, the interpreter's shutdown would crash over its threads.

    In distributed training this does nothing: processes disconnect as their interpreters end, and would all be aborted otherwise.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed, or a broken pipe
            stream.flush()
    os._exit(code)


def say_what_can_be_said() -> None:
    """Write question marks for characters that standard output cannot encode; Python's standard error never raises anyway."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.errors in ("strict", "surrogateescape"):  # the defaults, not a user's choice
        out.reconfigure(errors="replace")


_interrupted = threading.Event()
_received = signal.SIGINT


def _interrupt(number: int, frame: Any) -> None:
    global _received
    _received = signal.Signals(number)
    _interrupted.set()
    raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[None]:
    """Handle Ctrl-C, at the latest with the next progress report: an exception raised inside a callback may be swallowed.

    Other signals that end a process are handled likewise, unless they are ignored, as under `nohup`.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread is ever interrupted
        yield
        return
    _interrupted.clear()
    served = [number for number in ENDING if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL]
    before = {number: signal.signal(number, _interrupt) for number in served}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _console(human: Any) -> Console:
    """Return a console for standard output; in a file or a pipe, which have no width, it is wide enough for the whole table."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        wide = Measurement.get(console, console.options.update(max_width=1000), human).maximum
        console.width = max(console.width, wide)
    return console


class Terminal:
    """Output of a verb.

    Args:
        json: whether the result is one JSON document on standard output; otherwise it is written for people.
        quiet: whether to leave out progress and notes; warnings stay.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a note on standard error, unless quiet."""
        if not self.quiet:
            self._err.print(writable(text))

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        self._err.print(f"warning: {writable(text)}")

    def result(self, document: Any, human: Any) -> None:
        """Print the result of the verb: the document under ``--json``, otherwise a text or a renderable of rich."""
        if self.json:
            self.out(to_json(document))
        elif isinstance(human, str):
            self.out(f"{human}\n" if human else "")
        else:
            with self._writing():
                _console(human).print(human)

    def out(self, text: str) -> None:
        """Write a text to standard output as it is, for programs to read."""
        with self._writing():
            sys.stdout.write(writable(text))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if sys.stdout is None:  # Python's value for a closed stream
            raise UserError("cannot write to standard output: it is closed.")
        try:
            yield
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # the reader has closed the pipe, which is no failure
        except OSError as error:
            raise UserError(f"cannot write to standard output: {error.strerror}.") from None

    @contextmanager
    def working(self) -> Iterator["Working"]:
        """Show progress while the block runs: a bar on a terminal, lines elsewhere."""
        bar = None
        if not self.quiet and self._err.is_terminal:
            columns = (TextColumn("{task.description:<14}"), BarColumn(), TextColumn("{task.fields[steps]}"))
            bar = Progress(*columns, TimeElapsedColumn(), console=self._err, transient=True)
        with bar or nullcontext():
            yield Working(self, bar)


class Working:
    """Progress callback that is displayed; called with the name of the task, steps done, maximum steps, and the objective."""

    _SECONDS_BETWEEN_LINES = 5.0

    def __init__(self, terminal: Terminal, bar: Progress | None) -> None:
        self._terminal, self._bar = terminal, bar
        self._tasks: dict[str, Any] = {}
        self._said = ("", -math.inf)  # task and time of the last line

    def __call__(self, what: str, done: int, most: int, objective: float) -> None:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        steps = f"{done}/{most}" if math.isnan(objective) else f"{done}/{most}  objective {objective:.6g}"
        if self._bar is not None:
            for other, task in self._tasks.items():
                if other != what:
                    self._bar.stop_task(task)
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=most, steps="")
            self._bar.update(self._tasks[what], completed=done, total=most, steps=steps)
        elif what != self._said[0] or time.monotonic() - self._said[1] > self._SECONDS_BETWEEN_LINES:
            self._said = (what, time.monotonic())
            self._terminal.note(f"{what}: {steps}")


def to_json(document: Any) -> str:
    """Serialise a document as JSON. Arrays become lists, on one line each; NaN and infinity become null."""
    text = writable(json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False))
    return re.sub(r"\[\n[^][{}\"]*\]", lambda numbers: "[" + " ".join(numbers[0][1:-1].split()) + "]", text) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and jax
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


# --- arguments -----------------------------------------------------------------------------------------------------------


def spread(arguments: Sequence[str], several: frozenset[str], one: frozenset[str], *, positional: bool = True) -> list[str]:
    """Rewrite ``--speech a b`` as ``--speech a --speech b``, which Click can parse.

    An option of `several` takes every argument up to the next option. If that leaves nothing for the positional argument, the last
    value of the last such option is used, provided that it has two or more (``separate --speech a --music b MIX -o DIR``): read
    otherwise, the line would be an error.

    Args:
        arguments: the arguments of one verb.
        several: options that take one or more values.
        one: options that take exactly one value. All others are flags.
        positional: whether the verb has a positional argument.
    """
    out: list[str] = []
    taking = ""  # the option of `several` that the next arguments belong to
    count = 0  # its values so far
    spare: int | None = None  # index in `out` of the last value of the last option of `several`, if that has two or more
    found, skip = not positional, False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            found = True
            out += ["--", *rest]
        elif skip:
            out.append(argument)
            skip = False
        elif argument.startswith("-") and argument != "-":
            name, equals, _ = argument.partition("=")
            if taking and not count:
                out.append(taking)  # without a value, which the parser reports
            taking, count = (name, int(bool(equals))) if name in several else ("", 0)
            spare = None if taking else spare
            skip = name in one and not equals
            if not taking or equals:
                out.append(argument)
        elif taking:
            out += [taking, argument]
            count += 1
            spare = len(out) - 1 if count > 1 else None
        else:
            out.append(argument)
            found = True
    if taking and not count:
        out.append(taking)
    if spare is not None and not found:
        del out[spare - 1]
    return out


def _empty(arguments: Sequence[str]) -> str:
    """Return the name of the first empty argument or option value, as from an unset shell variable; "" if there is none."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.strip():
            return before if before.startswith("-") else "an argument"
        name, equals, value = argument.partition("=")
        if argument.startswith("-") and equals and not value:
            return name
    return ""


class Verb(TyperCommand):
    """A command whose file options take several values, and whose failures are reported as one sentence."""

    when_interrupted = "nothing written"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments after `spread`; none may be empty, as an empty path would mean the current folder."""
        if not ctx.resilient_parsing and (empty := _empty(args)):
            print(f"error: {empty} is empty; leave it out or give a value, . for the current folder.", file=sys.stderr)
            raise typer.Exit(USER_ERROR)
        options = [p for p in self.params if p.param_type_name == "option"]
        several = {name for p in options if getattr(p, "multiple", False) for name in p.opts}
        one = {name for p in options if not getattr(p, "is_flag", False) for name in p.opts} - several
        positional = any(p.param_type_name == "argument" for p in self.params)
        args = spread(args, frozenset(several), frozenset(one), positional=positional)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; report a failure that a user can act on as one sentence on standard error, with an exit code."""
        try:
            with _interruptible():
                return super().invoke(ctx)
        except (KeyboardInterrupt, Exception) as error:
            # A callback may have turned an interruption into another error.
            if isinstance(error, KeyboardInterrupt) or (_interrupted.is_set() and not isinstance(error, typer.Exit)):
                code, sentence = 128 + _received, f"interrupted; {self.when_interrupted}"
            elif isinstance(error, UserError):
                code, sentence = USER_ERROR, f"error: {error}"
            elif isinstance(error, FloatingPointError):
                code, sentence = NUMERICAL_ERROR, f"error: {_broke_down(error)}{self._remedy()}"
            elif isinstance(error, OSError) and error.strerror and not isinstance(error, BrokenPipeError):
                code, sentence = USER_ERROR, f"error: {_refused(error)}; give files and folders that can be read and written."
            else:
                raise
        print(" ".join(writable(sentence).split()), file=sys.stderr)
        raise typer.Exit(code)

    def _remedy(self) -> str:
        """Suggest options of this verb that may help after a numerical breakdown."""
        known = {"seed": "another --seed", "level": "a smaller --level", "rate": "a smaller --rate"}
        own = [words for name, words in known.items() if name in {p.name for p in self.params}]
        return f"; try {' or '.join(own)}, and please report it if that does not help." if own else "; please report it."


class Resumable(Verb):
    """A verb that keeps its results so far, and resumes when it is called again."""

    when_interrupted = "every result so far is kept, and the same command resumes from there"


class Batch(Verb):
    """A verb that keeps its results so far, and skips them with ``--skip-existing``."""

    when_interrupted = "the recordings done so far are kept, and the same command with --skip-existing resumes from there"
