"""Prepare waveforms and labels for inference, and turn the resulting masks back into labels.

Inference gets magnitudes of mixture, training speech and labelled music at one scale, the training material without silent frames;
labels settle some frames of the mixture, and the others are left to infer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int
from scipy import special
from scipy.ndimage import uniform_filter1d

from bayessep.errors import UserError
from bayessep.settings import Settings
from bayessep.stft import Stft, bin_frequencies, frame_times, stft, stft_for_rate, stream_finish, stream_init, stream_push
from bayessep.timeline import BOTH, MUSIC, SPEECH, Segment, frame_switches, runs
from bayessep.waveforms import check_mono


class Known(NamedTuple):
    """Training material and labels of a mixture; waveforms are mono, at the sample rate of the mixture.

    `labels` are segments of the mixture itself; those of speech or music alone are training material too.
    `bandwidth` is the highest frequency (Hz) present in all the material: the lowest of their original Nyquist frequencies.
    """

    speech: Sequence[Float[np.ndarray, " n"]] = ()
    music: Sequence[Float[np.ndarray, " n"]] = ()
    labels: Sequence[Segment] | None = None
    bandwidth: float = float("inf")


class Spectra(NamedTuple):
    """Scaled magnitudes of one problem, modelled bins only."""

    target: Float[np.ndarray, "T F"]  # frames of the mixture to separate
    speech: Float[np.ndarray, "Ts F"]  # training frames
    music: Float[np.ndarray, "Tm F"]  # catalogue frames
    p_music: Float[np.ndarray, " T"]  # evidence for music in the target frames: the music switch of `jingle_mixture`
    times: Int[np.ndarray, " T"] | None = None  # index of each target frame in the recording; None: consecutive frames
    stretches: tuple[int, ...] | None = None  # number of frames in each contiguous stretch of the music; None: one stretch


def window_of(settings: Settings, sample_rate: int) -> Stft:
    """Return the STFT settings of a separation."""
    return stft_for_rate(sample_rate, overlap=settings.overlap)


def magnitude(waveform: Float[np.ndarray, "... N"], settings: Stft) -> Float[np.ndarray, "... T F"]:
    """Return the magnitude spectrogram as a numpy array."""
    return np.abs(np.asarray(stft(jnp.asarray(waveform, jnp.float32), settings)))


AT_ONCE = 2**24
"""Samples transformed at a time: complex spectra are many times as large as the magnitudes that are kept."""


def modelled(waveform: Float[np.ndarray, " N"], settings: Stft, n_bins: int) -> Float[np.ndarray, "T F"]:
    """Return the first `n_bins` bins of the magnitude spectrogram of a waveform.

    Raises:
        UserError: the waveform is not of shape (N,), or contains NaN or infinite samples.
    """
    check_mono(waveform, "a waveform that is learned from")
    if len(waveform) <= AT_ONCE:
        return magnitude(waveform, settings)[:, :n_bins].copy()
    state, found = stream_init(settings), []
    for first in range(0, len(waveform), AT_ONCE):
        state, frames = stream_push(state, waveform[first : first + AT_ONCE], settings)
        found.append(np.abs(np.asarray(frames)[:, :n_bins]))
    found.append(np.abs(np.asarray(stream_finish(state, settings))[:, :n_bins]))
    return np.concatenate(found)


def stack(waveforms: Sequence[np.ndarray], settings: Stft, n_bins: int) -> Float[np.ndarray, "T F"]:
    """Return the frames of several waveforms, concatenated, without silent ones."""
    return joined(known_parts(waveforms, settings, n_bins), n_bins)[0]


def known_parts(waveforms: Sequence[np.ndarray], settings: Stft, n_bins: int) -> list[Float[np.ndarray, "_ F"]]:
    """Return the frames of each waveform, without silent ones."""
    return loud_parts([modelled(w, settings, n_bins) for w in waveforms])


def joined(parts: Sequence[Float[np.ndarray, "_ F"]], n_bins: int) -> tuple[Float[np.ndarray, "T F"], tuple[int, ...]]:
    """Concatenate stretches of frames; return them with the number of frames of each (`Spectra.stretches`)."""
    return np.concatenate([*parts, np.zeros((0, n_bins), np.float32)]), tuple(map(len, parts))


def modelled_bins(settings: Stft, sample_rate: int, max_frequency: float) -> int:
    """Return the number of bins up to `max_frequency`, at least two."""
    return max(2, int((bin_frequencies(settings, sample_rate) <= max_frequency + 1e-6).sum()))


def extend_mask(
    mask: Float[np.ndarray, "T F"], magnitude: Float[np.ndarray, "T N"], n_bins: int
) -> Float[np.ndarray, "T N"]:
    """Extend a mask to `n_bins` bins: above the modelled band by the energy-weighted mean over the top eighth of that band."""
    top = max(1, mask.shape[1] // 8)
    energy = magnitude[:, mask.shape[1] - top : mask.shape[1]] ** 2 + 1e-12
    edge = (mask[:, -top:] * energy).sum(1, keepdims=True) / energy.sum(1, keepdims=True)
    return np.concatenate([mask, np.repeat(edge, n_bins - mask.shape[1], axis=1)], axis=1)


def full_mask(
    mask: Float[np.ndarray, "T F"], power: float, magnitude: Float[np.ndarray, "T N"], n_bins: int
) -> Float[np.ndarray, "T N"]:
    """Return the mask to multiply a spectrogram by: that of the modelled bins, sharpened and extended to all bins."""
    return extend_mask(sharpen(mask, power), magnitude, n_bins).astype(np.float32)


class Given(NamedTuple):
    """What the labels say about each frame; without labels, every frame is to be inferred."""

    target: Bool[np.ndarray, " T"]  # to be inferred: mixed or unlabelled
    speech: Bool[np.ndarray, " T"]  # may hold speech
    only_speech: Bool[np.ndarray, " T"]
    only_music: Bool[np.ndarray, " T"]
    p_music: Float[np.ndarray, " T"]  # evidence for music (`Spectra.p_music`); of labels 1 or 0


def read_labels(labels: Sequence[Segment] | None, times: Float[np.ndarray, " T"], p_music: float) -> Given:
    """Convert labels to frames; `p_music` is the evidence for music in unlabelled frames."""
    if labels is None:
        yes, no = np.ones(len(times), bool), np.zeros(len(times), bool)
        return Given(yes, yes, no, no, np.full(len(times), p_music, np.float32))
    speech, music, labelled = frame_switches(labels, times)
    both = speech & music
    prior = np.where(labelled, music, p_music).astype(np.float32)
    return Given(both | ~labelled, speech | ~labelled, speech & ~music, music & ~speech, prior)


class Lessons(NamedTuple):
    """What the labels say about each frame, and which frames to train on."""

    given: Given
    speech: Bool[np.ndarray, " T"]  # speech alone
    music: Bool[np.ndarray, " T"]  # music alone


class Plan(NamedTuple):
    """Input of inference, and the frames already settled by labels."""

    spectra: Spectra
    given: Given
    times: Float[np.ndarray, " T"]
    n_bins: int


def prepare(
    spectrum: np.ndarray,
    window: Stft,
    sample_rate: int,
    known: Known,
    *,
    max_frequency: float,
    level: float,
    p_music: float,
) -> Plan:
    """Compute magnitudes of mixture and training material at one scale, and find the frames left to infer.

    Raises UserError if the music is unknown or silent.
    """
    n_bins = modelled_bins(window, sample_rate, min(max_frequency, known.bandwidth))
    times = frame_times(spectrum.shape[1], window, sample_rate)
    mixed = np.abs(spectrum).mean(0)[:, :n_bins]  # one mask for all channels
    given = read_labels(known.labels, times, p_music)
    speech = np.concatenate([stack(known.speech, window, n_bins), loud(mixed[given.only_speech])])
    own = [mixed[a:b] for a, b in runs(given.only_music)]
    music, stretches = joined([*known_parts(known.music, window, n_bins), *loud_parts(own)], n_bins)
    require(music, "music")
    target = mixed[given.target]
    scale = np.float32(level / max(float(target.mean()) if len(target) else 0.0, 1e-12))
    wanted = np.flatnonzero(given.target)
    spectra = Spectra(target * scale, speech * scale, music * scale, given.p_music[given.target], wanted, stretches)
    return Plan(spectra, given, times, n_bins)


def loud(frames: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "loud F"]:
    """Return the frames that are not silent: silence teaches nothing, and a silent catalogue entry would equal the null entry."""
    return loud_parts([frames])[0]


def loud_parts(parts: Sequence[Float[np.ndarray, "_ F"]]) -> list[Float[np.ndarray, "_ F"]]:
    """Return the non-silent frames of each stretch; silence is relative to the loudest frame of all stretches."""
    levels = [frames.sum(1) for frames in parts]
    most = max((level.max(initial=0.0) for level in levels), default=0.0)
    return [frames[level > 1e-4 * most] for frames, level in zip(parts, levels, strict=True)]


def require(frames: np.ndarray, what: str) -> None:
    """Raise a UserError if there is nothing to learn `what` from."""
    if len(frames) < 2 or not frames.any():
        raise UserError(
            f"examples of {what} are needed, and those given are silent, shorter than two frames or none; "
            f"give --{what} files, or --labels with a {what} stretch."
        )


def settled(given: Given, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mask, its standard deviation and P(music) as far as labels settle them; target frames are to be filled in.

    Frames labelled as neither speech nor music go to the music, whose stem holds everything that is not speech.
    """
    mask = np.repeat(given.speech[:, None].astype(np.float32), n_bins, axis=1)
    return mask, np.zeros_like(mask), given.only_music.astype(np.float32)


