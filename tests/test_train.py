"""The training loop: what it ends with, what it keeps, and that interruptions and devices change nothing."""

import csv
import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bayessep.errors import UserError
from bayessep.train import Diverged, Training, begun, fixed, train
from tests.trainer import SHORT, TRUTH, line, run

ROOT = Path(__file__).resolve().parent.parent


def begin(folder: Path, *options: str, devices: int = 1) -> subprocess.Popen[str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.trainer", str(folder), *options]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[str, ...]:
    """Devices, processes, weights as bytes, epochs."""
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where it hangs
        out, err = process.communicate()
    assert process.returncode == 0, err
    return tuple(out.splitlines()[-1].split())  # gloo writes there, too


def weights(line: tuple[str, ...]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(line[2]), np.float32)


def test_it_learns_and_writes_down_how(tmp_path):
    told = []
    found = train(line(), SHORT, tmp_path, progress=lambda *said: told.append(said))
    np.testing.assert_allclose(found.state.weights, TRUTH, atol=0.1)
    assert found.epochs == 4 and found.stopped == "epochs"
    assert found.loss == pytest.approx(min(row["validation/loss"] for row in found.history))
    assert [said[1] for said in told] == [20, 25, 45, 50, 70, 75, 95, 100] and {said[2] for said in told} == {100}
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[2]["validation/loss"]) == found.history[2]["validation/loss"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"task": {"model": "line", "rate": 0.05}, "training": dataclasses.asdict(SHORT)}


def test_tensorboard_has_what_the_table_has(tmp_path):
    found = run(tmp_path)
    (events,) = tmp_path.glob("events.out.tfevents*")
    from tensorboardX.proto.event_pb2 import Event

    data, at, seen = events.read_bytes(), 0, {}
    while at < len(data):  # a record: its length, a checksum, itself, a checksum
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        seen |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        at += 16 + length
    for row in found.history:
        for name in ("train/loss", "validation/loss"):
            assert seen[name, int(row["epoch"])] == pytest.approx(row[name], rel=1e-6)


def test_it_ends_when_validation_stays_and_keeps_the_best(tmp_path):
    validated = []

    def validate(state):
        validated.append(np.asarray(state.weights).copy())
        return {"loss": [3.0, 1.0, 1.0, 2.0, 0.5][len(validated) - 1]}

    found = train(dataclasses.replace(line(), validate=validate), dataclasses.replace(SHORT, epochs=9, patience=2), tmp_path)
    assert (found.stopped, found.epoch, found.epochs, found.loss) == ("patience", 2, 4, 1.0)
    np.testing.assert_array_equal(found.state.weights, validated[1])


def test_the_last_is_kept_where_no_loss_tells_which_is_best(tmp_path):
    losses = iter([3.0, 1.0, 2.0, 2.0])
    task = dataclasses.replace(line(), validate=lambda state: {"loss": next(losses)}, latest=True)
    found = train(task, dataclasses.replace(SHORT, patience=1), tmp_path)
    assert (found.stopped, found.epoch, found.epochs, found.loss) == ("epochs", 4, 4, 2.0)


def validated(folder: Path, training: Training) -> np.ndarray:
    """What is validated after each epoch."""
    seen = []

    def validate(state):
        seen.append(np.asarray(state.weights).copy())
        return {"loss": 1.0 / len(seen)}

    train(dataclasses.replace(line(), validate=validate), training, folder)
    return np.array(seen)


def test_the_mean_of_states_is_validated_and_kept(tmp_path):
    every = dataclasses.replace(SHORT, epochs=30, steps_per_epoch=1, patience=30)
    states, means = (validated(tmp_path / str(a), dataclasses.replace(every, average=a)) for a in (0.0, 0.6))
    expected = states[0]
    for n, (state, mean) in enumerate(zip(states, means, strict=True)):
        stays = min(0.6, n / (n + 9))
        expected = stays * expected + (1 - stays) * state
        np.testing.assert_allclose(mean, expected, atol=1e-6)
    kept = train(line(), dataclasses.replace(every, average=0.6, patience=99), tmp_path / "kept")
    best = np.asarray(kept.state.weights)
    assert np.abs(means - best).max(1).min() < 1e-6 < np.abs(states - best).max(1).min()


