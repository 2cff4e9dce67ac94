"""Several methods on one mixture: who is scored how, what is shared, what is written."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bayessep import audio, comparison, estimates, metrics, pipeline, plots, report, separators
from bayessep.comparison import Comparison, Row
from bayessep.data import Broadcast, generate_broadcast
from bayessep.errors import UserError
from bayessep.metrics import StemScores
from bayessep.neural import Stems
from bayessep.preparation import Known
from bayessep.settings import Settings

SMALL = Settings(bases=4, sweeps=3, training_sweeps=3, chain=False)


@pytest.fixture(scope="module")
def made() -> Broadcast:
    return generate_broadcast(0, seconds=3, sample_rate=8000, jingle_seconds=1, training_seconds=2)


@pytest.fixture(scope="module")
def known(made: Broadcast) -> Known:
    return Known(speech=(made.training_speech,), music=(made.labelled_music,))


@pytest.fixture(scope="module")
def references(made: Broadcast) -> dict[str, np.ndarray]:
    return {"speech": made.speech, "music": made.music}


@pytest.fixture(scope="module")
def found(made: Broadcast, known: Known, references: dict[str, np.ndarray]) -> Comparison:
    stereo = np.stack([1.2 * made.mixture, 0.8 * made.mixture]).astype(np.float32)
    methods = ["variational", "nmf", "variational"]
    # The rules under which the tests run, so that what is compiled here serves them too.
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return comparison.compare(stereo, made.sample_rate, known, methods, SMALL, references=references)


def by_hand() -> Comparison:
    """Scores with known winners, ties with the mixture, and values that are not numbers."""
    rows = [
        Row("mixture", StemScores(20.0, 20.0, 151.6, 20.0), None, None, None, None),
        Row("nmf", StemScores(5.0, 9.0, 7.0, -math.inf), None, -10.0, 3, 2.0),
        Row("joint", StemScores(6.0, 8.0, math.nan, 5.0), None, -99.0, 4, 3.0),
    ]
    return Comparison(rows, {}, 8000, 0.0)


def test_rows_follow_the_mixture_in_the_order_asked_for(found: Comparison) -> None:
    assert [row.method for row in found.rows] == ["mixture", "variational", "nmf"]
    assert list(found.separations) == ["variational", "nmf"]


def test_scores_are_those_of_the_mean_of_the_channels(
    found: Comparison, made: Broadcast, references: dict[str, np.ndarray]
) -> None:
    expected = metrics.evaluate_stems(references, {"speech": made.mixture, "music": made.mixture})
    unprocessed = found.rows[0]
    assert unprocessed.speech is not None and unprocessed.music is not None
    assert unprocessed.speech.sdr == pytest.approx(expected["speech"].sdr, abs=1e-3)
    assert unprocessed.music.sir == pytest.approx(expected["music"].sir, abs=1e-3)
    one = found.separations["nmf"]
    expected = metrics.evaluate_stems(references, {"speech": one.speech.mean(0), "music": one.music.mean(0)})
    assert found.rows[2].speech == expected["speech"] and found.rows[2].music == expected["music"]
    assert found.rows[2][3:] == (one.bound, one.steps, one.seconds)


def test_templates_are_trained_once_and_sharing_them_changes_nothing(
    made: Broadcast, known: Known, found: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*args, **options):
        calls.append(args)
        return train_templates(*args, **options)

    train_templates = separators.train_templates
    monkeypatch.setattr(separators, "train_templates", counted)
    mixture = np.stack([1.2 * made.mixture, 0.8 * made.mixture]).astype(np.float32)
    several = comparison.compare(mixture, made.sample_rate, known, ["nmf", "variational"], SMALL)
    assert len(calls) == 1
    for name, one in several.separations.items():
        alone = pipeline.separate(mixture, made.sample_rate, known, dataclasses.replace(SMALL, method=name))
        np.testing.assert_array_equal(one.speech, alone.speech)
        np.testing.assert_array_equal(one.speech, found.separations[name].speech)


def test_unsupervised_alone_needs_no_speech(made: Broadcast) -> None:
    few = Known(music=(made.labelled_music,))
    found = comparison.compare(made.mixture[None], made.sample_rate, few, ["unsupervised"], SMALL)
    assert [row.speech for row in found.rows] == [None, None]
    with pytest.raises(UserError, match="speech"):
        comparison.compare(made.mixture[None], made.sample_rate, few, ["unsupervised", "nmf"], SMALL)


@pytest.mark.parametrize(
    ("methods", "reference", "words"),
    [
        ([], None, "no method"),
        (["magic"], None, "magic"),
        (["nmf"], np.zeros(24000, np.float32), "silent"),
        (["nmf"], np.ones(23999, np.float32), "23999"),
    ],
)
def test_what_cannot_be_compared(
    made: Broadcast, known: Known, methods: list[str], reference: np.ndarray | None, words: str
) -> None:
    references = None if reference is None else {"speech": reference}
    with pytest.raises(UserError, match=words):
        comparison.compare(made.mixture[None], made.sample_rate, known, methods, SMALL, references=references)


def test_methods_without_a_posterior_have_rows_pages_and_files(
    made: Broadcast, known: Known, references: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Ideal masks, and a network that halves what it hears; alone, and beside a Bayesian method."""
    mixture = made.mixture[None]

    def halved(x: np.ndarray, rate: int, progress: Any) -> Stems:
        return Stems(x / 2, x - x / 2)

    ideal = {name: estimates.by_truth(name, references) for name in estimates.ORACLES}
    others = {"blstm-mask": halved, **ideal}
    for methods in (["ideal-ratio-mask", "nmf", "blstm-mask", "ideal-binary-mask"], ["blstm-mask", "ideal-ratio-mask"]):
        found = comparison.compare(
            mixture, made.sample_rate, known, methods, SMALL, references=references, estimators=others
        )
        assert [row.method for row in found.rows] == ["mixture", *methods] and list(found.apart) == methods
        rows = {row.method: row for row in found.rows}
        before, ideal_speech, half = (rows[name].speech for name in ("mixture", "ideal-ratio-mask", "blstm-mask"))
        assert before is not None and ideal_speech is not None and half is not None
        assert ideal_speech.si_sdr > before.si_sdr + 5 and abs(half.si_sdr - before.si_sdr) < 1e-3
        np.testing.assert_allclose(found.estimates["blstm-mask"].mask, 0.5, atol=1e-5)
        assert all(c.best is None or found.rows[c.best].method not in estimates.ORACLES for c in comparison.columns(found))
        comparison.write(found, mixture, tmp_path / "out", references=references)
        report.write_report(tmp_path / "page.html", found, mixture, made.sample_rate, references=references)
        page = (tmp_path / "page.html").read_text()
        assert "an upper limit for masks" in page and ("Bayesian methods are" in page) == ("nmf" in methods)
        assert (tmp_path / "out" / "ideal-ratio-mask" / "music.wav").exists() and (tmp_path / "out" / "compare.png").exists()
    with pytest.raises(UserError, match="the music is not known"):
        estimates.by_truth("ideal-ratio-mask", {"speech": made.speech})


