"""Training of detectors: the recipe, and the task for `bayessep.train`."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bayessep import detector_data, detector_scenes
from bayessep.detector_data import Drawing, Items, Pool
from bayessep.errors import UserError
from bayessep.features import FEATURES, Front
from bayessep.models import speech_music_detector as detector
from bayessep.models.detector_networks import Detector
from bayessep.models.speech_music_detector import Batch, State
from bayessep.singing import songs
from bayessep.train import Task, Training, fixed, settings_besides, training_of


@dataclass(frozen=True)
class Recipe:
    """Settings of a detector training, apart from the recordings: the keys of a recipe file, and the flags.

    Attributes:
        network, head, feature: `Detector.network`, `Detector.head`, `Front.feature`.
        bands: number of mel bands.
        patch: input frames of the network, 10 ms each.
        dropout, rate: `Detector.dropout`, `Detector.rate`.
        each: patches of each class per batch; for the network ``frames``, scenes per batch.
        crops, crop_seconds, augment, plain, neither, standardised: `Drawing`. The network ``frames`` is trained on scenes, which
            have the fourth class, and on levels that are not standardised: it needs `neither` and excludes `standardised`.
        songs: add as much music again with singing over it (`bayessep.singing`).
        epochs, steps_per_epoch, patience, min_delta, seed, average: `Training`.

    Raises:
        UserError: a name is unknown, a number is out of range, or two settings contradict each other.
    """

    network: str = "b3"
    head: str = "multi"
    feature: str = "LMHPS-EF"
    bands: int = 120
    patch: int = 68
    dropout: float = 0.2
    rate: float = 1e-3
    each: int = 16
    crops: int = 24
    crop_seconds: float = 20.0
    augment: bool = True
    neither: bool = False
    standardised: bool = True
    epochs: int = 50
    steps_per_epoch: int = 200
    patience: int = 5
    min_delta: float = 0.0
    seed: int = 0
    average: float = 0.0
    plain: float = 0.0
    songs: bool = False

    def __post_init__(self) -> None:
        _ = self.front, self.detector, self.drawing, self.training  # each checks its own numbers
        if self.each < 1:
            raise UserError(f"each is {self.each}, but must be at least 1.")
        if round(self.crop_seconds * self.front.sample_rate) // self.front.hop < self.patch:
            raise UserError(f"crops of {self.crop_seconds} s are shorter than a patch of {self.patch} frames; make them longer.")
        feature = FEATURES[self.feature]
        if not self.standardised and not feature.log:
            raise UserError(f"standardised = false needs a feature in decibels, and {self.feature} is not; use LMHPS-EF or LMS.")
        if self.network in ("b4", "b4-nofc") and feature.mel:
            raise UserError(f"{self.network} learns its own mel bands, and {self.feature} has them already; use LS or LHPS-EF.")
        if self.network == "frames":
            if not self.neither or self.standardised:
                needs = "the network frames needs neither = true and standardised = false"
                raise UserError(f"{needs}: it is made for recordings as they come.")

    @property
    def front(self) -> Front:
        """Settings of the features. Levels that are not standardised are not clipped relative to the maximum either.

        Levels of bins, the input of b4, come from a transform of 512 samples.
        """
        n_fft = 512 if self.feature in ("LS", "LHPS-EF") else 0
        return Front(feature=self.feature, bands=self.bands, range_db=80.0 if self.standardised else 200.0, n_fft=n_fft)

    @property
    def detector(self) -> Detector:
        """Settings of the network."""
        parts, classes = len(FEATURES[self.feature].which), 4 if self.neither else 3
        return Detector(self.network, self.head, self.front.width, parts, self.patch, self.dropout, classes, self.rate)

    @property
    def drawing(self) -> Drawing:
        """How the sound of an epoch is drawn."""
        return Drawing(self.crops, self.crop_seconds, self.patch, self.augment, self.neither, self.standardised, self.plain)

    @property
    def training(self) -> Training:
        """Length and stopping rule of the training."""
        return training_of(self)


PAPER = Recipe(augment=False, rate=0.0, steps_per_epoch=detector.PAPERS_EPOCH, min_delta=0.01)
"""b3 as trained in paper 003, except for the data: new crops every epoch, 8 minutes per class."""


R = TypeVar("R")


def read_recipe(path: str | Path | None, given: Mapping[str, Any] = {}, kind: type[R] = Recipe) -> R:
    """Read a recipe from a TOML or JSON file, with `given` overriding it; of a detector, or of another `kind`.

    Raises:
        UserError: the file cannot be read, or has an unknown key or a value of the wrong type.
    """
    return kind(**read_settings(path, kind) | dict(given))


def read_settings(path: str | Path | None, kind: type) -> dict[str, Any]:
    """Return the settings in a TOML or JSON file for a recipe of this kind; raises as `read_recipe`."""
    found: dict[str, Any] = {}
    kinds = {f.name: f.default.__class__ for f in dataclasses.fields(cast(Any, kind))}
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
            found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); give a TOML or JSON file.") from None
        except ValueError as error:
            raise UserError(f"{path} is neither TOML nor JSON ({error}).") from None
        for name, value in found.items():
            if name not in kinds:
                raise UserError(f"{path}: {name!r} is not a setting; the settings are {', '.join(kinds)}.")
            if type(value) is int and kinds[name] is float:
                found[name] = float(value)
            elif type(value) is not kinds[name]:
                raise UserError(f"{path}: {name} is {value!r}, but must be of the kind {kinds[name].__name__}.")
    return found


Parts = TypeVar("Parts", bound=tuple[list[Any], ...])


def divide(items: Parts, share: float, seed: int) -> tuple[Parts, Parts]:
    """Split items into a training set and a validation set with about `share` of each class, keeping split groups whole.

    A class with a single group is split within it. `items` is any named tuple of lists whose items have a `group`.

    Raises:
        UserError: a class has fewer than two items.
    """
    rng = np.random.default_rng(seed)
    parts = []
    classes = cast(Any, items)._asdict().items()
    for what, own in classes:
        if len(own) < 2:
            raise UserError(f"there is too little {what} for training and validation; give at least two recordings of it.")
        groups: dict[str, list[Any]] = {}
        for item in own:
            groups.setdefault(item.group, []).append(item)
        most = min(max(1, round(share * len(own))), len(own) - 1)
        held: list[Any] = []
        for name in rng.permutation(sorted(groups)):
            if len(held) + len(groups[name]) <= most:
                held += groups[name]
        if not held:
            held = own[-most:] if len(groups) == 1 else min(groups.values(), key=len)
        kept = {id(item) for item in held}
        parts.append(([item for item in own if id(item) not in kept], held))
    made = cast(Any, type(items))
    return made(*(learn for learn, _ in parts)), made(*(held for _, held in parts))


def _step(
    config: Detector, steps_per_epoch: int, state: State, batch: Batch, key: Key[Array, ""]
) -> tuple[State, dict[str, Float[Array, ""]]]:
    state, found = detector.step(config, state, batch, key, steps_per_epoch=steps_per_epoch)
    return state, {"loss": detector.total(found)} | found._asdict()


def task(recipe: Recipe, learn: Items, held: Items, about: Mapping[str, Any] = {}) -> Task[State, Batch]:
    """Build the task of the training loop. An epoch's sound depends on the seed and the epoch's number; validation data are fixed.

    `about` identifies the items: it is compared when a training is resumed.
    """
    config, front, drawing = recipe.detector, recipe.front, recipe.drawing

    @cache
    def material() -> tuple[Items, Items]:  # made on demand: a finished training needs none
        if not recipe.songs:
            return learn, held
        rngs = [np.random.default_rng([recipe.seed, 5, n]) for n in range(2)]
        sung = [songs(of, front.sample_rate, rng) for of, rng in zip((learn, held), rngs, strict=True)]
        return learn._replace(music=learn.music + sung[0]), held._replace(music=held.music + sung[1])

    frames = recipe.network == "frames"
    draw = detector_scenes.draw_scenes if frames else detector_data.draw_pool

    @lru_cache(1)
    def pool(epoch: int) -> Pool:
        return draw(material()[0], front, drawing, np.random.default_rng([recipe.seed, 1, epoch]))

    def batch(n: int) -> Batch:
        rng, drawn = np.random.default_rng([recipe.seed, 2, n]), pool(n // recipe.steps_per_epoch)
        if frames:
            return detector_scenes.scene_batch(drawn, recipe.each, rng)
        return detector_data.draw_batch(drawn, recipe.patch, recipe.each, rng)

    @lru_cache(1)
    def validation() -> list[Batch]:
        drawn = draw(material()[1], front, drawing, np.random.default_rng([recipe.seed, 3]))
        if frames:  # every scene once, in batches of equal size
            parts = [Pool(*(part[k : k + 3] for part in drawn)) for k in range(0, len(drawn.label), 3)]
            return [detector_scenes.scene_batch(part, 3, np.random.default_rng([recipe.seed, 4])) for part in parts]
        return [detector_data.draw_batch(drawn, recipe.patch, 64, np.random.default_rng([recipe.seed, 4, n])) for n in range(6)]

    def validate(state: State) -> dict[str, float]:
        means: dict[str, list[float]] = {}
        for one in validation():
            output = detector.predict(config, state, jnp.asarray(one.features))
            found = detector.losses(output, one)
            right = (np.asarray(output.classes).argmax(-1) == one.label).mean()
            values = {"loss": detector.total(found), "accuracy": right} | found._asdict()
            for name, value in values.items():
                means.setdefault(name, []).append(float(value))
        return {name: float(np.mean(values)) for name, values in means.items()}

    settings = settings_besides(recipe)
    step = fixed(_step, config, recipe.steps_per_epoch)
    return Task(lambda key: detector.init(config, key, recipe.steps_per_epoch), step, batch, validate, settings | dict(about))
