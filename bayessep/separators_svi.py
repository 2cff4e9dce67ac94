"""SVI on the problem that the other methods solve: gradient steps on a NumPyro program with a Gamma guide.

Apart from `separators`, so that only this method imports NumPyro.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayessep.gamma import Gamma
from bayessep.inference import loop, svi
from bayessep.inference.loop import Fit
from bayessep.models import conditionals, entries, jingle_mixture, programs
from bayessep.models.jingle_mixture import Blocks, JingleMixture
from bayessep.separators import Posterior, Progress, read_blocks, warm_up
from bayessep.settings import SVI_STEPS, Settings

_SVI_PARTS = 5


def run(
    problem: JingleMixture, templates: Gamma | None, settings: Settings, progress: Progress
) -> tuple[Posterior, Fit]:
    """Gradient steps on the same problem as a NumPyro program, with a Gamma guide; `SVI_STEPS` a sweep of the settings.

    They are taken in `_SVI_PARTS` parts, before each of which the candidates of a long catalogue are chosen anew. Single
    estimates of the bound are noise: that of a part is the mean of its last ten, which is also what the trace ends with.
    """
    problem = dataclasses.replace(problem, rule="exact")  # whose gradient it follows
    key_start, *keys = jax.random.split(jax.random.key(settings.seed), 1 + _SVI_PARTS)
    blocks = _initial(key_start, problem, n_bases=settings.bases, templates=templates)
    choices = programs.choose(problem, n_bases=settings.bases)
    found = programs.sites(problem, blocks, choices)
    readings = programs.readings(found)
    start = _start_of_guide(found)
    part = -(-SVI_STEPS * settings.sweeps // _SVI_PARTS)
    steps = part * _SVI_PARTS
    hold = (("catalogue", SVI_STEPS * warm_up(settings, settings.sweeps)),) if choices.latent else ()
    guide, optimizer = svi.GammaGuide(programs.jingle_mixture), svi.adam(steps=steps, hold=hold)

    def algorithm(candidates):
        return svi.svi(
            programs.jingle_mixture, guide, problem, candidates, start=start, optimizer=optimizer, choices=choices
        )

    moments = read_blocks(problem, blocks, readings)
    candidates = None if problem.candidates is None else _any_candidates(problem)
    fit, traces = None, []
    for n, key in enumerate(keys):
        if problem.candidates is not None:
            candidates = _choose(problem, problem.hyper, moments, problem.candidates, candidates)
        fit = loop.fit(
            algorithm(candidates),
            key,
            max_steps=part,
            tolerance=-1.0,  # never stop early: the rate falls to nearly nothing at the last step, and noise decides nothing
            state=fit and fit.state,
            progress=lambda done, value, before=n * part: progress("svi", before + done, steps, value),
        )
        traces.append(np.asarray(fit.trace))
        blocks = _blocks_of_svi(algorithm(candidates), problem, fit.state, choices)
        moments = read_blocks(problem, blocks, readings)
    assert fit is not None, "there is at least one part"
    *_, before, bound = (trace[-10:].mean() for trace in traces)
    change = abs(bound - before) * 5 * SVI_STEPS / part  # over as many steps as five sweeps have, to which `tolerance` refers
    converged = bool(change <= settings.tolerance * abs(bound))
    trace = jnp.asarray(np.concatenate(traces)).at[-1].set(bound)
    return Posterior(problem, blocks, moments, readings, candidates), fit._replace(trace=trace, converged=converged, steps=steps)


@partial(jax.jit, static_argnames="choices")
def _blocks_of_svi(algorithm: loop.Algorithm, problem: JingleMixture, state: Any, choices: programs.Choices) -> Blocks:
    return programs.blocks(problem, svi.posterior(algorithm, state), choices)


_choose = jax.jit(conditionals.choose_candidates, static_argnums=3)
_initial = jax.jit(jingle_mixture.initial, static_argnames="n_bases")
_any_candidates = jax.jit(entries.any_candidates)
_start_of_guide = jax.jit(svi.GammaGuide.start)
