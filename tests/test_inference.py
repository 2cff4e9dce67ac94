"""The conjugate algorithms on random problems: bounds that only rise, the contract, the loop, limits and symmetries."""

import dataclasses
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from bayessep import gamma
from bayessep.gamma import Gamma, Moments
from bayessep.inference import loop
from bayessep.inference.cavi import cavi
from bayessep.inference.conjugate import ConjugateModel, Schedule
from bayessep.inference.gibbs import gibbs
from bayessep.inference.icm import icm
from bayessep.models import conditionals as co
from bayessep.models import entries
from bayessep.models import jingle_mixture as jm
from bayessep.models.jingle_mixture import Blocks, Learn
from tests.helpers import (
    BASES,
    Setting,
    broken,
    moments_of,
    quick_jit,
    random_posterior,
    random_problem,
    readings,
    run,
    run_one,
    stack,
)

KEY = jax.random.key(0)

# --- the objective only rises -------------------------------------------------------------------------------

SEEDS = 18
SWEEPS = 40


class Case(NamedTuple):
    """One row of the table: a model, how its conditionals are read, and in which order."""

    kind: str
    setting: Setting
    schedule: Schedule = Schedule(learn_after=3)


EVERYTHING = Learn(True, True, True, True)
WITH_LATENT_CHAIN = Setting("latent", chain=True, switches="labelled", proper=True, learn=Learn(entry=True))
UNLABELLED = Setting("known", switches="unlabelled", weights=True, observed=True, learn=Learn(entry=True))
CASES = {
    "nmf": Case("mean", Setting("none", observed=True, learn=Learn(True, True))),
    "known": Case("mean", Setting("known", switches="labelled")),
    "chain": Case("mean", Setting("known", chain=True, switches="unlabelled", observed=True)),
    "latent": Case("mean", Setting("latent", switches="unlabelled", weights=True, observed=True)),
    "latent chain": Case("mean", WITH_LATENT_CHAIN._replace(learn=EVERYTHING)),
    "candidates": Case("mean", Setting("latent", switches="unlabelled", weights=True, proper=True, candidates=2)),
    # In a chain a fresh choice of candidates may lose: they are chosen once.
    "candidates in a chain": Case(
        "mean", Setting("latent", True, "unlabelled", candidates=3), Schedule(prune_after=0, prune_every=1000)
    ),
    "one group, blocks held": Case(
        "mean",
        UNLABELLED,
        Schedule(
            groups=(("catalogue", "gain", "templates", "filter", "excitations"),),
            hold=(("templates", 10), ("filter", 5)),
        ),
    ),
    "log_mode latent chain": Case("log_mode", WITH_LATENT_CHAIN),
    "log_mode": Case("log_mode", UNLABELLED),
    "log_mode, all learned": Case("log_mode", WITH_LATENT_CHAIN._replace(learn=EVERYTHING)),
    "mode latent chain": Case("mode", WITH_LATENT_CHAIN),
    "mode": Case("mode", UNLABELLED),
}


def traces(case, dtype, module=co, seeds=SEEDS, **sizes):
    """Objectives of many random problems, (seeds, SWEEPS), from starts that are anything but good."""
    problems = [random_problem(seed, case.setting, dtype=dtype, least_shape=0.3, **sizes) for seed in range(seeds)]
    starts = [random_posterior(seed, problem) for seed, problem in enumerate(problems)]
    _, trace = run(
        stack(problems),
        stack(starts),
        jax.random.split(jax.random.key(0), seeds),
        how=readings(case.kind, proper=case.setting.proper),
        schedule=case.schedule,
        steps=SWEEPS,
        module=module,
    )
    return np.asarray(trace)


def worst_step(trace):
    """The smallest change between sweeps, in units of the objective's size."""
    assert np.isfinite(trace).all()
    return (np.diff(trace, axis=1) / np.abs(trace).max(1, keepdims=True)).min()


@pytest.mark.parametrize("name", CASES)
def test_objective_never_falls(x64, name):
    trace = traces(CASES[name], jnp.float64)
    assert worst_step(trace) > -1e-10
    assert (trace[:, -1] > trace[:, 0] + 1).all()


