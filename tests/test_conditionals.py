"""The algebra of the jingle mixture against enumeration, automatic differentiation and prior sampling."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import digamma, gammaln, logsumexp, polygamma, rel_entr

from bayessep.gamma import Gamma, around, point
from bayessep.inference import cavi, loop
from bayessep.models import conditionals as co
from bayessep.models import entries, frame_prior, jingle_mixture
from bayessep.models.jingle_mixture import Blocks, Learn
from tests.helpers import (
    Setting,
    moments_of,
    prior_draws,
    quick_jit,
    random_posterior,
    random_problem,
    readings,
    run_one,
)

MEANS = readings("mean", proper=True)
TINY = {"shape": (3, 2), "entries": 2, "bases": 2, "level": 1.5, "whole": True}  # few enough splits to write down

SETTINGS = {
    "speech": Setting("none", observed=True, proper=True),
    "independent": Setting("known", switches="unlabelled", weights=True, proper=True),
    "labelled": Setting("latent", switches="labelled", weights=True, observed=True, proper=True),
    "chain": Setting("latent", chain=True, switches="unlabelled", observed=True, proper=True),
    "short chains": Setting("latent", chain=True, starts=True, switches="unlabelled", proper=True),
    "labelled chain": Setting("known", chain=True, switches="labelled", proper=True),
}
every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())


def traced_bound(model, posterior, candidates=None):
    """(objective, local step) of a variational posterior, within what is compiled already."""
    moments = moments_of(posterior, model, MEANS)
    step = co.local(model, model.hyper, moments, candidates)
    return co.objective(model, model.hyper, posterior, moments, MEANS, step), step


evaluate = quick_jit(traced_bound)


# --- the bound, written down term by term -------------------------------------------------------------------


def splits(total, parts):
    """All ways of dividing `total` counts among `parts` sources, one a row."""
    rows = itertools.product(range(total + 1), repeat=parts)
    return np.array([row for row in rows if sum(row) == total])


def bin_terms(x, mean, geometric):
    """E[log p(split)] - E[log q(split)] of one bin under the best q, and the expected counts of each source."""
    n = splits(int(x), len(mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(n > 0, n * np.log(geometric), 0).sum(1) - gammaln(n + 1).sum(1)
    if np.all(log_p == -np.inf):  # counts, and nothing that could have made them
        return -np.inf, 0 * n[0]
    q = np.exp(log_p - logsumexp(log_p))
    used = q > 0
    return (q[used] * (log_p[used] - np.log(q[used]))).sum() - sum(mean), q @ n


def brute_force(model, posterior):
    """(bound, responsibilities, counts of each block) from the definitions alone, with numpy and scipy."""
    x, speech, music, weight, observed = (None if f is None else np.asarray(f) for f in model.frames[:5])
    observed = np.ones_like(x) if observed is None else observed
    (n_frames, n_bins), n_entries = x.shape, model.catalogue.shape[0]
    mean = {n: np.asarray(q.shape * q.scale) for n, q in posterior._asdict().items()}
    geometric = {n: np.exp(digamma(np.asarray(q.shape))) * np.asarray(q.scale) for n, q in posterior._asdict().items()}
    latent = np.asarray(model.latent)[:, None] > 0
    for moment in (mean, geometric):
        moment["catalogue"] = np.where(latent, moment["catalogue"], np.asarray(model.catalogue))

    def rates(m, t, u, j):
        return [*(speech[t] * m["excitations"][t] * m["templates"][:, u]),
                m["gain"][t] * m["filter"][u] * m["catalogue"][j, u]]  # fmt: skip

    term, counts = np.zeros((n_frames, n_entries)), np.zeros((n_frames, n_bins, n_entries, len(mean["templates"]) + 1))
    with np.errstate(divide="ignore"):
        for t, j in itertools.product(range(n_frames), range(n_entries)):
            term[t, j] = np.log(1 - music[t] if j == 0 else music[t])
            for u in range(n_bins):
                if observed[t, u]:
                    value, counts[t, u, j] = bin_terms(x[t, u], rates(mean, t, u, j), rates(geometric, t, u, j))
                    term[t, j] += value

        prior = model.hyper.frame_prior
        if model.chain:
            sequences = np.array(list(itertools.product(range(n_entries), repeat=n_frames)))
            of_sequence = quick_jit(jax.vmap(lambda r: frame_prior.log_prob(r, prior, model.frames.starts)))
            log_prior = of_sequence(jnp.asarray(sequences))
            joint = np.asarray(log_prior) + term[np.arange(n_frames), sequences].sum(1)
            bound = logsumexp(joint)
            q = np.exp(joint - bound)
            rho = np.stack([q @ (sequences == j) for j in range(n_entries)], 1)
        else:
            joint = term + np.log(np.asarray(prior.entry))
            bound = weight @ logsumexp(joint, axis=1)
            rho = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))

    cells = {"excitations": weight[:, None], "gain": weight, "catalogue": latent}
    for name, q in posterior._asdict().items():
        a, b = np.broadcast_arrays(*map(np.asarray, getattr(model.hyper.prior, name)))
        entropy = st.gamma(np.asarray(q.shape), scale=np.asarray(q.scale)).entropy()
        log_p = (a - 1) * np.log(np.asarray(q.scale) * np.exp(digamma(np.asarray(q.shape)))) \
            - np.asarray(q.shape * q.scale) / b - gammaln(a) - a * np.log(b)  # fmt: skip
        bound += (cells.get(name, 1.0) * (log_p + entropy)).sum()

    of_music, of_speech = rho[:, None, :] * counts[..., -1], np.einsum("tj,tuji->tui", rho, counts[..., :-1])
    expected = Blocks(
        templates=np.einsum("t,tui->iu", weight, of_speech),
        excitations=of_speech.sum(1),
        filter=np.einsum("t,tuj->u", weight, of_music),
        gain=of_music.sum((1, 2)),
        catalogue=np.einsum("t,tuj->ju", weight, of_music),
    )
    return bound, rho, expected


@every_setting
@pytest.mark.parametrize("seed", [0, 1])
def test_bound_and_local_step_are_those_of_enumeration(x64, setting, seed):
    """All index sequences, all splits of every bin's counts: E[log p] - E[log q] with nothing simplified."""
    model = random_problem(seed, setting, dtype=jnp.float64, **TINY)
    posterior = random_posterior(seed, model, bases=2)
    objective, step = evaluate(model, posterior)
    bound, rho, counts = brute_force(model, posterior)
    np.testing.assert_allclose(objective, bound, rtol=1e-9)
    np.testing.assert_allclose(step.responsibility, rho, rtol=1e-8, atol=1e-12)
    for name in Blocks._fields if model.has_music else ("templates", "excitations"):
        np.testing.assert_allclose(
            getattr(step.counts, name), getattr(counts, name), rtol=1e-8, atol=1e-12, err_msg=name
        )


