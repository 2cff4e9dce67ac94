"""Gibbs sampling against exact posteriors, and simulation-based calibration that is shown to catch wrong posteriors.

If blocks are drawn from their priors and data from the model, then the rank of the truth among draws from the posterior is
uniform, for any function of the blocks and the data (Talts et al. 2018). A posterior that is off gives ranks that are not.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from jax.tree_util import Partial
from scipy.special import logsumexp

from bayessep import gamma
from bayessep.gamma import Gamma, point
from bayessep.inference import conjugate
from bayessep.inference.cavi import cavi
from bayessep.inference.gibbs import gibbs
from bayessep.models import conditionals as co
from bayessep.models import frame_prior
from bayessep.models import jingle_mixture as jm
from bayessep.models.jingle_mixture import Blocks
from tests.helpers import Setting, prior_draws, quick_jit, random_problem, readings, sampling_jit

BASES = 2


def some_model(chain, **sizes):
    """Everything random that can be: music of a known and of a learned entry, unlabelled frames, proper priors."""
    setting = Setting("latent", chain, proper=True)
    model = random_problem(1, setting, entries=2, bases=BASES, level=1.5, whole=True, least_shape=1.0, **sizes)
    return dataclasses.replace(model, frames=model.frames._replace(music=jnp.full_like(model.frames.music, 0.6)))


def sample_blocks(key, posterior):
    """One draw of every block, by a single call: samplers take long to compile."""
    leaves, structure = jax.tree.flatten(posterior, is_leaf=lambda node: isinstance(node, Gamma))
    flat = Gamma(*(jnp.concatenate([part.ravel() for part in parts]) for parts in zip(*leaves, strict=True)))
    drawn = jnp.split(gamma.sample(key, flat), np.cumsum([q.shape.size for q in leaves])[:-1])
    return jax.tree.unflatten(structure, [d.reshape(q.shape.shape) for d, q in zip(drawn, leaves, strict=True)])


def from_prior(key, model):
    """A draw of every block from its prior, as moments."""
    (n_frames, n_bins), n_entries = model.frames.x.shape, model.catalogue.shape[0]
    shapes = Blocks((BASES, n_bins), (n_frames, BASES), (n_bins,), (n_frames,), (n_entries, n_bins))
    priors = Blocks(*(
        Gamma(jnp.broadcast_to(p.shape, shape), jnp.broadcast_to(p.scale, shape))
        for p, shape in zip(model.hyper.prior, shapes, strict=True)
    ))  # fmt: skip
    return as_moments(sample_blocks(key, priors), model)


def as_moments(blocks, model):
    known = jnp.where(model.latent[:, None] > 0, blocks.catalogue, model.catalogue)
    return Blocks(*map(point, blocks._replace(catalogue=known)))


def starting_at(moments, model):
    """The state at these values of the blocks."""
    at = Blocks(*(Gamma(jnp.full_like(m.mean, 10), m.mean / 10) for m in moments))
    return conjugate.make_state(jax.random.key(0), co, model, at, readings("log_mode", proper=True))


def functionals(model, moments):
    """Functions of blocks and data that do not depend on the names of bases."""
    speech = moments.excitations.mean @ moments.templates.mean
    music = moments.filter.mean[None, :] * moments.catalogue.mean
    evidence = co.local(model, model.hyper, moments).log_evidence - speech.sum(1)
    return jnp.stack([speech[0].sum(), speech[1, 0], moments.gain.mean[0] * music[2].sum(), evidence.sum()])


NAMES = ("speech of a frame", "speech of a bin", "learned music of a frame", "likelihood")


# --- against exact posteriors -------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", [False, True], ids=["independent", "chain"])
def test_gibbs_agrees_with_the_exact_posterior(chain):
    """Posterior means on a tiny problem, against prior draws weighted by their exact likelihood."""
    model = some_model(chain, shape=(2, 2))
    exact = prior_draws(model, 300_000, BASES)
    weight = np.exp(exact.log_joint - logsumexp(exact.log_joint))
    assert 1 / (weight.sum(1) ** 2).sum() > 3000, "too few draws carry the weight"
    d, e, f, v, c = exact.blocks
    values = [(e @ d)[:, 0].sum(1), (e @ d)[:, 1, 0], v[:, 0] * (f * c[:, 2]).sum(1)]
    values = np.stack([*values, np.log(values[0])], 1)
    mean = weight.sum(1) @ values
    error = np.sqrt((weight.sum(1) ** 2) @ (values - mean) ** 2)
    null = exact.sequences == 0
    p_null = weight.sum(0) @ null
    null_given = weight @ null - weight.sum(1, keepdims=True) * p_null
    error_null = np.sqrt((null_given**2).sum(0))

    @quick_jit
    def chains(keys):
        def one(key):
            key_start, key_run = jax.random.split(key)
            step_of = gibbs(co, model, Partial(jm.Start(BASES), model, None)).step

            def step(state, key):
                state, info = step_of(key, state)
                values = functionals(model, state.moments)[:3]
                return state, jnp.concatenate([values, jnp.log(values[:1]), info.responsibility[:, 0]])

            start = starting_at(from_prior(key_start, model), model)
            return jax.lax.scan(step, start, jax.random.split(key_run, 300))[1]

        return jax.vmap(one)(keys)

    drawn = np.asarray(chains(jax.random.split(jax.random.key(0), 96)), np.float64)[:, 40:].mean(1)
    expected, errors = np.concatenate([mean, p_null]), np.concatenate([error, error_null])
    own_error = drawn.std(0, ddof=1) / np.sqrt(len(drawn))
    z = (drawn.mean(0) - expected) / np.hypot(errors, own_error)
    assert np.abs(z).max() < 4.5, z
    assert (own_error[:3] < 0.1 * expected[:3]).all(), "too noisy to say anything"


# --- simulation-based calibration ---------------------------------------------------------------------------

PROBLEMS, DRAWS, BINS = 400, 23, 8
THIN, DROPPED = 8, 6


def with_data_from(key, model, truth):
    """The problem with data drawn from these blocks."""
    key_r, key_x = jax.random.split(key)
    music = model.frames.music[:, None]
    null = jnp.arange(model.catalogue.shape[0])[None, :] == 0
    r, _ = frame_prior.sample(
        key_r, jnp.log(jnp.where(null, 1 - music, music)), model.hyper.frame_prior, chain=model.chain
    )
    played = truth.gain.mean[:, None] * truth.filter.mean[None, :] * truth.catalogue.mean[r]
    rate = truth.excitations.mean @ truth.templates.mean + played
    x = jax.random.poisson(key_x, rate).astype(rate.dtype)
    return dataclasses.replace(model, frames=model.frames._replace(x=x))


def gibbs_draws(key, model, start):
    """Blocks after every `THIN` sweeps, the first few dropped."""
    step = gibbs(co, model, Partial(jm.Start(BASES), model, None)).step

    def some_sweeps(state, key):
        state, _ = jax.lax.scan(lambda s, k: (step(k, s)[0], None), state, jax.random.split(key, THIN))
        return state, state.moments

    _, moments = jax.lax.scan(some_sweeps, start, jax.random.split(key, DRAWS + DROPPED))
    return jax.tree.map(lambda a: a[DROPPED:], moments)


def mean_field_draws(key, model, start):
    """Independent draws from the variational posterior, which knows no correlations and is too sure of itself."""
    how = readings("mean", proper=True)
    step = cavi(co, model, Partial(jm.Start(BASES), model, None), readings=how).step
    state, _ = jax.lax.scan(lambda s, k: (step(k, s)[0], None), start, jax.random.split(key, 60))
    return jax.vmap(lambda k: as_moments(sample_blocks(k, state.posterior), model))(jax.random.split(key, DRAWS))


@partial(sampling_jit, static_argnames=("draws",))
def ranks(keys, model, prior, draws):
    """(PROBLEMS, functionals): how many of the draws, made under `prior`, lie below the truth; between 0 and DRAWS."""

    def one(key):
        key_prior, key_data, key_draws = jax.random.split(key, 3)
        two = jax.vmap(lambda k: from_prior(k, model))(jax.random.split(key_prior))
        truth, elsewhere = (jax.tree.map(lambda a, i=i: a[i], two) for i in (0, 1))
        problem = with_data_from(key_data, model, truth)
        assumed = dataclasses.replace(problem, hyper=problem.hyper._replace(prior=prior))
        drawn = draws(key_draws, assumed, starting_at(elsewhere, assumed))
        below = jax.vmap(partial(functionals, problem))(drawn) < functionals(problem, truth)[None, :]
        return below.sum(0)

    return jax.vmap(one)(keys)


def p_values(draws, factor=1.0):
    """Chi-square tests of uniform ranks, one for each functional; `factor` falsifies the scale of the excitations."""
    model = some_model(True, shape=(3, 3))
    e = model.hyper.prior.excitations
    prior = model.hyper.prior._replace(excitations=Gamma(e.shape, e.scale * factor))
    rank = np.asarray(ranks(jax.random.split(jax.random.key(7), PROBLEMS), model, prior, draws))
    counts = [np.bincount(column, minlength=BINS) for column in rank.T * BINS // (DRAWS + 1)]
    return dict(zip(NAMES, [st.chisquare(c).pvalue for c in counts], strict=True))


def test_gibbs_is_calibrated():
    p = p_values(gibbs_draws)
    assert min(p.values()) > 1e-3, p


def test_calibration_catches_a_wrong_prior():
    p = p_values(gibbs_draws, factor=1.5)
    assert min(p.values()) < 1e-6, p


def test_calibration_catches_a_posterior_without_correlations():
    p = p_values(mean_field_draws)
    assert min(p.values()) < 1e-6, p
