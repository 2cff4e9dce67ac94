"""The algebra of the jingle mixture, shared by all algorithms: local step, block conditionals, objective, hyper-parameters.

The module is a `ConjugateModel`: it is passed to an algorithm of `bayessep.inference`, which chooses how the conditionals are read.
Symbols and shapes are those of the table in `jingle_mixture`; equation numbers are paper 000's.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bayessep import gamma
from bayessep.gamma import Gamma, Moments
from bayessep.models import frame_prior
from bayessep.models.entries import (
    any_candidates,
    choose_candidates,
    entry_log_likelihood,
    geometric_speech,
    in_parts,
    of_candidates,
    scatter_candidates,
    seen_data,
    visit_entries,
    weigh_entries,
)
from bayessep.models.frame_prior import sum_by_entry
from bayessep.models.jingle_mixture import TINY, Blocks, Hyper, JingleMixture, read

__all__ = [
    "Blocks", "Local", "any_candidates", "choose_candidates", "conditional", "constant", "draw_local", "flat", "learn", "local",
    "objective", "read", "recount", "rescale",
]  # fmt: skip


class Local(NamedTuple):
    """Result of the local step: q(S, M, R), reduced to the sufficient statistics that the blocks need."""

    counts: Blocks  # expected (or drawn) counts attributed to each cell of each block
    responsibility: Float[Array, "T K"]  # rho_tj = q(r_t = j); one-hot for a draw
    log_evidence: Float[Array, " T"]  # each frame's log evidence with r summed out, or at the drawn r; no speech rate, no constants
    jumps: Float[Array, " J"]  # (expected) number of jumps to each entry, as in `FramePosterior`


# --- local step ----------------------------------------------------------------------------------------------------------

UNROLL = 8  # unroll factor of the scan over entries; a larger one runs faster and compiles more slowly


def local(
    model: JingleMixture, hyper: Hyper, moments: Blocks, candidates: Int[Array, "T K"] | None = None
) -> Local:
    """Take the local step in expectation (paper 000, equations 7 and 10 to 12), optionally over K candidate entries per frame."""

    def step(model, moments, candidates):
        q = weigh_entries(model, hyper, moments, candidates)
        per_frame, sums = in_parts(_expected_counts, model, moments, (q.responsibility, candidates))
        return (per_frame, q.responsibility, q.log_evidence), (sums, q.jumps)

    # Without a chain the frames are independent: the whole step is taken part by part.
    take = step if model.chain else partial(in_parts, step)
    (per_frame, rho, log_evidence), (sums, jumps) = take(model, moments, candidates)
    return Local(Blocks(**per_frame, **sums), rho, log_evidence, jumps)


def recount(
    model: JingleMixture, moments: Blocks, step: Local, candidates: Int[Array, "T K"] | None = None
) -> Local:
    """Update the counts of `step` for new moments: q(S, M | R) is recomputed and q(R) kept, which saves half of the local step."""
    per_frame, sums = in_parts(_expected_counts, model, moments, (step.responsibility, candidates))
    return step._replace(counts=Blocks(**per_frame, **sums))


def _expected_counts(model: JingleMixture, moments: Blocks, along: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    """Expected counts (equation 11 and its counterpart for music): of excitations and gain per frame, and of the other blocks."""
    rho, candidates = along
    x, speech, weight = seen_data(model), geometric_speech(model, moments), model.frames.weight
    e, d, switch = moments.excitations.geometric, moments.templates.geometric, model.frames.speech
    if model.has_music:
        share, catalogue = _visit_rates(model, moments, x, speech, rho, candidates)
        # What music does not take is speech's; the difference is clipped because rounding may make it negative.
        of_music, ratio = x * share, x * jnp.maximum(rho.sum(1, keepdims=True) - share, 0) / speech
    else:
        of_music, ratio, catalogue = jnp.zeros_like(x), x / speech, jnp.zeros_like(model.catalogue)
    per_frame = {"excitations": e * (switch[:, None] * (ratio @ d.T)), "gain": of_music.sum(1)}
    sums = {
        "templates": d * ((e * (switch * weight)[:, None]).T @ ratio),
        "filter": weight @ of_music,
        "catalogue": catalogue,
    }
    return per_frame, sums


def _visit_rates(model, moments, x, speech, rho, candidates):
    """Return the share of music, sum_j rho_tj lambda_j / (G + lambda_j), and the counts of each catalogue entry (equation 12).

    The share of music is accumulated, and that of speech is the difference: rounding then costs each count of speech at most the
    precision of x, while music without a rate gets exactly no counts. Filter and gain need that, for under a flat prior they are
    counts divided by exposures, which may vanish.
    """
    n_entries, entry = visit_entries(model, moments, candidates)
    pull = (model.frames.weight * moments.gain.geometric)[:, None] * rho  # w_t v_t rho_tj, here with the geometric mean of v_t

    def one(carry, k):
        music, catalogue = carry
        rate = entry(k)
        share = 1 / (speech + rate)
        pull_k = jax.lax.dynamic_index_in_dim(pull, k, 1)
        if candidates is None:
            counts = (pull_k * x * share).sum(0)
            catalogue = jax.lax.dynamic_update_index_in_dim(catalogue, counts, k, 0)
        else:
            index = jax.lax.dynamic_index_in_dim(candidates, k, 1, keepdims=False)
            catalogue = catalogue.at[index].add(pull_k * x * share)
        return (music + jax.lax.dynamic_index_in_dim(rho, k, 1) * (rate / (speech + rate)), catalogue), None

    start = (jnp.zeros_like(x), jnp.zeros_like(moments.catalogue.mean))
    (music, catalogue), _ = jax.lax.scan(one, start, jnp.arange(n_entries), unroll=min(n_entries, UNROLL))
    return music, catalogue * moments.catalogue.geometric * moments.filter.geometric[None, :]


def draw_local(key: PRNGKeyArray, model: JingleMixture, hyper: Hyper, moments: Blocks) -> Local:
    """Draw (S, M, R) given all blocks, for Gibbs sampling; x must hold whole numbers, and all weights must be one.

    R is drawn with S and M summed out; then each bin's counts are split among the templates and the music by a multinomial draw,
    made of successive binomials.
    """
    x = seen_data(model)
    key_r, key_s = jax.random.split(key)
    log_likelihood = entry_log_likelihood(model, moments)
    prior, starts = hyper.frame_prior, model.frames.starts
    r, jumps = frame_prior.sample(key_r, log_likelihood, prior, chain=model.chain, starts=starts)
    rho = jax.nn.one_hot(r, model.catalogue.shape[0], dtype=x.dtype)
    e, d = model.frames.speech[:, None] * moments.excitations.mean, moments.templates.mean
    music = moments.gain.mean[:, None] * moments.filter.mean[None, :] * moments.catalogue.mean[r]
    rates = e.T[:, :, None] * d[:, None, :]
    # Total rate of the sources not split off yet, accumulated from the music upwards: subtracting would lose it to rounding.
    rates_left = jnp.cumsum(jnp.concatenate([music[None], rates[::-1]]), 0)[:0:-1]

    def split(left, inputs):
        rate, rate_left, key_i = inputs
        p = jnp.clip(rate / jnp.maximum(rate_left, TINY), 0, 1)
        drawn = jax.random.binomial(key_i, left, p, dtype=x.dtype)
        return left - drawn, (drawn.sum(1), drawn.sum(0))

    left, (of_frame, of_bin) = jax.lax.scan(split, x, (rates, rates_left, jax.random.split(key_s, d.shape[0])))
    counts = Blocks(of_bin, of_frame.T, filter=left.sum(0), gain=left.sum(1), catalogue=rho.T @ left)
    log_joint = jnp.take_along_axis(log_likelihood, r[:, None], 1)[:, 0] + frame_prior.log_moves(r, prior, starts)
    return Local(counts, rho, log_joint, jumps)


# --- conditionals, objective, hyper-parameters ---------------------------------------------------------------------------


def conditional(
    model: JingleMixture,
    hyper: Hyper,
    name: str,
    moments: Blocks,
    step: Local,
    candidates: Int[Array, "T K"] | None = None,
) -> Gamma:
    """Return the Gamma conditional of one block given the counts and the latest moments of the others (equations 13 to 15)."""
    counts = getattr(step.counts, name)
    exposure = getattr(_EXPOSURE, name)(model, moments, step.responsibility, candidates)
    return gamma.multiply(getattr(hyper.prior, name), counts, exposure)


def _exposure_excitations(model, moments, rho, candidates):
    frames, d = model.frames, moments.templates.mean
    seen = d.sum(1)[None, :] if frames.observed is None else frames.observed @ d.T
    return frames.speech[:, None] * seen


def _exposure_templates(model, moments, rho, candidates):
    frames = model.frames
    e = moments.excitations.mean * (frames.speech * frames.weight)[:, None]
    return e.sum(0)[:, None] if frames.observed is None else e.T @ frames.observed


def _pull(model, moments, rho):
    """w_t v_t rho_tj: the weight of each entry in each frame, times the frame's gain."""
    return (model.frames.weight * moments.gain.mean)[:, None] * rho


