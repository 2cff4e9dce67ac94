"""Reading and writing: what goes in comes out, in blocks as at once, and each bad file has its sentence."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bayessep import audio
from bayessep.audio import (
    AudioInfo,
    Writer,
    blocks,
    common_gain,
    probe,
    read,
    write,
)
from bayessep.errors import UserError
from bayessep.resampling import played, resample, resampled_length
from tests.helpers import write_tracks

RATE = 16000


def tone(seconds=0.5, rate=RATE, channels=2, hz=440.0):
    """A sine in each channel, an octave apart."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * hz * 2**c * t) for c in range(channels)]).astype(np.float32)


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "tone.wav"
    write(path, tone(), RATE, "FLOAT")
    return path


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# --- good files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [
        ("a.wav", "PCM_24", 2.0**-23),
        ("a.wav", "PCM_16", 2.0**-15),
        ("a.wav", "FLOAT", 0),
        ("a.flac", "PCM_24", 2.0**-23),
        ("a.FLAC", "PCM_16", 2.0**-15),
        ("a.ogg", "PCM_24", 0.1),
    ],
)
def test_write_and_read(tmp_path, name, subtype, error):
    x, path = tone(), tmp_path / "new" / "folder" / name
    write(path, x, RATE, subtype)
    sound = read(path)
    assert sound.sample_rate == RATE and sound.samples.dtype == np.float32 and sound.samples.shape == x.shape
    np.testing.assert_allclose(sound.samples, x, rtol=0, atol=error)
    kind = name[2:].upper()
    assert probe(path) == AudioInfo(RATE, 2, x.shape[1], "VORBIS" if kind == "OGG" else subtype, kind)
    assert files(tmp_path) == [f"new/folder/{name}".split("/")[-1]]


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype", "error"),
    [
        ("a.wav", 8000, 1, "PCM_U8", 2.0**-6),
        ("a.wav", 96000, 6, "PCM_32", 1e-6),
        ("a.mp3", 44100, 2, None, 0.05),
    ],
)
def test_kinds_of_files(tmp_path, name, rate, channels, subtype, error):
    x, path = tone(1.0, rate, channels, hz=50), tmp_path / name
    soundfile.write(path, x.T, rate, subtype=subtype)
    sound = read(path)
    assert sound.sample_rate == rate and sound.samples.shape == x.shape == (
        probe(path).channels,
        probe(path).frames,
    )
    np.testing.assert_allclose(sound.samples, x, atol=error)


@pytest.mark.parametrize("name", ["a.flac", "a.raw", "a.wav", "a"])
def test_the_content_decides_not_the_name(tmp_path, name):
    soundfile.write(tmp_path / "right.flac", tone().T, RATE)
    os.rename(tmp_path / "right.flac", tmp_path / name)
    assert probe(tmp_path / name).format == "FLAC"
    assert read(tmp_path / name).samples.shape == (2, 8000)


def test_parts_mono_and_rate(wav):
    whole = read(wav).samples
    np.testing.assert_array_equal(read(wav, start=0.1, stop=0.3).samples, whole[:, 1600:4800])
    np.testing.assert_array_equal(read(wav, start=0.4, stop=9).samples, whole[:, 6400:])
    np.testing.assert_allclose(read(wav, mono=True).samples, whole.mean(axis=0, keepdims=True), atol=1e-7)
    slow = read(wav, sample_rate=8000, mono=True)
    assert slow.sample_rate == 8000 and slow.samples.shape == (1, 4000)
    t = np.arange(4000) / 8000
    expected = 0.25 * np.sin(2 * np.pi * 440 * t) + 0.25 * np.sin(2 * np.pi * 880 * t)
    np.testing.assert_allclose(slow.samples[0, 200:-200], expected[200:-200], atol=1e-3)


@pytest.mark.parametrize("start, stop", [(-1, None), (0.2, 0.1), (0.5, None), (float("nan"), None)])
def test_parts_that_are_not_there(wav, start, stop):
    with pytest.raises(UserError, match="tone.wav"):
        read(wav, start=start, stop=stop)


