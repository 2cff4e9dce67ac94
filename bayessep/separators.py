"""The Bayesian methods on spectrograms: from magnitudes, training material and settings to a posterior.

Models and inference are combined here. The methods of paper 000 differ in three choices (`METHODS`): whether the templates are
trained, whether they adapt to the mixture, and how conditionals are read.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from bayessep import gamma, repetition
from bayessep.gamma import Gamma
from bayessep.inference import conjugate, loop
from bayessep.inference.loop import Fit
from bayessep.models import conditionals, entries, frame_prior, jingle_mixture, sources
from bayessep.models.jingle_mixture import Blocks, JingleMixture, Learn
from bayessep.models.sizes import roomy
from bayessep.preparation import Spectra, require
from bayessep.settings import METHODS, Settings

Progress = Callable[[str, int, int, float], None]
"""progress(what is being done, steps done, steps at most, objective)"""


def silent(what: str, done: int, most: int, objective: float) -> None:
    del what, done, most, objective


# --- training -------------------------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """Speech templates after training: their posterior and the learned priors."""

    templates: Gamma
    prior: Blocks
    n_speech: int | None = None  # if music has templates too: the number of speech templates, which come first


def beside(speech: Trained, music: Trained) -> Trained:
    """Concatenate templates of speech and of music, for a problem without a catalogue."""
    pairs = zip(speech.templates, music.templates, strict=True)
    both = Gamma(*(jnp.concatenate([a, b]) for a, b in pairs))
    return Trained(both, speech.prior, len(speech.templates.shape))


def train_templates(speech: Float[np.ndarray, "T F"], settings: Settings, progress: Progress = silent) -> Trained:
    """Train templates by Gamma-Poisson NMF of the speech, with learned, tied hyper-parameters (paper 000, section 2.3.1)."""
    x = jnp.asarray(speech, jnp.float32)
    prior = jingle_mixture.priors(x.shape[1], float(x.mean()), n_bases=settings.bases)
    problem = jingle_mixture.build(x, prior=prior, learn=Learn(templates=True, excitations=True))
    readings = Blocks("mean", "mean", "fixed", "fixed", "fixed")
    fit = _run(_with_room(problem), readings, settings, None, "training", settings.training_sweeps, progress)
    return Trained(fit.state.posterior.templates, fit.state.hyper.prior)


def train(speech: Float[np.ndarray, "T F"], settings: Settings, progress: Progress = silent) -> Trained | None:
    """Train templates on speech alone, before the mixture is seen; None if the method needs no training speech.

    Raises:
        UserError: the method needs training speech, and there is none.
    """
    if not METHODS[settings.method].needs_speech:
        return None
    require(speech, "speech")
    return train_templates(speech, settings, progress)


def warm_up(settings: Settings, sweeps: int) -> int:
    """Return the number of sweeps during which latent catalogue entries stay at their start."""
    return min(settings.warm_up, sweeps // 2)


_WINDOW = 5  # sweeps over which the objective must not change


def _run(
    problem: JingleMixture,
    readings: Blocks,
    settings: Settings,
    templates: Gamma | None,
    what: str,
    sweeps: int,
    progress: Progress,
) -> Fit:
    start = Partial(jingle_mixture.Start(settings.bases), problem, templates)
    hold = (("catalogue", warm_up(settings, sweeps)),) if readings.catalogue != "fixed" else ()
    held = max((n for _, n in hold), default=0)  # what is held must move before anything can have converged
    schedule = conjugate.Schedule(hold=hold)
    return loop.fit(
        conjugate.algorithm(conditionals, problem, start, readings=readings, schedule=schedule),
        jax.random.key(settings.seed),
        max_steps=sweeps,
        tolerance=settings.tolerance,
        window=_WINDOW,
        min_steps=max(20, held + _WINDOW),
        progress=lambda done, value: progress(what, done, sweeps, value),
    )


# --- inference ------------------------------------------------------------------------------------------------------------


class Posterior(NamedTuple):
    """Result of inference, from which sources, draws and predictions are computed."""

    problem: JingleMixture  # with the learned hyper-parameters
    blocks: Blocks  # of Gamma
    moments: Blocks  # of Moments, read according to `readings`
    readings: Blocks
    candidates: Int[Array, "T K"] | None
    n_speech: int | None = None  # as `Trained.n_speech`


class Inferred(NamedTuple):
    """Posterior of the sources in the target frames, with filter, gain and the run that led to it."""

    sources: sources.Sources
    filter: Float[np.ndarray, " F"]
    gain: Float[np.ndarray, " T"]
    fit: Fit
    period: int | None
    posterior: Posterior


def build_problem(
    spectra: Spectra,
    trained: Trained | None,
    settings: Settings,
    observed: Float[np.ndarray, "T F"] | None = None,
    *,
    mean: float | None = None,
) -> tuple[JingleMixture, repetition.Repetition | None]:
    """Build the jingle mixture of the target frames: priors, catalogue and chain according to the settings.

    `observed` is 0 for bins of the target that inference must not see. `mean` is the mean magnitude that untrained priors assume,
    by default that of the target; pass it if the target is only part of a recording.

    Returns the problem, and the repetition of the music if it was searched for and found.
    """
    method = METHODS[settings.method]
    x = jnp.asarray(spectra.target, jnp.float32)
    known = spectra.music[: settings.max_catalogue]
    stretches = _stretches(spectra, len(known))
    first, after = max(stretches, key=lambda part: part[1] - part[0], default=(0, 0))
    found = None
    if settings.completes:
        found = repetition.find(spectra.target, known[first:after], settings.align, settings.weigh, spectra.times)
    completed = found is not None and settings.holds(found.period)
    missing = np.maximum(found.missing, _FAINT_ENTRY * float(x.mean())) if found is not None and completed else known[:0]
    catalogue = np.concatenate([known, missing])
    n = len(catalogue)
    latent = (np.arange(n) >= len(known)).astype(np.float32)

    prior = jingle_mixture.priors(
        x.shape[1],
        float(x.mean()) if mean is None else mean,
        n_bases=settings.bases,
        filter_shape=settings.filter_shape,
        gain_shape=settings.gain_shape,
    )
    if found is not None:
        prior = _prior_of_repeats(prior, found, catalogue, len(known), settings)
    if trained is not None:
        prior = prior._replace(templates=trained.prior.templates, excitations=trained.prior.excitations)
        if method.trained:
            prior = prior._replace(templates=trained.templates)
    entry = frame_prior.uniform(n)
    if settings.chain and n:
        # Each stretch is played from its first frame to its last and starts over; missing frames follow the stretch they complete.
        turns = [np.r_[a:b, len(known) : n] if a == first else np.arange(a, b) for a, b in stretches]
        order = np.zeros(n + 1, int)
        for turn in turns:
            order[1 + turn] = 1 + np.roll(turn, -1)
        r = frame_prior.left_to_right(entry, jnp.asarray(order))
    else:
        r = frame_prior.independent(entry)

    music, weight, speech, starts = spectra.p_music, np.ones(len(x)), np.ones(len(x)), _starts(spectra)
    if method.stacked:
        require(spectra.speech, "speech")
        n_speech = len(spectra.speech)
        x = jnp.concatenate([jnp.asarray(spectra.speech, jnp.float32), x])
        music = np.concatenate([np.zeros(n_speech), music])
        weight = np.concatenate([np.ones(n_speech), np.full(len(weight), settings.joint_weight)])
        speech, starts = np.ones(len(x)), np.concatenate([np.arange(n_speech) == 0, starts])
        if settings.gain_shape is not None and len(prior.gain.shape) > 1:  # one prior per frame; around 1 in the training speech
            aside = gamma.around(jnp.ones(n_speech), settings.gain_shape)
            prior = prior._replace(gain=Gamma(*(jnp.concatenate(pair) for pair in zip(aside, prior.gain, strict=True))))
        if observed is not None:
            observed = np.concatenate([np.ones_like(spectra.speech), observed])
    problem = jingle_mixture.build(
        x,
        prior=prior,
        catalogue=jnp.asarray(catalogue, jnp.float32),
        latent=jnp.asarray(latent),
        frames_prior=r,
        speech=jnp.asarray(speech, jnp.float32),
        music=jnp.asarray(music, jnp.float32),
        weight=jnp.asarray(weight, jnp.float32),
        chain=settings.chain and n > 0,
        rule=settings.rule,
        candidates=settings.candidates if settings.candidates < n + 1 else None,
        unit_filter=settings.filter_shape is None and settings.gain_shape is None,
        observed=None if observed is None else jnp.asarray(observed, jnp.float32),
        starts=jnp.asarray(starts, jnp.float32),
        learn=Learn(templates=not method.trained, excitations=not method.trained),
        speech_shape=settings.speech_shape,
    )
    return problem, found


def _starts(spectra: Spectra) -> Float[np.ndarray, " T"]:
    """Return 1 for each target frame that does not follow the one before it in the recording, 0 for the others."""
    times = np.arange(len(spectra.target)) if spectra.times is None else spectra.times
    return (np.diff(times, prepend=times[:1] - 2) != 1).astype(np.float32)


def _stretches(spectra: Spectra, n: int) -> list[tuple[int, int]]:
    """(first, stop) of each contiguous stretch of music, within its first n frames."""
    ends = np.minimum(np.cumsum(spectra.stretches or (len(spectra.music),)), n)
    return [(a, b) for a, b in zip([0, *ends.tolist()], ends.tolist(), strict=False) if b > a]


# Least prior means of gain and filter, and of a latent entry relative to the target: multiplicative updates never leave zero.
_FAINT, _FAINT_ENTRY = 1e-4, 5e-5


def _prior_of_repeats(
    prior: Blocks, found: repetition.Repetition, catalogue: Float[np.ndarray, "J F"], n_known: int, settings: Settings
) -> Blocks:
    """Centre the priors of gain, filter and latent entries on the estimates from the repeats.

    A prior that knew only the level of an entry would have to be outweighed in every bin by the three or four frames that play
    it: these would rather be explained by other entries, and this one would never be learned.
    """

    def around(mean: np.ndarray, shape: float) -> Gamma:
        return gamma.around(jnp.asarray(mean, jnp.float32), shape)

    if settings.filter_shape is not None:
        prior = prior._replace(filter=around(np.maximum(found.filter, _FAINT), settings.filter_shape))
    if settings.gain_shape is not None:
        prior = prior._replace(gain=around(np.maximum(found.gain, _FAINT), settings.gain_shape))
    if len(catalogue) > n_known:
        mean = np.concatenate([np.ones((1 + n_known, catalogue.shape[1])), catalogue[n_known:]])
        prior = prior._replace(catalogue=around(mean, settings.entry_shape))
    return prior


def infer(spectra: Spectra, trained: Trained | None, settings: Settings, progress: Progress = silent) -> Inferred:
    """Run one method on the target frames and return the posterior of the sources."""
    problem, found = build_problem(spectra, trained, settings)
    # SVI cannot be padded: the NumPyro program requires positive frame weights.
    roomy = problem if settings.method == "svi" else _with_room(problem)
    posterior, fit = _infer(roomy, trained, settings, progress)
    rows = target_rows(problem, len(spectra.target))
    of_target = jax.tree.map(lambda a: a[rows], sources_of(posterior))
    posterior = posterior if roomy is problem else _without_room(posterior, problem)
    gain = np.asarray(posterior.moments.gain.mean)[rows]
    return Inferred(of_target, np.asarray(posterior.moments.filter.mean), gain, fit, found and found.period, posterior)


_ROOM = 2**15  # frames; for shorter problems, compiling again would cost more than computing the padding


def _with_room(problem: JingleMixture) -> JingleMixture:
    """Pad a problem to one of a few sizes, so that recordings of similar length share compiled code."""
    n_frames, (n_entries, n_bins), n_candidates = len(problem.frames.x), problem.catalogue.shape, problem.candidates
    if n_frames >= _ROOM:
        return problem
    of_entries = roomy(n_entries, 1)
    # Padding must not change whether candidates are short-listed.
    if n_candidates:
        before, after = (entries.are_short_listed(n, n_bins, n_candidates) for n in (n_entries, of_entries))
        of_entries = of_entries if before == after else n_entries
    return jingle_mixture.padded(problem, roomy(n_frames, 2 if n_frames < _ROOM // 8 else 4), of_entries)


def _without_room(posterior: Posterior, problem: JingleMixture) -> Posterior:
    """Remove the padding of `_with_room`: keep only the frames and entries of the original problem."""
    n_frames, n_entries = len(problem.frames.x), len(problem.catalogue)

    def first(values: Any, n: int) -> Any:  # in numpy, to avoid compilation
        return jax.tree.map(lambda array: jnp.asarray(np.asarray(array)[:n]), values)

    def own(blocks: Blocks) -> Blocks:
        excitations, gain = first(blocks.excitations, n_frames), first(blocks.gain, n_frames)
        return blocks._replace(excitations=excitations, gain=gain, catalogue=first(blocks.catalogue, n_entries))

    learned = jax.tree.map(lambda own, learned: first(learned, len(own)), problem.hyper, posterior.problem.hyper)
    return posterior._replace(
        problem=dataclasses.replace(problem, hyper=learned),
        blocks=own(posterior.blocks),
        moments=own(posterior.moments),
        candidates=first(posterior.candidates, n_frames),
    )


def target_rows(problem: JingleMixture, n_target: int) -> slice:
    """Return the rows of a problem's target frames, which come last, after the training speech of a stacked method."""
    n_frames = len(problem.frames.x)
    return slice(n_frames - n_target, n_frames)


