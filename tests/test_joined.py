"""Files whose headers promise less than they hold."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from bayessep import audio, joined
from bayessep.errors import UserError


def _mp3(path: Path, seconds: float, rate: int = 16000, channels: int = 1, mode: str = "VARIABLE", seed: int = 0) -> bytes:
    """Noise that becomes softer: a variable bit rate falls with it."""
    n = round(seconds * rate)
    noise = np.random.default_rng(seed).standard_normal((n, channels)) * np.geomspace(0.3, 1e-6, n)[:, None]
    soundfile.write(path, noise, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return path.read_bytes()


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (22050, 1), (44100, 2), (48000, 1)])
def test_as_many_samples_are_counted_as_were_written(tmp_path: Path, mode: str, rate: int, channels: int) -> None:
    content = _mp3(tmp_path / "a.mp3", 2.3, rate, channels, mode)
    assert audio.read(tmp_path / "a.mp3").samples.shape == (channels, round(2.3 * rate))
    found = joined.mpeg_samples(content)
    assert found.frame == (1152 if rate > 24000 else 576)
    assert 0 <= found.samples - round(2.3 * rate) <= 5 * found.frame


def test_tags_are_passed_over(tmp_path: Path) -> None:
    content = _mp3(tmp_path / "a.mp3", 1.0)
    picture = bytes(np.random.default_rng(0).integers(0, 256, 3000, np.uint8)) + b"\xff\xf3\x88\xc4___" * 50
    front = b"ID3\x04\x00\x00" + bytes([0, 0, len(picture) >> 7, len(picture) & 127]) + picture
    behind = b"APETAGEX" + picture + b"TAG" + b"\xff" * 125
    assert joined.mpeg_samples(front + content + behind) == joined.mpeg_samples(content)
    assert joined.mpeg_samples(picture) == joined.mpeg_samples(b"") == (0, 0, 0, 0)


@pytest.mark.parametrize("between", [b"", b"ID3\x04\x00\x00\x00\x00\x00\x10" + b"\xff" * 16, b"TAG" + b" " * 125])
def test_joined_mp3_files_are_refused(tmp_path: Path, between: bytes) -> None:
    first, second = _mp3(tmp_path / "a.mp3", 1.0), _mp3(tmp_path / "b.mp3", 2.0, mode="CONSTANT", seed=1)
    (tmp_path / "ab.mp3").write_bytes(first + between + second)
    with pytest.raises(UserError, match=r"ab\.mp3 holds 3\.\d s of sound, and its beginning promises 1\.0 s.*ffmpeg"):
        audio.read(tmp_path / "ab.mp3")
    (tmp_path / "ab.mp3").write_bytes(first)  # what was found out is of the file as it was
    assert audio.probe(tmp_path / "ab.mp3").frames == 16000


def test_a_variable_rate_that_nothing_says_is_found(tmp_path: Path) -> None:
    """The length is guessed by the rate of the first frame, which here is the highest."""
    content = _mp3(tmp_path / "a.mp3", 8.0)
    start = content.index(b"\xff\xf3", 1)  # behind the frame that says the length
    (tmp_path / "bare.mp3").write_bytes(content[start:])
    with pytest.raises(UserError, match=r"holds 8\.\d s of sound, and its beginning promises \d"):
        audio.probe(tmp_path / "bare.mp3")


@pytest.mark.parametrize("rate", [22050, 44100])
def test_a_constant_rate_that_nothing_says_is_taken(tmp_path: Path, rate: int) -> None:
    """A capture of a stream: its length is guessed by its first frame, which may be a byte longer than most."""
    content = _mp3(tmp_path / "a.mp3", 3.0, rate, mode="CONSTANT")
    starts = [0]
    while (frame := joined._frame(content[starts[-1] : starts[-1] + 4])) is not None:
        starts.append(starts[-1] + frame.bytes)
    sizes = np.diff(starts)
    longer = int(np.flatnonzero(sizes[2:] == sizes.max())[0]) + 2  # behind the frame that says the length
    (tmp_path / "bare.mp3").write_bytes(content[starts[longer] :] * 200)
    assert starts[-1] == len(content) and np.ptp(sizes) == 1
    assert 0.99 < audio.probe(tmp_path / "bare.mp3").frames / (200 * 3 * rate) < 1.01


def test_what_encoders_trim_is_no_promise() -> None:
    """Delay and padding have twelve bits each."""
    assert joined.Counted(100_000, 576, 300, 400).explained == 2 * 4095 + 2 * 576


def test_chained_streams_are_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.ogg", np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32), 16000)
    content = (tmp_path / "a.ogg").read_bytes()
    assert not joined.is_chained(content) and not joined.is_chained(content[: len(content) // 2]) and joined.is_chained(2 * content)
    (tmp_path / "a.ogg").write_bytes(2 * content)
    with pytest.raises(UserError, match=r"a\.ogg is several streams in a chain, of which only the first would be read"):
        audio.read(tmp_path / "a.ogg")


def test_a_flac_file_that_does_not_say_its_length_is_refused(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.flac", np.zeros((1, 16000), np.float32), 16000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # 36 bits of STREAMINFO
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.flac does not say how long it is"):
        audio.probe(tmp_path / "a.flac")
