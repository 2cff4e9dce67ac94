"""Run paper 003's experiment: four networks with their features and heads, three folds, one line of JSON per result.

`plan` lists the tasks, `run` runs those that a folder lacks, and `bayessep.bhattacharjee2022_tables` makes tables of the lines.
Recordings are divided into three folds (`bayessep.corpora.folds`) that share no speaker, artist or file. Each fold is tested with
a network trained on the other two, of which 30 % are the validation set for early stopping.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from bayessep import __version__, corpora, detection, detector_data, detector_training, detector_transfer, extras, output, shipped
from bayessep import separability as measured
from bayessep.bhattacharjee2022_rows import (
    BUDGETS,
    FIGURE_2,
    FOLDS,
    KEY,
    MULTI_EARLY,
    RATIOS,
    ROWS,
    SMR_ROWS,
    TRANSFER,
    TRANSFER_DAFX,
    Task,
    recipe_of,
)
from bayessep.detector_data import Item, Items
from bayessep.detector_training import Recipe
from bayessep.errors import UserError
from bayessep.features import Front, extract_in_pieces, patches, standardise
from bayessep.models import speech_music_detector as detector
from bayessep.models.speech_music_detector import BOTH, MUSIC, SPEECH
from bayessep.reproduction import RESULTS, SETUP, append, drop_half_a_line, key_of, read
from bayessep.train import Diverged, Progress, Training, train

HELD = 0.3  # share of the training recordings held out as validation set, for early stopping

# --- recordings ----------------------------------------------------------------------------------------------------------


class Corpus:
    """The recordings in their folds; each fold is read once and kept in memory (230 MB per hour of audio)."""

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
        """Return the recordings of a fold, with pauses removed unless `pauses`."""
        if (fold, pauses) not in self._read:
            kinds = ([s for s in self.folds[fold] if s.recording.category == kind] for kind in ("speech", "music"))
            self._read[fold, pauses] = Items(*(detector_data.read_items(of, pauses=pauses) for of in kinds))
        return self._read[fold, pauses]

    def divided(self, fold: int, seed: int, *, pauses: bool = False) -> tuple[Items, Items]:
        """Return the training and validation sets for the test of `fold`; with pauses, of the same groups as without."""
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
        """Return the total duration of each kind."""
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
    """Run what `folder` does not hold yet, and append each result to its results.jsonl at once.

    Returns all results of the tasks, those of earlier runs included.

    Raises:
        UserError: the folder holds results of other recordings, settings, another seed or version; or broadcasts for Table V
            cannot be used.
    """
    tasks = list(dict.fromkeys(tasks))
    if transfer is not None and any(task.row == TRANSFER_DAFX for task in tasks):
        detector_transfer.listed(transfer)  # report problems with it before hours of training
    _check_setup(folder, corpus, seed, transfer)
    if any(task.row == FIGURE_2 for task in tasks):
        extras.library("sklearn", "baselines", package="scikit-learn")  # report a missing package before any work is done
    drop_half_a_line(folder / RESULTS)
    done = {key_of(result, KEY) for result in read(folder, KEY)}
    for n, task in enumerate(tasks):
        if task not in done:
            named = f"{task.row}, fold {task.fold + 1} ({n + 1} of {len(tasks)})"
            result = work(task, folder, corpus, seed, transfer, lambda _, *counts, named=named: progress(named, *counts))
            append(folder, task._asdict() | result)
        # For finished tasks, too: an earlier run may have been interrupted between a result and this.
        for checkpoints in (folder / task.place).rglob("checkpoints"):
            shutil.rmtree(checkpoints)
    return [result for result in read(folder, KEY) if key_of(result, KEY) in tasks]


def finished(folder: Path, corpus: Corpus, budget: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return a folder's results of a budget, without running or writing anything.

    Raises:
        UserError: it holds none, or results of other recordings, settings, another seed or version.
    """
    every = read(folder, KEY)
    results = [result for result in every if result["budget"] == budget]
    if not results or not (folder / SETUP).is_file():
        others = ", ".join(sorted({result["budget"] for result in every} - {budget})) or "none"
        raise UserError(f"{folder} holds no results of the budget “{budget}” (of others: {others}); name another one, or run it.")
    _check_setup(folder, corpus, seed, None, writes=False)
    return results


def _check_setup(folder: Path, corpus: Corpus, seed: int, transfer: Path | None, *, writes: bool = True) -> None:
    """Write the setup, on which results depend, or compare it. Rows and budgets may be added, and broadcasts may change as long as
    there is no result on them."""
    setup = {
        "version": __version__,
        "seed": seed,
        "recordings": corpus.digest,
        "rows": {name: row._asdict() for name, row in ROWS.items()},
        "budgets": {name: dataclasses.asdict(budget) for name, budget in BUDGETS.items()},
        "transfer": transfer and _digest(transfer),
    }

    def other(before: Any, now: dict[str, Any]) -> str:
        kept = {part: {name: now[part].get(name) for name in before[part]} for part in ("rows", "budgets")}
        if transfer is None:
            now["transfer"] = before["transfer"]  # keep the earlier ones
        heard = any(result["row"] == TRANSFER_DAFX for result in read(folder, KEY))
        kept["transfer"] = now["transfer"] if before["transfer"] and heard else before["transfer"]
        return "" if before == now | kept else "results of other recordings or settings, another seed or another version"

    output.settle(folder / SETUP, setup, other, writes=writes)


def _digest(transfer: Path) -> str:
    """Return a hash of the names and sizes of the files in a folder."""
    names = sorted((p.relative_to(transfer).as_posix(), p.stat().st_size) for p in transfer.rglob("*") if p.is_file())
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def work(task: Task, folder: Path, corpus: Corpus, seed: int, transfer: Path | None, progress: Progress) -> dict[str, Any]:
    """Run one task and return its result."""
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
    """Train a row's network on the other folds; return it and a summary of the training."""
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


BLOCK = 256  # patches per batch at inference


def confusion(recipe: Recipe, state: detector.State, of: Iterable[tuple[np.ndarray, int]]) -> Int[np.ndarray, "3 3"]:
    """Return the confusion matrix (truth by prediction) over all non-overlapping patches, unbalanced (Tables I to IV)."""
    found = np.zeros((3, 3), np.int64)
    held: list[np.ndarray] = []
    labels: list[int] = []

    def count(most: int) -> None:
        while len(labels) > most:
            x = np.stack(held[:BLOCK])
            padded = jnp.asarray(np.pad(x, ((0, BLOCK - len(x)), (0, 0), (0, 0))))  # one compiled program for all batches
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


PIECE_SECONDS, MOST_PIECES = 10, 12  # per speaker or artist; equally long, or a program would be compiled for each


def _figure_2(corpus: Corpus, of_a_group: int, seed: int) -> dict[str, Any]:
    """Return the points of the figure, and how well the skewness of each of `PARTS` separates speech from music."""
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
        # The same limit for each group, or those with much material would dominate; the same patches of all parts.
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
    """Fine-tune row `MULTI_EARLY` of the same fold once for music and once for speech, and test both."""
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
        if transfer is not None:
            about["broadcasts"] = _digest(transfer)
        tuned = detector_transfer.task(recipe, head, state, made.learn, made.held, about)
        found = train(tuned, training, folder / task.place / head, progress=progress)
        states[head] = found.state
        how[head] = {"epochs": found.epochs, "best_epoch": found.epoch, "steps": found.epochs * budget.tuning, "loss": found.loss}
    return {"tests": {name: detector_transfer.score(recipe, states, of) for name, of in made.tests.items()}, "tuned": how}
