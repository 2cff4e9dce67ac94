"""Folders that appear whole or not at all, when more goes wrong than once."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bayessep import output


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_second_signal_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that end others send two: the second came while the draft was cleared away."""
    whole = shutil.rmtree

    def once_more(*given: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        whole(*given, **options)

    monkeypatch.setattr(shutil, "rmtree", once_more)
    with pytest.raises(KeyboardInterrupt), output.draft(tmp_path / "a" / "b") as part:
        (part / "speech.wav").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("after", range(3))
def test_no_account_speaks_of_files_that_are_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Killed between the moves: what says that all is done is not there, neither the new nor the old one."""
    names = ("clean.json", "music.wav", "speech.wav")
    for name in names:
        (tmp_path / name).write_text("old")
    whole, moved = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if len(moved) == after:
            raise SystemExit(137)
        moved.append(target.name)
        whole(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit), output.draft(tmp_path) as part:
        for name in names:
            (part / name).write_text("new")
    assert not (tmp_path / "clean.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.read_text() == "new") == ["music.wav", "speech.wav"][:after]


def test_what_speaks_of_accounts_comes_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, moved = os.replace, []
    monkeypatch.setattr(os, "replace", lambda source, target: (moved.append(target.name), whole(source, target)))
    with output.draft(tmp_path) as part:
        (part / "nmf").mkdir()
        for name in ("compare.json", "nmf/separation.json", "nmf/speech.wav", "report.html"):
            (part / name).write_text("x")
    assert moved == ["speech.wav", "report.html", "separation.json", "compare.json"]


def test_what_is_replaced_goes_before_its_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed as the moves begin: no draws are left that no account speaks of."""
    for name in ("draw.wav", "separation.json"):
        (tmp_path / name).write_text("old")

    def killed(*_: Path) -> None:
        raise SystemExit(137)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit), output.draft(tmp_path, replacing=["draw.wav"]) as part:
        for name in ("separation.json", "speech.wav"):
            (part / name).write_text("new")
    assert not list(tmp_path.iterdir())


def test_a_file_alone_is_never_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.json").write_text("old")

    def killed(*_: Path) -> None:
        raise SystemExit(137)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit), output.draft(tmp_path) as part:
        (part / "labels.json").write_text("new")
    assert (tmp_path / "labels.json").read_text() == "old"


def test_a_folder_may_be_made_by_another_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by several commands that begin at once; it is theirs, too, and stays."""
    whole = Path.mkdir

    def raced(self: Path, **options: Any) -> None:
        if self.name == "all":
            whole(self)
            (self / "theirs").write_text("x")
        whole(self, **options)

    monkeypatch.setattr(Path, "mkdir", raced)
    with output.draft(tmp_path / "all" / "mine") as part:
        (part / "speech.wav").write_text("x")
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["mine", "theirs"]
    monkeypatch.undo()
    (tmp_path / "file").write_text("x")
    with pytest.raises(output.UserError, match="cannot write"), output.draft(tmp_path / "file" / "below"):
        pass
