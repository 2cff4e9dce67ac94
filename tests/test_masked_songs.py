"""The idempotent masker at work on songs: blocks, windows against the whole song, extents, smoothing, weights of something else."""

from pathlib import Path

import jax
import numpy as np
import pytest

from bayessep import masked_songs, neural, shipped
from bayessep.errors import UserError
from bayessep.masked_songs import Masker
from bayessep.models import idempotent_masker
from bayessep.models.idempotent_masker import IdempotentMasker
from bayessep.unmatched import RATE, compressed, stft_of

CONFIG = IdempotentMasker(bins=16, frames=16, hop=16, channels=2, blocks=1, critic=2, layers=2, scales=2)


@pytest.fixture(scope="module")
def masker() -> Masker:
    return Masker(CONFIG, idempotent_masker.begin(CONFIG, jax.random.key(0)))


def _song(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (2, round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize(
    ("frames", "first", "expected"),
    [(16, 0, [0]), (40, 0, [0, 16, 24]), (48, 0, [0, 16, 32]), (40, 5, [0, 11, 24]), (17, 5, [0, 1]), (16, 5, [0])],
)
def test_blocks_lie_where_they_do_in_the_whole_song(frames: int, first: int, expected: list[int]) -> None:
    assert masked_songs.blocks_of(frames, 16, first) == expected


def test_a_mask_is_that_of_blocks_with_the_mean_where_two_overlap(masker: Masker) -> None:
    x = 2 * np.random.default_rng(0).random((40, 16), np.float32) - 1
    one, two, last = (np.asarray(idempotent_masker.predict(CONFIG, masker.parts, x[None, k : k + 16]))[0] for k in (0, 16, 24))
    expected = np.concatenate([one, two[:8], (two[8:] + last[:8]) / 2, last[8:]])
    np.testing.assert_allclose(masker._replace(power=1.0).mask_of(x), expected, atol=1e-6)
    np.testing.assert_allclose(masker.mask_of(x), expected ** (1 / 0.3), atol=1e-6)
    np.testing.assert_allclose(masker._replace(power=9.0).mask_of(x), expected**9, atol=1e-6)
    assert masker.mask_of(x[:5]).shape == (5, 16)


@pytest.mark.parametrize("seconds", [0.005, 0.5, 2.51])
def test_windows_say_what_the_whole_says(masker: Masker, seconds: float) -> None:
    x = _song(seconds)
    fitted = masker.fitted([x[:, :1001], x[:, 1001:]])
    found = np.concatenate(list(neural.in_windows([x], fitted, 1.0, (0.01, 0.3))), axis=-1)
    whole = fitted.predict(x, x.shape[1], 0)
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=1e-5)
    np.testing.assert_allclose(whole.sum(1), x, atol=1e-6)


def test_a_song_is_stretched_as_a_whole_and_each_channel_by_itself(masker: Masker) -> None:
    x = _song(0.3) * np.float32([[1], [3]])
    fitted = masker.fitted([x[:, k : k + 700] for k in range(0, x.shape[1], 700)])
    heard = np.abs(np.asarray(masked_songs.stft(x, stft_of(CONFIG))))[..., :16]
    assert fitted.extent is not None
    np.testing.assert_allclose(fitted.extent.least, heard.min((1, 2)), atol=1e-5)
    np.testing.assert_allclose(fitted.extent.greatest, heard.max((1, 2)), rtol=1e-5)
    low, high = (fitted.predict(x, x.shape[1], 0)[1], masker.fitted([x[1:]]).predict(x[1:], x.shape[1], 0)[0])
    np.testing.assert_allclose(low, high, atol=1e-6)


def test_stems_do_not_depend_on_how_loud_a_song_is(masker: Masker) -> None:
    x = _song(0.3)
    one, other = (neural.separate(gain * x, RATE, masker) for gain in (np.float32(1), np.float32(5)))
    np.testing.assert_allclose(other.speech, 5 * one.speech, atol=1e-4)
    np.testing.assert_array_equal(one.music, x - one.speech)
    resampled = neural.separate(x, 44100, masker)
    assert resampled.speech.shape == x.shape and np.isfinite(resampled.speech).all()


def test_the_accompaniment_is_what_the_mask_leaves_of_magnitudes(masker: Masker) -> None:
    x = _song(0.1)[:1]
    fitted = masker.fitted([x])
    settings = stft_of(CONFIG)
    spectrum = np.asarray(masked_songs.stft(x, settings))[0]
    heard = np.abs(spectrum)[:, :16]
    mask = fitted.mask_of(compressed(heard, heard.min(), heard.max()))
    expected = masked_songs.istft(spectrum * np.pad(mask, ((0, 0), (0, 1)), mode="edge"), settings, x.shape[1])
    np.testing.assert_allclose(fitted.predict(x, x.shape[1], 0)[0, 1], expected, atol=1e-6)


def test_a_block_is_normalised_by_itself_if_that_is_asked_for(masker: Masker) -> None:
    """As in training: then neither its level nor what other blocks are like makes a difference."""
    own, rng = masker._replace(own=True), np.random.default_rng(3)
    x = rng.uniform(-1, 1, (16, 16)).astype(np.float32)
    np.testing.assert_allclose(own.mask_of(0.5 * x - 0.3), own.mask_of(x), atol=1e-4)
    assert np.abs(masker.mask_of(0.5 * x - 0.3) - masker.mask_of(x)).max() > 1e-3
    kept = jax.tree.map(np.asarray, masker.parts)
    own.mask_of(x)
    jax.tree.map(np.testing.assert_array_equal, masker.parts, kept)
    again = masked_songs.masker_of(masked_songs.weights_of(own._replace(power=2.0)))
    assert (again.own, again.power) == (True, 2.0)


def test_smoothing_is_nearly_the_mean_of_five_and_keeps_edges_where_it_is_told_to() -> None:
    mask = np.random.default_rng(0).random((6, 7), np.float32)
    around = np.pad(mask, 1, mode="reflect")
    mean = (mask + around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / 5
    np.testing.assert_allclose(masked_songs.smoothed(mask), mean, atol=5e-3)
    np.testing.assert_allclose(masked_songs.smoothed(mask, colour=1e-4), mask, atol=1e-3)


def test_what_cannot_be_is_refused(masker: Masker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not fitted to a song"):
        masker.predict(_song(0.1), 100, 0)
    with pytest.raises(UserError, match="power of masks is -1"):
        masked_songs.load(None, -1.0)
    with pytest.raises(UserError, match="silent"):
        neural.separate(np.zeros((1, 100), np.float32), RATE, masker)
    good = masked_songs.weights_of(masker)
    for wrong in ({"config": good.settings["config"] | {"hop": 8.0}}, {"config": {}}, {"sample_rate": 44100}):
        with pytest.raises(UserError, match="not the weights of idempotent-masker"):
            masked_songs.masker_of(good._replace(settings=good.settings | wrong))
    with pytest.raises(UserError, match="no finite numbers"):
        masked_songs.masker_of(good._replace(arrays={name: np.nan * x for name, x in good.arrays.items()}))
    half = masked_songs.masker_of(good._replace(arrays={name: x.astype(np.float16) for name, x in good.arrays.items()}))
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(half.parts))
    for settings in ({"network": "conv-tasnet"}, {"network": "idempotent-masker", "config": {"weights": {"R9": 1.0}}}, {}):
        with pytest.raises(UserError, match="not the weights of idempotent-masker"):
            masked_songs.masker_of(shipped.Weights({}, settings))
    shipped.write_file(tmp_path / "w.safetensors", masked_songs.weights_of(masker))
    again = masked_songs.load(tmp_path / "w.safetensors", 9.0, True)
    assert (again.config, again.power, again.smoothing) == (CONFIG, 9.0, True)
    jax.tree.map(np.testing.assert_array_equal, shipped.flat(again.parts), shipped.flat(masker.parts))