@pytest.mark.parametrize("chain", [False, True])
def test_drawn_local_steps_average_to_the_expected_one(x64, chain):
    """At fixed values of the blocks, draws of (S, M, R) have the means that the expected step computes."""
    model = random_problem(3, Setting("known", chain, "unlabelled", proper=True), dtype=jnp.float64, **TINY)
    moments = moments_of(random_posterior(3, model, 2), model, readings("log_mode", proper=True))
    expected = quick_jit(co.local)(model, model.hyper, moments)
    n = 4000

    @quick_jit
    def draw(keys):
        steps = jax.vmap(lambda key: co.draw_local(key, model, model.hyper, moments))(keys)
        return steps.counts, steps.responsibility, steps.jumps

    drawn = draw(jax.random.split(jax.random.key(0), n))
    pairs = zip(jax.tree.leaves(drawn), jax.tree.leaves((expected.counts, *expected[1::2])), strict=True)
    for values, mean in pairs:
        error = np.asarray(values).std(0) / np.sqrt(n)
        assert np.all(abs(np.asarray(values).mean(0) - np.asarray(mean)) <= 4.5 * error + 1e-9)
        assert np.all(np.asarray(values) == np.round(values))


@pytest.mark.parametrize(("chain", "starts"), [(False, False), (True, False), (True, True)])
def test_what_gibbs_reports_is_the_joint_density_of_its_draw(x64, chain, starts):
    """At fixed values of the blocks, but for a constant: of the data given r, and of r."""
    model = random_problem(3, Setting("known", chain, starts=starts, proper=True), dtype=jnp.float64, **TINY)
    posterior, kinds = random_posterior(3, model, 2), readings("log_mode", proper=True)
    moments = moments_of(posterior, model, kinds)
    d, e, filter, gain, catalogue = (np.asarray(m.mean) for m in moments)
    speech, music = np.asarray(model.frames.speech)[:, None] * (e @ d), gain[:, None, None] * filter * catalogue

    @quick_jit
    def one(key):
        step = co.draw_local(key, model, model.hyper, moments)
        return step.responsibility.argmax(1), co.objective(model, model.hyper, posterior, moments, kinds, step)

    drawn, objective = map(np.asarray, jax.vmap(one)(jax.random.split(jax.random.key(0), 50)))
    rates = speech + music[np.arange(drawn.shape[1]), drawn]
    log_joint = st.poisson.logpmf(np.asarray(model.frames.x), rates).sum((1, 2))
    prior, begin = model.hyper.frame_prior, model.frames.starts
    log_joint += np.asarray(jax.vmap(lambda r: frame_prior.log_prob(r, prior, begin))(jnp.asarray(drawn)))
    assert len(np.unique(drawn, axis=0)) > 5, "sequences differ, and so do their probabilities"
    np.testing.assert_allclose(objective - log_joint, (objective - log_joint)[0], rtol=0, atol=1e-8)


