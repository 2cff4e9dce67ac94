"""The shared training loop: steps, validation, early stopping, and checkpoints from which it resumes exactly.

What is trained is a `Task`: pure functions of states, batches and keys. The randomness of a step depends only on its number and the
seed, so a run that was killed and resumed ends with bit-identical weights. A folder holds

| | |
|---|---|
| ``config.json`` | the task and the training schedule |
| ``checkpoints/`` | the last two orbax checkpoints: state, best state and counters |
| ``metrics.csv`` | one line per epoch |
| ``events.out.tfevents…`` | the same for TensorBoard |

Where JAX sees several devices, training is data-parallel: batches are sharded, and states replicated; several processes
(`jax.distributed`) work as one.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key, PyTree

from bayessep import output
from bayessep.errors import UserError

State = TypeVar("State")
Batch = TypeVar("Batch")
Progress = Callable[[str, int, int, float], None]

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.csv", "checkpoints"


class Diverged(FloatingPointError):
    """The loss is no longer finite; the folder holds the last good checkpoint."""


@dataclass(frozen=True)
class Training:
    """Training schedule, early stopping and averaging.

    Attributes:
        epochs: largest number of epochs.
        steps_per_epoch: steps between validations, after which a checkpoint is saved.
        patience: epochs without a better validation loss after which training stops.
        min_delta: smallest improvement that counts for `patience`; the best state is kept in any case.
        seed: seed of all randomness.
        average: decay of an exponential moving average of the states, which is what is validated and kept (smaller at first: after
            n steps, n / (n + 9)); 0 takes the states themselves. The average is steadier with large steps or few data.

    Raises:
        UserError: a number is out of range.
    """

    epochs: int = 50
    steps_per_epoch: int = 200
    patience: int = 5
    min_delta: float = 0.0
    seed: int = 0
    average: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not 0 <= self.min_delta < math.inf:
            raise UserError(f"min_delta is {self.min_delta}, but must be at least 0, and finite.")
        if not 0 <= self.average < 1:
            raise UserError(f"average is {self.average}, but must be at least 0 and below 1.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, but must be at least 0 and below 2**32.")


def training_of(recipe: Any, **others: Any) -> Training:
    """Training schedule of a recipe, a dataclass that has every field of `Training` except those given as `others`."""
    return Training(**{f.name: getattr(recipe, f.name) for f in fields(Training) if f.name not in others}, **others)


def settings_besides(recipe: Any) -> dict[str, Any]:
    """Fields of a recipe that are not in `Training`, for `Task.config`."""
    training = {f.name for f in fields(Training)}
    return {name: value for name, value in asdict(recipe).items() if name not in training}


def started_from(tree: PyTree) -> dict[str, str]:
    """Hash of initial parameters, if any, for `Task.config`: a training is resumed only with the same ones."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return {"started_from": digest.hexdigest()} if jax.tree.leaves(tree) else {}


@dataclass(frozen=True)
class Task(Generic[State, Batch]):
    """Training task. A step must depend only on its arguments, and a batch only on its number."""

    init: Callable[[Key[Array, ""]], State]
    step: Callable[[State, Batch, Key[Array, ""]], tuple[State, Any]]  # jitted here; the loss, or metrics that include "loss"
    batch: Callable[[int], Batch]  # of numpy arrays whose first axis is the batch
    validate: Callable[[State], Mapping[str, float]]  # "loss" decides when to stop
    config: Mapping[str, Any]  # JSON-serialisable; a folder is resumed only with the same config
    latest: bool = False  # run all epochs and keep the last state: in adversarial training, no loss tells which is best


fixed = lru_cache(maxsize=64)(partial)
"""Cached `partial`: the same object for the same step and config, so that trainings of one network share a compiled program."""


def means(of: Sequence[Any]) -> dict[str, float]:
    """Mean of each field over metrics of several batches (named tuples)."""
    return {name: float(np.mean([getattr(one, name) for one in of])) for name in of[0]._fields}


@dataclass(frozen=True)
class Trained(Generic[State]):
    """Result of a training: the state of the best epoch (of the last with `Task.latest`) without optimiser, and its history."""

    state: State
    epoch: int  # the best epoch, counted from 1
    epochs: int  # number of epochs
    loss: float  # validation loss of the best epoch
    stopped: str  # "patience" or "epochs"
    history: list[dict[str, float]]  # of each epoch: its number, "train/…" and "validation/…"


