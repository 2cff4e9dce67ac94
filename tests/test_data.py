import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.signal import sosfilt, welch

from bayessep import broadcast as broadcasts
from bayessep.data import (
    MANIFEST_COLUMNS,
    Broadcast,
    Recording,
    audio_files,
    gather,
    generate_broadcast,
    read_folder,
    read_manifest,
    select,
)
from bayessep.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def broadcast() -> Broadcast:
    return generate_broadcast(3, seconds=12.0, training_seconds=8.0, jingle_seconds=2.51)


@pytest.fixture(scope="module")
def programme() -> Broadcast:
    return generate_broadcast(
        3, seconds=16.0, training_seconds=3.0, jingle_seconds=2.51, layout="programme", smr_db=5.0
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_broadcast():
    settings = {"seconds": 2.0, "training_seconds": 1.0}
    first, again, other = (generate_broadcast(s, **settings) for s in (0, 0, 1))
    for name in ("mixture", "jingle", "training_speech"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
        assert not np.array_equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize(("sample_rate", "length"), [(16000, 1601), (20480, 3000), (44100, 2205), (8000, 1)])
def test_filters_that_move_are_those_of_scipy_frame_by_frame(sample_rate: int, length: int) -> None:
    """Sections that resonate at frequencies of their own in every frame, and states that go on from frame to frame."""
    rng = np.random.default_rng(length)
    frames = int(np.ceil(length * 200 / sample_rate)) + 1
    angle, radius = rng.uniform(0.1, 3, (2, frames, 3)) * [[[1.0]], [[0.33]]]
    zeros, one = rng.standard_normal((3, frames, 3)), np.ones((frames, 3))
    sections = np.stack([*zeros, one, -2 * radius * np.cos(angle), radius**2], axis=-1)
    x, expected, state = rng.standard_normal(length), np.empty(length), np.zeros((3, 2))
    edges = np.ceil(np.arange(frames + 1) * sample_rate / 200).astype(int)
    for sos, begin, end in zip(sections, edges, edges[1:], strict=False):
        if begin < length:
            expected[begin:end], state = sosfilt(sos, x[begin:end], zi=state)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(broadcasts._moving_filter(x, sections, sample_rate), expected, rtol=1e-9, atol=1e-12)


def test_plucked_tones_are_sums_of_dying_partials() -> None:
    t = np.arange(round(0.3 * 16000)) / 16000
    k = np.arange(1, 25)
    pitch = 220.0 * k * np.sqrt(1 + 2e-4 * k**2)
    parts = [j**-1.2 * np.exp(-3 * (1 + 0.25 * (j - 1)) * t) * np.sin(2 * np.pi * f * t) for j, f in zip(k, pitch, strict=True)]
    expected = sum(parts) * np.clip(t / 0.004, 0, 1) * np.clip((0.3 - t) / 0.03, 0, 1)
    np.testing.assert_allclose(broadcasts._note(57.0, 0.3, 3.0, 16000), expected, atol=1e-12)


def test_lengths_types_and_levels(broadcast: Broadcast):
    waveforms = [w for w in broadcast if isinstance(w, np.ndarray)]
    assert all(w.dtype == np.float32 and np.all(np.isfinite(w)) and np.max(np.abs(w)) <= 0.71 for w in waveforms)
    assert [len(w) for w in waveforms] == [192000] * 3 + [40160, 20080, 128000]
    np.testing.assert_array_equal(broadcast.mixture, broadcast.speech + broadcast.music)


def test_the_jingle_repeats_exactly_and_its_beginning_is_labelled(broadcast: Broadcast):
    n = np.arange(len(broadcast.music))
    np.testing.assert_array_equal(broadcast.music, broadcast.jingle[n % 40160])
    np.testing.assert_array_equal(broadcast.labelled_music, broadcast.jingle[:20080])


@pytest.mark.parametrize("smr_db", [-6.0, 0.0, 15.0])
def test_the_ratio_of_speech_to_music_is_the_one_asked_for(smr_db: float):
    b = generate_broadcast(1, seconds=3.0, training_seconds=1.0, smr_db=smr_db)
    assert 10 * np.log10(np.sum(b.speech**2) / np.sum(b.music**2)) == pytest.approx(smr_db, abs=1e-3)


def test_training_speech_is_other_speech_and_does_not_change_the_mixture():
    one = generate_broadcast(2, seconds=2.0, training_seconds=2.0)
    two = generate_broadcast(2, seconds=2.0, training_seconds=4.0)
    np.testing.assert_allclose(one.speech / one.speech.std(), two.speech / two.speech.std(), atol=1e-4)
    assert abs(np.corrcoef(one.speech, one.training_speech)[0, 1]) < 0.2


def test_speech_falls_with_frequency_has_harmonics_and_no_long_silence(broadcast: Broadcast):
    speech, rate = broadcast.training_speech.astype(float), broadcast.sample_rate
    f, power = welch(speech, rate, nperseg=1024)
    level = {c: 10 * np.log10(np.mean(power[(f > c / 1.41) & (f < c * 1.41)])) for c in (500, 1000, 2000, 4000)}
    fall = (level[500] - level[4000]) / 3
    assert 4 < fall < 14  # dB an octave

    frames = np.lib.stride_tricks.sliding_window_view(speech, 640)[::320]
    energy = np.sum(frames**2, axis=1)
    loud = energy > np.median(energy)
    spectra = np.abs(np.fft.rfft(frames[loud], 2048)) ** 2
    autocorrelation = np.fft.irfft(spectra, axis=1)
    periodicity = np.max(autocorrelation[:, 16000 // 260 : 16000 // 85], axis=1) / autocorrelation[:, 0]
    assert np.median(periodicity) > 0.5  # white noise has 0.2

    assert np.max(np.abs(speech)) < 10 * np.std(speech)  # filters that move leave no clicks

    quiet = np.concatenate([[0], energy < 1e-4 * np.mean(energy), [0]]).astype(int)
    begin, end = np.flatnonzero(np.diff(quiet) == 1), np.flatnonzero(np.diff(quiet) == -1)
    assert len(begin) > 0  # there are pauses
    assert np.max(end - begin) * 0.02 < 0.6


def test_the_programme_does_what_its_segments_say(programme: Broadcast):
    rate = programme.sample_rate
    assert programme.labels == programme.segments[:3]
    assert [s.label for s in programme.segments] == [
        "speech", "music", "speech+music", "music", "speech+music", "speech"
    ]  # fmt: skip
    assert programme.segments[0].start == 0
    assert programme.segments[-1].end == pytest.approx(16.0)
    speech = music = 0.0
    for s, following in zip(programme.segments, [*programme.segments[1:], None], strict=True):
        assert following is None or s.end == pytest.approx(following.start)
        span = slice(round(s.start * rate), round(s.end * rate))
        assert np.any(programme.speech[span]) == ("speech" in s.label)
        assert np.any(programme.music[span]) == ("music" in s.label)
        if s.label == "speech+music":
            speech += np.sum(programme.speech[span] ** 2)
            music += np.sum(programme.music[span] ** 2)
    assert 10 * np.log10(speech / music) == pytest.approx(5.0, abs=1e-3)
    alone = programme.segments[1]
    heard = programme.mixture[round(alone.start * rate) : round(alone.end * rate)]
    np.testing.assert_array_equal(heard, programme.labelled_music)


def test_music_can_fade_in_and_out():
    b = generate_broadcast(0, seconds=6, training_seconds=1.0, jingle_seconds=2.0, fade_seconds=2.0)
    levels = [np.std(b.music[n * 16000 :][:16000]) for n in range(6)]
    assert levels[0] < 0.7 * levels[2]
    assert levels[5] < 0.7 * levels[3]
    np.testing.assert_allclose(b.music[32000:64000], b.jingle, rtol=1e-6)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100])
def test_other_sample_rates(sample_rate: int):
    b = generate_broadcast(0, seconds=1.5, training_seconds=1.0, sample_rate=sample_rate)
    assert len(b.mixture) == round(1.5 * sample_rate)
    assert np.all(np.isfinite(b.mixture))
    assert np.any(b.speech)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0.0},
        {"seconds": 3.0, "layout": "programme"},
        {"labelled_fraction": 0.0},
        {"labelled_fraction": 1.5},
        {"sample_rate": 4000},
        {"jingle_seconds": 0.1},
        {"training_seconds": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValueError, match="needs"):
        generate_broadcast(0, **wrong)


# ---------------------------------------------------------------------------------------------------- folders


def _manifest(folder: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = MANIFEST_COLUMNS) -> None:
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _row(path: str, **fields: str) -> dict[str, str]:
    known = {
        "category": "speech",
        "split_group": "g",
        "duration_s": "1.5",
        "sample_rate": "8000",
        "channels": "1",
    }
    return {"path": path, **known, **fields}


def _sound(path: Path, seconds: float = 0.5, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((round(seconds * rate), 2)), rate)


def test_a_manifest_is_read(tmp_path: Path):
    _sound(tmp_path / "speech" / "a.wav")
    fields = {"transcript": "Grüß Gott, all", "licence": "CC0 1.0", "genre_or_note": "loud"}
    _manifest(tmp_path, [_row("speech/a.wav", source_repo="x:y", source_path="z.wav", **fields)])
    assert read_manifest(tmp_path) == [
        Recording(
            tmp_path / "speech/a.wav",
            "speech",
            "g",
            1.5,
            8000,
            1,
            "Grüß Gott, all",
            "loud",
            "CC0 1.0",
            "x:y/z.wav",
        )
    ]


def test_a_manifest_that_cannot_be_used_says_why(tmp_path: Path):
    with pytest.raises(UserError, match=r"manifest\.csv does not exist"):
        read_manifest(tmp_path)
    _sound(tmp_path / "a.wav")
    _manifest(tmp_path, [_row("a.wav")], tuple(c for c in MANIFEST_COLUMNS if c not in ("licence", "channels")))
    with pytest.raises(UserError, match="lacks the columns channels, licence"):
        read_manifest(tmp_path)
    _manifest(tmp_path, [_row("a.wav"), _row("gone.wav")])
    with pytest.raises(UserError, match=r"line 3: lists gone\.wav, which does not exist"):
        read_manifest(tmp_path)
    _manifest(tmp_path, [_row("a.wav", duration_s="long")])
    with pytest.raises(UserError, match="line 2: .*'long'"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text(",".join(MANIFEST_COLUMNS) + "\na.wav,speech\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: .*more or fewer fields"):
        read_manifest(tmp_path)
    _manifest(tmp_path, [_row(str(tmp_path / "a.wav"))])
    with pytest.raises(UserError, match=r"line 2: .*a\.wav is an absolute path; make it relative"):
        read_manifest(tmp_path)
    _manifest(tmp_path, [_row("a.wav"), _row("a.wav")])
    text = (tmp_path / "manifest.csv").read_text(encoding="utf-8").rstrip()
    first, _, last = text.rpartition("\n")
    (tmp_path / "manifest.csv").write_text(f'{first.rpartition(",")[0]},"CC0\n{last}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest\.csv, line \d+: .*a quotation mark may be unpaired"):
        read_manifest(tmp_path)
    open_quotes = ",".join(MANIFEST_COLUMNS) + '\na.wav,"speech' + "\nb.wav,speech" * 20000
    (tmp_path / "manifest.csv").write_text(open_quotes, encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest\.csv, line \d+: .*a quotation mark may be unpaired"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        read_manifest(tmp_path)


def test_a_folder_is_searched_in_order(tmp_path: Path):
    for name in ("b.wav", "speaker2/x/2.flac", "speaker2/x/1.wav", "speaker1/3.WAV"):
        _sound(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no audio")
    found = read_folder(tmp_path, "speech")
    names = [r.path.relative_to(tmp_path).as_posix() for r in found]
    assert names == ["b.wav", "speaker1/3.WAV", "speaker2/x/1.wav", "speaker2/x/2.flac"]
    assert [r.split_group for r in found] == ["b", "speaker1", "speaker2", "speaker2"]
    assert {(r.category, r.duration, r.sample_rate, r.channels) for r in found} == {("speech", 0.5, 8000, 2)}


def test_a_folder_without_audio_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="holds no audio"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_folder(tmp_path / "gone")
    (tmp_path / "a.wav").write_text("these are words")
    with pytest.raises(UserError, match=r"a\.wav"):
        read_folder(tmp_path)


def test_what_is_given_twice_is_gathered_once(tmp_path: Path):
    for name in ("b.wav", "x/a.wav"):
        _sound(tmp_path / name)
    (tmp_path / "x" / "link.wav").symlink_to(tmp_path / "b.wav")
    found = gather([tmp_path / "b.wav", tmp_path, tmp_path / "x" / ".." / "b.wav", tmp_path / "notes.txt"])
    assert found == [
        (tmp_path / "b.wav", Path("b.wav")),
        (tmp_path / "x" / "a.wav", Path("x/a.wav")),
        (tmp_path / "notes.txt", Path("notes.txt")),
    ]


def test_select_keeps_what_fulfils_every_condition():
    def recording(name: str, category: str, group: str, duration: float, licence: str) -> Recording:
        return Recording(Path(name), category, group, duration, 8000, 1, licence=licence)

    all_of_them = [
        recording("a", "speech", "x", 1.0, "CC BY 4.0"),
        recording("b", "speech", "y", 5.0, "CC BY-NC-ND (Jamendo)"),
        recording("c", "music", "x", 9.0, "CC BY-NC 3.0"),
        recording("d", "songs", "z", 2.0, "SYNC licence"),
    ]

    def names(**conditions: object) -> str:
        return "".join(r.path.name for r in select(all_of_them, **conditions))

    assert names() == "abcd"
    assert names(category="speech") == "ab"
    assert names(category={"music", "songs"}) == "cd"
    assert names(split_group="x", category="speech") == "a"
    assert names(without_licence_terms={"NC"}) == "ad"
    assert names(without_licence_terms={"ND"}) == "acd"
    assert names(min_seconds=2.0) == "bcd"


@pytest.mark.skipif(not (SHARED / "manifest.csv").is_file(), reason="the recordings beside the checkout are absent")
def test_the_recordings_beside_the_checkout_are_listed():
    recordings = read_manifest(SHARED)
    assert len(recordings) > 100
    assert select(recordings, category="speech", min_seconds=5.0)
    assert all(r.split_group and r.licence and r.duration > 0 for r in recordings)


def test_commands_take_containers_from_folders_and_corpora_do_not(tmp_path: Path) -> None:
    for name in ("a.wav", "b.MP4", "c.mp2", "d.webm", "e.txt"):
        (tmp_path / name).touch()
    assert [path.name for path, _ in gather([tmp_path])] == ["a.wav", "b.MP4", "c.mp2", "d.webm"]
    assert [path.name for path in audio_files(tmp_path)] == ["a.wav"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("in/a.wav", "elsewhere/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    assert [p.relative_to(tmp_path).as_posix() for p in audio_files(tmp_path / "in")] == ["in/a.wav", "in/more/b.wav"]


def test_a_folder_is_called_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "in" / "real").mkdir(parents=True)
    (tmp_path / "in" / "real" / "x.wav").touch()
    (tmp_path / "in" / "alias").symlink_to("real")
    assert [p.relative_to(tmp_path).as_posix() for p in audio_files(tmp_path / "in")] == ["in/real/x.wav"]


def test_a_folder_that_can_only_be_listed_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "x.wav").touch()
    (tmp_path / "a.wav").touch()
    whole = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("listed") and whole(path, mode))
    with pytest.raises(UserError, match="listed cannot be read"):
        audio_files(tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "a.wav").touch()
    whole = os.scandir

    def refused(path: str | Path) -> Any:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"private cannot be read \(permission denied\)"):
        audio_files(tmp_path)


def test_a_path_that_cannot_be_looked_at_costs_no_other(tmp_path: Path) -> None:
    long, good = tmp_path / ("x" * 300), tmp_path / "a.wav"
    good.touch()
    assert [path for path, _ in gather([long, good])] == [long, good], "whoever opens it says what is wrong"


def test_hidden_files_are_no_recordings(tmp_path: Path) -> None:
    for name in ("a.wav", "._a.wav", ".0123456789ab.part/speech.wav", "below/b.wav"):
        (tmp_path / ".top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".top" / name).touch()
    assert [p.name for p in audio_files(tmp_path / ".top")] == ["a.wav", "b.wav"]