# --- the evidence -------------------------------------------------------------------------------------------


def log_evidence(model, n=400_000):
    """log p(x) and its standard error: the average likelihood of draws from the prior, sequences summed exactly."""
    terms = logsumexp(prior_draws(model, n, bases=1).log_joint, axis=1)
    value = logsumexp(terms) - np.log(n)
    return value, np.exp(terms - value).std() / np.sqrt(n)


@pytest.mark.parametrize("chain", [False, True])
def test_bound_stays_below_the_evidence_and_close_to_it(x64, chain):
    setting = Setting("latent", chain, "unlabelled", proper=True)
    sizes = TINY | {"shape": (2, 2), "bases": 1, "least_shape": 1.0}
    model = random_problem(5, setting, dtype=jnp.float64, **sizes)
    posterior = random_posterior(5, model, bases=1)
    exact, error = log_evidence(model)
    assert error < 0.02
    assert evaluate(model, posterior)[0] < exact
    _, trace = run_one(model, posterior, how=MEANS, steps=150)
    gap = exact - trace[-1]
    assert -4 * error < gap < 1.0
    assert trace[0] < trace[-1] - 1


def test_bound_below_an_evidence_known_by_quadrature(x64):
    """One frame, one bin, one template: counts given d are negative binomial, and d is integrated numerically."""
    model = random_problem(1, Setting("none", proper=True), shape=(1, 1), bases=1, whole=True, dtype=jnp.float64)
    model = dataclasses.replace(model, frames=model.frames._replace(x=jnp.asarray([[4.0]])))
    d, e = (jax.tree.map(lambda a: float(a[0, 0]), p) for p in model.hyper.prior[:2])
    p = (np.arange(100_000) + 0.5) / 100_000
    rate = st.gamma(d.shape, scale=d.scale).ppf(p)
    exact = np.log(st.nbinom(e.shape, 1 / (1 + rate * e.scale)).pmf(4).mean())
    _, trace = run_one(model, random_posterior(0, model, bases=1), how=MEANS, steps=100)
    assert 0 < exact - trace[-1] < 0.7


# --- conditionals -------------------------------------------------------------------------------------------


def _unnatural(first, second):
    """Gamma from its natural parameters, those of log x and x."""
    return Gamma(first, -1 / second)


