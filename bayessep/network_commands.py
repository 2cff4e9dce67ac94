"""Implementation of the verbs of `bayessep.cli_networks`: detect, train detector, models."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bayessep import __version__, corpora, detection, listening_commands, segments, shipped, train
from bayessep.detection import Detection
from bayessep.detector_data import about_items
from bayessep.devices import begin, begin_training
from bayessep.errors import UserError
from bayessep.shipped import Weights
from bayessep.terminal import Terminal, to_json

# --- detect --------------------------------------------------------------------------------------------------------------

ENDINGS = {"csv": ".csv", "tsv": ".tsv", "rttm": ".rttm", "textgrid": ".TextGrid", "audacity": ".txt", "json": ".json"}
"""File extension of each format."""


def detect(
    recordings: Sequence[Path], place: Path | None, format: str | None, weights: Path | None, device: str, terminal: Terminal
) -> int:
    """Label recordings one after the other; return how many failed.

    Raises:
        UserError: as `listening_commands.run` and `detection.network_of`.
    """

    def begun() -> listening_commands.Listen:
        begin(device, terminal)
        network = _network(weights)
        return lambda path, progress: document_of(detection.detect(path, network=network, progress=progress))

    reads = [] if weights is None else [weights]
    verb = listening_commands.BatchVerb("detect", ENDINGS, "csv", segments.format_of, begun, text_of, reads, frozenset({"rttm"}))
    return listening_commands.run(verb, recordings, place, format, terminal)


def _network(weights: Path | None) -> detection.Network:
    """Load a detector from a file, by default the installed one."""
    if weights is not None:
        return shipped.made_of_file(weights, detection.network_of)
    if detection.MODEL not in shipped.names():
        raise UserError("no detector is installed; give --weights FILE, a file that bayessep train detector has written.")
    return detection.shipped_network()


def document_of(heard: Detection) -> dict[str, Any]:
    """Convert a detection to a JSON document: times in seconds to the microsecond, probabilities to four digits."""
    found = [
        {"start": round(float(s.start), 6), "end": round(float(s.end), 6), "label": s.label}
        | {"probability": None if s.probability is None else round(float(s.probability), 4)}
        for s in heard.segments
    ]
    speech, music = (np.round(p.astype(np.float64), 4) for p in (heard.speech, heard.music))
    return {"segments": found, "frames": {"hop": round(heard.hop, 6), "speech": speech, "music": music}}


def text_of(document: Mapping[str, Any], format: str, recording: Path) -> str:
    """Render the document of a detection as JSON or in another format of `bayessep.segments`."""
    if format == "json":
        return to_json(document)
    return segments.to_text([segments.Segment(**s) for s in document["segments"]], format, recording.stem)


# --- train ---------------------------------------------------------------------------------------------------------------

WEIGHTS = "weights.safetensors"
SHARE = 0.3
"""Share of the split groups of each class that is held out for validation and calibration."""
CALIBRATING = 20
"""Number of scenes of 30 s that a detector is calibrated on: as recorded, and as many altered ones if it is trained on such."""


class Processes(NamedTuple):
    """This process in distributed training."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    number: int


def processes(coordinator: str | None, count: int | None, number: int | None) -> Processes | None:
    """Check and combine the three options of distributed training; return None for a single process.

    Raises:
        UserError: some of them are missing, or the number is too great.
    """
    if coordinator is None and count is None and number is None:
        return None
    if coordinator is None or count is None or number is None:
        raise UserError("--coordinator, --processes and --process go together: give all three, or none.")
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise UserError(f"--coordinator is {coordinator!r}, but must be of the form HOST:PORT.")
    if number >= count:
        raise UserError(f"--process is {number}, but the last of {count} processes is {count - 1}.")
    return Processes(coordinator, count, number)


def begin_together(together: Processes | None, device: str, terminal: Terminal) -> str:
    """Join the other processes, if there are any, and call `devices.begin_training`; only process 0 prints notes."""
    if together is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(together.coordinator, together.processes, together.number)
        terminal.quiet |= together.number > 0
    return begin_training(device, terminal)


