"""Tables of results: means, margins, and statements that follow the numbers."""

import csv
import io
from typing import Any

import numpy as np
import pytest
import scipy.stats as st

from bayessep import protocol, tables
from bayessep.baselines import BASELINES
from bayessep.reproduction import (
    ABLATION_ROWS,
    ABLATION_SCENES,
    DEVELOPMENT_ROWS,
    DEVELOPMENT_SCENES,
    LOG_MODE_ROWS,
    METHOD_ROWS,
    PAPER_METHODS,
    SEED_ROWS,
)

MIDDLE = {"mixture": 0.0, "KL-NMF": 6.0, "unsupervised": 7.0, "REPET-SIM": 4.0, "HPSS": 2.0}


def _result(row: str, item: int, smr_db: float = 0.0, condition: str = "plain", training: str = "Self", **more: Any) -> dict:
    level = MIDDLE.get(row, 10.0) + smr_db + item
    numbers = {"sdr": level, "si_sdr": level - 1, "smr": level + 5, "sar": level + 2, "seconds": 1.0}
    key = {"row": row, "item": item, "smr_db": smr_db, "condition": condition, "training": training, "name": str(item)}
    return key | numbers | more


def _run() -> list[dict]:
    """All that a full run has, of three items; the first has no transcript."""
    words = [{}, {"word_errors": 3, "words": 10}, {"word_errors": 5, "words": 10}]
    usual = [*BASELINES, *METHOD_ROWS, *LOG_MODE_ROWS]
    sure = {"rank_correlation": 0.5, "coverage": [0.4, 0.7, 0.9]}
    lines = [
        _result(row, n, smr, **(words[n] if smr == 15 else {}), **(sure if row in METHOD_ROWS else {}))
        for row in usual for smr in tables.SMRS for n in range(3)
    ]  # fmt: skip
    lines += [_result(row, n, 15.0, training=t, **words[n]) for row in PAPER_METHODS for t in ("All", "Other") for n in range(3)]
    lines += [_result(row, n, 0.0, c) for row in usual for c in protocol.MET if c != "plain" for n in range(3)]
    lines += [_result(row, n, *scene) for row in ABLATION_ROWS for scene in ABLATION_SCENES for n in range(3)]
    # Other levels than the experiment's, so that a mean that had both would be another.
    lines += [
        r | {"sdr": r["sdr"] - 50, "sar": 0.0, "smr": 0.0}
        for r in (_result(row, n, *scene) for row in DEVELOPMENT_ROWS for scene in DEVELOPMENT_SCENES for n in range(3))
    ]
    lines += [_result(row, n, smr) for row in SEED_ROWS for smr in (15.0, 0.0) for n in range(3)]
    return lines


@pytest.fixture(scope="module")
def results() -> tables.Results:
    return tables.Results(_run())


def test_a_mean_has_the_interval_of_student() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    found = tables.mean(values)
    assert found is not None
    low, high = st.t.interval(0.95, 3, np.mean(values), st.sem(values))
    assert (found.mean - found.margin, found.mean + found.margin, found.items) == (pytest.approx(low), pytest.approx(high), 4)
    assert tables.mean([]) is None
    alone = tables.mean([3.0])
    assert alone is not None and np.isnan(alone.margin) and tables.shown(alone) == "3.0"


def test_items_without_a_number_are_left_out(results: tables.Results) -> None:
    words = results.mean("nmf", "WER", 15.0)
    assert words is not None and (words.mean, words.items) == (pytest.approx(40.0), 2)
    assert results.mean("nmf", "WER", 0.0) is None and tables.shown(None) == "–"


def test_gains_are_of_the_same_items() -> None:
    lines = [_result("nmf", 0), _result("nmf", 1), _result("KL-NMF", 1), _result("KL-NMF", 2)]
    gain = tables.Results(lines).gain("nmf", "KL-NMF", "SDR", 0.0)
    assert gain is not None and (gain.mean, gain.items) == (pytest.approx(4.0), 1)


def test_tables_stand_beside_the_papers(results: tables.Results) -> None:
    made = {table.title.split(":")[0]: table for table in tables.tables(results)}
    smr = made["Table 2 of the paper"]
    assert smr.head == ["method", "Self", "paper", "All", "paper", "Other", "paper"]
    row = next(cells for cells in smr.rows if cells[0] == "icm")
    assert row[2::2] == ["33.3", "33.8", "33.8"] and row[1].startswith("31.0 ±")
    assert all(len(cells) == len(table.head) for table in made.values() for cells in table.rows)
    ours = {"What each part of the default brings", "The default with other seeds", "Is the posterior as sure as it may be?"}
    assert ours <= made.keys()
    others = made["The same and the methods over the development mixtures"]
    assert [row[0] for row in others.rows[:3]] == ["variational, the default", "ideal ratio mask", "nmf"]
    assert others.rows[0][1].startswith("−24.0 ±") and len(others.head) == 7
    assert next(cells for cells in made["What each part of the default brings"].rows)[1].startswith("26.0 ±")


def test_what_was_not_run_has_no_table_and_no_finding() -> None:
    few = tables.Results([_result("nmf", 0), _result("KL-NMF", 0)])
    titles = [table.title for table in tables.tables(few)]
    assert not [title for title in titles if "paper" in title or "part of the default" in title]
    assert [f.statement for f in tables.findings(few)] == [
        "At 0 dB every trained method beats the mixture, the unsupervised one and every pick-instead baseline"
    ]
    assert tables.tables(tables.Results([])) == [] and tables.findings(tables.Results([])) == []


