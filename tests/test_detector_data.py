"""Patches for detectors: recordings prepared, mixtures at the ratio asked for, pools with every class, all from a seed."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bayessep import audio, detector_data
from bayessep.corpora import Sound
from bayessep.data import Recording
from bayessep.detector_data import SMRS, Drawing, Item, Items
from bayessep.errors import UserError
from bayessep.features import Front, extract, standardise
from bayessep.models.speech_music_detector import BOTH, MUSIC, NEITHER, SPEECH, ratio_target
from bayessep.stft import Stft, bin_frequencies, stft

RATE = 16000
FRONT = Front("LMS", bands=8)
LOW, HIGH = 400, 4000  # hertz of what stands for speech and for music


def _tone(hz: float, seconds: float, level: float = 0.5) -> np.ndarray:
    n = np.arange(round(seconds * RATE))
    return (level * np.sin(2 * np.pi * hz / RATE * n) * (1 + 0.3 * np.sin(2 * np.pi * 4 / RATE * n))).astype(np.float32)


def _items(speech: int = 2, music: int = 2, seconds: float = 2.0) -> Items:
    return Items(
        [Item(f"s{n}", f"s{n}", _tone(LOW, seconds)) for n in range(speech)],
        [Item(f"m{n}", f"m{n}", _tone(HIGH, 1.3 * seconds, 0.05)) for n in range(music)],
    )


def _loudness(x: np.ndarray) -> tuple[float, float]:
    """Power around the tones of speech and of music."""
    settings = Stft(n_fft=400, hop=160, center=False)
    power = (np.abs(np.asarray(stft(x.astype(np.float32), settings))) ** 2).mean(0)
    hz = bin_frequencies(settings, RATE)
    speech, music = (float(power[np.abs(hz - at) < 200].sum()) for at in (LOW, HIGH))
    return speech, music


# --- recordings ----------------------------------------------------------------------------------------------------------


def _sound(folder: Path, name: str, group: str, samples: np.ndarray) -> Sound:
    audio.write(folder / name, samples, RATE)
    return Sound(Recording(folder / name, "speech", group, len(samples) / RATE, RATE, 1), (folder / name,))


def test_short_recordings_of_one_group_are_joined(tmp_path: Path) -> None:
    gap = np.concatenate([_tone(LOW, 1.0, 0.1), np.zeros(RATE, np.float32), _tone(LOW, 1.0, 0.1)])
    sounds = [_sound(tmp_path, f"{n}.wav", "ab"[n % 2], gap) for n in range(5)]  # a: 0 2 4, b: 1 3
    items = detector_data.read_items(reversed(sounds), RATE, seconds=3.9)
    assert [item.group for item in items] == ["a", "a", "b"] and len({item.name for item in items}) == 3
    # Pauses are gone, all is as loud as it can be.
    np.testing.assert_allclose([len(item.samples) / RATE for item in items], [4, 2, 4], atol=0.2)
    for item in items:
        assert item.samples.dtype == np.float32 and np.abs(item.samples).max() == pytest.approx(1, abs=1e-3)
    with_pauses = detector_data.read_items(sounds, RATE, pauses=True, seconds=100.0)
    assert [len(item.samples) / RATE for item in with_pauses] == [9, 6]


def test_silence_and_scraps_are_no_items(tmp_path: Path) -> None:
    sounds = [
        _sound(tmp_path, "silent.wav", "a", np.zeros(RATE, np.float32)),
        _sound(tmp_path, "scrap.wav", "b", _tone(LOW, 0.09)),
        _sound(tmp_path, "short.wav", "c", _tone(LOW, 0.11)),
    ]
    assert [item.group for item in detector_data.read_items(sounds, RATE)] == ["c"]


@pytest.mark.parametrize("smr", [-5, 0, 7.5, 20])
def test_mixtures_have_the_ratio_asked_for(smr: float) -> None:
    rng = np.random.default_rng(0)
    speech, music = (level * rng.standard_normal(3 * RATE).astype(np.float32) for level in (np.float32(0.3), np.float32(0.01)))
    x = detector_data.mix(speech, music, smr)
    assert x.dtype == np.float32 and np.abs(x).max() == pytest.approx(1)
    # How much of each is in it, by least squares.
    (a, b), *_ = np.linalg.lstsq(np.stack([speech, music], 1), x)
    found = 10 * np.log10(np.mean((a * speech) ** 2) / np.mean((b * music) ** 2))
    assert a > 0 and b > 0 and found == pytest.approx(smr, abs=0.05)


# --- pools ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neither", [False, True])
@pytest.mark.parametrize("standardised", [True, False])
def test_pools_hold_every_class(neither: bool, standardised: bool) -> None:
    drawing = Drawing(crops=5, crop_seconds=0.8, patch=30, neither=neither, standardised=standardised)
    pool = detector_data.draw_pool(_items(), FRONT, drawing, np.random.default_rng(0))
    classes = [MUSIC, SPEECH, BOTH, NEITHER] if neither else [MUSIC, SPEECH, BOTH]
    assert [int((pool.label == label).sum()) for label in classes] == [5] * len(classes)
    assert pool.features.shape == (5 * len(classes), 80, FRONT.width) and pool.features.dtype == np.float32
    assert np.isfinite(pool.features).all()
    assert not pool.smr_db[pool.label != BOTH].any() and set(pool.smr_db[pool.label == BOTH]) <= set(SMRS.astype(float))
    if standardised:
        np.testing.assert_allclose(pool.features.mean(1), 0, atol=0.02)
    else:
        assert pool.features.min() >= (-100 + 30) / 20 and pool.features.max() < 5


def test_crops_sound_as_their_labels_say() -> None:
    drawing = Drawing(crops=3, crop_seconds=0.8, patch=30)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for label in (MUSIC, SPEECH, BOTH, NEITHER):
            x, said, smr = detector_data._drawn(label, _items(), RATE, RATE, drawing, rng)
            speech, music = _loudness(x)
            assert said == label and len(x) == RATE
            if label == BOTH:
                assert 10 * np.log10(speech / music) == pytest.approx(smr, abs=0.7)
            elif label == SPEECH:
                assert speech > 1e4 * music
            elif label == MUSIC:
                assert music > 1e4 * speech
            else:
                # Noise: no tone stands out.
                assert 0.01 < speech / max(music, 1e-12) < 1e4 and np.abs(x).max() < 10


def test_longer_recordings_are_drawn_more_often() -> None:
    items = Items([Item("a", "a", _tone(LOW, 9)), Item("b", "b", _tone(HIGH, 1))], [])
    drawing, rng = Drawing(), np.random.default_rng(0)
    heard = [np.diff(_loudness(detector_data._drawn(SPEECH, items, 4000, RATE, drawing, rng)[0]))[0] < 0 for _ in range(100)]
    assert 80 <= sum(heard) <= 97


def test_crops_longer_than_recordings_repeat_them() -> None:
    items = _items(1, 1, 0.1)
    x, *_ = detector_data._drawn(SPEECH, items, 4000, RATE, Drawing(), np.random.default_rng(0))
    np.testing.assert_array_equal(x, np.resize(items.speech[0].samples, 4000))


@pytest.mark.parametrize("augment", [False, True])
def test_a_pool_is_a_function_of_its_seed(augment: bool) -> None:
    if augment:
        pytest.importorskip("pedalboard", reason="needs the extra bayessep[train]")
    drawing = Drawing(crops=2, crop_seconds=0.5, patch=10, augment=augment, neither=True)
    pools = [detector_data.draw_pool(_items(), FRONT, drawing, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    for one, same in zip(pools[0], pools[1], strict=True):
        np.testing.assert_array_equal(one, same)
    assert pools[2].features.shape == pools[0].features.shape == (8, 50, FRONT.width)
    assert np.isfinite(pools[0].features).all() and np.abs(pools[2].features - pools[0].features).max() > 0.1


def test_levels_are_those_of_any_stretch() -> None:
    x = np.stack([_tone(LOW, 0.5), _tone(HIGH, 0.5)])
    front = Front("LMS", bands=8, range_db=200.0)
    levels = np.asarray(extract(jnp.asarray(x), front))
    np.testing.assert_allclose(detector_data.featured(x, front, standardised=False), (levels + 30) / 20, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(detector_data.featured(x, front), standardise(levels), atol=1e-2)


def test_batches_hold_as_many_of_every_class() -> None:
    drawing = Drawing(crops=3, crop_seconds=0.8, patch=30, neither=True)
    pool = detector_data.draw_pool(_items(), FRONT, drawing, np.random.default_rng(0))
    batch, again, other = (detector_data.draw_batch(pool, 30, 7, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert batch.features.shape == (28, 30, FRONT.width) and batch.features.dtype == np.float32
    assert batch.label.dtype == np.int32 and np.bincount(batch.label).tolist() == [7, 7, 7, 7]
    for one, same in zip(batch, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.abs(batch.features - other.features).max() > 0.1
    starts = set()
    for x, label, ratio in zip(*batch, strict=True):
        # From one of the crops of its class, with a little noise.
        rows = np.flatnonzero(pool.label == label)
        views = np.lib.stride_tricks.sliding_window_view(pool.features[rows], 30, axis=1).swapaxes(2, 3)
        off = np.abs(views - x).max((2, 3))
        row, first = np.unravel_index(off.argmin(), off.shape)
        assert 0 < off.min() < 0.05
        starts.add(int(first))
        np.testing.assert_allclose(ratio, ratio_target(pool.label[rows[row :][:1]], pool.smr_db[rows[row :][:1]])[0])
    assert len(starts) > 10
    whole = detector_data.draw_batch(pool, 80, 2, np.random.default_rng(0))
    assert whole.features.shape == (8, 80, FRONT.width)


@pytest.mark.parametrize(
    ("name", "value"),
    [("crops", 0), ("patch", 0), ("patch", -1), *(("crop_seconds", x) for x in (0.0, -1.0, float("nan"), float("inf")))],
)
def test_drawings_of_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} is .* positive"):
        Drawing(**{name: value})


# --- tests: every recording, whole ---------------------------------------------------------------------------------------


def test_mixtures_are_at_every_ratio_alike_however_long_recordings_are() -> None:
    long = Item("long", "long", _tone(LOW, 330.0))
    items = _items(3, 5, 8.0)._replace(speech=[long, *_items(3, 5, 8.0).speech])
    made = detector_data.mixtures(items)
    ratios = [smr for _, smr in made]
    assert sorted(ratios) == sorted(SMRS.astype(float)) and ratios != sorted(ratios)  # 16 or 17 pieces of the long one, and three
    assert all(8 <= len(x) / RATE <= 30 for x, _ in made)
    for x, smr in made[::5]:
        speech, music = _loudness(x)
        assert 10 * np.log10(speech / music) == pytest.approx(smr, abs=0.7)
    at_three = detector_data.mixtures(items, 3.0)
    assert {smr for _, smr in at_three} == {3.0} and [len(x) for x, _ in at_three] == [len(x) for x, _ in made]
    assert [len(x) for x, _ in detector_data.mixtures(items, seed=1)] != [len(x) for x, _ in made]


def test_every_piece_is_mixed_and_none_again_before_all_others() -> None:
    # Each piece is as loud as its name says, alone among its kind; so a mixture tells what it is made of.
    hz = [300, 600, 900], [3000, 3400, 3800, 4200, 4600, 5000, 5400]
    items = Items(*([Item(str(f), str(f), _tone(f, 3.0)) for f in of] for of in hz))
    spectra = np.array([np.abs(np.fft.rfft(x, RATE)) for x, _ in detector_data.mixtures(items, 0.0)])
    for of in hz:
        heard = np.array(of)[spectra[:, of].argmax(1)].tolist()
        for first in range(0, len(heard) - len(of) + 1, len(of)):
            assert sorted(heard[first : first + len(of)]) == list(of)


def test_nothing_is_not_mixed() -> None:
    with pytest.raises(UserError, match="all music to mix is silent"):
        detector_data.mixtures(Items(_items().speech, []))
