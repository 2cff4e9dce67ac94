"""NUTS against Gibbs: two samplers that share nothing but the model have to find the same posterior."""

from functools import partial

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from numpyro.diagnostics import effective_sample_size

from bayessep import gamma
from bayessep.gamma import Gamma
from bayessep.inference import gibbs, loop, nuts, posterior
from bayessep.models import conditionals, frame_prior, jingle_mixture, programs
from bayessep.models.jingle_mixture import Blocks, JingleMixture

pytestmark = pytest.mark.loose_arrays

T, F, B, J = 4, 3, 2, 2
SAMPLES = 1000


def _problem() -> JingleMixture:
    rng = np.random.default_rng(6)
    catalogue = np.asarray([[1.0, 8.0, 2.0], [6.0, 1.0, 6.0]])
    speech = rng.gamma(1.0, 2.0, (T, B)) @ rng.gamma(1.0, 2.0, (B, F))
    x = rng.poisson(speech + np.concatenate([np.zeros((1, F)), catalogue])[[0, 1, 2, 0]])
    order = jnp.asarray([0, 2, 1])
    return jingle_mixture.build(
        jnp.asarray(x, jnp.float32),
        prior=jingle_mixture.priors(
            F, 4.0, n_bases=B, template_shape=2.0, excitation_shape=2.0, filter_shape=20.0, gain_shape=5.0
        ),
        catalogue=jnp.asarray(catalogue, jnp.float32),
        frames_prior=frame_prior.left_to_right(frame_prior.uniform(J, 0.4), order, advance=0.6, stay_null=0.5),
        music=jnp.full(T, 0.5),
        chain=True,
    )


@partial(jax.jit, static_argnames="shape")
def _summaries(problem: JingleMixture, draws: dict[str, Array], shape: tuple[int, int]) -> dict[str, Array]:
    """What does not change when the templates trade places or scales, for each draw: rates, P(music), share of speech."""

    def one(values: dict[str, Array]) -> dict[str, Array]:
        moments = Blocks(**{name: gamma.point(value) for name, value in values.items()})
        step = conditionals.local(problem, problem.hyper, moments)
        rate = values["excitations"] @ values["templates"]
        share = step.counts.excitations.sum(1) / jnp.maximum(problem.frames.x.sum(1), 1)
        return {"rate": rate, "music": 1 - step.responsibility[:, 0], "share": share, "gain": values["gain"]}

    found = jax.lax.map(one, draws, batch_size=250)
    return {name: value.reshape(shape + value.shape[1:]) for name, value in found.items()}


def test_nuts_and_gibbs_agree() -> None:
    """On a mixture with a chain; two bases may trade places, so only what does not change by that is compared."""
    problem = _problem()
    choices = programs.choose(problem, n_bases=B)
    assert choices.parameters == ()
    start = jingle_mixture.initial(jax.random.key(0), problem, n_bases=B)
    # Gibbs reads a fixed block as the two means of its Gamma: nearly equal, they are one known point.
    start = start._replace(filter=Gamma(jnp.full(F, 1e6), jnp.full(F, 1e-6)))

    ours = nuts.nuts(
        programs.jingle_mixture,
        jax.random.key(1),
        problem,
        None,
        {"filter": jnp.ones(F)},
        warmup=400,
        samples=SAMPLES,
        chains=2,
        start=programs.sites(problem, start, choices),
        choices=choices,
    )
    assert not np.any(ours.diverging)
    assert set(ours.values) == {"templates", "excitations", "gain"}
    assert all(value.shape[:2] == ours.steps.shape == (2, SAMPLES) for value in ours.values.values())
    np.testing.assert_allclose(ours.r_hat["gain"], 1, atol=0.05)
    assert np.all(ours.effective["gain"] > 0.1 * SAMPLES)
    flat = {name: value.reshape(2 * SAMPLES, *value.shape[2:]) for name, value in ours.values.items()}
    flat |= {"catalogue": jnp.tile(problem.catalogue, (2 * SAMPLES, 1, 1)), "filter": jnp.ones((2 * SAMPLES, F))}

    # The first draws are dropped here: a warm-up of its own would compile the sampler twice.
    readings = Blocks("sample", "sample", "fixed", "sample", "fixed")
    algorithm = gibbs.gibbs(conditionals, problem, lambda key: start, readings=readings)
    _, kept = loop.collect(algorithm, jax.random.key(2), warmup=0, samples=100 + 2 * SAMPLES, thin=5, keep=_points)
    kept = {name: value[100:] for name, value in kept.items()}

    a = _summaries(problem, flat, (2, SAMPLES))
    b = _summaries(problem, kept, (1, 2 * SAMPLES))
    for name in a:
        mean_a, error_a = _mean_and_error(a[name])
        mean_b, error_b = _mean_and_error(b[name])
        error = np.hypot(error_a, error_b)
        assert np.all(error < 0.05 * np.maximum(mean_a, 0.2)), name  # sharp enough to tell
        np.testing.assert_array_less(np.abs(mean_a - mean_b), 4.5 * error, name)


