"""Tables I and II of the results of `bayessep.woo2020_recognition` beside the paper's numbers, and findings.

Word error rates are over all words together, in percent. The paper's are on Japanese lectures, after training on 260 hours; ours
on a few words, learned from minutes: only differences between rows can be compared.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bayessep.bhattacharjee2022_tables import mean, shown
from bayessep.comparison import cell
from bayessep.models.joint_asr import BACK, BOTH, FRONT
from bayessep.pages import Finding, Table, between, bootstrap, not_all, page, settled
from bayessep.woo2020 import FREQUENCY, RATIOS, TIME
from bayessep.woo2020_recognition import BACKS, CLEAN, CONDITIONS, LONGER, MIXTURE, ROWS, Row
from bayessep.woo2020_tables import NAMES, PAPER_GENRES
from bayessep.woo2020_tables import PAPER as APART

Result = Mapping[str, Any]

_TIME, _FREQUENCY = APART[TIME], APART[FREQUENCY]
_ORDER = tuple((back, tuned) for back in BACKS for tuned in ("", FRONT, BACK, BOTH))
PAPER: dict[str, tuple[float, ...]] = {
    Row(CLEAN).name: (11.25, 46.62, 78.96, 93.33),
    Row(MIXTURE).name: (12.29, 15.26, 19.63, 31.57),
} | {
    Row(back, front, tuned).name: wer
    for front, every in {
        FREQUENCY: (
            (11.24, 16.03, 22.76, 37.84), (11.73, 14.91, 18.85, 30.15), (11.70, 13.85, 17.14, 26.48), (11.61, 13.47, 16.56, 23.90),
            (12.28, 15.16, 19.66, 31.20), (12.41, 15.17, 19.56, 30.66), (12.22, 13.96, 16.92, 25.91), (12.41, 14.77, 18.83, 28.99),
        ),
        TIME: (
            (11.40, 14.35, 18.23, 28.59), (11.26, 12.90, 15.80, 23.13), (12.88, 14.23, 15.86, 21.30), (12.81, 13.62, 15.05, 19.30),
            (12.32, 13.95, 16.72, 23.43), (14.45, 15.48, 18.41, 24.76), (12.84, 13.87, 15.84, 19.53), (12.96, 13.30, 15.01, 18.31),
        ),
    }.items()
    for (back, tuned), wer in zip(_ORDER, every, strict=True)
}  # fmt: skip
"""Table I: word error rates of clean speech and at the ratios of `RATIOS`, by `Row.name`."""
PAPER_SDR = {
    Row(back, front, tuned).name: sdr
    for front, every in {
        FREQUENCY: (
            _FREQUENCY, (11.07, 8.76, 6.21), _FREQUENCY, (11.55, 9.29, 6.79),
            _FREQUENCY, (7.01, 2.69, -1.99), _FREQUENCY, (7.93, 3.88, -0.75),
        ),
        TIME: (
            _TIME, (20.65, 17.94, 15.07), _TIME, (20.65, 18.03, 15.20),
            _TIME, (15.05, 13.29, 11.16), _TIME, (20.52, 17.85, 14.92),
        ),
    }.items()
    for (back, tuned), sdr in zip(_ORDER, every, strict=True)
}  # fmt: skip
"""Table I: SDR of the speech at the ratios of `RATIOS`."""
PAPER_BY_GENRE = {
    MIXTURE: {"classical": (14.43, 18.20, 26.46), "jazz": (14.46, 17.50, 25.73), "popular": (16.12, 22.64, 37.18)},
    BOTH: {"classical": (13.33, 14.37, 17.32), "jazz": (13.29, 14.43, 17.48), "popular": (13.98, 16.19, 22.60)},
}
"""Table II: word error rates of the mixture ASR alone, and behind the time-domain separator with both tuned."""
BEST = Row(MIXTURE, TIME, BOTH)
"""The paper's best row."""
AVERAGE, ADDED = "average", "music adds"

_TUNED = {"": "trained apart", FRONT: "separator tuned", BACK: "recogniser tuned", BOTH: "both tuned"}


def title(row: Row) -> str:
    """Return the name of a row in tables."""
    asr = f"{row.back} ASR"
    if row.front:
        return f"{NAMES[row.front].split(' (')[0]}, {asr}, {_TUNED[row.tuned]}"
    return f"{asr} alone" + ", trained as long as tuned ones" * bool(row.tuned)


