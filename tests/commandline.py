"""The command line, called in this process, and the small recordings it is called on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from bayessep import cli

RATE = 8000
TINY = ("--bases", "4", "--sweeps", "3", "--training-sweeps", "3", "--as-given", "--independent", "-q")
"""Settings that make a run a matter of a second, and keep shapes the same from test to test."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error that is not a note or a warning."""
        lines = [line for line in self.err.splitlines() if not line.startswith(("device:", "warning:"))]
        assert len(lines) == 1, self.err
        return lines[0]


@contextmanager
def cut_off(module: ModuleType, name: str, after: int) -> Iterator[None]:
    """What is done within is interrupted when it calls a function of a module once more than so often."""
    real, left = getattr(module, name), iter(range(after))

    def once_more(*given: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, once_more)
        yield


class Caller:
    """Calls verbs; `refused` and `succeeded` also check what every call owes its user."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys, self.folder = capsys, folder

    def __call__(self, *arguments: Any) -> Outcome:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main([str(a) for a in arguments])
        captured = self._capsys.readouterr()
        code = exit.value.code
        return Outcome(code if isinstance(code, int) else int(bool(code)), captured.out, captured.err)

    def refused(self, *arguments: Any) -> str:
        """Exit code 2, one sentence on standard error, nothing on standard output, and no file that was not there."""
        before = files(self.folder)
        outcome = self(*arguments)
        assert (outcome.code, outcome.out) == (2, ""), outcome
        assert outcome.complaint.startswith("error: ") and "Traceback" not in outcome.err
        assert files(self.folder) == before
        return outcome.complaint

    def succeeded(self, *arguments: Any) -> str:
        """Exit code 0; what was written on standard output."""
        outcome = self(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome.out


def files(folder: Path) -> dict[Path, bytes | None]:
    """Everything in a folder, with its contents."""
    return {p: p.read_bytes() if p.is_file() and p.stat().st_mode & 0o400 else None for p in sorted(folder.rglob("*"))}


def tone(seconds: float, pitch: float, *, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone with some noise, (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return 0.2 * np.sin(2 * np.pi * pitch * t) + 0.05 * noise


def save(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16", format: str = "WAV") -> Path:
    """Write (N,) or (C, N) with soundfile alone, so that the package does not check itself."""
    soundfile.write(path, samples.T, rate, subtype=subtype, format=format)
    return path


def load(path: Path) -> np.ndarray:
    """Read (C, N)."""
    return soundfile.read(path, always_2d=True)[0].T


class Files(NamedTuple):
    """A mixture and what is known of it."""

    mix: Path
    speech: Path
    music: Path

    @property
    def known(self) -> tuple[Any, ...]:
        return ("--speech", self.speech, "--music", self.music)


def material(folder: Path) -> Files:
    """Two seconds of speech (a tone) over music (another), and a second of each alone."""
    music = tone(2, 500)
    return Files(
        save(folder / "mix.wav", tone(2, 300, seed=1) + music),
        save(folder / "speech.wav", tone(1, 300, seed=2)),
        save(folder / "music.wav", music[: RATE // 2]),
    )


# --- files that cannot be used -------------------------------------------------------------------------------------------


def _with_nan(path: Path) -> None:
    samples = tone(1, 300)
    samples[100] = np.nan
    save(path, samples, subtype="FLOAT")


def _truncated(path: Path) -> None:
    save(path, tone(2, 300), format="FLAC")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# How to make the file, and a word that the answer must have.
UNUSABLE: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty file": (lambda path: path.touch(), "empty"),
    "no samples": (lambda path: save(path, np.zeros(0)), "no samples"),
    "not audio": (lambda path: path.write_text("hello, this is a text\n" * 50), "not audio"),
    "header only": (lambda path: path.write_bytes(b"RIFF\x00\x00"), "not audio"),
    "NaN": (_with_nan, "NaN"),
    "silence": (lambda path: save(path, np.zeros(2 * RATE)), "silent"),
    "truncated": (_truncated, "cut off"),
}
