"""The one training loop: steps, validation, early stopping, checkpoints from which it goes on as if nothing had happened.

What is trained is a `Task`: pure functions of states, batches and keys. What a step does depends on its number and on the seed
alone, so a run that was killed and called again ends with the same weights, to the bit, as one that was not. A folder holds

| | |
|---|---|
| ``config.json`` | the task, and how it is trained |
| ``checkpoints/`` | state, best state and counters, by orbax; the last two |
| ``metrics.csv`` | a line an epoch |
| ``events.out.tfevents…`` | the same for TensorBoard |

Where JAX sees several devices, batches are divided among them and states are held by all; several processes
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
    """The loss is no number any more; the folder holds the last good checkpoint."""


@dataclass(frozen=True)
class Training:
    """How long, and how it is watched.

    Attributes:
        epochs: at most.
        steps_per_epoch: steps between validations; checkpoints are made then.
        patience: epochs without a better validation loss after which it ends.
        min_delta: by how much better it must be to count; the best is kept all the same.
        seed: of all randomness.
        average: what is validated and kept is a moving mean of the states of all steps, of which so much stays at each step (less
            at first: after n steps, n / (n + 9)); 0 takes the states themselves. It is steadier where steps are large or data few.

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
    """How long a recipe is trained: a dataclass that has every field of `Training` but these `others`, and more."""
    return Training(**{f.name: getattr(recipe, f.name) for f in fields(Training) if f.name not in others}, **others)


def settings_besides(recipe: Any) -> dict[str, Any]:
    """The fields of a recipe that are not those of `Training`: for `Task.config`."""
    training = {f.name for f in fields(Training)}
    return {name: value for name, value in asdict(recipe).items() if name not in training}


def started_from(tree: PyTree) -> dict[str, str]:
    """For `Task.config`: what a training starts from, where that is not random, so that it goes on after nothing else."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return {"started_from": digest.hexdigest()} if jax.tree.leaves(tree) else {}


@dataclass(frozen=True)
class Task(Generic[State, Batch]):
    """What is trained. A step depends on nothing but its arguments, a batch on nothing but its number."""

    init: Callable[[Key[Array, ""]], State]
    step: Callable[[State, Batch, Key[Array, ""]], tuple[State, Any]]  # jitted here; the loss, or metrics that include "loss"
    batch: Callable[[int], Batch]  # of numpy arrays whose first axis is the batch
    validate: Callable[[State], Mapping[str, float]]  # "loss" decides when to stop
    config: Mapping[str, Any]  # what JSON can say; a folder is gone on with only where it is the same
    latest: bool = False  # keep the last state and do all epochs: no loss tells which is best, where networks play against others


fixed = lru_cache(maxsize=64)(partial)
"""A step with its configuration: the same object for the same arguments, so that trainings of one network share its program."""


def means(of: Sequence[Any]) -> dict[str, float]:
    """The mean of each field over tuples of numbers: what a validation says of several batches."""
    return {name: float(np.mean([getattr(one, name) for one in of])) for name in of[0]._fields}


@dataclass(frozen=True)
class Trained(Generic[State]):
    """The state of the best epoch (of the last, where `Task.latest`) without its optimiser, and how it came to be."""

    state: State
    epoch: int  # the best one, from 1
    epochs: int  # all of them
    loss: float  # of the validation of that epoch
    stopped: str  # "patience" or "epochs"
    history: list[dict[str, float]]  # of each epoch: its number, "train/…" and "validation/…"


class _Carried(NamedTuple):
    """Everything that goes on from epoch to epoch."""

    state: PyTree
    mean: PyTree  # `Training.average`, of what is `learned`; nothing without
    best: PyTree
    best_loss: np.ndarray
    best_epoch: np.ndarray
    epoch: np.ndarray  # how many are done


# --- the loop ------------------------------------------------------------------------------------------------------------


def train(
    task: Task[State, Batch], training: Training, folder: str | Path, *, progress: Progress = lambda *_: None
) -> Trained[State]:
    """Train until the validation loss stays, or the epochs are over; go on where an earlier call in `folder` was cut off.

    Args:
        task: what is trained.
        training: for how long. With more `epochs` than before, a finished run goes on.
        folder: see above; it is made if need be.
        progress: called with "training", steps done, steps at most and the mean loss so far in the epoch.

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
            checkpoints.keep(done + 1, carried)  # last: what it says is done, is written down
            reason = _over(log.rows, training, task.latest)
    return Trained(carried.best, int(carried.best_epoch), int(carried.epoch), float(carried.best_loss), reason, log.rows)


def _fresh(state: PyTree, training: Training) -> _Carried:
    state = jax.tree.map(np.asarray, state)
    kept = learned(state)
    return _Carried(state, kept if training.average else (), kept, np.array(np.inf), np.array(0), np.array(0))


_OPTIMISERS = {"optimiser", "optimisers"}
"""What states call it."""