def test_the_table_is_large_enough():
    assert SEEDS * len(CASES) >= 200


@pytest.mark.parametrize("name", ["nmf", "latent", "latent chain", "log_mode latent chain", "mode"])
def test_objective_never_falls_in_float32(name):
    case = CASES[name]
    trace = traces(case._replace(setting=case.setting._replace(proper=True)), jnp.float32)
    assert trace.dtype == np.float32
    assert worst_step(trace) > -2e-6


def forget_the_prior_shape(problem, hyper, name, *rest):
    q = co.conditional(problem, hyper, name, *rest)
    return Gamma(q.shape - getattr(hyper.prior, name).shape + 1, q.scale) if name == "templates" else q


def take_shape_and_mean(problem, hyper, name, *rest):
    """Cemgil's convention, in which the second parameter of a prior is its mean."""
    prior = getattr(hyper.prior, name)
    other = hyper._replace(prior=hyper.prior._replace(**{name: Gamma(prior.shape, prior.scale / prior.shape)}))
    return co.conditional(problem, other if name == "excitations" else hyper, name, *rest)


def forget_the_logarithm(problem, name, posterior, reading, key=None):
    moments = co.read(problem, name, posterior, reading, key)
    return Moments(moments.mean, moments.mean) if name == "excitations" else moments


def learn_too_far(problem, hyper, *rest):
    learned = co.learn(problem, hyper, *rest)
    return learned._replace(frame_prior=learned.frame_prior._replace(entry=learned.frame_prior.entry**3))


@pytest.mark.parametrize(
    ("name", "replaced"),
    [
        ("known", {"conditional": forget_the_prior_shape}),
        ("known", {"conditional": take_shape_and_mean}),
        ("known", {"read": forget_the_logarithm}),
        ("latent chain", {"learn": learn_too_far}),
    ],
    ids=lambda value: next(iter(value.values())).__name__ if isinstance(value, dict) else "",
)
def test_broken_updates_are_noticed(x64, name, replaced):
    """What the table is worth: each of these mistakes makes an objective fall, or not rise at all."""
    trace = traces(CASES[name], jnp.float64, broken(co, **replaced))
    assert worst_step(trace) < -1e-7


# --- the contract -------------------------------------------------------------------------------------------

SMALL = {"shape": (5, 4), "entries": 2, "bases": 2, "whole": True}
def test_gibbs_refuses_candidates() -> None:
    problem = random_problem(0, Setting("known", False, "unlabelled"))
    with pytest.raises(ValueError, match="every entry"):
        gibbs(co, dataclasses.replace(problem, candidates=2), lambda key: random_posterior(0, problem))


def test_gibbs_refuses_what_are_no_counts() -> None:
    """Of magnitudes as they are it drew as if half of them were not there."""
    problem = random_problem(0, Setting("known", False, "unlabelled", proper=True), whole=True)
    heavy, halved = problem.frames._replace(weight=2 * problem.frames.weight), problem.frames._replace(x=problem.frames.x / 2)
    for frames in (heavy, halved):
        with pytest.raises(ValueError, match="must be whole numbers, and every frame's weight one"):
            gibbs(co, dataclasses.replace(problem, frames=frames), lambda key: random_posterior(0, problem))


@pytest.mark.parametrize("block", ["filter", "gain"])
def test_gibbs_refuses_to_draw_what_has_a_flat_prior(block: str) -> None:
    problem = random_problem(0, Setting("known", False, "unlabelled"), whole=True)
    kinds = readings("fixed")._replace(**{block: "sample"})
    with pytest.raises(ValueError, match=f"blocks with flat priors \\({block}\\) cannot be drawn"):
        gibbs(co, problem, lambda key: random_posterior(0, problem), readings=kinds)
    proper = random_problem(0, Setting("known", False, "unlabelled", proper=True), whole=True)
    gibbs(co, proper, lambda key: random_posterior(0, proper), readings=kinds)


def test_icm_refuses_to_learn_shapes_with_modes() -> None:
    problem = random_problem(0, Setting("none", learn=Learn(excitations=True)))
    with pytest.raises(ValueError, match=r"excitations.* take log_mode"):
        icm(co, problem, lambda key: random_posterior(0, problem), mode="mode")


