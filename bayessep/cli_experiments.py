"""The command-line interface of `reproduce`, implemented in `bayessep.experiment_commands`."""

import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bayessep.options import Device, Json, Quiet, Seed, TheDevice
from bayessep.terminal import Resumable, Terminal


class Experiment(StrEnum):
    """Experiments that `reproduce` can run."""

    demir2011 = "demir2011"
    woo2020 = "woo2020"
    michelashvili2019 = "michelashvili2019"
    bhattacharjee2022 = "bhattacharjee2022"
    simpson2015 = "simpson2015"


class Part(StrEnum):
    """Parts of paper 001 that can be run."""

    separation = "separation"
    recognition = "recognition"


def register(app: typer.Typer) -> None:
    """Add the verb of this module."""
    app.command(cls=Resumable, epilog=_REPRODUCE)(reproduce)


_REPRODUCE = """**Examples**

bayessep reproduce demir2011 --data recordings --quick

bayessep reproduce demir2011 --data recordings -o tables --json

bayessep reproduce bhattacharjee2022 --data musan --transfer dafx12

bayessep reproduce bhattacharjee2022 --data recordings -o tables --long --finished

bayessep reproduce simpson2015 --data recordings --quick

bayessep reproduce michelashvili2019 --data musdb18hq

bayessep reproduce woo2020 --part separation --data recordings

bayessep reproduce woo2020 --data recordings --quick

bayessep reproduce woo2020 --data recordings --speech LibriSpeech -o words"""

_OF = {
    "development": (Experiment.demir2011,),
    "jobs": (Experiment.demir2011,),
    "transfer": (Experiment.bhattacharjee2022,),
    "long": (Experiment.bhattacharjee2022,),
    "part": (Experiment.woo2020,),
    "speech": (Experiment.woo2020,),
}
"""Experiments that take each of the options that not all of them have."""


def reproduce(
    experiment: Annotated[
        Experiment,
        typer.Argument(
            help="Paper to reproduce: demir2011 is 000 (separation), woo2020 001 (speech recognition over music), "
            "michelashvili2019 002 (vocals, learned without isolated ones), bhattacharjee2022 003 (detection), "
            "simpson2015 004 (vocals).",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="Recordings with a manifest.csv (003: or MUSAN; 002 and 004: with stems, or MUSDB18, DSD100, plain folders).",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            show_default="EXPERIMENT[-PART]",
            help="Folder for the results; what is there is not run again.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Run only a small part, in about five to ten minutes.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Paper 003: train as long as on a GPU, on any device.")] = False,
    finished: Annotated[bool, typer.Option("--finished", help="Run nothing; make tables of the results so far.")] = False,
    part: Annotated[
        Part | None,
        typer.Option("--part", metavar="recognition|separation", show_default="recognition", help="Paper 001: which part to run."),
    ] = None,
    speech: Annotated[
        Path | None,
        typer.Option(
            "--speech",
            metavar="DIR",
            help="Paper 001, recognition: speech with any words instead of digits; a folder with a manifest.csv, or LibriSpeech.",
        ),
    ] = None,
    development: Annotated[
        bool,
        typer.Option("--development", help="Paper 000: also run the development mixtures, for comparing settings; another hour."),
    ] = False,
    transfer: Annotated[
        Path | None,
        typer.Option("--transfer", metavar="DIR", help="Paper 003: labelled broadcasts, in folders train, valid, test-…."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            show_default="cores, at most 4; 1 on a GPU",
            help="Paper 000: number of parallel processes, each of up to 4 GB.",
        ),
    ] = None,
    seed: Seed = 0,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the experiment of a paper on real recordings, and print its tables beside the paper's numbers.

    000 compares the paper's methods and alternatives at several speech-to-music ratios; an hour or so on two cores. 001 compares
    word recognition over music, with and without a separator in front, in about three hours of one core; its --part separation
    compares the time domain with the frequency domain, in half of that. 002 compares the masker with and without its losses,
    and with the paper's baselines; hours. 003 trains every network, feature and head; a night, or longer trainings on a GPU
    (--long). 004 scores vocals and accompaniment against the confidence of masks (Figures 2 and 3), for a network, NMF and the
    ideal binary mask; less than an hour for six minutes of songs. Each result is kept in -o DIR at once: after an interruption, the
    same command resumes.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import devices, experiment_commands
    from bayessep.errors import UserError

    given = {"development": development, "jobs": jobs, "transfer": transfer, "long": long, "part": part, "speech": speech}
    for name, value in given.items():
        if value and experiment not in _OF[name]:
            raise UserError(f"--{name} belongs to another experiment ({', '.join(_OF[name])}); leave it out for {experiment}.")
    if quick and long:
        raise UserError("--quick runs a part of the experiment, --long all of it; give only one of them.")
    if experiment == Experiment.woo2020:
        part = part or Part.recognition
    # The other experiments also compute arrays of many sizes: memory that is kept would grow, and not be used again.
    begin = devices.begin_training if experiment == Experiment.woo2020 else devices.begin
    described, output = begin(device, terminal), output or Path("-".join(filter(None, (experiment, part))))
    recognition = partial(experiment_commands.reproduce_recognition, speech=speech)
    if part == Part.separation and speech is not None:
        raise UserError("--speech belongs to --part recognition; leave it out of the separation.")
    if finished and speech is not None:
        raise UserError("--finished runs nothing, and --speech says what to run on; give only one of them.")
    of_networks = {
        Experiment.woo2020: experiment_commands.reproduce_separation if part == Part.separation else recognition,
        Experiment.michelashvili2019: experiment_commands.reproduce_masking,
        Experiment.simpson2015: experiment_commands.reproduce_karaoke,
    }
    if experiment in of_networks:
        of_networks[experiment](output, data, seed, "quick" if quick else "full", finished, described, terminal)
        return
    if experiment == Experiment.bhattacharjee2022:
        budget = "quick" if quick else "long" if long or not described.startswith("cpu") else "full"
        experiment_commands.reproduce_detection(output, data, seed, budget, transfer, finished, described, terminal)
        return
    # Several processes would share one accelerator, and its memory with this process.
    processes = jobs or (min(4, os.cpu_count() or 1) if described.startswith("cpu") else 1)
    experiment_commands.reproduce_mixtures(output, data, seed, quick, development, processes, finished, described, terminal)
