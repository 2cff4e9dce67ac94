"""The separation of paper 001: mixtures to test with, a run that goes on, tables by hand, and the card of what ships."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio, data, neural, separator_release, shipped, woo2020
from bayessep import woo2020_tables as made
from bayessep.detector_data import Item, Items
from bayessep.detector_release import Division
from bayessep.errors import UserError
from bayessep.models import blstm_mask, conv_tasnet
from bayessep.models.blstm_mask import BlstmMask
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.separator_training import RATE
from bayessep.woo2020 import FREQUENCY, MIXTURE, RATIOS, TIME, Budget
from tests.commandline import Caller, cut_off

TINY: dict[str, Any] = {"seconds": 0.1, "batch": 1, "held": 1, "epochs": 2, "steps_per_epoch": 1}


def _items(names: str, of: int) -> Items:
    def sound(frequency: float, name: str) -> Item:
        time = np.arange(2 * RATE) / RATE
        return Item(name, name, np.sin(2 * np.pi * frequency * time * (1 + time / 9)).astype(np.float32))

    return Items([sound(300 + of, f"{n} speech") for n in names], [sound(2000 + 10 * of, f"{n} music") for n in names])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Tiny networks, a budget of a step or two, and a folder with a manifest of as much as is asked of it."""
    tiny = ConvTasNet(filters=8, length=8, bottleneck=6, hidden=8, blocks=2, repeats=1, consistent=True)
    monkeypatch.setitem(conv_tasnet.PRESETS, "small", tiny)
    monkeypatch.setitem(blstm_mask.PRESETS, "small", BlstmMask(layers=1, units=3, window=64, hop=32))
    first = dataclasses.replace(woo2020.FULL, **TINY)
    last = dataclasses.replace(first, epochs=1, falls=True)
    recipes = {TIME: (first, last), FREQUENCY: (dataclasses.replace(first, network=FREQUENCY),)}
    budget = Budget(recipes, each=2, seconds=0.5)
    monkeypatch.setitem(woo2020.BUDGETS, "full", budget)
    parts = Division(_items("ab", 0), _items("c", 50), _items("de", 90), ["here: CC0 (1 min)"], {})
    seconds = {f"{part} {what}": 4.0 for part in ("learn", "held", "test") for what in Items._fields}
    monkeypatch.setattr(woo2020, "division", lambda folder: parts._replace(seconds=seconds))
    monkeypatch.setattr(separator_release, "division", woo2020.division)
    audio.write(tmp_path / "x.wav", np.full((1, 1600), 0.1, np.float32), RATE)
    rows = [["x.wav", "music", f"{n} music", "0.1", "16000", "1", "", note, "here", "x", "CC0"]
            for n, note in (("d", "instrumental; waltz, by x"), ("e", "song with vocals (mix only), pop"))]  # fmt: skip
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([data.MANIFEST_COLUMNS, *rows])
    return tmp_path


def test_mixtures_are_of_every_recording_and_stay_the_same() -> None:
    named = {"d music": "waltz"}
    first, again = (list(woo2020.mixtures(_items("de", 0), named, 2, 0.5, 3)) for _ in range(2))
    assert [(m.number, m.group, m.genre) for m in first] == [
        (0, "d music", "waltz"), (1, "d music", "waltz"), (2, "e music", "not said"), (3, "e music", "not said"),
    ]  # fmt: skip
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.music, other.music)
        assert len(one.speech) == len(one.music) == RATE // 2


def test_what_cannot_be_scored_is_named_before_anything_is_trained() -> None:
    silent = np.zeros(2 * RATE, np.float32)
    speech, music = _items("de", 0)
    with pytest.raises(UserError, match="music of q is silent wherever"):
        list(woo2020.mixtures(Items(speech, [*music, Item("q", "q", silent)]), {}, 1, 0.5, 0))
    with pytest.raises(UserError, match="the speech to go with music of d music is silent"):
        list(woo2020.mixtures(Items([Item("s", "s", silent)], music), {}, 1, 0.5, 0))


@pytest.mark.parametrize(
    ("note", "genre"),
    [
        ("instrumental; classical; Dance", "classical"),
        ("instrumental; short fragment/single phrase: cello", "short fragment/single phrase"),
        ("song with vocals (mix only), folk, English", "songs with vocals"),
        ("", "not said"),
    ],
)
def test_genres_are_read_off_notes(note: str, genre: str) -> None:
    assert woo2020.genre_of(note) == genre


