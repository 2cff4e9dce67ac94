"""The detector that ships: what it may learn from, how it is measured, and that its card says so."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio, data, detection, detector_release, shipped
from bayessep.detection import LABELS, Calibration, Network
from bayessep.detector_release import Heard
from bayessep.detector_scenes import Scene
from bayessep.errors import UserError
from bayessep.timeline import BOTH, MUSIC, SILENCE, SPEECH

RATE = 16000


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten speakers and ten artists, one of each under a licence that forbids commerce, one that is in many files."""
    folder = tmp_path_factory.mktemp("recordings")
    rows = []
    for n in range(24):
        kind, who = ("speech", "music")[n % 2], min(n // 2, 9)
        samples = 0.3 * np.random.default_rng(n).standard_normal(21 * RATE).astype(np.float32)
        audio.write(folder / f"{n}.wav", samples, RATE)
        licence = "CC BY-NC 4.0" if who == 3 else "CC BY 4.0"
        rows.append([f"{n}.wav", kind, f"{kind}-{who}", "21.0", str(RATE), "1", "", "", "github:some/place", f"{n}.wav", licence])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([data.MANIFEST_COLUMNS, *rows])
    return folder


def test_nobody_is_heard_twice_and_what_is_not_free_is_only_measured_with(
    recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_release, "GENERATED", range(1001, 1002))
    parts = detector_release.division(recordings)
    for kind in ("speech", "music"):
        learn, held, test = ({item.group for item in getattr(part, kind)} for part in (parts.learn, parts.held, parts.test))
        assert learn and held and test and not (learn & held or learn & test or held & test)
        assert f"{kind}-3" in test and "generated 1001" in learn
        assert learn | held | test == {f"{kind}-{n}" for n in range(10)} | {"generated 1001"}
    assert parts.seconds["test speech"] == sum(len(item.samples) for item in parts.test.speech) / RATE
    assert len(parts.sources) == 1 and parts.sources[0].startswith("some/place: CC BY 4.0")


def test_music_alone_is_divided_where_speech_is_of_elsewhere(recordings: Path, tmp_path: Path) -> None:
    header, *rows = (recordings / "manifest.csv").read_text().splitlines()
    (tmp_path / "manifest.csv").write_text("\n".join([header, *(row for row in rows if ",music," in row)]))
    for n in range(1, 24, 2):
        (tmp_path / f"{n}.wav").hardlink_to(recordings / f"{n}.wav")
    parts = detector_release.division(tmp_path, music_alone=True)
    assert [len(part.music) > 0 for part in (parts.learn, parts.held, parts.test)] == [True] * 3
    assert not any(item.group.startswith("speech") for part in (parts.learn, parts.held, parts.test) for item in part.speech)
    with pytest.raises(UserError, match="lists no speech that can be used"):
        detector_release.division(tmp_path)


def test_what_cannot_be_measured_with_is_said(recordings: Path, tmp_path: Path) -> None:
    """Of three speakers and two artists, a fifth is one of them."""
    header, *rows = (recordings / "manifest.csv").read_text().splitlines()
    for n in range(5):
        (tmp_path / f"{n}.wav").hardlink_to(recordings / f"{n}.wav")
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows[:5]]))
    with pytest.raises(UserError, match="there is no (speech|music) in it; give recordings of more"):
        detector_release.division(tmp_path)


def _heard() -> Heard:
    truth = [MUSIC] * 4 + [SPEECH] * 4 + [BOTH] * 4 + [SILENCE] * 4
    found = [MUSIC] * 4 + [SPEECH] * 2 + [BOTH] * 2 + [BOTH] * 3 + [SPEECH] + [SILENCE] * 4
    on = np.array([[kind in (what, BOTH) for kind in truth] for what in (SPEECH, MUSIC)])
    return Heard(truth, found, truth, on[0].astype(np.float32), np.full(16, 0.75), np.repeat([0.0, 18.0], 8), on[0], on[1])


def test_scores_are_those_by_hand() -> None:
    found = detector_release.scores(_heard())
    # Speech: 2 of 3 said are right, of 4; both: 3 of 5, of 4.
    f1 = {MUSIC: 100.0, SPEECH: round(200 * 2 / 7, 1), BOTH: round(200 * 3 / 9, 1), SILENCE: 100.0}
    assert found["segments"]["f1"] == f1
    assert found["segments"]["average_f1"] == pytest.approx((100 + 400 / 7 + 200 / 3) / 3, abs=0.1)
    assert found["segments"]["speech_f1"] == 100.0 and found["segments"]["music_f1"] == pytest.approx(100 * 14 / 17, abs=0.1)
    assert found["frames"]["average_f1"] == 100.0
    assert found["overlap_recall"] == {"16 to 20": 75.0}
    assert found["speech_ece"] == 0.0 and found["music_ece"] == pytest.approx(0.25)


