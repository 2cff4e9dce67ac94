"""Infer which catalogue entry plays in which frame: log likelihoods of the entries, pruning to candidates, and q(r).

This is the part of the local step (`conditionals.local`) whose cost grows with the catalogue. No array of shape F x T x J is ever
formed: frames are processed in parts, entries one after another, and after pruning only a few candidates per frame.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

from bayessep.gamma import Moments
from bayessep.models import frame_prior
from bayessep.models.frame_prior import FramePosterior
from bayessep.models.jingle_mixture import TINY, Blocks, Hyper, JingleMixture

# --- processing frames in parts --------------------------------------------------------------------------------------------

PART = 2**18  # cells of T x F: their rates fit the processor's cache, and working memory does not grow with the recording's length


def number_of_parts(n_frames: int, n_bins: int) -> int:
    """Return how many parts keep each within `PART` cells; up to half as many more if those divide the frames without padding."""
    least = -(-n_frames * n_bins // PART)
    return next((n for n in range(least, least + least // 2 + 1) if n_frames % n == 0), least)


def in_parts(function: Callable, model: JingleMixture, moments: Blocks, along: Any = None) -> tuple[Any, Any]:
    """Return (per frame, sums) = `function(model, moments, along)`, computed in parts of about `PART` cells.

    Everything with a frame axis is split: data, excitations, gain and the arrays in `along`. Results per frame are concatenated,
    sums are added up. The last part is padded with empty frames: no data, no rate, no weight. Their music switch is 1/2, because
    with a switch of 0 a prior that gives the null entry no probability would leave no possible entry.
    """
    frames = (model.frames, moments.excitations, moments.gain, along)
    n_frames, n_bins = model.frames.x.shape
    n_parts = number_of_parts(n_frames, n_bins)
    size = -(-n_frames // n_parts)

    def one(frames):
        data, excitations, gain, along = frames
        part = dataclasses.replace(model, frames=data)
        return function(part, moments._replace(excitations=excitations, gain=gain), along)

    if n_parts == 1:
        return one(frames)

    def cut(array, empty=0.0):
        fill = ((0, n_parts * size - n_frames),) + ((0, 0),) * (array.ndim - 1)
        return jnp.pad(array, fill, constant_values=empty).reshape(n_parts, size, *array.shape[1:])

    def add(total, part):
        per_frame, sums = one(part)
        return jax.tree.map(jnp.add, total, sums), per_frame

    data, *others = jax.tree.map(cut, frames)
    parts = (data._replace(music=cut(model.frames.music, 0.5)), *others)
    _, sums = jax.eval_shape(one, jax.tree.map(lambda array: array[0], parts))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)
    sums, per_frame = jax.lax.scan(add, nothing, parts)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:n_frames], per_frame), sums


# --- rates and scores ----------------------------------------------------------------------------------------------------


def speech_rate(model: JingleMixture, e: Float[Array, "T B"], d: Float[Array, "B F"]) -> Float[Array, "T F"]:
    """Return s_t sum_i e_ti d_iu, for arithmetic or geometric means of e and d, whichever are passed."""
    return model.frames.speech[:, None] * (e @ d)


def visit_entries(model: JingleMixture, moments: Blocks, candidates: Int[Array, "T K"] | None):
    """Return the number of entries to visit and a function k -> (T, F), the rate lambda of the k-th entry, of geometric means.

    Without candidates the k-th entry is the same catalogue row in every frame; with candidates it is each frame's k-th candidate.
    """
    shaped = moments.catalogue.geometric * moments.filter.geometric[None, :]
    gain = moments.gain.geometric[:, None]
    if candidates is None:
        return shaped.shape[0], lambda k: gain * jax.lax.dynamic_index_in_dim(shaped, k, 0)
    return candidates.shape[1], lambda k: gain * shaped[jax.lax.dynamic_index_in_dim(candidates, k, 1, keepdims=False)]


def geometric_speech(model: JingleMixture, moments: Blocks) -> Float[Array, "T F"]:
    """Return G of the table in `jingle_mixture`: the rate of all speech, of geometric means."""
    return speech_rate(model, moments.excitations.geometric, moments.templates.geometric) + TINY


def seen_data(model: JingleMixture) -> Float[Array, "T F"]:
    x, observed = model.frames.x, model.frames.observed
    return x if observed is None else x * observed


def _inverse(x: Float[Array, "T F"]) -> Float[Array, "T F"]:
    """1 / x, or 1 where x is zero: computing x log(rate / x) as x log(rate * inverse) keeps values and rounding errors small."""
    return 1 / jnp.where(x > TINY, x, 1)


def entry_log_likelihood(
    model: JingleMixture, moments: Blocks, candidates: Int[Array, "T K"] | None = None
) -> Float[Array, "T K"]:
    """Return the log likelihood of each entry in each frame, including the music switch, without terms common to all entries.

    It is sum_u x_tu log((G_tu + lambda_tuj) / x_tu) - <lambda_tuj>, with geometric means inside the logarithm and arithmetic ones
    in the rate, which is exact coordinate ascent. With ``rule="printed"`` the logarithm also takes the arithmetic mean of the
    speech rate, as the paper prints q(r_t = j).
    """
    return in_parts(lambda *part: (_score_entries(*part), None), model, moments, candidates)[0]


def _score_entries(model: JingleMixture, moments: Blocks, candidates) -> Float[Array, "T K"]:
    x, music, observed = model.frames.x, model.frames.music, model.frames.observed
    which = "geometric" if model.rule == "exact" else "mean"
    speech = speech_rate(model, getattr(moments.excitations, which), getattr(moments.templates, which)) + TINY
    x_seen, inverse = seen_data(model), _inverse(x)
    n_entries, entry = visit_entries(model, moments, candidates)

    def one(_, k):
        return None, (x_seen * jnp.log((speech + entry(k)) * inverse)).sum(1)

    _, data = jax.lax.scan(one, None, jnp.arange(n_entries))
    shaped = moments.catalogue.mean * moments.filter.mean[None, :]
    first = of_candidates(jnp.arange(shaped.shape[0]) == 0, candidates)
    exposure = of_candidates(shaped.sum(1), candidates)
    if observed is not None:
        exposure = observed @ shaped.T
        exposure = exposure if candidates is None else jnp.take_along_axis(exposure, candidates, 1)
    switch = jnp.log(jnp.where(first, 1 - music[:, None], music[:, None]))
    return data.T + switch - moments.gain.mean[:, None] * exposure


def of_candidates(values: Array, candidates: Int[Array, "T K"] | None) -> Array:
    """Return values of the entries as (T, K), those of each frame's candidates, or without candidates as (1, J)."""
    return values[None, :] if candidates is None else values[candidates]


