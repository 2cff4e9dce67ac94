"""Guesses that get better from round to round, of voices that nobody showed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep.models import egg_separation as egg
from bayessep.models.idempotent_masker import IdempotentMasker, added, image, magnitudes

pytestmark = pytest.mark.loose_arrays  # optax
TINY = IdempotentMasker(bins=48, frames=48, hop=16, channels=4, blocks=1, critic=4, layers=2, scales=2)


def _music(n: int, rng: np.random.Generator) -> np.ndarray:
    """Partials that go on."""
    x = np.zeros((n, 48, 48), np.float32)
    for one in x:
        pitch = rng.integers(6, 12)
        one[:, pitch::pitch] = rng.uniform(0.4, 0.7)
    return 2 * x - 1


def _voices(n: int, rng: np.random.Generator) -> np.ndarray:
    """Bursts of all frequencies."""
    x = np.zeros((n, 48, 48), np.float32)
    for one in x:
        for first in rng.integers(0, 44, 3):
            one[first : first + 3] = rng.uniform(0.4, 0.6)
    return 2 * x - 1


def test_guesses_get_better_from_round_to_round() -> None:
    rng = np.random.default_rng(0)
    voices, music = _voices(32, rng), _music(32, rng)
    mixtures = np.asarray(added(jnp.asarray(voices), jnp.asarray(_music(32, rng))))
    true = (voices + 1) / 2

    def wrong(found: np.ndarray) -> float:
        return float(np.abs((found + 1) / 2 - true).sum() / true.sum())

    found, errors = np.asarray(egg.first_guesses(jnp.asarray(mixtures), 0.3)), [wrong(mixtures)]
    state = egg.init(TINY, jax.random.key(0))
    for _ in range(2):
        state = egg.again(state.generator)
        for n in range(60):
            rows = rng.integers(32, size=(2, 4))
            state, said = egg.step(TINY, state, egg.Batch(found[rows[0]], music[rows[1]]), jax.random.key(n))
        found = egg.guesses(TINY, state.generator, mixtures, together=12)
        errors.append(wrong(found))
    assert found.shape == mixtures.shape and np.isfinite(float(said["loss"]))
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.8 * errors[1]
    heard = egg.Batch(voices[:4], music[:4])
    assert float(egg.measure(TINY, state.generator, heard)) < 0.1


def test_first_guesses_are_a_tenth_of_magnitudes() -> None:
    """Images are magnitudes to a power, and so is a tenth of them."""
    linear = np.random.default_rng(1).uniform(0, 1, (2, 48, 48)).astype(np.float32)
    found = egg.first_guesses(image(jnp.asarray(linear**0.3)), 0.3)
    np.testing.assert_allclose(np.asarray(magnitudes(found)) ** (1 / 0.3), 0.1 * linear, atol=1e-6)


def test_no_mixtures_have_no_voices() -> None:
    state = egg.init(TINY, jax.random.key(0))
    assert egg.guesses(TINY, state.generator, np.zeros((0, 48, 48), np.float32)).shape == (0, 48, 48)