@every_setting
def test_conditionals_are_where_the_bound_points(x64, setting):
    """The bound's gradient in natural parameters is Fisher's matrix times the way to the conditional, from anywhere.

    This holds for any conjugate model with the local step at its optimum, so it ties every conditional to the bound.
    """
    model = random_problem(7, setting, dtype=jnp.float64)
    posterior = random_posterior(7, model)
    names = Blocks._fields if model.has_music else ("templates", "excitations")

    @quick_jit
    def check():
        natural = {n: (q.shape, -1 / q.scale) for n, q in posterior._asdict().items()}
        slopes = jax.grad(lambda eta: traced_bound(model, Blocks(**{n: _unnatural(*v) for n, v in eta.items()}))[0])(natural)
        moments, step = moments_of(posterior, model, MEANS), traced_bound(model, posterior)[1]
        return slopes, {n: co.conditional(model, model.hyper, n, moments, step) for n in names}

    slopes, targets = check()
    for name in names:
        a, b = map(np.asarray, getattr(posterior, name))
        to_shape, to_rate = np.asarray(targets[name].shape) - a, -1 / np.asarray(targets[name].scale) + 1 / b
        cells = np.asarray(co.cell_weights(model, name))
        along_shape = cells * (polygamma(1, a) * to_shape + b * to_rate)
        along_rate = cells * (b * to_shape + a * b**2 * to_rate)
        np.testing.assert_allclose(slopes[name][0], along_shape, rtol=1e-6, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(slopes[name][1], along_rate, rtol=1e-6, atol=1e-8, err_msg=name)
        moves = name != "catalogue" or bool((model.latent > 0).any())
        assert not moves or np.abs(along_shape).max() > 1e-3, f"{name} sits at its optimum: nothing was tested"


@pytest.mark.parametrize("kind", ["mode", "log_mode"])
@pytest.mark.parametrize("setting", [SETTINGS["labelled"], SETTINGS["chain"]], ids=["labelled", "chain"])
def test_modes_of_conditionals_are_where_the_log_joint_points(x64, kind, setting):
    """For points: x d/dx of the objective is that of the conditional's log density (of log x for a log-mode)."""
    model = random_problem(8, setting, dtype=jnp.float64)
    how = readings(kind, proper=True)
    posterior = random_posterior(8, model)
    points = {n: m.mean for n, m in moments_of(posterior, model, readings("log_mode", proper=True))._asdict().items()}

    @quick_jit
    def check():
        def objective(change):
            moments = Blocks(**{n: point(x * jnp.exp(change[n])) for n, x in points.items()})
            step = co.local(model, model.hyper, moments)
            return co.objective(model, model.hyper, posterior, moments, how, step)

        slopes = jax.grad(objective)(jax.tree.map(jnp.zeros_like, points))
        moments = Blocks(**{n: point(x) for n, x in points.items()})
        step = co.local(model, model.hyper, moments)
        return slopes, {n: co.conditional(model, model.hyper, n, moments, step) for n in points}

    slopes, targets = check()
    for name, x in points.items():
        a, b = map(np.asarray, targets[name])
        expected = np.asarray(co.cell_weights(model, name)) * (a - (kind == "mode") - np.asarray(x) / b)
        kept = np.broadcast_to(np.asarray(model.latent)[:, None] > 0 if name == "catalogue" else True, x.shape)
        np.testing.assert_allclose(slopes[name][kept], expected[kept], rtol=1e-6, atol=1e-8, err_msg=name)


def test_a_frame_of_weight_two_is_two_frames(x64):
    """Weights mean copies: an integer weight gives the trace and the templates of the stack with the frame repeated."""
    setting = Setting("latent", switches="unlabelled", observed=True, proper=True)
    model = random_problem(9, setting, dtype=jnp.float64)
    posterior = random_posterior(9, model)
    weight = np.array([1, 2, 0, 1, 3, 1, 1, 2, 1])
    copies = np.repeat(np.arange(len(weight)), weight)
    weighted = dataclasses.replace(model, frames=model.frames._replace(weight=jnp.asarray(weight, jnp.float64)))
    repeated = dataclasses.replace(model, frames=jax.tree.map(lambda a: a[copies], model.frames))
    started = posterior._replace(
        excitations=Gamma(*(a[copies] for a in posterior.excitations)), gain=Gamma(*(a[copies] for a in posterior.gain))
    )
    one, trace = run_one(weighted, posterior, how=MEANS, steps=20)
    other, expected = run_one(repeated, started, how=MEANS, steps=20)
    np.testing.assert_allclose(trace, expected, rtol=1e-10)
    np.testing.assert_allclose(one.posterior.templates.scale, other.posterior.templates.scale, rtol=1e-9)
    np.testing.assert_allclose(one.posterior.gain.shape[copies], other.posterior.gain.shape, rtol=1e-9)


def test_bins_held_out_do_not_matter(x64):
    model = random_problem(10, Setting("latent", observed=True, proper=True), dtype=jnp.float64)
    changed = jnp.where(model.frames.observed > 0, model.frames.x, 77.0)
    other = dataclasses.replace(model, frames=model.frames._replace(x=changed))
    posterior = random_posterior(10, model)
    one, other = (evaluate(m, posterior) for m in (model, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), one, other)


# --- candidates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", [False, True])
def test_all_entries_as_candidates_change_nothing(x64, chain):
    model = random_problem(11, Setting("latent", chain, "unlabelled", proper=True), dtype=jnp.float64)
    posterior = random_posterior(11, model)
    rng = np.random.default_rng(0)
    candidates = jnp.asarray(np.stack([rng.permutation(5) for _ in range(9)]), jnp.int32)
    bound, step = evaluate(model, posterior)
    pruned, pruned_step = evaluate(model, posterior, candidates)
    np.testing.assert_allclose(pruned, bound, rtol=1e-12)
    rho = entries.scatter_candidates(pruned_step.responsibility, candidates, 5, 0.0)
    np.testing.assert_allclose(rho, step.responsibility, rtol=1e-9, atol=1e-13)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), pruned_step.counts, step.counts)

    def conditionals(step, candidates):
        moments = moments_of(posterior, model, MEANS)
        return [co.conditional(model, model.hyper, n, moments, step, candidates) for n in Blocks._fields]

    both = quick_jit(lambda: (conditionals(step, None), conditionals(pruned_step, candidates)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), *both)