def scatter_candidates(
    values: Float[Array, "T K"], candidates: Int[Array, "T K"] | None, n_entries: int, fill: float | int
) -> Float[Array, "T J"]:
    """Put values of the candidates back in their places among all entries, filling the others."""
    if candidates is None:
        return values
    rows = jnp.arange(values.shape[0])[:, None]
    return jnp.full((values.shape[0], n_entries), fill, values.dtype).at[rows, candidates].set(values)


POOL = 2  # entries short-listed per candidate that is kept
BANDS = 96  # number of frequency bands for the short-listing


def any_candidates(model: JingleMixture) -> Int[Array, "T K"]:
    """Return arbitrary candidates to begin with: the first entries of the catalogue in every frame."""
    assert model.candidates is not None, "the problem keeps all entries"
    return jnp.broadcast_to(jnp.arange(model.candidates, dtype=jnp.int32)[None, :], (model.frames.x.shape[0], model.candidates))


def are_short_listed(n_entries: int, n_bins: int, n_candidates: int) -> bool:
    """Return whether a catalogue is so long that short-listing in bands at least halves the work of choosing candidates."""
    in_bands = n_entries * BANDS + (POOL * n_candidates + n_candidates) * n_bins
    return n_entries * n_bins >= 2 * in_bands


def choose_candidates(
    model: JingleMixture,
    hyper: Hyper,
    moments: Blocks,
    n_candidates: int,
    current: Int[Array, "T K"] | None = None,
) -> Int[Array, "T K"]:
    """Return the most probable entries of each frame.

    A long catalogue is first scored in at most `BANDS` frequency bands; the short-listed entries then compete with the `current`
    candidates on all bins. If that saves little work, or if bins are held out, all entries are compared on all bins. Either way,
    for independent frames the objective never falls.
    """
    n_entries, n_bins = model.catalogue.shape
    if model.frames.observed is not None or not are_short_listed(n_entries, n_bins, n_candidates):
        return _most_probable(entry_log_likelihood(model, moments), model, hyper, n_candidates)
    banded, of_bands = _in_bands(model, moments)
    pool = _most_probable(entry_log_likelihood(banded, of_bands), model, hyper, POOL * n_candidates)
    if current is not None:
        known = (pool[:, :, None] == current[:, None, :]).any(2)
        # A current candidate that was short-listed again must not appear twice.
        pool = jnp.concatenate([current, jnp.where(known, n_entries, pool)], 1)
    scores = entry_log_likelihood(model, moments, jnp.minimum(pool, n_entries - 1))
    return _most_probable(jnp.where(pool < n_entries, scores, -jnp.inf), model, hyper, n_candidates, pool)


