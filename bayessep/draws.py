"""Draws from the posterior of a separation: plausible alternatives for the speech and the music.

A separation holds posterior means and standard deviations per bin; draws also keep the dependence between bins and frames, so that
any statistic can be computed from them, and they can be listened to.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from bayessep.inference import posterior
from bayessep.models import sources
from bayessep.models.jingle_mixture import Blocks, JingleMixture
from bayessep.pipeline import Separation, masked
from bayessep.preparation import passed, speech_share, window_of
from bayessep.separators import target_rows
from bayessep.stft import stft


def draw_masks(found: Separation, key: PRNGKeyArray, draws: int) -> Iterator[Float[np.ndarray, "T F"]]:
    """Yield draws of the speech share of every modelled bin, around `found.mask`.

    Frames settled by labels never vary, nor do those given to the speech because hardly any music was inferred (`Settings.faint`).
    If the blocks are points (icm), the mean of the draws is the mask; if they are uncertain, only approximately, because the mask
    is computed from their geometric means.
    """
    problem, blocks, moments, readings, candidates, n_speech = found.posterior
    rows = target_rows(problem, int(found.target.sum()))
    x = np.asarray(problem.frames.x[rows])
    settled = passed(found.mask, found.settings.faint)
    for one in jax.random.split(key, draws):
        drawn = _draw(one, problem, blocks, moments, candidates, readings=readings, n_speech=n_speech)
        mask = found.mask.copy()
        mask[found.target] = speech_share(np.asarray(drawn[rows]), x)
        mask[settled] = 1
        yield mask


def key_of(found: Separation) -> PRNGKeyArray:
    """Return a key for draws of a separation, derived from its seed but distinct from the keys that inference split off it."""
    return jax.random.fold_in(jax.random.key(found.settings.seed), 2**31)


def draw_speech(
    found: Separation, mixture: Float[np.ndarray, "C N"], sample_rate: int, key: PRNGKeyArray, draws: int
) -> Iterator[Float[np.ndarray, "C N"]]:
    """Yield draws of the speech as waveforms; the music of each is the mixture minus its speech."""
    window = window_of(found.settings, sample_rate)
    spectrum = np.asarray(stft(jnp.asarray(mixture, jnp.float32), window))
    for mask in draw_masks(found, key, draws):
        yield masked(spectrum, mask, window, mixture.shape[1], found.settings.mask_power)


def to_arviz(found: Separation, key: PRNGKeyArray, draws: int = 200):
    """Return draws of the model's blocks in ArviZ's container, with the magnitudes that they explain as observed data.

    Variables are templates, excitations and, if there is music, filter, gain and the learned catalogue entries. Blocks that are
    points (ICM, flat priors) are repeated. Frame coordinates are in seconds, frequencies in Hz.
    """
    problem, blocks, moments, readings, _ = found.posterior[:5]
    frames = target_rows(problem, int(found.target.sum()))
    latent = np.flatnonzero(np.asarray(problem.latent))
    rows = {"excitations": frames, "gain": frames, "catalogue": latent}
    names = ["templates", "excitations"]
    names += ["filter", "gain"] if problem.has_music else []
    names += ["catalogue"] if len(latent) else []

    def cut(name: str):
        is_point = getattr(readings, name) in ("mode", "log_mode")
        whole = getattr(moments, name).mean if is_point else getattr(blocks, name)
        return jax.tree.map(lambda a: a[rows[name]] if name in rows else a, whole)

    dims = {"templates": ["base", "frequency"], "excitations": ["frame", "base"], "filter": ["frequency"], "gain": ["frame"]}
    dims |= {"catalogue": ["entry", "frequency"], "magnitude": ["frame", "frequency"]}
    coords = {"frame": found.times[found.target], "frequency": found.frequencies}
    coords |= {"entry": latent} if len(latent) else {}
    return posterior.to_arviz(
        posterior.draw(key, {name: cut(name) for name in names}, draws),
        dims={name: dims[name] for name in (*names, "magnitude")},
        coords=coords,
        observed={"magnitude": problem.frames.x[frames]},
    )


@partial(jax.jit, static_argnames=("readings", "n_speech"))
def _draw(
    key: PRNGKeyArray,
    problem: JingleMixture,
    blocks: Blocks,
    moments: Blocks,
    candidates: Array | None,
    *,
    readings: Blocks,
    n_speech: int | None,
) -> Float[Array, "T F"]:
    if n_speech is not None:
        return sources.draw_of_templates(key, problem, blocks, moments, readings, n_speech)
    return sources.draw_sources(key, problem, problem.hyper, blocks, moments, readings, candidates)