def test_the_mean_goes_on_where_it_was(tmp_path):
    whole = dataclasses.replace(SHORT, average=0.9)
    run(tmp_path / "parts", dataclasses.replace(whole, epochs=2))
    (parts, at_once) = (run(tmp_path / folder, whole) for folder in ("parts", "once"))
    assert np.array_equal(parts.state.weights, at_once.state.weights) and parts.history == at_once.history
    assert parts.state.optimiser == (), "nor in the mean, nor of the best: nobody goes on from there"


def test_a_smaller_gain_than_asked_does_not_count_but_is_kept(tmp_path):
    losses = iter([1.0, 0.95, 0.93, 0.5])
    task = dataclasses.replace(line(), validate=lambda _: {"loss": next(losses)})
    found = train(task, dataclasses.replace(SHORT, patience=2, min_delta=0.1), tmp_path)
    assert (found.epoch, found.epochs, found.loss, found.stopped) == (3, 3, 0.93, "patience")


def test_killed_and_called_again_ends_with_the_same_bits(tmp_path):
    whole = ended(begin(tmp_path / "whole"))
    killed = begin(tmp_path / "killed", "--kill-at", "60")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    again = ended(begin(tmp_path / "killed"))
    assert again == whole
    tables = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "killed")]
    assert tables[0] == tables[1]


def test_killed_in_its_first_epoch_it_begins_anew(tmp_path):
    killed = begin(tmp_path, "--kill-at", "3")
    killed.communicate(timeout=120)
    found = run(tmp_path)
    np.testing.assert_allclose(found.state.weights, TRUTH, atol=0.1)


def test_a_finished_run_is_only_read_and_can_be_drawn_out(tmp_path):
    first = run(tmp_path)

    def fail(n: int):
        raise AssertionError("nothing is left to do")

    again = train(dataclasses.replace(line(), batch=fail), SHORT, tmp_path)
    np.testing.assert_array_equal(again.state.weights, first.state.weights)
    assert again.history == first.history
    longer = dataclasses.replace(SHORT, epochs=6, patience=6)
    with pytest.raises(UserError, match="differs in training.patience"):
        run(tmp_path, longer)
    six = run(tmp_path, dataclasses.replace(SHORT, epochs=6))
    straight = run(tmp_path / "straight", dataclasses.replace(SHORT, epochs=6))
    np.testing.assert_array_equal(six.state.weights, straight.state.weights)


def test_eight_devices_do_what_one_does(tmp_path):
    one, eight = begin(tmp_path / "one"), begin(tmp_path / "eight", devices=8)
    one, eight = ended(one), ended(eight)
    assert (one[0], eight[0]) == ("1", "8")
    np.testing.assert_allclose(weights(eight), weights(one), rtol=1e-5)


