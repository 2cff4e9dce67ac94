"""Implementation of training separation networks, and of separating with networks and convolutive NMF."""

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
from bayessep.commands import earlier_draws
from bayessep.convolutive import Convolutive
from bayessep.detector_data import Items, about_items, read_items
from bayessep.detector_training import divide, read_recipe, read_settings
from bayessep.devices import begin, begin_training
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
    """Train a separator or resume its training, and write its weights. `start` is a file of initial weights.

    Raises:
        UserError: as `read_recipe`, `begun_by`, `corpora.speech_and_music` and `train.train`.
        Diverged: the loss is NaN or infinite.
    """
    read = read_settings(config, Recipe)  # only once: it may be a pipe
    if (network := read.get("network", given["network"])) != given["network"]:
        raise UserError(f"{config} is a recipe for {network}, not for {given['network']}; run bayessep train {network}.")
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
        told_before = f"validation {before:.2f}, at its best epoch {trained.loss:.2f}; lower is better"
        terminal.warn(f"no epoch was better than {start}, which training started from ({told_before}): keep that file.")


def begun_by(start: Path, recipe: Recipe, terminal: Terminal) -> Any:
    """Load the initial parameters of a training; warn if the file, like the installed one, does not record what was held out.

    Raises:
        UserError: as `neural.load`; or the network differs in size or kind, or was trained with another seed, which held out other
            recordings: the validation set would contain training data.
    """
    found = neural.load(recipe.network, start)
    before = shipped.read_file(start).settings.get("recipe")
    if not isinstance(before, dict):
        terminal.warn(f"{start} does not say what was held out: if it was trained on these recordings, its validation is too good.")
    elif before.get("seed", recipe.seed) != recipe.seed:
        raise UserError(f"{start} was trained with --seed {before['seed']}, which decides what is held out; give the same here.")
    theirs, ours = (dataclasses.asdict(config) for config in (found.config, recipe.config))
    for name, value in ours.items():
        if name not in ("rate", "steps", "precision") and theirs[name] != value:
            differs = f"{start} holds a network whose {name} is {theirs[name]}, not {value}"
            raise UserError(f"{differs}: training cannot start from it; leave --start out, or change the recipe.")
    return found.parameters


def say_other_recordings(start: Path, sha256: str, terminal: Terminal) -> None:
    """Warn if initial weights were trained on another set of recordings: some of these may now be in the validation set."""
    before = shipped.read_file(start).settings.get("data")
    if isinstance(before, Mapping) and before.get("sha256") != sha256:
        also = "if it was trained on some of those held out here, its validation may be too good"
        terminal.warn(f"{start} was trained on a different set of recordings, and others were held out: {also}.")


def train_karaoke(
    folder: Path, data: Path, config: Path | None, given: Mapping[str, Any], *, device: str, terminal: Terminal
) -> None:
    """Train Deep Karaoke or resume its training, and write its weights.

    Raises:
        UserError: as `read_recipe`, `karaoke.read_songs` and `train.train`.
        Diverged: the loss is NaN or infinite.
    """
    recipe = read_recipe(config, given, karaoke.Recipe)
    described = begin_training(device, terminal)
    songs = karaoke.read_songs(data, part="train")
    learn, held = karaoke.divide(songs, SHARE, recipe.seed)
    digest = hashlib.sha256()
    karaoke.add_to(digest, songs)
    about = {"data": {"songs": [song.name for song in songs], "sha256": digest.hexdigest()}}
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
    """Train the idempotent masker or resume its training, and write its weights.

    Raises:
        UserError: as `read_recipe`, `unmatched.read_unmatched` and `train.train`.
        Diverged: the loss is NaN or infinite.
    """
    recipe = read_recipe(config, given, unmatched.Recipe)
    described = begin_training(device, terminal)
    sounds = unmatched.read_unmatched(
        data, songs=recipe.songs, quieter=recipe.quieter, seed=recipe.seed, redistributable=redistributable
    )
    about = {"data": about_items(sounds) | {"redistributable": redistributable}}
    with terminal.working() as progress:
        trained = unmatched.learn(recipe, sounds, folder, about, progress=progress)
    masker = masked_songs.Masker(recipe.config, trained.state.generator, own=True)

    def weights(settings: dict[str, Any]) -> Weights:
        return masked_songs.weights_of(masker, recipe=dataclasses.asdict(recipe), **settings)

    def told(scores: dict[str, float]) -> str:
        twice, music = (100 * scores[f"validation/{name}"] for name in ("changed_twice", "changed_music"))
        return f"validation: {music:.1f} % of music is changed, and {twice:.1f} % of separated mixtures by a second pass"

    conclude(masked_songs.NAME, recipe, trained, about, weights, told, folder, described, terminal)


# --- separate ------------------------------------------------------------------------------------------------------------


METHODS = (*neural.NETWORKS, "deep-karaoke", masked_songs.NAME)
"""Separation methods that are networks."""
OF_NETWORKS = {"deep-karaoke": ("alpha",), masked_songs.NAME: ("mask_power", "smoothing")}
"""Options that only one network takes."""


def network_of(
    method: str,
    weights: Path | None,
    alpha: float | None = None,
    mask_power: float | None = None,
    smoothing: bool | None = None,
) -> Separator | karaoke.Karaoke | masked_songs.Masker:
    """Load the network of a method, one of `METHODS`.

    Raises:
        UserError: as `neural.load`, `karaoke.load` and `masked_songs.load`.
    """
    if method == masked_songs.NAME:
        return masked_songs.load(weights, mask_power, bool(smoothing))
    return karaoke.load(weights, alpha) if method == "deep-karaoke" else neural.load(method, weights)


