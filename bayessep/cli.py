"""The command-line interface of each verb. The implementation is in `bayessep.commands`, imported only when a verb runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayessep import __version__, cli_cleaning, cli_experiments, cli_export, cli_networks, cli_separators, cli_transcripts
from bayessep.errors import UserError
from bayessep.options import (
    ORACLES,
    Align,
    Alpha,
    AnyMethod,
    Bases,
    Candidates,
    Chain,
    Complete,
    Device,
    EntryShape,
    Faint,
    FilterShape,
    GainShape,
    JointWeight,
    Json,
    Labels,
    Level,
    LogModes,
    MaskPower,
    MaxCatalogue,
    MaxFrequency,
    Method,
    Mix,
    Music,
    Output,
    Overlap,
    PMusic,
    Quiet,
    Seed,
    Smoothing,
    Speech,
    SpeechShape,
    Spread,
    Sweeps,
    Temperature,
    TheDevice,
    TheMethod,
    TheRule,
    Tolerance,
    TrainingSweeps,
    WarmUp,
    Weigh,
    Weights,
)
from bayessep.terminal import Terminal, Verb, leave, say_what_can_be_said

if TYPE_CHECKING:
    from bayessep.settings import Settings


app = typer.Typer(
    name="bayessep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Separate speech and music with Bayesian models. Start with: bayessep demo",
)


def _print_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"bayessep {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = None,
) -> None:
    pass


def _begin(device: Device, terminal: Terminal) -> str:
    """Call `devices.begin`, which is imported only when a verb runs."""
    from bayessep import devices

    return devices.begin(device, terminal)


def _settings(options: Mapping[str, Any], methods: Sequence[str], terminal: Terminal) -> "Settings":
    """Build the settings from the options of the same names; those not given (None) keep the library's defaults."""
    from bayessep.settings import Settings

    names = {f.name for f in dataclasses.fields(Settings)}
    given: dict[str, Any] = {name: value for name, value in options.items() if name in names and value is not None}
    given = {name: str(value) if isinstance(value, StrEnum) else value for name, value in given.items()}
    given |= {name: None for name in ("filter_shape", "gain_shape", "speech_shape", "spread", "faint") if given.get(name) == 0}
    settings = Settings(**given)
    if given.get("complete") and not settings.chain:
        terminal.warn("--complete has no effect without --chain: only music that is played in order can be completed.")
    elif given.get("complete") and "unsupervised" in methods:
        terminal.warn("--complete has no effect with unsupervised: without training, nothing tells which part is music.")
    if settings.rule == "printed" and "svi" in methods:
        terminal.warn("--rule printed has no effect with svi, which follows the gradient of the exact bound.")
    return settings


def _by_network(options: Mapping[str, Any], terminal: Terminal) -> None:
    """Separate with a trained network, which needs nothing but the recording."""
    from bayessep import separator_commands

    taken = {"mix", "output", "method", "weights", "device", "json", "quiet"}
    own = {name: options[name] for name in separator_commands.OF_NETWORKS.get(str(options["method"]), ())}
    _refuse_others(options, taken | own.keys())
    given = options["mix"], options["output"], str(options["method"]), options["weights"], options["device"]
    separator_commands.separate(*given, terminal, **own)


def _by_templates(options: Mapping[str, Any], terminal: Terminal) -> None:
    """Separate by convolutive NMF, which takes the same training material as the Bayesian methods."""
    from bayessep import recordings, separator_commands

    given = {"mix", "output", "method", "speech", "music", "labels", "device", "json", "quiet"}
    _refuse_others(options, {*separator_commands.OF_CONVOLUTIVE, *given})
    config = separator_commands.convolutive_of(options)
    known = options["speech"] or [], options["music"] or [], options["labels"]
    material = recordings.gather(options["mix"], *known, methods=["conv-nmf"], warn=terminal.warn)
    separator_commands.separate_by_templates(material, config, options["output"], options["device"], terminal)


def _refuse_others(options: Mapping[str, Any], taken: set[str]) -> None:
    """Refuse options that a method does not take, rather than ignore them silently."""
    for name, value in options.items():
        if name not in taken and value is not None and value != [] and (name not in ("draws", "seed") or value):
            raise UserError(f"--{name.replace('_', '-')} does not apply to {options['method']}; leave it out.")


# --- verbs ---------------------------------------------------------------------------------------------------------------


