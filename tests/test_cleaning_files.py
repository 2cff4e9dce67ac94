"""`bayessep clean` on files and folders: what it is given, what it leaves alone, and what it says of what goes wrong."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import cleaning, cleaning_files, detection, devices, recordings, shipped, streaming
from bayessep.audio import AudioInfo
from bayessep.cleaning import Cleaned, Stems
from bayessep.detection import Detection
from bayessep.errors import UserError
from bayessep.preparation import Given, Lessons
from bayessep.separators import silent
from bayessep.stft import stft_for_rate
from bayessep.timeline import BOTH, MUSIC, SPEECH, Segment
from tests.benchmarks.cleaning import oracle
from tests.commandline import RATE, Caller, load, save, tone

pytestmark = pytest.mark.loose_arrays
HEARD = [Segment(0.0, 2.0, SPEECH), Segment(2.0, 3.0, BOTH), Segment(3.0, 4.0, MUSIC)]


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A detector that knows, and a separation that costs nothing; what they were called with."""
    seen: list[Path] = []

    def detect(path: Path, **_: Any) -> Detection:
        seen.append(path)
        return oracle(HEARD)

    def clean(mixture: np.ndarray, *_: Any, **__: Any) -> Stems:
        none = np.zeros(40, np.float32)
        account = Cleaned(np.arange(40) / 10, none, {"speech": none, "music": none}, None, ())
        return Stems(mixture - 0.25 * mixture, 0.25 * mixture, account)

    monkeypatch.setattr(detection, "detect", detect)
    monkeypatch.setattr(cleaning, "clean", clean)
    monkeypatch.setenv("BAYESSEP_CACHE", "off")
    return seen


def recording(path: Path, *, level: float = 1.0, seed: int = 0, subtype: str = "FLOAT") -> Path:
    """Four seconds of a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, level * tone(4, 300, seed=seed), subtype=subtype)


MODULE = """
from bayessep.recognition import Word
import numpy as np

class Ticks:
    sample_rate, seconds = 8000, 10.0

    def recognise(self, speech):
        said = "loud" if np.abs(speech).max() > 0.4 else "<soft>"
        return [Word(said, n + 0.25, n + 0.5, 0.5) for n in range(int(len(speech) / 8000))]

class Broken(Ticks):
    def recognise(self, speech):
        raise RuntimeError("boom")
