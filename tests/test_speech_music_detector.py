"""Networks that tell speech from music: their sizes, their heads, their losses, and that they learn."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep.detection import CONTEXT
from bayessep.detector_scenes import Scene, frame_labels
from bayessep.errors import UserError
from bayessep.features import Front, extract, mel_filters
from bayessep.models import detector_networks as networks
from bayessep.models import image_layers as layers
from bayessep.models import speech_music_detector as detector
from bayessep.models.detector_networks import HEADS, NETWORKS, STRIDE, Detector
from bayessep.models.speech_music_detector import BOTH, MUSIC, NEITHER, SPEECH, Batch, Output, Weights
from bayessep.stft import Stft

# flax multiplies numbers of Python into its arrays.
pytestmark = pytest.mark.loose_arrays


def _batch(config: Detector, n: int = 6, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    features = rng.standard_normal((n, config.length, config.width)) + (label[:, None, None] - 1)
    ratio = detector.ratio_target(label, rng.integers(-5, 21, n).astype(np.float64))
    return Batch(jnp.asarray(features, jnp.float32), jnp.asarray(label, jnp.int32), jnp.asarray(ratio))


# --- sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "head", "width", "parts", "count"),
    [
        ("b1", "single", 21, 1, 1_449_539),
        ("b1", "single", 240, 2, 8_527_427),
        ("b2", "single", 201, 1, 44_100_931),
        ("b2", "single", 402, 2, 73_461_059),
        ("b3", "single", 80, 1, 108_963),
        ("b3", "single", 120, 1, 110_243),
        ("b3", "single", 240, 2, 114_083),
        ("b3", "multi", 240, 2, 218_839),
        ("b3", "cascaded", 240, 2, 218_987),
        ("b4", "single", 257, 1, 21_091_569),
        ("b4-nofc", "single", 257, 1, 129_265),
        # 4 * 240 of normalisation, 241 * 48, 12 blocks of (3 * 48 + 1) * 48 and 49 * 48, 49 * 3; with 1_096 of three tasks
        ("frames", "single", 240, 2, 124_419),
        ("frames", "multi", 240, 2, 127_031),
    ],
)
def test_there_are_as_many_parameters_as_the_authors_have(network: str, head: str, width: int, parts: int, count: int) -> None:
    config = Detector(network, head, width, parts)
    model = nnx.eval_shape(lambda: detector.SpeechMusicDetector(config, nnx.Rngs(0)))
    assert detector.parameter_count(model) == count


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_every_head(network: str, head: str) -> None:
    config = Detector(network, head, 240)
    found = jax.eval_shape(lambda x: detector.SpeechMusicDetector(config, nnx.Rngs(0))(x), jnp.zeros((5, 68, 240)))
    shapes = [None if part is None else part.shape for part in found]
    said = (5, 17) if network == "frames" else (5,)  # of every frame, or of the patch
    assert shapes == [(*said, 3), *([None] * 3 if head == "single" else [said, said, (*said, 2)])]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"network": "b5"}, "choose one of b1, b2"),
        ({"head": "none"}, "choose one of single, multi"),
        ({"dropout": 1.0}, "below 1"),
        ({"width": 241}, "impossible"),
        ({"parts": 3}, "impossible"),
        ({"classes": 2}, "3 or 4"),
        ({"rate": 1.0}, "below 1"),
        ({"network": "frames", "length": 3}, "4 frames at least"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Detector(**settings)


@pytest.mark.parametrize(
    "settings", [{"network": "b1", "width": 14}, {"network": "b1", "length": 30}, {"network": "b2", "width": 4}]
)
def test_patches_that_are_too_small_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match="kernels are larger"):
        nnx.eval_shape(lambda: detector.SpeechMusicDetector(Detector(**settings), nnx.Rngs(0)))


# --- layers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 4])
def test_a_temporal_block_looks_as_far_as_its_dilation(dilation: int) -> None:
    block = networks.TemporalBlock(8, dilation, 0.0, nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 21, 8)), jnp.float32)
    reached = jnp.abs(jax.grad(lambda x: block(x)[0, 10].sum())(x))[0].sum(1)
    assert list(np.flatnonzero(reached)) == [10 - dilation, 10, 10 + dilation]


def test_a_temporal_block_convolves() -> None:
    block = networks.TemporalBlock(8, 4, 0.0, nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 21, 8)), jnp.float32)
    kernel = block.dilated.kernel[...].reshape(3, 8, 8)
    axes = ("NWC", "WIO", "NWC")
    y = jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", rhs_dilation=(4,), dimension_numbers=axes))
    y = y / (jnp.abs(y).max(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(block(x), x + y @ block.mix.kernel[...], atol=1e-5)


def test_whole_channels_are_dropped() -> None:
    block = networks.TemporalBlock(8, 1, 0.5, nnx.Rngs(0))
    block.mix.kernel[...] = jnp.eye(8)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 50, 8)), jnp.float32)
    kept = np.asarray(block(x, nnx.Rngs(1)) - x) / np.asarray(block(x) - x + 1e-30)
    for item in kept:
        for channel in item.T:
            sounding = channel[np.abs(channel) > 1e-6]
            assert len(sounding) == 0 or np.allclose(sounding, 2.0, rtol=1e-3)
    assert 0.2 < (np.abs(kept).max(1) < 1e-6).mean() < 0.8


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("shape", "kernel", "strides"),
    [
        *[((21, 12, 4), (5, 4, 4, 5), (2, 3)), ((20, 12, 1), (3, 3, 1, 2), (1, 1)), ((11, 6), (5, 6, 3), (1,))],
        *[((9, 12, 16), (3, 3, 16, 17), strides) for strides in ((1, 1), (2, 2))],
    ],
)
def test_convolutions_by_products_are_those_of_xla(
    shape: tuple, kernel: tuple, strides: tuple, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(of), jnp.float32) for of in ((5, *shape), kernel))
    in_pairs: list[int] = []
    monkeypatch.setattr(networks, "CELLS", 200)  # of five examples some lie together, and the last are fewer
    monkeypatch.setattr(networks, "in_pairs", lambda x, w: in_pairs.append(len(x)) or layers.in_pairs(x, w))

    def found(devices: int) -> tuple:
        monkeypatch.setattr(jax, "device_count", lambda: devices)

        def energy(x: jnp.ndarray, w: jnp.ndarray) -> tuple:
            y = networks.convolved(x, w, strides, padding)
            return (y**2).sum(), y

        gradient = jax.grad(energy, argnums=(0, 1), has_aux=True)
        return gradient(x, w), str(jax.make_jaxpr(gradient)(x, w))

    (ours, how), (xlas, as_xla) = found(1), found(2)
    pairs = shape[-1] == 16 and strides == (1, 1) and jax.default_backend() == "cpu"
    assert set(in_pairs) == ({2 if padding == "SAME" else 3} if pairs else set())
    assert "conv_general" in as_xla and (jax.default_backend() != "cpu" or "conv_general" not in how)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(xlas), strict=True):
        most = float(jnp.abs(b).max())  # in sums of many channels all are as wrong as the greatest
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=max(1e-4, 1e-6 * most) if shape[-1] == 16 else 1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("window", "strides"), [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((1, 4), (1, 4))])
def test_maxima_are_those_of_xla(window: tuple[int, int], strides: tuple[int, int], padding: str) -> None:
    rng = np.random.default_rng(0)
    x, weight = jnp.asarray(rng.standard_normal((2, 9, 13, 3)), jnp.float32), jnp.float32(rng.random(3))

    def slopes(maximum: Callable) -> tuple:
        return jax.value_and_grad(lambda x: (weight * maximum(x, window, strides, padding)).sum())(x)

    for a, b in zip(slopes(networks._maximum), slopes(nnx.max_pool), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_array_equal(networks._maximum(x - 9, window, strides, padding), nnx.max_pool(x - 9, window, strides, padding))


def test_channels_are_divided_by_their_neighbours() -> None:
    x = 30 * np.random.default_rng(0).standard_normal((2, 3, 4, 20))
    energy = np.stack([(x[..., max(0, n - 5) : n + 6] ** 2).sum(-1) for n in range(20)], -1)
    found = networks._normalised_locally(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, x / (1 + 1e-4 * energy) ** 0.75, rtol=1e-5)


def test_mel_kernels_start_as_mel_bands() -> None:
    layer = networks.MelKernels(101, 20)
    x = np.random.default_rng(0).random(101).astype(np.float32)
    found = layer(jnp.asarray(np.tile(x, (1, 9, 1))))
    assert found.shape == (1, 20, 9, 3)
    bands = x @ mel_filters(Stft(n_fft=200, hop=160), 16000, 20)
    np.testing.assert_allclose(found[0, :, 4], np.repeat(5 * bands[:, None], 3, axis=1), rtol=1e-4)  # of five frames
    assert detector.parameter_count(layer) == 15 * np.count_nonzero(mel_filters(Stft(n_fft=200, hop=160), 16000, 20))


# --- a vector for every few frames ---------------------------------------------------------------------------------------


def _alive(config: Detector) -> detector.SpeechMusicDetector:
    """One in which no sum is cut at zero, so that every frame that can matter does."""
    model = detector.SpeechMusicDetector(config, nnx.Rngs(0))
    for block in model.network.blocks:
        block.dilated.kernel[...] = jnp.abs(block.dilated.kernel[...])
        block.mix.kernel[...] = jnp.abs(block.mix.kernel[...])
    model.network.first.kernel[...] = jnp.abs(model.network.first.kernel[...])
    return model


@pytest.mark.parametrize("head", ["single", "multi"])
def test_a_frame_sees_as_far_as_windows_of_detection_overlap(head: str) -> None:
    config = Detector("frames", head, 4, 1, classes=4)
    model = _alive(config)
    frames, at = 300, 150
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (1, STRIDE * frames + 3, 4)), jnp.float32)

    def said(x: jax.Array) -> jax.Array:
        return sum((part[0, at].sum() for part in model(x) if part is not None), start=jnp.float32(0))

    seen = np.flatnonzero(np.abs(np.asarray(jax.grad(said)(x)))[0].sum(1))
    assert (seen[0], seen[-1] + 1) == (STRIDE * (at - CONTEXT), STRIDE * (at + CONTEXT + 1))


@pytest.mark.parametrize("head", HEADS)
def test_frames_that_do_not_fill_a_vector_are_left_out(head: str) -> None:
    config = Detector("frames", head, 4, 1, classes=4)
    state = detector.init(config, jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 43, 4)), jnp.float32)
    found, whole = (detector.predict(config, state, part) for part in (x, x[:, :40]))
    assert found.classes.shape == (2, 10, 4)
    for mine, theirs in zip(found, whole, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            np.testing.assert_array_equal(mine, theirs)


def test_frames_and_their_labels_are_equally_many_and_of_the_same_time() -> None:
    # Without blocks, what is said of a vector is of the mean of its own frames alone.
    config, front = Detector("frames", "single", 8, 1, classes=4), Front("LMS", 8, range_db=200.0)
    model = detector.SpeechMusicDetector(config, nnx.Rngs(0))
    model.network.blocks = nnx.List([])
    model.network.first.kernel[...] = jnp.ones((8, 48))
    model.network.first.bias[...] = jnp.full(48, 1000.0)
    for begin in (16000, 16100, 16300, 16500):
        on = np.arange(32000) >= begin
        waveform = np.where(on, np.random.default_rng(0).standard_normal(32000), 0).astype(np.float32)
        level = np.asarray(model.network(extract(jnp.asarray(waveform), front)[None]))[0, :, 0]
        labels = frame_labels(Scene(waveform, on, ~on, 0.0), front, 198)
        assert labels.shape == level.shape == (49,)
        # Before, silence; at the change, something of both; then noise.
        change = int(np.argmax(labels == SPEECH))
        assert np.ptp(level[: change - 1]) < 1e-2 and level[change + 1 :].min() > level[0] + 300
        assert level[change] > level[0] + 300 / 3


def test_frames_learn_of_every_frame() -> None:
    config = Detector("frames", "multi", 8, 1, classes=4, rate=0.01, dropout=0.0)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (3, 20))
    features = np.repeat(label, STRIDE, axis=1)[..., None] == np.arange(4).repeat(2)
    ratio = jnp.asarray(detector.ratio_target(label, np.zeros(label.shape)))
    batch = Batch(jnp.asarray(features, jnp.float32), jnp.asarray(label, jnp.int32), ratio)
    state = detector.init(config, jax.random.key(0))
    losses = []
    for key in jax.random.split(jax.random.key(1), 40):
        state, found = detector.step(config, state, batch, key)
        losses.append(float(found.classes))
    assert np.isfinite(losses).all() and losses[-1] < 0.5 * losses[0]


# --- losses --------------------------------------------------------------------------------------------------------------


def test_ratios_are_those_of_the_paper() -> None:
    label = np.array([MUSIC, SPEECH, BOTH, BOTH, BOTH, NEITHER])
    found = detector.ratio_target(label, np.array([3.0, 3.0, 10.0, 0.0, -5.0, 3.0]))
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [0.1, 1], [1, 1], [1, 10**-0.5], [0, 0]], rtol=1e-6)


def test_losses_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    classes, speech, music, ratio = (rng.standard_normal(shape) for shape in ((4, 3), 4, 4, (4, 2)))
    label, target = np.array([MUSIC, SPEECH, BOTH, SPEECH]), rng.random((4, 2))
    batch = Batch(jnp.zeros((4, 1, 1)), jnp.asarray(label), jnp.asarray(target, jnp.float32))
    found = detector.losses(Output(*(jnp.asarray(part, jnp.float32) for part in (classes, speech, music, ratio))), batch)

    def binary(logit: np.ndarray, true: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-logit))
        return float(-(true * np.log(p) + (1 - true) * np.log(1 - p)).mean())

    p = np.exp(classes) / np.exp(classes).sum(1, keepdims=True)
    expected = [binary(speech, label == SPEECH), binary(music, label == MUSIC), ((ratio - target) ** 2).mean()]
    expected.append(-np.log(p[np.arange(4), label]).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(detector.total(found, Weights(1, 2, 3, 4))) == pytest.approx(float(np.dot(expected, [1, 2, 3, 4])), rel=1e-5)
    alone = detector.losses(Output(jnp.asarray(classes, jnp.float32)), batch)
    np.testing.assert_allclose(alone, [0, 0, 0, expected[3]], rtol=1e-5)


# --- training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "head", "steps"), [("b3", "cascaded", 12), ("b3", "multi", 12), ("b4-nofc", "single", 5)])
def test_steps_learn(network: str, head: str, steps: int) -> None:
    config = Detector(network, head, 40)
    state, batch = detector.init(config, jax.random.key(0)), _batch(config)
    before = detector.losses(detector.predict(config, state, batch.features), batch)
    classes = []
    for key in jax.random.split(jax.random.key(1), steps):
        state, found = detector.step(config, state, batch, key)
        classes.append(float(found.classes))
    assert all(np.isfinite(found)) and classes[-1] < 0.8 * min(classes[0], float(before.classes))
    assert (np.asarray(found)[:3] > 0).all() == (head != "single")


def test_a_step_is_a_function_of_its_key() -> None:
    config = Detector("b3", "multi", 40)
    batch = _batch(config)
    run = [detector.step(config, detector.init(config, jax.random.key(0)), batch, jax.random.key(k))[0] for k in (1, 1, 2)]
    leaves = [jax.tree.leaves(state.parameters) for state in run]
    assert all(bool((a == b).all()) for a, b in zip(leaves[0], leaves[1], strict=True))
    assert any(bool((a != b).any()) for a, b in zip(leaves[0], leaves[2], strict=True))


def test_what_is_said_of_a_patch_does_not_depend_on_the_others() -> None:
    config = Detector("b3", "multi", 40)
    state, batch = detector.init(config, jax.random.key(0)), _batch(config)
    state, _ = detector.step(config, state, batch, jax.random.key(1))
    together = detector.predict(config, state, batch.features)
    alone = detector.predict(config, state, batch.features[2:3])
    for both, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(both[2:3], one, rtol=1e-4, atol=1e-5)


def test_batches_are_remembered_for_normalisation() -> None:
    config = Detector("b3", "multi", 40)
    state = detector.init(config, jax.random.key(0))
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(state.statistics)]
    state, _ = detector.step(config, state, _batch(config), jax.random.key(1))
    assert all((a != b).any() for a, b in zip(before, jax.tree.leaves(state.statistics), strict=True))


def test_running_means_settle_within_an_epoch() -> None:
    """An epoch of some networks has 30 steps; with Keras's momentum, a quarter of the way would be gone by then."""
    norm = networks.batch_norm(3, nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(40, 5, (64, 3)), jnp.float32)
    for _ in range(30):
        learning = networks.normalised(norm, x, nnx.Rngs(0))
    np.testing.assert_allclose(networks.normalised(norm, x, None), learning, atol=0.5)


