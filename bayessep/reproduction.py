"""Run paper 000's experiment: every method, ratio, training set and condition; resumable, one line of JSON per result.

`plan` lists the tasks, `run` runs those that a folder lacks, and `bayessep.tables` makes tables of the lines.
"""

import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bayessep import __version__, baselines, metrics, output, protocol, recognition
from bayessep.errors import UserError
from bayessep.pipeline import Separation, analyse, separate, tempering
from bayessep.preparation import Known, magnitude, window_of
from bayessep.protocol import Item, Mixed
from bayessep.separators import Trained, train
from bayessep.settings import METHODS, Settings
from bayessep.tempering import calibrate

# --- rows of the tables --------------------------------------------------------------------------------------------------

BEST = Settings()
"""The default of `bayessep separate`, with which all other rows are compared."""

NEAR_PAPER = dict(
    chain=False, overlap=0.5, speech_shape=None, mask_power=1.0, filter_shape=None, gain_shape=None, level=0.5, bases=40
)  # fmt: skip
"""Settings close to the paper's: independent frames with 50 % overlap, free filter and gain, magnitude masks.

The paper uses 300 templates for one speaker and 600 for several, and prints another update for q(r); these rows differ from the
default only in the settings above.
"""

PAPER_METHODS = ("nmf", "variational", "icm", "joint")
WEIGHTS = (0.1, 0.3, 3.0)

METHOD_ROWS: dict[str, Settings] = {name: dataclasses.replace(BEST, method=name) for name in METHODS}
LOG_MODE_ROWS = {"icm, log-modes": dataclasses.replace(BEST, method="icm", log_modes=True)}
WEIGHT_ROWS = {f"joint, w = {w:g}": dataclasses.replace(BEST, method="joint", joint_weight=w) for w in WEIGHTS}
PAPER_ROWS = {
    f"{name}, near the paper": dataclasses.replace(BEST, method=name, **NEAR_PAPER) for name in (*PAPER_METHODS, "unsupervised")
}
ABLATION_SCENES = ((15.0, "plain"), (0.0, "plain"), (0.0, "all three"))
"""Ratios and conditions of the ablation."""

DEVELOPMENT_SCENES = ((15.0, "development"), (0.0, "development"), (0.0, "development, all three"))
"""Those of the ablation on the development mixtures, on which the methods are compared, too."""

ABLATION_ROWS = {
    "without the chain": dataclasses.replace(BEST, chain=False),
    "chain, known entries only": dataclasses.replace(BEST, complete=False),
    "frames overlap by a half": dataclasses.replace(BEST, overlap=0.5),
    "filter and gain around 1": dataclasses.replace(BEST, align=False),
    "median of the repeats": dataclasses.replace(BEST, weigh=False),
    "entries hardly held": dataclasses.replace(BEST, entry_shape=1.0),
    "no warm-up": dataclasses.replace(BEST, warm_up=0),
    "a quarter of the counts": dataclasses.replace(BEST, level=0.5),
    "half of the templates": dataclasses.replace(BEST, bases=40),
    "speech held to templates": dataclasses.replace(BEST, speech_shape=None),
    "mask of magnitudes": dataclasses.replace(BEST, mask_power=1.0),
    "as sure as it is": dataclasses.replace(BEST, spread=None),
}
"""Ablations of the default (variational): one of its components removed or changed."""

DEVELOPMENT_ROWS = ("ideal ratio mask", *METHOD_ROWS, "KL-NMF", *ABLATION_ROWS)

SEED_ROWS = {f"{BEST.method}, seed + {n}": dataclasses.replace(BEST, seed=n) for n in (1, 2)}
"""The default with other seeds; a row's seed is added to the run's."""

MODEL_ROWS = METHOD_ROWS | LOG_MODE_ROWS | WEIGHT_ROWS | PAPER_ROWS | ABLATION_ROWS | SEED_ROWS


# --- what is run ---------------------------------------------------------------------------------------------------------


KEY = ("item", "smr_db", "condition", "training", "row")
"""Fields that identify a result."""


class Task(NamedTuple):
    """Rows to run on one mixture."""

    item: int
    smr_db: float
    condition: str
    training: str
    rows: tuple[str, ...]
    words: bool = False  # whether the estimates are transcribed, too

    def keys(self) -> list[tuple[Any, ...]]:
        """Return the `KEY` of each row."""
        return [(self.item, self.smr_db, self.condition, self.training, row) for row in self.rows]


