"""Templates of windows: against scikit-learn's updates, a divergence that never rises, and sources that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep.errors import UserError
from bayessep.models import convolutive_nmf as nmf
from bayessep.models import deep_karaoke as karaoke
from bayessep.models.convolutive_nmf import Factors


def _windows(n: int = 30, size: int = 12, seed: int = 0) -> np.ndarray:
    """Some cells are silent."""
    x = np.random.default_rng(seed).gamma(0.7, 1.0, (n, size))
    return (x * (x > 0.1)).astype(np.float32)


def test_the_divergence_never_rises(x64: None) -> None:
    windows = jnp.asarray(_windows(), jnp.float64).at[4].set(0)
    factors = nmf.start(jax.random.key(0), windows, 5)
    found = [float(nmf.divergence(windows, factors))]
    for _ in range(60):
        factors = nmf.sweep(windows, factors)
        found.append(float(nmf.divergence(windows, factors)))
    assert (np.diff(found) <= 1e-12 * found[0]).all()
    # Most of it is gained in the first sweep, which only finds the scale.
    assert 0 < found[-1] < 0.7 * found[1]


def test_the_divergence_never_rises_where_some_templates_are_kept(x64: None) -> None:
    windows = jnp.asarray(_windows(), jnp.float64).at[4].set(0)
    factors = nmf.start(jax.random.key(0), windows, 5)
    kept, found = factors.templates[2:], []
    for _ in range(60):
        factors = nmf.half_kept(windows, factors, 2)
        found.append(float(nmf.divergence(windows, factors)))
    np.testing.assert_array_equal(factors.templates[2:], kept)
    np.testing.assert_allclose(factors.templates[:2].sum(1), 1)
    assert (np.diff(found) <= 1e-12 * found[0]).all() and found[-1] < 0.8 * found[0]


def test_an_unknown_source_is_found_beside_a_known_one() -> None:
    """Two sounds with templates of their own, one of which is known; each frame has as much of both as chance gives it."""
    rng = np.random.default_rng(3)
    known, unknown = rng.gamma(0.3, 1.0, (3, 40)), rng.gamma(0.3, 1.0, (2, 40))
    parts = [(rng.gamma(0.5, 1.0, (200, len(w))) @ w).astype(np.float32) for w in (unknown, known)]
    templates = nmf.fit(jax.random.key(0), parts[1], 3, 300)
    share = np.asarray(nmf.free_shares(jax.random.key(1), jnp.asarray(sum(parts)), templates, 2, 500))
    wrong = np.abs(share * sum(parts) - parts[0]).sum() / parts[0].sum()
    assert wrong < 0.15
    assert np.abs(0.5 * sum(parts) - parts[0]).sum() / parts[0].sum() > 0.5


def test_the_divergence_is_that_of_kullback_and_leibler() -> None:
    windows, factors = jnp.asarray([[0.0, 2.0]]), Factors(jnp.ones((1, 1)), jnp.asarray([[0.5, 3.0]]))
    assert float(nmf.divergence(windows, factors)) == pytest.approx(0.5 + 2 * np.log(2 / 3) - 2 + 3, rel=1e-6)


def test_templates_sum_to_one_and_activations_make_up_for_it() -> None:
    windows = jnp.asarray(_windows())
    begun = nmf.start(jax.random.key(0), windows, 4)
    factors = nmf.sweep(windows, begun)
    np.testing.assert_allclose(factors.templates.sum(1), 1, rtol=1e-5)
    # One update of the templates makes the sum of the model that of the windows.
    np.testing.assert_allclose((factors.activations @ factors.templates).sum(), windows.sum(), rtol=1e-4)


@pytest.mark.parametrize("sweeps", [1, 30])
def test_updates_are_those_of_scikit_learn(x64: None, sweeps: int) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    windows = _windows().astype(np.float64)
    begun = nmf.start(jax.random.key(0), jnp.asarray(windows), 5)
    factors = begun
    for _ in range(sweeps):
        factors = nmf.sweep(jnp.asarray(windows), factors)
    theirs = decomposition.NMF(5, init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=sweeps, tol=0)
    activity = theirs.fit_transform(windows, W=np.array(begun.activations), H=np.array(begun.templates))
    np.testing.assert_allclose(factors.activations @ factors.templates, activity @ theirs.components_, rtol=1e-4, atol=1e-6)


def test_a_fit_is_its_sweeps_on_what_sounds() -> None:
    windows, key = _windows(), jax.random.key(3)
    with_silence = np.insert(windows, [0, 7, 30], 0, axis=0)
    found = nmf.fit(key, with_silence, 4, sweeps=5)
    factors = nmf.start(key, jnp.asarray(windows), 4)
    for _ in range(5):
        factors = nmf.sweep(jnp.asarray(windows), factors)
    np.testing.assert_allclose(found, factors.templates, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(nmf.fit(key, windows, 4, sweeps=5), found)
    assert float(jnp.abs(nmf.fit(jax.random.key(4), windows, 4, sweeps=5) - found).max()) > 0.01


def test_fits_to_similar_numbers_of_windows_share_a_program() -> None:
    key = jax.random.key(3)
    nmf._learned.clear_cache()
    for n in (33, 37, 40):
        windows = np.tile(_windows(), (3, 1))[:n]
        found = nmf.fit(key, windows, 3, sweeps=4)
        factors = nmf.start(key, jnp.asarray(windows), 3)
        for _ in range(4):
            factors = nmf.sweep(jnp.asarray(windows), factors)
        np.testing.assert_allclose(found, factors.templates, rtol=1e-3, atol=1e-6)
    assert nmf._learned._cache_size() == 1


def test_templates_that_no_window_needs_do_no_harm() -> None:
    windows = jnp.asarray(_windows(6, 4)).at[:, 2].set(0)
    templates = jnp.asarray([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = nmf.activations(jax.random.key(0), windows, templates, 50)
    assert np.isfinite(found).all() and (found[:, 1] == 0).all()
    swept = nmf.sweep(windows, Factors(found, templates))
    assert all(np.isfinite(part).all() for part in swept)


def test_kept_templates_find_the_best_activations() -> None:
    truth = jnp.asarray(np.random.default_rng(1).gamma(1.0, 1.0, (8, 3)), jnp.float32)
    templates = jnp.asarray(_windows(3, 12, seed=2))
    found = nmf.activations(jax.random.key(0), truth @ templates, templates / 7, 1000)
    np.testing.assert_allclose(found / 7, truth, rtol=0.02, atol=0.02)
    again = nmf.activations(jax.random.key(5), truth @ templates, templates / 7, 1000)
    np.testing.assert_allclose(again, found, rtol=0.02, atol=0.2)  # the problem is convex


def test_shares_add_up_and_are_half_where_nothing_is() -> None:
    windows, first, second = (jnp.asarray(_windows(n, 12, n)) for n in (9, 3, 4))
    windows = windows.at[2].set(0)
    key = jax.random.key(0)
    found = nmf.shares(key, windows, first, second, sweeps=5000)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found[2], 0.5)
    h = nmf.activations(key, windows, jnp.concatenate([first, second]), 5000)
    sounding = np.delete(np.arange(9), 2)
    one, two = h[:, :3] @ first, h[:, 3:] @ second
    np.testing.assert_allclose(found[sounding], (one / (one + two))[sounding], rtol=1e-4)
    np.testing.assert_allclose(found + nmf.shares(key, windows, second, first, sweeps=5000), 1, atol=0.03)


# --- whole spectrograms --------------------------------------------------------------------------------------------------

FRAMES, BINS = 3, 8


def _source(bins: tuple[int, ...], frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros((frames, BINS), np.float32)
    x[:, bins] = rng.gamma(1.0, 1.0, (frames, 1)) * rng.uniform(0.3, 1, len(bins))
    return x


def _templates(x: np.ndarray, seed: int) -> jax.Array:
    windows = karaoke.windows_of(x, FRAMES, 1)
    return nmf.fit(jax.random.key(seed), windows.reshape(len(windows), -1), 6)


def test_sources_in_bins_of_their_own_come_apart() -> None:
    on, off = (0, 2, 5), (1, 3, 6, 7)
    first, second = _templates(_source(on, 60, 0), 0), _templates(_source(off, 60, 1), 1)
    speech, music = _source(on, 25, 2), _source(off, 25, 3)
    found = nmf.averaged_shares(jax.random.key(2), speech + music, first, second, batch=8)
    np.testing.assert_allclose(found * (speech + music), speech, atol=1e-3)
    np.testing.assert_allclose(karaoke.thresholded(found, 0.5).other * (speech + music), music, atol=1e-6)


def test_sources_in_the_same_bins_come_apart_by_their_frames() -> None:
    """Two sweeps, one up and one down: no single frame tells which it is, three in a row do."""

    def swept(step: int, begin: int) -> np.ndarray:
        return np.eye(BINS, dtype=np.float32)[(begin + step * np.arange(24)) % BINS]

    first, second = _templates(swept(1, 0), 0), _templates(swept(-1, 0), 1)
    for begin, mixture in ((3, swept(1, 3)), (5, swept(-1, 5))):
        found = nmf.averaged_shares(jax.random.key(2), mixture, first, second)
        right = found[mixture > 0] if begin == 3 else 1 - found[mixture > 0]
        assert right.mean() > 0.8


@pytest.mark.parametrize("averaging", ["overlap", "window"])
def test_windows_are_unpacked_and_averaged_as_those_of_the_network(averaging: str) -> None:
    x, key = _windows(11, BINS), jax.random.key(0)
    first, second = (jnp.asarray(_windows(n, FRAMES * BINS, n)) for n in (2, 3))
    rows = [np.concatenate([x[begin + k] for k in range(FRAMES)]) for begin in range(9)]
    said = np.asarray(nmf.shares(key, jnp.asarray(np.stack(rows)), first, second, 20)).reshape(9, FRAMES, BINS)
    found = nmf.averaged_shares(key, x, first, second, 20, averaging, batch=9)
    if averaging == "window":
        np.testing.assert_allclose(found[:9], said.mean(1), atol=1e-5)
    for t in range(11) if averaging == "overlap" else ():
        covering = [said[begin, t - begin] for begin in range(9) if 0 <= t - begin < FRAMES]
        np.testing.assert_allclose(found[t], np.mean(covering, axis=0), atol=1e-5)


def test_loudness_does_not_matter() -> None:
    x, key = _windows(11, BINS), jax.random.key(0)
    first, second = (jnp.asarray(_windows(n, FRAMES * BINS, n)) for n in (2, 3))
    loud, quiet = (nmf.averaged_shares(key, np.float32(gain) * x, first, second, 20) for gain in (1e4, 1e-5))
    np.testing.assert_allclose(loud, quiet, atol=1e-4)


def test_what_cannot_be_factored_is_refused() -> None:
    key, windows = jax.random.key(0), _windows()
    with pytest.raises(UserError, match="templates is 0"):
        nmf.fit(key, windows, 0)
    with pytest.raises(UserError, match="sweeps is 0"):
        nmf.fit(key, windows, 2, sweeps=0)
    with pytest.raises(UserError, match="every window is silent"):
        nmf.fit(key, np.zeros_like(windows), 2)
    templates = jnp.asarray(windows[:2])
    with pytest.raises(UserError, match="of 12 and 12 numbers"):
        nmf.averaged_shares(key, _windows(9, 5), templates, templates)
    with pytest.raises(UserError, match="sweeps is 0"):
        nmf.averaged_shares(key, _windows(9, 4), templates, templates, sweeps=0)
    with pytest.raises(UserError, match="choose one of"):
        nmf.averaged_shares(key, _windows(9, 4), templates, templates, averaging="median")
