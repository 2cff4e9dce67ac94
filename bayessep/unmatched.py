"""Train the idempotent masker on songs and unmatched instrumental music: data, recipe and training tasks.

All training data are an `Unmatched`: mixtures, and music without singing. Reading a folder opens files of these two kinds only,
plus speech where songs are made of it; isolated vocals beside them are never opened. (Paper 002, `models.idempotent_masker`; clips
are cut and compressed as in the authors' code.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from bayessep import audio, augmentation, corpora, data, detector_data, singing, train
from bayessep.corpora import Sound
from bayessep.data import Recording
from bayessep.detector_data import Item, Items
from bayessep.errors import UserError
from bayessep.models import masker_training
from bayessep.models.idempotent_masker import PRESETS, IdempotentMasker, Weights
from bayessep.models.masker_training import Batch, Pretraining, State
from bayessep.preparation import magnitude
from bayessep.resampling import played
from bayessep.stft import Stft
from bayessep.train import Progress, Task, Training, fixed, settings_besides, training_of

Made = TypeVar("Made")
RATE = 20_480
"""Sample rate of all training data, in Hz."""
OFFSETS = (0.0, 0.3, 0.6)
"""Start times in seconds of three series of back-to-back clips, which triple the number of clips."""
POWER = 0.3
"""Exponent of the magnitude compression."""
SHARE = 0.05
"""Share of the clips held out for validation."""
LISTENING = 500
"""Steps of discriminator pre-training between validations and checkpoints."""
PAIRS = 32
"""Largest number of validation pairs."""
KINDS = {"mixtures": "songs", "music": "music"}
"""Categories of a manifest that are opened: songs with singing, and instrumental music."""
FOLDERS = {"mixtures": "mixtures", "music": "instrumentals"}
"""Folders that are opened where there is no manifest."""
VOCALS = frozenset(("vocals", "vocal", "acapella"))
"""Names of files of isolated voices, which are never opened."""
MIXED = ("mixture", "mix")
"""Names of files of whole songs; what lies beside one in a folder of mixtures are its stems, which are not opened."""
GENERIC = (*MIXED, "accompaniment", "instrumental", "instrumentals", "music")  # such files are called by their folder


# --- data ----------------------------------------------------------------------------------------------------------------


class Unmatched(NamedTuple):
    """Mono mixtures and instrumental music at `RATE`; which music, if any, is in a mixture is not known."""

    mixtures: list[Item]
    music: list[Item]


def read_unmatched(
    folder: str | Path, *, songs: int = 0, quieter: float = 0.0, seed: int = 0, redistributable: bool = False
) -> Unmatched:
    """Read the songs and the instrumental music of a folder.

    These are the files that its manifest.csv lists as songs and music, or, without one, those in its folders mixtures
    and instrumentals, less stems (`_without_other_stems`). No other file is opened, except speech where songs are to be made of it.

    Args:
        folder: as above.
        songs: number of passes over all the music in which songs are made of it (`bayessep.singing`) and added to the mixtures;
            their voices are made of what the manifest lists as speech. An hour of them takes some seven minutes.
        quieter: decibels by which their voices are quieter than usual (`singing.LOUDER`).
        seed: random seed of these songs.
        redistributable: keep only files of a manifest that pass `corpora.may_be_redistributed`.

    Raises:
        UserError: as `data.read_manifest` and `audio.read`; one of the kinds is missing; or a library for making songs is not
            installed.
    """
    folder = Path(folder)

    def items(files: Iterable[tuple[Path, str]]) -> list[Item]:
        read = ((path, group, audio.read(path, mono=True, sample_rate=RATE).samples[0]) for path, group in files)
        return [Item(str(path.relative_to(folder)), group, samples) for path, group, samples in read]

    if not (folder / "manifest.csv").exists():
        if songs:
            raise UserError(f"{folder} has no manifest.csv that lists speech, to make songs from; leave --songs out.")
        if redistributable:
            raise UserError(f"{folder} has no manifest.csv that names licences; only with one can some be left out.")
        if absent := [name for name in FOLDERS.values() if not (folder / name).is_dir()]:
            needed = "give a folder with a manifest.csv, or with the folders mixtures and instrumentals"
            raise UserError(f"{folder} has neither a manifest.csv nor the folder {absent[0]}; {needed}.")
        found = {
            what: [(path, _song_of(path)) for path in _without_other_stems(data.audio_files(folder / name), what)]
            for what, name in FOLDERS.items()
        }
        if absent := [FOLDERS[what] for what, own in found.items() if not own]:
            raise UserError(f"{folder / absent[0]} has nothing but stems of other kinds, such as vocals; add what its name says.")
        return Unmatched(**{what: items(own) for what, own in found.items()})
    used = listed(folder, songs=songs, redistributable=redistributable)
    sounds = Unmatched(**{what: items((r.path, r.split_group) for r in used[kind]) for what, kind in KINDS.items()})
    if not songs:
        return sounds
    make = partial(singing.songs, quieter=quieter)
    return sounds._replace(mixtures=[*sounds.mixtures, *sung(used["speech"], sounds.music, songs, seed, make)])


def _without_other_stems(paths: Sequence[Path], what: str) -> list[Path]:
    """Leave out voices, stems beside their mixture among the mixtures, and mixtures among the music."""
    whole = {path for path in paths if path.stem.lower() in MIXED}
    beside = {path.parent for path in whole}
    others = whole if what == "music" else {path for path in paths if path.parent in beside} - whole
    return [path for path in paths if path not in others and path.stem.lower() not in VOCALS]


def _song_of(path: Path) -> str:
    """Name of a song: that of its file, or of its folder if the file has a generic name."""
    return path.parent.name if path.stem.lower() in GENERIC else path.stem


def sung(
    speech: Sequence[Recording], music: list[Item], songs: int, seed: int, make: Callable[..., Iterable[Made]]
) -> Iterator[Made]:
    """Apply `make` (of `bayessep.singing`) to speech and to music at `RATE`, in as many passes as `songs`."""
    spoken = detector_data.read_items((Sound(r, (r.path,)) for r in speech), RATE, pauses=True)
    rng = np.random.default_rng([seed, 3])
    return chain.from_iterable(make(Items(spoken, music), RATE, rng, alone=0.0) for _ in range(songs))


def listed(folder: Path, *, songs: int = 0, redistributable: bool = False) -> dict[str, list[Recording]]:
    """List the recordings that `read_unmatched` reads of a folder with a manifest, by category.

    Raises:
        UserError: as `data.read_manifest`; a category is missing; or a song or music is named like isolated vocals.
    """
    usable = [r for r in data.read_manifest(folder) if not redistributable or corpora.may_be_redistributed(r)]
    found = {kind: data.select(usable, category=kind) for kind in (*KINDS.values(), *(["speech"] if songs else []))}
    for kind in KINDS.values():
        if voices := [r.path for r in found[kind] if r.path.stem.lower() in VOCALS]:
            named = f"{voices[0]} as {kind}, but it is named like isolated vocals"
            raise UserError(f"{folder / 'manifest.csv'} lists {named}; correct its category or its name.")
    if absent := [kind for kind, own in found.items() if not own]:
        lacking = f"{folder / 'manifest.csv'} lists no files of the category {absent[0]}"
        raise UserError(f"{lacking}{' that may be passed on' * redistributable}; {' and '.join(found)} are needed.")
    return found


# --- clips ---------------------------------------------------------------------------------------------------------------


def stft_of(config: IdempotentMasker) -> Stft:
    """Short-time Fourier transform of the images, which keep all of its bins but the highest."""
    return Stft(n_fft=2 * config.bins, hop=config.hop, pad_end=True)


def compressed(
    magnitudes: Float[np.ndarray, "*B F"], least: float | np.floating, greatest: float | np.floating, quantised: bool = False
) -> Float[np.ndarray, "*B F"]:
    """Map magnitudes to images from -1 to 1: min-max normalisation, then compression by the power `POWER`.

    `quantised` rounds to 256 levels; the authors' code stores PNG files, whose values are rounded down.
    """
    spread = max(float(greatest) - float(least), 1e-12)
    values = np.clip((magnitudes - np.float32(least)) / np.float32(spread), 0, 1) ** np.float32(POWER)
    values = np.round(255 * values) / np.float32(255) if quantised else values
    return 2 * values - 1


class Clip(NamedTuple):
    """Position of a clip: index of its recording and first sample."""

    item: int
    begin: int


def clips_of(items: Sequence[Item], config: IdempotentMasker) -> list[Clip]:
    """List back-to-back clips from each of `OFFSETS`, skipping silent ones; a clip of 256 frames at hop 64 has 16,320 samples."""
    length = (config.frames - 1) * config.hop
    return [
        Clip(n, begin)
        for n, item in enumerate(items)
        for offset in OFFSETS
        for begin in range(round(offset * RATE), len(item.samples) - length + 1, length)
        if item.samples[begin : begin + length].any()
    ]


def check(sounds: Unmatched, config: IdempotentMasker) -> None:
    """Check that there are enough clips for training and validation.

    Raises:
        UserError: mixtures or music have fewer than two clips.
    """
    for what, items in sounds._asdict().items():
        if len(clips_of(items, config)) < 2:
            seconds = (config.frames - 1) * config.hop / RATE
            raise UserError(f"the {what} have no two clips of {seconds:.2f} s that are not silent; give longer recordings.")


def image_of(
    items: Sequence[Item],
    clip: Clip,
    config: IdempotentMasker,
    quantised: bool = False,
    *,
    speed: float = 1.0,
    extent: tuple[float, float] | None = None,
) -> Float[np.ndarray, "T F"]:
    """Image of a clip.

    Args:
        items: recordings.
        clip: position of the clip.
        config: size of the image.
        quantised: as in `compressed`.
        speed: play the clip faster or slower. A faster one covers more of the recording: it begins earlier where that ends, and is
            not faster than the recording is long.
        extent: minimum and maximum magnitude to normalise by; None: those of the clip itself.
    """
    samples, length = items[clip.item].samples, (config.frames - 1) * config.hop
    speed = min(speed, len(samples) / length)
    needed = min(len(samples), math.ceil(speed * length))
    begin = min(clip.begin, len(samples) - needed)
    heard = _magnitudes(played(samples[begin : begin + needed], speed)[:length], config)
    return compressed(heard, *(extent or (heard.min(), heard.max())), quantised)


def extent_of(item: Item, config: IdempotentMasker) -> tuple[float, float]:
    """Minimum and maximum magnitude of a recording, of its clips back to back; what is left at its end is not looked at."""
    length = (config.frames - 1) * config.hop
    begins = range(0, len(item.samples) - length + 1, length)
    heard = [_magnitudes(item.samples[begin : begin + length], config) for begin in begins]
    return float(min(one.min() for one in heard)), float(max(one.max() for one in heard))


def _magnitudes(samples: Float[np.ndarray, " N"], config: IdempotentMasker) -> Float[np.ndarray, "T F"]:
    return magnitude(samples, stft_of(config))[: config.frames, : config.bins]


# --- training ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Training recipe: everything a training depends on except the recordings; its fields are keys of a file and flags.

    Attributes:
        preset: preset of the networks' sizes.
        without: names of losses that are switched off, separated by commas.
        identities: factor on the preset's weights of R1 to R4.
        pool: `IdempotentMasker.pool`.
        quantised: round images to 8 bits (the authors' code rounds down).
        songs: passes in which additional songs are made, as in `read_unmatched`.
        quieter: decibels by which voices of these songs are quieter than usual, as in `read_unmatched`.
        varied: augment the data: play each clip at a random speed (`augmentation.FASTEST`).
        whole: normalise each clip by the range of magnitudes of its recording, as songs are when they are separated, and not by its
            own, as the authors' code does in training.
        rate: learning rate of Adam; 0 takes the preset's.
        listening: steps of discriminator pre-training; -1 takes the preset's.
        batch: mixtures per step, and as many clips of music.
        epochs, steps_per_epoch, seed, average: `Training`. All epochs are run, as no validation loss tells which is the best.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    preset: str = "small"
    without: str = ""
    identities: float = 1.0
    pool: int = 0
    quantised: bool = False
    songs: int = 0
    quieter: float = 0.0
    varied: bool = False
    whole: bool = False
    rate: float = 0.0
    listening: int = -1
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
        if not math.isfinite(self.quieter) or self.quieter and not self.songs:
            raise UserError(f"quieter is {self.quieter}, but must be finite, and 0 without songs that are made.")
        if self.songs < 0:
            raise UserError(f"songs is {self.songs}, but must be at least 0.")
        steps = self.listening if self.listening < -1 else self.config.listening
        if steps < 0 or steps > LISTENING and steps % LISTENING:
            beyond = f"and a multiple of {LISTENING} above that; or -1 for the preset's"
            raise UserError(f"listening is {steps}, but must be at least 0, {beyond}.")
        _ = self.config, self.training  # each checks its own numbers

    @property
    def config(self) -> IdempotentMasker:
        """Config of the networks."""
        preset = PRESETS[self.preset]
        off = (name.strip() for name in self.without.split(",") if name.strip())
        weights = preset.weights.milder(self.identities).without(*off)
        listening = preset.listening if self.listening == -1 else self.listening
        return dataclasses.replace(preset, weights=weights, pool=self.pool, rate=self.rate or preset.rate, listening=listening)

    @property
    def training(self) -> Training:
        """Training schedule."""
        return training_of(self, patience=1, min_delta=0.0)  # unused, as the last state is kept


class _Images:
    """Training and validation batches; every clip is used once before any is repeated."""

    def __init__(self, recipe: Recipe, sounds: Unmatched) -> None:
        self._recipe, self._config, self._sounds = recipe, recipe.config, sounds
        self._clips, self._shuffled, self._extent = cache(self._divided), cache(self._order), cache(self._range)

    def _divided(self) -> tuple[list[list[Clip]], list[list[Clip]]]:
        """Split the clips of both kinds into training and validation clips.

        Both come from the same recordings, and overlap: validation monitors training and does not measure generalisation.
        """
        learn, held = [], []
        check(self._sounds, self._config)
        for n, items in enumerate(self._sounds):
            every = clips_of(items, self._config)
            order = np.random.default_rng([self._recipe.seed, 1, n]).permutation(len(every))
            count = max(1, round(SHARE * len(every)))
            held.append([every[k] for k in order[:count]])
            learn.append([every[k] for k in order[count:]])
        return learn, held

    def _order(self, kind: int, turn: int) -> np.ndarray:
        return np.random.default_rng([self._recipe.seed, 2, kind, turn]).permutation(len(self._clips()[0][kind]))

    def _range(self, kind: int, item: int) -> tuple[float, float] | None:
        return extent_of(self._sounds[kind][item], self._config) if self._recipe.whole else None

    def _speed(self, kind: int, turn: int, place: int) -> float:
        if not self._recipe.varied:
            return 1.0
        return augmentation.FASTEST ** np.random.default_rng([self._recipe.seed, 3, kind, turn, place]).uniform(-1, 1)

    def _of(self, kind: int, chosen: Iterable[tuple[Clip, float]]) -> Float[np.ndarray, "B T F"]:
        """Images of clips at given speeds."""
        own, quantised = self._sounds[kind], self._recipe.quantised
        return np.stack(
            [image_of(own, c, self._config, quantised, speed=v, extent=self._extent(kind, c.item)) for c, v in chosen]
        )

    def batch(self, n: int, size: int) -> Batch:
        """The n-th batch of `size` mixtures and as many clips of music."""
        made = []
        for kind, own in enumerate(self._clips()[0]):
            places = (divmod(k, len(own)) for k in range(n * size, (n + 1) * size))
            chosen = ((own[self._shuffled(kind, turn)[at]], self._speed(kind, turn, at)) for turn, at in places)
            made.append(self._of(kind, chosen))
        return Batch(*made)

    def held(self) -> Iterator[Batch]:
        """Validation pairs, one mixture and one clip of music each."""
        held = self._clips()[1]
        for n in range(min(PAIRS, *map(len, held))):
            yield Batch(*(self._of(kind, [(own[n], 1.0)]) for kind, own in enumerate(held)))


def task(recipe: Recipe, sounds: Unmatched, about: Mapping[str, Any] = {}, heard: PyTree = None) -> Task[State, Batch]:
    """Task for `train.train`. `about` is compared when a training is resumed; `heard` is a pre-trained discriminator.

    Raises:
        UserError: mixtures or music have fewer than two clips; raised when the first clip is needed.
    """
    config, images = recipe.config, _Images(recipe, sounds)

    def init(key: Key[Array, ""]) -> State:
        return masker_training.init(config, key, heard)

    def validate(state: State) -> dict[str, float]:
        found = [jax.device_get(masker_training.measure(config, state.generator, pair)) for pair in images.held()]
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    settings = settings_besides(recipe) | {"config": asdict(config)}
    step = fixed(masker_training.step, config)
    return Task(init, step, lambda n: images.batch(n, recipe.batch), validate, settings | dict(about), latest=True)


def pretraining(recipe: Recipe, sounds: Unmatched, about: Mapping[str, Any] = {}) -> Task[Pretraining, Batch]:
    """Task of the pre-training of a discriminator, on the same clips.

    Raises:
        UserError: as `task`.
    """
    # It depends neither on loss weights nor on switched-off losses: all ablations can share one pre-training.
    config, images = dataclasses.replace(recipe.config, weights=Weights()), _Images(recipe, sounds)

    def validate(state: Pretraining) -> dict[str, float]:
        return {"loss": float(np.mean([masker_training.pretraining_loss(config, state.critic, pair) for pair in images.held()]))}

    def batch(n: int) -> Batch:
        # A multiple of the recipe's batch size, so that it can be divided among the same devices.
        return images.batch(n, recipe.batch * -(-masker_training.TOGETHER // recipe.batch))

    settings = settings_besides(dataclasses.replace(recipe, without="", identities=1.0)) | {"config": asdict(config)}
    step = fixed(masker_training.pretrain, config)
    return Task(lambda key: masker_training.pretraining(config, key), step, batch, validate, settings | dict(about), latest=True)


def learn(
    recipe: Recipe,
    sounds: Unmatched,
    folder: Path,
    about: Mapping[str, Any] = {},
    *,
    first: Path | None = None,
    progress: Progress = lambda *_: None,
) -> train.Trained[State]:
    """Run or resume a training: discriminator pre-training (in `first`, or in `folder`/listening), then the adversarial training.

    Raises:
        Diverged: a loss is not finite.
        UserError: as `task` and `train.train`.
    """
    config, heard = recipe.config, None
    train.claim(folder, task(recipe, sounds, about), recipe.training)
    if config.listening and masker_training.critics_of(config) and not train.begun(folder):
        each = min(LISTENING, config.listening)
        lasting = Training(epochs=config.listening // each, steps_per_epoch=each, patience=1, seed=recipe.seed)
        place = first or folder / "listening"

        def named(_: str, *counts: Any) -> None:
            progress("listening", *counts)

        heard = train.train(pretraining(recipe, sounds, about), lasting, place, progress=named).state.critic
    return train.train(task(recipe, sounds, about, heard), recipe.training, folder, progress=progress)
