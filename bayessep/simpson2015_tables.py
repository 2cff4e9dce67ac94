"""Figures 2 and 3 of paper 004 from the results of `bayessep.simpson2015`, tables beside the paper's claims, and findings.

All numbers are means over songs with a 95 % interval (Student's t; the paper does not say of which kind its intervals are).
Excerpts of a song are averaged first, as they are not independent. Scores are in decibels.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep.comparison import cell
from bayessep.pages import Finding, Table, every, not_all, page, spanned
from bayessep.simpson2015 import BUDGETS, DNN, FOLDS, IDEAL, MEASURES, METHODS, MIXTURE, NMF, SOURCES
from bayessep.tables import Mean, gained, mean, shown

Result = dict[str, Any]

BOTH = "both sources"
ROWS = (BOTH, *SOURCES)
"""Panels a to c of either figure."""
USED = (0.1, 0.9)
"""Range of the confidences in Figure 3, ends excluded."""
PAPER = {BOTH: 3.0, "vocals": 5.0, "accompaniment": None}
"""Advantage of the network over NMF in SAR at equal SIR, in decibels, about; for the accompaniment, a little."""


class Advantage(NamedTuple):
    """Advantage of one method over another in SAR at equal SIR: the mean over the SIR range, `low` to `high`, that both reach."""

    sar: float
    low: float
    high: float


def advantage(one: Float[np.ndarray, "n 2"], other: Float[np.ndarray, "m 2"]) -> Advantage | None:
    """Compare two curves of (SIR, SAR), interpolated linearly; None where they share no SIR."""
    if not len(one) or not len(other):
        return None
    low, high = max(c[:, 0].min() for c in (one, other)), min(c[:, 0].max() for c in (one, other))
    if low > high:
        return None
    at = np.linspace(low, high, 201)
    return Advantage(float(np.mean(reached(one, at) - reached(other, at))), float(low), float(high))


def reached(curve: Float[np.ndarray, "n 2"], sir: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Return a curve's greatest SAR at each SIR, as one that turns back has several. The curve must span all `sir`."""
    (x0, y0), (x1, y1) = curve.T[:, None], np.concatenate([curve[1:], curve[-1:]]).T[:, None]  # the last segment is the end point
    at = sir[:, None]
    along = np.where(x0 == x1, y0 >= y1, (x1 - at) / np.where(x0 == x1, 1.0, x1 - x0))  # 1 at the start of a segment, 0 at its end
    passes = (np.minimum(x0, x1) <= at) & (at <= np.maximum(x0, x1))
    return np.max(np.where(passes, along * y0 + (1 - along) * y1, -np.inf), axis=1)


# --- results -------------------------------------------------------------------------------------------------------------


