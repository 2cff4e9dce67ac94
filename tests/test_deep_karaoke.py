"""The network of paper 004: its size, its windows, its steps, and masks against sums over every window and cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep.errors import UserError
from bayessep.models import deep_karaoke as karaoke
from bayessep.models.deep_karaoke import PRESETS, Batch, DeepKaraoke

TINY = DeepKaraoke(bins=5, frames=4, width=7, bias=1.0)


def _spectrogram(frames: int, bins: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((frames, bins), np.float32)


def _batch(config: DeepKaraoke = TINY, n: int = 6) -> Batch:
    x = np.random.default_rng(0).random((n, config.frames, config.bins), np.float32)
    return Batch(x, np.asarray(x > 0.5, np.float32))


# --- sizes and settings --------------------------------------------------------------------------------------------------


def test_there_are_as_many_parameters_as_in_the_paper() -> None:
    assert karaoke.parameter_count(PRESETS["paper"]) == 840_541_000
    assert karaoke.parameter_count(PRESETS["small"]) == 2 * 20500 * 256 + 256 + 20500
    held = jax.tree.leaves(karaoke.init(TINY, jax.random.key(0)).parameters)
    assert karaoke.parameter_count(TINY) == sum(leaf.size for leaf in held) == 2 * 20 * 7 + 7 + 20


def test_numbers_start_uniform_biases_too() -> None:
    config = DeepKaraoke(bins=20, frames=10, width=100)
    bound = 4 * (6 / 300) ** 0.5
    for leaf in map(np.asarray, jax.tree.leaves(karaoke.init(config, jax.random.key(0)).parameters)):
        assert 0.9 * bound < np.abs(leaf).max() <= bound
        # Three standard errors of the mean, and of the variance, of uniform numbers.
        assert abs(leaf.mean()) < 3 * bound / (3 * leaf.size) ** 0.5
        assert leaf.var() == pytest.approx(bound**2 / 3, rel=3 * (0.8 / leaf.size) ** 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bins": 0}, "bins is 0"),
        ({"frames": 0}, "frames is 0"),
        ({"width": -1}, "width is -1"),
        ({"bias": float("nan")}, "bias is nan"),
        ({"rate": 0.0}, "rate 0.0"),
        ({"rate": float("inf")}, "rate inf"),
        ({"momentum": 1.0}, "below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        DeepKaraoke(**settings)


# --- windows and targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "length", "hop"), [(23, 4, 6), (22, 4, 6), (4, 4, 1), (9, 4, 1)])
def test_windows_are_cut_one_by_one(frames: int, length: int, hop: int) -> None:
    x = _spectrogram(frames)
    expected = [x[begin : begin + length] for begin in range(0, frames - length + 1, hop)]
    np.testing.assert_array_equal(karaoke.windows_of(x, length, hop), np.stack(expected))


def test_silence_is_added_to_what_is_shorter_than_a_window() -> None:
    x = _spectrogram(3)
    found = karaoke.windows_of(jnp.asarray(x), 5, 2)
    assert found.shape == (1, 5, 5)
    np.testing.assert_array_equal(found[0], np.concatenate([x, np.zeros((2, 5))]))
    with pytest.raises(UserError, match="no frame"):
        karaoke.windows_of(x[:0], 5, 2)


def test_the_ideal_mask_is_of_what_is_louder() -> None:
    speech, music = np.float32([[1, 2, 0]]), np.float32([[2, 1, 0]])
    found = karaoke.ideal_binary_mask(speech, music)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 1, 0]])


# --- network -------------------------------------------------------------------------------------------------------------


def _network() -> karaoke.Network:
    """One whose numbers can be set."""
    return nnx.merge(karaoke.graph(TINY), karaoke.init(TINY, jax.random.key(0)).parameters)


def _predicted(network: karaoke.Network, windows: jax.Array, config: DeepKaraoke = TINY) -> jax.Array:
    return karaoke.predict(config, nnx.state(network, nnx.Param), windows)


def test_probabilities_are_those_of_the_paper() -> None:
    network, windows = _network(), _batch().magnitude
    flat = np.asarray(windows, np.float64).reshape(len(windows), -1)  # 4 frames of 5 bins, one after the other

    def linear(x: np.ndarray, layer: nnx.Linear) -> np.ndarray:
        return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)

    hidden = 1 / (1 + np.exp(-(linear(flat, network.hidden) - TINY.bias)))
    expected = 1 / (1 + np.exp(-linear(hidden, network.out)))
    found = _predicted(network, jnp.asarray(windows))
    np.testing.assert_allclose(found, expected.reshape(windows.shape), rtol=1e-5)


def test_hidden_units_are_nearly_silent_at_first() -> None:
    network = _network()
    network.hidden.bias[...] = jnp.zeros(7)
    network.out.kernel[...], network.out.bias[...] = jnp.ones((7, 20)), jnp.zeros(20)
    for bias in (0.0, 6.0):
        found = _predicted(network, jnp.zeros((1, 4, 5)), DeepKaraoke(bins=5, frames=4, width=7, bias=bias))
        # Seven units, each of which says 1 / (1 + e^bias).
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-7 / (1 + np.exp(bias)))), rtol=1e-5)


def test_windows_are_unpacked_frame_by_frame() -> None:
    network, at = _network(), (2, 3)
    cell = at[0] * TINY.bins + at[1]
    network.hidden.kernel[...] = jnp.asarray(np.eye(20, 7, -cell) * (np.arange(7) == 0), jnp.float32)
    network.out.kernel[...] = network.hidden.kernel[...].T
    windows = np.repeat(_spectrogram(4)[None], 21, axis=0)
    windows.reshape(21, 20)[np.arange(20), np.arange(20)] += 1  # each cell once, and none
    found = np.asarray(_predicted(network, jnp.asarray(windows)))
    changed = np.argwhere(np.abs(found[:20] - found[20]) > 1e-4)
    assert [tuple(place) for place in changed] == [(cell, *at)]


# --- training ------------------------------------------------------------------------------------------------------------


def test_a_step_is_that_of_momentum() -> None:
    batch, state = _batch(), karaoke.init(TINY, jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def loss(parameters: nnx.State) -> jax.Array:
        error = karaoke.predict(TINY, parameters, batch.magnitude) - batch.target
        return (0.5 * (error**2).sum((1, 2))).mean()

    at, speed = state.parameters, jax.tree.map(jnp.zeros_like, state.parameters)
    state = jax.tree.map(jnp.copy, state)  # a step takes its state's memory
    for _ in range(3):
        expected, gradient = loss(at)
        speed = jax.tree.map(lambda v, g: 0.5 * v + g, speed, gradient)
        at = jax.tree.map(lambda p, v: p - 0.1 * v, at, speed)
        state, found = karaoke.step(TINY, state, batch, jax.random.key(1))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for mine, theirs in zip(jax.tree.leaves(state.parameters), jax.tree.leaves(at), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_steps_learn_and_do_not_depend_on_anything_but_the_seed() -> None:
    def run(seed: int) -> tuple[list[float], list[np.ndarray]]:
        state, losses = karaoke.init(TINY, jax.random.key(seed)), []
        for key in jax.random.split(jax.random.key(9), 10):
            state, loss = karaoke.step(TINY, state, _batch(), key)
            losses.append(float(loss))
        return losses, [np.asarray(leaf) for leaf in jax.tree.leaves(state.parameters)]

    (losses, one), (again, two), (other, _) = run(0), run(0), run(1)
    assert (np.diff(losses) < 0).all() and losses[-1] < 0.95 * losses[0]
    assert losses == again != other
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("norm", [1.0, 99.0, 1e6])
def test_gradients_are_clipped_beyond_what_occurs(norm: float) -> None:
    parameters = {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}
    gradient = {"kernel": jnp.zeros((3, 4)).at[0, 0].set(norm), "bias": jnp.zeros(4)}
    optimiser = karaoke.optimiser(TINY)
    change, _ = optimiser.update(gradient, optimiser.init(parameters), parameters)
    np.testing.assert_allclose(change["kernel"][0, 0], -TINY.rate * min(norm, 100.0), rtol=1e-5)


def test_one_program_serves_every_step() -> None:
    state, _ = karaoke.step(TINY, karaoke.init(TINY, jax.random.key(0)), _batch(), jax.random.key(1))
    programs = karaoke.step._cache_size()
    karaoke.step(TINY, state, _batch(), jax.random.key(2))
    assert karaoke.step._cache_size() == programs


def _song(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Vocals in two bins and the rest in two others; which bin of a pair sounds, and how loudly, changes at every frame."""
    x = np.zeros((2, frames, 6), np.float32)
    for source, bins in enumerate(((1, 4), (2, 3))):
        x[source, np.arange(frames), rng.choice(bins, frames)] = rng.uniform(0.3, 1, frames)
    return x[0], x[1]