def _most_probable(
    scores: Float[Array, "T P"], model: JingleMixture, hyper: Hyper, n: int, pool: Int[Array, "T P"] | None = None
) -> Int[Array, "T n"]:
    """Return the `n` most probable entries, ranked by logarithms: beside a good fit, other probabilities may underflow to zero."""
    if model.chain:
        rho = _q_of_entries(model, hyper, scores, pool).responsibility
        lost = jnp.log(jnp.finfo(rho.dtype).tiny) + scores - scores.max(1, keepdims=True)  # below all others, ranked by their score
        lost = jnp.where(of_candidates(frame_prior.is_led_to(hyper.frame_prior), pool), lost, -jnp.inf)
        rank = jnp.where(rho > 0, jnp.log(rho), lost)
    else:
        rank = scores + of_candidates(jnp.log(hyper.frame_prior.entry), pool)
    best = jax.lax.top_k(rank, n)[1]
    return best if pool is None else jnp.take_along_axis(pool, best, 1)


def _in_bands(model: JingleMixture, moments: Blocks) -> tuple[JingleMixture, Blocks]:
    """Sum the bins of a problem in bands, narrow at low frequencies, where most energy lies. Sums of Poissons are Poisson."""
    n_bins = model.frames.x.shape[1]
    index = np.arange(BANDS + 1)
    edges = np.unique(np.maximum(n_bins * (index / BANDS) ** 2, index).astype(int).clip(max=n_bins))
    band = np.searchsorted(edges, np.arange(n_bins), "right") - 1
    into = jnp.asarray(band[:, None] == np.arange(len(edges) - 1), model.frames.x.dtype)

    def add(array):
        return array @ into

    shaped = (c * f[None, :] for c, f in zip(moments.catalogue, moments.filter, strict=True))
    one = jnp.ones(into.shape[1], model.frames.x.dtype)
    banded = moments._replace(
        templates=Moments(*map(add, moments.templates)), catalogue=Moments(*map(add, shaped)), filter=Moments(one, one)
    )
    frames = model.frames._replace(x=add(model.frames.x))
    return dataclasses.replace(model, frames=frames, catalogue=add(model.catalogue)), banded


def weigh_entries(
    model: JingleMixture, hyper: Hyper, moments: Blocks, candidates: Int[Array, "T K"] | None = None
) -> FramePosterior:
    """Return q(r), over the candidates only (K instead of J entries) if there are any."""
    if not model.has_music:
        return _weigh_speech(model, moments)
    scores = entry_log_likelihood(model, moments, candidates)
    q = _q_of_entries(model, hyper, scores, candidates)
    if model.rule == "printed":
        # rho is not the optimum, so the evidence must be computed under it, term by term.
        exact = entry_log_likelihood(dataclasses.replace(model, rule="exact"), moments, candidates)
        log_pi, rho = of_candidates(jnp.log(hyper.frame_prior.entry), candidates), q.responsibility
        q = q._replace(log_evidence=(rho * jnp.where(rho > 0, exact + log_pi, 0) - xlogy(rho, rho)).sum(1))
    return q


def _q_of_entries(
    model: JingleMixture, hyper: Hyper, scores: Float[Array, "T K"], candidates: Int[Array, "T K"] | None
) -> FramePosterior:
    frames, prior = model.frames, hyper.frame_prior
    return frame_prior.posterior(
        scores, prior, frames.weight, chain=model.chain, candidates=candidates, starts=frames.starts
    )


def _weigh_speech(model: JingleMixture, moments: Blocks) -> FramePosterior:
    """Return the trivial q(r) of a problem whose only entry is the null entry."""
    x = seen_data(model)
    # log(x / rate) rather than log(rate) + log(1 / x): small values have small rounding errors, and the ratio is needed anyway.
    log_evidence = -(x * jnp.log(jnp.maximum(x / geometric_speech(model, moments), TINY))).sum(1)
    return FramePosterior(jnp.ones_like(x[:, :1]), log_evidence, model.frames.weight.sum(keepdims=True))
