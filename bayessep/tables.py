"""Tables of the results of `bayessep.reproduction` beside the paper's numbers, and findings: claims checked against the results.

All numbers are means over items with a 95 % interval (Student's t), and everything printed is computed here from results.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bayessep import baselines, protocol
from bayessep.comparison import cell
from bayessep.pages import Finding, Table, every, half_width, not_all, page, settled
from bayessep.reproduction import (
    ABLATION_ROWS,
    ABLATION_SCENES,
    BEST,
    DEVELOPMENT_ROWS,
    DEVELOPMENT_SCENES,
    LOG_MODE_ROWS,
    METHOD_ROWS,
    PAPER_METHODS,
    PAPER_ROWS,
    SEED_ROWS,
    WEIGHT_ROWS,
)
from bayessep.tempering import rank_correlation

Result = dict[str, Any]

PAPER: dict[str, dict[str, tuple[float, float, float]]] = {
    "SMR": {
        "nmf": (34.2, 34.6, 34.4), "variational": (34.0, 34.6, 34.4), "icm": (33.3, 33.8, 33.8), "joint": (35.7, 33.4, 35.4),
        "unsupervised": (31.8, 31.8, 31.8),
    },
    "SAR": {
        "nmf": (17.2, 18.5, 18.2), "variational": (17.6, 18.6, 18.2), "icm": (18.3, 19.1, 18.9), "joint": (16.7, 17.2, 17.1),
        "unsupervised": (18.2, 18.2, 18.2),
    },
    "WER": {
        "nmf": (48.6, 42.6, 42.7), "variational": (44.9, 43.6, 45.8), "icm": (47.3, 42.0, 42.7), "joint": (48.3, 47.5, 42.5),
        "unsupervised": (48.1, 48.1, 48.1), "mixture": (59.0, 59.0, 59.0),
    },
}  # fmt: skip
"""Tables 2 to 4 of paper 000 at 15 dB, by measure and method, for Self, All, Other. The unsupervised method has no training."""

MEASURES = {
    "SDR": "sdr", "SMR": "smr", "SAR": "sar", "SI-SDR": "si_sdr", "WER": "wer", "period": "period",
    "rank": "rank_correlation", "50 %": "coverage 0", "80 %": "coverage 1", "95 %": "coverage 2", "seconds": "seconds",
}  # fmt: skip


class Mean(NamedTuple):
    """Mean over items; `margin` is half of its 95 % interval, NaN for a single item."""

    mean: float
    margin: float
    items: int


def value(result: Result, field: str) -> float | None:
    """Return one measure of a result, shares in per cent; None where it has none."""
    if field == "wer":
        return 100 * result["word_errors"] / result["words"] if result.get("words") else None
    if field == "period":
        return None if "period" not in result else 100.0 * (result["period"] is not None)
    if field.startswith("coverage"):
        return 100 * result["coverage"][int(field.split()[1])] if "coverage" in result else None
    return result.get(field)


def mean(values: Sequence[float]) -> Mean | None:
    """Return the mean and its margin; None for no values."""
    n = len(values)
    if n == 0:
        return None
    deviation = float(np.std(values, ddof=1)) if n > 1 else float("nan")
    return Mean(float(np.mean(values)), half_width(deviation, n), n)


def _over_speech(values: dict[int, float], condition: str) -> Mean | None:
    by_speech: dict[int, list[float]] = {}
    for item, number in values.items():
        by_speech.setdefault(protocol.speech_of(item, condition), []).append(number)
    found = mean([float(np.mean(numbers)) for numbers in by_speech.values()])
    return None if found is None else found._replace(items=len(values))


class Results:
    """All results of a run, by row, ratio, condition, training set and item."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._by: dict[tuple[str, float, str, str], dict[int, Result]] = {}
        for result in results:
            key = (result["row"], result["smr_db"], result["condition"], result["training"])
            self._by.setdefault(key, {})[result["item"]] = result

    def has(self, row: str, smr_db: float, condition: str = "plain", training: str = "Self") -> bool:
        """Return whether there is any result."""
        return bool(self._by.get((row, smr_db, condition, training)))

    def values(self, row: str, measure: str, smr_db: float, condition: str = "plain", training: str = "Self") -> dict[int, float]:
        """Return a measure by item, for the items that have it."""
        found = self._by.get((row, smr_db, condition, training), {})
        return {n: v for n, r in sorted(found.items()) if (v := value(r, MEASURES[measure])) is not None}

    def mean(self, row: str, measure: str, smr_db: float, condition: str = "plain", training: str = "Self") -> Mean | None:
        """Return the mean over items; items with the same speech over several jingles are averaged first."""
        return _over_speech(self.values(row, measure, smr_db, condition, training), condition)

    def levels(self, rows: Iterable[str], measure: str, smr_db: float, training: str = "Self") -> dict[str, float]:
        """Return the mean of each row that has one."""
        return {row: m.mean for row in rows if (m := self.mean(row, measure, smr_db, training=training)) is not None}

    def gain(
        self, row: str, over: str, measure: str, smr_db: float, condition: str = "plain", items: Sequence[int] | None = None
    ) -> Mean | None:
        """Return the mean paired difference of two rows over the items that both have, or those of them in `items`."""
        a, b = (self.values(name, measure, smr_db, condition) for name in (row, over))
        return _over_speech({n: a[n] - b[n] for n in a if n in b and (items is None or n in items)}, condition)

    def rows(self) -> list[dict[str, Any]]:
        """Return every mean as a flat record."""
        records = []
        for row, smr_db, condition, training in self._by:
            record: dict[str, Any] = {"row": row, "smr_db": smr_db, "condition": condition, "training": training}
            for measure in MEASURES:
                found = self.mean(row, measure, smr_db, condition, training)
                record[measure] = None if found is None else found._asdict()
            records.append(record)
        return records