def test_two_spectra_are_told_apart_in_a_song_that_was_not_heard() -> None:
    config = DeepKaraoke(bins=6, frames=3, width=60, rate=0.2)
    rng = np.random.default_rng(0)
    vocal, other = _song(rng, 600)
    scale = float((vocal + other).max())
    heard = Batch(
        karaoke.windows_of((vocal + other) / np.float32(scale), 3, 3),
        karaoke.windows_of(karaoke.ideal_binary_mask(vocal, other), 3, 3),
    )
    order = np.concatenate([rng.permutation(200).reshape(-1, 20) for _ in range(200)])
    batches = Batch(*(jnp.asarray(part[order]) for part in heard))
    learn = jax.jit(lambda state: jax.lax.scan(lambda s, b: karaoke.step(config, s, b, jax.random.key(1)), state, batches))
    state, losses = learn(karaoke.init(config, jax.random.key(0)))
    assert losses[-50:].mean() < 0.2 * losses[:50].mean()
    vocal, other = _song(rng, 100)
    mask = karaoke.averaged_mask(config, state.parameters, vocal + other, scale, batch=32)
    sounding = vocal + other > 0
    right = (mask > 0.5) == (vocal > other)
    assert right[sounding].mean() > 0.97 and right[~sounding].mean() > 0.9


