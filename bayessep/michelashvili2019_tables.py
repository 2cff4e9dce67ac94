"""Tables of the results of `bayessep.michelashvili2019` beside the paper's numbers, and findings.

Scores are of the vocals, in decibels: means over the windows of a song, and of these the median over songs, as in the paper. The
paper's networks learned from a hundred songs, for days on a GPU, ours from a few, for minutes: only differences between rows can
be compared.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayessep.comparison import cell, exact, number
from bayessep.michelashvili2019_rows import (
    ABLATED,
    ALL,
    AT_WORK,
    BUDGETS,
    EGGS,
    EGGS_TUNED,
    GAN,
    GLO,
    IDEAL,
    MIXTURE,
    NMF,
    QUARTER,
    SHIPPED,
    TAUGHT,
)
from bayessep.pages import Finding, Table, between, bootstrap, not_all, page, settled, signed

Result = Mapping[str, Any]

MEASURES = ("SDR", "SIR", "SAR")
PAPER_1 = {NMF: 0.0, GAN: 0.3, GLO: 0.6, EGGS: 0.3, EGGS_TUNED: 2.1, ALL: 3.2}
"""Table 1: SDR on MUSDB18. The numbers of the other methods are from Halperin, Ephrat and Hoshen (2019)."""
PAPER_2 = {
    "GRA3": (-1.7, 1.3), "CHA": (1.6, 5.2), "STO2": (3.9, 6.7), "JEO2": (4.1, 6.1), "GRU-RIS-L": (4.2, 7.9),
    "MaDTwinNet": (4.6, 8.2), ALL: (3.5, 15.2),
}  # fmt: skip
"""Table 2: SDR and SIR on DSD100, of methods trained on vocals and of the masker."""
PAPER_3 = {
    ALL: (3.5, 15.2), "without R1": (-0.9, 3.4), "without R2": (2.3, 9.7), "without R3": (-4.3, 13.3), "without R4": (-6.3, -4.7),
    "without GAN_A": (-6.3, -4.2), "without GAN_C": (-4.1, -2.4), "without GAN_A and GAN_C": (-17.0, -3.6),
}  # fmt: skip
"""Table 3: SDR and SIR on DSD100 with losses left out."""


class Results:
    """Scores of the vocals by row, song by song."""

    def __init__(self, lines: Iterable[Result]) -> None:
        self.lines = sorted(lines, key=lambda line: (line["row"], line["song"]))

    def values(self, row: str, measure: str) -> dict[str, float]:
        """Return a measure by song, for the songs that have it."""
        of = {line["song"]: line["scores"].get(f"vocals {measure}") for line in self.lines if line["row"] == row}
        return {song: value for song, value in of.items() if value is not None}

    def median(self, row: str, measure: str) -> float:
        """Return the median over songs; NaN if there are none."""
        values = list(self.values(row, measure).values())
        return float(np.median(values)) if values else float("nan")

    def has(self, row: str) -> bool:
        """Return whether a row was run."""
        return any(line["row"] == row for line in self.lines)

    def meet(self, row: str, other: str) -> bool:
        """Return whether two rows have scores of a common song; a row that diverged has none."""
        return bool(self.values(row, "SDR").keys() & self.values(other, "SDR").keys())

    @property
    def groups(self) -> dict[str, str]:
        """Song of each excerpt."""
        return {line["song"]: line["group"] for line in self.lines}

    def interval(self, row: str, measure: str) -> tuple[float, float]:
        """Return the 95 % interval of the median."""
        return self._interval(self.values(row, measure))

    def lead(self, row: str, other: str, measure: str) -> tuple[float, float, float]:
        """Return the median paired difference of two rows over excerpts, and its 95 % interval."""
        theirs = self.values(other, measure)
        values = {song: value - theirs[song] for song, value in self.values(row, measure).items() if song in theirs}
        return float(np.median(list(values.values()))), *self._interval(values)

    def _interval(self, values: Mapping[str, float]) -> tuple[float, float]:
        """Return the interval of the median by bootstrap over songs, whose excerpts are drawn together."""
        of: dict[str, list[float]] = {}
        for song, value in values.items():
            of.setdefault(self.groups[song], []).append(value)
        if not of:
            return float("nan"), float("nan")
        groups = np.array(list(zip_longest(*of.values(), fillvalue=np.nan))).T  # NaN where a song has fewer excerpts

        def medians(rows: Int[np.ndarray, "D G"]) -> Float[np.ndarray, " D"]:
            drawn = np.sort(groups[rows].reshape(len(rows), -1))  # NaN last
            count = np.sum(~np.isnan(drawn), axis=1, keepdims=True)
            middle = np.concatenate([(count - 1) // 2, count // 2], axis=1)
            return np.take_along_axis(drawn, middle, axis=1).mean(1)

        return bootstrap(len(groups), medians)

    def rows(self) -> list[dict[str, Any]]:
        """Return medians and intervals of each row."""
        made = []
        for row in dict.fromkeys(line["row"] for line in self.lines):
            scored = self.values(row, "SDR")
            found: dict[str, Any] = {"row": row, "songs": len({self.groups[one] for one in scored}), "excerpts": len(scored)}
            for measure in MEASURES:
                values = (self.median(row, measure), *self.interval(row, measure))
                names = (measure, f"{measure} from", f"{measure} to")
                found |= {name: number(round(exact(value), 3)) for name, value in zip(names, values, strict=True)}
            made.append(found)
        return made


IDLE = 1e-3
"""Share of the mixtures' magnitudes that a masker must take off to count as doing anything."""


