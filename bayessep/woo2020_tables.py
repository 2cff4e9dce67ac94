"""Tables of the results of `bayessep.woo2020` beside the paper's numbers, and findings.

Scores are in decibels, mean ± standard deviation over mixtures. The paper's are those of its Tables I and II, of networks that
learned from 260 hours of speech and 30 of music, ours from less than one: only differences between rows can be compared.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayessep.bhattacharjee2022_tables import mean, shown
from bayessep.comparison import cell, exact, number
from bayessep.pages import Finding, Table, between, bootstrap, every, not_all, page, settled, signed
from bayessep.woo2020 import FREQUENCY, MIXTURE, ORACLES, RATIOS, SUNG, TIME

Result = Mapping[str, Any]

ROWS = (MIXTURE, FREQUENCY, TIME, *ORACLES)
NAMES = {FREQUENCY: "frequency domain (blstm-mask)", TIME: "time domain (conv-tasnet)"}
PAPER = {FREQUENCY: (11.95, 9.69, 7.23), TIME: (20.74, 18.17, 15.40)}
"""Table I: SDR at `RATIOS`, of separators that were not tuned with a recogniser."""
PAPER_GENRES = {"classical": (21.00, 18.29, 15.27), "jazz": (20.83, 18.05, 14.94), "popular": (19.67, 16.83, 13.56)}
"""Table II: the same by genre, of the time-domain separator tuned jointly."""
USES = ("learn", "test")
MEASURES = tuple(f"{source} {score}" for source in ("speech", "music") for score in ("SDR", "SIR", "SAR", "SI-SDR"))


class Results:
    """Scores by row and ratio, with the mixtures in the same order in all of them."""

    def __init__(self, lines: Iterable[Result]) -> None:
        self.lines = sorted(lines, key=lambda line: (line["row"], line["smr_db"], line["mixture"]))

    def values(self, row: str, ratio: float, measure: str, genre: str | None = None) -> list[float]:
        """Return a measure of all mixtures, or of those of a genre."""
        own = (line for line in self.lines if (line["row"], line["smr_db"]) == (row, ratio))
        return [line[measure] for line in own if genre in (None, line["genre"])]

    def leads(self, row: str, other: str, ratio: float, measure: str) -> dict[str, list[float]]:
        """Return the differences of two rows over the mixtures that both have, grouped by artist of the music."""
        found: dict[str, list[float]] = {}
        theirs = {line["mixture"]: line[measure] for line in self.lines if (line["row"], line["smr_db"]) == (other, ratio)}
        for line in self.lines:
            if (line["row"], line["smr_db"]) == (row, ratio) and line["mixture"] in theirs:
                found.setdefault(line["group"], []).append(line[measure] - theirs[line["mixture"]])
        return found

    def gains(self, row: str, ratio: float, measure: str) -> list[float]:
        """Return each mixture's gain over the mixture taken as the estimate."""
        return [value for values in self.leads(row, MIXTURE, ratio, measure).values() for value in values]

    def rows(self) -> list[dict[str, Any]]:
        """Return the means over mixtures of each row and ratio, as flat records."""
        made = []
        for row in ROWS:
            for ratio in RATIOS:
                values = {measure: self.values(row, ratio, measure) for measure in MEASURES}
                if count := len(values[MEASURES[0]]):
                    means = {measure: number(round(float(np.mean([*map(exact, v)])), 3)) for measure, v in values.items()}
                    made.append({"row": row, "smr_db": ratio, "mixtures": count, **means})
        return made

    @property
    def genres(self) -> dict[str, int]:
        """Number of mixtures of each genre, the most frequent first."""
        found: dict[str, int] = {}
        for line in self.lines:
            if (line["row"], line["smr_db"]) == (MIXTURE, 0.0):
                found[line["genre"]] = found.get(line["genre"], 0) + 1
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def interval(groups: Mapping[str, Sequence[float]], others: Mapping[str, Sequence[float]] | None = None) -> tuple[float, float]:
    """Return the 95 % interval of a mean, or of its difference from the mean of other artists.

    Bootstrap over artists, as mixtures with music of one are not independent; as many of each kind are drawn as there are.
    """
    kinds = [
        tuple(np.array([of(values) for values in kind.values()]) for of in (np.sum, len))
        for kind in ([groups] if others is None else [groups, others])
    ]

    def above(*drawn: Int[np.ndarray, "D _"]) -> Float[np.ndarray, " D"]:
        means = [sums[rows].sum(1) / counts[rows].sum(1) for rows, (sums, counts) in zip(drawn, kinds, strict=True)]
        return means[0] - means[1] if len(means) > 1 else means[0]

    return bootstrap([len(sums) for sums, _ in kinds], above)


def tables(results: Results) -> list[Table]:
    """Return tables of speech and music at every ratio, of gains, and by genre."""
    return [_speech(results), _music(results), _gains(results), _by_genre(results)]


_HEADS = [f"{ratio:g} dB" for ratio in RATIOS]


def _speech(results: Results) -> Table:
    rows = []
    for row in ROWS:
        ours = [shown(mean(results.values(row, ratio, "speech SDR"))) for ratio in RATIOS]
        theirs = [cell(value, 1) for value in PAPER[row]] if row in PAPER else ["–"] * len(RATIOS)
        rows.append([NAMES.get(row, row), *ours, *theirs])
    return Table("SDR of the speech by speech-to-music ratio", ["", *_HEADS, *(f"paper, {head}" for head in _HEADS)], rows)