class Results:
    """Error counts by row, condition and utterance."""

    def __init__(self, lines: Iterable[Result]) -> None:
        self.lines = list(lines)
        self._by: dict[tuple[str, float | None], list[Result]] = {}
        for line in self.lines:
            self._by.setdefault((line["row"], line["smr_db"]), []).append(line)
        self.utterances = max(map(len, self._by.values()), default=0)

    def of(self, row: Row, ratio: float | None, genre: str | None = None) -> list[Result]:
        """Return the results of a row and a condition, of a genre if one is named."""
        return [line for line in self._by.get((row.name, ratio), []) if genre in (None, line["genre"])]

    def counts(self, row: Row, ratios: Sequence[float | None]) -> dict[str, Float[np.ndarray, "R 2"]]:
        """Return errors and words at each ratio, by artist of the music, or by speaker for speech alone.

        Empty where an interrupted run lacks utterances: rows are compared over the same ones.
        """
        found: dict[str, np.ndarray] = {}
        for n, ratio in enumerate(ratios):
            if len(lines := self.of(row, ratio)) < max(self.utterances, 1):
                return {}
            for line in lines:
                name = line["group"] if ratios != [None] else line["speaker"]
                found.setdefault(name, np.zeros((len(ratios), 2)))[n] += line["errors"], line["words"]
        return dict(sorted(found.items()))

    def wer(self, row: Row, ratios: Sequence[float | None], genre: str | None = None) -> float:
        """Return the word error rate in percent, as the mean over these conditions; NaN where one is missing."""
        rates = []
        for ratio in ratios:
            lines = self.of(row, ratio, genre)
            words = sum(line["words"] for line in lines)
            rates.append(100 * sum(line["errors"] for line in lines) / words if words else float("nan"))
        return float(np.mean(rates))

    def added(self, row: Row) -> float:
        """Return what music adds to the word error rate, in percentage points."""
        return self.wer(row, RATIOS) - self.wer(row, [None])

    def sdr(self, row: Row, ratio: float, genre: str | None = None) -> list[float]:
        """Return the SDR of the separated speech of each utterance."""
        return [line["speech SDR"] for line in self.of(row, ratio, genre) if "speech SDR" in line]

    def rows(self) -> list[dict[str, Any]]:
        """Return error rate and mean SDR of each row and condition, as flat records."""
        made = []
        for row in ROWS:
            for ratio in CONDITIONS:
                if lines := self.of(row, ratio):
                    words, errors = (sum(line[name] for line in lines) for name in ("words", "errors"))
                    sdr = [] if ratio is None else self.sdr(row, ratio)
                    found: dict[str, Any] = {"row": row.name, "smr_db": ratio, "utterances": len(lines), "words": words}
                    found |= {"errors": errors, "wer": round(100 * errors / words, 2)}
                    made.append(found | {"speech SDR": round(float(np.mean(sdr)), 3) if sdr else None})
        return made

    @property
    def genres(self) -> dict[str, int]:
        """Number of utterances of each genre, the most frequent first."""
        found: dict[str, int] = {}
        for line in self.of(ROWS[0], 0.0):
            found[line["genre"]] = found.get(line["genre"], 0) + 1
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


Counts = Mapping[str, Float[np.ndarray, "R 2"]]


def rate(counts: Float[np.ndarray, "*D R 2"]) -> Float[np.ndarray, "*D"]:
    """Word error rate in percent: the mean over conditions."""
    return 100 * (counts[..., 0] / counts[..., 1]).mean(-1)


def added(counts: Float[np.ndarray, "*D R 2"]) -> Float[np.ndarray, "*D"]:
    """What music adds to the word error rate, in percentage points, given counts in all of `CONDITIONS`."""
    return rate(counts[..., 1:, :]) - rate(counts[..., :1, :])


def fewer(ours: Float[np.ndarray, "*D R 2"], theirs: Float[np.ndarray, "*D R 2"]) -> Float[np.ndarray, "*D"]:
    """Return by how many percent the first word error rate is below the second."""
    return less(rate(ours), rate(theirs))