def test_what_fills_up_the_last_part_is_not_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    """With music everywhere, pi learns that it never pauses; frames that only fill up must not then be impossible."""
    setting = Setting("known", False, "on", proper=True)
    problem = random_problem(0, setting, shape=(7, 4), dtype=jnp.float32)
    pi = jnp.asarray([0.0, *[1.0] * (len(problem.hyper.frame_prior.entry) - 1)])
    hyper = problem.hyper._replace(frame_prior=problem.hyper.frame_prior._replace(entry=pi / pi.sum()))
    problem = dataclasses.replace(problem, hyper=hyper, frames=problem.frames._replace(music=jnp.ones(7)))
    moments = moments_of(random_posterior(0, problem), problem, readings("mean", proper=True))
    whole = co.local(problem, problem.hyper, moments)
    monkeypatch.setattr(entries, "PART", 8)
    parts = co.local(problem, problem.hyper, moments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


ALGORITHMS = {"cavi": cavi, "icm": icm, "gibbs": gibbs}
every_algorithm = pytest.mark.parametrize("make", ALGORITHMS.values(), ids=ALGORITHMS.keys())


def small_algorithm(make, seed=0, module=co, **sizes):
    model = random_problem(seed, Setting("latent", chain=True, switches="unlabelled", proper=True), **(SMALL | sizes))
    return make(module, model, Partial(jm.Start(2), model, None))


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def differs(one, other):
    return any(bool((a != b).any()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@quick_jit
def call(function, *arguments):
    return function(*arguments)


def test_the_model_satisfies_the_protocol():
    assert isinstance(co, ConjugateModel)
    assert not isinstance(broken(co, local=None).__dict__, ConjugateModel)


@pytest.mark.parametrize("make", [cavi, icm])
def test_parameters_without_a_prior_are_read_as_their_mode(x64, make):
    """A flat prior has no mean. At the mode, the slope of the objective by the gain is nothing."""
    problem = random_problem(3, Setting("known"), dtype=jnp.float64)
    assert co.flat(problem) == jm.Blocks(False, False, True, True, False)
    start = Partial(jm.Start(2), problem, None)
    usual, named = make(co, problem, start), make(co, problem, start, readings=readings("mean" if make is cavi else "log_mode"))
    found, other = (loop.fit(one, jax.random.key(0), max_steps=40, tolerance=0.0) for one in (usual, named))
    assert np.isfinite(found.trace).all()
    np.testing.assert_array_equal(found.trace, other.trace)


@every_algorithm
def test_contract_of_algorithms(make):
    """init and step are pure functions of key and state, whose outputs have one structure for ever."""
    algorithm = small_algorithm(make)
    keys = jax.random.split(jax.random.key(0), 3)
    state = call(algorithm.init, keys[0])
    same(state, call(algorithm.init, keys[0]))
    assert differs(state, call(algorithm.init, keys[1]))

    before = jax.tree.map(np.array, state)
    after, info = call(algorithm.step, keys[1], state)
    same(before, state)
    same((after, info), call(algorithm.step, keys[1], state))
    assert differs(after.posterior, state.posterior)
    assert differs(after, call(algorithm.step, keys[2], state)[0]) == (make is gibbs)

    def form(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert form(after) == form(state)
    assert info.objective.shape == () and info.objective.dtype == jnp.float32 and jnp.isfinite(info.objective)
    assert info.responsibility.shape == (5, 3)

    assert int(after.sweep) == int(state.sweep) + 1
    # A scan refuses a state that changes its structure, its types, or how strong they are.
    jax.eval_shape(lambda s: jax.lax.scan(lambda s, k: algorithm.step(k, s), s, keys), state)


def compiled(caplog, function, *arguments, **options):
    """Names of the functions that a call compiles."""
    caplog.clear()
    with jax.log_compiles():
        function(*arguments, **options)
    messages = (record.getMessage() for record in caplog.records)
    return [message for message in messages if message.startswith("Compiling")]


@every_algorithm
def test_a_second_problem_of_the_same_shapes_compiles_nothing(make, caplog):
    """Problems are arguments of what is compiled, never constants in it."""
    one, other, longer = small_algorithm(make), small_algorithm(make, 1), small_algorithm(make, 2, shape=(6, 4))
    state, other_state = call(one.init, KEY), call(other.init, KEY)
    call(one.step, KEY, state)
    assert compiled(caplog, call, other.init, KEY) == compiled(caplog, call, other.step, KEY, other_state) == []
    assert len(compiled(caplog, call, longer.init, KEY)) > 0


def test_a_second_fit_of_the_same_shapes_compiles_nothing(caplog):
    def fit(seed, bins):
        model = random_problem(seed, Setting("none"), shape=(5, bins))
        algorithm = cavi(co, model, Partial(jm.Start(2), model, None), readings=readings("mean"))
        return compiled(caplog, loop.fit, algorithm, KEY, max_steps=2)

    assert any("_advance" in message for message in fit(0, bins=4))
    assert fit(1, bins=4) == []


# --- the loop -----------------------------------------------------------------------------------------------


class Halving(NamedTuple):
    """Toy algorithm: the state is halved, and the objective approaches its limit of 10."""

    objective: jnp.ndarray


def halve(key, state):
    return state / 2, Halving(10 - state)


def halving(start=8.0):
    return loop.Algorithm(Partial(lambda key: jnp.asarray(start)), Partial(halve))


def test_fit_stops_where_the_objective_rests():
    fit = loop.fit(halving(), KEY, tolerance=1e-3)
    expected = 10 - 8.0 / 2 ** np.arange(fit.steps)
    np.testing.assert_allclose(fit.trace, expected, rtol=1e-6)
    moved = np.diff(expected) / expected[1:]
    assert fit.converged and moved[-1] <= 1e-3 < moved[-2]
    assert fit.state == 8.0 / 2**fit.steps and fit.info.objective == fit.trace[-1]


def test_a_wider_window_and_a_least_number_of_steps_stop_later():
    steps = loop.fit(halving(), KEY, tolerance=1e-3).steps
    assert loop.fit(halving(), KEY, tolerance=1e-3, window=4).steps == steps + 4  # four steps move 15 times as far as one
    assert loop.fit(halving(), KEY, tolerance=1e-3, min_steps=20).steps == 21


def test_fit_respects_max_steps():
    fit = loop.fit(halving(), KEY, max_steps=3)
    assert not fit.converged and fit.steps == 3 and fit.trace.shape == (3,) and fit.state == 1


def test_a_fit_resumes_where_it_stopped():
    whole = loop.fit(halving(), KEY, max_steps=6, tolerance=0.0)
    first = loop.fit(halving(), KEY, max_steps=4, tolerance=0.0)
    for _ in range(2):  # the given state is not used up
        second = loop.fit(halving(), KEY, max_steps=2, tolerance=0.0, state=first.state)
        np.testing.assert_array_equal(jnp.concatenate([first.trace, second.trace]), whole.trace)
        assert second.state == whole.state


def test_progress_is_reported_between_chunks_and_changes_nothing():
    reports = []
    fit = loop.fit(halving(), KEY, max_steps=7, tolerance=0.0, report_every=3, progress=lambda *r: reports.append(r))
    assert [steps for steps, _ in reports] == [3, 6, 7]
    assert [value for _, value in reports] == [float(fit.trace[i]) for i in (2, 5, 6)]
    np.testing.assert_array_equal(fit.trace, loop.fit(halving(), KEY, max_steps=7, tolerance=0.0).trace)


def test_an_interruption_goes_through():
    def interrupt(steps, objective):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.fit(halving(), KEY, progress=interrupt)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_an_objective_that_breaks_is_an_error(bad):
    def step(key, state):
        return state + 1, Halving(jnp.where(state == 3, bad, state))

    algorithm = loop.Algorithm(Partial(lambda key: jnp.asarray(0.0)), Partial(step))
    with pytest.raises(FloatingPointError, match=f"{float(bad)} at step 4"):
        loop.fit(algorithm, KEY, max_steps=10, tolerance=0.0)


def test_collect_warms_up_and_thins():
    counter = loop.Algorithm(Partial(lambda key: jnp.asarray(0)), Partial(lambda key, n: (n + 1, ())))
    state, kept = loop.collect(counter, KEY, warmup=5, samples=3, thin=4)
    assert state == 17
    np.testing.assert_array_equal(kept, [9, 13, 17])
    state, kept = loop.collect(counter, KEY, warmup=0, samples=2, keep=lambda n: {"n": n, "row": jnp.ones(3)}, state=state)
    np.testing.assert_array_equal(kept["n"], [18, 19])
    assert kept["row"].shape == (2, 3)


def test_collect_gives_every_step_a_key_of_its_own():
    drawing = loop.Algorithm(Partial(lambda key: jnp.asarray(0.0)), Partial(lambda key, s: (jax.random.uniform(key), ())))
    _, kept = loop.collect(drawing, KEY, warmup=3, samples=50, thin=2)
    assert len(set(np.asarray(kept).tolist())) == 50
    np.testing.assert_array_equal(kept, loop.collect(drawing, KEY, warmup=3, samples=50, thin=2)[1])


# --- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweeps", [1, 2, 30])
def test_flat_priors_and_modes_are_multiplicative_updates(x64, sweeps):
    """ICM without priors is KL-NMF: the very iterates of scikit-learn, excitations first and then templates."""
    model = random_problem(20, Setting("none"), dtype=jnp.float64)
    flat = gamma.flat(jnp.ones((1, 1)))
    prior = model.hyper.prior._replace(templates=flat, excitations=flat)
    model = dataclasses.replace(model, hyper=model.hyper._replace(prior=prior))
    start = random_posterior(20, model)
    start = start._replace(**{n: Gamma(getattr(start, n).shape + 1, getattr(start, n).scale) for n in ("templates", "excitations")})
    how = Blocks("mode", "mode", "fixed", "fixed", "fixed")
    state, trace = run_one(model, start, how=how, steps=30)
    if sweeps < 30:
        state, _ = run_one(model, start, how=how, steps=sweeps)

    x = np.asarray(model.frames.x)
    w, h = np.array(gamma.mode(start.excitations)), np.array(gamma.mode(start.templates))
    nmf = NMF(BASES, init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=sweeps, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        w = nmf.fit_transform(x, W=w, H=h)
    np.testing.assert_allclose(state.moments.excitations.mean, w, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(state.moments.templates.mean, nmf.components_, rtol=1e-4, atol=1e-8)


def part_of_frames(model, posterior, frames):
    """The problem of some frames alone, and its start."""
    alone = dataclasses.replace(model, frames=jax.tree.map(lambda a: a[frames], model.frames))
    posterior = jax.tree.map(jnp.asarray, posterior)
    return alone, posterior._replace(
        excitations=Gamma(*(a[frames] for a in posterior.excitations)), gain=Gamma(*(a[frames] for a in posterior.gain))
    )


def test_joint_estimation_without_weight_on_one_side_is_the_other_side_alone(x64):
    """w = 0 on speech frames leaves the mixed frames alone, w = 0 on mixed frames leaves the speech alone."""
    model = random_problem(21, Setting("latent", proper=True), dtype=jnp.float64)
    start, speech = random_posterior(21, model), np.arange(9) < 4
    frames = model.frames._replace(music=jnp.asarray(~speech, jnp.float64))

    def weighted(counted):
        return dataclasses.replace(model, frames=frames._replace(weight=jnp.asarray(counted, jnp.float64)))

    how = readings("mean", proper=True)
    both = [weighted(~speech), weighted(speech), weighted(speech | ~speech)]
    joint, trace = run(stack(both), stack([start] * 3), jax.random.split(KEY, 3), how=how, steps=25)
    for index, chosen in enumerate([~speech, speech]):
        alone, expected = run_one(*part_of_frames(both[index], start, chosen), how=how, steps=25)
        np.testing.assert_allclose(trace[index], expected, rtol=1e-10)
        for name in Blocks._fields:
            q, own = getattr(joint.posterior, name), getattr(alone.posterior, name)
            rows = chosen if name in ("excitations", "gain") else slice(None)
            np.testing.assert_allclose(q.shape[index][rows], own.shape, rtol=1e-8, err_msg=name)
            np.testing.assert_allclose(q.scale[index][rows], own.scale, rtol=1e-8, err_msg=name)
    # With a weight on both sides, both have a say.
    templates = joint.posterior.templates.shape
    assert min(abs(templates[2] - templates[0]).max(), abs(templates[2] - templates[1]).max()) > 0.1


def test_speech_alone_needs_no_catalogue(x64):
    """Frames without music give the same templates whether or not the problem has a catalogue."""
    model = random_problem(22, Setting("known", proper=True), dtype=jnp.float64)
    model = dataclasses.replace(model, frames=model.frames._replace(music=jnp.zeros(9)))
    bare = dataclasses.replace(
        model,
        catalogue=model.catalogue[:1],
        latent=model.latent[:1],
        hyper=model.hyper._replace(frame_prior=jax.tree.map(lambda a: a[:1], model.hyper.frame_prior)),
    )
    start, how = random_posterior(22, model), Blocks("mean", "mean", "fixed", "fixed", "fixed")
    with_catalogue, trace = run_one(model, start, how=how, steps=10)
    bare_start = start._replace(catalogue=Gamma(*(a[:1] for a in start.catalogue)))
    without, expected = run_one(bare, bare_start, how=how, steps=10)
    np.testing.assert_allclose(with_catalogue.posterior.templates.shape, without.posterior.templates.shape, rtol=1e-10)
    constant = 9 * np.log(model.hyper.frame_prior.entry[0])  # what it costs to be null every time
    np.testing.assert_allclose(trace, expected + constant, rtol=1e-10)


# --- symmetries ---------------------------------------------------------------------------------------------


def permuted(blocks, *, bases=None, bins=None, entries=None):
    """Blocks of arrays with their axes permuted."""

    def take(array, *orders):
        for axis, order in enumerate(orders):
            array = array if order is None else jnp.take(array, order, axis)
        return array

    orders = Blocks((bases, bins), (None, bases), (bins,), (None,), (entries, bins))
    return Blocks(*(
        jax.tree.map(lambda a, o=order: take(a, *o), block) for block, order in zip(blocks, orders, strict=True)
    ))  # fmt: skip


def test_names_of_bases_bins_and_entries_do_not_matter(x64):
    """A permuted problem has the same trace and the permuted posterior; the chain's order is permuted along."""
    model = random_problem(23, Setting("latent", True, "unlabelled", observed=True, proper=True), dtype=jnp.float64)
    start, how = random_posterior(23, model), readings("mean", proper=True)
    bases, bins, entries = jnp.asarray([2, 0, 1]), jnp.asarray([3, 1, 0, 6, 5, 2, 4]), jnp.asarray([0, 3, 1, 4, 2])

    frames, r = model.frames, model.hyper.frame_prior
    shuffled_bins = dataclasses.replace(
        model,
        frames=frames._replace(x=frames.x[:, bins], observed=frames.observed[:, bins]),
        catalogue=model.catalogue[:, bins],
    )
    place = jnp.argsort(entries)  # where an entry has gone
    shuffled_r = r._replace(entry=r.entry[entries], stay=r.stay[entries], advance=r.advance[entries],
                            successor=place[r.successor[entries]])  # fmt: skip
    shuffled_entries = dataclasses.replace(
        model,
        catalogue=model.catalogue[entries],
        latent=model.latent[entries],
        hyper=model.hyper._replace(frame_prior=shuffled_r),
    )
    orders = [{}, {"bases": bases}, {"bins": bins}, {"entries": entries}]
    state, trace = run(
        stack([model, model, shuffled_bins, shuffled_entries]),
        stack([permuted(start, **order) for order in orders]),
        jax.random.split(KEY, 4),
        how=how,
        steps=15,
    )
    original = jax.tree.map(lambda a: a[0], state.posterior)
    for i, order in enumerate(orders):
        np.testing.assert_allclose(trace[i], trace[0], rtol=1e-9)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-7), state.posterior, permuted(original, **order)
        )