@pytest.mark.parametrize("mono", [False, True])
@pytest.mark.parametrize("rate", [None, RATE, 8000, 11025, 44100])
@pytest.mark.parametrize("seconds", [0.0301, 0.1, 3.0])
def test_blocks_are_the_file_in_pieces(tmp_path, seconds, rate, mono):
    wav = tmp_path / "odd.wav"
    write(wav, tone()[:, :7995], RATE, "FLOAT")
    whole = read(wav, sample_rate=rate, mono=mono)
    pieces = list(blocks(wav, seconds, sample_rate=rate, mono=mono))
    assert {piece.sample_rate for piece in pieces} == {whole.sample_rate}
    size = round(seconds * whole.sample_rate)
    lengths = [piece.samples.shape[1] for piece in pieces]
    assert set(lengths[:-1]) <= {size} and 0 < lengths[-1] <= size
    joined = np.concatenate([piece.samples for piece in pieces], axis=1)
    assert joined.shape == whole.samples.shape
    np.testing.assert_allclose(joined, whole.samples, atol=1e-6)


def test_one_sample(tmp_path):
    path = tmp_path / "one.wav"
    write(path, np.array([0.25], np.float32), RATE)
    assert read(path).samples.tolist() == [[0.25]]
    for rate in (8000, 48000, 1000):
        (block,) = blocks(path, 1.0, sample_rate=rate)
        expected = read(path, sample_rate=rate).samples
        assert expected.shape == (1, resampled_length(1, RATE, rate))
        np.testing.assert_allclose(block.samples, expected, atol=1e-6)


# --- bad files ----------------------------------------------------------------------------------------------


