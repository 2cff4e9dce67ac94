"""The command-line interface of training separators, implemented in `bayessep.separator_commands`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bayessep.cli_networks import (
    Config,
    Coordinator,
    Data,
    MinDelta,
    Process,
    Processes,
    Redistributable,
    TheSeed,
    Trained,
    recipe,
)
from bayessep.options import Device, Json, Quiet, TheDevice
from bayessep.terminal import Resumable, Terminal

Preset = Annotated[
    str | None,
    recipe("--preset", metavar="paper|small", show_default="small", help="Network size: paper 001's, or one for two CPU cores."),
]
Start = Annotated[
    Path | None,
    typer.Option("--start", metavar="FILE", help="Initial weights: file from an earlier training of the same network."),
]
Precision = Annotated[
    str | None,
    recipe(
        "--precision",
        metavar="float32|bfloat16",
        show_default="float32",
        help="Precision of matrix products; bfloat16 is for hardware that multiplies it faster.",
    ),
]
Rate = Annotated[float | None, recipe("--rate", metavar="X", show_default="0.001", help="Learning rate of Adam.")]
Falls = Annotated[
    bool | None,
    recipe(
        "--falls/--stays",
        show_default="stays",
        help="Decay the learning rate to zero by the last epoch, to finish a training; or keep it constant.",
    ),
]
InBatch = Annotated[
    int | None,
    recipe("--batch", metavar="N", show_default="8", help="Batch size, in mixtures; a multiple of the number of devices."),
]
Seconds = Annotated[float | None, recipe("--seconds", metavar="S", show_default="4.0", help="Length of mixtures, in seconds.")]
SnrMean = Annotated[
    float | None,
    recipe(
        "--snr-mean", metavar="DB", show_default="0.0", help="Mean speech-to-music ratio (vocals to accompaniment, of songs)."
    ),
]
SnrDeviation = Annotated[
    float | None,
    recipe("--snr-deviation", metavar="DB", show_default="5.0", help="Standard deviation of that ratio, normally distributed."),
]
Varied = Annotated[
    bool | None,
    recipe(
        "--varied/--as-recorded", show_default="varied", help="Augment the data: vary the speed, and add other music to some music."
    ),
]
Held = Annotated[int | None, recipe("--held", metavar="N", show_default="64", help="Number of validation mixtures, at 0 dB.")]
Epochs = Annotated[int | None, recipe("--epochs", metavar="N", show_default="100", help="Maximum number of epochs.")]
StepsPerEpoch = Annotated[
    int | None,
    recipe(
        "--steps-per-epoch", metavar="N", show_default="200", help="Training steps per epoch; each epoch ends with a validation."
    ),
]
Patience = Annotated[
    int | None,
    recipe("--patience", metavar="N", show_default="10", help="Stop after N epochs without a better validation loss."),
]
Average = Annotated[
    float | None,
    recipe(
        "--average",
        metavar="X",
        show_default="0.99",
        help="Decay per step of an exponential moving average of the weights; 0: none.",
    ),
]


def register(train: typer.Typer) -> None:
    """Add the verbs of this module to the verb train."""
    train.command("conv-tasnet", cls=Resumable, epilog=_EXAMPLES.format("conv-tasnet"))(conv_tasnet)
    train.command("deep-karaoke", cls=Resumable, epilog="**Example**\n\nbayessep train deep-karaoke --data songs -o trained")(
        deep_karaoke
    )
    train.command("idempotent-masker", cls=Resumable, epilog=_MASKER)(idempotent_masker)
    train.command("blstm-mask", cls=Resumable, epilog=_EXAMPLES.format("blstm-mask"))(blstm_mask)


_EXAMPLES = """**Examples**

bayessep train {0} --data recordings -o trained

bayessep train {0} --data musan -o trained --preset paper --batch 32"""


_MASKER = """**Examples**

bayessep train idempotent-masker --data recordings -o trained