def learned(state: State) -> State:
    """A state whose optimiser is nothing: means and the best are of what was learned, and no moments of gradients need be kept."""
    names = _OPTIMISERS & set(getattr(state, "_fields", ()))
    return cast(Any, state)._replace(**dict.fromkeys(names, ())) if names else state


def _over(history: Sequence[Mapping[str, float]], training: Training, latest: bool) -> str:
    """Why there is no further epoch; nothing if there is one."""
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
    """All steps of an epoch, and the means of what they say."""
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
    """Batches divided among all devices, of all processes; everything else on each of them."""

    def __init__(self) -> None:
        self.count = jax.device_count()
        # Steps that are begun ahead wait for each other in the few threads of a CPU, and have been seen to wait for ever.
        self.one_at_a_time = self.count > 1 and jax.default_backend() == "cpu"
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        self._divided, self.whole = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())

    def _placed(self, x: Any, sharding: NamedSharding) -> Array:
        x = np.asarray(x)  # each process has all of it, and hands its own devices their part
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    def replicate(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: self._placed(x, self.whole), tree)

    def divide(self, batch: PyTree) -> PyTree:
        size = len(jax.tree.leaves(batch)[0])
        if size % self.count:
            raise UserError(f"a batch of {size} cannot be divided among {self.count} devices; take a multiple of that number.")
        return jax.tree.map(lambda x: self._placed(x, self._divided), batch)


@lru_cache(maxsize=8)  # few, for a step may hold on to what it was made with
def _jitted(step: Callable, average: float, whole: NamedSharding) -> Callable:
    """A step of the state and of its mean, the same program for all trainings that have the same step."""

    # Seed and number come as plain numbers, which every process may give; a key would belong to one device.
    @partial(jax.jit, donate_argnums=0, out_shardings=whole)
    def numbered(live: PyTree, batch: PyTree, seed: Array, n: Array) -> tuple[PyTree, Mapping[str, Array]]:
        state, mean = live
        state, metrics = step(state, batch, jax.random.fold_in(jax.random.wrap_key_data(seed), n))
        return (state, _averaged(mean, learned(state), average, n) if average else ()), _named(metrics)

    return numbered


def _named(metrics: Any) -> Mapping[str, Array]:
    """By name, as they are or as a tuple has them; a number alone is the loss."""
    if isinstance(metrics, Array):
        return {"loss": metrics}
    return metrics if isinstance(metrics, Mapping) else metrics._asdict()


def _averaged(mean: PyTree, state: PyTree, average: float, n: Array) -> PyTree:
    """A moving mean of what is floating point; of all else, what is newest."""
    done = n.astype(np.float32)
    goes = 1 - jax.numpy.minimum(average, done / (done + 9))  # more at first, or random weights would be most of it for long

    def one(before: Array, now: Array) -> Array:
        return before + goes.astype(now.dtype) * (now - before) if jax.numpy.issubdtype(now.dtype, np.floating) else now

    return jax.tree.map(one, mean, state)


# --- what is kept --------------------------------------------------------------------------------------------------------


class _Checkpoints:
    """The last two epochs, each there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # it tells of every file
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
        """What the newest holds, in the shapes of `like`."""
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
                raise UserError(f"{where}; make room, and call again: the epochs before it are kept.") from error


def begun(folder: Path) -> bool:
    """Whether a training has come to a checkpoint there."""
    # One that is being written has another name until it is whole.
    return _done(folder) > 0


def _done(folder: Path) -> int:
    """Epochs of which there is a checkpoint."""
    return max((int(path.name) for path in (folder / CHECKPOINTS).glob("*") if path.name.isdigit()), default=0)


def claim(folder: Path, task: Task, training: Training) -> None:
    """Write down what is trained, or compare: a folder holds one training.

    Raises:
        UserError: it holds another or a longer one, or cannot be written to.
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
        longer = f"{folder} holds a training of {done} epochs, and not of {training.epochs}"
        raise UserError(f"{longer}; ask for as many, or choose another folder with -o.")
    output.settle(folder / CONFIG, setup, other, writes=jax.process_index() == 0)


class _Log:
    """A line an epoch, in a table and for TensorBoard; lines of epochs that no checkpoint knows of are dropped."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self._path = folder / METRICS
        self.rows: list[dict[str, float]] = []
        if epochs:
            try:
                with self._path.open(newline="", encoding="utf-8") as file:
                    self.rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)][:epochs]
                if [row["epoch"] for row in self.rows] != list(range(1, epochs + 1)):
                    raise ValueError
            except (OSError, ValueError, TypeError, KeyError):  # it says how good the epochs were, and so when to stop
                raise UserError(f"{self._path} does not tell of all {epochs} epochs; choose another folder with -o.") from None
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
            raise UserError(f"{problem}; make room, and call again: the epochs before it are kept.") from None

    def close(self) -> None:
        if self._board is None:
            return
        writer: Any = self._board.file_writer
        events = writer.event_writer
        try:
            self._board.close()
        except OSError:  # a full disk: `write` has said so, or the table, which has the same numbers, is there
            events.close = lambda: None  # or it would be tried, and told of, once more when the process ends
            events._worker.stop()
