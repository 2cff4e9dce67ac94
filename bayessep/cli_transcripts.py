"""The command-line interface of transcribe and train attention-asr, implemented in `bayessep.transcript_commands`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bayessep.cli_networks import (
    Config,
    Coordinator,
    Listener,
    MinDelta,
    Process,
    Processes,
    Redistributable,
    TheSeed,
    Trained,
    recipe,
)
from bayessep.cli_separators import Average, Epochs, Falls, Patience, Preset, Rate, SnrDeviation, SnrMean, StepsPerEpoch
from bayessep.options import RECOGNISERS, Device, Json, Quiet, RecogniserWeights, Recordings, TheDevice
from bayessep.terminal import Resumable, Terminal

Format = StrEnum("Format", ["text", "srt", "vtt", "json"])


def register(app: typer.Typer, train: typer.Typer) -> None:
    """Add the verbs of this module, one of them to the verb train."""
    app.command(cls=Listener, epilog=_TRANSCRIBE)(transcribe)
    train.command("attention-asr", cls=Resumable, epilog=_TRAIN)(attention_asr)


_TRANSCRIBE = """**Examples**

bayessep transcribe radio.mp3

bayessep transcribe radio.mp3 -o radio.srt

bayessep transcribe digits.wav --weights my-recogniser/weights.safetensors

bayessep transcribe separated/speech.wav --draws separated/draws -o speech.vtt

bayessep transcribe recordings/ -o transcripts --format json --recogniser my_recognisers:Whisper"""


def transcribe(
    recordings: Recordings,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default="standard output",
            help="File for the transcript; for several recordings, a folder, which gets a file named after each.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", show_default="by the ending of FILE, else text", help="Format of the transcript."),
    ] = None,
    recogniser: Annotated[
        str | None,
        typer.Option("--recogniser", metavar="NAME", show_default="pocketsphinx, without --weights", help=RECOGNISERS),
    ] = None,
    weights: RecogniserWeights = None,
    draws: Annotated[
        Path | None,
        typer.Option(
            "--draws",
            metavar="DIR",
            help="For speech that separate --draws N wrote: the folder of its samples. Words that differ among them get a (?).",
        ),
    ] = None,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Transcribe the speech in a recording, with the time and confidence of every word.

    Writes plain text, captions (SRT, WebVTT), or JSON with all words. Several recordings follow one another on standard output,
    each after a line “# path”. If a recording fails, the others are still transcribed; it is listed at the end, and the exit code
    is 1. Pocketsphinx is small and gets many words wrong, most of them in speech over music: `bayessep clean` removes the music
    first.
    """
    terminal = Terminal(json=json, quiet=quiet)
    from bayessep import transcript_commands

    wanted = None if format is None else str(format)
    failed = transcript_commands.transcribe(recordings, output, wanted, recogniser, weights, draws, device, terminal)
    raise typer.Exit(1 if failed else 0)


# --- train ---------------------------------------------------------------------------------------------------------------

_TRAIN = """**Examples**

bayessep train attention-asr --data LibriSpeech/train-clean-5 -o trained --preset paper

bayessep train attention-asr --data recordings -o digits --only digits --joined 6 --seconds 4 --mixture"""


def attention_asr(
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DIR", show_default=False, help="Folder of speech with transcripts in a manifest.csv, or LibriSpeech."
        ),
    ],
    output: Trained,
    music: Annotated[
        Path | None,
        typer.Option(
            "--music",
            metavar="DIR",
            show_default="DIR of --data",
            help="With --mixture: folder of music with a manifest.csv, or MUSAN.",
        ),
    ] = None,
    config: Config = None,
    redistributable: Redistributable = False,
    preset: Preset = None,
    subwords: Annotated[
        int | None,
        recipe(
            "--subwords",
            metavar="N",
            min=-1,
            show_default="-1",
            help="Size of the vocabulary of byte pairs; 0: characters; -1: up to 9515 with --preset paper, else 0.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        recipe(
            "--only",
            metavar="WORDS",
            show_default="",
            help="Allowed words: recordings with others are left out; digits stands for zero to nine.",
        ),
    ] = None,
    joined: Annotated[
        int | None,
        recipe(
            "--joined",
            metavar="N",
            min=1,
            show_default="1",
            help="Maximum number of a speaker's recordings joined into one utterance.",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        recipe(
            "--seconds", metavar="S", show_default="20.0", help="Longest utterance, in seconds; longer recordings are left out."
        ),
    ] = None,
    mixture: Annotated[
        bool | None, recipe("--mixture/--clean", show_default="clean", help="Mix utterances with music; or leave them clean.")
    ] = None,
    snr_mean: SnrMean = None,
    snr_deviation: SnrDeviation = None,
    speed: Annotated[
        float | None,
        recipe(
            "--speed",
            metavar="X",
            show_default="1.15",
            help="Augment the data: play speech up to X (1 to 2) times faster or slower.",
        ),
    ] = None,
    rate: Rate = None,
    falls: Falls = None,
    batch: Annotated[int | None, recipe("--batch", metavar="N", show_default="16", help="Batch size, in utterances.")] = None,
    held: Annotated[int | None, recipe("--held", metavar="N", show_default="64", help="Number of validation utterances.")] = None,
    epochs: Epochs = None,
    steps_per_epoch: StepsPerEpoch = None,
    patience: Patience = None,
    min_delta: MinDelta = None,
    seed: TheSeed = None,
    average: Average = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the attention recogniser of paper 001 on speech with transcripts, clean or mixed with music.

    About three tenths of the recordings are held out for validation, whole speakers if there are several, and the weights of the
    best epoch on these are written, for bayessep transcribe --weights. --joined makes sentences of isolated words. Recordings are
    held in memory, 230 MB an hour.
    """
    options = dict(locals())
    terminal = Terminal(json=json, quiet=quiet)
    from dataclasses import fields

    from bayessep import network_commands, transcript_commands
    from bayessep.recogniser_training import Recipe

    given = {f.name: options[f.name] for f in fields(Recipe) if options[f.name] is not None}
    transcript_commands.train_recogniser(
        output,
        data,
        config,
        given,
        music=music,
        redistributable=redistributable,
        together=network_commands.processes(coordinator, processes, process),
        device=device,
        terminal=terminal,
    )
