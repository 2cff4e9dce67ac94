"""The command-line interface of detect, train detector and models, implemented in `bayessep.network_commands`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bayessep.options import Device, Json, Quiet, Recordings, TheDevice
from bayessep.terminal import Resumable, Terminal, Verb

Format = StrEnum("Format", ["csv", "tsv", "rttm", "textgrid", "audacity", "json"])

train = typer.Typer(no_args_is_help=True, help="Train a network on your own recordings.")
models = typer.Typer(no_args_is_help=True, help="List, describe and verify the installed networks.")


class Listener(Verb):
    """A verb that writes the file of each recording as soon as it is finished."""

    when_interrupted = "files written so far are complete"


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command(cls=Listener, epilog=_DETECT)(detect)
    app.add_typer(train, name="train")
    app.add_typer(models, name="models")


# --- detect --------------------------------------------------------------------------------------------------------------

_DETECT = """**Examples**

bayessep detect radio.mp3

bayessep detect radio.mp3 -o radio.TextGrid

bayessep detect recordings/ more.flac -o labels --format rttm"""


def detect(
    recordings: Recordings,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default="standard output",
            help="File for the labels; for several recordings, a folder, which gets a file named after each.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", show_default="by the ending of FILE, else csv", help="Format of the labels."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Weights file from bayessep train detector; by default the installed one."),
    ] = None,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Detect speech, music, both or neither (silence) in a recording, with probabilities.

    Several recordings follow one another on standard output, each after a line “# path” (RTTM names the recording in every line).
    JSON also has the probabilities of speech and of music every 40 ms; for several recordings it is a list, with their paths. If a
    recording fails, the others are still labelled; it is listed at the end, and the exit code is 1. Noise should count as silence,
    but sustained noise with nothing else is sometimes taken for music.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import network_commands

    wanted = None if format is None else str(format)
    failed = network_commands.detect(recordings, output, wanted, weights, device, terminal)
    raise typer.Exit(1 if failed else 0)


# --- train ---------------------------------------------------------------------------------------------------------------

recipe = partial(typer.Option, rich_help_panel="Training recipe (also keys of --config)")
_processes = partial(typer.Option, rich_help_panel="Distributed training")

Data = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", show_default=False, help="Folder of recordings with a manifest.csv, or unpacked MUSAN."),
]
Trained = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Folder for weights.safetensors, checkpoints and metrics. Called again, it resumes the training.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Training recipe in TOML or JSON; the recipe options below override it."),
]
Redistributable = Annotated[
    bool, typer.Option("--redistributable", help="Leave out recordings whose licence does not allow weights to be redistributed.")
]
Coordinator = Annotated[
    str | None,
    _processes("--coordinator", metavar="HOST:PORT", help="Address of process 0; all processes must see the same -o DIR."),
]
Processes = Annotated[int | None, _processes("--processes", metavar="N", min=1, help="Total number of processes.")]
MinDelta = Annotated[
    float | None,
    recipe(
        "--min-delta", metavar="X", show_default="0.0", help="Smallest improvement in validation loss that counts for --patience."
    ),
]
TheSeed = Annotated[int | None, recipe("--seed", metavar="N", show_default="0", help="Seed of all random numbers.")]
Process = Annotated[int | None, _processes("--process", metavar="I", min=0, help="Index of this process, from 0.")]


@train.command(
    cls=Resumable,
    epilog="""**Examples**

bayessep train detector --data recordings -o trained --network frames --neither --not-standardised

