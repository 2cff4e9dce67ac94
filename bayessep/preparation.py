"""From waveforms and labels to the numbers that inference sees, and from its masks back to labels.

Magnitudes of mixture, training speech and labelled music, silent frames left out, at one scale; what the labels settle frame by
frame, and what is left to infer.
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
    """What a user knows of a mixture, as mono waveforms at its sample rate.

    `labels` are stretches of the mixture itself; its speech and music stretches are training material too.
    `bandwidth` is the highest frequency (Hz) that all the material has, its original Nyquist frequency.
    """

    speech: Sequence[Float[np.ndarray, " n"]] = ()
    music: Sequence[Float[np.ndarray, " n"]] = ()
    labels: Sequence[Segment] | None = None
    bandwidth: float = float("inf")


class Spectra(NamedTuple):
    """Scaled magnitudes of one problem, modelled bins only."""

    target: Float[np.ndarray, "T F"]  # frames to take apart
    speech: Float[np.ndarray, "Ts F"]
    music: Float[np.ndarray, "Tm F"]
    p_music: Float[np.ndarray, " T"]  # what speaks for music in the target frames: the switch of `jingle_mixture`
    times: Int[np.ndarray, " T"] | None = None  # which frames of the recording the target has; None: one after another
    stretches: tuple[int, ...] | None = None  # frames of the music that are played one after another; None: all of them


def window_of(settings: Settings, sample_rate: int) -> Stft:
    """The transform that a separation with these settings works on."""
    return stft_for_rate(sample_rate, overlap=settings.overlap)


def magnitude(waveform: Float[np.ndarray, "... N"], settings: Stft) -> Float[np.ndarray, "... T F"]:
    """Magnitude spectrogram as a numpy array."""
    return np.abs(np.asarray(stft(jnp.asarray(waveform, jnp.float32), settings)))


AT_ONCE = 2**24
"""Samples that are transformed at a time: complex spectra are many times as large as what is kept of them."""


def modelled(waveform: Float[np.ndarray, " N"], settings: Stft, n_bins: int) -> Float[np.ndarray, "T F"]:
    """The first `n_bins` of its magnitude spectrogram.

    Raises:
        UserError: it is no (N,), or some of its samples are no numbers.
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
    """The frames of several waveforms, silent ones left out."""
    return joined(known_parts(waveforms, settings, n_bins), n_bins)[0]


def known_parts(waveforms: Sequence[np.ndarray], settings: Stft, n_bins: int) -> list[Float[np.ndarray, "_ F"]]:
    """The same, each by itself."""
    return loud_parts([modelled(w, settings, n_bins) for w in waveforms])


def joined(parts: Sequence[Float[np.ndarray, "_ F"]], n_bins: int) -> tuple[Float[np.ndarray, "T F"], tuple[int, ...]]:
    """Stretches one behind the other, and how many frames each has (`Spectra.stretches`)."""
    return np.concatenate([*parts, np.zeros((0, n_bins), np.float32)]), tuple(map(len, parts))


def modelled_bins(settings: Stft, sample_rate: int, max_frequency: float) -> int:
    """Number of bins up to `max_frequency`, at least two."""
    return max(2, int((bin_frequencies(settings, sample_rate) <= max_frequency + 1e-6).sum()))


