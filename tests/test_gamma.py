"""The Gamma distribution against scipy, quadrature and its own definitions."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as sp
import scipy.stats as st
from scipy.integrate import quad

from bayessep import gamma
from bayessep.gamma import Gamma, Moments

SHAPES = np.geomspace(1e-3, 1e6, 2001)


def precision(dtype):
    return jax.enable_x64(True) if dtype == np.float64 else nullcontext()


# --- special functions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-12)])
def test_special_functions_against_scipy(dtype, tolerance):
    """Relative error, taken against 1 where the function passes through zero."""
    a = SHAPES.astype(dtype)
    with precision(dtype):
        digamma, log_gamma = gamma.digamma(jnp.asarray(a)), gamma.log_gamma(jnp.asarray(a))
        assert digamma.dtype == log_gamma.dtype == dtype
    exact = a.astype(np.float64)
    np.testing.assert_allclose(digamma, sp.digamma(exact), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(log_gamma, sp.gammaln(exact), rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_exp_digamma_against_scipy(dtype, tolerance):
    a = SHAPES[SHAPES > 0.02].astype(dtype)
    with precision(dtype):
        np.testing.assert_allclose(
            gamma.exp_digamma(jnp.asarray(a)), np.exp(sp.digamma(a.astype(np.float64))), rtol=tolerance
        )


def test_exp_digamma_underflows_to_zero_and_its_logarithm_does_not():
    q = Gamma(jnp.asarray(1e-3), jnp.asarray(2.0))
    assert gamma.geometric_mean(q) == 0
    np.testing.assert_allclose(gamma.log_mean(q), sp.digamma(1e-3) + np.log(2), rtol=1e-6)


# --- the distribution ---------------------------------------------------------------------------------------

CASES = [(0.3, 2.0), (1.0, 0.7), (2.5, 1.3), (40.0, 0.05)]


@pytest.mark.parametrize(("shape", "scale"), CASES)
def test_summaries_against_scipy(x64, shape, scale):
    q, exact = Gamma(jnp.asarray(shape), jnp.asarray(scale)), st.gamma(shape, scale=scale)
    x = jnp.asarray(exact.rvs(5, random_state=1))
    np.testing.assert_allclose(gamma.mean(q), exact.mean())
    np.testing.assert_allclose(gamma.variance(q), exact.var())
    np.testing.assert_allclose(gamma.log_prob(Gamma(q.shape[None], q.scale[None]), x), exact.logpdf(x), rtol=1e-10)
    np.testing.assert_allclose(gamma.entropy(q), exact.entropy(), rtol=1e-10)
    log_mean = quad(lambda p: np.log(exact.ppf(p)), 0, 1, epsabs=1e-10)[0]
    np.testing.assert_allclose(gamma.log_mean(q), log_mean, rtol=1e-6)
    np.testing.assert_allclose(gamma.geometric_mean(q), np.exp(log_mean), rtol=1e-6)
    if shape > 1:
        near = gamma.mode(q) * (1 + jnp.asarray([-1e-3, 0, 1e-3]))
        assert np.argmax(exact.logpdf(near)) == 1
    else:
        assert gamma.mode(q) == 0


@pytest.mark.parametrize("q", CASES)
@pytest.mark.parametrize("p", CASES)
def test_kl_against_quadrature(x64, q, p):
    one, other = st.gamma(q[0], scale=q[1]), st.gamma(p[0], scale=p[1])

    def integrand(log_x):  # over log x, where no density has a pole
        x = np.exp(log_x)
        return x * one.pdf(x) * (one.logpdf(x) - other.logpdf(x))

    low, high = np.log(one.ppf(1e-15)), np.log(one.isf(1e-15))
    numeric = quad(integrand, low, high, epsabs=1e-11, limit=200)[0]
    kl = gamma.kl(Gamma(jnp.asarray(q[0]), jnp.asarray(q[1])), Gamma(jnp.asarray(p[0]), jnp.asarray(p[1])))
    np.testing.assert_allclose(kl, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e3, 1e6])
def test_kl_of_large_shapes_is_precise_in_float32(size):
    """Where means agree and shapes differ by a hundredth, 2.5e-5, of terms as large as the shapes."""
    shapes, scales = size * np.array([1.01, 1.0, 1.0]), np.array([1 / size, 1.01 / size, 1.1 / size])
    q = Gamma(jnp.float32(shapes[0]), jnp.float32(scales[0]))
    for n in (1, 2):
        a, b, c, d = (float(jnp.float32(v)) for v in (shapes[0], scales[0], shapes[n], scales[n]))
        exact = (a - c) * sp.digamma(a) - sp.gammaln(a) + sp.gammaln(c) + c * np.log(d / b) + a * (b / d - 1)
        found = gamma.kl(q, Gamma(jnp.float32(shapes[n]), jnp.float32(scales[n])))
        assert float(found) == pytest.approx(exact, rel=1e-3, abs=2e-6)


@pytest.mark.parametrize(("shape", "scale"), [(0.2, 1.0), (3.0, 0.5)])
def test_samples_follow_the_distribution(shape, scale):
    draws = gamma.sample(jax.random.key(0), Gamma(jnp.full(4000, shape), jnp.full(4000, scale)))
    assert st.kstest(np.asarray(draws, np.float64), st.gamma(shape, scale=scale).cdf).pvalue > 0.01
    assert draws.min() > 0


@pytest.mark.parametrize("shape", [0.2, 1.0, 7.0])
def test_draws_and_their_derivative(shape):
    """The distribution is exact; d log x and dx by the shape have the expectations trigamma and 1."""
    shapes = jnp.full(100_000, shape)
    draw, slope = jax.jvp(lambda a: gamma.draw_unit(jax.random.key(1), a), (shapes,), (jnp.ones_like(shapes),))
    # The smallest draws of shape 0.2 are no float32: the logarithm is what is compared.
    assert st.kstest(np.asarray(draw, np.float64), st.loggamma(shape).cdf).pvalue > 1e-3
    for values, expected in ((slope, sp.polygamma(1, shape)), (jnp.exp(draw) * slope, 1.0)):
        error = float(values.std()) / np.sqrt(values.size)
        assert float(values.mean()) == pytest.approx(float(expected), abs=4 * error + 1e-3 * float(expected))


def test_refusals_make_draws_exact():
    """Unrefused cubes of normals have the right mean and nearly the right law, but a variance 3 % too large at shape 4."""
    uniform = jax.random.uniform(jax.random.key(2), (6, 400_000), minval=1e-7)
    draws = jnp.exp(gamma._draw_large(jnp.full(400_000, 4.0), uniform))
    assert float(draws.var()) == pytest.approx(4.0, rel=0.01)


def test_shares_follow_the_beta_distribution():
    a, b = jnp.full(4000, 0.3), jnp.full(4000, 2.0)
    assert st.kstest(np.asarray(gamma.sample_share(jax.random.key(3), a, b), np.float64), st.beta(0.3, 2.0).cdf).pvalue > 0.01


def test_sample_broadcasts_shape_and_scale():
    draws = gamma.sample(jax.random.key(0), Gamma(jnp.full((3, 1), 2.0), jnp.ones((1, 4))))
    assert draws.shape == (3, 4) and len(set(np.asarray(draws).ravel().tolist())) == 12


def test_multiply_is_the_posterior_after_poisson_counts(x64):
    """Prior times likelihood, normalised numerically, is the density of the conditional."""
    prior, counts, exposure = st.gamma(1.7, scale=0.4), 3, 2.2
    x = np.linspace(0.01, 6, 50)
    product = prior.pdf(x) * st.poisson.pmf(counts, exposure * x)
    evidence = quad(lambda x: prior.pdf(x) * st.poisson.pmf(counts, exposure * x), 0, np.inf)[0]
    q = gamma.multiply(
        Gamma(jnp.asarray([1.7]), jnp.asarray([0.4])), jnp.asarray([float(counts)]), jnp.asarray([exposure])
    )
    np.testing.assert_allclose(np.exp(gamma.log_prob(q, jnp.asarray(x))), product / evidence, rtol=1e-6)


def test_after_a_flat_prior_the_mode_is_the_maximum_likelihood_estimate(x64):
    q = gamma.multiply(gamma.flat(jnp.ones(1)), jnp.asarray([6.0, 0.5]), jnp.asarray([2.0, 4.0]))
    np.testing.assert_allclose(gamma.mode(q), [3.0, 0.125])


# --- readings -----------------------------------------------------------------------------------------------


def test_readings(x64):
    q = Gamma(jnp.asarray([0.5, 3.0]), jnp.asarray([2.0, 0.25]))
    exact = st.gamma([0.5, 3.0], scale=[2.0, 0.25])
    mean, geometric = gamma.read(q, "mean")
    np.testing.assert_allclose(mean, exact.mean())
    np.testing.assert_allclose(geometric, gamma.geometric_mean(q))
    mode = gamma.read(q, "mode")
    np.testing.assert_allclose(mode.mean, [0, 0.5], atol=1e-300)
    assert mode.mean[0] > 0, "a zero would be absorbing"
    np.testing.assert_allclose(gamma.read(q, "log_mode").mean, [1.0, 0.75])
    draw = gamma.read(q, "sample", jax.random.key(3))
    np.testing.assert_array_equal(draw.mean, gamma.sample(jax.random.key(3), q))
    for point in (mode, gamma.read(q, "log_mode"), draw):
        np.testing.assert_array_equal(point.mean, point.geometric)


def test_readings_that_do_not_exist():
    q = Gamma(jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="key"):
        gamma.read(q, "sample")
    with pytest.raises(ValueError, match="fixed"):
        gamma.read(q, "fixed")


@pytest.mark.parametrize("prior", [(2.0, 0.5), (0.6, 3.0)])
def test_log_prior_is_what_each_reading_ascends(x64, prior):
    p, exact = Gamma(*map(jnp.asarray, prior)), st.gamma(prior[0], scale=prior[1])
    q = Gamma(jnp.asarray(3.0), jnp.asarray(0.4))

    def term(reading):
        key = jax.random.key(0)
        moments = gamma.read(q, reading, key)
        return gamma.log_prior(p, q, moments, reading), np.asarray(moments.mean)

    assert term("mean")[0] == -gamma.kl(q, p)
    for reading in ("mode", "sample"):
        value, x = term(reading)
        np.testing.assert_allclose(value, exact.logpdf(x), rtol=1e-10)
    value, x = term("log_mode")  # the density of log x is that of x, times x
    np.testing.assert_allclose(value, exact.logpdf(x) + np.log(x), rtol=1e-10)


def test_log_prior_of_a_flat_prior_is_finite():
    prior = gamma.flat(jnp.ones(2))
    value = gamma.log_prior(prior, prior, Moments(jnp.asarray([0.0, 5.0]), jnp.asarray([0.0, 5.0])), "mode")
    np.testing.assert_array_equal(value, [0, 0])


# --- learning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit_inverts_the_moments(dtype):
    shape, scale = np.meshgrid(np.geomspace(0.02, 200, 30), np.geomspace(1e-3, 1e3, 5))
    tolerance = 5e-3 if dtype == np.float32 else 1e-8  # for large shapes log mean and mean log nearly cancel
    with precision(dtype):
        mean = jnp.asarray(shape * scale, dtype)
        log_mean = jnp.asarray(sp.digamma(shape) + np.log(scale), dtype)
        fitted = gamma.fit(mean, log_mean)
    kept = shape < (20 if dtype == np.float32 else 1e3)
    np.testing.assert_allclose(fitted.shape[kept], shape[kept], rtol=tolerance)
    np.testing.assert_allclose(fitted.shape * fitted.scale, shape * scale, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 5e4), (np.float64, 5e5)])
def test_what_does_not_vary_has_a_bounded_shape(dtype, most):
    with precision(dtype):
        for log_mean in (0.0, -1e-7, 1e-7):
            fitted = gamma.fit(jnp.asarray(1.0, dtype), jnp.asarray(log_mean, dtype))
            np.testing.assert_allclose(fitted.shape, most, rtol=0.02)


def test_fit_is_maximum_likelihood(x64):
    x = st.gamma(2.3, scale=0.8).rvs(200, random_state=0)
    fitted = gamma.fit(jnp.asarray(x.mean()), jnp.asarray(np.log(x).mean()))
    shape, _, scale = st.gamma.fit(x, floc=0)
    np.testing.assert_allclose([fitted.shape, fitted.scale], [shape, scale], rtol=1e-4)


def test_fit_shape_holds_the_means(x64):
    """The best shape of each column, with the mean given: compared with its neighbours."""
    prior_mean, shapes = np.array([[0.5, 2.0, 7.0]]), np.array([0.4, 1.7, 8.0])
    x = 1.2 * st.gamma(shapes, scale=prior_mean / shapes).rvs((300, 3), random_state=1)
    ratio = x / prior_mean
    fitted = gamma.fit_shape(
        jnp.asarray(prior_mean), jnp.asarray(ratio.mean(0)[None]), jnp.asarray(np.log(ratio).mean(0)[None])
    )
    np.testing.assert_allclose(gamma.mean(fitted), prior_mean)

    def likelihood(shape):
        return st.gamma(shape, scale=prior_mean / shape).logpdf(x).sum(0)

    shape = np.asarray(fitted.shape)
    assert np.all(likelihood(shape) > np.maximum(likelihood(shape * 1.01), likelihood(shape / 1.01)))