def test_chosen_candidates_lose_least(x64):
    """Of all pairs of entries, the chosen pair has the highest bound in every frame; all entries have a higher one."""
    model = random_problem(12, Setting("known", False, "unlabelled", proper=True), dtype=jnp.float64)
    posterior = random_posterior(12, model)
    chosen = quick_jit(lambda: co.choose_candidates(model, model.hyper, moments_of(posterior, model, MEANS), 2))()
    kept = evaluate(model, posterior, chosen)[1].log_evidence
    of_all = evaluate(model, posterior)[1].log_evidence
    assert (kept <= of_all + 1e-12).all() and (kept < of_all - 1e-3).any()
    for pair in itertools.combinations(range(5), 2):
        other = jnp.broadcast_to(jnp.asarray(pair, jnp.int32)[None, :], (9, 2))
        assert (evaluate(model, posterior, other)[1].log_evidence <= kept + 1e-12).all()


@pytest.mark.parametrize("chain", [False, True])
def test_candidates_are_ranked_where_probabilities_round_to_zero(chain):
    model = random_problem(11, Setting("known", chain), shape=(4, 6))
    scores = jnp.asarray([[-300.0, 0.0, -400.0, -200.0, -150.0], [-500.0, -400.0, -300.0, -200.0, 0.0]] * 2, jnp.float32)
    best = quick_jit(lambda: entries._most_probable(scores, model, model.hyper, 3))()
    np.testing.assert_array_equal(best, [[1, 4, 3], [4, 3, 2]] * 2)


def test_a_long_catalogue_is_short_listed_and_refreshing_never_lowers_the_bound(x64, monkeypatch):
    """Beyond a certain length, entries are heard in bands first; what is at hand stays unless there is better."""
    monkeypatch.setattr(entries, "BANDS", 2)
    model = random_problem(14, Setting("known", False, proper=True), shape=(9, 12), entries=30, dtype=jnp.float64)
    moments = moments_of(random_posterior(14, model), model, MEANS)
    best = quick_jit(lambda: entries._most_probable(entries.entry_log_likelihood(model, moments), model, model.hyper, 3))()
    choose = quick_jit(lambda current: co.choose_candidates(model, model.hyper, moments, 3, current))

    def evidence(candidates):
        return quick_jit(co.local)(model, model.hyper, moments, candidates).log_evidence

    rng = np.random.default_rng(0)
    current = jnp.asarray(np.stack([rng.permutation(31)[:3] for _ in range(9)]), jnp.int32)
    chosen = choose(current)
    assert all(len(set(row)) == 3 for row in np.asarray(chosen).tolist())
    assert (evidence(chosen) >= evidence(current) - 1e-12).all()
    assert (evidence(best) >= evidence(chosen) - 1e-12).all()
    np.testing.assert_array_equal(np.sort(choose(best)), np.sort(best))  # nothing beats the best
    assert (evidence(choose(None)) < evidence(best) - 1e-9).any(), "two bands cannot tell them all apart"
    monkeypatch.setattr(entries, "BANDS", 3)  # which would spare less than half of the work
    at_once = quick_jit(lambda: co.choose_candidates(model, model.hyper, moments, 3, current))()
    np.testing.assert_array_equal(at_once, best)


