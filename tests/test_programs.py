"""The NumPyro programs against the conjugate algebra, and against enumeration that shares only the definition."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import stats
from scipy.special import gammaln

from bayessep import gamma
from bayessep.gamma import Gamma
from bayessep.models import conditionals, frame_prior, jingle_mixture, programs
from bayessep.models.jingle_mixture import Blocks, JingleMixture

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.loose_arrays]

T, F, B, J = 4, 3, 2, 2
MODES = Blocks(*("mode" for _ in Blocks._fields))


def _problem(*, chain: bool, held_out: bool = False, flat: bool = False, weights: bool = True) -> JingleMixture:
    """A tiny problem with every feature: tied and untied priors, switches, weights, a latent entry."""
    rng = np.random.default_rng(3)

    def prior(shape: tuple[int, ...]) -> Gamma:
        return Gamma(jnp.asarray(rng.uniform(0.6, 3, shape)), jnp.asarray(rng.uniform(0.5, 2, shape)))

    entry = frame_prior.uniform(J, 0.3, jnp.float64)
    order = jnp.asarray([0, 2, 1])
    return jingle_mixture.build(
        jnp.asarray(rng.gamma(2.0, 2.0, (T, F))),
        prior=Blocks(
            prior((1, F)),
            prior((T, 1)),
            gamma.flat(jnp.ones(1)) if flat else prior((1,)),
            gamma.flat(jnp.ones(1)) if flat else prior((T,)),
            prior((1, 1)),
        ),
        catalogue=jnp.asarray(rng.gamma(2.0, 1.0, (J, F))),
        latent=jnp.asarray([0.0, 1.0]),
        frames_prior=frame_prior.left_to_right(entry, order, advance=0.5, stay=0.2, stay_null=0.6)
        if chain
        else frame_prior.independent(entry),
        speech=jnp.asarray([1.0, 1.0, 1.0, 0.0]),
        music=jnp.asarray([0.0, 0.4, 1.0, 1.0]),
        weight=jnp.asarray([1.0, 0.5, 2.0, 1.0]) if weights else None,
        observed=jnp.asarray(rng.random((T, F)) < 0.7, jnp.float64) if held_out else None,
        chain=chain,
    )


def _point(problem: JingleMixture) -> Blocks:
    rng = np.random.default_rng(4)
    catalogue = jnp.where(problem.latent[:, None] > 0, jnp.asarray(rng.gamma(2.0, 1.0, (J + 1, F))), problem.catalogue)
    draw = [jnp.asarray(rng.gamma(2.0, 1.0, shape)) for shape in ((B, F), (T, B), (F,), (T,))]
    return Blocks(*draw, catalogue)


@partial(jax.jit, static_argnames="choices")
def _jitted(problem: JingleMixture, values: Any, candidates: Any, given: Any, choices: programs.Choices) -> jax.Array:
    args = (problem, candidates, given)
    return log_density(programs.jingle_mixture, args, {"choices": choices}, values)[0]


def _density(problem: JingleMixture, point: Blocks, candidates: Any = None) -> float:
    choices = programs.choose(problem, n_bases=B)
    values = point._asdict() | {"catalogue": point.catalogue[np.array(choices.latent)]}
    return float(_jitted(problem, values, candidates, None, choices))


@jax.jit
def _objective(problem: JingleMixture, point: Blocks) -> jax.Array:
    moments = Blocks(*(gamma.point(value) for value in point))
    step = conditionals.local(problem, problem.hyper, moments)
    return conditionals.objective(problem, problem.hyper, problem.hyper.prior, moments, MODES, step)


@pytest.mark.parametrize(
    ("chain", "held_out", "flat"), [(False, False, True), (False, True, False), (True, True, False)]
)
def test_density_is_the_objective_of_points(chain: bool, held_out: bool, flat: bool) -> None:
    problem = _problem(chain=chain, held_out=held_out, flat=flat)
    point = _point(problem)
    np.testing.assert_allclose(_density(problem, point), float(_objective(problem, point)), rtol=1e-12)


@pytest.mark.parametrize("chain", [False, True])
def test_density_by_enumeration(chain: bool) -> None:
    """Every sequence of entries, one by one; for independent frames with weights, as copies of a frame."""
    problem = _problem(chain=chain, weights=not chain)
    x, speech, music, weight = (np.asarray(a) for a in problem.frames[:4])
    point = Blocks(*(np.asarray(value) for value in _point(problem)))
    entry, stay, advance, successor = (np.asarray(a) for a in problem.hyper.frame_prior)

    def frame(t: int, j: int) -> float:
        rate = speech[t] * point.excitations[t] @ point.templates + point.gain[t] * point.filter * point.catalogue[j]
        switch = music[t] if j else 1 - music[t]
        with np.errstate(divide="ignore"):
            return float(np.log(switch) + (x[t] * np.log(rate) - rate - gammaln(x[t] + 1)).sum())

    def move(i: int, j: int) -> float:
        in_order = stay[i] * (i == j) + advance[i] * (successor[i] == j)
        return float(np.log(in_order + (1 - stay[i] - advance[i]) * entry[j]))

    if chain:
        paths = [
            sum(itertools.starmap(frame, enumerate(r)))
            + np.log(entry[r[0]])
            + sum(itertools.starmap(move, itertools.pairwise(r)))
            for r in itertools.product(range(J + 1), repeat=T)
        ]
        likelihood = np.logaddexp.reduce(paths)
    else:
        each = [np.logaddexp.reduce([frame(t, j) + np.log(entry[j]) for j in range(J + 1)]) for t in range(T)]
        likelihood = (weight * each).sum()

    def log_prior(name: str, value: np.ndarray, weights: Any = 1.0) -> float:
        prior = getattr(problem.hyper.prior, name)
        density = stats.gamma.logpdf(value, np.asarray(prior.shape), scale=np.asarray(prior.scale))
        return float((np.asarray(weights) * density).sum())

    prior = (
        log_prior("templates", point.templates)
        + log_prior("excitations", point.excitations, weight[:, None])
        + log_prior("filter", point.filter)
        + log_prior("gain", point.gain, weight)
        + log_prior("catalogue", point.catalogue[2:])
    )
    np.testing.assert_allclose(_density(problem, _point(problem)), likelihood + prior, rtol=1e-12)


def _plain(problem: JingleMixture, values: Blocks) -> jax.Array:
    """The log likelihood left to automatic differentiation, up to constants of x."""
    x, speech, music, weight, observed, _ = problem.frames
    seen = jnp.ones_like(x) if observed is None else observed
    rate_speech = speech[:, None] * (values.excitations @ values.templates)
    rate = 1e-30 + rate_speech[:, None] + (values.gain[:, None] * values.filter)[:, None] * values.catalogue
    switch = jnp.where(jnp.arange(J + 1) == 0, 1 - music[:, None], music[:, None])
    entries = jnp.log(switch) + (seen[:, None] * (x[:, None] * jnp.log(rate) - rate)).sum(2)
    q = frame_prior.posterior(entries, problem.hyper.frame_prior, weight, chain=problem.chain)
    return (weight * q.log_evidence).sum()


@pytest.mark.parametrize(("chain", "held_out"), [(False, True), (True, False)])
def test_slope_from_the_local_step(chain: bool, held_out: bool) -> None:
    """Fisher's identity against automatic differentiation through the sums over entries."""
    problem = _problem(chain=chain, held_out=held_out, weights=not chain)
    point = _point(problem)
    ours, expected = (jax.jit(jax.grad(f, argnums=1))(problem, point) for f in (programs.log_likelihood, _plain))
    expected = expected._replace(catalogue=expected.catalogue * problem.latent[:, None])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, expected)


