"""Recurrent layers: a second implementation, and recordings of unequal length."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep.models.recurrent import Lstm


@pytest.mark.parametrize("backward", [False, True])
def test_a_layer_says_what_the_equations_say(backward: bool) -> None:
    lstm = Lstm(3, 4, nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    enter, again, bias = (np.asarray(p[...], np.float64) for p in (lstm.enter, lstm.again, lstm.bias))
    hidden, cell, expected = np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((6, 2, 4))

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    for t in range(6)[:: -1 if backward else 1]:
        i, f, g, o = np.split(x[t] @ enter + hidden @ again + bias, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        expected[t] = hidden
    np.testing.assert_allclose(lstm(jnp.asarray(x), backward), expected, atol=1e-5)


@pytest.mark.parametrize("backward", [False, True])
def test_what_is_not_valid_says_nothing_and_changes_nothing(backward: bool) -> None:
    lstm = Lstm(3, 4, nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    valid = np.arange(6)[:, None] < np.array([6, 4])
    found = np.asarray(lstm(jnp.asarray(np.where(valid[..., None], x, 99)), backward, jnp.asarray(valid)))
    np.testing.assert_allclose(found[:, 0], lstm(jnp.asarray(x[:, :1]), backward)[:, 0], atol=1e-6)
    np.testing.assert_allclose(found[:4, 1], lstm(jnp.asarray(x[:4, 1:]), backward)[:, 0], atol=1e-6)
    assert not found[4:, 1].any()
