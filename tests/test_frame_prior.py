"""The prior of the catalogue index against enumeration of every sequence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import logsumexp

from bayessep.models import frame_prior as fp
from bayessep.models import jingle_mixture
from tests.helpers import quick_jit

FRAMES, ENTRIES = 4, 4
SEQUENCES = np.array(list(itertools.product(range(ENTRIES), repeat=FRAMES)))
SUCCESSOR = jnp.asarray([0, 2, 3, 1])


def some_prior(chain, seed=0, dtype=jnp.float64):
    entry = jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(ENTRIES)), dtype)
    if chain:
        return fp.left_to_right(entry, SUCCESSOR, advance=0.6, stay=0.15, stay_null=0.7)
    return fp.independent(entry)


def some_likelihood(seed=0, impossible=False):
    """With `impossible`, frames 1 and 2 allow only null and only music: what switches do."""
    log_likelihood = np.random.default_rng(seed + 100).normal(0, 2, (FRAMES, ENTRIES))
    if impossible:
        log_likelihood[1, 1:] = log_likelihood[2, 0] = -np.inf
    return log_likelihood


def transition(prior):
    """(probability of each move, probability that it is a jump), ENTRIES x ENTRIES, spelled out."""
    entry, stay, advance, successor = map(np.asarray, prior)
    jump = (1 - stay - advance)[:, None] * entry[None, :]
    in_order = np.zeros_like(jump)
    for i in range(ENTRIES):
        in_order[i, i] += stay[i]
        in_order[i, successor[i]] += advance[i]
    return jump + in_order, jump / (jump + in_order)


def enumerate_posterior(log_likelihood, prior, weight, chain, starts=(1, 0, 0, 0)):
    """Probabilities of all sequences, log evidence, marginals and expected jumps."""
    entry = np.asarray(prior.entry)
    anew = np.tile(entry, (ENTRIES, 1)), np.ones((ENTRIES, ENTRIES))
    moves = [transition(prior) if chain and not start else anew for start in starts]
    log_joint = np.array([
        sum(np.log(move[i, j]) for (move, _), i, j in zip(moves, [0, *r[:-1]], r, strict=True))
        + log_likelihood[np.arange(FRAMES), r].sum()
        for r in SEQUENCES
    ])  # fmt: skip
    log_evidence = logsumexp(log_joint)
    p = np.exp(log_joint - log_evidence)
    rho = np.array([[p[SEQUENCES[:, t] == j].sum() for j in range(ENTRIES)] for t in range(FRAMES)])
    jumps = weight[0] * rho[0]
    for t, j in itertools.product(range(1, FRAMES), range(ENTRIES)):
        landed = moves[t][1][SEQUENCES[:, t - 1], j] * (SEQUENCES[:, t] == j)
        jumps[j] += weight[t] * (p * landed).sum()
    return p, log_evidence, rho, jumps


both = pytest.mark.parametrize("chain", [False, True], ids=["independent", "chain"])
one_or_two = pytest.mark.parametrize("starts", [[1, 0, 0, 0], [1, 0, 1, 0]], ids=["one sequence", "two"])


@both
@one_or_two
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("impossible", [False, True])
def test_posterior_is_that_of_enumeration(x64, chain, starts, seed, impossible):
    prior, log_likelihood = some_prior(chain, seed), some_likelihood(seed, impossible)
    weight = np.array([0.5, 2.0, 0.0, 1.5])
    q = fp.posterior(jnp.asarray(log_likelihood), prior, jnp.asarray(weight), chain=chain, starts=jnp.asarray(starts, float))
    _, log_evidence, rho, jumps = enumerate_posterior(log_likelihood, prior, weight, chain, starts)
    np.testing.assert_allclose(q.log_evidence.sum(), log_evidence, rtol=1e-10)
    np.testing.assert_allclose(q.responsibility, rho, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(q.jumps, jumps, rtol=1e-9, atol=1e-12)


def test_where_sequences_start_need_not_be_said_of_one(x64):
    prior, log_likelihood, ones = some_prior(True), jnp.asarray(some_likelihood()), jnp.ones(FRAMES)
    unsaid = fp.posterior(log_likelihood, prior, ones, chain=True)
    said = fp.posterior(log_likelihood, prior, ones, chain=True, starts=jnp.zeros(FRAMES))
    jax.tree.map(np.testing.assert_array_equal, unsaid, said)


def test_what_nothing_leads_to():
    prior = fp.FramePrior(jnp.asarray([0.5, 0.5, 0, 0]), jnp.full(4, 0.1), jnp.asarray([0, 0.5, 0, 0]), jnp.asarray([0, 2, 3, 1]))
    assert fp.is_led_to(prior).tolist() == [True, True, True, False]


@both
@one_or_two
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_candidates_it_is_that_of_all_entries_with_the_others_impossible(x64, chain, starts, seed):
    of = {"chain": chain, "starts": jnp.asarray(starts, float)}
    prior, log_likelihood, weight = some_prior(chain, seed), some_likelihood(seed), np.array([0.5, 2.0, 0.0, 1.5])
    candidates = np.random.default_rng(seed).permuted(np.tile(np.arange(ENTRIES), (FRAMES, 1)), axis=1)[:, :2]
    among = np.zeros((FRAMES, ENTRIES), bool)
    np.put_along_axis(among, candidates, True, 1)
    full = fp.posterior(jnp.asarray(np.where(among, log_likelihood, -np.inf)), prior, jnp.asarray(weight), **of)
    few = jnp.asarray(np.take_along_axis(log_likelihood, candidates, 1))
    q = fp.posterior(few, prior, jnp.asarray(weight), candidates=jnp.asarray(candidates, jnp.int32), **of)
    np.testing.assert_allclose(q.responsibility, np.take_along_axis(np.asarray(full.responsibility), candidates, 1), atol=1e-12)
    np.testing.assert_allclose(q.log_evidence.sum(), full.log_evidence.sum(), rtol=1e-12)
    np.testing.assert_allclose(q.jumps, full.jumps, atol=1e-12)


@both
def test_float32_survives_likelihoods_far_apart(chain):
    """Log likelihoods of long frames differ by thousands; each frame is scaled by its own peak."""
    prior = some_prior(chain, dtype=jnp.float32)
    log_likelihood = 1000 * jnp.asarray(some_likelihood(), jnp.float32) - 1e5
    q = fp.posterior(log_likelihood, prior, jnp.ones(FRAMES), chain=chain)
    assert jnp.isfinite(q.log_evidence).all() and jnp.isfinite(q.jumps).all()
    np.testing.assert_array_equal(q.responsibility.argmax(1), log_likelihood.argmax(1))


def test_a_chain_without_memory_is_independent(x64):
    prior, log_likelihood, ones = some_prior(False), jnp.asarray(some_likelihood()), jnp.ones(FRAMES)
    by_scan = fp.posterior(log_likelihood, prior, ones, chain=True)
    direct = fp.posterior(log_likelihood, prior, ones, chain=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), by_scan, direct)


@pytest.mark.parametrize("chain", [False, True])
def test_one_frame(x64, chain):
    prior, log_likelihood = some_prior(chain), jnp.asarray(some_likelihood()[:1])
    q = fp.posterior(log_likelihood, prior, jnp.ones(1), chain=chain)
    expected = np.asarray(prior.entry) * np.exp(log_likelihood[0])
    np.testing.assert_allclose(q.responsibility[0], expected / expected.sum())
    np.testing.assert_allclose(q.log_evidence[0], np.log(expected.sum()))
    r, jumps = fp.sample(jax.random.key(0), log_likelihood, prior, chain=chain)
    assert r.shape == (1,) and jumps[r[0]] == 1 == jumps.sum()


@both
@one_or_two
def test_samples_are_draws_of_whole_sequences(x64, chain, starts):
    """Chi-square over all 256 sequences, rare ones pooled; jump counts against their expectation."""
    prior, log_likelihood, n = some_prior(chain), some_likelihood() / 2, 20_000
    begin = jnp.asarray(starts, float)
    draw = jax.vmap(lambda key: fp.sample(key, jnp.asarray(log_likelihood), prior, chain=chain, starts=begin))
    r, jumps = quick_jit(draw)(jax.random.split(jax.random.key(0), n))
    p, _, _, expected_jumps = enumerate_posterior(log_likelihood, prior, np.ones(FRAMES), chain, starts)
    code = np.asarray(r) @ ENTRIES ** np.arange(FRAMES)[::-1]
    counts = np.bincount(code, minlength=len(p))
    rare = n * p < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    assert st.chisquare(counts, n * np.append(p[~rare], p[rare].sum())).pvalue > 1e-3
    error = np.asarray(jumps).std(0) / np.sqrt(n)
    np.testing.assert_array_less(abs(np.asarray(jumps).mean(0) - expected_jumps), 4 * error + 1e-12)
    if not chain:
        np.testing.assert_array_equal(jumps.sum(1), FRAMES)


def test_a_draw_never_visits_what_is_impossible():
    prior = some_prior(True, dtype=jnp.float32)
    log_likelihood = jnp.asarray(some_likelihood(impossible=True), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 500)
    r, _ = quick_jit(jax.vmap(lambda key: fp.sample(key, log_likelihood, prior, chain=True)))(keys)
    assert (r[:, 1] == 0).all() and (r[:, 2] > 0).all()


@one_or_two
def test_log_prob_is_a_distribution_over_sequences(x64, starts):
    prior = some_prior(True)
    log_p = jax.vmap(lambda r: fp.log_prob(r, prior, jnp.asarray(starts, float)))(jnp.asarray(SEQUENCES))
    np.testing.assert_allclose(logsumexp(log_p), 0, atol=1e-12)
    move, _ = transition(prior)
    entry = np.asarray(prior.entry)
    each = [entry[SEQUENCES[:, t]] if starts[t] else move[SEQUENCES[:, t - 1], SEQUENCES[:, t]] for t in range(FRAMES)]
    np.testing.assert_allclose(log_p, np.log(each).sum(0), rtol=1e-10)


@pytest.mark.parametrize("successor", [[0, 2, 3, 3], [1, 0, 2, 3], [0, 2, 4, 3]])
def test_every_entry_follows_one_other(successor):
    entry = jnp.full(ENTRIES, 1 / ENTRIES)
    with pytest.raises(ValueError, match="must be a permutation"):
        fp.left_to_right(entry, jnp.asarray(successor))
    quick_jit(fp.left_to_right)(entry, jnp.asarray(SUCCESSOR))  # while it is compiled, nobody can tell


@pytest.mark.parametrize("choice", [{"advance": 0.9, "stay": 0.1}, {"stay_null": 1.0}])
def test_some_probability_has_to_be_left_for_jumps(choice):
    with pytest.raises(ValueError, match="jumps"):
        fp.left_to_right(fp.uniform(3), SUCCESSOR, **choice)


def test_every_entry_of_a_chain_is_reachable():
    prior = fp.left_to_right(jnp.asarray([0.5, 0.5, 0.0, 0.0]), SUCCESSOR)
    assert prior.entry.min() > 0
    np.testing.assert_allclose(prior.entry.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(prior.advance)[[0, 1]], [0, 0.98], rtol=1e-6)


def test_uniform():
    np.testing.assert_allclose(fp.uniform(4, 0.2), [0.2, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(fp.uniform(0), [1.0])


def test_a_dirichlet_without_a_mode_inside_is_refused():
    """Its M-step is a probability below 0."""
    with pytest.raises(ValueError, match="must be at least 1"):
        jingle_mixture.build(jnp.ones((2, 3)), prior=jingle_mixture.Blocks(*5 * [None]), concentration=0.5)


def test_entries_that_were_not_played_may_return(x64):
    """They keep `RAREST`, which is the best that their jumps allow; entries without a probability get none."""
    prior = fp.independent(jnp.array([0.2, 0.3, 0.5, 0.0]))
    learned = fp.learn_entry(prior, jnp.array([3.0, 1.0, 0.0, 0.0]))
    rest = 1 - fp.RAREST
    np.testing.assert_allclose(learned.entry, [0.75 * rest, 0.25 * rest, fp.RAREST, 0.0], rtol=1e-12)


def test_the_printed_rule_is_refused_in_a_chain():
    with pytest.raises(ValueError, match="independent frames"):
        jingle_mixture.build(jnp.ones((2, 3)), prior=jingle_mixture.Blocks(*5 * [None]), chain=True, rule="printed")


@pytest.mark.parametrize("concentration", [1.0, 2.5])
def test_learned_entry_maximises_its_part_of_the_objective(x64, concentration):
    rng = np.random.default_rng(0)
    jumps = jnp.asarray(rng.uniform(0.5, 5, ENTRIES))

    def objective(entry):
        prior = fp.independent(jnp.asarray(entry))
        return float((jumps * jnp.log(prior.entry)).sum() + fp.log_dirichlet(prior, concentration))

    learned = fp.learn_entry(some_prior(False), jumps, concentration).entry
    np.testing.assert_allclose(learned.sum(), 1)
    best = objective(learned)
    for direction in rng.normal(size=(20, ENTRIES)):
        near = np.asarray(learned) * np.exp(0.05 * direction)
        assert objective(near / near.sum()) < best
