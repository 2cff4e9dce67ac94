"""The command line: how each verb is called. What it does is in `bayessep.commands`, imported only when a verb runs."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayessep import __version__
from bayessep.terminal import Terminal, Verb

if TYPE_CHECKING:
    from bayessep.pipeline import Settings

app = typer.Typer(
    name="bayessep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Take speech and music apart with Bayesian models. Start with: bayessep demo",
)

# The names of pipeline.METHODS, which costs a second to import.
Method = StrEnum("Method", ["nmf", "variational", "icm", "joint", "svi", "unsupervised"])
Device = StrEnum("Device", ["auto", "cpu", "cuda"])
Rule = StrEnum("Rule", ["exact", "printed"])


def _print_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"bayessep {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = None,
) -> None:
    pass


# --- options that several verbs have ---------------------------------------------------------------------------------------

# An option that is not given is left to pipeline.Settings; what `show_default` says of it is tested.
_TRAINING, _MODEL, _RUN = "What is known", "Model and inference", "How to run"

Mix = Annotated[Path, typer.Argument(metavar="MIX", show_default=False, help="The recording: wav, flac, ogg, mp3, aiff …")]
Speech = Annotated[
    list[Path] | None,
    typer.Option(
        "--speech",
        metavar="FILE...",
        rich_help_panel=_TRAINING,
        help="Clean speech to learn from, best of the same voices; half a minute is plenty. Files or folders, one or more.",
    ),
]
Music = Annotated[
    list[Path] | None,
    typer.Option(
        "--music",
        metavar="FILE...",
        rich_help_panel=_TRAINING,
        help="The music that plays in MIX, without speech: a jingle, or a part of it. Files or folders, one or more.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        rich_help_panel=_TRAINING,
        help="Which stretches of MIX are speech, music, or both (CSV, TSV, Audacity, RTTM, TextGrid, JSON). Stretches of "
        "one alone are learned from; what has no label is labelled by the model.",
    ),
]
Bases = Annotated[
    int | None,
    typer.Option("--bases", metavar="N", min=1, show_default="40", rich_help_panel=_MODEL, help="Number of speech templates."),
]
Sweeps = Annotated[
    int | None,
    typer.Option("--sweeps", metavar="N", min=1, show_default="100", rich_help_panel=_MODEL, help="Most sweeps over MIX."),
]
TrainingSweeps = Annotated[
    int | None,
    typer.Option(
        "--training-sweeps",
        metavar="N",
        min=1,
        show_default="100",
        rich_help_panel=_MODEL,
        help="Most sweeps over the training speech.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        metavar="X",
        min=0.0,
        show_default="1e-05",
        rich_help_panel=_MODEL,
        help="Stop when the objective moves by less than this share of itself.",
    ),
]
Chain = Annotated[
    bool | None,
    typer.Option(
        "--chain/--independent",
        show_default="independent",
        rich_help_panel=_MODEL,
        help="Expect the music to be played in order, or draw its frames independently, as the paper does.",
    ),
]
Complete = Annotated[
    bool | None,
    typer.Option(
        "--complete/--as-given",
        show_default="complete",
        rich_help_panel=_MODEL,
        help="With --chain, where the music repeats: learn the part of its period that was not given; or use only what was given.",
    ),
]
JointWeight = Annotated[
    float | None,
    typer.Option(
        "--joint-weight",
        metavar="X",
        min=0.0,
        show_default="1.0",
        rich_help_panel=_MODEL,
        help="Method joint: how much a frame of MIX counts beside one of speech.",
    ),
]
PMusic = Annotated[
    float | None,
    typer.Option(
        "--p-music",
        metavar="X",
        min=0.0,
        max=1.0,
        show_default="0.5",
        rich_help_panel=_MODEL,
        help="Probability of music, beforehand, where nothing is labelled.",
    ),
]
Level = Annotated[
    float | None,
    typer.Option(
        "--level",
        metavar="X",
        show_default="0.5",
        rich_help_panel=_MODEL,
        help="Mean scaled magnitude: what data weigh against priors.",
    ),
]
MaxFrequency = Annotated[
    float | None,
    typer.Option(
        "--max-frequency",
        metavar="HZ",
        show_default="8000.0",
        rich_help_panel=_MODEL,
        help="Model what lies below (Hz); the rest follows the highest band.",
    ),
]
TheRule = Annotated[
    Rule | None,
    typer.Option(
        "--rule",
        metavar="exact|printed",
        show_default="exact",
        rich_help_panel=_MODEL,
        help="How music frames are told apart: exactly, or as printed in the paper (with --independent).",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, rich_help_panel=_RUN, help="Same seed, same machine: same bytes.")]
TheDevice = Annotated[
    Device,
    typer.Option("--device", rich_help_panel=_RUN, help="Where to compute. cuda fails where there is none."),
]
Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=_RUN, help="One JSON document on standard output, and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=_RUN, help="No progress, no notes; warnings stay.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Folder for the results, made if need be. Files of an earlier run are replaced, all at once and at the end.",
    ),
]


def _begin(device: Device, terminal: Terminal) -> str:
    """Everything that comes before the first computation; returns the name of the device."""
    from bayessep import commands

    commands.use_cache()
    return commands.use_device(device, terminal)


def _settings(**given: Any) -> "Settings":
    """The settings that were given; the others are the library's own."""
    from bayessep.pipeline import Settings

    plain: dict[str, Any] = {name: str(value) if isinstance(value, StrEnum) else value for name, value in given.items()}
    return Settings(**{name: value for name, value in plain.items() if value is not None})


