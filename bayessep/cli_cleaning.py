"""The command-line interface of `clean`, implemented in `bayessep.cleaning_files`."""

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
    """Add the verb of this module."""
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
        typer.Option("--skip-existing", help="Skip recordings that have results in DIR, made by this version with these settings."),
    ] = False,
    recogniser: Annotated[
        str | None,
        typer.Option(
            "--recogniser",
            metavar="NAME",
            show_default="no transcript",
            help=f"Also transcribe the speech. {RECOGNISERS}",
        ),
    ] = None,
    weights: RecogniserWeights = None,
    draws: Annotated[
        int,
        typer.Option(
            "--draws",
            metavar="N",
            min=0,
            max=100,
            help="Mark transcribed words as uncertain if they change in N posterior samples of the speech (up to 10 min).",
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
    """Separate speech and music in recordings, with no other input.

    Detects speech and music, learns both from the stretches where only one of them sounds, and separates the mixed ones; speech
    alone passes untouched. Writes a folder in DIR for each recording: speech.wav and music.wav, which add up to it; segments.csv,
    which says where speech and music sound; report.html, to look at and listen to; clean.json with all details; and with
    --recogniser transcript.txt and transcript.srt. If a recording fails, the others are still cleaned; it is listed at the end,
    and the exit code is 1.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import cleaning_files, devices
    from bayessep.cleaning import Cleaning

    model = {"bases": bases, "sweeps": sweeps, "training_sweeps": training_sweeps, "seed": seed}
    settings = Cleaning(dataclasses.replace(Cleaning().model, **{k: v for k, v in model.items() if v is not None}))
    described = devices.begin(device, terminal)  # before any array is placed on a device
    writing = cleaning_files.writing(recogniser, weights, draws)
    failed = cleaning_files.clean(recordings, output, settings, described, terminal, skip_existing=skip_existing, writing=writing)
    raise typer.Exit(1 if failed else 0)
