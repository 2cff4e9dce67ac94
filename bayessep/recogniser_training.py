"""Training of recognisers on speech with transcripts: the recipe, and the task for `bayessep.train`.

New utterances are drawn for every step. Mixed with music as in separator training (`separator_training`), they give the mixture
ASR of paper 001; without music, its clean ASR (section IV-B).
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
"""Sample rate of all training data, in hertz."""
NOISE = (-70.0, -35.0)
"""Range of the level of white noise relative to the utterance, in dB: real pauses are noisy, but inserted gaps are silent."""
TOGETHER = 4
"""Maximum batch size in validation."""
SUBWORDS = {"paper": PRESETS["paper"].labels}
"""Presets with subwords, and how many at most; others have characters."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a recogniser training, apart from the recordings: the keys of a recipe file, and the flags.

    Attributes:
        preset: one of `PRESETS`, the sizes of the network.
        subwords: size of a byte-pair vocabulary; 0 for the characters of the transcripts, -1 for what belongs to the preset.
        only: allowed words, separated by spaces; recordings with other words are left out. ``digits`` stands for zero to nine.
        joined: maximum number of a speaker's recordings that are concatenated: words recorded singly become sentences.
        seconds: longest utterance; longer recordings are left out.
        mixture: mix utterances with music.
        snr_mean, snr_deviation: mean and standard deviation of the speech-to-music ratio, in decibels.
        speed: largest factor by which recordings are sped up or slowed down.
        rate: learning rate of Adam.
        falls: decay the learning rate to zero by the last epoch, along half a cosine.
        batch: utterances per step.
        held: number of validation utterances.
        epochs, steps_per_epoch, patience, min_delta, seed, average: `Training`.

    Raises:
        UserError: a name is unknown, or a number is out of range.
    """

    preset: str = "small"
    subwords: int = -1
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
        if self.subwords < -1:
            raise UserError(f"subwords is {self.subwords}, but must be at least -1.")
        if not 1 <= self.seconds <= attention_asr.SECONDS:
            raise UserError(f"seconds is {self.seconds}, but must be from 1 to {attention_asr.SECONDS}.")
        if not 1 <= self.speed <= 2:
            raise UserError(f"speed is {self.speed}, but must be from 1 to 2.")
        check_ratio(self.snr_mean, self.snr_deviation)
        _ = self.training, self.config(PRESETS[self.preset].labels)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of `only`, spelled as in transcripts."""
        named = self.only.lower().replace(",", " ").split()
        return tuple(word for name in named for word in (spoken.DIGITS if name == "digits" else (name,)))

    @property
    def size(self) -> int:
        """Size of the vocabulary to learn, as `vocabulary.learned` takes it."""
        return SUBWORDS.get(self.preset, vocabulary.CHARACTERS) if self.subwords < 0 else self.subwords

    @property
    def training(self) -> Training:
        """Length and stopping rule of the training."""
        return training_of(self)

    def config(self, labels: int) -> AttentionAsr:
        """Return the settings of the network for a number of labels."""
        steps = self.epochs * self.steps_per_epoch if self.falls else 0
        return dataclasses.replace(PRESETS[self.preset], labels=labels, rate=self.rate, steps=steps)


# --- training data -------------------------------------------------------------------------------------------------------


class Material(NamedTuple):
    """Training data of a recogniser: speech, and music if it learns from mixtures."""

    speech: list[Spoken]
    music: list[Item]


def about_material(of: Material) -> dict[str, Any]:
    """Return `about_items` of training data, with a digest of the transcripts."""
    return about_items(of) | {"words": hashlib.sha256("\n".join(one.words for one in of.speech).encode()).hexdigest()}


class _Alone(NamedTuple):
    speech: list[Spoken]


def divided(of: Material, share: float, seed: int) -> tuple[Material, Material]:
    """Split off `share` for validation, keeping speakers and artists whole if there are several.

    Raises:
        UserError: as `divide`.
    """
    if of.music:
        return divide(of, share, seed)
    learn, held = divide(_Alone(of.speech), share, seed)
    return Material(learn.speech, []), Material(held.speech, [])


