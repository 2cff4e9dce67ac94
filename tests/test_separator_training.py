"""The recipe of separators: mixtures as asked for, held-out ones that stay, and training through the one loop."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bayessep import separator_training as training
from bayessep import train
from bayessep.detector_data import Item, Items
from bayessep.detector_training import read_recipe
from bayessep.errors import UserError
from bayessep.separator_training import RATE, Recipe

SMALL: dict[str, Any] = {"batch": 2, "seconds": 0.1, "held": 4, "epochs": 2, "steps_per_epoch": 2}


def _tone(frequency: float, seconds: float = 2.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def _items() -> Items:
    return Items(
        [Item(f"s{n}", f"s{n}", _tone(200 + 50 * n)) for n in range(3)],
        [Item(f"m{n}", f"m{n}", 0.3 * _tone(2000 + 300 * n)) for n in range(3)],
    )


@pytest.mark.parametrize("vary", [False, True])
def test_mixtures_have_their_ratio_and_a_mean_square_of_one(vary: bool) -> None:
    ratios = iter((-5.0, 0.0, 7.0))
    batch = training.drawn(_items(), 3, 0.5, lambda _: next(ratios), np.random.default_rng(0), vary)
    assert batch.mixture.shape == (3, RATE // 2) and batch.sources.dtype == np.float32
    power = (batch.sources**2).mean(-1)
    np.testing.assert_allclose(10 * np.log10(power[:, 0] / power[:, 1]), (-5, 0, 7), atol=1e-3)
    np.testing.assert_allclose((batch.mixture**2).mean(-1), 1, rtol=1e-4)
    np.testing.assert_array_equal(batch.mixture, batch.sources.sum(1))


def test_stretches_avoid_pauses_and_short_recordings_start_over() -> None:
    silent = np.zeros(8 * RATE, np.float32)
    silent[-RATE:] = _tone(300, 1.0)
    rng = np.random.default_rng(0)
    heard = [np.mean(training.stretch([Item("a", "a", silent)], RATE, rng) ** 2) > 0 for _ in range(20)]
    assert np.mean(heard) > 0.8
    short = training.stretch([Item("a", "a", _tone(440, 0.1))], RATE, rng)
    assert len(short) == RATE and np.mean(short**2) > 0.4


def test_speeds_change_pitch_and_length_together() -> None:
    pitches = []
    for seed in range(30):
        speech, _ = training.varied(_items()._replace(speech=[Item("s", "s", _tone(400, 3.0))]), RATE, np.random.default_rng(seed))
        pitches.append(float(np.argmax(np.abs(np.fft.rfft(speech)))))
    assert 340 <= min(pitches) < 370 and 430 < max(pitches) <= 465  # from 400 / 1.15 to 400 * 1.15


def test_a_batch_depends_on_its_number_and_validation_on_nothing() -> None:
    task = training.task(Recipe("blstm-mask", **SMALL), _items(), _items())
    np.testing.assert_array_equal(task.batch(3).mixture, task.batch(3).mixture)
    assert (task.batch(3).mixture != task.batch(4).mixture).any()
    state = task.init(jax.random.key(0))
    assert task.validate(state) == task.validate(state)


@pytest.mark.loose_arrays  # optax
@pytest.mark.parametrize("network", ["conv-tasnet", "blstm-mask"])
def test_it_trains_and_goes_on(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets = {
        "conv-tasnet": training.ConvTasNet(filters=16, length=32, bottleneck=8, hidden=8, blocks=2, repeats=1),
        "blstm-mask": training.BlstmMask(layers=1, units=6, window=64, hop=32),
    }
    monkeypatch.setitem(training.NETWORKS[network].PRESETS, "small", presets[network])
    recipe = Recipe(network, rate=1e-2, **SMALL)
    assert recipe.config.rate == 1e-2
    whole = train.train(training.task(recipe, _items(), _items()), recipe.training, tmp_path / "whole")
    assert {"train/speech", "train/music", "validation/speech", "validation/loss"} <= whole.history[0].keys()
    first = Recipe(network, rate=1e-2, **SMALL | {"epochs": 1})
    train.train(training.task(first, _items(), _items()), first.training, tmp_path / "parts")
    again = train.train(training.task(recipe, _items(), _items()), recipe.training, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, again.state.parameters, whole.state.parameters)


def test_recipes_come_from_files_and_name_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('preset = "paper"\ncausal = true\nbatch = 4\nseconds = 2\n')
    recipe = read_recipe(path, {"batch": 16}, Recipe)
    assert recipe.config.norm == "cumulative" and recipe.config.filters == 256 and (recipe.batch, recipe.seconds) == (16, 2.0)
    path.write_text(json.dumps({"snr": 3}))
    with pytest.raises(UserError, match="'snr' is not a setting"):
        read_recipe(path, {}, Recipe)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"network": "unet"}, "there is no network 'unet'"),
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"batch": 0}, "batch is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"snr_deviation": -1.0}, "deviation at least 0"),
        ({"snr_mean": 4000.0}, "snr_mean is 4000"),  # numbers so large would overflow
        ({"snr_mean": float("nan")}, "snr_mean is nan"),
        ({"network": "blstm-mask", "causal": True}, "apply to conv-tasnet"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_impossible_recipes_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Recipe(**given)