class Results:
    """All results of a run, by method, row (source), confidence and measure."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.lines = list(results)
        # By method, row, confidence and measure: the scores of each song's excerpts.
        self._by: dict[tuple[str, str, float | None, str], dict[str, list[float]]] = {}
        self._excerpts: dict[str, Counter[str]] = {}  # by method: how many of each song were scored at all
        for line in self.lines:
            self._excerpts.setdefault(line["method"], Counter())[line["group"]] += bool(line["scores"])
            at: dict[float | None, dict[str, Result]] = {}
            for score in line["scores"]:
                at.setdefault(score.get("alpha"), {})[score["source"]] = score
            for alpha, sources in at.items():
                for measure in MEASURES:
                    values = {name: score[measure] for name, score in sources.items()}
                    values[BOTH] = None if None in values.values() else float(np.mean(list(values.values())))
                    for row, value in values.items():
                        held = self._by.setdefault((line["method"], row, alpha, measure), {}).setdefault(line["group"], [])
                        held += [] if value is None else [value]

    def songs(self, method: str, row: str, measure: str, alpha: float | None = None) -> dict[str, float]:
        """Return the mean over excerpts of each song that has any."""
        found = self._by.get((method, row, alpha, measure), {})
        return {song: float(np.mean(values)) for song, values in sorted(found.items()) if values}

    def mean(self, method: str, row: str, measure: str, alpha: float | None = None) -> Mean | None:
        """Return the mean over songs."""
        return mean(list(self.songs(method, row, measure, alpha).values()))

    def excerpts(self, method: str, row: str, measure: str, alpha: float | None = None, song: str | None = None) -> tuple[int, int]:
        """Return how many excerpts have this score, and how many were scored at all; of all songs, or of one."""
        held, every = self._by.get((method, row, alpha, measure), {}), self._excerpts.get(method, Counter())
        names = every if song is None else [song]
        return sum(len(held.get(name, ())) for name in names), sum(every[name] for name in names)

    def whole(self, method: str, row: str, measure: str, alpha: float | None = None, song: str | None = None) -> bool:
        """Return whether every excerpt has this score: means over fewer do not belong in the same curve."""
        there, every = self.excerpts(method, row, measure, alpha, song)
        return there == every > 0

    def gain(self, method: str, over: str, row: str, measure: str = "sdr") -> Mean | None:
        """Return the mean paired difference of two methods over songs, for the masks of middling confidence."""
        ours, theirs = (self.songs(name, row, measure, self.middling(name)) for name in (method, over))
        return mean([ours[song] - theirs[song] for song in ours if song in theirs])

    def middling(self, method: str) -> float | None:
        """Return a method's confidence nearest to 0.5; None if it has none."""
        return min(self.alphas(method), key=lambda alpha: abs(alpha - 0.5), default=None)

    def alphas(self, method: str) -> list[float]:
        """Return the confidences at which a method was scored."""
        return sorted({alpha for name, _, alpha, _ in self._by if name == method and alpha is not None})

    def points(self, method: str, row: str, song: str | None = None) -> dict[float | None, list[float]]:
        """Return SIR and SAR at each confidence of Figure 3 where every excerpt has both: means over songs, or those of one song.

        Masks without a confidence have the key None.
        """
        found: dict[float | None, list[float]] = {}
        for alpha in self.alphas(method) or [None]:
            used = alpha is None or USED[0] < alpha < USED[1]
            if used and all(self.whole(method, row, measure, alpha, song) for measure in ("sir", "sar")):
                of = [self.songs(method, row, measure, alpha) for measure in ("sir", "sar")]
                found[alpha] = [float(np.mean(list(songs.values()))) if song is None else songs[song] for songs in of]
        return found

    def curve(self, method: str, row: str, song: str | None = None) -> Float[np.ndarray, "n 2"]:
        """Return these points as an array, in order of confidence."""
        return np.array(list(self.points(method, row, song).values()), np.float64).reshape(-1, 2)

    def advantages(self, row: str) -> dict[str, float]:
        """Return the network's advantage over NMF in SAR at equal SIR, by song."""
        songs = sorted({line["group"] for line in self.lines})
        found = {song: advantage(self.curve(DNN, row, song), self.curve(NMF, row, song)) for song in songs}
        return {song: one.sar for song, one in found.items() if one is not None}

    def advantage(self, row: str) -> tuple[Advantage | None, Mean | None]:
        """Return the network's advantage over NMF in SAR at equal SIR: between the mean curves, and the mean over songs."""
        return advantage(self.curve(DNN, row), self.curve(NMF, row)), mean(list(self.advantages(row).values()))

    def silent(self) -> dict[str, int]:
        """Return how many estimates of each method are silent and so have no scores."""
        return {
            method: sum(s["sdr"] is None for line in self.lines if line["method"] == method for s in line["scores"])
            for method in METHODS
        }

    def learned(self, method: str) -> dict[int, dict[str, Any]]:
        """Return the training summaries of a method, by fold."""
        return {line["fold"]: line["learned"] for line in self.lines if line["method"] == method and "learned" in line}

    def seconds(self) -> float:
        """Return the computing time, training included."""
        learned = sum(told["seconds"] for method in (DNN, NMF) for told in self.learned(method).values())
        return sum(line["seconds"] for line in self.lines) + learned

    def rows(self) -> list[dict[str, Any]]:
        """Return every mean of Figure 2 as a flat record."""
        made = []
        for method in METHODS:
            for row in ROWS:
                for alpha in self.alphas(method) or [None]:
                    for measure in MEASURES:
                        if (found := self.mean(method, row, measure, alpha)) is not None:
                            of = {"source": row, "method": method, "alpha": alpha, "measure": measure}
                            made.append(of | found._asdict() | {"excerpts": self.excerpts(method, row, measure, alpha)[0]})
        return made