def test_second_derivatives() -> None:
    problem = _problem(chain=False)
    point = _point(problem)
    ahead = Blocks(*(jnp.cos(value) for value in point))._replace(catalogue=jnp.zeros_like(point.catalogue))

    def curvature(f: Any) -> Blocks:
        return jax.jit(lambda: jax.jvp(partial(jax.grad(f, argnums=1), problem), (point,), (ahead,))[1])()

    ours, expected = curvature(programs.log_likelihood), curvature(_plain)
    for name in Blocks._fields[:-1]:
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), rtol=1e-8, atol=1e-12)


def test_candidates_restrict_and_exhaust() -> None:
    problem, point = _problem(chain=False), _point(_problem(chain=False))
    everything = jnp.tile(jnp.arange(J + 1), (T, 1))
    assert _density(problem, point, everything) == pytest.approx(_density(problem, point), rel=1e-12)
    moments = Blocks(*(gamma.point(value) for value in point))
    best = jax.jit(conditionals.choose_candidates, static_argnums=3)(problem, problem.hyper, moments, 2)
    assert _density(problem, point, best) < _density(problem, point)


def test_nmf_is_the_mixture_without_music() -> None:
    problem, point = _problem(chain=False), _point(_problem(chain=False))
    priors = problem.hyper.prior
    settings = {"n_bases": B, "templates": priors.templates, "excitations": priors.excitations}
    values = {"templates": point.templates, "excitations": point.excitations}
    ours = float(jax.jit(lambda: log_density(programs.nmf, (problem.frames.x,), settings, values)[0])())
    rate = np.asarray(point.excitations @ point.templates)
    x = np.asarray(problem.frames.x)
    expected = (x * np.log(rate) - rate - gammaln(x + 1)).sum()
    for name, value in values.items():
        prior = getattr(priors, name)
        expected += stats.gamma.logpdf(value, np.asarray(prior.shape), scale=np.asarray(prior.scale)).sum()
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_given_blocks_and_choices() -> None:
    problem = _problem(chain=False, flat=True)
    choices = programs.choose(problem, n_bases=B)
    assert choices == programs.Choices(B, ("filter", "gain"), (2,))
    assert programs.choose(_problem(chain=False), n_bases=B).parameters == ()
    point = _point(problem)
    values = {"excitations": point.excitations, "catalogue": point.catalogue[2:]}
    given = {"templates": point.templates, "filter": point.filter, "gain": point.gain}
    density = _jitted(problem, values, None, given, choices)
    without = gamma.log_prior(
        problem.hyper.prior.templates, problem.hyper.prior.templates, gamma.point(point.templates), "mode"
    )
    np.testing.assert_allclose(float(density), _density(problem, point) - float(without.sum()), rtol=1e-12)


