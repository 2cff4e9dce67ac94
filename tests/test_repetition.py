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


def test_says_nothing_where_nothing_repeats() -> None:
    rng = np.random.default_rng(1)
    mixture = rng.gamma(0.4, 2.0, (200, 30)).astype(np.float32)
    assert repetition.find(mixture, rng.gamma(0.4, 2.0, (20, 30)).astype(np.float32)) is None
    assert repetition.find(mixture[:30], mixture[:20]) is None


def test_whole_period_known_leaves_nothing_missing() -> None:
    mixture, jingle = _mixture(40, 4.0)
    found = repetition.find(mixture, jingle)
    assert found is not None and found.period == 40 and len(found.missing) == 0
