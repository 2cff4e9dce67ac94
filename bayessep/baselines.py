"""Baselines for comparison: common alternative separators, and ideal masks computed from the true sources.

scikit-learn and librosa are imported only on use; both come with the extra ``baselines``.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayessep import extras
from bayessep.pipeline import masked
from bayessep.preparation import magnitude, speech_share, stack
from bayessep.settings import Settings
from bayessep.stft import Stft, stft


class Problem(NamedTuple):
    """A mono mixture, what is known about it, and the true sources, which only ideal masks use."""

    mixture: Float[np.ndarray, " N"]
    training: tuple[np.ndarray, ...]  # speech for training
    labelled: Float[np.ndarray, " M"]  # the labelled music
    speech: Float[np.ndarray, " N"]
    music: Float[np.ndarray, " N"]
    stft: Stft
    sample_rate: int
    seed: int = 0


Mask = Float[np.ndarray, "T F"]


def separate(name: str, problem: Problem) -> Float[np.ndarray, " N"]:
    """Separate speech by one of `BASELINES` or `SHARPER`.

    Raises:
        UserError: the library that it uses is not installed.
    """
    if name == "mixture":
        return problem.mixture
    spectrum = np.asarray(stft(jnp.asarray(problem.mixture, jnp.float32), problem.stft))
    make, power = MASKS[name]
    mask = make(problem, np.abs(spectrum))
    return masked(spectrum[None], mask, problem.stft, len(problem.mixture), power)[0]


# --- ideal masks ---------------------------------------------------------------------------------------------------------


def _true_magnitudes(problem: Problem) -> tuple[Mask, Mask]:
    return magnitude(problem.speech, problem.stft), magnitude(problem.music, problem.stft)


def ideal_binary(problem: Problem, x: Mask) -> Mask:
    """1 where the true speech is louder than the true music."""
    speech, music = _true_magnitudes(problem)
    return (speech > music).astype(np.float32)


def ideal_ratio(problem: Problem, x: Mask) -> Mask:
    """Share of the true speech in the sum of both true magnitudes: the model's mask if both sources were known."""
    speech, music = _true_magnitudes(problem)
    return speech_share(speech, speech + music)


# --- alternatives --------------------------------------------------------------------------------------------------------

KL_SPEECH, KL_MUSIC = 40, 20
"""Number of templates in `kl_nmf`."""


def kl_nmf(problem: Problem, x: Mask) -> Mask:
    """scikit-learn's NMF with Kullback-Leibler loss; templates of the training speech and the labelled music are then fixed."""
    decomposition = extras.library("sklearn.decomposition", "baselines", package="scikit-learn")
    settings: dict[str, Any] = {"solver": "mu", "beta_loss": "kullback-leibler", "max_iter": 200, "tol": 1e-5}

    def learned(frames: Mask, n: int) -> Float[np.ndarray, "N F"]:
        few = min(n, len(frames))
        return decomposition.NMF(few, init="random", random_state=problem.seed, **settings).fit(frames + 1e-9).components_

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 200 iterations do not converge, but more do not separate better
        speech = learned(stack(problem.training, problem.stft, x.shape[1]), KL_SPEECH)
        music = learned(stack([problem.labelled], problem.stft, x.shape[1]), KL_MUSIC)
        templates = np.vstack([speech, music]).astype(np.float32)
        activity, *_ = decomposition.non_negative_factorization(
            x + np.float32(1e-9), H=templates, n_components=len(templates), update_H=False, init="custom", **settings
        )
    n = len(speech)
    of_speech, of_music = activity[:, :n] @ templates[:n], activity[:, n:] @ templates[n:]
    return speech_share(of_speech, of_speech + of_music)


def repet_sim(problem: Problem, x: Mask, margin: float = 10.0) -> Mask:
    """REPET-SIM as in librosa's documentation: what similar frames share is music, the rest is speech.

    The documentation's `margin` of 10 favours music: speech must be ten times as loud to share a bin equally; 1 treats both alike.
    """
    librosa = extras.library("librosa", "baselines")
    apart = int(2 * problem.sample_rate / problem.stft.hop)  # similar frames are at least two seconds apart
    repeating = librosa.decompose.nn_filter(x.T, aggregate=np.median, metric="cosine", width=min(apart, (len(x) - 1) // 2))
    repeating = np.minimum(x.T, repeating)
    return librosa.util.softmask(x.T - repeating, margin * repeating, power=2).T


def hpss(problem: Problem, x: Mask) -> Mask:
    """Median-filter HPSS (librosa), taking the percussive part, which is not steady, as speech."""
    librosa = extras.library("librosa", "baselines")
    return librosa.decompose.hpss(x.T, mask=True)[1].T


MASKS: dict[str, tuple[Callable[[Problem, Mask], Mask], float]] = {
    "ideal binary mask": (ideal_binary, 1.0),
    "ideal ratio mask": (ideal_ratio, 1.0),
    "KL-NMF": (kl_nmf, 1.0),
    "REPET-SIM": (repet_sim, 1.0),
    "HPSS": (hpss, 1.0),
    "ideal ratio mask, sharper": (ideal_ratio, Settings().mask_power),
    "KL-NMF, sharper": (kl_nmf, Settings().mask_power),
    "REPET-SIM, even margins": (partial(repet_sim, margin=1.0), 1.0),
}
"""Function and mask power (`preparation.sharpen`) of each baseline; sharper ones use the power of our methods."""

SHARPER = ("ideal ratio mask, sharper", "KL-NMF, sharper", "REPET-SIM, even margins")
"""Variants improved with techniques that our own methods use as well."""

BASELINES = ("mixture", *(name for name in MASKS if name not in SHARPER))
