"""Audio files: the only module that reads or writes them.

Formats that libsndfile knows (wav, flac, ogg, mp3, aiff …) are recognised by content, not by extension. Other
containers (mp4, m4a, mkv, webm …) are read through PyAV if that extra is installed. Samples are float32 arrays
(channels, N) with full scale 1.

Every problem with a file is a `UserError` that names it. A truncated wav, aiff or ogg file is read as far as it
goes (interrupted recorders leave such files). A file is refused if its samples end, or cannot be decoded, well
before the length in its header (flac, mp3), or if it continues beyond that (joined mp3 files, chained ogg
streams).
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Array, Float

from bayessep import joined
from bayessep.downmix import mixed_down, standing_for_all
from bayessep.errors import UserError
from bayessep.resampling import resample, resampled

AnyPath = str | os.PathLike[str]
Samples = Float[np.ndarray, "channels N"]
AnySamples = Float[Array | np.ndarray, "channels N"] | Float[Array | np.ndarray, " N"]

# Headers of compressed files may be off by some frames of the codec; files that miss more than this are truncated.
_HEADER_TOLERANCE_SECONDS = 0.1
_LARGEST = 1e10  # largest sample; full scale is 1, but floats on an integer scale still have finite energies
_PIECE_SECONDS = 10  # length of the pieces that are checked for channels that cancel


class AudioInfo(NamedTuple):
    """Properties of an audio file."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples per channel
    subtype: str  # how samples are stored, such as PCM_16
    format: str  # the container, such as WAV


class Audio(NamedTuple):
    """Sound in memory."""

    samples: Float[np.ndarray, "channels N"]  # float32, full scale is 1
    sample_rate: int  # Hz


# --- reading ------------------------------------------------------------------------------------------------


def probe(path: AnyPath) -> AudioInfo:
    """Read the properties of a file from its header. (Files that only PyAV reads are decoded once, to count samples.)

    Raises:
        UserError: the file is missing, unreadable or not audio.
    """
    with _open(path) as source:
        return source.info()


def read(
    path: AnyPath,
    *,
    sample_rate: int | None = None,
    mono: bool = False,
    start: float | int = 0.0,
    stop: float | int | None = None,
    track: int = 0,
) -> Audio:
    """Read the samples of a file, or of a part of it.

    Args:
        path: the file; its format is recognised by content, not by name.
        sample_rate: resample to this rate (Hz); None keeps that of the file.
        mono: mix down to the mean of the channels, or to the loudest where they cancel each other (`bayessep.downmix`).
        start: beginning of the part, in seconds.
        stop: end of the part, in seconds; None, or a time after the end, for the end of the file.
        track: index of the audio track of a container; stem files have several.

    Raises:
        UserError: the file is missing, unreadable, not audio, has no such track, is truncated or empty, or has samples that are
            NaN, infinite or implausibly large; or the requested part is not in it.
    """
    with _open(path, track) as source:
        rate = source.sample_rate
        if not 0 <= start or (stop is not None and stop <= start):
            raise UserError(f"{path}: cannot read from {start} s to {stop} s; give 0 <= start < stop.")
        first = round(start * rate)
        end = None if stop is None else max(round(stop * rate), first + 1)
        pieces = list(_checked(source.pieces(first, end, None), path, rate, first))
        if not pieces:
            raise UserError(f"{path} ends before {start} s; ask for an earlier part of it.")
    samples = np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]
    if mono:
        samples = mixed_down(samples, standing_for_all(_regrouped([samples], _PIECE_SECONDS * rate)))
    if sample_rate is not None:
        samples = resample(samples, rate, sample_rate)
    return Audio(np.ascontiguousarray(samples), sample_rate or rate)


def blocks(
    path: AnyPath, block_seconds: float | int, *, sample_rate: int | None = None, mono: bool = False
) -> Iterator[Audio]:
    """Yield the samples of a file in blocks of equal length (the last may be shorter), in bounded memory.

    The concatenated blocks equal the result of `read`, also when they are resampled.

    Raises:
        UserError: as `read`, when the first or the offending block is requested.
    """
    channel = _standing_for_all(path) if mono else None
    with _open(path) as source:
        rate = source.sample_rate
        pieces = _checked(source.pieces(0, None, max(1, round(block_seconds * rate))), path, rate)
        if mono:
            pieces = (mixed_down(piece, channel) for piece in pieces)
        if sample_rate is not None and sample_rate != rate:
            pieces, rate = resampled(pieces, rate, sample_rate), sample_rate
        for block in _regrouped(pieces, max(1, round(block_seconds * rate))):
            yield Audio(block, rate)


