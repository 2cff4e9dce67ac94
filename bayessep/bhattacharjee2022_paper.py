"""The numbers in the tables of paper 003, and the measures they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bayessep.bhattacharjee2022_rows import FOLDS
from bayessep.models.speech_music_detector import BOTH, MUSIC, SPEECH

CLASSES = {"music": MUSIC, "speech": SPEECH, "speech+music": BOTH}
SCORES = ("Prec", "Rec", "F1")
MEASURES = ("Acc", *(f"{name} {score}" for name in CLASSES for score in SCORES), "Avg. F1")
"""Columns of the paper's tables. Acc is class-balanced: the mean recall of the three classes."""
PATCHES = "share right"
"""Accuracy over all patches, unbalanced; the paper does not have it."""
SHORT = ("Acc", *(f"{name} F1" for name in CLASSES), "Avg. F1")
"""Columns of Table III, and of all tables in terminals."""


class Mean(NamedTuple):
    """Mean and standard deviation over folds; the deviation of one fold is NaN."""

    mean: float
    deviation: float
    folds: int


def _paper(names: Sequence[str], text: str) -> dict[str, dict[str, Mean]]:
    """Parse a table of one row per line: its name, a colon, then mean and deviation of each measure."""
    rows = {}
    for line in text.strip().splitlines():
        name, numbers = line.strip().rsplit(":", 1)
        values = list(map(float, numbers.split()))
        pairs = zip(names, values[::2], values[1::2], strict=True)
        rows[name] = {measure: Mean(level, deviation, FOLDS) for measure, level, deviation in pairs}
    return rows


PAPER = _paper(
    SHORT,
    """
    B3-MTL, LMS: 81.79 2.59 75.63 3.28 85.98 2.82 77.22 2.74 79.33 2.52
    B3-MTL, LMHS: 83.27 1.08 71.28 4.39 90.93 0.77 76.82 3.86 79.67 2.52
    B3-MTL, LMPS: 85.44 0.08 73.42 1.29 94.39 1.38 81.79 0.37 83.20 0.24
    B3-C-MTL, LMS: 82.72 1.72 75.80 4.01 86.25 0.94 77.46 3.48 79.67 2.52
    B3-C-MTL, LMHS: 84.62 1.97 74.45 3.68 91.61 1.55 80.59 3.94 82.33 3.06
    B3-C-MTL, LMPS: 85.11 1.99 72.74 2.64 93.91 1.84 81.06 3.65 82.67 2.52
    B3-C-MTL, LMHPS-EF: 90.09 0.66 81.54 0.75 94.49 0.79 86.95 0.51 87.33 0.58
    """,
) | _paper(
    MEASURES,
    """
    B1, MS: 71.68 2.28 49.5 3.37 77.64 11.28 60.19 4.29 81.03 1.35 87.83 6.03 84.19 2.21 75.18 4.66 51.86 4.18 61.32 3.9 68.67 3.06
    B2, S: 67.39 2.02 40.26 3.08 61.4 8.82 48.59 5.04 78.31 4.4 93.99 4.3 85.38 3.52 74.85 1.18 47.36 5.25 57.88 3.86 64 2.65
    B3, LMS of 80 bands: 79.23 1.37 62.66 2.72 84.4 0.85 71.91 2 80.41 2.81 88.86 3.07 84.35 0.12 83.57 0.7 64.65 5.86 72.8 3.78 76.33 2.08
    B4, LS: 56.86 10.41 67.45 12.02 46.22 29.72 49.16 18.32 90.92 11.82 40.98 33.76 48.58 36.4 59.19 7.47 84.29 9.61 69.04 4.81 55.67 13.32
    B4-NoFC, LS: 69.95 16.97 48.59 13.58 88.06 11 61.09 9.6 89.02 8.22 63.05 46.68 63.93 39.83 81.08 18.57 59.67 15.59 68.01 14.05 64.35 20.52
    B3, LMS: 81.75 1.01 63.92 3.26 87.86 0.54 73.97 2.14 80.91 4.65 90.95 1.84 85.54 1.87 86.88 0.57 64.83 8.06 74.04 5.3 77.67 3.21
    B3, LMHS: 79.02 5.02 52.61 8.02 87.14 1.77 65.43 6.63 83.59 4.59 97.11 1.25 89.78 2.1 88.91 2.74 52.24 15.48 65.12 12.55 73.33 6.81
    B3, LMPS: 81.77 1.31 56.48 3.49 86.29 3.2 68.17 1.66 89.95 5.88 95.26 4.03 92.36 1.87 89.06 1.26 64.16 4.11 74.52 2.67 78.33 1.53
    B3, LMHPS-EF: 86.87 1.38 70.67 5.06 86.85 4.38 77.74 1.18 90.47 3.1 97.1 1.13 93.64 1.41 92.06 2.13 77.82 6.06 84.2 2.67 85.19 1.75
    B1-MTL, MHPS-EF: 89.67 2.92 67.03 6.92 96.27 2.43 78.84 4.5 94.36 2.76 99.25 0.98 96.72 1.28 97.4 2.06 74.54 8.05 84.23 4.81 86.6 3.51
    B2-MTL, HPS-EF: 69.60 1.89 45.79 0.39 63.77 9.23 53.14 3.24 79.47 5.7 90.27 3.98 84.35 1.65 74.71 2.05 54.87 0.48 63.27 1.04 66.92 1.71
    B3-MTL, LMHPS-EF: 89.12 1.67 78.31 1.42 87.8 3.35 82.74 0.95 90.08 4.63 97.91 1.61 93.76 1.92 93.26 0.72 82.81 3.03 87.71 1.92 88.07 1.59
    B4-MTL-NoFC, LHPS-EF: 73.8 6.93 59.03 7.29 63.3 22.54 58.89 6.18 83.88 4.45 87.57 12.61 85.31 6.24 77.27 10.43 69.68 10.35 72.3 2.18 72.17 4.04
    """,  # noqa: E501
)
"""Tables I to IV of paper 003."""

WHATS = ("music", "speech", "both")
TRANSFER_MEASURES = ("Acc", "Prec", "Rec", "F1")
PAPER_TRANSFER: dict[str, tuple[tuple[float, ...] | None, ...]] = {
    "Schlüter et al., Swiss": ((97.30, 98.80, 98.00, 98.40), (98.40, 96.40, 96.50, 96.40), None),
    "Schlüter et al., Austrian": ((95.60, 95.30, 97.40, 97.30), (97.00, 95.90, 95.10, 95.50), None),
    "the paper, Swiss": ((96.37, 97.53, 98.20, 97.86), (97.58, 95.08, 94.37, 94.72), (95.04, 71.39, 64.86, 67.97)),
    "the paper, Austrian": ((93.68, 94.96, 97.48, 96.21), (95.91, 94.55, 93.36, 93.95), (91.19, 74.12, 73.03, 73.57)),
}
"""Table V: accuracy, precision, recall and F1 of music, speech, both. (F1 97.30 is as printed; 95.30 and 97.40 give 96.34.)"""
