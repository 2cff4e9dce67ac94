"""The command-line interface of detect, train detector and models, implemented in `bayessep.network_commands`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bayessep.options import Device, Json, Quiet, Recordings, TheDevice
from bayessep.terminal import Resumable, Terminal, Verb

Format = StrEnum("Format", ["csv", "tsv", "rttm", "textgrid", "audacity", "json"])

train = typer.Typer(no_args_is_help=True, help="Train a network on recordings of your own.")
models = typer.Typer(no_args_is_help=True, help="The networks that are installed: what they are, and whether they are undamaged.")


class Listener(Verb):
    """A verb that writes the file of each recording as soon as it is finished."""

    when_interrupted = "what is written so far is whole"


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
            help="File for the labels; of several recordings, a folder, which gets a file named after each.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", show_default="by the ending of FILE, else csv", help="How the labels are written."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="A detector that bayessep train detector has made; else the installed one."),
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

recipe = partial(typer.Option, rich_help_panel="The recipe, as the keys of --config")
_processes = partial(typer.Option, rich_help_panel="Several processes")

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", show_default=False, help="Folder with a manifest.csv, or MUSAN as unpacked.")
]
Trained = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Folder for weights.safetensors, checkpoints and metrics. Called again, the training goes on there.",
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A recipe in TOML or JSON; the options below come before it.")
]
Redistributable = Annotated[
    bool, typer.Option("--redistributable", help="Leave out recordings whose licence does not let weights be passed on.")
]
Coordinator = Annotated[
    str | None, _processes("--coordinator", metavar="HOST:PORT", help="Of process 0; all see the same -o DIR.")
]
Processes = Annotated[int | None, _processes("--processes", metavar="N", min=1, help="How many there are.")]
MinDelta = Annotated[
    float | None, recipe("--min-delta", metavar="X", show_default="0.0", help="By how much better it must be.")
]
TheSeed = Annotated[int | None, recipe("--seed", metavar="N", show_default="0", help="Of all randomness.")]
Process = Annotated[int | None, _processes("--process", metavar="I", min=0, help="Which of them this is, from 0.")]


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
        recipe("--network", metavar="b1|b2|b3|b4|b4-nofc|frames", show_default="b3", help="Of paper 003; detect runs frames."),
    ] = None,
    head: Annotated[
        str | None,
        recipe("--head", metavar="single|multi|cascaded", show_default="multi", help="Classes alone, or related tasks, too."),
    ] = None,
    feature: Annotated[
        str | None, recipe("--feature", metavar="NAME", show_default="LMHPS-EF", help="Of paper 003, such as LMS.")
    ] = None,
    bands: Annotated[int | None, recipe("--bands", metavar="N", show_default="120", help="Bands of the mel scale.")] = None,
    patch: Annotated[
        int | None, recipe("--patch", metavar="N", show_default="68", help="Frames of 10 ms that the network looks at.")
    ] = None,
    dropout: Annotated[
        float | None, recipe("--dropout", metavar="X", show_default="0.2", help="Of the networks b3 and frames.")
    ] = None,
    rate: Annotated[
        float | None, recipe("--rate", metavar="X", show_default="0.001", help="Of Adam's steps; 0: as paper 003's code.")
    ] = None,
    each: Annotated[
        int | None,
        recipe("--each", metavar="N", show_default="16", help="Patches of each class in a batch; of frames, scenes."),
    ] = None,
    crops: Annotated[int | None, recipe("--crops", metavar="N", show_default="24", help="Of each class in an epoch.")] = None,
    crop_seconds: Annotated[
        float | None, recipe("--crop-seconds", metavar="S", show_default="20.0", help="How long crops and scenes are.")
    ] = None,
    augment: Annotated[
        bool | None,
        recipe("--augment/--no-augment", show_default="augment", help="Through filters, rooms, codecs and noise (extra train)."),
    ] = None,
    plain: Annotated[
        float | None, recipe("--plain", metavar="X", show_default="0.0", help="Share of the sound left as it was recorded.")
    ] = None,
    songs: Annotated[
        bool | None,
        recipe("--songs/--no-songs", show_default="no-songs", help="Voices made to sing over it, too (extra train)."),
    ] = None,
    neither: Annotated[
        bool | None, recipe("--neither/--no-neither", show_default="no-neither", help="A class of noise and pauses, too.")
    ] = None,
    standardised: Annotated[
        bool | None,
        recipe("--standardised/--not-standardised", show_default="standardised", help="Bands standardised over each crop."),
    ] = None,
    epochs: Annotated[int | None, recipe("--epochs", metavar="N", show_default="50", help="At most.")] = None,
    steps_per_epoch: Annotated[
        int | None, recipe("--steps-per-epoch", metavar="N", show_default="200", help="Steps between validations.")
    ] = None,
    patience: Annotated[
        int | None,
        recipe("--patience", metavar="N", show_default="5", help="Epochs without a better validation after which it ends."),
    ] = None,
    min_delta: MinDelta = None,
    seed: TheSeed = None,
    average: Annotated[
        float | None,
        recipe("--average", metavar="X", show_default="0.0", help="Moving mean of the weights, of which so much stays each step."),
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
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="One of bayessep models list.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the card of a model (what it does, how well, its training data, its licence) and its settings."""
    from bayessep import network_commands

    network_commands.models_info(name, Terminal(json=json, quiet=quiet))


@models.command("verify", cls=Verb, epilog="**Example**\n\nbayessep models verify")
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", show_default="all", help="Of bayessep models list.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that installed models are identical to the published ones. The exit code is 0 if all are, 1 if one is damaged
    or missing, or there is none."""
    from bayessep import network_commands

    raise typer.Exit(0 if network_commands.models_verify(names or [], Terminal(json=json, quiet=quiet)) else 1)