def test_counts_anew_are_those_of_the_whole_local_step(x64):
    """`recount` is the local step with q(R) held: at the same moments nothing changes, at others only the counts."""
    model = random_problem(15, Setting("latent", False, "unlabelled", proper=True), dtype=jnp.float64)
    one, other = (moments_of(random_posterior(seed, model), model, MEANS) for seed in (15, 16))
    step = quick_jit(co.local)(model, model.hyper, one)
    again = quick_jit(co.recount)(model, one, step)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), again, step)
    moved = quick_jit(co.recount)(model, other, step)
    np.testing.assert_array_equal(moved.responsibility, step.responsibility)
    # Counts of a frame add up to its data, whoever they went to.
    speech, music = moved.counts.excitations.sum(1), moved.counts.gain
    np.testing.assert_allclose(speech + music, model.frames.x.sum(1), rtol=1e-9)
    assert np.abs(moved.counts.templates - step.counts.templates).max() > 0.1


# --- the rule as printed ------------------------------------------------------------------------------------


def test_the_printed_rule_loses_exactly_its_divergence_from_the_optimum(x64):
    """L(rho*) - L(rho) = sum_t w_t KL(rho_t || rho*_t), so the rule of the paper can only lose."""
    exact = random_problem(13, Setting("known", False, "unlabelled", weights=True, proper=True), dtype=jnp.float64, level=1.0)
    posterior = random_posterior(13, exact)
    best, step = evaluate(exact, posterior)
    printed = dataclasses.replace(exact, rule="printed")
    bound, printed_step = evaluate(printed, posterior)
    rho, optimum = np.asarray(printed_step.responsibility), np.asarray(step.responsibility)
    lost = exact.frames.weight @ rel_entr(rho, optimum).sum(1)
    assert lost > 0.01
    np.testing.assert_allclose(best - bound, lost, rtol=1e-8)