def _standing_for_all(path: AnyPath) -> int | None:
    """Apply `downmix.standing_for_all` to a file; usually its beginning is enough."""
    with _open(path) as source:
        if source.channels == 1:
            return None
        size = _PIECE_SECONDS * source.sample_rate
        pieces = _checked(source.pieces(0, None, size), path, source.sample_rate)
        return standing_for_all(_regrouped(pieces, size))


def _checked(pieces: Iterable[Samples], path: AnyPath, rate: int, first: int = 0) -> Iterator[Samples]:
    """Pass the pieces on; raise an error at the first NaN, infinite or implausibly large sample, or if there are no samples."""
    position = first
    for piece in pieces:
        sound = np.abs(piece) <= _LARGEST  # false for NaN
        if not sound.all():
            bad = position + int(np.argmin(sound.all(axis=0)))
            value = np.abs(piece[:, bad - position]).max()
            what = f"a sample of {value:.0e} times full scale" if np.isfinite(value) else "a NaN or infinite sample"
            raise UserError(f"{path} holds {what} at {bad / rate:.3f} s (sample {bad}); export it again.")
        position += piece.shape[1]
        yield piece
    if position == 0:
        raise UserError(f"{path} holds no samples; record or export it again.")


def _regrouped(pieces: Iterable[Samples], size: int) -> Iterator[Samples]:
    """Regroup samples into pieces of ``size``; the last may be shorter."""
    waiting: list[Samples] = []
    n_waiting = 0
    for piece in pieces:
        waiting.append(piece)
        n_waiting += piece.shape[1]
        if n_waiting >= size:
            joined = np.concatenate(waiting, axis=1)
            whole = n_waiting - n_waiting % size
            yield from np.split(joined[:, :whole], whole // size, axis=1)
            waiting, n_waiting = [joined[:, whole:]], n_waiting - whole
    if n_waiting:
        yield np.concatenate(waiting, axis=1)


# --- decoders -----------------------------------------------------------------------------------------------


@contextmanager
def _open(path: AnyPath, track: int = 0) -> Iterator[_SoundFile | _Container]:
    """Open a file with libsndfile, or else with PyAV."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # files are read more than once
            raise UserError(f"{path} is a pipe or a device; save its sound to a file first, and give that file.")
        # Python opens the file and passes the descriptor to libsndfile: that gives exact errors, and keeps
        # libsndfile from judging a file by its extension.
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{path} is an empty file; record or export it again.")
            try:
                sound = soundfile.SoundFile(file.fileno(), closefd=False)
            except soundfile.LibsndfileError:
                sound = None
            if sound is not None:
                if track:
                    raise UserError(f"{path} has one sound track, not {track + 1}.")
                with sound:
                    if problem := joined.promises_wrongly(sound.format, sound.subtype, sound.frames, sound.samplerate, file):
                        raise UserError(f"{path} {problem}; convert it first, for example with ffmpeg -i {path} whole.flac.")
                    yield _SoundFile(sound, path)
                return
    except OSError as error:
        raise UserError(f"cannot read {path}: {_reason(error)}.") from error
    with _open_container(path, track) as source:
        yield source


class _SoundFile:
    """A file that libsndfile reads. (`_Container` has the same attributes and methods.)"""

    def __init__(self, sound: soundfile.SoundFile, path: AnyPath) -> None:
        self._sound, self._path = sound, path
        self.sample_rate, self.channels = sound.samplerate, sound.channels

    def info(self) -> AudioInfo:
        sound = self._sound
        return AudioInfo(sound.samplerate, sound.channels, sound.frames, sound.subtype, sound.format)

    def pieces(self, first: int, end: int | None, size: int | None) -> Iterator[Samples]:
        """Yield samples first … end-1 (None: to the end) in pieces of ``size`` (None: in one)."""
        sound = self._sound
        promised = sound.frames if end is None else min(end, sound.frames)
        position, end_of_file = first, False
        try:
            if 0 < first < promised:
                sound.seek(first)
            while position < promised and not end_of_file:
                wanted = promised - position if size is None else min(size, promised - position)
                piece = sound.read(wanted, dtype="float32", always_2d=True).T
                end_of_file = piece.shape[1] < wanted
                position += piece.shape[1]
                if piece.shape[1]:
                    yield piece
        except soundfile.LibsndfileError:
            end_of_file = True
        if end_of_file and promised - position > _HEADER_TOLERANCE_SECONDS * self.sample_rate:
            length = f"{sound.frames / self.sample_rate:.1f} s"
            raise UserError(f"{self._path} is cut off or damaged before its {length} are over; download or export it again.")


@contextmanager
def _open_container(path: AnyPath, track: int) -> Iterator[_SoundFile | _Container]:
    """Open a file with PyAV that libsndfile does not know."""
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{path} is not audio in a known format (wav, flac, ogg, mp3, aiff …); if it is a container "
            "such as mp4, m4a, mkv or webm, install bayessep[containers]."
        ) from None
    try:
        with av.open(os.path.abspath(path)) as container:  # a relative name with a colon would be taken for a URL
            if not container.streams.audio:
                raise UserError(f"{path} has no sound track; give a file that has one.")
            if track >= len(container.streams.audio):
                raise UserError(f"{path} has {len(container.streams.audio)} sound tracks, not {track + 1}.")
            yield _Container(container, av.AudioResampler, track)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not audio in a known format, or is damaged: {_reason(error)}.") from error


class _Container:
    """One audio track of a file that PyAV reads."""

    def __init__(self, container: Any, resampler: Any, track: int) -> None:
        self._container, self._resampler = container, resampler
        self._stream = container.streams.audio[track]
        self.sample_rate, self.channels = int(self._stream.rate), int(self._stream.channels)

    def info(self) -> AudioInfo:
        frames = sum(piece.shape[1] for piece in self.pieces(0, None, None))
        codec, names = self._stream.codec_context.name, self._container.format.name
        name = names.split(",")[0]
        return AudioInfo(self.sample_rate, self.channels, frames, codec.upper(), name.upper())

    def pieces(self, first: int, end: int | None, size: int | None) -> Iterator[Samples]:
        """Yield samples first … end-1 (None: to the end) in the codec's small frames; ``size`` is ignored."""
        del size
        position = 0
        for piece in self._decoded():
            begin, stop = max(0, first - position), piece.shape[1] if end is None else end - position
            position += piece.shape[1]
            if piece[:, begin:stop].size:
                yield piece[:, begin:stop]
            if end is not None and position >= end:
                return

    def _decoded(self) -> Iterator[Samples]:
        to_float = self._resampler(format="fltp", layout=self._stream.layout, rate=self.sample_rate)
        for frame in self._container.decode(self._stream):
            yield from (part.to_ndarray() for part in to_float.resample(frame))
        yield from (part.to_ndarray() for part in to_float.resample(None))


def _reason(error: Exception) -> str:
    """Return the reason of an error, without the path, which the message around it names."""
    return (getattr(error, "strerror", None) or str(error)).rstrip(".").lower()


# --- level -------------------------------------------------------------------------------------------------


def common_gain(*stems: Float[Array | np.ndarray, "..."], ceiling: float = 0.999) -> float:
    """Return the common gain that keeps stems and their mixture from clipping: 1 unless one exceeds full scale."""
    peak = max((float(np.abs(np.asarray(stem)).max(initial=0.0)) for stem in stems), default=0.0)
    return ceiling / peak if peak > 1 else 1.0


# --- writing ------------------------------------------------------------------------------------------------

_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
_WAV_BYTES = 2**32 - 2**16  # capacity of a wav file, whose sizes have 32 bits; leaves room for its header
_SAMPLE_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}


