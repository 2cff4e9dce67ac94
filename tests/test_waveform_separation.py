"""The loss of separators against the metric of the library, and gradients that do not depend on how examples are grouped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep import metrics
from bayessep.models import waveform_separation as ws
from bayessep.models.waveform_separation import Batch


def _random(*shape: int, seed: int = 0) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("noise", [0.01, 0.5, 3.0])
def test_si_sdr_is_that_of_the_metrics_and_minds_no_scale_or_offset(noise: float) -> None:
    reference = _random(3, 500)
    reference -= reference.mean(-1, keepdims=True)
    estimate = reference + noise * _random(3, 500, seed=1)
    estimate -= estimate.mean(-1, keepdims=True)
    found = ws.si_sdr(reference, estimate)
    for one, true, guess in zip(found, reference, estimate, strict=True):
        np.testing.assert_allclose(one, metrics.si_sdr(np.asarray(true), np.asarray(guess)), atol=1e-3)
    np.testing.assert_allclose(ws.si_sdr(reference, 7 * estimate + 2), found, atol=1e-3)


def test_silence_has_a_loss_and_a_gradient() -> None:
    for reference, estimate in ((jnp.zeros(50), _random(50)), (_random(50), jnp.zeros(50)), (jnp.zeros(50), jnp.zeros(50))):
        value, gradient = jax.value_and_grad(lambda x: ws.si_sdr(reference, x))(estimate)  # noqa: B023
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_consistent_sources_keep_their_difference() -> None:
    mixture, sources = _random(2, 30), _random(2, 2, 30, seed=1)
    found = ws.consistent(mixture, sources)
    np.testing.assert_allclose(found.sum(1), mixture, atol=1e-6)
    np.testing.assert_allclose(found[:, 0] - found[:, 1], sources[:, 0] - sources[:, 1], atol=1e-6)


def _separate(parameters: jnp.ndarray, mixture: jnp.ndarray) -> jnp.ndarray:
    """A gain of each sample, for each source."""
    return parameters[None] * mixture[:, None]


@pytest.mark.loose_arrays  # optax
def test_how_many_examples_go_together_makes_no_difference() -> None:
    sources = _random(6, 2, 40)
    batch = Batch(sources.sum(1), sources)
    parameters = _random(2, 40, seed=3)
    found = []
    for together in (0, 1, 3, 6):
        state = ws.State(parameters, ws.optimiser(0.1).init(parameters))
        found.append(ws.learn(_separate, 0.1, state, batch, together))
    for state, metrics_ in found[1:]:
        np.testing.assert_allclose(state.parameters, found[0][0].parameters, atol=1e-5)
        np.testing.assert_allclose(metrics_, found[0][1], rtol=1e-5)
    loss = ws.losses(_separate, parameters, batch)
    np.testing.assert_allclose(found[0][1].loss, loss.loss)
    np.testing.assert_allclose(loss.loss, -(loss.speech + loss.music) / 2, rtol=1e-6)
    after = ws.losses(_separate, found[0][0].parameters, batch)
    assert after.loss < loss.loss
