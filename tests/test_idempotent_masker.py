"""The networks of paper 002: sizes, layers against plain ones, losses by hand, iterations, and that no voice has a place there."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep.errors import UserError
from bayessep.models import idempotent_masker as masker
from bayessep.models import image_layers as layers
from bayessep.models import masker_training as training
from bayessep.models.idempotent_masker import LOSSES, PRESETS, IdempotentMasker, Weights
from bayessep.models.image_layers import Pool
from bayessep.models.masker_training import Batch

TINY = IdempotentMasker(bins=16, frames=16, hop=8, channels=2, blocks=1, critic=2, layers=1, scales=2, rate=1e-2)


def _images(n: int = 1, seed: int = 0, config: IdempotentMasker = TINY) -> np.ndarray:
    return 2 * np.random.default_rng(seed).random((n, config.frames, config.bins), np.float32) - 1


def _batch(n: int = 1) -> Batch:
    return Batch(_images(n, 1), _images(n, 2))


# --- sizes and settings --------------------------------------------------------------------------------------------------


@pytest.mark.loose_arrays
@pytest.mark.parametrize("name", ["R1", "R2", "R3", "R4"])
def test_nothing_is_kept_from_the_gradients_of_distances(x64: None, name: str) -> None:
    """g(a) and b move on both sides of each distance: of a g with one number, slopes are those of finite differences."""
    weights = dataclasses.replace(Weights(), **dict.fromkeys(set(LOSSES) - {name}, 0.0))
    batch = Batch(*(0.4 * jnp.asarray(x, jnp.float64) for x in _batch()))

    def total(slope: jax.Array) -> jax.Array:
        def g(x: jax.Array) -> jax.Array:
            return masker.masked(0.5 + slope * masker.magnitudes(x) ** 2, x)

        return training.weighed(training.make(g, batch, weights).losses, vars(weights))

    at, step = jnp.asarray(0.3, jnp.float64), 1e-6
    by_difference = float(total(at + step) - total(at - step)) / (2 * step)
    assert float(jax.grad(total)(at)) == pytest.approx(by_difference, rel=1e-4) and abs(by_difference) > 1e-2


def test_there_are_as_many_parameters_as_in_the_code() -> None:
    assert masker.size_of(masker.Generator, PRESETS["paper"]) == 11_127_937
    assert masker.size_of(masker.Discriminator, PRESETS["paper"]) == 8_265_027


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"frames": 96}, "frames is 96, but must be a multiple of 64"),
        ({"bins": 8, "layers": 1, "scales": 1}, "at least 16"),
        ({"hop": 300}, "hop is 300"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"pool": -1}, "pool is -1"),
        ({"listening": -1}, "listening is -1"),
        ({"logit": float("nan")}, "logit is nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        IdempotentMasker(**settings)


def test_losses_are_switched_off_by_name() -> None:
    assert vars(Weights()) == {"R1": 20, "R2": 20, "R3": 20, "R4": 20, "GAN_C": 10, "GAN_A": 10}
    assert Weights(R2=8.0).milder(0.25) == Weights(R1=5.0, R2=2.0, R3=5.0, R4=5.0)
    with pytest.raises(UserError, match="weight of R1 is -20.0"):
        Weights().milder(-1.0)
    assert Weights().without("R1", "GAN_A") == Weights(R1=0.0, GAN_A=0.0)
    with pytest.raises(UserError, match="no loss 'R5'; there are R1, R2, R3, R4, GAN_C, GAN_A"):
        Weights().without("R5")
    with pytest.raises(UserError, match="every loss is switched off"):
        Weights().without(*LOSSES)
    with pytest.raises(UserError, match="the weight of R2 is -1"):
        Weights(R2=-1.0)


# --- layers --------------------------------------------------------------------------------------------------------------


def _plain(x: np.ndarray, kernel: np.ndarray, padding: int, stride: int = 1) -> np.ndarray:
    """A convolution of mirrored edges in float64, cell by cell."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
    k, made = len(kernel), []
    for i in range(0, x.shape[1] - k + 1, stride):
        cells = [x[:, i : i + k, j : j + k] for j in range(0, x.shape[2] - k + 1, stride)]
        made.append(np.stack([np.einsum("bijc,ijcd->bd", cell, np.asarray(kernel, np.float64)) for cell in cells], 1))
    return np.stack(made, 1)


