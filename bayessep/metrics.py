"""Scores of separations: SI-SDR, and the SDR, SIR and SAR of BSS-Eval.

Signals are mono; downmix channels, or score them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Float, Int, Real
from scipy import linalg

from bayessep.errors import UserError

AnyArray = np.ndarray | jax.Array

# ----------------------------------------------------------------------------------------------------- SI-SDR


def si_sdr(
    reference: Real[jax.Array | np.ndarray, "*batch N"],
    estimate: Real[jax.Array | np.ndarray, "*batch N"],
    *,
    zero_mean: bool = False,
    eps: float | int = 0.0,
) -> Float[jax.Array, "*batch"]:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, eq. 5), for jit, vmap and grad.

    The estimate is split into its projection on the reference and the residual; the ratio of their energies does
    not depend on the scale of either signal. A silent reference or estimate gives nan; an estimate that equals the
    reference up to scale gives a value limited by rounding (above 100 dB in float32), or inf.

    Args:
        reference: (..., N) true waveforms.
        estimate: (..., N) estimated waveforms.
        zero_mean: subtract the mean of both signals first.
        eps: added to every energy. Zero for scores; a small number keeps a training loss finite in silence.

    Raises:
        ValueError: the shapes differ (broadcasting would compare unrelated signals).
    """
    if reference.shape != estimate.shape:
        raise ValueError(f"reference {reference.shape} and estimate {estimate.shape} must have the same shape")
    # Squares of integers would overflow.
    reference, estimate = (x if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.asarray(x, float) for x in (reference, estimate))
    if zero_mean:
        reference = reference - jnp.mean(reference, axis=-1, keepdims=True)
        estimate = estimate - jnp.mean(estimate, axis=-1, keepdims=True)
    energy = jnp.sum(reference**2, axis=-1, keepdims=True) + eps
    target = jnp.sum(reference * estimate, axis=-1, keepdims=True) / energy * reference
    rest = estimate - target
    return 10 * (jnp.log10(jnp.sum(target**2, axis=-1) + eps) - jnp.log10(jnp.sum(rest**2, axis=-1) + eps))


# --------------------------------------------------------------------------------------------------- BSS-Eval
#
# BSS-Eval needs only energies of least-squares projections of an estimate e on delayed references, the columns
# of a matrix X. With G = X'X and d = X'e, which hold only correlations, the filter is c = G^-1 d, and the
# energies are quadratic forms such as |Xc|^2 = c'Gc: no filtered signal of full length is needed. If a form is
# too small compared with the rounding error of its terms, the filtered signals are computed after all.


class BssEval(NamedTuple):
    """Scores in dB for each reference, and the assignment of estimates to references."""

    sdr: Float[np.ndarray, " S"]  # target against everything else
    sir: Float[np.ndarray, " S"]  # target against the other references; inf if there is no other
    sar: Float[np.ndarray, " S"]  # all references against the rest, which none of them explains
    permutation: Int[np.ndarray, " S"]  # estimate permutation[j] is scored against reference j


class WindowScores(NamedTuple):
    """Scores in dB of each source in each window; NaN where a reference or an estimate is silent."""

    sdr: Float[np.ndarray, "S W"]  # target against everything else, including filtered target
    sir: Float[np.ndarray, "S W"]
    sar: Float[np.ndarray, "S W"]


class StemScores(NamedTuple):
    """Scores of one stem in dB. For speech with music as the other stem, ``sir`` is the SMR of paper 000."""

    sdr: float
    sir: float
    sar: float
    si_sdr: float


def bss_eval(
    references: Float[AnyArray, "S N"],
    estimates: Float[AnyArray, "S N"],
    *,
    filter_length: int = 512,
    permute: bool = False,
) -> BssEval:
    """BSS-Eval version 3 for sources (Vincent, Gribonval, Févotte 2006), in float64.

    A filter of ``filter_length`` taps from reference to estimate does not count as an error. The scores are those of
    ``mir_eval.separation.bss_eval_sources``. For the scores before separation, pass the mixture as the estimate of
    every source.

    Args:
        references: (S, N) true sources, mono.
        estimates: (S, N) estimated sources in the same order, unless ``permute``.
        filter_length: taps of the allowed distortion filters.
        permute: try every order of the estimates and keep the one with the highest mean SIR.

    Raises:
        UserError: a signal is silent or not finite, or the shapes differ.
    """
    references, estimates = _checked(references, estimates)
    correlations = _Correlations.of(references, estimates, filter_length)
    count = len(references)
    pairs = [(j, e) for j in range(count) for e in range(count) if permute or j == e]
    scores = {(j, e): _scores(correlations, references, estimates, j, e) for j, e in pairs}
    orders = permutations(range(count)) if permute else [tuple(range(count))]
    best = max(orders, key=lambda order: sum(scores[j, e][1] for j, e in enumerate(order)))
    sdr, sir, sar = np.array([scores[j, e] for j, e in enumerate(best)]).T
    return BssEval(sdr, sir, sar, np.array(best))