# --- tables --------------------------------------------------------------------------------------------------------------


def tables(results: Results, *, brief: bool = False) -> list[Table]:
    """Return all tables that are not empty; if `brief`, without those that the figures show better."""
    made = [_at_equal_sir(results), _at_a_half(results)]
    made += [_by_alpha(results, row) for row in (ROWS[:1] if brief else ROWS)]
    return [table for table in made if table.rows]


def _at_equal_sir(results: Results) -> Table:
    rows = []
    for row in ROWS:
        found, songs = results.advantage(row)
        if found is not None:
            paper = "little" if PAPER[row] is None else f"{PAPER[row]:.0f}"
            rows.append([row, cell(found.sar, 1), paper, shown(songs), f"{cell(found.low, 1)} to {cell(found.high, 1)}"])
    note = (
        "Mean over the range of SIR that both curves of Figure 3 cover, interpolated linearly between confidences; where a curve "
        "turns back, its highest SAR counts. Song by song: the same on the curves of each song."
    )
    return Table("SAR at equal SIR, DNN above NMF (dB)", ["", "mean curves", "the paper", "song by song", "at SIR of"], rows, note)


def _at_a_half(results: Results) -> Table:
    rows = []
    for source in SOURCES:
        for method in METHODS:
            alpha = results.middling(method)
            found = [results.mean(method, source, measure, alpha) for measure in MEASURES]
            if any(found):
                named = method if alpha is None else f"{method}, α = {alpha:g}"
                rows.append([f"{source}: {named}", *map(shown, found)])
    note = "The mixture, taken for either source, has no artefacts."
    return Table("Masks of middling confidence (dB)", ["", *map(str.upper, MEASURES)], rows, note)


def _by_alpha(results: Results, row: str) -> Table:
    alphas = sorted({alpha for method in (DNN, NMF) for alpha in results.alphas(method)})

    def said(method: str, measure: str, alpha: float) -> str:
        there, every = results.excerpts(method, row, measure, alpha)
        return shown(results.mean(method, row, measure, alpha)) + (f" ({there} of {every})" if 0 < there < every else "")

    rows = [[f"{alpha:g}", *(said(method, measure, alpha) for method in (DNN, NMF) for measure in MEASURES)] for alpha in alphas]
    if rows:
        ideal = [shown(results.mean(IDEAL, row, measure)) for measure in MEASURES]
        rows.append([IDEAL, *ideal, *("" for _ in MEASURES)])
    head = ["α", *(f"{method} {measure.upper()}" for method in (DNN, NMF) for measure in MEASURES)]
    notes = {
        "–": "No SAR: masks keep every cell, and estimates are the mixture, without artefacts.",
        " of ": "In brackets: of how many excerpts, where not all have a score; figures leave these means out.",
    }
    note = " ".join(note for mark, note in notes.items() if any(mark in one for cells in rows for one in cells))
    return Table(f"Figure 2 of the paper: {row} (dB)", head, rows, note)


# --- what they say -------------------------------------------------------------------------------------------------------


def findings(results: Results) -> list[Finding]:
    """Check the paper's claims; those that were not run are left out."""
    made = [_trade_off(results, method) for method in (DNN, NMF)]
    made += [_advantage(results, row) for row in ROWS]
    made += [_mostly_vocals(results), *(_gain(results, source) for source in SOURCES)]
    return [found for found in made if found is not None]


