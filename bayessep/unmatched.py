"""The idempotent masker on songs and on instrumental music: its recipe, and its training.

Everything that is learned from is an `Unmatched`: mixtures, and music without singing. What reads a folder opens files of these two
kinds and no others, but for speech where songs are made of it; so where vocals lie beside them, nobody looks. (Paper 002,
`models.idempotent_masker`; clips are cut and compressed as in the authors' code.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from bayessep import audio, corpora, data, detector_data, singing, train
from bayessep.corpora import Sound
from bayessep.data import Recording
from bayessep.detector_data import Item, Items
from bayessep.errors import UserError
from bayessep.models import masker_training
from bayessep.models.idempotent_masker import PRESETS, IdempotentMasker, Weights
from bayessep.models.masker_training import Batch, Listening, State
from bayessep.preparation import magnitude
from bayessep.stft import Stft
from bayessep.train import Progress, Task, Training, fixed, settings_besides, training_of

Made = TypeVar("Made")
RATE = 20_480
"""Samples a second of everything that is learned from."""
OFFSETS = (0.0, 0.3, 0.6)
"""Seconds at which clips begin to be cut, one behind the other: three times as many clips."""
POWER = 0.3
"""By which magnitudes are compressed."""
SHARE = 0.05
"""Of the clips, to validate with."""
LISTENING = 500
"""Steps of listening between validations, and checkpoints."""
PAIRS = 32
"""Of held clips that are validated with, at most."""
KINDS = {"mixtures": "songs", "music": "music"}
"""Categories of a manifest that are opened: songs, in which somebody sings, and instrumental music."""
FOLDERS = {"mixtures": "mixtures", "music": "instrumentals"}
"""Folders that are opened where there is no manifest."""


# --- what is learned from ------------------------------------------------------------------------------------------------


class Unmatched(NamedTuple):
    """Mixtures and instrumental music at `RATE`, in one channel; which music is in a mixture, if any of it is, is not known."""

    mixtures: list[Item]
    music: list[Item]


def read_unmatched(folder: str | Path, *, songs: int = 0, seed: int = 0, redistributable: bool = False) -> Unmatched:
    """Songs and instrumental music of a folder: those its manifest.csv lists as songs and music, else what lies in its folders
    mixtures and instrumentals. Nothing else in it is opened, but for speech where songs are to be made of it.

    Args:
        folder: as above.
        songs: so often, songs are made of all the music (`bayessep.singing`) and join the mixtures; their voices are of what the
            manifest lists as speech. An hour of them takes some seven minutes.
        seed: of these.
        redistributable: of a manifest, keep only what `corpora.may_be_redistributed`.

    Raises:
        UserError: as `data.read_manifest` and `audio.read`; one of the kinds is missing; or what makes songs is not installed.
    """
    folder = Path(folder)

    def items(files: Iterable[tuple[Path, str]]) -> list[Item]:
        read = ((path, group, audio.read(path, mono=True, sample_rate=RATE).samples[0]) for path, group in files)
        return [Item(str(path.relative_to(folder)), group, samples) for path, group, samples in read]

    if not (folder / "manifest.csv").exists():
        if songs:
            raise UserError(f"{folder} has no manifest.csv that lists speech, of which songs could be made; ask for none.")
        if redistributable:
            raise UserError(f"{folder} has no manifest.csv that names licences; only with one can some be left out.")
        if absent := [name for name in FOLDERS.values() if not (folder / name).is_dir()]:
            needed = "give a folder with a manifest.csv, or with the folders mixtures and instrumentals"
            raise UserError(f"{folder} has neither a manifest.csv nor the folder {absent[0]}; {needed}.")
        found = {what: [(path, _song_of(path)) for path in data.audio_files(folder / name)] for what, name in FOLDERS.items()}
        return Unmatched(**{what: items(own) for what, own in found.items()})
    used = listed(folder, songs=songs, redistributable=redistributable)
    sounds = Unmatched(**{what: items((r.path, r.split_group) for r in used[kind]) for what, kind in KINDS.items()})
    if not songs:
        return sounds
    return sounds._replace(mixtures=[*sounds.mixtures, *sung(used["speech"], sounds.music, songs, seed, singing.songs)])


def _song_of(path: Path) -> str:
    """The name of a file, or of its folder where all songs have files of that name."""
    return path.parent.name if path.stem.lower() in ("mixture", "mix", "accompaniment", "instrumental", "music") else path.stem


def sung(
    speech: Sequence[Recording], music: list[Item], songs: int, seed: int, make: Callable[..., Iterable[Made]]
) -> Iterator[Made]:
    """What `make` (of `bayessep.singing`) makes of speech and of music at `RATE`, over all of it so often."""
    spoken = detector_data.read_items((Sound(r, (r.path,)) for r in speech), RATE, pauses=True)
    rng = np.random.default_rng([seed, 3])
    return chain.from_iterable(make(Items(spoken, music), RATE, rng, alone=0.0) for _ in range(songs))


def listed(folder: Path, *, songs: int = 0, redistributable: bool = False) -> dict[str, list[Recording]]:
    """What `read_unmatched` reads of a folder with a manifest, by category.

    Raises:
        UserError: as it.
    """
    usable = [r for r in data.read_manifest(folder) if not redistributable or corpora.may_be_redistributed(r)]
    found = {kind: data.select(usable, category=kind) for kind in (*KINDS.values(), *(["speech"] if songs else []))}
    if absent := [kind for kind, own in found.items() if not own]:
        lacking = f"{folder / 'manifest.csv'} lists no files of the category {absent[0]}"
        raise UserError(f"{lacking}{' that may be passed on' * redistributable}; {' and '.join(found)} are needed.")
    return found


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
        identities: times the preset's weights that R1 to R4 have.
        pool: `IdempotentMasker.pool`.
        quantised: round images to 8 bits, as the authors' code does.
        songs: that are made to learn from besides, as `read_unmatched`.
        rate: of Adam; 0: the preset's.
        listening: steps in which discriminators learn alone first; -1: the preset's.
        batch: mixtures of a step, and as many pieces of music.
        epochs, steps_per_epoch, seed, average: `Training`. All epochs are made, for no loss of held clips tells which is best.

    Raises:
        UserError: a name is not known, or a number is out of range.
    """

    preset: str = "small"
    without: str = ""
    identities: float = 1.0
    pool: int = 0
    quantised: bool = False
    songs: int = 0
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
        if self.songs < 0:
            raise UserError(f"songs is {self.songs}, but must be at least 0.")
        steps = self.listening if self.listening < -1 else self.config.listening
        if steps < 0 or steps > LISTENING and steps % LISTENING:
            beyond = f"and a multiple of {LISTENING} above that; or -1 for the preset's"
            raise UserError(f"listening is {steps}, but must be at least 0, {beyond}.")
        _ = self.config, self.training  # each checks its own numbers

    @property
    def config(self) -> IdempotentMasker:
        """The networks."""
        preset = PRESETS[self.preset]
        off = (name.strip() for name in self.without.split(",") if name.strip())
        weights = preset.weights.milder(self.identities).without(*off)
        listening = preset.listening if self.listening == -1 else self.listening
        return dataclasses.replace(preset, weights=weights, pool=self.pool, rate=self.rate or preset.rate, listening=listening)

    @property
    def training(self) -> Training:
        """How long it is trained."""
        return training_of(self, patience=1, min_delta=0.0)  # neither counts where the last state is kept