"""


def test_what_is_said_is_written_down_where_speech_is_heard(
    call: Caller, heard: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the stem, not of the recording; words that change between draws are unsure; and it is not skipped without its words."""
    monkeypatch.chdir(tmp_path)
    Path(f"ticks_{tmp_path.name}.py").write_text(MODULE)
    fake, asked = cleaning.clean, []

    def clean(mixture: np.ndarray, *given: Any, draws: int, **named: Any) -> Stems:
        asked.append(draws)
        return fake(mixture, *given, **named)._replace(draws=(0.75 * mixture, 3 * mixture)[:draws])

    monkeypatch.setattr(cleaning, "clean", clean)
    line = ("clean", recording(tmp_path / "a.wav"), "-o", "out", "--skip-existing", "-q", "--json")
    assert json.loads(call.succeeded(*line))["counts"]["cleaned"] == 1
    folder, writes = tmp_path / "out" / "a", ("--recogniser", f"ticks_{tmp_path.name}:Ticks")
    assert not (folder / "transcript.txt").exists() and "transcript" not in json.loads((folder / "clean.json").read_text())
    for _ in range(2):
        document = json.loads(call.succeeded(*line, *writes))
    assert document["counts"]["skipped"] == 1 and asked == [0, 0]
    assert (folder / "transcript.txt").read_text() == "<soft> <soft> <soft>\n"  # three seconds of speech, and one of music
    assert (folder / "transcript.srt").read_text().startswith("1\n00:00:00,250 --> 00:00:02,500\n‹soft› ‹soft›")
    page = (folder / "report.html").read_text()
    assert "<h2>Transcript</h2>" in page and "&lt;soft&gt; &lt;soft&gt;" in page and "<soft>" not in page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "clean", lambda *given, draws, **named: fake(*given, **named))
        unmixed = call("clean", tmp_path / "a.wav", "-o", "unmixed", *writes, "--draws", "2")
        assert unmixed.code == 0 and "there is nothing to draw" in unmixed.err
    assert json.loads(call.succeeded(*line, *writes, "--draws", "2"))["counts"]["cleaned"] == 1
    assert (folder / "transcript.txt").read_text() == "<soft>(?) <soft>(?) <soft>(?)\n"
    found = json.loads((folder / "clean.json").read_text())
    assert found["transcript"]["draws"] == 2 and [word["agreement"] for word in found["transcript"]["words"]] == [0.5] * 3
    assert found["recogniser"] == {"name": writes[1], "weights": None, "draws": 2}
    again = call(*line[:4])  # without words: those of before are not left beside other stems
    assert again.code == 0 and "belonged to the stems of an earlier call" in again.err
    assert not (folder / "transcript.txt").exists() and "<h2>Transcript</h2>" not in (folder / "report.html").read_text()
    (folder / "transcript.txt").write_text("mine")  # nobody's but the user's
    assert "transcript" not in call(*line[:4]).err and (folder / "transcript.txt").read_text() == "mine"
    assert "is not as an earlier call wrote it" in call.refused(*line[:4], *writes)
    (folder / "transcript.txt").unlink()
    call.succeeded(*line, *writes)
    (folder / "transcript.txt").write_text("corrected")  # the other file is as it was, and of other stems
    assert call(*line[:4]).code == 0 and not (folder / "transcript.srt").exists()
    assert (folder / "transcript.txt").read_text() == "corrected"
    (folder / "transcript.txt").unlink()
    assert "give a --recogniser" in call.refused(*line, "--draws", "2")
    broken = call(*line, "--recogniser", f"ticks_{tmp_path.name}:Broken")  # what took long is kept
    assert broken.code == 2 and "boom" in broken.err and "without a transcript" in broken.err
    assert (folder / "speech.wav").exists() and not (folder / "transcript.txt").exists()
    assert json.loads(call.succeeded(*line, *writes))["counts"]["cleaned"] == 1
    monkeypatch.setattr(recordings, "is_long", lambda _: True)
    assert "too long to be held in memory" in call.refused(*line, *writes, "--draws", "3")


# --- what is given -------------------------------------------------------------------------------------------------------


