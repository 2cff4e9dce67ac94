"""Command-line options that several verbs share. Importing this module is cheap.

An option that is not given takes its default from `settings.Settings`, which its help shows.
"""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bayessep.settings import Settings

# The names of settings.METHODS, conv-nmf and separator_commands.METHODS, written out for type checkers; a test compares them.
Method = StrEnum("Method", ["nmf", "variational", "icm", "joint", "svi", "unsupervised"])
AnyMethod = StrEnum(
    "AnyMethod",
    ["nmf", "variational", "icm", "joint", "svi", "unsupervised", "conv-nmf", "conv-tasnet", "blstm-mask", "deep-karaoke",
     "idempotent-masker"],
)  # fmt: skip
# The names of estimates.ORACLES.
ORACLES = ("ideal-binary-mask", "ideal-ratio-mask")
Device = StrEnum("Device", ["auto", "cpu", "cuda"])
Rule = StrEnum("Rule", ["exact", "printed"])



def _default(name: str) -> str:
    """Return the default of a setting as help shows it: its value, or the flag that stands for it."""
    flags = {
        "chain": ("independent", "chain"), "complete": ("as-given", "complete"), "align": ("level-as-given", "align"),
        "weigh": ("median", "weigh"), "log_modes": ("modes", "log-modes"),
    }  # fmt: skip
    value = getattr(Settings(), name)
    return flags[name][value] if name in flags else str(value)


_known = partial(typer.Option, rich_help_panel="Training material and labels")
_model = partial(typer.Option, rich_help_panel="Model and inference")
_run = partial(typer.Option, rich_help_panel="Execution and output")


Mix = Annotated[Path, typer.Argument(metavar="MIX", show_default=False, help="Recording to separate: wav, flac, ogg, mp3, aiff …")]
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
        help="Folder for the results, created if needed. Results of an earlier run are replaced, all at once at the end.",
    ),
]

# --- what is known -------------------------------------------------------------------------------------------------------

Speech = Annotated[
    list[Path] | None,
    _known(
        "--speech",
        metavar="FILE...",
        help="Clean speech to learn from, ideally of the same voices; half a minute is plenty. One or more files or folders.",
    ),
]
Music = Annotated[
    list[Path] | None,
    _known(
        "--music",
        metavar="FILE...",
        help="The music that plays in MIX, without speech: a jingle, or a part of it. One or more files or folders.",
    ),
]
Labels = Annotated[
    Path | None,
    _known(
        "--labels",
        metavar="FILE",
        help="Segments of MIX labelled as speech, music or both (CSV, TSV, Audacity, RTTM, TextGrid, JSON). Those "
        "of one alone are training examples; the model labels the unlabelled parts.",
    ),
]

# --- model and inference -------------------------------------------------------------------------------------------------

