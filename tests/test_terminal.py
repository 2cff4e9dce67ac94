"""What is said is said as it is, and a process that is told to end does."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bayessep import cli, devices
from bayessep.errors import UserError
from bayessep.terminal import Terminal, leave, told_of
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


def test_several_processes_take_leave_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was gone at once had the others aborted."""
    import jax

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    leave(130)  # or there would be no more tests


def test_what_the_system_refuses_is_a_sentence(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 300)
    assert "file name too long" in call.refused("detect", long)
    assert "file name too long" in call.refused("clean", long, "-o", tmp_path / "out")
    assert told_of(PermissionError(13, "Permission denied", "x.wav"), "y") == "y: permission denied (x.wav)."

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "priv/x.wav")

    monkeypatch.setattr(cli, "_begin", refused)
    assert "permission denied (priv/x.wav)" in call.refused("doctor")


def test_the_cpu_is_used_where_something_else_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook in which JAX has used an accelerator already."""
    cpu, other = devices.jax.devices("cpu")[0], SimpleNamespace(platform="gpu", device_kind="H")
    set_to: dict[str, Any] = {}
    monkeypatch.setattr(devices.jax, "devices", lambda platform=None: [cpu if platform == "cpu" else other])
    monkeypatch.setattr(devices.jax.config, "update", set_to.__setitem__)
    assert devices.use_device("cpu", Terminal(quiet=True)) == "cpu"
    assert set_to == {"jax_platforms": "cpu", "jax_default_device": cpu}


def test_a_platform_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(devices.jax, "devices", none)
    for device in ("auto", "cuda"):
        with pytest.raises(UserError, match="JAX finds no") as error:
            devices.use_device(device, Terminal(quiet=True))
    assert "--device cpu" in str(error.value)
