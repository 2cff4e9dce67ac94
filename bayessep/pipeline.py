"""Separation of one recording: waveforms in, waveforms out, with any of the Bayesian methods.

This is where models and inference meet. The methods of paper 000 differ in three choices (`METHODS`): whether the templates were
trained, whether they move on the mixture, and how conditionals are read. What they share:

1. magnitudes of mixture, training speech and labelled music, up to `Settings.max_frequency`, scaled to a common level;
2. speech templates from the training speech, by Gamma-Poisson NMF;
3. a catalogue from the labelled music; with `Settings.chain` it is played in order, and where its repeats are found in the
   mixture, the part of the period that nobody labelled is added as latent entries (`bayessep.repetition`);
4. inference on the mixed frames, and the posterior share of speech in each bin as a mask on the complex mixture.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Complex, Float

from bayessep import repetition
from bayessep.errors import UserError
from bayessep.gamma import Gamma
from bayessep.inference import conjugate, loop, svi
from bayessep.inference.loop import Fit
from bayessep.models import conditionals, entries, frame_prior, jingle_mixture, programs, sources
from bayessep.models.jingle_mixture import Blocks, JingleMixture, Learn
from bayessep.preparation import (
    Known,
    Plan,
    Spectra,
    extend_mask,
    label_frames,
    prepare,
    require,
    settled,
)
from bayessep.settings import METHODS, SVI_STEPS, Settings
from bayessep.stft import bin_frequencies, istft, stft, stft_for_rate
from bayessep.timeline import Segment, from_frames

Progress = Callable[[str, int, int, float], None]
"""progress(what is being done, steps done, steps at most, objective)"""

_SVI_PARTS = 5


class Separation(NamedTuple):
    """Stems and what the posterior says about them. Frames are those of `times`."""

    speech: Float[np.ndarray, "C N"]
    music: Float[np.ndarray, "C N"]  # exactly the mixture less the speech
    times: Float[np.ndarray, " T"]  # seconds
    frequencies: Float[np.ndarray, " F"]  # Hz, of the mask and of the filter
    mask: Float[np.ndarray, "T F"]  # posterior mean share of speech
    mask_std: Float[np.ndarray, "T F"]  # its posterior standard deviation
    p_music: Float[np.ndarray, " T"]
    filter: Float[np.ndarray, " F"]
    gain: Float[np.ndarray, " T"]  # NaN where the model did not look
    segments: list[Segment]  # the labels given, and the model's where none were
    trace: Float[np.ndarray, " steps"]
    bound: float  # its last value; None-like NaN where the method has none
    converged: bool
    steps: int
    seconds: float
    period: float | None  # of the repeating music, in seconds, where one was found
    settings: Settings

    def uncertainty(self, magnitude: Float[np.ndarray, "T F"]) -> dict[str, Float[np.ndarray, " T"]]:
        """Relative posterior standard deviation of each stem's magnitude, frame by frame."""
        std = np.sqrt(((self.mask_std * magnitude) ** 2).sum(1))
        shares = {"speech": self.mask, "music": 1 - self.mask}
        return {k: std / np.maximum(np.sqrt(((m * magnitude) ** 2).sum(1)), 1e-9) for k, m in shares.items()}


def analyse(
    mixture: Float[np.ndarray, "C N"], sample_rate: int, known: Known, settings: Settings
) -> tuple[Complex[np.ndarray, "C T K"], Plan]:
    """The spectrogram of the mixture, all bins of it, and what there is to infer.

    Raises UserError where that is nothing, and as `prepare` does.
    """
    spectrum = np.asarray(stft(jnp.asarray(mixture, jnp.float32), stft_for_rate(sample_rate)))
    limits = {"max_frequency": settings.max_frequency, "level": settings.level, "p_music": settings.p_music}
    plan = prepare(spectrum, sample_rate, known, **limits)
    if not plan.spectra.target.any():
        raise UserError("nothing is left to separate: the mixture is silent, or labelled as pure speech or music throughout.")
    return spectrum, plan


# --- inference ----------------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """Speech templates as the training speech leaves them."""

    templates: Gamma
    prior: Blocks


def silent(what: str, done: int, most: int, objective: float) -> None:
    del what, done, most, objective


