"""Command-line options that several verbs share. Importing this module is cheap.

An option that is not given takes its default from `settings.Settings`; a test compares `show_default` with it.
"""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

# The names of settings.METHODS, repeated here because that module takes a second to import.
Method = StrEnum("Method", ["nmf", "variational", "icm", "joint", "svi", "unsupervised"])
# These, conv-nmf, and the names of separator_commands.METHODS.
AnyMethod = StrEnum(
    "AnyMethod",
    ["nmf", "variational", "icm", "joint", "svi", "unsupervised", "conv-nmf", "conv-tasnet", "blstm-mask", "deep-karaoke",
     "idempotent-masker"],
)  # fmt: skip
# The names of estimates.ORACLES.
ORACLES = ("ideal-binary-mask", "ideal-ratio-mask")
Device = StrEnum("Device", ["auto", "cpu", "cuda"])
Rule = StrEnum("Rule", ["exact", "printed"])

_known = partial(typer.Option, rich_help_panel="What is known")
_model = partial(typer.Option, rich_help_panel="Model and inference")
_run = partial(typer.Option, rich_help_panel="How to run")


Mix = Annotated[Path, typer.Argument(metavar="MIX", show_default=False, help="The recording: wav, flac, ogg, mp3, aiff …")]
Recordings = Annotated[
    list[Path],
    typer.Argument(metavar="AUDIO...", show_default=False, help="Recordings, or folders of them: wav, flac, ogg, mp3, aiff …"),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Folder for the results, made if need be. Those of an earlier run are replaced, all at once and at the end.",
    ),
]

# --- what is known -------------------------------------------------------------------------------------------------------

Speech = Annotated[
    list[Path] | None,
    _known(
        "--speech",
        metavar="FILE...",
        help="Clean speech to learn from, best of the same voices; half a minute is plenty. Files or folders, one or more.",
    ),
]
Music = Annotated[
    list[Path] | None,
    _known(
        "--music",
        metavar="FILE...",
        help="The music that plays in MIX, without speech: a jingle, or a part of it. Files or folders, one or more.",
    ),
]
Labels = Annotated[
    Path | None,
    _known(
        "--labels",
        metavar="FILE",
        help="Which stretches of MIX are speech, music, or both (CSV, TSV, Audacity, RTTM, TextGrid, JSON). Stretches of "
        "one alone are learned from; what has no label is labelled by the model.",
    ),
]

# --- model and inference -------------------------------------------------------------------------------------------------

