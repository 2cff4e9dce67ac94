"""A model of one's own, with what `ConjugateModel` asks for and nothing else, is inferred by each of the algorithms."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from bayessep import gamma
from bayessep.gamma import Gamma
from bayessep.inference import loop
from bayessep.inference.cavi import cavi
from bayessep.inference.conjugate import ConjugateModel, Schedule
from bayessep.inference.gibbs import gibbs
from bayessep.inference.icm import icm


class Rates(NamedTuple):
    rates: Any


class Nothing(NamedTuple):
    rates: bool = False


@partial(jax.tree_util.register_dataclass, data_fields=["x", "hyper"], meta_fields=[
    "candidates", "unit_filter", "learn", "has_music",
])  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Counts:
    """As small as a problem can be: counts of one rate each, x_t ~ Poisson(rate_t), rate_t ~ Gamma(2, 1)."""

    x: Array
    hyper: None = None
    candidates: None = None
    unit_filter: bool = False
    learn: Nothing = Nothing()
    has_music: bool = False


class Step(NamedTuple):
    responsibility: Array
    jumps: None = None


class Own:
    """In place of a module."""

    Blocks = Rates
    read = staticmethod(lambda problem, name, q, reading, key: gamma.read(q, reading, key))
    local = staticmethod(lambda problem, hyper, moments, candidates: Step(jnp.ones((3, 1))))
    recount = staticmethod(lambda problem, moments, step, candidates: step)
    draw_local = staticmethod(lambda key, problem, hyper, moments: Step(jnp.ones((3, 1))))
    constant = staticmethod(lambda problem: None)
    learn = staticmethod(lambda problem, hyper, posterior, moments, readings, jumps: hyper)
    rescale = staticmethod(lambda moments, posterior: (moments, posterior))
    flat = staticmethod(lambda problem: Rates(False))
    any_candidates = staticmethod(lambda problem: None)
    choose_candidates = staticmethod(lambda problem, hyper, moments, n_candidates, current: current)

    @staticmethod
    def conditional(problem, hyper, name, moments, step, candidates):
        return Gamma(2.0 + problem.x, jnp.full(3, 0.5))

    @staticmethod
    def objective(problem, hyper, posterior, moments, readings, step, of_data):
        return moments.rates.mean.sum()


@pytest.mark.parametrize("make", [cavi, icm, gibbs])
def test_each_algorithm_needs_what_the_protocol_says(make: Any) -> None:
    """The posterior of a rate is Gamma(2 + x, 1 / 2): its mean, the mode of its logarithm, which is the same, and draws."""
    assert isinstance(Own, ConjugateModel)
    x = np.array([0.0, 4.0, 20.0], np.float32)
    start = Rates(Gamma(jnp.ones(3), jnp.ones(3)))
    algorithm = make(Own, Counts(jnp.asarray(x)), lambda key: start, schedule=Schedule(groups=(("rates",),)))
    if make is gibbs:
        _, kept = loop.collect(algorithm, jax.random.key(0), warmup=10, samples=4000, keep=lambda state: state.moments.rates.mean)
        np.testing.assert_allclose(kept.mean(0), (2 + x) / 2, rtol=0.05)
        np.testing.assert_allclose(kept.std(0), np.sqrt(2 + x) / 2, rtol=0.08)
    else:
        found = loop.fit(algorithm, jax.random.key(0), max_steps=3, tolerance=0.0)
        np.testing.assert_allclose(found.state.moments.rates.mean, (2 + x) / 2, rtol=1e-6)
