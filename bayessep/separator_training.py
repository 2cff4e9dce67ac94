"""Train a waveform separator on recordings: the recipe, data augmentation, and the task for `bayessep.train`.

Every step draws new mixtures: a segment of speech, one of music, and a ratio from a normal distribution, as in paper 001
(section IV-A). Validation uses the same mixtures every time, at 0 dB.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from bayessep import neural
from bayessep.detector_data import Item, Items, gain_of, one_of
from bayessep.errors import UserError
from bayessep.models.blstm_mask import BlstmMask
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.models.waveform_separation import Batch, Metrics, State, again, losses
from bayessep.resampling import played
from bayessep.train import Task, Training, fixed, means, settings_besides, started_from, training_of
from bayessep.waveforms import check_one_channel

RATE = 16_000
"""Sample rate of all training data, in Hz."""

NETWORKS: dict[str, ModuleType] = {name: module for name, (module, _) in neural.NETWORKS.items()}
"""Modules of waveform separators, by the names of their verbs."""


def check_ratio(mean: float, deviation: float) -> None:
    """Check the parameters of the normal distribution of ratios, in decibels.

    Raises:
        UserError: the mean is not from -100 to 100, or the deviation not from 0 to 100.
    """
    if not (-100 <= mean <= 100 and 0 <= deviation <= 100):
        given = f"snr_mean is {mean:g} and snr_deviation {deviation:g}"
        raise UserError(f"{given}; the mean must be from -100 to 100 dB, and the deviation at least 0 and at most 100.")


@dataclass(frozen=True)
class Recipe:
    """Training recipe: everything a training depends on except the recordings; its fields are keys of a file and flags.

    Attributes:
        network: one of `NETWORKS`.
        preset: preset of the network's sizes.
        mask, norm, causal, consistent: as in `ConvTasNet`. An empty mask or norm takes the preset's (a causal network has the norm
            ``cumulative`` by default); False leaves `consistent` as in the preset.
        precision: as in `ConvTasNet` and `BlstmMask`.
        rate: learning rate of Adam.
        falls: decay the rate to zero at the last epoch, along half a cosine.
        batch: mixtures per step.
        seconds: length of a mixture.
        snr_mean, snr_deviation: mean and standard deviation of the speech-to-music ratio in decibels.
        varied: augment the data by changing speed and adding other music to some of the music (`varied`): a few recordings have few
            voices and instruments, which a network would memorise.
        held: number of validation mixtures.
        epochs, steps_per_epoch, patience, min_delta, seed, average: `Training`.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    network: str = "conv-tasnet"
    preset: str = "small"
    mask: str = ""
    norm: str = ""
    causal: bool = False
    consistent: bool = False
    precision: str = "float32"
    rate: float = 1e-3
    falls: bool = False
    batch: int = 8
    seconds: float = 4.0
    snr_mean: float = 0.0
    snr_deviation: float = 5.0
    varied: bool = True
    held: int = 64
    epochs: int = 100
    steps_per_epoch: int = 200
    patience: int = 10
    min_delta: float = 0.0
    seed: int = 0
    average: float = 0.99

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise UserError(f"there is no network {self.network!r}; choose one of {', '.join(NETWORKS)}.")
        if self.preset not in NETWORKS[self.network].PRESETS:
            raise UserError(f"{self.network} has no preset {self.preset!r}; choose {', '.join(NETWORKS[self.network].PRESETS)}.")
        for name in ("batch", "held"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not 0.1 <= self.seconds <= 600:
            raise UserError(f"seconds is {self.seconds}, but must be from 0.1 to 600.")
        check_ratio(self.snr_mean, self.snr_deviation)
        _ = self.config, self.training  # each checks its own numbers

    @property
    def config(self) -> ConvTasNet | BlstmMask:
        """Config of the network."""
        preset = NETWORKS[self.network].PRESETS[self.preset]
        steps = self.epochs * self.steps_per_epoch if self.falls else 0
        if self.network != "conv-tasnet":
            if self.mask or self.norm or self.causal or self.consistent:
                raise UserError(f"mask, norm, causal and consistent apply to conv-tasnet, not to {self.network}.")
            return dataclasses.replace(preset, precision=self.precision, rate=self.rate, steps=steps)
        norm = self.norm or ("cumulative" if self.causal else preset.norm)
        return dataclasses.replace(
            preset,
            mask=self.mask or preset.mask,
            norm=norm,
            causal=self.causal,
            consistent=self.consistent or preset.consistent,
            precision=self.precision,
            rate=self.rate,
            steps=steps,
        )

    @property
    def training(self) -> Training:
        """Training schedule."""
        return training_of(self)


SPEEDS = {"speech": 1.15, "music": 1.5}
"""Largest speed-up and slow-down factors (`resampling.played`)."""
JOINED = 0.3
"""Probability that other music is added to the music."""


def varied(items: Items, n: int, rng: np.random.Generator) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Draw a segment of speech and one of music, each at a random speed, the music sometimes with other music."""
    return _played(items.speech, n, SPEEDS["speech"], rng), accompaniment(items.music, n, rng)


def accompaniment(music: Sequence[Item], n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Draw a segment of music at a random speed, sometimes with other music added."""
    found = _played(music, n, SPEEDS["music"], rng)
    if rng.random() < JOINED:
        found = mixed(found, _played(music, n, SPEEDS["music"], rng), rng.normal(0, 5)).sum(0)
    return found


def _played(own: Sequence[Item], n: int, fastest: float, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    speed = fastest ** rng.uniform(-1, 1)
    return played(stretch(own, int(n * speed) + 2, rng), speed)[:n]


def stretch(items: Sequence[Item], n: int, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Draw a segment of n samples; recordings are drawn in proportion to their length, and short ones are looped.

    A segment that turns out to be a pause is drawn again, up to 20 times in all.
    """
    found = np.zeros(n, np.float32)
    for _ in range(20):
        chosen = one_of(items, rng)
        check_one_channel(samples := chosen.samples, chosen.name)
        first = rng.integers(max(1, len(samples) - n + 1))
        found = np.take(samples, np.arange(first, first + n), mode="wrap")
        if np.mean(found**2) > 1e-3 * np.vdot(samples, samples) / len(samples):  # the mean square of an hour, without a copy
            break
    return found.astype(np.float32)


def mixed(speech: Float[np.ndarray, " N"], music: Float[np.ndarray, " N"], snr_db: float | int) -> Float[np.ndarray, "2 N"]:
    """Scale speech and music to an energy ratio in decibels, and so that their sum has a mean square of 1."""
    both = np.stack([speech, gain_of(speech, music, snr_db) * music])
    return (both / np.float32(math.sqrt(np.mean(both.sum(0) ** 2)) + 1e-9)).astype(np.float32)


def drawn(
    items: Items,
    count: int,
    seconds: float,
    ratio: Callable[[np.random.Generator], float],
    rng: np.random.Generator,
    vary: bool = False,
) -> Batch:
    """Draw a batch of mixtures from recordings."""
    n, made = round(seconds * RATE), []
    for _ in range(count):
        both = varied(items, n, rng) if vary else (stretch(items.speech, n, rng), stretch(items.music, n, rng))
        made.append(mixed(*both, ratio(rng)))
    sources = np.stack(made)
    return Batch(sources.sum(1), sources)


@partial(jax.jit, static_argnums=(0, 1))
def _measured(network: str, config: Any, parameters: PyTree, batch: Batch) -> Metrics:
    """Validation metrics of a batch."""
    return losses(partial(NETWORKS[network].separated, config), parameters, batch)


def task(
    recipe: Recipe, learn: Items, held: Items, about: Mapping[str, Any] = {}, begun: PyTree | None = None
) -> Task[State, Batch]:
    """Task for `train.train`. `about` describes the items, and is compared when a training is resumed.

    `begun` are initial parameters, from an earlier training of the same network.
    """
    network, config = NETWORKS[recipe.network], recipe.config

    def batch(n: int) -> Batch:
        rng = np.random.default_rng([recipe.seed, 2, n])
        ratio = partial(np.random.Generator.normal, loc=recipe.snr_mean, scale=recipe.snr_deviation)
        return drawn(learn, recipe.batch, recipe.seconds, ratio, rng, recipe.varied)

    @cache
    def validation() -> list[Batch]:
        every = drawn(held, recipe.held, recipe.seconds, lambda _: 0.0, np.random.default_rng([recipe.seed, 3]))
        size = math.gcd(recipe.held, 4)
        return [Batch(*(part[k : k + size] for part in every)) for k in range(0, recipe.held, size)]

    def validate(state: State) -> dict[str, float]:
        return means([_measured(recipe.network, config, state.parameters, one) for one in validation()])

    def init(key: Key[Array, ""]) -> State:
        if begun is None:
            return network.init(config, key)
        return again(jax.tree.map(jnp.array, begun), config.rate, config.steps)  # copies, as steps donate their arguments

    settings = settings_besides(recipe) | {"config": asdict(config)} | started_from(begun)
    return Task(init, fixed(network.step, config), batch, validate, settings | dict(about))
