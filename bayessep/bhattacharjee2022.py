"""Paper 003's experiment, run: four networks, their features and their heads, three folds, a line of JSON for each result.

`plan` says what is run, `run` runs what is missing from a folder, `bayessep.bhattacharjee2022_tables` makes tables of the lines.
Recordings are dealt into three folds (`bayessep.corpora.folds`): no speaker, artist or file is in two of them. Each fold is tested
by a network that learned from the other two, of which 30 % say when to stop.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bayessep import __version__, corpora, detection, detector_data, detector_training, detector_transfer, extras, output, shipped
from bayessep import separability as measured
from bayessep.detector_data import Item, Items
from bayessep.detector_training import Recipe
from bayessep.errors import UserError
from bayessep.features import Front, extract_in_pieces, patches, standardise
from bayessep.models import speech_music_detector as detector
from bayessep.models.speech_music_detector import BOTH, MUSIC, SPEECH
from bayessep.reproduction import RESULTS, SETUP, drop_half_a_line, key_of, read
from bayessep.train import Diverged, Progress, Training, train

FOLDS = 3
HELD = 0.3  # of what there is to learn from: it says when to stop
RATIOS = (-5, 0, 5, 10, 15, 20)
"""Of Figure 4, in decibels: speech over music."""

# --- rows of the tables --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A network, what it looks at, and how it is trained."""

    network: str
    head: str
    feature: str
    bands: int = 120
    augment: bool = True  # recordings of a kind came one way; without it, networks learn the way instead of the kind
    rate: float = 1e-3  # of Adam; 0: the optimiser and the schedule of the paper's code
    songs: bool = False  # singers made of speech over the music: a few recordings have few singers


_FOUR = ("LMS", "LMHS", "LMPS", "LMHPS-EF")
LMS, EARLY = "B3, LMS", "B3, LMHPS-EF"
MULTI_LMS, MULTI_EARLY = "B3-MTL, LMS", "B3-MTL, LMHPS-EF"
PLAIN, PAPERS, SUNG = (f"{MULTI_EARLY}, {how}" for how in ("not augmented", "the paper's optimiser", "with songs"))

ROWS: dict[str, Row] = {
    "B1, MS": Row("b1", "single", "MS", 21),
    "B2, S": Row("b2", "single", "S"),
    "B3, LMS of 80 bands": Row("b3", "single", "LMS", 80),
    "B4, LS": Row("b4", "single", "LS"),
    "B4-NoFC, LS": Row("b4-nofc", "single", "LS"),
    **{f"B3, {feature}": Row("b3", "single", feature) for feature in _FOUR},
    **{f"B3-MTL, {feature}": Row("b3", "multi", feature) for feature in _FOUR},
    **{f"B3-C-MTL, {feature}": Row("b3", "cascaded", feature) for feature in _FOUR},
    "B1-MTL, MHPS-EF": Row("b1", "multi", "MHPS-EF"),
    "B2-MTL, HPS-EF": Row("b2", "multi", "HPS-EF"),
    "B4-MTL-NoFC, LHPS-EF": Row("b4-nofc", "multi", "LHPS-EF"),
    PLAIN: Row("b3", "multi", "LMHPS-EF", augment=False),
    PAPERS: Row("b3", "multi", "LMHPS-EF", rate=0.0),
    SUNG: Row("b3", "multi", "LMHPS-EF", songs=True),
}
"""Tables I to IV, and three rows that say what was done otherwise than in the paper."""

TABLES: dict[str, tuple[str, ...]] = {
    "I": ("B1, MS", "B2, S", "B3, LMS of 80 bands", "B4, LS", "B4-NoFC, LS"),
    "II": tuple(f"B3, {feature}" for feature in _FOUR),
    "III": tuple(f"{classifier}, {feature}" for classifier in ("B3-MTL", "B3-C-MTL") for feature in _FOUR),
    "IV": ("B1-MTL, MHPS-EF", "B2-MTL, HPS-EF", MULTI_EARLY, "B4-MTL-NoFC, LHPS-EF"),
}
MODIFIED = {
    "B1, MS": "B1-MTL, MHPS-EF",
    "B2, S": "B2-MTL, HPS-EF",
    "B3, LMS of 80 bands": MULTI_EARLY,
    "B4-NoFC, LS": "B4-MTL-NoFC, LHPS-EF",
}
"""Baselines, and what the paper made of them (Table IV, Figure 4)."""

