"""What a user would pick instead, and what masks made from the truth reach: separators and ideal masks to compare with.

scikit-learn and librosa are imported only when they are asked for; both come with the extra ``baselines``.
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
    """A mixture of one channel, what is known of it, and, for ideal masks only, the truth."""

    mixture: Float[np.ndarray, " N"]
    training: tuple[np.ndarray, ...]  # speech to learn from
    labelled: Float[np.ndarray, " M"]  # the music that is labelled
    speech: Float[np.ndarray, " N"]
    music: Float[np.ndarray, " N"]
    stft: Stft
    sample_rate: int
    seed: int = 0


Mask = Float[np.ndarray, "T F"]


def separate(name: str, problem: Problem) -> Float[np.ndarray, " N"]:
    """The speech that one of `BASELINES` or `SHARPER` finds.

    Raises:
        UserError: the library that it stands for is not installed.
    """
    if name == "mixture":
        return problem.mixture
    spectrum = np.asarray(stft(jnp.asarray(problem.mixture, jnp.float32), problem.stft))
    make, power = MASKS[name]
    mask = make(problem, np.abs(spectrum))
    return masked(spectrum[None], mask, problem.stft, len(problem.mixture), power)[0]


# --- from the truth ------------------------------------------------------------------------------------------------------


def _true_magnitudes(problem: Problem) -> tuple[Mask, Mask]:
    return magnitude(problem.speech, problem.stft), magnitude(problem.music, problem.stft)


def ideal_binary(problem: Problem, x: Mask) -> Mask:
    """1 where the true speech is louder than the true music."""
    speech, music = _true_magnitudes(problem)
    return (speech > music).astype(np.float32)


def ideal_ratio(problem: Problem, x: Mask) -> Mask:
    """The true share of the speech in the sum of both magnitudes: what the model's mask would be if all of it were known."""
    speech, music = _true_magnitudes(problem)
    return speech_share(speech, speech + music)


# --- instead -------------------------------------------------------------------------------------------------------------

KL_SPEECH, KL_MUSIC = 40, 20
"""Templates of `kl_nmf`."""


def kl_nmf(problem: Problem, x: Mask) -> Mask:
    """scikit-learn's NMF with the Kullback-Leibler loss: templates of the training speech and of the labelled music, kept."""
    decomposition = extras.library("sklearn.decomposition", "baselines", package="scikit-learn")
    settings: dict[str, Any] = {"solver": "mu", "beta_loss": "kullback-leibler", "max_iter": 200, "tol": 1e-5}

    def learned(frames: Mask, n: int) -> Float[np.ndarray, "N F"]:
        few = min(n, len(frames))
        return decomposition.NMF(few, init="random", random_state=problem.seed, **settings).fit(frames + 1e-9).components_

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 200 sweeps are not enough to converge: more do not separate better
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
    """REPET-SIM as librosa's documentation builds it: what similar frames share is music, the rest is speech.

    The documentation's `margin` leaves only what is ten times as loud to the speech; with 1, both are treated alike.
    """
    librosa = extras.library("librosa", "baselines")
    apart = int(2 * problem.sample_rate / problem.stft.hop)  # similar frames are two seconds apart at least
    repeating = librosa.decompose.nn_filter(x.T, aggregate=np.median, metric="cosine", width=min(apart, (len(x) - 1) // 2))
    repeating = np.minimum(x.T, repeating)
    return librosa.util.softmask(x.T - repeating, margin * repeating, power=2).T


def hpss(problem: Problem, x: Mask) -> Mask:
    """Median filtering (librosa): what is percussive, that is not steady, as speech."""
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
"""How each is made, and the power of its mask (`preparation.sharpen`): sharper ones have that of the methods."""

SHARPER = ("ideal ratio mask, sharper", "KL-NMF, sharper", "REPET-SIM, even margins")
"""As good as we could make them with what our own methods have, too."""

BASELINES = ("mixture", *(name for name in MASKS if name not in SHARPER))
