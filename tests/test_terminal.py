"""What is said is said as it is, and a process that is told to end does."""

import subprocess
import sys
from pathlib import Path

import pytest

from bayessep import cli, commands
from bayessep.errors import UserError
from bayessep.terminal import Terminal, told_of
from tests.commandline import Caller


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would make pictures of words between colons, and blanks of tabs."""
    terminal = Terminal()
    terminal.result({}, "out:key:1/a\tb.wav")
    terminal.note("no:sun:such.wav")
    terminal.warn(":warning: [bold]")
    said = capsys.readouterr()
    assert said.out == "out:key:1/a\tb.wav\n"
    assert said.err == "no:sun:such.wav\nwarning: :warning: [bold]\n"


def test_a_closed_standard_output_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it
    for terminal in (Terminal(), Terminal(json=True)):
        with pytest.raises(UserError, match="it is closed"):
            terminal.result({}, "words")


def test_a_process_that_is_ended_does_not_stumble_over_its_threads() -> None:
    """A thread that would keep the interpreter, as those in which XLA compiles make it crash."""
    code = (
        "import threading, time, typer\n"
        "from bayessep import cli\n"
        "def app(**_):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    print('said', end='')\n"
        "    raise SystemExit(130)\n"
        "cli.app = app\n"
        "cli.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=45, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "said", "")


def test_what_the_system_refuses_is_a_sentence(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 300)
    assert "file name too long" in call.refused("detect", long)
    assert "file name too long" in call.refused("clean", long, "-o", tmp_path / "out")
    assert told_of(PermissionError(13, "Permission denied", "x.wav"), "y") == "y: permission denied (x.wav)."

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "priv/x.wav")

    monkeypatch.setattr(cli, "_begin", refused)
    assert "permission denied (priv/x.wav)" in call.refused("doctor")


def test_a_platform_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(commands.jax, "devices", none)
    for device in ("auto", "cuda"):
        with pytest.raises(UserError, match="JAX finds no") as error:
            commands.use_device(device, Terminal(quiet=True))
    assert "--device cpu" in str(error.value)
