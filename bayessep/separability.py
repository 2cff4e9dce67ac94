"""Separation of speech and music by the skewness of harmonic and percussive parts: paper 003, section II-B and Figure 2.

In music, harmonics stay in their row of a spectrogram, and a drum hit fills a column; in speech, harmonics glide. So energies along
a row of the harmonic part, and down a column of the percussive part, are distributed differently, which their skewness measures
(`skewness`). The paper shows this as a plot of patches (`embed`); `separability` quantifies it.

`embed` and `separability` need scikit-learn, from the extra ``baselines``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bayessep.errors import UserError
from bayessep.extras import library
from bayessep.features import Front, hpss, mel_filters, patches
from bayessep.stft import stft

PARTS = ("mel", "mel power", "harmonic+percussive")
"""Inputs of the skewness. “mel” takes bands of magnitudes, as Figure 2 says; “mel power” of powers, as the authors' code does."""


def skew(x: Float[np.ndarray, "*B n"]) -> Float[np.ndarray, "*B"]:
    """Return the skewness along the last axis in float64, the third central moment over the cubed deviation: `scipy.stats.skew`.

    It is 0 for constant input.
    """
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1)
    # Rounding errors of a constant do not count as variation.
    changes = variance > (1e-12 * np.abs(x).max(-1, initial=0.0)) ** 2
    return np.where(changes, (centred**3).mean(-1) / np.where(changes, variance, 1.0) ** 1.5, 0.0)


def skewness(
    waveform: Float[np.ndarray, " N"],
    parts: str = "harmonic+percussive",
    front: Front = Front("MHPS-EF", bands=21),
    *,
    length: int = 68,
    hop: int = 6,
) -> Float[np.ndarray, "P D"]:
    """Return row and column skewness of each patch of a waveform at `Front.sample_rate`, side by side: D = bands + length, float32.

    Rows are bands over the frames of a patch, from the harmonic part; columns are frames over bands, from the percussive part. For
    “mel” and “mel power” both are of the same bands, without logarithm. `front.feature` and `front.range_db` are not used.

    Args:
        waveform: prepared by `bayessep.features.remove_silence` and `normalise`, as in the paper.
        parts: one of `PARTS`.
        front: frames, bands and medians.
        length, hop: length and hop of patches, in frames.

    Raises:
        UserError: the waveform is shorter than one frame, or `parts` is not known.
    """
    if parts not in PARTS:
        raise UserError(f"skewness of {parts!r} is not known; choose one of {', '.join(PARTS)}.")
    magnitude = jnp.abs(stft(jnp.asarray(waveform, jnp.float32), front.stft))
    if parts == "harmonic+percussive":
        spectra = tuple(hpss(magnitude, front.harmonic, front.percussive))
    else:
        spectra = (magnitude**2 if parts == "mel power" else magnitude,) * 2
    filters = mel_filters(front.stft, front.sample_rate, front.bands)
    rows, columns = (np.asarray(s) @ filters for s in spectra)
    # The skewness of a frame is the same in all patches that contain it.
    of_frames = patches(skew(columns)[:, None], length, hop)[:, :, 0]
    of_bands = [skew(patch.T) for patch in patches(rows, length, hop)]
    return np.concatenate([np.stack(of_bands), of_frames], axis=1).astype(np.float32)


def _scikit_learn(module: str) -> Any:
    return library(f"sklearn.{module}", "baselines", package="scikit-learn")


# --- embedding -----------------------------------------------------------------------------------------------------------


class Embedding(NamedTuple):
    """Two-dimensional embedding: neighbours in the space of skewness vectors are neighbours here."""

    points: Float[np.ndarray, "N 2"]
    speech: Bool[np.ndarray, " N"]  # which points are speech; the others are music