bayessep train idempotent-masker --data recordings -o trained --songs 2 --without GAN_A"""


def conv_tasnet(
    data: Data,
    output: Trained,
    config: Config = None,
    start: Start = None,
    redistributable: Redistributable = False,
    preset: Preset = None,
    mask: Annotated[
        str | None,
        recipe("--mask", metavar="relu|sigmoid", show_default="the preset's", help="Activation that keeps masks non-negative."),
    ] = None,
    norm: Annotated[
        str | None,
        recipe(
            "--norm",
            metavar="global|cumulative|frame",
            show_default="the preset's; with --causal, cumulative",
            help="What activations are normalised over: the whole recording, all frames so far, or each frame.",
        ),
    ] = None,
    causal: Annotated[
        bool | None,
        recipe(
            "--causal/--both-ways",
            show_default="both-ways",
            help="Causal network, in which no frame depends on later ones; or one that looks both ways.",
        ),
    ] = None,
    consistent: Annotated[
        bool | None, recipe("--consistent", show_default="the preset's", help="Make stems sum to the mixture.")
    ] = None,
    precision: Precision = None,
    rate: Rate = None,
    falls: Falls = None,
    batch: InBatch = None,
    seconds: Seconds = None,
    snr_mean: SnrMean = None,
    snr_deviation: SnrDeviation = None,
    varied: Varied = None,
    held: Held = None,
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
    """Train Conv-TasNet to separate speech and music, on recordings of speech alone and of music alone.

    They are mixed anew in every step. Three tenths of the speakers and artists are held out for validation, and the weights of the
    best epoch on these are written, for bayessep separate --method conv-tasnet --weights.
    """
    _train("conv-tasnet", dict(locals()))


def blstm_mask(
    data: Data,
    output: Trained,
    config: Config = None,
    start: Start = None,
    redistributable: Redistributable = False,
    preset: Preset = None,
    precision: Precision = None,
    rate: Rate = None,
    falls: Falls = None,
    batch: InBatch = None,
    seconds: Seconds = None,
    snr_mean: SnrMean = None,
    snr_deviation: SnrDeviation = None,
    varied: Varied = None,
    held: Held = None,
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
    """Train a recurrent network that masks the spectrogram: the frequency-domain baseline of paper 001.

    It learns from the same mixtures, with the same loss, as train conv-tasnet.
    """
    _train("blstm-mask", dict(locals()))


def deep_karaoke(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="Songs with stems: a folder for each, with vocals and accompaniment; or MUSDB18, DSD100, or a manifest.csv.",
        ),
    ],
    output: Trained,
    config: Config = None,
    preset: Annotated[
        str | None,
        recipe(
            "--preset", metavar="paper|small", show_default="small", help="Network size: paper 004's, or one for two CPU cores."
        ),
    ] = None,
    width: Annotated[
        int | None, recipe("--width", metavar="N", show_default="0", help="Number of hidden units; 0: the preset's.")
    ] = None,
    precision: Precision = None,
    rate: Annotated[
        float | None, recipe("--rate", metavar="X", show_default="0.1", help="Learning rate of stochastic gradient descent.")
    ] = None,
    batch: Annotated[int | None, recipe("--batch", metavar="N", show_default="100", help="Batch size, in windows.")] = None,
    varied: Annotated[
        bool | None,
        recipe(
            "--varied/--as-recorded",
            show_default="varied",
            help="Mix vocals and accompaniment anew in every step, often those of different songs; or take the songs as they are.",
        ),
    ] = None,
    snr_mean: SnrMean = None,
    snr_deviation: SnrDeviation = None,
    epochs: Epochs = None,
    steps_per_epoch: Annotated[
        int | None,
        recipe(
            "--steps-per-epoch", metavar="N", show_default="20", help="Training steps per epoch; each epoch ends with a validation."
        ),
    ] = None,
    patience: Annotated[
        int | None,
        recipe("--patience", metavar="N", show_default="20", help="Stop after N epochs without a better validation loss."),
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
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train Deep Karaoke (paper 004) to separate vocals and accompaniment, on songs with both stems.

    About three tenths of the songs are held out for validation, all by an artist if several are known; excerpts of one song, in
    folders like song_a and song_b, stay together. The batch size must be a multiple of the number of devices.
    """
    options = dict(locals())
    terminal = Terminal(json=json, quiet=quiet)
    from dataclasses import fields

    from bayessep import separator_commands
    from bayessep.karaoke import Recipe

    given = {f.name: options[f.name] for f in fields(Recipe) if options[f.name] is not None}
    separator_commands.train_karaoke(output, data, config, given, device=device, terminal=terminal)


