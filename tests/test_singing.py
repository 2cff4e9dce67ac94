"""Songs made of speech: notes that hold, voices that follow them, songs that are no other artist's."""

import numpy as np
import pytest

from bayessep import singing
from bayessep.detector_data import Item, Items

RATE = 16000


def _voice(seconds: float, hz: float, seed: int = 0) -> np.ndarray:
    """A voice that glides an octave up from `hz`, as speech does not stay on a note."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(hz * 2 ** (t / seconds)) / RATE
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 9))
    return (0.1 * harmonics + 1e-3 * np.random.default_rng(seed).standard_normal(len(t))).astype(np.float32)


def test_a_melody_holds_notes_of_a_scale() -> None:
    glide = np.linspace(10.0, 22.0, 2000)
    rng = np.random.default_rng(1)
    found = np.concatenate([singing.melody(glide, rng) for _ in range(5)])
    moving = np.abs(np.diff(found))
    # The voice never stands still; of what it sings, most is within a semitone's vibrato of one note.
    assert np.abs(found - np.tile(glide, 5)).max() < 14
    held = np.array([np.ptp(found[n : n + 5]) < 1.3 for n in range(0, len(found) - 5, 5)])
    assert held.mean() > 0.6 and moving.max() > 0.5
    assert np.array_equal(singing.melody(glide, np.random.default_rng(2)), singing.melody(glide, np.random.default_rng(2)))
    assert not np.array_equal(singing.melody(glide, np.random.default_rng(2)), singing.melody(glide, np.random.default_rng(3)))


def test_a_pitch_is_heard() -> None:
    found = singing._pitch(_voice(2.0, 110.0), RATE)
    wanted = 12 + 12 * np.linspace(0, 1, len(found))  # 110 Hz is an octave above 55 Hz
    assert np.abs(found - wanted)[8:-8].max() < 0.5


def test_speech_is_sung_slower_and_on_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _voice(3.0, 120.0)
    # One note and no vibrato: the voice, which glides an octave, must stay on it.
    monkeypatch.setattr(singing, "melody", lambda pitch, rng: np.full(len(pitch), 24.0))
    y = singing.sung(x, RATE, np.random.default_rng(4))
    assert y.dtype == np.float32 and np.isfinite(y).all()
    assert 1.2 * len(x) < len(y) < 2.6 * len(x)
    assert np.ptp(singing._pitch(x, RATE)) > 10
    assert np.abs(singing._pitch(y, RATE) - 24.0)[10:-10].max() < 1.0


@pytest.fixture(scope="module")
def items() -> Items:
    rng = np.random.default_rng(5)
    music = [Item(f"m{n}", f"artist {n}", 0.1 * rng.standard_normal((20 + 30 * n) * RATE).astype(np.float32)) for n in range(2)]
    return Items([Item("s", "speaker", _voice(4.0, 100.0))], music)


def test_songs_are_of_their_music_and_as_long(items: Items) -> None:
    made = singing.songs(items, RATE, np.random.default_rng(6))
    assert [song.group for song in made] == ["artist 0", "artist 1", "artist 1"]
    assert [len(song.samples) / RATE for song in made] == [20.0, 30.0, 20.0]
    for song, under in zip(made, (items.music[0].samples, *np.split(items.music[1].samples, [30 * RATE])), strict=True):
        voice = song.samples - under
        ratio = 10 * np.log10((voice**2).mean() / (under**2).mean())
        assert singing.LOUDER[0] - 0.01 < ratio < singing.LOUDER[1] + 0.01
        assert np.isfinite(song.samples).all() and song.samples.dtype == np.float32
    quieter = singing.songs(items, RATE, np.random.default_rng(6), quieter=6.0)[0].samples - items.music[0].samples
    louder = made[0].samples - items.music[0].samples
    assert 10 * np.log10((louder**2).mean() / (quieter**2).mean()) == pytest.approx(6.0, abs=0.01)


def test_some_voices_sing_alone(items: Items) -> None:
    (song, *_) = singing.songs(items._replace(music=items.music[:1]), RATE, np.random.default_rng(6), alone=1.0)
    assert abs(np.corrcoef(song.samples, items.music[0].samples)[0, 1]) < 0.05


def test_silent_speech_and_short_music_make_no_trouble() -> None:
    quiet = Items([Item("s", "s", np.zeros(RATE, np.float32))], [Item("m", "m", np.ones(RATE, np.float32))])
    assert singing.songs(quiet, RATE, np.random.default_rng(7)) == []
    longer = quiet._replace(music=[Item("m", "m", np.ones(3 * RATE, np.float32))])
    (song,) = singing.songs(longer, RATE, np.random.default_rng(0))
    assert np.isfinite(song.samples).all()
