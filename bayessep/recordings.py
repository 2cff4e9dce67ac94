"""Read and check a user's files: the mixture, training material and labels, at one sample rate."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import audio, data, segments
from bayessep.audio import AudioInfo
from bayessep.errors import UserError
from bayessep.preparation import Known, window_of
from bayessep.settings import METHODS, Settings
from bayessep.stft import stft_for_rate
from bayessep.timeline import BOTH, MUSIC, SPEECH, UNLABELLED, Segment, fill_gaps, total

LONG_SECONDS = 600.0
"""Recordings longer than this are separated in blocks, in bounded memory (`bayessep.streaming`)."""
LONG_SAMPLES = round(LONG_SECONDS) * 48_000 * 2
"""So are recordings with more samples than this, all channels together, whatever their duration."""

Warn = Callable[[str], None]
Mono = Float[np.ndarray, " N"]


def is_long(info: AudioInfo) -> bool:
    """Return whether a recording should be separated in blocks."""
    return info.frames > LONG_SECONDS * info.sample_rate or info.frames * info.channels > LONG_SAMPLES


class Material(NamedTuple):
    """A user's material, read and checked, except the mixture, which is still on disk (`read_mixture`)."""

    path: Path  # of the mixture
    info: AudioInfo
    known: Known  # at the sample rate of the mixture
    files: dict[str, list[str]]  # the files that `known` was read from

    @property
    def seconds(self) -> float:
        """Duration of the mixture."""
        return self.info.frames / self.info.sample_rate

    @property
    def labels(self) -> list[Segment] | None:
        """The labels, truncated at the end of the mixture."""
        if self.known.labels is None:
            return None
        return [s._replace(end=min(s.end, self.seconds)) for s in self.known.labels]

    @property
    def inputs(self) -> list[str]:
        """All input files, including the labels."""
        return [str(self.path), *(name for names in self.files.values() for name in names)]

    @property
    def is_long(self) -> bool:
        """Whether the mixture should be separated in blocks."""
        return is_long(self.info)


def _needs_speech(method: str) -> bool:
    return method not in METHODS or METHODS[method].needs_speech


def _there(speech: Sequence[object], music: Sequence[object], labels: Sequence[Segment] | None) -> set[str]:
    """Which of speech and music have examples: files of their own, or labelled segments of the mixture."""
    return {what for what, own in ((SPEECH, speech), (MUSIC, music)) if own or total(labels or [], what)}


def enough(method: str, material: Material) -> bool:
    """Return whether the material contains the examples that a method needs to learn from."""
    there = _there(material.known.speech, material.known.music, material.known.labels)
    return there >= ({SPEECH, MUSIC} if _needs_speech(method) else {MUSIC})


def gather(
    mixture: Path,
    speech: Sequence[Path] = (),
    music: Sequence[Path] = (),
    labels: Path | None = None,
    *,
    methods: Iterable[str],
    warn: Warn,
) -> Material:
    """Read and check everything that is known of a mixture.

    Training speech and music are mixed down to one channel and resampled to the rate of the mixture. A folder stands for the
    audio files in it.

    Args:
        mixture: the recording to separate.
        speech, music: files or folders of examples.
        labels: a file of labelled segments of the mixture.
        methods: the methods to be run, which decide which examples are required; without methods, none are.
        warn: called with a message about input that may not be what the user meant.

    Raises:
        UserError: a file is missing, unreadable, not audio, silent or too short; or examples that a method needs are missing.
    """
    info = audio.probe(mixture)
    known_labels = None if labels is None else _read_labels(labels, info.frames / info.sample_rate, warn)
    methods, there = list(methods), _there(speech, music, known_labels)
    needing = [m for m in methods if _needs_speech(m)]
    if needing and SPEECH not in there:
        lacking = f"--speech FILES or --labels{_none_in(labels, 'speech')}; the method 'unsupervised' needs none"
        raise UserError(f"{needing[0]} needs examples of the speech in {mixture}: give {lacking}.")
    if methods and MUSIC not in there:
        lacking = f"--music FILES or --labels{_none_in(labels, 'music')}"
        raise UserError(f"examples of the music in {mixture} are needed: give {lacking}.")
    speech_files, music_files = _files(speech), _files(music)
    rate = info.sample_rate
    known = Known(
        _examples(speech_files, rate, "speech", warn),
        _examples(music_files, rate, "music", warn),
        known_labels,
        min(audio.probe(path).sample_rate for path in (mixture, *speech_files, *music_files)) / 2,
    )
    files = {"speech": _names(speech_files), "music": _names(music_files), "labels": _names([labels] if labels else [])}
    return Material(mixture, info, known, files)


def warn_of_long_music(material: Material, settings: Settings, warn: Warn) -> None:
    """Warn if more music is known than the catalogue can hold."""
    rate = material.info.sample_rate
    known = sum(len(m) for m in material.known.music) / rate + total(material.labels or [], MUSIC)
    held = settings.max_catalogue * window_of(settings, rate).hop / rate
    if known > 1.05 * held:  # a margin for edge frames and silent frames
        warn(f"{known:.1f} s of music are known, but only the first {held:.1f} s are used; --max-catalogue N allows more.")


