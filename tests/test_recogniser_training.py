"""Training a recogniser: what is drawn, the verb that trains it, and what its weights do at work."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import typer

from bayessep import cli, recogniser_training, recognisers, shipped, spoken, vocabulary
from bayessep.data import MANIFEST_COLUMNS
from bayessep.detector_data import Item
from bayessep.errors import UserError
from bayessep.models import attention_asr, beam_search
from bayessep.models.attention_asr import BEGIN, END, AttentionAsr
from bayessep.recogniser_training import NOISE, RATE, Material, Recipe, divided, drawn, most_labels, task
from bayessep.spoken import Spoken
from tests.commandline import Caller, files, save, tone

for needed in ("sentencepiece", "jiwer"):
    pytest.importorskip(needed, reason=f"{needed} is not installed")

TINY = AttentionAsr(labels=9, layers=1, units=8, channels=2, attention=8, filters=2, reach=5, mels=12, hop=800, window=1600)
FAST = (
    "--joined", "3", "--seconds", "1", "--epochs", "2", "--steps-per-epoch", "3", "--batch", "2", "--held", "4", "-q",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention_asr.PRESETS, "small", TINY)
    monkeypatch.setenv("COLUMNS", "120")


def _material(seed: int = 0) -> Material:
    rng = np.random.default_rng(seed)
    speech = [
        Spoken(f"{group} {word}", group, rng.uniform(0.5, 1, 1500 + 500 * n).astype(np.float32), word)
        for group in ("ann", "bob", "cy")
        for n, word in enumerate(("one", "two", "three"))
    ]
    music = [Item(name, name, rng.normal(size=20_000).astype(np.float32)) for name in ("band", "choir")]
    return Material(speech, music)


# --- what is drawn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [10.0, -5.0])
def test_mixtures_have_their_ratio_and_clean_utterances_only_noise(ratio: float) -> None:
    of, recipe = _material(), Recipe(joined=3, seconds=1.0, mixture=True)
    mixed, clean = drawn(recipe, of, 8, lambda _: ratio, np.random.default_rng(0))
    for heard, speech, n in zip(mixed.waveform, clean, mixed.samples, strict=True):
        music = heard[:n] - speech[:n]
        assert 10 * np.log10(np.mean(speech[:n] ** 2) / np.mean(music**2)) == pytest.approx(ratio, abs=0.01)
        assert not heard[n:].any()
    alone, same = drawn(dataclasses.replace(recipe, mixture=False), of, 8, lambda _: ratio, np.random.default_rng(0))
    np.testing.assert_array_equal(alone.waveform, same)
    bare = spoken.said(of.speech, 8, 1.0, 3, np.random.default_rng(0), recipe.speed)
    assert bare.words == alone.words
    for speech, heard, n in zip(bare.waveform, alone.waveform, bare.samples, strict=True):
        level = 10 * np.log10(np.mean((heard - speech)[:n] ** 2) / np.mean(speech[:n] ** 2))
        assert NOISE[0] - 0.5 < level < NOISE[1] + 0.5


def test_batches_depend_on_their_number_alone_and_have_room_for_all_labels() -> None:
    learn, held = divided(_material(), 0.3, 0)
    assert {one.group for one in learn.speech}.isdisjoint(one.group for one in held.speech)
    words = vocabulary.learned([one.words for one in learn.speech])
    recipe = Recipe(joined=3, seconds=1.0, mixture=True, batch=4, held=4)
    made = task(recipe, words, learn, held)
    one, same, other = made.batch(3), task(recipe, words, learn, held).batch(3), made.batch(4)
    np.testing.assert_array_equal(one.waveform, same.waveform)
    assert not np.array_equal(one.waveform, other.waveform)
    assert one.labels.shape == (4, most_labels(recipe, learn, held, words)) == (4, 2 + 3 * 6)
    for labels, count in zip(one.labels, one.length, strict=True):
        assert labels[0] == BEGIN and labels[count - 1] == END and (labels[count:] == END).all()
    long = Spoken("long", "dee", np.ones(2 * RATE, np.float32), "one " * 99)  # it is not drawn, and needs no labels
    assert most_labels(recipe, learn._replace(speech=[*learn.speech, long]), held, words) == 2 + 3 * 6
    with pytest.raises(UserError, match="no recording is shorter than 1 s"):  # before anything is learned
        task(recipe, words, learn, held._replace(speech=[long]))
    with pytest.raises(UserError, match="12002 labels, but at most 10000 fit"):
        most_labels(dataclasses.replace(recipe, joined=2000), learn, held, words)
    with pytest.raises(UserError, match=r"an utterance has \d+ labels, but at most 4"):
        recogniser_training.batch_of(drawn(recipe, learn, 4, lambda _: 0.0, np.random.default_rng(0))[0], words, 4)


def test_recipes_that_cannot_be_are_refused() -> None:
    for changes, says in (
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"joined": 0}, "joined is 0"),
        ({"subwords": -2}, "subwords is -2"),
        ({"seconds": 0.5}, "seconds is 0.5"),
        ({"speed": 0.5}, "speed is 0.5"),
        ({"snr_deviation": -1.0}, "deviation at least 0"),
        ({"rate": 2.0}, "rate is 2.0"),
    ):
        with pytest.raises(UserError, match=says):
            Recipe(**changes)
    assert Recipe(only="digits").words == spoken.DIGITS and Recipe(only="yes no").words == ("yes", "no")
    assert Recipe(only="digits, yes").words == (*spoken.DIGITS, "yes")


def test_a_preset_has_its_vocabulary_unless_another_is_asked_for() -> None:
    assert [Recipe(preset).size for preset in attention_asr.PRESETS] == [9515, vocabulary.CHARACTERS]
    assert Recipe("paper", subwords=0).size == vocabulary.CHARACTERS and Recipe("small", subwords=100).size == 100


# --- the verbs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest with words that are tones, by three speakers, and with music."""
    top, rows = tmp_path / "data", []
    top.mkdir()
    for g, group in enumerate(("ann", "bob", "cy")):
        for n, word in enumerate(("one", "two")):
            save(top / f"{group}-{word}.wav", tone(0.2, 300 + 900 * n + 20 * g, seed=g))
            rows.append([f"{group}-{word}.wav", "speech", group, 0.2, 8000, 1, word, "", "here", "x", "CC0"])
    for n in range(2):
        save(top / f"music{n}.wav", tone(2, 700 + 100 * n, seed=n))
        rows.append([f"music{n}.wav", "music", f"band{n}", 2.0, 8000, 1, "", "", "here", "x", "CC BY 4.0"])
    with (top / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([MANIFEST_COLUMNS, *rows])
    return top


@pytest.mark.loose_arrays  # optax
def test_what_is_trained_transcribes_and_is_gone_on_with(call: Caller, folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ("train", "attention-asr", "--data", folder, *FAST, "--mixture", "--only", "one two")
    document = json.loads(call.succeeded(*command, "-o", whole, "--json"))
    assert document["command"] == "train attention-asr" and document["recipe"]["mixture"] is True
    call.succeeded(*command, "-o", parts, "--epochs", "1")
    call.succeeded(*command, "-o", parts)
    assert (whole / "weights.safetensors").read_bytes() == (parts / "weights.safetensors").read_bytes()
    weights = shipped.read_file(whole / "weights.safetensors")
    assert weights.settings["licences"] == ["CC BY 4.0", "CC0"]
    made = recognisers.recogniser_of(weights)
    assert made.seconds == 1.0 and vocabulary.size_of(made.vocabulary) == made.config.labels
    found = json.loads(call.succeeded("transcribe", folder / "music0.wav", "--weights", whole / "weights.safetensors", "--json"))
    assert found["duration"] == 2 and all(0 <= word["start"] <= word["end"] <= 2 for word in found["words"])
    assert "holds another training" in call.refused(*command, "-o", whole, "--clean")


def test_mixtures_need_music_that_is_heard(call: Caller, folder: Path, tmp_path: Path) -> None:
    """Of a folder of its own, in which there is no speech."""
    other = tmp_path / "music"
    other.mkdir()
    save(other / "still.wav", np.zeros(RATE, np.float32))
    rows = [MANIFEST_COLUMNS, ["still.wav", "music", "band", 1.0, RATE, 1, "", "", "here", "x", "CC0"]]
    with (other / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    said = call.refused("train", "attention-asr", "--data", folder, "-o", tmp_path / "out", *FAST, "--mixture", "--music", other)
    assert "silent or shorter than 0.1 s" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--music", "elsewhere"), "has no effect without --mixture"),
        (("--only", "seven eight"), "alone"),
        (("--preset", "huge"), "no preset 'huge'"),
        (("--subwords", "4"), "too small"),
        (("--seconds", "1", "--speed", "9"), "speed is 9.0"),
    ],
)
def test_bad_recipes_are_refused(call: Caller, folder: Path, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in call.refused("train", "attention-asr", "--data", folder, "-o", tmp_path / "out", "-q", *arguments)
    assert not any(path.name.startswith("weights") for path in files(tmp_path))


def test_options_say_the_defaults_of_the_recipe() -> None:
    train = typer.main.get_command(cli.app).commands["train"].commands["attention-asr"]  # type: ignore
    said = {p.name: p.show_default for p in train.params if isinstance(p.show_default, str) and p.name != "music"}
    words = {"mixture": "clean", "falls": "stays"}
    assert said == {f.name: words.get(f.name, str(f.default)) for f in dataclasses.fields(Recipe)}


# --- weights -------------------------------------------------------------------------------------------------------------


def _weights() -> shipped.Weights:
    words = vocabulary.learned(["one", "two"])
    config = dataclasses.replace(TINY, labels=vocabulary.size_of(words))
    import jax

    return recognisers.weights_of(config, attention_asr.init(config, jax.random.key(0)), words, 1.0, 20, {})


def test_short_stretches_say_nothing_and_times_are_inside() -> None:
    weights = _weights()
    bias = dict(weights.arrays)["parameters.decoder.out.bias.value"].copy()
    bias[vocabulary.END + 2] = 9  # it has learned nothing, and would end at once; now it says a letter, again and again
    made = recognisers.recogniser_of(weights._replace(arrays=weights.arrays | {"parameters.decoder.out.bias.value": bias}))
    assert made.sample_rate == RATE and made.recognise(np.ones(TINY.shortest - 1, np.float32)) == []
    x = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    words = made.recognise(x)
    assert words
    for word in words:
        assert 0 <= word.start < word.end <= 1 and 0 <= word.confidence <= 1


def test_words_are_where_their_labels_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are four hops apart, and what is looked at is around their middle; certainty is what the smoothing leaves of it."""
    weights = _weights()
    labels = vocabulary.labels_of(weights.arrays["vocabulary"].tobytes(), "one two")[1:]  # a space and three letters each, the end
    place = np.array([[0, 0, 1, 1, 2, 2, 2, 2, 4]])
    smoothing, other = TINY.smoothing, TINY.smoothing / (vocabulary.size_of(weights.arrays["vocabulary"].tobytes()) - 1)
    probability = np.full((1, 9), 1 - smoothing, np.float32)
    probability[0, 5] = (1 - smoothing) * 0.8 + other * 0.2
    probability[0, 6] = 1.0  # more than the truth it learned from ever was
    found = beam_search.Found(np.array([labels]), np.array([9]), np.zeros(1, np.float32), probability, place)
    monkeypatch.setattr(recognisers.beam_search, "decode", lambda *_: found)
    one, two = recognisers.recogniser_of(weights).recognise(np.ones(RATE, np.float32))
    step, middle = 4 * TINY.hop / RATE, TINY.shortest / 2 / RATE
    assert (one.word, two.word) == ("one", "two")
    assert (one.start, one.end) == pytest.approx((middle, middle + step))
    assert (two.start, two.end) == pytest.approx((middle + 2 * step, middle + 3 * step)), "no word lasts no time"
    assert one.confidence == pytest.approx(1, rel=1e-5) and two.confidence == pytest.approx(0.8, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"network": "blstm-mask"}, "they are of blstm-mask"),
        ({"seconds": 1e9}, "utterances of"),
        ({"config": {"layers": 0}}, "layers is 0"),
        ({"config": {**vars(TINY), "labels": 99}}, "a vocabulary of"),
        ({"labels": None}, "not the weights of a recogniser"),
    ],
)
def test_other_weights_are_refused(changes: dict, says: str) -> None:
    weights = _weights()
    with pytest.raises(UserError, match=says):
        recognisers.recogniser_of(weights._replace(settings=weights.settings | changes))


def test_damaged_weights_are_refused() -> None:
    weights = _weights()
    for name in ("vocabulary", next(name for name in weights.arrays if name.startswith("statistics"))):
        arrays = dict(weights.arrays)
        arrays[name] = arrays[name][:-1]
        with pytest.raises(UserError):
            recognisers.recogniser_of(weights._replace(arrays=arrays))
        del arrays[name]
        with pytest.raises(UserError):
            recognisers.recogniser_of(weights._replace(arrays=arrays))