def test_one_program_serves_every_step() -> None:
    config = Detector("b3", "multi", 40)
    state = detector.init(config, jax.random.key(0))
    step = partial(detector.step, config)
    state, _ = step(state, _batch(config), jax.random.key(1))
    programs = detector.step._cache_size()
    step(state, _batch(config, seed=3), jax.random.key(2))
    assert detector.step._cache_size() == programs


@pytest.mark.parametrize(
    ("network", "first", "later"),
    [
        ("b1", -1e-4, -1e-4),  # Adam: the rate itself, whatever the gradient
        ("b2", -3e-3, -3e-4),  # a tenth after 700 steps
        ("b3", -2e-3 * 0.6, -2e-3 * 0.6 * 10 * 0.1 ** (700 / (3 * detector.PAPERS_EPOCH))),  # shortened to 1, and its momentum
        ("b4", -1e-3, -1e-3),
        ("b4-nofc", -1e-3, -1e-3),
    ],
)
def test_every_network_has_the_optimiser_of_its_code(network: str, first: float, later: float) -> None:
    """First and after 700 steps with a gradient of (3, 4)."""
    optimiser = detector.optimiser(Detector(network, "single", 240, 2))
    start, gradient = jnp.zeros(2), jnp.array([3.0, 4.0])

    def steps(n: int) -> tuple[jax.Array, Any]:
        return jax.lax.fori_loop(0, n, lambda _, carried: optimiser.update(gradient, carried[1]), (start, optimiser.init(start)))

    for n, expected in ((1, first), (701, later)):
        np.testing.assert_allclose(steps(n)[0][0], expected, rtol=1e-3)


