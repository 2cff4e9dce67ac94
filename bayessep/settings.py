"""The methods of separation, and the numbers that one can choose."""

import dataclasses
import math
from typing import NamedTuple

from bayessep.errors import UserError
from bayessep.gamma import Reading

SVI_STEPS = 5  # gradient steps for each sweep of the settings


class Method(NamedTuple):
    """One row of paper 000's table of methods."""

    trained: bool  # the templates' prior is their posterior on the training speech
    templates: Reading  # how the templates are read on the mixture; "fixed" keeps the trained ones
    excitations: Reading
    stacked: bool  # training speech and mixture share one inference
    summary: str
    unit: str = "sweeps"  # what its steps are

    @property
    def needs_speech(self) -> bool:
        """Whether there must be training speech."""
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
    """How to separate. The defaults are those of the command line.

    Attributes:
        method: a key of `METHODS`.
        bases: number of speech templates, B.
        sweeps: most sweeps on the mixture (for svi, `SVI_STEPS` gradient steps each, rounded up to five equal parts).
        training_sweeps: most sweeps on the training speech.
        tolerance: a run has converged when its objective changes by no more than this share of itself over 5 sweeps; it then
            stops, after 20 sweeps at least; svi takes all its steps.
        seed: of all randomness.
        level: mean scaled magnitude of the mixture: how many counts a bin is worth against the priors.
        overlap: of one frame with the next, as a share. The more, the less it matters that music falls out of step with them.
        max_frequency: bins above (Hz) are not modelled; they follow the mask of the highest modelled band.
        chain: play the catalogue in order (left-to-right chain) rather than draw frames independently, as the paper does.
        complete: learn the part of a repeating jingle that nobody labelled (needs `chain` and speech to learn from).
        align: take prior means of the music's filter and gain from the places where known music is played (needs `completes`).
        weigh: weigh what repeats of the unlabelled part say against what the labelled part lets one expect; or take their median.
        entry_shape: shape of the Gamma prior of what is learned so, around that.
        warm_up: sweeps in which the unlabelled part stays as it starts (half of all, if there are fewer than twice as many): what
            speech has not explained yet would be learned as music.
        joint_weight: weight of the mixed frames in ``joint``: 1 is the paper's method, 0 learns from the speech alone.
        p_music: what speaks for music in each frame where nothing is labelled (the switch of `models.jingle_mixture`). Half: no
            more than the model's own prior, by which nine frames of ten have music.
        filter_shape: shape of the Gamma prior on each bin of the music's filter; None is flat, as in the paper. Its mean is 1
            (see `align`).
        gain_shape: the same of the music's gain in each frame.
        candidates: catalogue entries kept for a frame after pruning.
        max_catalogue: catalogue frames at most; of longer music, the first are used, and nothing that does not fit is completed.
        speech_shape: how closely a bin of speech is held to its templates when the sources are read: shape of a Gamma prior; None
            holds it fast, as in the paper.
        mask_power: stems share each bin by their magnitudes to this power: 1 as in the paper, 2 as a Wiener filter.
        faint: where P(music) is in doubt and the music inferred is so many decibels below the mixture, all is speech; None: never.
        temperature: how many times too sure the model is of a bin: its log-odds are divided by this where uncertainty is read
            (`tempering`); the mask itself stays.
        spread: standard deviation of the true log-odds around these; None leaves the posterior as sure as it is.
        log_modes: ``icm`` takes the modes of the logarithms of excitations and music, too, which any prior has, and not their own.
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
            raise UserError("the printed rule of q(r) is for independent frames; switch the chain off.")

    def holds(self, period: int) -> bool:
        """Whether the catalogue may hold so many frames: a part of what is missing would be worse than none of it."""
        return period <= self.max_catalogue

    @property
    def completes(self) -> bool:
        """Whether unlabelled parts of the music are learned. Free entries beside free templates: nothing tells which is music."""
        return self.chain and self.complete and self.method != "unsupervised"