def test_sites_and_moments_are_inverse() -> None:
    problem = _problem(chain=False, flat=True)
    choices = programs.choose(problem, n_bases=B)
    q = jingle_mixture.initial(jax.random.key(0), problem, n_bases=B)
    found = programs.sites(problem, q, choices)
    assert {name: isinstance(value, Gamma) for name, value in found.items()} == {
        "templates": True, "excitations": True, "filter": False, "gain": False, "catalogue": True,
    }  # fmt: skip
    back = programs.moments(problem, found, choices)
    for name in Blocks._fields:
        expected = jingle_mixture.read(problem, name, getattr(q, name), "mean")
        np.testing.assert_allclose(getattr(back, name).mean, expected.mean, rtol=1e-12)
    expected = jingle_mixture.read(problem, "catalogue", q.catalogue, "mean")
    np.testing.assert_allclose(back.catalogue.geometric, expected.geometric, rtol=1e-12)
    blocks = programs.blocks(problem, found, choices)
    for name, reading in zip(Blocks._fields, programs.readings(found), strict=True):
        assert reading == ("log_mode" if name in ("filter", "gain") else "mean")
        expected = jingle_mixture.read(problem, name, getattr(q, name), reading)
        got = jingle_mixture.read(problem, name, getattr(blocks, name), reading)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, expected)