class _Images:
    """What is learned from and validated with, as it comes: each clip once before one comes again."""

    def __init__(self, recipe: Recipe, sounds: Unmatched) -> None:
        self._recipe, self._config, self._sounds = recipe, recipe.config, sounds
        self._clips, self._shuffled = cache(self._divided), cache(self._order)

    def _divided(self) -> tuple[list[list[Clip]], list[list[Clip]]]:
        """Of both kinds, clips to learn from and clips to validate with.

        They are of the same recordings, and overlap: validation says how learning goes, not what becomes of new recordings.
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

    def _of(self, kind: int, chosen: Sequence[Clip]) -> Float[np.ndarray, "B T F"]:
        return np.stack([image_of(self._sounds[kind], clip, self._config, self._recipe.quantised) for clip in chosen])

    def batch(self, n: int, size: int) -> Batch:
        """The n-th of so many mixtures, and as many pieces of music."""
        made = []
        for kind, own in enumerate(self._clips()[0]):
            places = (divmod(k, len(own)) for k in range(n * size, (n + 1) * size))
            made.append(self._of(kind, [own[self._shuffled(kind, turn)[place]] for turn, place in places]))
        return Batch(*made)

    def held(self) -> Iterator[Batch]:
        """Pairs to validate with."""
        held = self._clips()[1]
        for n in range(min(PAIRS, *map(len, held))):
            yield Batch(*(self._of(kind, own[n : n + 1]) for kind, own in enumerate(held)))


def task(recipe: Recipe, sounds: Unmatched, about: Mapping[str, Any] = {}, heard: PyTree = None) -> Task[State, Batch]:
    """What the loop trains. `about` is compared when a training is gone on with; `heard` is what has listened first.

    Raises:
        UserError: mixtures or music have no two clips, as soon as one is needed.
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


def listening(recipe: Recipe, sounds: Unmatched, about: Mapping[str, Any] = {}) -> Task[Listening, Batch]:
    """What the loop trains first: a discriminator alone, on the same clips.

    Raises:
        UserError: as `task`.
    """
    # Weights of losses are nothing to it, nor is what is done without: all ablations can begin with the same one.
    config, images = dataclasses.replace(recipe.config, weights=Weights()), _Images(recipe, sounds)

    def validate(state: Listening) -> dict[str, float]:
        return {"loss": float(np.mean([masker_training.heard(config, state.critic, pair) for pair in images.held()]))}

    def batch(n: int) -> Batch:
        # As many as divide among the devices that the batches of the rest divide among.
        return images.batch(n, recipe.batch * -(-masker_training.TOGETHER // recipe.batch))

    settings = settings_besides(dataclasses.replace(recipe, without="", identities=1.0)) | {"config": asdict(config)}
    step = fixed(masker_training.listen, config)
    return Task(lambda key: masker_training.listening(config, key), step, batch, validate, settings | dict(about), latest=True)


def learn(
    recipe: Recipe,
    sounds: Unmatched,
    folder: Path,
    about: Mapping[str, Any] = {},
    *,
    first: Path | None = None,
    progress: Progress = lambda *_: None,
) -> train.Trained[State]:
    """All of a training, or what is left of it: listening (in `first`, or in the folder listening of `folder`), and the rest.

    Raises:
        Diverged: a loss is no number any more.
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

        heard = train.train(listening(recipe, sounds, about), lasting, place, progress=named).state.critic
    return train.train(task(recipe, sounds, about, heard), recipe.training, folder, progress=progress)