def idempotent_masker(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="Folder with a manifest.csv that lists songs and music, or with the folders mixtures and instrumentals.",
        ),
    ],
    output: Trained,
    config: Config = None,
    redistributable: Redistributable = False,
    preset: Annotated[
        str | None,
        recipe(
            "--preset", metavar="paper|small", show_default="small", help="Network size: paper 002's, or one for two CPU cores."
        ),
    ] = None,
    without: Annotated[
        str | None,
        recipe(
            "--without",
            metavar="LOSSES",
            show_default="",
            help="Losses to leave out, separated by commas: any of R1, R2, R3, R4, GAN_C, GAN_A.",
        ),
    ] = None,
    identities: Annotated[
        float | None,
        recipe(
            "--identities",
            metavar="X",
            show_default="1.0",
            help="Factor on the preset's weights of the losses R1 to R4; with a smaller one, more is removed after few steps.",
        ),
    ] = None,
    pool: Annotated[
        int | None,
        recipe(
            "--pool",
            metavar="N",
            show_default="0",
            help="Size of the replay buffer, from which discriminators at times see earlier images; 0: none.",
        ),
    ] = None,
    quantised: Annotated[
        bool | None, recipe("--quantised", show_default="False", help="Round images to 8 bits (the authors' code rounds down).")
    ] = None,
    songs: Annotated[
        int | None,
        recipe(
            "--songs",
            metavar="N",
            show_default="0",
            help="Also learn from songs with singing synthesised from the manifest's speech, in N passes over all its "
            "music (extra train).",
        ),
    ] = None,
    quieter: Annotated[
        float | None,
        recipe(
            "--quieter",
            metavar="DB",
            show_default="0.0",
            help="Make the voices of these songs quieter; otherwise they are from 6 dB below their music to 8 dB above it.",
        ),
    ] = None,
    varied: Annotated[
        bool | None,
        recipe("--varied/--as-recorded", show_default="as-recorded", help="Augment the data: play each clip at a random speed."),
    ] = None,
    whole: Annotated[
        bool | None,
        recipe(
            "--whole/--clip-by-clip",
            show_default="clip-by-clip",
            help="Normalise clips by the range of magnitudes of their recording, as songs are when they are separated.",
        ),
    ] = None,
    rate: Annotated[
        float | None, recipe("--rate", metavar="X", show_default="0.0", help="Learning rate of Adam; 0: the preset's.")
    ] = None,
    listening: Annotated[
        int | None,
        recipe(
            "--listening",
            metavar="N",
            show_default="-1",
            help="Steps of discriminator pre-training, to tell songs from music; -1: the preset's (the paper has none).",
        ),
    ] = None,
    batch: Annotated[
        int | None, recipe("--batch", metavar="N", show_default="1", help="Batch size: N mixtures, and as many clips of music.")
    ] = None,
    epochs: Annotated[
        int | None, recipe("--epochs", metavar="N", show_default="100", help="Number of epochs; all are run.")
    ] = None,
    steps_per_epoch: Annotated[
        int | None,
        recipe(
            "--steps-per-epoch",
            metavar="N",
            show_default="500",
            help="Training steps per epoch; each epoch ends with a validation.",
        ),
    ] = None,
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
    device: TheDevice = Device.auto,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the idempotent masker (paper 002) to remove vocals from songs, on songs and on unrelated music without vocals.

    It learns from no isolated vocals, and opens no files of other categories, except speech with --songs. The weights of the last
    epoch are written, as no loss tells which epoch is best: judge them by separate --method idempotent-masker --weights on songs
    with known stems.
    """
    options = dict(locals())
    terminal = Terminal(json=json, quiet=quiet)
    from dataclasses import fields

    from bayessep import separator_commands
    from bayessep.unmatched import Recipe

    given = {f.name: options[f.name] for f in fields(Recipe) if options[f.name] is not None}
    separator_commands.train_masker(output, data, config, given, redistributable=redistributable, device=device, terminal=terminal)


def _train(network: str, options: dict[str, Any]) -> None:
    terminal = Terminal(json=options["json"], quiet=options["quiet"])
    from dataclasses import fields

    from bayessep import network_commands, separator_commands
    from bayessep.separator_training import Recipe

    given = {f.name: options[f.name] for f in fields(Recipe) if options.get(f.name) is not None} | {"network": network}
    together = network_commands.processes(options["coordinator"], options["processes"], options["process"])
    separator_commands.train_separator(
        options["output"],
        options["data"],
        options["config"],
        given,
        redistributable=options["redistributable"],
        together=together,
        device=options["device"],
        terminal=terminal,
        start=options["start"],
    )
