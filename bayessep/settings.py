"""The separation methods and their settings."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

from bayessep.errors import UserError

if TYPE_CHECKING:  # it imports JAX, and options must be there at once
    from bayessep.gamma import Reading

SVI_STEPS = 5  # gradient steps of svi per sweep of the settings


class Method(NamedTuple):
    """One row of paper 000's table of methods."""

    trained: bool  # the templates' prior is their posterior on the training speech
    templates: Reading  # how the templates are read on the mixture; "fixed" keeps the trained ones
    excitations: Reading
    stacked: bool  # training speech and mixture share one inference
    summary: str
    unit: str = "sweeps"  # name of its steps

    @property
    def needs_speech(self) -> bool:
        """Whether the method requires training speech."""
        return self.trained or self.stacked


METHODS = {
    "nmf": Method(True, "fixed", "mean", False, "templates trained on the speech and kept"),
    "variational": Method(True, "mean", "mean", False, "trained templates as a prior, updated on the mixture"),
    "icm": Method(True, "log_mode", "mode", False, "as variational, by iterated conditional modes"),
    "joint": Method(False, "mean", "mean", True, "templates from speech and mixture at once"),
    "svi": Method(True, "mean", "mean", False, "as variational, by stochastic gradients (NumPyro)", "gradient steps"),
    "unsupervised": Method(False, "mean", "mean", False, "no training speech: templates from the mixture alone"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a separation; the defaults are those of the command line.

    Attributes:
        method: a key of `METHODS`.
        bases: number of speech templates, B.
        sweeps: maximum number of sweeps on the mixture (for svi, `SVI_STEPS` gradient steps each, rounded up to five equal parts).
        training_sweeps: maximum number of sweeps on the training speech.
        tolerance: a run has converged when its objective changes by at most this fraction of itself over 5 sweeps; it then
            stops, after at least 20 sweeps, and 5 after `warm_up`; svi takes all its steps.
        seed: of all randomness.
        level: mean scaled magnitude of the mixture: how many counts a bin is worth against the priors.
        overlap: of consecutive frames, as a fraction. A larger one makes it less critical that repeats of the music are not
            aligned with the frames.
        max_frequency: bins above (Hz) are not modelled; they follow the mask of the highest modelled band.
        chain: play the catalogue in order (left-to-right chain) rather than draw frames independently, as the paper does.
        complete: learn the unlabelled part of a repeating jingle (needs `chain` and a method other than ``unsupervised``).
        align: estimate prior means of the music's filter and gain where known music is played (needs `completes`).
        weigh: combine the repeats of the unlabelled part with what the labelled part suggests; otherwise take their median.
        entry_shape: shape of the Gamma prior of the unlabelled part's entries, centred on that estimate.
        warm_up: sweeps in which the unlabelled part stays at its start (at most half of all sweeps): otherwise it would learn as
            music what the speech templates have not explained yet.
        joint_weight: weight of the mixed frames in ``joint``: 1 is the paper's method, 0 learns from the speech alone.
        p_music: evidence for music in each unlabelled frame (the switch of `models.jingle_mixture`). One half adds nothing to
            the model's own prior, by which nine frames in ten have music.
        filter_shape: shape of the Gamma prior on each bin of the music's filter; None is flat, as in the paper. Its mean is 1
            (but see `align`).
        gain_shape: the same for the music's gain in each frame.
        candidates: catalogue entries kept per frame after pruning.
        max_catalogue: most catalogue frames; of longer music the first ones are used, and a period that does not fit is not
            completed.
        speech_shape: how closely a bin of speech is held to its templates when the sources are computed: shape of a Gamma prior;
            None holds it to them exactly, as in the paper.
        mask_power: stems share each bin in proportion to their magnitudes to this power: 1 as in the paper, 2 as a Wiener filter.
        faint: frames with doubtful P(music) whose inferred music lies more than this many decibels below the mixture become all
            speech; None: never.
        temperature: overconfidence of the model: log-odds are divided by this for uncertainties (`tempering`), not for the mask.
        spread: standard deviation of the true log-odds around the tempered ones; None takes the posterior's own uncertainty.
        log_modes: ``icm`` also takes the modes of log excitations and log music blocks, which exist for any prior.
        rule: q(r) by exact coordinate ascent, or as the paper prints it (then `chain` must be off; svi is always exact).
    """

    method: str = "variational"
    bases: int = 80
    sweeps: int = 40
    training_sweeps: int = 100
    tolerance: float = 1e-5
    seed: int = 0
    level: float = 2.0
    overlap: float = 0.75
    max_frequency: float = 8000.0
    chain: bool = True
    complete: bool = True
    align: bool = True
    weigh: bool = True
    entry_shape: float = 30.0
    warm_up: int = 20
    joint_weight: float = 1.0
    p_music: float = 0.5
    filter_shape: float | None = 30.0
    gain_shape: float | None = 30.0
    candidates: int = 8
    max_catalogue: int = 1000
    speech_shape: float | None = 0.3
    mask_power: float = 1.5
    faint: float | None = None
    temperature: float = 2.0
    spread: float | None = 2.4
    log_modes: bool = False
    rule: str = "exact"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"there is no method {self.method!r}; choose one of {', '.join(METHODS)}.")
        shapes = ("filter_shape", "gain_shape", "entry_shape", "speech_shape")
        for name in (*shapes, "mask_power", "faint", "temperature", "spread", "level", "max_frequency"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} is {value}, but must be above 0, and finite.")
        for name in ("tolerance", "joint_weight", "warm_up"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 0, and finite.")
        for name in ("bases", "sweeps", "training_sweeps", "candidates", "max_catalogue"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not 0.25 <= self.overlap < 1:
            raise UserError(f"overlap is {self.overlap}, but must be at least 0.25 and below 1: frames fade out at both ends.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, but must be at least 0 and below 2**32.")
        if not 0 < self.p_music <= 1:
            raise UserError(f"p_music is {self.p_music}, but must be above 0 and at most 1.")
        if self.rule == "printed" and self.chain:
            raise UserError("the printed rule is for independent frames; use --independent (chain=False).")

    def holds(self, period: int) -> bool:
        """Return whether the catalogue can hold a whole period: adding only part of the missing frames is worse than none."""
        return period <= self.max_catalogue

    @property
    def completes(self) -> bool:
        """Whether unlabelled parts of the music are learned; not if templates are free too, as nothing would tell them apart."""
        return self.chain and self.complete and self.method != "unsupervised"