def _trade_off(results: Results, method: str) -> Finding | None:
    curve = results.curve(method, BOTH)
    if len(curve) < 2:
        return None
    sir, sar = curve.T
    numbers = f"SIR {cell(sir[0], 1)} to {cell(sir[-1], 1)}, SAR {cell(sar[0], 1)} to {cell(sar[-1], 1)} dB, both sources"
    holds = bool((np.diff(sir) > 0).all() and (np.diff(sar) < 0).all())
    return Finding(f"{method}: with α, SIR rises and SAR falls", holds, numbers)


def _advantage(results: Results, row: str) -> Finding | None:
    found, songs = results.advantage(row)
    if found is None or songs is None:
        return None
    paper = "a little" if PAPER[row] is None else f"about {PAPER[row]:.0f} dB"
    numbers = (
        f"{cell(found.sar, 1)} dB between the mean curves, {shown(songs)} song by song, {songs.items} songs; the paper {paper}"
    )
    # A gain must exceed its interval: so few songs differ by chance alone.
    return Finding(f"At equal SIR, the DNN has more SAR than NMF: {row}", gained(songs), numbers)


def _mostly_vocals(results: Results) -> Finding | None:
    vocals, accompaniment = map(results.advantages, SOURCES)
    more = mean([vocals[song] - accompaniment[song] for song in vocals if song in accompaniment])
    means = [mean(list(of.values())) for of in (vocals, accompaniment)]
    if more is None:
        return None
    numbers = f"vocals {shown(means[0])}, accompaniment {shown(means[1])} dB; of the vocals more by {shown(more)}, song by song"
    return Finding("The DNN’s advantage is mostly of the vocals", every([gained(means[0]), gained(more)]), numbers)


def _gain(results: Results, source: str) -> Finding | None:
    levels = {
        method: results.mean(method, source, "sdr", results.middling(method)) for method in (DNN, NMF, IDEAL, MIXTURE)
    }
    network, before = levels[DNN], levels[MIXTURE]
    if network is None or before is None:
        return None
    gain = results.gain(DNN, MIXTURE, source)
    numbers = ", ".join(f"{method} {shown(found)}" for method, found in levels.items() if found is not None)
    numbers += f" dB; DNN above mixture song by song {shown(gain)}"
    return Finding(f"More SDR than the mixture: the DNN’s {source}", gained(gain), numbers)


