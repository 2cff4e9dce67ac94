"""Convolutive NMF of speech and music: learn templates of 20 frames from examples of both, and separate recordings with them.

The baseline of paper 004 (`models.convolutive_nmf`), with the input that the Bayesian methods get: examples of speech and of music,
and labels. Learned templates are a `neural.Windowed`, so recordings of any length are separated window by window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayessep import audio, preparation, streaming
from bayessep.errors import UserError
from bayessep.models import convolutive_nmf, deep_karaoke
from bayessep.pipeline import analyse, masked
from bayessep.preparation import Known
from bayessep.separators import Progress, silent
from bayessep.settings import Settings
from bayessep.stft import Stft, frame_count, frame_times, stft, stft_for_rate
from bayessep.timeline import Segment


@dataclass(frozen=True)
class Convolutive:
    """Settings of separation by convolutive NMF.

    Attributes:
        templates: number per source, limited by the number of training windows. The paper has 1500, from fifty songs.
        frames: number per template.
        training_sweeps: multiplicative updates of the templates.
        sweeps: multiplicative updates of the activations in the mixture, with fixed templates.
        alpha: threshold on the mean share above which a cell goes to the speech (equation 1 of paper 004); None gives a soft mask.
        overlap: of consecutive frames of the spectrogram.
        max_frequency: bins above (Hz) follow the mask of the highest modelled band.
        seed: of the random starts of training and separation.

    Raises:
        UserError: a number is out of range.
    """

    templates: int = 40
    frames: int = 20
    training_sweeps: int = 100
    sweeps: int = 50
    alpha: float | None = None
    overlap: float = 0.75
    max_frequency: float = 8000.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("templates", "frames", "training_sweeps", "sweeps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        deep_karaoke.check_alpha(self.alpha)
        if not 0 < self.max_frequency < math.inf:
            raise UserError(f"max_frequency is {self.max_frequency}, but must be above 0, and finite.")
        _ = self.common

    @property
    def common(self) -> Settings:
        """The settings shared with the Bayesian methods, which `Settings` validates."""
        return Settings(overlap=self.overlap, max_frequency=self.max_frequency, seed=self.seed)


MOST_WINDOWS = 2000
"""Approximate limit on the training windows of a source, which are all held in memory."""


class Templates(NamedTuple):
    """Learned templates of both sources at one sample rate; implements `neural.Windowed`."""

    speech: Float[Array, "K D"]
    music: Float[Array, "J D"]
    bins: int  # number of modelled bins
    labels: tuple[Segment, ...] | None
    sample_rate: int
    config: Convolutive

    @property
    def stft(self) -> Stft:
        """Settings of the spectrogram that is masked."""
        return stft_for_rate(self.sample_rate, overlap=self.config.overlap)

    @property
    def hop(self) -> int:
        """Hop of the spectrogram, in samples."""
        return self.stft.hop

    @property
    def context(self) -> int:
        """Samples of context on each side: a template's frames less one, which affect a cell's share, plus one STFT frame."""
        return (self.config.frames - 1) * self.hop + self.stft.n_fft

    def level(self, power: float, peak: float) -> float:
        """Normalise recordings to a peak of 1: shares do not depend on the scale, but near 1 nothing underflows in float32."""
        del power
        return peak

    def predict(self, x: Float[np.ndarray, "C N"], length: int, begin: int) -> Float[np.ndarray, "C 2 N"]:
        """Separate a window into speech and music, with one mask for all channels; labelled frames follow their labels."""
        spectrum = np.asarray(stft(jnp.asarray(x), self.stft))
        times = frame_times(spectrum.shape[1], self.stft, self.sample_rate) + begin / self.sample_rate
        given = preparation.read_labels(self.labels, times, self.config.common.p_music)
        mask, _, _ = preparation.settled(given, self.bins)
        heard = frame_count(length, self.stft)  # only frames of the recording: in padding behind it, fewer windows cover a cell
        rows = np.flatnonzero(given.target[:heard])
        if len(rows):
            mask[rows] = self.mask_of(np.abs(spectrum).mean(0)[:heard, : self.bins])[rows]
        mask[heard:] = mask[heard - 1]  # later frames overlap the recording's last samples
        speech = masked(spectrum, mask, self.stft, x.shape[1], 1.0)
        return np.stack([speech, x - speech], axis=1)

    def mask_of(self, magnitude: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T F"]:
        """Return the mean share of speech in each cell, thresholded at alpha if that is set."""
        c = self.config
        key = jax.random.fold_in(jax.random.key(c.seed), 2)
        mean = convolutive_nmf.averaged_shares(key, magnitude, self.speech, self.music, c.sweeps)
        return mean if c.alpha is None else np.asarray(deep_karaoke.thresholded(mean, c.alpha).vocal)


def learn(
    speech: Float[np.ndarray, "Ts F"],
    music: Float[np.ndarray, "Tm F"],
    sample_rate: int,
    labels: Sequence[Segment] | None,
    config: Convolutive,
    progress: Progress = silent,
) -> Templates:
    """Learn templates from magnitudes of both sources; the hop between windows is one frame, or more if there are many frames.

    The frames of several stretches are taken as consecutive, so some windows straddle two of them.

    Raises:
        UserError: there are no frames, or only silent ones, of one of the sources.
    """
    found = []
    for n, (name, frames) in enumerate((("speech", speech), ("music", music))):
        preparation.require(frames, name)
        windows = deep_karaoke.windows_of(frames, config.frames, max(1, len(frames) // MOST_WINDOWS))
        key = jax.random.fold_in(jax.random.key(config.seed), n)
        few = min(config.templates, len(windows))
        found.append(convolutive_nmf.fit(key, windows.reshape(len(windows), -1), few, config.training_sweeps))
        progress("training", n + 1, 2, float("nan"))
    return Templates(found[0], found[1], speech.shape[1], None if labels is None else tuple(labels), sample_rate, config)


def learn_of(
    mixture: Float[np.ndarray, "C N"], sample_rate: int, known: Known, config: Convolutive, progress: Progress = silent
) -> Templates:
    """Learn templates from what is known of a mixture in memory.

    Raises:
        UserError: as `pipeline.analyse` and `learn`.
    """
    _, plan = analyse(mixture, sample_rate, known, config.common)
    return learn(plan.spectra.speech, plan.spectra.music, sample_rate, known.labels, config, progress)


def learn_of_file(path: Path, known: Known, config: Convolutive, progress: Progress = silent) -> Templates:
    """Learn templates from what is known of a mixture in a file of any length.

    Raises:
        UserError: as `audio.read` and `learn`.
    """
    rate = audio.probe(path).sample_rate
    window = preparation.window_of(config.common, rate)
    bins = preparation.modelled_bins(window, rate, min(config.max_frequency, known.bandwidth))
    _, speech, parts = streaming.material(path, rate, known, window, bins, config.common.p_music)
    return learn(speech, preparation.joined(parts, bins)[0], rate, known.labels, config, progress)
