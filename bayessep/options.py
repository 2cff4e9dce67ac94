"""The options that several verbs of the command line have, in words. Importing this costs next to nothing.

An option that is not given is left to `settings.Settings`; what `show_default` says of it is tested.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

# The names of settings.METHODS, which costs a second to import.
Method = StrEnum("Method", ["nmf", "variational", "icm", "joint", "svi", "unsupervised"])
Device = StrEnum("Device", ["auto", "cpu", "cuda"])
Rule = StrEnum("Rule", ["exact", "printed"])

TRAINING, MODEL, RUN = "What is known", "Model and inference", "How to run"

Mix = Annotated[Path, typer.Argument(metavar="MIX", show_default=False, help="The recording: wav, flac, ogg, mp3, aiff …")]
Speech = Annotated[
    list[Path] | None,
    typer.Option(
        "--speech",
        metavar="FILE...",
        rich_help_panel=TRAINING,
        help="Clean speech to learn from, best of the same voices; half a minute is plenty. Files or folders, one or more.",
    ),
]
Music = Annotated[
    list[Path] | None,
    typer.Option(
        "--music",
        metavar="FILE...",
        rich_help_panel=TRAINING,
        help="The music that plays in MIX, without speech: a jingle, or a part of it. Files or folders, one or more.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        rich_help_panel=TRAINING,
        help="Which stretches of MIX are speech, music, or both (CSV, TSV, Audacity, RTTM, TextGrid, JSON). Stretches of "
        "one alone are learned from; what has no label is labelled by the model.",
    ),
]
Bases = Annotated[
    int | None,
    typer.Option("--bases", metavar="N", min=1, show_default="40", rich_help_panel=MODEL, help="Number of speech templates."),
]
Sweeps = Annotated[
    int | None,
    typer.Option("--sweeps", metavar="N", min=1, show_default="100", rich_help_panel=MODEL, help="Most sweeps over MIX."),
]
TrainingSweeps = Annotated[
    int | None,
    typer.Option(
        "--training-sweeps",
        metavar="N",
        min=1,
        show_default="100",
        rich_help_panel=MODEL,
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
        rich_help_panel=MODEL,
        help="Stop when the objective moves by no more than this share of itself in five sweeps.",
    ),
]
Chain = Annotated[
    bool | None,
    typer.Option(
        "--chain/--independent",
        show_default="independent",
        rich_help_panel=MODEL,
        help="Expect the music to be played in order, or draw its frames independently, as the paper does.",
    ),
]
Complete = Annotated[
    bool | None,
    typer.Option(
        "--complete/--as-given",
        show_default="complete",
        rich_help_panel=MODEL,
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
        rich_help_panel=MODEL,
        help="Method joint: how much a frame of MIX counts beside one of speech.",
    ),
]
PMusic = Annotated[
    float | None,
    typer.Option(
        "--p-music",
        metavar="X",
        show_default="0.5",
        rich_help_panel=MODEL,
        help="Probability of music, beforehand, where nothing is labelled; above 0, at most 1.",
    ),
]
Level = Annotated[
    float | None,
    typer.Option(
        "--level",
        metavar="X",
        show_default="0.5",
        rich_help_panel=MODEL,
        help="Mean scaled magnitude: what data weigh against priors.",
    ),
]
MaxFrequency = Annotated[
    float | None,
    typer.Option(
        "--max-frequency",
        metavar="HZ",
        show_default="8000.0",
        rich_help_panel=MODEL,
        help="Model what lies below (Hz); the rest follows the highest band.",
    ),
]
FilterShape = Annotated[
    float | None,
    typer.Option(
        "--filter-shape",
        metavar="X",
        min=0.0,
        show_default="30.0",
        rich_help_panel=MODEL,
        help="How closely the filter of the music is held at 1: shape of its Gamma prior; 0 leaves it free, as in the paper.",
    ),
]
GainShape = Annotated[
    float | None,
    typer.Option(
        "--gain-shape",
        metavar="X",
        min=0.0,
        show_default="30.0",
        rich_help_panel=MODEL,
        help="The same of the gain of the music in each frame.",
    ),
]
Candidates = Annotated[
    int | None,
    typer.Option(
        "--candidates",
        metavar="N",
        min=1,
        show_default="16",
        rich_help_panel=MODEL,
        help="Frames of the known music that each frame of MIX is compared with closely; more are slower.",
    ),
]
MaxCatalogue = Annotated[
    int | None,
    typer.Option(
        "--max-catalogue",
        metavar="N",
        min=1,
        show_default="500",
        rich_help_panel=MODEL,
        help="Frames of the known music at most (32 ms each); of longer music, the first are used.",
    ),
]
TheRule = Annotated[
    Rule | None,
    typer.Option(
        "--rule",
        metavar="exact|printed",
        show_default="exact",
        rich_help_panel=MODEL,
        help="How music frames are told apart: exactly, or as printed in the paper (with --independent).",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, rich_help_panel=RUN, help="Same seed, same machine: same bytes.")]
TheDevice = Annotated[
    Device,
    typer.Option("--device", rich_help_panel=RUN, help="Where to compute. cuda fails where there is none."),
]
Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=RUN, help="One JSON document on standard output, and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=RUN, help="No progress, no notes; warnings stay.")]
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