class _Carried(NamedTuple):
    """Everything that is carried from epoch to epoch, and checkpointed."""

    state: PyTree
    mean: PyTree  # moving average of the `learned` state; empty without `Training.average`
    best: PyTree
    best_loss: np.ndarray
    best_epoch: np.ndarray
    epoch: np.ndarray  # number of finished epochs


# --- the loop ------------------------------------------------------------------------------------------------------------


def train(
    task: Task[State, Batch], training: Training, folder: str | Path, *, progress: Progress = lambda *_: None
) -> Trained[State]:
    """Train until the validation loss stops improving or the epochs are over; resume an earlier call in `folder`.

    Args:
        task: what is trained.
        training: schedule. With more `epochs` than before, a finished run is continued.
        folder: see above; it is created if need be.
        progress: called with "training", the number of steps done, the largest number of steps, and the mean loss of the epoch so
            far.

    Raises:
        Diverged: a loss is not finite.
        UserError: the folder holds another training or a longer one, is damaged, or cannot be written to; a batch cannot be
            divided among the devices.
    """
    folder = Path(folder).absolute()
    claim(folder, task, training)
    across = _Devices()
    with ExitStack() as held:
        checkpoints = held.enter_context(closing(_Checkpoints(folder / CHECKPOINTS)))
        key = jax.random.key(training.seed)
        key_init, key_steps = jax.random.split(key)
        carried = _fresh(task.init(key_init), training)
        carried = checkpoints.latest(carried) or carried
        log = held.enter_context(closing(_Log(folder, int(carried.epoch))))
        live = across.replicate((carried.state, carried.mean))
        step = _jitted(task.step, training.average, across.whole)
        reason = _over(log.rows, training, task.latest)
        while not reason:
            done = int(carried.epoch)
            live, means = _epoch(task, training, across, step, live, np.asarray(jax.random.key_data(key_steps)), done, progress)
            state, mean = jax.tree.map(np.asarray, live)
            watched = mean if training.average else state
            found = {f"validation/{name}": float(value) for name, value in task.validate(watched).items()}
            loss = found["validation/loss"]
            if not math.isfinite(loss):
                raise Diverged(f"the validation loss of epoch {done + 1} is {loss}; the epochs before it are kept.")
            better = task.latest or loss < float(carried.best_loss)
            carried = _Carried(
                state,
                mean,
                learned(watched) if better else carried.best,
                np.array(loss) if better else carried.best_loss,
                np.array(done + 1) if better else carried.best_epoch,
                np.array(done + 1),
            )
            log.write(done + 1, {f"train/{name}": value for name, value in means.items()} | found)
            checkpoints.keep(done + 1, carried)  # last, so that everything it counts as done is logged
            reason = _over(log.rows, training, task.latest)
    return Trained(carried.best, int(carried.best_epoch), int(carried.epoch), float(carried.best_loss), reason, log.rows)


def _fresh(state: PyTree, training: Training) -> _Carried:
    state = jax.tree.map(np.asarray, state)
    kept = learned(state)
    return _Carried(state, kept if training.average else (), kept, np.array(np.inf), np.array(0), np.array(0))


_OPTIMISERS = {"optimiser", "optimisers"}
"""Names of the optimiser's field in states."""


def learned(state: State) -> State:
    """Return a state with an empty optimiser: the average and the best state need no moments of gradients."""
    names = _OPTIMISERS & set(getattr(state, "_fields", ()))
    return cast(Any, state)._replace(**dict.fromkeys(names, ())) if names else state


def _over(history: Sequence[Mapping[str, float]], training: Training, latest: bool) -> str:
    """Reason for stopping, or an empty string if there is another epoch."""
    best, waited = math.inf, 0
    for row in history:
        better = row["validation/loss"] < best - training.min_delta
        best, waited = (row["validation/loss"], 0) if better else (best, waited + 1)
    if waited >= training.patience and not latest:
        return "patience"
    return "epochs" if len(history) >= training.epochs else ""