def bss_eval_windows(
    references: Float[AnyArray, "S N"], estimates: Float[AnyArray, "S N"], window: int, hop: int, *, filter_length: int = 512
) -> WindowScores:
    """BSS-Eval version 3 for images (Vincent, Sawada, Bofill et al. 2007), in float64, in windows that each have their own filters.

    SIR and SAR are those of `bss_eval`. In the SDR, any filter or gain counts as an error: an image is the source as it is
    heard. The scores are those of ``mir_eval.separation.bss_eval_images_framewise``, and those of museval.

    Args:
        references: (S, N) true sources, mono.
        estimates: (S, N) estimated sources in the same order.
        window: window length in samples; a signal shorter than a window plus a hop is one window.
        hop: samples between the starts of windows; a remainder at the end is not scored.
        filter_length: taps of the distortion filters allowed in SIR and SAR.

    Raises:
        UserError: a signal is silent throughout or not finite, or the shapes differ.
    """
    references, estimates = _checked(references, estimates)
    n = references.shape[1]
    starts = range(0, n - window + 1, hop) if n >= window + hop else [0]
    length = window if n >= window + hop else n
    found = np.full((3, len(references), len(starts)), np.nan)
    for w, start in enumerate(starts):
        true, estimated = (x[:, start : start + length] for x in (references, estimates))
        if true.any(1).all() and estimated.any(1).all():
            missed = ((estimated - true) ** 2).sum(1)
            scores = bss_eval(true, estimated, filter_length=filter_length)
            sdr = [_decibel(float(s), float(e)) for s, e in zip((true**2).sum(1), missed, strict=True)]
            found[:, :, w] = sdr, scores.sir, scores.sar
    return WindowScores(*found)


def evaluate_stems(
    references: Mapping[str, Real[AnyArray, " _"]],
    estimates: Mapping[str, Real[AnyArray, " _"]],
    *,
    filter_length: int = 512,
) -> dict[str, StemScores]:
    """Score every estimated stem against the reference of the same name; the other references are interference.

    All waveforms are (N,), of equal length. There may be fewer estimates than references: paper 000 scores
    speech only; its SMR and SAR are ``sir`` and ``sar`` of the speech when the references are speech and
    music.

    Raises:
        UserError: an estimate has no reference, lengths differ, or a signal is silent or not finite.
    """
    unknown = sorted(set(estimates) - set(references))
    if unknown or not estimates:
        raise UserError(f"estimates {unknown} have no reference: give true stems named {sorted(estimates)}")
    lengths = {len(w) for w in (*references.values(), *estimates.values())}
    if len(lengths) > 1:
        raise UserError(f"references and estimates must be equally long, but have {sorted(lengths)} samples")
    names = list(references)
    true, estimated = _checked(
        np.stack([np.asarray(references[n]) for n in names]),
        np.stack([np.asarray(w) for w in estimates.values()]),
        names, list(estimates),
    )  # fmt: skip
    correlations = _Correlations.of(true, estimated, filter_length)
    result = {}
    for e, name in enumerate(estimates):
        j = names.index(name)
        ratios = _scores(correlations, true, estimated, j, e)
        alone = float(si_sdr(jnp.asarray(true[j]), jnp.asarray(estimated[e])))
        result[name] = StemScores(*ratios, alone)
    return result