# --- verbs ---------------------------------------------------------------------------------------------------------------


@app.command(
    cls=Verb,
    epilog="""**Examples**

bayessep separate radio.wav --speech host.wav --music jingle.wav -o apart

bayessep separate radio.wav --speech a.wav b.wav --music jingles/ --method joint -o apart

bayessep separate radio.wav --labels radio.csv -o apart""",
)
def separate(
    mix: Mix,
    output: Output,
    speech: Speech = None,
    music: Music = None,
    labels: Labels = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            metavar="METHOD",
            rich_help_panel=_MODEL,
            help="nmf keeps templates learned from the speech; variational and icm move them on MIX; joint learns from both "
            "at once; svi is variational by stochastic gradients; unsupervised needs no --speech.",
        ),
    ] = Method.variational,
    bases: Bases = None,
    sweeps: Sweeps = None,
    training_sweeps: TrainingSweeps = None,
    tolerance: Tolerance = None,
    chain: Chain = None,
    complete: Complete = None,
    rule: TheRule = None,
    joint_weight: JointWeight = None,
    p_music: PMusic = None,
    level: Level = None,
    max_frequency: MaxFrequency = None,
    seed: Seed = 0,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take the speech and the music of one recording apart.

    Writes speech.wav and music.wav, which have the length, rate and channels of MIX and add up to it; labels.csv, who is on
    when; and separation.json with everything else. If something would clip, both get one common gain, which is reported.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands, recordings

    settings = _settings(
        method=method, bases=bases, sweeps=sweeps, training_sweeps=training_sweeps, tolerance=tolerance, seed=seed,
        chain=chain, complete=complete, rule=rule, joint_weight=joint_weight, p_music=p_music, level=level,
        max_frequency=max_frequency,
    )  # fmt: skip
    material = recordings.gather(mix, speech or [], music or [], labels, methods=[settings.method], warn=terminal.warn)
    commands.separate(material, settings, output, _begin(device, terminal), terminal)