def spared(ours: Float[np.ndarray, "*D R 2"], theirs: Float[np.ndarray, "*D R 2"]) -> Float[np.ndarray, "*D"]:
    """Return by how many percentage points music adds less to the first word error rate than to the second."""
    return added(theirs) - added(ours)


def interval(measure: Callable[..., np.ndarray], *counts: Counts) -> tuple[float, float]:
    """Return the 95 % interval of a measure of one or two rows' counts.

    Bootstrap over artists of the music, with the same draws for both rows: utterances with music of one are not independent.
    Without music, over speakers (`Results.counts`), whose utterances are joined from few recordings.
    """
    every = [np.stack([own[group] for group in sorted(counts[0])]) for own in counts]

    def of(rows: Int[np.ndarray, "D G"]) -> Float[np.ndarray, " D"]:
        return measure(*(own[rows].sum(1) for own in every))

    return bootstrap(len(every[0]), of)


def less(ours: Float[np.ndarray, "*D"] | float, theirs: Float[np.ndarray, "*D"] | float) -> Float[np.ndarray, "*D"]:
    """Return by how many percent a rate is below another; against a rate of 0: 0 if both are 0, else -1000."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.where(theirs > 0, 100 * (1 - ours / np.where(theirs > 0, theirs, 1)), np.where(ours > 0, -1000.0, 0.0))


# --- tables --------------------------------------------------------------------------------------------------------------

_HEADS = [f"{ratio:g} dB" for ratio in RATIOS]
_CONDITIONS = ["clean", *_HEADS]


def _paper(row: Row) -> dict[str, float]:
    """Return the paper's word error rates, their average over ratios, and what music adds."""
    clean, *noisy = PAPER[row.name]
    average = float(np.mean(noisy))
    return dict(zip(_CONDITIONS, PAPER[row.name], strict=True)) | {AVERAGE: average, ADDED: average - clean}


def tables(results: Results) -> list[Table]:
    """Return Table I in two parts, and Table II."""
    return [_errors(results), _separation(results), _by_genre(results)]


def _errors(results: Results) -> Table:
    rows, heads = [], [*_CONDITIONS, AVERAGE, ADDED]
    for row in ROWS:
        ours = [cell(results.wer(row, [ratio]), 1) for ratio in CONDITIONS]
        if counts := results.counts(row, RATIOS):
            low, high = interval(rate, counts)
            ours += [cell(results.wer(row, RATIOS), 1), "–" if np.isnan(low) else f"{low:.1f} to {high:.1f}"]
        else:
            ours += ["–", "–"]
        ours.append(cell(results.added(row) if results.counts(row, CONDITIONS) else None, 1))
        theirs = _paper(row) if row.name in PAPER else {}
        rows.append([title(row), *ours, *(cell(theirs.get(head), 1) for head in heads)])
    note = f"The {AVERAGE} is of the three ratios; music adds its difference from clean speech, in percentage points. Every row is "
    note += "a single training: intervals do not cover other seeds."
    if sizes := [int(own[0, 1]) for own in results.counts(ROWS[0], RATIOS).values()]:
        note += f" They are by bootstrap over the {len(sizes)} artists of the music, one of whom accounts for {max(sizes)} of the "
        note += f"{sum(sizes)} words; the speech, which comes from few recordings, is not resampled."
    own = ["", *_CONDITIONS, AVERAGE, "95 %", ADDED]
    return Table("Table I: word error rate in percent", [*own, *(f"paper, {head}" for head in heads)], rows, note)


def _separation(results: Results) -> Table:
    rows = []
    for row in ROWS:
        if row.front:
            ours = [shown(mean(results.sdr(row, ratio))) for ratio in RATIOS]
            rows.append([title(row), *ours, *(cell(value, 1) for value in PAPER_SDR[row.name])])
    heads = ["", *_HEADS, *(f"paper, {head}" for head in _HEADS)]
    return Table("Table I: SDR of the speech in decibels", heads, rows, "After ±: the standard deviation over utterances.")


