"""What the idempotent masker learns from: mixtures and other music, never a voice; clips, their images, and a training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import typer

from bayessep import audio, cli, masked_songs, shipped, singing, unmatched
from bayessep.detector_data import Item, Items
from bayessep.errors import UserError
from bayessep.models.idempotent_masker import IdempotentMasker, Weights
from bayessep.unmatched import RATE, Clip, Recipe, Unmatched
from tests.commandline import Caller

HEADER = "path,category,split_group,duration_s,sample_rate,channels,transcript,genre_or_note,source_repo,source_path,licence"
TINY = IdempotentMasker(bins=16, frames=16, hop=16, channels=2, blocks=1, critic=2, layers=1, scales=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unmatched.PRESETS, "small", TINY)


def _noise(path: Path, seed: int, seconds: float = 0.2) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.1, (2, round(seconds * RATE))).astype(np.float32)
    audio.write(path, samples, RATE, "FLOAT")


@pytest.fixture(params=["manifest", "folders"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Songs and music, beside vocals that cannot be read: they are no audio."""
    folder = tmp_path / "recordings"
    songs, music = ("songs", "music") if request.param == "manifest" else ("mixtures", "instrumentals")
    rows = []
    for n, (kind, category) in enumerate(((songs, "songs"), (music, "music"), (music, "music"))):
        _noise(folder / kind / f"{n}.wav", n)
        rows.append(f"{kind}/{n}.wav,{category},g{n},0.2,{RATE},2,,,here,x,CC0")
    poison = ["stems/song/vocals.wav", "stems/song/accompaniment.wav", "singing/alone.wav", "vocals/0.wav"]
    if request.param == "folders":  # songs that lie there with all of their stems
        poison += ["mixtures/a/Vocals.wav", "instrumentals/b/vocals.flac", "instrumentals/b/mixture.wav"]
    for poisoned in poison:
        (folder / poisoned).parent.mkdir(parents=True, exist_ok=True)
        (folder / poisoned).write_text("nobody may read this")
        rows.append(f"{poisoned},{poisoned.split('/')[0]},g9,0.2,{RATE},1,,,here,x,CC0")
    if request.param == "manifest":
        (folder / "manifest.csv").write_text("\n".join([HEADER, *rows]))
    return folder


# --- no voice ------------------------------------------------------------------------------------------------------------


