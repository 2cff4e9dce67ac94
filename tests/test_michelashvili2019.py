"""Paper 002's experiment: what is learned from and what is not, rows that run, a run that goes on, and tables by hand."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bayessep import (
    audio,
    data,
    karaoke,
    masked_songs,
    masker_release,
    michelashvili2019,
    michelashvili2019_rows,
    shipped,
    singing,
    song_stems,
)
from bayessep import michelashvili2019_tables as made
from bayessep.errors import UserError
from bayessep.michelashvili2019_rows import (
    ALL,
    EGGS_TUNED,
    GAN,
    GLO,
    IDEAL,
    MIXTURE,
    NMF,
    QUARTER,
    SHARPER,
    TAUGHT,
    Budget,
)
from bayessep.models import idempotent_masker
from bayessep.models.idempotent_masker import LOSSES, IdempotentMasker
from bayessep.taught_songs import DEEP, Recipes
from bayessep.unmatched import RATE, Recipe
from tests.commandline import Caller, cut_off

TINY = IdempotentMasker(bins=48, frames=48, hop=24, channels=2, blocks=1, critic=2, layers=2, scales=1)
RUN = (MIXTURE, QUARTER, IDEAL, NMF, ALL, SHARPER, EGGS_TUNED, GLO, DEEP)


def _tone(pitch: float, seconds: float = 0.4) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)[None]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two songs to learn from and two to test with, as MUSDB18 has them."""
    for n, (part, name) in enumerate((("train", "a"), ("train", "b"), ("test", "c"), ("test", "d"))):
        parts = {"vocals": _tone(3000 + 100 * n), "bass": _tone(400 + 50 * n), "drums": _tone(700), "other": _tone(900 + 10 * n)}
        for what, x in (parts | {"mixture": np.sum(list(parts.values()), axis=0)}).items():
            audio.write(tmp_path / "songs" / part / name / f"{what}.wav", x, RATE, "FLOAT")
    return tmp_path / "songs"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny networks, a step or two, some of the rows, and few losses: programs of all of them take long to compile."""
    monkeypatch.setitem(michelashvili2019_rows.OFF, ALL, ("R2", "R3", "R4", "GAN_A", "GAN_C"))
    monkeypatch.setitem(idempotent_masker.PRESETS, "small", TINY)
    taught = Recipes(karaoke.Recipe(width=2, epochs=1, steps_per_epoch=2, batch=2))
    budget = Budget(Recipe(epochs=2, steps_per_epoch=1), 1, 1, 1, 8, 3, 2, 5, taught=taught)
    monkeypatch.setitem(michelashvili2019.BUDGETS, "full", budget)
    monkeypatch.setattr(michelashvili2019_rows, "ROWS", RUN)


def test_no_vocals_are_opened_to_learn_from(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    whole = audio.read

    def spy(path: Any, **given: Any) -> audio.Audio:
        opened.append(Path(path))
        return whole(path, **given)

    monkeypatch.setattr(audio, "read", spy)
    found = michelashvili2019.corpus(recordings)
    assert [item.group for item in found.sounds.mixtures] == [item.group for item in found.sounds.music] == ["a", "b"]
    assert [song.name for song in found.tested] == ["c", "d"]
    assert {path.stem for path in opened} == {"mixture", "bass", "drums", "other"}
    assert {path.parent.parent.name for path in opened} == {"train"}
    (recordings / "train" / "a" / "mixture.wav").unlink()
    with pytest.raises(UserError, match="a is to be learned from, but has no mixture; add mixture.wav"):
        michelashvili2019.corpus(recordings)


def test_songs_of_a_manifest_are_tested_and_not_learned_from(recordings: Path, tmp_path: Path) -> None:
    kinds = dict.fromkeys(("test/c/vocals.wav", "test/c/accompaniment.wav"), "stems")
    kinds |= {"train/a/mixture.wav": "songs", "train/b/bass.wav": "music"}
    (recordings / "test" / "c" / "other.wav").rename(recordings / "test" / "c" / "accompaniment.wav")
    rows = [f"{path},{kind},{path[6]},0.4,{RATE},1,,,here,x,CC0" for path, kind in kinds.items()]
    (recordings / "manifest.csv").write_text("\n".join([",".join(data.MANIFEST_COLUMNS), *rows]))
    found = michelashvili2019.corpus(recordings)
    assert [item.name for item in found.sounds.mixtures] == ["train/a/mixture.wav"]
    assert [item.name for item in found.sounds.music] == ["train/b/bass.wav"]
    assert [song.name for song in found.tested] == ["c"]


@pytest.mark.loose_arrays  # optax
def test_an_interrupted_run_goes_on(call: Caller, recordings: Path, small: None, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with cut_off(michelashvili2019, "tested", 7):
        michelashvili2019.run(folder, recordings, "full")
    kept = (folder / "results.jsonl").read_text()
    assert kept.count("\n") == 7
    begun = made.Results(michelashvili2019.finished(folder, "full", 0))
    # Of the row that is shown voices nobody knows yet whether there will be any.
    assert f"7 of {2 * (len(RUN) - 1)} results are there" in made.about(begun, michelashvili2019.setup_of(folder))
    lines = michelashvili2019.run(folder, recordings, "full")
    assert len(lines) == 2 * len(RUN) and (folder / "results.jsonl").read_text().startswith(kept)
    assert michelashvili2019.finished(folder, "full", 0) == lines
    assert not list(folder.rglob("checkpoints"))
    assert [line["learned"]["voices"] for line in lines if line["row"] == DEEP] == ["stems"] * 2
    results = made.Results(lines)
    assert results.median(IDEAL, "SDR") > 20 > results.median(MIXTURE, "SDR")
    songs = [song_stems.read(song, RATE) for song in song_stems.listed(recordings) if song.part == "test"]
    truth = np.concatenate(songs[0])
    by_hand = 10 * np.log10((truth[0] ** 2).sum() / (truth[1] ** 2).sum())
    assert results.values(MIXTURE, "SDR")["c"] == pytest.approx(by_hand, abs=1e-3)

    line = ("reproduce", "michelashvili2019", "--data", recordings, "-o", folder)
    done = call(*line, "--finished", "--json")
    assert done.code == 0, done.err
    assert [row["row"] for row in json.loads(done.out)["means"]] == sorted(RUN)
    page = (folder / "tables.md").read_text()
    assert "Not all of it" not in page and "Table 3" in page and "2 steps" in page and f"| {ALL} |" in page
    other = call(*line, "--finished", "--quick")
    assert other.code == 2 and "holds results of the budget full" in other.err


def test_who_cannot_be_shown_voices_is_left_out(
    recordings: Path, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a single song to learn from, none is left to validate with."""
    shutil.rmtree(recordings / "train" / "b")
    monkeypatch.setattr(michelashvili2019_rows, "ROWS", (MIXTURE, DEEP))
    assert {line["row"] for line in michelashvili2019.run(tmp_path / "out", recordings, "full")} == {MIXTURE}