def gained(found: Mean | None, least: float = 0.0) -> bool | None:
    """Return whether a mean difference is a gain beyond its interval and at least `least` as measured (`settled`)."""
    return None if found is None else settled(found.mean, found.mean - found.margin, found.mean + found.margin, least)


def shown(found: Mean | None, digits: int = 1) -> str:
    """Format a mean with its margin."""
    if found is None or np.isnan(found.margin):
        return cell(found and found.mean, digits)
    return f"{cell(found.mean, digits)} ± {cell(found.margin, digits)}"


# --- the tables ----------------------------------------------------------------------------------------------------------

SMRS = (15.0, 5.0, 0.0, -5.0)


def tables(results: Results) -> list[Table]:
    """Return all tables that are not empty, the paper's first."""
    made = [*(_of_paper(results, number, measure) for number, measure in ((2, "SMR"), (3, "SAR"), (4, "WER")))]
    made += [_by_ratio(results, "SDR"), _by_ratio(results, "SI-SDR"), *(_at(results, smr) for smr in (15.0, 0.0))]
    made += [_conditions(results), _ablations(results), _development(results), _seeds(results), _uncertainty(results)]
    return [table for table in made if table.rows]


def _of_paper(results: Results, number: int, measure: str) -> Table:
    rows = []
    for row in (*PAPER_METHODS, "unsupervised", "mixture"):
        cells = [row]
        for n, training in enumerate(protocol.TRAININGS):
            # Rows without training are the same for every training set.
            found = results.mean(row, measure, 15.0, training="Self" if row in ("unsupervised", "mixture") else training)
            paper = PAPER[measure].get(row)
            cells += [shown(found), "–" if paper is None else f"{paper[n]:.1f}"]
        if any(cell != "–" for cell in cells[1::2]):
            rows.append(cells)
    head = ["method", *(name for training in protocol.TRAININGS for name in (training, "paper"))]
    unit = "%" if measure == "WER" else "dB"
    return Table(f"Table {number} of the paper: {measure} of the speech at 15 dB ({unit})", head, rows)


