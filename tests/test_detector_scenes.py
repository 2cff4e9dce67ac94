"""Scenes: what sounds is what the labels say, to a frame; and a seed says all."""

import numpy as np
import pytest

from bayessep import detector_scenes
from bayessep.detector_data import SMRS, Drawing, Item, Items
from bayessep.detector_scenes import FADE, SECONDS, Scene
from bayessep.features import Front
from bayessep.models.detector_networks import STRIDE
from bayessep.models.speech_music_detector import BOTH, MUSIC, NEITHER, SPEECH
from bayessep.stft import Stft, bin_frequencies, frame_times, stft

RATE = 16000
FRONT = Front("LMS", bands=8, range_db=200.0)
LOW, HIGH = 400, 4000  # hertz of what stands for speech and for music


def _item(name: str, hz: float, level: float) -> Item:
    n = np.arange(30 * RATE)
    return Item(name, name, (level * np.sin(2 * np.pi * hz / RATE * n)).astype(np.float32))


ITEMS = Items([_item("s", LOW, 0.9)], [_item("m", HIGH, 0.1), _item("n", HIGH, 0.01)])


def _scene(seed: int, *, augment: bool = False, smr_db: float | None = None, seconds: float = 30.0) -> Scene:
    return detector_scenes.draw_scene(ITEMS, seconds, RATE, np.random.default_rng(seed), augment=augment, smr_db=smr_db)