def test_statements_follow_the_numbers(results: tables.Results) -> None:
    said = {f.statement: f.holds for f in tables.findings(results)}
    assert said["At 0 dB the default is 3 dB above KL-NMF, as measured"]
    assert all(said[s] for s in said if "every trained method" in s)
    assert said["At 15 dB the best method has 30 dB SMR"] and said["At 15 dB the best method has 18 dB SAR"]
    worse = [r | {"sdr": r["sdr"] - 5} if r["row"] == "icm" and r["smr_db"] == 5 else r for r in _run()]
    said = {f.statement: f.holds for f in tables.findings(tables.Results(worse))}
    assert [s for s in said if "every trained method" in s and said[s] is False] == [
        "At 5 dB every trained method beats the mixture, the unsupervised one and every pick-instead baseline"
    ]
    apart = [r | {"sdr": r["sdr"] + 9 * (r["item"] == 0)} if r["row"] == "unsupervised" else r for r in _run()]
    said = {f.statement: f.holds for f in tables.findings(tables.Results(apart))}
    named = "At 0 dB every trained method beats the mixture, the unsupervised one and every pick-instead baseline"
    assert said[named] is None, "on average alone"
    words = "At 15 dB the default lowers the word error rate of the mixture"
    for more, holds in (([2, 2], True), ([-2, -2], False), ([0, 4], None)):
        heard = _run()
        for r in heard:
            if r["row"] == "mixture" and "words" in r:
                r["word_errors"] += more[r["item"] - 1]
        assert {f.statement: f.holds for f in tables.findings(tables.Results(heard))}[words] is holds, more
    better = [r | {"sar": r["sar"] + 1} if r["row"] == "icm" else r for r in _run()]
    said = {f.statement: f.holds for f in tables.findings(tables.Results(better))}
    assert said["ICM: the best SAR"] and not said["ICM, log-modes: the best SAR"] and said["Joint estimation is not better"]


def test_one_speech_over_several_jingles_is_one_sample() -> None:
    step = len(protocol.DEVELOPMENT.speakers)
    levels = {0: 1.0, 1: 4.0, step: 3.0, step + 1: 6.0}  # two speeches, with means of 2 and 5
    lines = [_result("nmf", n, 0.0, "development") | {"sdr": level} for n, level in levels.items()]
    lines += [_result("icm", n, 0.0, "development") | {"sdr": 2 * level} for n, level in levels.items()]
    results = tables.Results(lines)
    found, gain = results.mean("nmf", "SDR", 0.0, "development"), results.gain("icm", "nmf", "SDR", 0.0, "development")
    expected = tables.mean([2.0, 5.0])
    assert found is not None and expected is not None and found == gain == expected._replace(items=4)
    alone = tables.Results([_result("nmf", n) | {"sdr": level} for n, level in levels.items()]).mean("nmf", "SDR", 0.0)
    assert alone is not None and alone == tables.mean(list(levels.values()))  # in the experiment each has its own


def test_parts_that_only_harm_are_named() -> None:
    rows = ("variational", *tables.ABLATED)
    lines = [_result(row, n, *scene) for row in rows for scene in DEVELOPMENT_SCENES for n in range(4)]
    statement = "On the development mixtures, changing or removing a part of the default never improves SDR beyond the interval"
    better = [r | {"sdr": r["sdr"] + 1 + 0.1 * r["item"]} if r["row"] == "no warm-up" else r for r in lines]
    for results, holds in ((lines, True), (better, False)):
        said = {f.statement: f for f in tables.findings(tables.Results(results))}
        assert said[statement].holds == holds and ("no warm-up at 15 dB" in said[statement].numbers) != holds
    assert "In the experiment" not in " ".join(said)
    part = [line for line in lines if line["row"] in ("variational", "no warm-up")]
    of_one = [line for line in lines if line["item"] == 0]
    for results, open_ in ((part, len(DEVELOPMENT_SCENES) * (len(tables.ABLATED) - 1)), (of_one, 3 * len(tables.ABLATED))):
        said = {f.statement: f for f in tables.findings(tables.Results(results))}
        assert said[statement].holds is None and f"{open_} are open" in said[statement].numbers


def test_files_hold_every_mean(results: tables.Results) -> None:
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(results))))
    one = next(
        line for line in lines
        if (line["row"], line["smr_db"], line["condition"], line["training"], line["measure"])
        == ("svi", "5.0", "plain", "Self", "SDR")
    )  # fmt: skip
    assert (float(one["mean"]), int(one["items"])) == (16.0, 3)
    page = tables.to_markdown(results, "About this.", "some.png")
    assert "About this." in page and "(some.png)" in page and page.count("## Table") == 3
    assert "**At 0 dB the default is 3 dB above KL-NMF, as measured: yes**" in page


@pytest.mark.loose_arrays
def test_a_picture_is_drawn(results: tables.Results) -> None:
    assert tables.picture(results).startswith(b"\x89PNG")


def test_gains_may_be_of_some_items_and_periods_are_counted() -> None:
    lines = [_result(row, n, period=4.0 if n else None) for row in ("nmf", "KL-NMF") for n in range(4)]
    some = tables.Results(lines)
    gain = some.gain("nmf", "KL-NMF", "SDR", 0.0, items=[1, 3, 9])
    assert gain is not None and gain.items == 2
    found = some.mean("nmf", "period", 0.0)
    assert found is not None and found.mean == pytest.approx(75.0)
    assert tables.Results([_result("nmf", 0)]).mean("nmf", "period", 0.0) is None
