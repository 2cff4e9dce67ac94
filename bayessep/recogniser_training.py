"""From speech with transcripts to a trained recogniser: the recipe, and what `bayessep.train` is given to do.

Utterances are drawn anew for every step. With music they are mixed as the separators of paper 001 learn (`separator_training`): a
mixture ASR; without, a clean one (section IV-B).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bayessep import recognition, spoken, vocabulary
from bayessep.detector_data import Item, about_items, gain_of
from bayessep.detector_training import divide
from bayessep.errors import UserError
from bayessep.models import attention_asr
from bayessep.models.attention_asr import END, PRESETS, AttentionAsr, Batch, State
from bayessep.separator_training import accompaniment, check_ratio
from bayessep.spoken import Spoken, Utterances
from bayessep.train import Task, Training, fixed, means, settings_besides, started_from, training_of

RATE = recognition.RATE
"""Samples a second of everything that is learned from."""
NOISE = (-70.0, -35.0)
"""Level of white noise that utterances come with, in decibels of their own: recordings pause in noise, and gaps are silent."""
TOGETHER = 4
"""Utterances that are validated at a time."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a training of a recogniser depends on, recordings apart: the keys of a file, and the flags.

    Attributes:
        preset: of its sizes.
        subwords: labels of the vocabulary, byte pairs; 0 for the characters of the transcripts.
        only: words, with spaces between them; recordings in which others are said are left out. ``digits`` are zero to nine.
        joined: recordings of a speaker that are said one after another, at most: words that were recorded alone become sentences.
        seconds: of the longest utterance; longer recordings are left out.
        mixture: mix them with music.
        snr_mean, snr_deviation: of the ratio of speech to music, in decibels.
        speed: recordings are played up to so many times faster or slower.
        rate: of Adam.
        falls: whether the rate falls to nothing until the last epoch, along half a cosine.
        batch: utterances of a step.
        held: utterances to validate with.
        epochs, steps_per_epoch, patience, min_delta, seed, average: `Training`.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    preset: str = "small"
    subwords: int = 0
    only: str = ""
    joined: int = 1
    seconds: float = 20.0
    mixture: bool = False
    snr_mean: float = 0.0
    snr_deviation: float = 5.0
    speed: float = 1.15
    rate: float = 1e-3
    falls: bool = False
    batch: int = 16
    held: int = 64
    epochs: int = 100
    steps_per_epoch: int = 200
    patience: int = 10
    min_delta: float = 0.0
    seed: int = 0
    average: float = 0.99

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"attention-asr has no preset {self.preset!r}; choose {', '.join(PRESETS)}.")
        for name in ("joined", "batch", "held"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.subwords < 0:
            raise UserError(f"subwords is {self.subwords}, but must be at least 0.")
        if not 1 <= self.seconds <= attention_asr.SECONDS:
            raise UserError(f"seconds is {self.seconds}, but must be from 1 to {attention_asr.SECONDS}.")
        if not 1 <= self.speed <= 2:
            raise UserError(f"speed is {self.speed}, but must be from 1 to 2.")
        check_ratio(self.snr_mean, self.snr_deviation)
        _ = self.training, self.config(PRESETS[self.preset].labels)

    @property
    def words(self) -> tuple[str, ...]:
        """Those of `only`, one by one, as transcripts have them."""
        return spoken.DIGITS if self.only == "digits" else tuple(self.only.lower().replace(",", " ").split())

    @property
    def training(self) -> Training:
        """How long it is trained."""
        return training_of(self)

    def config(self, labels: int) -> AttentionAsr:
        """The network, for so many labels."""
        steps = self.epochs * self.steps_per_epoch if self.falls else 0
        return dataclasses.replace(PRESETS[self.preset], labels=labels, rate=self.rate, steps=steps)


# --- what is learned from ------------------------------------------------------------------------------------------------


class Material(NamedTuple):
    """What a recogniser learns from: speech, and music where it is to hear it through."""

    speech: list[Spoken]
    music: list[Item]


def about_material(of: Material) -> dict[str, Any]:
    """What is learned from, transcripts included, as `about_items`."""
    return about_items(of) | {"words": hashlib.sha256("\n".join(one.words for one in of.speech).encode()).hexdigest()}


class _Alone(NamedTuple):
    speech: list[Spoken]


def divided(of: Material, share: float, seed: int) -> tuple[Material, Material]:
    """What to learn from, and so much of it to validate with: whole speakers and artists, as far as there are several.

    Raises:
        UserError: as `divide`.
    """
    if of.music:
        return divide(of, share, seed)
    learn, held = divide(_Alone(of.speech), share, seed)
    return Material(learn.speech, []), Material(held.speech, [])


def check_material(recipe: Recipe, *parts: Material) -> None:
    """Where music is to be heard, there must be some.

    Raises:
        UserError: there is none.
    """
    if recipe.mixture and not all(part.music for part in parts):
        raise UserError("mixtures need music, and all that was given is silent or shorter than 0.1 s; give other recordings.")


def batch_of(made: Utterances, words: bytes, most: int) -> Batch:
    """Utterances and their labels, of which there are `most` at most.

    Raises:
        UserError: one has more.
    """
    labels = [vocabulary.labels_of(words, text) for text in made.words]
    if (longest := max(map(len, labels))) > most:
        raise UserError(f"an utterance has {longest} labels, but {most} are the most.")
    padded = np.array([one + [END] * (most - len(one)) for one in labels])
    return Batch(made.waveform, made.samples, padded, np.array([len(one) for one in labels]))


def drawn(
    recipe: Recipe, of: Material, count: int, ratio: Callable[[np.random.Generator], float], rng: np.random.Generator
) -> tuple[Utterances, Float[np.ndarray, "B N"]]:
    """Utterances, with noise, and with music where the recipe wants it; and the same without music."""
    made = spoken.said(of.speech, count, recipe.seconds, recipe.joined, rng, recipe.speed)
    clean, heard = np.zeros_like(made.waveform), np.zeros_like(made.waveform)
    for n, length in enumerate(made.samples.tolist()):
        speech = made.waveform[n, :length]
        level = 10 ** (rng.uniform(*NOISE) / 20) * np.sqrt(np.mean(speech**2))
        clean[n, :length] = speech + level * rng.standard_normal(length)
        heard[n] = clean[n]
        if recipe.mixture:
            music = accompaniment(of.music, length, rng)
            heard[n, :length] += gain_of(clean[n, :length], music, ratio(rng)) * music
    return made._replace(waveform=heard), clean


def lesson(recipe: Recipe, learn: Material, n: int) -> tuple[Utterances, Float[np.ndarray, "B N"]]:
    """What is drawn for step n, and the same without music."""

    def ratio(rng: np.random.Generator) -> float:
        return rng.normal(recipe.snr_mean, recipe.snr_deviation)

    return drawn(recipe, learn, recipe.batch, ratio, np.random.default_rng([recipe.seed, 2, n]))


def exam(recipe: Recipe, held: Material) -> tuple[Utterances, Float[np.ndarray, "B N"]]:
    """What is validated with, at 0 dB and at the speed of the recordings, and the same without music."""
    still = dataclasses.replace(recipe, speed=1.0)
    return drawn(still, held, recipe.held, lambda _: 0.0, np.random.default_rng([recipe.seed, 3]))


Several = TypeVar("Several", bound=tuple[Any, ...])


def portions(every: Several) -> list[Several]:
    """A batch in batches of `TOGETHER`, or of fewer that divide it."""
    fields: Any = every
    count = len(fields[0])
    size = math.gcd(count, TOGETHER)
    return [type(fields)(*(part[k : k + size] for part in fields)) for k in range(0, count, size)]


def most_labels(recipe: Recipe, learn: Material, held: Material, words: bytes) -> int:
    """Labels of an utterance, at most: one program serves all.

    Raises:
        UserError: no recording of one of them is short enough, or there are more than `attention_asr.LIMIT`.
    """
    fit = [*spoken.fitting(learn.speech, recipe.seconds, recipe.speed), *spoken.fitting(held.speech, recipe.seconds)]
    longest = max(len(vocabulary.labels_of(words, one.words)) for one in fit)
    most = longest if recipe.joined == 1 else 2 + recipe.joined * (longest - 2)
    if most > attention_asr.LIMIT:
        raise UserError(f"an utterance may have {most} labels, but {attention_asr.LIMIT} are the most; join fewer recordings.")
    return most


def task(
    recipe: Recipe, words: bytes, learn: Material, held: Material, about: Mapping[str, Any] = {}, begun: State | None = None
) -> Task[State, Batch]:
    """What the loop trains, with a vocabulary. `about` says what is learned from: it is compared when a training is gone on with.

    `begun` is an earlier training to begin with.

    Raises:
        UserError: as `check_material`.
    """
    check_material(recipe, learn, held)
    config, most = recipe.config(vocabulary.size_of(words)), most_labels(recipe, learn, held, words)

    def batch(n: int) -> Batch:
        return batch_of(lesson(recipe, learn, n)[0], words, most)

    @cache
    def validation() -> list[Batch]:
        return portions(batch_of(exam(recipe, held)[0], words, most))

    def validate(state: State) -> dict[str, float]:
        found = means([attention_asr.measure(config, state, one) for one in validation()])
        return found | {"loss": found["cross_entropy"]}  # for the sum of a batch depends on its size

    def init(key: Key[Array, ""]) -> State:
        if begun is None:
            return attention_asr.init(config, key)
        return attention_asr.again(config, jax.tree.map(jnp.array, begun))  # copies: steps take what they are given

    settings = settings_besides(recipe) | {"config": asdict(config), "vocabulary": hashlib.sha256(words).hexdigest()}
    settings |= started_from(begun and (begun.parameters, begun.statistics))
    return Task(init, fixed(attention_asr.step, config), batch, validate, settings | dict(about))