def plan(quick: bool = False, development: bool = False) -> list[Task]:
    """Return all tasks, those of the paper's tables first; with `development`, also those on the development mixtures."""
    count = len(protocol.names())
    usual = (*baselines.BASELINES, *baselines.SHARPER, *METHOD_ROWS)
    if quick:
        few = ("mixture", "ideal ratio mask", "KL-NMF", "REPET-SIM", "HPSS", "nmf", "variational", "icm", "unsupervised")
        return [Task(n, smr, "plain", "Self", few, smr == 15) for smr in (15.0, 0.0) for n in (0, 3, 7)]
    tasks = []
    every = (*usual, *LOG_MODE_ROWS, *WEIGHT_ROWS, *PAPER_ROWS, "chain, known entries only")
    tasks += [Task(n, smr, "plain", "Self", every, smr == 15) for smr in (15.0, 0.0) for n in range(count)]
    tasks += [Task(n, 15.0, "plain", t, PAPER_METHODS, True) for t in ("All", "Other") for n in range(count)]
    tasks += [Task(n, smr, "plain", "Self", usual) for smr in (5.0, -5.0) for n in range(count)]
    met = (*baselines.BASELINES, "variational", "unsupervised")
    tasks += [Task(n, 0.0, condition, "Self", met) for condition in protocol.MET if condition != "plain" for n in range(count)]
    tasks += [Task(n, smr, c, "Self", tuple(ABLATION_ROWS)) for smr, c in ABLATION_SCENES for n in range(count)]
    tasks += [Task(n, smr, "plain", "Self", tuple(SEED_ROWS)) for smr in (15.0, 0.0) for n in range(count)]
    if development:
        others = range(len(protocol.names(protocol.DEVELOPMENT)))
        for smr, condition in DEVELOPMENT_SCENES:
            rows = DEVELOPMENT_ROWS if condition == "development" else (BEST.method, *ABLATION_ROWS)
            tasks += [Task(n, smr, condition, "Self", rows) for n in others]
    return tasks


def keys_of(tasks: Iterable[Task]) -> set[tuple[Any, ...]]:
    """Return the keys of all rows of the tasks, without duplicates."""
    return {key for task in tasks for key in task.keys()}


def missing(tasks: Iterable[Task], done: set[tuple[Any, ...]]) -> list[Task]:
    """Return the tasks reduced to the rows still to be run; a row that several tasks share stays with the first."""
    left, seen = [], set(done)
    for task in tasks:
        rows = tuple(row for row, key in zip(task.rows, task.keys(), strict=True) if key not in seen)
        seen.update(task.keys())
        if rows:
            left.append(task._replace(rows=rows))
    return left


# --- running it ----------------------------------------------------------------------------------------------------------

RESULTS, SETUP = "results.jsonl", "setup.json"
Progress = Callable[[str, int, int, float], None]


def run(
    folder: Path, data: Path, tasks: Sequence[Task], *, seed: int = 0, jobs: int = 1, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Run what `folder` does not hold yet, in `jobs` processes, and append each result to its results.jsonl at once.

    Returns all results of the tasks, those of earlier runs included.

    Raises:
        UserError: recordings are missing, or the folder holds results of another version, seed or settings.
    """
    protocol.load(data)  # report missing recordings before any work is done
    if any(protocol.CONDITIONS[task.condition].cast is protocol.DEVELOPMENT for task in tasks):
        protocol.load(data, protocol.DEVELOPMENT)
    _check_setup(folder, seed)
    drop_half_a_line(folder / RESULTS)
    found = {key_of(result) for result in _of(tasks, folder)}
    left = missing(tasks, found)
    done, total = len(found), len(keys_of(tasks))
    if progress is not None:
        progress("results", done, total, float("nan"))
    for rows in _worked(left, folder, data, seed, jobs):
        done += rows
        if progress is not None:
            progress("results", done, total, float("nan"))
    return _of(tasks, folder)


def held(folder: Path, tasks: Sequence[Task], *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the results in a folder that belong to the tasks, without running or writing anything.

    Raises:
        UserError: it holds none of them, or results of another version, seed or settings.
    """
    results = _of(tasks, folder)
    if not results or not (folder / SETUP).is_file():
        raise UserError(f"{folder} holds no results of this experiment; leave --finished out, or name another folder with -o.")
    _check_setup(folder, seed, writes=False)
    return results


def _of(tasks: Iterable[Task], folder: Path) -> list[dict[str, Any]]:
    """Return the results in a folder that belong to the tasks."""
    wanted = keys_of(tasks)
    return [result for result in read(folder) if key_of(result) in wanted]


def _worked(tasks: Sequence[Task], folder: Path, data: Path, seed: int, jobs: int) -> Iterable[int]:
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield work(task, folder, data, seed)
        return
    # One thread per process: processes that share all threads wait for one another. Each uses this one's JAX backend.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1".strip()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with _environment(threads | {"XLA_FLAGS": flags, "JAX_PLATFORMS": jax.default_backend()}):
        yield from in_processes(partial(work, folder=folder, data=data, seed=seed), tasks, jobs)


def in_processes(function: Callable[[Task], int], tasks: Sequence[Task], jobs: int) -> Iterable[int]:
    """Yield what the function returns for each task, in order of completion.

    Raises:
        UserError: a process was killed from outside.
    """
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    try:
        futures = [pool.submit(function, task) for task in tasks]
        pool.submit(int)  # the thread that watches the processes may have looked before the last started; this wakes it again
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process was killed, perhaps for lack of memory; results are kept: run it again, with fewer --jobs."
        ) from None
    finally:
        # After an interruption, do not wait for running tasks: finished results are on disk.
        processes = list((pool._processes or {}).values())
        watching: Any = pool._executor_manager_thread
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        if watching is not None:  # it releases semaphores, which Python would otherwise report as leaked
            watching.join(timeout=5)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block; processes started in it inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def key_of(result: dict[str, Any], names: Sequence[str] = KEY) -> tuple[Any, ...]:
    """Return the key of a result: its fields `names`, by default those of `Task.keys`."""
    return tuple(result[name] for name in names)


