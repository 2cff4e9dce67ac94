"""Detect files with more sound than their header declares: concatenated MP3 files, chained Ogg streams, FLAC from a pipe.

libsndfile reads up to the length in the first header, and treats that as the end. So the codec's frames are counted here by their
headers; nothing is decoded.
"""

from __future__ import annotations

import mmap
import os
from typing import BinaryIO, NamedTuple

# Bit rates of layer III in kbit/s (ISO 11172-3 and 13818-3): MPEG 1; MPEG 2 and 2.5. The first entry means free format, the last
# is invalid.
_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Sample rates in Hz by the version bits: MPEG 1, 2 and 2.5."""

Content = bytes | mmap.mmap


class _Frame(NamedTuple):
    kind: tuple[int, int]  # version and sample rate, which are constant in a stream
    bytes: int
    samples: int


def _frame(head: bytes) -> _Frame | None:
    """Parse four bytes as the header of a layer III frame; return None if they are not one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, rate = head[1] >> 3 & 3, head[2] >> 2 & 3
    kbit = _RATES[version != 3][head[2] >> 4]
    if version not in _SAMPLE_RATES or rate == 3 or not kbit:
        return None
    samples = 1152 if version == 3 else 576
    hertz = _SAMPLE_RATES[version][rate]
    return _Frame((version, hertz), samples // 8 * 1000 * kbit // hertz + (head[2] >> 1 & 1), samples)


class Counted(NamedTuple):
    """Totals over the frames of an MP3 file."""

    samples: int  # in all frames
    frame: int  # samples in one frame
    least: int  # bytes of the smallest frame
    most: int  # bytes of the largest frame

    @property
    def explained(self) -> int:
        """Number of samples by which the declared length may fall short for legitimate reasons.

        Headers exclude the encoder's delay and padding, up to 4095 samples each, and the header's own frame. Without a header, the
        length is estimated from the first frame, and frames of a constant bit rate differ by a byte.
        """
        of_a_byte = self.samples // self.least if self.least and self.most - self.least <= 1 else 0
        return 2 * 4095 + 2 * self.frame + of_a_byte


def mpeg_samples(content: Content) -> Counted:
    """Count the frames of an MP3 file; data between frames, such as tags, is skipped.

    A frame header only counts if another or a tag follows its frame, or the end of the file: pictures and sound may contain the
    same bytes.
    """
    at, total, first, least, most = 0, 0, None, 0, 0
    while at + 4 <= len(content):
        here = _frame(content[at : at + 4])
        if here is not None and (first is None or here.kind == first.kind):
            end = at + here.bytes
            following = _frame(content[end : end + 4])
            over = end == len(content) or content[end : end + 3] in (b"ID3", b"TAG", b"APE")
            if over or (following is not None and following.kind == here.kind):
                first, total, at = first or here, total + here.samples, end
                least, most = min(least or here.bytes, here.bytes), max(most, here.bytes)
                continue
        if content[at : at + 3] == b"ID3" and at + 10 <= len(content):
            a, b, c, d = content[at + 6 : at + 10]  # seven bits each
            at += 10 + (a << 21 | b << 14 | c << 7 | d)
            continue
        at = content.find(b"\xff", at + 1)
        if at < 0:
            break
    return Counted(total, first.samples if first else 0, least, most)


def is_chained(content: Content) -> bool:
    """Return whether an Ogg stream begins after later pages of another: chained rather than multiplexed."""
    at, going_on = 0, False
    while content[at : at + 4] == b"OggS" and at + 27 <= len(content):
        begins, segments = content[at + 5] & 2, content[at + 26]
        if begins and going_on:
            return True
        going_on = going_on or not begins
        at += 27 + segments + sum(content[at + 27 : at + 27 + segments])
    return False


def promises_wrongly(container: str, subtype: str, frames: int, sample_rate: int, file: BinaryIO) -> str:
    """Describe what is wrong with the length in the header of a file; "" if it is right.

    Args:
        container: the format in libsndfile's terms, such as MP3.
        subtype: the subtype in libsndfile's terms, such as MPEG_LAYER_III.
        frames: samples per channel according to libsndfile.
        sample_rate: Hz.
        file: the open file, at any position.
    """
    if frames >= _UNKNOWN:
        return "does not say how long it is (it was written to a pipe)"
    if container not in ("MP3", "OGG"):
        return ""
    state = os.fstat(file.fileno())
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if key not in _looked_at:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _looked_at[key] = _held_beyond(container, subtype, frames, sample_rate, content)
        if len(_looked_at) > 1000:
            del _looked_at[next(iter(_looked_at))]
    return _looked_at[key]


_UNKNOWN = 2**62
_looked_at: dict[tuple[int, ...], str] = {}  # a cache: files are opened several times, and counting long ones takes time


def _held_beyond(container: str, subtype: str, frames: int, sample_rate: int, content: Content) -> str:
    if container == "OGG":
        return "is several streams in a chain, of which only the first would be read" if is_chained(content) else ""
    found = mpeg_samples(content) if subtype == "MPEG_LAYER_III" else Counted(0, 0, 0, 0)
    if found.samples - frames <= found.explained:
        return ""
    there, promised = (f"{samples / sample_rate:.1f} s" for samples in (found.samples, frames))
    return f"holds {there} of sound, and its beginning promises {promised}, so that the rest would be lost"
