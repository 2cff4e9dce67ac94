"""Networks that are shown voices: which voices these are, that they are the masker's, and that both networks learn and work."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio, data, karaoke, michelashvili2019, singing, taught_songs, unmatched
from bayessep.detector_data import Items
from bayessep.karaoke import Song
from bayessep.models import conv_tasnet
from bayessep.models.conv_tasnet import ConvTasNet
from bayessep.neural import separate
from bayessep.taught_songs import DEEP, WAVES, Recipes
from bayessep.unmatched import RATE


def _noise(path: Path, seed: int, seconds: float = 3.0) -> None:
    x = 0.1 * np.random.default_rng(seed).standard_normal((1, round(seconds * RATE)))
    audio.write(path, x.astype(np.float32), RATE, "FLOAT")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Speech, music and a song of a manifest, and a song with stems to test with."""
    kinds = {"s.wav": "speech", "m1.wav": "music", "m2.wav": "music", "o.wav": "songs"}
    kinds |= {"t/vocals.wav": "stems", "t/accompaniment.wav": "stems"}
    for n, name in enumerate(kinds):
        _noise(tmp_path / "d" / name, n)
    rows = [f"{name},{kind},{name[0:2]},3.0,{RATE},1,,,here,x,CC0" for name, kind in kinds.items()]
    (tmp_path / "d" / "manifest.csv").write_text("\n".join([",".join(data.MANIFEST_COLUMNS), *rows]))
    return tmp_path / "d"


def test_voices_are_those_of_the_songs_that_the_masker_hears(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singing, "sung", lambda x, _, rng: x[: RATE // 2] * np.float32(rng.uniform(0.5, 2)))
    found = michelashvili2019.corpus(folder, unmatched.Recipe(songs=2, seed=3))
    assert found.voices == "sung" and found.songs == 2
    songs = taught_songs.read(folder, found.sounds.music, found.songs, 3)
    assert [song.group for song in songs] == ["m1", "m2"] * 2 and len(found.sounds.mixtures) == 5
    for song, mixture in zip(songs, found.sounds.mixtures[-4:], strict=True):
        both = audio.resample(mixture.samples, RATE, karaoke.RATE)
        np.testing.assert_allclose(song.vocals + song.accompaniment, both, atol=1e-5)
    monkeypatch.setattr(singing, "sung", None)  # speech as it is, where no songs are made
    plain = michelashvili2019.corpus(folder)
    assert plain.voices == "spoken" and len(taught_songs.read(folder, plain.sounds.music, plain.songs, 3)) == 2


def test_speech_is_spoken_as_it_is() -> None:
    speech = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    items = Items([singing.Item("s", "s", speech)], [singing.Item("m", "m", np.ones(2 * RATE, np.float32))])
    ((_, _, voice, under),) = singing.voices(items, RATE, np.random.default_rng(1), alone=0.0, spoken=True)
    (start,) = (k for k in range(3 * RATE + 1) if np.allclose(voice[:9] / voice[0], speech[k : k + 9] / speech[k], rtol=1e-3))
    np.testing.assert_allclose(voice / voice[0], speech[start : start + 2 * RATE] / speech[start], rtol=1e-3)
    np.testing.assert_array_equal(under, 1.0)


def test_stems_are_those_to_learn_from(tmp_path: Path) -> None:
    for part, name in (("train", "a"), ("train", "b"), ("test", "c")):
        for n, what in enumerate(("vocals", "bass", "drums", "other", "mixture")):
            _noise(tmp_path / part / name / f"{what}.wav", n)
    found = michelashvili2019.corpus(tmp_path)
    assert found.voices == "stems"
    assert [song.group for song in taught_songs.read(tmp_path, found.sounds.music, 0, 0)] == ["a", "b"]


def _song(name: str, pitch: float) -> Song:
    """A tone that swells over one that does not."""
    t = np.arange(2 * karaoke.RATE) / karaoke.RATE
    voice = np.sin(2 * np.pi * pitch * t) * (np.sin(2 * np.pi * 2 * t) > 0)
    return Song(name, name, voice.astype(np.float32), np.sin(2 * np.pi * 5 * pitch * t).astype(np.float32))


@pytest.mark.loose_arrays  # optax
@pytest.mark.parametrize("row", [DEEP, WAVES])
def test_networks_learn_and_take_voices_out(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ConvTasNet(filters=32, bottleneck=16, hidden=16, blocks=2, repeats=1)
    monkeypatch.setitem(conv_tasnet.PRESETS, "small", tiny)
    windows = karaoke.Recipe(width=16, epochs=2, steps_per_epoch=20, batch=8)
    whole = Recipes()
    recipes = Recipes(windows, replace(whole.waves, seconds=0.5, batch=2, held=2, epochs=2, steps_per_epoch=20, varied=False))
    songs = [_song(name, pitch) for name, pitch in (("a", 300.0), ("b", 320.0), ("c", 310.0))]
    run = partial(taught_songs.taught, row, recipes, songs, tmp_path)
    network, learned = run()
    assert learned["steps"] == 40 and learned["epochs"] == 2
    again, _ = run(progress=_none)  # nothing is trained anew
    mixture = (songs[0].vocals + songs[0].accompaniment)[None, : karaoke.RATE]
    parts: Any = separate(mixture, karaoke.RATE, network)
    np.testing.assert_array_equal(parts, separate(mixture, karaoke.RATE, again))
    voice, rest = np.concatenate(parts)
    own = songs[0].vocals[: karaoke.RATE]
    assert np.corrcoef(voice, own)[0, 1] > np.corrcoef(rest, own)[0, 1] + 0.2


def _none(*_: Any) -> None:
    raise AssertionError("a training that is over was gone on with")
