"""Deep Karaoke on songs: what is read, how songs are divided, that it learns to take a tune out of noise, and weights in files."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from bayessep import audio, karaoke, metrics, neural, shipped, train
from bayessep.errors import UserError
from bayessep.karaoke import RATE, Karaoke, Recipe, Song
from bayessep.models.deep_karaoke import DeepKaraoke

HEADER = "path,category,split_group,duration_s,sample_rate,channels,transcript,genre_or_note,source_repo,source_path,licence"


def _song(n: int, seconds: float = 1.5) -> Song:
    """A tune of low tones over high noise."""
    rng, time = np.random.default_rng(n), np.arange(round(seconds * RATE)) / RATE
    vocals = sum(np.sin(2 * np.pi * f * time) for f in (300 + 20 * n, 600 + 40 * n, 900 + 60 * n))
    noise = np.diff(rng.normal(size=len(time) + 2), 2)
    return Song(f"s{n}", f"s{n // 2}", vocals.astype(np.float32), noise.astype(np.float32))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(karaoke.PRESETS, "small", DeepKaraoke(frames=3, width=8))


def _vocals(mixture: np.ndarray, rate: int, network: Karaoke, alpha: float | None = None) -> np.ndarray:
    return neural.separate(mixture, rate, network._replace(alpha=alpha)).speech


@pytest.mark.parametrize("seconds", [0.01, 1.5, 3.7])
def test_windows_say_what_the_whole_says(small: None, seconds: float) -> None:
    """To 60 dB and far beyond, as all that a sample depends on lies within the context; at the very end, to 40 dB."""
    config = Recipe().config
    network = Karaoke(config, karaoke.deep_karaoke.init(config, jax.random.key(0)).parameters, 100.0)
    x = np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE))).astype(np.float32)
    found = np.concatenate(list(neural.in_windows([x], network, 0.5, (0.5, 1.0))), axis=-1)
    whole = 0.5 * network.predict(x / np.float32(0.5), x.shape[1], 0)
    assert found.shape == whole.shape
    wrong, end = (found - whole) ** 2, max(0, x.shape[1] - karaoke.STFT.n_fft)
    assert np.sum(wrong[..., :end]) <= 1e-9 * np.sum(whole**2)
    assert np.sum(wrong) < 1e-4 * np.sum(whole[..., end:] ** 2)


def test_stems_have_half_a_peak_each() -> None:
    song = _song(0)
    assert [float(np.abs(stem).max()) for stem in song.stems] == pytest.approx([0.5, 0.5])


def test_songs_are_read_with_their_excerpts_together(tmp_path: Path) -> None:
    rows = []
    for name in ("one_a", "one_b", "two"):
        for part in ("vocals", "accompaniment"):
            audio.write(tmp_path / name / f"{part}.wav", np.full((2, 480), 0.1, np.float32), 48000)
            rows.append(f"{name}/{part}.wav,stems,artist,0.01,48000,2,,,here,x,CC0")
    (tmp_path / "manifest.csv").write_text("\n".join([HEADER, *rows]))
    songs = karaoke.read_songs(tmp_path)
    assert [(s.name, s.group) for s in songs] == [("one_a", "one"), ("one_b", "one"), ("two", "two")]
    assert all(len(s.vocals) == len(s.accompaniment) == 441 for s in songs)
    learn, held = karaoke.divide(songs, 0.3, 0)
    assert {s.group for s in learn}.isdisjoint(s.group for s in held) and len(learn) + len(held) == 3
    (tmp_path / "manifest.csv").write_text("\n".join([HEADER, *rows[:-1]]))
    with pytest.raises(UserError, match="lacks the accompaniment"):
        karaoke.read_songs(tmp_path)
    (tmp_path / "manifest.csv").write_text(HEADER)
    with pytest.raises(UserError, match="no files of the category stems"):
        karaoke.read_songs(tmp_path)
    with pytest.raises(UserError, match="only one song"):
        karaoke.divide(songs[:2], 0.3, 0)


@pytest.mark.parametrize(("place", "learned"), [("train", ["train", "train b"]), ("some", ["some", "valid"])])
def test_where_songs_are_set_apart_to_learn_from_no_others_are(tmp_path: Path, place: str, learned: list[str]) -> None:
    for folder, name in ((place, place), ("valid", "valid"), ("test", "test"), *[("train", "train b")] * (place == "train")):
        for part in ("vocals", "accompaniment"):
            audio.write(tmp_path / folder / name / f"{part}.wav", np.full((1, 441), 0.1, np.float32), 44100)
    assert [song.name for song in karaoke.read_songs(tmp_path, part="train")] == learned


def test_mixtures_are_drawn_with_their_masks() -> None:
    """A segment of a song as it is gives the window of its spectrogram that lies there."""
    song, begin = _song(0), 6 * karaoke.STFT.hop
    mask, x = karaoke.mask_and_mixture(song)
    segments = np.stack(song.stems)[:, None, begin : begin + karaoke.WINDOW.n_fft + 2 * karaoke.WINDOW.hop]
    made = karaoke.batch_of(segments, np.float32(2.0))
    inside = slice(8, 11)  # frames of `STFT` are centred, two hops later
    np.testing.assert_allclose(made.magnitude[0], x[inside] / 2, rtol=1e-4, atol=1e-4)
    assert np.mean(np.asarray(made.target[0]) == mask[inside]) > 0.999


@pytest.mark.parametrize("swapped", [0.0, 0.5])
def test_ratios_vary_and_the_level_does_not(swapped: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(karaoke, "SWAPPED", swapped)
    places: list[tuple[int, int]] = []
    place = karaoke._place
    monkeypatch.setattr(karaoke, "_place", lambda *given: places.append(place(*given)) or places[-1])
    songs = [_song(n, 0.2) for n in range(3)]  # steady sound, so that a segment has the level of all of it
    songs[1] = songs[1]._replace(vocals=30 * songs[1].vocals)
    levels = [karaoke.levels_of(song) for song in songs]
    made = karaoke.remixed(songs, levels, 400, 4000, lambda rng: rng.normal(3, 5), np.random.default_rng(0))
    power = np.mean(made.astype(np.float64) ** 2, axis=2)
    ratios = 10 * np.log10(power[0] / power[1])
    assert ratios.mean() == pytest.approx(3, abs=1) and ratios.std() == pytest.approx(5, abs=0.7)
    mixed = [np.sum(np.square(level.mixed)) for level in levels]
    assert 0.9 * min(mixed) < power.sum(0).min() and power.sum(0).max() < 1.1 * max(mixed)
    pitch = np.abs(np.fft.rfft(made[0])).argmax(1)
    assert len(set(pitch.tolist())) == 3  # of all songs
    assert len(places) == 400 if not swapped else 550 < len(places) < 650  # one for both stems, or one for each


@pytest.mark.loose_arrays  # optax
def test_it_learns_from_mixtures_that_are_drawn(small: None, tmp_path: Path) -> None:
    recipe = Recipe(batch=16, snr_mean=6.0, epochs=3, steps_per_epoch=40, rate=0.3)  # vocals are 6 dB louder in these songs
    learn, held = [_song(n) for n in range(4)], [_song(5)]
    found = train.train(karaoke.task(recipe, learn, held), recipe.training, tmp_path)
    vocals, accompaniment = held[0].stems
    apart = _vocals((vocals + accompaniment)[None], RATE, Karaoke(recipe.config, found.state.parameters, karaoke.scale_of(learn)))
    assert metrics.si_sdr(vocals, apart[0]) > metrics.si_sdr(vocals, vocals + accompaniment) + 3
    assert found.history[-1]["validation/accuracy"] > 0.95


@pytest.mark.loose_arrays  # optax
def test_it_learns_to_take_a_tune_out_of_noise(small: None, tmp_path: Path) -> None:
    recipe = Recipe(batch=16, varied=False, epochs=3, steps_per_epoch=40, rate=0.3)
    learn, held = [_song(n) for n in range(4)], [_song(5)]
    found = train.train(karaoke.task(recipe, learn, held), recipe.training, tmp_path / "run")
    assert found.history[-1]["validation/accuracy"] > 0.8
    network = Karaoke(recipe.config, found.state.parameters, karaoke.scale_of(learn))
    vocals, accompaniment = held[0].stems
    mixture = np.stack([vocals + accompaniment] * 2)
    before = metrics.si_sdr(vocals, mixture[0])
    for alpha in (None, 0.5):
        apart = _vocals(mixture, RATE, network, alpha)
        assert apart.shape == mixture.shape
        assert metrics.si_sdr(vocals, apart[0]) > before + 3
    kept = [np.sum(_vocals(mixture, RATE, network, alpha) ** 2) for alpha in (0.1, 0.5, 0.9)]
    assert kept[0] >= kept[1] >= kept[2] and kept[0] > kept[2]
    louder = _vocals(7 * mixture, RATE, network)
    np.testing.assert_allclose(louder, 7 * _vocals(mixture, RATE, network), atol=1e-3)
    other = _vocals(mixture[:, :9001], 22050, network)
    assert other.shape == (2, 9001) and np.isfinite(other).all()

    shipped.write_file(tmp_path / "w.safetensors", karaoke.weights_of(network))
    again = karaoke.karaoke_of(shipped.read_file(tmp_path / "w.safetensors"))
    assert (again.config, again.scale) == (network.config, network.scale)
    jax.tree.map(np.testing.assert_array_equal, again.parameters, network.parameters)


def test_validation_is_with_other_artists_if_there_are_any() -> None:
    songs = [_song(n) for n in range(8)]  # excerpts of four songs
    for artists, kept in ((["she"] * 4 + ["he"] * 4, "artist"), (["she"] * 8, "group"), ([""] * 8, "group")):
        own = [song._replace(artist=artist) for song, artist in zip(songs, artists, strict=True)]
        sides = [{getattr(song, kept) for song in side} for side in karaoke.divide(own, 0.25, 0)]
        assert all(sides) and sides[0].isdisjoint(sides[1])
        assert len(sides[1]) == 1


def test_what_cannot_be_is_refused(small: None) -> None:
    config = Recipe().config
    parameters = karaoke.deep_karaoke.init(config, jax.random.key(0)).parameters
    network = Karaoke(config, parameters, 1.0)
    with pytest.raises(UserError, match="silent"):
        _vocals(np.zeros((1, 100), np.float32), RATE, network)
    with pytest.raises(UserError, match="alpha is 1"):
        karaoke.load(None, 1.0)
    with pytest.raises(UserError, match="not the weights of deep-karaoke"):
        karaoke.karaoke_of(shipped.Weights({}, {"network": "conv-tasnet"}))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"batch": 0}, "batch is 0"),
        ({"snr_deviation": -1.0}, "snr_deviation"),
        ({"width": -1}, "width is -1"),
    ],
)
def test_impossible_recipes_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Recipe(**given)