def check_material(recipe: Recipe, *parts: Material) -> None:
    """Check that a recipe with mixtures has music.

    Raises:
        UserError: there is none.
    """
    if recipe.mixture and not all(part.music for part in parts):
        raise UserError("mixtures need music, and all that was given is silent or shorter than 0.1 s; give other recordings.")


def batch_of(made: Utterances, words: bytes, most: int) -> Batch:
    """Make a batch of utterances, with labels padded to `most`.

    Raises:
        UserError: an utterance has more labels.
    """
    labels = [vocabulary.labels_of(words, text) for text in made.words]
    if (longest := max(map(len, labels))) > most:
        raise UserError(f"an utterance has {longest} labels, but at most {most} fit.")
    padded = np.array([one + [END] * (most - len(one)) for one in labels])
    return Batch(made.waveform, made.samples, padded, np.array([len(one) for one in labels]))


def drawn(
    recipe: Recipe, of: Material, count: int, ratio: Callable[[np.random.Generator], float], rng: np.random.Generator
) -> tuple[Utterances, Float[np.ndarray, "B N"]]:
    """Draw utterances with noise, and with music if the recipe is for mixtures; also return them without music."""
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
    """Draw the utterances of training step n; also return them without music."""

    def ratio(rng: np.random.Generator) -> float:
        return rng.normal(recipe.snr_mean, recipe.snr_deviation)

    return drawn(recipe, learn, recipe.batch, ratio, np.random.default_rng([recipe.seed, 2, n]))


def exam(recipe: Recipe, held: Material) -> tuple[Utterances, Float[np.ndarray, "B N"]]:
    """Draw the validation utterances, at 0 dB and at original speed; also return them without music."""
    still = dataclasses.replace(recipe, speed=1.0)
    return drawn(still, held, recipe.held, lambda _: 0.0, np.random.default_rng([recipe.seed, 3]))


Several = TypeVar("Several", bound=tuple[Any, ...])


def portions(every: Several) -> list[Several]:
    """Split a batch into equal ones of `TOGETHER`, or of fewer examples if that does not divide it."""
    fields: Any = every
    count = len(fields[0])
    size = math.gcd(count, TOGETHER)
    return [type(fields)(*(part[k : k + size] for part in fields)) for k in range(0, count, size)]


def most_labels(recipe: Recipe, learn: Material, held: Material, words: bytes) -> int:
    """Return the maximum number of labels per utterance, so that one compiled program serves all.

    Raises:
        UserError: a set has no recording that is short enough, or the number exceeds `attention_asr.LIMIT`.
    """
    fit = [*spoken.fitting(learn.speech, recipe.seconds, recipe.speed), *spoken.fitting(held.speech, recipe.seconds)]
    longest = max(len(vocabulary.labels_of(words, one.words)) for one in fit)
    most = longest if recipe.joined == 1 else 2 + recipe.joined * (longest - 2)
    if most > attention_asr.LIMIT:
        raise UserError(f"an utterance may have {most} labels, but at most {attention_asr.LIMIT} fit; join fewer recordings.")
    return most


def task(
    recipe: Recipe, words: bytes, learn: Material, held: Material, about: Mapping[str, Any] = {}, begun: State | None = None
) -> Task[State, Batch]:
    """Build the task of the training loop for a vocabulary, `words`.

    `about` identifies the training data: it is compared when a training is resumed. `begun` is the state of an earlier training to
    start from.

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
        return found | {"loss": found["cross_entropy"]}  # because the loss itself is summed over the batch

    def init(key: Key[Array, ""]) -> State:
        if begun is None:
            return attention_asr.init(config, key)
        return attention_asr.again(config, jax.tree.map(jnp.array, begun))  # copies: steps donate their arguments

    settings = settings_besides(recipe) | {"config": asdict(config), "vocabulary": hashlib.sha256(words).hexdigest()}
    settings |= started_from(begun and (begun.parameters, begun.statistics))
    return Task(init, fixed(attention_asr.step, config), batch, validate, settings | dict(about))