def estimators(
    names: Sequence[str], weights: Sequence[Path], material: Material, config: Convolutive, mask_power: float | None = None
) -> Callable[[Mapping[str, np.ndarray]], dict[str, Estimator]]:
    """Return a function from the true sources to the estimators of the non-Bayesian methods in `names`.

    Args:
        names: methods, Bayesian ones included.
        weights: files of weights; each names the network that it belongs to.
        material: the recording, which conv-nmf learns from.
        config: settings of conv-nmf.
        mask_power: option of the idempotent masker.

    Raises:
        UserError: as `network_of`; two files are of one network, or one is of a network that is not in `names`.
    """
    files: dict[str, Path] = {}
    for path in weights:
        name = _network_in(path)
        if name in files:
            raise UserError(f"{files[name]} and {path} both hold weights of {name}; give only one of them.")
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
    """Return the name of the network whose weights a file holds.

    Raises:
        UserError: it is not a separator.
    """
    name = shipped.read_file(path).settings.get("network")
    if name not in METHODS:
        raise UserError(f"{path} holds no weights of a separator; bayessep train {' or '.join(METHODS)} makes some.")
    return name


def everything(weights: Sequence[Path], truth: bool) -> list[str]:
    """List the methods that `compare` runs by default beside the Bayesian ones.

    These are conv-nmf, the networks that are installed or in `weights`, and the oracles if the `truth` is given.
    """
    given = {_network_in(path) for path in weights} | set(shipped.names())
    return ["conv-nmf", *(name for name in METHODS if name in given), *(estimates.ORACLES if truth else ())]


def separate(
    mix: Path, folder: Path, network: str, weights: Path | None, device: str, terminal: Terminal, **own: Any
) -> None:
    """Separate one recording with a network, one of `METHODS`; write the files that `commands.separate` writes.

    `own` are the network's options in `OF_NETWORKS`.

    Raises:
        UserError: as `network_of`, `neural.separate` and `audio.read`; nothing is left half written.
    """
    described = begin(device, terminal)  # before any array is placed on a device
    separator = network_of(network, weights, **own)
    about: dict[str, Any] = {"network": dataclasses.asdict(separator.config) | {"sample_rate": separator.sample_rate}}
    about |= {"weights": None if weights is None else str(weights)} | own
    read = [] if weights is None else [str(weights)]
    _separate(mix, folder, network, lambda _: separator, read, about, described, terminal)


OF_CONVOLUTIVE = {"bases": "templates"} | {n: n for n in ("sweeps", "training_sweeps", "overlap", "max_frequency", "seed", "alpha")}
"""Options of conv-nmf, and their names in `Convolutive`."""


def convolutive_of(options: Mapping[str, Any]) -> Convolutive:
    """Collect the settings of conv-nmf from the options of a verb; those not given (None) keep their defaults."""
    return Convolutive(**{own: options[name] for name, own in OF_CONVOLUTIVE.items() if options.get(name) is not None})


def separate_by_templates(material: Material, config: Convolutive, folder: Path, device: str, terminal: Terminal) -> None:
    """Separate one recording by convolutive NMF, with templates learned from the known speech and music.

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
    """Separate a recording with the separator that `made` returns; `read` are files that must not be overwritten."""
    info, earlier = audio.probe(mix), earlier_draws(folder)
    output.keep_inputs(folder, [*accounts.FILES.values(), *earlier], [mix, *read])
    started = time.perf_counter()
    gain = 1.0
    with output.draft(folder, replacing=earlier) as part:
        stems = [part / accounts.FILES[stem] for stem in (SPEECH, MUSIC)]
        with terminal.working() as progress:
            separator = made(progress)
            if recordings.is_long(info):
                terminal.note(f"{mix} is long, and is processed in blocks")
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
    lines = [f"{method}: {spent:.1f} s ({document['real_time_factor']:.3f} of the recording's length)"]
    if gain != 1:
        lines.append(f"both stems are scaled by a factor of {gain:.3f} to avoid clipping")
    terminal.result(document, "\n".join([*lines, *(str(folder / name) for name in accounts.FILES.values())]))


def _written(paths: Sequence[Path], stems: neural.Stems, mixture: Float[np.ndarray, "C N"], sample_rate: int) -> float:
    """Write both stems, scaled by a common gain if one of them or the mixture would clip; return the gain."""
    gain = audio.common_gain(*stems, mixture)
    for path, stem in zip(paths, stems, strict=True):
        audio.write(path, stem * np.float32(gain), sample_rate)
    return gain


STEP = 0.1
"""Seconds between the labels of `labels_of`, before equal neighbours are joined."""
LEAST, QUIET = 0.05, 1e-5
"""Energy thresholds: a stem is active above `LEAST` of the total energy; silence is below `QUIET` of the loudest half second.

With a lower `LEAST`, leakage from one stem into the other would count as activity.
"""


def labels_of(speech: Path, music: Path, given: Sequence[Segment] = ()) -> list[Segment]:
    """Label where each stem is active, keeping the `given` labels: a stem needs a twentieth of the energy in half a second.

    Where one stem follows the other, both fall into that half second: labels that last less than 0.6 s are dropped.
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
    """Return the energy of every n samples, summed over channels."""
    found = []
    for block in audio.blocks(path, 100 * n / audio.probe(path).sample_rate):
        power = np.square(block.samples, dtype=np.float64).sum(0)
        found.append(np.add.reduceat(power, np.arange(0, len(power), n)))
    return np.concatenate(found)