@pytest.mark.loose_arrays  # optax
def test_what_ships_learns_from_what_may_be_passed_on(
    recordings: Path, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recordings / "test" / "c" / "other.wav").rename(recordings / "test" / "c" / "accompaniment.wav")
    kinds = dict.fromkeys(("test/c/vocals.wav", "test/c/accompaniment.wav"), "stems")
    kinds |= {"train/a/mixture.wav": "songs", "train/b/bass.wav": "music", "train/a/bass.wav": "speech"}
    rows = [f"{path},{kind},{path[6]},0.4,{RATE},1,,,github:here/there,x.wav,CC0" for path, kind in kinds.items()]
    rows.append(f"train/b/drums.wav,music,q,0.4,{RATE},1,,,github:here/there,y.wav,CC BY-ND 4.0")
    (recordings / "manifest.csv").write_text("\n".join([",".join(data.MANIFEST_COLUMNS), *rows]))
    monkeypatch.setattr(singing, "songs", lambda items, *_, alone, quieter: [item._replace(name="sung") for item in items.music])
    recipe = Recipe(songs=1, epochs=1, steps_per_epoch=1, listening=2)
    monkeypatch.setattr(masker_release, "BUDGET", Budget(recipe, 1, 1, 1, 8, 3, 2, 5))
    figures = masker_release.release(recordings, tmp_path / "work", tmp_path)
    assert figures["songs"] == 1 and figures["scores"][IDEAL]["SDR"][0] > 20 and len(figures["sources"]) == 1
    card, name = (tmp_path / "idempotent-masker.md").read_text(), tmp_path / "idempotent-masker.safetensors"
    assert "here/there: CC0" in card and "ND 4.0" not in card and "2 steps of discriminator pre-training" in card
    assert masked_songs.load(name).config == recipe.config
    assert f"{figures['scores'][IDEAL]['SDR'][0]:.1f} (" in card