def train_templates(speech: Float[np.ndarray, "T F"], settings: Settings, progress: Progress = silent) -> Trained:
    """Gamma-Poisson NMF of the training speech with learned, tied hyper-parameters (paper 000, section 2.3.1)."""
    x = jnp.asarray(speech, jnp.float32)
    prior = jingle_mixture.priors(x.shape[1], float(x.mean()), n_bases=settings.bases)
    problem = jingle_mixture.build(x, prior=prior, learn=Learn(templates=True, excitations=True))
    readings = Blocks("mean", "mean", "fixed", "fixed", "fixed")
    fit = _run(problem, readings, settings, None, "training", settings.training_sweeps, progress)
    return Trained(fit.state.posterior.templates, fit.state.hyper.prior)


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
    return loop.fit(
        conjugate.algorithm(conditionals, problem, start, readings=readings),
        jax.random.key(settings.seed),
        max_steps=sweeps,
        tolerance=settings.tolerance,
        window=5,
        min_steps=20,
        progress=lambda done, value: progress(what, done, sweeps, value),
    )


class Inferred(NamedTuple):
    """Posterior of the sources in the target frames, and how it was reached."""

    sources: sources.Sources
    filter: Float[np.ndarray, " F"]
    gain: Float[np.ndarray, " T"]
    fit: Fit
    period: int | None


def build_problem(
    spectra: Spectra, trained: Trained | None, settings: Settings, observed: Float[np.ndarray, "T F"] | None = None
) -> tuple[JingleMixture, repetition.Repetition | None]:
    """The jingle mixture of the target frames: priors, catalogue and chain as the settings say.

    `observed` is 0 for bins of the target that inference must not see.
    """
    method = METHODS[settings.method]
    x = jnp.asarray(spectra.target, jnp.float32)
    known = spectra.music[: settings.max_catalogue]
    # Free entries beside free templates: nothing tells which is the music.
    completes = settings.chain and settings.complete and settings.method != "unsupervised"
    found = repetition.find(spectra.target, known) if completes else None
    missing = known[:0] if found is None else found.missing[: max(settings.max_catalogue - len(known), 0)]
    catalogue = np.concatenate([known, missing])
    n = len(catalogue)
    latent = (np.arange(n) >= len(known)).astype(np.float32)

    prior = jingle_mixture.priors(
        x.shape[1],
        float(x.mean()),
        n_bases=settings.bases,
        filter_shape=settings.filter_shape,
        gain_shape=settings.gain_shape,
    )
    if trained is not None:
        prior = prior._replace(templates=trained.prior.templates, excitations=trained.prior.excitations)
        if method.trained:
            prior = prior._replace(templates=trained.templates)
    entry = frame_prior.uniform(n)
    if settings.chain and n:
        order = np.concatenate([[0], np.arange(2, n + 1), [1]])
        r = frame_prior.left_to_right(entry, jnp.asarray(order))
    else:
        r = frame_prior.independent(entry)

    music, weight, speech = spectra.p_music, np.ones(len(x)), np.ones(len(x))
    if method.stacked:
        n_speech = len(spectra.speech)
        x = jnp.concatenate([jnp.asarray(spectra.speech, jnp.float32), x])
        music = np.concatenate([np.zeros(n_speech), music])
        weight = np.concatenate([np.ones(n_speech), np.full(len(weight), settings.joint_weight)])
        speech = np.ones(len(x))
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
        learn=Learn(templates=not method.trained, excitations=not method.trained),
    )
    return problem, found


def infer(spectra: Spectra, trained: Trained | None, settings: Settings, progress: Progress = silent) -> Inferred:
    """Run one method on the target frames."""
    problem, found = build_problem(spectra, trained, settings)
    problem, fit, moments, candidates = _infer(problem, trained, settings, progress)
    found_sources = _sources(problem, problem.hyper, moments, candidates)
    skip = len(found_sources.p_music) - len(spectra.target)  # a stacked method's speech frames come first
    found_sources = jax.tree.map(lambda a: np.asarray(a)[skip:], found_sources)
    gain = np.asarray(moments.gain.mean)[skip:]
    return Inferred(found_sources, np.asarray(moments.filter.mean), gain, fit, found and found.period)


def _infer(
    problem: JingleMixture, trained: Trained | None, settings: Settings, progress: Progress
) -> tuple[JingleMixture, Fit, Blocks, Any]:
    """The problem with what was learned of its priors, the run, moments of the blocks, candidates."""
    templates = trained.templates if trained is not None and settings.method != "unsupervised" else None
    if settings.method == "svi":
        return problem, *_run_svi(problem, templates, settings, progress)
    readings = readings_for(settings, has_latent=bool(problem.latent.any()))
    fit = _run(problem, readings, settings, templates, settings.method, settings.sweeps, progress)
    return dataclasses.replace(problem, hyper=fit.state.hyper), fit, fit.state.moments, fit.state.candidates