def test_a_silent_estimate_has_no_score(references: dict[str, np.ndarray], made: Broadcast) -> None:
    speech, music = comparison.score(references, np.zeros((1, 24000), np.float32), made.mixture[None])
    assert speech is None and music is not None
    only_speech = {"speech": references["speech"]}
    speech, music = comparison.score(only_speech, made.mixture[None], made.mixture[None])
    assert speech is not None and speech.sir == math.inf and music is None


def test_channels_that_cancel_are_scored_by_one(references: dict[str, np.ndarray], made: Broadcast) -> None:
    turned = {name: np.stack([own, -own]) for name, own in references.items()}
    for expected, scored in zip(
        comparison.score(references, *(references[name][None] for name in ("speech", "music"))),
        comparison.score(references, turned["speech"], turned["music"]),
        strict=True,
    ):
        assert expected is not None and scored is not None and scored.si_sdr == pytest.approx(expected.si_sdr, abs=1e-3)


def test_json_has_every_field_and_no_infinity() -> None:
    document = comparison.to_json(by_hand())
    json.dumps(document, allow_nan=False)
    assert document["rows"][0] == {
        "method": "mixture", "speech": {"sdr": 20.0, "sir": 20.0, "sar": None, "si_sdr": 20.0}, "music": None,
        "bound": None, "sweeps": None, "seconds": None,
    }  # fmt: skip
    assert document["rows"][2]["speech"]["sar"] is None and document["rows"][2]["sweeps"] == 4