def test_two_processes_do_what_one_does(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    both = [begin(tmp_path / "two", "--port", str(port), "--process", str(n), devices=2) for n in (0, 1)]
    try:
        first, second = (ended(process) for process in both)
    finally:
        for process in both:
            process.kill()
    assert first[:2] == ("4", "2") and first == second
    np.testing.assert_allclose(weights(first), weights(ended(begin(tmp_path / "one"))), rtol=1e-5)


def test_eight_devices_share_a_step_of_networks():
    """Norms are over the whole batch, dropout is as on one device; gradients of separators are means over all examples."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.sharer"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["detector b1", "conv_tasnet", "blstm_mask", "deep_karaoke", "idempotent_masker"]
    for name, devices, difference in lines:
        assert devices == "8" and float(difference) < 1e-4, name


def test_the_step_is_compiled_once(tmp_path):
    traces = []
    task = line()

    def step(state, batch, key):
        traces.append(1)
        return task.step(state, batch, key)

    train(dataclasses.replace(task, step=step), SHORT, tmp_path)
    assert len(traces) == 1


def test_trainings_of_one_network_share_its_program(tmp_path):
    traces = []

    def step(network, state, batch, key):
        traces.append(network)
        return line(rate=network).step(state, batch, key)

    for folder, network in (("a", 0.05), ("b", 0.05), ("c", 0.01), ("d", 0.05)):
        found = train(dataclasses.replace(line(), step=fixed(step, network)), SHORT, tmp_path / folder)
        alone = train(line(rate=network), SHORT, tmp_path / f"{folder} alone")
        np.testing.assert_array_equal(found.state.weights, alone.state.weights)
    assert traces == [0.05, 0.01]


def test_a_loss_that_is_no_number_ends_it_and_keeps_what_was(tmp_path):
    with pytest.raises(Diverged, match="training loss became (inf|nan) by step"):
        run(tmp_path, rate=50.0)
    assert not (tmp_path / "metrics.csv").exists()
    losses = iter([1.0, float("nan")])
    with pytest.raises(Diverged, match="validation loss of epoch 2"):
        train(dataclasses.replace(line(), validate=lambda _: {"loss": next(losses)}), SHORT, tmp_path / "later")
    assert len((tmp_path / "later" / "metrics.csv").read_text().splitlines()) == 2
    assert run(tmp_path / "later").epochs == 4


def test_a_folder_holds_one_training(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="differs in task.rate"):
        run(tmp_path, rate=0.01)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        run(tmp_path)
    with pytest.raises(UserError, match="cannot write to"):
        run(Path("/proc/nowhere"))


def test_a_training_has_begun_with_its_first_whole_checkpoint(tmp_path):
    """One that was being written when the training was stopped is none: what comes before it would be left out."""
    assert not begun(tmp_path)
    (tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not begun(tmp_path)
    run(tmp_path)
    assert begun(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path)
    newest = tmp_path / "checkpoints" / "4"
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match="checkpoint 4 .* cannot be read"):
        run(tmp_path)


@pytest.mark.parametrize("damage", ["lost", "shorter", "no table", "other columns"])
def test_what_says_when_to_stop_must_be_there(tmp_path, damage):
    run(tmp_path, dataclasses.replace(SHORT, epochs=3))
    metrics = tmp_path / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    damaged = {"shorter": "".join(lines[:2]), "no table": "\0\1", "other columns": "a,b\n1,2\n3,4\n5,6\n"}
    if damage == "lost":
        metrics.unlink()
    else:
        metrics.write_text(damaged[damage])
    with pytest.raises(UserError, match="does not list all 3 epochs"):
        run(tmp_path)


def test_fewer_epochs_than_were_done_are_refused(tmp_path):
    run(tmp_path)
    told = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="of 4 epochs, not of 2; ask for at least as many"):
        run(tmp_path, dataclasses.replace(SHORT, epochs=2))
    assert (tmp_path / "config.json").read_text() == told
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="of 4 epochs, not of 2"):
        run(tmp_path, dataclasses.replace(SHORT, epochs=2))


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    import orbax.checkpoint

    run(tmp_path, dataclasses.replace(SHORT, epochs=2))
    with monkeypatch.context() as patched:
        patched.setattr(orbax.checkpoint.CheckpointManager, "save", lambda *_, **__: 1 / 0)
        with pytest.raises(UserError, match="cannot write the checkpoint 3 .*epochs before it are kept"):
            run(tmp_path)
    assert run(tmp_path).history == run(tmp_path / "whole").history


def test_events_that_cannot_be_written_cost_nothing(tmp_path, monkeypatch):
    """Nor do they hide what else has gone wrong: the table has the same numbers."""
    from tensorboardX.event_file_writer import EventsWriter

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, "flush", full)
    assert len(run(tmp_path).history) == 4 and len((tmp_path / "metrics.csv").read_text().splitlines()) == 5
    with pytest.raises(Diverged):
        run(tmp_path / "other", rate=50.0)


def test_a_batch_that_no_device_can_share_is_refused(tmp_path, monkeypatch):
    from bayessep.train import _Devices

    across = _Devices()
    monkeypatch.setattr(across, "count", 3)
    with pytest.raises(UserError, match="16 cannot be divided among 3 devices"):
        across.divide({"x": np.zeros((16, 2))})


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"steps_per_epoch": 0}, {"patience": 0}, {"min_delta": -1.0}, {"seed": -1}, {"average": 1.0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Training(**wrong)
