"""The idempotent masker on songs and on instrumental music that has nothing to do with them: its recipe, and its training.

Everything that is learned from is an `Unmatched`: mixtures, and music without singing. What reads a folder opens files of these two
kinds and no others, so where vocals lie beside them, nobody looks. (Paper 002, `models.idempotent_masker`; clips are cut and
compressed as in the authors' code.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from bayessep import audio, data
from bayessep.detector_data import Item
from bayessep.errors import UserError
from bayessep.models import idempotent_masker
from bayessep.models.idempotent_masker import PRESETS, Batch, IdempotentMasker, State
from bayessep.preparation import magnitude
from bayessep.stft import Stft
from bayessep.train import Task, Training, settings_besides, training_of

RATE = 20_480
"""Samples a second of everything that is learned from."""
OFFSETS = (0.0, 0.3, 0.6)
"""Seconds at which clips begin to be cut, one behind the other: three times as many clips."""
POWER = 0.3
"""By which magnitudes are compressed."""
SHARE = 0.05
"""Of the clips, to validate with."""
PAIRS = 32
"""Of held clips that are validated with, at most."""
KINDS = {"mixtures": "songs", "music": "music"}
"""Categories of a manifest that are opened: songs, in which somebody sings, and instrumental music."""
FOLDERS = {"mixtures": "mixtures", "music": "instrumentals"}
"""Folders that are opened where there is no manifest."""


# --- what is learned from ------------------------------------------------------------------------------------------------


class Unmatched(NamedTuple):
    """Mixtures and instrumental music at `RATE`, in one channel, in no relation to each other."""

    mixtures: list[Item]
    music: list[Item]


def read_unmatched(folder: str | Path) -> Unmatched:
    """Songs and instrumental music of a folder: those its manifest.csv lists as songs and music, else what lies in its folders
    mixtures and instrumentals. Nothing else in it is opened.

    Raises:
        UserError: as `data.read_manifest` and `audio.read`; or one of the two is missing.
    """
    folder = Path(folder)
    if (folder / "manifest.csv").exists():
        listed = data.read_manifest(folder)
        paths = {what: [(r.path, r.split_group) for r in data.select(listed, category=kind)] for what, kind in KINDS.items()}
        if absent := [KINDS[what] for what, own in paths.items() if not own]:
            raise UserError(
                f"{folder / 'manifest.csv'} lists no files of the category {absent[0]}; both songs and music are needed."
            )
    else:
        if absent := [name for name in FOLDERS.values() if not (folder / name).is_dir()]:
            needed = "give a folder with a manifest.csv, or with the folders mixtures and instrumentals"
            raise UserError(f"{folder} has neither a manifest.csv nor the folder {absent[0]}; {needed}.")
        paths = {what: [(path, path.stem) for path in data.audio_files(folder / name)] for what, name in FOLDERS.items()}

    def read(path: Path, group: str) -> Item:
        return Item(str(path.relative_to(folder)), group, audio.read(path, mono=True, sample_rate=RATE).samples[0])

    return Unmatched(*([read(*one) for one in paths[what]] for what in Unmatched._fields))


# --- clips ---------------------------------------------------------------------------------------------------------------


def stft_of(config: IdempotentMasker) -> Stft:
    """The transform that images are made of; their bins are all of its but the highest."""
    return Stft(n_fft=2 * config.bins, hop=config.hop, pad_end=True)


def compressed(
    magnitudes: Float[np.ndarray, "*B F"], least: float | np.floating, greatest: float | np.floating, quantised: bool = False
) -> Float[np.ndarray, "*B F"]:
    """Magnitudes as images, from -1 to 1: stretched between their least and greatest, to the power `POWER`.

    `quantised` rounds them to 256 levels, as the code does that keeps them in PNG files.
    """
    spread = max(float(greatest) - float(least), 1e-12)
    values = np.clip((magnitudes - np.float32(least)) / np.float32(spread), 0, 1) ** np.float32(POWER)
    values = np.round(255 * values) / np.float32(255) if quantised else values
    return 2 * values - 1


class Clip(NamedTuple):
    """Where one lies."""

    item: int
    begin: int


def clips_of(items: Sequence[Item], config: IdempotentMasker) -> list[Clip]:
    """One behind the other, from each of `OFFSETS` on; silent ones are left out. One of 256 frames has 16,320 samples."""
    length = (config.frames - 1) * config.hop
    return [
        Clip(n, begin)
        for n, item in enumerate(items)
        for offset in OFFSETS
        for begin in range(round(offset * RATE), len(item.samples) - length + 1, length)
        if item.samples[begin : begin + length].any()
    ]


def check(sounds: Unmatched, config: IdempotentMasker) -> None:
    """Refuse what is too little to learn from.

    Raises:
        UserError: mixtures or music have no two clips.
    """
    for what, items in sounds._asdict().items():
        if len(clips_of(items, config)) < 2:
            seconds = (config.frames - 1) * config.hop / RATE
            raise UserError(f"the {what} have no two clips of {seconds:.2f} s that are not silent; give longer recordings.")


def image_of(items: Sequence[Item], clip: Clip, config: IdempotentMasker, quantised: bool = False) -> Float[np.ndarray, "T F"]:
    """The image of a clip, stretched by its own least and greatest magnitude."""
    samples = items[clip.item].samples[clip.begin : clip.begin + (config.frames - 1) * config.hop]
    heard = magnitude(samples, stft_of(config))[: config.frames, : config.bins]
    return compressed(heard, heard.min(), heard.max(), quantised)


# --- training ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on, recordings apart: the keys of a file, and the flags.

    Attributes:
        preset: of its sizes.
        without: losses that are switched off, by their names, with commas between them.
        pool: `IdempotentMasker.pool`.
        quantised: round images to 8 bits, as the authors' code does.
        rate: of Adam; 0: the preset's.
        batch: mixtures of a step, and as many pieces of music.
        epochs, steps_per_epoch, seed, average: `Training`. All epochs are made, for no loss of held clips tells which is best.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    preset: str = "small"
    without: str = ""
    pool: int = 0
    quantised: bool = False
    rate: float = 0.0
    batch: int = 1
    epochs: int = 100
    steps_per_epoch: int = 500
    seed: int = 0
    average: float = 0.0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"idempotent-masker has no preset {self.preset!r}; choose {', '.join(PRESETS)}.")
        if self.batch < 1:
            raise UserError(f"batch is {self.batch}, but must be at least 1.")
        _ = self.config, self.training  # each checks its own numbers

    @property
    def config(self) -> IdempotentMasker:
        """The networks."""
        preset = PRESETS[self.preset]
        weights = preset.weights.without(*(name.strip() for name in self.without.split(",") if name.strip()))
        return dataclasses.replace(preset, weights=weights, pool=self.pool, rate=self.rate or preset.rate)

    @property
    def training(self) -> Training:
        """How long it is trained."""
        return training_of(self, patience=1, min_delta=0.0)  # neither counts where the last state is kept


def task(recipe: Recipe, sounds: Unmatched, about: Mapping[str, Any] = {}) -> Task[State, Batch]:
    """What the loop trains: clips, each once before one comes again. `about` is compared when a training is gone on with.

    Raises:
        UserError: mixtures or music have no two clips, as soon as one is needed.
    """
    config = recipe.config

    @cache
    def clips() -> tuple[list[list[Clip]], list[list[Clip]]]:
        """Of both kinds, those to learn from and those to validate with."""
        learn, held = [], []
        check(sounds, config)
        for n, items in enumerate(sounds):
            every = clips_of(items, config)
            order = np.random.default_rng([recipe.seed, 1, n]).permutation(len(every))
            count = max(1, round(SHARE * len(every)))
            held.append([every[k] for k in order[:count]])
            learn.append([every[k] for k in order[count:]])
        return learn, held

    @cache
    def shuffled(kind: int, turn: int) -> np.ndarray:
        return np.random.default_rng([recipe.seed, 2, kind, turn]).permutation(len(clips()[0][kind]))

    def images(kind: int, chosen: Sequence[Clip]) -> Float[np.ndarray, "B T F"]:
        return np.stack([image_of(sounds[kind], clip, config, recipe.quantised) for clip in chosen])

    def batch(n: int) -> Batch:
        made = []
        for kind, own in enumerate(clips()[0]):
            places = (divmod(k, len(own)) for k in range(n * recipe.batch, (n + 1) * recipe.batch))
            made.append(images(kind, [own[shuffled(kind, turn)[place]] for turn, place in places]))
        return Batch(*made)

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, dict[str, Float[Array, ""]]]:
        return idempotent_masker.step(config, state, batch, key)

    def validate(state: State) -> dict[str, float]:
        held = clips()[1]
        count = min(PAIRS, *map(len, held))
        found = []
        for n in range(count):
            pair = Batch(*(images(kind, own[n : n + 1]) for kind, own in enumerate(held)))
            found.append(jax.device_get(idempotent_masker.measure(config, state.generator, pair)))
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def init(key: Key[Array, ""]) -> State:
        return idempotent_masker.init(config, key)

    settings = settings_besides(recipe) | {"config": asdict(config)}
    return Task(init, step, batch, validate, settings | dict(about), latest=True)
