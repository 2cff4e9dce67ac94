"""What the verbs of networks that separate do: train them, and separate by them."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bayessep import (
    __version__,
    accounts,
    audio,
    convolutive,
    corpora,
    estimates,
    karaoke,
    masked_songs,
    neural,
    output,
    recordings,
    segments,
    shipped,
    timeline,
    train,
    unmatched,
)
from bayessep.commands import begin, earlier_draws
from bayessep.convolutive import Convolutive
from bayessep.detector_data import Items, about_items, read_items
from bayessep.detector_training import divide, read_recipe, read_settings
from bayessep.errors import UserError
from bayessep.estimates import Estimator
from bayessep.network_commands import SHARE, WEIGHTS, Processes, begin_together, conclude, licences_of
from bayessep.neural import Separator, Windowed
from bayessep.recordings import Material
from bayessep.separator_training import RATE, Recipe, task
from bayessep.separators import Progress
from bayessep.shipped import Weights
from bayessep.terminal import Terminal, to_json
from bayessep.timeline import BOTH, MUSIC, SILENCE, SPEECH, Segment


def train_separator(
    folder: Path,
    data: Path,
    config: Path | None,
    given: Mapping[str, Any],
    *,
    redistributable: bool,
    together: Processes | None,
    device: str,
    terminal: Terminal,
    start: Path | None = None,
) -> None:
    """Train a separator, or go on with a training; writes its weights. `start` are weights to begin with.

    Raises:
        UserError: as `read_recipe`, `begun_by`, `corpora.speech_and_music` and `train.train`.
        Diverged: the loss is no number any more.
    """
    read = read_settings(config, Recipe)  # once: it may be a pipe
    if (network := read.get("network", given["network"])) != given["network"]:
        raise UserError(f"{config} is a recipe of {network}, and not of {given['network']}; call bayessep train {network}.")
    recipe = Recipe(**read | dict(given))
    sounds = corpora.speech_and_music(data, redistributable=redistributable, missing=terminal.warn)
    described = begin_together(together, device, terminal)
    begun = None if start is None else begun_by(start, recipe, terminal)
    if start is not None:
        output.keep_inputs(folder, [WEIGHTS], [start])
    items = Items(*(read_items(of, RATE, pauses=True) for of in sounds))
    heard = about_items(items)
    about: dict[str, Any] = {"data": heard | {"redistributable": redistributable}}
    if begun is not None and start is not None:
        about |= {"start": hashlib.sha256(start.read_bytes()).hexdigest()}
        say_other_recordings(start, heard["sha256"], terminal)
    learn, held = divide(items, SHARE, recipe.seed)
    made = task(recipe, learn, held, about, begun)
    with terminal.working() as progress:
        trained = train.train(made, recipe.training, folder, progress=progress)
    before = None if begun is None else made.validate(made.init(jax.random.key(recipe.seed)))["loss"]
    if jax.process_index() > 0:
        return
    separator = Separator(recipe.network, recipe.config, trained.state.parameters, RATE)

    def weights(settings: dict[str, Any]) -> Weights:
        return neural.weights_of(separator, recipe=dataclasses.asdict(recipe), licences=licences_of(sounds), **settings)

    def told(scores: dict[str, float]) -> str:
        speech, music = (scores[f"validation/{source}"] for source in ("speech", "music"))
        return f"validation at 0 dB: SI-SDR of speech {speech:.1f} dB, of music {music:.1f} dB"

    conclude(recipe.network, recipe, trained, about, weights, told, folder, described, terminal)
    if before is not None and trained.loss >= before:
        told_before = f"validation {before:.2f}, at its best epoch {trained.loss:.2f}; less is better"
        terminal.warn(f"no epoch was better than {start}, which it began with ({told_before}): keep that file.")


def begun_by(start: Path, recipe: Recipe, terminal: Terminal) -> Any:
    """Parameters of a file, to begin a training with. Of those that ship, nobody here knows what was held out: that is said.

    Raises:
        UserError: as `neural.load`; they are of a network of other sizes or kinds, or learned with another seed, by which other
            recordings were held out: what they learned from would be validated with.
    """
    found = neural.load(recipe.network, start)
    before = shipped.read_file(start).settings.get("recipe")
    if not isinstance(before, dict):
        terminal.warn(f"{start} does not say what was held out: if it has learned from these recordings, validation flatters it.")
    elif before.get("seed", recipe.seed) != recipe.seed:
        raise UserError(f"{start} was trained with --seed {before['seed']}, which says what is held out; give the same seed here.")
    theirs, ours = (dataclasses.asdict(config) for config in (found.config, recipe.config))
    for name, value in ours.items():
        if name not in ("rate", "steps", "precision") and theirs[name] != value:
            differs = f"{start} holds a network whose {name} is {theirs[name]}, and not {value}"
            raise UserError(f"{differs}: no training can begin with it; leave --start out, or change the recipe.")
    return found.parameters


def say_other_recordings(start: Path, sha256: str, terminal: Terminal) -> None:
    """Of one recording more or less, others are held out: what the weights of a file learned from may be among them."""
    before = shipped.read_file(start).settings.get("data")
    if isinstance(before, Mapping) and before.get("sha256") != sha256:
        also = "where it has learned from some of these, validation may flatter it"
        terminal.warn(f"{start} has learned from other recordings than these all, and others were held out: {also}.")


def train_karaoke(
    folder: Path, data: Path, config: Path | None, given: Mapping[str, Any], *, device: str, terminal: Terminal
) -> None:
    """Train Deep Karaoke, or go on with a training; writes its weights.

    Raises:
        UserError: as `read_recipe`, `karaoke.read_songs` and `train.train`.
        Diverged: the loss is no number any more.
    """
    recipe = read_recipe(config, given, karaoke.Recipe)
    songs = karaoke.read_songs(data, part="train")
    described = begin(device, terminal)
    learn, held = karaoke.divide(songs, SHARE, recipe.seed)
    digest = hashlib.sha256(b"".join(x.tobytes() for song in songs for x in (song.vocals, song.accompaniment))).hexdigest()
    about = {"data": {"songs": [song.name for song in songs], "sha256": digest}}
    with terminal.working() as progress:
        trained = train.train(karaoke.task(recipe, learn, held, about), recipe.training, folder, progress=progress)
    network = karaoke.Karaoke(recipe.config, trained.state.parameters, karaoke.scale_of(learn))

    def weights(settings: dict[str, Any]) -> Weights:
        return karaoke.weights_of(network, recipe=dataclasses.asdict(recipe), **settings)

    def told(scores: dict[str, float]) -> str:
        return f"validation: {100 * scores['validation/accuracy']:.1f} % of the cells are right"

    conclude("deep-karaoke", recipe, trained, about, weights, told, folder, described, terminal)


def train_masker(
    folder: Path,
    data: Path,
    config: Path | None,
    given: Mapping[str, Any],
    *,
    redistributable: bool,
    device: str,
    terminal: Terminal,
) -> None:
    """Train the idempotent masker, or go on with a training; writes its weights.

    Raises:
        UserError: as `read_recipe`, `unmatched.read_unmatched` and `train.train`.
        Diverged: the loss is no number any more.
    """
    recipe = read_recipe(config, given, unmatched.Recipe)
    sounds = unmatched.read_unmatched(data, songs=recipe.songs, seed=recipe.seed, redistributable=redistributable)
    described = begin(device, terminal)
    about = {"data": about_items(sounds) | {"redistributable": redistributable}}
    with terminal.working() as progress:
        trained = unmatched.learn(recipe, sounds, folder, about, progress=progress)
    masker = masked_songs.Masker(recipe.config, trained.state.generator)

    def weights(settings: dict[str, Any]) -> Weights:
        return masked_songs.weights_of(masker, recipe=dataclasses.asdict(recipe), **settings)

    def told(scores: dict[str, float]) -> str:
        twice, music = (100 * scores[f"validation/{name}"] for name in ("changed_twice", "changed_music"))
        return f"validation: {music:.1f} % of music is changed, and {twice:.1f} % of what is left of mixtures by a second time"

    conclude(masked_songs.NAME, recipe, trained, about, weights, told, folder, described, terminal)


# --- separate ------------------------------------------------------------------------------------------------------------


METHODS = (*neural.NETWORKS, "deep-karaoke", masked_songs.NAME)
"""Methods of separate that are networks."""
OF_NETWORKS = {"deep-karaoke": ("alpha",), masked_songs.NAME: ("mask_power", "smoothing")}
"""Those that take options of their own."""


def network_of(
    method: str,
    weights: Path | None,
    alpha: float | None = None,
    mask_power: float | None = None,
    smoothing: bool | None = None,
) -> Separator | karaoke.Karaoke | masked_songs.Masker:
    """The network of a method, one of `METHODS`.

    Raises:
        UserError: as `neural.load`, `karaoke.load` and `masked_songs.load`.
    """
    if method == masked_songs.NAME:
        return masked_songs.load(weights, mask_power, bool(smoothing))
    return karaoke.load(weights, alpha) if method == "deep-karaoke" else neural.load(method, weights)


def estimators(
    names: Sequence[str], weights: Sequence[Path], material: Material, config: Convolutive, mask_power: float | None = None
) -> Callable[[Mapping[str, np.ndarray]], dict[str, Estimator]]:
    """How those of `names` separate that are not Bayesian, of the true sources; files of weights say which network they are of.

    `config` is that of conv-nmf, `mask_power` that of the idempotent masker.

    Raises:
        UserError: as `network_of`; two files are of one network, or one is of none that is asked for.
    """
    files: dict[str, Path] = {}
    for path in weights:
        name = _network_in(path)
        if name in files:
            raise UserError(f"{files[name]} and {path} both hold weights of {name}; give one of them.")
        if name not in names:
            raise UserError(f"{path} holds weights of {name}, which is not among --methods {','.join(names)}; name it there.")
        files[name] = path
    found = {name: estimates.by(network_of(name, files.get(name), mask_power=mask_power)) for name in names if name in METHODS}
    if "conv-nmf" in names:
        found["conv-nmf"] = estimates.by_templates(material.known, config)

    def with_truth(references: Mapping[str, np.ndarray]) -> dict[str, Estimator]:
        return found | {name: estimates.by_truth(name, references) for name in names if name in estimates.ORACLES}

    return with_truth


def _network_in(path: Path) -> str:
    """Of which network a file holds weights.

    Raises:
        UserError: of none that separates.
    """
    name = shipped.read_file(path).settings.get("network")
    if name not in METHODS:
        raise UserError(f"{path} holds no weights of a separator; bayessep train {' or '.join(METHODS)} makes some.")
    return name


def everything(weights: Sequence[Path], truth: bool) -> list[str]:
    """What compare runs beside the Bayesian methods where nothing else is said: all that it has what it needs for."""
    given = {_network_in(path) for path in weights} | set(shipped.names())
    return ["conv-nmf", *(name for name in METHODS if name in given), *(estimates.ORACLES if truth else ())]


def separate(
    mix: Path, folder: Path, network: str, weights: Path | None, device: str, terminal: Terminal, **own: Any
) -> None:
    """Take one recording apart by a network, one of `METHODS`; writes what `commands.separate` writes.

    What it has of its own are options of `OF_NETWORKS`.

    Raises:
        UserError: as `network_of`, `neural.separate` and `audio.read`; nothing is left half written.
    """
    described = begin(device, terminal)  # before numbers are put anywhere
    separator = network_of(network, weights, **own)
    about: dict[str, Any] = {"network": dataclasses.asdict(separator.config) | {"sample_rate": separator.sample_rate}}
    about |= {"weights": None if weights is None else str(weights)} | own
    read = [] if weights is None else [str(weights)]
    _separate(mix, folder, network, lambda _: separator, read, about, described, terminal)


OF_CONVOLUTIVE = {"bases": "templates"} | {n: n for n in ("sweeps", "training_sweeps", "overlap", "max_frequency", "seed", "alpha")}
"""Options of conv-nmf, and what they are in `Convolutive`."""


def convolutive_of(options: Mapping[str, Any]) -> Convolutive:
    """The settings of conv-nmf among the options of a verb; those not given (None) are its own."""
    return Convolutive(**{own: options[name] for name, own in OF_CONVOLUTIVE.items() if options.get(name) is not None})


def separate_by_templates(material: Material, config: Convolutive, folder: Path, device: str, terminal: Terminal) -> None:
    """The same by convolutive NMF, of what is known of the recording.

    Raises:
        UserError: as `convolutive.learn_of_file` and `neural.separate`; nothing is left half written.
    """

    def learned(progress: Progress) -> Windowed:
        return convolutive.learn_of_file(material.path, material.known, config, progress)

    about = {"settings": dataclasses.asdict(config), "training": material.files}
    described, labels = begin(device, terminal), material.labels or ()
    _separate(material.path, folder, "conv-nmf", learned, material.inputs[1:], about, described, terminal, labels=labels)


def _separate(
    mix: Path,
    folder: Path,
    method: str,
    made: Callable[[Progress], Windowed],
    read: Sequence[str],
    about: Mapping[str, Any],
    device: str,
    terminal: Terminal,
    *,
    labels: Sequence[Segment] = (),
) -> None:
    """Take a recording apart by what `made` makes; `read` are the files that must not be written over."""
    info, earlier = audio.probe(mix), earlier_draws(folder)
    output.keep_inputs(folder, [*accounts.FILES.values(), *earlier], [mix, *read])
    started = time.perf_counter()
    gain = 1.0
    with output.draft(folder, replacing=earlier) as part:
        stems = [part / accounts.FILES[stem] for stem in (SPEECH, MUSIC)]
        with terminal.working() as progress:
            separator = made(progress)
            if recordings.is_long(info):
                terminal.note(f"{mix} is long, and is worked on in pieces")
                neural.separate_file(mix, separator, stems[0], stems[1], progress=progress)
            else:
                mixture = audio.read(mix).samples
                apart = neural.separate(mixture, info.sample_rate, separator, name=str(mix), progress=progress)
                gain = _written(stems, apart, mixture, info.sample_rate)
        found = labels_of(stems[0], stems[1], labels)
        segments.write(part / accounts.FILES["labels"], found)
        spent, seconds = time.perf_counter() - started, info.frames / info.sample_rate
        document: dict[str, Any] = {"command": "separate", "version": __version__, "method": method, "device": device, **about}
        document |= {"input": {"path": str(mix), "seconds": seconds, **info._asdict()}, "seconds": spent}
        document |= {"real_time_factor": spent / seconds, "segments": [s._asdict() for s in found], "output_gain": gain}
        document["output"] = {"folder": str(folder)} | accounts.FILES
        (part / accounts.FILES["details"]).write_text(to_json(document), encoding="utf-8")
    lines = [f"{method}: {spent:.1f} s, {document['real_time_factor']:.3f} of the length of the recording"]
    if gain != 1:
        lines.append(f"both stems are quieter by a factor of {gain:.3f}, or one would clip")
    terminal.result(document, "\n".join([*lines, *(str(folder / name) for name in accounts.FILES.values())]))


def _written(paths: Sequence[Path], stems: neural.Stems, mixture: Float[np.ndarray, "C N"], sample_rate: int) -> float:
    """Write both, turned down by one gain where one would clip, which is returned."""
    gain = audio.common_gain(*stems, mixture)
    for path, stem in zip(paths, stems, strict=True):
        audio.write(path, stem * np.float32(gain), sample_rate)
    return gain


STEP = 0.1
"""Seconds between the labels of `labels_of`, before they are joined."""
LEAST, QUIET = 0.05, 1e-5
"""A stem is heard that has this share of the energy; silence has this share of that of the loudest second.

