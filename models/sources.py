"""Posterior of the sources of a speech-and-music problem: means, variances, draws and predictive densities."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bayessep import gamma
from bayessep.models import frame_prior
from bayessep.models.entries import (
    entry_log_likelihood,
    geometric_speech,
    number_of_parts,
    scatter_candidates,
    speech_rate,
    visit_entries,
    weigh_entries,
)
from bayessep.models.jingle_mixture import TINY, Blocks, Hyper, JingleMixture, read


class Sources(NamedTuple):
    """Posterior of the sources in the units of x; music is x minus speech, with the same variance."""

    speech: Float[Array, "T F"]  # posterior mean
    variance: Float[Array, "T F"]
    p_music: Float[Array, " T"]  # probability that the frame holds music


def sources(
    model: JingleMixture, hyper: Hyper, moments: Blocks, candidates: Int[Array, "T K"] | None = None
) -> Sources:
    """Return posterior mean and variance of the speech part of every bin, sum_i s_uit, under q(S, M, R).

    Given r = j it is binomial, Binomial(x, p_j) with p_j = G / (G + lambda_j); over r the law of total variance applies. With
    `model.speech_shape`, each bin has a rate of its own instead of G (`own_rate`).
    """
    x, rho = model.frames.x, weigh_entries(model, hyper, moments, candidates).responsibility
    speech = geometric_speech(model, moments)
    if not model.has_music:
        return Sources(x, jnp.zeros_like(x), jnp.zeros_like(x[:, 0]))
    n_entries, entry = visit_entries(model, moments, candidates)

    def one(carry, k):
        mean, square = carry
        p = _share(model, x, speech, entry(k))
        rho_k = jax.lax.dynamic_index_in_dim(rho, k, 1)
        return (mean + rho_k * p, square + rho_k * p**2), None

    (mean, square), _ = jax.lax.scan(one, (jnp.zeros_like(x), jnp.zeros_like(x)), jnp.arange(n_entries))
    # Less than one count goes to one source as a whole: the variance of a share is at most that of all or nothing.
    within = x * jnp.minimum(x, 1) * jnp.maximum(mean - square, 0)
    variance = within + x**2 * jnp.maximum(square - mean**2, 0)
    p_null = scatter_candidates(rho, candidates, model.catalogue.shape[0], 0.0)[:, 0]
    return Sources(x * mean, variance, 1 - p_null)


def of_templates(model: JingleMixture, moments: Blocks, n_speech: int) -> Sources:
    """Return the sources if music has templates and no catalogue: the first `n_speech` templates are speech, the others music.

    General templates cannot tell whether there is any music: a frame holds music with its prior probability, `frames.music`.
    """
    x, music = model.frames.x, model.frames.music[:, None]
    p = _share_of_templates(model, moments, n_speech)  # share of speech, given that there is music
    within = x * jnp.minimum(x, 1) * music * p * (1 - p)
    return Sources(x * (1 - music * (1 - p)), within + x**2 * music * (1 - music) * (1 - p) ** 2, model.frames.music)


def _share_of_templates(model: JingleMixture, moments: Blocks, n_speech: int) -> Float[Array, "T F"]:
    """Share of the first `n_speech` templates in the rate of each bin."""
    rates = [
        speech_rate(model, moments.excitations.mean[:, rows], moments.templates.mean[rows]) + TINY
        for rows in (slice(None, n_speech), slice(n_speech, None))
    ]
    return rates[0] / (rates[0] + rates[1])


def own_rate(
    x: Float[Array, "*s"], speech: Float[Array, "*s"], music: Float[Array, "*s"], shape: float
) -> Float[Array, "*s"]:
    """Return the speech rate of each bin by itself: a compromise between the templates' rate and the excess of x over the music.

    Templates are smooth, speech is not, so its rate in a bin is modelled as speech * z, z ~ Gamma(shape, 1 / shape). Returned is
    the rate at the mode of log z given x ~ Poisson(speech * z + music), the positive root of a quadratic. A large shape keeps to
    the templates, a small one approaches max(x - music, 0).
    """
    trust = shape + speech
    b = speech * (shape + x) - trust * music
    root = jnp.sqrt(b**2 + 4 * trust * shape * speech * music)
    # Of the two ways to write the root, take the one without cancellation.
    return jnp.where(b > 0, (b + root) / (2 * trust), 2 * shape * speech * music / jnp.maximum(root - b, TINY))


def _share(model: JingleMixture, x: Array, speech: Array, music: Array) -> Array:
    if model.speech_shape is not None:
        speech = own_rate(x, speech, music, model.speech_shape) + TINY
    return speech / (speech + music)


def draw_sources(
    key: PRNGKeyArray,
    model: JingleMixture,
    hyper: Hyper,
    posterior: Blocks,
    moments: Blocks,
    readings: Blocks,
    candidates: Int[Array, "T K"] | None = None,
) -> Float[Array, "T F"]:
    """Draw speech magnitudes from the posterior: blocks from q, then r given the blocks, then the share of speech in each bin.

    Blocks that were read as points stay at their points. x is real, so the binomial share is replaced by a Beta draw of the same
    mean and variance (for x above 1; below, it is all or nothing).
    """
    *keys, key_r, key_share = jax.random.split(key, len(Blocks._fields) + 2)
    moments, x = _draw_blocks(keys, model, posterior, moments, readings), model.frames.x
    speech = speech_rate(model, moments.excitations.mean, moments.templates.mean) + TINY
    scores = entry_log_likelihood(model, moments, candidates)
    scores = scatter_candidates(scores, candidates, model.catalogue.shape[0], -jnp.inf)
    r, _ = frame_prior.sample(key_r, scores, hyper.frame_prior, chain=model.chain, starts=model.frames.starts)

    def share(x, speech, gain, r):
        return _share(model, x, speech, gain * moments.filter.mean * moments.catalogue.mean[r])

    return _draw_shares(key_share, share, x, speech, moments.gain.mean, r)


def draw_of_templates(
    key: PRNGKeyArray, model: JingleMixture, posterior: Blocks, moments: Blocks, readings: Blocks, n_speech: int
) -> Float[Array, "T F"]:
    """Draw speech magnitudes as `draw_sources` does, for the model of `of_templates`.

    Which frames hold music is decided by one uniform number for all frames, since music does not come and go from frame to frame.
    """
    *keys, key_music, key_share = jax.random.split(key, len(Blocks._fields) + 2)
    moments, x = _draw_blocks(keys, model, posterior, moments, readings), model.frames.x
    speech = _draw_shares(key_share, lambda _, p: p, x, _share_of_templates(model, moments, n_speech))
    return jnp.where((jax.random.uniform(key_music, dtype=x.dtype) < model.frames.music)[:, None], speech, x)


def _draw_blocks(
    keys: Sequence[PRNGKeyArray], model: JingleMixture, posterior: Blocks, moments: Blocks, readings: Blocks
) -> Blocks:
    """Moments of a draw of all blocks, each with its own key; blocks read as points keep their moments."""

    def draw(name, key):
        if getattr(readings, name) in ("mode", "log_mode"):
            return getattr(moments, name)
        return read(model, name, getattr(posterior, name), "sample", key)

    return Blocks(*(draw(name, k) for name, k in zip(Blocks._fields, keys, strict=True)))


def _draw_shares(
    key: PRNGKeyArray, share: Callable[..., Array], x: Float[Array, "T F"], *of_frames: Array
) -> Float[Array, "T F"]:
    """Draw parts of x from Beta distributions with mean `share(x, *of_frames)`, evaluated frame by frame.

    Their variance is that of a binomial where x is above 1.
    """

    def one_frame(frame):
        key, x, *rest = frame
        p, counts = share(x, *rest), jnp.maximum(x - 1, 1e-3)
        return x * gamma.sample_share(key, jnp.maximum(counts * p, TINY), jnp.maximum(counts * (1 - p), TINY))

    # A share takes twenty random numbers to draw, so frames are drawn in batches to bound the memory.
    at_once = -(-len(x) // number_of_parts(*x.shape))
    return jax.lax.map(one_frame, (jax.random.split(key, len(x)), x, *of_frames), batch_size=at_once)


def log_predictive(model: JingleMixture, moments: Blocks, responsibility: Float[Array, "T J"]) -> Float[Array, ""]:
    """Return the mean log predictive density of the held-out bins (where `frames.observed` is 0), averaged over entries under q(r).

    Rates are the posterior means. The score serves to choose the number of bases or the method; higher is better.

    Raises ValueError if no bins are held out.
    """
    x, observed = model.frames.x, model.frames.observed
    if observed is None:
        raise ValueError("no bins are held out: give `observed` when the problem is built")
    held = 1 - observed
    speech = speech_rate(model, moments.excitations.mean, moments.templates.mean) + TINY
    music = moments.gain.mean[:, None] * moments.filter.mean[None, :]

    def one(best, k):
        rate = speech + music * moments.catalogue.mean[k][None, :]
        log_p = (held * (xlogy(x, rate) - rate - gamma.log_gamma(x + 1))).sum(1)
        return jnp.logaddexp(best, jnp.log(responsibility[:, k]) + log_p), None

    start = jnp.full_like(x[:, 0], -jnp.inf)
    total, _ = jax.lax.scan(one, start, jnp.arange(model.catalogue.shape[0]))
    return total.sum() / held.sum()