def refuse_permission(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


def refused(path, match):
    """All ways to read refuse the file with one sentence that names it."""
    for use in (lambda: read(path), lambda: list(blocks(path, 0.01, mono=True, sample_rate=8000))):
        with pytest.raises(UserError, match=match) as caught:
            use()
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_or_a_folder(tmp_path):
    refused(tmp_path / "nothing.wav", "no such file")
    (tmp_path / "folder.wav").mkdir()
    refused(tmp_path / "folder.wav", "is a directory")


def test_unreadable(wav, monkeypatch):
    monkeypatch.setattr(audio, "open", refuse_permission, raising=False)
    refused(wav, "permission denied")


@pytest.mark.parametrize("content", [b"This is a letter, not a recording. " * 100, os.urandom(3000), b"RIFF"])
def test_not_audio(tmp_path, content, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    path = tmp_path / "letter.wav"
    path.write_bytes(content)
    refused(path, r"not audio.*install bayessep\[containers\]")


def test_nothing_in_it(tmp_path):
    (tmp_path / "none.wav").write_bytes(b"")
    refused(tmp_path / "none.wav", "empty file")
    soundfile.write(tmp_path / "silent.wav", np.zeros((0, 1)), RATE)
    refused(tmp_path / "silent.wav", "no samples")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", Path(os.devnull)):
        refused(path, "is a pipe or a device; save its sound to a file first")


def test_samples_beyond_reason(tmp_path):
    """Sound whose full scale is that of 32-bit integers is read; squares of what is louder by far are no numbers."""
    x = 2.0**31 * tone()
    soundfile.write(tmp_path / "integers.wav", x.T, RATE, subtype="FLOAT")
    assert read(tmp_path / "integers.wav", mono=True).samples.max() > 1e8
    x[0, 800] = -1e30
    soundfile.write(tmp_path / "huge.wav", x.T, RATE, subtype="FLOAT")
    refused(tmp_path / "huge.wav", r"a sample of 1e\+30 times full scale at 0\.050 s \(sample 800\)")


def noisy_tone(path):
    """Three seconds that do not compress well."""
    soundfile.write(path, (tone(3.0) * np.random.default_rng(0).random(3 * RATE)).T, RATE)


@pytest.mark.parametrize("name", ["long.wav", "long.aiff", "long.ogg"])
def test_cut_off_and_taken_for_what_is_there(tmp_path, name):
    whole, path = tmp_path / name, tmp_path / f"cut {name}"
    noisy_tone(whole)
    path.write_bytes(whole.read_bytes()[: os.path.getsize(whole) // 2])
    n = probe(path).frames
    assert 0.5 * RATE < n < 2.5 * RATE
    np.testing.assert_array_equal(read(path).samples, read(whole).samples[:, :n])
    assert sum(block.samples.shape[1] for block in blocks(path, 0.1)) == n


@pytest.mark.parametrize("name", ["long.flac", "long.mp3"])
def test_cut_off_and_refused(tmp_path, name):
    whole, path = tmp_path / name, tmp_path / f"cut {name}"
    noisy_tone(whole)
    path.write_bytes(whole.read_bytes()[: os.path.getsize(whole) // 2])
    refused(path, r"cut off or damaged before its 3\.[01] s are over")
    assert read(path, stop=0.5).samples.shape == (2, 8000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, bad):
    x = tone()
    x[1, 4000] = bad
    x[0, 5000] = np.nan
    soundfile.write(tmp_path / "bad.wav", x.T, RATE, subtype="FLOAT")
    refused(tmp_path / "bad.wav", r"NaN or infinite sample at 0\.250 s \(sample 4000\)")
    with pytest.raises(UserError, match=r"at 0\.250 s"):
        read(tmp_path / "bad.wav", start=0.2)
    assert read(tmp_path / "bad.wav", stop=0.25).samples.shape == (2, 4000)


def test_containers(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra bayessep[containers]")
    path, x = tmp_path / "film.mp4", tone(1.0, 44100)
    write_tracks(av, path, [x], 44100)
    info, sound = probe(path), read(path)
    assert (info.sample_rate, info.channels, info.subtype) == (44100, 2, "AAC")
    assert sound.samples.shape == (2, info.frames) and 44100 <= info.frames < 44100 + 3 * 1024
    error = sound.samples[:, 2000:40000] - x[:, 2000:40000]
    assert np.mean(error**2) < 0.01 * np.mean(x**2)
    np.testing.assert_array_equal(read(path, start=0.25, stop=0.5).samples, sound.samples[:, 11025:22050])
    joined = np.concatenate([block.samples for block in blocks(path, 0.1)], axis=1)
    np.testing.assert_array_equal(joined, sound.samples)
    twin = path.rename(tmp_path / "12:30 news.mp4")  # what is before a colon is no protocol
    np.testing.assert_array_equal(read(twin).samples, sound.samples)
    (tmp_path / "letter.mp4").write_text("This is a letter. " * 100)
    refused(tmp_path / "letter.mp4", "not audio")


# --- resampling and level -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 100, 12345])
@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 44100), (96000, 16000), (16000, 11025), (16000, 16000)])
def test_resampled_lengths(n, rates):
    x = np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)
    y = resample(x, *rates)
    assert y.shape == (2, resampled_length(n, *rates)) and y.dtype == np.float32
    assert abs(y.shape[1] - n * rates[1] / rates[0]) <= 0.5 or y.shape[1] == 1
    np.testing.assert_allclose(resample(x[0], *rates), y[0], atol=1e-6)


def test_resampling_keeps_a_tone_and_refuses_nonsense():
    t = np.arange(44100) / 44100
    y = resample(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 44100, 16000)
    np.testing.assert_allclose(y[500:-500], np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)[500:-500], atol=1e-3)
    for rates in ((0, 16000), (16000, -1)):
        with pytest.raises(UserError, match="positive sample rate"):
            resample(y, *rates)


def test_faster_and_slower_is_higher_and_lower_without_aliases():
    t = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * hz * t).astype(np.float32) for hz in (1000, 7000))
    for speed in (0.8, 1.37):
        y = played(low, speed)
        assert abs(len(y) - 16000 / speed) <= 0.5 and y.dtype == np.float32
        expected = np.sin(2 * np.pi * 1000 * speed * np.arange(len(y)) / 16000)
        np.testing.assert_allclose(y[500:-500], expected[500:-500], atol=1e-3)
    assert np.abs(played(high, 1.37)[500:-500]).max() < 1e-3  # 9590 Hz is above half the rate, not 6410 Hz
    assert played(low, 1.0) is low
    with pytest.raises(UserError, match="positive speed"):
        played(low, 0.0)


def test_common_gain():
    quiet, loud = np.array([[0.5, -1.0]]), np.array([0.25, -2.0])
    assert common_gain(quiet) == common_gain() == common_gain(np.zeros((2, 0))) == 1.0
    assert common_gain(quiet, loud) == pytest.approx(0.999 / 2)
    assert common_gain(loud, ceiling=0.5) == pytest.approx(0.25)


# --- writing ------------------------------------------------------------------------------------------------


