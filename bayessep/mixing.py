"""Mix speech and music at a given ratio, crop, loop and fade: pure functions of arrays and keys.

The ratio of a mixture is the speech-to-music ratio (SMR), 10 log10 of the power of the speech over that of
the music. In a mixture made here the speech is left as it is and the music is scaled. A function works on one
recording, mono (N,) or with channels (channels, N) that share one gain; batches go through `jax.vmap`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bayessep.errors import UserError

Number = float | int | Float[Array | np.ndarray, ""]


class Mixture(NamedTuple):
    """Speech over music: ``mixture`` is the sum of the other two (up to rounding)."""

    mixture: Float[Array, "*channels N"]
    speech: Float[Array, "*channels N"]
    music: Float[Array, "*channels N"]


# --- ratios -------------------------------------------------------------------------------------------------


def power(x: Float[Array | np.ndarray, "..."]) -> Float[Array, ""]:
    """Mean square over all samples and channels."""
    return jnp.mean(jnp.square(jnp.asarray(x)))


def ratio_db(a: Float[Array | np.ndarray, "..."], b: Float[Array | np.ndarray, "..."]) -> Float[Array, ""]:
    """Power of ``a`` over power of ``b`` in decibels; infinite if one is silent, NaN if both are."""
    return 10 * (jnp.log10(power(a)) - jnp.log10(power(b)))


def scale_to_ratio(
    speech: Float[Array | np.ndarray, "..."], music: Float[Array | np.ndarray, "..."], smr_db: Number
) -> Float[Array, ""]:
    """Return the gain for the music that gives a speech-to-music ratio of ``smr_db`` decibels.

    If one of the two is silent, there is no such gain. Under jit, vmap or grad, where no error can be raised, the
    gain is then 1, with a zero gradient.

    Raises:
        UserError: outside of these, the speech or the music is silent.
    """
    speech_power, music_power = power(speech), power(music)
    if not isinstance(speech_power, Tracer) and not isinstance(music_power, Tracer):
        for name, value in (("speech", speech_power), ("music", music_power)):
            if value == 0:
                raise UserError(
                    f"the {name} is silent, so that no gain gives a speech-to-music ratio; use another part."
                )
    defined = (speech_power > 0) & (music_power > 0)
    # Both branches of `where` enter the gradient, hence the safe argument of the root.
    ratio = jnp.where(defined, speech_power, 1) / jnp.where(defined, music_power, 1)
    attenuation = jnp.asarray(10.0, ratio.dtype) ** (-jnp.asarray(smr_db, ratio.dtype) / 20)
    return jnp.where(defined, jnp.sqrt(ratio) * attenuation, 1)


def mix_at_ratio(
    speech: Float[Array | np.ndarray, "*channels N"],
    music: Float[Array | np.ndarray, "*channels N"],
    smr_db: Number,
) -> Mixture:
    """Mix unchanged speech with music scaled to a ratio of ``smr_db`` decibels (`scale_to_ratio`, also for silence)."""
    speech, music = jnp.asarray(speech), jnp.asarray(music)
    scaled = scale_to_ratio(speech, music, smr_db) * music
    return Mixture(speech + scaled, speech, scaled)


# --- time ---------------------------------------------------------------------------------------------------


def repeat_to_length(
    x: Float[Array | np.ndarray, "*channels N"], n: int, offset: int | Int[Array, ""] = 0
) -> Float[Array, "*channels {n}"]:
    """Loop x and return n samples of it from sample ``offset`` of x (any integer, may be traced)."""
    period = x.shape[-1]
    start = jnp.asarray(offset) % period
    # start + n may exceed the period many times, but not the range of int32 (37 hours at 16 kHz).
    return jnp.take(jnp.asarray(x), (start + jnp.arange(n, dtype=start.dtype)) % period, axis=-1)


def fade(
    x: Float[Array | np.ndarray, "*channels N"], sample_rate: int, in_s: float | int, out_s: float | int
) -> Float[Array, "*channels N"]:
    """Fade x in over ``in_s`` seconds at its beginning and out over ``out_s`` at its end (raised cosine).

    Fades longer than x are truncated where x ends; 0 means no fade.
    """
    x = jnp.asarray(x)
    n = x.shape[-1]
    # Taken at the middle of each sample, so that a fade-in and a fade-out of equal length add up to one.
    position = np.arange(n) + 0.5
    envelope = _ramp(position, in_s * sample_rate) * _ramp(position[::-1], out_s * sample_rate)
    return x * jnp.asarray(envelope, x.dtype).reshape((1,) * (x.ndim - 1) + (n,))


def _ramp(position: np.ndarray, length: float | int) -> np.ndarray:
    """A raised cosine from 0 to 1 over ``length`` samples."""
    if length <= 0:
        return np.ones_like(position)
    return np.sin(0.5 * np.pi * np.minimum(position / length, 1)) ** 2


def random_crop(
    key: PRNGKeyArray, x: Float[Array | np.ndarray, "*channels N"], n: int
) -> Float[Array, "*channels {n}"]:
    """Return n consecutive samples of x from a random position; a shorter x is placed at random in n samples of silence."""
    x = jnp.asarray(x)
    spare = max(0, n - x.shape[-1])
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(spare, spare)])
    start = jax.random.randint(key, (), 0, x.shape[-1] - n + 1)
    return jax.lax.dynamic_slice_in_dim(x, start, n, axis=-1)


# --- chance -------------------------------------------------------------------------------------------------


def random_gain(
    key: PRNGKeyArray, x: Float[Array | np.ndarray, "*channels N"], low_db: Number, high_db: Number
) -> Float[Array, "*channels N"]:
    """Return x times a random gain, uniform in decibels between ``low_db`` and ``high_db``."""
    x = jnp.asarray(x)
    gain_db = _uniform(key, low_db, high_db, x.dtype)
    return x * jnp.asarray(10.0, x.dtype) ** (gain_db / 20)


def dynamic_mix(
    key: PRNGKeyArray,
    speech: Float[Array | np.ndarray, "*channels N"],
    music: Float[Array | np.ndarray, "*channels M"],
    n: int,
    smr_low: Number = 0.0,
    smr_high: Number = 0.0,
    smrs: Float[Array | np.ndarray, " K"] | Int[Array | np.ndarray, " K"] | None = None,
) -> Mixture:
    """Draw a random mixture of n samples: random excerpts of speech and music at a random ratio.

    Speech shorter than n is placed at random in silence; music shorter than n is looped from a random sample on. If either
    excerpt is silent, the music is left unscaled (see `scale_to_ratio`).

    Args:
        key: determines all random choices.
        speech, music: recordings to take excerpts of, with the same channels.
        n: samples of the mixture.
        smr_low, smr_high: the ratio is uniform between these (dB) …
        smrs: … or, if given, drawn from these (dB), such as ``jnp.arange(-5, 21)``.
    """
    speech_key, music_key, ratio_key = jax.random.split(key, 3)
    speech, music = jnp.asarray(speech), jnp.asarray(music)
    if music.shape[-1] < n:
        offset = jax.random.randint(music_key, (), 0, music.shape[-1])
        music = repeat_to_length(music, n, offset)
    else:
        music = random_crop(music_key, music, n)
    if smrs is None:
        smr_db = _uniform(ratio_key, smr_low, smr_high, speech.dtype)
    else:
        smr_db = jax.random.choice(ratio_key, jnp.asarray(smrs, speech.dtype))
    return _mix_if_heard(random_crop(speech_key, speech, n), music, smr_db)


@jax.jit
def _mix_if_heard(
    speech: Float[Array, "*channels N"], music: Float[Array, "*channels N"], smr_db: Float[Array, ""]
) -> Mixture:
    """`mix_at_ratio` under jit, where silence leaves the music unscaled instead of raising an error."""
    return mix_at_ratio(speech, music, smr_db)


def _uniform(key: PRNGKeyArray, low: Number, high: Number, dtype: np.dtype) -> Float[Array, ""]:
    low, high = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
    return low + (high - low) * jax.random.uniform(key, (), dtype)
