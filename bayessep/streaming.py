"""Separation of recordings too long to hold: bounded memory, no seams, the same models.

Three passes over the file. The first measures its level; the second, for methods whose templates move on the mixture, fits the
templates online, a minute at a time (`bayessep.inference.online`); the third separates each
minute with them held, together with a few seconds of context on both sides that are inferred too and thrown away, so that no
frame is estimated from a cut end. Spectra and waveforms pass through the block-wise transforms of `bayessep.stft`, so the joins
are exact.

Stems are written as 32-bit float: they cannot clip, so no common gain has to be known before the end.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Complex, Float

from bayessep import audio, preparation, separators
from bayessep.errors import UserError
from bayessep.inference import online
from bayessep.models import conditionals, jingle_mixture
from bayessep.preparation import Known
from bayessep.separators import Progress, Trained
from bayessep.settings import METHODS, Settings
from bayessep.stft import (
    Stft,
    frame_count,
    frame_times,
    istream_finish,
    istream_init,
    istream_push,
    stream_finish,
    stream_init,
    stream_push,
)
from bayessep.timeline import Segment, complete

BLOCK_SECONDS = 60.0
CONTEXT_SECONDS = 3.0
_MAX_SWEEPS = 30  # on a piece whose templates start from what others have taught them, or are held


class LongSeparation(NamedTuple):
    """What is known once the stems are on disk."""

    segments: list[Segment]
    times: Float[np.ndarray, " T"]
    p_music: Float[np.ndarray, " T"]
    trace: Float[np.ndarray, " blocks"]  # objective of each block when the templates were fitted
    seconds: float
    settings: Settings
    notes: tuple[str, ...]  # `limits`


class _Block(NamedTuple):
    """Frames `first` to `first + keep` of the recording, with `before` and up to as many frames of context around them."""

    spectrum: Complex[np.ndarray, "C T F"]
    before: int
    keep: int
    first: int


class _Survey(NamedTuple):
    """The first pass: what must be known of the whole file before any of it can be taken apart."""

    n_samples: int
    n_frames: int
    level: float  # mean magnitude of the modelled bins
    speech: Float[np.ndarray, "Ts F"]  # labelled stretches of the recording itself
    music: Float[np.ndarray, "Tm F"]


def limits(settings: Settings) -> tuple[str, ...]:
    """What a user of these settings may expect, and does not get in a recording that is worked on in pieces."""
    notes = []
    if settings.completes:  # its repeats may lie hours apart
        notes.append("the music of a recording worked on in pieces is taken as given: its other parts are not learned.")
    if settings.method == "svi":
        notes.append("in pieces, svi runs as variational, whose templates are then learned from a piece at a time.")
    return tuple(notes)


def separate_file(
    path: str | Path,
    known: Known,
    settings: Settings,
    speech_path: str | Path,
    music_path: str | Path,
    *,
    progress: Progress = separators.silent,
) -> LongSeparation:
    """Take a file of any length apart, writing both stems as they are made.

    `known` is as for `pipeline.separate`, at the file's own sample rate. What is done otherwise than there, `limits` says; the
    settings of the result are those it was done with.

    Raises:
        UserError: as `audio.read` and `pipeline.separate`; no stem is left half written.
    """
    started = time.perf_counter()
    notes = limits(settings)
    settings = dataclasses.replace(settings, complete=False)
    if settings.method == "svi":
        settings = dataclasses.replace(settings, method="variational", rule="exact")
    method = METHODS[settings.method]
    info = audio.probe(path)
    window = preparation.window_of(settings, info.sample_rate)
    n_bins = preparation.modelled_bins(window, info.sample_rate, min(settings.max_frequency, known.bandwidth))
    survey = _survey(path, info.sample_rate, known, window, n_bins)
    speech = np.concatenate([preparation.stack(known.speech, window, n_bins), survey.speech])
    music = np.concatenate([preparation.stack(known.music, window, n_bins), survey.music])
    preparation.require(music, "music")
    if survey.level <= 0:
        raise UserError(f"{path} is silent; there is nothing to separate.")
    scale = np.float32(settings.level / survey.level)
    speech, music = speech * scale, music[: settings.max_catalogue] * scale
    trained = separators.train(speech, settings, progress)

    times = frame_times(survey.n_frames, window, info.sample_rate)
    given = preparation.read_labels(known.labels, times, settings.p_music)
    job = _Job(path, info.sample_rate, window, n_bins, survey, scale, speech, music, given, settings, progress)
    trained, trace = _fit_templates(job, trained) if method.templates != "fixed" else (trained, np.zeros(0))

    p_music = np.empty(survey.n_frames, np.float32)
    labels: list[str] = []
    with (
        audio.Writer(speech_path, info.sample_rate, info.channels, "FLOAT") as speech_out,
        audio.Writer(music_path, info.sample_rate, info.channels, "FLOAT") as music_out,
    ):
        original = _Samples(path)
        state = istream_init(window, (info.channels,))
        for block, mask, p in _separated(job, trained):
            rows = slice(block.first, block.first + block.keep)
            spectrum = block.spectrum[:, block.before : block.before + block.keep]
            magnitudes = np.abs(spectrum).mean(0)
            p_music[rows] = p
            labels += preparation.label_frames(p, mask, magnitudes, info.sample_rate / window.hop)
            full = preparation.full_mask(mask, settings.mask_power, magnitudes, spectrum.shape[2])
            state, samples = istream_push(state, spectrum * full[None], window)
            _write(np.asarray(samples), original, speech_out, music_out)
        _write(np.asarray(istream_finish(state, window, survey.n_samples)), original, speech_out, music_out)
    segments = complete(known.labels or (), labels, times, survey.n_samples / info.sample_rate, min_duration=0.3)
    return LongSeparation(segments, times, p_music, trace, time.perf_counter() - started, settings, notes)


class _Job(NamedTuple):
    """Everything the later passes share."""

    path: str | Path
    sample_rate: int
    window: Stft
    n_bins: int
    survey: _Survey
    scale: np.float32
    speech: Float[np.ndarray, "Ts F"]
    music: Float[np.ndarray, "Tm F"]
    given: preparation.Given
    settings: Settings
    progress: Progress

    @property
    def frames_per_block(self) -> int:
        return max(1, round(BLOCK_SECONDS * self.sample_rate / self.window.hop))

    @property
    def context(self) -> int:
        return round(CONTEXT_SECONDS * self.sample_rate / self.window.hop)

    @property
    def n_blocks(self) -> int:
        return -(-self.survey.n_frames // self.frames_per_block)


# --- passes over the file ------------------------------------------------------------------------------------------


def _spectra(path: str | Path, window: Stft) -> Iterator[Complex[np.ndarray, "C T F"]]:
    """The spectrogram of a file, some frames at a time."""
    state = None
    for block in audio.blocks(path, 10.0):
        if state is None:
            state = stream_init(window, (block.samples.shape[0],))
        state, frames = stream_push(state, block.samples, window)
        yield np.asarray(frames)
    if state is not None:
        yield np.asarray(stream_finish(state, window))


def _survey(path: str | Path, sample_rate: int, known: Known, window: Stft, n_bins: int) -> _Survey:
    n_samples = sum(block.samples.shape[1] for block in audio.blocks(path, 10.0))
    times = frame_times(frame_count(n_samples, window), window, sample_rate)
    given = preparation.read_labels(known.labels, times, 0.5)
    total, n_target, first = 0.0, 0, 0
    none = np.zeros((0, n_bins), np.float32)
    speech: list[np.ndarray] = [none]
    music: list[np.ndarray] = [none]
    for frames in _spectra(path, window):
        mixed = np.abs(frames).mean(0)[:, :n_bins]
        here = preparation.Given(*(field[first : first + len(mixed)] for field in given))
        total += float(mixed[here.target].sum(dtype=np.float64))
        n_target += int(here.target.sum())
        speech.append(mixed[here.only_speech])
        music.append(mixed[here.only_music])
        first += len(mixed)
    level = total / max(n_target * n_bins, 1)
    loud = preparation.loud
    return _Survey(n_samples, first, level, loud(np.concatenate(speech)), loud(np.concatenate(music)))


def _blocks(job: _Job) -> Iterator[_Block]:
    """The spectrogram in blocks of equal shape: short ones at the ends are filled up with silence."""
    held, held_first = None, 0
    incoming = _spectra(job.path, job.window)
    for index in range(job.n_blocks):
        first = index * job.frames_per_block
        start, stop = first - job.context, first + job.frames_per_block + job.context
        while held is None or held_first + held.shape[1] < min(stop, job.survey.n_frames):
            more = next(incoming)
            held = more if held is None else np.concatenate([held, more], axis=1)
        if start > held_first:
            held, held_first = held[:, start - held_first :], start
        part = held[:, : stop - held_first]
        before = held_first - start
        after = (stop - start) - before - part.shape[1]
        keep = min(job.frames_per_block, job.survey.n_frames - first)
        yield _Block(np.pad(part, ((0, 0), (before, after), (0, 0))), job.context, keep, first)


def _problem(job: _Job, block: _Block, trained: Trained | None, settings: Settings) -> jingle_mixture.JingleMixture:
    """The block's frames as one problem; padding and frames settled by labels do not count."""
    n = block.spectrum.shape[1]
    frames = np.arange(block.first - block.before, block.first - block.before + n)
    inside = (frames >= 0) & (frames < job.survey.n_frames)
    frames = np.clip(frames, 0, job.survey.n_frames - 1)
    x = (np.abs(block.spectrum).mean(0)[:, : job.n_bins] * job.scale).astype(np.float32)
    speech = job.speech if METHODS[settings.method].stacked else job.speech[:0]
    spectra = preparation.Spectra(x, speech, job.music, job.given.p_music[frames])
    problem, _ = separators.build_problem(spectra, trained, settings)
    counts = (inside & job.given.target[frames]).astype(np.float32)
    if METHODS[settings.method].stacked:
        counts *= np.float32(settings.joint_weight)
    # A stacked method's speech is in every block, and every block stands for all of them: it must count once.
    weight = np.concatenate([np.full(len(speech), 1 / job.n_blocks, np.float32), counts])
    return dataclasses.replace(problem, frames=problem.frames._replace(weight=jax.numpy.asarray(weight)))