def _infer(
    problem: JingleMixture, trained: Trained | None, settings: Settings, progress: Progress
) -> tuple[Posterior, Fit]:
    templates = trained.templates if trained is not None and settings.method != "unsupervised" else None
    run = _fit
    if settings.method == "svi":
        from bayessep.separators_svi import run  # imports NumPyro, which no other method needs
    posterior, fit = run(problem, templates, settings, progress)
    return posterior._replace(n_speech=trained and trained.n_speech), fit


def _fit(
    problem: JingleMixture, templates: Gamma | None, settings: Settings, progress: Progress
) -> tuple[Posterior, Fit]:
    readings = readings_for(settings, has_latent=bool(problem.latent.any()))
    fit = _run(problem, readings, settings, templates, settings.method, settings.sweeps, progress)
    state = fit.state
    learned = dataclasses.replace(problem, hyper=state.hyper)
    return Posterior(learned, state.posterior, state.moments, readings, state.candidates), fit


def score_hidden(
    spectra: Spectra, trained: Trained | None, settings: Settings, hidden: Bool[np.ndarray, "T F"], progress: Progress = silent
) -> float:
    """Return the mean log predictive density of hidden bins of the target (`sources.log_predictive`), inferred without them."""
    x = spectra.target
    # Hidden bins do not enter inference, but start values and repeats are derived from all bins: fill in the mean of the others.
    known_mean = (x * ~hidden).sum(0) / np.maximum((~hidden).sum(0), 1)
    seen = spectra._replace(target=np.where(hidden, known_mean[None, :], x).astype(np.float32))
    problem, _ = build_problem(seen, trained, settings, (~hidden).astype(np.float32))
    posterior, _ = _infer(problem, trained, settings, progress)
    truth = problem.frames.x.at[target_rows(problem, len(x))].set(x)
    problem = dataclasses.replace(posterior.problem, frames=problem.frames._replace(x=truth))
    return float(_log_predictive(problem, posterior.moments, posterior.candidates))


