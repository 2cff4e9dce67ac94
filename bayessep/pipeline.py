"""Separation of one recording, from waveforms to waveforms, with any of the Bayesian methods (`bayessep.separators`).

The methods share these steps:

1. magnitudes of mixture, training speech and labelled music, up to `Settings.max_frequency`, scaled to a common level;
2. speech templates from the training speech, by Gamma-Poisson NMF;
3. a catalogue from the labelled music; with `Settings.chain` it is played in order, and if repeats of it are found in the
   mixture, the unlabelled part of the period is added as latent entries (`bayessep.repetition`);
4. inference on the mixed frames, and the posterior share of speech in each bin as a mask on the complex mixture.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float

from bayessep.errors import UserError
from bayessep.preparation import (
    Known,
    Plan,
    full_mask,
    label_frames,
    prepare,
    settled,
    share_std,
    speech_share,
    unsettled,
    window_of,
    without_faint,
)
from bayessep.separators import Posterior, Progress, Trained, infer, score_hidden, silent, train
from bayessep.settings import Settings
from bayessep.stft import Stft, bin_frequencies, istft, stft
from bayessep.tempering import Tempering, interval, tempered_std
from bayessep.timeline import Segment, complete
from bayessep.waveforms import check_mixture


class Separation(NamedTuple):
    """Stems, and their posterior, frame by frame at `times`."""

    speech: Float[np.ndarray, "C N"]
    music: Float[np.ndarray, "C N"]  # exactly the mixture minus the speech
    times: Float[np.ndarray, " T"]  # seconds
    frequencies: Float[np.ndarray, " F"]  # Hz, of the mask and of the filter
    mask: Float[np.ndarray, "T F"]  # posterior mean share of speech
    mask_std: Float[np.ndarray, "T F"]  # standard deviation of the true share (`tempering`); 0 where labels settle it
    p_music: Float[np.ndarray, " T"]
    filter: Float[np.ndarray, " F"]
    gain: Float[np.ndarray, " T"]  # NaN in frames that were not inferred
    segments: list[Segment]  # the labels given, completed by the model's where there were none
    trace: Float[np.ndarray, " steps"]  # objective that each step reports: evidence lower bound, for icm the log posterior
    bound: float  # last value of `trace`
    converged: bool
    steps: int
    seconds: float
    period: float | None  # of the repeating music in seconds, if one was found
    notes: tuple[str, ...]  # for the user: what was expected but not done
    settings: Settings
    posterior: Posterior
    target: Bool[np.ndarray, " T"]  # the inferred frames; all others are settled by labels

    def interval(self, level: float) -> tuple[Float[np.ndarray, "T F"], Float[np.ndarray, "T F"]]:
        """Return the central interval of the true share with probability `level` per bin; a point where nothing is left open.

        That is where labels settle the share, and where the frame passes as speech (`preparation.passed`).
        """
        low, high = interval(self.mask, self.mask_std, level, tempering(self.settings))
        inferred = unsettled(self.mask, self.target, self.settings.faint)[:, None]
        return np.where(inferred, low, self.mask), np.where(inferred, high, self.mask)

    def uncertainty(self, magnitude: Float[np.ndarray, "T F"]) -> dict[str, Float[np.ndarray, " T"]]:
        """Return the relative standard deviation of each stem's magnitude, frame by frame."""
        return relative_spread(self.mask, self.mask_std, magnitude)


def relative_spread(
    mask: Float[np.ndarray, "T F"], std: Float[np.ndarray, "T F"], magnitude: Float[np.ndarray, "T F"]
) -> dict[str, Float[np.ndarray, " T"]]:
    """Return the relative standard deviation of each stem's magnitude per frame, given that of the mask."""
    spread = np.sqrt(((std * magnitude) ** 2).sum(1))
    shares = {"speech": mask, "music": 1 - mask}
    return {k: spread / np.maximum(np.sqrt(((m * magnitude) ** 2).sum(1)), 1e-9) for k, m in shares.items()}


def mask_std(
    mask: Float[np.ndarray, "T F"], own: Float[np.ndarray, "T F"], inferred: Bool[np.ndarray, " T"], settings: Settings
) -> Float[np.ndarray, "T F"]:
    """Return the standard deviation of a mask: tempered, or the posterior's `own`; 0 where nothing is open (`unsettled`)."""
    temper = tempering(settings)
    std = own if temper is None else tempered_std(mask, temper)
    return np.where(unsettled(mask, inferred, settings.faint)[:, None], std, 0)


def tempering(settings: Settings) -> Tempering | None:
    """Return how uncertainty is tempered, or None to take it from the posterior as it is."""
    return None if settings.spread is None else Tempering(settings.temperature, settings.spread)


def analyse(
    mixture: Float[np.ndarray, "C N"], sample_rate: int, known: Known, settings: Settings
) -> tuple[Complex[np.ndarray, "C T K"], Plan]:
    """Compute the full spectrogram of the mixture and the plan of what to infer.

    Raises UserError if nothing is left to infer or the mixture is not of shape (C, N), and as `prepare` does.
    """
    check_mixture(mixture)
    window = window_of(settings, sample_rate)
    spectrum = np.asarray(stft(jnp.asarray(mixture, jnp.float32), window))
    limits = {name: getattr(settings, name) for name in ("max_frequency", "level", "p_music")}
    plan = prepare(spectrum, window, sample_rate, known, **limits)
    if not plan.spectra.target.any():
        raise UserError("nothing is left to separate: the mixture is silent, or labelled as pure speech or music throughout.")
    return spectrum, plan