def test_the_masker_that_ships_is_what_is_made_here() -> None:
    ships = shipped.read("idempotent-masker")
    assert ships.settings["recipe"] == dataclasses.asdict(masker_release.RECIPE)
    masker, made = masked_songs.masker_of(ships), masker_release.MASKERS[masker_release.ALL]
    assert masker.config == masker_release.RECIPE.config and masker.own == made["own"]
    card = (shipped.FOLDER / "idempotent-masker.md").read_text(encoding="utf-8")
    assert f"{masker_release.RECIPE.epochs * masker_release.RECIPE.steps_per_epoch} steps of all networks" in card
    sources = [line for line in card.splitlines() if line.startswith("- ") and " min)" in line]
    assert len(sources) > 5 and not [line for line in sources if "GPL" in line and "CC" not in line]


@pytest.mark.parametrize("place", ["c.wav", "c/mixture.wav", "train/c.wav", "train/c/mixture.wav"])
def test_nothing_is_learned_from_songs_that_are_tested_wherever_they_lie(recordings: Path, place: str) -> None:
    shutil.rmtree(recordings / "train")
    for name in ("mixtures/x/mixture.wav", "mixtures/z/y.wav", "instrumentals/w.wav"):
        audio.write(recordings.parent / "plain" / name, _tone(500), RATE)
    (recordings / "test").rename(recordings.parent / "plain" / "test")
    found = michelashvili2019.corpus(recordings.parent / "plain").sounds
    assert [item.group for item in (*found.mixtures, *found.music)] == ["x", "y", "w"]
    audio.write(recordings.parent / "plain" / "mixtures" / place, _tone(500), RATE)
    with pytest.raises(UserError, match=f"mixtures/{place} is of c, which is tested with"):
        michelashvili2019.corpus(recordings.parent / "plain")