@pytest.mark.parametrize(
    ("value", "decimals", "said"),
    [
        (11.95, 1, "12.0"), (20.65, 1, "20.7"), (0.25, 1, "0.3"), (-0.04, 1, "−0.0"), (3, 0, "3"), (1e-9, 2, "0.00"),
        (-11.95, 1, "−12.0"), (1e27, 1, "1000000000000000000000000000"), (math.inf, 1, "∞"), (math.nan, 1, "–"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_as_they_are_read(value: float | int, decimals: int, said: str) -> None:
    assert comparison.cell(value, decimals) == said


def test_best_of_each_column() -> None:
    best = {c.heading: c.best for c in comparison.columns(by_hand())}
    # The mixture never wins, bounds do not compete, and where only one method has a value nothing was won.
    expected = {"SMR": 1, "SAR": None, "SDR": 2, "SI-SDR": None, "SDR music": None, "bound": None, "sweeps": None}
    assert best == {**expected, "seconds": None}


def test_table_prints_each_row(found: Comparison) -> None:
    stream = io.StringIO()
    Console(file=stream, width=120).print(comparison.table(found))
    text = stream.getvalue()
    assert all(name in text for name in ("mixture", "variational", "nmf", "SMR", "SI-SDR", "bound"))
    assert found.rows[2].speech is not None and f"{found.rows[2].speech.sdr:.1f}".replace("-", "−") in text


def test_written_files(found: Comparison, made: Broadcast, tmp_path: Path) -> None:
    stereo = np.stack([1.2 * made.mixture, 0.8 * made.mixture]).astype(np.float32)
    loud = {k: s._replace(speech=4 * s.speech, music=4 * s.music) for k, s in found.separations.items()}
    paths = comparison.write(found._replace(separations=loud), stereo, tmp_path / "new")
    with paths["json"].open() as file:
        document = json.load(file)
    assert 0 < document["gain"] < 1
    stems = [audio.read(tmp_path / "new" / "nmf" / f"{stem}.wav").samples for stem in ("speech", "music")]
    np.testing.assert_allclose(sum(stems), 4 * stereo * document["gain"], atol=2e-6)
    assert max(np.abs(s).max() for s in stems) <= 1
    with paths["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["mixture", "variational", "nmf"]
    assert rows[0]["bound"] == "" and float(rows[2]["bound"]) == found.rows[2].bound
    with Image.open(paths["png"]) as picture:
        assert picture.width > 800
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "compare.csv", "compare.json", "compare.png", "nmf", "variational",
    ]  # fmt: skip


# --- pictures -----------------------------------------------------------------------------------------------------


def test_only_what_a_comparison_has_written_is_its_own(tmp_path: Path) -> None:
    assert comparison.earlier(tmp_path) == []
    for damaged in ("{", "[]", '{"rows": [1]}', '{"rows": 3}'):
        (tmp_path / "compare.json").write_text(damaged)
        assert comparison.earlier(tmp_path) == []
    (tmp_path / "compare.json").write_text(json.dumps({"rows": [{"method": name} for name in ("mixture", "nmf", "../x", None)]}))
    assert comparison.earlier(tmp_path) == comparison.files_of("nmf")


def test_a_tone_is_where_it_belongs() -> None:
    """2 of 4 kHz, in the second half: dark half way up, on the right."""
    time = np.arange(16000) / 8000
    tone = (np.sin(2 * np.pi * 2000 * time) * (time >= 1)).astype(np.float32)[None]
    picture = Image.open(io.BytesIO(plots.spectrogram_png(tone, 8000, plots.scale_of(tone, 8000))))
    darkness = 255 - np.asarray(picture.convert("L"), float)
    row, column = np.unravel_index(darkness.argmax(), darkness.shape)
    assert abs(row / darkness.shape[0] - 0.5) < 0.02
    assert darkness[:, : darkness.shape[1] * 2 // 5].max() == 0 < darkness[row, -darkness.shape[1] // 3]


def test_pictures_are_bounded_and_keep_their_means() -> None:
    rows = np.arange(30.0).reshape(10, 3)
    np.testing.assert_allclose(plots._pooled(rows, 5), rows.reshape(5, 2, 3).mean(1))
    assert plots._pooled(rows, 20) is rows
    noise = np.random.default_rng(0).standard_normal((1, 200_000)).astype(np.float32)
    assert Image.open(io.BytesIO(plots.spectrogram_png(noise, 8000, plots.scale_of(noise, 8000), width=50))).width == 50


def test_gain_missing_is_relative_to_the_own_rise() -> None:
    trace = np.array([-100.0, -50.0, -20.0, 0.0, 0.0])
    np.testing.assert_allclose(plots.gain_missing(trace), [1, 0.5, 0.2, np.nan, np.nan])
    np.testing.assert_allclose(plots.gain_missing(3 * trace + 7), plots.gain_missing(trace))


def test_every_figure_draws_and_repeats(found: Comparison, made: Broadcast) -> None:
    stereo = np.stack([made.mixture, made.mixture])
    one = found.separations["nmf"]
    unscored = found._replace(rows=[row._replace(speech=None) for row in found.rows])
    figures: list[Callable[[], plots.Figure]] = [
        lambda: plots.compare_figure(unscored, stereo),
        lambda: plots.trace_figure(found.separations),
        lambda: plots.uncertainty_figure(one, stereo, made.sample_rate),
        lambda: plots.mask_figure(one, stereo, made.sample_rate),
    ]
    for draw in figures:
        assert plots.png(draw(), 40) == plots.png(draw(), 40)