def _said(results: Results, row: str, measure: str) -> str:
    """Format a median with its interval."""
    median = exact(results.median(row, measure))
    if not np.isfinite(median):
        return cell(median, 1)
    low, high = results.interval(row, measure)
    return cell(median, 1) + ("" if np.isnan(low) else f" ({cell(exact(low), 1)} to {cell(exact(high), 1)})")


def _of(results: Results, row: str, *paper: float) -> list[str]:
    return [row, *(_said(results, row, measure) for measure in MEASURES), *(cell(value, 1) for value in paper)]


def _changed(results: Results, row: str) -> list[str]:
    """Format how much g changes music and its own output, in per cent (`masker_training.measure`)."""
    learned = next(line["learned"] for line in results.lines if line["row"] == row)
    return [cell(100 * learned.get(f"changed_{what}", float("nan")), 1) for what in ("music", "twice")]


_HEAD = ["", *MEASURES]


def tables(results: Results) -> list[Table]:
    """Return the paper's three tables."""
    nothing = float("nan")
    shown = (MIXTURE, QUARTER, *PAPER_1, *AT_WORK, IDEAL)
    first = [_of(results, row, PAPER_1.get(row, nothing)) for row in shown if results.has(row)]
    second = [_of(results, row, *PAPER_2.get(row, (nothing, nothing))) for row in (SHIPPED, *TAUGHT, ALL) if results.has(row)]
    second += [[name, "–", "–", "–", *(cell(v, 1) for v in values)] for name, values in PAPER_2.items() if name != ALL]
    third = [_of(results, row, *PAPER_3[row]) + _changed(results, row) for row in (ALL, *ABLATED) if results.has(row)]
    third_head = [*_HEAD, "paper, SDR", "paper, SIR", "g(c) from c, %", "g(g(a)) from g(a), %"]
    return [
        Table("Methods that are shown no vocals (Table 1; the paper on MUSDB18)", [*_HEAD, "paper, SDR"], first, _glo(results)),
        Table(
            "Methods that are shown voices (Table 2; the paper on DSD100)",
            [*_HEAD, "paper, SDR", "paper, SIR"],
            second,
            _heard(results),
        ),
        Table("Without some of the losses (Table 3; the paper on DSD100)", third_head, third, _losses(results)),
    ]


def _glo(results: Results) -> str:
    said = "SIR measures how much music is left, SAR how many artefacts were added; for the mixture and a scaled copy of it, SAR "
    said += "is infinite, as nothing was added."
    if results.has(GLO):
        said += f" {GLO} and {NMF} learn their voices from the very mixtures that are tested, as they have to."
    if results.has(EGGS_TUNED):
        said += f" The paper's number beside {EGGS_TUNED} is of NES-FT by Halperin et al., which has another start."
    return said


VOICES = {
    "stems": "the stems of the songs that the masker learned from",
    "sung": "the songs synthesised for the masker: their voices, which are speech turned into singing, and the music under them",
    "spoken": "speech, and the music that the masker learned from",
}
"""Training material of the networks that are trained on voices."""


def _heard(results: Results) -> str:
    said = []
    if heard := sorted({line["row"] for line in results.lines if line["learned"].get("heard")}):
        ships = f"{', '.join(heard)} is the shipped network, trained with songs from the same source, vocals included, as music"
        said.append(f"{ships}; the test songs may be among them, so its row says nothing about other songs.")
    learned = {line["row"]: line["learned"] for line in results.lines if line["scores"]}
    taught = {row: learned[row] for row in TAUGHT if row in learned}
    for kind, shown in VOICES.items():
        if told := [f"{row} in {of['steps']} steps" for row, of in taught.items() if of["voices"] == kind]:
            said.append(f"Trained for this experiment: {' and '.join(told)}, on {shown}.")
            if kind != "stems":
                said.append("Their validation songs have other music, but voices of speakers of the training songs.")
    return " ".join(said)