def licences_of(sounds: corpora.DetectorRecordings) -> list[str]:
    """Return the licences of all training recordings."""
    return sorted({s.recording.licence for of in sounds for s in of if s.recording.licence})


def conclude(
    network: str,
    recipe: Any,
    trained: train.Trained,
    about: Mapping[str, Any],
    weights: Callable[[dict[str, Any]], Weights],
    told: Callable[[dict[str, float]], str],
    folder: Path,
    device: str,
    terminal: Terminal,
) -> None:
    """Write the weights of a finished training, and print its result.

    Args:
        network: the name of the network in `bayessep train`.
        recipe: the dataclass of the training settings.
        trained: the result of the training loop.
        about: a description of the training data, for the weights and the printed document.
        weights: returns the weights of the trained state, given further settings to store with them.
        told: returns a line for people, given the scores of the best epoch.
        folder: the folder for the weights.
        device: the name of the device that the network was trained on.
        terminal: where the result is printed.
    """
    scores = {name: value for name, value in trained.history[trained.epoch - 1].items() if name != "epoch"}
    found = {"epoch": trained.epoch, "epochs": trained.epochs, "scores": scores}
    digest = shipped.write_file(folder / WEIGHTS, weights({"training": found, **about}))
    document = {"command": f"train {network}", "version": __version__, "device": device, "recipe": dataclasses.asdict(recipe)}
    document |= {**about, **found, "stopped": trained.stopped, "sha256": digest}
    document["output"] = {"folder": str(folder), "weights": WEIGHTS, "config": train.CONFIG, "metrics": train.METRICS}
    reason = "no improvement since" if trained.stopped == "patience" else "all were run"
    ended = f"epoch {trained.epoch} of {trained.epochs} is kept ({reason})"
    terminal.result(document, "\n".join([ended, told(scores), str(folder / WEIGHTS)]))


def train_detector(
    folder: Path,
    data: Path,
    config: Path | None,
    given: Mapping[str, Any],
    *,
    redistributable: bool,
    together: Processes | None,
    device: str,
    terminal: Terminal,
) -> None:
    """Train a detector or resume its training, calibrate it on the recordings held out, and write its weights.

    Detectors of single patches, which are not run on recordings, are not calibrated.

    Raises:
        UserError: as `read_recipe`, `corpora.speech_and_music` and `train.train`.
        Diverged: the loss is NaN or infinite.
    """
    from bayessep.detector_data import Items, read_items
    from bayessep.detector_release import calibration, scenes
    from bayessep.detector_training import divide, read_recipe, task

    recipe = read_recipe(config, given)
    if recipe.network != "frames":
        unfit = f"bayessep detect does not run the network {recipe.network}, which is trained here"
        terminal.warn(f"{unfit}; train one that it runs with {detection.RUNS}.")
    sounds = corpora.speech_and_music(data, redistributable=redistributable, missing=terminal.warn)
    described = begin_together(together, device, terminal)
    # Scenes keep a speaker's natural pauses; a patch cut from a pause would hold no speech.
    pauses = recipe.network == "frames"
    items = Items(*(read_items(of, recipe.front.sample_rate, pauses=pauses) for of in sounds))
    about = {"data": about_items(items) | {"redistributable": redistributable}}
    learn, held = divide(items, SHARE, recipe.seed)
    with terminal.working() as progress:
        trained = train.train(task(recipe, learn, held, about), recipe.training, folder, progress=progress)
    if jax.process_index() > 0:
        return
    labels, licences = list(detection.LABELS[: recipe.detector.classes]), licences_of(sounds)
    found = detection.Calibration()
    if recipe.network == "frames":
        terminal.note("calibrating")
        kinds = (False, True) if recipe.augment else (False,)
        made = [scene for altered in kinds for scene in scenes(held, CALIBRATING, 30.0, recipe.seed, augment=altered)]
        found = calibration(made, detection.network_of(detection.weights_of(recipe, [trained.state])))

    def weights(settings: dict[str, Any]) -> Weights:
        return detection.weights_of(recipe, [trained.state], found, labels=labels, licences=licences, **settings)

    def told(scores: dict[str, float]) -> str:
        return f"validation: loss {trained.loss:.4f}, {100 * scores['validation/accuracy']:.1f} % right"

    conclude("detector", recipe, trained, about, weights, told, folder, described, terminal)