def _fit_templates(job: _Job, trained: Trained | None) -> tuple[Trained, Float[np.ndarray, " blocks"]]:
    """One pass of online inference over the file."""
    settings = job.settings
    readings = separators.readings_for(settings, has_latent=False)
    algorithm = online.online(conditionals, readings, shared=("templates",), sweeps=min(settings.sweeps, _MAX_SWEEPS))
    key = jax.random.key(settings.seed)
    state, prior, trace = None, None, []
    for index, block in enumerate(_blocks(job)):
        problem = _problem(job, block, trained, settings)
        start = Partial(jingle_mixture.Start(settings.bases), problem, trained and trained.templates)
        key, key_step, key_start = jax.random.split(key, 3)
        if state is None:
            # Without training, the first block's own fit is a far better start than chance.
            first = start(key_start) if trained else separators.fit_problem(problem, None, settings).blocks
            state, prior = algorithm.init(first), problem.hyper.prior
        # One prior for all blocks: what a block learned of its own would count as evidence, many times over.
        problem = dataclasses.replace(problem, hyper=problem.hyper._replace(prior=prior), learn=jingle_mixture.Learn())
        state, info = algorithm.step(key_step, state, problem, start, float(job.n_blocks))
        trace.append(float(info.objective))
        job.progress("templates", index + 1, job.n_blocks, trace[-1])
    if state is None or prior is None:
        raise UserError(f"{job.path} holds no frames.")
    prior = prior if trained is None else trained.prior
    return Trained(state.shared["templates"], prior), np.array(trace)