def _all_rows(results: Results) -> list[str]:
    known_only = "chain, known entries only"
    order = [*baselines.BASELINES, *baselines.SHARPER, *METHOD_ROWS, *LOG_MODE_ROWS, *WEIGHT_ROWS, known_only, *PAPER_ROWS]
    return [row for row in order if any(results.has(row, smr) for smr in SMRS)]


def _by_ratio(results: Results, measure: str) -> Table:
    rows = [[row, *(shown(results.mean(row, measure, smr)) for smr in SMRS)] for row in _all_rows(results)]
    title = f"{measure} of the speech by speech-to-music ratio (dB), trained on Self"
    return Table(title, ["", *(f"{smr:g} dB" for smr in SMRS)], rows)


def _at(results: Results, smr: float) -> Table:
    measures = ("SMR", "SAR", "SDR", "SI-SDR", "WER", "period", "seconds")
    rows = [
        [row, *(shown(results.mean(row, measure, smr)) for measure in measures)]
        for row in _all_rows(results)
        if results.has(row, smr)
    ]
    note = (
        "Period: percentage of items for which the period of the jingle was found. Seconds include scoring, training unless an "
        "earlier row has done it, and compilation of programs that have not run before."
    )
    return Table(f"Everything at {smr:g} dB, trained on Self", ["", *measures], rows, note)


def _conditions(results: Results) -> Table:
    order = (*baselines.BASELINES, *METHOD_ROWS)
    names = list(protocol.MET)
    rows = [
        [row, *(shown(results.mean(row, "SDR", 0.0, name)) for name in names)]
        for row in order
        if any(results.has(row, 0.0, name) for name in names[1:])
    ]
    return Table("SDR of the speech at 0 dB, when something happens to the jingle after it was labelled (dB)", ["", *names], rows)


def _ablations(results: Results) -> Table:
    return _changes(results, "What each part of the default brings: SDR without it (dB)", ABLATED, ABLATION_SCENES)


def _development(results: Results) -> Table:
    rows = [row for row in DEVELOPMENT_ROWS if row not in (BEST.method, "as sure as it is")]
    note = "Each speech is heard over four jingles; the intervals are over the speeches. “All three”: as in the experiment."
    return _changes(results, "The same and the methods over the development mixtures: SDR (dB)", rows, DEVELOPMENT_SCENES, note)


def _changes(results: Results, title: str, rows: Iterable[str], scenes: Iterable[tuple[float, str]], note: str = "") -> Table:
    """Return a table of the levels of the default and of other rows, and of the paired differences from the default."""
    scenes = [scene for scene in scenes if any(results.has(row, *scene) for row in rows)]
    if not scenes:
        return Table("", [], [])
    default = f"{BEST.method}, the default"
    made = [[default, *(shown(results.mean(BEST.method, "SDR", *scene)) for scene in scenes), *("" for _ in scenes)]]
    for row in rows:
        levels = [shown(results.mean(row, "SDR", *scene)) for scene in scenes]
        made.append([row, *levels, *(shown(results.gain(row, BEST.method, "SDR", *scene)) for scene in scenes)])
    named = [f"{smr:g} dB, {condition}" for smr, condition in scenes]
    return Table(title, ["", *named, *(f"change, {n}" for n in named)], made, note)


ABLATED = tuple(row for row in ABLATION_ROWS if row != "as sure as it is")  # it changes no mask


def _seeds(results: Results) -> Table:
    rows = [
        [row, *(shown(results.mean(row, "SDR", smr), 2) for smr in (15.0, 0.0))]
        + [shown(results.gain(row, BEST.method, "SDR", smr), 2) for smr in (15.0, 0.0)]
        for row in SEED_ROWS
        if any(results.has(row, smr) for smr in SMRS)
    ]
    return Table("The default with other seeds: SDR (dB)", ["", "15 dB", "0 dB", "change, 15 dB", "change, 0 dB"], rows)