def embed(
    vectors: Float[np.ndarray, "P D"],
    speech: Bool[np.ndarray, " P"],
    *,
    centroids: int = 1000,
    outliers: float | int = 1.0,
    seed: int = 0,
) -> Embedding:
    """Embed both classes in two dimensions, as in Figure 2: standardised, at most `centroids` k-means centroids per class, t-SNE.

    t-SNE has perplexity 30, learning rate 200, exaggeration 12 and a PCA initialisation. Points further from the mean than
    `outliers` times the sum of the standard deviations of both axes are left out.

    Raises:
        UserError: scikit-learn is not installed, or a class has fewer than two patches.
    """
    cluster, manifold = (_scikit_learn(name) for name in ("cluster", "manifold"))
    deviation = vectors.std(0)
    scaled = (vectors - vectors.mean(0)) / np.where(deviation > 0, deviation, 1)
    middles = []
    for name, of_class in (("speech", scaled[speech]), ("music", scaled[~speech])):
        if len(of_class) < 2:
            raise UserError(f"{len(of_class)} patches of {name} are too few for a figure; give more recordings.")
        k_means = cluster.KMeans(min(centroids, len(of_class)), n_init=1, random_state=seed)
        middles.append(k_means.fit(of_class).cluster_centers_)
    both = np.concatenate(middles)
    is_speech = np.arange(len(both)) < len(middles[0])
    picture = manifold.TSNE(
        perplexity=min(30, (len(both) - 1) / 3), learning_rate=200, early_exaggeration=12, init="pca", random_state=seed
    )
    points = picture.fit_transform(both.astype(np.float32))
    near = np.linalg.norm(points - points.mean(0), axis=1) <= outliers * points.std(0).sum()
    return Embedding(points[near], is_speech[near])


# --- separability --------------------------------------------------------------------------------------------------------


class Separability(NamedTuple):
    """Measures of how well two classes are separated by their vectors."""

    accuracy: float  # mean recall of nearest-neighbour classification among other groups; 0.5 is chance
    of_folds: Float[np.ndarray, " K"]  # accuracy of each fold
    silhouette: float  # -1 to 1: how much nearer vectors are to their own class than to the other
    patches: int  # number used


def separability(
    vectors: Float[np.ndarray, "P D"],
    speech: Bool[np.ndarray, " P"],
    groups: Sequence[str],
    *,
    n_folds: int = 5,
    most: int = 200,
    seed: int = 0,
) -> Separability:
    """Measure the claim of Figure 2 in the space of the vectors rather than in the plot.

    The nearest neighbour of each patch is searched among the groups (speakers, artists) of other folds, which also give the
    standardisation. The silhouette is that of all patches, standardised together.

    Args:
        vectors: one row per patch (`skewness`).
        speech: which are speech; the others are music.
        groups: the split group of each patch.
        n_folds: number of folds of groups.
        most: maximum number of patches used per group and class, evenly spaced, so that none dominates.
        seed: seed of the assignment to folds.

    Raises:
        UserError: scikit-learn is not installed, or a class has fewer groups than folds.
    """
    metrics, neighbours, selection = (_scikit_learn(name) for name in ("metrics", "neighbors", "model_selection"))
    names = np.asarray(groups)
    for name, of_class in (("speech", names[speech]), ("music", names[~speech])):
        if len(set(of_class)) < n_folds:
            raise UserError(f"{len(set(of_class))} groups of {name} cannot be divided into {n_folds} folds; give more recordings.")
    chosen: list[int] = []
    for group, is_speech in sorted(set(zip(names.tolist(), speech.tolist(), strict=True))):
        of_group = np.flatnonzero((names == group) & (speech == is_speech))
        chosen += of_group[np.unique(np.linspace(0, len(of_group) - 1, most).astype(int))].tolist()
    x, y, names = vectors[chosen].astype(np.float64), speech[chosen], names[chosen]
    deal = selection.StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    of_folds = []
    for train, test in deal.split(x, y, names):
        mean, deviation = x[train].mean(0), x[train].std(0)
        scaled = (x - mean) / np.where(deviation > 0, deviation, 1)
        found = neighbours.KNeighborsClassifier(1).fit(scaled[train], y[train]).predict(scaled[test])
        of_folds.append(np.mean([(found[y[test] == c] == c).mean() for c in (False, True) if (y[test] == c).any()]))
    deviation = x.std(0)
    silhouette = metrics.silhouette_score((x - x.mean(0)) / np.where(deviation > 0, deviation, 1), y)
    return Separability(float(np.mean(of_folds)), np.array(of_folds), float(silhouette), len(chosen))