def _separated(job: _Job, trained: Trained | None) -> Iterator[tuple[_Block, np.ndarray, np.ndarray]]:
    """Each block with the mask and P(music) of the frames it keeps; templates are held."""
    settings = dataclasses.replace(job.settings, method="nmf", sweeps=min(job.settings.sweeps, _MAX_SWEEPS))
    for index, block in enumerate(_blocks(job)):
        problem = _problem(job, block, trained, settings)
        found = separators.sources_of(separators.fit_problem(problem, trained, settings))
        keep = slice(block.before, block.before + block.keep)
        rows = preparation.Given(*(field[block.first : block.first + block.keep] for field in job.given))
        mask, _, p_music = preparation.settled(rows, job.n_bins)
        x = np.asarray(problem.frames.x)[keep]
        mask = np.where(rows.target[:, None], preparation.speech_share(found.speech[keep], x), mask)
        yield block, mask, np.where(rows.target, found.p_music[keep], p_music)
        job.progress("separating", index + 1, job.n_blocks, float("nan"))


class _Samples:
    """The file's samples once more, as many at a time as asked for."""

    def __init__(self, path: str | Path) -> None:
        self._blocks = audio.blocks(path, 10.0)
        self._held: np.ndarray | None = None

    def take(self, n: int) -> Float[np.ndarray, "C n"]:
        while self._held is None or self._held.shape[1] < n:
            more = next(self._blocks).samples
            self._held = more if self._held is None else np.concatenate([self._held, more], axis=1)
        taken, self._held = self._held[:, :n], self._held[:, n:]
        return taken


def _write(speech: np.ndarray, original: _Samples, speech_out: audio.Writer, music_out: audio.Writer) -> None:
    if speech.shape[1]:
        speech_out.append(speech)
        music_out.append(original.take(speech.shape[1]) - speech)
