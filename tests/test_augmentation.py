"""Ways of sound to a listener: lengths stay, silence stays, bands end where they should, and a seed says all."""

from collections.abc import Callable

import numpy as np
import pytest

from bayessep import augmentation, extras
from bayessep.augmentation import Chances
from bayessep.errors import UserError
from bayessep.stft import Stft, bin_frequencies, stft

RATE = 16000
ALWAYS = Chances(1, 1, 1, 1, 1, 1, 1)
NEVER = Chances(*[0] * len(Chances._fields))
Effect = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


@pytest.fixture
def pedalboard() -> None:
    pytest.importorskip("pedalboard", reason="needs the extra bayessep[train]")


def _sound(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def _spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, and decibels of the mean power at each."""
    settings = Stft(n_fft=1024, hop=512, center=False)
    power = (np.abs(np.asarray(stft(x, settings))) ** 2).mean(0)
    return bin_frequencies(settings, RATE), 10 * np.log10(power + 1e-20)


def _always(x: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    return augmentation.channel(x, sample_rate, rng, ALWAYS)


OWN: list[Effect] = [augmentation.band_limited, augmentation.noisy]
OTHERS: list[Effect] = [augmentation.reverberated, augmentation.equalised, augmentation.coded, _always]


def _is_a_function_of_its_seed(effect: Effect) -> None:
    for samples in (1, 399, RATE):
        x = _sound()[:samples]
        kept = x.copy()
        for seed in range(4):
            found, again = (effect(x, RATE, np.random.default_rng(seed)) for _ in range(2))
            assert found.shape == x.shape and found.dtype == np.float32 and np.isfinite(found).all()
            np.testing.assert_array_equal(found, again)
        np.testing.assert_array_equal(x, kept)
    assert not np.array_equal(*(effect(x, RATE, np.random.default_rng(seed)) for seed in (0, 1)))


@pytest.mark.parametrize("effect", OWN)
def test_own_effects_keep_the_length_and_are_functions_of_a_seed(effect: Effect) -> None:
    _is_a_function_of_its_seed(effect)


@pytest.mark.parametrize("effect", OTHERS)
def test_effects_keep_the_length_and_are_functions_of_a_seed(effect: Effect, pedalboard: None) -> None:
    _is_a_function_of_its_seed(effect)


@pytest.mark.parametrize("effect", OWN)
def test_own_effects_leave_silence_silent(effect: Effect) -> None:
    for seed in range(8):
        assert not effect(np.zeros(4000, np.float32), RATE, np.random.default_rng(seed)).any()


@pytest.mark.parametrize("effect", OTHERS)
def test_effects_leave_silence_silent(effect: Effect, pedalboard: None) -> None:
    for seed in range(8):
        found = effect(np.zeros(4000, np.float32), RATE, np.random.default_rng(seed))
        # A telephone's silence has a step of its code; nothing else has any sound of its own.
        assert np.abs(found).max() < 1e-3
        if effect in (augmentation.reverberated, augmentation.equalised):
            assert not found.any()


def test_bands_end() -> None:
    tops, lows = [], []
    for seed in range(25):
        hz, before = _spectrum(_sound(seed=seed))
        _, after = _spectrum(augmentation.band_limited(_sound(seed=seed), RATE, np.random.default_rng(seed)))
        change = after - before
        gone = hz[change < -60]
        gone = gone[gone > 3000]
        assert len(gone) > 0, "nothing is cut"
        tops.append(gone[0])
        assert (change[hz > gone[0] + 50] < -50).all()
        between = (hz > 500) & (hz < 0.8 * gone[0])
        np.testing.assert_allclose(change[between], 0, atol=1.0)
        lows.append(change[hz < 40].mean() < -10)
    assert min(tops) > 2900 and max(tops) <= 0.49 * RATE + 50 and np.ptp(tops) > 2000
    assert 0 < sum(lows) < 15


def test_noise_is_as_far_below_as_it_should_be() -> None:
    x = _sound(2.0)
    below = []
    for seed in range(20):
        added = augmentation.noisy(x, RATE, np.random.default_rng(seed)) - x
        below.append(10 * np.log10((x**2).mean() / (added**2).mean()))
    assert 24.5 < min(below) < 35 and 50 < max(below) < 60.5


def test_noise_has_its_level_and_no_two_are_alike() -> None:
    slopes = []
    for seed in range(12):
        x = augmentation.noise(2 * RATE, RATE, np.random.default_rng(seed))
        assert x.shape == (2 * RATE,) and x.dtype == np.float32
        assert np.sqrt((x**2).mean()) == pytest.approx(1, rel=0.05)
        hz, level = _spectrum(x)
        slopes.append(level[(hz > 4000) & (hz < 7000)].mean() - level[(hz > 300) & (hz < 1000)].mean())
    assert np.ptp(slopes) > 6
    np.testing.assert_array_equal(x, augmentation.noise(2 * RATE, RATE, np.random.default_rng(11)))


def test_codecs_lose_what_is_high_and_come_in_time(pedalboard: None) -> None:
    x = _sound()
    heights = []
    for seed in range(20):
        found = augmentation.coded(x, RATE, np.random.default_rng(seed))
        hz, level = _spectrum(found)
        heights.append(level[hz > 7000].mean() - level[(hz > 500) & (hz < 3000)].mean())
        # Labels of frames would be wrong if a codec were late.
        by = [np.dot(x[1000:9000], found[1000 + lag : 9000 + lag]) for lag in range(-800, 801)]
        assert abs(int(np.argmax(by)) - 800) <= 1
    assert min(heights) < -20 and not np.allclose(heights, heights[0])


def test_codecs_bear_what_is_far_too_loud(pedalboard: None) -> None:
    for seed in range(3):
        found = augmentation.coded(np.float32(1e14) * _sound(0.2), RATE, np.random.default_rng(seed))
        assert 0.5 < np.abs(found).max() < 2


def test_balances_and_rooms_change_what_they_should(pedalboard: None) -> None:
    x = _sound()
    hz, before = _spectrum(x)
    _, after = _spectrum(augmentation.equalised(x, RATE, np.random.default_rng(1)))
    assert 2 < np.abs(after - before).max() < 9 + 6 + 9 + 1
    click = np.zeros(RATE, np.float32)
    click[1000] = 1.0
    room = augmentation.reverberated(click, RATE, np.random.default_rng(1))
    assert not room[:1000].any() and room.argmax() == 1000 and 1e-4 < np.abs(room[1500:]).max() < 0.5 * room[1000]


def test_sources_play_faster_and_slower() -> None:
    x = np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE)).astype(np.float32)
    lengths = []
    for seed in range(20):
        found = augmentation.source(x, RATE, np.random.default_rng(seed), NEVER._replace(speed=1))
        hz, level = _spectrum(found)
        # As much higher as shorter.
        assert hz[level.argmax()] == pytest.approx(1000 * len(x) / len(found), abs=16)
        lengths.append(len(found) / len(x))
    assert 0.8 <= min(lengths) < 0.9 and 1.1 < max(lengths) <= 1.25


def test_no_chance_no_change() -> None:
    x = _sound()
    for way in (augmentation.source, augmentation.channel):
        np.testing.assert_array_equal(way(x, RATE, np.random.default_rng(0), NEVER), x)
    quieter = [augmentation.channel(x, RATE, np.random.default_rng(seed), NEVER._replace(gain=1)) / x for seed in range(20)]
    gains = 20 * np.log10([gain.mean() for gain in quieter])
    assert all(np.ptp(gain) < 1e-5 for gain in quieter) and -24 <= gains.min() < -18 and -6 < gains.max() <= 0


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"bayessep\[train\]"):
        augmentation.coded(_sound(), RATE, np.random.default_rng(0))