def _heard(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power of speech and of music every 10 ms, and the samples in the middle of these frames."""
    settings = Stft(n_fft=400, hop=160, center=False)
    power = np.abs(np.asarray(stft(scene.samples, settings))) ** 2
    hz = bin_frequencies(settings, RATE)
    speech, music = (power[:, np.abs(hz - at) < 120].sum(1) for at in (LOW, HIGH))
    return speech, music, (frame_times(len(power), settings, RATE) * RATE).astype(int)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_labelled_sounds_and_the_rest_does_not(seed: int) -> None:
    scene = _scene(seed, smr_db=3.0)
    *heard, middles = _heard(scene)
    for power, on in zip(heard, (scene.speech, scene.music), strict=True):
        loud, labels = np.median(power[on[middles]]), on[middles]
        # Half of the amplitude is where a label changes; noise, and a fade, around it.
        sounding = power > 0.25 * loud * (0.5 if power is heard[1] else 1)
        changes = np.flatnonzero(np.diff(labels))
        near = np.any(np.abs(np.arange(len(labels))[:, None] - changes) <= 3, axis=1)
        np.testing.assert_array_equal(sounding[~near], labels[~near])
        # A fade later, nothing is left.
        far = ~np.any(np.abs(np.arange(len(labels))[:, None] - changes) <= 100 * FADE + 2, axis=1) & ~labels
        assert not far.any() or power[far].max() < 1e-2 * loud


@pytest.mark.parametrize("smr", [-5.0, 0.0, 12.0])
def test_both_sound_at_the_ratio_asked_for(smr: float) -> None:
    found = []
    for seed in range(3):
        scene = _scene(seed, smr_db=smr)
        assert scene.smr_db == smr
        speech, music, middles = _heard(scene)
        both = scene.speech & scene.music
        # Away from where one begins or ends.
        inside = np.convolve(both, np.ones(4001), "same")[middles] > 4000.5 - 1e-3
        found += (10 * np.log10(speech / music))[inside].tolist()
    assert len(found) > 100
    np.testing.assert_allclose(found, smr, atol=0.5)


@pytest.mark.parametrize("smr", [12.0, 20.0])
def test_music_comes_and_goes_under_speech_no_louder_than_it_is_there(smr: float) -> None:
    seen = 0
    for seed in range(4):
        scene = _scene(seed, smr_db=smr)
        _, music, middles = _heard(scene)
        alone = np.convolve(scene.music & ~scene.speech, np.ones(4001), "same")[middles] > 0.5
        under = np.median(music[(scene.speech & scene.music)[middles]])
        assert music[~alone].max() < 1.1 * under
        seen += (~alone & ~(scene.speech & scene.music)[middles] & (music > 0.1 * under)).sum()
    assert seen > 10  # frames of fades


def test_ratios_and_states_are_all_drawn() -> None:
    scenes = [_scene(seed) for seed in range(25)]
    ratios = [scene.smr_db for scene in scenes]
    assert set(ratios) <= set(SMRS.astype(float)) and len(set(ratios)) > 10
    speech, music = (np.concatenate([getattr(scene, name) for scene in scenes]) for name in ("speech", "music"))
    shares = [(music & ~speech).mean(), (speech & ~music).mean(), (speech & music).mean(), (~speech & ~music).mean()]
    assert min(shares[:3]) > 0.2 and 0.05 < shares[3] < 0.25


def test_stretches_last_as_long_as_they_should() -> None:
    for seed in range(5):
        scene = _scene(seed)
        state = scene.speech + 2 * scene.music.astype(int)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(state)) + 1])
        lengths = np.diff(edges) / RATE  # the last one is cut
        assert lengths.min() >= SECONDS[0] and lengths.max() <= SECONDS[1] + 1 / RATE


@pytest.mark.parametrize("augment", [False, True])
def test_a_scene_is_a_function_of_its_seed(augment: bool) -> None:
    if augment:
        pytest.importorskip("pedalboard", reason="needs the extra bayessep[train]")
    one, same, other = (_scene(seed, augment=augment, seconds=7.3) for seed in (1, 1, 2))
    for mine, theirs in zip(one, same, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(one.samples, other.samples)
    assert one.samples.shape == one.speech.shape == one.music.shape == (round(7.3 * RATE),)
    assert one.samples.dtype == np.float32 and np.isfinite(one.samples).all()
    if not augment:
        assert np.abs(one.samples).max() == pytest.approx(0.9, rel=1e-5)


def test_short_recordings_fill_a_track() -> None:
    short = Items([ITEMS.speech[0]._replace(samples=ITEMS.speech[0].samples[:4000])], ITEMS.music)
    track = detector_scenes._track(short.speech, 30001, RATE, np.random.default_rng(0), False)
    assert track.shape == (30001,)
    # Each as loud as the others.
    for at in range(0, 28000, 4000):
        assert np.sqrt((track[at : at + 4000] ** 2).mean()) == pytest.approx(1, rel=1e-3)


def test_fades_are_centred_where_a_track_begins() -> None:
    on = np.zeros(RATE, bool)
    on[5000:9000] = True
    gain = detector_scenes._smooth(on, RATE)
    half = round(FADE * RATE)
    assert gain.shape == on.shape and gain.dtype == np.float32
    assert not gain[: 5000 - half].any() and gain[5000 - half] > 0 and gain[9000 + half - 1] > 0 and not gain[9000 + half :].any()
    np.testing.assert_allclose(gain[5000 + half : 9000 - half], 1, rtol=1e-6)
    assert gain[4999] < 0.5 < gain[5000] and gain[9000] < 0.5 < gain[8999]
    np.testing.assert_array_equal(detector_scenes._smooth(np.ones(3000, bool), RATE), 1)


# --- labels of frames ----------------------------------------------------------------------------------------------------


def test_the_label_of_a_frame_is_that_in_its_middle() -> None:
    frames = 30
    n = FRONT.frame + (STRIDE * frames - 1) * FRONT.hop
    samples = np.zeros(n, np.float32)
    for pooled in (0, 3, 29):
        covered = [
            np.arange(t * FRONT.hop, t * FRONT.hop + FRONT.frame) for t in range(STRIDE * pooled, STRIDE * (pooled + 1))
        ]
        middle = round(np.concatenate(covered).mean() + 0.5)
        for begin, on in ((middle, True), (middle + 1, False)):
            later = np.arange(n) >= begin
            labels = detector_scenes.frame_labels(Scene(samples, later, np.zeros(n, bool), 0.0), FRONT, STRIDE * frames + 3)
            assert labels.shape == (frames,)
            expected = np.where(np.arange(frames) >= pooled + (not on), SPEECH, NEITHER)
            np.testing.assert_array_equal(labels, expected)


def test_labels_of_frames_are_those_of_the_networks() -> None:
    on, off = np.ones(2000, bool), np.zeros(2000, bool)
    for speech, music, label in ((on, off, SPEECH), (off, on, MUSIC), (on, on, BOTH), (off, off, NEITHER)):
        found = detector_scenes.frame_labels(Scene(np.zeros(2000, np.float32), speech, music, 0.0), FRONT, 8)
        np.testing.assert_array_equal(found, [label, label])


def test_scenes_of_an_epoch_are_what_the_network_learns_from() -> None:
    drawing = Drawing(crops=3, crop_seconds=4.0, patch=100, augment=False, neither=True, standardised=False)
    pool, again, other = (detector_scenes.draw_scenes(ITEMS, FRONT, drawing, np.random.default_rng(seed)) for seed in (0, 0, 1))
    frames = 1 + (4 * RATE - 400) // 160
    assert pool.features.shape == (9, frames, FRONT.width) and pool.features.dtype == np.float32
    assert pool.label.shape == pool.smr_db.shape == (9, frames // STRIDE)
    for one, same in zip(pool, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.abs(pool.features - other.features).max() > 0.1
    assert (np.ptp(pool.smr_db, axis=1) == 0).all() and np.ptp(pool.smr_db) > 0
    # What each band says of a frame, half way between its loudest and its faintest, is what the labels say.
    pooled = pool.features[:, : frames // STRIDE * STRIDE].reshape(9, -1, STRIDE, FRONT.width).mean(2)
    for band, classes in ((1, (SPEECH, BOTH)), (6, (MUSIC, BOTH))):
        level, on = pooled[..., band], np.isin(pool.label, classes)
        loud = np.array([row[here].mean() if here.any() else np.inf for row, here in zip(level, on, strict=True)])
        assert ((level > loud[:, None] - 0.6) == on).mean() > 0.95  # 12 dB