# --- models --------------------------------------------------------------------------------------------------------------


def licence_of(card: str) -> str:
    """Extract the licence from a model card: the paragraph that begins with the word, or the one below such a heading."""
    lines = [line.strip() for line in card.splitlines()]
    for n, line in enumerate(lines):
        if re.match(r"[#*\-\s]*licen[cs]e\b", line, re.IGNORECASE):
            words = re.sub(r"^[#*\-\s]*licen[cs]e[\s.:*]*", "", line, flags=re.IGNORECASE)
            after = lines[n + 1 :] if words else [*dropwhile(lambda line: not line, lines[n + 1 :])]
            rest = takewhile(lambda line: line and not re.match(r"#|\||[-*] |\*\*", line), after)
            return " ".join([words, *rest]).strip()
    return ""


def what_of(model: shipped.Model) -> str:
    """Describe a model: the heading of its card, or the first sentence where that is its name, and its kind of network."""
    heading, _, text = model.card.strip().partition("\n")
    heading = heading.strip("# ")
    first = " ".join(text.strip().partition("\n\n")[0].split())
    said = re.split(r"(?<=\.) ", first, maxsplit=1)[0].rstrip(".") if heading == model.name else heading
    recipe = model.settings.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    made = [f"{name} {recipe[name]}" for name in ("network", "head", "feature", "bands") if name in recipe]
    return f"{said} ({', '.join(made)})" if made else said


def models_list(terminal: Terminal) -> None:
    """Print the installed models: name, size, description and licence; of a damaged one, the error."""
    from rich.table import Table

    rows: list[dict[str, Any]] = []
    for name in shipped.names():
        try:
            model = shipped.info(name)
            row = {"bytes": model.bytes, "sha256": model.sha256, "settings": model.settings, "what": what_of(model)}
            rows.append({"name": name} | row | {"licence": licence_of(model.card), "error": None})
        except UserError as error:
            rows.append({"name": name, "error": str(error)})
    table = Table()
    for column in ("model", "size", "what it is", "licence"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for row in rows:
        if row["error"]:
            table.add_row(row["name"], "", row["error"], "")
        else:
            table.add_row(row["name"], f"{row['bytes'] / 1e6:.2f} MB", row["what"], row["licence"])
    terminal.result({"models": rows}, table if rows else "no models are installed.")


def models_info(name: str, terminal: Terminal) -> None:
    """Print the card and the settings of a model.

    Raises:
        UserError: there is not a model of that name, or it is damaged.
    """
    model = shipped.info(name)
    document = model._asdict() | {"path": str(model.path), "licence": licence_of(model.card)}
    lines = [f"{model.path}: {model.bytes} bytes, sha256 {model.sha256}", "", model.card.rstrip(), "", "settings:"]
    terminal.result(document, "\n".join([*lines, to_json(model.settings).rstrip()]))


def models_verify(names: Sequence[str], terminal: Terminal) -> bool:
    """Compare models, by default all, with their published checksums; return whether there are any and all are undamaged.

    Raises:
        UserError: there is not a model of a given name.
    """
    known = shipped.published()
    for name in names:
        if name not in known:
            raise UserError(f"there is no model {name!r}; choose from {', '.join(known) or 'none'}.")
    errors: dict[str, str | None] = {}
    for name in names or known:
        try:
            shipped.verify(name)
            errors[name] = None
        except UserError as error:
            errors[name] = str(error)
    lines = [f"{name}: {error or 'undamaged'}" for name, error in errors.items()]
    ok = bool(errors) and not any(errors.values())
    terminal.result({"ok": ok, "models": errors}, "\n".join(lines) if lines else "no models are installed: nothing to verify.")
    return ok
