"""A separator before a recogniser: what is tuned changes and nothing else, padding changes nothing, and both can be tuned."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayessep.errors import UserError
from bayessep.models import attention_asr, beam_search, blstm_mask, conv_tasnet, joint_asr, waveform_separation
from bayessep.models.attention_asr import BEGIN, END, AttentionAsr
from bayessep.models.blstm_mask import BlstmMask
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.models.joint_asr import BACK, BOTH, FRONT, Batch, JointAsr, State

ROOT = Path(__file__).resolve().parent.parent
BACKEND = AttentionAsr(
    labels=4, layers=1, units=3, channels=2, attention=5, filters=2, reach=4, mels=8, window=16, hop=4, sample_rate=200
)  # fmt: skip
FRONTS = {
    "conv-tasnet": ConvTasNet(filters=8, length=8, bottleneck=6, hidden=8, blocks=2, repeats=1, consistent=True),
    "blstm-mask": BlstmMask(layers=1, units=3, window=16, hop=8),
}
JOINT = JointAsr(FRONTS["conv-tasnet"], BACKEND, rate=1e-3)


def _batch(n: int = 160) -> Batch:
    rng = np.random.default_rng(0)
    speech = rng.normal(size=(2, n)).astype(np.float32)
    mixture = speech + rng.normal(size=(2, n)).astype(np.float32)
    labels = np.array([[BEGIN, 2, 3, END], [BEGIN, 3, END, END]])
    return Batch(mixture, speech, np.array([160, 101]), labels, np.array([4, 3]))


def _same(one: object, other: object) -> list[bool]:
    return [bool(np.array_equal(a, b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]


@pytest.mark.loose_arrays  # optax
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("tuned", joint_asr.TUNED)
def test_what_is_tuned_changes_and_nothing_else(front: str, tuned: str) -> None:
    """Parameters and running statistics, bit for bit; by gradients of the recogniser alone, for the separator too."""
    config = dataclasses.replace(JOINT, front=FRONTS[front], tuned=tuned, weight=1e6)
    before = joint_asr.init(config, jax.random.key(0))
    kept = jax.tree.map(np.array, before)  # a step takes what it is given
    after, found = joint_asr.step(config, before, _batch(), jax.random.key(1))
    assert all(np.isfinite(value) for value in found)
    for name, part in ((FRONT, "front"), (BACK, "back"), (BACK, "statistics")):
        same = _same(getattr(kept, part), getattr(after, part))
        assert not any(same) if name in config.parts else all(same), part
    assert set(after.optimisers) == set(config.parts) == {FRONT: {FRONT}, BACK: {BACK}, BOTH: {FRONT, BACK}}[tuned]


def test_the_gradient_of_what_is_recognised_reaches_the_separator() -> None:
    """As finite differences have it."""
    state, batch = joint_asr.init(JOINT, jax.random.key(0)), _batch()

    def loss(front: object) -> jax.Array:
        return joint_asr.losses(JOINT, front, state.back, state.statistics, batch)[0].recognition

    recognised = jax.jit(jax.value_and_grad(loss))
    _, gradient = recognised(state.front)
    length = np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(gradient)))
    assert length > 1e-3
    moved = [jax.tree.map(lambda x, g, s=s: x + jnp.float32(s * 1e-3 / length) * g, state.front, gradient) for s in (-1, 1)]
    low, high = (float(recognised(front)[0]) for front in moved)
    assert (high - low) / 2e-3 == pytest.approx(length, rel=0.1)


@pytest.mark.parametrize("front", FRONTS)
def test_padding_and_company_change_nothing(front: str) -> None:
    """Not L and its parts, nor gradients, nor the running statistics, whatever lies behind an end."""
    config = dataclasses.replace(JOINT, front=FRONTS[front], back=dataclasses.replace(BACKEND, dropout=0.0))
    state, batch = joint_asr.init(config, jax.random.key(0)), _batch()
    longer = [np.pad(np.asarray(x), ((0, 0), (0, 80)), constant_values=7) for x in batch[:2]]
    for x in longer:
        x[1, 101:] = -9
    padded = Batch(*longer, batch.samples, np.pad(np.asarray(batch.labels), ((0, 0), (0, 3)), constant_values=2), batch.length)

    def loss(parts: tuple[object, object], of: Batch) -> tuple[jax.Array, object]:
        found = joint_asr.losses(config, *parts, state.statistics, of, jax.random.key(0))
        return found[0].loss, found

    graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
    both = (jax.tree.leaves(graded((state.front, state.back), of)) for of in (batch, padded))
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("front", FRONTS)
def test_nothing_at_all_has_a_gradient(front: str) -> None:
    config = dataclasses.replace(JOINT, front=FRONTS[front])
    state, mixture = joint_asr.init(config, jax.random.key(0)), jnp.asarray(_batch().mixture)
    loss = jax.grad(lambda p: sum(jnp.square(x).sum() for x in joint_asr.speech_of(config, p, mixture, jnp.array([160, 0]))))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(loss(state.front)))


@pytest.mark.parametrize("front", FRONTS)
def test_each_of_unequal_length_is_separated_as_alone(front: str) -> None:
    config = dataclasses.replace(JOINT, front=FRONTS[front])
    state, batch = joint_asr.init(config, jax.random.key(0)), _batch()
    separated = joint_asr.separate(config, state.front, jnp.asarray(batch.mixture), jnp.asarray(batch.samples))
    short = jnp.asarray(batch.mixture)[1:, :101]
    alone = joint_asr.separate(config, state.front, short, jnp.array([101]))
    # In the last hop, one more frame of the spectrogram has a part (`blstm_mask.separated`).
    end = 101 if front == "conv-tasnet" else 101 - 16
    np.testing.assert_allclose(separated[1, :end], alone[0, :end], atol=1e-5)
    assert not separated[1, 101:].any()
    # The same of the networks, which take a length of each as well as one of all.
    network, spoken = config.separator, batch.mixture * (np.arange(160) < np.asarray(batch.samples)[:, None])
    every = network.separated(config.front, state.front, jnp.asarray(spoken, jnp.float32), jnp.asarray(batch.samples))
    for n, count in enumerate(batch.samples):
        one = network.separated(config.front, state.front, jnp.asarray(spoken[n : n + 1], jnp.float32), jnp.asarray(count))
        np.testing.assert_allclose(every[n], one[0], atol=1e-5)


def test_loudness_of_a_mixture_is_that_of_its_speech() -> None:
    state, batch = joint_asr.init(JOINT, jax.random.key(0)), _batch()
    given = jnp.asarray(batch.mixture), jnp.asarray(batch.samples)
    once, ten = (joint_asr.separate(JOINT, state.front, jnp.float32(k) * given[0], given[1]) for k in (1, 10))
    np.testing.assert_allclose(10 * once, ten, rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_both_parts() -> None:
    """L = L_sep + α L_asr; without α, what separators of waveforms learn from, and nothing is recognised."""
    state, batch = joint_asr.init(JOINT, jax.random.key(0)), _batch()
    whole = batch._replace(samples=np.array([160, 160]))
    found = joint_asr.measure(JOINT, state, whole)
    assert found.loss == pytest.approx(float(found.separation + 2 * found.recognition), rel=1e-5)
    sources = np.stack([batch.speech, np.asarray(batch.mixture) - np.asarray(batch.speech)], axis=1)

    def separate(parameters: object, mixture: jax.Array) -> jax.Array:
        return conv_tasnet.separated(JOINT.front, parameters, mixture)

    scale = np.sqrt(np.mean(np.square(batch.mixture), axis=1))[:, None]
    alone = waveform_separation.losses(
        separate, state.front, waveform_separation.Batch(np.asarray(batch.mixture) / scale, sources / scale[:, None])
    )
    np.testing.assert_allclose([found.separation, found.speech, found.music], alone, rtol=1e-3, atol=1e-3)
    speech, music = joint_asr.speech_of(JOINT, state.front, jnp.asarray(batch.mixture), jnp.array([160, 160]))
    np.testing.assert_allclose(speech + music, batch.mixture, atol=1e-5)  # as this separator has it
    said = attention_asr.Batch(speech, np.array([160, 160]), batch.labels, batch.length)
    apart = attention_asr.losses(BACKEND, state.back, state.statistics, said)[0]
    assert apart.loss == pytest.approx(float(found.recognition), rel=1e-5)
    without = joint_asr.measure(dataclasses.replace(JOINT, weight=0.0), state, whole)
    assert without.loss == pytest.approx(float(found.separation), rel=1e-6) and without.recognition == without.right == 0


def test_si_sdr_of_unequal_lengths_is_that_of_each() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(1, 1, size=(2, 3, 50)).astype(np.float32)
    counts = (50, 31, 2)
    inside = jnp.arange(50)[None] < jnp.array(counts)[:, None]
    found = waveform_separation.si_sdr(jnp.asarray(x), jnp.asarray(y), inside)
    for n, count in enumerate(counts):
        alone = waveform_separation.si_sdr(jnp.asarray(x[n, :count]), jnp.asarray(y[n, :count]))
        assert found[n] == pytest.approx(float(alone), abs=1e-3)


def test_what_is_decoded_is_what_the_recogniser_says_of_the_speech() -> None:
    state, batch = joint_asr.init(JOINT, jax.random.key(0)), _batch()
    given = jnp.asarray(batch.mixture), jnp.asarray(batch.samples)
    found, speech = joint_asr.decode(JOINT, *state[:3], *given, 2, 5)
    alone = beam_search.decode(BACKEND, state.back, state.statistics, speech, given[1], 2, 5)
    np.testing.assert_array_equal(found.labels, alone.labels)
    np.testing.assert_array_equal(speech, joint_asr.separate(JOINT, state.front, *given))


@pytest.mark.loose_arrays  # optax
def test_both_learn_together() -> None:
    config = dataclasses.replace(JOINT, rate=1e-2, back=dataclasses.replace(BACKEND, dropout=0.0, units=8))
    state, batch, losses = joint_asr.init(config, jax.random.key(0)), _batch(), []
    for n in range(60):
        state, found = joint_asr.step(config, state, batch, jax.random.key(n))
        losses.append((float(found.separation), float(found.recognition)))
    assert losses[-1][1] < 0.7 * losses[0][1]
    assert isinstance(state, State) and joint_asr.measure(config, state, batch).right > 0.8


def test_several_devices_learn_what_one_does(tmp_path: Path) -> None:
    """Utterances divided among them; batch normalisation and the norm of gradients are of all of them."""

    def begun(devices: int) -> subprocess.Popen[str]:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "tests.tuner", str(tmp_path / str(devices))]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    found = {}
    for devices, process in [(n, begun(n)) for n in (1, 4)]:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        count, learned, losses = out.splitlines()
        assert int(count) == devices
        found[devices] = np.frombuffer(bytes.fromhex(learned), np.float32), json.loads(losses)
    (one, losses), (other, same) = found[1], found[4]
    assert losses == pytest.approx(same, rel=1e-3)
    # Biases before batch normalisation have no gradient but rounding, of which Adam makes steps of full length.
    assert np.isclose(one, other, rtol=1e-3, atol=1e-4).mean() > 0.99


def test_the_papers_networks_are_the_defaults() -> None:
    config = JointAsr()
    assert (config.tuned, config.weight, config.rate) == (BOTH, 2.0, 1e-4)
    assert (config.separator, config.parts) == (conv_tasnet, (FRONT, BACK))
    assert dataclasses.replace(config, front=BlstmMask()).separator is blstm_mask


@pytest.mark.parametrize(
    ("changes", "says"), [({"tuned": "none"}, "tuned is 'none'"), ({"weight": -1.0}, "weight is -1"), ({"rate": 0.0}, "rate is 0")]
)
def test_what_cannot_be_joined_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        dataclasses.replace(JOINT, **changes)