def _epoch(
    task: Task, training: Training, across: _Devices, step: Callable, live: PyTree, seed: np.ndarray, done: int, progress: Progress
) -> tuple[PyTree, dict[str, float]]:
    """Run all steps of an epoch; return the state and the mean metrics."""
    first, most = done * training.steps_per_epoch, training.epochs * training.steps_per_epoch
    sums: Any = None
    for n in range(first, first + training.steps_per_epoch):
        live, metrics = step(live, across.divide(task.batch(n)), seed, np.uint32(n))
        if across.one_at_a_time:
            jax.block_until_ready((live, metrics))
        sums = metrics if sums is None else jax.tree.map(jax.numpy.add, sums, metrics)
        if (n + 1 - first) % 20 == 0 or n + 1 - first == training.steps_per_epoch:
            loss = float(np.asarray(sums["loss"])) / (n + 1 - first)
            if not math.isfinite(loss):
                raise Diverged(f"the training loss became {loss} by step {n + 1}; the epochs before it are kept.")
            progress("training", n + 1, most, loss)
    return live, {name: float(np.asarray(value)) / training.steps_per_epoch for name, value in sums.items()}


# --- devices -------------------------------------------------------------------------------------------------------------


class _Devices:
    """Data parallelism: batches sharded over all devices of all processes, everything else replicated."""

    def __init__(self) -> None:
        self.count = jax.device_count()
        # Steps dispatched ahead compete for the few threads of a CPU, and have been seen to deadlock.
        self.one_at_a_time = self.count > 1 and jax.default_backend() == "cpu"
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        self._divided, self.whole = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())

    def _placed(self, x: Any, sharding: NamedSharding) -> Array:
        x = np.asarray(x)  # each process has the whole array, and passes their part to its own devices
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    def replicate(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: self._placed(x, self.whole), tree)

    def divide(self, batch: PyTree) -> PyTree:
        size = len(jax.tree.leaves(batch)[0])
        if size % self.count:
            raise UserError(f"a batch of {size} cannot be divided among {self.count} devices; give a multiple of that number.")
        return jax.tree.map(lambda x: self._placed(x, self._divided), batch)


@lru_cache(maxsize=8)  # few, as a step may keep its data alive
def _jitted(step: Callable, average: float, whole: NamedSharding) -> Callable:
    """Compile a step of the state and its average; trainings with the same step share the program."""

    # Seed and step number are passed as plain numbers, which every process can supply; a key would belong to one device.
    @partial(jax.jit, donate_argnums=0, out_shardings=whole)
    def numbered(live: PyTree, batch: PyTree, seed: Array, n: Array) -> tuple[PyTree, Mapping[str, Array]]:
        state, mean = live
        state, metrics = step(state, batch, jax.random.fold_in(jax.random.wrap_key_data(seed), n))
        return (state, _averaged(mean, learned(state), average, n) if average else ()), _named(metrics)

    return numbered


def _named(metrics: Any) -> Mapping[str, Array]:
    """Metrics by name, from a mapping, a named tuple, or a single array, which is the loss."""
    if isinstance(metrics, Array):
        return {"loss": metrics}
    return metrics if isinstance(metrics, Mapping) else metrics._asdict()


def _averaged(mean: PyTree, state: PyTree, average: float, n: Array) -> PyTree:
    """Exponential moving average of floating-point arrays; others take the newest value."""
    done = n.astype(np.float32)
    goes = 1 - jax.numpy.minimum(average, done / (done + 9))  # faster at first, or the initial weights would dominate for long

    def one(before: Array, now: Array) -> Array:
        return before + goes.astype(now.dtype) * (now - before) if jax.numpy.issubdtype(now.dtype, np.floating) else now

    return jax.tree.map(one, mean, state)


# --- checkpoints and logs ------------------------------------------------------------------------------------------------


