"""One channel of several, where they cancel and where they do not; in memory as in blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayessep import audio
from bayessep.downmix import standing_for_all
from tests.commandline import RATE, save, tone


def _sides(n: int) -> dict[str, tuple[np.ndarray, int | None]]:
    """Channels, and which of them stands for all."""
    a, b = tone(n, 300), tone(n, 500, seed=1)
    codec = 1e-3 * np.random.default_rng(0).standard_normal((2, len(a)))
    return {
        "alike": (np.stack([a, a]), None),
        "unrelated": (np.stack([a, b]), None),
        "one silent": (np.stack([a, 0 * a]), None),
        "one channel": (a[None], None),
        "silence": (np.zeros((2, len(a))), None),
        "upside down": (np.stack([a, -a]), 0),
        "upside down and louder": (np.stack([a, -1.1 * a]), 1),
        "upside down, through a codec": (np.stack([a, -1.05 * a]) + codec, 1),
        "three": (np.stack([0.4 * a, -a, 0.6 * a]), 1),
    }


@pytest.mark.parametrize("case", _sides(1))
def test_the_mean_unless_it_cancels(case: str) -> None:
    samples, channel = _sides(1)[case]
    assert standing_for_all(np.split(samples.astype(np.float32), 4, axis=1)) == channel


def test_hiss_before_the_sound_decides_nothing(tmp_path: Path) -> None:
    """Twelve seconds of it, of unrelated channels: more than a piece whose mean is heard."""
    a = tone(12, 300)
    hiss = 1e-4 * np.random.default_rng(0).standard_normal((2, len(a)))
    for second, channel in ((-1.1, 1), (1.1, None)):
        samples = np.concatenate([hiss, np.stack([a, second * a])], axis=1)
        expected = samples.mean(0) if channel is None else samples[channel]
        path = save(tmp_path / "a.wav", samples, subtype="FLOAT")
        np.testing.assert_allclose(audio.read(path, mono=True).samples[0], expected, atol=1e-6)
        blocks = [block.samples[0] for block in audio.blocks(path, 7, mono=True)]
        np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)
    assert standing_for_all([hiss.astype(np.float32)]) is None


def test_one_channel_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.wav", tone(1, 300))
    read: list[Any] = []
    pieces = audio._SoundFile.pieces
    monkeypatch.setattr(audio._SoundFile, "pieces", lambda *a: read.append(a) or pieces(*a))
    list(audio.blocks(path, 7, mono=True))
    assert len(read) == 1


def test_the_first_piece_whose_mean_is_loud_decides() -> None:
    a = tone(1, 300)
    pieces = iter([np.stack([a, second * a]).astype(np.float32) for second in (-1, 1, -1)])
    assert standing_for_all(pieces) is None
    assert len(list(pieces)) == 1  # that follows it, and was not looked at


@pytest.mark.parametrize("case", ["alike", "unrelated", "upside down and louder"])
def test_blocks_are_what_is_read(case: str, tmp_path: Path) -> None:
    samples, channel = _sides(23)[case]
    path = save(tmp_path / "a.wav", samples, subtype="FLOAT")
    whole = audio.read(path, mono=True).samples
    np.testing.assert_allclose(whole[0], samples.mean(0) if channel is None else samples[channel], atol=1e-6)
    for seconds in (0.5, 7, 60):
        pieces = [block.samples for block in audio.blocks(path, seconds, mono=True)]
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    slow = [block.samples for block in audio.blocks(path, 7, mono=True, sample_rate=RATE // 2)]
    np.testing.assert_allclose(np.concatenate(slow, axis=1), audio.read(path, mono=True, sample_rate=RATE // 2).samples, atol=1e-6)
