"""Tables of the results of `bayessep.bhattacharjee2022` beside the paper's numbers, findings and figures.

Scores are in per cent, as mean ± standard deviation over folds. It is the sample deviation (n - 1), as in the paper: only so do
three whole numbers give the mean and deviation of its rounded averages, such as 76.33 ± 2.08.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bayessep.bhattacharjee2022_paper import (
    CLASSES,
    MEASURES,
    PAPER,
    PAPER_TRANSFER,
    PATCHES,
    SCORES,
    SHORT,
    TRANSFER_MEASURES,
    WHATS,
    Mean,
)
from bayessep.bhattacharjee2022_rows import (
    BUDGETS,
    EARLY,
    FIGURE_2,
    FOLDS,
    LMS,
    MODIFIED,
    MULTI_EARLY,
    MULTI_LMS,
    PAPERS,
    PLAIN,
    RATIOS,
    ROWS,
    SMR_ROWS,
    SUNG,
    TABLES,
    TRANSFER,
    TRANSFER_DAFX,
)
from bayessep.comparison import cell
from bayessep.models.speech_music_detector import BOTH
from bayessep.pages import Finding, Table, between, every, half_width, not_all, page, settled, spanned

Result = dict[str, Any]


def mean(values: Sequence[float]) -> Mean | None:
    """Return mean and sample standard deviation; None for no values."""
    if not len(values):
        return None
    return Mean(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"), len(values))


def shown(found: Mean | None, digits: int = 1) -> str:
    """Format a mean with its deviation."""
    if found is None or np.isnan(found.deviation):
        return cell(found and found.mean, digits)
    return f"{cell(found.mean, digits)} ± {cell(found.deviation, digits)}"


# --- results -------------------------------------------------------------------------------------------------------------


def scores(confusion: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return every measure of one fold in per cent, from its confusion matrix (truth by prediction); 0 for empty classes."""
    n = np.asarray(confusion, np.float64)
    hits, truth, said = n.diagonal(), n.sum(1), n.sum(0)
    precision, recall, f1 = (
        100 * np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
        for part, whole in ((hits, said), (hits, truth), (2 * hits, truth + said))
    )
    found = {"Acc": float(recall.mean()), PATCHES: float(100 * hits.sum() / max(n.sum(), 1)), "Avg. F1": float(f1.mean())}
    for name, k in CLASSES.items():
        found |= {f"{name} {score}": float(v[k]) for score, v in zip(SCORES, (precision, recall, f1), strict=True)}
    return found


