"""The recurrent mask: its size, both directions, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep.errors import UserError
from bayessep.models import blstm_mask
from bayessep.models.blstm_mask import PRESETS, BlstmMask, predict
from bayessep.models.waveform_separation import Batch

TINY = BlstmMask(layers=2, units=5, window=16, hop=4, rate=1e-2)


def test_the_papers_network_has_the_size_of_its_sentence() -> None:
    """5 layers of 320 units each way and a linear layer; frameworks with two biases in each LSTM count 12,800 more."""
    direction = sum(4 * 320 * (n + 320 + 1) for n in (201, 640, 640, 640, 640))
    assert blstm_mask.parameter_count(PRESETS["paper"]) == 2 * direction + 641 * 201 == 11_305_801


def test_stems_sum_to_the_mixture_and_are_heard_from_both_sides() -> None:
    parameters = blstm_mask.init(TINY, jax.random.key(0)).parameters
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 83)), jnp.float32)
    found = predict(TINY, parameters, x)
    assert found.shape == (2, 2, 83)
    np.testing.assert_allclose(found.sum(1), x, atol=1e-6)
    gradient = np.asarray(jax.grad(lambda x: predict(TINY, parameters, x[None])[0, 0, 40])(x[0]))
    assert gradient[:20].any() and gradient[62:].any()


@pytest.mark.loose_arrays  # optax
def test_it_learns_to_tell_two_tones_apart_and_compiles_once() -> None:
    blstm_mask.step.clear_cache()
    time, rng = np.arange(200) / 100, np.random.default_rng(0)
    state, losses = blstm_mask.init(TINY, jax.random.key(0)), []
    for n in range(60):
        tones = [np.sin(2 * np.pi * f * time + rng.uniform(0, 6, (4, 1))) for f in (8.0, 35.0)]
        sources = np.stack(tones, axis=1).astype(np.float32)
        state, found = blstm_mask.step(TINY, state, Batch(jnp.asarray(sources.sum(1)), jnp.asarray(sources)), jax.random.key(n))
        losses.append(float(found.loss))
    assert losses[-1] < -8 < losses[0]
    assert blstm_mask.step._cache_size() == 1


@pytest.mark.parametrize(("changes", "says"), [({"layers": 0}, "layers is 0"), ({"rate": 1.0}, "rate is 1.0")])
def test_impossible_settings_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        BlstmMask(**changes)
