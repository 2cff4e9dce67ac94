"""Run paper 004's experiment: vocals and accompaniment by masks at many confidences, one line of JSON per result.

Songs are divided into folds (`bayessep.corpora.folds`); all songs of an artist are in one if there are at least as many artists as
folds, all excerpts of a song in any case. Each song is separated by a network and by templates that were trained on the other
folds. The paper has one split of 63 songs; with few songs, that would be a test on one or two. `plan` lists the tasks, `run` runs
those that a folder lacks, and `bayessep.simpson2015_tables` makes curves and tables of the lines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from bayessep import __version__, corpora, karaoke, metrics, output
from bayessep.comparison import exact
from bayessep.data import Recording
from bayessep.errors import UserError
from bayessep.karaoke import RATE, STFT, Karaoke, Recipe, Song
from bayessep.models import convolutive_nmf, deep_karaoke
from bayessep.models.deep_karaoke import Masks
from bayessep.pipeline import masked
from bayessep.preparation import magnitude
from bayessep.reproduction import RESULTS, SETUP, append, drop_half_a_line, key_of, read
from bayessep.stft import stft
from bayessep.train import CHECKPOINTS, Diverged, Progress, train

FOLDS = 3
HELD = 0.25  # share of the training songs held out as validation set, for early stopping
SOURCES = ("vocals", "accompaniment")
DNN, NMF, IDEAL, MIXTURE = "DNN", "NMF", "ideal binary mask", "mixture"
METHODS = (IDEAL, MIXTURE, DNN, NMF)
"""Methods that are compared. The mixture, taken as the estimate of either source, is the starting point."""
MEASURES = ("sdr", "sir", "sar")
ALPHAS = tuple(round(0.01 + 0.1 * n, 2) for n in range(10))
"""Confidence thresholds of the authors' code."""

