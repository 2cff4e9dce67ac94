"""Music made of a few numbers: images that are learned, and shares that come of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep.errors import UserError
from bayessep.models import latent_masking as glo
from bayessep.models.latent_masking import Batch, LatentMasking

pytestmark = pytest.mark.loose_arrays  # optax
TINY = LatentMasking(bins=48, frames=48, latent=8, channels=4, rate=1e-2)


def _learned(state: glo.State, images: np.ndarray, steps: int, kept: object = None) -> tuple[glo.State, list[float]]:
    rng, losses = np.random.default_rng(0), []
    for n in range(steps):
        rows = rng.integers(len(images), size=4).astype(np.int32)
        state, found = glo.step(TINY, state, Batch(rows, images[rows]), jax.random.key(n), kept)
        losses.append(float(found["loss"]))
    return state, losses


def test_mixtures_are_shared_by_what_makes_music_and_what_makes_the_rest() -> None:
    """The network that makes music is kept: only latent vectors of it, and the network of voices, come nearer to the mixtures."""
    levels = np.random.default_rng(1).uniform(0.3, 0.8, (2, 8)).astype(np.float32)
    music, voices = np.zeros((8, 48, 48), np.float32), np.zeros((8, 48, 48), np.float32)
    music[:, :, :24], voices[:, :, 24:] = levels[0, :, None, None], levels[1, :, None, None]
    alone, losses = _learned(glo.init(TINY, jax.random.key(0), 8), 2 * music - 1, 25)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    kept = jax.tree.map(lambda x: x, alone.learned.own.maker)
    begun = glo.init(TINY, jax.random.key(1), 8, mixed=True)
    assert begun.learned.music is not None
    first = np.asarray(begun.learned.music)
    mixed, after = _learned(begun, 2 * (music + voices) - 1, 25, kept)
    assert np.mean(after[-5:]) < 0.8 * np.mean(after[:5])
    jax.tree.map(np.testing.assert_array_equal, kept, alone.learned.own.maker)
    assert mixed.learned.music is not None and np.abs(np.asarray(mixed.learned.music) - first).max() > 0.01
    rows = jnp.arange(8)
    own = mixed.learned.own
    of_music, of_voice = glo.made(TINY, kept, mixed.learned.music), glo.made(TINY, own.maker, own.latent)
    share = np.asarray(glo.shares(TINY, kept, mixed, rows))
    np.testing.assert_allclose(share, np.asarray(of_music / (of_music + of_voice)), rtol=1e-5)
    assert (share >= 0).all() and (share <= 1).all() and share.std() > 0.01
    assert share[:, :, :24].mean() > share[:, :, 24:].mean() + 0.1, "music is where it was made to be"


def test_music_alone_has_no_shares() -> None:
    state = glo.init(TINY, jax.random.key(0), 2)
    with pytest.raises(ValueError, match="music alone"):
        glo.shares(TINY, state.learned.own.maker, state, jnp.arange(2))


@pytest.mark.parametrize("given", [{"bins": 47}, {"frames": 32}, {"latent": 0}, {"channels": 0}, {"rate": 0.0}])
def test_impossible_sizes_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(given))):
        LatentMasking(**given)