@app.command(
    cls=Verb,
    epilog="""**Examples**

bayessep separate radio.wav --speech host.wav --music jingle.wav -o apart

bayessep separate radio.wav --speech a.wav b.wav --music jingles/ --method joint -o apart

bayessep separate radio.wav --labels radio.csv -o apart

bayessep separate radio.wav --method conv-tasnet --weights trained/weights.safetensors -o apart""",
)
def separate(
    mix: Mix,
    output: Output,
    speech: Speech = None,
    music: Music = None,
    labels: Labels = None,
    method: TheMethod = AnyMethod.variational,
    weights: Weights = None,
    alpha: Alpha = None,
    bases: Bases = None,
    sweeps: Sweeps = None,
    training_sweeps: TrainingSweeps = None,
    tolerance: Tolerance = None,
    chain: Chain = None,
    complete: Complete = None,
    align: Align = None,
    weigh: Weigh = None,
    entry_shape: EntryShape = None,
    warm_up: WarmUp = None,
    log_modes: LogModes = None,
    rule: TheRule = None,
    joint_weight: JointWeight = None,
    p_music: PMusic = None,
    level: Level = None,
    overlap: Overlap = None,
    speech_shape: SpeechShape = None,
    mask_power: MaskPower = None,
    smoothing: Smoothing = None,
    faint: Faint = None,
    temperature: Temperature = None,
    spread: Spread = None,
    max_frequency: MaxFrequency = None,
    filter_shape: FilterShape = None,
    gain_shape: GainShape = None,
    candidates: Candidates = None,
    max_catalogue: MaxCatalogue = None,
    draws: Annotated[
        int,
        typer.Option(
            "--draws",
            metavar="N",
            min=0,
            help="Also write N posterior samples of the speech: DIR/draws/speech-1.wav … (recordings up to 10 min of "
            "48 kHz stereo).",
        ),
    ] = 0,
    seed: Seed = 0,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Separate one recording into speech and music.

    Writes speech.wav and music.wav, which have the length, rate and channels of MIX and add up to it; labels.csv, which says where
    speech and music sound; and separation.json with all details. If anything would clip, both get a common gain, which is reported.
    """
    options = dict(locals())
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands, recordings

    if method not in list(Method):
        (_by_templates if method == "conv-nmf" else _by_network)(options, terminal)
        return
    if weights is not None:
        raise UserError(f"--weights applies only to network methods; {method} learns from --speech and --music.")
    if alpha is not None:
        raise UserError(f"--alpha applies only to deep-karaoke and conv-nmf, not to {method}.")
    if smoothing is not None:
        raise UserError(f"--smoothing applies only to idempotent-masker, not to {method}.")
    settings = _settings(options, [method], terminal)
    material = recordings.gather(mix, speech or [], music or [], labels, methods=[settings.method], warn=terminal.warn)
    commands.separate(material, settings, output, _begin(device, terminal), terminal, draws=draws)


@app.command(
    cls=Verb,
    epilog="""**Examples**

bayessep compare mix.wav --speech host.wav --music jingle.wav --reference-speech s.wav --reference-music m.wav -o compared

bayessep compare mix.wav --labels mix.csv --methods nmf,joint -o compared

bayessep compare mix.wav --methods conv-tasnet,blstm-mask --weights a.safetensors b.safetensors -o compared""",
)
def compare(
    mix: Mix,
    output: Output,
    speech: Speech = None,
    music: Music = None,
    labels: Labels = None,
    reference_speech: Annotated[
        Path | None, typer.Option("--reference-speech", metavar="FILE", help="The true speech in MIX, for scores.")
    ] = None,
    reference_music: Annotated[
        Path | None, typer.Option("--reference-music", metavar="FILE", help="The true music in MIX, for scores.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            show_default="all that can be run",
            help=f"Methods to run, out of {', '.join((*AnyMethod, *ORACLES))}. The last two are computed from the references.",
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", metavar="FILE...", help="Weights files from bayessep train, for networks among the methods."),
    ] = None,
    bases: Bases = None,
    sweeps: Sweeps = None,
    training_sweeps: TrainingSweeps = None,
    tolerance: Tolerance = None,
    chain: Chain = None,
    complete: Complete = None,
    align: Align = None,
    weigh: Weigh = None,
    entry_shape: EntryShape = None,
    warm_up: WarmUp = None,
    log_modes: LogModes = None,
    rule: TheRule = None,
    joint_weight: JointWeight = None,
    p_music: PMusic = None,
    level: Level = None,
    overlap: Overlap = None,
    speech_shape: SpeechShape = None,
    mask_power: MaskPower = None,
    faint: Faint = None,
    temperature: Temperature = None,
    spread: Spread = None,
    max_frequency: MaxFrequency = None,
    filter_shape: FilterShape = None,
    gain_shape: GainShape = None,
    candidates: Candidates = None,
    max_catalogue: MaxCatalogue = None,
    seed: Seed = 0,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Separate one recording by several methods, and compare them.

    Prints a table: SDR, SIR (the paper's SMR), SAR and SI-SDR in decibels if the true sources are given, the bound, sweeps and
    seconds. Writes a figure, a page to listen to, and the audio of each method in a folder of its own.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands, recordings, separator_commands

    options = dict(locals())
    if (reference_speech is None) != (reference_music is None):
        raise UserError("give both --reference-speech and --reference-music, or neither: scores need both.")
    known, material = (*AnyMethod, *ORACLES), None
    if methods is None:
        chosen = [*Method, *separator_commands.everything(weights or [], reference_speech is not None)]
        material = recordings.gather(mix, speech or [], music or [], labels, methods=[], warn=terminal.warn)
        left = [name for name in chosen if name in (*Method, "conv-nmf") and not recordings.enough(name, material)]
        if left:
            chosen = [name for name in chosen if name not in left]
            terminal.warn(f"left out for lack of examples to learn from: {', '.join(left)}.")
    else:
        chosen = [name.strip() for name in methods.split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise UserError(f"--methods: there is no method {name!r}; choose among {', '.join(known)}.")
        if name in ORACLES and reference_speech is None:
            raise UserError(f"{name} is computed from the true sources: give --reference-speech and --reference-music.")
    if not chosen:
        raise UserError(f"--methods: name at least one of {', '.join(known)}.")
    bayesian = [name for name in chosen if name in list(Method)]
    settings = _settings(locals(), bayesian, terminal)
    if not bayesian:
        taken = {"method", *(separator_commands.OF_CONVOLUTIVE if "conv-nmf" in chosen else ())}
        taken |= {option for name in chosen for option in separator_commands.OF_NETWORKS.get(name, ())}
        of_models = {name: options[name] for name in (f.name for f in dataclasses.fields(settings)) if name in options}
        _refuse_others(of_models | {"method": f"any of {', '.join(chosen)}"}, taken)
    learning = [name for name in chosen if name in bayesian or name == "conv-nmf"]
    material = material or recordings.gather(mix, speech or [], music or [], labels, methods=learning, warn=terminal.warn)
    references = None
    if reference_speech is not None and reference_music is not None:
        references = {"speech": reference_speech, "music": reference_music}
    described = _begin(device, terminal)
    others = separator_commands.estimators(chosen, weights or [], material, separator_commands.convolutive_of(options), mask_power)
    commands.compare(material, chosen, references, settings, output, described, terminal, others, weights or [])


@app.command(
    cls=Verb,
    epilog="""**Examples**

bayessep evaluate --reference speech.wav music.wav --estimate apart/speech.wav apart/music.wav

bayessep evaluate --reference truth.rttm --estimate found.csv""",
)
def evaluate(
    reference: Annotated[
        list[Path],
        typer.Option("--reference", metavar="FILE...", show_default=False, help="True sources, or true labels of recordings."),
    ],
    estimate: Annotated[
        list[Path],
        typer.Option("--estimate", metavar="FILE...", show_default=False, help="Their estimates, in the same order."),
    ],
    skip_gaps: Annotated[
        bool, typer.Option("--skip-gaps", help="Do not score time without a true label, which otherwise counts as silence.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score estimated sources, or estimated labels, against the true ones.

    Sources: SDR, SIR, SAR (BSS-Eval v3) and SI-SDR, in decibels. All files must have the same length and sample rate. Several
    channels are mixed down to one. For the SIR, the other references are the interference; with a single reference there is no
    SIR. In JSON, a missing or infinite score is null.

    Labels (CSV, TSV, Audacity, RTTM, TextGrid or JSON): precision, recall and F1 of frames of 10 ms, for speech, music and
    speech+music, and for speech and music at all; and, with the extra detection, error rates by exact times (pyannote.metrics).
    Several recordings count as one.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands, devices

    devices.use_cache()
    commands.evaluate(reference, estimate, terminal, skip_gaps=skip_gaps)


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
    """Generate a short broadcast, separate it by every method, and write a page to look at and listen to.

    Needs no files and no internet: two synthetic voices talk over a repeating jingle, half of which is known. Everything goes into
    the folder bayessep-demo, unless -o names another one.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import commands

    commands.demo(output, seed, _begin(device, terminal), terminal)


@app.command(cls=Verb, epilog="**Example**\n\nbayessep doctor --json")
def doctor(device: TheDevice = Device.auto, json: Json = False, quiet: Quiet = False) -> None:
    """Check what is installed and whether it works. The exit code is 0 if it does, 1 if not."""
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import doctor as checkup

    document = checkup.examine(_begin(device, terminal))
    terminal.result(document, checkup.told(document))
    raise typer.Exit(0 if document["ok"] else 1)


cli_cleaning.register(app)
cli_experiments.register(app)
cli_networks.register(app)
cli_separators.register(cli_networks.train)
cli_transcripts.register(app, cli_networks.train)
cli_export.register(app)


def main(arguments: Sequence[str] | None = None, **options: Any) -> None:
    """Run the command line on `arguments`, by default those of the process, and exit."""
    say_what_can_be_said()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="bayessep", **options)
    except SystemExit as ended:
        if arguments is None and isinstance(ended.code, int) and ended.code > 128:
            leave(ended.code)
        raise
