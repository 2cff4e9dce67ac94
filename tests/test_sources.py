"""Posterior of the sources against binomial mixtures, draws against their moments, predictions against the truth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import digamma, logsumexp

from bayessep.models import conditionals as co
from bayessep.models.jingle_mixture import Blocks
from bayessep.models.sources import draw_of_templates, draw_sources, log_predictive, of_templates, own_rate, sources
from tests.helpers import (
    Setting,
    moments_of,
    quick_jit,
    random_posterior,
    random_problem,
    readings,
    run,
    sampling_jit,
    stack,
)

MEANS, POINTS = readings("mean", proper=True), readings("log_mode", proper=True)


def some_problem(seed=0, how=MEANS, chain=False, **sizes):
    """(model, posterior, moments) with unlabelled and labelled music, all blocks random."""
    model = random_problem(seed, Setting("latent", chain, "unlabelled", proper=True), dtype=jnp.float64, **sizes)
    posterior = random_posterior(seed, model)
    return model, posterior, moments_of(posterior, model, how)


def shares(model, posterior):
    """(T, F, J): G / (G + lambda_j), from geometric means by scipy."""
    geometric = {n: np.exp(digamma(np.asarray(q.shape))) * np.asarray(q.scale) for n, q in posterior._asdict().items()}
    latent = np.asarray(model.latent)[:, None] > 0
    catalogue = np.where(latent, geometric["catalogue"], np.asarray(model.catalogue))
    speech = geometric["excitations"] @ geometric["templates"]
    music = np.einsum("t,u,ju->tuj", geometric["gain"], geometric["filter"], catalogue)
    return speech[..., None] / (speech[..., None] + music)


@pytest.mark.parametrize("chain", [False, True])
def test_mean_and_variance_are_those_of_the_binomial_mixture(x64, chain):
    """Counts of speech in every bin, one by one: sum_j rho_tj Binomial(x_tu, p_tuj)."""
    model, posterior, moments = some_problem(chain=chain, whole=True)
    rho = np.asarray(quick_jit(co.local)(model, model.hyper, moments).responsibility)
    result = quick_jit(sources)(model, model.hyper, moments)
    x, p = np.asarray(model.frames.x), shares(model, posterior)
    counts = np.arange(x.max() + 1)
    pmf = np.einsum("tj,tujn->tun", rho, st.binom(x[..., None, None], p[..., None]).pmf(counts))
    mean = pmf @ counts
    np.testing.assert_allclose(result.speech, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.variance, pmf @ counts**2 - mean**2, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(result.p_music, 1 - rho[:, 0], rtol=1e-9, atol=1e-12)


def test_less_than_one_count_goes_to_one_source_whole(x64):
    """Variances stay possible for small magnitudes: never above that of all or nothing."""
    model, _, moments = some_problem(level=0.3)
    result, x = quick_jit(sources)(model, model.hyper, moments), model.frames.x
    assert (x < 1).mean() > 0.5
    assert (result.variance <= result.speech * (x - result.speech) * (1 + 1e-9) + 1e-12).all()


def test_without_music_everything_is_speech(x64):
    model = random_problem(1, Setting("none", proper=True), dtype=jnp.float64)
    result = sources(model, model.hyper, moments_of(random_posterior(1, model), model, MEANS))
    np.testing.assert_array_equal(result.speech, model.frames.x)
    assert not result.variance.any() and not result.p_music.any()


def test_all_entries_as_candidates_change_nothing(x64):
    model, _, moments = some_problem(2)
    rng = np.random.default_rng(0)
    candidates = jnp.asarray(np.stack([rng.permutation(5) for _ in range(9)]), jnp.int32)
    one, other = (quick_jit(sources)(model, model.hyper, moments, c) for c in (None, candidates))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, other)


@sampling_jit
def draws(keys, model, posterior, moments):
    return jax.vmap(lambda key: draw_sources(key, model, model.hyper, posterior, moments, POINTS))(keys)


def _of_two(seed=5, **sizes):
    """A model whose templates are one of speech and others of music, which may or may not be there."""
    model = random_problem(seed, Setting("none", proper=True), dtype=jnp.float64, **sizes)
    model = dataclasses.replace(model, frames=model.frames._replace(music=jnp.asarray([0, 0.3, 0.9] * 3)))
    posterior = random_posterior(seed, model)
    return model, posterior, moments_of(posterior, model, POINTS)


def test_templates_beside_each_other_are_a_binomial_mixture_too(x64):
    """With probability music Binomial(x, p), else all of x."""
    model, _, moments = _of_two(whole=True)
    result = quick_jit(lambda: of_templates(model, moments, 1))()
    x, music, d = (np.asarray(a) for a in (model.frames.x, model.frames.music, moments.excitations.mean))
    rates = d[:, :, None] * np.asarray(moments.templates.mean)
    p = rates[:, 0] / rates.sum(1)
    counts = np.arange(x.max() + 1)
    pmf = music[:, None, None] * st.binom(x[..., None], p[..., None]).pmf(counts)
    pmf = pmf + (1 - music)[:, None, None] * (counts == x[..., None])
    mean = pmf @ counts
    np.testing.assert_allclose(result.speech, mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.variance, pmf @ counts**2 - mean**2, rtol=1e-7, atol=1e-10)


def test_draws_of_templates_beside_each_other_have_their_mean_and_variance(x64):
    model, posterior, moments = _of_two()
    model = dataclasses.replace(model, frames=model.frames._replace(x=1 + model.frames.x))
    n = 4000

    @sampling_jit
    def draw(keys):
        return jax.vmap(lambda key: draw_of_templates(key, model, posterior, moments, POINTS, 1))(keys)

    drawn, expected = np.asarray(draw(jax.random.split(jax.random.key(1), n))), of_templates(model, moments, 1)
    error = np.sqrt(np.asarray(expected.variance) / n)
    assert (abs(drawn.mean(0) - expected.speech) < 4.5 * error + 1e-6 * expected.speech).all()
    square = (drawn - np.asarray(expected.speech)) ** 2
    assert (abs(square.mean(0) - expected.variance) < 4.5 * np.asarray(model.frames.x) * error + 1e-12).all()


@pytest.mark.parametrize("chain", [False, True])
def test_draws_have_the_mean_and_variance_of_the_posterior(x64, chain):
    """With blocks at points nothing but r and the shares is random. Magnitudes are real, and above 1."""
    model, posterior, moments = some_problem(3, POINTS, chain)
    frames = model.frames._replace(x=1 + model.frames.x, observed=None)
    model = dataclasses.replace(model, frames=frames)
    n = 4000
    drawn = np.asarray(draws(jax.random.split(jax.random.key(0), n), model, posterior, moments))
    assert (drawn >= 0).all() and (drawn <= np.asarray(frames.x)).all()
    expected = quick_jit(sources)(model, model.hyper, moments)
    mean, variance = np.asarray(expected.speech), np.asarray(expected.variance)
    error = np.sqrt(variance / n)  # not that of the draws, which may have seen none of a rare event
    assert (abs(drawn.mean(0) - mean) < 4.5 * error + 1e-6 * mean).all()
    square = (drawn - mean) ** 2
    assert (abs(square.mean(0) - variance) < 4.5 * np.asarray(frames.x) * error + 1e-12).all()  # E[square^2] <= x^2 variance
    at = square.mean((0, 2)).argmax()
    within_frame = np.corrcoef(drawn[:, at, drawn[:, at].std(0) > 1e-9].T)
    assert np.max(np.abs(within_frame - np.eye(len(within_frame)))) > 0.1, "r moves all bins of a frame together"


def test_draws_of_uncertain_blocks_vary_more(x64):
    model, posterior, moments = some_problem(4)
    keys = jax.random.split(jax.random.key(0), 500)

    @sampling_jit
    def draw(posterior, moments):
        return jax.vmap(lambda k: draw_sources(k, model, model.hyper, posterior, moments, MEANS))(keys)

    points = moments_of(posterior, model, POINTS)
    assert draw(posterior, moments).var(0).mean() > 1.3 * draws(keys, model, posterior, points).var(0).mean()


# --- predictions --------------------------------------------------------------------------------------------


def test_log_predictive_is_the_mixture_of_poissons(x64):
    model = random_problem(5, Setting("latent", False, "unlabelled", observed=True, proper=True), whole=True, dtype=jnp.float64)
    moments = moments_of(random_posterior(5, model), model, MEANS)
    rho = quick_jit(co.local)(model, model.hyper, moments).responsibility
    mean = {name: np.asarray(m.mean) for name, m in moments._asdict().items()}
    rate = (mean["excitations"] @ mean["templates"])[..., None] \
        + np.einsum("t,u,ju->tuj", mean["gain"], mean["filter"], mean["catalogue"])  # fmt: skip
    held = np.asarray(model.frames.observed) == 0
    log_p = np.where(held[..., None], st.poisson(rate).logpmf(np.asarray(model.frames.x)[..., None]), 0).sum(1)
    expected = logsumexp(log_p, b=np.asarray(rho), axis=1).sum() / held.sum()
    np.testing.assert_allclose(quick_jit(log_predictive)(model, moments, rho), expected, rtol=1e-9)


def test_log_predictive_needs_bins_that_are_held_out():
    model = random_problem(5, Setting("none"))
    with pytest.raises(ValueError, match="held out"):
        log_predictive(model, moments_of(random_posterior(5, model), model, MEANS), jnp.ones((9, 1)))


def test_log_predictive_finds_the_number_of_bases():
    """Data of three templates: with one there is too little, and maximum likelihood with twelve fits the noise."""
    n_seeds, (n_frames, n_bins) = 6, (30, 16)

    def problem(seed):
        model = random_problem(seed, Setting("none", observed=True), shape=(n_frames, n_bins), level=4.0)
        rng = np.random.default_rng(seed)
        rate = rng.gamma(0.5, 2, (n_frames, 3)) @ rng.gamma(0.5, 8, (3, n_bins))
        x = jnp.asarray(rng.poisson(rate), jnp.float32)
        return dataclasses.replace(model, frames=model.frames._replace(x=x))

    def score(bases, kind):
        how = Blocks(kind, kind, "fixed", "fixed", "fixed")
        problems = [problem(seed) for seed in range(n_seeds)]
        starts = [random_posterior(seed, p, bases) for seed, p in enumerate(problems)]
        keys = jax.random.split(jax.random.key(0), n_seeds)
        state, _ = run(stack(problems), stack(starts), keys, how=how, steps=150)
        ones = jnp.ones((n_frames, 1))
        moments = [jax.tree.map(lambda a, i=i: a[i], state.moments) for i in range(n_seeds)]
        return np.array([log_predictive(p, m, ones) for p, m in zip(problems, moments, strict=True)])

    few, right, many = score(1, "mean"), score(3, "mean"), score(12, "log_mode")
    assert (right > few + 0.1).all() and (right > many).all(), (few, right, many)


def test_a_bin_of_speech_has_a_rate_of_its_own() -> None:
    """The rate maximises the density of log z, and goes from the templates' to what the music leaves."""
    rng = np.random.default_rng(0)
    x, speech, music = (jnp.asarray(rng.gamma(0.5, 4.0, 200) + 1e-3) for _ in range(3))
    for shape in (0.05, 0.7, 20.0):
        z = own_rate(x, speech, music, shape) / speech

        def log_density(log_z, shape=shape):
            rate = speech * jnp.exp(log_z) + music
            return (shape * (log_z - jnp.exp(log_z)) + x * jnp.log(rate) - rate).sum()

        slope = jax.grad(log_density)(jnp.log(z))
        np.testing.assert_allclose(slope, 0, atol=1e-5)
    np.testing.assert_allclose(own_rate(x, speech, music, 1e9), speech, rtol=1e-5)
    np.testing.assert_allclose(own_rate(x, speech, music, 1e-9), np.maximum(x - music, 0), atol=1e-3)


def test_without_music_speech_takes_everything_whatever_its_shape() -> None:
    x = jnp.asarray([0.0, 1.0, 5.0])
    speech = jnp.asarray([2.0, 1e-20, 0.1])
    rate = own_rate(x, speech, jnp.zeros(3), 0.3)
    by_hand = speech * (0.3 + x) / (0.3 + speech)  # where the slope of its density is 0
    np.testing.assert_allclose(rate[jnp.array([0, 2])], by_hand[jnp.array([0, 2])], rtol=1e-5)
    assert bool(jnp.all(rate > 0)), "its share is rate / (rate + 0)"