def predictive_score(
    mixture: Float[np.ndarray, "C N"],
    sample_rate: int,
    known: Known,
    settings: Settings = Settings(),
    *,
    held_out: float = 0.1,
    progress: Progress = silent,
) -> float:
    """How well a method foretells bins of the mixture that it has not seen: for choosing a method or the number of bases.

    A share `held_out` of all bins of the mixed frames, drawn with the seed, is hidden from inference, and from the search for
    repeats; all that is seen of them is what they add to the level of the recording. Returns their mean log predictive density
    (`sources.log_predictive`); higher is better. Comparable between methods and numbers of bases on one recording at one
    `level`, `held_out` and seed.

    Raises:
        UserError: as `separate`, and where `held_out` is not between 0 and 1.
    """
    if not 0 < held_out < 1:
        raise UserError(f"held_out is {held_out}, but must be between 0 and 1: it is the share of bins that are hidden.")
    spectra = analyse(mixture, sample_rate, known, settings)[1].spectra
    trained = None
    if METHODS[settings.method].needs_speech:
        require(spectra.speech, "speech")
        trained = train_templates(spectra.speech, settings, progress)
    x = spectra.target
    hidden = np.random.default_rng(settings.seed).random(x.shape) < held_out
    if not hidden.any():
        raise UserError(f"held_out is {held_out}: none of the {x.size} bins is hidden.")
    # What a hidden bin holds takes no part in inference, but start values and repeats are read off all bins.
    known_mean = (x * ~hidden).sum(0) / np.maximum((~hidden).sum(0), 1)
    seen = spectra._replace(target=np.where(hidden, known_mean[None, :], x).astype(np.float32))
    problem, _ = build_problem(seen, trained, settings, (~hidden).astype(np.float32))
    problem, _, moments, candidates = _infer(problem, trained, settings, progress)
    stacked = np.asarray(problem.frames.x)[: len(problem.frames.x) - len(x)]
    truth = problem.frames._replace(x=jnp.asarray(np.concatenate([stacked, x])))
    return float(_predictive(dataclasses.replace(problem, frames=truth), moments, candidates))


@jax.jit
def _predictive(problem: JingleMixture, moments: Blocks, candidates: Any) -> jax.Array:
    rho = conditionals.local(problem, problem.hyper, moments, candidates).responsibility
    everywhere = entries.scatter_candidates(rho, candidates, problem.catalogue.shape[0], 0.0)
    return sources.log_predictive(problem, moments, everywhere)


