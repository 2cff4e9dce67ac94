"""The period of music of which only a part is known."""

import numpy as np
import pytest

from bayessep import repetition


def _mixture(period: int, repeats: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    jingle = rng.gamma(0.4, 2.0, (period, 30)).astype(np.float32)
    n = int(period * repeats)
    music = np.tile(jingle, (int(np.ceil(repeats)) + 1, 1))[7 : 7 + n]
    speech = rng.gamma(0.2, 2.0, (n, 30)) * (rng.random((n, 1)) < 0.5)
    return (music + speech).astype(np.float32), jingle


@pytest.mark.parametrize("period", [40, 61])
def test_finds_the_period_and_what_is_missing(period: int) -> None:
    mixture, jingle = _mixture(period, 4.6)
    known = jingle[: period // 2]
    found = repetition.find(mixture, known)
    assert found is not None
    assert found.period == period
    assert (found.first + 7) % period == 0
    assert found.missing.shape == (period - len(known), 30)
    true = jingle[len(known) :]
    # Closer to the truth than any single repeat of the mixture is.
    single = mixture[(found.first + len(known)) % period :][: len(true)]
    assert np.abs(found.missing - true).mean() < 0.7 * np.abs(single - true).mean()


@pytest.mark.parametrize("cuts", [[(95, 120)], [(95, 115), (200, 220)], [(0, 10), (70, 130), (290, 330)]])
def test_what_is_left_out_moves_nothing_else(cuts: list[tuple[int, int]]) -> None:
    """As where labels settle a part of the recording: the music goes on in the meantime."""
    mixture, jingle = _mixture(60, 6)
    known = jingle[:30]
    times = np.setdiff1d(np.arange(len(mixture)), np.concatenate([np.arange(*cut) for cut in cuts]))
    whole, found = repetition.find(mixture, known), repetition.find(mixture[times], known, times=times)
    assert whole is not None and found is not None
    assert found.period == 60 and (found.first + times[0] + 7) % 60 == 0
    assert len(found.missing) == 30 and np.abs(found.missing - jingle[30:]).mean() < 0.1 * jingle.mean()
    assert np.abs(np.log(found.gain / whole.gain[times])).max() < 0.5
    # Spliced, the music would seem to be played more softly after the first cut, for other frames of it are there.
    spliced = repetition.find(mixture[times], known)
    assert spliced is None or spliced.period != 60 or np.abs(np.log(spliced.gain / whole.gain[times])).max() > 0.7


def test_what_is_never_left_over_is_not_missing() -> None:
    mixture, jingle = _mixture(60, 6)
    place = (np.arange(len(mixture)) + 7) % 60
    times = np.flatnonzero((place < 40) | (place >= 45))
    found = repetition.find(mixture[times], jingle[:30], times=times)
    assert found is not None and found.period == 60
    true = np.concatenate([jingle[30:40], jingle[45:]])
    assert found.missing.shape == true.shape and np.abs(found.missing - true).mean() < 0.1 * true.mean()


def test_says_nothing_where_nothing_repeats() -> None:
    rng = np.random.default_rng(1)
    mixture = rng.gamma(0.4, 2.0, (200, 30)).astype(np.float32)
    assert repetition.find(mixture, rng.gamma(0.4, 2.0, (20, 30)).astype(np.float32)) is None
    assert repetition.find(mixture[:30], mixture[:20]) is None


def test_whole_period_known_leaves_nothing_missing() -> None:
    mixture, jingle = _mixture(40, 4.0)
    found = repetition.find(mixture, jingle)
    assert found is not None and found.period == 40 and len(found.missing) == 0


def _fine(period: int, n: int, n_bins: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Speech with pauses, as loud as a jingle, and the jingle."""
    rng = np.random.default_rng(seed)
    jingle = rng.gamma(0.4, 2.0, (period, n_bins))
    speech = rng.gamma(0.2, 4.0, (n, n_bins)) * (np.repeat(rng.random((n // 10 + 1, 1)), 10, axis=0)[:n] < 0.6)
    return speech, jingle


@pytest.mark.parametrize("louder", [1.0, 5.0])
def test_gain_and_filter_are_found_where_the_known_part_is_played(louder: float) -> None:
    speech, jingle = _fine(50, 230)
    gain = 0.3 + 0.7 * np.sin(np.linspace(0, np.pi, len(speech)))
    filter = np.linspace(2.0, 0.4, jingle.shape[1])
    music = np.tile(jingle, (5, 1))[: len(speech)] * gain[:, None] * filter
    found = repetition.find((louder * speech + music).astype(np.float32), jingle[:25].astype(np.float32))
    assert found is not None and found.period == 50
    level = np.average(filter, weights=jingle[:25].mean(0))
    for true, estimate in ((gain * level, found.gain), (filter / level, found.filter)):
        error = np.log(estimate / true)
        assert np.median(np.abs(error)) < 0.25, np.exp(np.median(error))


def test_weak_music_is_not_taken_for_as_loud_as_the_speech_above_it() -> None:
    """Over a few repeats, even the least is speech in some bins: the known part says how loud music can be."""
    speech, jingle = _fine(50, 160)
    mixture = (20 * speech + np.tile(jingle, (4, 1))[:160]).astype(np.float32)
    known, true = jingle[:25].astype(np.float32), jingle[25:]
    weighed, median = (repetition.find(mixture, known, weigh=weigh, threshold=-9.0) for weigh in (True, False))
    assert weighed is not None and median is not None and weighed.period == median.period == 50
    errors = [np.abs(found.missing - true).mean() for found in (weighed, median)]
    assert errors[0] < true.mean() < 0.5 * errors[1]


def test_without_aligning_music_is_as_loud_as_known() -> None:
    mixture, jingle = _mixture(40, 4.6)
    found = repetition.find(mixture, jingle[:20], align=False)
    assert found is not None
    assert np.all(found.gain == 1) and np.all(found.filter == 1)


@pytest.mark.parametrize("seed", [200, 288, 293, 300])
def test_music_that_plays_once_has_no_period(seed: int) -> None:
    """Here no lag correlates at all, which has been an error."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(24, 60)), int(rng.integers(4, 10))
    mixture, known = rng.gamma(0.4, 2.0, (n, 12)), rng.gamma(0.4, 2.0, (k, 12))
    start = int(rng.integers(0, n - k))
    mixture[start : start + k] += 3 * known
    assert repetition.find(mixture.astype(np.float32), known.astype(np.float32)) is None


@pytest.mark.parametrize("known", [1, 7, 32])
def test_few_frames_are_compared_as_many_are(known: int) -> None:
    rng = np.random.default_rng(known)
    a, b = (repetition.fine_structure(rng.gamma(0.4, 2.0, (n, 30)).astype(np.float32)) for n in (90, known))
    a[40 : 40 + known] = b
    found = repetition._of_few(a, (a**2).sum(1), b)
    np.testing.assert_allclose(found, repetition.similarity(a, b), atol=1e-4)
    windows = [a[n : n + known] for n in range(91 - known)]
    direct = [(x * b).sum() / np.sqrt((x**2).sum() * (b**2).sum() + 1e-24) for x in windows]
    np.testing.assert_allclose(found, direct, atol=1e-4)
    if known > 1:  # a single frame has no fine structure: its mean over time is itself
        assert found.argmax() == 40 and found.max() == pytest.approx(1, abs=1e-4)