def test_no_recording_is_replaced_by_the_stems_of_another(call: Caller, heard: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    recording(folder / "a.wav")
    other = recording(folder / "a" / "speech.wav", seed=5)
    complaint = call.refused("clean", folder, "-o", folder, "-q")
    assert str(other) in complaint and "would be replaced" in complaint and heard == []
    assert str(other) in call.refused("clean", folder / "a.wav", other, "-o", folder, "-q")


def test_programs_are_let_go_of_after_each(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go: list[int] = []
    monkeypatch.setattr(devices, "forget_programs", lambda: let_go.append(1))
    for name in ("a.wav", "b.wav", "c.wav"):
        recording(tmp_path / "in" / name)
    call.succeeded("clean", tmp_path / "in", "-o", tmp_path / "out")
    assert len(let_go) == 3


def test_a_name_of_dots_is_no_folder_above(tmp_path: Path) -> None:
    paths = [recording(tmp_path / name) for name in ("...wav", "a.wav")]
    planned = cleaning_files.tasks(paths, tmp_path / "out")
    assert [task.folder for task in planned] == [tmp_path / "out" / name for name in ("...wav", "a")]


def test_stems_are_not_cleaned_again(call: Caller, heard: list[Path], tmp_path: Path) -> None:
    for out in (tmp_path / "in" / "cleaned", tmp_path / "in"):
        path = recording(tmp_path / "in" / "a.wav")
        for _ in range(2):
            document = json.loads(call.succeeded("clean", tmp_path / "in", "-o", out, "-q", "--json"))
            assert [row["input"] for row in document["recordings"]] == [str(path)]
    assert set(heard) == {path}
    stem = tmp_path / "in" / "a" / "speech.wav"
    assert cleaning_files.tasks([stem], tmp_path / "out")[0].recording == stem  # named, it is what is wanted
    with pytest.raises(UserError, match="no audio but results"):
        cleaning_files.tasks([stem.parent], tmp_path / "out")
    mine = recording(tmp_path / "mine" / "speech.wav")  # beside no clean.json
    assert [task.recording for task in cleaning_files.tasks([mine.parent], tmp_path / "out")] == [mine]


def test_a_recording_that_has_changed_is_not_skipped(call: Caller, heard: list[Path], tmp_path: Path) -> None:
    path = recording(tmp_path / "a.wav")
    before = path.stat()
    line = ("clean", path, "-o", tmp_path / "out", "--skip-existing", "-q", "--json")
    call.succeeded(*line)
    assert json.loads(call.succeeded(*line))["counts"]["skipped"] == 1
    recording(path, seed=1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert json.loads(call.succeeded(*line))["counts"]["cleaned"] == 1
    assert len(heard) == 2


def test_what_another_version_or_other_weights_made_is_not_skipped(
    call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("clean", recording(tmp_path / "a.wav"), "-o", tmp_path / "out", "--skip-existing", "-q", "--json")

    def status() -> str:
        return json.loads(call.succeeded(*line))["recordings"][0]["status"]

    assert [status(), status()] == ["cleaned", "skipped"]
    document = json.loads((tmp_path / "out" / "a" / "clean.json").read_text())
    assert document["weights"] == {name: shipped.info(name).sha256 for name in ("detector", "general")}
    monkeypatch.setattr(cleaning_files, "__version__", "0.0.1")
    assert [status(), status()] == ["cleaned", "skipped"]
    info = shipped.info
    for other in ("detector", "general"):
        changed = info(other)._replace(sha256="0")
        monkeypatch.setattr(shipped, "info", lambda name, c=changed: c if name == c.name else info(name))
        assert [status(), status()] == ["cleaned", "skipped"]


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names of files are UTF-8 there")
def test_names_in_another_encoding(call: Caller, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(recording(tmp_path / "a.wav").read_bytes())
    out, folder = tmp_path / "out", tmp_path / "out" / os.fsdecode(b"caf\xe9")
    assert "caf?" in call.succeeded("clean", path, "-o", out)
    assert sorted(p.name for p in folder.iterdir()) == sorted(cleaning_files.FILES.values())
    assert "caf?.wav" in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "clean.json").read_text(encoding="utf-8"))["input"]["path"].endswith("caf?.wav")
    assert json.loads(call.succeeded("clean", path, "-o", out, "--skip-existing", "--json"))["counts"]["skipped"] == 1
    assert "caf?.wav" in call.refused("clean", path.with_suffix(".x") / path.name, "-o", out)
    for place in (("-o", tmp_path / os.fsdecode(b"\xe9.rttm")), ("--format", "rttm")):
        assert "" != call.succeeded("detect", path, *place)
    assert " caf? " in (tmp_path / os.fsdecode(b"\xe9.rttm")).read_text(encoding="utf-8")


# --- what goes wrong -----------------------------------------------------------------------------------------------------

def test_a_folder_in_the_way_is_found_before_the_work(call: Caller, heard: list[Path], tmp_path: Path) -> None:
    path, other = recording(tmp_path / "a.wav"), recording(tmp_path / "b.wav")
    blocked = tmp_path / "out" / "b" / "speech.wav"
    blocked.mkdir(parents=True)
    for given in ((path, other), (other,)):
        complaint = call.refused("clean", *given, "-o", tmp_path / "out", "-q")
        assert f"{blocked}: it is a folder" in complaint and heard == []


BREAKDOWNS = [FloatingPointError("the bound is nan."), MemoryError(), ValueError("shapes (3,) and (4,)\n  do not fit")]


@pytest.mark.parametrize("verb", ["clean", "detect"])
@pytest.mark.parametrize("error", BREAKDOWNS, ids=lambda error: type(error).__name__)
def test_one_breakdown_does_not_stop_the_others(
    call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, error: Exception
) -> None:
    paths = [recording(tmp_path / f"{name}.wav") for name in "abc"]

    def detect(path: Path, **_: Any) -> Detection:
        if path == paths[1]:
            raise error
        return oracle(HEARD)

    monkeypatch.setattr(detection, "detect", detect)
    outcome = call(verb, *paths, "-o", tmp_path / "out", "-q")
    assert outcome.code == 1 and "Traceback" not in outcome.err
    (said,) = outcome.err.splitlines()
    assert str(paths[1]) in said and said.endswith("please report it.") and str(error).split("\n")[0].rstrip(".") in said
    assert sorted({p.relative_to(tmp_path / "out").parts[0][0] for p in (tmp_path / "out").rglob("*") if p.is_file()}) == ["a", "c"]
    if verb == "clean":
        assert "2 cleaned, 1 failed" in outcome.out and f"failed: {paths[1]}" in outcome.out


@pytest.mark.parametrize("verb", ["clean", "detect"])
def test_the_only_recording_of_a_folder_is_the_only_one(
    call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    path = recording(tmp_path / "in" / "bad.wav")

    def detect(path: Path, **_: Any) -> Detection:
        raise UserError(f"{path} is not audio.")

    monkeypatch.setattr(detection, "detect", detect)
    assert call.refused(verb, path.parent, "-o", tmp_path / "out", "-q") == f"error: {path} is not audio."


def test_many_samples_are_long(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four seconds, and yet too much to be held: what counts is samples times channels."""
    monkeypatch.setattr(recordings, "LONG_SAMPLES", 4 * RATE)
    pieces: list[str] = []

    def clean_file(path: Path, heard: Detection, speech: Path, music: Path, *_: Any, **__: Any) -> Cleaned:
        pieces.append(path.name)
        for stem in (speech, music):
            save(stem, load(path) / 2, subtype="FLOAT")
        none = np.zeros(40, np.float32)
        return Cleaned(np.arange(40) / 10, none, {"speech": none, "music": none}, None, ())

    monkeypatch.setattr(cleaning, "clean_file", clean_file)
    few = recording(tmp_path / "few.wav")
    many = save(tmp_path / "many.wav", np.stack([tone(4, 300), tone(4, 300)]))
    call.succeeded("clean", few, many, "-o", tmp_path / "out", "-q")
    assert pieces == ["many.wav"]
    assert "data:audio" in (tmp_path / "out" / "few" / "report.html").read_text()
    assert "data:audio" not in (tmp_path / "out" / "many" / "report.html").read_text()


@pytest.mark.parametrize(("seconds", "rate", "channels", "long"), [
    (600, 48_000, 2, False), (601, 8_000, 1, True), (599, 192_000, 8, True), (80, 192_000, 8, True), (30, 192_000, 8, False),
])  # fmt: skip
def test_what_is_long(seconds: int, rate: int, channels: int, long: bool) -> None:
    info = AudioInfo(rate, channels, seconds * rate, "PCM_16", "WAV")
    assert recordings.is_long(info) == long


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(16_000, 1, 60), (96_000, 2, 60), (192_000, 8, 11), (192_000, 64, 1.4)])
def test_blocks_hold_no_more_than_fits(rate: int, channels: int, seconds: float) -> None:
    window = stft_for_rate(rate)
    none, nothing = np.zeros((0, 2), np.float32), np.zeros(0, bool)
    given = Given(nothing, nothing, nothing, nothing, np.zeros(0, np.float32))
    survey = streaming.Survey(Lessons(given, nothing, nothing), 0, 0, 0.0, True, none, none, none)
    job = streaming.Job("a.wav", rate, channels, window, 2, survey, np.float32(1), none, none, cleaning.MODEL, silent)
    assert job.frames_per_block * window.hop / rate == pytest.approx(seconds, rel=0.05)


# --- stems ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1.0, 5.0])
def test_stems_share_one_gain_where_one_would_clip(call: Caller, tmp_path: Path, level: float) -> None:
    path = recording(tmp_path / "a.wav", level=level)  # in floating point, whose peak may lie above full scale
    call.succeeded("clean", path, "-o", tmp_path / "out", "-q")
    folder, mixture = tmp_path / "out" / "a", load(path)
    document = json.loads((folder / "clean.json").read_text())
    gain = document["output_gain"]
    assert gain == pytest.approx(1 if level == 1 else 0.999 / np.abs(mixture).max(), rel=1e-6)
    speech, music = load(folder / "speech.wav"), load(folder / "music.wav")
    np.testing.assert_allclose(speech, 0.75 * gain * mixture, atol=1e-6)  # of the separation above
    np.testing.assert_allclose(music, 0.25 * gain * mixture, atol=1e-6)
    page = (folder / "report.html").read_text()
    assert ("The stems add up to the recording. " in page) == (gain == 1) and (f"factor of {gain:.3f}" in page) == (gain != 1)
    assert page.count("add up to the recording") == 1