def _music(results: Results) -> Table:
    rows = [[NAMES.get(row, row), *(shown(mean(results.values(row, r, "music SDR"))) for r in RATIOS)] for row in ROWS]
    return Table("SDR of the music", ["", *_HEADS], rows)


def _gains(results: Results) -> Table:
    rows = []
    for row in ROWS[1:]:
        each = [results.gains(row, ratio, f"{source} SI-SDR") for source in ("speech", "music") for ratio in RATIOS]
        rows.append([NAMES.get(row, row), *(shown(mean(values)) for values in each)])
    heads = [f"{source}, {head}" for source in ("speech", "music") for head in _HEADS]
    return Table("SI-SDR gained over the mixture", ["", *heads], rows)


def _by_genre(results: Results) -> Table:
    rows = []
    for genre, count in results.genres.items():
        each = [results.values(row, ratio, "speech SDR", genre) for row in (FREQUENCY, TIME) for ratio in RATIOS]
        rows.append([f"{genre} ({count})", *(shown(mean(values)) for values in each)])
    heads = [f"{name}, {head}" for name in ("frequency", "time") for head in _HEADS]
    paper = "; ".join(f"{genre} {', '.join(cell(v, 1) for v in values)}" for genre, values in PAPER_GENRES.items())
    note = f"The paper, time domain, tuned jointly with a recogniser: {paper}."
    return Table("SDR of the speech by genre", ["music (mixtures)", *heads], rows, note)


def findings(results: Results) -> list[Finding]:
    """Check the paper's claims on separation, and what users may expect of a separator."""
    found = [_lead(results), *(_gained(results, row) for row in (TIME, FREQUENCY)), _singing(results)]
    return [one for one in found if one is not None]


def _lead(results: Results) -> Finding | None:
    said, answers = [], set()
    for ratio in RATIOS:
        leads = results.leads(TIME, FREQUENCY, ratio, "speech SDR")
        if not leads:
            return None
        lead, ends = float(np.mean([v for of in leads.values() for v in of])), interval(leads)
        said.append(f"{ratio:g} dB: {signed(lead)}{between(*ends)}")
        answers.add(settled(lead, *ends))
    theirs = ", ".join(signed(time - frequency) for time, frequency in zip(PAPER[TIME], PAPER[FREQUENCY], strict=True))
    numbers = f"{'; '.join(said)}; the paper: {theirs}"
    said_of = "The time domain, in one training of each, is ahead of the frequency domain in SDR at every ratio"
    return Finding(said_of, every(answers), numbers)


def _gained(results: Results, row: str) -> Finding | None:
    gains = results.gains(row, 0.0, "speech SI-SDR")
    if not gains:
        return None
    gain, ends = float(np.mean(gains)), interval(results.leads(row, MIXTURE, 0.0, "speech SI-SDR"))
    numbers = f"{gain:.1f} dB{between(*ends, '.1f')}"
    return Finding(f"{row} gains at least 8 dB SI-SDR of speech at 0 dB, as measured", settled(gain, *ends, 8.0), numbers)


def _singing(results: Results) -> Finding | None:
    kinds: tuple[dict[str, list[float]], ...] = ({}, {})  # with singing, and without, by artist
    for line in results.lines:
        if (line["row"], line["smr_db"]) == (TIME, 0.0):
            kinds[line["genre"] != SUNG].setdefault(line["group"], []).append(line["speech SDR"])
    if not all(kinds):
        return None
    sung, others = (float(np.mean([value for values in of.values() for value in values])) for of in kinds)
    ends = interval(kinds[1], kinds[0])
    numbers = f"{sung:.1f} against {others:.1f} dB at 0 dB: {signed(others - sung)}{between(*ends)}; the paper: popular music is "
    numbers += "the hardest"
    return Finding("Music in which somebody sings is harder to take away", settled(others - sung, *ends), numbers)


def to_csv(results: Results) -> str:
    """Format the means over mixtures as CSV, one line for each row and ratio."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["row", "smr_db", "mixtures", *MEASURES], lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.rows())
    return text.getvalue()


def about(results: Results, setup: Mapping[str, Any]) -> str:
    """Describe the run in a paragraph."""
    minutes = {name: seconds / 60 for name, seconds in setup["seconds"].items()}
    parts = {of: f"{minutes[f'{of} speech']:.0f} min of speech and {minutes[f'{of} music']:.0f} min of music" for of in USES}
    count = {name: sum(r["epochs"] * r["steps_per_epoch"] for r in recipes) for name, recipes in setup["recipes"].items()}
    steps = "; ".join(f"{name} in at most {n} steps" for name, n in count.items())
    if len(set(count.values())) > 1:
        steps += ", which take at least as long (row separators_step of `make bench`),"
    mixtures = sum(results.genres.values())
    planned = mixtures * len(RATIOS) * (1 + len(setup["recipes"]) + len(ORACLES))
    return (
        f"Separation as in paper 001 (Woo et al., 2020): {steps} on {parts['learn']} (budget “{setup['budget']}”). Tested on "
        f"{mixtures} mixtures of {parts['test']} of other speakers and artists, each at three ratios. The paper's networks "
        "learned from 260 hours of speech and 30 of music. After ± stand standard deviations. Intervals are by bootstrap "
        "over artists of the music. Every row is a single training: intervals do not cover other seeds."
        + not_all(len(results.lines), planned)
    )


def to_markdown(results: Results, about: str) -> str:
    """Format the whole page."""
    return page("Separation of paper 001", about, {}, tables(results), findings(results))