def _by_genre(results: Results) -> Table:
    rows, of = [], (Row(MIXTURE), BEST)
    for genre, count in results.genres.items():
        rates = [cell(results.wer(row, [ratio], genre), 1) for row in of for ratio in RATIOS]
        rows.append([f"{genre} ({count})", *rates, *(shown(mean(results.sdr(BEST, ratio, genre))) for ratio in RATIOS)])
    heads = [f"{name}, {head}" for name in ("mixture ASR alone", "both tuned", "SDR") for head in _HEADS]
    said = [
        f"{name}: "
        + "; ".join(f"{genre} {', '.join(cell(value, 1) for value in values)}" for genre, values in PAPER_BY_GENRE[kind].items())
        for name, kind in (("mixture ASR alone", MIXTURE), ("both tuned", BOTH))
    ]
    sdr = "; ".join(f"{genre} {', '.join(cell(value, 1) for value in values)}" for genre, values in PAPER_GENRES.items())
    note = f"After ±: the standard deviation over utterances. The paper. {'. '.join(said)}. SDR: {sdr}."
    return Table("Table II: word error rate and SDR by genre, time domain, mixture ASR", ["music (utterances)", *heads], rows, note)


# --- findings ------------------------------------------------------------------------------------------------------------


def findings(results: Results) -> list[Finding]:
    """Check the paper's claims, and what users may expect of recognition through music."""
    clean, mixture = Row(CLEAN), Row(MIXTURE)
    found = [
        _clean_is_heard(results),
        _music_hurts(results),
        _below(results, "Training on mixtures", mixture, clean),
        *(
            _below(results, f"A separator before it ({NAMES[front].split(' (')[0]}, {back} ASR)", Row(back, front), Row(back))
            for front in (FREQUENCY, TIME)
            for back in BACKS
        ),
        *(
            _below(results, f"Tuning both ({NAMES[front].split(' (')[0]}, {back} ASR)", Row(back, front, BOTH), Row(back, front))
            for front in (FREQUENCY, TIME)
            for back in BACKS
        ),
        *(
            _below(results, f"Tuning both ({NAMES[row.front].split(' (')[0]}, mixture ASR)", row, other, least)
            for row in (BEST, Row(MIXTURE, FREQUENCY, BOTH))
            # The paper has 30 % in the time domain, and 6 % in the frequency domain.
            for other, least in ((mixture, 25.0 if row == BEST else 0.0), (LONGER, 0.0))
        ),
        *(_spared(results, row, mixture) for row in (BEST, Row(MIXTURE, FREQUENCY, BOTH))),
        _below(results, "The time domain (mixture ASR, both tuned)", BEST, Row(MIXTURE, FREQUENCY, BOTH)),
        *(
            _below(results, f"Tuning the recogniser alone (time domain, {back} ASR)", Row(back, TIME, BACK), Row(back, TIME, FRONT))
            for back in BACKS
        ),
    ]
    return [one for one in found if one is not None]


def _clean_is_heard(results: Results) -> Finding | None:
    if not (counts := results.counts(Row(CLEAN), [None])):
        return None
    value, (low, high) = results.wer(Row(CLEAN), [None]), interval(rate, counts)
    numbers = f"{value:.1f} %{between(low, high, '.1f')}; the paper: {PAPER[CLEAN][0]} %"
    holds = True if high < 10 else False if low >= 10 else None
    return Finding("The clean ASR gets less than 10 % of the words of clean speech wrong", holds, numbers)


def _music_hurts(results: Results) -> Finding | None:
    ratios = (None, 0.0)
    if not all(results.counts(Row(CLEAN), [ratio]) for ratio in ratios):
        return None
    clean, mixed = (results.wer(Row(CLEAN), [ratio]) for ratio in ratios)
    numbers = f"{clean:.1f} and {mixed:.1f} %; the paper: {PAPER[CLEAN][0]} and {PAPER[CLEAN][2]} %"
    return Finding("Music at 0 dB at least triples its word error rate", bool(mixed >= 3 * clean and mixed > 0), numbers)


