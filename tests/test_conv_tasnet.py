"""Conv-TasNet: the paper's size, a second implementation, causality by gradient, streams, and that it learns."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep.errors import UserError
from bayessep.models import conv_tasnet
from bayessep.models.conv_tasnet import PRESETS, ConvTasNet, predict
from bayessep.models.waveform_separation import Batch

TINY = ConvTasNet(filters=12, length=8, bottleneck=6, hidden=10, kernel=3, blocks=2, repeats=2)
CAUSAL = dataclasses.replace(TINY, causal=True, norm="cumulative")


def _parameters(config: ConvTasNet, seed: int = 0) -> nnx.State:
    """Random ones, gains and biases, too: at 1 and 0, mistakes in them would not show."""
    parameters = conv_tasnet.init(config, jax.random.key(seed)).parameters
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), parameters)


def _waveform(*shape: int, seed: int = 1) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_the_papers_network_has_as_many_parameters_as_its_authors_count() -> None:
    assert conv_tasnet.parameter_count(PRESETS["paper"]) == 8_710_720


def _plainly(config: ConvTasNet, parameters: nnx.State, x: np.ndarray) -> np.ndarray:
    """The same network in float64, frame by frame and tap by tap."""
    model = nnx.merge(conv_tasnet.graph(config), parameters)
    p = {name: np.asarray(getattr(model, name)[...], np.float64) for name in nnx.to_pure_dict(parameters)}
    hop, n = config.hop, len(x)
    padded = np.concatenate([np.zeros(hop), x, np.zeros(-n % hop + hop)])
    count = len(padded) // hop - 1
    w = np.stack([np.maximum(padded[t * hop : t * hop + 2 * hop] @ p["encoder"], 0) for t in range(count)])

    def normed(h: np.ndarray, gain: np.ndarray, bias: np.ndarray, norm: str) -> np.ndarray:
        out = np.zeros_like(h)
        for t in range(count):
            part = {"global": h, "cumulative": h[: t + 1], "frame": h[t]}[norm]
            out[t] = (h[t] - part.mean()) / np.sqrt(part.var() + 1e-8) * gain + bias
        return out

    y = normed(w, p["norm_gain"], p["norm_bias"], "frame") @ p["narrow"]
    for r in range(config.repeats):
        for b in range(config.blocks):
            own = {name: p[name][r, b] for name in ("enter", "slope", "gain", "bias", "taps", "leave")}
            h = y @ own["enter"]
            h = normed(np.where(h < 0, own["slope"][0] * h, h), own["gain"][0], own["bias"][0], config.norm)
            c = np.zeros_like(h)
            for t in range(count):
                for k in range(config.kernel):
                    at = t + 2**b * (k - (config.kernel - 1) // (1 if config.causal else 2))
                    if 0 <= at < count:
                        c[t] += own["taps"][k] * h[at]
            y = y + normed(np.where(c < 0, own["slope"][1] * c, c), own["gain"][1], own["bias"][1], config.norm) @ own["leave"]
    masks = (y @ p["masks"]).reshape(count, 2, -1)
    masks = np.maximum(masks, 0) if config.mask == "relu" else 1 / (1 + np.exp(-masks))
    found = np.zeros((2, len(padded)))
    for t in range(count):
        for s in range(2):
            found[s, t * hop : t * hop + 2 * hop] += (w[t] * masks[t, s]) @ p["decoder"]
    found = found[:, hop : hop + n]
    return found + (x - found.sum(0)) / 2 if config.consistent else found


@pytest.mark.parametrize("length", [40, 67])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": "sigmoid", "consistent": True},
        {"norm": "frame"},
        {"norm": "cumulative"},
        {"norm": "cumulative", "causal": True, "kernel": 5},
    ],
)
def test_it_says_what_a_plain_implementation_says(changes: dict, length: int) -> None:
    config = dataclasses.replace(TINY, **changes)
    parameters, x = _parameters(config), _waveform(2, length)
    found = np.asarray(predict(config, parameters, x))
    for one, mixture in zip(found, np.asarray(x, np.float64), strict=True):
        np.testing.assert_allclose(one, _plainly(config, parameters, mixture), atol=2e-5)


def test_one_example_says_the_same_as_among_others() -> None:
    parameters, x = _parameters(TINY), _waveform(3, 67)
    np.testing.assert_allclose(predict(TINY, parameters, x[1:2])[0], predict(TINY, parameters, x)[1], atol=1e-5)


@pytest.mark.parametrize("norm", ["global", "frame", "cumulative"])
@pytest.mark.parametrize("length", [40, 61])
def test_what_is_padded_makes_no_difference(norm: str, length: int) -> None:
    config = dataclasses.replace(TINY, norm=norm)
    parameters, x = _parameters(config), _waveform(1, length)
    padded = jnp.pad(x, ((0, 0), (0, 96 - length)))
    found = predict(config, parameters, padded, jnp.asarray(length))
    np.testing.assert_allclose(found[..., :length], predict(config, parameters, x), atol=1e-5)


def test_consistent_stems_sum_to_the_mixture() -> None:
    config = dataclasses.replace(TINY, consistent=True)
    x = _waveform(2, 50)
    np.testing.assert_allclose(predict(config, _parameters(config), x).sum(1), x, atol=1e-5)
    assert np.abs(predict(TINY, _parameters(TINY), x).sum(1) - x).max() > 0.1


@pytest.mark.parametrize("norm", ["frame", "cumulative"])
def test_nothing_a_causal_network_says_depends_on_the_future(norm: str) -> None:
    """By gradient: a sample may depend on those that share a frame with it, and on none after them."""
    config = dataclasses.replace(CAUSAL, norm=norm)
    parameters = _parameters(config)
    jacobian = np.asarray(jax.jacobian(lambda x: predict(config, parameters, x[None])[0].sum(0))(_waveform(64)))
    hop = config.hop
    for n in range(64):
        last = (n // hop + 2) * hop
        assert not jacobian[n, last:].any()
    assert np.abs(jacobian[20, 20 : (20 // hop + 2) * hop]).max() > 0  # and up to there it looks
    assert np.abs(jacobian[60, 20:40]).max() > 0  # the past is heard

    whole = dataclasses.replace(config, causal=False)
    assert np.asarray(jax.jacobian(lambda x: predict(whole, parameters, x[None])[0].sum(0))(_waveform(64)))[8, 20:].any()


def test_the_context_is_as_far_as_gradients_reach() -> None:
    for changes in ({}, {"causal": True}):
        config = dataclasses.replace(TINY, norm="frame", **changes)
        parameters = _parameters(config)
        n = 4 * config.context
        x = _waveform(n)
        gradient = np.asarray(jax.grad(lambda x: predict(config, parameters, x[None])[0, 0, n // 2])(x))  # noqa: B023
        reached = np.flatnonzero(gradient)
        assert n // 2 - config.context <= reached[0] <= n // 2 - config.context + 2 * config.length
        assert reached[-1] <= n // 2 + config.context


def test_a_fourier_bank_gives_back_what_it_was_given() -> None:
    encoder, decoder = conv_tasnet.fourier_bank(8)
    x = _waveform(80)
    coded = jax.nn.relu(conv_tasnet.framed(x, 4) @ jnp.asarray(encoder, jnp.float32))
    np.testing.assert_allclose(conv_tasnet.overlapped(coded @ jnp.asarray(decoder, jnp.float32)), x, atol=1e-5)
    started = conv_tasnet.init(dataclasses.replace(TINY, bank="fourier", filters=16), jax.random.key(0)).parameters
    np.testing.assert_allclose(nnx.to_pure_dict(started)["encoder"], encoder, atol=1e-6)


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("norm", ["frame", "cumulative"])
def test_a_stream_says_what_the_whole_says(norm: str, consistent: bool) -> None:
    config = dataclasses.replace(CAUSAL, norm=norm, consistent=consistent)
    parameters, x = _parameters(config), _waveform(30 * config.hop)
    state, found, at = conv_tasnet.stream_init(config), [], 0
    for hops in (1, 3, 9, 1, 16):
        piece = x[at : at + hops * config.hop]
        state, out = conv_tasnet.stream_push(config, parameters, state, piece)
        found.append(out)
        at += len(piece)
    found.append(conv_tasnet.stream_push(config, parameters, state, jnp.zeros(config.hop))[1])
    late = np.concatenate(found, axis=1)[:, config.hop :]
    np.testing.assert_allclose(late, predict(config, parameters, x[None])[0], atol=1e-5)


def test_a_stream_in_equal_pieces_is_one_program() -> None:
    config = dataclasses.replace(CAUSAL, hidden=7)
    parameters, state, programs = _parameters(config), conv_tasnet.stream_init(config), conv_tasnet.stream_push._cache_size()
    for n in range(5):
        state, _ = conv_tasnet.stream_push(config, parameters, state, _waveform(3 * config.hop, seed=n))
    assert conv_tasnet.stream_push._cache_size() == programs + 1


def test_moments_of_a_long_stream_stay_right() -> None:
    """Fed frame by frame for longer than sums in single precision would bear: 40 million frames."""
    x = _waveform(64, 6, seed=2) * 2 + 1
    before = conv_tasnet.Moments(jnp.float32(4e7), jnp.float32(1.0), jnp.float32(5.0))
    mean, spread, after = conv_tasnet.normalisation(x, "cumulative", None, before)
    np.testing.assert_allclose(mean, 1.0, atol=1e-5)
    np.testing.assert_allclose(spread, 0.5, rtol=1e-5)
    for _ in range(100):
        _, _, after = conv_tasnet.normalisation(x, "cumulative", None, after)
    np.testing.assert_allclose((after.mean, after.square), (1.0, 5.0), rtol=1e-4)
    # Frames of another level, one by one: in sums of single precision none of them would count.
    past = conv_tasnet.Moments(jnp.float32(4e7), jnp.float32(0.0), jnp.float32(1.0))
    for _ in range(50):
        _, _, past = conv_tasnet.normalisation(jnp.full((1, 6), 3.0), "cumulative", None, past)
    np.testing.assert_allclose(past.mean, 50 * 3.0 / 4e7, rtol=1e-3)


def test_frames_that_are_all_but_constant_are_normalised() -> None:
    x = 3 + 1e-4 * _waveform(500, 192)
    mean, spread, _ = conv_tasnet.normalisation(x, "frame", None)
    assert np.isfinite(spread).all()
    np.testing.assert_allclose(((x - mean) * spread)[:5].std(1), 0.7, atol=0.4)


def test_only_causal_networks_stream_and_only_whole_hops() -> None:
    with pytest.raises(UserError, match="only causal networks"):
        conv_tasnet.stream_init(TINY)
    with pytest.raises(UserError, match="multiples of 4 samples"):
        conv_tasnet.stream_push(CAUSAL, _parameters(CAUSAL), conv_tasnet.stream_init(CAUSAL), jnp.zeros(6))


def test_half_precision_is_near_full_precision() -> None:
    parameters, x = _parameters(TINY), _waveform(1, 64)
    half, full = (predict(dataclasses.replace(TINY, precision=p), parameters, x) for p in ("bfloat16", "float32"))
    assert half.dtype == jnp.float32
    assert 1e-6 < np.abs(half - full).max() < 0.1 * np.abs(full).max()


@pytest.mark.loose_arrays  # optax
def test_it_learns_to_tell_two_tones_apart_and_compiles_once() -> None:
    config = dataclasses.replace(TINY, rate=1e-2)
    time = np.arange(400) / 100
    rng = np.random.default_rng(0)

    def batch() -> Batch:
        tones = [np.sin(2 * np.pi * f * time + rng.uniform(0, 6, (4, 1))) for f in (3.0, 20.0)]
        sources = np.stack(tones, axis=1).astype(np.float32)
        return Batch(jnp.asarray(sources.sum(1)), jnp.asarray(sources))

    state = conv_tasnet.init(config, jax.random.key(0))
    step = partial(conv_tasnet.step, config)
    programs = conv_tasnet.step._cache_size()
    losses = []
    for n in range(80):
        state, found = step(state, batch(), jax.random.key(n))
        losses.append(float(found.loss))
    assert conv_tasnet.step._cache_size() == programs + 1
    assert losses[-1] < -10 < losses[0]
    np.testing.assert_allclose(found.loss, -(found.speech + found.music) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mask": "tanh"}, "mask 'tanh' is not known"),
        ({"norm": "batch"}, "norm 'batch' is not known"),
        ({"precision": "int8"}, "precision 'int8' is not known"),
        ({"steps": -1}, "steps is -1"),
        ({"bank": "wavelet"}, "bank 'wavelet' is not known"),
        ({"bank": "fourier"}, "twice the length 20"),
        ({"blocks": 0}, "blocks is 0"),
        ({"length": 21}, "length is 21, but must be even"),
        ({"kernel": 4}, "kernel is 4, but must be odd"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"causal": True}, "looks ahead"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ConvTasNet(**changes)