def _checked(
    references: AnyArray,
    estimates: AnyArray,
    reference_names: list[str] | None = None,
    estimate_names: list[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64; raise an error that names a signal that cannot be scored."""
    arrays = []
    for kind, signals, names in (
        ("reference", references, reference_names),
        ("estimate", estimates, estimate_names),
    ):
        x = np.asarray(signals, dtype=np.float64)
        for n, row in enumerate(x):
            name = names[n] if names else n
            if not np.all(np.isfinite(row)):
                raise UserError(f"{kind} {name} holds values that are not finite numbers: it cannot be scored")
            if not np.any(row):
                raise UserError(f"{kind} {name} is silent: SDR, SIR and SAR are not defined, leave it out")
        arrays.append(x)
    true, estimated = arrays
    if true.ndim != 2 or estimated.ndim != 2 or true.shape[1] != estimated.shape[1]:
        raise UserError(f"references and estimates must be (sources, samples), not {true.shape} and {estimated.shape}")
    if reference_names is None and true.shape != estimated.shape:
        raise UserError(f"{len(true)} references need as many estimates, not {len(estimated)}")
    return true, estimated


class _Correlations(NamedTuple):
    """Correlations for the least-squares problems of S references and E estimates with L taps."""

    gram: Float[np.ndarray, "S*L S*L"]  # G, block Toeplitz
    cross: Float[np.ndarray, "S*L E"]  # d, one column per estimate
    energy: Float[np.ndarray, " E"]
    joint: Float[np.ndarray, "S*L E"]  # c of the projection on all references
    taps: int

    @staticmethod
    def of(references: np.ndarray, estimates: np.ndarray, taps: int) -> _Correlations:
        count = len(references)
        lags = _lagged_products(references, np.concatenate([references, estimates]), taps)
        at_zero = taps - 1
        # Entry (a, b) of block (i, j) is sum_n s_i[n - a] s_j[n - b], the correlation at lag a - b.
        blocks = [
            [linalg.toeplitz(lags[i, j, at_zero:], lags[i, j, at_zero::-1]) for j in range(count)] for i in range(count)
        ]
        gram = np.block(blocks)
        cross = lags[:, count:, at_zero:].transpose(0, 2, 1).reshape(count * taps, len(estimates))
        return _Correlations(gram, cross, np.sum(estimates**2, axis=1), _solve(gram, cross), taps)


def _lagged_products(x: np.ndarray, y: np.ndarray, taps: int) -> np.ndarray:
    """Return sum_n x_a[n] y_b[n + l] for |l| < taps: (A, B, 2 taps - 1), lag 0 in the middle.

    Few lags are needed of signals that may be hours long, so short blocks are correlated and summed.
    """
    margin = taps - 1
    size = 1 << max(14, (8 * taps).bit_length())
    step = size - 2 * margin
    blocks = -(-x.shape[1] // step)
    x = np.pad(x, [(0, 0), (0, blocks * step - x.shape[1])]).reshape(len(x), 1, blocks, step)
    y = np.pad(y, [(0, 0), (margin, blocks * step + margin - y.shape[1])])
    y = np.lib.stride_tricks.sliding_window_view(y, size, axis=1)[None, :, ::step]
    total = np.zeros((x.shape[0], y.shape[1], 2 * taps - 1))
    at_once = 16  # limits the spectra in memory to some tens of megabytes
    for start in range(0, blocks, at_once):
        now = slice(start, start + at_once)
        products = scipy.signal.fftconvolve(y[:, :, now], x[:, :, now, ::-1], mode="valid", axes=-1)
        total += np.sum(products, axis=2)
    return total


def _solve(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    try:  # by Cholesky, in half of the time; the transpose of a symmetric matrix is the same in the memory order that LAPACK wants
        return linalg.cho_solve(linalg.cho_factor(gram.T, lower=True, check_finite=False), cross, check_finite=False)
    except np.linalg.LinAlgError:  # indefinite by rounding, as for references without any high frequencies
        pass
    try:
        return np.linalg.solve(gram, cross)
    except np.linalg.LinAlgError:  # references that are filtered copies of each other
        return np.linalg.lstsq(gram, cross, rcond=None)[0]


def _scores(
    known: _Correlations, references: np.ndarray, estimates: np.ndarray, j: int, e: int
) -> tuple[float, float, float]:
    """SDR, SIR and SAR of estimate e when reference j is the target."""
    own = slice(j * known.taps, (j + 1) * known.taps)
    both = known.joint[:, e]
    target = np.zeros_like(both)
    if len(references) == 1:
        target[:] = both
    else:
        target[own] = _solve(known.gram[own, own], known.cross[own, e])

    def filtered(c: np.ndarray) -> float:
        """|X c|^2"""
        return float(c @ known.gram @ c)

    def missed(c: np.ndarray) -> float:
        """|e - X c|^2"""
        return known.energy[e] - 2 * known.cross[:, e] @ c + filtered(c)

    energies = np.array([filtered(target), filtered(both - target), filtered(both), missed(target), missed(both)])
    # Rounding errors are relative to the largest correlation, and each correlation enters with a product of two taps.
    largest = np.max(np.diag(known.gram))
    rounding = 4e-16 * (known.energy[e] + largest * np.array([np.sum(np.abs(c)) ** 2 for c in (target, both)]).max())
    needed = energies if len(references) > 1 else energies[[0, 2, 3, 4]]
    if np.any(rounding > 1e-8 * needed):
        energies = _energies_of_signals(references, estimates[e], target, both)
    s, interference, explained, distortion, artefacts = energies
    return _decibel(s, distortion), _decibel(s, interference), _decibel(explained, artefacts)


def _energies_of_signals(
    references: np.ndarray, estimate: np.ndarray, target: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Compute the same five energies from the filtered signals: slower, but each accurate to its last digit."""

    def synthesise(c: np.ndarray) -> np.ndarray:
        filters = c.reshape(len(references), -1)
        return np.sum([scipy.signal.oaconvolve(s, h) for s, h in zip(references, filters, strict=True)], axis=0)

    s, all_of_it = synthesise(target), synthesise(both)
    e = np.pad(estimate, (0, len(s) - len(estimate)))
    return np.array([np.sum(w**2) for w in (s, all_of_it - s, all_of_it, e - s, e - all_of_it)])


def _decibel(signal_energy: float, error_energy: float) -> float:
    return float(10 * np.log10(signal_energy / error_energy)) if error_energy > 0 else float("inf")