def _run_svi(
    problem: JingleMixture, templates: Gamma | None, settings: Settings, progress: Progress
) -> tuple[Fit, Blocks, Any]:
    """Gradient steps on the same problem as a NumPyro program, with a Gamma guide; `SVI_STEPS` a sweep of the settings.

    They are taken in `_SVI_PARTS` parts, before each of which the candidates of a long catalogue are chosen anew.
    """
    key_start, *keys = jax.random.split(jax.random.key(settings.seed), 1 + _SVI_PARTS)
    posterior = _initial(key_start, problem, n_bases=settings.bases, templates=templates)
    choices = programs.choose(problem, n_bases=settings.bases)
    start = svi.GammaGuide.start(programs.sites(problem, posterior, choices))
    part = -(-SVI_STEPS * settings.sweeps // _SVI_PARTS)
    steps = part * _SVI_PARTS
    guide, optimizer = svi.GammaGuide(programs.jingle_mixture), svi.adam(steps=steps)

    def algorithm(candidates):
        return svi.svi(
            programs.jingle_mixture, guide, problem, candidates, start=start, optimizer=optimizer, choices=choices
        )

    moments = _moments_of_start(problem, posterior)
    candidates, fit, trace = None, None, np.zeros(0, np.float32)
    if problem.candidates is not None:
        anyone = jnp.arange(problem.candidates)[None, :]
        candidates = jnp.broadcast_to(anyone, (len(problem.frames.x), problem.candidates))
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
        trace = np.append(trace, fit.trace)
        moments = _moments_of_svi(algorithm(candidates), problem, fit.state, choices)
    assert fit is not None, "there is at least one part"
    # Steps are tiny by now: the last estimates are all of one bound.
    fit = fit._replace(trace=jnp.asarray(np.append(trace, trace[-10:].mean())), converged=True, steps=steps)
    return fit, moments, candidates


@partial(jax.jit, static_argnames="choices")
def _moments_of_svi(algorithm: loop.Algorithm, problem: JingleMixture, state: Any, choices: programs.Choices) -> Blocks:
    return programs.moments(problem, svi.posterior(algorithm, state), choices)


@jax.jit
def _moments_of_start(problem: JingleMixture, posterior: Blocks) -> Blocks:
    names = Blocks._fields
    return Blocks(*(jingle_mixture.read(problem, n, q, "mean") for n, q in zip(names, posterior, strict=True)))


def fit_problem(problem: JingleMixture, trained: Trained | None, settings: Settings, sweeps: int | None = None) -> Fit:
    """Fit a problem that was put together elsewhere (`sources_of` reads it)."""
    templates = None if trained is None else trained.templates
    readings = readings_for(settings, has_latent=bool(problem.latent.any()))
    return _run(problem, readings, settings, templates, "", sweeps or settings.sweeps, silent)


def sources_of(problem: JingleMixture, fit: Fit) -> sources.Sources:
    """Sources of a fitted problem, as numpy arrays."""
    found = _sources(problem, fit.state.hyper, fit.state.moments, fit.state.candidates)
    return jax.tree.map(np.asarray, found)


def readings_for(settings: Settings, *, has_latent: bool) -> Blocks:
    """How the method reads each block on the mixture."""
    method = METHODS[settings.method]
    own = method.excitations
    return Blocks(
        templates=method.templates,
        excitations=own,
        filter="mode" if settings.filter_shape is None else own,
        gain="mode" if settings.gain_shape is None else own,
        catalogue=own if has_latent else "fixed",
    )


_sources = jax.jit(sources.sources)
_choose = jax.jit(conditionals.choose_candidates, static_argnums=3)
_initial = jax.jit(jingle_mixture.initial, static_argnames="n_bases")


# --- from waveforms to waveforms ------------------------------------------------------------------------------------


def separate(
    mixture: Float[np.ndarray, "C N"],
    sample_rate: int,
    known: Known,
    settings: Settings = Settings(),
    *,
    progress: Progress = silent,
    trained: Trained | None = None,
) -> Separation:
    """Take speech and music apart.

    Args:
        mixture: float waveform, every channel of it; the stems have its shape, and sum to it exactly.
        sample_rate: in Hz.
        known: training speech, music to look for, labels; all at `sample_rate`.
        settings: method and numbers.
        progress: called now and then.
        trained: templates from an earlier call with the same training material, to save the training.

    Raises:
        UserError: nothing is known of the speech or of the music, or it is silent.
    """
    started = time.perf_counter()
    spectrum, plan = analyse(mixture, sample_rate, known, settings)
    if METHODS[settings.method].needs_speech:
        require(plan.spectra.speech, "speech")
        if trained is None:
            trained = train_templates(plan.spectra.speech, settings, progress)
    inferred = infer(plan.spectra, trained, settings, progress)
    return _assemble(mixture, spectrum, sample_rate, plan, inferred, settings, started)


def _assemble(mixture, spectrum, sample_rate, plan: Plan, inferred: Inferred, settings, started) -> Separation:
    """Masks of all frames, stems, labels."""
    given, x = plan.given, plan.spectra.target
    mask, std, p_music = settled(given, plan.n_bins)
    gain = np.full(len(given.target), np.nan, np.float32)
    safe = np.maximum(x, 1e-9)
    mask[given.target] = np.where(x > 0, inferred.sources.speech / safe, 1.0)
    std[given.target] = np.sqrt(inferred.sources.variance) / safe
    p_music[given.target] = inferred.sources.p_music
    gain[given.target] = inferred.gain

    window = stft_for_rate(sample_rate)
    magnitudes = np.abs(spectrum).mean(0)
    full = extend_mask(mask, magnitudes, spectrum.shape[2])
    masked = jnp.asarray(spectrum * full[None].astype(np.float32))
    speech = np.asarray(istft(masked, window, mixture.shape[1]), np.float32)
    labels = label_frames(given, p_music, mask, magnitudes)
    duration = mixture.shape[1] / sample_rate
    return Separation(
        speech=speech,
        music=mixture - speech,
        times=plan.times,
        frequencies=bin_frequencies(window, sample_rate)[: plan.n_bins],
        mask=mask,
        mask_std=std,
        p_music=p_music,
        filter=inferred.filter,
        gain=gain,
        segments=from_frames(labels, plan.times, duration, min_duration=0.3),
        trace=np.asarray(inferred.fit.trace),
        bound=float(inferred.fit.trace[-1]),
        converged=inferred.fit.converged,
        steps=inferred.fit.steps,
        seconds=time.perf_counter() - started,
        period=None if inferred.period is None else inferred.period * window.hop / sample_rate,
        settings=settings,
    )
