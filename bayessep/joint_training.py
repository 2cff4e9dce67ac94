"""Joint tuning of a separator and a recogniser on utterances with music (paper 001, section IV-C): recipe and training task.

It uses the same utterances as mixture ASR (`recogniser_training`), and the same loop. With a weight of 0, only the separator
learns, from the same speech.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from bayessep import recogniser_training, vocabulary
from bayessep.errors import UserError
from bayessep.models import joint_asr
from bayessep.models.joint_asr import Batch, JointAsr, State
from bayessep.recogniser_training import Material, batch_of, check_material, exam, lesson, most_labels, portions
from bayessep.separator_training import NETWORKS
from bayessep.spoken import Utterances
from bayessep.train import Task, Training, fixed, means, settings_besides, started_from


@dataclass(frozen=True)
class Recipe:
    """Tuning recipe: everything that tuning depends on except the recordings and the initial networks.

    Attributes:
        utterances: how utterances are drawn, the sizes of the recogniser, and the schedule and learning rate of the tuning.
        network, preset: name of the separator, and preset of its sizes.
        tuned, weight: `JointAsr`.

    Raises:
        UserError: a name is not known, a number is out of range, or utterances have no music.
    """

    utterances: recogniser_training.Recipe
    network: str = "conv-tasnet"
    preset: str = "small"
    tuned: str = joint_asr.BOTH
    weight: float = 2.0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UserError(f"there is no network {self.network!r}; choose one of {', '.join(NETWORKS)}.")
        if self.preset not in NETWORKS[self.network].PRESETS:
            raise UserError(f"{self.network} has no preset {self.preset!r}; choose {', '.join(NETWORKS[self.network].PRESETS)}.")
        if not self.utterances.mixture:
            raise UserError("utterances without music have nothing to separate; set their mixture.")
        _ = self.config(3)

    @property
    def training(self) -> Training:
        """Training schedule."""
        return self.utterances.training

    def config(self, labels: int) -> JointAsr:
        """Config of both networks, for a number of labels."""
        back = self.utterances.config(labels)
        front = NETWORKS[self.network].PRESETS[self.preset]
        return JointAsr(front, back, self.tuned, self.weight, back.rate, back.steps)


class Parts(NamedTuple):
    """Parameters of a separator and a recogniser that were trained separately."""

    front: PyTree
    back: PyTree
    statistics: PyTree


def task(
    recipe: Recipe, words: bytes, learn: Material, held: Material, parts: Parts | None = None, about: Mapping[str, Any] = {}
) -> Task[State, Batch]:
    """Task for `train.train`, as `recogniser_training.task`; it starts from `parts`, or from random networks.

    The validation loss is the cross-entropy of labels, or the separation loss if the weight of the recogniser is 0.

    Raises:
        UserError: as `check_material`.
    """
    utterances = recipe.utterances
    check_material(utterances, learn, held)
    config = recipe.config(vocabulary.size_of(words))
    most = most_labels(utterances, learn, held, words)

    def joint(made: Utterances, clean: Float[np.ndarray, "B N"]) -> Batch:
        heard, samples, *said = batch_of(made, words, most)
        return Batch(heard, clean, samples, *said)

    def batch(n: int) -> Batch:
        return joint(*lesson(utterances, learn, n))

    @cache
    def validation() -> list[Batch]:
        return portions(joint(*exam(utterances, held)))

    def validate(state: State) -> dict[str, float]:
        found = means([joint_asr.measure(config, state, one) for one in validation()])
        return found | {"loss": found["cross_entropy" if recipe.weight else "separation"]}

    def init(key: Key[Array, ""]) -> State:
        if parts is None:
            return joint_asr.init(config, key)
        return joint_asr.joined(config, *jax.tree.map(jnp.array, parts))  # copies, as steps donate their arguments

    settings = settings_besides(utterances) | {"config": asdict(config), "vocabulary": hashlib.sha256(words).hexdigest()}
    rest = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "utterances"}
    step = fixed(joint_asr.step, config)
    return Task(init, step, batch, validate, settings | rest | started_from(parts) | dict(about))
