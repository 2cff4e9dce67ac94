"""Implementation of the verbs of `bayessep.cli_transcripts`: transcribe, train attention-asr."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from bayessep import audio, corpora, listening_commands, recognisers, spoken, train, transcription, vocabulary
from bayessep.commands import draws_in
from bayessep.detector_data import read_items
from bayessep.detector_training import read_recipe
from bayessep.devices import begin
from bayessep.errors import UserError
from bayessep.network_commands import SHARE, Processes, begin_together, conclude
from bayessep.recogniser_training import RATE, Material, Recipe, about_material, divided, most_labels, task
from bayessep.shipped import Weights
from bayessep.terminal import Terminal, to_json
from bayessep.transcription import FORMATS, Recogniser

# --- transcribe ----------------------------------------------------------------------------------------------------------


def transcribe(
    recordings: Sequence[Path],
    place: Path | None,
    format: str | None,
    recogniser: str | None,
    weights: Path | None,
    draws: Path | None,
    device: str,
    terminal: Terminal,
) -> int:
    """Transcribe recordings one after the other; return how many failed. `draws` is a folder of posterior draws of the only one.

    Raises:
        UserError: as `listening_commands.run` and `recognisers.named`; or draws with several recordings, or of another length.
    """
    if draws is not None and (len(recordings) > 1 or recordings[0].is_dir()):
        raise UserError(f"--draws {draws} belong to one recording; transcribe only that one.")
    drawn = [] if draws is None else _draws_in(draws)

    def begun() -> listening_commands.Listen:
        begin(device, terminal)
        chosen: Recogniser = recognisers.named(recogniser, weights)

        def listen(path: Path, progress: Any) -> dict[str, Any]:
            if drawn:
                _check_draws(drawn, path)
            found, *others = (_said(one, chosen, progress) for one in (path, *drawn))
            return transcription.document_of(transcription.compared(found, others))

        return listen

    def text(document: dict[str, Any], format: str, _: Path) -> str:
        if format == "json":
            return to_json(document)
        return transcription.text_of(transcription.transcript_of(document), format)

    reads = [*drawn, *([] if weights is None else [weights])]
    verb = listening_commands.BatchVerb("transcribe", FORMATS, "text", _format_of, begun, text, reads)
    return listening_commands.run(verb, recordings, place, format, terminal)


def _said(path: Path, recogniser: Recogniser, progress: Any) -> transcription.Transcript:
    try:
        return transcription.transcribe(path, recogniser, progress=progress)
    except UserError as error:  # a recogniser does not know the name of the file
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _draws_in(place: Path) -> list[Path]:
    """List the draws that `separate` wrote, given its output folder or the folder ``draws`` in it."""
    own = place.resolve()
    folder = own.parent if own.name == "draws" and not (own / "draws").is_dir() else place
    if not (found := draws_in(folder)):
        raise UserError(f"there are no draws in {place}; give the folder that separate --draws N wrote to.")
    return [folder / name for name in found]


def _check_draws(drawn: Sequence[Path], path: Path) -> None:
    own = _lasting(path)
    for one in drawn:
        if abs((other := _lasting(one)) - own) > 0.01:
            lasting = f"{one} lasts {other:g} s, and {path} {own:g} s"
            raise UserError(f"{lasting}; give draws that separate --draws N made of the same mixture.")


def _lasting(path: Path) -> float:
    info = audio.probe(path)
    return info.frames / info.sample_rate


def _format_of(path: Path) -> str:
    formats = {ending: name for name, ending in FORMATS.items()}
    if (found := formats.get(path.suffix.lower())) is None:
        known = ", ".join(formats)
        raise UserError(f"{path}: {path.suffix or 'no ending'} is not a transcript format; use one of {known}, or give --format.")
    return found


# --- train ---------------------------------------------------------------------------------------------------------------


def train_recogniser(
    folder: Path,
    data: Path,
    config: Path | None,
    given: Mapping[str, Any],
    *,
    music: Path | None,
    redistributable: bool,
    together: Processes | None,
    device: str,
    terminal: Terminal,
) -> None:
    """Train a recogniser or resume its training, and write its weights. Music is taken from `data` unless `music` is given.

    Raises:
        UserError: as `read_recipe`, `spoken.listed`, `corpora.speech_and_music` and `train.train`; or `music` without `mixture`.
        Diverged: the loss is NaN or infinite.
    """
    recipe = read_recipe(config, given, Recipe)
    recipe = dataclasses.replace(recipe, subwords=recipe.size)  # what is stored says what was learned
    if music is not None and not recipe.mixture:
        raise UserError(f"--music {music} has no effect without --mixture; add that, or leave --music out.")
    listed = spoken.listed(data, only=recipe.words, redistributable=redistributable)
    played = []
    if recipe.mixture:
        only = (corpora.MUSIC,)
        of = corpora.speech_and_music(music or data, redistributable=redistributable, missing=terminal.warn, needed=only)
        played = of.music
    described = begin_together(together, device, terminal)
    material = Material(spoken.read(listed), read_items(played, RATE, pauses=True))
    about = {"data": about_material(material) | {"redistributable": redistributable}}
    learn, held = divided(material, SHARE, recipe.seed)
    words = vocabulary.learned([one.words for one in learn.speech], recipe.subwords)
    made = task(recipe, words, learn, held, about)
    with terminal.working() as progress:
        trained = train.train(made, recipe.training, folder, progress=progress)
    if jax.process_index() > 0:
        return
    licences = sorted({*(one.licence for one in listed), *(sound.recording.licence for sound in played)} - {""})

    def weights(settings: dict[str, Any]) -> Weights:
        network, labels = recipe.config(vocabulary.size_of(words)), most_labels(recipe, learn, held, words)
        facts = {"recipe": dataclasses.asdict(recipe), "licences": licences, **settings}
        return recognisers.weights_of(network, trained.state, words, recipe.seconds, labels, facts)

    def told(scores: dict[str, float]) -> str:
        through = " at 0 dB" if recipe.mixture else ""
        return f"validation{through}: {100 * scores['validation/right']:.1f} % of the labels are right, given those before"

    conclude(recognisers.ATTENTION, recipe, trained, about, weights, told, folder, described, terminal)