def _uncertainty(results: Results) -> Table:
    measures = ("rank", "50 %", "80 %", "95 %")
    rows = []
    for row in (*METHOD_ROWS, "as sure as it is"):
        for smr in (15.0, 0.0):
            if results.mean(row, "rank", smr) is not None:
                digits = (2, 0, 0, 0)
                numbers = [shown(results.mean(row, m, smr), d) for m, d in zip(measures, digits, strict=True)]
                rows.append([f"{row} at {smr:g} dB", *numbers])
    note = (
        "Rank: Spearman's correlation of standard deviation and true error over bins. The others are coverage: the percentage of "
        "bins whose true speech share lies in the central interval of that probability. Tempered uncertainty is computed from the "
        f"mask alone; “as sure as it is” is the untempered posterior of {BEST.method}."
    )
    return Table("Is the posterior as sure as it may be?", ["", *measures], rows, note)


# --- what they say -------------------------------------------------------------------------------------------------------


def findings(results: Results) -> list[Finding]:
    """Check the claims of this project and of the paper; those that were not run are left out."""
    return [f for f in (*_claims(results), *_paper_findings(results)) if f is not None]


TRAINED = ("nmf", "variational", "icm", "joint", "svi")
INSTEAD = ("KL-NMF", "REPET-SIM", "HPSS", "KL-NMF, sharper", "REPET-SIM, even margins")


def _claims(results: Results) -> list[Finding | None]:
    made: list[Finding | None] = []
    for smr in SMRS:
        of = results.levels((*TRAINED, "unsupervised", "mixture", *INSTEAD), "SDR", smr)
        trained = [row for row in TRAINED if row in of]
        others = [row for row in of if row not in TRAINED]
        if trained and others:
            worst, best = min(trained, key=of.__getitem__), max(others, key=of.__getitem__)
            numbers = f"worst trained method: {worst}, {of[worst]:.1f}; best of the others: {best}, {of[best]:.1f} dB SDR"
            numbers += f"; item by item {shown(results.gain(worst, best, 'SDR', smr))}"
            leads = (gained(results.gain(ours, theirs, "SDR", smr)) for ours in trained for theirs in others)
            named = "every trained method beats the mixture, the unsupervised one and every pick-instead baseline"
            made.append(Finding(f"At {smr:g} dB {named}", every(leads), numbers))
    for smr in SMRS:
        of = results.levels((*METHOD_ROWS, *LOG_MODE_ROWS), "SDR", smr)
        if BEST.method in of and len(of) > 1:
            best = max(of, key=of.__getitem__)
            less = shown(results.gain(BEST.method, best, "SDR", smr), 2)
            numbers = f"{BEST.method} {of[BEST.method]:.2f}, the best, {best}, {of[best]:.2f} dB SDR; item by item {less}"
            close = of[best] - of[BEST.method] <= 0.5
            made.append(Finding(f"At {smr:g} dB the default is within 0.5 dB of the best method", close, numbers))
    for items, named in ((None, ""), (protocol.unseen(), ", over items of unseen speakers and jingles")):
        gains = [results.gain(BEST.method, row, "SDR", 0.0, items=items) for row in ("KL-NMF", "KL-NMF, sharper")]
        if gains[0] is not None:
            sharper = "" if gains[1] is None else f"; above KL-NMF, sharper, {shown(gains[1])}"
            numbers = f"{shown(gains[0])} dB SDR{sharper}, {gains[0].items} items"
            made.append(Finding(f"At 0 dB the default is 3 dB above KL-NMF, as measured{named}", gained(gains[0], 3.0), numbers))
    for scenes, where in ((ABLATION_SCENES, "In the experiment"), (DEVELOPMENT_SCENES, "On the development mixtures")):
        changes = [(row, scene, results.gain(row, BEST.method, "SDR", *scene)) for row in ABLATED for scene in scenes]
        if any(change is not None for *_, change in changes):
            better = [
                f"{row} at {smr:g} dB, {condition}: {shown(change, 2)}"
                for row, (smr, condition), change in changes
                if change is not None and change.mean > change.margin
            ]
            statement = f"{where}, changing or removing a part of the default never improves SDR beyond the interval"
            open_ = sum(change is None or bool(np.isnan(change.margin)) for *_, change in changes)
            left = f"; of {len(changes)} comparisons {open_} are open, for want of items" if open_ else ""
            holds = False if better else None if open_ else True
            made.append(Finding(statement, holds, f"{'; '.join(better) or 'none of them'}{left}"))
    lost = results.gain("mixture", BEST.method, "WER", 15.0)
    if lost is not None:
        wers = ", ".join(f"{row} {shown(results.mean(row, 'WER', 15.0))}" for row in (BEST.method, "mixture"))
        theirs = " and ".join(f"{PAPER['WER'][row][0]:g}" for row in (BEST.method, "mixture"))
        numbers = f"{wers} %; item by item {shown(lost)} fewer; the paper: {theirs} %"
        made.append(Finding("At 15 dB the default lowers the word error rate of the mixture", gained(lost), numbers))
    found = results.levels(TRAINED, "SDR", 15.0)
    if found:
        best = max(found, key=found.__getitem__)
        for measure, least in (("SMR", 30.0), ("SAR", 18.0)):
            level = results.mean(best, measure, 15.0)
            truth = "; ".join(f"{row} {shown(results.mean(row, measure, 15.0))}" for row in IDEAL)
            holds, numbers = level is not None and level.mean >= least, f"{best} {shown(level)}; {truth} dB"
            made.append(Finding(f"At 15 dB the best method has {least:g} dB {measure}", holds, numbers))
    return made