def read(folder: Path, names: Sequence[str] = KEY) -> list[dict[str, Any]]:
    """Return all results in a folder; of several with equal fields `names`, the last.

    Raises:
        UserError: a line is not a result of this experiment.
    """
    path = folder / RESULTS
    whole, _, _ = path.read_bytes().rpartition(b"\n") if path.is_file() else (b"", b"", b"")  # without an incomplete last line
    results = []
    for n, line in enumerate(whole.splitlines(), 1):
        try:
            result = json.loads(line)
            key_of(result, names)
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}, line {n}, is not a result of this experiment; choose another folder with -o.") from None
        results.append(result)
    return list({key_of(result, names): result for result in results}.values())


def append(folder: Path, result: Mapping[str, Any]) -> None:
    """Append one result to the folder's results.jsonl."""
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def drop_half_a_line(path: Path) -> None:
    """Remove an incomplete last line, left by an interruption: the next result would be appended to it."""
    if path.exists():
        text = path.read_bytes()
        if len(whole := text[: text.rfind(b"\n") + 1]) < len(text):
            os.truncate(path, len(whole))


def finished(
    folder: Path, names: Sequence[str], experiment: str, setup_of: Callable[[Path], dict[str, Any]], budget: str, seed: int
) -> list[dict[str, Any]]:
    """Return a folder's results of an experiment whose setup has one budget and one seed.

    Raises:
        UserError: there are none, or they have another budget or seed; or as `setup_of`.
    """
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder} holds no results of {experiment}; leave --finished out, or name another folder with -o.")
    setup, results = setup_of(folder), read(folder, names)
    if (setup["budget"], setup["seed"]) != (budget, seed):
        raise UserError(f"{folder} holds results of the budget {setup['budget']} and the seed {setup['seed']}; give those.")
    return results