def test_the_seed_is_that_of_all_trainings(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def trained(recipes: Sequence[Any], *_: Any) -> Any:
        seeds.extend(recipe.seed for recipe in recipes)
        raise InterruptedError

    monkeypatch.setattr(woo2020, "trained", trained)
    monkeypatch.setattr(woo2020, "tested", lambda row, network, one, ratio: {"mixture": one.number})
    with pytest.raises(InterruptedError):
        woo2020.run(small / "seeded", small, "full", seed=7)
    assert seeds and set(seeds) == {7}


@pytest.mark.loose_arrays  # optax
def test_an_interrupted_run_goes_on(call: Caller, small: Path) -> None:
    folder = small / "out"
    with cut_off(woo2020, "tested", 9):
        woo2020.run(folder, small, "full")
    kept = (folder / "results.jsonl").read_text()
    assert kept.count("\n") == 9
    begun = made.about(made.Results(woo2020.finished(folder, "full", 0)), json.loads((folder / "setup.json").read_text()))
    assert f"9 of {4 * len(RATIOS) * 4} results are there" in begun
    lines = woo2020.run(folder, small, "full")
    assert len(lines) == 4 * len(RATIOS) * 4 and (folder / "results.jsonl").read_text().startswith(kept)
    assert woo2020.finished(folder, "full", 0) == lines
    results = made.Results(lines)
    assert results.genres == {"songs with vocals": 2, "waltz": 2}
    assert np.mean(results.gains("ideal-ratio-mask", 0.0, "speech SI-SDR")) > 5
    assert results.gains(MIXTURE, 0.0, "speech SDR") == [0.0] * 4
    page = made.to_markdown(results, made.about(results, json.loads((folder / "setup.json").read_text())))
    assert "Not all of it" not in page and "20.7" in page and "time domain (conv-tasnet)" in page and "at most 3 steps" in page
    assert len(made.to_csv(results).splitlines()) == 1 + 4 * len(RATIOS)

    line = ("reproduce", "woo2020", "--part", "separation", "--data", small, "-o", folder)
    done = call(*line, "--finished", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["means"]) == 4 * len(RATIOS)
    assert {"separation.md", "separation.csv", "separation.json"} <= {path.name for path in folder.iterdir()}
    parts = woo2020.division(small)
    one, *others = parts.test.speech
    changed = one._replace(samples=one.samples * np.float32(0.9))  # as long, by the same, and another recording
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(woo2020, "division", lambda _: parts._replace(test=Items([changed, *others], parts.test.music)))
        with pytest.raises(UserError, match="results of another run"):
            woo2020.run(folder, small, "full")
    other = call(*line, "--transfer", small)
    assert other.code == 2 and "--transfer belongs to another experiment" in other.err
    none = call(*line[:-1], small / "none", "--finished")
    assert none.code == 2 and "holds no results of woo2020" in none.err

    figures = separator_release.release(small, folder, small / "weights")
    assert figures["trainings"][TIME]["steps"] == 3 and figures["count"] == 4
    separator = neural.separator_of(shipped.read_file(small / "weights" / "conv-tasnet.safetensors"))
    assert separator.config == woo2020.BUDGETS["full"].recipes[TIME][-1].config
    card = (small / "weights" / "conv-tasnet.md").read_text()
    gained = figures["scores"][separator_release.SHIPS]["0"]["gain"]
    assert f"{gained:.1f}" in card and "here: CC0" in card
    assert f"{conv_tasnet.parameter_count(separator.config):,} parameters" in card
    rounded, whole = (figures["scores"][row]["0"]["speech SDR"] for row in (separator_release.SHIPS, TIME))
    assert separator.both_signs and rounded > whole - 0.2  # half precision costs little, and a mean of two never much


def _line(row: str, ratio: float, n: int, value: float, genre: str) -> dict[str, Any]:
    about = {"row": row, "smr_db": ratio, "mixture": n, "genre": genre, "group": f"{genre} {n}"}
    return about | dict.fromkeys(made.MEASURES, value)


def test_findings_are_those_by_hand() -> None:
    lines = []
    for ratio in RATIOS:
        for n, genre in enumerate(("waltz", "waltz", made.SUNG, made.SUNG)):
            sung = 2.0 * (genre == made.SUNG)
            values = {MIXTURE: ratio, FREQUENCY: ratio + 4 - sung, TIME: ratio + 9 - sung + 0.1 * n}
            lines += [_line(row, ratio, n, value, genre) for row, value in values.items()]
    lead, time, frequency, sung = made.findings(made.Results(lines))
    assert lead.holds and "+5.2" in lead.numbers
    assert time.holds and time.numbers.startswith("8.2 dB") and frequency.holds is False
    assert sung.holds and "7.2 against 9.1" in sung.numbers
    unsure = [line | {"speech SDR": line["speech SDR"] - 12 * (line["row"] == TIME and line["mixture"] == 0)} for line in lines]
    lead, *_ = made.findings(made.Results(unsure))
    assert lead.holds is None and "95 % from −" in lead.numbers, "with one of four artists it is behind"
    assert "the paper: +8.8, +8.5, +8.2" in lead.numbers
    open_ = [line | {"speech SDR": line["speech SDR"] + 4 * (line["row"] == TIME and line["mixture"] == 2)} for line in lines]
    *_, sung = made.findings(made.Results(open_))
    assert sung.holds is None and "9.2 against 9.1" in sung.numbers and "−0.2, 95 % from −2.2 to +1.8" in sung.numbers
    records = made.Results([line | {"speech SAR": 99.0} for line in lines]).rows()
    assert all(record["speech SAR"] is None and record["music SAR"] is not None for record in records), "99 is the rounding"
    low, high = made.interval({"a": [1.0] * 9, "b": [1.0]})
    assert low == high == 1.0
    one = [line for line in lines if line["group"] == lines[0]["group"]]
    assert {one.holds for one in made.findings(made.Results(one))} <= {None, False}, "of one artist nothing is known of others"
    assert "95 %" not in "".join(one.numbers for one in made.findings(made.Results(one)))
    low, high = made.interval({"a": [0.0] * 50, "b": [1.0] * 50})
    assert (low, high) == (0.0, 1.0)  # two artists say little, however many mixtures there are of each
    assert made.findings(made.Results([])) == []
