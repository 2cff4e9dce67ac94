"""The skewness that sets speech and music apart, against scipy, and its picture and number."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from bayessep import plots, plots_detection
from bayessep.errors import UserError
from bayessep.separability import PARTS, embed, separability, skew, skewness

RATE = 16000


def test_skewness_is_scipys() -> None:
    x = np.random.default_rng(0).gamma(0.3, size=(4, 30, 21)).astype(np.float32)
    np.testing.assert_allclose(skew(x), stats.skew(x.astype(np.float64), axis=-1), rtol=1e-9)
    constant = np.full((2, 10), 0.1, np.float32)
    assert skew(constant).tolist() == [0, 0]
    assert skew(np.zeros(5)) == 0
    np.testing.assert_allclose(skew(1e-9 * x[0]), skew(x[0]), rtol=1e-4)  # a quiet sound is not a constant


def test_patches_and_columns_are_where_they_belong() -> None:
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    found = skewness(noise)
    assert found.shape == ((198 - 68) // 6 + 1, 21 + 68) and found.dtype == np.float32
    np.testing.assert_array_equal(found[1, 21:-6], found[0, 21 + 6 :])  # the same frames, one patch later
    assert skewness(noise, hop=68).shape == (2, 89)
    assert skewness(noise[: RATE // 10]).shape == (1, 89)  # repeated until it fills a patch


@pytest.mark.parametrize("parts", PARTS)
def test_a_tone_and_clicks_are_opposites(parts: str) -> None:
    n = np.arange(2 * RATE)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(len(n))
    tone = (0.5 * np.sin(2 * np.pi * 440 / RATE * n) + noise).astype(np.float32)
    clicks = ((n % (RATE // 4) == RATE // 8) + noise).astype(np.float32)
    (tone_rows, tone_columns), (click_rows, click_columns) = (np.split(skewness(x, parts).mean(0), [21]) for x in (tone, clicks))
    assert tone_rows.max() < 2 and click_columns.max() < 1
    if parts == "harmonic+percussive":
        # Rows are of the part without clicks, columns of the part without the tone.
        assert click_rows.max() < 1 and tone_columns.max() < 1
    else:
        # A tone is the same in all frames, but in few bands; a click is in all bands, but in few frames.
        assert click_rows.min() > 3 and tone_columns.min() > 3


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="'loudness' is not known"):
        skewness(np.zeros(RATE, np.float32), "loudness")
    with pytest.raises(UserError, match="shorter than one frame"):
        skewness(np.zeros(100, np.float32))


def _vectors(distance: float, groups: int = 12, each: int = 30) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two clouds, each of groups that lie about their own middles."""
    random = np.random.default_rng(0)
    middles = random.standard_normal((groups, 1, 8))
    middles[groups // 2 :] += distance
    vectors = middles + 0.3 * random.standard_normal((groups, each, 8))
    names = [f"g{n}" for n in range(groups) for _ in range(each)]
    return vectors.reshape(-1, 8), np.arange(groups * each) < groups * each // 2, names


def test_the_number_knows_classes_from_groups() -> None:
    apart, mixed = (separability(*_vectors(distance), n_folds=3) for distance in (4.0, 0.0))
    assert apart.accuracy == 1 and apart.silhouette > 0.3
    # Without the groups, each patch would find one of its own group and be right.
    assert mixed.accuracy < 0.8 and mixed.silhouette < 0.3
    assert mixed.accuracy == pytest.approx(mixed.of_folds.mean())
    few = separability(*_vectors(4.0), n_folds=3, most=5)
    assert few.patches == 12 * 5
    vectors, speech, groups = _vectors(0.0)
    with pytest.raises(UserError, match="6 groups of speech cannot be divided into 7 folds"):
        separability(vectors, speech, groups, n_folds=7)


def test_the_picture_is_the_same_each_time() -> None:
    vectors, speech, _ = _vectors(4.0)
    embedding = embed(vectors, speech, centroids=40)
    again = embed(vectors, speech, centroids=40)
    np.testing.assert_array_equal(embedding.points, again.points)
    assert len(embedding.points) == len(embedding.speech) <= 80
    spread = embedding.points.std(0).sum()
    means = [embedding.points[embedding.speech == c].mean(0) for c in (False, True)]
    assert np.linalg.norm(means[0] - means[1]) > 0.5 * spread
    assert len(embed(vectors, speech, centroids=40, outliers=9).points) == 80
    pictures = {
        plots.png(plots_detection.separability_figure({"one": embedding, "two": again}, {"one": "a"}), 50) for _ in range(2)
    }
    assert len(pictures) == 1
    assert Image.open(io.BytesIO(pictures.pop())).width == 450
    with pytest.raises(UserError, match="0 patches of speech"):
        embed(vectors, speech & False)


def test_without_scikit_learn_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn.cluster", "sklearn.metrics"):
        monkeypatch.setitem(sys.modules, module, None)
    vectors, speech, groups = _vectors(4.0)
    for call in (lambda: embed(vectors, speech), lambda: separability(vectors, speech, groups)):
        with pytest.raises(UserError, match=r"scikit-learn is not installed; pip install 'bayessep\[baselines\]'"):
            call()