def extend_mask(
    mask: Float[np.ndarray, "T F"], magnitude: Float[np.ndarray, "T N"], n_bins: int
) -> Float[np.ndarray, "T N"]:
    """A mask for all bins: above the modelled ones, the energy-weighted mean of the top eighth of the modelled band."""
    top = max(1, mask.shape[1] // 8)
    energy = magnitude[:, mask.shape[1] - top : mask.shape[1]] ** 2 + 1e-12
    edge = (mask[:, -top:] * energy).sum(1, keepdims=True) / energy.sum(1, keepdims=True)
    return np.concatenate([mask, np.repeat(edge, n_bins - mask.shape[1], axis=1)], axis=1)


def full_mask(
    mask: Float[np.ndarray, "T F"], power: float, magnitude: Float[np.ndarray, "T N"], n_bins: int
) -> Float[np.ndarray, "T N"]:
    """What a spectrogram is multiplied by: a mask of the modelled bins, sharpened, and extended to all."""
    return extend_mask(sharpen(mask, power), magnitude, n_bins).astype(np.float32)


class Given(NamedTuple):
    """What the labels say of each frame, or that there are none."""

    target: Bool[np.ndarray, " T"]  # to be inferred: mixed or unlabelled
    speech: Bool[np.ndarray, " T"]  # may hold speech
    only_speech: Bool[np.ndarray, " T"]
    only_music: Bool[np.ndarray, " T"]
    p_music: Float[np.ndarray, " T"]  # what speaks for music, 1 where labels settle it


def read_labels(labels: Sequence[Segment] | None, times: Float[np.ndarray, " T"], p_music: float) -> Given:
    """Frame by frame, what is known; without labels every frame is to be inferred."""
    if labels is None:
        yes, no = np.ones(len(times), bool), np.zeros(len(times), bool)
        return Given(yes, yes, no, no, np.full(len(times), p_music, np.float32))
    speech, music, labelled = frame_switches(labels, times)
    both = speech & music
    prior = np.where(labelled, 1.0, p_music).astype(np.float32)
    return Given(both | ~labelled, speech | ~labelled, speech & ~music, music & ~speech, prior)


class Lessons(NamedTuple):
    """What is settled frame by frame, and which of these frames are good to learn from."""

    given: Given
    speech: Bool[np.ndarray, " T"]  # speech alone
    music: Bool[np.ndarray, " T"]  # music alone


class Plan(NamedTuple):
    """What is inferred and what the labels already settle."""

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
    """Magnitudes of everything known, at one scale, and the frames that are left to infer.

    Raises UserError where the music is unknown or silent.
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
    """The frames that are not silent: silence says nothing, and a silent catalogue entry is the null one."""
    return loud_parts([frames])[0]


def loud_parts(parts: Sequence[Float[np.ndarray, "_ F"]]) -> list[Float[np.ndarray, "_ F"]]:
    """The same of each of several stretches, beside the loudest frame of all of them."""
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
    """(mask, its standard deviation, P(music)) as the labels alone settle them, to be filled in where they do not.

    What is labelled as neither speech nor music goes to the music, whose stem holds all that is not speech.
    """
    mask = np.repeat(given.speech[:, None].astype(np.float32), n_bins, axis=1)
    return mask, np.zeros_like(mask), given.only_music.astype(np.float32)


def speech_share(speech: Float[ArrayLike, "T F"], x: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T F"]:
    """The share of speech in the magnitudes x: a mask. Silence has no shares, and is given to the speech."""
    return np.where(x > 0, np.asarray(speech) / np.maximum(x, 1e-9), 1.0)


DOUBTED = 0.75
"""P(music) of a detector, up to which an inference that hardly hears any music is believed rather than the detector."""


def without_faint(
    mask: Float[np.ndarray, "T F"], x: Float[np.ndarray, "T F"], given: Given, frame_rate: float, faint: float | None
) -> Float[np.ndarray, "T F"]:
    """A mask that gives the speech all of the frames in which so little music was inferred that there is likely none.

    Args:
        mask: the share of speech, whatever settled it.
        x: magnitudes of the mixture, consecutive frames.
        given: what is known of each frame; nothing but what was inferred is changed.
        frame_rate: frames a second.
        faint: by how many decibels the energy of the music lies below that of the mixture there, over about a second; None: never.
    """
    if faint is None:
        return mask
    reach = 2 * round(frame_rate / 2) + 1
    energy = uniform_filter1d(np.stack([((1 - mask) * x) ** 2, x**2]).sum(2, dtype=np.float64), reach, axis=1, mode="nearest")
    passes = given.target & (given.p_music < DOUBTED) & (energy[0] < 10 ** (-faint / 10) * energy[1])
    return np.where(passes[:, None], np.float32(1), mask)


def passed(mask: Float[np.ndarray, "T F"], faint: float | None) -> Bool[np.ndarray, " T"]:
    """Frames that are all speech, be it for what is known of them or by `without_faint`: nothing is left to be unsure of."""
    return np.zeros(len(mask), bool) if faint is None else (mask == 1).all(1)


def sharpen(mask: Float[np.ndarray, "T F"], power: float) -> Float[np.ndarray, "T F"]:
    """The mask that goes with magnitudes to a power: 1 leaves the share as it is, 2 makes that of energies (a Wiener filter).

    A share of magnitudes says how loud a source is; of waveforms, whose phases differ, something sharper loses less.
    """
    return mask if power == 1 else special.expit(power * special.logit(np.clip(mask, 0, 1)))


def label_frames(
    p_music: Float[np.ndarray, " T"], mask: Float[np.ndarray, "T F"], magnitudes: Float[np.ndarray, "T N"], frame_rate: float
) -> list[str]:
    """A label for each frame, as the posterior says; `timeline.complete` puts those of a person in their place.

    Music where it is more probable than not; speech where it has at least a tenth of the magnitude over half a second.
    `frame_rate` is frames a second.
    """
    modelled = magnitudes[:, : mask.shape[1]]
    n = max(1, round(frame_rate / 2))
    window = np.ones(min(n, len(mask))) / n
    level = np.convolve(modelled.sum(1), window, "same")
    share = np.convolve((mask * modelled).sum(1), window, "same") / np.maximum(level, 1e-12)
    music = p_music > 0.5
    return np.where(music & (share > 0.1), BOTH, np.where(music, MUSIC, SPEECH)).tolist()