# --- masks of whole recordings -------------------------------------------------------------------------------------------


def _said(windows: jax.Array) -> jax.Array:
    """Something else for every place in a window, and of silence too."""
    places = 1 + jnp.arange(windows.shape[1] * windows.shape[2], dtype=jnp.float32).reshape(1, *windows.shape[1:])
    return jnp.cos(places * windows + windows.sum((1, 2), keepdims=True))


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("frames", [1, 2, 4, 5, 9, 13])
def test_each_cell_has_the_mean_over_the_windows_that_cover_it(frames: int, batch: int) -> None:
    x, length = _spectrogram(frames), 4
    padded = np.concatenate([x, np.zeros((max(0, length - frames), 5), np.float32)])
    total, count = np.zeros_like(padded), np.zeros_like(padded)
    for begin in range(len(padded) - length + 1):
        said = np.asarray(_said(jnp.asarray(padded[begin : begin + length])[None]))[0]
        for k in range(length):
            total[begin + k] += said[k]
            count[begin + k] += 1
    assert count.min() == 1 and count.max() == min(length, len(padded) - length + 1)
    found = karaoke.averaged(_said, x, length, batch=batch)
    assert found.shape == x.shape
    np.testing.assert_allclose(found, (total / count)[:frames], atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_code_gives_the_mean_of_a_window_to_its_first_frame(batch: int) -> None:
    x, length = _spectrogram(9), 4
    means = [np.asarray(_said(jnp.asarray(x[begin : begin + length])[None]))[0].mean(0) for begin in range(6)]
    found = karaoke.averaged(_said, x, length, "window", batch)
    np.testing.assert_allclose(found, np.stack(means + 3 * means[-1:]), atol=1e-6)
    assert karaoke.averaged(_said, x[:2], length, "window", batch).shape == (2, 5)


def test_never_more_than_a_batch_is_looked_at() -> None:
    seen = []

    def said(windows: jax.Array) -> jax.Array:
        seen.append(windows.shape)
        return windows

    x = _spectrogram(50)
    np.testing.assert_allclose(karaoke.averaged(said, x, 4, batch=8), x, atol=1e-6)
    assert seen == [(8, 4, 5)] * 6


def test_masks_are_stretched_only_if_asked() -> None:
    x = _spectrogram(20)
    plain, stretched = (karaoke.averaged(_said, x, 4, rescaled=rescaled) for rescaled in (False, True))
    np.testing.assert_allclose(stretched, (plain - plain.min()) / (plain.max() - plain.min()), atol=1e-6)
    assert (stretched.min(), stretched.max()) == (0, 1)
    same = karaoke.averaged(lambda windows: jnp.full_like(windows, 0.25), x, 4, rescaled=True)
    np.testing.assert_allclose(same, 0.25, rtol=1e-6)


def test_a_mask_is_that_of_the_network_at_the_scale_of_its_training() -> None:
    parameters = karaoke.init(TINY, jax.random.key(0)).parameters
    x = 30 * _spectrogram(11)
    expected = karaoke.averaged(lambda windows: karaoke.predict(TINY, parameters, windows), x / np.float32(30), 4)
    found = karaoke.averaged_mask(TINY, parameters, x, 30.0, batch=3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 0 < found.min() and found.max() < 1
    assert np.abs(karaoke.averaged_mask(TINY, parameters, x, 60.0) - found).max() > 1e-3


def test_masks_that_cannot_be_made_are_refused() -> None:
    parameters = karaoke.init(TINY, jax.random.key(0)).parameters
    for settings, words in (
        ({"scale": 0.0}, "scale is 0.0"),
        ({"averaging": "median"}, "choose one of overlap, window"),
        ({"batch": 0}, "batch is 0"),
        ({"magnitude": _spectrogram(9, bins=6)}, "6 bins, but the network looks at 5"),
        ({"magnitude": _spectrogram(0)}, "no frame"),
    ):
        with pytest.raises(UserError, match=words):
            karaoke.averaged_mask(TINY, parameters, **{"magnitude": _spectrogram(9), "scale": 1.0, **settings})


# --- thresholds ----------------------------------------------------------------------------------------------------------


def test_at_a_half_every_cell_has_one_source_and_only_the_middle_has_none() -> None:
    mean = _spectrogram(30)
    vocal, other = karaoke.thresholded(mean, 0.5)
    assert vocal.dtype == other.dtype == np.float32 and 0 < vocal.mean() < 1
    np.testing.assert_array_equal(vocal + other, 1)
    middle = karaoke.thresholded(np.full((1, 1), 0.5, np.float32), 0.5)
    assert middle.vocal.item() == middle.other.item() == 0


def test_thresholds_are_those_of_the_equations() -> None:
    mean = np.float32([[0.05, 0.15, 0.5, 0.85, 0.95]])
    for alpha, vocal, other in ((0.1, [0, 1, 1, 1, 1], [1, 1, 1, 1, 0]), (0.9, [0, 0, 0, 0, 1], [1, 0, 0, 0, 0])):
        found = karaoke.thresholded(jnp.asarray(mean), alpha)
        np.testing.assert_array_equal(found.vocal[0], vocal)
        np.testing.assert_array_equal(found.other[0], other)


def test_more_confidence_keeps_less_of_either() -> None:
    mean = _spectrogram(30)
    masks = [karaoke.thresholded(mean, alpha) for alpha in np.arange(0.01, 1, 0.1).tolist()]
    for less, more in zip(masks[1:], masks[:-1], strict=True):
        for mine, theirs in zip(less, more, strict=True):
            assert (mine <= theirs).all() and mine.sum() < theirs.sum()
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match="alpha"):
            karaoke.thresholded(mean, alpha)