@app.command(
    cls=Verb,
    epilog="""**Examples**

bayessep compare mix.wav --speech host.wav --music jingle.wav --reference-speech s.wav --reference-music m.wav -o compared

bayessep compare mix.wav --labels mix.csv --methods nmf,joint -o compared""",
)
def compare(
    mix: Mix,
    output: Output,
    speech: Speech = None,
    music: Music = None,
    labels: Labels = None,
    reference_speech: Annotated[
        Path | None, typer.Option("--reference-speech", metavar="FILE", help="The true speech in MIX, to score against.")
    ] = None,
    reference_music: Annotated[
        Path | None, typer.Option("--reference-music", metavar="FILE", help="The true music in MIX, to score against.")
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B,...", show_default="all", help=f"Of: {', '.join(Method)}.")
    ] = ",".join(Method),
    bases: Bases = None,
    sweeps: Sweeps = None,
    training_sweeps: TrainingSweeps = None,
    tolerance: Tolerance = None,
    chain: Chain = None,
    complete: Complete = None,
    rule: TheRule = None,
    joint_weight: JointWeight = None,
    p_music: PMusic = None,
    level: Level = None,
    max_frequency: MaxFrequency = None,
    seed: Seed = 0,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take one recording apart by several methods, and compare them.

    Prints a table: SDR, SIR (the paper's SMR), SAR and SI-SDR in decibels where the true sources are given, the bound, sweeps
    and seconds. Writes a figure, a page to listen to, and the audio of each method in a folder of its own.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands, recordings
    from bayessep.errors import UserError

    chosen = [name.strip() for name in methods.split(",") if name.strip()]
    for name in chosen:
        if name not in list(Method):
            raise UserError(f"--methods: there is no method {name!r}; choose among {', '.join(Method)}.")
    if not chosen:
        raise UserError(f"--methods: name at least one of {', '.join(Method)}.")
    if (reference_speech is None) != (reference_music is None):
        raise UserError("give both --reference-speech and --reference-music, or neither: scores need the two of them.")
    settings = _settings(
        bases=bases, sweeps=sweeps, training_sweeps=training_sweeps, tolerance=tolerance, seed=seed, chain=chain,
        complete=complete, rule=rule, joint_weight=joint_weight, p_music=p_music, level=level,
        max_frequency=max_frequency,
    )  # fmt: skip
    material = recordings.gather(mix, speech or [], music or [], labels, methods=chosen, warn=terminal.warn)
    references = None
    if reference_speech is not None and reference_music is not None:
        references = {"speech": reference_speech, "music": reference_music}
    commands.compare(material, chosen, references, settings, output, _begin(device, terminal), terminal)


@app.command(
    cls=Verb,
    epilog="""**Example**

bayessep evaluate --reference speech.wav music.wav --estimate apart/speech.wav apart/music.wav""",
)
def evaluate(
    reference: Annotated[
        list[Path], typer.Option("--reference", metavar="FILE...", show_default=False, help="True sources, one or more.")
    ],
    estimate: Annotated[
        list[Path],
        typer.Option("--estimate", metavar="FILE...", show_default=False, help="Their estimates, in the same order."),
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score estimated sources against the true ones: SDR, SIR, SAR (BSS-Eval v3) and SI-SDR, in decibels.

    All files have one length and one sample rate. Several channels are mixed down to one. The other references are what
    interferes; with a single one there is no SIR (null in JSON).
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands

    commands.use_cache()
    commands.evaluate(reference, estimate, terminal)


@app.command(
    cls=Verb,
    epilog="""**Examples**

bayessep demo

bayessep demo --seed 7 -o listen""",
)
def demo(
    output: Output = Path("bayessep-demo"),
    seed: Seed = 0,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a short broadcast, take it apart by every method, and write a page to look at and listen to.

    Needs no files and no network: two made-up voices talk over a jingle that repeats and of which half is known.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands

    commands.demo(output, seed, _begin(device, terminal), terminal)


@app.command(cls=Verb, epilog="**Example**\n\nbayessep doctor --json")
def doctor(device: TheDevice = Device.auto, json: Json = False, quiet: Quiet = False) -> None:
    """Say what is installed here and whether it works. Exit code 0 if it does, 1 if not."""
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import doctor as checkup

    document = checkup.examine(_begin(device, terminal))
    terminal.result(document, checkup.told(document))
    raise typer.Exit(0 if document["ok"] else 1)


def main(arguments: Sequence[str] | None = None, **options: Any) -> None:
    """Run the command line on `arguments`, those of the process by default, and exit."""
    app(args=None if arguments is None else list(arguments), prog_name="bayessep", **options)