def read_mixture(material: Material) -> Float[np.ndarray, "C N"]:
    """Read the waveform to separate, with all its channels.

    Raises:
        UserError: it cannot be read to its end, contains NaN, or is silent.
    """
    samples = audio.read(material.path).samples
    if not samples.any():
        raise UserError(f"{material.path} is silent: there is nothing to separate; give a recording with sound in it.")
    return samples


def read_reference(path: Path, material: Material) -> Mono:
    """Read a true stem of the mixture, mixed down to one channel.

    Raises:
        UserError: it differs from the mixture in length or sample rate, is silent, or cannot be read.
    """
    info = audio.probe(path)
    _require_alike(path, info, material.path, material.info)
    return read_mono(path)


def read_pairs(references: Sequence[Path], estimates: Sequence[Path], note: Warn) -> tuple[np.ndarray, np.ndarray, int]:
    """Read true and estimated sources, (S, N) each, mixed down to one channel; return them with their sample rate.

    Raises:
        UserError: their numbers differ, or one differs in length or sample rate, is silent, or cannot be read.
    """
    check_pairs(references, estimates)
    first = audio.probe(references[0])
    for path in (*references, *estimates):
        info = audio.probe(path)
        _require_alike(path, info, references[0], first)
        if info.channels > 1:
            note(f"{path}: its {info.channels} channels are mixed down to one.")
    true, estimated = (np.stack([read_mono(path) for path in paths]) for paths in (references, estimates))
    return true, estimated, first.sample_rate


def check_pairs(references: Sequence[Path], estimates: Sequence[Path]) -> None:
    """Check that there are as many estimates as references.

    Raises:
        UserError: their numbers differ.
    """
    if len(references) != len(estimates):
        counts = f"{len(references)} references and {len(estimates)} estimates"
        raise UserError(f"{counts} are given: name one --estimate for each --reference, in the same order.")


def read_mono(path: Path, sample_rate: int | None = None) -> Mono:
    """Read a file, mixed down to one channel.

    Raises:
        UserError: it is silent or cannot be read.
    """
    samples = audio.read(path, mono=True, sample_rate=sample_rate).samples[0]
    if not samples.any():
        raise UserError(f"{path} is silent: give a file with sound in it.")
    return samples


def _require_alike(path: Path, info: AudioInfo, other: Path, expected: AudioInfo) -> None:
    if info.sample_rate != expected.sample_rate:
        rates = f"{path} has {info.sample_rate} Hz and {other} has {expected.sample_rate} Hz"
        raise UserError(f"{rates}: resample one of them, so that they agree.")
    if info.frames != expected.frames:
        lengths = f"{path} has {info.frames} samples and {other} has {expected.frames}"
        raise UserError(f"{lengths}: cut them to the same length.")


def _read_labels(path: Path, duration: float, warn: Warn) -> list[Segment]:
    """Read the labels of the recording; one that reaches its end is extended by a second, as the last frame is centred on the end.

    Raises:
        UserError: none of them lies within the recording, or they leave nothing to separate.
    """
    read = segments.read(path)
    inside = [s for s in read if s.start < duration - 1e-3] or [s for s in read if s.start < duration]
    labels = [s._replace(end=s.end if s.end < duration - 1e-3 else duration + 1.0) for s in inside]
    if not labels:
        raise UserError(f"{path}: none of its labels lies within the {duration:.2f} s of the recording; give labels of it.")
    if not {BOTH, UNLABELLED} & {s.label for s in fill_gaps(labels, duration)}:
        alone = f"{path} labels all of the recording as speech or music alone"
        raise UserError(f"{alone}: nothing is left to separate; leave mixed stretches unlabelled, or label them {BOTH!r}.")
    last = max(s.end for s in read)
    if last > duration + 0.05:  # a rounded time is no reason for a warning
        warn(f"{path} has labels up to {last:.2f} s, but the recording ends at {duration:.2f} s; what lies beyond is ignored.")
    return labels


def _none_in(labels: Path | None, what: str) -> str:
    """Words that continue "--labels" in an error message, depending on whether labels were given."""
    return f" with a stretch of {what} alone" + ("" if labels is None else f" ({labels} has none)")


def _files(paths: Sequence[Path]) -> list[Path]:
    """List the files, replacing each folder by the audio files in it."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += [r.path for r in data.read_folder(path)] if os.path.isdir(path) else [path]
    return found


def _examples(paths: Sequence[Path], sample_rate: int, what: str, warn: Warn) -> list[Mono]:
    """Read training material, leaving out silent files with a warning; a UserError if all are silent or one is too short."""
    shortest = stft_for_rate(sample_rate).n_fft / sample_rate
    examples, silent = [], []
    for path in paths:
        samples = audio.read(path, mono=True, sample_rate=sample_rate).samples[0]
        if len(samples) < shortest * sample_rate:
            given = f"{len(samples) / sample_rate:.3g} s"
            raise UserError(f"{path} is too short as an example of {what}: it lasts {given}; give at least a second or so.")
        (examples if samples.any() else silent).append(samples if samples.any() else path)
    if silent and not examples:
        raise UserError(f"{silent[0]} is silent: give an example that contains {what}.")
    for path in silent:
        warn(f"{path} is silent and is left out.")
    return examples


def _names(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]