IDEAL = ("ideal binary mask", "ideal ratio mask", "ideal ratio mask, sharper")


def _paper_findings(results: Results) -> list[Finding | None]:
    made: list[Finding | None] = []
    sar = [list(results.levels(PAPER_METHODS, "SAR", 15.0, training).values()) for training in ("All", "Other")]
    if all(len(v) == len(PAPER_METHODS) for v in sar):
        all_, other = (float(np.mean(v)) for v in sar)
        numbers = f"mean SAR of the paper's four: Other {other:.1f}, All {all_:.1f} dB"
        made.append(Finding("Other is as good as All (0.5 dB of SAR less at most)", other >= all_ - 0.5, numbers))
    for icm in ("icm", *LOG_MODE_ROWS):
        four = [icm if row == "icm" else row for row in PAPER_METHODS]
        of, smr = (results.levels(four, measure, 15.0) for measure in ("SAR", "SMR"))
        if len(of) < len(four):
            continue
        sars, smrs = (", ".join(f"{row} {v:.1f}" for row, v in values.items()) + " dB at 15 dB, Self" for values in (of, smr))
        three = [row for row in four if row != "joint"]
        named = icm.replace("icm", "ICM")
        made.append(Finding(f"{named}: the best SAR", max(of, key=of.__getitem__) == icm, sars))
        made.append(Finding(f"{named}: the lowest SMR of the first three", min(three, key=smr.__getitem__) == icm, smrs))
        if icm == "icm":
            numbers = f"SAR of joint {of['joint']:.1f}, best of the others {max(of[r] for r in three):.1f} dB"
            made.append(Finding("Joint estimation is not better", of["joint"] <= max(of[r] for r in three), numbers))
    transcribed = results.values("mixture", "WER", 15.0)  # the items with a word error rate
    pairs = []
    for row in (*METHOD_ROWS, *LOG_MODE_ROWS, *PAPER_ROWS, *baselines.BASELINES, *baselines.SHARPER):
        for training in protocol.TRAININGS:
            of = [results.values(row, measure, 15.0, training=training) for measure in ("SMR", "SAR", "WER")]
            levels = [mean([values[n] for n in transcribed if n in values]) for values in of]
            if None not in levels:
                pairs.append([level.mean for level in levels if level is not None])
    smr, sar, wer = np.array(pairs).reshape(-1, 3).T
    if len(pairs) >= 5 and all(np.ptp(measure) > 0 for measure in (smr, sar, wer)):
        of_sar, of_smr = (rank_correlation(measure, wer) for measure in (sar, smr))
        numbers = f"rank correlation with WER over {len(pairs)} rows: SAR {cell(of_sar, 2)}, SMR {cell(of_smr, 2)}"
        made.append(Finding("SAR tells more about WER than SMR does", -of_sar > -of_smr, numbers))
    return made


