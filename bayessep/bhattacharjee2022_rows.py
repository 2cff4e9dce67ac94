"""Rows of paper 003's experiment, how long each is trained, and in which order.

`bayessep.bhattacharjee2022` runs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bayessep.detector_training import Recipe

FOLDS = 3
RATIOS = (-5, 0, 5, 10, 15, 20)
"""Speech-to-music ratios of Figure 4, in decibels."""

# --- rows of the tables --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A network, its input features, and how it is trained."""

    network: str
    head: str
    feature: str
    bands: int = 120
    augment: bool = True  # recordings of a class share a channel; without augmentation, networks learn it instead of the class
    rate: float = 1e-3  # learning rate of Adam; 0: the optimiser and the schedule of the paper's code
    songs: bool = False  # add singing made from speech to the music: small collections have few singers


_FOUR = ("LMS", "LMHS", "LMPS", "LMHPS-EF")
LMS, EARLY = "B3, LMS", "B3, LMHPS-EF"
MULTI_LMS, MULTI_EARLY = "B3-MTL, LMS", "B3-MTL, LMHPS-EF"
PLAIN, PAPERS, SUNG = (f"{MULTI_EARLY}, {how}" for how in ("not augmented", "the paper's optimiser", "with songs"))

ROWS: dict[str, Row] = {
    "B1, MS": Row("b1", "single", "MS", 21),
    "B2, S": Row("b2", "single", "S"),
    "B3, LMS of 80 bands": Row("b3", "single", "LMS", 80),
    "B4, LS": Row("b4", "single", "LS"),
    "B4-NoFC, LS": Row("b4-nofc", "single", "LS"),
    **{f"B3, {feature}": Row("b3", "single", feature) for feature in _FOUR},
    **{f"B3-MTL, {feature}": Row("b3", "multi", feature) for feature in _FOUR},
    **{f"B3-C-MTL, {feature}": Row("b3", "cascaded", feature) for feature in _FOUR},
    "B1-MTL, MHPS-EF": Row("b1", "multi", "MHPS-EF"),
    "B2-MTL, HPS-EF": Row("b2", "multi", "HPS-EF"),
    "B4-MTL-NoFC, LHPS-EF": Row("b4-nofc", "multi", "LHPS-EF"),
    PLAIN: Row("b3", "multi", "LMHPS-EF", augment=False),
    PAPERS: Row("b3", "multi", "LMHPS-EF", rate=0.0),
    SUNG: Row("b3", "multi", "LMHPS-EF", songs=True),
}
"""Rows of Tables I to IV, and three rows on what is done differently from the paper."""

TABLES: dict[str, tuple[str, ...]] = {
    "I": ("B1, MS", "B2, S", "B3, LMS of 80 bands", "B4, LS", "B4-NoFC, LS"),
    "II": tuple(f"B3, {feature}" for feature in _FOUR),
    "III": tuple(f"{classifier}, {feature}" for classifier in ("B3-MTL", "B3-C-MTL") for feature in _FOUR),
    "IV": ("B1-MTL, MHPS-EF", "B2-MTL, HPS-EF", MULTI_EARLY, "B4-MTL-NoFC, LHPS-EF"),
}
MODIFIED = {
    "B1, MS": "B1-MTL, MHPS-EF",
    "B2, S": "B2-MTL, HPS-EF",
    "B3, LMS of 80 bands": MULTI_EARLY,
    "B4-NoFC, LS": "B4-MTL-NoFC, LHPS-EF",
}
"""Baselines, and the paper's modified versions of them (Table IV, Figure 4)."""

SMR_ROWS = (*TABLES["I"], LMS, *TABLES["IV"])
"""Rows that are also tested on mixtures at each of `RATIOS`."""

FIGURE_2 = "Figure 2"
TRANSFER, TRANSFER_DAFX = "Table V, generated broadcasts", "Table V, labelled broadcasts"
QUICK_ROWS = (LMS, MULTI_EARLY, EARLY, MULTI_LMS)
ORDER = (
    *QUICK_ROWS, FIGURE_2, *TABLES["I"][2::2], "B1, MS", TRANSFER, TRANSFER_DAFX, "B4-MTL-NoFC, LHPS-EF", "B3-C-MTL, LMHPS-EF",
    SUNG, PLAIN, PAPERS, "B1-MTL, MHPS-EF", "B2, S", "B2-MTL, HPS-EF", "B4, LS",
)  # fmt: skip
"""The most informative rows first; rows not named here follow."""

# --- how much is done ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How long networks are trained, and on how much.

    Attributes:
        rows: those to run; empty for all.
        folds: how many of the three are tested.
        epochs, patience: `bayessep.train.Training`.
        steps: per epoch, by network: baselines and the paper's modified versions are trained equally long.
        crops: of 20 s, for each class in an epoch.
        scenes, scene_seconds: number (training, validation, test) and length of the broadcasts generated for Table V.
        tuning: steps per epoch for Table V.
        of_a_group: patches per speaker or artist in Figure 2, at most.
    """

    rows: tuple[str, ...] = ()
    folds: int = FOLDS
    epochs: int = 10
    patience: int = 5
    steps: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"b1": 30, "b2": 30, "b3": 200, "b4": 30, "b4-nofc": 30}
    )
    crops: int = 24
    scenes: tuple[int, int, int] = (24, 8, 10)
    scene_seconds: float = 60.0
    tuning: int = 100
    of_a_group: int = 100


BUDGETS = {
    "quick": Budget(QUICK_ROWS, 1, 4, 4, {"b3": 60}, 12),
    "full": Budget(),
    "long": Budget(
        epochs=20,
        steps={"b1": 80, "b2": 80, "b3": 200, "b4": 80, "b4-nofc": 80},
        scenes=(60, 20, 20),
        tuning=200,
        of_a_group=200,
    ),
}
"""A part in minutes; everything overnight on two cores; everything with longer trainings, as for a GPU."""


class Task(NamedTuple):
    """One fold of one row."""

    row: str
    fold: int
    budget: str

    @property
    def place(self) -> str:
        """Folder of its training, relative to that of the results."""
        name = self.row.lower().replace(", ", "-").replace(" ", "-").replace("'", "")
        return f"training/{self.budget}/{name}-{self.fold + 1}"


KEY = Task._fields


def plan(budget: str = "full", *, transfer: bool = False) -> list[Task]:
    """Return all tasks, the most informative rows first; Table V uses labelled broadcasts if `transfer`, else generated ones."""
    of = BUDGETS[budget]
    every = dict.fromkeys((*ORDER, *ROWS))
    rows = [row for row in every if (row in of.rows if of.rows else row != (TRANSFER if transfer else TRANSFER_DAFX))]
    return [Task(row, fold, budget) for row in rows for fold in range(1 if row == FIGURE_2 else of.folds)]


def recipe_of(task: Task, seed: int) -> Recipe:
    """Return the training recipe of a row; for Table V, that of the network it starts from."""
    row, budget = ROWS.get(task.row, ROWS[MULTI_EARLY]), BUDGETS[task.budget]
    return Recipe(
        row.network,
        row.head,
        row.feature,
        row.bands,
        rate=row.rate,
        augment=row.augment,
        songs=row.songs,
        crops=budget.crops,
        epochs=budget.epochs,
        steps_per_epoch=budget.steps[row.network],
        # With batch normalisation, validation says little before the running means have settled.
        patience=budget.patience if row.network == "b3" else 2 * budget.patience,
        seed=seed,
    )
