"""Paper 003's experiment: what is run, that no speaker is in two folds, going on after an interruption, tables and findings."""

import csv
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep import audio, corpora, data, detector_transfer
from bayessep import bhattacharjee2022 as experiment
from bayessep import bhattacharjee2022_tables as tables
from bayessep.bhattacharjee2022 import Corpus
from bayessep.bhattacharjee2022_rows import (
    BUDGETS,
    EARLY,
    FIGURE_2,
    LMS,
    MODIFIED,
    MULTI_EARLY,
    MULTI_LMS,
    RATIOS,
    ROWS,
    TABLES,
    TRANSFER,
    TRANSFER_DAFX,
    Budget,
    Row,
    Task,
    plan,
    recipe_of,
)  # fmt: skip
from bayessep.detector_data import Items
from bayessep.errors import UserError
from bayessep.models import detector_networks
from bayessep.models import speech_music_detector as detector
from bayessep.models.detector_networks import Detector
from bayessep.reproduction import append
from bayessep.train import Diverged
from tests.commandline import Caller

pytestmark = pytest.mark.loose_arrays  # flax multiplies numbers of Python into its arrays

RATE = 16000


def _sound(kind: str, seconds: float, seed: int) -> np.ndarray:
    """Music: steady tones. Speech: bursts of noise, and pauses."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    if kind == "music":
        return sum(0.1 * np.sin(2 * np.pi * pitch * t) for pitch in rng.uniform(200, 2000, 4))
    return 0.2 * rng.standard_normal(len(t)) * (np.sin(2 * np.pi * rng.uniform(2, 4) * t) > -0.8)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers and six artists, two recordings each."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = []
    for n in range(24):
        kind = ("speech", "music")[n % 2]
        seconds = 2.5 + 0.1 * (n // 4)
        audio.write(folder / f"{n:02}.wav", _sound(kind, seconds, n)[None].astype(np.float32), RATE)
        rows.append([f"{n:02}.wav", kind, f"{kind}{n // 4}", f"{seconds:.3f}", RATE, 1, "", "", "", "", "CC0"])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([data.MANIFEST_COLUMNS, *rows])
    return folder


@pytest.fixture(scope="module")
def corpus(recordings: Path) -> Corpus:
    return Corpus(recordings)


class Small(nnx.Module):
    """In the place of B3, whose blocks take a minute to compile: means over time."""

    def __init__(self, config: Detector, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(config.width, 8, rngs=rngs)
        self.n_out = 8

    def __call__(self, x, noise=None):
        return nnx.relu(self.first(x)).mean(1)


TINY = Budget((LMS, MULTI_EARLY), 3, 1, 1, {"b3": 3, "b3-ef": 3}, 1, (2, 2, 1), 12.0, 2, 20)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(detector_networks.MADE, "b3", Small)
    monkeypatch.setitem(BUDGETS, "full", TINY)
    for name, row in ((LMS, Row("b3", "single", "LMS", 8, False)), (MULTI_EARLY, Row("b3", "multi", "LMS", 8, False))):
        monkeypatch.setitem(ROWS, name, row)
    detector.graph.cache_clear()
    yield
    detector.graph.cache_clear()


# --- what is run ---------------------------------------------------------------------------------------------------------


def test_every_row_of_the_papers_tables_is_run_in_every_fold() -> None:
    tasks = plan()
    rows = [row for number in TABLES for row in TABLES[number]]
    assert {(task.row, task.fold) for task in tasks} >= {(row, fold) for row in (*rows, TRANSFER) for fold in range(3)}
    assert [task.fold for task in tasks if task.row == FIGURE_2] == [0]
    assert len(set(tasks)) == len(tasks) and {task.row for task in tasks} == {*ROWS, FIGURE_2, TRANSFER}
    assert [task.row for task in tasks][:12:3] == [LMS, MULTI_EARLY, EARLY, MULTI_LMS]
    assert {task.row for task in plan(transfer=True)} == {*ROWS, FIGURE_2, TRANSFER_DAFX}
    quick = plan("quick")
    assert [task.row for task in quick] == [LMS, MULTI_EARLY, EARLY, MULTI_LMS] and {task.budget for task in quick} == {"quick"}
    assert len({task.place for task in (*tasks, *quick)}) == len(tasks) + len(quick)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("budget", ["full", "long"])
def test_every_row_has_a_recipe(row: str, budget: str) -> None:
    recipe = recipe_of(Task(row, 0, budget), 3)
    assert (recipe.seed, recipe.epochs, recipe.crops) == (3, BUDGETS[budget].epochs, BUDGETS[budget].crops)
    widths = {"MS": 21, "S": 201, "LS": 257, "HPS-EF": 402, "LHPS-EF": 514, "MHPS-EF": 240, "LMHPS-EF": 240}
    width = widths.get(recipe.feature, 80 if "80" in row else 120)
    assert recipe.detector.width == width and recipe.front.stft.n_fft == (512 if width in (257, 514) else 400)
    assert recipe.front.stft.win_length == 400


def test_no_speaker_artist_or_file_is_in_two_parts(corpus: Corpus) -> None:
    names = [{s.recording.split_group for s in fold} for fold in corpus.folds]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2]) and len(set.union(*names)) == 12
    files = [path for fold in corpus.folds for s in fold for path in s.paths]
    assert len(set(files)) == len(files) == 24
    for fold in range(3):
        learn, held = corpus.divided(fold, 0)
        groups = [{i.group for of in part for i in of} for part in (learn, held, corpus.items(fold))]
        assert all(groups) and not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


@pytest.mark.parametrize("seed", range(4))
def test_with_pauses_the_same_people_are_held_out(recordings: Path, seed: int) -> None:
    corpus = Corpus(recordings)
    for fold in range(3):  # with pauses, what is of one speaker is joined into other numbers of items
        corpus._read[fold, True] = Items(*([x for n, x in enumerate(of) for _ in range(1 + n % 2)] for of in corpus.items(fold)))
    for fold in range(3):
        without, with_them = (corpus.divided(fold, seed, pauses=pauses) for pauses in (False, True))
        for a, b in zip(without, with_them, strict=True):
            assert all({i.group for i in x} == {i.group for i in y} != set() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("budget", ["full", "long"])
def test_what_is_compared_has_learned_equally_long(budget: str) -> None:
    for before, after in MODIFIED.items():
        a, b = (recipe_of(Task(row, 0, budget), 0).training for row in (before, after))
        assert a == b


def test_musan_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    for part, folders in list(corpora.MUSAN.items())[:2]:
        for n, name in enumerate(folders):
            place = tmp_path / "musan" / part / name
            place.mkdir(parents=True)
            stems = [f"{part}-{name}-{k}" for k in range(4)]
            for k, stem in enumerate(stems):
                audio.write(place / f"{stem}.wav", _sound(part, 0.5, n + k)[None].astype(np.float32), RATE)
            notes = [f"{stem} jazz N {stem}_artist" if part == "music" else f"{stem} f english" for stem in stems]
            (place / "ANNOTATIONS").write_text("\n".join(notes) + "\n")
    found = Corpus(tmp_path)
    assert sorted(len(fold) for fold in found.folds) == [9, 9, 10]
    seconds = found.seconds()
    assert (seconds["music"], seconds["speech"]) == (pytest.approx(10.0), pytest.approx(4.0))


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a manifest.csv nor MUSAN's folders"):
        Corpus(tmp_path)
    rows = []
    for n in range(4):
        kind = "music" if n == 0 else "speech"
        audio.write(tmp_path / f"{n}.wav", _sound(kind, 1, n)[None].astype(np.float32), RATE)
        rows.append([f"{n}.wav", kind, f"{n}", "1.0", RATE, 1, "", "", "", "", "CC0"])
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([data.MANIFEST_COLUMNS, *rows])
    with pytest.raises(UserError, match="of 3 has no music; give recordings of more"):
        Corpus(tmp_path)


# --- running and going on ------------------------------------------------------------------------------------------------


def test_rows_are_trained_and_tested_and_an_interrupted_run_goes_on(
    corpus: Corpus, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [Task(LMS, 0, "full"), Task(MULTI_EARLY, 1, "full"), Task(TRANSFER, 1, "full")]
    confusion = experiment.confusion

    def interrupted(recipe, *given):
        if recipe.head == "multi":  # the second row is trained, and not tested
            raise KeyboardInterrupt
        return confusion(recipe, *given)

    monkeypatch.setattr(experiment, "confusion", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(tmp_path, corpus, tasks)
    assert (tmp_path / tasks[1].place / "checkpoints").is_dir() and not (tmp_path / tasks[0].place / "checkpoints").exists()
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"row": "B3')  # the line that was being written
    monkeypatch.setattr(experiment, "confusion", confusion)
    said: list[tuple] = []
    first, second, third = experiment.run(tmp_path, corpus, tasks, progress=lambda *given: said.append(given[:3]))
    named = f"{TRANSFER}, fold 2 (3 of 3)"
    assert said == [(named, 2, 2), (named, 2, 2)]  # of the second row nothing was left to train
    assert [tuple(r[name] for name in Task._fields) for r in (first, second, third)] == tasks
    items = corpus.items(0)
    patches = sum(max(1, ((len(i.samples) - 400) // 160 + 1) // 68) for of in items for i in of)
    mixed = np.sum(first["confusion"][detector.BOTH])
    assert np.sum(first["confusion"]) == patches + mixed and mixed > 0
    assert set(first["overlap_at"]) == {str(smr) for smr in RATIOS}
    assert all(sum(counts) == mixed for counts in first["overlap_at"].values())
    assert (first["steps"], first["epochs"], first["best_epoch"], first["stopped"]) == (3, 1, 1, "epochs")
    assert first["parameters"] == 8 * 8 + 8 + 8 * 3 + 3 and first["loss"] > 0 and first["seconds"] > 0
    for way in ("median", "none"):
        counts = third["tests"]["generated"][way]
        assert set(counts) == {"music", "speech", "both"} and len({np.sum(n) for n in counts.values()}) == 1
    assert not list(tmp_path.rglob("checkpoints")) and list(tmp_path.rglob("metrics.csv"))
    assert experiment.run(tmp_path, corpus, tasks) == [first, second, third]  # nothing is run again


def test_a_training_that_diverges_does_not_stop_the_others(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(task: Task, *given):
        if task.fold == 1:
            raise Diverged("the loss became nan")
        return {"confusion": [[1, 0, 0]] * 3}

    monkeypatch.setattr(experiment, "_row", trained)
    found = tables.Results(experiment.run(tmp_path, corpus, [Task(LMS, fold, "full") for fold in range(3)]))
    mean = found.mean(LMS, "music Rec")
    assert mean is not None and mean.folds == 2 and found.diverged() == [LMS]
    about = tables.about(found, "full", seed=0, seconds=1.0, spoken=corpus.seconds(), planned=3)
    assert "diverged have no scores: B3, LMS" in about and "Not all of it" not in about


@pytest.mark.parametrize("change", ["seed", "recordings", "rows", "budgets"])
def test_a_folder_of_other_settings_is_refused(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    experiment.run(tmp_path, corpus, [])
    experiment.run(tmp_path, corpus, [])
    if change == "rows":
        monkeypatch.setitem(ROWS, "another", ROWS[LMS])  # may come
        experiment.run(tmp_path, corpus, [])
        monkeypatch.setitem(ROWS, "another", ROWS[EARLY])
    elif change == "budgets":
        monkeypatch.setitem(BUDGETS, "full", TINY)
    elif change == "recordings":
        monkeypatch.setattr(corpus, "digest", "others")
    before = (tmp_path / "setup.json").read_bytes()
    with pytest.raises(UserError, match="other recordings or settings, another seed.*choose another folder"):
        experiment.run(tmp_path, corpus, [], seed=int(change == "seed"))
    assert (tmp_path / "setup.json").read_bytes() == before


def test_broadcasts_may_come_but_not_change_once_there_is_a_result_of_them(corpus: Corpus, tmp_path: Path) -> None:
    place = tmp_path / "radio"
    place.mkdir()
    (place / "a.wav").write_bytes(b"")
    experiment.run(tmp_path / "out", corpus, [])
    experiment.run(tmp_path / "out", corpus, [], transfer=place)
    (place / "a.csv").write_bytes(b"")  # what an error asked for
    experiment.run(tmp_path / "out", corpus, [], transfer=place)
    experiment.run(tmp_path / "out", corpus, [])  # what they were is kept
    append(tmp_path / "out", Task(TRANSFER_DAFX, 0, "full")._asdict())
    experiment.run(tmp_path / "out", corpus, [], transfer=place)
    (place / "b.wav").write_bytes(b"")
    with pytest.raises(UserError, match="other recordings or settings"):
        experiment.run(tmp_path / "out", corpus, [], transfer=place)


def test_broadcasts_that_cannot_be_used_are_refused_before_anything_is_run(corpus: Corpus, tmp_path: Path) -> None:
    audio.write(tmp_path / "radio" / "train" / "a.wav", np.zeros((1, 800), np.float32), RATE)
    tasks = [Task(row, 0, "full") for row in (LMS, TRANSFER_DAFX)]
    with pytest.raises(UserError, match="has no labels"):
        experiment.run(tmp_path / "out", corpus, tasks, transfer=tmp_path / "radio")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["{nothing", "[]", "{}", "null"])
def test_a_damaged_folder_is_named(corpus: Corpus, tmp_path: Path, damage: str) -> None:
    (tmp_path / "setup.json").write_text(damage)
    with pytest.raises(UserError, match="setup.json cannot be read; choose another folder"):
        experiment.run(tmp_path, corpus, [])


def test_figure_2_is_about_as_much_of_everybody(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    heard = []

    def skewness(waveform: np.ndarray, parts: str) -> np.ndarray:
        heard.append(len(waveform))
        music = np.diff(waveform).std() < waveform.std()  # noise jumps
        return (rng.standard_normal((30, 4)) + 4 * music * (parts != "mel")).astype(np.float32)

    monkeypatch.setattr(experiment.measured, "skewness", skewness)
    (line,) = experiment.run(tmp_path, corpus, [Task(FIGURE_2, 0, "full")])
    assert set(heard) == {160000} and len(heard) == 3 * 12
    of = line["parts"]
    assert {part["patches"] for part in of.values()} == {12 * 30}
    assert len(of["mel"]["points"]) == len(of["mel"]["speech"])
    assert tables.findings(tables.Results([line]))[0].numbers.startswith("mel ")


# --- broadcasts ----------------------------------------------------------------------------------------------------------


def test_a_patch_is_what_most_of_its_frames_are() -> None:
    music = np.array([1, 1, 0, 0, 0, 1], bool)
    one = detector_transfer.Broadcast(np.zeros((6, 2), np.float32), music, ~music)
    assert one.on("music", 3).tolist() == [True, False, False, False]
    assert one.on("speech", 3).tolist() == [False, True, True, True]
    assert one.on("music", 4).tolist() == [False, False, False]  # half is not most
    where = detector_transfer.places([one, one], "music", 3)
    assert where.on.tolist() == [[0, 0], [1, 0]] and len(where.off) == 6
    with pytest.raises(UserError, match="stretches with music and stretches without"):
        detector_transfer.places([one], "music", 4)
    batch = detector_transfer.draw([one, one], where, 3, 5, np.random.default_rng(0))
    assert batch.features.shape == (10, 3, 2) and batch.on.tolist() == [False] * 5 + [True] * 5


def test_tuning_learns_and_leaves_the_other_head_alone(tiny: None) -> None:
    recipe = recipe_of(Task(MULTI_EARLY, 0, "full"), 0)
    state = detector.init(recipe.detector, experiment.jax.random.key(0))
    rng = np.random.default_rng(0)
    on = np.repeat([False, True, False, True], 100)
    features = rng.standard_normal((400, recipe.detector.width)).astype(np.float32) + 2 * on[:, None].astype(np.float32)
    one = detector_transfer.Broadcast(features, on, ~on)
    task = detector_transfer.task(recipe, "music", state, [one], [one])
    other = detector.init(recipe.detector, experiment.jax.random.key(1))
    assert detector_transfer.task(recipe, "music", other, [one], [one]).config != task.config, "it begins elsewhere"
    tuned = task.init(experiment.jax.random.key(0))
    before = task.validate(tuned)["loss"]
    for n in range(400):  # running means follow slowly
        tuned, _ = task.step(tuned, task.batch(n), experiment.jax.random.key(n))
    assert task.validate(tuned)["loss"] < 0.5 * before
    batch = task.batch(0)
    assert batch.on.sum() * 2 == len(batch.on) == 48
    kept, changed = (jnp.abs(tuned.parameters[h]["out"]["kernel"][...] - state.parameters[h]["out"]["kernel"][...]).max()
                     for h in ("speech", "music"))  # fmt: skip
    assert kept == 0 and changed > 0
    counts = detector_transfer.score(recipe, {"music": tuned, "speech": tuned}, [one], median=3)
    (off, false), (missed, hits) = counts["none"]["music"]
    assert off + false + missed + hits == 400 - 67 and (off + hits) / 333 > 0.85
    assert np.sum(counts["median"]["both"], axis=1)[1] == 0  # never both


def test_labelled_broadcasts_lie_in_folders(tmp_path: Path) -> None:
    front = recipe_of(Task(LMS, 0, "full"), 0).front
    for name in ("train", "valid", "test-swiss"):
        (tmp_path / name).mkdir()
        audio.write(tmp_path / name / f"{name}.wav", _sound("music", 2.0, 0)[None].astype(np.float32), RATE)
        (tmp_path / name / f"{name}.csv").write_text("start,end,label\n0,1,music\n1,2,speech+music\n")
    parts = detector_transfer.labelled(tmp_path, front)
    assert (len(parts.learn), len(parts.held), list(parts.tests)) == (1, 1, ["test-swiss"])
    one = parts.learn[0]
    assert one.music.all() and one.speech.mean() == pytest.approx(0.5, abs=0.02)
    for file in (tmp_path / "valid").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="folders that begin with train, valid and test"):
        detector_transfer.labelled(tmp_path, front)


# --- tables and findings -------------------------------------------------------------------------------------------------


def _confusion(right: int) -> list[list[int]]:
    """Of ten patches of each class so many right, the others one class further."""
    return [[right if a == b else 10 - right if b == (a + 1) % 3 else 0 for b in range(3)] for a in range(3)]


def _line(row: str, fold: int, right: int, overlap: dict[int, int] | None = None) -> dict:
    line = {"row": row, "fold": fold, "budget": "full", "confusion": _confusion(right), "steps": 10, "seconds": 60.0}
    at = {str(smr): [0, 10 - n, n] for smr, n in (overlap or {}).items()}
    return line | ({"overlap_at": at} if at else {})


CURVE = {-5: 1, 0: 4, 5: 6, 10: 8, 15: 7, 20: 5}
BETTER = {smr: n + 1 for smr, n in CURVE.items()}


def _run(**change: int) -> list[dict]:
    """All rows in three folds: 5, 6 and 7 of ten right; one more with a change."""
    lines = []
    for row in (row for number in TABLES for row in TABLES[number]):
        extra = change.get(row, 0) + 1 * (row in MODIFIED.values()) + ("EF" in row and "C-" not in row) + ("MTL" in row)
        for fold in range(3):
            modified = row in MODIFIED.values()
            lines.append(_line(row, fold, min(10, 4 + fold + extra), BETTER if modified else CURVE if row in MODIFIED else None))
    return lines


def test_scores_are_those_of_a_confusion_by_hand() -> None:
    found = tables.scores([[8, 2, 0], [0, 30, 10], [0, 0, 50]])
    assert found["Acc"] == pytest.approx((80 + 75 + 100) / 3)  # class-balanced
    assert found[tables.PATCHES] == pytest.approx(88.0)
    assert (found["music Prec"], found["speech Rec"]) == (pytest.approx(100.0), pytest.approx(75.0))
    assert found["speech+music F1"] == pytest.approx(100 * 100 / 110)
    assert found["Avg. F1"] == pytest.approx((100 * 16 / 18 + 100 * 60 / 72 + 100 * 100 / 110) / 3)
    assert tables.scores([[0] * 3] * 3)["Avg. F1"] == 0
    assert tables.binary_scores([[5, 1], [2, 2]]) == {
        "Acc": 70.0, "Prec": pytest.approx(200 / 3), "Rec": 50.0, "F1": pytest.approx(400 / 7)
    }  # fmt: skip


def test_means_have_the_deviation_of_a_sample() -> None:
    results = tables.Results([_line(LMS, fold, right) for fold, right in enumerate((5, 6, 9))])
    found = results.mean(LMS, "Acc")
    assert found == (pytest.approx(200 / 3), pytest.approx((((-50 / 3) ** 2 + (20 / 3) ** 2 + (70 / 3) ** 2) / 2) ** 0.5), 3)
    assert tables.shown(found) == "66.7 ± 20.8"
    alone = tables.Results([_line(LMS, 0, 5)]).mean(LMS, "Acc")
    assert tables.shown(alone) == "50.0" and tables.shown(None) == "–"
    other = tables.Results([_line(LMS, 0, 5), _line(LMS, 1, 9), _line(EARLY, 1, 8), _line(EARLY, 2, 1)])
    assert other.gain(EARLY, LMS) == (pytest.approx(-10.0), pytest.approx(np.nan, nan_ok=True), 1)  # of folds that both have


def test_tables_stand_beside_the_papers() -> None:
    results = tables.Results(_run())
    made = {table.title.split(":")[0]: table for table in tables.tables(results)}
    one = made["Table I of the paper"]
    assert [row[0] for row in one.rows[::2]] == list(TABLES["I"]) and one.rows[1][:4] == ["", "paper", "71.7 ± 2.3", "49.5 ± 3.4"]
    assert one.rows[0][1:3] == ["here", "50.0 ± 10.0"] and one.rows[0][-1] == "10"
    assert made["Table III of the paper"].rows[-1][2:7] == ["90.1 ± 0.7", "81.5 ± 0.8", "94.5 ± 0.8", "87.0 ± 0.5", "87.3 ± 0.6"]
    assert made["Table IV of the paper"].rows[5][-3] == "88.1 ± 1.6"
    assert made["Figure 4 of the paper"].rows[0] == ["B1, MS", *(f"{10 * n:.1f} ± 0.0" for n in CURVE.values())]
    everything = [*tables.tables(results), *tables.tables(results, brief=True)]
    assert all(len(cells) == len(table.head) for table in everything for cells in table.rows)
    assert tables.tables(tables.Results([])) == [] and tables.findings(tables.Results([])) == []


def test_the_papers_rows_are_all_there() -> None:
    rows = {row for number in TABLES for row in TABLES[number]}
    assert set(tables.PAPER) == rows <= set(ROWS)
    for row in TABLES["I"] + TABLES["II"]:  # the mean recall is the accuracy, within a point; the mean F1 is that of the F1
        of = {name: m.mean for name, m in tables.PAPER[row].items()}
        assert np.mean([of[f"{name} Rec"] for name in tables.CLASSES]) == pytest.approx(of["Acc"], abs=1)
        assert np.mean([of[f"{name} F1"] for name in tables.CLASSES]) == pytest.approx(of["Avg. F1"], abs=1)


def test_findings_follow_the_numbers() -> None:
    def said(lines: list[dict]) -> dict[str, bool]:
        return {f.statement: f.holds for f in tables.findings(tables.Results(lines))}

    usual = {"B4-NoFC, LS": 1} | {row: -1 for row in MODIFIED.values() if row != MULTI_EARLY}  # or they would be as good
    good = _run(**usual)
    found = said(good)
    assert all(found.values()) and len(found) == 10
    for statement, change in (
        ("Early fusion of both parts is better than LMS (B3)", {LMS: 3}),
        ("Early fusion of both parts is better than LMS (B3-MTL)", {MULTI_LMS: 3}),
        ("Multi-task is better than single-task with every feature (B3)", {"B3, LMPS": 2}),
        ("Cascaded heads are not better than multi-task ones", {"B3-C-MTL, LMHPS-EF": 4}),
        ("B4 is better without its dense layers", {"B4, LS": 3}),
        ("Features and heads of the paper make every baseline better", {"B1, MS": 4}),
        (f"{MULTI_EARLY} is the best row", {"B3-C-MTL, LMHPS-EF": 4}),
    ):
        assert found[statement] and said(_run(**usual | change))[statement] is False, statement
    for statement, curve in (
        ("Overlap is hardest to hear at −5 dB for all", BETTER | {20: 1}),
        ("Recall of overlap peaks near 10 dB (5 to 15) for all", BETTER | {20: 10}),
        ("Modified baselines hear more of the overlap than the baselines, at every ratio", BETTER | {0: 4}),
    ):
        bad = [_line(r["row"], r["fold"], 9, curve) if r["row"] == MULTI_EARLY else r for r in good]
        assert found[statement] and said(bad)[statement] is False, statement


def test_what_folds_leave_open_is_not_settled() -> None:
    """Gains of 10, 10 and 40 points: 20 ± 17, of which 2.5 deviations are more than there is."""
    apart = [_line(LMS, fold, right) for fold, right in enumerate((4, 4, 4))]
    for gains, answer in (((5, 5, 8), "not settled"), ((5, 5, 5), "yes"), ((3, 3, 3), "no")):
        results = tables.Results(apart + [_line(EARLY, fold, right) for fold, right in enumerate(gains)])
        found = next(f for f in tables.findings(results) if f.statement == "Early fusion of both parts is better than LMS (B3)")
        assert found.answer == answer, (gains, found)
    (alone,) = (f for f in tables.findings(tables.Results([apart[0], _line(EARLY, 0, 9)])) if "(B3)" in f.statement)
    assert alone.holds is None, "one fold has no interval"


def test_rows_of_fewer_folds_say_so_and_are_compared_where_both_are() -> None:
    """The fold that the better one has is the hard one: over all of the other it would look worse."""
    before, after = next(iter(MODIFIED.items()))
    hard, easy = dict.fromkeys(CURVE, 2), dict.fromkeys(CURVE, 9)
    lines = [_line(before, fold, 5, hard if fold == 0 else easy) for fold in range(3)]
    results = tables.Results([*lines, _line(after, 0, 6, dict.fromkeys(CURVE, 4))])
    assert results.named(before) == before and results.named(after) == f"{after} (1 fold of 3)"
    heard = next(f for f in tables.findings(results) if f.statement.startswith("Modified baselines hear more"))
    assert heard.holds is None and "not so" not in heard.numbers and f"not settled: {after} at -5, 0, 5" in heard.numbers
    figure4 = next(table for table in tables.tables(results) if table.title.startswith("Figure 4"))
    assert [row[:2] for row in figure4.rows] == [[before, "66.7 ± 40.4"], [f"{after} (1 fold of 3)", "40.0"]]
    assert set(tables.pictures(results)) == {"overlap"}, "without a bar for what has no deviation"


def test_the_best_row_is_not_settled_by_its_mean() -> None:
    rows = {MULTI_EARLY: (5, 6, 7), EARLY: (5, 7, 7), LMS: (4, 5, 6)}
    results = tables.Results([_line(row, fold, right) for row, of in rows.items() for fold, right in enumerate(of)])
    found = next(f for f in tables.findings(results) if "is the best row" in f.statement)
    assert found.holds is None and f"above {EARLY} by −3.3" in found.numbers and LMS + " by" not in found.numbers
    assert "(3 of " in found.statement and "1 of 2 rows are below it" in found.numbers


def _figure_2(whole: float) -> dict:
    points = np.random.default_rng(0).standard_normal((8, 2)).tolist()

    def part(accuracy: float) -> dict:
        folds = [accuracy - 0.1, accuracy, accuracy + 0.1]
        more = {"patches": 8, "points": points, "speech": [True, False] * 4}
        return {"accuracy": accuracy, "of_folds": folds, "silhouette": accuracy / 10} | more

    parts = {"mel": part(whole), "harmonic+percussive": part(0.8)}
    return {"row": FIGURE_2, "fold": 0, "budget": "full", "seconds": 1.0, "parts": parts}


@pytest.mark.parametrize(("whole", "holds"), [(0.7, True), (0.85, False)])
def test_figure_2_is_checked(whole: float, holds: bool) -> None:
    results = tables.Results([_figure_2(whole)])
    (found,) = tables.findings(results)
    assert found.holds == holds and "harmonic+percussive 80.0 %, silhouette 0.080" in found.numbers
    (table,) = tables.tables(results)
    assert table.rows[1] == ["harmonic+percussive", "80.0 ± 10.0", "0.080", "8"]


def test_table_5_says_what_it_is_about() -> None:
    counts = {what: [[6, 1], [1, 2]] for what in ("music", "speech", "both")}
    tests = {"generated": {"median": counts, "none": counts}}
    results = tables.Results([{"row": TRANSFER, "fold": n, "budget": "full", "seconds": 1.0, "tests": tests} for n in range(3)])
    (table,) = tables.tables(results)
    assert table.rows[0][:4] == ["generated, median of 501", "80.0 ± 0.0", "66.7 ± 0.0", "66.7 ± 0.0"]
    assert table.rows[1][0] == "generated, no median" and "not radio" in table.note
    assert next(row for row in table.rows if row[0] == "the paper, Swiss")[-1] == "68.0"
    assert len(results.rows()) == 2 * 3 * 4


# --- the verb ------------------------------------------------------------------------------------------------------------


def test_the_verb_prints_and_writes(call: Caller, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*_run(), _figure_2(0.7)]
    asked: list = []
    monkeypatch.setattr(experiment, "run", lambda *given, **more: asked.append((given[2], more)) or lines)
    folder = tmp_path / "out"
    folder.mkdir()
    line = ("reproduce", "bhattacharjee2022", "--data", recordings, "-o", folder, "--seed", 5)
    document = json.loads(call.succeeded(*line, "--json"))
    assert asked[0][0] == plan("full") and asked[0][1]["seed"] == 5
    assert document["experiment"] == "bhattacharjee2022" and len(document["findings"]) == 11
    mean = next(m for m in document["means"] if (m["row"], m["measure"]) == ("B1, MS", "Acc"))
    assert (mean["mean"], mean["folds"]) == (50.0, 3)
    written = {p.name for p in folder.iterdir()}
    assert written == {"tables.json", "tables.csv", "tables.md", "tables-overlap.png", "tables-separability.png"}
    page = (folder / "tables.md").read_text()
    assert "(tables-overlap.png)" in page and "**Early fusion of both parts is better than LMS (B3): yes**" in page
    rows = list(csv.DictReader((folder / "tables.csv").read_text().splitlines()))
    assert next(r for r in rows if r["row"] == "B1, MS" and r["measure"] == "Acc")["deviation"] == "10.0000"
    printed = call.succeeded(*line, "--quick")
    assert asked[1][0] == plan("quick") and "Table II of the paper" in printed
    assert "numbers say that it runs" in (folder / "quick.md").read_text()
    call.succeeded(*line, "--long")
    assert asked[2][0] == plan("long")
    assert {"long.json", "long.md"} <= {p.name for p in folder.iterdir()}


def test_finished_makes_tables_of_what_is_there_and_runs_nothing(
    call: Caller, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "work", lambda *given: pytest.fail("nothing is to be run"))
    folder = tmp_path / "out"
    line = ("reproduce", "bhattacharjee2022", "--data", recordings, "-o", folder, "--finished", "--long")
    assert "holds no results of the budget “long” (of others: none)" in call.refused(*line) and not folder.exists()
    folder.mkdir()
    lines = [task._asdict() | {"diverged": "-", "seconds": 1.0} for task in (Task(LMS, 1, "long"), Task(LMS, 0, "full"))]
    held = "".join(json.dumps(found) + "\n" for found in lines) + '{"row": "B3, LMS", "fo'
    (folder / "results.jsonl").write_text(held)
    assert "holds no results" in call.refused(*line), "of which recordings, nobody knows"
    experiment._check_setup(folder, Corpus(recordings), 0, None)
    document = json.loads(call.succeeded(*line, "--json"))
    assert (document["budget"], document["seconds"]) == ("long", 1.0)
    page = (folder / "long.md").read_text()
    assert f"1 of {len(plan('long'))} results are there" in page and "diverged have no scores: B3, LMS" in page
    assert (folder / "results.jsonl").read_text() == held
    assert "(of others: full, long)" in call.refused(*line[:-1], "--quick")
    (folder / "long-notes.txt").write_text("Run by\nan earlier version.\n")
    assert json.loads(call.succeeded(*line, "--json"))["about"].endswith(" Run by an earlier version.")
    assert "Run by an earlier version.\n\n" in (folder / "long.md").read_text()
    assert "another seed" in call.refused(*line, "--seed", 1)
    assert "--finished runs nothing" in call.refused(*line, "--transfer", tmp_path)


def test_options_of_the_other_experiment_are_refused(call: Caller, recordings: Path, tmp_path: Path) -> None:
    line = ("reproduce", "bhattacharjee2022", "--data", recordings, "-o", tmp_path / "out")
    assert "--development belongs to another experiment" in call.refused(*line, "--development")
    assert "--jobs belongs to another experiment" in call.refused(*line, "--jobs", 2)
    assert "give only one of them" in call.refused(*line, "--quick", "--transfer", tmp_path)
    assert "give only one of them" in call.refused(*line, "--quick", "--long")
    other = ("reproduce", "demir2011", "--data", recordings, "-o", tmp_path / "out", "--transfer", tmp_path)
    assert "--transfer belongs to another experiment" in call.refused(*other)
    assert "manifest.csv" in call.refused("reproduce", "bhattacharjee2022", "--data", tmp_path, "-o", tmp_path / "out")