def _losses(results: Results) -> str:
    said = "g: the masker; a: a mixture; c: music. R1: g(c) is c. R2: g(g(a)) is g(a). R3, R4: when a voice that g has "
    said += "extracted is mixed with other music, g returns that music and removes that voice. GAN_A: such mixtures sound like "
    said += "songs. GAN_C: g(a) sounds like music."
    taken = {line["row"]: line["learned"]["taken"] for line in results.lines if "taken" in line["learned"]}
    if idle := [row for row in ABLATED if taken.get(row, 1.0) < IDLE]:
        said += f" {', '.join(idle)}: less than {100 * IDLE:g} % of magnitudes is removed, so scores reflect only rounding."
    return said


def findings(results: Results) -> list[Finding]:
    """Check the paper's claims, and what users may expect of the masker."""
    found = [_settled(results), *(_ahead(results, other) for other in (NMF, GAN, EGGS, EGGS_TUNED, QUARTER, MIXTURE))]
    found += [_hurts(results, row) for row in ABLATED]
    return [one for one in found if one is not None]


SETTLED = 0.05
"""Greatest change, by g, of music and of its own output that passes as none."""


def _settled(results: Results) -> Finding | None:
    learned = next((line["learned"] for line in results.lines if line["row"] == ALL), {})
    if "changed_music" not in learned:
        return None
    music, twice = (learned[f"changed_{what}"] for what in ("music", "twice"))
    numbers = f"g(c) differs from c by {100 * music:.1f} % and g(g(a)) from g(a) by {100 * twice:.1f} %"
    numbers += ", L1 of clips to validate with, which overlap in time with others that were learned from"
    return Finding("The masker changes neither music nor what it has left by 5 %", max(music, twice) < SETTLED, numbers)


def _ahead(results: Results, other: str) -> Finding | None:
    if not results.meet(ALL, other):
        return None
    lead, low, high = results.lead(ALL, other, "SDR")
    numbers = f"{cell(results.median(ALL, 'SDR'), 1)} against {cell(results.median(other, 'SDR'), 1)} dB"
    if other in PAPER_1:
        numbers += f"; the paper: {PAPER_1[ALL]:.1f} against {PAPER_1[other]:.1f}"
    numbers += f"; excerpt by excerpt {signed(lead)}{between(low, high)}"
    return Finding(f"The masker is ahead of {other} in SDR, as trained once", settled(lead, low, high), numbers)


def _hurts(results: Results, row: str) -> Finding | None:
    if not results.meet(ALL, row):
        return None
    lead, low, high = results.lead(row, ALL, "SDR")
    theirs = PAPER_3[row][0] - PAPER_3[ALL][0]
    numbers = f"{signed(lead)} dB excerpt by excerpt{between(low, high)}; the paper: {signed(theirs)}"
    return Finding(f"SDR is lower {row}, in one training of each", settled(-lead, -high, -low), numbers)


def to_csv(results: Results) -> str:
    """Format the rows as CSV, one line each."""
    text, rows = io.StringIO(), results.rows()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def about(results: Results, setup: Mapping[str, Any]) -> str:
    """Describe the run in a paragraph."""
    seconds, own = setup["seconds"], setup["settings"]
    recipe = own["recipe"]
    times = recipe["songs"]
    sung = f", among them speech sung over all the music {times} times," if times else ""
    learned = f"{seconds['mixtures'] / 60:.0f} min of songs{sung} and {seconds['music'] / 60:.0f} min of music"
    # Networks that are trained on voices are planned only where there are voices.
    rows = [row for row in BUDGETS[setup["budget"]].rows if results.has(row) or row not in TAUGHT]
    listened = f", after {n} in which a discriminator listened," if (n := setup["config"]["listening"]) else ""
    return (
        f"Singing-voice separation as in paper 002 (Michelashvili et al., 2019): the masker in {setup['steps']} steps{listened} on "
        f"{learned} (budget “{setup['budget']}”, preset {setup['preset']}), none of which it is tested on. Scores are of the "
        f"vocals of {len(results.groups)} excerpts of {len(set(results.groups.values()))} songs, in windows of 30 s every 15 s; "
        "medians over excerpts, intervals by bootstrap over songs: those of other artists may lie elsewhere. Every row is a single "
        "training: intervals do not cover other seeds. The other networks are as large: "
        f"{EGGS} in {own['rounds']} rounds of {own['round_steps']} steps of {4 * recipe['batch']} images, {GLO} in twice "
        f"{own['glo_steps']} of 8, on at most {own['most']} images of each kind, without the moving average of weights that the "
        f"masker has.{not_all(len(results.lines), len(rows) * len(setup['songs']))}"
    )


def to_markdown(results: Results, about: str, notes: Sequence[str] = ()) -> str:
    """Format the whole page."""
    return page("Separation without stems: paper 002", "\n\n".join([about, *notes]), {}, tables(results), findings(results))