def _exposure_filter(model, moments, rho, candidates):
    pull, observed, n_entries = _pull(model, moments, rho), model.frames.observed, model.catalogue.shape[0]
    if observed is None:
        return sum_by_entry(pull, candidates, n_entries) @ moments.catalogue.mean + TINY
    return (observed * (scatter_candidates(pull, candidates, n_entries, 0) @ moments.catalogue.mean)).sum(0) + TINY


def _exposure_gain(model, moments, rho, candidates):
    shaped, observed = moments.catalogue.mean * moments.filter.mean[None, :], model.frames.observed
    if observed is None:
        return (rho * of_candidates(shaped.sum(1), candidates)).sum(1) + TINY
    return (observed * (scatter_candidates(rho, candidates, shaped.shape[0], 0) @ shaped)).sum(1) + TINY


def _exposure_catalogue(model, moments, rho, candidates):
    pull, observed, n_entries = _pull(model, moments, rho), model.frames.observed, model.catalogue.shape[0]
    if observed is None:
        seen = sum_by_entry(pull, candidates, n_entries)[:, None]
    else:
        seen = scatter_candidates(pull, candidates, n_entries, 0).T @ observed
    return seen * moments.filter.mean[None, :]


_EXPOSURE = Blocks(
    _exposure_templates, _exposure_excitations, _exposure_filter, _exposure_gain, _exposure_catalogue
)


