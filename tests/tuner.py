"""A process that tunes a tiny separator and recogniser: ``python -m tests.tuner FOLDER`` prints devices, weights and losses."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from bayessep.models import joint_asr
from bayessep.models.joint_asr import Batch
from bayessep.train import Task, Training, train
from tests.test_joint_asr import JOINT


def batch(n: int) -> Batch:
    """Four utterances of unequal length."""
    rng = np.random.default_rng(n)
    speech, music = rng.normal(size=(2, 4, 160)).astype(np.float32)
    samples, length = rng.integers(90, 161, 4), rng.integers(2, 5, 4)
    return Batch(speech + music, speech, samples, rng.integers(0, 4, (4, 4)), length)


if __name__ == "__main__":
    config = dataclasses.replace(JOINT, back=dataclasses.replace(JOINT.back, dropout=0.0))

    def step(state: joint_asr.State, of: Batch, key: jax.Array) -> tuple[joint_asr.State, dict[str, jax.Array]]:
        state, found = joint_asr.step(config, state, of, key)
        return state, found._asdict()

    task = Task(lambda key: joint_asr.init(config, key), step, batch, lambda state: {"loss": 0.0}, {})
    found = train(task, Training(epochs=1, steps_per_epoch=3), Path(sys.argv[1]))
    learned = np.concatenate([np.asarray(x, np.float32).ravel() for x in jax.tree.leaves(found.state[:3])])
    print(jax.device_count(), learned.tobytes().hex(), json.dumps(found.history[0]), sep="\n", flush=True)
