"""Separation of recordings too long for memory: bounded memory, no audible seams, the same models.

There are three passes over the file. The first, `survey`, counts the samples (reading the file once for that alone), then measures
the level of the frames to infer and collects the labelled frames to train on. The second, for methods whose templates adapt to the
mixture, fits the templates online, a block of a minute at a time (`bayessep.inference.online`). The third separates each block with
the templates fixed; a few seconds of context on both sides are inferred as well and discarded, so that no kept frame lies at a cut.
Spectra and waveforms pass through the block-wise transforms of `bayessep.stft`, so the joins are exact.

Stems are written as 32-bit float: they cannot clip, so no common gain has to be known before the end.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Bool, Complex, Float

from bayessep import audio, preparation, separators
from bayessep.errors import UserError
from bayessep.inference import online
from bayessep.models import conditionals, jingle_mixture
from bayessep.pipeline import mask_std, relative_spread
from bayessep.preparation import Known, Lessons
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
from bayessep.timeline import Segment, complete, runs

BLOCK_SECONDS = 60.0
BLOCK_SAMPLES = 2**24  # most samples of a block, all channels together; blocks are shorter than `BLOCK_SECONDS` if need be
CONTEXT_SECONDS = 3.0
_MAX_SWEEPS = 30  # per block: its templates start from those of earlier blocks, or are fixed


class LongSeparation(NamedTuple):
    """Results of a separation whose stems are on disk."""

    segments: list[Segment]
    times: Float[np.ndarray, " T"]
    p_music: Float[np.ndarray, " T"]
    uncertainty: dict[str, Float[np.ndarray, " T"]]  # as `pipeline.Separation.uncertainty`
    trace: Float[np.ndarray, " blocks"]  # objective of each block when the templates were fitted
    seconds: float
    settings: Settings
    notes: tuple[str, ...]  # for the user: `limits`, and a cap on the training frames


class _Block(NamedTuple):
    """Frames `first` to `first + keep` of the recording, preceded by `before` frames of context and followed by about as many."""

    spectrum: Complex[np.ndarray, "C T F"]
    before: int
    keep: int
    first: int


class Survey(NamedTuple):
    """Result of the first pass: properties of the whole file that are needed before any of it can be separated."""

    lessons: Lessons
    n_samples: int
    n_frames: int
    level: float  # mean magnitude of the modelled bins in the frames to infer
    silent: bool  # whether the whole recording is silent
    speech: Float[np.ndarray, "Ts F"]  # training frames from the recording itself
    music: Float[np.ndarray, "Tm F"]  # the same of music
    target: Float[np.ndarray, "T F"]  # a minute of the frames to infer, spread over the whole recording

    def stretches(self) -> list[Float[np.ndarray, "_ F"]]:
        """Split the music into its contiguous stretches."""
        ends = np.cumsum([b - a for a, b in runs(self.lessons.music)])
        return np.split(self.music, ends[ends < len(self.music)])


def limits(settings: Settings) -> tuple[str, ...]:
    """Return notes on what these settings promise but separation in blocks does not deliver."""
    notes = []
    if settings.completes:  # its repeats may lie hours apart
        notes.append("in blocks, only the music that was given is known: its other parts are not learned.")
    if settings.method == "svi":
        notes.append("in blocks, svi runs as variational, whose templates are then learned from one block at a time.")
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
    """Separate a file of any length, writing both stems block by block.

    `known` is as for `pipeline.separate`, at the file's own sample rate. `limits` lists the differences from it; the settings of
    the result are those that were actually used.

    Raises:
        UserError: as `audio.read` and `pipeline.separate`; no stem is left half written.
    """
    started = time.perf_counter()
    notes = limits(settings)
    settings = dataclasses.replace(settings, complete=False)
    if settings.method == "svi":
        settings = dataclasses.replace(settings, method="variational", rule="exact")
    info = audio.probe(path)
    window = preparation.window_of(settings, info.sample_rate)
    n_bins = preparation.modelled_bins(window, info.sample_rate, min(settings.max_frequency, known.bandwidth))

    found, speech, parts = material(path, info.sample_rate, known, window, n_bins, settings.p_music)
    music, stretches = preparation.joined(parts, n_bins)
    preparation.require(music, "music")
    if max(len(found.speech), len(found.music)) >= _most(info.sample_rate, window):
        notes += (f"only the first {MOST_SECONDS / 60:g} minutes of labelled speech or music are learned from.",)
    if found.level <= 0:
        raise UserError(f"{'' if found.silent else 'the unlabelled part of '}{path} is silent; there is nothing to separate.")
    scale = np.float32(settings.level / found.level)
    speech, music = speech * scale, music[: settings.max_catalogue] * scale
    trained = separators.train(speech, settings, progress)
    job = Job(path, info.sample_rate, info.channels, window, n_bins, found, scale, speech, music, settings, progress, stretches)
    done = take_apart(job, trained, known.labels or (), speech_path, music_path)
    return done._replace(seconds=time.perf_counter() - started, notes=notes)


def take_apart(
    job: "Job", trained: Trained | None, given: Sequence[Segment], speech_path: str | Path, music_path: str | Path
) -> LongSeparation:
    """Run the second and third pass; given labels are kept, and the model labels the rest."""
    started = time.perf_counter()
    settings, window, rate = job.settings, job.window, job.sample_rate
    trace = np.zeros(0)
    if METHODS[settings.method].templates != "fixed":
        trained, trace = _fit_templates(job, trained)
    p_music = np.empty(job.survey.n_frames, np.float32)
    spread = {stem: np.empty(job.survey.n_frames, np.float32) for stem in ("speech", "music")}
    labels: list[str] = []
    with (
        audio.Writer(speech_path, rate, job.channels, "FLOAT", job.survey.n_samples) as speech_out,
        audio.Writer(music_path, rate, job.channels, "FLOAT", job.survey.n_samples) as music_out,
    ):
        original = Held(block.samples for block in audio.blocks(job.path, 10.0))
        state = istream_init(window, (job.channels,))
        for block, mask, own, p in _separated(job, trained):
            rows = slice(block.first, block.first + block.keep)
            spectrum = block.spectrum[:, block.before : block.before + block.keep]
            magnitudes = np.abs(spectrum).mean(0)
            p_music[rows] = p
            for stem, values in _uncertainty(job, mask, own, magnitudes, rows).items():
                spread[stem][rows] = values
            labels += preparation.label_frames(p, mask, magnitudes, rate / window.hop)
            full = preparation.full_mask(mask, settings.mask_power, magnitudes, spectrum.shape[2])
            state, samples = istream_push(state, spectrum * full[None], window)
            _write(np.asarray(samples), original, speech_out, music_out)
        _write(np.asarray(istream_finish(state, window, job.survey.n_samples)), original, speech_out, music_out)
    times = frame_times(job.survey.n_frames, window, rate)
    segments = complete(given, labels, times, job.survey.n_samples / rate, min_duration=0.3)
    return LongSeparation(segments, times, p_music, spread, trace, time.perf_counter() - started, settings, ())


def _uncertainty(job: "Job", mask: np.ndarray, own: np.ndarray, magnitudes: np.ndarray, rows: slice) -> dict[str, np.ndarray]:
    """The same as `pipeline.Separation.uncertainty`; `own` is the untempered posterior standard deviation of the mask."""
    std = mask_std(mask, own, job.survey.lessons.given.target[rows], job.settings)
    return relative_spread(mask, std, magnitudes[:, : job.n_bins])


class Job(NamedTuple):
    """Inputs and settings shared by the second and third pass."""

    path: str | Path
    sample_rate: int
    channels: int
    window: Stft
    n_bins: int
    survey: Survey
    scale: np.float32
    speech: Float[np.ndarray, "Ts F"]
    music: Float[np.ndarray, "Tm F"]
    settings: Settings
    progress: Progress
    stretches: tuple[int, ...] | None = None  # `preparation.Spectra`

    @property
    def frames_per_block(self) -> int:
        samples = min(BLOCK_SECONDS * self.sample_rate, BLOCK_SAMPLES / self.channels)
        return max(1, round(samples / self.window.hop))

    @property
    def context(self) -> int:
        return round(CONTEXT_SECONDS * self.sample_rate / self.window.hop)

    @property
    def n_blocks(self) -> int:
        return -(-self.survey.n_frames // self.frames_per_block)

    def is_settled(self, index: int, context: int = 0) -> bool:
        """Whether a block, with `context` frames on both sides, contains no frames to infer."""
        first = index * self.frames_per_block
        return not self.survey.lessons.given.target[max(0, first - context) : first + self.frames_per_block + context].any()

    @property
    def n_unsettled(self) -> int:
        """Number of blocks with frames to infer in them or in their context."""
        return sum(not self.is_settled(index, self.context) for index in range(self.n_blocks))


# --- passes over the file ------------------------------------------------------------------------------------------


def spectra(path: str | Path, window: Stft) -> Iterator[Complex[np.ndarray, "C T F"]]:
    """Yield the spectrogram of a file, some frames at a time."""
    state = None
    for block in audio.blocks(path, 10.0):
        if state is None:
            state = stream_init(window, (block.samples.shape[0],))
        state, frames = stream_push(state, block.samples, window)
        yield np.asarray(frames)
    if state is not None:
        yield np.asarray(stream_finish(state, window))


def survey(
    path: str | Path, window: Stft, n_bins: int, read: Callable[[np.ndarray], Lessons], *, most: int | None = None
) -> Survey:
    """Run the first pass: count samples and frames, measure the level and collect frames to train on.

    `read` maps the times of all frames to what is known of them. At most `most` frames of speech and of music each are kept.
    """
    sizes = [block.samples.shape[1] for block in audio.blocks(path, 10.0)]
    n_samples, rate = sum(sizes), audio.probe(path).sample_rate
    lessons = read(frame_times(frame_count(n_samples, window), window, rate))
    minute = round(60 * rate / window.hop)
    none = np.zeros((0, n_bins), np.float32)
    some = _all_over(lessons.given.target, minute, round(2 * rate / window.hop))
    kept = [(lessons.speech, most, [none]), (lessons.music, most, [none]), (some, minute, [none])]
    total, n_target, first, loudest = 0.0, 0, 0, 0.0
    for frames in spectra(path, window):
        mixed = np.abs(frames).mean(0)[:, :n_bins]
        rows = slice(first, first + len(mixed))
        loudest = max(loudest, float(mixed.max(initial=0.0)))
        target = lessons.given.target[rows]
        total += float(mixed[target].sum(dtype=np.float64))
        n_target += int(target.sum())
        for wanted, at_most, pieces in kept:
            room = None if at_most is None else at_most - sum(map(len, pieces))
            pieces.append(mixed[wanted[rows]][:room].copy())  # a copy: a view would keep all wanted frames in memory
        first += len(mixed)
    level = total / max(n_target * n_bins, 1)
    return Survey(lessons, n_samples, first, level, loudest == 0, *(np.concatenate(pieces) for _, _, pieces in kept))


def _all_over(on: Bool[np.ndarray, " T"], most: int, together: int) -> Bool[np.ndarray, " T"]:
    """Select about `most` of the frames that are on, in runs of `together` frames spread evenly over them."""
    frames = np.flatnonzero(on)
    if len(frames) <= most:
        return on
    first = np.linspace(0, len(frames) - together, most // together).astype(int)
    kept = np.zeros_like(on)
    kept[frames[first[:, None] + np.arange(together)]] = True
    return kept


MOST_SECONDS = 600.0
"""Limit on the labelled speech, and on the labelled music, of a recording to train on, which is held in memory as a whole."""


def _most(sample_rate: int, window: Stft) -> int:
    return round(MOST_SECONDS * sample_rate / window.hop)


def material(
    path: str | Path, sample_rate: int, known: Known, window: Stft, n_bins: int, p_music: float
) -> tuple[Survey, Float[np.ndarray, "Ts F"], list[Float[np.ndarray, "_ F"]]]:
    """Run the first pass with the known labels; return its result, the speech frames and the stretches of music to train on.

    Of the file's own labelled speech and music, the first `_most` frames each are used.
    """

    def read(times: np.ndarray) -> Lessons:
        given = preparation.read_labels(known.labels, times, p_music)
        return Lessons(given, given.only_speech, given.only_music)

    found = survey(path, window, n_bins, read, most=_most(sample_rate, window))
    speech = np.concatenate([preparation.stack(known.speech, window, n_bins), preparation.loud(found.speech)])
    return found, speech, [*preparation.known_parts(known.music, window, n_bins), *preparation.loud_parts(found.stretches())]


def _blocks(job: Job) -> Iterator[_Block]:
    """Yield the spectrogram in overlapping blocks of equal shape; short ones at either end are padded with silence."""
    held, held_first = None, 0
    incoming = spectra(job.path, job.window)
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


def _problem(job: Job, block: _Block, trained: Trained | None, settings: Settings) -> jingle_mixture.JingleMixture:
    """Build the problem of a block's frames; padding and frames settled by labels get weight 0."""
    n = block.spectrum.shape[1]
    frames = np.arange(block.first - block.before, block.first - block.before + n)
    inside = (frames >= 0) & (frames < job.survey.n_frames)
    frames = np.clip(frames, 0, job.survey.n_frames - 1)
    x = (np.abs(block.spectrum).mean(0)[:, : job.n_bins] * job.scale).astype(np.float32)
    speech = job.speech if METHODS[settings.method].stacked else job.speech[:0]
    given = job.survey.lessons.given
    # In a chain, settled frames tell their neighbours what they are, whatever their weight. A detector's P(music) is small, but not
    # 0, where it found speech alone.
    p_music = np.where(given.only_speech, 0, given.p_music)[frames].astype(np.float32)
    known = preparation.Spectra(x, speech, job.music, p_music, stretches=job.stretches)
    problem, _ = separators.build_problem(known, trained, settings, mean=settings.level)  # mean level of the whole recording
    counts = (inside & given.target[frames]).astype(np.float32)
    if METHODS[settings.method].stacked:
        counts *= np.float32(settings.joint_weight)
    # The training speech of a stacked method is in every block, but must count only once over all blocks.
    weight = np.concatenate([np.full(len(speech), 1 / max(1, job.n_unsettled), np.float32), counts])
    return dataclasses.replace(problem, frames=problem.frames._replace(weight=jax.numpy.asarray(weight)))