Of a smaller share, what leaks from one stem into the other would be heard.
"""


def labels_of(speech: Path, music: Path, given: Sequence[Segment] = ()) -> list[Segment]:
    """Which stem is heard when, beside what was given: what has a twentieth of the energy of half a second.

    Where one stem follows the other, both are in that half second: what lasts less than 0.6 s does not count.
    """
    info = audio.probe(speech)
    n = max(1, round(STEP * info.sample_rate))
    energies = np.stack([_energies(path, n) for path in (speech, music)])
    width = np.ones(min(5, energies.shape[1]))
    smooth = np.stack([np.convolve(row, width, "same") for row in energies])
    total = smooth.sum(0)
    on = smooth > LEAST * total
    names = np.where(on.all(0), BOTH, np.where(on[0], SPEECH, MUSIC))
    names = np.where(total <= QUIET * total.max(), SILENCE, names)
    times = (np.arange(len(names)) + 0.5) * n / info.sample_rate
    return timeline.complete(given, names.tolist(), times, info.frames / info.sample_rate, min_duration=0.6)


def _energies(path: Path, n: int) -> Float[np.ndarray, " T"]:
    """Of each n samples, in all channels."""
    found = []
    for block in audio.blocks(path, 100 * n / audio.probe(path).sample_rate):
        power = np.square(block.samples, dtype=np.float64).sum(0)
        found.append(np.add.reduceat(power, np.arange(0, len(power), n)))
    return np.concatenate(found)