# --- how much is done ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How much is tested, and how long methods are trained.

    Attributes:
        alphas: confidence thresholds of the masks.
        excerpts: used of a song, at most; 0 for all.
        preset, epochs, steps, patience: of the network (`karaoke.Recipe`); steps are per epoch.
        templates: of each source. The paper has 1500 for 15,000 windows, a tenth; so has this, for the 350 or so windows of two
            excerpts from each of four songs.
        sweeps: updates when templates are learned.
        activation_sweeps: updates when activations are found in a mixture; the authors' code has 100, half of which change little.
    """

    alphas: tuple[float, ...] = ALPHAS
    excerpts: int = 0
    preset: str = "small"
    epochs: int = 20
    steps: int = 20
    patience: int = 5
    templates: int = 35
    sweeps: int = 100
    activation_sweeps: int = 50

    def recipe(self, seed: int) -> Recipe:
        """Return the training recipe of the network, whose windows are those of the songs as they are."""
        return Recipe(self.preset, varied=False, epochs=self.epochs, steps_per_epoch=self.steps, patience=self.patience, seed=seed)


BUDGETS = {
    "quick": Budget(ALPHAS[1::2], excerpts=1, epochs=4, templates=15, sweeps=30, activation_sweeps=10),
    "full": Budget(),
}


class Task(NamedTuple):
    """A song, separated by one method."""

    song: str
    method: str
    budget: str


KEY = Task._fields


class Corpus:
    """The songs, in their folds."""

    def __init__(self, folder: Path) -> None:
        songs = karaoke.read_songs(folder)
        self.songs = {song.name: song for song in songs}
        if len(self.songs) < len(songs):
            raise UserError(f"{folder} has stems in folders of the same name; give each song a name of its own.")
        for song in self.songs.values():
            for name in SOURCES:
                if not getattr(song, name).any():
                    raise UserError(f"{folder}: the {name} of {song.name} are silent; leave this song out.")
        groups = len({song.group for song in self.songs.values()})
        if groups < FOLDS:
            few = f"{folder} has stems of {groups} {'song' if groups == 1 else 'songs'}"
            raise UserError(f"{few}; give at least {FOLDS}, so that each is tested with networks that have not heard it.")
        of = karaoke.undivided(songs, FOLDS)
        sounds = [
            Recording(Path(s.name), "stems", kept, len(s.vocals) / RATE, RATE, 1) for s, kept in zip(songs, of, strict=True)
        ]
        self.folds = [[str(recording.path) for recording in fold] for fold in corpora.folds(sounds, FOLDS)]
        digest = hashlib.sha256(json.dumps(self.folds).encode())
        karaoke.add_to(digest, self.songs.values())
        self.digest = digest.hexdigest()

    @property
    def artists_met(self) -> int:
        """Number of artists, if there are too few to keep them apart, so that training and test songs share them; else 0."""
        artists = {song.artist for song in self.songs.values() if song.artist}
        return len(artists) if len(artists) < FOLDS else 0

    def fold_of(self, song: str) -> int:
        """Return the fold in which a song is tested."""
        return next(n for n, fold in enumerate(self.folds) if song in fold)

    def used(self, budget: Budget) -> list[str]:
        """Return the names of the songs that a budget uses, fold by fold."""
        names, seen = [], {}
        for name in (name for fold in self.folds for name in fold):
            group = self.songs[name].group
            seen[group] = seen.get(group, 0) + 1
            if not budget.excerpts or seen[group] <= budget.excerpts:
                names.append(name)
        return names

    def others(self, fold: int, budget: Budget) -> list[Song]:
        """Return the training songs for the test of a fold."""
        return [self.songs[name] for name in self.used(budget) if self.fold_of(name) != fold]

    def seconds(self, budget: Budget) -> float:
        """Return the total duration of the songs that a budget uses."""
        return sum(len(self.songs[name].vocals) for name in self.used(budget)) / RATE


def plan(corpus: Corpus, budget: str) -> list[Task]:
    """Return all tasks, fold by fold and method by method."""
    names = corpus.used(BUDGETS[budget])
    folds = [[name for name in names if corpus.fold_of(name) == n] for n in range(FOLDS)]
    return [Task(name, method, budget) for fold in folds for method in METHODS for name in fold]


# --- running it ----------------------------------------------------------------------------------------------------------


def run(folder: Path, corpus: Corpus, budget: str, *, seed: int = 0, progress: Progress = lambda *_: None) -> list[dict[str, Any]]:
    """Run what `folder` does not hold yet of a budget, and append each result to its results.jsonl at once.

    Returns all results of the budget, those of earlier runs included.

    Raises:
        UserError: the folder holds results of other songs, settings, another seed or version.
    """
    _check_setup(folder, corpus, seed)
    drop_half_a_line(folder / RESULTS)
    tasks = plan(corpus, budget)
    done = {key_of(result, KEY) for result in read(folder, KEY)}
    work = _Work(folder, corpus, budget, seed, progress)
    for n, task in enumerate(tasks):
        if task not in done:
            progress("results", n, len(tasks), float("nan"))
            result = work(task)
            append(folder, task._asdict() | result)
    for checkpoints in (folder / "training" / budget).rglob(CHECKPOINTS):
        shutil.rmtree(checkpoints)  # a gigabyte that is no longer needed
    return [result for result in read(folder, KEY) if key_of(result, KEY) in tasks]


def finished(folder: Path, corpus: Corpus, budget: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return a folder's results of a budget, without running or writing anything.

    Raises:
        UserError: it holds none, or results of other songs, settings, another seed or version.
    """
    results = [result for result in read(folder, KEY) if result["budget"] == budget]
    if not results or not (folder / SETUP).is_file():
        raise UserError(f"{folder} holds no results of the budget “{budget}”; name another folder with -o, or run it.")
    _check_setup(folder, corpus, seed, writes=False)
    return results


def _check_setup(folder: Path, corpus: Corpus, seed: int, *, writes: bool = True) -> None:
    """Write the setup, on which results depend, or compare it with the folder's."""
    setup = {
        "version": __version__,
        "seed": seed,
        "songs": corpus.digest,
        "folds": corpus.folds,
        "held": HELD,
        "budgets": {name: dataclasses.asdict(budget) for name, budget in BUDGETS.items()},
    }

    def other(before: Any, now: dict[str, Any]) -> str:
        return "" if before == now else "results of other songs or settings, another seed or another version"

    output.settle(folder / SETUP, setup, other, writes=writes)