_QUIET = 0.1
"""Without trained templates, inference does not begin with a block of less than this fraction of the recording's mean magnitude."""


def _fit_templates(job: Job, trained: Trained | None) -> tuple[Trained | None, Float[np.ndarray, " blocks"]]:
    """Fit the templates by one pass of online inference over the file.

    Blocks without frames to infer are skipped: they carry no evidence and would only pull the templates towards the prior.
    """
    settings = job.settings
    readings = separators.readings_for(settings, has_latent=False)
    algorithm = online.online(conditionals, readings, shared=("templates",), sweeps=min(settings.sweeps, _MAX_SWEEPS))
    key = jax.random.key(settings.seed)
    state, prior, trace = None, None, []
    for index, block in enumerate(_blocks(job)):
        if job.is_settled(index, job.context):
            continue
        problem = _problem(job, block, trained, settings)
        if state is None and trained is None and problem.frames.x.mean() < _QUIET * settings.level and index < job.n_blocks - 1:
            continue  # too quiet to initialise from
        start = Partial(jingle_mixture.Start(settings.bases), problem, trained and trained.templates)
        key, key_step, key_start = jax.random.split(key, 3)
        if state is None:
            # Without training, a full fit to the first block is a far better start than random templates.
            first = start(key_start) if trained else separators.fit_problem(problem, None, settings).blocks
            state, prior = algorithm.init(first), problem.hyper.prior
        # One prior for all blocks: hyper-parameters learned from a block would count its evidence many times over.
        problem = dataclasses.replace(problem, hyper=problem.hyper._replace(prior=prior), learn=jingle_mixture.Learn())
        state, info = algorithm.step(key_step, state, problem, start, float(job.n_unsettled))
        trace.append(float(info.objective))
        job.progress("templates", len(trace), job.n_unsettled, trace[-1])
    if state is None or prior is None:
        return trained, np.zeros(0)
    if trained is None:
        return Trained(state.shared["templates"], prior), np.array(trace)
    return trained._replace(templates=state.shared["templates"]), np.array(trace)