def _points(state) -> dict[str, Array]:
    return {name: m.mean for name, m in state.moments._asdict().items()}


def _mean_and_error(draws: Array) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(draws, np.float64)
    effective = effective_sample_size(values)
    return values.mean((0, 1)), values.std((0, 1)) / np.sqrt(effective)


def test_parameters_are_refused() -> None:
    flat = Gamma(jnp.ones(1), jnp.full(1, jnp.inf))
    problem = _problem()
    prior = problem.hyper.prior._replace(filter=flat)
    problem = jingle_mixture.build(problem.frames.x, prior=prior, catalogue=problem.catalogue[1:])
    with pytest.raises(ValueError, match="filter"):
        nuts.nuts(programs.jingle_mixture, jax.random.key(0), problem, choices=programs.choose(problem, n_bases=B))


# --- posteriors for ArviZ -------------------------------------------------------------------------


def test_draws_to_arviz() -> None:
    values = {"templates": jnp.arange(24.0).reshape(2, 3, 2, 2), "gain": jnp.ones((2, 3))}
    made = posterior.to_arviz(
        values,
        dims={"templates": ("base", "bin")},
        coords={"bin": [100.0, 200.0]},
        sample_stats={"diverging": jnp.zeros((2, 3), bool)},
        observed={"x": jnp.ones(4)},
    )
    found = made["posterior"]["templates"]
    assert found.dims == ("chain", "draw", "base", "bin")
    np.testing.assert_array_equal(found.sel(bin=200.0), values["templates"][..., 1])
    assert made["sample_stats"]["diverging"].shape == (2, 3)
    assert made["observed_data"]["x"].shape == (4,)
    assert type(made).__name__ == ("InferenceData" if arviz.__version__ < "1" else "DataTree")


def test_axes_are_checked() -> None:
    with pytest.raises(ValueError, match="gain has shape"):
        posterior.to_arviz({"mean": jnp.ones((2, 3)), "gain": jnp.ones(3)})


def test_draws_from_a_mean_field_posterior() -> None:
    q = {"a": Gamma(jnp.full((2, 1), 3.0), jnp.asarray([[0.5, 2.0]])), "b": jnp.ones(3)}
    draws = posterior.draw(jax.random.key(0), q, 4000)
    assert draws["a"].shape == (1, 4000, 2, 2) and draws["b"].shape == (1, 4000, 3)
    np.testing.assert_allclose(draws["a"].mean((0, 1)), np.tile([1.5, 6.0], (2, 1)), rtol=0.05)
    blocks = Blocks(q["a"], q["a"], None, None, None)
    assert set(posterior.draw(jax.random.key(0), blocks, 5)) == {"templates", "excitations"}
