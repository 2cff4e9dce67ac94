"""Speech whose words are known: which recordings are taken, and utterances that are drawn from them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from bayessep import spoken
from bayessep.data import MANIFEST_COLUMNS
from bayessep.errors import UserError
from bayessep.spoken import DIGITS, GAPS, RATE, Spoken
from tests.commandline import save, tone

pytest.importorskip("jiwer", reason="jiwer is not installed")
ROWS = (
    ("a/one.wav", "ann", "One.", "CC0"),
    ("a/two.wav", "ann", "two", "CC BY-NC"),
    ("b/tea.wav", "bob", "one tea", "MIT"),
    ("b/hum.wav", "bob", "", "MIT"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest with transcripts."""
    for place, *_ in ROWS:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        save(tmp_path / place, tone(0.5, 300))
    save(tmp_path / "a/song.wav", tone(0.5, 300))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        rows = [[p, "speech", group, 0.5, 8000, 1, words, "", "here", p, licence] for p, group, words, licence in ROWS]
        sung = ["a/song.wav", "songs", "cat", 0.5, 8000, 1, "one", "", "here", "x", "CC0"]  # words over music are no clean speech
        csv.writer(file).writerows([MANIFEST_COLUMNS, *rows, sung])
    return tmp_path


def test_what_has_a_transcript_is_listed_and_normalised(folder: Path) -> None:
    assert [(one.path.name, one.group, one.words) for one in spoken.listed(folder)] == [
        ("one.wav", "ann", "one"), ("two.wav", "ann", "two"), ("tea.wav", "bob", "one tea"),
    ]  # fmt: skip
    assert [one.words for one in spoken.listed(folder, only=DIGITS)] == ["one", "two"]
    assert [one.words for one in spoken.listed(folder, redistributable=True)] == ["one", "one tea"]
    with pytest.raises(UserError, match="of the words three alone"):
        spoken.listed(folder, only=["three"])
    (one, *_) = spoken.read(spoken.listed(folder))
    assert one.samples.dtype == np.float32 and np.abs(one.samples).max() == pytest.approx(1, abs=1e-6)
    assert len(one.samples) == RATE // 2


def test_librispeech_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    chapter.mkdir(parents=True)
    for n in range(2):
        save(chapter / f"84-121123-000{n}.flac", tone(0.5, 300), format="FLAC")
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT\n\n")
    assert [(one.group, one.words) for one in spoken.listed(tmp_path)] == [("84", "go do you hear"), ("84", "but")]
    (links := tmp_path / "links").mkdir()
    (links / "84").symlink_to(chapter.parent)
    assert [(one.group, one.words) for one in spoken.listed(links)] == [("84", "go do you hear"), ("84", "but")]
    with pytest.raises(UserError, match="names licences"):
        spoken.listed(tmp_path, redistributable=True)
    (chapter / "84-121123-0001.flac").unlink()
    with pytest.raises(UserError, match="line 2: 84-121123-0001.flac does not exist"):
        spoken.listed(tmp_path)
    (chapter / "84-121123.trans.txt").write_bytes(b"84-121123-0000 \xff\n")
    with pytest.raises(UserError, match="cannot be read"):
        spoken.listed(tmp_path)


def test_other_folders_and_silence_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="neither a manifest.csv nor LibriSpeech"):
        spoken.listed(empty)
    save(folder / "a" / "one.wav", np.zeros(4000))
    with pytest.raises(UserError, match="one.wav is silent"):
        spoken.read(spoken.listed(folder))


def _recordings() -> list[Spoken]:
    rng = np.random.default_rng(0)
    return [
        Spoken(f"{group} {word}", group, rng.uniform(0.5, 1, 2000 + 500 * n).astype(np.float32), word)
        for group in ("ann", "bob")
        for n, word in enumerate(("one", "two", "three"))
    ]


def test_utterances_are_of_one_speaker_with_pauses_and_fit() -> None:
    every = _recordings()
    made = spoken.said(every, 50, 1.5, 4, np.random.default_rng(0))
    counts = [len(words.split()) for words in made.words]
    assert min(counts) >= 1 and max(counts) > 2
    lengths = {one.words: len(one.samples) for one in every}
    for x, n, words in zip(made.waveform, made.samples, made.words, strict=True):
        heard = x[:n] != 0
        assert heard.sum() == sum(lengths[word] for word in words.split()) and not x[n:].any()
        pauses = (n - heard.sum()) / RATE
        assert (len(words.split()) + 1) * GAPS[0] <= pauses <= (len(words.split()) + 1) * GAPS[1]
    again = spoken.said(every, 50, 1.5, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(made.waveform, again.waveform)


def test_speakers_are_not_mixed_and_speeds_change_lengths() -> None:
    every = [one._replace(samples=one.samples * (1 if one.group == "ann" else -1)) for one in _recordings()]
    made = spoken.said(every, 30, 2.0, 4, np.random.default_rng(0), speed=1.2)
    signs = [set(np.sign(x[x != 0]).tolist()) for x in made.waveform]
    assert all(len(sign) == 1 for sign in signs) and {1.0} in signs and {-1.0} in signs
    alone = spoken.said(every[:1], 30, 2.0, 1, np.random.default_rng(0), speed=1.2)
    sounding = (alone.waveform != 0).sum(1) / len(every[0].samples)
    assert sounding.min() < 0.9 and sounding.max() > 1.1 and (sounding < 1.21).all()


def test_recordings_that_are_too_long_are_left_out() -> None:
    every = [Spoken("long", "ann", np.ones(RATE, np.float32), "long"), *_recordings()]
    assert not any("long" in words for words in spoken.said(every, 40, 1.0, 2, np.random.default_rng(0)).words)
    with pytest.raises(UserError, match=r"no recording is shorter than 1 s"):
        spoken.said(every[:1], 1, 1.0, 1, np.random.default_rng(0))