def test_a_network_that_has_heard_the_songs_is_named(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "test/c/vocals.wav,stems,c,0.4,44100,1,,,github:some/where,x,CC0"
    weights = shipped.Weights({}, {"sources": ["any/thing: CC0 (1.0 min)", "some/where: CC BY 4.0 (2.0 min)"]})
    monkeypatch.setattr(michelashvili2019.shipped, "info", lambda _: weights)
    assert not michelashvili2019.has_heard("x", recordings), "no manifest says where these are from"
    (recordings / "manifest.csv").write_text("\n".join([",".join(data.MANIFEST_COLUMNS), row]))
    assert michelashvili2019.has_heard("x", recordings)
    weights.settings["sources"].pop()
    assert not michelashvili2019.has_heard("x", recordings)
    for heard in (True, False):
        lines = [line | {"learned": {"heard": heard}} for line in (_line("conv-tasnet", n, 100.0) for n in range(3))]
        _, second, _ = made.tables(made.Results(lines))
        assert ("trained with songs from the same source" in second.note) == heard
        assert second.rows[0][:4] == ["conv-tasnet", "∞", "∞", "∞"]
        (record,) = made.Results(lines).rows()
        assert (record["songs"], record["excerpts"]) == (2, 3) and record["SDR"] is record["SDR to"] is None


def test_intervals_are_of_medians_of_songs_drawn_again() -> None:
    """As by hand, draw by draw, of songs with one to three excerpts."""
    rng = np.random.default_rng(0)
    songs = [rng.standard_normal(n).round(4) for n in (1, 3, 2, 2)]
    lines = [_line(ALL, 0, 0.0) | {"song": f"{g} {n}", "group": f"{g}", "scores": {"vocals SDR": float(value)}}
             for g, own in enumerate(songs) for n, value in enumerate(own)]  # fmt: skip
    draws = np.random.default_rng(0).integers(4, size=(2000, 4))
    by_hand = np.percentile([np.median(np.concatenate([songs[g] for g in drawn])) for drawn in draws], [2.5, 97.5])
    assert made.Results(lines).interval(ALL, "SDR") == pytest.approx(tuple(by_hand), rel=1e-12)


def test_what_networks_were_shown_is_said() -> None:
    told = {"steps": 800, "voices": "sung"}
    lines = [line | {"learned": told} for row in TAUGHT for line in (_line(row, n, 2.0) for n in range(2))]
    _, second, _ = made.tables(made.Results(lines))
    assert [row[0] for row in second.rows[:2]] == list(TAUGHT)
    trained = f"Trained for this experiment: {TAUGHT[0]} in 800 steps and {TAUGHT[1]} in 800 steps, on {made.VOICES['sung']}."
    assert second.note == f"{trained} Their validation songs have other music, but voices of speakers of the training songs."


@pytest.mark.loose_arrays  # optax
def test_shares_of_compressed_sums_become_masks_of_magnitudes(
    recordings: Path, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what is summed is 0.5 ** (1 / 0.3) of the magnitude: as much as the masker leaves with a mask of a half."""
    found, own = michelashvili2019.corpus(recordings), michelashvili2019.BUDGETS["full"]
    songs = [michelashvili2019_rows.Song(one, np.concatenate(song_stems.read(one, RATE))) for one in found.tested]

    def half(config: Any, _: Any, __: Any, rows: Any) -> np.ndarray:
        return np.full((len(rows), config.frames, config.bins), 0.5, np.float32)

    monkeypatch.setattr(michelashvili2019_rows.latent_masking, "shares", half)
    nothing = SimpleNamespace(learned=SimpleNamespace(own=SimpleNamespace(maker=None)))
    monkeypatch.setattr(michelashvili2019_rows.Work, "_made", lambda *_: nothing)
    work = michelashvili2019_rows.Work(tmp_path, found.sounds, [lambda song=song: song for song in songs], own, lambda *_: None)
    takes, _ = work.row(GLO)
    accompaniment = takes(songs[0])[1]
    inside = slice(len(accompaniment) // 4, len(accompaniment) // 2)
    ratio = np.linalg.norm(accompaniment[inside]) / np.linalg.norm(songs[0].mixture[inside])
    assert ratio == pytest.approx(0.5 ** (1 / 0.3), rel=0.05)


def test_losses_are_switched_off_by_their_names() -> None:
    kept = {row: set(LOSSES) - set(off) for row, off in michelashvili2019_rows.OFF.items()}
    assert kept[ALL] == set(LOSSES) and kept[GAN] == {"GAN_C"}
    assert kept["without R4"] == set(LOSSES) - {"R4"} and kept["without GAN_A and GAN_C"] == {"R1", "R2", "R3", "R4"}
    assert set(made.PAPER_3) == kept.keys() - {GAN}


def test_silent_songs_have_no_scores(recordings: Path) -> None:
    (song, *_) = song_stems.listed(recordings)
    truth = np.concatenate(song_stems.read(song, RATE))
    found = michelashvili2019.tested(
        michelashvili2019_rows.Song(song, truth), lambda song: np.stack([song.mixture, 0 * song.mixture])
    )
    assert set(found["scores"].values()) == {None}
    assert np.isnan(made.Results([{"row": ALL, "song": "c", "group": "c", **found}]).median(ALL, "SDR"))


def _line(row: str, song: int, sdr: float) -> dict[str, Any]:
    scores = {f"vocals {measure}": sdr for measure in made.MEASURES}
    return {"row": row, "song": f"{song}", "group": f"{song // 2}", "scores": scores, "learned": {}}


def test_findings_are_those_by_hand() -> None:
    of = {ALL: 3.0, NMF: 1.0, MIXTURE: 4.0, "without R1": 2.5, "without R2": 3.5}
    lines = [_line(row, n, value + 0.1 * n * (row == ALL)) for row, value in of.items() for n in range(5)]
    results = made.Results(lines)
    assert results.median(ALL, "SDR") == pytest.approx(3.2)
    over_nmf, over_mixture, r1, r2 = made.findings(results)
    assert over_nmf.holds and "3.2 against 1.0 dB; the paper: 3.2 against 0.0" in over_nmf.numbers
    assert "excerpt by excerpt +2.2, 95 % from" in over_nmf.numbers
    assert over_mixture.holds is False and "3.2 against 4.0" in over_mixture.numbers
    assert r1.holds and r1.numbers.startswith("−0.7 dB") and "the paper: −4.4" in r1.numbers
    assert r2.holds is False and r2.numbers.startswith("+0.3 dB")
    mixed = [_line(row, n, value + (-1) ** (n // 2) * (row == "without R2")) for row, value in of.items() for n in range(5)]
    assert made.findings(made.Results(mixed))[-1].answer == "not settled", "a gain with some songs, a loss with others"
    low, high = results.interval(ALL, "SDR")
    assert 3.0 <= low <= 3.2 <= high <= 3.4
    for music, holds in ((0.04, True), (0.06, False)):
        told = made.findings(made.Results([line | {"learned": {"changed_music": music, "changed_twice": 0.01}} for line in lines]))
        assert told[0].holds == holds and f"c by {100 * music:.1f} % and g(g(a)) from g(a) by 1.0 %" in told[0].numbers
    assert made.findings(made.Results([])) == [] and made.to_csv(made.Results([])) == "row\n"
    assert dataclasses.asdict(michelashvili2019.BUDGETS["full"])["recipe"]["preset"] == "small"
