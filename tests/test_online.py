"""Online inference against the coordinate ascent that it approximates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from bayessep import gamma
from bayessep.inference import conjugate, loop, online
from bayessep.models import conditionals, jingle_mixture
from bayessep.models.jingle_mixture import Blocks, Learn, Start

READINGS = Blocks("mean", "mean", "fixed", "fixed", "fixed")
N_BASES = 2


def _data(n_frames: int = 240, n_bins: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    templates = rng.dirichlet(np.full(n_bins, 0.3), N_BASES)
    excitations = rng.gamma(0.5, 60.0, (n_frames, N_BASES))
    return rng.poisson(excitations @ templates).astype(np.float32)


def _problem(x: np.ndarray) -> jingle_mixture.JingleMixture:
    prior = jingle_mixture.priors(x.shape[1], 5.0, n_bases=N_BASES)
    return jingle_mixture.build(jnp.asarray(x), prior=prior)


def _start(problem: jingle_mixture.JingleMixture, templates: gamma.Gamma) -> Partial:
    return Partial(Start(N_BASES), problem, templates)


@pytest.fixture(scope="module")
def whole() -> tuple[jingle_mixture.JingleMixture, gamma.Gamma, loop.Fit]:
    problem = _problem(_data())
    templates = jingle_mixture.initial(jax.random.key(3), problem, n_bases=N_BASES).templates
    algorithm = conjugate.algorithm(conditionals, problem, _start(problem, templates), readings=READINGS)
    return problem, templates, loop.fit(algorithm, jax.random.key(0), max_steps=400, tolerance=1e-7)


def _bound(problem, templates: gamma.Gamma) -> float:
    """Evidence lower bound of all frames with these templates."""
    held = READINGS._replace(templates="fixed")
    algorithm = conjugate.algorithm(conditionals, problem, _start(problem, templates), readings=held)
    fit = loop.fit(algorithm, jax.random.key(0), max_steps=100, tolerance=1e-6)
    return float(fit.trace[-1] - gamma.kl(templates, problem.hyper.prior.templates).sum())


def test_a_full_step_over_everything_is_coordinate_ascent(whole) -> None:
    """With one batch of everything and a step of one, CAVI's fixed point stays where it is, and other templates become better."""
    problem, templates, fit = whole
    algorithm = online.online(
        conditionals, READINGS, shared=("templates",), sweeps=50, rate=online.Rate(delay=1.0, forget=1.0)
    )
    state = algorithm.init(fit.state.posterior)
    new, info = algorithm.step(jax.random.key(1), state, problem, _start(problem, fit.state.posterior.templates), 1.0)
    np.testing.assert_allclose(
        gamma.mean(new.shared["templates"]), gamma.mean(fit.state.posterior.templates), rtol=0.01, atol=1e-4
    )
    assert float(info.objective) > float(fit.trace[-1])  # the divergence of the shared templates is not in a batch's bound
    assert int(new.batches) == 1
    start = _start(problem, templates)
    moved, _ = algorithm.step(jax.random.key(1), algorithm.init(start(jax.random.key(1))), problem, start, 1.0)
    before, after, best = _bound(problem, templates), _bound(problem, moved.shared["templates"]), float(fit.trace[-1])
    assert before + 0.1 * (best - before) < after < best + 1e-3 * abs(best)


def test_batches_reach_the_templates_of_the_whole(whole) -> None:
    problem, templates, fit = whole
    x = np.asarray(problem.frames.x)
    algorithm = online.online(conditionals, READINGS, shared=("templates",), sweeps=20)
    state = algorithm.init(jingle_mixture.initial(jax.random.key(0), problem, n_bases=N_BASES, templates=templates))
    key = jax.random.key(2)
    for epoch in range(6):
        for part in np.split(np.random.default_rng(epoch).permutation(len(x)), 6):
            key, key_step = jax.random.split(key)
            batch = _problem(x[part])
            state, _ = algorithm.step(key_step, state, batch, _start(batch, templates), 6.0)
    best = float(fit.trace[-1])  # negative, as bounds are here
    assert _bound(problem, templates) < 1.2 * best
    assert _bound(problem, state.shared["templates"]) > 1.05 * best
    # The evidence of the whole is in the shapes: a batch alone would leave a sixth of it.
    total = float(state.shared["templates"].shape.sum())
    assert total == pytest.approx(float(fit.state.posterior.templates.shape.sum()), rel=0.1)


def test_fixed_blocks_are_not_shared() -> None:
    algorithm = online.online(conditionals, READINGS._replace(templates="fixed"), shared=("templates", "filter"))
    problem = _problem(_data(20))
    assert algorithm.init(jingle_mixture.initial(jax.random.key(0), problem, n_bases=N_BASES)).shared == {}


def test_a_batch_learns_no_hyper_parameters(whole) -> None:
    problem, _, fit = whole
    algorithm = online.online(conditionals, READINGS, shared=("templates",), sweeps=20)
    state = algorithm.init(fit.state.posterior)
    start = _start(problem, fit.state.posterior.templates)
    new, info = algorithm.step(jax.random.key(1), state, problem, start, 1.0)
    learning = dataclasses.replace(problem, learn=Learn(templates=True, excitations=True))
    again, other = algorithm.step(jax.random.key(1), state, learning, start, 1.0)
    jax.tree.map(np.testing.assert_array_equal, (new, info.local.hyper.prior), (again, other.local.hyper.prior))