def binary_scores(counts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return accuracy, precision, recall and F1 in per cent of a binary detection, from its confusion matrix."""
    (right_off, false), (missed, hits) = counts
    every = right_off + false + missed + hits
    values = (right_off + hits, every), (hits, hits + false), (hits, hits + missed), (2 * hits, 2 * hits + false + missed)
    return {name: 100 * part / max(whole, 1) for name, (part, whole) in zip(TRANSFER_MEASURES, values, strict=True)}


def _difference(a: Mapping[int, float], b: Mapping[int, float]) -> Mean | None:
    """Return the mean paired difference over the folds that both have."""
    return mean([a[fold] - b[fold] for fold in a if fold in b])


class Results:
    """All results of a run, by row and fold. Trainings that diverged have no scores."""

    def __init__(self, lines: Iterable[Result]) -> None:
        self._by: dict[str, dict[int, Result]] = {}
        for line in lines:
            self._by.setdefault(line["row"], {})[line["fold"]] = line

    def __len__(self) -> int:
        return sum(map(len, self._by.values()))

    def of(self, row: str) -> dict[int, Result]:
        """Return the results of a row by fold."""
        return dict(sorted(self._by.get(row, {}).items()))

    def has(self, row: str) -> bool:
        """Return whether a fold of the row was trained and tested."""
        return bool(self.values(row, "Acc"))

    def values(self, row: str, measure: str) -> dict[int, float]:
        """Return one measure of a row by fold."""
        return {fold: scores(line["confusion"])[measure] for fold, line in self.of(row).items() if "confusion" in line}

    def mean(self, row: str, measure: str) -> Mean | None:
        """Return the mean of a measure over folds."""
        return mean(list(self.values(row, measure).values()))

    def gain(self, row: str, over: str, measure: str = "Avg. F1") -> Mean | None:
        """Return the mean paired difference of two rows over the folds that both have."""
        return _difference(self.values(row, measure), self.values(over, measure))

    def named(self, row: str) -> str:
        """Return a row's name for tables, with its number of folds where other rows have more."""
        folds, most = len(self.values(row, "Acc")), max(len(self.values(other, "Acc")) for other in ROWS)
        return row if folds == most else f"{row} ({folds} {'fold' if folds == 1 else 'folds'} of {most})"

    def heard(self, row: str, smr: int) -> dict[int, float]:
        """Return the recall of overlap at a ratio by fold, in per cent."""
        found = {fold: line.get("overlap_at", {}).get(str(smr)) for fold, line in self.of(row).items()}
        return {fold: 100 * counts[BOTH] / max(sum(counts), 1) for fold, counts in found.items() if counts}

    def overlap(self, row: str) -> dict[int, Mean]:
        """Return the mean recall of overlap over folds at each ratio (Figure 4)."""
        return {smr: m for smr in RATIOS if (m := mean(list(self.heard(row, smr).values()))) is not None}

    def transferred(self, row: str, test: str, way: str, what: str) -> dict[str, Mean]:
        """Return mean scores over folds for Table V: of a test, smoothed one way, for one of `WHATS`."""
        folds = [binary_scores(line["tests"][test][way][what]) for line in self.of(row).values() if test in line.get("tests", {})]
        return {name: m for name in TRANSFER_MEASURES if (m := mean([of[name] for of in folds])) is not None}

    def diverged(self) -> list[str]:
        """Return the rows in which a fold diverged."""
        return [row for row, folds in self._by.items() if any("diverged" in line for line in folds.values())]

    def rows(self) -> list[dict[str, Any]]:
        """Return every mean as a flat record."""
        records: list[dict[str, Any]] = []
        for row in (r for r in ROWS if self.has(r)):
            for measure in (*MEASURES, PATCHES):
                records.append({"row": row, "measure": measure, "mean": self.mean(row, measure)})
            for smr, m in self.overlap(row).items():
                records.append({"row": row, "measure": f"speech+music Rec at {smr} dB", "mean": m})
        for row in (TRANSFER, TRANSFER_DAFX):
            for test, way in _tests(self, row):
                for what in WHATS:
                    for name, m in self.transferred(row, test, way, what).items():
                        records.append({"row": f"{row}, {test}, {way}", "measure": f"{what} {name}", "mean": m})
        for name, of in _figure_2(self).items():
            records.append({"row": f"{FIGURE_2}, {name}", "measure": "accuracy", "mean": mean([100 * v for v in of["of_folds"]])})
        return [r | {"mean": m.mean, "deviation": m.deviation, "folds": m.folds} for r in records if (m := r["mean"]) is not None]


def _tests(results: Results, row: str) -> list[tuple[str, str]]:
    found = [(test, way) for line in results.of(row).values() for test in line.get("tests", {}) for way in line["tests"][test]]
    return list(dict.fromkeys(found))


def _figure_2(results: Results) -> dict[str, dict[str, Any]]:
    return {name: of for line in results.of(FIGURE_2).values() for name, of in line.get("parts", {}).items()}


# --- the tables ----------------------------------------------------------------------------------------------------------

TITLES = {
    "I": "the baselines",
    "II": "harmonic and percussive features with B3",
    "III": "multi-task (MTL) and cascaded (C-MTL) heads",
    "IV": "every baseline with both",
}


def tables(results: Results, *, brief: bool = False) -> list[Table]:
    """Return all tables that are not empty; if `brief`, for terminals, without precision and recall."""
    made = [_of_paper(results, number, brief) for number in TABLES]
    made += [_honest(results), _transfer(results, brief), _overlap(results), _separability(results)]
    return [table for table in made if table.rows]


FEATURES = (
    "S: magnitudes; MS: mel bands; LS, LMS: the same in decibels; H, P: of the harmonic and of the percussive part; EF: both side "
    "by side (early fusion)."
)


def _of_paper(results: Results, number: str, brief: bool) -> Table:
    measures = SHORT if brief or number == "III" else MEASURES
    rows = []
    for row in TABLES[number]:
        if results.has(row):
            lines = results.of(row).values()
            steps = spanned(line["steps"] for line in lines if "steps" in line)
            extra = [shown(results.mean(row, PATCHES)), steps]
            rows.append([results.named(row), "here", *(shown(results.mean(row, m)) for m in measures), *extra])
            rows.append(["", "paper", *(shown(PAPER[row].get(m)) for m in measures), "–", "–"])
    note = "Acc: class-balanced, the mean recall of the three classes, as the paper's is. Share right: of all patches (0.7 s), "
    note += f"unbalanced. {FEATURES}"
    return Table(f"Table {number} of the paper: {TITLES[number]} (%)", ["", "", *measures, PATCHES, "steps"], rows, note)


def _honest(results: Results) -> Table:
    rows = []
    for row in (MULTI_EARLY, PLAIN, PAPERS, SUNG):
        if results.has(row) and any(results.has(other) for other in (PLAIN, PAPERS, SUNG)):
            change = "" if row == MULTI_EARLY else shown(results.gain(row, MULTI_EARLY))
            rows.append([results.named(row), *(shown(results.mean(row, m)) for m in SHORT), change])
    note = (
        "Unless a row says otherwise, training sound is augmented by filters, rooms and codecs, and the optimiser is Adam with a "
        "learning rate that decays from 1e-3; the paper has neither. Test sound is never augmented, and recordings of one class "
        "share a recording channel: what a network learns of that channel helps it here."
    )
    return Table("What was done otherwise than in the paper (%)", ["", *SHORT, "change of Avg. F1"], rows, note)


def _transfer(results: Results, brief: bool) -> Table:
    measures = ("F1",) if brief else TRANSFER_MEASURES
    rows = []
    for row in (TRANSFER, TRANSFER_DAFX):
        for test, way in _tests(results, row):
            of = [results.transferred(row, test, way, what) for what in WHATS]
            smoothed = "median of 501" if way == "median" else "no median"
            rows.append([f"{test}, {smoothed}", *(shown(found.get(m)) for found in of for m in measures)])
    if rows:
        for name, of in PAPER_TRANSFER.items():
            numbers = [dict(zip(TRANSFER_MEASURES, found, strict=True)) if found else {} for found in of]
            rows.append([name, *(cell(found.get(m), 1) for found in numbers for m in measures)])
    note = (
        f"{MULTI_EARLY} of the same fold, fine-tuned once for music and once for speech. “generated”: not radio, but broadcasts "
        "generated from the unaugmented recordings of the test fold, in segments of 1.5 to 9 s of speech, music, both or neither; "
        "the median filter of 501 frames (5 s) removes short segments. The paper's numbers "
        "are of Swiss and Austrian radio. Acc is not class-balanced here, as in the paper."
    )
    head = ["", *(f"{what} {m}" for what in WHATS for m in measures)]
    return Table("Table V of the paper: transfer to broadcasts (%)", head, rows, note)


def _overlap(results: Results) -> Table:
    found = {row: levels for row in SMR_ROWS if (levels := results.overlap(row))}
    rows = [[results.named(row), *(shown(levels.get(smr)) for smr in RATIOS)] for row, levels in found.items()]
    note = "The paper has a figure of these without numbers."
    return Table("Figure 4 of the paper: recall of speech+music by ratio (%)", ["", *(f"{smr} dB" for smr in RATIOS)], rows, note)


def _separability(results: Results) -> Table:
    rows = [
        [name, shown(mean([100 * v for v in of["of_folds"]])), cell(of["silhouette"], 3), str(of["patches"])]
        for name, of in _figure_2(results).items()
    ]
    note = (
        "Accuracy: mean recall of speech and music by the nearest neighbour among other speakers and artists, 50 by chance. "
        "Skewness of rows and columns; the paper has a picture and no number. In the picture (t-SNE), axes have no unit."
    )
    head = ["", "accuracy (%)", "silhouette", "patches"]
    return Table("Figure 2 of the paper: what sets speech and music apart", head, rows, note)


# --- what they say -------------------------------------------------------------------------------------------------------


def findings(results: Results) -> list[Finding]:
    """Check the paper's claims; those that were not run are left out."""
    made = [
        _better(results, [(LMS, EARLY)], "Early fusion of both parts is better than LMS (B3)"),
        _better(results, [(MULTI_LMS, MULTI_EARLY)], "Early fusion of both parts is better than LMS (B3-MTL)"),
        _better(
            results,
            [(f"B3, {f}", f"B3-MTL, {f}") for f in ("LMS", "LMHS", "LMPS", "LMHPS-EF")],
            "Multi-task is better than single-task with every feature (B3)",
        ),
        _cascaded(results),
        _better(results, [("B4, LS", "B4-NoFC, LS")], "B4 is better without its dense layers"),
        _better(results, list(MODIFIED.items()), "Features and heads of the paper make every baseline better"),
        _best(results),
        *_by_ratio(results),
        _parts(results),
    ]
    return [finding for finding in made if finding is not None]


def _better(results: Results, pairs: Sequence[tuple[str, str]], statement: str) -> Finding | None:
    """Check that the second row of each pair has the higher mean F1; the statement says if not all pairs were run."""
    gains = {after: (before, gain) for before, after in pairs if (gain := results.gain(after, before)) is not None}
    if not gains:
        return None
    statement += f" ({len(gains)} of {len(pairs)} were run)" if len(gains) < len(pairs) else ""
    of = {row: shown(results.mean(row, "Avg. F1")) for pair in pairs for row in pair}
    numbers = "; ".join(f"{b} {of[b]}, {a} {of[a]}, fold by fold {_spread(gain)}" for b, (a, gain) in gains.items())
    return Finding(statement, every(_gains(gain) for _, gain in gains.values()), f"Avg. F1: {numbers}")


def _interval(found: Mean) -> tuple[float, float]:
    """Return the 95 % interval of a mean over folds."""
    margin = half_width(found.deviation, found.folds)
    return found.mean - margin, found.mean + margin


def _spread(found: Mean) -> str:
    return shown(found) + between(*_interval(found))


def _gains(found: Mean) -> bool | None:
    """Return whether a mean difference over folds is a gain beyond its interval (`settled`)."""
    return settled(found.mean, *_interval(found))


def _cascaded(results: Results) -> Finding | None:
    cascaded = MULTI_EARLY.replace("MTL", "C-MTL")
    gain = results.gain(cascaded, MULTI_EARLY)
    if gain is None:
        return None
    numbers = ", ".join(f"{row} {shown(results.mean(row, 'Avg. F1'))}" for row in (cascaded, MULTI_EARLY))
    numbers = f"Avg. F1: {numbers}, fold by fold {_spread(gain)}"
    better = _gains(gain)
    return Finding("Cascaded heads are not better than multi-task ones", None if better is None else not better, numbers)


def _best(results: Results) -> Finding | None:
    others = {row for number in TABLES for row in TABLES[number]} - {MULTI_EARLY}
    gains = {row: gain for row in sorted(others) if (gain := results.gain(MULTI_EARLY, row)) is not None}
    if not gains:
        return None
    run = f" ({len(gains) + 1} of {len(others) + 1} were run)" if len(gains) < len(others) else ""
    near = sorted((row for row, gain in gains.items() if not _gains(gain)), key=lambda row: gains[row].mean)
    beyond = f"{len(gains) - len(near)} of {len(gains)} rows are below it beyond the interval"
    closest = [f"above {row} by {_spread(gains[row])}" for row in near[:3]]
    numbers = "; ".join([f"Avg. F1 {shown(results.mean(MULTI_EARLY, 'Avg. F1'))}", beyond, *closest])
    return Finding(f"{MULTI_EARLY} is the best row{run}", every(map(_gains, gains.values())), numbers)


def _by_ratio(results: Results) -> list[Finding | None]:
    of = {row: {smr: m.mean for smr, m in found.items()} for row in SMR_ROWS if (found := results.overlap(row))}
    if not of:
        return []

    lowest = {row: min(levels, key=levels.__getitem__) for row, levels in of.items()}
    peaks = {row: max(levels, key=levels.__getitem__) for row, levels in of.items()}
    at_lowest, at_peak = ("; ".join(f"{row} {smr} dB" for row, smr in found.items()) for found in (lowest, peaks))
    made: list[Finding | None] = [
        Finding("Overlap is hardest to hear at −5 dB for all", set(lowest.values()) == {-5}, f"lowest recall: {at_lowest}"),
        Finding("Recall of overlap peaks near 10 dB (5 to 15) for all", set(peaks.values()) <= {5, 10, 15}, f"peaks: {at_peak}"),
    ]
    pairs = [(before, after) for before, after in MODIFIED.items() if before in of and after in of]
    if pairs:
        answers: dict[bool | None, dict[str, list[str]]] = {False: {}, None: {}, True: {}}
        for before, after in pairs:
            for smr in RATIOS:
                gain = _difference(results.heard(after, smr), results.heard(before, smr))
                answers[gain and _gains(gain)].setdefault(after, []).append(f"{smr}")
        at = {answer: ", ".join(f"{row} at {', '.join(smrs)} dB" for row, smrs in of.items()) for answer, of in answers.items()}
        compared = f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'} at {len(RATIOS)} ratios, fold by fold"
        said = {"not so": at[False], "not settled": at[None]}
        numbers = "; ".join([compared, *(f"{what}: {where}" for what, where in said.items() if where)])
        statement = "Modified baselines hear more of the overlap than the baselines, at every ratio"
        statement += f" ({len(pairs)} of {len(MODIFIED)} were run)" if len(pairs) < len(MODIFIED) else ""
        made.append(Finding(statement, every(answer for answer, some in answers.items() if some), numbers))
    return made


def _parts(results: Results) -> Finding | None:
    of = _figure_2(results)
    split, whole = "harmonic+percussive", [name for name in of if name != "harmonic+percussive"]
    if split not in of or not whole:
        return None
    said = {name: (100 * found["accuracy"], found["silhouette"]) for name, found in of.items()}
    numbers = "; ".join(f"{name} {accuracy:.1f} %, silhouette {near:.3f}" for name, (accuracy, near) in said.items())
    holds = all(of[split][m] > of[name][m] for name in whole for m in ("accuracy", "silhouette"))
    return Finding("Harmonic and percussive parts set speech and music further apart (Figure 2)", holds, numbers)


# --- files ---------------------------------------------------------------------------------------------------------------


def to_csv(results: Results) -> str:
    """Format every mean as CSV, one line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["row", "measure", "mean", "deviation", "folds"], lineterminator="\n")
    writer.writeheader()
    for r in results.rows():
        deviation = "" if np.isnan(r["deviation"]) else f"{r['deviation']:.4f}"
        writer.writerow(r | {"mean": f"{r['mean']:.4f}", "deviation": deviation})
    return text.getvalue()


def to_markdown(results: Results, about: str, pictures: Sequence[str]) -> str:
    """Format all tables and findings as one page, with `pictures`, files next to it."""
    named = {name: "Figure 2" if "separability" in name else "Figure 4: mean ± deviation over folds" for name in pictures}
    return page("Paper 003 on real recordings", about, named, tables(results), findings(results))


def about(results: Results, budget: str, *, seed: int, seconds: float, spoken: Mapping[str, float], planned: int) -> str:
    """Describe the run in a paragraph; `planned` is the number of results of a complete run."""
    extent = "A part of it (--quick): one fold, and few steps; these numbers say that it runs, not how good anything is. "
    of, there = BUDGETS[budget], len(results)
    diverged = f" Trainings that diverged have no scores: {', '.join(gone)}." if (gone := results.diverged()) else ""
    steps = ", ".join(f"{name} {n}" for name, n in of.steps.items())
    hours = " and ".join(f"{spoken[kind] / 3600:.2g} hours of {kind}" for kind in ("speech", "music"))
    return (
        f"{extent if budget == 'quick' else ''}Printed by `bayessep reproduce bhattacharjee2022`, budget “{budget}”, seed {seed}, "
        f"{seconds / 60:.0f} minutes by the clock in all, pauses included. {hours} (the paper: 60 and 43), dealt into {FOLDS} "
        f"folds without a speaker, artist or file in two of them; {of.folds} tested, each by networks that learned from the other "
        f"two. Overlap is mixed inside a fold at −5 to 20 dB. At most {of.epochs} epochs, of so many steps of 48 patches: {steps}. "
        "Precision, recall and F1 are of all patches of 0.7 s side by side in all test recordings, unbalanced; mean ± deviation "
        "over folds."
        f"{not_all(there, planned)}{diverged}"
    )


def pictures(results: Results) -> dict[str, bytes]:
    """Plot Figures 2 and 4 (PNG), keyed by the ends of their file names, as far as there are results for them."""
    from bayessep import plots, plots_detection  # matplotlib takes a while to import

    made = {}
    if levels := {row: found for row in SMR_ROWS if (found := results.overlap(row))}:
        made["overlap"] = plots.png(plots_detection.overlap_figure({
            results.named(row): {smr: (m.mean, m.deviation) for smr, m in found.items()} for row, found in levels.items()
        }, {results.named(before): results.named(after) for before, after in MODIFIED.items()}))  # fmt: skip
    if parts := _figure_2(results):
        from bayessep.separability import Embedding

        embeddings = {name: Embedding(np.array(of["points"]), np.array(of["speech"], bool)) for name, of in parts.items()}
        notes = {name: f"{100 * of['accuracy']:.1f} % told apart" for name, of in parts.items()}
        made["separability"] = plots.png(plots_detection.separability_figure(embeddings, notes))
    return made