class _Checkpoints:
    """Checkpoints of the last two epochs, saved atomically."""

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # it logs every file
        self._ocp = ocp
        here = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
        )
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, create=False, multiprocessing_options=alone
        )
        self._writes = here == 0
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(folder, options=self._options) if folder.is_dir() else None

    def close(self) -> None:
        if self._manager is not None:
            self._manager.close()

    def latest(self, like: _Carried) -> _Carried | None:
        """Restore the newest checkpoint, if any, with the structure of `like`."""
        newest = None if self._manager is None else self._manager.latest_step()
        if self._manager is None or newest is None:
            return None
        try:
            found: Any = self._manager.restore(newest, args=self._ocp.args.StandardRestore(like))
            return _Carried(*found)
        except Exception as error:  # of any kind: the files are not ours
            where = self._manager.directory
            raise UserError(f"the checkpoint {newest} in {where} cannot be read ({type(error).__name__}); remove it.") from error

    def keep(self, epoch: int, carried: _Carried) -> None:
        if self._writes and self._manager is not None:
            try:
                self._manager.save(epoch, args=self._ocp.args.StandardSave(carried))
                self._manager.wait_until_finished()
            except Exception as error:  # of any kind: a full disk is a ValueError here
                where = f"cannot write the checkpoint {epoch} to {self._manager.directory} ({type(error).__name__})"
                raise UserError(f"{where}; free some space and run it again: the epochs before it are kept.") from error


def begun(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of a training."""
    # A checkpoint has a temporary name until it is complete.
    return _done(folder) > 0


def _done(folder: Path) -> int:
    """Epoch of the newest checkpoint, or 0."""
    return max((int(path.name) for path in (folder / CHECKPOINTS).glob("*") if path.name.isdigit()), default=0)


def claim(folder: Path, task: Task, training: Training) -> None:
    """Write the config of a training to a folder, or compare it with the one there: a folder holds one training.

    Raises:
        UserError: the folder holds another training or a longer one, or cannot be written to.
    """

    def other(before: Any, now: dict[str, Any]) -> str:
        same = {"task": before["task"], "training": before["training"] | {"epochs": training.epochs}}
        differing = sorted(
            f"{part}.{name}" for part in now for name in now[part].keys() | same[part].keys()
            if now[part].get(name) != same[part].get(name)
        )  # fmt: skip
        return f"another training (it differs in {', '.join(differing)})" if same != now else ""

    setup = {"task": dict(task.config), "training": asdict(training)}
    output.settle(folder / CONFIG, setup, other, writes=False)
    if (done := _done(folder)) > training.epochs:
        longer = f"{folder} holds a training of {done} epochs, not of {training.epochs}"
        raise UserError(f"{longer}; ask for at least as many, or choose another folder with -o.")
    output.settle(folder / CONFIG, setup, other, writes=jax.process_index() == 0)


class _Log:
    """Metrics of every epoch, as a table and for TensorBoard; epochs after the newest checkpoint are dropped."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self._path = folder / METRICS
        self.rows: list[dict[str, float]] = []
        if epochs:
            try:
                with self._path.open(newline="", encoding="utf-8") as file:
                    self.rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)][:epochs]
                if [row["epoch"] for row in self.rows] != list(range(1, epochs + 1)):
                    raise ValueError
            except (OSError, ValueError, TypeError, KeyError):  # the history decides when to stop
                raise UserError(f"{self._path} does not list all {epochs} epochs; choose another folder with -o.") from None
        self._writes = jax.process_index() == 0
        self._board = None
        if self._writes:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=epochs + 1, max_queue=1)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        self.rows.append({"epoch": float(epoch), **values})
        if not self._writes or self._board is None:
            return
        draft = self._path.with_name(f".{METRICS}.{os.getpid()}")
        try:
            with draft.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows({k: int(v) if k == "epoch" else v for k, v in row.items()} for row in self.rows)
            os.replace(draft, self._path)
            for name, value in values.items():
                self._board.add_scalar(name, value, epoch)
        except OSError as error:
            draft.unlink(missing_ok=True)
            problem = f"cannot write to {self._path}: {error.strerror}"
            raise UserError(f"{problem}; free some space and run it again: the epochs before it are kept.") from None

    def close(self) -> None:
        if self._board is None:
            return
        writer: Any = self._board.file_writer
        events = writer.event_writer
        try:
            self._board.close()
        except OSError:  # full disk: `write` has reported it, or the table with the same numbers exists
            events.close = lambda: None  # else it is tried, and fails, once more at exit
            events._worker.stop()
