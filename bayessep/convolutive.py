"""Convolutive NMF on speech and music: templates of 20 frames from examples of both, and recordings taken apart by them.

What paper 004 compares its network with (`models.convolutive_nmf`), given what the Bayesian methods are given: examples of the
speech, of the music, and labels. A learned one is a `neural.Windowed`: recordings of any length go through it in windows.
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
    """How to separate by templates of several frames.

    Attributes:
        templates: of each source; no more than there are windows to learn from. The paper has 1500, of fifty songs.
        frames: of a template.
        training_sweeps: multiplicative updates of the templates.
        sweeps: of the activations in the mixture, the templates being kept.
        alpha: above which mean share a cell is the speech's (equation 1 of paper 004); None shares each cell.
        overlap: of one frame of the spectrogram with the next.
        max_frequency: bins above (Hz) follow the mask of the highest modelled band.
        seed: of the start of both.

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
        """What it has in common with the Bayesian methods; `Settings` checks it."""
        return Settings(overlap=self.overlap, max_frequency=self.max_frequency, seed=self.seed)


MOST_WINDOWS = 2000
"""About as many windows of a source are learned from: they are held at once."""


class Templates(NamedTuple):
    """Of both sources, at one sample rate: a `neural.Windowed`."""

    speech: Float[Array, "K D"]
    music: Float[Array, "J D"]
    bins: int  # that are modelled
    labels: tuple[Segment, ...] | None
    sample_rate: int
    config: Convolutive

    @property
    def stft(self) -> Stft:
        """Of which masks are made."""
        return stft_for_rate(self.sample_rate, overlap=self.config.overlap)

    @property
    def hop(self) -> int:
        """Of the spectrogram."""
        return self.stft.hop

    @property
    def context(self) -> int:
        """A cell depends on as many frames to each side as a template has, less one, and a sample on those it lies in."""
        return (self.config.frames - 1) * self.hop + self.stft.n_fft

    def level(self, power: float, peak: float) -> float:
        """Shares do not depend on the scale; of one near 1, no float32 is too small."""
        del power
        return peak

    def predict(self, x: Float[np.ndarray, "C N"], length: int, begin: int) -> Float[np.ndarray, "C 2 N"]:
        """Speech and music of a window; every channel has one mask, and labels settle what they label."""
        spectrum = np.asarray(stft(jnp.asarray(x), self.stft))
        times = frame_times(spectrum.shape[1], self.stft, self.sample_rate) + begin / self.sample_rate
        given = preparation.read_labels(self.labels, times, self.config.common.p_music)
        mask, _, _ = preparation.settled(given, self.bins)
        heard = frame_count(length, self.stft)  # beyond its end, fewer windows cover a cell
        rows = np.flatnonzero(given.target[:heard])
        if len(rows):
            mask[rows] = self.mask_of(np.abs(spectrum).mean(0)[:heard, : self.bins])[rows]
        mask[heard:] = mask[heard - 1]  # frames that share its last samples
        speech = masked(spectrum, mask, self.stft, x.shape[1], 1.0)
        return np.stack([speech, x - speech], axis=1)

    def mask_of(self, magnitude: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T F"]:
        """The speech's mean share of each cell, or where it is above alpha."""
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
    """Templates of magnitudes of both; a window begins with each frame, or with fewer where there are many.

    Raises:
        UserError: there is nothing to learn one of them from.
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
    """Templates from what is known of a mixture that is held.

    Raises:
        UserError: as `pipeline.analyse` and `learn`.
    """
    _, plan = analyse(mixture, sample_rate, known, config.common)
    return learn(plan.spectra.speech, plan.spectra.music, sample_rate, known.labels, config, progress)


def learn_of_file(path: Path, known: Known, config: Convolutive, progress: Progress = silent) -> Templates:
    """The same of a mixture in a file of any length.

    Raises:
        UserError: as `audio.read` and `learn`.
    """
    rate = audio.probe(path).sample_rate
    window = preparation.window_of(config.common, rate)
    bins = preparation.modelled_bins(window, rate, min(config.max_frequency, known.bandwidth))
    _, speech, parts = streaming.material(path, rate, known, window, bins, config.common.p_music)
    return learn(speech, preparation.joined(parts, bins)[0], rate, known.labels, config, progress)
