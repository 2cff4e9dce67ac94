"""Paper 004's experiment: folds of songs, results that are kept, curves and intervals by hand, and the verb from end to end."""

import csv
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio, karaoke, metrics
from bayessep import simpson2015 as experiment
from bayessep import simpson2015_tables as tables
from bayessep.errors import UserError
from bayessep.karaoke import RATE, Song
from bayessep.models.deep_karaoke import DeepKaraoke, Masks
from bayessep.simpson2015 import DNN, IDEAL, METHODS, MIXTURE, NMF, Budget, Corpus, plan
from tests.commandline import Caller

pytestmark = pytest.mark.loose_arrays  # optax

HEADER = "path,category,split_group,duration_s,sample_rate,channels,transcript,genre_or_note,source_repo,source_path,licence"
SONGS = ("one_a", "one_b", "two_a", "two_b", "three_a", "four_a")


def _song(n: int, seconds: float = 0.6) -> Song:
    """A tune of low tones over high noise."""
    rng, time = np.random.default_rng(n), np.arange(round(seconds * RATE)) / RATE
    vocals = sum(0.1 * np.sin(2 * np.pi * f * time) for f in (300 + 20 * n, 600 + 40 * n))
    return Song(
        SONGS[n], SONGS[n][:-2], vocals.astype(np.float32), (0.1 * np.diff(rng.normal(size=len(time) + 2), 2)).astype(np.float32)
    )


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four songs, two of them in two excerpts."""
    folder = tmp_path_factory.mktemp("songs")
    _write(folder, [_song(n) for n in range(len(SONGS))])
    return folder


def _write(folder: Path, songs: list[Song]) -> None:
    rows = []
    for song in songs:
        for part in experiment.SOURCES:
            audio.write(folder / song.name / f"{part}.wav", getattr(song, part)[None], RATE, "FLOAT")
            rows.append(f"{song.name}/{part}.wav,stems,{song.artist or 'artist'},1,{RATE},1,,,here,x,CC0")
    (folder / "manifest.csv").write_text("\n".join([HEADER, *rows]))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(karaoke.PRESETS, "small", DeepKaraoke(frames=2, width=4, bias=0.0))
    monkeypatch.setattr(karaoke, "HOP", 10)
    monkeypatch.setattr(experiment, "FOLDS", 2)
    small = Budget((0.31, 0.51), excerpts=1, epochs=2, steps=2, templates=2, sweeps=3, activation_sweeps=2)
    monkeypatch.setitem(experiment.BUDGETS, "quick", small)
    monkeypatch.setattr(metrics, "evaluate_stems", partial(metrics.evaluate_stems, filter_length=4))


# --- what is run ---------------------------------------------------------------------------------------------------------


def test_excerpts_of_a_song_are_in_one_fold(recordings: Path) -> None:
    corpus = Corpus(recordings)
    assert sorted(name for fold in corpus.folds for name in fold) == sorted(SONGS) and all(corpus.folds)
    for song in ("one", "two"):
        assert corpus.fold_of(f"{song}_a") == corpus.fold_of(f"{song}_b")
    every = Budget()
    for fold in range(experiment.FOLDS):
        others = {song.group for song in corpus.others(fold, every)}
        assert others and others.isdisjoint(corpus.songs[name].group for name in corpus.folds[fold])
    assert corpus.used(every) == [name for fold in corpus.folds for name in fold]
    assert sorted(corpus.used(Budget(excerpts=1))) == ["four_a", "one_a", "three_a", "two_a"]
    assert sorted(plan(corpus, "full")) == sorted((song, method, "full") for song in SONGS for method in METHODS)


def test_songs_of_an_artist_are_in_one_fold_if_there_are_artists_enough(tmp_path: Path, recordings: Path) -> None:
    assert Corpus(recordings).artists_met == 1  # of whom songs are in every fold
    whose = dict(zip(SONGS, ("she", "she", "he", "he", "they", "she"), strict=True))
    _write(tmp_path, [_song(n)._replace(artist=whose[name]) for n, name in enumerate(SONGS)])
    corpus = Corpus(tmp_path)
    assert {tuple(sorted({whose[name] for name in fold})) for fold in corpus.folds} == {("she",), ("he",), ("they",)}
    assert corpus.artists_met == 0


def test_songs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    songs = [_song(n) for n in range(2)]
    _write(tmp_path, songs)
    with pytest.raises(UserError, match="has stems of 1 song; give at least 3"):
        Corpus(tmp_path)
    _write(tmp_path, [songs[0], songs[1]._replace(vocals=np.zeros_like(songs[1].vocals))])
    with pytest.raises(UserError, match="the vocals of one_b are silent"):
        Corpus(tmp_path)


def test_an_interrupted_run_goes_on_to_the_same_figures(
    tiny: None, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(recordings)
    whole = experiment.run(tmp_path / "whole", corpus, "quick")
    assert len(whole) == len(plan(corpus, "quick")) and not list((tmp_path / "whole").rglob("checkpoints"))
    assert {line["learned"]["epochs"] for line in whole if line["method"] == DNN} == {2}

    scored, calls = experiment.scored, [0]

    def interrupted(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:  # in the middle of a song
            raise KeyboardInterrupt
        return scored(*given)

    monkeypatch.setattr(experiment, "scored", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(tmp_path / "cut", corpus, "quick")
    path = tmp_path / "cut" / "results.jsonl"
    done = path.read_text()
    assert 0 < done.count("\n") < len(whole)
    path.write_text(done + '{"song": "one_')
    again = experiment.run(tmp_path / "cut", corpus, "quick")
    assert path.read_text().startswith(done)
    assert [line["scores"] for line in again] == [line["scores"] for line in whole]
    means = [tables.Results(lines).rows() for lines in (whole, again)]
    assert means[0] == means[1] and means[0]

    monkeypatch.setattr(experiment, "_Work", lambda *_: lambda task: pytest.fail("all of it is there"))
    assert experiment.run(tmp_path / "cut", corpus, "quick") == again == experiment.finished(tmp_path / "cut", corpus, "quick")
    with pytest.raises(UserError, match="no results of the budget “full”"):
        experiment.finished(tmp_path / "cut", corpus, "full")
    with pytest.raises(UserError, match="another seed"):
        experiment.run(tmp_path / "cut", corpus, "quick", seed=1)
    corpus.digest = "other"
    with pytest.raises(UserError, match="other songs"):
        experiment.run(tmp_path / "cut", corpus, "quick")


def test_masks_are_scored_as_by_bss_eval_and_silence_is_left_out() -> None:
    song = _song(0)
    mask, _ = karaoke.mask_and_mixture(song)
    found = experiment.estimates(song, Masks(mask, 1 - mask))
    np.testing.assert_allclose(sum(found.values()), song.mixture, atol=1e-5)
    expected = metrics.bss_eval(np.stack(song.stems), np.stack(list(found.values())))
    scores = experiment.scored(song, found)
    for measure in experiment.MEASURES:
        np.testing.assert_allclose([score[measure] for score in scores], getattr(expected, measure), rtol=1e-6)
    quiet, loud = experiment.scored(song, experiment.estimates(song, Masks(0 * mask, mask)))
    assert quiet == {"source": "vocals", "sdr": None, "sir": None, "sar": None} and loud["sdr"] is not None
    nothing = experiment.scored(song, experiment.estimates(song, Masks(0 * mask, 0 * mask)))
    assert [score["sdr"] for score in nothing] == [None, None]
    assert [score["sar"] for score in experiment.scored(song, dict.fromkeys(experiment.SOURCES, song.mixture))] == [None, None]


# --- what it comes to ----------------------------------------------------------------------------------------------------


def _line(song: str, method: str, scores: dict[float | None, tuple[Any, Any]], **more: Any) -> dict[str, Any]:
    """Scores of vocals and accompaniment: (SDR, SIR, SAR) or None, by confidence."""
    made = []
    for alpha, of in scores.items():
        for source, values in zip(experiment.SOURCES, of, strict=True):
            named = dict(zip(experiment.MEASURES, values or (None,) * 3, strict=True))
            made.append(({} if alpha is None else {"alpha": alpha}) | {"source": source} | named)
    line = {"song": song, "group": song[:-2], "method": method, "budget": "full", "fold": 0, "scores": made, "seconds": 1.0}
    return line | more


def test_means_and_intervals_are_those_of_songs() -> None:
    """Excerpts 1 and 3 of a song and one of 6 of another: mean 4, deviation 2.83, t of one degree of freedom 12.706."""
    of = {"one_a": 1.0, "one_b": 3.0, "two_a": 6.0}
    results = tables.Results([_line(song, IDEAL, {None: ((v, v, v), (v + 2, v, v))}) for song, v in of.items()])
    found = results.mean(IDEAL, "vocals", "sdr")
    assert found is not None and found.items == 2 and found.mean == pytest.approx(4)
    assert found.margin == pytest.approx(12.7062 * math.sqrt(8) / math.sqrt(2), rel=1e-4)
    both = results.mean(IDEAL, tables.BOTH, "sdr")
    assert both is not None and both.mean == pytest.approx(5)


def test_a_silent_estimate_is_left_out_and_told_of() -> None:
    heard = (1.0, 2.0, 3.0)
    lines = [_line("one_a", DNN, {0.51: (None, heard)}), _line("two_a", DNN, {0.51: (heard, heard)})]
    results = tables.Results(lines)
    assert results.songs(DNN, "vocals", "sdr", 0.51) == results.songs(DNN, tables.BOTH, "sdr", 0.51) == {"two": 1.0}
    assert len(results.songs(DNN, "accompaniment", "sdr", 0.51)) == 2
    assert results.silent()[DNN] == 1
    said = tables.about(results, "full", seed=0, planned=8, lasting=60.0)
    assert "left out: DNN 1." in said and "2 of 8 results are there" in said
    assert tables.tables(results) and tables.findings(results) == []


def test_sar_at_equal_sir_is_interpolated_where_both_are() -> None:
    one = np.array([(0.0, 10.0), (10.0, 0.0)])
    above = tables.advantage(one, np.array([(14.0, -6.0), (4.0, 4.0)]))  # 2 dB below it, from 4 dB on, in any order
    assert above == pytest.approx((2.0, 4.0, 10.0))
    bent = tables.advantage(one, np.array([(0.0, 10.0), (5.0, 3.0), (10.0, 0.0)]))
    assert bent is not None and bent.sar == pytest.approx(1, abs=0.01), "a triangle of 2 dB"
    turning = np.array([(0.0, 10.0), (8.0, 2.0), (10.0, 0.0), (6.0, -4.0)])  # the last confidence has less of both
    assert tables.advantage(turning, one) == pytest.approx((0.0, 0.0, 10.0)), "where it was before it turned, it is as good"
    upright = np.array([(5.0, 1.0), (5.0, 9.0), (5.0, 3.0)])
    assert tables.advantage(upright, one) == pytest.approx((4.0, 5.0, 5.0))
    assert tables.advantage(one, one + [20.0, 0.0]) is None
    assert tables.advantage(one, one[:0]) is None


def _curves(better: float) -> list[dict[str, Any]]:
    """Three songs at three confidences; the network has so much more SAR of the vocals."""
    lines = []
    for n, song in enumerate(("one_a", "two_a", "three_a")):
        for method, more in ((DNN, better), (NMF, 0.0)):
            of = {a: ((1.0, 20 * a, 10 - 10 * a + more + 0.01 * n), (1.0, 20 * a, 10 - 10 * a)) for a in (0.01, 0.21, 0.51, 0.81)}
            learned = {"epochs": 3, "best_epoch": 2, "seconds": 60.0}
            lines.append(_line(song, method, of, learned=learned))
        lines += [_line(song, IDEAL, {None: ((9.0,) * 3,) * 2}), _line(song, MIXTURE, {None: ((0.0, 0.0, None),) * 2})]
    return lines


def test_means_over_some_of_the_songs_are_in_no_curve() -> None:
    """At 0.81 the best song is silent: what is left is worse, which is not what confidence does."""
    lines = [line for line in _curves(0.0) if line["method"] == NMF]
    for score in lines[0]["scores"]:
        score["sar"] = 40.0
        if score["alpha"] == 0.81 and score["source"] == "vocals":
            score |= dict.fromkeys(experiment.MEASURES)
    results = tables.Results(lines)
    assert results.excerpts(NMF, "vocals", "sar", 0.81) == (2, 3) and results.whole(NMF, "vocals", "sar", 0.51)
    for row, songs in (("vocals", 2), (tables.BOTH, 2), ("accompaniment", 3)):
        assert len(results.curve(NMF, row)) == songs == len([p for p in tables.figure_3(results) if p["source"] == row])
        assert {r["excerpts"] for r in results.rows() if r["source"] == row and r["alpha"] == 0.81} == {songs}
    assert len(results.curve(NMF, "vocals", "two")) == 3, "the song itself has all"
    table = next(t for t in tables.tables(results) if t.title.endswith("vocals (dB)"))
    assert [cell.endswith("(2 of 3)") for cell in table.rows[3][4:]] == [True] * 3 and "In brackets" in table.note
    assert not any("of 3" in cell for row in table.rows[:3] for cell in row)


def test_findings_follow_the_curves() -> None:
    results = tables.Results(_curves(4.0))
    assert results.curve(DNN, "vocals")[:, 0] == pytest.approx([4.2, 10.2, 16.2]), "0.01 is not of Figure 3"
    found = {f.statement: f.holds for f in tables.findings(results)}
    assert found["DNN: with α, SIR rises and SAR falls"] and found["At equal SIR, the DNN has more SAR than NMF: vocals"]
    assert (
        found["The DNN’s advantage is mostly of the vocals"]
        and found["At equal SIR, the DNN has more SAR than NMF: accompaniment"] is False
    )
    worse = {f.statement: f.holds for f in tables.findings(tables.Results(_curves(-4.0)))}
    assert (
        worse["At equal SIR, the DNN has more SAR than NMF: vocals"] is False
        and not worse["The DNN’s advantage is mostly of the vocals"]
    )
    for before, holds in (((0.0,) * 3, True), ((2.0,) * 3, False), ((0.0, 0.5, 2.5), None)):
        alone = [line for line in _curves(4.0) if line["method"] != MIXTURE]
        songs = zip(("one_a", "two_a", "three_a"), before, strict=True)
        alone += [_line(song, MIXTURE, {None: ((value, 0.0, None),) * 2}) for song, value in songs]
        told = {f.statement: f for f in tables.findings(tables.Results(alone))}
        for source in experiment.SOURCES:
            assert told[f"More SDR than the mixture: the DNN’s {source}"].holds is holds, before
    first, half, *_ = tables.tables(results)
    assert [row[1:3] for row in first.rows] == [["2.0", "3"], ["4.0", "5"], ["0.0", "little"]]
    named = [IDEAL, MIXTURE, "DNN, α = 0.51", "NMF, α = 0.51"]
    assert [row[0] for row in half.rows] == [f"{source}: {name}" for source in experiment.SOURCES for name in named]
    assert half.rows[1][3] == "–"


# --- the verb ------------------------------------------------------------------------------------------------------------


def test_the_verb_prints_and_writes(tiny: None, call: Caller, recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    line = ("reproduce", "simpson2015", "--data", recordings, "-o", folder, "--quick")
    assert "holds no results" in call.refused(*line, "--finished") and not folder.exists()
    document = json.loads(call.succeeded(*line, "--json"))
    assert (document["experiment"], document["budget"]) == ("simpson2015", "quick")
    files = {path.name for path in folder.iterdir() if path.is_file()}
    pictures = {f"quick-figure{n}.{kind}" for n in (2, 3) for kind in ("csv", "png")}
    assert files == pictures | {"quick-figures.json", "quick-figures.md", "results.jsonl", "setup.json"}
    rows = list(csv.DictReader((folder / "quick-figure2.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == set(METHODS) and {row["alpha"] for row in rows} == {"", "0.31", "0.51"}
    ideal = next(row for row in rows if (row["method"], row["source"], row["measure"]) == (IDEAL, "vocals", "sdr"))
    assert float(ideal["mean"]) > 5 and float(ideal["margin"]) > 0 and ideal["items"] == "4"
    assert "source,method,alpha,sir,sar" in (folder / "quick-figure3.csv").read_text()
    page = (folder / "quick-figures.md").read_text()
    assert "(quick-figure3.png)" in page and "these numbers say that it runs" in page
    held = (folder / "results.jsonl").read_bytes()
    assert "Figure 2 of the paper: both sources" in call.succeeded(*line, "--finished")
    assert (folder / "results.jsonl").read_bytes() == held


def test_options_of_other_experiments_are_refused(call: Caller, recordings: Path, tmp_path: Path) -> None:
    line = ("reproduce", "simpson2015", "--data", recordings, "-o", tmp_path / "out")
    for given in (("--development",), ("--jobs", 2), ("--long",), ("--transfer", tmp_path)):
        assert f"{given[0]} belongs to another experiment" in call.refused(*line, *given)
    other = call.refused("reproduce", "demir2011", "--data", recordings, "-o", tmp_path / "out", "--part", "separation")
    assert "--part belongs to another experiment (woo2020)" in other
    assert "manifest.csv" in call.refused("reproduce", "simpson2015", "--data", tmp_path, "-o", tmp_path / "out")
