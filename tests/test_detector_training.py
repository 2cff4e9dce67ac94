"""The recipe of a detector, from a file and from flags; and that nobody is on both sides of a split."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from bayessep import detector_data, detector_training
from bayessep.detector_data import Item, Items
from bayessep.detector_training import PAPER, Recipe, divide, read_recipe
from bayessep.errors import UserError
from bayessep.models.speech_music_detector import Batch
from bayessep.train import train

# --- the recipe ----------------------------------------------------------------------------------------------------------


def test_a_recipe_says_all_of_its_parts() -> None:
    recipe = Recipe(
        "frames", "single", "LMS", 40, 100, 0.1, 0.01, 3, 5, 7.0, False, True, False, 9, 11, 2, 0.5, 4, 0.9
    )  # fmt: skip
    front, network, drawing, training = recipe.front, recipe.detector, recipe.drawing, recipe.training
    assert (front.feature, front.bands, front.width, front.range_db) == ("LMS", 40, 40, 200.0)
    assert (network.network, network.head, network.width, network.parts, network.length) == ("frames", "single", 40, 1, 100)
    assert (network.dropout, network.rate, network.classes) == (0.1, 0.01, 4)
    assert (drawing.crops, drawing.crop_seconds, drawing.patch) == (5, 7.0, 100)
    assert (drawing.augment, drawing.neither, drawing.standardised) == (False, True, False)
    assert tuple(asdict(training).values()) == (9, 11, 2, 0.5, 4, 0.9)
    assert (PAPER.detector.classes, PAPER.detector.parts, PAPER.detector.rate, PAPER.front.range_db) == (3, 2, 0.0, 80.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"each": 0}, "each is 0"),
        ({"network": "b5"}, "choose one of b1"),
        ({"feature": "MFCC"}, "choose one of S"),
        ({"crop_seconds": 0.67}, "shorter than a patch of 68"),
        ({"crop_seconds": float("nan")}, "crop_seconds is nan"),
        ({"crop_seconds": float("inf")}, "crop_seconds is inf"),
        ({"crops": 0}, "crops is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Recipe(**settings)
    Recipe(crop_seconds=0.68)


def test_recipes_are_read_and_flags_come_first(tmp_path: Path) -> None:
    path = tmp_path / "recipe"
    path.write_text('# mine\nnetwork = "frames"\ncrop_seconds = 10\nneither = true\nstandardised = false\n', encoding="utf-8")
    wanted = Recipe(network="frames", crop_seconds=10.0, neither=True, standardised=False)
    assert read_recipe(path) == wanted and isinstance(read_recipe(path).crop_seconds, float)
    assert read_recipe(path, {"head": "single", "bands": 40}) == replace(wanted, head="single", bands=40)
    path.write_text(json.dumps(asdict(wanted)), encoding="utf-8")
    assert read_recipe(path) == wanted
    assert read_recipe(None) == Recipe() and read_recipe(None, {"seed": 3}) == Recipe(seed=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 3", "'colour' is not a setting; the settings are network"),
        ("bands = 12.5", "bands is 12.5, but must be of the kind int"),
        ("bands = true", "bands is True"),
        ("rate = true", "rate is True"),
        ("augment = 1", "augment is 1"),
        ("network = 3", "of the kind str"),
        ("rate = nan", "rate is nan"),
        ("crop_seconds = inf", "crop_seconds is inf"),
        ("network = ", "neither TOML nor JSON"),
        ('{"network": ', "neither TOML nor JSON"),
        ("[network]", "of the kind str"),
        (b"\xff\xfe", "neither TOML nor JSON"),
    ],
)
def test_files_that_are_no_recipe_are_refused(text: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=words):
        read_recipe(path)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(UserError, match=f"{path.name} cannot be read"):
            read_recipe(path)


# --- two sides -----------------------------------------------------------------------------------------------------------


def _items(*groups: int) -> list[Item]:
    """So many of each group."""
    return [Item(f"{group} {n}", str(group), np.ones(1, np.float32)) for group, count in enumerate(groups) for n in range(count)]


def _both(own: list[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """One class of a division; the other is easy to divide."""
    learn, held = divide(Items(own, _items(1, 1, 1)), share, seed)
    assert learn.music and held.music
    return learn.speech, held.speech


@pytest.mark.parametrize("groups", [(1, 1), (10, 10), (7, 1, 1), (1, 7), (2, 3, 4, 5), (9, 8, 9), (1,) * 20])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_no_group_is_on_both_sides(groups: tuple[int, ...], share: float) -> None:
    own = _items(*groups)
    for seed in range(8):
        learn, held = _both(own, share, seed)
        assert learn and held and sorted(item.name for item in learn + held) == sorted(item.name for item in own)
        assert not {item.group for item in learn} & {item.group for item in held}
        # No more than the share, if a group is so small.
        most = min(max(1, round(share * len(own))), len(own) - 1)
        assert len(held) <= max(most, min(groups))


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.2, 2), (0.5, 5), (1.0, 9)])
def test_a_single_group_is_divided(share: float, count: int) -> None:
    learn, held = _both(_items(10), share, 0)
    assert (len(learn), len(held)) == (10 - count, count)
    assert not {item.name for item in learn} & {item.name for item in held}


def test_divisions_are_functions_of_their_seed() -> None:
    names = [[item.name for item in _both(_items(*[2] * 10), 0.2, seed)[1]] for seed in (0, 0, 1, 2)]
    assert names[0] == names[1] and len({tuple(n) for n in names}) > 1
    learn, held = _both(_items(*[2] * 10), 0.2, 0)
    assert len(held) == 4


@pytest.mark.parametrize(("items", "what"), [(Items(_items(1), _items(2)), "speech"), (Items(_items(2), []), "music")])
def test_too_little_is_refused(items: Items, what: str) -> None:
    with pytest.raises(UserError, match=f"too little {what}"):
        divide(items, 0.2, 0)


# --- songs ---------------------------------------------------------------------------------------------------------------


def test_songs_are_made_when_they_are_needed_once_of_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def made(items: Items, sample_rate: int, rng: np.random.Generator) -> list[Item]:
        asked.append([item.name for item in items.music])
        return [Item("song", "song", np.ones(1, np.float32))]

    drawn: list[int] = []

    def draw(items: Items, front, drawing, rng: np.random.Generator) -> detector_data.Pool:
        drawn.append(len(items.music))
        return detector_data.Pool(np.zeros((3, 70, front.width), np.float32), np.arange(3), np.zeros(3))

    monkeypatch.setattr(detector_training, "songs", made)
    monkeypatch.setattr(detector_data, "draw_pool", draw)
    learn, held = Items(_items(1), _items(2)), Items(_items(1), _items(1))
    for with_songs, count in ((True, 3), (False, 2)):
        asked.clear()
        drawn.clear()
        recipe = Recipe(head="single", feature="LMS", bands=4, each=1, steps_per_epoch=1, songs=with_songs)
        task = detector_training.task(recipe, learn, held)
        assert not asked, "a training that is over needs none"
        for n in range(2):
            task.batch(n)
        assert drawn == [count] * 2 and asked == ([["0 0", "0 1"], ["0 0"]] if with_songs else [])


# --- the training --------------------------------------------------------------------------------------------------------

TINY = Recipe(network="b3", feature="LMS", bands=8, each=4, crops=2, crop_seconds=1.5, augment=False, epochs=2, steps_per_epoch=2)


@pytest.mark.loose_arrays  # optax
def test_an_interrupted_training_of_a_detector_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Running means, dropout, related tasks and the optimiser go on where they were."""
    rng, t = np.random.default_rng(0), np.arange(48000) / 16000
    noise, tone = rng.standard_normal(48000).astype(np.float32), np.sin(880 * np.pi * t).astype(np.float32)
    items = Items([Item("noise", "a", noise)], [Item("tone", "b", tone)])
    task = detector_training.task(TINY, items, items)

    def batch(n: int) -> Batch:
        if n == 3:
            raise KeyboardInterrupt
        return task.batch(n)

    whole = train(task, TINY.training, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(replace(task, batch=batch), TINY.training, tmp_path / "parts")
    parts = train(task, TINY.training, tmp_path / "parts")
    assert parts.history == whole.history and [row["validation/loss"] for row in whole.history]
    jax.tree.map(np.testing.assert_array_equal, parts.state, whole.state)