class _Work:
    """Runs tasks; the network and the templates of a fold serve all of its songs."""

    def __init__(self, folder: Path, corpus: Corpus, budget: str, seed: int, progress: Progress) -> None:
        self._folder, self._corpus, self._seed, self._progress = folder, corpus, seed, progress
        self._name, self._budget = budget, BUDGETS[budget]
        self._network = cache(self._train)
        self._templates = cache(self._fit)

    def __call__(self, task: Task) -> dict[str, Any]:
        """Run one task and return its result."""
        song, fold = self._corpus.songs[task.song], self._corpus.fold_of(task.song)
        result: dict[str, Any] = {"group": song.group, "fold": fold}
        if task.method == DNN:
            try:
                network, result["learned"] = self._network(fold)
            except Diverged as error:
                return result | {"diverged": str(error), "scores": [], "seconds": 0.0}
            started = time.perf_counter()
            scores = self._at_alphas(song, karaoke.mask_of(song.mixture, network))
        elif task.method == NMF:
            first, second, result["learned"] = self._templates(fold)
            started = time.perf_counter()
            key = jax.random.fold_in(jax.random.key(self._seed), 2 + fold)
            x = magnitude(song.mixture, STFT)
            share = convolutive_nmf.averaged_shares(key, x, first, second, self._budget.activation_sweeps)
            scores = self._at_alphas(song, share)
        else:
            started = time.perf_counter()
            if task.method == IDEAL:
                mask, _ = karaoke.mask_and_mixture(song)
                scores = scored(song, estimates(song, Masks(mask, 1 - mask)))
            else:
                scores = scored(song, dict.fromkeys(SOURCES, song.mixture))
        return result | {"scores": scores, "seconds": time.perf_counter() - started}

    def _at_alphas(self, song: Song, mean: Float[np.ndarray, "T F"]) -> list[dict[str, Any]]:
        """Return the scores of both sources at every confidence."""
        spectrum = np.asarray(stft(jnp.asarray(song.mixture), STFT))
        made = []
        for alpha in self._budget.alphas:
            found = estimates(song, deep_karaoke.thresholded(mean, alpha), spectrum)
            made += [{"alpha": alpha} | score for score in scored(song, found)]
        return made

    def _train(self, fold: int) -> tuple[Karaoke, dict[str, Any]]:
        started = time.perf_counter()
        recipe, place = self._budget.recipe(self._seed), self._folder / "training" / self._name / f"fold-{fold + 1}"
        learn, held = karaoke.divide(self._corpus.others(fold, self._budget), HELD, self._seed)
        made = karaoke.task(recipe, learn, held, {"fold": fold, "songs": self._corpus.digest})
        named = f"network, fold {fold + 1}"
        found = train(made, recipe.training, place, progress=lambda _, *counts: self._progress(named, *counts))
        told = {"epochs": found.epochs, "best_epoch": found.epoch, "steps": found.epochs * recipe.steps_per_epoch}
        told |= {"loss": found.loss, "accuracy": found.history[found.epoch - 1]["validation/accuracy"]}
        told |= {"songs": len({s.group for s in learn}), "seconds": time.perf_counter() - started}
        return Karaoke(recipe.config, found.state.parameters, karaoke.scale_of(learn)), told

    def _fit(self, fold: int) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
        """Fit templates of both sources. Without early stopping, the network's validation songs are used for training, too."""
        started = time.perf_counter()
        others, length = self._corpus.others(fold, self._budget), self._budget.recipe(self._seed).config.frames
        made, count = [], 0
        for n, source in enumerate(zip(*(song.stems for song in others), strict=True)):
            self._progress(f"templates, fold {fold + 1}", n, len(SOURCES), float("nan"))
            spectra = (deep_karaoke.windows_of(magnitude(x, STFT), length, karaoke.HOP) for x in source)
            windows = np.concatenate([x.reshape(len(x), -1) for x in spectra])
            count = len(windows)
            key = jax.random.fold_in(jax.random.key(self._seed), n)
            made.append(convolutive_nmf.fit(key, windows, self._budget.templates, self._budget.sweeps).block_until_ready())
        told = {"songs": len({s.group for s in others}), "windows": count, "seconds": time.perf_counter() - started}
        return made[0], made[1], told


# --- one mixture ---------------------------------------------------------------------------------------------------------


def estimates(song: Song, masks: Masks, spectrum: Complex[np.ndarray, "T F"] | None = None) -> dict[str, Float[np.ndarray, " N"]]:
    """Separate both sources from the mixture by their masks; its spectrogram may be given."""
    if spectrum is None:
        spectrum = np.asarray(stft(jnp.asarray(song.mixture), STFT))
    length = len(song.mixture)
    taken = (masked(spectrum[None], np.asarray(mask), STFT, length, 1.0)[0] for mask in masks)
    return dict(zip(SOURCES, taken, strict=True))


def scored(song: Song, found: dict[str, Float[np.ndarray, " N"]]) -> list[dict[str, Any]]:
    """Return SDR, SIR and SAR of each source, by BSS-Eval over the whole song.

    None marks missing scores: all of a silent estimate, and those that are limited only by rounding, such as a mixture's SAR.
    """
    sounding = {name: x for name, x in found.items() if x.any()}
    scores = metrics.evaluate_stems(dict(zip(SOURCES, song.stems, strict=True)), sounding) if sounding else {}
    made = []
    for name in found:
        values = {m: float(exact(getattr(scores[name], m))) for m in MEASURES} if name in scores else {}
        made.append({"source": name} | {m: v if np.isfinite(v := values.get(m, np.nan)) else None for m in MEASURES})
    return made
