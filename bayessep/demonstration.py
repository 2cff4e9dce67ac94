"""The demo: a broadcast generated from a seed, separated by every method, on a page to listen to.

Everything in it is synthetic. It shows what the methods do and how to read their results; it is no evidence of how well
they do on real recordings.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayessep import audio, comparison, report, segments
from bayessep.comparison import Comparison
from bayessep.data import Broadcast, generate_broadcast
from bayessep.output import draft
from bayessep.preparation import Known
from bayessep.separators import Progress, silent
from bayessep.settings import METHODS, Settings

SETTINGS = Settings(bases=20, sweeps=20, training_sweeps=30, overlap=0.5)
"""Small enough for six methods in a minute or so on two cores, compilation included; the defaults of `separate` take longer."""

INTRO = (
    "Everything here is generated: {seconds:g} seconds of two voices, made of noise and pulses, over a {jingle:g}-second "
    "jingle that repeats, equally loud. The methods were given the first {labelled:g} seconds of the jingle and "
    "{training:g} seconds of other utterances of the voices, and nothing else; they expect the jingle to be played in order and, "
    "all but the unsupervised one, learn the rest of it from its repeats. It shows how results are read, and is no "
    "evidence of how well a method does on real recordings."
)


class Demo(NamedTuple):
    """Paths of the results, and the comparison."""

    report: Path
    figure: Path
    table: Path  # compare.json
    comparison: Comparison


def demo(
    folder: Path,
    *,
    seed: int = 0,
    seconds: float | int = 30.0,
    methods: Sequence[str] = tuple(METHODS),
    settings: Settings = SETTINGS,
    progress: Progress = silent,
) -> Demo:
    """Generate a broadcast, separate it by every method, and write all results.

    The folder gets report.html, compare.{png,json,csv}, and <method>/ with {speech,music}.wav, labels.csv and
    separation.json. Its subfolder material/ has what the methods were given (mixture, training_speech,
    labelled_music .wav) and what they were not (speech, music .wav, truth.csv), to try `bayessep separate` and
    `bayessep compare` on. All files appear together, or none.

    Args:
        folder: created if needed.
        seed: of the broadcast and of the methods.
        seconds: length of the broadcast.
        methods: keys of `METHODS`.
        settings: of all methods; the seed is replaced.
        progress: called now and then.

    Raises:
        UserError: the folder cannot be written to, or a method does not exist.
    """
    folder = Path(folder)
    with draft(folder) as place:
        made = generate_broadcast(seed, seconds=seconds)
        mixture = made.mixture[None]
        references = {"speech": made.speech, "music": made.music}
        found = comparison.compare(
            mixture,
            made.sample_rate,
            Known(speech=(made.training_speech,), music=(made.labelled_music,)),
            methods,
            dataclasses.replace(settings, seed=seed),
            references=references,
            progress=progress,
        )
        _write_material(made, place / "material")
        comparison.write(found, mixture, place, references=references, labels=made.segments)
        report.write_report(
            place / "report.html",
            found,
            mixture,
            made.sample_rate,
            references=references,
            labels=made.segments,
            title="bayessep: a generated broadcast, separated",
            intro=_intro(made),
        )
    return Demo(folder / "report.html", folder / "compare.png", folder / "compare.json", found)


def _intro(made: Broadcast) -> str:
    waveforms = (made.mixture, made.jingle, made.labelled_music, made.training_speech)
    seconds, jingle, labelled, training = (len(w) / made.sample_rate for w in waveforms)
    return INTRO.format(seconds=seconds, jingle=jingle, labelled=labelled, training=training)


def _write_material(made: Broadcast, folder: Path) -> None:
    folder.mkdir()
    waveforms: dict[str, np.ndarray] = {
        "mixture": made.mixture,
        "training_speech": made.training_speech,
        "labelled_music": made.labelled_music,
        "speech": made.speech,
        "music": made.music,
    }
    for name, waveform in waveforms.items():
        audio.write(folder / f"{name}.wav", waveform, made.sample_rate)
    segments.write(folder / "truth.csv", made.segments)
