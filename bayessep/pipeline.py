"""Separation of one recording: waveforms in, waveforms out, with any of the Bayesian methods (`bayessep.separators`).

What the methods share:

1. magnitudes of mixture, training speech and labelled music, up to `Settings.max_frequency`, scaled to a common level;
2. speech templates from the training speech, by Gamma-Poisson NMF;
3. a catalogue from the labelled music; with `Settings.chain` it is played in order, and where its repeats are found in the
   mixture, the part of the period that nobody labelled is added as latent entries (`bayessep.repetition`);
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
    passed,
    prepare,
    settled,
    speech_share,
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
    """Stems and what the posterior says about them. Frames are those of `times`."""

    speech: Float[np.ndarray, "C N"]
    music: Float[np.ndarray, "C N"]  # exactly the mixture less the speech
    times: Float[np.ndarray, " T"]  # seconds
    frequencies: Float[np.ndarray, " F"]  # Hz, of the mask and of the filter
    mask: Float[np.ndarray, "T F"]  # posterior mean share of speech
    mask_std: Float[np.ndarray, "T F"]  # standard deviation of the true share (`tempering`); 0 where labels settle it
    p_music: Float[np.ndarray, " T"]
    filter: Float[np.ndarray, " F"]
    gain: Float[np.ndarray, " T"]  # NaN where the model did not look
    segments: list[Segment]  # the labels given, and the model's where none were
    trace: Float[np.ndarray, " steps"]
    bound: float  # its last value; for icm, of the log posterior
    converged: bool
    steps: int
    seconds: float
    period: float | None  # of the repeating music, in seconds, where one was found
    notes: tuple[str, ...]  # what the user may have expected and did not get
    settings: Settings
    posterior: Posterior
    target: Bool[np.ndarray, " T"]  # the frames that it speaks of; all others are settled by labels

    def interval(self, level: float) -> tuple[Float[np.ndarray, "T F"], Float[np.ndarray, "T F"]]:
        """Between which shares the true one lies with probability `level`, bin by bin; one point where labels settle it."""
        low, high = interval(self.mask, self.mask_std, level, tempering(self.settings))
        inferred = self.target[:, None]
        return np.where(inferred, low, self.mask), np.where(inferred, high, self.mask)

    def uncertainty(self, magnitude: Float[np.ndarray, "T F"]) -> dict[str, Float[np.ndarray, " T"]]:
        """Relative standard deviation of each stem's magnitude, frame by frame."""
        return relative_spread(self.mask, self.mask_std, magnitude)


def relative_spread(
    mask: Float[np.ndarray, "T F"], std: Float[np.ndarray, "T F"], magnitude: Float[np.ndarray, "T F"]
) -> dict[str, Float[np.ndarray, " T"]]:
    """Standard deviation of each stem's magnitude in a frame, relative to it, from that of the mask."""
    spread = np.sqrt(((std * magnitude) ** 2).sum(1))
    shares = {"speech": mask, "music": 1 - mask}
    return {k: spread / np.maximum(np.sqrt(((m * magnitude) ** 2).sum(1)), 1e-9) for k, m in shares.items()}


def tempering(settings: Settings) -> Tempering | None:
    """How uncertainty is read, if not as the posterior has it."""
    return None if settings.spread is None else Tempering(settings.temperature, settings.spread)


def analyse(
    mixture: Float[np.ndarray, "C N"], sample_rate: int, known: Known, settings: Settings
) -> tuple[Complex[np.ndarray, "C T K"], Plan]:
    """The spectrogram of the mixture, all bins of it, and what there is to infer.

    Raises UserError where that is nothing or the mixture is no (C, N), and as `prepare` does.
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
    """Take speech and music apart.

    Args:
        mixture: float waveform, every channel of it; the stems have its shape, and sum to it but for rounding.
        sample_rate: in Hz.
        known: training speech, music to look for, labels; all at `sample_rate`.
        settings: method and numbers.
        progress: called now and then.
        trained: templates of the same training material, to save the training for many mixtures or methods; `known` then needs
            speech for ``joint`` alone. They are ``separators.train(analyse(…)[1].spectra.speech, settings)``.

    Raises:
        UserError: nothing is known of the speech or of the music, or it is silent, or some samples are none.
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
    """Infer what a plan leaves open, and make stems and labels of it; `labels` stand as they are, the model's between them."""
    started = time.perf_counter()
    inferred = infer(plan.spectra, trained, settings, progress)
    given, x = plan.given, plan.spectra.target
    mask, std, p_music = settled(given, plan.n_bins)
    gain = np.full(len(given.target), np.nan, np.float32)
    mask[given.target] = speech_share(inferred.sources.speech, x)
    window, magnitudes = window_of(settings, sample_rate), np.abs(spectrum).mean(0)
    mask = without_faint(mask, magnitudes[:, : plan.n_bins], given, sample_rate / window.hop, settings.faint)
    own = np.sqrt(inferred.sources.variance) / np.maximum(x, 1e-9)
    std[given.target] = own if (temper := tempering(settings)) is None else tempered_std(mask[given.target], temper)
    std[passed(mask, settings.faint)] = 0
    p_music[given.target] = inferred.sources.p_music
    gain[given.target] = inferred.gain

    speech = masked(spectrum, mask, window, mixture.shape[1], settings.mask_power)
    heard = label_frames(p_music, mask, magnitudes, sample_rate / window.hop)
    duration = mixture.shape[1] / sample_rate
    period = None if inferred.period is None else inferred.period * window.hop / sample_rate
    notes = ()
    if inferred.period is not None and not settings.holds(inferred.period):
        frames = f"every {period:.1f} s, which are {inferred.period} frames"
        notes = (f"the music repeats {frames} and too long to complete: it is taken as given; --max-catalogue N takes more.",)
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
    """The waveform that a mask of the modelled bins takes out of a spectrogram (`preparation.full_mask`)."""
    full = full_mask(mask, power, np.abs(spectrum).mean(0), spectrum.shape[2])
    return np.asarray(istft(jnp.asarray(spectrum * full[None]), window, length), np.float32)
