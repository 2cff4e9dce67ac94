"""Separators of waveforms on recordings: windows against the whole, streams, rates, channels, and one program for all lengths."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bayessep import audio, karaoke, metrics, neural, shipped
from bayessep.broadcast import generate_broadcast
from bayessep.errors import UserError
from bayessep.karaoke import Karaoke
from bayessep.models import blstm_mask, conv_tasnet, deep_karaoke
from bayessep.models.blstm_mask import BlstmMask
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.models.deep_karaoke import DeepKaraoke
from bayessep.neural import Separator, in_windows
from bayessep.streaming import Held

RATE = 2000
TINY = ConvTasNet(filters=8, length=8, bottleneck=6, hidden=8, blocks=2, repeats=2, norm="frame", consistent=True)


def _separator(**changes: Any) -> Separator:
    config = dataclasses.replace(TINY, **changes)
    return Separator("conv-tasnet", config, conv_tasnet.init(config, jax.random.key(0)).parameters, RATE)


def _sound(channels: int, seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (channels, round(seconds * rate))).astype(np.float32)


def _in_pieces(x: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    ends = np.cumsum(sizes)
    return np.split(x, ends[ends < x.shape[1]], axis=1)


def _whole(separator: Separator, x: np.ndarray, scale: float) -> np.ndarray:
    module = neural.NETWORKS[separator.network][0]
    return scale * np.asarray(module.predict(separator.config, separator.parameters, jnp.asarray(x / np.float32(scale))))


@pytest.mark.parametrize("seconds", [0.0005, 0.3, 1.0, 1.9995, 2.0, 2.0005, 3.9, 4.0, 7.3])
def test_windows_say_what_the_whole_says(seconds: float) -> None:
    """To 60 dB and far beyond, where all that a sample depends on lies within the context."""
    separator, x = _separator(), _sound(2, seconds)
    pieces = _in_pieces(x, (700, 1, 2500, 1999, 3000))
    found = np.concatenate(list(in_windows(pieces, separator, 0.1, (1.0, 2.0))), axis=-1)
    expected = _whole(separator, x, 0.1)
    assert found.shape == expected.shape
    assert np.sum((found - expected) ** 2) < 1e-9 * np.sum(expected**2)


def test_windows_keep_to_the_frames_of_the_whole() -> None:
    """Whatever the hop: one that does not divide the fade must not set frames between those of the whole."""
    separator = _separator(length=28, filters=56, bank="fourier")
    x = _sound(1, 6.0)
    found = np.concatenate(list(in_windows([x], separator, 0.1, (1.0, 2.0))), axis=-1)
    expected = _whole(separator, x, 0.1)
    assert np.sum((found - expected) ** 2) < 1e-9 * np.sum(expected**2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rate", [RATE, 5000])
def test_a_scale_that_training_leaves_open_does_not_show(causal: bool, rate: int) -> None:
    """The loss is the same for a decoder that is ten times fainter, or upside down; so are the stems."""
    separator = _separator(consistent=False, causal=causal)
    x = _sound(1, 3.0, rate)
    expected = neural.separate(x, rate, separator).speech
    assert 1e-3 < np.sum(expected**2) / np.sum(x**2) < 10
    for factor in (0.1, -1.0):
        model = nnx.merge(conv_tasnet.graph(separator.config), separator.parameters, copy=True)
        model.decoder[...] = factor * model.decoder[...]
        other = separator._replace(parameters=nnx.state(model, nnx.Param))
        np.testing.assert_allclose(neural.separate(x, rate, other).speech, expected, atol=2e-4)


def test_gains_of_a_stream_change_gradually(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound that changes after two seconds is fitted by other gains, but none jumps where a block begins."""
    applied: list[np.ndarray] = []
    monkeypatch.setattr(neural, "to_scale", lambda x, sources, gains: applied.append(gains) or np.stack([x, x]))
    separator, x = _separator(consistent=False, causal=True), _sound(1, 5.0)
    x[:, 2 * RATE :] = 5 * np.sin(0.3 * np.arange(3 * RATE, dtype=np.float32))
    list(in_windows([x], separator, 0.1))
    gains = np.concatenate(applied, axis=1)
    assert np.ptp(gains) > 0.01 and np.abs(np.diff(gains)).max() < 1.1 * np.ptp(gains) / (neural.FADE * RATE)