def test_a_rate_of_ones_own_grows_and_falls() -> None:
    optimiser = detector.optimiser(Detector("b3", "single", 240, 2, rate=1e-2), steps_per_epoch=200)
    gradient = jnp.ones(())

    def change(n: int) -> float:
        before = (jnp.zeros(()), optimiser.init(gradient))
        return float(jax.lax.fori_loop(0, n + 1, lambda _, carried: optimiser.update(gradient, carried[1]), before)[0])

    np.testing.assert_allclose([change(n) for n in (0, 50, 100, 2100)], [0, -5e-3, -1e-2, -1e-3], rtol=1e-3, atol=1e-9)


def test_what_large_weights_cost() -> None:
    """Those of the related tasks' hidden layers, and of b4's mel kernels, which cost their magnitudes, too."""
    model = detector.SpeechMusicDetector(Detector("b4-nofc", "multi", 514, 2), nnx.Rngs(0))
    kernels = [task.hidden.linear.kernel for task in (model.speech, model.music, model.ratio)]
    bands = [of.weights for of in model.network.bands]
    for array in kernels + bands:
        array[...] = jnp.full(array.shape, -0.5)
    of_tasks, of_bands = (sum(array.size for array in own) for own in (kernels, bands))
    np.testing.assert_allclose(detector._penalty(model), 0.01 * (0.25 * of_tasks + (0.25 + 0.5) * of_bands), rtol=1e-5)
    assert detector._penalty(detector.SpeechMusicDetector(Detector("b1", "single", 21, 1), nnx.Rngs(0))) == 0


def test_learned_bands_of_b4_are_bounded() -> None:
    """By a hyperbolic tangent: what is loud is as loud as it gets."""
    config = Detector("b4-nofc", "single", 257, 1)
    state = detector.init(config, jax.random.key(0))
    loud = 1e3 * jnp.abs(_batch(config, 1).features) + 1e3
    said = [np.asarray(detector.predict(config, state, factor * loud).classes) for factor in (1.0, 2.0)]
    np.testing.assert_allclose(said[0], said[1], atol=1e-6)


def test_long_gradients_are_shortened_one_by_one() -> None:
    gradients = {"long": jnp.full(4, 10.0), "short": jnp.full(4, 0.1)}
    found, _ = detector._clipped().update(gradients, detector._clipped().init(gradients))
    np.testing.assert_allclose(found["long"], 0.5, rtol=1e-6)
    np.testing.assert_array_equal(found["short"], gradients["short"])
