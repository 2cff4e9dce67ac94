"""Songs with their parts, in each layout that they come in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio, song_stems
from bayessep.errors import UserError
from tests.helpers import write_tracks

RATE = 8000


def _put(path: Path, value: float, n: int = 80, channels: int = 1) -> None:
    audio.write(path, np.full((channels, n), value, np.float32), RATE, "FLOAT" if path.suffix == ".wav" else "PCM_24")


PARTS = {"vocals": 0.1, "bass": 0.01, "drums": 0.02, "other": 0.04}


@pytest.mark.parametrize(
    ("places", "part"),
    [
        (("train", "test"), ("train", "test")),
        (("DSD100/Sources/Dev", "DSD100/Sources/Test"), ("train", "test")),
        (("Sources/Dev", "Sources/Test"), ("train", "test")),
        (("", "songs"), ("", "")),
    ],
)
def test_instruments_are_summed_in_every_layout(tmp_path: Path, places: tuple[str, str], part: tuple[str, str]) -> None:
    for place, name in zip(places, ("one", "two"), strict=True):
        for what, value in PARTS.items():
            _put(tmp_path / place / name / f"{what}.wav", value)
        _put(tmp_path / place.replace("Sources", "Mixtures") / name / "mixture.wav", 0.17)
    found = song_stems.listed(tmp_path)
    assert [(s.name, s.group, s.part) for s in found] == [("one", "one", part[0]), ("two", "two", part[1])]
    for song in found:
        vocals, accompaniment = song_stems.read(song, RATE)
        np.testing.assert_allclose(vocals, 0.1)
        np.testing.assert_allclose(accompaniment, 0.07, rtol=1e-6)
        np.testing.assert_allclose(song_stems.read_part(song.name, song.mixture, RATE), 0.17, rtol=1e-6)


def test_links_to_songs_are_followed(tmp_path: Path) -> None:
    (here := tmp_path / "here").mkdir()
    for place in ("a", "b"):
        _put(tmp_path / "there" / place / "vocals.wav", 0.1, channels=1)
        _put(tmp_path / "there" / place / "accompaniment.wav", 0.2, channels=1)
    (here / "a song").symlink_to(tmp_path / "there" / "a")
    assert [song.name for song in song_stems.listed(here)] == ["a song"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Another.stem.mp4").touch()
    (here / "more").symlink_to(tmp_path / "elsewhere")
    assert [song.name for song in song_stems.listed(here)] == ["Another", "a song"]


def test_an_accompaniment_is_taken_as_it_is(tmp_path: Path) -> None:
    for what, value in {**PARTS, "accompaniment": 0.3}.items():
        _put(tmp_path / "song" / f"{what}.flac" if what == "vocals" else tmp_path / "song" / f"{what}.wav", value, channels=2)
    (only,) = song_stems.listed(tmp_path)
    vocals, accompaniment = song_stems.read(only, RATE, mono=False)
    assert vocals.shape == accompaniment.shape == (2, 80)
    np.testing.assert_allclose(accompaniment, 0.3, rtol=1e-6)


def test_tracks_of_a_stem_file_are_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "A Song.stem.mp4").touch()
    asked = []

    def read(path: Path, *, track: int, **_: Any) -> audio.Audio:
        asked.append((path.name, track))
        return audio.Audio(np.full((1, 4), 10.0**-track, np.float32), RATE)

    monkeypatch.setattr(audio, "read", read)
    (song,) = song_stems.listed(tmp_path)
    vocals, accompaniment = song_stems.read(song, RATE)
    assert (song.name, song.part, song.mixture[0].track) == ("A Song", "test", 0)
    assert [track for _, track in asked] == [4, 1, 2, 3]
    np.testing.assert_allclose(vocals, 1e-4)
    np.testing.assert_allclose(accompaniment, 0.111, rtol=1e-6)


def test_a_real_stem_file_is_decoded(tmp_path: Path) -> None:
    """Five AAC tracks, each with a tone of its own: what is read has the tones of its tracks alone, with their levels."""
    av = pytest.importorskip("av", reason="needs the extra bayessep[containers]")
    rate, seconds, tones = 44100, 2, (300, 600, 900, 1200, 1500)  # mixture, drums, bass, other, vocals
    time = np.arange(rate * seconds, dtype=np.float32) / rate
    sources = [0.2 * np.sin(2 * np.pi * tone * time) for tone in tones[1:]]
    (tmp_path / "test").mkdir()
    tracks = [np.stack([x, x]) for x in (np.sum(sources, axis=0), *sources)]
    write_tracks(av, tmp_path / "test" / "A Song.stem.mp4", tracks, rate)
    (song,) = song_stems.listed(tmp_path)
    vocals, accompaniment = song_stems.read(song, rate)
    mixture = song_stems.read_part(song.name, song.mixture, rate)
    held = {"vocals": (vocals, tones[4:]), "accompaniment": (accompaniment, tones[1:4]), "mixture": (mixture, tones[1:])}
    for name, (x, own) in held.items():
        spectrum = np.abs(np.fft.rfft(x[0, 8192 : 8192 + rate])) / rate * 2  # bins of 1 Hz
        for tone in tones:
            assert spectrum[tone] == pytest.approx(0.2 if tone in own else 0, abs=0.02), (name, tone)


def test_folders_that_hold_no_songs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        song_stems.listed(tmp_path / "absent")
    with pytest.raises(UserError, match="no songs with their parts"):
        song_stems.listed(tmp_path)
    _put(tmp_path / ".hidden" / "song" / "vocals.wav", 0.1)
    _put(tmp_path / "instrumentals" / "drums.wav", 0.1)
    with pytest.raises(UserError, match="no songs with their parts"):
        song_stems.listed(tmp_path)
    _put(tmp_path / "song" / "vocals.wav", 0.1)
    with pytest.raises(UserError, match="lacks the accompaniment"):
        song_stems.listed(tmp_path)
    _put(tmp_path / "song" / "bass.wav", 0.1)
    with pytest.raises(UserError, match="lacks the drums"):
        song_stems.listed(tmp_path)
    _put(tmp_path / "song" / "accompaniment.wav", 0.1, n=81)
    with pytest.raises(UserError, match=r"1 × 80 and 1 × 81 samples; they must be equally long"):
        song_stems.read(song_stems.listed(tmp_path)[0], RATE)
    for what in ("vocals", "accompaniment"):
        _put(tmp_path / "more" / "song" / f"{what}.wav", 0.1)
    with pytest.raises(UserError, match="several songs named song"):
        song_stems.listed(tmp_path)
    _put(tmp_path / "song" / "vocals.flac", 0.1)
    with pytest.raises(UserError, match="are the same part of one song"):
        song_stems.listed(tmp_path)


def test_a_file_of_one_track_has_no_second(tmp_path: Path) -> None:
    _put(tmp_path / "a.wav", 0.1)
    with pytest.raises(UserError, match="has one sound track, not 2"):
        audio.read(tmp_path / "a.wav", track=1)
