"""Ratios are met, keys decide, and everything can be traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayessep.errors import UserError
from bayessep.mixing import (
    dynamic_mix,
    fade,
    mix_at_ratio,
    power,
    random_crop,
    random_gain,
    ratio_db,
    repeat_to_length,
    scale_to_ratio,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exact_ratio_db(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return 10 * np.log10(np.mean(a**2) / np.mean(b**2))


SPEECH, MUSIC, SILENCE = 0.1 * noise(5000), 3 * noise(5000, seed=1), np.zeros(5000, np.float32)


# --- ratios -------------------------------------------------------------------------------------------------


def test_power_of_long_recordings():
    """A million samples far from zero mean: a plain running sum in float32 would drift."""
    x = noise(2, 2_000_000) + np.float32(3)
    np.testing.assert_allclose(power(x), np.mean(x.astype(np.float64) ** 2), rtol=1e-5)


def test_ratio_db():
    x = noise(100)
    assert ratio_db(10 * x, x) == pytest.approx(20, abs=1e-4)
    assert ratio_db(x, 0 * x) == np.inf and ratio_db(0 * x, x) == -np.inf and np.isnan(ratio_db(0 * x, 0 * x))


@pytest.mark.parametrize("smr_db", [-30, -5.5, 0, 15, 40.0, jnp.float32(3)])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_the_ratio_is_met(smr_db, channels):
    speech, music = noise(*channels, 5000), 20 * noise(*channels, 5000, seed=1)
    mixed = mix_at_ratio(speech, music, smr_db)
    assert exact_ratio_db(mixed.speech, mixed.music) == pytest.approx(float(smr_db), abs=1e-4)
    np.testing.assert_array_equal(mixed.speech, speech)
    np.testing.assert_array_equal(mixed.mixture, mixed.speech + mixed.music)
    gain = float(scale_to_ratio(speech, music, smr_db))
    np.testing.assert_allclose(mixed.music, gain * music, rtol=1e-6)


def test_silence_is_refused_where_it_can_be():
    with pytest.raises(UserError, match="speech is silent"):
        mix_at_ratio(SILENCE, MUSIC, 0)
    with pytest.raises(UserError, match="music is silent"):
        mix_at_ratio(SPEECH, SILENCE, 0)


@pytest.mark.parametrize("speech, music", [(SILENCE, MUSIC), (SPEECH, SILENCE), (SILENCE, SILENCE)])
def test_silence_is_harmless_under_jit(speech, music):
    mixed = jax.jit(mix_at_ratio)(speech, music, 5.0)
    np.testing.assert_array_equal(mixed.mixture, speech + music)
    gradients = jax.grad(lambda s, m: scale_to_ratio(s, m, 5.0), argnums=(0, 1))(
        jnp.asarray(speech), jnp.asarray(music)
    )
    assert not any(np.any(g) or np.isnan(g).any() for g in gradients)


def test_batches_and_gradients():
    speech, music, smrs = noise(3, 4000), noise(3, 4000, seed=1), jnp.array([-5.0, 0.0, 10.0])
    mixed = jax.jit(jax.vmap(mix_at_ratio))(speech, music, smrs)
    for i in range(3):
        assert exact_ratio_db(mixed.speech[i], mixed.music[i]) == pytest.approx(float(smrs[i]), abs=1e-4)
    # The gain falls by ln(10)/20 of itself for a decibel.
    gain, slope = jax.value_and_grad(lambda db: scale_to_ratio(SPEECH, MUSIC, db))(5.0)
    np.testing.assert_allclose(slope, -np.log(10) / 20 * gain, rtol=1e-5)


# --- time ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 70), st.integers(-50, 50))
@settings(max_examples=10)
def test_repetition(period, n, offset):
    x = noise(2, period)
    expected = np.stack([x[:, (offset + i) % period] for i in range(n)], axis=1)
    np.testing.assert_array_equal(repeat_to_length(x, n, offset), expected)


def test_repetition_from_a_traced_offset():
    x = jnp.arange(5.0)
    run = jax.jit(lambda offset: repeat_to_length(x, 12, offset))
    np.testing.assert_array_equal(run(jnp.int32(3)), np.tile(np.roll(x, -3), 3)[:12])


def test_fades():
    x = np.ones((2, 1000), np.float32)
    y = np.asarray(fade(x, 1000, 0.1, 0.2))
    assert (y[:, 100:800] == 1).all() and (np.diff(y[:, :100]) > 0).all() and (np.diff(y[:, 800:]) < 0).all()
    assert y[0, 0] < 1e-3 and y[0, -1] < 1e-3 and (y[0] == y[1]).all()
    # A fade out and a fade in laid over each other add up to one.
    np.testing.assert_allclose(fade(x, 1000, 1.0, 0) + fade(x, 1000, 0, 1.0), x, atol=1e-6)
    np.testing.assert_array_equal(fade(x, 1000, 0, 0), x)
    assert np.isfinite(fade(x[:, :3], 1000, 0.1, 0.1)).all()


def test_crops_lie_inside_and_reach_both_ends():
    x = jnp.arange(10.0)
    keys = jax.random.split(jax.random.key(0), 300)
    crops = np.asarray(jax.jit(jax.vmap(lambda key: random_crop(key, x, 8)))(keys))
    np.testing.assert_array_equal(np.diff(crops), 1.0)
    starts, counts = np.unique(crops[:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2] and counts.min() > 70
    np.testing.assert_array_equal(random_crop(keys[0], x, 10), x)


def test_what_is_too_short_lies_whole_in_silence():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    keys = jax.random.split(jax.random.key(0), 50)
    crops = np.asarray(jax.vmap(lambda key: random_crop(key, x, 5))(keys))
    assert crops.shape == (50, 2, 5) and (np.sort(crops)[:, :, :3] == 0).all()
    starts = np.argmax(crops[:, 0] == 1, axis=-1)
    assert set(starts) == {0, 1, 2, 3}
    for crop, start in zip(crops, starts, strict=True):
        np.testing.assert_array_equal(crop[:, start : start + 2], x)


# --- chance -------------------------------------------------------------------------------------------------


def test_random_gains():
    keys = jax.random.split(jax.random.key(0), 500)
    gains = np.asarray(jax.vmap(lambda key: random_gain(key, jnp.ones(1), -12, 6.0))(keys))[:, 0]
    decibels = 20 * np.log10(gains)
    assert decibels.min() > -12.001 and decibels.max() < 6.001
    assert decibels.mean() == pytest.approx(-3, abs=0.8) and decibels.std() == pytest.approx(18 / 12**0.5, abs=0.4)


def test_keys_decide():
    mixed = [dynamic_mix(jax.random.key(k), SPEECH, MUSIC, 1000, -5, 20) for k in (0, 0, 1)]
    np.testing.assert_array_equal(mixed[0].mixture, mixed[1].mixture)
    ratios = [exact_ratio_db(m.speech, m.music) for m in mixed]
    assert ratios[0] == ratios[1] != ratios[2] and all(-5 <= r <= 20 for r in ratios)
    starts = [np.argmin(np.abs(SPEECH - np.asarray(m.speech[0]))) for m in mixed]
    assert starts[0] == starts[1] != starts[2]


@pytest.mark.parametrize("lengths", [(5000, 5000), (600, 300)])
def test_dynamic_mixing_in_batches(lengths):
    """Parts of what is long enough; else music goes round and speech lies in silence; listed ratios."""
    speech, music = SPEECH[: lengths[0]], MUSIC[: lengths[1]]
    run = jax.jit(jax.vmap(lambda key: dynamic_mix(key, speech, music, 1000, smrs=jnp.arange(-5, 21))))
    mixed = run(jax.random.split(jax.random.key(0), 40))
    assert mixed.mixture.shape == (40, 1000)
    ratios = [exact_ratio_db(s, m) for s, m in zip(mixed.speech, mixed.music, strict=True)]
    np.testing.assert_allclose(ratios, np.round(ratios), atol=1e-4)
    assert min(ratios) > -5.1 and max(ratios) < 20.1 and len(set(np.round(ratios))) > 10
    np.testing.assert_allclose(mixed.mixture, mixed.speech + mixed.music, atol=1e-6)
    if lengths[1] == 300:
        np.testing.assert_array_equal(mixed.music[:, 300:600], mixed.music[:, :300])
        assert (np.count_nonzero(mixed.speech, axis=1) == np.count_nonzero(speech)).all()


def test_dynamic_mixing_survives_silence():
    mixed = dynamic_mix(jax.random.key(0), SILENCE, MUSIC, 100, smr_low=3.0, smr_high=3.0)
    np.testing.assert_array_equal(mixed.mixture, mixed.music)
    assert np.isin(np.asarray(mixed.music), MUSIC).all()