@jax.jit
def _log_predictive(problem: JingleMixture, moments: Blocks, candidates: Any) -> Array:
    rho = entries.weigh_entries(problem, problem.hyper, moments, candidates).responsibility
    everywhere = entries.scatter_candidates(rho, candidates, problem.catalogue.shape[0], 0.0)
    return sources.log_predictive(problem, moments, everywhere)


@partial(jax.jit, static_argnames="readings")
def read_blocks(problem: JingleMixture, blocks: Blocks, readings: Blocks) -> Blocks:
    names = Blocks._fields
    return Blocks(*(jingle_mixture.read(problem, *each) for each in zip(names, blocks, readings, strict=True)))


def fit_problem(problem: JingleMixture, trained: Trained | None, settings: Settings) -> Posterior:
    """Fit a problem that was built elsewhere."""
    templates = None if trained is None else trained.templates
    return _fit(problem, templates, settings, silent)[0]._replace(n_speech=trained and trained.n_speech)


def sources_of(posterior: Posterior) -> sources.Sources:
    """Return the sources of a posterior, as numpy arrays."""
    if posterior.n_speech is not None:
        return jax.tree.map(np.asarray, _of_templates(posterior.problem, posterior.moments, posterior.n_speech))
    found = _sources(posterior.problem, posterior.problem.hyper, posterior.moments, posterior.candidates)
    return jax.tree.map(np.asarray, found)


def readings_for(settings: Settings, *, has_latent: bool) -> Blocks:
    """Return how the method reads each block on the mixture."""
    method = METHODS[settings.method]
    own = "log_mode" if method.excitations == "mode" and settings.log_modes else method.excitations
    return Blocks(
        templates=method.templates,
        excitations=own,
        filter="mode" if settings.filter_shape is None else own,
        gain="mode" if settings.gain_shape is None else own,
        catalogue=own if has_latent else "fixed",
    )


_sources = jax.jit(sources.sources)
_of_templates = jax.jit(sources.of_templates, static_argnums=2)
