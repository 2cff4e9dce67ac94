"""A small task for the training loop, and a process that trains it: ``python -m tests.trainer FOLDER`` prints the weights."""

import argparse
import os
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayessep.train import Task, Trained, Training, train

TRUTH = np.array([1.0, -2.0, 3.0], np.float32)


class Line(NamedTuple):
    weights: jax.Array
    optimiser: jax.Array  # velocity


class Points(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def points(n: int, size: int = 16) -> Points:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((size, 3)).astype(np.float32)
    return Points(x, x @ TRUTH + 0.1 * rng.standard_normal(size).astype(np.float32))


def line(*, rate: float = 0.05, kill_at: int | None = None, size: int = 16, steps_that_help: int = 10**9) -> Task[Line, Points]:
    """Least squares by noisy gradients with momentum; after `steps_that_help` steps the gradient points the other way."""

    def batch(n: int) -> Points:
        if n == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return points(n, size)

    def step(state: Line, batch: Points, key: jax.Array) -> tuple[Line, dict[str, jax.Array]]:
        def loss(w: jax.Array) -> jax.Array:
            return jnp.mean((batch.x @ w - batch.y) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.weights)
        velocity = 0.5 * state.optimiser + gradient + 0.01 * jax.random.normal(key, (3,))
        return Line(state.weights - rate * velocity, velocity), {"loss": value}

    def validate(state: Line) -> dict[str, float]:
        held_out = points(10**6, 64)
        return {"loss": float(np.mean((held_out.x @ np.asarray(state.weights) - held_out.y) ** 2))}

    def init(key: jax.Array) -> Line:
        return Line(jax.random.normal(key, (3,)), jnp.zeros(3))

    return Task(init, step, batch, validate, {"model": "line", "rate": rate})


SHORT = Training(epochs=4, steps_per_epoch=25, patience=4, seed=3)


def run(folder: Path, training: Training = SHORT, **options: float | int | None) -> Trained[Line]:
    return train(line(**options), training, folder)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--port", type=int)
    parser.add_argument("--process", type=int, default=0)
    given = parser.parse_args()
    if given.port is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{given.port}", 2, given.process)
    found = run(given.folder, kill_at=given.kill_at)
    print(jax.device_count(), jax.process_count(), np.asarray(found.state.weights).tobytes().hex(), found.epochs, flush=True)