# --- files ---------------------------------------------------------------------------------------------------------------


def to_csv(results: Results) -> str:
    """Format every mean as CSV, one line each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "smr_db", "condition", "training", "measure", "mean", "margin", "items"])
    for record in results.rows():
        for measure in MEASURES:
            if (found := record[measure]) is not None:
                margin = "" if np.isnan(found["margin"]) else f"{found['margin']:.4f}"
                key = [record[name] for name in ("row", "smr_db", "condition", "training")]
                writer.writerow([*key, measure, f"{found['mean']:.4f}", margin, found["items"]])
    return text.getvalue()


def to_markdown(results: Results, about: str, picture: str) -> str:
    """Format all tables and findings as one page, with `picture`, a file next to it."""
    shown = {picture: "SDR of the speech by method and ratio"}
    return page("Paper 000 on real recordings", about, shown, tables(results), findings(results))


def about(*, quick: bool, development: bool, seed: int, seconds: float, there: int, planned: int) -> str:
    """Describe the run in a paragraph; `there` is the number of results so far, `planned` that of a complete run."""
    items = ", ".join(protocol.names())
    unseen = ", ".join(protocol.names()[n] for n in protocol.unseen())
    extent = "a part of it (--quick), " if quick else "with --development, " if development else ""
    others = protocol.names(protocol.DEVELOPMENT)
    speakers = len(protocol.DEVELOPMENT.speakers)
    chosen = f" The {len(others)} development mixtures, of {speakers} other speakers and other jingles: {', '.join(others)}."
    return (
        f"Printed by `bayessep reproduce demir2011`, {extent}seed {seed}, {seconds / 60:.0f} minutes of wall-clock time, "
        f"summed over parallel processes. Speech and music are real recordings, mixed here: a jingle of "
        f"{protocol.JINGLE_SECONDS:g} s repeats for {protocol.ITEM_SECONDS:g} s, under as many whole utterances as fit, and its "
        f"first half is labelled. Speech is learned from about {protocol.TRAINING_SECONDS:g} s per training speaker, or as much as "
        "there is: from the same speaker (Self), from that one and three others (All), or from these three only (Other). Means "
        "over items with 95 % intervals; the paper's numbers are of other recordings, and its training is longer. WER is that of "
        "pocketsphinx with the English model in its wheel, over the items that have transcripts. "
        f"Items: {items}. Neither the speakers nor the jingles of {unseen} occur in any mixture on which a default was ever "
        "chosen; two of their composers do." + chosen * development + not_all(there, planned)
    )


def picture(results: Results) -> bytes:
    """Plot SDR by ratio (PNG) for the rows that a reader compares first."""
    from bayessep import plots, plots_levels  # matplotlib takes a while to import

    levels = {}
    for row in ("ideal ratio mask", *METHOD_ROWS, "KL-NMF", "REPET-SIM", "HPSS", "mixture"):
        found = {smr: m for smr in SMRS if (m := results.mean(row, "SDR", smr)) is not None}
        if found:
            levels[row] = {smr: (m.mean, m.margin) for smr, m in found.items()}
    colours = {row: colour for row, colour in plots.COLOURS.items() if row in METHOD_ROWS}
    title = "Speech taken out of speech and a jingle, real recordings (means and 95 % intervals)"
    return plots.png(plots_levels.levels_figure(levels, colours, title, "SDR of the speech (dB)"))
