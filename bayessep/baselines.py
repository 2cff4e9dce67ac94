"""What a user would pick instead, and what no mask can exceed: separators and ideal masks to compare with.

scikit-learn and librosa are imported only when they are asked for; both come with the extra ``baselines``.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayessep.errors import UserError
from bayessep.preparation import magnitude, stack
from bayessep.stft import Stft, istft, stft


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
    """The speech that one of `BASELINES` finds.

    Raises:
        UserError: the library that it stands for is not installed.
    """
    if name == "mixture":
        return problem.mixture
    spectrum = np.asarray(stft(jnp.asarray(problem.mixture, jnp.float32), problem.stft))
    mask = BASELINES[name](problem, np.abs(spectrum)).astype(np.float32)
    return np.asarray(istft(jnp.asarray(spectrum * mask), problem.stft, len(problem.mixture)), np.float32)


# --- ceilings ------------------------------------------------------------------------------------------------------------


def _true_magnitudes(problem: Problem) -> tuple[Mask, Mask]:
    return magnitude(problem.speech, problem.stft), magnitude(problem.music, problem.stft)


def ideal_binary(problem: Problem, x: Mask) -> Mask:
    """1 where the true speech is louder than the true music."""
    speech, music = _true_magnitudes(problem)
    return (speech > music).astype(np.float32)


def ideal_ratio(problem: Problem, x: Mask) -> Mask:
    """The true share of the speech in the sum of both magnitudes: what the model's mask would be if all of it were known."""
    speech, music = _true_magnitudes(problem)
    return speech / np.maximum(speech + music, 1e-9)


# --- instead -------------------------------------------------------------------------------------------------------------

KL_SPEECH, KL_MUSIC = 40, 20
"""Templates of `kl_nmf`."""


def kl_nmf(problem: Problem, x: Mask) -> Mask:
    """scikit-learn's NMF with the Kullback-Leibler loss: templates of the training speech and of the labelled music, kept."""
    decomposition = _library("sklearn.decomposition", "scikit-learn")

    def fitted(frames: Mask, n: int) -> Any:
        few = min(n, len(frames))
        settings: dict[str, Any] = {"solver": "mu", "beta_loss": "kullback-leibler", "init": "random", "max_iter": 200, "tol": 1e-5}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 200 sweeps are not enough to converge: more do not separate better
            return decomposition.NMF(few, random_state=problem.seed, **settings).fit(frames + 1e-9)

    n_bins = x.shape[1]
    speech = fitted(stack(problem.training, problem.stft, n_bins), KL_SPEECH)
    music = fitted(stack([problem.labelled], problem.stft, n_bins), KL_MUSIC)
    templates = np.vstack([speech.components_, music.components_]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        activity, *_ = decomposition.non_negative_factorization(
            x + np.float32(1e-9), H=templates, n_components=len(templates), update_H=False, solver="mu",
            beta_loss="kullback-leibler", init="custom", W=None, max_iter=200, tol=1e-5,
        )  # fmt: skip
    n = len(speech.components_)
    of_speech, of_music = activity[:, :n] @ templates[:n], activity[:, n:] @ templates[n:]
    return of_speech / np.maximum(of_speech + of_music, 1e-9)


def repet_sim(problem: Problem, x: Mask) -> Mask:
    """REPET-SIM as librosa's documentation builds it: what similar frames share is music, the rest is speech."""
    librosa = _library("librosa", "librosa")
    apart = int(2 * problem.sample_rate / problem.stft.hop)  # similar frames are two seconds apart at least
    repeating = librosa.decompose.nn_filter(x.T, aggregate=np.median, metric="cosine", width=min(apart, (len(x) - 1) // 2))
    repeating = np.minimum(x.T, repeating)
    return librosa.util.softmask(x.T - repeating, 10 * repeating, power=2).T


def hpss(problem: Problem, x: Mask) -> Mask:
    """Median filtering (librosa): what is percussive, that is not steady, as speech."""
    librosa = _library("librosa", "librosa")
    return librosa.decompose.hpss(x.T, mask=True)[1].T


def _library(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{package} is not installed; pip install 'bayessep[baselines]' brings it.") from None


def _mixture(problem: Problem, x: Mask) -> Mask:
    return np.ones_like(x)


BASELINES: dict[str, Callable[[Problem, Mask], Mask]] = {
    "mixture": _mixture,
    "ideal binary mask": ideal_binary,
    "ideal ratio mask": ideal_ratio,
    "KL-NMF": kl_nmf,
    "REPET-SIM": repet_sim,
    "HPSS": hpss,
}
CEILINGS = ("ideal binary mask", "ideal ratio mask")