TheMethod = Annotated[
    AnyMethod,
    _model(
        "--method",
        metavar="METHOD",
        help="nmf keeps templates learned from the speech; variational and icm move them on MIX; joint learns from both "
        "at once; svi is variational by stochastic gradients; unsupervised needs no --speech. conv-nmf has templates of "
        "20 frames of both. conv-tasnet, blstm-mask, deep-karaoke and idempotent-masker (these two of songs: vocals are the "
        "speech) are networks, of --weights: they need nothing but MIX.",
    ),
]
Weights = Annotated[
    Path | None,
    _model(
        "--weights",
        metavar="FILE",
        help="Of the methods that are networks: what bayessep train has made; else the installed one, if there is one.",
    ),
]
RECOGNISERS = "pocketsphinx (general English), attention-asr (digits; or --weights), both of extra asr, or your MODULE:CALLABLE."
RecogniserWeights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="A recogniser that bayessep train attention-asr has made: it is used then."),
]
Alpha = Annotated[
    float | None,
    _model(
        "--alpha",
        metavar="X",
        show_default="shares",
        help="Methods deep-karaoke and conv-nmf: cells of which they are surer than X (0 to 1) are speech, or vocals, the others "
        "not; else they are shared.",
    ),
]
Bases = Annotated[
    int | None, _model("--bases", metavar="N", min=1, show_default="80", help="Speech templates; of conv-nmf 40 of each source.")
]
Sweeps = Annotated[
    int | None,
    _model(
        "--sweeps",
        metavar="N",
        min=1,
        show_default="40",
        help="Most sweeps over MIX, of conv-nmf 50; svi takes five gradient steps for each.",
    ),
]
TrainingSweeps = Annotated[
    int | None,
    _model("--training-sweeps", metavar="N", min=1, show_default="100", help="Most sweeps over the training speech."),
]
Tolerance = Annotated[
    float | None,
    _model(
        "--tolerance",
        metavar="X",
        min=0.0,
        show_default="1e-05",
        help="Stop, after 20 sweeps at least, when the objective moves by no more than this share of itself in five; svi "
        "takes all its steps.",
    ),
]
Chain = Annotated[
    bool | None,
    _model(
        "--chain/--independent",
        show_default="chain",
        help="Expect the music to be played in order, or draw its frames independently, as the paper does.",
    ),
]
Complete = Annotated[
    bool | None,
    _model(
        "--complete/--as-given",
        show_default="complete",
        help="With --chain, where the music repeats: learn the part of its period that was not given; or use only what was given.",
    ),
]
Align = Annotated[
    bool | None,
    _model(
        "--align/--level-as-given",
        show_default="align",
        help="With --complete: expect the music as loud, and filtered, as it is found where its known part is played; or as given.",
    ),
]
Weigh = Annotated[
    bool | None,
    _model(
        "--weigh/--median",
        show_default="weigh",
        help="With --complete: weigh what repeats say of the part that was not given against the given part; or take their median.",
    ),
]
EntryShape = Annotated[
    float | None,
    _model(
        "--entry-shape",
        metavar="X",
        show_default="30.0",
        help="With --complete: how closely what is learned is held at that: shape of its Gamma prior.",
    ),
]
WarmUp = Annotated[
    int | None,
    _model("--warm-up", metavar="N", min=0, show_default="20", help="With --complete: sweeps before it is learned."),
]
Overlap = Annotated[
    float | None,
    _model("--overlap", metavar="X", show_default="0.75", help="Of one frame with the next, as a share; the paper has 0.5."),
]
SpeechShape = Annotated[
    float | None,
    _model(
        "--speech-shape",
        metavar="X",
        min=0.0,
        show_default="0.3",
        help="How closely a bin of speech is held to the templates: shape of a Gamma prior; 0 holds it fast, as in the paper.",
    ),
]
MaskPower = Annotated[
    float | None,
    _model(
        "--mask-power",
        metavar="X",
        show_default="1.5",
        help="Stems share each bin by their magnitudes to this power: 1 as in the paper, 2 as a Wiener filter. Of the method "
        "idempotent-masker: its masks of the accompaniment are raised to it (1 / 0.3 by default; its authors' code has 9).",
    ),
]
Smoothing = Annotated[
    bool | None,
    _model(
        "--smoothing",
        show_default="False",
        help="Method idempotent-masker: each cell of a mask becomes about the mean of itself and its neighbours, as in the "
        "authors' code.",
    ),
]
Faint = Annotated[
    float | None,
    _model(
        "--faint",
        metavar="DB",
        min=0.0,
        show_default="None",
        help="Where P(music) is in doubt and the music inferred is so many decibels below the mixture, all is speech; 0: never.",
    ),
]
Temperature = Annotated[
    float | None,
    _model(
        "--temperature", metavar="X", show_default="2.0", help="Where uncertainty is read, log-odds of shares are divided by X."
    ),
]
Spread = Annotated[
    float | None,
    _model(
        "--spread",
        metavar="X",
        min=0.0,
        show_default="2.4",
        help="Standard deviation of the true log-odds around that; 0 leaves the posterior as sure as it is, which is too sure.",
    ),
]
JointWeight = Annotated[
    float | None,
    _model(
        "--joint-weight",
        metavar="X",
        min=0.0,
        show_default="1.0",
        help="Method joint: how much a frame of MIX counts beside one of speech.",
    ),
]
PMusic = Annotated[
    float | None,
    _model(
        "--p-music",
        metavar="X",
        show_default="0.5",
        help="What speaks for music, beforehand, in each frame where nothing is labelled: above 0.5 for it, below against it.",
    ),
]
Level = Annotated[
    float | None,
    _model("--level", metavar="X", show_default="2.0", help="Mean scaled magnitude: what data weigh against priors."),
]
MaxFrequency = Annotated[
    float | None,
    _model(
        "--max-frequency",
        metavar="HZ",
        show_default="8000.0",
        help="Model what lies below (Hz); the rest follows the highest band.",
    ),
]
FilterShape = Annotated[
    float | None,
    _model(
        "--filter-shape",
        metavar="X",
        min=0.0,
        show_default="30.0",
        help="How closely the filter of the music is held at 1: shape of its Gamma prior; 0 leaves it free, as in the paper.",
    ),
]
GainShape = Annotated[
    float | None,
    _model("--gain-shape", metavar="X", min=0.0, show_default="30.0", help="The same of the gain of the music in each frame."),
]
Candidates = Annotated[
    int | None,
    _model(
        "--candidates",
        metavar="N",
        min=1,
        show_default="8",
        help="Frames of the known music that each frame of MIX is compared with closely; more are slower.",
    ),
]
MaxCatalogue = Annotated[
    int | None,
    _model(
        "--max-catalogue",
        metavar="N",
        min=1,
        show_default="1000",
        help="Frames of music to play at most (16 ms each by default); of longer music, the first are used, and nothing is learned "
        "of a period that is longer.",
    ),
]
LogModes = Annotated[
    bool | None,
    _model(
        "--log-modes/--modes",
        show_default="modes",
        help="Method icm: take the modes of the logarithms of excitations and music, or their own, which are sparse.",
    ),
]
TheRule = Annotated[
    Rule | None,
    _model(
        "--rule",
        metavar="exact|printed",
        show_default="exact",
        help="How music frames are told apart: exactly, or as printed in the paper (with --independent; svi is always exact).",
    ),
]

# --- how to run ----------------------------------------------------------------------------------------------------------

Seed = Annotated[int, _run("--seed", metavar="N", min=0, max=2**32 - 1, help="Same seed, same machine: same audio, to the byte.")]
TheDevice = Annotated[Device, _run("--device", help="Where to compute. cuda fails where there is none.")]
Json = Annotated[bool, _run("--json", help="One JSON document on standard output, and nothing else there.")]
Quiet = Annotated[bool, _run("--quiet", "-q", help="No progress, no notes; warnings stay.")]