def speech_share(speech: Float[ArrayLike, "T F"], x: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T F"]:
    """Return the mask: the share of speech in the magnitudes x, and 1 where x is zero."""
    return _relative(speech, x, 1.0)


def share_std(variance: Float[ArrayLike, "T F"], x: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T F"]:
    """Return the standard deviation of the share of speech, given the variance of its magnitudes; 0 where x is zero."""
    return _relative(np.sqrt(variance), x, 0.0)


def _relative(values: ArrayLike, x: np.ndarray, of_nothing: float) -> np.ndarray:
    values = np.asarray(values)
    return np.divide(values, x, out=np.full(x.shape, of_nothing, np.result_type(values, x)), where=x > 0)


DOUBTED = 0.75
"""P(music) of a detector below which the inference overrules it, if it finds hardly any music (`without_faint`)."""


def without_faint(
    mask: Float[np.ndarray, "T F"], x: Float[np.ndarray, "T F"], given: Given, frame_rate: float, faint: float | None
) -> Float[np.ndarray, "T F"]:
    """Return a mask that gives whole frames to the speech if so little music was inferred there that there is likely none.

    Args:
        mask: the share of speech, from labels or inference.
        x: magnitudes of the mixture, consecutive frames.
        given: what is known of each frame; only inferred frames are changed.
        frame_rate: frames per second.
        faint: threshold in decibels: a frame is changed if the music's energy, averaged over about a second, lies more than this
            below that of the mixture; None changes nothing.
    """
    if faint is None:
        return mask
    reach = 2 * round(frame_rate / 2) + 1
    energy = uniform_filter1d(np.stack([((1 - mask) * x) ** 2, x**2]).sum(2, dtype=np.float64), reach, axis=1, mode="nearest")
    passes = given.target & (given.p_music < DOUBTED) & (energy[0] < 10 ** (-faint / 10) * energy[1])
    return np.where(passes[:, None], np.float32(1), mask)


def unsettled(mask: Float[np.ndarray, "T F"], given: Bool[np.ndarray, " T"], faint: float | None) -> Bool[np.ndarray, " T"]:
    """Return which of the frames to infer, `given`, are uncertain: all of them but those that pass as speech (`passed`)."""
    return given & ~passed(mask, faint)


def passed(mask: Float[np.ndarray, "T F"], faint: float | None) -> Bool[np.ndarray, " T"]:
    """Return which frames are all speech, by labels or by `without_faint`, and so have no uncertainty; none if `faint` is None."""
    return np.zeros(len(mask), bool) if faint is None else (mask == 1).all(1)


def sharpen(mask: Float[np.ndarray, "T F"], power: float) -> Float[np.ndarray, "T F"]:
    """Return the mask for magnitudes raised to a power: 1 leaves it unchanged, 2 gives shares of energies (a Wiener filter).

    A share of magnitudes tells how loud a source is; applied to waveforms, whose phases differ, a sharper mask loses less.
    """
    return mask if power == 1 else special.expit(power * special.logit(np.clip(mask, 0, 1)))


def label_frames(
    p_music: Float[np.ndarray, " T"], mask: Float[np.ndarray, "T F"], magnitudes: Float[np.ndarray, "T N"], frame_rate: float
) -> list[str]:
    """Return a label for each frame from the posterior; `timeline.complete` replaces them where a user gave labels.

    Music is labelled where it is more probable than not. Where it is, speech is labelled too if it has more than a tenth of the
    magnitude over half a second; everywhere else the label is speech. `frame_rate` is frames per second.
    """
    modelled = magnitudes[:, : mask.shape[1]]
    n = max(1, round(frame_rate / 2))
    window = np.ones(min(n, len(mask))) / n
    level = np.convolve(modelled.sum(1), window, "same")
    share = np.convolve((mask * modelled).sum(1), window, "same") / np.maximum(level, 1e-12)
    music = p_music > 0.5
    return np.where(music & (share > 0.1), BOTH, np.where(music, MUSIC, SPEECH)).tolist()