# --- files ---------------------------------------------------------------------------------------------------------------


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Format flat records as CSV, one line each: numbers with four decimals, confidences unrounded, missing values empty."""

    def said(name: str, value: Any) -> Any:
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return ""
        return f"{value:.4f}" if isinstance(value, float) and name != "alpha" else value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names := list(records[0]) if records else [])
    writer.writerows([said(name, record[name]) for name in names] for record in records)
    return text.getvalue()


def figure_3(results: Results) -> list[dict[str, Any]]:
    """Return the points of Figure 3 as flat records."""
    return [
        {"source": row, "method": method, "alpha": alpha, "sir": sir, "sar": sar}
        for row in ROWS
        for method in (DNN, NMF, IDEAL)
        for alpha, (sir, sar) in results.points(method, row).items()
    ]


def to_markdown(results: Results, about: str, pictures: Sequence[str]) -> str:
    """Format all tables and findings as one page, with `pictures` of Figures 2 and 3, files next to it."""
    shows = ("SDR, SIR and SAR by confidence", "SAR by SIR")
    return page("Paper 004 on real songs", about, dict(zip(pictures, shows, strict=True)), tables(results), findings(results))


def about(results: Results, budget: str, *, seed: int, planned: int, lasting: float, artists: int = 0) -> str:
    """Describe the run in a paragraph; `planned` is the number of results of a complete run, `lasting` the duration of the songs
    in seconds, `artists` the number of artists that training and test share (`Corpus.artists_met`)."""
    of, there = BUDGETS[budget], len(results.lines)
    extent = (
        "A part of it (--quick): one excerpt of each song, few steps, templates and confidences; these numbers say that it runs, "
        "not how good anything is. "
    )
    learned, fitted = results.learned(DNN), results.learned(NMF)
    trained = ", ".join(f"{told['epochs']} (the best: {told['best_epoch']})" for _, told in sorted(learned.items()))
    of_songs = [spanned(told["songs"] for told in by_fold.values()) if by_fold else "" for by_fold in (learned, fitted)]
    held = f", with {of_songs[0]} songs to learn from (the others are to stop by)" if learned else ""
    all_of_them = f", from {of_songs[1]} songs, those that the network stops by among them" if fitted else ""
    spent = [sum(told["seconds"] for told in by_fold.values()) for by_fold in (learned, fitted)]
    gone = sorted({f"fold {line['fold'] + 1}" for line in results.lines if "diverged" in line})
    diverged = f" Trainings that diverged have no scores: {', '.join(gone)}." if gone else ""
    silent = ", ".join(f"{method} {n}" for method, n in results.silent().items() if n)
    silence = f" Silent estimates have no scores and are left out: {silent}." if silent else ""
    whose = f" by {artists} {'artist' if artists == 1 else 'artists'}, who are in training and test alike," if artists else ","
    songs, excerpts = len({line["group"] for line in results.lines}), len({line["song"] for line in results.lines})
    return (
        f"{extent if budget == 'quick' else ''}Printed by `bayessep reproduce simpson2015`, budget “{budget}”, seed {seed}, "
        f"in {results.seconds() / 60:.0f} minutes of wall-clock time, of which training took {spent[0] / 60:.1f} (network) and "
        f"{spent[1] / 60:.1f} (NMF). {excerpts} excerpts of {songs} songs{whose} "
        f"{lasting / 60:.1f} minutes of sound (the paper: 63 whole songs), dealt into {FOLDS} folds; each song is separated by "
        f"models trained on the other folds (the paper: one split, 50 and 13). The network has the preset "
        f"{of.preset} (the paper’s has 80 times as many parameters) and at most {of.epochs} epochs of {of.steps} steps; by fold it "
        f"had {trained or 'none yet'}{held}. NMF has {of.templates} templates for each source (the paper 1500), {of.sweeps} "
        f"sweeps to learn them{all_of_them}, {of.activation_sweeps} to find them in a mixture. BSS-Eval over whole excerpts, "
        f"excerpts of a song averaged first, means over songs with 95 % intervals (Student’s t).{silence}"
        f"{not_all(there, planned)}{diverged}"
    )


def pictures(results: Results) -> dict[str, bytes]:
    """Plot Figures 2 and 3 (PNG), by name."""
    from bayessep import plots, plots_karaoke  # matplotlib takes a while to import

    def spans(means: Sequence[Mean | None]) -> Float[np.ndarray, "n 2"]:
        return np.array([(np.nan, np.nan) if m is None else (m.mean, m.margin) for m in means])

    def level(method: str, row: str, measure: str, alpha: float | None) -> Mean | None:
        return results.mean(method, row, measure, alpha) if results.whole(method, row, measure, alpha) else None

    methods = (DNN, IDEAL, NMF)
    levels: dict[tuple[str, str], plots_karaoke.Curves] = {}
    for method in methods:
        alphas = results.alphas(method)
        for row in ROWS:
            of = {m.upper(): spans([level(method, row, m, alpha) for alpha in alphas or [None]]) for m in MEASURES}
            levels[method, row] = plots_karaoke.Curves(alphas, of)
    trade = {row: {method: results.curve(method, row) for method in (DNN, NMF)} for row in ROWS}
    ideal = {p["source"]: (p["sir"], p["sar"]) for p in figure_3(results) if p["method"] == IDEAL}
    figures = (plots_karaoke.confidence_figure(levels, methods, ROWS), plots_karaoke.trade_off_figure(trade, ideal))
    return {f"figure{n}": plots.png(figure) for n, figure in enumerate(figures, 2)}