def separate(
    mixture: Float[np.ndarray, "C N"],
    sample_rate: int,
    known: Known,
    settings: Settings = Settings(),
    *,
    progress: Progress = silent,
    trained: Trained | None = None,
) -> Separation:
    """Separate speech and music.

    Args:
        mixture: float waveform with all channels; the stems have its shape and sum to it up to rounding.
        sample_rate: in Hz.
        known: training speech, music to look for, labels; all at `sample_rate`.
        settings: the method and its parameters.
        progress: called now and then.
        trained: templates trained on the same material, ``separators.train(analyse(…)[1].spectra.speech, settings)``, to train
            only once for several mixtures or methods; only ``joint`` then still needs speech in `known`.

    Raises:
        UserError: examples of speech or music are missing or silent, or some samples are NaN or infinite.
    """
    started = time.perf_counter()
    spectrum, plan = analyse(mixture, sample_rate, known, settings)
    if trained is None:
        trained = train(plan.spectra.speech, settings, progress)
    found = take_apart(mixture, sample_rate, spectrum, plan, trained, settings, labels=known.labels or (), progress=progress)
    return found._replace(seconds=time.perf_counter() - started)


def predictive_score(
    mixture: Float[np.ndarray, "C N"],
    sample_rate: int,
    known: Known,
    settings: Settings = Settings(),
    *,
    held_out: float = 0.1,
    progress: Progress = silent,
) -> float:
    """Return a method's log predictive density of held-out bins, for choosing a method or the number of bases; higher is better.

    A random share `held_out` of all bins of the mixed frames, drawn with the seed, is hidden from inference and from the search
    for repeats; they affect only the level of the recording. The result is their mean (`sources.log_predictive`). It is comparable
    between methods and numbers of bases on one recording at the same `level`, `held_out` and seed.

    Raises:
        UserError: as `separate`, or `held_out` is not between 0 and 1.
    """
    if not 0 < held_out < 1:
        raise UserError(f"held_out is {held_out}, but must be between 0 and 1: it is the share of bins that are hidden.")
    spectra = analyse(mixture, sample_rate, known, settings)[1].spectra
    trained = train(spectra.speech, settings, progress)
    hidden = np.random.default_rng(settings.seed).random(spectra.target.shape) < held_out
    if not hidden.any():
        raise UserError(f"held_out is {held_out}: none of the {hidden.size} bins is hidden.")
    return score_hidden(spectra, trained, settings, hidden, progress)


def take_apart(
    mixture: Float[np.ndarray, "C N"],
    sample_rate: int,
    spectrum: Complex[np.ndarray, "C T K"],
    plan: Plan,
    trained: Trained | None,
    settings: Settings,
    *,
    labels: Sequence[Segment] = (),
    progress: Progress = silent,
) -> Separation:
    """Infer the frames that a plan leaves open, and make stems and labels; given `labels` are kept, the model labels the rest."""
    started = time.perf_counter()
    inferred = infer(plan.spectra, trained, settings, progress)
    given, x = plan.given, plan.spectra.target
    mask, own, p_music = settled(given, plan.n_bins)
    gain = np.full(len(given.target), np.nan, np.float32)
    mask[given.target] = speech_share(inferred.sources.speech, x)
    window, magnitudes = window_of(settings, sample_rate), np.abs(spectrum).mean(0)
    mask = without_faint(mask, magnitudes[:, : plan.n_bins], given, sample_rate / window.hop, settings.faint)
    own[given.target] = share_std(inferred.sources.variance, x)
    p_music[given.target] = inferred.sources.p_music
    gain[given.target] = inferred.gain

    speech = masked(spectrum, mask, window, mixture.shape[1], settings.mask_power)
    heard = label_frames(p_music, mask, magnitudes, sample_rate / window.hop)
    duration = mixture.shape[1] / sample_rate
    period = None if inferred.period is None else inferred.period * window.hop / sample_rate
    notes = ()
    if inferred.period is not None and not settings.holds(inferred.period):
        period_of = f"the music repeats every {period:.1f} s ({inferred.period} frames), which is too long to complete"
        notes = (f"{period_of}: only the music that was given is used; --max-catalogue N allows more.",)
    return Separation(
        speech=speech,
        music=mixture - speech,
        times=plan.times,
        frequencies=bin_frequencies(window, sample_rate)[: plan.n_bins],
        mask=mask,
        mask_std=mask_std(mask, own, given.target, settings),
        p_music=p_music,
        filter=inferred.filter,
        gain=gain,
        segments=complete(labels, heard, plan.times, duration, min_duration=0.3),
        trace=np.asarray(inferred.fit.trace),
        bound=float(inferred.fit.trace[-1]),
        converged=inferred.fit.converged,
        steps=inferred.fit.steps,
        seconds=time.perf_counter() - started,
        period=period,
        notes=notes,
        settings=settings,
        posterior=inferred.posterior,
        target=given.target,
    )


def masked(
    spectrum: Complex[np.ndarray, "C T K"], mask: Float[np.ndarray, "T F"], window: Stft, length: int, power: float
) -> Float[np.ndarray, "C N"]:
    """Apply a mask of the modelled bins to a spectrogram (`preparation.full_mask`) and return the waveform."""
    full = full_mask(mask, power, np.abs(spectrum).mean(0), spectrum.shape[2])
    return np.asarray(istft(jnp.asarray(spectrum * full[None]), window, length), np.float32)
