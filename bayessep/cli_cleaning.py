"""The verb that cleans recordings, as `bayessep.cli` has it. What it does is in `bayessep.cleaning_files`."""

import dataclasses
from typing import Annotated

import typer

from bayessep.options import (
    RECOGNISERS,
    Bases,
    Device,
    Json,
    Output,
    Quiet,
    RecogniserWeights,
    Recordings,
    Seed,
    Sweeps,
    TheDevice,
    TrainingSweeps,
)
from bayessep.terminal import Batch, Terminal


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command(cls=Batch, epilog=_CLEAN)(clean)


_CLEAN = """**Examples**

bayessep clean radio.mp3 -o cleaned

bayessep clean radio.mp3 -o cleaned --recogniser pocketsphinx --draws 4

bayessep clean recordings/ more.flac -o cleaned --skip-existing"""


def clean(
    recordings: Recordings,
    output: Output,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out what DIR has results of, made by this version with these settings."),
    ] = False,
    recogniser: Annotated[
        str | None,
        typer.Option(
            "--recogniser",
            metavar="NAME",
            show_default="no transcript",
            help=f"Also write down what is said in the speech. {RECOGNISERS}",
        ),
    ] = None,
    weights: RecogniserWeights = None,
    draws: Annotated[
        int,
        typer.Option(
            "--draws", metavar="N", min=0, max=100, help="Mark words as unsure that change in N draws of the speech (up to 10 min)."
        ),
    ] = 0,
    bases: Bases = None,
    sweeps: Sweeps = None,
    training_sweeps: TrainingSweeps = None,
    seed: Seed = 0,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take speech and music apart in recordings of which nothing else is given.

    Finds speech and music, learns both from where they are heard alone, and separates what is mixed; speech alone passes
    untouched. Writes into DIR, in a folder for each recording: speech.wav and music.wav, which add up to it; segments.csv, what
    is on when; report.html, to look at and listen to; clean.json with everything else; and with --recogniser transcript.txt and
    transcript.srt. A recording that fails is listed at the end, the others are cleaned, and the exit code is 1.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import cleaning_files, commands
    from bayessep.cleaning import Cleaning

    model = {"bases": bases, "sweeps": sweeps, "training_sweeps": training_sweeps, "seed": seed}
    settings = Cleaning(dataclasses.replace(Cleaning().model, **{k: v for k, v in model.items() if v is not None}))
    writing = cleaning_files.writing(recogniser, weights, draws)
    described = commands.begin(device, terminal)
    failed = cleaning_files.clean(recordings, output, settings, described, terminal, skip_existing=skip_existing, writing=writing)
    raise typer.Exit(1 if failed else 0)