def test_what_begins_after_silence_is_not_faded_in(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[np.ndarray] = []
    monkeypatch.setattr(neural, "to_scale", lambda x, sources, gains: applied.append(gains) or np.stack([x, x]))
    x = _sound(1, 2.0)
    x[:, : RATE + 10] = 0
    list(in_windows([x], _separator(consistent=False, causal=True), 0.1))
    assert (applied[0] == 0).all() and (applied[1] == applied[1][:, :1]).all() and applied[1].any()


def test_pieces_are_held_without_copying_all_of_them_each_time() -> None:
    pieces = [np.full((1, 7), k, np.float32) for k in range(5)]
    held = Held(iter(pieces), padded=True)
    found = [held.take(n) for n in (3, 0, 20, 12, 4)]
    np.testing.assert_array_equal(np.concatenate(found, 1)[0, :35], np.repeat(np.arange(5), 7))
    assert [f.shape[1] for f in found] == [3, 0, 20, 12, 4] and not found[-1].any()
    assert Held(iter([]), padded=True).take(3).shape == (1, 3)


def test_without_the_context_they_would_not() -> None:
    """With the norm of a window, what comes out differs from the whole: the comparison above can fail."""
    separator, x = _separator(norm="global"), _sound(1, 5.0) * np.linspace(0, 1, 10_000, dtype=np.float32)
    found = np.concatenate(list(in_windows([x], separator, 0.1, (1.0, 2.0))), axis=-1)
    expected = _whole(separator, x, 0.1)
    error = np.sum((found - expected) ** 2) / np.sum(expected**2)
    assert 1e-6 < error < 0.3
    np.testing.assert_allclose(found.sum(1), x, atol=1e-6)  # and stems sum to the recording all the same


@pytest.mark.parametrize("seconds", [0.0005, 0.5, 1.0, 1.003, 3.7])
def test_a_causal_network_is_exact_whatever_its_norm(seconds: float) -> None:
    separator, x = _separator(causal=True, norm="cumulative"), _sound(2, seconds)
    found = np.concatenate(list(in_windows(_in_pieces(x, (1100, 1, 2900)), separator, 0.1)), axis=-1)
    np.testing.assert_allclose(found, _whole(separator, x, 0.1), atol=1e-5)


def test_the_recurrent_mask_runs_in_windows_too() -> None:
    config = BlstmMask(layers=1, units=4, window=32, hop=8)
    separator = Separator("blstm-mask", config, blstm_mask.init(config, jax.random.key(0)).parameters, RATE)
    for seconds in (0.4, 6.0):
        x = _sound(1, seconds)
        found = np.concatenate(list(in_windows([x], separator, 0.1, (1.0, 2.0))), axis=-1)
        expected = _whole(separator, x, 0.1)
        assert np.sum((found - expected) ** 2) < 1e-3 * np.sum(expected**2)
        np.testing.assert_allclose(found.sum(1), x, atol=1e-5)


@pytest.mark.parametrize("rate", [1500, RATE, 5000])
@pytest.mark.parametrize("channels", [1, 2])
def test_stems_have_the_form_of_the_recording_and_sum_to_it(rate: int, channels: int) -> None:
    x = _sound(channels, 2.7, rate)
    found = neural.separate(x, rate, _separator())
    assert found.speech.shape == found.music.shape == x.shape and found.speech.dtype == np.float32
    np.testing.assert_allclose(found.speech + found.music, x, atol=1e-6)
    assert 0.01 < np.sum(found.speech**2) / np.sum(x**2) < 100


def test_what_the_network_does_not_hear_is_shared_as_what_it_hears() -> None:
    """A network that gives all to the speech gives it what is above its frequencies, too; one that gives nothing, nothing."""
    x, rate = _sound(1, 2.0, 6000), 6000
    time = np.arange(x.shape[1]) / rate
    high = 0.1 * np.sin(2 * np.pi * 2500 * time).astype(np.float32)[None]
    separator = _separator()
    for share in (0.0, 1.0):

        class Fixed(Separator):
            def predict(self, x: np.ndarray, length: int, begin: int) -> np.ndarray:
                return np.stack([share * x, (1 - share) * x], axis=1).astype(np.float32)  # noqa: B023

        found = neural.separate(x + high, rate, Fixed(*separator))
        middle = slice(1000, -1000)
        got = np.sum(found.speech[:, middle] * high[:, middle]) / np.sum(high[:, middle] ** 2)
        np.testing.assert_allclose(got, share, atol=0.05)


def test_upside_down_the_same_is_said_upside_down() -> None:
    """Where both signs are heard; heard once, a network of ReLUs has no reason to."""
    separator, x = _separator(), _sound(1, 1.5)
    for both in (False, True):
        one, other = (neural.separate(sign * x, RATE, separator._replace(both_signs=both)).speech for sign in (1, -1))
        assert bool(np.abs(one + other).max() < 1e-5 * np.abs(one).max()) is both
    again = neural.separator_of(neural.weights_of(separator._replace(both_signs=True)))
    assert again.both_signs and not neural.separator_of(neural.weights_of(separator)).both_signs


def test_level_and_channels_make_no_difference_to_what_is_speech() -> None:
    separator, x = _separator(), _sound(2, 1.5)
    found = neural.separate(x, RATE, separator).speech
    np.testing.assert_allclose(neural.separate(100 * x, RATE, separator).speech, 100 * found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("network", ["conv-tasnet", "blstm-mask", "deep-karaoke"])
def test_lengths_share_programs(network: str) -> None:
    masks, windows = BlstmMask(layers=1, units=3, window=32, hop=8), DeepKaraoke(frames=3, width=7)
    parameters = {m: m.init(c, jax.random.key(0)).parameters for m, c in ((blstm_mask, masks), (deep_karaoke, windows))}
    separator, module, rate, programs = {
        "conv-tasnet": (_separator(filters=9), conv_tasnet, RATE, len(neural.WINDOWS)),
        "blstm-mask": (Separator(network, masks, parameters[blstm_mask], RATE), blstm_mask, RATE, len(neural.WINDOWS)),
        "deep-karaoke": (Karaoke(windows, parameters[deep_karaoke], 100.0), deep_karaoke, karaoke.RATE, 1),
    }[network]
    before = module.predict._cache_size()
    for seconds in (0.5, 1.3, 3.9, 5.0, 17.0, 33.0):
        neural.separate(_sound(2, seconds, rate), rate, separator)
    assert module.predict._cache_size() == before + programs


def test_what_ships_takes_generated_broadcasts_apart() -> None:
    made = generate_broadcast(0, seconds=12.0)
    found = neural.separate(made.mixture[None], made.sample_rate, neural.separator_of(shipped.read("conv-tasnet")))
    for true, own in ((made.speech, found.speech), (made.music, found.music)):
        assert metrics.si_sdr(true, own[0]) > metrics.si_sdr(true, made.mixture) + 5


def test_silence_is_refused() -> None:
    with pytest.raises(UserError, match="silent"):
        neural.separate(np.zeros((1, 500), np.float32), RATE, _separator())
    with pytest.raises(UserError, match="the recording holds a NaN or infinite sample"):
        neural.separate(np.full((1, 500), np.nan, np.float32), RATE, _separator())
    with pytest.raises(UserError, match="silent"):  # nothing moves
        neural.separate(np.full((1, 20_000), -0.7546187, np.float32), RATE, _separator())
    with pytest.raises(UserError, match="silent"):  # no float32 says what it would have to be multiplied by
        neural.separate(np.float32(1e-39) * np.sign(_sound(1, 0.25)), RATE, _separator())


@pytest.mark.parametrize("rate", [RATE, 5000])
def test_a_constant_offset_changes_no_speech_and_stays_in_the_music(rate: int) -> None:
    separator, x = _separator(consistent=False), _sound(2, 1.5, rate)
    offset = np.array([[0.2], [-0.1]], np.float32)
    found, moved = (neural.separate(one, rate, separator) for one in (x, x + offset))
    np.testing.assert_allclose(moved.speech, found.speech, atol=2e-4)
    np.testing.assert_allclose(moved.music, found.music + offset, atol=2e-4)


def test_a_recording_is_scaled_by_the_level_of_what_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other networks than Conv-TasNet depend on it: beside silence, what sounds would be louder than any mixture in training."""
    levels: list[float] = []
    level = Separator.level
    monkeypatch.setattr(Separator, "level", lambda self, power, peak: levels.append(power) or level(self, power, peak))
    x, silence = _sound(2, 2.0), np.zeros((2, 6 * RATE), np.float32)
    faint, click = 1e-4 * np.sign(_sound(2, 9.0)), np.full((2, 1), 0.9, np.float32)
    for one in ([x], [silence, x, silence], [x, faint], [x, silence, silence[:, : 2 * RATE], click]):
        neural.separate(np.concatenate(one, axis=1), RATE, _separator())
    np.testing.assert_allclose(levels[:3], np.mean(x**2), rtol=1e-3)
    np.testing.assert_allclose(levels[3], np.mean(x**2), rtol=0.03, err_msg="the click is a part of what sounds")


def test_silence_beside_what_sounds_does_not_change_how_it_is_separated() -> None:
    """The norm over a window is one of what sounds in it, whether silence is digital or hardly heard."""
    config = dataclasses.replace(TINY, norm="global")
    parameters = conv_tasnet.init(config, jax.random.key(0)).parameters
    x = jnp.asarray(np.concatenate([_sound(1, 40.0), 1e-4 * _sound(1, 120.0, seed=1)], axis=1))
    here = jnp.arange(80_000)  # 40 s, twenty stretches of `waveform_separation.STRETCH`
    alone = conv_tasnet.predict(config, parameters, x[:, here])
    found = [conv_tasnet.separated(config, parameters, x, at_work=at_work)[..., here] for at_work in (True, False)]
    changed, changed_in_training = (float(jnp.square(one - alone).sum() / jnp.square(alone).sum()) for one in found)
    assert changed < 0.1 * changed_in_training
    nothing = conv_tasnet.predict(config, parameters, 0 * x)
    assert bool(jnp.isfinite(nothing).all())


def test_a_silent_file_is_named(tmp_path: Path) -> None:
    audio.write(tmp_path / "nothing.wav", np.zeros((1, 500), np.float32), RATE)
    stems = [tmp_path / "speech.wav", tmp_path / "music.wav"]
    with pytest.raises(UserError, match=r"nothing\.wav is silent"):
        neural.separate_file(tmp_path / "nothing.wav", _separator(), *stems)
    assert not any(stem.exists() for stem in stems)


def test_files_are_separated_as_arrays_are(tmp_path: Path) -> None:
    x = _sound(2, 25.0)
    audio.write(tmp_path / "mix.wav", x, RATE, "FLOAT")
    names = [tmp_path / "speech.wav", tmp_path / "music.wav"]
    neural.separate_file(tmp_path / "mix.wav", _separator(), *names)
    expected = neural.separate(x, RATE, _separator())
    for name, stem in zip(names, expected, strict=True):
        np.testing.assert_allclose(audio.read(name).samples, stem, atol=1e-6)


def test_weights_come_back_from_files(tmp_path: Path) -> None:
    separator = _separator(mask="sigmoid")
    shipped.write_file(tmp_path / "w.safetensors", neural.weights_of(separator, licences=["CC0"]))
    found = neural.load("conv-tasnet", tmp_path / "w.safetensors")
    assert found.config == separator.config and found.sample_rate == RATE
    jax.tree.map(np.testing.assert_array_equal, found.parameters, separator.parameters)
    with pytest.raises(UserError, match="w.safetensors holds weights of conv-tasnet, not of blstm-mask"):
        neural.load("blstm-mask", tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="not the weights of a separator"):
        neural.separator_of(shipped.Weights({}, {"network": "frames"}))
    good = neural.weights_of(separator)
    for changes in ({"sample_rate": 0}, {"sample_rate": float("inf")}, {"config": good.settings["config"] | {"blocks": 2.0}}):
        with pytest.raises(UserError, match="not the weights of a separator"):
            neural.separator_of(good._replace(settings=good.settings | changes))
    with pytest.raises(UserError, match="no finite numbers"):
        neural.separator_of(good._replace(arrays={name: np.nan * x for name, x in good.arrays.items()}))
    with pytest.raises(UserError, match="cannot read"):
        neural.load("conv-tasnet", tmp_path / "none.safetensors")