def _figures(scores: dict[str, Any]) -> dict[str, Any]:
    minutes = {f"{part} {kind}": 600 for part in ("learn", "held", "test") for kind in ("speech", "music")}
    return {
        "as_recorded": scores, "altered": scores, "published": None, "before_calibration": {"speech_ece": 0.1234, "music_ece": 0.2},
        "temperature": 1.25, "bias": [0.5, -0.25, 1.0, 0.0], "best_epochs": [3, 4, 5], "seconds": minutes,
        "sources": ["some/place: CC0 (20.0 min)"],
        "most": {"speech": "60 %", "music": "49 %"},
    }  # fmt: skip


def test_the_card_says_what_was_measured() -> None:
    scores = detector_release.scores(_heard())
    figures = _figures(scores)
    card = detector_release.card(figures)
    numbers = ("0.123", "1.25", "0.50 (music), -0.25 (speech)", "3, 4, 5", "60 %", "49 %", "0.3 hours", "16 to 20 dB 75 %")
    for said in (*numbers, "some/place: CC0"):
        assert said in card, said
    row = next(line for line in card.splitlines() if line.startswith("| segments, as recorded"))
    assert [float(cell) for cell in row.split("|")[2:-1]] == [100.0, 57.1, 66.7, 100.0, 74.6, 100.0, 82.4]
    assert "published" not in card and "| segments, published | 100.0 |" in detector_release.card(figures | {"published": scores})
    assert set(LABELS) == set(scores["segments"]["f1"])


def test_published_mixtures_are_what_their_names_say(tmp_path: Path) -> None:
    rows = []
    for n, name in enumerate(("sp", "mu", "sp_plus_mu_-5db", "sp_plus_mu_10db", "sp_and_more")):
        audio.write(tmp_path / f"{name}.wav", np.full((1, 800), 0.1 * n, np.float32), 8000)
        rows.append([f"{name}.wav", "broadcast", "musan-sm_hpss", "0.1", "8000", "1", "", "", "github:a/b", f"{name}.wav", "CC0"])
    rows.append(["sp.wav", "speech", "other", "0.1", "8000", "1", "", "", "github:a/b", "sp.wav", "CC0"])
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([data.MANIFEST_COLUMNS, *rows])
    found = sorted(detector_release.published_scenes(tmp_path), key=lambda scene: abs(scene.samples[800]))
    for on in ("speech", "music"):
        assert all(getattr(s, on).all() == getattr(s, on).any() for s in found)
    said = [(bool(s.speech[0]), bool(s.music[0]), s.smr_db) for s in found]
    assert said == [(True, False, 0.0), (False, True, 0.0), (True, True, -5.0), (True, True, 10.0)]
    assert {len(s.samples) for s in found} == {1600}


def test_a_class_that_is_never_true_has_no_score() -> None:
    heard = _heard()
    scores = detector_release.scores(heard._replace(truth=[SPEECH if x == SILENCE else x for x in heard.truth]))
    assert scores["segments"]["f1"][SILENCE] is None and scores["segments"]["f1"][BOTH] is not None
    row = next(x for x in detector_release.card(_figures(scores)).splitlines() if x.startswith("| segments, as recorded"))
    assert row.split("|")[5].strip() == "–"


def test_a_calibration_is_found_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    wanted = Calibration(1.6, (0.8, -0.5, 0.3, 0.0))
    logits = rng.normal(0, 3, (20000, 4)).astype(np.float32)
    p = detection.probabilities(logits, wanted)
    true = (p.cumsum(1) < rng.random((len(p), 1))).sum(1)
    network = Network(detector_release.RECIPE, ())
    monkeypatch.setattr(detection, "logits_of", lambda blocks, network: logits)
    monkeypatch.setattr(detector_release, "truth_of", lambda scene, times: [LABELS[n] for n in true[: len(times)]])
    scene = Scene(np.zeros(len(logits) * 640, np.float32), np.zeros(1, bool), np.zeros(1, bool), 0.0)
    found = detector_release.calibration([scene], network)
    assert found.temperature == pytest.approx(wanted.temperature, rel=0.05)
    np.testing.assert_allclose(found.bias, wanted.bias, atol=0.1)


def test_what_ships_is_what_is_made_here() -> None:
    settings = shipped.read(detection.MODEL).settings
    assert settings["members"] == len(detector_release.MEMBERS) and any(settings["bias"])
    assert settings["recipe"] == json.loads(json.dumps(asdict(detector_release.RECIPE)))
    each = [settings["recipe"] | own for own in settings["each"]]
    assert each == [json.loads(json.dumps(asdict(member))) for member in detector_release.MEMBERS]
    card = (shipped.FOLDER / f"{detection.MODEL}.md").read_text(encoding="utf-8")
    assert f"{len(detector_release.MEMBERS)} networks" in card
    sources = [line for line in card.splitlines() if line.startswith("- ") and " min)" in line]
    assert len(sources) > 10 and not [line for line in sources if "GPL" in line and "CC" not in line]