def cell_weights(model: JingleMixture, name: str) -> Float[Array, "..."]:
    """Return how often each cell of a block counts in the objective, broadcastable to the block."""
    frames = model.frames
    match name:
        case "excitations":
            return frames.weight[:, None]
        case "gain":
            return frames.weight
        case "catalogue":
            return model.latent[:, None]
        case _:
            return jnp.ones((), frames.x.dtype)


def constant(model: JingleMixture) -> Float[Array, " T"]:
    """Return the terms of the objective in x alone, per frame: x log x - log Gamma(x + 1), summed over bins not held out.

    The first term compensates for the division by x in `Local.log_evidence`.
    """
    x, observed = model.frames.x, model.frames.observed
    value = xlogy(x, x) - gamma.log_gamma(x + 1)
    return (value if observed is None else observed * value).sum(1)


def objective(
    model: JingleMixture,
    hyper: Hyper,
    posterior: Blocks,
    moments: Blocks,
    readings: Blocks,
    step: Local,
    of_data: Float[Array, " T"] | None = None,
) -> Float[Array, ""]:
    """Return the objective of the sweeps: the evidence lower bound, or for point readings the log joint density.

    Every sweep raises it if all frames have equal weight or are independent. In a chain of frames with unequal weights it may fall
    slightly: q(r) ignores the weights, which enter only templates, filter, catalogue and pi.

    The value is valid at the moments from which the local step was computed. Blocks read as ``"fixed"`` would add a constant, which
    is omitted. Terms in x alone are included, so that bounds of different models of the same frames can be compared; they are
    `constant(model)`, which can be passed as `of_data` to avoid recomputing them.
    """
    speech, weight, observed = model.frames.speech, model.frames.weight, model.frames.observed
    e, d = moments.excitations.mean, moments.templates.mean
    if observed is None:
        rate = speech * (e @ d.sum(1))
    else:
        rate = speech * (observed * (e @ d)).sum(1)
    of_data = constant(model) if of_data is None else of_data
    total = (weight * (step.log_evidence - rate + of_data)).sum()
    for name in Blocks._fields:
        reading = getattr(readings, name)
        if reading == "fixed":
            continue
        prior, q, m = getattr(hyper.prior, name), getattr(posterior, name), getattr(moments, name)
        log_prior = jnp.where(cell_weights(model, name) > 0, gamma.log_prior(prior, q, m, reading), 0)
        total = total + _total(cell_weights(model, name) * log_prior)
    return total + frame_prior.log_dirichlet(hyper.frame_prior, model.concentration)


