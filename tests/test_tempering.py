"""How sure a mask may be: intervals that hold what they say, and a check that catches those that do not."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import beta

from bayessep.tempering import LEVELS, Tempering, calibrate, interval, tempered_std

TEMPERING = Tempering(2.0, 1.5)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.02, 0.98, (200, 100))


def _truths(masks: np.ndarray, tempering: Tempering) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(masks.shape)
    return expit(logit(masks) / tempering.temperature + tempering.spread * noise)


def test_the_standard_deviation_is_that_of_draws() -> None:
    masks = np.array([[1e-9, 0.02, 0.3, 0.5, 0.9, 1.0]])
    draws = _truths(np.repeat(np.clip(masks, 1e-6, 1 - 1e-6), 100000, axis=0), TEMPERING)
    np.testing.assert_allclose(tempered_std(masks, TEMPERING)[0], draws.std(0), atol=2e-3)


def test_intervals_hold_what_they_say(masks) -> None:
    truth = _truths(masks, TEMPERING)
    found = calibrate(masks, tempered_std(masks, TEMPERING), truth, 1 - truth, TEMPERING)
    np.testing.assert_allclose(found.coverage, LEVELS, atol=0.01)


@pytest.mark.parametrize("wrong", [Tempering(2.0, 0.7), Tempering(1.0, 1.5), Tempering(2.0, 3.0)])
def test_a_wrong_tempering_is_caught(masks, wrong: Tempering) -> None:
    truth = _truths(masks, TEMPERING)
    found = calibrate(masks, tempered_std(masks, wrong), truth, 1 - truth, wrong)
    assert np.abs(np.subtract(found.coverage, LEVELS)).max() > 0.03


def test_untempered_intervals_are_those_of_a_beta_distribution(masks) -> None:
    a, b = 4 * masks, 4 * (1 - masks)
    for level in LEVELS:
        low, high = interval(masks, beta(a, b).std(), level, None)
        lowest, highest = beta(a, b).ppf(0.5 - level / 2), beta(a, b).ppf(0.5 + level / 2)
        np.testing.assert_allclose(low, np.where(lowest < 0.01, 0, lowest), atol=1e-6)
        np.testing.assert_allclose(high, np.where(highest > 0.99, 1, highest), atol=1e-6)


def test_silence_may_be_in_an_interval() -> None:
    """A share of exactly nothing has no log-odds, but a mask near nothing does not exclude it."""
    masks = np.array([[0.01, 0.6, 0.995]])
    low, high = interval(masks, tempered_std(masks, TEMPERING), 0.95, TEMPERING)
    assert low[0, 0] == 0 and 0 < low[0, 1] < high[0, 1] < 1 and high[0, 2] == 1


def test_rank_correlation_tells_a_posterior_that_knows_from_one_that_does_not(masks) -> None:
    rng = np.random.default_rng(2)
    std = rng.uniform(0.01, 0.2, masks.shape)
    truth = np.clip(masks + std * rng.standard_normal(masks.shape), 0, 1)
    knows = calibrate(masks, std, truth, 1 - truth, None).rank_correlation
    assert knows > 0.3
    assert abs(calibrate(masks, rng.permuted(std), truth, 1 - truth, None).rank_correlation) < 0.05


def test_what_nobody_hears_is_left_out(masks) -> None:
    truth = _truths(masks, TEMPERING)
    faint = np.where(np.arange(100) < 50, 1.0, 1e-4)  # and quite wrong
    truth = np.where(faint < 1, 0.0, truth)
    found = calibrate(masks, tempered_std(masks, TEMPERING), faint * truth, faint * (1 - truth), TEMPERING)
    np.testing.assert_allclose(found.coverage, LEVELS, atol=0.015)