class Writer:
    """Context manager that writes a file block by block; the file appears, complete, when the block ends without an error.

    Until then samples go to a temporary file in the same folder (which is created if needed). After an exception or
    an interruption that file is removed, and an earlier file of the same name is untouched. The same samples give
    the same bytes, except in ogg files, to which libsndfile adds a random serial number.

    Args:
        path: ends in .wav, .flac or .ogg.
        sample_rate: Hz.
        channels: number of channels.
        subtype: sample format, such as PCM_16, PCM_24 or FLOAT; ogg is always Vorbis. Integer formats clip at full
            scale (see `common_gain`).
        frames: expected number of samples per channel. A wav file holds at most 4 GiB: a longer one becomes RF64, an extension
            of wav with 64-bit sizes, which most programs that read wav can read.

    Raises:
        UserError: the extension or the subtype is not supported; or the file cannot be written.
    """

    def __init__(
        self, path: AnyPath, sample_rate: int, channels: int, subtype: str = "PCM_24", frames: int | None = None
    ) -> None:
        self.path = Path(path)
        self.frames = 0  # written so far
        self._rate, self._channels = sample_rate, channels
        self._format = _FORMATS.get(self.path.suffix.lower(), "")
        if not self._format:
            raise UserError(f"cannot write {path}: its name must end in one of {', '.join(_FORMATS)}.")
        self._subtype = "VORBIS" if self._format == "OGG" else subtype.upper()
        if not soundfile.check_format(self._format, self._subtype):
            raise UserError(f"cannot write {path}: {self._format} has no subtype {subtype}; use PCM_24.")
        self._most = _WAV_BYTES // (channels * _SAMPLE_BYTES.get(self._subtype, 8)) if self._format == "WAV" else None
        if self._most is not None and frames is not None and frames > self._most:
            self._format, self._most = "RF64", None
        self._temporary = self.path.parent / f".{uuid.uuid4().hex[:12]}.part"
        self._sound: soundfile.SoundFile | None = None

    def __enter__(self) -> Writer:
        with self._failing_cleanly():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise UserError(f"cannot write {self.path}: it is a folder; give the name of a file.")
            self._temporary.touch(exist_ok=False)  # Python's errors are clearer than libsndfile's
            name, shape = _encoded(self._temporary), (self._rate, self._channels)
            self._sound = soundfile.SoundFile(name, "w", *shape, self._subtype, None, self._format)
        return self

    def append(self, samples: AnySamples) -> None:
        """Write the next samples: (channels, N), or (N,) for one channel.

        Raises:
            UserError: a sample is NaN or infinite; or the file cannot be written, or becomes too long for a wav file.
        """
        if self._sound is None:
            raise RuntimeError("append belongs inside the with block of a Writer")
        block = np.atleast_2d(np.asarray(samples))
        if len(block) != self._channels:
            raise ValueError(f"{len(block)} channels given for {self.path}, which has {self._channels}")
        if not np.isfinite(block).all():
            bad = self.frames + int(np.argmin(np.isfinite(block).all(axis=0)))
            where = f"sample {bad} ({bad / self._rate:.3f} s)"
            raise UserError(f"cannot write {self.path}: its {where} is NaN or infinite.")
        with self._failing_cleanly():
            if self._most is not None and self.frames + block.shape[1] > self._most:
                raise UserError(f"cannot write {self.path}: a wav file holds no more than 4 GiB; write it as flac.")
            for first in range(0, block.shape[1], 2**16):  # libsndfile crashes on longer blocks of ogg
                self._sound.write(block[:, first : first + 2**16].T)
        self.frames += block.shape[1]

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            self._discard()
            return
        with self._failing_cleanly():
            self._close()
            # A full disk can go unnoticed until the last bytes: compare the file with what was written.
            if lost := self.frames - soundfile.info(_encoded(self._temporary)).frames:
                raise UserError(f"cannot write {self.path}: {lost} samples were lost; is the disk full?")
            os.replace(self._temporary, self.path)

    def _close(self) -> None:
        sound, self._sound = self._sound, None
        if sound is not None:
            sound.close()
            if self._format == "WAV":
                _clear_time_of_writing(self._temporary)

    def _discard(self) -> None:
        with suppress(OSError, soundfile.SoundFileError):
            self._close()
        with suppress(OSError):
            self._temporary.unlink()

    @contextmanager
    def _failing_cleanly(self) -> Iterator[None]:
        """Remove the temporary file after an error, and raise a `UserError` that says what went wrong."""
        try:
            yield
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise UserError(f"cannot write {self.path}: {_reason(error)}.") from error
            if isinstance(error, soundfile.SoundFileError):
                reason = getattr(error, "error_string", str(error)).rstrip(".")
                raise UserError(f"cannot write {self.path}: {reason}; is the disk full?") from error
            raise


def _encoded(path: Path) -> Any:
    """Encode a path for soundfile, which accepts bytes for names that are not UTF-8, although its type hints do not say so."""
    return os.fsencode(path)


def _clear_time_of_writing(path: Path) -> None:
    """Zero the time stamp that libsndfile puts into the PEAK chunk of float wav files, so that files are reproducible."""
    with path.open("r+b") as file:
        at = file.read(256).find(b"PEAK")
        if at >= 0:
            file.seek(at + 12)  # after the name, the size and the version of the chunk
            file.write(bytes(4))


def write(path: AnyPath, samples: AnySamples, sample_rate: int, subtype: str = "PCM_24") -> None:
    """Write a complete file, or none; see `Writer`. Samples are (channels, N), or (N,) for one channel.

    Raises:
        UserError: a sample is NaN or infinite, the extension is not .wav, .flac or .ogg, or the file cannot be
            written.
    """
    channels = samples.shape[0] if samples.ndim > 1 else 1
    with Writer(path, sample_rate, channels, subtype, samples.shape[-1]) as writer:
        writer.append(samples)