TheMethod = Annotated[
    AnyMethod,
    _model(
        "--method",
        metavar="METHOD",
        help="nmf keeps the templates learned from speech; variational and icm adapt them to MIX; joint learns "
        "them from speech and MIX at once; svi is variational by stochastic gradients; unsupervised needs no "
        "--speech. conv-nmf learns templates of 20 frames for speech and music. conv-tasnet, blstm-mask, "
        "deep-karaoke and idempotent-masker (these two for songs: vocals are the speech) are networks (see "
        "--weights) and need only MIX.",
    ),
]
Weights = Annotated[
    Path | None,
    _model(
        "--weights",
        metavar="FILE",
        help="For network methods: weights file from bayessep train; by default the installed one, if there is one.",
    ),
]
RECOGNISERS = "pocketsphinx (general English) or attention-asr (digits; or --weights), both with the extra asr, or MODULE:CALLABLE."
RecogniserWeights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Weights file from bayessep train attention-asr; selects that recogniser."),
]
Alpha = Annotated[
    float | None,
    _model(
        "--alpha",
        metavar="X",
        show_default="shares",
        help="Methods deep-karaoke and conv-nmf: threshold (0 to 1) for a binary mask, in which cells with a "
        "greater share of speech, or vocals, are speech, and all others music; by default, a soft mask.",
    ),
]
Bases = Annotated[
    int | None,
    _model(
        "--bases",
        metavar="N",
        min=1,
        show_default=_default("bases"),
        help="Number of speech templates (conv-nmf: of each source, by default 40).",
    ),
]
Sweeps = Annotated[
    int | None,
    _model(
        "--sweeps",
        metavar="N",
        min=1,
        show_default=_default("sweeps"),
        help="Maximum number of sweeps over the recording (conv-nmf: by default 50; svi: five gradient steps for each).",
    ),
]
TrainingSweeps = Annotated[
    int | None,
    _model(
        "--training-sweeps",
        metavar="N",
        min=1,
        show_default=_default("training_sweeps"),
        help="Maximum number of sweeps over the training speech (conv-nmf: speech and music).",
    ),
]
Tolerance = Annotated[
    float | None,
    _model(
        "--tolerance",
        metavar="X",
        min=0.0,
        show_default=_default("tolerance"),
        help="Stop, after at least 20 sweeps (and 5 beyond --warm-up), once the objective changes by at most this "
        "fraction of itself in five; svi takes all its steps.",
    ),
]
Chain = Annotated[
    bool | None,
    _model(
        "--chain/--independent",
        show_default=_default("chain"),
        help="Model the music's frames as a Markov chain, played in order; or as independent, as in the paper.",
    ),
]
Complete = Annotated[
    bool | None,
    _model(
        "--complete/--as-given",
        show_default=_default("complete"),
        help="With --chain, if the music repeats: learn the part of its period that is missing from the examples; "
        "or use only the examples.",
    ),
]
Align = Annotated[
    bool | None,
    _model(
        "--align/--level-as-given",
        show_default=_default("align"),
        help="With --complete: estimate the music's level and equalisation from where its known part is played; or "
        "expect them as given.",
    ),
]
Weigh = Annotated[
    bool | None,
    _model(
        "--weigh/--median",
        show_default=_default("weigh"),
        help="With --complete: estimate the missing part by weighing its repeats against the given part; or by the "
        "median of its repeats.",
    ),
]
EntryShape = Annotated[
    float | None,
    _model(
        "--entry-shape",
        metavar="X",
        show_default=_default("entry_shape"),
        help="With --complete: shape of the Gamma prior around the estimate of the missing part; larger is tighter.",
    ),
]
WarmUp = Annotated[
    int | None,
    _model(
        "--warm-up",
        metavar="N",
        min=0,
        show_default=_default("warm_up"),
        help="With --complete: initial sweeps, at most half of all, before the missing part is learned.",
    ),
]
Overlap = Annotated[
    float | None,
    _model(
        "--overlap",
        metavar="X",
        show_default=_default("overlap"),
        help="Overlap of consecutive frames, as a fraction from 0.25 to below 1; the paper has 0.5.",
    ),
]
SpeechShape = Annotated[
    float | None,
    _model(
        "--speech-shape",
        metavar="X",
        min=0.0,
        show_default=_default("speech_shape"),
        help="Shape of the Gamma prior that ties each bin of speech to the templates; larger is tighter, 0 is "
        "exact, as in the paper.",
    ),
]
MaskPower = Annotated[
    float | None,
    _model(
        "--mask-power",
        metavar="X",
        show_default=_default("mask_power"),
        help="Stems share each bin by their magnitudes to this power: 1 as in the paper, 2 as a Wiener filter. "
        "Method idempotent-masker: exponent of its masks of the accompaniment (by default 1 / 0.3; its "
        "authors' code has 9).",
    ),
]
Smoothing = Annotated[
    bool | None,
    _model(
        "--smoothing",
        show_default="False",
        help="Method idempotent-masker: smooth the masks, by about the mean of each cell and its neighbours, as in "
        "the authors' code.",
    ),
]
Faint = Annotated[
    float | None,
    _model(
        "--faint",
        metavar="DB",
        min=0.0,
        show_default=_default("faint"),
        help="Make unlabelled frames all speech where the inferred music is over this many decibels below the "
        "mixture, if --p-music is below 0.75; 0: never.",
    ),
]
Temperature = Annotated[
    float | None,
    _model(
        "--temperature",
        metavar="X",
        show_default=_default("temperature"),
        help="For uncertainties, divide the log-odds of the mask by X; the mask is unchanged.",
    ),
]
Spread = Annotated[
    float | None,
    _model(
        "--spread",
        metavar="X",
        min=0.0,
        show_default=_default("spread"),
        help="For uncertainties, standard deviation of the true log-odds around those divided by --temperature; 0: "
        "the posterior's own, which is overconfident.",
    ),
]
JointWeight = Annotated[
    float | None,
    _model(
        "--joint-weight",
        metavar="X",
        min=0.0,
        show_default=_default("joint_weight"),
        help="Method joint: weight of a frame of MIX relative to one of training speech.",
    ),
]
PMusic = Annotated[
    float | None,
    _model(
        "--p-music",
        metavar="X",
        show_default=_default("p_music"),
        help="Evidence for music in each unlabelled frame, above 0 and at most 1: 0.5 is neutral, more is for "
        "music, less against it.",
    ),
]
Level = Annotated[
    float | None,
    _model(
        "--level",
        metavar="X",
        show_default=_default("level"),
        help="Mean magnitude that MIX is scaled to; the greater, the more the data weigh against the priors.",
    ),
]
MaxFrequency = Annotated[
    float | None,
    _model(
        "--max-frequency",
        metavar="HZ",
        show_default=_default("max_frequency"),
        help="Highest modelled frequency (Hz); what lies above follows the highest band.",
    ),
]
FilterShape = Annotated[
    float | None,
    _model(
        "--filter-shape",
        metavar="X",
        min=0.0,
        show_default=_default("filter_shape"),
        help="Shape of the Gamma prior on the music's filter, around 1 or what --align finds; larger is tighter, 0 "
        "is flat, as in the paper.",
    ),
]
GainShape = Annotated[
    float | None,
    _model(
        "--gain-shape",
        metavar="X",
        min=0.0,
        show_default=_default("gain_shape"),
        help="Shape of the Gamma prior on the music's gain in each frame, around 1 or what --align finds; 0 is "
        "flat, as in the paper.",
    ),
]
Candidates = Annotated[
    int | None,
    _model(
        "--candidates",
        metavar="N",
        min=1,
        show_default=_default("candidates"),
        help="Frames of the music kept as candidates for each frame of MIX; more are slower.",
    ),
]
MaxCatalogue = Annotated[
    int | None,
    _model(
        "--max-catalogue",
        metavar="N",
        min=1,
        show_default=_default("max_catalogue"),
        help="Maximum number of music frames in the model (16 ms each by default); of longer music, the first are "
        "used, and a period that does not fit is not completed.",
    ),
]
LogModes = Annotated[
    bool | None,
    _model(
        "--log-modes/--modes",
        show_default=_default("log_modes"),
        help="Method icm: estimate excitations and music by the modes of their logarithms; or by their own modes, "
        "which are sparse.",
    ),
]
TheRule = Annotated[
    Rule | None,
    _model(
        "--rule",
        metavar="exact|printed",
        show_default=_default("rule"),
        help="Update of the music frames' probabilities: exact, or as printed in the paper (with --independent; "
        "svi is always exact).",
    ),
]

# --- how to run ----------------------------------------------------------------------------------------------------------

Seed = Annotated[
    int,
    _run(
        "--seed",
        metavar="N",
        min=0,
        max=2**32 - 1,
        help="Seed of all random numbers. Same seed, same machine: same audio, to the byte.",
    ),
]
TheDevice = Annotated[Device, _run("--device", help="Device to compute on. cuda fails without a CUDA device.")]
Json = Annotated[bool, _run("--json", help="Print one JSON document on standard output, and nothing else there.")]
Quiet = Annotated[bool, _run("--quiet", "-q", help="Suppress progress and notes, but not warnings.")]