SMR_ROWS = (*TABLES["I"], LMS, *TABLES["IV"])
"""Rows whose mixtures are tested at each of `RATIOS`, too."""

FIGURE_2 = "Figure 2"
TRANSFER, TRANSFER_DAFX = "Table V, generated broadcasts", "Table V, labelled broadcasts"
QUICK_ROWS = (LMS, MULTI_EARLY, EARLY, MULTI_LMS)
ORDER = (
    *QUICK_ROWS, FIGURE_2, *TABLES["I"][2::2], "B1, MS", TRANSFER, TRANSFER_DAFX, "B4-MTL-NoFC, LHPS-EF", "B3-C-MTL, LMHPS-EF",
    SUNG, PLAIN, PAPERS, "B1-MTL, MHPS-EF", "B2, S", "B2-MTL, HPS-EF", "B4, LS",
)  # fmt: skip
"""The most telling first; what is not named comes after it."""

# --- how much is done ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How long networks are trained, and on how much.

    Attributes:
        rows: which are run; empty for all.
        folds: how many of the three are tested.
        epochs, patience: `bayessep.train.Training`.
        steps: of an epoch, by network: baselines and what the paper made of them learn equally long.
        crops: of each class in an epoch, of 20 s.
        scenes, scene_seconds: broadcasts that are generated for Table V: to learn from, to validate with, to test on.
        tuning: steps of an epoch of Table V.
        of_a_group: patches of a speaker or artist that Figure 2 is about, at most.
    """

    rows: tuple[str, ...] = ()
    folds: int = FOLDS
    epochs: int = 10
    patience: int = 5
    steps: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"b1": 30, "b2": 30, "b3": 200, "b4": 30, "b4-nofc": 30}
    )
    crops: int = 24
    scenes: tuple[int, int, int] = (24, 8, 10)
    scene_seconds: float = 60.0
    tuning: int = 100
    of_a_group: int = 100


BUDGETS = {
    "quick": Budget(QUICK_ROWS, 1, 4, 4, {"b3": 60}, 12),
    "full": Budget(),
    "long": Budget(
        epochs=20,
        steps={"b1": 80, "b2": 80, "b3": 200, "b4": 80, "b4-nofc": 80},
        scenes=(60, 20, 20),
        tuning=200,
        of_a_group=200,
    ),
}
"""A part of it in minutes; all of it in a night on two cores; all of it as long as a GPU can in that time."""


class Task(NamedTuple):
    """One fold of one row."""

    row: str
    fold: int
    budget: str

    @property
    def place(self) -> str:
        """Where its training is kept, in the folder of results."""
        name = self.row.lower().replace(", ", "-").replace(" ", "-").replace("'", "")
        return f"training/{self.budget}/{name}-{self.fold + 1}"


KEY = Task._fields


def plan(budget: str = "full", *, transfer: bool = False) -> list[Task]:
    """Everything that is run, the most telling rows first; Table V on labelled broadcasts where they are given."""
    of = BUDGETS[budget]
    every = dict.fromkeys((*ORDER, *ROWS))
    rows = [row for row in every if (row in of.rows if of.rows else row != (TRANSFER if transfer else TRANSFER_DAFX))]
    return [Task(row, fold, budget) for row in rows for fold in range(1 if row == FIGURE_2 else of.folds)]


def finished(folder: Path, tasks: Iterable[Task]) -> list[Task]:
    """Those whose results a folder holds.

    Raises:
        UserError: there are none.
    """
    held = {key_of(result, KEY) for result in read(folder, KEY)}
    done = [task for task in tasks if task in held]
    if not done:
        raise UserError(f"{folder} holds no result of these; leave --finished out, or name another folder with -o.")
    return done


def recipe_of(task: Task, seed: int) -> Recipe:
    """How a row is trained; that of Table V is what it starts from."""
    row, budget = ROWS.get(task.row, ROWS[MULTI_EARLY]), BUDGETS[task.budget]
    return Recipe(
        row.network,
        row.head,
        row.feature,
        row.bands,
        rate=row.rate,
        augment=row.augment,
        songs=row.songs,
        crops=budget.crops,
        epochs=budget.epochs,
        steps_per_epoch=budget.steps[row.network],
        # Where batches are normalised, validation says little before the running means have settled.
        patience=budget.patience if row.network == "b3" else budget.epochs,
        seed=seed,
    )


# --- recordings ----------------------------------------------------------------------------------------------------------


class Corpus:
    """The recordings in their folds; each fold is read once, and held in memory (230 MB an hour of sound)."""

    def __init__(self, folder: Path) -> None:
        found = corpora.speech_and_music(folder)
        sounds = {sound.recording: sound for sound in (*found.speech, *found.music)}
        self.folds = [[sounds[r] for r in fold] for fold in corpora.folds(sounds, FOLDS)]
        for n, fold in enumerate(self.folds):
            for kind in ("speech", "music"):
                if not any(s.recording.category == kind for s in fold):
                    problem = f"{folder}: fold {n + 1} of {FOLDS} has no {kind}"
                    raise UserError(f"{problem}; give recordings of more speakers and artists.")
        text = json.dumps([[(s.paths[0].relative_to(folder).as_posix(), s.recording.duration) for s in f] for f in self.folds])
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._read: dict[tuple[int, bool], Items] = {}

    def items(self, fold: int, *, pauses: bool = False) -> Items:
        """The recordings of a fold, without pauses unless they are wanted."""
        if (fold, pauses) not in self._read:
            kinds = ([s for s in self.folds[fold] if s.recording.category == kind] for kind in ("speech", "music"))
            self._read[fold, pauses] = Items(*(detector_data.read_items(of, pauses=pauses) for of in kinds))
        return self._read[fold, pauses]

    def divided(self, fold: int, seed: int, *, pauses: bool = False) -> tuple[Items, Items]:
        """To learn from and to validate with, where `fold` is tested; with pauses, the same groups as without."""
        _, held = detector_training.divide(self._others(fold), HELD, seed)
        groups = [{item.group for item in of} for of in held]
        both = list(zip(self._others(fold, pauses=pauses), groups, strict=True))
        learn, held = ([[item for item in own if (item.group in to) == kept] for own, to in both] for kept in (False, True))
        return Items(*learn), Items(*held)

    def _others(self, fold: int, *, pauses: bool = False) -> Items:
        others = [self.items(n, pauses=pauses) for n in range(FOLDS) if n != fold]
        both: list[list[Item]] = [[item for of in others for item in getattr(of, kind)] for kind in Items._fields]
        return Items(*both)

    def seconds(self) -> dict[str, float]:
        """How long all of each kind lasts."""
        every = [s.recording for fold in self.folds for s in fold]
        return {kind: sum(r.duration for r in every if r.category == kind) for kind in ("speech", "music")}


# --- running it ----------------------------------------------------------------------------------------------------------


def run(
    folder: Path,
    corpus: Corpus,
    tasks: Iterable[Task],
    *,
    seed: int = 0,
    transfer: Path | None = None,
    progress: Progress = lambda *_: None,
) -> list[dict[str, Any]]:
    """Run what `folder` does not hold yet; each result is a line of its results.jsonl at once.

    Returns all results of the tasks, those of earlier runs included.

    Raises:
        UserError: the folder holds results of other recordings, settings, another seed or version; or broadcasts for Table V
            cannot be used.
    """
    tasks = list(dict.fromkeys(tasks))
    _check_setup(folder, corpus, seed, transfer)
    if any(task.row == FIGURE_2 for task in tasks):
        extras.library("sklearn", "baselines", package="scikit-learn")  # what is missing is said before any work is done
    drop_half_a_line(folder / RESULTS)
    done = {key_of(result, KEY) for result in read(folder, KEY)}
    for n, task in enumerate(tasks):
        if task not in done:
            named = f"{task.row}, fold {task.fold + 1} ({n + 1} of {len(tasks)})"
            result = work(task, folder, corpus, seed, transfer, lambda _, *counts, named=named: progress(named, *counts))
            with (folder / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(task._asdict() | result) + "\n")
        # An interruption may have come between a result and this.
        for checkpoints in (folder / task.place).rglob("checkpoints"):
            shutil.rmtree(checkpoints)
    return [result for result in read(folder, KEY) if key_of(result, KEY) in tasks]


def _check_setup(folder: Path, corpus: Corpus, seed: int, transfer: Path | None) -> None:
    """Write down what results depend on, or compare. Rows and budgets that were not there before may come."""
    names = transfer and sorted((p.relative_to(transfer).as_posix(), p.stat().st_size) for p in transfer.rglob("*") if p.is_file())
    setup = {
        "version": __version__,
        "seed": seed,
        "recordings": corpus.digest,
        "rows": {name: row._asdict() for name, row in ROWS.items()},
        "budgets": {name: dataclasses.asdict(budget) for name, budget in BUDGETS.items()},
        "transfer": names and hashlib.sha256(json.dumps(names).encode()).hexdigest(),
    }

    def other(before: Any, now: dict[str, Any]) -> str:
        kept = {part: {name: now[part].get(name) for name in before[part]} for part in ("rows", "budgets")}
        if transfer is None:
            now["transfer"] = before["transfer"]  # what they were stays
        kept["transfer"] = before["transfer"] and now["transfer"]
        return "" if before == now | kept else "results of other recordings or settings, another seed or another version"

    output.settle(folder / SETUP, setup, other)


def work(task: Task, folder: Path, corpus: Corpus, seed: int, transfer: Path | None, progress: Progress) -> dict[str, Any]:
    """The result of one task."""
    started = time.perf_counter()
    try:
        if task.row == FIGURE_2:
            result = _figure_2(corpus, BUDGETS[task.budget].of_a_group, seed)
        elif task.row in (TRANSFER, TRANSFER_DAFX):
            result = _transferred(task, folder, corpus, seed, transfer if task.row == TRANSFER_DAFX else None, progress)
        else:
            result = _row(task, folder, corpus, seed, progress)
    except Diverged as error:
        result = {"diverged": str(error)}
    return result | {"seconds": time.perf_counter() - started}


def _trained(task: Task, folder: Path, corpus: Corpus, seed: int, progress: Progress) -> tuple[detector.State, dict[str, Any]]:
    """The network of a row that learned from the other folds, and how."""
    recipe = recipe_of(task, seed)
    learn, held = corpus.divided(task.fold, seed)
    about = {"row": task.row, "fold": task.fold, "recordings": corpus.digest}
    made = detector_training.task(recipe, learn, held, about)
    found = train(made, recipe.training, folder / task.place, progress=progress)
    if task.row == MULTI_EARLY:
        shipped.write_file(folder / task.place / WEIGHTS, detection.weights_of(recipe, [found.state]))
    numbers = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves((found.state.parameters, found.state.statistics)))
    how = {"epochs": found.epochs, "best_epoch": found.epoch, "steps": found.epochs * recipe.steps_per_epoch}
    return found.state, how | {"loss": found.loss, "stopped": found.stopped, "parameters": numbers}


def _row(task: Task, folder: Path, corpus: Corpus, seed: int, progress: Progress) -> dict[str, Any]:
    state, result = _trained(task, folder, corpus, seed, progress)
    recipe, items = recipe_of(task, seed), corpus.items(task.fold)
    alone = [(item.samples, label) for label, of in ((MUSIC, items.music), (SPEECH, items.speech)) for item in of]

    def mixed(smr_db: float | None = None) -> list[tuple[np.ndarray, int]]:
        return [(x, BOTH) for x, _ in detector_data.mixtures(items, smr_db, seed=seed)]

    result["confusion"] = confusion(recipe, state, alone + mixed()).tolist()
    if task.row in SMR_ROWS:
        result["overlap_at"] = {str(smr): confusion(recipe, state, mixed(float(smr)))[BOTH].tolist() for smr in RATIOS}
    return result


BLOCK = 256  # patches that a network is run on at a time


def confusion(recipe: Recipe, state: detector.State, of: Iterable[tuple[np.ndarray, int]]) -> Int[np.ndarray, "3 3"]:
    """How often patches of each class were called what: all that lie side by side in recordings, unbalanced (Tables I to IV)."""
    found = np.zeros((3, 3), np.int64)
    held: list[np.ndarray] = []
    labels: list[int] = []

    def count(most: int) -> None:
        while len(labels) > most:
            x = np.stack(held[:BLOCK])
            padded = jnp.asarray(np.pad(x, ((0, BLOCK - len(x)), (0, 0), (0, 0))))  # one program for all
            said = np.asarray(detector.predict(recipe.detector, state, padded).classes).argmax(1)
            np.add.at(found, (labels[:BLOCK], said[: len(x)]), 1)
            del held[:BLOCK], labels[:BLOCK]

    for samples, label in of:
        x = np.pad(samples, (0, max(0, recipe.front.stft.n_fft - len(samples))))
        pieces = patches(np.asarray(standardise(extract_in_pieces(x, recipe.front)), np.float32), recipe.patch)
        held += list(pieces)
        labels += [label] * len(pieces)
        count(BLOCK)
    count(0)
    return found


# --- Figure 2 ------------------------------------------------------------------------------------------------------------


PIECE_SECONDS, MOST_PIECES = 10, 12  # of a speaker or artist; equally long, or a program would be compiled for each


def _figure_2(corpus: Corpus, of_a_group: int, seed: int) -> dict[str, Any]:
    """Points of the picture, and how well speech and music can be told apart by the skewness of each of `PARTS`."""
    n = PIECE_SECONDS * Front().sample_rate
    pieces: dict[tuple[str, bool], list[np.ndarray]] = {}
    for fold in range(FOLDS):
        for kind, of in corpus.items(fold)._asdict().items():
            for item in of:
                whole = np.resize(item.samples, max(n, len(item.samples) // n * n)).reshape(-1, n)
                pieces.setdefault((item.group, kind == "speech"), []).extend(whole)
    for of in pieces.values():
        of[:] = [of[at] for at in np.unique(np.linspace(0, len(of) - 1, MOST_PIECES).astype(int))]
    result: dict[str, Any] = {}
    for parts in measured.PARTS:
        # As many of each group at most, or one of whom there is much would be most of it; the same of all parts.
        rng = np.random.default_rng([seed, 7])
        groups = {name: np.concatenate([measured.skewness(x, parts) for x in of]) for name, of in pieces.items()}
        chosen = {name: of[rng.permutation(len(of))[:of_a_group]] for name, of in groups.items()}
        vectors, sizes = np.concatenate(list(chosen.values())), [len(of) for of in chosen.values()]
        is_speech = np.repeat([kind for _, kind in chosen], sizes)
        names = np.repeat([name for name, _ in chosen], sizes).tolist()
        number = measured.separability(vectors, is_speech, names, n_folds=FOLDS, most=of_a_group, seed=seed)
        picture = measured.embed(vectors, is_speech, seed=seed)
        result[parts] = {
            "accuracy": number.accuracy,
            "of_folds": number.of_folds.tolist(),
            "silhouette": number.silhouette,
            "patches": number.patches,
            "points": np.round(picture.points.astype(float), 2).tolist(),
            "speech": picture.speech.tolist(),
        }
    return {"parts": result}


# --- Table V -------------------------------------------------------------------------------------------------------------

WEIGHTS = "weights.safetensors"


def _transferred(task: Task, folder: Path, corpus: Corpus, seed: int, transfer: Path | None, progress: Progress) -> dict[str, Any]:
    """The row `MULTI_EARLY` of the same fold, tuned once for music and once for speech, and tested."""
    start = task._replace(row=MULTI_EARLY)
    recipe, budget = recipe_of(start, seed), BUDGETS[task.budget]
    weights = folder / start.place / WEIGHTS
    if weights.is_file():
        (state,) = detection.states_of(recipe, shipped.read_file(weights))
    else:
        state, _ = _trained(start, folder, corpus, seed, progress)
    if transfer is None:
        items = (*corpus.divided(task.fold, seed, pauses=True), corpus.items(task.fold, pauses=True))
        made = detector_transfer.generated(items, budget.scenes, budget.scene_seconds, recipe.front, [seed, 8, task.fold])
    else:
        made = detector_transfer.labelled(transfer, recipe.front)
    states: dict[str, detector.State] = {}
    how: dict[str, Any] = {}
    training = Training(budget.epochs, budget.tuning, budget.patience, seed=seed)
    for head in detector_transfer.HEADS:
        about = {"row": task.row, "fold": task.fold, "recordings": corpus.digest}
        tuned = detector_transfer.task(recipe, head, state, made.learn, made.held, about)
        found = train(tuned, training, folder / task.place / head, progress=progress)
        states[head] = found.state
        how[head] = {"epochs": found.epochs, "best_epoch": found.epoch, "steps": found.epochs * budget.tuning, "loss": found.loss}
    return {"tests": {name: detector_transfer.score(recipe, states, of) for name, of in made.tests.items()}, "tuned": how}
