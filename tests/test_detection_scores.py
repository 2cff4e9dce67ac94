"""Scores of detections, by hand and against scikit-learn and pyannote.metrics."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics
from sklearn.calibration import calibration_curve

from bayessep import plots, plots_detection
from bayessep.detection_scores import class_scores, frame_scores, reliability, segment_scores
from bayessep.errors import UserError
from bayessep.timeline import Segment, fill_gaps

# --- labels --------------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    found = class_scores(list("aaab"), list("aabb"))
    assert found.classes == ("a", "b")
    np.testing.assert_allclose(found.precision, [1, 1 / 2])
    np.testing.assert_allclose(found.recall, [2 / 3, 1])
    np.testing.assert_allclose(found.f1, [4 / 5, 2 / 3])
    assert found.support.tolist() == [3, 1] and found.predicted.tolist() == [2, 2]
    assert found.macro_f1 == pytest.approx(11 / 15)
    assert found.balanced_accuracy == pytest.approx(5 / 6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("true_classes", [4, 3])
def test_scores_are_those_of_scikit_learn(seed: int, true_classes: int) -> None:
    random = np.random.default_rng(seed)
    true, found = random.integers(true_classes, size=50), random.integers(1, 4, size=50)
    ours = class_scores(true, found, classes=range(5))  # nothing is a 4, and a 0 is never found
    theirs = metrics.precision_recall_fscore_support(true, found, labels=range(5), zero_division=0)
    for a, b in zip((ours.precision, ours.recall, ours.f1, ours.support), theirs, strict=True):
        np.testing.assert_allclose(a, b)
    assert ours.macro_f1 == pytest.approx(metrics.f1_score(true, found, average="macro", zero_division=0))
    recalls = metrics.recall_score(true, found, labels=np.unique(true), average="macro", zero_division=0)
    assert ours.balanced_accuracy == pytest.approx(recalls)


def test_nothing_at_all_scores_nothing() -> None:
    found = class_scores(np.array([], int), np.array([], int), classes=[0, 1])
    assert found.macro_f1 == found.balanced_accuracy == 0
    assert np.isfinite([*found.precision, *found.recall, *found.f1]).all()
    with pytest.raises(UserError, match="2 true labels and 1 predicted"):
        class_scores([1, 2], [1])


# --- frames --------------------------------------------------------------------------------------------------------------

REFERENCE = [
    Segment(0.0, 4.0, "speech"), Segment(4.0, 6.0, "speech+music"), Segment(6.0, 9.0, "music"), Segment(9.0, 10.0, "noise"),
]  # fmt: skip
ESTIMATE = [Segment(0.0, 5.0, "speech"), Segment(5.0, 8.0, "music"), Segment(9.0, 12.0, "music")]


def test_frames_by_hand() -> None:
    found = frame_scores(REFERENCE, ESTIMATE, 12, 0.5)
    assert found.frames == 20  # the last two seconds are unlabelled
    np.testing.assert_allclose(found.each.precision, [1, 3 / 4])
    np.testing.assert_allclose(found.each.recall, [5 / 6, 3 / 5])
    np.testing.assert_allclose(found.each.f1, [10 / 11, 6 / 9])
    assert found.exclusive.classes == ("speech", "music", "speech+music")
    np.testing.assert_allclose(found.exclusive.precision, [4 / 5, 2 / 4, 0])
    np.testing.assert_allclose(found.exclusive.recall, [1, 2 / 3, 0])


def test_frames_at_their_edges() -> None:
    assert frame_scores(REFERENCE, REFERENCE, 10).each.macro_f1 == 1
    assert frame_scores(REFERENCE, REFERENCE, 10).exclusive.balanced_accuracy == 1
    nothing = frame_scores([], ESTIMATE, 10)
    assert nothing.frames == 0 and nothing.each.macro_f1 == 0
    alarms = frame_scores(fill_gaps([], 10, "noise"), ESTIMATE, 10)
    assert alarms.each.precision.tolist() == [0, 0] and alarms.each.balanced_accuracy == 0
    with pytest.raises(UserError, match="positive"):
        frame_scores(REFERENCE, ESTIMATE, 10, 0.0)


# --- segments ------------------------------------------------------------------------------------------------------------


def test_without_pyannote_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyannote.core", None)
    with pytest.raises(UserError, match=r"bayessep\[detection\]"):
        segment_scores(REFERENCE, ESTIMATE, 12)
    with pytest.raises(UserError, match="positive"):
        segment_scores(REFERENCE, ESTIMATE, 0)


def test_segments_by_hand() -> None:
    pytest.importorskip("pyannote.metrics", reason="the extra detection is not installed")
    found = segment_scores(REFERENCE, ESTIMATE, 12)
    np.testing.assert_allclose(found["speech"], [1 / 6, 1, 5 / 6, 10 / 11])
    np.testing.assert_allclose(found["music"], [(1 + 2) / 5, 3 / 4, 3 / 5, 2 / 3])
    # Half a second on each side of 0 and 6 s does not count, and 4 s is no boundary of speech.
    collared = segment_scores(REFERENCE, ESTIMATE, 12, collar=1)
    np.testing.assert_allclose(collared["speech"], [0.5 / 5, 1, 4.5 / 5, 2 * 0.9 / 1.9])
    np.testing.assert_allclose(collared["music"], [(0.5 + 0.5 + 0.5) / 4, 3 / 3.5, 3 / 4, 6 / 7.5])


def test_other_names_are_scored_alike_and_others_are_neither() -> None:
    estimate = [Segment(0.0, 1.0, "speech"), Segment(1.0, 2.0, "music"), Segment(2.0, 3.0, "noise")]
    reference = [Segment(0.0, 1.0, "Speech"), Segment(1.0, 2.0, "jingle"), Segment(2.0, 3.0, "applause")]
    frames, stretches = frame_scores(reference, estimate, 3.0), segment_scores(reference, estimate, 3.0)
    assert frames.each.f1.tolist() == [stretches[name].f1 for name in ("speech", "music")] == [1.0, 1.0]
    assert frames.frames == frame_scores(estimate, estimate, 3.0).frames, "all of it counts"


def test_an_absent_class_has_the_scores_of_pyannote() -> None:
    pytest.importorskip("pyannote.metrics", reason="the extra detection is not installed")
    quiet = fill_gaps([Segment(0.0, 5.0, "speech")], 10, "noise")
    assert segment_scores(quiet, quiet, 10)["music"] == (0, 1, 1, 1)
    assert segment_scores(quiet, [Segment(0.0, 1.0, "music")], 10)["music"] == (1, 0, 1, 0)
    assert all(np.isfinite(s).all() for s in segment_scores([], ESTIMATE, 10).values())


@pytest.mark.parametrize("seed", range(3))
def test_segments_are_frames_that_are_short(seed: int) -> None:
    pytest.importorskip("pyannote.metrics", reason="the extra detection is not installed")
    random = np.random.default_rng(seed)
    labels = ["speech", "music", "speech+music", "noise", "unlabelled"]

    def timeline() -> list[Segment]:
        edges = [0, *np.sort(random.choice(np.arange(1, 1000), 20, replace=False)), 1000]
        return [Segment(a / 100, b / 100, str(random.choice(labels))) for a, b in zip(edges, edges[1:], strict=False)]

    reference, estimate = timeline(), timeline()
    frames, exact = frame_scores(reference, estimate, 10).each, segment_scores(reference, estimate, 10)
    for n, label in enumerate(("speech", "music")):
        np.testing.assert_allclose(exact[label][1:], [frames.precision[n], frames.recall[n], frames.f1[n]], atol=1e-9)


# --- probabilities -------------------------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    p = np.array([0.0, 0.1, 0.2, 0.5, 0.9, 1.0])
    found = reliability(p, np.array([0, 0, 1, 1, 1, 1], bool), bins=2)
    assert found.counts.tolist() == [4, 2]  # 0.5 belongs to the lower bin
    np.testing.assert_allclose(found.probability, [0.2, 0.95])
    np.testing.assert_allclose(found.frequency, [0.5, 1])
    assert found.error == pytest.approx((4 * 0.3 + 2 * 0.05) / 6)


def test_calibration_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    p = random.beta(0.5, 0.5, 500)
    truth = random.random(500) < p**2
    found = reliability(p, truth)
    frequency, probability = calibration_curve(truth, p, n_bins=15)
    some = found.counts > 0
    np.testing.assert_allclose(found.frequency[some], frequency)
    np.testing.assert_allclose(found.probability[some], probability)
    assert found.error > 0.05 > reliability(p, random.random(500) < p).error
    assert found.counts.sum() == 500


def test_what_has_no_calibration_is_refused() -> None:
    for p, truth, bins in (([], [], 15), ([0.5], [True, False], 15), ([0.5], [True], 0)):
        with pytest.raises(UserError, match="have no calibration"):
            reliability(np.array(p, float), np.array(truth, bool), bins)
    for wrong in (1.5, np.nan):
        with pytest.raises(UserError, match=f"{wrong} is not a probability"):
            reliability(np.array([0.5, wrong]), np.array([True, False]))


def test_the_diagram_is_drawn_the_same_each_time() -> None:
    curves = {"a": reliability(np.linspace(0, 1, 100), np.arange(100) > 40), "b": reliability(np.array([0.3]), np.array([True]))}
    pictures = {plots.png(plots_detection.reliability_figure(curves), 50) for _ in range(2)}
    assert len(pictures) == 1
    assert Image.open(io.BytesIO(pictures.pop())).width > 100