def _total(values: Float[Array, "..."]) -> Float[Array, ""]:
    """Sum all values; a matrix by a product with ones, which lets the compiler vectorise the computation of its values."""
    return values.sum() if values.ndim < 2 else (values @ jnp.ones(values.shape[-1], values.dtype)).sum()


def _mean_along(values, weights, like):
    """Weighted mean over the axes along which the prior `like` is tied."""
    axes = tuple(i for i, n in enumerate(like.shape) if n == 1)
    weights = jnp.broadcast_to(weights, values.shape)
    kept = jnp.where(weights > 0, values, 0)
    return (weights * kept).sum(axes, keepdims=True) / jnp.maximum(weights.sum(axes, keepdims=True), TINY)


def flat(model: JingleMixture) -> Blocks:
    """Return whether each block has a flat prior and so is a parameter: filter and gain in paper 000, unless given shapes."""
    return Blocks(*(bool(np.isinf(prior.scale).all()) for prior in model.hyper.prior))


def learn(
    model: JingleMixture, hyper: Hyper, posterior: Blocks, moments: Blocks, readings: Blocks, jumps: Float[Array, " J"]
) -> Hyper:
    """M-step of the tied hyper-parameters that `model.learn` selects (`gamma.fit`), from means and log-means as they are read."""
    prior, on = hyper.prior, model.learn

    def tied(name, held):
        p, q, weights = getattr(prior, name), getattr(posterior, name), cell_weights(model, name)
        mean, log_mean = gamma.mean(q), gamma.log_mean(q)
        if getattr(readings, name) in ("mode", "log_mode"):
            mean = getattr(moments, name).mean
            log_mean = jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))
        if held:
            mean_p = gamma.mean(p)
            ratio, log_ratio = mean / mean_p, log_mean - jnp.log(mean_p)
            return gamma.fit_shape(mean_p, _mean_along(ratio, weights, p.shape), _mean_along(log_ratio, weights, p.shape))
        return gamma.fit(_mean_along(mean, weights, p.shape), _mean_along(log_mean, weights, p.shape))

    if on.templates:
        prior = prior._replace(templates=tied("templates", held=True))
    if on.excitations:
        prior = prior._replace(excitations=tied("excitations", held=False))
    if on.catalogue:
        prior = prior._replace(catalogue=tied("catalogue", held=False))
    r = hyper.frame_prior
    if on.entry:
        r = frame_prior.learn_entry(r, jumps, model.concentration)
    return Hyper(prior, r)


def rescale(moments: Blocks, posterior: Blocks) -> tuple[Blocks, Blocks]:
    """Set mean(f) = 1 and move its scale into the gain; for maximum-likelihood points, where (c f, v / c) is not identifiable."""
    c = moments.filter.mean.mean()

    def times(m, q, factor):
        return Moments(m.mean * factor, m.geometric * factor), Gamma(q.shape, q.scale * factor)

    f, qf = times(moments.filter, posterior.filter, 1 / c)
    v, qv = times(moments.gain, posterior.gain, c)
    return moments._replace(filter=f, gain=v), posterior._replace(filter=qf, gain=qv)