def _stretched(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The same of every cell four times."""
    return _plain(np.repeat(np.repeat(x, 2, 1), 2, 2), kernel, 2)


def _maps(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("large", [1, layers.LARGE])
@pytest.mark.parametrize(
    ("taps", "n_in", "n_out", "stride"), [(7, 1, 3, 1), (7, 3, 1, 1), (4, 2, 3, 2), (3, 2, 3, 1), (1, 3, 1, 1)]
)
def test_convolutions_are_the_plain_ones(
    taps: int, n_in: int, n_out: int, stride: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "LARGE", large)
    conv = layers.Conv(nnx.Rngs(0), taps, n_in, n_out, stride)
    conv.bias[...] = _maps(1, 1, 1, n_out, seed=1)
    x = _maps(2, 8, 10, n_in)
    expected = _plain(x, conv.kernel[...], (taps - stride) // 2, stride) + np.asarray(conv.bias[...])
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)


@pytest.mark.parametrize("columns", [5, 6])
@pytest.mark.parametrize("large", [1, layers.LARGE])
def test_doubling_is_that_of_every_cell_four_times(large: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LARGE", large)
    x, kernel = _maps(2, 4, columns, 3), _maps(5, 5, 3, 2, seed=1)
    np.testing.assert_allclose(layers.doubled(x, kernel), _stretched(np.asarray(x), kernel), atol=1e-4)


@pytest.mark.parametrize("k", [2, 3])
def test_products_of_pairs_have_the_gradients_of_the_convolution(k: int) -> None:
    x, kernel, weight = _maps(2, 5 + k, 3 + k, 5), _maps(k, k, 5, 4, seed=1), _maps(2, 6, 4, 4, seed=2)
    found = jax.jit(jax.grad(lambda x, kernel: (weight * layers.in_pairs(x, kernel)).sum(), (0, 1)))(x, kernel)
    of_x, of_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j in np.ndindex(k, k):
        at = np.s_[:, i : i + 6, j : j + 4]
        of_kernel[i, j] = np.einsum("bhwc,bhwd->cd", np.asarray(x, np.float64)[at], weight)
        of_x[at] += np.einsum("bhwd,cd->bhwc", weight, np.asarray(kernel, np.float64)[i, j])
    np.testing.assert_allclose(found[0], of_x, atol=1e-4)
    np.testing.assert_allclose(found[1], of_kernel, atol=1e-4)


@pytest.mark.parametrize(
    ("way", "oracle", "taps", "size"),
    [
        (layers.convolve, partial(_plain, padding=0), 2, (5, 7)),
        (layers.convolve, partial(_plain, padding=0), 3, (8, 6)),
        (layers.convolve, partial(_plain, padding=0), 3, (6, 7)),
        (layers.convolve, partial(_plain, padding=0), 3, (7, 6)),
        (layers.convolve, partial(_plain, padding=0), 3, (5, 7)),
        (layers.halved, partial(_plain, padding=0, stride=2), 4, (10, 6)),
        (layers.doubled, _stretched, 5, (4, 6)),
        (layers.doubled, _stretched, 5, (3, 2)),
    ],
)
def test_large_images_have_the_values_and_the_slopes_of_the_convolution(
    way: Callable, oracle: Callable, taps: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along lines through an image and a kernel, of which the value is a polynomial of the second degree: slopes are exact."""
    monkeypatch.setattr(layers, "LARGE", 1)
    x, kernel = _maps(2, *size, 3), _maps(taps, taps, 3, 2, seed=1)
    found, slopes = jax.jit(jax.value_and_grad(lambda x, kernel: (way(x, kernel) ** 2).sum(), (0, 1)))(x, kernel)

    def value(x: np.ndarray, kernel: np.ndarray) -> float:
        return float((oracle(x, kernel) ** 2).sum())

    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    assert float(found) == pytest.approx(value(x, kernel), rel=1e-5)
    for n in range(4):
        step, turn = np.asarray(_maps(*x.shape, seed=10 + n)), np.asarray(_maps(*kernel.shape, seed=20 + n))
        of_x = (value(x + step, kernel) - value(x - step, kernel)) / 2
        of_kernel = (value(x, kernel + turn) - value(x, kernel - turn)) / 2
        assert float((slopes[0] * step).sum()) == pytest.approx(of_x, rel=1e-3)
        assert float((slopes[1] * turn).sum()) == pytest.approx(of_kernel, rel=1e-3)


def test_pooling_takes_the_mean_of_the_cells_that_there_are() -> None:
    x = _maps(1, 6, 8, 2)
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    expected = [[np.nanmean(padded[:, i : i + 3, j : j + 3], (1, 2)) for j in range(0, 8, 2)] for i in range(0, 6, 2)]
    np.testing.assert_allclose(layers.pooled(x)[0], np.stack([np.stack(row) for row in expected])[:, :, 0], atol=1e-6)


def test_images_are_normalised_one_by_one_and_running_statistics_serve_at_work() -> None:
    norm, x = layers.InstanceNorm(3), 5 + 2 * _maps(2, 4, 5, 3)
    found, values = norm(x, True), np.asarray(x, np.float64)
    np.testing.assert_allclose(found.mean((1, 2)), np.zeros((2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.var((1, 2)), np.ones((2, 3)), rtol=1e-3)
    mean, variance = values.mean((1, 2)).mean(0), values.var((1, 2), ddof=1).mean(0)
    np.testing.assert_allclose(norm.mean[...].ravel(), 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(norm.variance[...].ravel(), 0.9 + 0.1 * variance, rtol=1e-4)
    expected = (values - 0.1 * mean) / np.sqrt(0.9 + 0.1 * variance + 1e-5)
    np.testing.assert_allclose(norm(x, False), expected, rtol=1e-4)


def test_layer_norm_divides_by_the_unbiased_deviation() -> None:
    norm, x = layers.LayerNorm(nnx.Rngs(0), 3), _maps(2, 4, 5, 3)
    assert 0 < norm.gain[...].min() and norm.gain[...].max() < 1 and not norm.bias[...].any()
    norm.bias[...] = _maps(1, 1, 1, 3, seed=1)
    values = np.asarray(x, np.float64)
    deviation = values.std((1, 2, 3), ddof=1, keepdims=True)
    expected = (values - values.mean((1, 2, 3), keepdims=True)) / (deviation + 1e-5) * np.asarray(norm.gain[...])
    np.testing.assert_allclose(norm(x), expected + np.asarray(norm.bias[...]), atol=1e-5)
    slope = jax.grad(lambda x: norm(x).sum())(jnp.ones((1, 4, 4, 3)))
    assert jnp.isfinite(slope).all()


def test_numbers_start_as_in_the_code() -> None:
    kernel = layers.Conv(nnx.Rngs(0), 3, 64, 64).kernel[...]
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    for first, deviation in ((64, 0.02), (16, 0.04)):
        kernel = layers.Conv(nnx.Rngs(0), 3, 64, 64, start=layers.narrow(first)).kernel[...]
        assert float(kernel.std()) == pytest.approx(deviation, rel=0.02)


# --- images and losses ---------------------------------------------------------------------------------------------------


def test_sums_and_differences_are_of_magnitudes() -> None:
    x, y = (jnp.asarray(values, jnp.float32)[None] for values in ([[-1.0, 0.0, 0.6]], [[-1.0, -0.5, 0.2]]))  # 0 .5 .8, 0 .25 .6
    np.testing.assert_allclose(masker.magnitudes(masker.added(x, y))[0], [[0, 0.75, 1]], atol=1e-6)
    np.testing.assert_allclose(masker.magnitudes(masker.taken_off(x, y))[0], [[0, 0.25, 0.2]], atol=1e-6)
    np.testing.assert_allclose(masker.magnitudes(masker.taken_off(y, x))[0], [[0, 0, 0]], atol=1e-6)
    half = jnp.full_like(x, 0.5)
    np.testing.assert_allclose(masker.magnitudes(masker.masked(half, x))[0], [[0, 0.25, 0.4]], atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.75])
def test_losses_of_a_network_that_takes_the_same_share_everywhere(share: float) -> None:
    batch = Batch(*(2 * (x + 1) / 5 - 1 for x in _batch(2)))  # quiet enough for sums not to be cut off
    made = training.make(lambda x: masker.masked(jnp.full_like(x, share), x), batch, Weights())
    a, c = ((np.asarray(x, np.float64) + 1) / 2 for x in batch)
    synthetic = (1 - share) * a + c
    expected = {"R1": (1 - share) * c, "R2": share * (1 - share) * a, "R3": share * synthetic - c}
    expected["R4"] = (1 - share) * synthetic - (1 - share) * a
    assert made.losses.keys() == expected.keys()
    for name, difference in expected.items():
        assert float(made.losses[name]) == pytest.approx(2 * np.abs(difference).mean(), abs=1e-6), name


def test_least_squares_of_all_scales_are_added_up() -> None:
    fake, real = ([jnp.full((1, n, n, 1), value) for n in (4, 2)] for value in (0.25, 0.5))
    assert float(masker.generator_loss(fake)) == pytest.approx(2 * 0.75**2)
    assert float(masker.discriminator_loss(fake, real)) == pytest.approx(2 * 0.25**2 + 2 * 0.5**2)


@pytest.mark.parametrize("off", LOSSES)
def test_no_loss_is_computed_that_is_switched_off(off: str) -> None:
    made = training.make(lambda x: x, _batch(), Weights().without(off))
    assert made.losses.keys() == {"R1", "R2", "R3", "R4"} - {off}
    config = dataclasses.replace(TINY, weights=Weights().without(off))
    assert training.critics_of(config).keys() == {"C", "A"} - {off.removeprefix("GAN_")}


def test_images_do_not_change_each_other() -> None:
    parts = nnx.split(masker.Generator(TINY, nnx.Rngs(0)))

    @jax.jit
    def mask(x: jax.Array) -> jax.Array:
        return nnx.merge(*jax.tree.map(jnp.copy, parts))(x, True)

    x = jnp.asarray(_images(3))
    both = mask(x)
    assert both.shape == x.shape and 0 < both.min() and both.max() < 1
    np.testing.assert_allclose(both[1:2], mask(x[1:2]), atol=1e-5)


# --- training ------------------------------------------------------------------------------------------------------------


def test_a_batch_has_no_place_for_a_voice() -> None:
    assert Batch._fields == ("mixture", "music")


def test_a_pool_shows_each_second_image_late() -> None:
    pool = Pool(jnp.zeros((3, 2, 2)), jnp.zeros((), jnp.int32))
    new = jnp.arange(1.0, 201.0)[:, None, None] * jnp.ones((1, 2, 2))
    pool, found = jax.jit(layers.shown)(pool, new, jax.random.key(0))
    said, given = np.asarray(found[:, 0, 0]), np.arange(1, 201)
    assert int(pool.held) == 3 and (said[:3] == given[:3]).all()
    late = said != given
    assert 0.4 < late[3:].mean() < 0.6 and (said <= given).all()
    assert len(set(said[late])) == late.sum()  # an image leaves the pool when it is shown
    assert set(np.asarray(pool.images[:, 0, 0])) == set(given) - set(said)


def _says(critic: nnx.State, images: np.ndarray) -> list[jax.Array]:
    return nnx.merge(masker.abstract(masker.Discriminator, TINY).graph, critic)(jnp.asarray(images))


@pytest.mark.loose_arrays  # optax
def test_discriminators_listen_first() -> None:
    """One learns to tell mixtures from music; the other begins by saying the reverse; and the generator lets all pass."""
    state, step = training.pretraining(TINY, jax.random.key(0)), jax.jit(lambda *given: training.pretrain(TINY, *given))
    a, c = _images(4, 1) / 2 - 0.5, _images(4, 2) / 2 + 0.5
    first = float(training.pretraining_loss(TINY, state.critic, Batch(a, c)))
    for n in range(300):
        state, losses = step(state, Batch(a, c), jax.random.key(n))
    assert losses.keys() == {"loss"} and float(training.pretraining_loss(TINY, state.critic, Batch(a, c))) < 0.6 * first
    of_a, of_c = (sum(float(said.mean()) for said in _says(state.critic, x)) for x in (a, c))
    assert of_a < of_c
    begun = training.init(dataclasses.replace(TINY, logit=3.0), jax.random.key(1), state.critic)
    for said, reverse in zip(_says(begun.critics["C"], a), _says(begun.critics["A"], a), strict=True):
        np.testing.assert_allclose(reverse, 1 - said, atol=1e-5)
    assert float(masker.predict(TINY, begun.generator, jnp.asarray(a)).mean()) > 0.8


@pytest.mark.loose_arrays  # optax
def test_an_iteration_is_that_of_two_optimizers() -> None:
    """Against gradients of the whole objective, discriminators first, and Adam by hand. (Fewer losses compile sooner.)"""
    config, batch = dataclasses.replace(TINY, rate=1e-4, weights=Weights().without("R2", "R3", "R4")), _batch(2)
    state = training.init(config, jax.random.key(0))
    before = jax.tree.map(jnp.copy, state)
    after, found = training.step(config, state, batch, jax.random.key(1))

    def fakes(parameters: nnx.State) -> training.Made:
        network = nnx.merge(
            masker.abstract(masker.Generator, config).graph, parameters, jax.tree.map(jnp.copy, before.generator.statistics)
        )
        return training.make(lambda x: masker.masked(network(x, True), x), batch, config.weights)

    def critic(parameters: dict[str, nnx.State], n: int, images: jax.Array) -> list[jax.Array]:
        return nnx.merge(masker.abstract(masker.Discriminator, config).graph, parameters["CA"[n]])(images)

    def judged(parameters: nnx.State) -> jax.Array:
        made = fakes(before.generator.parameters)
        pairs = ((made.accompaniment, batch.music), (made.synthetic, batch.mixture))
        told = [
            masker.discriminator_loss(critic(parameters, n, x), critic(parameters, n, jnp.asarray(y)))
            for n, (x, y) in enumerate(pairs)
        ]
        return 10 * sum(told)

    def objective(parameters: nnx.State, critics: nnx.State) -> jax.Array:
        made = fakes(parameters)
        gans = [masker.generator_loss(critic(critics, n, x)) for n, x in enumerate((made.accompaniment, made.synthetic))]
        return 20 * sum(made.losses.values()) + 10 * sum(gans)

    def first(parameters: nnx.State, gradient: nnx.State) -> nnx.State:
        """The first step of Adam goes as far as the rate, down the gradient with its penalty."""
        full = jax.tree.map(lambda p, g: g + 1e-4 * p, parameters, gradient)
        return jax.tree.map(lambda p, g: p - config.rate * g / (jnp.abs(g) + 1e-8), parameters, full)

    of_critics = jax.jit(jax.grad(judged))(before.critics)
    critics = first(before.critics, of_critics)
    loss, gradient = jax.jit(jax.value_and_grad(objective))(before.generator.parameters, critics)
    assert float(found["loss"]) == pytest.approx(float(loss), rel=1e-4)
    assert found.keys() == {"R1", "GAN_C", "GAN_A", "D_C", "D_A", "loss"}
    generator = first(before.generator.parameters, gradient)
    for mine, theirs, slopes in ((after.critics, critics, of_critics), (after.generator.parameters, generator, gradient)):
        for x, y, slope in zip(*map(jax.tree.leaves, (mine, theirs, slopes)), strict=True):
            certain = np.abs(slope) > 1e-3  # that of a bias before a norm is noise
            np.testing.assert_allclose(np.asarray(x)[certain], np.asarray(y)[certain], atol=3e-6)


@pytest.mark.loose_arrays  # optax
def test_all_losses_and_a_replay_buffer_are_one_program() -> None:
    config = dataclasses.replace(TINY, pool=3, rate=1e-4)
    training.step.clear_cache()
    state, held = training.init(config, jax.random.key(0)), []
    network = nnx.merge(
        masker.abstract(masker.Generator, config).graph, *(jax.tree.map(jnp.copy, part) for part in state.generator)
    )
    expected = training.make(lambda x: masker.masked(network(x, True), x), _batch(2), config.weights)
    for n, key in enumerate(jax.random.split(jax.random.key(9), 3)):
        state, found = training.step(config, state, _batch(2), key)
        held.append({name: int(pool.held) for name, pool in state.pools.items()})
        if n == 0:
            assert expected.losses.keys() == {"R1", "R2", "R3", "R4"}
            for name, loss in expected.losses.items():
                np.testing.assert_allclose(found[name], loss, rtol=1e-4)
            for name, images in (("C", expected.accompaniment), ("A", expected.synthetic)):
                np.testing.assert_allclose(state.pools[name].images[:2], images, atol=1e-4)
    assert training.step._cache_size() == 1
    assert held == [{"C": 2, "A": 2}, {"C": 3, "A": 3}, {"C": 3, "A": 3}]
    assert found.keys() == {*masker.LOSSES, "D_C", "D_A", "loss"} and all(np.isfinite(float(loss)) for loss in found.values())


@pytest.mark.loose_arrays  # optax
def test_the_rate_is_halved_every_so_many_steps() -> None:
    config = dataclasses.replace(TINY, halved=2, decay=0.0)
    chain, parameters = training.optimiser(config), jnp.zeros(1)
    carried, moves = chain.init(parameters), []
    for _ in range(5):
        change, carried = chain.update(jnp.ones(1), carried, parameters)
        moves.append(float(-change[0]))
    np.testing.assert_allclose(moves, [0.01, 0.01, 0.005, 0.005, 0.0025], rtol=1e-4)


@pytest.mark.loose_arrays  # optax
def test_steps_learn_without_discriminators() -> None:
    """What is left is measured: music is changed less than before."""
    config = dataclasses.replace(TINY, weights=Weights().without("GAN_C", "GAN_A", "R2", "R3", "R4"))
    state, batch = training.init(config, jax.random.key(0)), _batch(2)
    losses = []
    for key in jax.random.split(jax.random.key(9), 30):
        state, found = training.step(config, state, batch, key)
        losses.append(float(found["loss"]))
    assert found.keys() == {"R1", "loss"} and losses[-1] < 0.7 * losses[0]
    measured = training.measure(config, state.generator, batch)
    assert 0 <= measured["changed_music"] < 1 and 0 <= measured["taken"] <= 1
    assert measured.keys() == {"R1", "R2", "R3", "R4", "changed_twice", "changed_music", "taken", "loss"}
