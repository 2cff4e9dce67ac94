"""Separate the speech and music of one recording, given only the recording and a speech and music detection.

1. `hear` reads the detection frame by frame. Stretches of speech alone and of music alone are trusted only away from their edges,
   and only if they last: detectors err by some tenths of a second, and by whole seconds now and then. All other frames are left
   to the model, with the detector's P(music) as evidence.
2. Speech templates are trained on the stretches of speech alone, and a catalogue is built from those of music alone, each
   repeat of it once (`repetition.distinct`). What the recording lacks comes from `bayessep.general`, and a note says so.
3. The model of paper 000 separates the rest. Speech alone passes unchanged, and the stems sum to the mixture.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import maximum_filter1d, minimum_filter1d, uniform_filter1d

from bayessep import audio, general, pipeline, preparation, repetition, separators, streaming
from bayessep.detection import Detection
from bayessep.draws import draw_speech, key_of
from bayessep.errors import UserError
from bayessep.preparation import Given, Lessons, Plan, Spectra
from bayessep.separators import Progress, Trained, silent
from bayessep.settings import Settings
from bayessep.stft import bin_frequencies, frame_times, stft
from bayessep.timeline import BOTH, MUSIC, SILENCE, SPEECH, Segment, labels_at, runs, total
from bayessep.waveforms import check_mixture

MODEL = Settings(complete=False, max_catalogue=2000, faint=15.0)


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """Settings for cleaning a recording.

    Attributes:
        model: settings of the model that separates the mixed frames.
        edge: seconds on both sides of every boundary in which no stretch is trusted to be speech alone or music alone.
        shortest: seconds that must remain of a stretch between its edges; shorter ones are taken for detection errors.
        sure: probability up to which a sound is taken to be absent.
        least_speech: seconds of speech alone that are enough to learn from.
        least_music: seconds of music alone, repeats included, that are enough to learn from.
        ample_music: seconds of music alone to aim for: with less, the threshold on P(speech) is relaxed (`DOUBTS`).
        most_speech: maximum seconds of speech to learn from.
        most_music: maximum seconds of music alone searched for the catalogue; of long stretches only the beginnings are used, so
            that no piece crowds out the others.
        least_sound: minimum seconds of a sound in all; with less of it, and more of the other, it is taken for a detection error.
            Music then passes with the speech; where speech was detected by mistake, the music is still inferred.
        alike: similarity from which music counts as a repeat of music that is already in the catalogue.
    """

    model: Settings = MODEL
    edge: float = 0.45
    shortest: float = 0.5
    sure: float = 0.2
    least_speech: float = 4.0
    least_music: float = 1.0
    ample_music: float = 6.0
    most_speech: float = 60.0
    most_music: float = 300.0
    least_sound: float = 1.5
    alike: float = 0.7


def hear(detection: Detection, times: Float[np.ndarray, " T"], settings: Cleaning = Cleaning()) -> Lessons:
    """Classify the model's frames from a detection: speech alone, music alone, or to be inferred.

    Frames pass as speech where music is absent within `edge` seconds on either side; they are music alone where speech is absent
    in the same way and music is on. All others are inferred. The model learns from the surest frames, if there are enough of them.
    """
    n = len(detection.speech)
    hop = detection.hop
    reach = 2 * round(settings.edge / hop) + 1
    middle = (np.arange(n) + 0.5) * hop
    labels = np.array(labels_at(detection.segments, middle))
    speech = _heard_at_all(detection.speech, SPEECH, MUSIC, labels, hop, settings)
    music = _heard_at_all(detection.music, MUSIC, SPEECH, labels, hop, settings)
    least = max(1, round(settings.shortest / hop))
    # Between its edges, a segment labelled speech passes if music is less likely than not: that is what the label means.
    spoken = np.asarray(minimum_filter1d(np.isin(labels, (SPEECH, SILENCE)), reach, mode="nearest"), bool)
    mean_music = np.asarray(uniform_filter1d(np.asarray(music, np.float32), reach, mode="nearest"))
    surely = np.asarray(maximum_filter1d(music, reach, mode="nearest") <= settings.sure, bool)
    no_music = _lasting(surely | (spoken & (mean_music < 0.5)), least)
    only_music = _surest(speech, labels, MUSIC, reach, least, settings.ample_music / hop, settings.sure)
    only_music &= music > 0.5  # `music` as corrected above: a frame that passes as speech is not music
    prior = np.clip(mean_music, 0.05, 0.95)

    row = np.clip((times / hop).astype(int), 0, n - 1)
    passes, aside = no_music[row], only_music[row]
    given = Given(~passes & ~aside, ~aside, passes, aside, prior[row])
    learned = _surest(music, labels, SPEECH, reach, least, settings.least_speech / hop, settings.sure)[row] & passes
    step = times[1] - times[0] if len(times) > 1 else hop
    return Lessons(given, learned & (detection.speech[row] > 0.5), _beginnings(aside, round(settings.most_music / step)))


def _beginnings(on: Bool[np.ndarray, " T"], most: int) -> Bool[np.ndarray, " T"]:
    """Keep at most `most` frames of the stretches that are on: short ones whole, and equally many from the start of all others."""
    left, kept = most, np.zeros_like(on)
    stretches = sorted(runs(on), key=lambda stretch: stretch[1] - stretch[0])
    for n, (start, stop) in enumerate(stretches):
        length = min(stop - start, left // (len(stretches) - n))
        kept[start : start + length] = True
        left -= length
    return kept


DOUBTS = (1.0, 1.75, 2.5)
"""Factors on `Cleaning.sure`, the highest probability of the other sound; each is tried if the one before finds too little."""


def _surest(
    other: Float[np.ndarray, " T"], labels: np.ndarray, label: str, reach: int, least: int, enough: float, sure: float
) -> Bool[np.ndarray, " T"]:
    """Select stretches of a label, without their edges, in which the other sound is absent.

    The threshold on its probability is the lowest of `DOUBTS` (times `sure`) that leaves `enough` frames, or else the last.
    """
    worst = maximum_filter1d(other, reach, mode="nearest")
    inside = np.asarray(minimum_filter1d(np.isin(labels, (label, SILENCE)), reach, mode="nearest"), bool) & (labels == label)
    found = np.zeros(len(other), bool)
    for doubt in DOUBTS:
        found = _lasting(inside & (worst <= doubt * sure), least)
        if found.sum() >= enough:
            break
    return found


def _heard_at_all(
    probability: Float[np.ndarray, " T"], what: str, other: str, labels: np.ndarray, hop: float, settings: Cleaning
) -> Float[np.ndarray, " T"]:
    """Correct the probability of a sound by its labels.

    Where it is labelled, the probability is raised above `sure`. It is 0 everywhere if hardly any of the sound is labelled in the
    whole recording and there is more of the other, or none at all: a recording may be a short jingle and nothing else.
    """
    labelled = np.isin(labels, (what, BOTH))
    more = np.isin(labels, (other, BOTH)).sum() > labelled.sum()
    if labelled.sum() * hop < settings.least_sound and (more or not labelled.any()):
        return np.zeros_like(probability)
    return np.where(labelled, np.maximum(probability, settings.sure + 1e-6), probability)


def _lasting(on: Bool[np.ndarray, " T"], least: int) -> Bool[np.ndarray, " T"]:
    """Remove runs of fewer than `least` frames, except one that spans the whole recording."""
    kept = on.copy()
    for start, stop in runs(on):
        if stop - start < min(least, len(on)):
            kept[start:stop] = False
    return kept


# --- learning -------------------------------------------------------------------------------------------------------------

RECORDING, GENERAL, NOTHING = "recording", "general", ""


class Learned(NamedTuple):
    """Models of speech and music for the inference, and their origin: the recording or `bayessep.general`."""

    trained: Trained
    music: Float[np.ndarray, "K F"]  # catalogue; empty where music has general templates
    stretches: tuple[int, ...]  # of the catalogue (`Spectra.stretches`)
    speech_from: str
    music_from: str
    speech_seconds: float  # of speech alone that was learned from
    music_seconds: float  # of music in the catalogue, each repeat once
    notes: tuple[str, ...]


def learn(
    speech: Float[np.ndarray, "Ts F"],
    stretches: Sequence[Float[np.ndarray, "_ F"]],
    target: Float[np.ndarray, "T F"],
    frequencies: Float[np.ndarray, " F"],
    frame_rate: float,
    settings: Cleaning,
    progress: Progress = silent,
) -> Learned:
    """Train speech templates and build the music catalogue, or fall back on the general templates.

    Args:
        speech: magnitudes of speech alone.
        stretches: magnitudes of each stretch of music alone.
        target: magnitudes of the frames to be separated; all three are at one scale.
        frequencies: of the bins, in Hz.
        frame_rate: frames a second.
        settings: how much is needed of each.
        progress: called now and then.
    """
    model, notes = settings.model, []
    speech = preparation.loud(speech)[: round(settings.most_speech * frame_rate)]
    speech_seconds = len(speech) / frame_rate
    heard = [m for m in stretches if m.any()]
    heard_seconds = sum(map(len, heard)) / frame_rate  # repeats count here (such music is known best); they are left out below
    music, lengths = preparation.joined(repetition.distinct(heard, target, model.max_catalogue, settings.alike), target.shape[1])
    music_seconds = len(music) / frame_rate
    if speech_seconds >= settings.least_speech:
        trained, speech_from = separators.train_templates(speech, model, progress), RECORDING
    else:
        trained, speech_from = general.trained("speech", frequencies), GENERAL
        notes.append(f"{_alone('speech', speech_seconds)}: a general model of speech is used instead.")
        speech_seconds = 0.0
    music_from = RECORDING
    if heard_seconds < settings.least_music:
        trained, music_from = separators.beside(trained, general.trained("music", frequencies)), GENERAL
        notes.append(f"{_alone('music', heard_seconds)}: a general model of music is used instead, which is far less certain.")
        music, lengths, music_seconds = music[:0], (), 0.0
    return Learned(trained, music, lengths, speech_from, music_from, speech_seconds, music_seconds, tuple(notes))


def _alone(what: str, seconds: float) -> str:
    """Say how little of a sound is heard alone: less than is labelled, as `hear` trusts only sure frames away from edges."""
    found = f"no {what}" if seconds < 0.05 else f"only {seconds:.1f} s of {what}"
    return f"{found} could be found alone with certainty"


# --- recordings held in memory -------------------------------------------------------------------------------------------


class Cleaned(NamedTuple):
    """Result of cleaning a recording, without the stems. Frames are those of `times`."""

    times: Float[np.ndarray, " T"]  # seconds
    p_music: Float[np.ndarray, " T"]  # by the model; by the labels where they settle it
    uncertainty: dict[str, Float[np.ndarray, " T"]]  # relative standard deviation of each stem's magnitude
    learned: Learned | None  # None where nothing is mixed
    notes: tuple[str, ...]


class Stems(NamedTuple):
    """Separated waveforms, with an account of the separation."""

    speech: Float[np.ndarray, "C N"]
    music: Float[np.ndarray, "C N"]  # exactly the mixture minus the speech
    account: Cleaned
    draws: Iterable[Float[np.ndarray, "C N"]] = ()  # posterior samples of the speech, each computed on demand


def clean(
    mixture: Float[np.ndarray, "C N"],
    sample_rate: int,
    detection: Detection,
    settings: Cleaning = Cleaning(),
    *,
    draws: int = 0,
    progress: Progress = silent,
) -> Stems:
    """Separate speech and music where they sound at once.

    Args:
        mixture: float waveform, all channels; the stems have its shape, and sum to it up to rounding.
        sample_rate: in Hz.
        detection: where speech and music sound.
        settings: thresholds, and the settings of the model.
        draws: number of posterior draws of the speech; there are none where nothing is mixed, as the speech is then settled.
        progress: called now and then.

    Raises:
        UserError: the mixture is silent, or some samples are NaN or infinite.
    """
    check_mixture(mixture, "the recording")
    if not mixture.any():
        raise UserError("the recording is silent: there is nothing to separate; give one with sound in it.")
    model = settings.model
    window = preparation.window_of(model, sample_rate)
    spectrum = np.asarray(stft(jnp.asarray(mixture, jnp.float32), window))
    n_bins = preparation.modelled_bins(window, sample_rate, model.max_frequency)
    times = frame_times(spectrum.shape[1], window, sample_rate)
    lessons = hear(detection, times, settings)
    given, mixed = lessons.given, np.abs(spectrum).mean(0)[:, :n_bins]
    target = mixed[given.target]
    if not target.any():
        mask, _, p_music = preparation.settled(given, n_bins)
        speech = pipeline.masked(spectrum, mask, window, mixture.shape[1], 1.0)
        none = {stem: np.zeros(len(times), np.float32) for stem in ("speech", "music")}
        account = Cleaned(times, p_music, none, None, _nothing_mixed(given, detection.segments))
        return Stems(speech, mixture - speech, account)
    mixed = mixed * np.float32(model.level / target.mean())
    target = mixed[given.target]
    stretches = [mixed[a:b] for a, b in runs(lessons.music)]
    frequencies = bin_frequencies(window, sample_rate)[:n_bins]
    learned = learn(mixed[lessons.speech], stretches, target, frequencies, sample_rate / window.hop, settings, progress)
    open_ = np.flatnonzero(given.target)
    spectra = Spectra(target, mixed[:0], learned.music, given.p_music[open_], open_, learned.stretches)
    plan = Plan(spectra, given, times, n_bins)
    found = pipeline.take_apart(
        mixture, sample_rate, spectrum, plan, learned.trained, model, labels=detection.segments, progress=progress
    )
    account = Cleaned(times, found.p_music, found.uncertainty(mixed), learned, learned.notes)
    drawn = draw_speech(found, mixture, sample_rate, key_of(found), draws) if draws else ()
    return Stems(found.speech, found.music, account, drawn)


def _nothing_mixed(given: Given, segments: Sequence[Segment]) -> tuple[str, ...]:
    """Explain why nothing is left to infer, in agreement with the detected segments."""
    seconds = {what: total(segments, what) + total(segments, BOTH) for what in (SPEECH, MUSIC)}
    if given.only_speech.any() and given.only_music.any():
        if seconds[SPEECH] > 0:
            return ("speech and music never sound at once: each stem has its own stretches.",)
        return ("only music was detected: everything else goes into the speech stem.",)
    what, other = (MUSIC, SPEECH) if given.only_music.any() else (SPEECH, MUSIC)
    if seconds[other] > 0:
        return (f"{seconds[other]:.1f} s of {other} are too little to be credible: the whole recording is treated as {what}.",)
    if seconds[what] > 0:
        return (f"only {what} was detected: its stem is the whole recording.",)
    return ("neither speech nor music was detected: the speech stem is the whole recording.",)


# --- recordings of any length --------------------------------------------------------------------------------------------


def clean_file(
    path: Path,
    detection: Detection,
    speech_path: Path,
    music_path: Path,
    settings: Cleaning = Cleaning(),
    *,
    progress: Progress = silent,
) -> Cleaned:
    """Clean a file of any length in bounded memory (`bayessep.streaming`), writing both stems as 32-bit float.

    Raises:
        UserError: as `clean` and `audio.read`; no stem is left half written.
    """
    model, info = settings.model, audio.probe(path)
    rate = info.sample_rate
    window = preparation.window_of(model, rate)
    n_bins = preparation.modelled_bins(window, rate, model.max_frequency)
    frame_rate = rate / window.hop
    most = round(max(settings.most_music, settings.most_speech) * frame_rate)
    found = streaming.survey(path, window, n_bins, lambda times: hear(detection, times, settings), most=most)
    if found.silent:
        raise UserError(f"{path} is silent: there is nothing to separate; give a recording with sound in it.")
    scale = np.float32(model.level / (found.level or 1.0))
    stretches = [one * scale for one in found.stretches()]
    frequencies = bin_frequencies(window, rate)[:n_bins]
    given = found.lessons.given
    notes, learned = _nothing_mixed(given, detection.segments), None
    trained, music, parts = general.trained("speech", frequencies), found.music[:0], None
    if found.level > 0:
        learned = learn(found.speech * scale, stretches, found.target * scale, frequencies, frame_rate, settings, progress)
        trained, music, parts, notes = learned.trained, learned.music, learned.stretches, learned.notes
    job = streaming.Job(path, rate, info.channels, window, n_bins, found, scale, found.speech[:0], music, model, progress, parts)
    done = streaming.take_apart(job, trained, detection.segments, speech_path, music_path)
    return Cleaned(done.times, done.p_music, done.uncertainty, learned, notes)