def test_the_printed_rule_is_exact_for_points(x64):
    exact = random_problem(13, Setting("known", False, "unlabelled", proper=True), dtype=jnp.float64)
    moments = moments_of(random_posterior(13, exact), exact, readings("log_mode", proper=True))
    printed = dataclasses.replace(exact, rule="printed")
    one, other = (quick_jit(co.local)(m, m.hyper, moments) for m in (exact, printed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, other)


# --- hyper-parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", [False, True])
def test_learned_hyper_parameters_are_where_the_bound_is_flat(x64, chain):
    setting = Setting("latent", chain, "unlabelled", weights=not chain, proper=True, learn=Learn(True, True, True, True))
    model = random_problem(14, setting, dtype=jnp.float64)
    posterior = random_posterior(14, model)

    @quick_jit
    def check():
        _, step = traced_bound(model, posterior)
        means = readings("mean")
        learned = co.learn(model, model.hyper, posterior, moments_of(posterior, model, means), means, step.jumps)

        def objective(change, prior):
            hyper = model.hyper._replace(prior=Blocks(**{
                n: Gamma(p.shape * jnp.exp(change[n][0]), p.scale * jnp.exp(change[n][1]))
                for n, p in prior._asdict().items()
            }))  # fmt: skip
            return traced_bound(dataclasses.replace(model, hyper=hyper), posterior)[0]

        still = {n: (jnp.zeros(()), jnp.zeros(())) for n in Blocks._fields}
        slopes = [jax.grad(objective)(still, prior) for prior in (model.hyper.prior, learned.prior)]

        def of_entry(entry):
            hyper = model.hyper._replace(frame_prior=model.hyper.frame_prior._replace(entry=entry))
            return traced_bound(dataclasses.replace(model, hyper=hyper), posterior)[0]

        return slopes, jax.grad(of_entry)(model.hyper.frame_prior.entry), step.jumps, learned

    (before, after), slope_entry, jumps, learned = check()
    for name in ("excitations", "catalogue"):  # shape and scale
        assert max(map(abs, before[name])) > 0.1
        np.testing.assert_allclose(after[name], 0, atol=1e-6, err_msg=name)
    # The mean of the templates is held: shape and scale move against each other.
    assert abs(before["templates"][0] - before["templates"][1]) > 0.1
    np.testing.assert_allclose(after["templates"][0] - after["templates"][1], 0, atol=1e-6)
    for name in ("filter", "gain"):
        np.testing.assert_array_equal(getattr(learned.prior, name).shape, getattr(model.hyper.prior, name).shape)
    # pi moves to the expected jumps, which are the bound's slope in log pi.
    np.testing.assert_allclose(model.hyper.frame_prior.entry * slope_entry, jumps, rtol=1e-7)
    np.testing.assert_allclose(learned.frame_prior.entry, jumps / jumps.sum(), rtol=1e-12)


def test_the_dirichlet_on_pi_is_part_of_the_objective(x64):
    model = random_problem(15, Setting("known", proper=True, learn=Learn(entry=True)), dtype=jnp.float64)
    model = dataclasses.replace(model, concentration=2.0)
    posterior = random_posterior(15, model)
    plain = dataclasses.replace(model, concentration=1.0)
    difference = evaluate(model, posterior)[0] - evaluate(plain, posterior)[0]
    np.testing.assert_allclose(difference, jnp.log(model.hyper.frame_prior.entry).sum(), rtol=1e-9)
    how = readings("mean", proper=True)
    jumps = jnp.asarray([0.0, 3, 1, 1, 0])
    learned = quick_jit(lambda: co.learn(model, model.hyper, posterior, moments_of(posterior, model, how), how, jumps))()
    np.testing.assert_allclose(learned.frame_prior.entry, np.array([1, 4, 2, 2, 1]) / 10)


# --- what is not identified ---------------------------------------------------------------------------------


def test_scale_of_filter_and_gain_is_free(x64):
    """(c f, v / c) leaves the objective alone, so `rescale` does too."""
    model = random_problem(16, Setting("latent", switches="unlabelled", observed=True), dtype=jnp.float64)
    posterior, how = random_posterior(16, model), readings("mean")
    moments = moments_of(posterior, model, readings("mean", proper=True))

    @quick_jit
    def objective(moments, posterior):
        return co.objective(model, model.hyper, posterior, moments, how, co.local(model, model.hyper, moments))

    scaled, scaled_posterior = co.rescale(moments, posterior)
    np.testing.assert_allclose(objective(scaled, scaled_posterior), objective(moments, posterior), rtol=1e-12)
    np.testing.assert_allclose(scaled.filter.mean.mean(), 1)
    assert abs(moments.filter.mean.mean() - 1) > 0.05
    np.testing.assert_allclose(scaled_posterior.gain.scale * scaled_posterior.gain.shape, scaled.gain.mean)


def test_scale_of_templates_is_set_by_their_prior_alone(x64):
    """(c D, E / c) leaves the bound alone where the priors move along."""
    model = random_problem(17, SETTINGS["labelled"], dtype=jnp.float64)
    posterior, c = random_posterior(17, model), 3.0

    def scaled(blocks):
        d, e = blocks.templates, blocks.excitations
        return blocks._replace(templates=Gamma(d.shape, d.scale * c), excitations=Gamma(e.shape, e.scale / c))

    other = dataclasses.replace(model, hyper=model.hyper._replace(prior=scaled(model.hyper.prior)))
    bound = evaluate(model, posterior)[0]
    np.testing.assert_allclose(evaluate(other, scaled(posterior))[0], bound, rtol=1e-12)
    assert abs(evaluate(model, scaled(posterior))[0] - bound) > 1


@pytest.mark.parametrize("music", ["none", "pruned chain", "latent chain"])
def test_room_behind_changes_nothing(x64, music: str):
    """Frames behind and entries that are never played: sweep after sweep all others are what they would be."""
    n_frames, n_music, rng = 23, 7, np.random.default_rng(0)
    quiet_end = np.where(np.arange(n_frames) < n_frames - 4, 1.0, 0.05)[:, None]
    level = 300.0 if "pruned" in music else 1.0  # so loud that the probabilities of most entries are lost in rounding
    x = jnp.asarray(level * rng.gamma(0.5, 2.0, (n_frames, 6)) * quiet_end)
    prior = jingle_mixture.priors(6, level, n_bases=3, filter_shape=30.0, gain_shape=30.0, dtype=jnp.float64)
    catalogue = None if music == "none" else jnp.asarray(level * rng.gamma(0.5, 2.0, (n_music, 6)))
    pi = frame_prior.uniform(0 if catalogue is None else n_music, dtype=jnp.float64)
    chain, latent = "chain" in music, "latent" in music
    switch = np.append(rng.choice([0.0, 0.4, 1.0], n_frames - 4), [0.4] * 4)  # nobody knows whether the last ones hold music
    if latent:  # each frame and each entry with a prior of its own, as where music is completed
        mean = 1 + np.arange(n_frames) / n_frames
        own = np.concatenate([np.ones((1, 6)), catalogue])
        prior = prior._replace(gain=around(jnp.asarray(mean), 30.0), catalogue=around(jnp.asarray(own), 2.0))
    problem = jingle_mixture.build(
        x,
        prior=prior,
        catalogue=catalogue,
        latent=jnp.asarray([0.0] * (n_music - 2) + [1.0] * 2) if latent else None,
        frames_prior=frame_prior.left_to_right(pi, jnp.asarray([0, *range(2, n_music + 1), 1])) if chain else None,
        weight=jnp.asarray(rng.choice([0.0, 0.5, 1.0], n_frames)),
        music=None if catalogue is None else jnp.asarray(switch),
        chain=chain,
        candidates=3 if "pruned" in music else None,
        learn=Learn(templates=True, excitations=True),
    )
    roomy, n_entries = jingle_mixture.padded(problem, 40, 12), len(problem.catalogue)
    if problem.candidates is not None:
        with pytest.raises(ValueError, match="every entry has some probability"):
            jingle_mixture.padded(dataclasses.replace(problem, concentration=1.5), 40, 12)
    assert roomy.frames.x.shape == (40, 6) and roomy.catalogue.shape == ((1 if catalogue is None else 12), 6)
    readings = Blocks("mean", "mean", "mean", "mean", "mean" if latent else "fixed")

    def fitted(model):
        start = jax.tree_util.Partial(jingle_mixture.Start(3), model, None)
        fit = loop.fit(cavi.cavi(co, model, start, readings=readings), jax.random.key(0), max_steps=14, tolerance=0.0)
        state = fit.state
        assert state.candidates is None or state.candidates.max() < n_entries
        rho = entries.weigh_entries(model, state.hyper, state.moments, state.candidates).responsibility
        rho = entries.scatter_candidates(rho, state.candidates, len(model.catalogue), 0.0)
        found = state.posterior
        found = found._replace(excitations=first(found.excitations), gain=first(found.gain))
        found = found._replace(catalogue=Gamma(*(a[:n_entries] for a in found.catalogue)))
        return fit.trace, found, state.hyper.prior.excitations, rho[:n_frames, :n_entries], rho[:n_frames, n_entries:]

    def first(q):
        return Gamma(*(a[:n_frames] for a in q))

    own, other = fitted(problem), fitted(roomy)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12), other[:-1], own[:-1])
    assert not other[-1].any()