bayessep train detector --data musan -o trained --config recipe.toml --epochs 20""",
)
def detector(
    data: Data,
    output: Trained,
    config: Config = None,
    redistributable: Redistributable = False,
    network: Annotated[
        str | None,
        recipe(
            "--network",
            metavar="b1|b2|b3|b4|b4-nofc|frames",
            show_default="b3",
            help="Network of paper 003; or frames, the one that detect runs.",
        ),
    ] = None,
    head: Annotated[
        str | None,
        recipe(
            "--head",
            metavar="single|multi|cascaded",
            show_default="multi",
            help="Output heads: classes only, multi-task or cascaded multi-task.",
        ),
    ] = None,
    feature: Annotated[
        str | None, recipe("--feature", metavar="NAME", show_default="LMHPS-EF", help="Input feature of paper 003, such as LMS.")
    ] = None,
    bands: Annotated[int | None, recipe("--bands", metavar="N", show_default="120", help="Number of mel bands.")] = None,
    patch: Annotated[
        int | None, recipe("--patch", metavar="N", show_default="68", help="Length of the network's input, in frames of 10 ms.")
    ] = None,
    dropout: Annotated[
        float | None, recipe("--dropout", metavar="X", show_default="0.2", help="Dropout rate of the networks b3 and frames.")
    ] = None,
    rate: Annotated[
        float | None,
        recipe("--rate", metavar="X", show_default="0.001", help="Learning rate of Adam; 0: the optimiser of paper 003's code."),
    ] = None,
    each: Annotated[
        int | None,
        recipe(
            "--each",
            metavar="N",
            show_default="16",
            help="Patches of each class per batch; for the network frames, scenes per batch.",
        ),
    ] = None,
    crops: Annotated[
        int | None,
        recipe(
            "--crops",
            metavar="N",
            show_default="24",
            help="Crops of each class per epoch; for the network frames, scenes, three times as many.",
        ),
    ] = None,
    crop_seconds: Annotated[
        float | None, recipe("--crop-seconds", metavar="S", show_default="20.0", help="Length of crops and scenes, in seconds.")
    ] = None,
    augment: Annotated[
        bool | None,
        recipe(
            "--augment/--no-augment",
            show_default="augment",
            help="Augment the data by filters, rooms, codecs and noise (extra train).",
        ),
    ] = None,
    plain: Annotated[
        float | None,
        recipe("--plain", metavar="X", show_default="0.0", help="Fraction of crops, or scenes, that --augment leaves as recorded."),
    ] = None,
    songs: Annotated[
        bool | None,
        recipe(
            "--songs/--no-songs", show_default="no-songs", help="Add music with singing synthesised from the speech (extra train)."
        ),
    ] = None,
    neither: Annotated[
        bool | None,
        recipe(
            "--neither/--no-neither", show_default="no-neither", help="Add a class for neither speech nor music: noise and pauses."
        ),
    ] = None,
    standardised: Annotated[
        bool | None,
        recipe(
            "--standardised/--not-standardised",
            show_default="standardised",
            help="Standardise each band over a crop; or only scale levels.",
        ),
    ] = None,
    epochs: Annotated[int | None, recipe("--epochs", metavar="N", show_default="50", help="Maximum number of epochs.")] = None,
    steps_per_epoch: Annotated[
        int | None,
        recipe(
            "--steps-per-epoch",
            metavar="N",
            show_default="200",
            help="Training steps per epoch; each epoch ends with a validation.",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        recipe("--patience", metavar="N", show_default="5", help="Stop after N epochs without a better validation loss."),
    ] = None,
    min_delta: MinDelta = None,
    seed: TheSeed = None,
    average: Annotated[
        float | None,
        recipe(
            "--average",
            metavar="X",
            show_default="0.0",
            help="Decay per step of an exponential moving average of the weights; 0: none.",
        ),
    ] = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a detector of speech and music on recordings of speech alone and of music alone.

    They are mixed anew in every epoch. Three tenths of the speakers and artists are held out for validation, and the weights of
    the best epoch on these are written. detect --weights runs the network frames, which needs --neither and --not-standardised.
    """
    options = dict(locals())
    terminal = Terminal(json=json, quiet=quiet)
    from dataclasses import fields

    from bayessep import network_commands
    from bayessep.detector_training import Recipe

    given = {f.name: options[f.name] for f in fields(Recipe) if options[f.name] is not None}
    together = network_commands.processes(coordinator, processes, process)
    network_commands.train_detector(
        output, data, config, given, redistributable=redistributable, together=together, device=device, terminal=terminal
    )


# --- models --------------------------------------------------------------------------------------------------------------


@models.command("list", cls=Verb, epilog="**Example**\n\nbayessep models list --json")
def models_list(json: Json = False, quiet: Quiet = False) -> None:
    """List the installed models: name, size, description, licence."""
    from bayessep import network_commands

    network_commands.models_list(Terminal(json=json, quiet=quiet))


@models.command("info", cls=Verb, epilog="**Example**\n\nbayessep models info detector")
def models_info(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="Name of a model, as in bayessep models list.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the card of a model (what it does, how well, its training data, its licence) and its settings."""
    from bayessep import network_commands

    network_commands.models_info(name, Terminal(json=json, quiet=quiet))


@models.command("verify", cls=Verb, epilog="**Example**\n\nbayessep models verify")
def models_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", show_default="all", help="Names of models, as in bayessep models list."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that installed models are identical to the published ones. The exit code is 0 if all are, 1 if one is damaged
    or missing, or there is none."""
    from bayessep import network_commands

    raise typer.Exit(0 if network_commands.models_verify(names or [], Terminal(json=json, quiet=quiet)) else 1)
