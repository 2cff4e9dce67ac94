"""Point estimates of the sources, by networks, convolutive NMF or ideal masks, for comparison with the Bayesian methods."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import baselines, convolutive, neural
from bayessep.convolutive import Convolutive
from bayessep.downmix import to_mono
from bayessep.errors import UserError
from bayessep.neural import Stems, Windowed
from bayessep.pipeline import masked
from bayessep.preparation import Known, magnitude, speech_share
from bayessep.separators import Progress
from bayessep.stft import bin_frequencies, frame_times, stft, stft_for_rate

Mixture = Float[np.ndarray, "C N"]
Estimator = Callable[[Mixture, int, Progress], Stems]
"""Function of a mixture, its sample rate and a progress callback, to stems that sum to the mixture."""

ORACLES = {
    "ideal-binary-mask": "Each spectrogram cell goes to the truly louder source: an upper limit for binary masks",
    "ideal-ratio-mask": "Each spectrogram cell is split like the true magnitudes: an upper limit for masks between 0 and 1",
}
"""Ideal masks, computed from the true sources: upper limits for the other methods."""
SUMMARIES = {
    "conv-nmf": "Non-negative templates of 20 frames of both sources, learned from examples (paper 004)",
    "conv-tasnet": "Masks on a filter bank that was learned with them, by dilated convolutions (paper 001)",
    "blstm-mask": "A mask of the spectrogram by recurrent layers that read it in both directions (paper 001)",
    "deep-karaoke": "A mask of the spectrogram by one wide layer that was trained on songs (paper 004)",
    "idempotent-masker": "A mask that leaves music alone, learned from songs and unmatched music without vocals (paper 002)",
} | ORACLES
"""One-line descriptions of the estimators."""


class Estimate(NamedTuple):
    """Both stems, and the mask that they imply: the share of the speech in the sum of both magnitudes."""

    speech: Mixture
    music: Mixture
    times: Float[np.ndarray, " T"]  # seconds
    frequencies: Float[np.ndarray, " F"]  # Hz
    mask: Float[np.ndarray, "T F"]
    seconds: float


def estimate_of(stems: Stems, sample_rate: int, seconds: float, top: float = 8000.0) -> Estimate:
    """Complete stems to an `Estimate`, with the implied mask up to `top` Hz."""
    window = stft_for_rate(sample_rate)
    frequencies = bin_frequencies(window, sample_rate)
    keep = frequencies <= top
    speech, music = (magnitude(stem, window).mean(0)[:, keep] for stem in stems)
    mask = speech_share(speech, speech + music)
    return Estimate(*stems, frame_times(len(mask), window, sample_rate), frequencies[keep], mask, seconds)


def by(separator: Windowed) -> Estimator:
    """Return the estimator of a trained network, or of anything else that separates window by window."""
    return lambda mixture, sample_rate, progress: neural.separate(mixture, sample_rate, separator, progress=progress)


def by_templates(known: Known, config: Convolutive = Convolutive()) -> Estimator:
    """Return the estimator by convolutive NMF, which first learns templates from what is known of the mixture."""

    def separate(mixture: Mixture, sample_rate: int, progress: Progress) -> Stems:
        learned = convolutive.learn_of(mixture, sample_rate, known, config, progress)
        return neural.separate(mixture, sample_rate, learned, progress=progress)

    return separate


def by_truth(name: str, references: Mapping[str, Float[np.ndarray, " N"]]) -> Estimator:
    """Return the estimator of one of `ORACLES`, from the true ``speech`` and ``music``.

    Raises:
        UserError: one of them is missing in `references`.
    """
    if missing := {"speech", "music"} - references.keys():
        raise UserError(f"{name} is computed from the true sources, and the {min(missing)} is not known: give its reference, too.")
    make, _ = baselines.MASKS[name.replace("-", " ")]

    def separate(mixture: Mixture, sample_rate: int, progress: Progress) -> Stems:
        del progress
        window = stft_for_rate(sample_rate)
        spectrum = np.asarray(stft(mixture, window))
        none = np.zeros(0, np.float32)
        problem = baselines.Problem(to_mono(mixture), (), none, references["speech"], references["music"], window, sample_rate)
        speech = masked(spectrum, make(problem, np.abs(spectrum).mean(0)), window, mixture.shape[1], 1.0)
        return Stems(speech, mixture - speech)

    return separate