@pytest.mark.parametrize("chain", [False, True])
def test_music_without_a_rate_gets_no_counts(chain):
    """Under flat priors, gain and filter are counts divided by exposures: where these vanish, rounding must not be left over."""
    rng = np.random.default_rng(0)
    n_frames, n_bins, n_entries = 30, 40, 6
    catalogue = rng.gamma(0.3, 1, (n_entries, n_bins)) * (np.arange(n_bins) != 5)  # a bin in which no music ever sounds
    speech = rng.gamma(0.3, 1, (n_frames, 4)) @ rng.gamma(0.3, 1, (4, n_bins))
    music = np.where(np.arange(n_frames) < 10, 0, np.where(np.arange(n_frames) < 20, 1, 0.5))
    x = 10 * speech + 10 * (music == 1)[:, None] * catalogue[np.arange(n_frames) % n_entries]
    order = jnp.asarray([0, *(1 + (np.arange(n_entries) + 1) % n_entries)])
    entry = frame_prior.uniform(n_entries)
    problem = jingle_mixture.build(
        jnp.asarray(x, jnp.float32),
        prior=jingle_mixture.priors(n_bins, float(x.mean()), n_bases=4),
        catalogue=jnp.asarray(catalogue, jnp.float32),
        frames_prior=frame_prior.left_to_right(entry, order) if chain else frame_prior.independent(entry),
        music=jnp.asarray(music, jnp.float32),
        unit_filter=True,
        chain=chain,
    )
    start = jax.tree_util.Partial(jingle_mixture.Start(4), problem, None)
    fit = loop.fit(cavi.cavi(co, problem, start), jax.random.key(0), max_steps=60, tolerance=0.0)
    moments = fit.state.moments
    assert np.isfinite(fit.trace).all()
    assert moments.gain.mean[:10].max() < 1e-6 and moments.filter.mean[5] < 1e-6, "what has no exposure has no counts"
    assert moments.gain.mean.max() < 100 and moments.filter.mean.max() < 100