def _below(results: Results, what: str, ours: Row, theirs: Row, least: float = 0.0) -> Finding | None:
    """Check that a row is below another in the mean over ratios, beyond the interval and, as measured, by `least` percent."""
    counts = [results.counts(row, RATIOS) for row in (ours, theirs)]
    if not all(counts):
        return None
    rates = [results.wer(row, RATIOS) for row in (ours, theirs)]
    by = float(less(*rates))
    low, high = interval(fewer, *counts)
    numbers = f"{rates[0]:.1f} against {rates[1]:.1f} %: {abs(by):.0f} % {'less' if by >= 0 else 'more'}"
    ends = (f"{abs(end):.0f} % {'less' if end >= 0 else 'more'}" for end in (low, high))
    numbers += "" if np.isnan(low) else f"; 95 % from {' to '.join(ends)}"
    if theirs.name in PAPER:
        paper = [_paper(row)[AVERAGE] for row in (ours, theirs)]
        numbers += f"; the paper: {paper[0]:.1f} against {paper[1]:.1f} %: {100 * (1 - paper[0] / paper[1]):.0f} % less"
    than = f"{title(theirs)}" + (f", as measured by at least {least:g} %" if least else "")
    return Finding(f"{what} makes fewer errors than {than}", settled(by, low, high, least), numbers)


def _spared(results: Results, ours: Row, theirs: Row) -> Finding | None:
    """Check that music adds less to a row's errors than to another's: what is wrong without music, no separator can mend."""
    counts = [results.counts(row, CONDITIONS) for row in (ours, theirs)]
    if not all(counts):
        return None
    found, paper = zip(*((results.added(row), _paper(row)[ADDED]) for row in (ours, theirs)), strict=True)
    by, (low, high) = found[1] - found[0], interval(spared, *counts)
    numbers = f"{found[0]:.1f} against {found[1]:.1f} percentage points: {abs(by):.1f} {'less' if by >= 0 else 'more'}"
    numbers += f"{between(low, high)}; the paper: {paper[0]:.1f} against {paper[1]:.1f}"
    return Finding(f"Music adds fewer errors to {title(ours)}, than to {title(theirs)}", settled(by, low, high), numbers)


# --- files ---------------------------------------------------------------------------------------------------------------


def to_csv(results: Results) -> str:
    """Format the rows and conditions as CSV, one line each."""
    text = io.StringIO()
    names = ["row", "smr_db", "utterances", "words", "errors", "wer", "speech SDR"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.rows())
    return text.getvalue()


def about(results: Results, setup: Mapping[str, Any]) -> str:
    """Describe the run in a paragraph."""
    learn, test = (setup["recordings"][of] for of in ("learn", "test"))
    recipes = setup["recipes"]
    each = {"clean ASR": recipes["clean"], "mixture ASR": recipes["mixture"]}
    each |= {name: recipe["utterances"] for name, recipe in recipes["fronts"].items()} | {"every tuning": recipes["joint"]}
    steps = ", ".join(f"{name} {recipe['epochs'] * recipe['steps_per_epoch']}" for name, recipe in each.items())
    words = recipes["clean"]
    utterance = "one recording" if words["joined"] == 1 else f"up to {words['joined']} recordings of a speaker one after another"
    return (
        f"Recognition as in paper 001 (Woo et al., 2020), of {words['only'] or 'all words'} (budget “{setup['budget']}”): "
        f"{utterance}, in at most {words['seconds']:g} s. Learned from {learn['recordings']} recordings and "
        f"{learn['minutes of music']:g} min of music; tested with {test['recordings']} other recordings of "
        f"{len(test['speakers'])} speakers, all of whom were learned from, and with {test['minutes of music']:g} min "
        f"of music of other artists: {setup['utterances']} utterances of {setup['words']} words, clean and at three ratios. Steps: "
        f"{steps}. The mixture ASR goes on from the clean one. Words are compared in lower case and without punctuation "
        "(recognition.normalised), and counted over all utterances (jiwer). The paper's networks learned from 260 hours of speech "
        "and 30 of music, at full size, and were tuned at a rate of 1e-4 with up to 40 utterances a step; here networks are "
        f"small, the rate {recipes['joint']['rate']:g} and falls, with {recipes['joint']['batch']} utterances a step; L_asr is "
        "the sum over their labels. Clean ASR, mixture ASR, separators and tuning draw different utterances; all tunings draw "
        "the same. Some of the training music is generated. While only the separator is tuned, the recogniser is fixed and runs in "
        "inference mode."
        + not_all(len(results.lines), len(ROWS) * len(CONDITIONS) * setup["utterances"])
    )


def to_markdown(results: Results, about: str) -> str:
    """Format the whole page."""
    return page("Recognition of paper 001", about, {}, tables(results), findings(results))
