"""Running the experiment: what is run, once each, and what an interruption leaves."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from bayessep import baselines, protocol, reproduction
from bayessep.errors import UserError
from bayessep.reproduction import Task
from bayessep.settings import METHODS, Settings
from tests.commandline import Caller
from tests.helpers import recordings_of_the_protocol

RATIOS = {15.0, 5.0, 0.0, -5.0}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    return recordings_of_the_protocol(tmp_path_factory.mktemp("recordings"))


def _fake(task: Task, folder: Path, data: Path, seed: int) -> int:
    with (folder / reproduction.RESULTS).open("a", encoding="utf-8") as file:
        for key in task.keys():
            file.write(json.dumps(dict(zip(reproduction.KEY, key, strict=True)) | {"sdr": 1.0}) + "\n")
    return len(task.rows)


# --- what is run ---------------------------------------------------------------------------------------------------------


def test_everything_asked_for_is_run() -> None:
    tasks = reproduction.plan(development=True)
    keys = {key for task in tasks for key in task.keys()}
    usual = {key for task in reproduction.plan() for key in task.keys()}
    assert usual == {key for key in keys if protocol.CONDITIONS[key[2]].cast is protocol.EXPERIMENT}
    n = len(protocol.names())
    for item in range(n):
        for smr in RATIOS:
            assert all((item, smr, "plain", "Self", row) in keys for row in (*METHODS, *baselines.BASELINES))
        for training in ("All", "Other"):
            assert all((item, 15.0, "plain", training, row) in keys for row in reproduction.PAPER_METHODS)
        for condition in protocol.MET:
            assert (item, 0.0, condition, "Self", "variational") in keys and (item, 0.0, condition, "Self", "KL-NMF") in keys
    for item in range(len(protocol.names(protocol.DEVELOPMENT))):
        for row in (*METHODS, *reproduction.ABLATION_ROWS):
            assert {(item, 15.0, "development", "Self", row), (item, 0.0, "development", "Self", row)} <= keys
    assert set(reproduction.MODEL_ROWS) <= {key[-1] for key in keys}
    quick = {key for task in reproduction.plan(quick=True) for key in task.keys()}
    assert quick < usual


def test_the_default_is_a_row_and_every_ablation_differs_from_it() -> None:
    assert reproduction.METHOD_ROWS[Settings().method] == Settings()
    assert all(settings != Settings() for settings in reproduction.ABLATION_ROWS.values())
    assert len(set(reproduction.ABLATION_ROWS.values())) == len(reproduction.ABLATION_ROWS)


def test_nothing_is_run_twice() -> None:
    tasks = [Task(item, 0.0, "plain", "Self", rows) for item, rows in ((0, ("a", "b")), (0, ("b", "c")), (1, ("a",)))]
    left = reproduction.missing(tasks, {(0, 0.0, "plain", "Self", "a")})
    assert [(task.item, task.rows) for task in left] == [(0, ("b",)), (0, ("c",)), (1, ("a",))]
    assert reproduction.missing(tasks, {key for task in tasks for key in task.keys()}) == []


# --- running and going on ------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on(recordings: Path, tmp_path: Path, monkeypatch) -> None:
    tasks = reproduction.plan(quick=True)
    seen: list[Task] = []

    def interrupted(task: Task, folder: Path, data: Path, seed: int) -> int:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(task)
        return _fake(task, folder, data, seed)

    monkeypatch.setattr(reproduction, "work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduction.run(tmp_path, recordings, tasks)
    with (tmp_path / reproduction.RESULTS).open("a") as file:
        file.write('{"item": 0, "smr')  # the line that was being written
    monkeypatch.setattr(reproduction, "work", lambda task, *rest: seen.append(task) or _fake(task, *rest))
    heard: list[tuple] = []
    results = reproduction.run(tmp_path, recordings, tasks, progress=lambda *said: heard.append(said[:3]))
    assert seen == tasks
    assert len(results) == sum(len(task.rows) for task in tasks)
    assert heard[0] == ("results", 18, 54) and heard[-1] == ("results", 54, 54)


def test_results_of_other_settings_are_not_mixed_in(recordings: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reproduction, "work", _fake)
    task = [Task(0, 0.0, "plain", "Self", ("nmf",))]
    reproduction.run(tmp_path, recordings, task)
    with pytest.raises(UserError, match="other settings, another seed or another version"):
        reproduction.run(tmp_path, recordings, task, seed=1)
    assert len(reproduction.read(tmp_path)) == 1


def test_rows_may_come_but_not_change(recordings: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reproduction, "work", _fake)
    task = [Task(0, 0.0, "plain", "Self", ("nmf",))]
    reproduction.run(tmp_path, recordings, task)
    rows = reproduction.MODEL_ROWS | {"another": Settings(bases=7)}
    monkeypatch.setattr(reproduction, "MODEL_ROWS", rows)
    more = reproduction.run(tmp_path, recordings, [Task(0, 0.0, "plain", "Self", ("nmf", "another"))])
    assert [r["row"] for r in more] == ["nmf", "another"]
    monkeypatch.setattr(reproduction, "MODEL_ROWS", rows | {"another": Settings(bases=8)})
    with pytest.raises(UserError, match="other settings"):
        reproduction.run(tmp_path, recordings, task)


def test_a_folder_from_before_the_development_mixtures_may_get_them(recordings: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reproduction, "work", _fake)
    task = [Task(0, 0.0, "plain", "Self", ("nmf",))]
    reproduction.run(tmp_path, recordings, task)
    setup = json.loads((tmp_path / "setup.json").read_text())
    (tmp_path / "setup.json").write_text(json.dumps({name: value for name, value in setup.items() if name != "development"}))
    assert len(reproduction.run(tmp_path, recordings, [*task, Task(0, 0.0, "development", "Self", ("nmf",))])) == 2
    assert json.loads((tmp_path / "setup.json").read_text()) == setup
    (tmp_path / "setup.json").write_text(json.dumps(setup | {"development": ["another"]}))
    with pytest.raises(UserError, match="other settings"):
        reproduction.run(tmp_path, recordings, task)


@pytest.mark.parametrize("damage", ["{nothing", "[]", "{}", "null"])
@pytest.mark.parametrize(("name", "words"), [("setup.json", "cannot be read"), ("results.jsonl", "line 1, is not a result")])
def test_a_damaged_folder_is_named(recordings: Path, tmp_path: Path, monkeypatch, name: str, words: str, damage: str) -> None:
    monkeypatch.setattr(reproduction, "work", _fake)
    task = [Task(0, 0.0, "plain", "Self", ("nmf",))]
    reproduction.run(tmp_path, recordings, task)
    (tmp_path / name).write_text(f"{damage}\n")
    with pytest.raises(UserError, match=rf"{name}.*{words}.*choose another folder"):
        reproduction.run(tmp_path, recordings, task)
    assert (tmp_path / name).read_text() == f"{damage}\n"


def test_a_place_that_cannot_be_written_is_named(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file.*choose another folder"):
        reproduction.run(tmp_path / "file", recordings, [])


def test_processes_inherit_what_they_compute_with_and_nothing_stays(monkeypatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--as-it-was")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with reproduction._environment({"XLA_FLAGS": "--other", "OMP_NUM_THREADS": "1"}):
        assert (os.environ["XLA_FLAGS"], os.environ["OMP_NUM_THREADS"]) == ("--other", "1")
    assert os.environ["XLA_FLAGS"] == "--as-it-was" and "OMP_NUM_THREADS" not in os.environ


def _count(task: Task) -> int:
    return len(task.rows)


def _end(task: Task) -> int:
    os._exit(1) if task.item == 1 else time.sleep(900)
    return 0


def test_processes_share_the_tasks() -> None:
    tasks = [Task(n, 0.0, "plain", "Self", ("a",) * n) for n in range(4)]
    assert sorted(reproduction.in_processes(_count, tasks, 2)) == [0, 1, 2, 3]


def test_a_process_that_is_ended_is_noticed() -> None:
    tasks = [Task(n, 0.0, "plain", "Self", ()) for n in range(2)]
    started = time.monotonic()
    with pytest.raises(UserError, match="a process was killed.*results are kept.*fewer --jobs"):
        list(reproduction.in_processes(_end, tasks, 2))
    assert time.monotonic() - started < 600


# --- the verb ------------------------------------------------------------------------------------------------------------


def _line(row: str, item: int, level: float) -> dict:
    key = dict(zip(reproduction.KEY, (item, 15.0, "plain", "Self", row), strict=True))
    return key | {"name": str(item), "smr": level + 5, "sar": level + 2, "sdr": level, "si_sdr": level, "seconds": 60.0}


@pytest.mark.loose_arrays
def test_the_verb_prints_and_writes_its_tables(call: Caller, recordings: Path, tmp_path: Path, monkeypatch) -> None:
    lines = [_line(row, item, 10.0 + item) for row in ("mixture", "nmf", "KL-NMF") for item in (0, 1)]
    asked: list[dict] = []
    monkeypatch.setattr(reproduction, "run", lambda *given, **more: asked.append(more | {"tasks": given[2]}) or lines)
    folder = tmp_path / "out"
    folder.mkdir()  # where `run` keeps its lines
    line = ("reproduce", "demir2011", "--data", recordings, "-o", folder, "--jobs", 3, "--seed", 5, "--development")
    document = json.loads(call.succeeded(*line, "--json"))
    assert (asked[0]["seed"], asked[0]["jobs"]) == (5, 3)
    assert asked[0]["tasks"] == reproduction.plan(development=True) and document["development"]
    assert (document["seconds"], len(document["means"])) == (360.0, 3)
    assert "24 development mixtures" in document["about"]
    assert "development" not in json.loads(call.succeeded(*line[:-1], "--json"))["about"]
    assert asked[1]["tasks"] == reproduction.plan()
    printed = call.succeeded(*line)
    assert "Table 2 of the paper" in printed and "10.5" in printed and "6 minutes" in (folder / "tables.md").read_text()
    assert {p.name for p in folder.iterdir()} >= {"tables.json", "tables.csv", "tables.md", "tables.png"}
    assert json.loads((folder / "tables.json").read_text())["means"] == document["means"]


@pytest.mark.loose_arrays
def test_tables_are_made_of_what_is_there(call: Caller, recordings: Path, tmp_path: Path, monkeypatch) -> None:
    def work(task: Task, folder: Path, data: Path, seed: int) -> int:
        for row in task.rows:
            reproduction.append(folder, _line(row, task.item, 10.0 + task.item))
        return len(task.rows)

    monkeypatch.setattr(reproduction, "work", work)
    part, whole = reproduction.plan()[:10], len(reproduction.keys_of(reproduction.plan()))
    reproduction.run(tmp_path / "run", recordings, part)
    held = (tmp_path / "run" / reproduction.RESULTS).read_bytes()
    line = ("reproduce", "demir2011", "--data", recordings, "--finished", "-o")
    made = json.loads(call.succeeded(*line, tmp_path / "run", "--json"))
    assert f"Not all of it has been run: {len(reproduction.keys_of(part))} of {whole} results are there." in made["about"]
    assert (tmp_path / "run" / reproduction.RESULTS).read_bytes() == held and (tmp_path / "run" / "tables.md").is_file()
    assert "another seed" in call.refused(*line, tmp_path / "run", "--seed", 1)
    assert "holds no results of this experiment" in call.refused(*line, tmp_path / "none") and not (tmp_path / "none").exists()


def test_an_interruption_says_that_results_are_kept(call: Caller, recordings: Path, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*given, **more) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduction, "run", interrupted)
    outcome = call("reproduce", "demir2011", "--data", recordings, "-o", tmp_path / "out")
    assert (outcome.code, outcome.out) == (130, "") and "every result so far is kept" in outcome.complaint


def test_a_part_and_more_than_all_exclude_each_other(call: Caller, recordings: Path, tmp_path: Path) -> None:
    line = ("reproduce", "demir2011", "--data", recordings, "-o", tmp_path / "out", "--quick", "--development")
    assert "give only one of them" in call.refused(*line) and not (tmp_path / "out").exists()


def test_recordings_that_are_missing_are_named(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "manifest.csv" in call.refused("reproduce", "demir2011", "--data", tmp_path / "empty", "-o", tmp_path / "out")


# --- one task ------------------------------------------------------------------------------------------------------------


@pytest.mark.loose_arrays
def test_a_task_appends_its_results(recordings: Path, tmp_path: Path, monkeypatch) -> None:
    small = Settings(bases=3, sweeps=3, training_sweeps=3, max_frequency=1000.0)
    monkeypatch.setattr(reproduction, "MODEL_ROWS", {"variational": small})
    monkeypatch.setattr(reproduction.recognition, "is_installed", lambda: True)
    monkeypatch.setattr(reproduction.recognition, "transcribe", lambda speech: "word0 nonsense")
    rows = ("mixture", "ideal ratio mask", "variational")
    assert reproduction.work(Task(3, 5.0, "faded", "Other", rows, words=True), tmp_path, recordings, 0) == 3
    mixture, ideal, found = reproduction.read(tmp_path)
    assert [reproduction.key_of(r) for r in (mixture, ideal, found)] == [(3, 5.0, "faded", "Other", row) for row in rows]
    assert mixture["sdr"] == pytest.approx(5.0, abs=0.2) and mixture["sar"] is None
    assert ideal["sdr"] > mixture["sdr"] + 2
    assert (found["word_errors"], found["words"]) == (1, 2)
    assert found["sweeps"] == 3 and -1 <= found["rank_correlation"] <= 1
    assert np.all(np.diff([0, *found["coverage"], 1]) >= 0)


@pytest.mark.loose_arrays
def test_a_development_task_is_of_development_items(recordings: Path, tmp_path: Path) -> None:
    assert reproduction.work(Task(7, 5.0, "development", "Self", ("mixture",)), tmp_path, recordings, 0) == 1
    assert reproduction.read(tmp_path)[0]["name"] == protocol.names(protocol.DEVELOPMENT)[7]