def read_setup(folder: Path, needed: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the setup file of a folder: what its results depend on.

    Raises:
        UserError: it is missing or damaged, or lacks something that `needed` looks up.
    """
    try:
        setup = json.loads((folder / SETUP).read_text(encoding="utf-8"))
        _ = setup["budget"], setup["seed"], needed(setup)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{folder / SETUP} is damaged, or of another experiment; choose another folder with -o.") from None
    return setup


def settle(folder: Path, setup: dict[str, Any]) -> None:
    """Write the setup, on which results depend, or compare it with the folder's.

    Raises:
        UserError: the folder holds results of another run.
    """

    def other(before: Any, now: dict[str, Any]) -> str:
        differing = [name for name in now if before.get(name) != now[name]]
        return f"results of another run (it differs in {', '.join(differing)})" if differing else ""

    output.settle(folder / SETUP, setup, other)


NOTES = "-notes.txt"
"""End of the name of a file beside a page, with what a reader must know of how its results came about."""


def notes_of(folder: Path, stem: str) -> str:
    """Return the notes for a page, after a space; empty if there are none.

    Raises:
        UserError: they cannot be read.
    """
    path = folder / f"{stem}{NOTES}"
    try:
        return " " + " ".join(path.read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); mend or remove it.") from None


def _check_setup(folder: Path, seed: int, *, writes: bool = True) -> None:
    """Write the setup, or compare it. New rows may be added, and development mixtures to a setup that lists none."""
    rows = {name: dataclasses.asdict(settings) for name, settings in MODEL_ROWS.items()}
    items, development = protocol.names(), protocol.names(protocol.DEVELOPMENT)
    setup = {"version": __version__, "seed": seed, "items": items, "development": development, "rows": rows}

    def other(before: Any, now: dict[str, Any]) -> str:
        same = {"development": now["development"]} | before
        fitting = now | {"rows": {name: now["rows"].get(name) for name in dict(before["rows"])}}
        return "" if same == fitting else "results of other settings, another seed or another version"

    output.settle(folder / SETUP, setup, other, writes=writes)


# --- one task ------------------------------------------------------------------------------------------------------------


def work(task: Task, folder: Path, data: Path, seed: int) -> int:
    """Run the rows of a task and append their results; return their number."""
    from bayessep.devices import forget_programs, use_cache

    use_cache()
    forget_programs()
    item = protocol.load(data, protocol.CONDITIONS[task.condition].cast)[task.item]()
    mixed = protocol.mix(item, task.smr_db, task.condition)
    trained: dict[Any, Trained | None] = {}
    for row, key in zip(task.rows, task.keys(), strict=True):
        started = time.perf_counter()
        if row in MODEL_ROWS:
            estimate, more = _method(MODEL_ROWS[row], item, mixed, task.training, seed, trained)
        else:
            estimate, more = _baseline(row, item, mixed, task.training, seed), {}
        result = {
            **dict(zip(KEY, key, strict=True)),
            "name": item.name,
            **_scores(mixed, estimate),
            "seconds": time.perf_counter() - started,
            **more,
        }
        if task.words and item.transcript and recognition.is_installed():
            errors, words = recognition.word_errors(item.transcript, recognition.transcribe(estimate))
            result |= {"word_errors": errors, "words": words}
        append(folder, result)
    return len(task.rows)


def _scores(mixed: Mixed, estimate: np.ndarray) -> dict[str, float | None]:
    references = {"speech": mixed.speech, "music": mixed.music}
    speech = metrics.evaluate_stems(references, {"speech": estimate})["speech"]
    values = {"smr": speech.sir, "sar": speech.sar, "sdr": speech.sdr, "si_sdr": speech.si_sdr}
    return {name: float(value) if value < 99 else None for name, value in values.items()}  # None: the error is only rounding


def _baseline(row: str, item: Item, mixed: Mixed, training: str, seed: int) -> np.ndarray:
    window = window_of(BEST, protocol.RATE)
    problem = baselines.Problem(
        mixed.mixture, item.training[training], mixed.labelled, mixed.speech, mixed.music, window, protocol.RATE, seed
    )
    return baselines.separate(row, problem)


def _method(
    settings: Settings, item: Item, mixed: Mixed, training: str, seed: int, trained: dict[Any, Trained | None]
) -> tuple[np.ndarray, dict[str, Any]]:
    settings = dataclasses.replace(settings, seed=seed + settings.seed)
    mixture, known = mixed.mixture[None], Known(item.training[training], (mixed.labelled,))
    # Templates depend only on these settings, so methods share them.
    shared = (METHODS[settings.method].needs_speech, settings.bases, settings.level, settings.overlap, settings.seed)
    if shared not in trained:
        _, plan = analyse(mixture, protocol.RATE, known, settings)
        trained[shared] = train(plan.spectra.speech, settings)
    found = separate(mixture, protocol.RATE, known, settings, trained=trained[shared])
    fit = {"sweeps": found.steps, "converged": found.converged, "period": found.period, "inference_seconds": found.seconds}
    return found.speech[0], fit | _calibration(found, mixed)


def _calibration(found: Separation, mixed: Mixed) -> dict[str, Any]:
    window, n_bins, rows = window_of(found.settings, protocol.RATE), found.mask.shape[1], found.target
    speech, music = (magnitude(w, window)[rows, :n_bins] for w in (mixed.speech, mixed.music))
    rank, coverage = calibrate(found.mask[rows], found.mask_std[rows], speech, music, tempering(found.settings))
    return {"rank_correlation": rank, "coverage": coverage}