def _separated(job: Job, trained: Trained | None) -> Iterator[tuple[_Block, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield each block with mask, posterior standard deviation of the mask, and P(music) of the frames to keep.

    Templates are fixed. Frames settled by labels get their mask and P(music) from the labels.
    """
    settings = dataclasses.replace(job.settings, method="nmf", sweeps=min(job.settings.sweeps, _MAX_SWEEPS))
    given, last = job.survey.lessons.given, job.survey.n_frames - 1
    for index, block in enumerate(_blocks(job)):
        keep = slice(block.before, block.before + block.keep)
        frames = np.clip(np.arange(block.spectrum.shape[1]) + block.first - block.before, 0, last)
        rows = preparation.Given(*(field[frames] for field in given))
        mask, own, p_music = preparation.settled(rows, job.n_bins)
        if not job.is_settled(index):
            problem = _problem(job, block, trained, settings)
            found = separators.sources_of(separators.fit_problem(problem, trained, settings))
            x = np.asarray(problem.frames.x)
            mask = np.where(rows.target[:, None], preparation.speech_share(found.speech, x), mask)
            own = preparation.share_std(found.variance, x)
            mask = preparation.without_faint(mask, x, rows, job.sample_rate / job.window.hop, settings.faint)
            p_music = np.where(rows.target, found.p_music, p_music)
        yield block, mask[keep], own[keep], p_music[keep]
        job.progress("separating", index + 1, job.n_blocks, float("nan"))


class Held:
    """Buffer over pieces of audio that returns any number of samples at a time; if `padded`, zeros follow the last piece."""

    def __init__(self, pieces: Iterable[Float[np.ndarray, "_ _"]], *, padded: bool = False) -> None:
        self._pieces, self._padded = iter(pieces), padded
        self._held: list[np.ndarray] = []

    def take(self, n: int) -> Float[np.ndarray, "C n"]:
        """Return the next n samples."""
        there = sum(piece.shape[1] for piece in self._held)
        while there < n or not self._held:
            more = next(self._pieces, None) if self._padded else next(self._pieces)
            if more is None:
                more = np.zeros((len(self._held[0]) if self._held else 1, n - there), np.float32)
            self._held.append(more)
            there += more.shape[1]
        whole = self._held[0] if len(self._held) == 1 else np.concatenate(self._held, axis=1)
        self._held = [whole[:, n:]]
        return whole[:, :n]


def _write(speech: np.ndarray, original: Held, speech_out: audio.Writer, music_out: audio.Writer) -> None:
    if speech.shape[1]:
        speech_out.append(speech)
        music_out.append(original.take(speech.shape[1]) - speech)