def test_a_writer_appends(tmp_path):
    x = tone()
    with Writer(tmp_path / "a.flac", RATE, 2) as writer:
        assert not (tmp_path / "a.flac").exists()
        for i in range(0, 8000, 3000):
            writer.append(x[:, i : i + 3000])
        assert writer.frames == 8000
    write(tmp_path / "b.flac", x, RATE)
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()
    assert files(tmp_path) == ["a.flac", "b.flac"]
    with pytest.raises(ValueError, match="1 channels given"), Writer(tmp_path / "c.wav", RATE, 2) as writer:
        writer.append(x[0])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_what_is_too_long_for_wav_is_written_as_rf64(tmp_path, monkeypatch, subtype):
    """4 GiB are made few here; libsndfile would go on beyond them, and what it has written could not be read to its end."""
    x, path = tone(), tmp_path / "a.wav"
    size = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype] * x.size
    monkeypatch.setattr(audio, "_WAV_BYTES", size)
    write(path, x, RATE, subtype)
    assert probe(path).format.startswith("WAV")
    monkeypatch.setattr(audio, "_WAV_BYTES", size - 1)
    write(path, x, RATE, subtype)
    assert probe(path).format == "RF64" and path.read_bytes()[:4] == b"RF64"
    np.testing.assert_allclose(read(path).samples, x, atol=5e-5)
    once = path.read_bytes()
    write(path, x, RATE, subtype)
    assert path.read_bytes() == once


def test_a_wav_file_that_grows_too_long_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_WAV_BYTES", 3 * tone().size + 1)
    with pytest.raises(UserError, match=r"a\.wav: a wav file holds no more"), Writer(tmp_path / "a.wav", RATE, 2) as writer:
        writer.append(tone())
        writer.append(tone()[:, :1])
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_writer_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.wav"
    path.write_text("the old one")
    with pytest.raises(error), Writer(path, RATE, 2) as writer:
        writer.append(tone())
        raise error
    assert path.read_text() == "the old one" and files(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_not_written(tmp_path, bad):
    x = tone()
    x[0, 800] = bad
    with pytest.raises(UserError, match=r"a\.wav: its sample 800 \(0\.050 s\)"):
        write(tmp_path / "a.wav", x, RATE)
    assert files(tmp_path) == []


def test_names_that_cannot_be_written(tmp_path):
    x = tone()
    with pytest.raises(UserError, match=r"must end in one of \.wav, \.flac, \.ogg"):
        write(tmp_path / "a.xyz", x, RATE)
    with pytest.raises(UserError, match="FLAC has no subtype FLOAT"):
        write(tmp_path / "a.flac", x, RATE, "FLOAT")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        write(tmp_path / "folder.wav", x, RATE)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file" / "a.wav", x, RATE)
    assert files(tmp_path) == ["file"]


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(audio.Path, "touch", refuse_permission)
    with pytest.raises(UserError, match=r"a\.wav: permission denied"):
        write(tmp_path / "a.wav", tone(), RATE)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_full_disk(tmp_path, name):
    resource = pytest.importorskip("resource", reason="needs file size limits")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 40000)).astype(np.float32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*full"):
            write(tmp_path / name, noise, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []


def test_a_disk_that_is_full_at_the_last_moment(tmp_path, monkeypatch):
    def no_space(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audio.os, "replace", no_space)
    with pytest.raises(UserError, match=r"cannot write .*a\.wav: no space left on device"):
        write(tmp_path / "a.wav", tone(), RATE)
    assert files(tmp_path) == []


def test_bytes_do_not_tell_the_time(tmp_path, monkeypatch):
    """libsndfile notes the time in float files; what is left there must not depend on the clock."""
    path = tmp_path / "a.wav"
    write(path, tone(), RATE, "FLOAT")
    content = path.read_bytes()
    at = content.index(b"PEAK")
    assert content[at + 12 : at + 16] == bytes(4)
    np.testing.assert_array_equal(read(path).samples, tone())


def test_permissions_are_those_of_any_new_file(tmp_path):
    write(tmp_path / "a.wav", tone(), RATE)
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_long_block_of_ogg_is_written(tmp_path: Path) -> None:
    """In a process of its own: libsndfile ends it, where it is given all at once."""
    code = "import sys, numpy as np; from bayessep import audio; audio.write(sys.argv[1], np.full((2, 4_000_000), 0.1, 'f'), 44100)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "long.ogg")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert audio.probe(tmp_path / "long.ogg").frames == 4_000_000