def test_files_of_vocals_are_not_opened(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(audio, "_open", _spied(audio._open, opened))
    found = unmatched.read_unmatched(place)
    assert [len(of) for of in found] == [1, 2] and all(item.samples.shape == (4096,) for of in found for item in of)
    assert len(set(opened)) == 3 and {Path(path).parent.name for path in opened} in (
        {"songs", "music"},
        {"mixtures", "instrumentals"},
    )


@pytest.mark.parametrize(
    ("path", "what", "other"),
    [
        ("a/mixture.wav", "mixtures", False), ("a/drums.wav", "mixtures", True), ("a/vocals.wav", "mixtures", True),
        ("b/Music.wav", "mixtures", False), ("b/Vocals.wav", "mixtures", True),
        ("a/accompaniment.wav", "music", False), ("a/mix.wav", "music", True), ("a/vocal.wav", "music", True),
    ],
)  # fmt: skip
def test_stems_are_left_out_beside_their_mixture(tmp_path: Path, path: str, what: str, other: bool) -> None:
    paths = [tmp_path / "a" / "mixture.wav", tmp_path / path]
    assert (paths[1] not in unmatched._without_other_stems(paths, what)) == other


@pytest.mark.parametrize("place", ["manifest"], indirect=True)
def test_vocals_under_another_category_are_refused(place: Path) -> None:
    with (place / "manifest.csv").open("a") as file:
        file.write(f"\nstems/song/vocals.wav,music,g9,0.2,{RATE},1,,,here,x,CC0")
    with pytest.raises(UserError, match="as music, but it is named like isolated vocals"):
        unmatched.read_unmatched(place)


@pytest.mark.parametrize("place", ["folders"], indirect=True)
def test_a_folder_of_nothing_but_other_stems_is_refused(place: Path) -> None:
    for path in (place / "instrumentals").glob("*.wav"):
        path.rename(path.with_name("mixture.wav"))
    with pytest.raises(UserError, match="instrumentals has nothing but stems of other kinds"):
        unmatched.read_unmatched(place)


@pytest.mark.parametrize("place", ["manifest"], indirect=True)
def test_songs_are_made_of_speech_and_of_music_that_may_be_passed_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made where that is asked for, and of nothing but these; vocals are not opened then either."""
    rows = [f"speech/{n}.wav,speech,s{n},0.2,{RATE},2,,,here,x,{licence}" for n, licence in enumerate(("CC0", "CC BY-NC"))]
    for n in range(2):
        _noise(place / "speech" / f"{n}.wav", 5 + n)
    with (place / "manifest.csv").open("a") as file:
        file.write("\n" + "\n".join(rows))
    given: list[Any] = []

    def songs(items: Items, sample_rate: int, rng: np.random.Generator, *, alone: float, quieter: float) -> list[Item]:
        given.append((items, sample_rate, (alone, quieter)))
        return [Item("made", item.group, item.samples + 1) for item in items.music]

    monkeypatch.setattr(singing, "songs", songs)
    plain = unmatched.read_unmatched(place)
    assert not given
    found = unmatched.read_unmatched(place, songs=2, quieter=3.0, seed=1)
    assert [item.name for item in found.mixtures] == ["songs/0.wav", *["made"] * 4] and found.music[0].group == "g1"
    assert len(plain.mixtures) == 1 and [(rate, how) for _, rate, how in given] == [(RATE, (0.0, 3.0))] * 2
    assert [item.group for item in given[0][0].speech] == ["s0", "s1"]
    unmatched.read_unmatched(place, songs=1, redistributable=True)
    assert [item.group for item in given[-1][0].speech] == ["s0"]


def test_where_no_speech_is_listed_no_songs_are_made(place: Path) -> None:
    with pytest.raises(UserError, match=r"category speech; songs and music and speech|no manifest.csv that lists speech"):
        unmatched.read_unmatched(place, songs=1)


def _spied(function: Any, seen: list[str]) -> Any:
    def called(path: Any, *rest: Any) -> Any:
        seen.append(str(path))
        return function(path, *rest)

    return called


def test_a_task_is_made_of_mixtures_and_music_alone() -> None:
    """There is no argument by which a voice could come to it, and no field of a batch in which it could lie."""
    assert Unmatched._fields == ("mixtures", "music")
    assert list(unmatched.task.__annotations__) == ["recipe", "sounds", "about", "heard", "return"]
    assert list(unmatched.pretraining.__annotations__) == ["recipe", "sounds", "about", "return"]
    assert unmatched.Batch._fields == ("mixture", "music")
    assert set(unmatched.KINDS.values()) == {"songs", "music"}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a manifest.csv nor the folder mixtures"):
        unmatched.read_unmatched(tmp_path)
    (tmp_path / "manifest.csv").write_text(HEADER)
    with pytest.raises(UserError, match="lists no files of the category songs"):
        unmatched.read_unmatched(tmp_path)


# --- images --------------------------------------------------------------------------------------------------------------


def test_clips_are_those_of_the_code() -> None:
    config = IdempotentMasker()
    samples = np.ones(RATE, np.float32)
    clips = unmatched.clips_of([Item("a", "a", np.zeros(RATE, np.float32)), Item("b", "b", np.tile(samples, 3))], config)
    begins = [clip.begin for clip in clips if clip.item == 1]
    assert len(begins) == len(clips)  # of silence there are none
    assert begins == [16_320 * k for k in range(3)] + [6144 + 16_320 * k for k in range(3)] + [
        12_288 + 16_320 * k for k in range(3)
    ]


def test_images_go_from_the_least_to_the_greatest_magnitude() -> None:
    config, rng = IdempotentMasker(), np.random.default_rng(0)
    items = [Item("a", "a", rng.normal(size=RATE).astype(np.float32))]
    found = unmatched.image_of(items, Clip(0, 100), config)
    assert found.shape == (256, 256) and found.dtype == np.float32
    samples = np.pad(items[0].samples[100:16_420].astype(np.float64), 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.stack([samples[64 * t : 64 * t + 512] * window for t in range(256)])
    phases = np.exp(-2j * np.pi * np.outer(np.arange(512), np.arange(256)) / 512)
    heard = np.abs(frames @ phases)
    expected = 2 * ((heard - heard.min()) / (heard.max() - heard.min())) ** 0.3 - 1
    np.testing.assert_allclose(found, expected, atol=2e-3)  # near 0, the power magnifies what rounding does
    assert (found.min(), found.max()) == (-1, 1)
    rounded = unmatched.image_of(items, Clip(0, 100), config, quantised=True)
    levels = (rounded + 1) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert 0 < np.abs(rounded - found).max() <= 1 / 255 + 1e-6


def test_clips_are_played_faster_and_slower() -> None:
    config, n = IdempotentMasker(), round(1.5 * RATE)
    rising = np.sin(2 * np.pi * 4000 * np.arange(n) / RATE).astype(np.float32)
    items, tone = [Item("a", "a", rising)], 4000 / (RATE / 512)
    for speed in (0.8, 1.0, 1.25):
        for begin in (0, n - 16_320):  # at the end, a faster clip begins earlier
            image = unmatched.image_of(items, Clip(0, begin), config, speed=speed)
            assert image.shape == (256, 256)
            np.testing.assert_allclose(image[20:-20].mean(0).argmax(), tone * speed, atol=0.5)
    short = [Item("a", "a", rising[:16_320])]
    np.testing.assert_array_equal(  # no faster than it is long
        unmatched.image_of(short, Clip(0, 0), config, speed=1.25), unmatched.image_of(short, Clip(0, 0), config)
    )


def test_speeds_are_drawn_anew_in_each_pass_and_belong_to_their_clip() -> None:
    sounds = _sounds(2.0)
    varied, plain = (unmatched._Images(Recipe(varied=v), sounds) for v in (True, False))
    speeds = np.array([[varied._speed(0, turn, place) for place in range(40)] for turn in range(2)])
    assert 0.8 <= speeds.min() < 0.85 and 1.18 < speeds.max() <= 1.25 and (speeds[0] != speeds[1]).all()
    np.testing.assert_array_equal(varied.batch(3, 2).mixture, varied.batch(3, 2).mixture)
    assert (varied.batch(3, 2).mixture != plain.batch(3, 2).mixture).any()
    for one, other in zip(varied.held(), plain.held(), strict=True):  # validation is as recorded
        np.testing.assert_array_equal(one.music, other.music)


def test_clips_are_normalised_by_their_recording() -> None:
    noise = np.random.default_rng(0).normal(size=2 * 16_320).astype(np.float32)
    noise[:16_320] *= 0.01
    sounds = Unmatched([Item("a", "a", noise)], [Item("b", "b", noise)])
    clips = [(Clip(0, begin), 1.0) for begin in (0, 16_320)]
    whole, apart = (unmatched._Images(Recipe(whole=w), sounds)._of(0, clips) for w in (True, False))
    assert apart.max((1, 2)).tolist() == [1.0, 1.0]
    quiet, loud = whole.max((1, 2))
    assert loud == 1.0 and quiet == pytest.approx(2 * 0.01**0.3 - 1, abs=0.05)


# --- training ------------------------------------------------------------------------------------------------------------


def _sounds(seconds: float = 0.5) -> Unmatched:
    rng = np.random.default_rng(0)
    return Unmatched(*([Item(n, n, rng.normal(size=round(seconds * RATE)).astype(np.float32)) for n in "ab"] for _ in range(2)))


def test_every_clip_comes_before_one_comes_again(small: None) -> None:
    sounds, recipe = _sounds(), Recipe(batch=3)
    made = unmatched.task(recipe, sounds)
    count = len(unmatched.clips_of(sounds.mixtures, TINY))
    learn = count - max(1, round(0.05 * count))
    turns = -(-2 * learn // 3)
    batches = [made.batch(n) for n in range(turns)]
    for what in ("mixture", "music"):
        seen = [image.tobytes() for batch in batches for image in np.asarray(getattr(batch, what))]
        assert len(set(seen[:learn])) == learn == len(set(seen[learn : 2 * learn])) and set(seen) == set(seen[:learn])
        assert seen[:learn] != seen[learn : 2 * learn]
    np.testing.assert_array_equal(batches[1].mixture, unmatched.task(recipe, sounds).batch(1).mixture)
    assert made.latest and made.config["config"]["weights"]["R1"] == 20


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"quieter": float("nan"), "songs": 1}, "quieter is nan"), ({"quieter": 6.0}, "0 without songs"),
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"batch": 0}, "batch is 0"),
        ({"without": "R1,GAN"}, "no loss 'GAN'"),
        ({"pool": -1}, "pool is -1"),
        ({"rate": -1.0}, "rate is -1"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_impossible_recipes_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Recipe(**given)


def test_recordings_that_are_too_short_are_refused() -> None:
    with pytest.raises(UserError, match="the mixtures have no two clips of 0.7"):
        unmatched.task(Recipe(), _sounds(0.1)).batch(0)


def test_losses_are_left_out_by_name() -> None:
    assert Recipe(identities=0.5, without="R2").config.weights == Weights(R1=10.0, R2=0.0, R3=10.0, R4=10.0)
    weights = Recipe(without="GAN_C, R2").config.weights
    assert [name for name, weight in vars(weights).items() if not weight] == ["R2", "GAN_C"]


def test_all_weights_begin_with_the_same_listening() -> None:
    plain, other = (unmatched.pretraining(given, _sounds(2.0)) for given in (Recipe(), Recipe(identities=0.5, without="R2")))
    assert plain.config == other.config


def test_flags_are_the_fields_of_the_recipe() -> None:
    train = typer.main.get_command(cli.app).commands["train"].commands["idempotent-masker"]
    said = {p.name: p.show_default for p in train.params if isinstance(p.show_default, str)}
    words = {"varied": "as-recorded", "whole": "clip-by-clip"}
    assert said == {f.name: words.get(f.name, str(f.default)) for f in dataclasses.fields(Recipe)}
    assert not any(getattr(Recipe(), name) for name in words)


@pytest.mark.loose_arrays  # optax
@pytest.mark.parametrize("place", ["folders"], indirect=True)
def test_it_is_trained_and_separates_from_the_command_line(
    small: None, place: Path, call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tmp_path / "trained"
    flags = ["--epochs", "2", "--steps-per-epoch", "2", "--listening", "3", "--without", "R2,R3,R4"]  # fewer losses compile sooner
    done = call("train", "idempotent-masker", "--data", place, "-o", trained, *flags, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert (document["epoch"], document["stopped"]) == (2, "epochs")
    assert document["data"]["mixtures"]["items"] == 1 and {"validation/changed_twice", "train/D_A"} <= document["scores"].keys()
    assert len((trained / "listening" / "metrics.csv").read_text().splitlines()) == 2
    song, weights = next(place.glob("[sm]*s/0.wav")), trained / "weights.safetensors"
    heard = []
    for more in ((), ("--smoothing",), ("--mask-power", "9")):
        line = ("separate", song, "--method", "idempotent-masker", "--weights", weights, "-o", tmp_path / "apart", *more, "--json")
        apart = call(*line)
        assert apart.code == 0, apart.err
        stems = [audio.read(tmp_path / "apart" / name).samples for name in ("speech.wav", "music.wav")]
        np.testing.assert_allclose(sum(stems), json.loads(apart.out)["output_gain"] * audio.read(song).samples, atol=1e-6)
        heard.append(np.sum(stems[1] ** 2))
    assert heard[2] < heard[0] != heard[1]
    bad = call(*line[:6], "-o", tmp_path / "bad", "--mask-power", "0")
    assert bad.code == 2 and "power of masks is 0" in bad.err
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    none = call(*line[:4], "-o", tmp_path / "bad")
    assert none.code == 2 and "no idempotent-masker is installed" in none.err
    other = call(*line[:6], "-o", tmp_path / "bad", "--alpha", "0.5")
    assert other.code == 2 and "--alpha does not apply to idempotent-masker" in other.err
    assert not (tmp_path / "bad").exists()
    found = masked_songs.load(weights)
    assert found.config == Recipe(without="R2,R3,R4", listening=3).config
    jax.tree.map(np.testing.assert_array_equal, shipped.flat(found.parts), shipped.read_file(weights).arrays)
