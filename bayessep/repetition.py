"""Find the repetition of partly known music in a mixture: its period, and an estimate of its unknown part.

The known frames are correlated with the mixture at every position; the correlation peaks wherever they are played, so its period is
that of the music. There, the ratio of the mixture to the known frames gives the music's gain (fades) and equalisation. The rest of
the period is then estimated from its repeats, bin by bin: not as their median (as in REPET), which over three or four repeats is
half speech, but at most as nearly their minimum, and less where speech is so loud that even this is uninformative. All results
serve as prior means and starting values, from which the model learns.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int
from scipy.ndimage import median_filter, uniform_filter1d

_FINE = 5  # bins
_USUAL = 0.3  # quantile of mixture-to-known ratios taken as the music's: speech only adds to them, except by phase cancellation


class Repetition(NamedTuple):
    """A period in frames, with the estimated unknown frames of it, in playing order after the known ones."""

    period: int
    first: int  # frame in which the known part first starts, counted from the first frame of the mixture, gaps included
    missing: Float[np.ndarray, "L F"]  # unknown frames of the period, without those never played in a frame of the mixture
    score: float  # autocorrelation of `similarity` at the period, relative to its variance; about 1 at most
    gain: Float[np.ndarray, " T"]  # of the music around each frame, relative to the known part
    filter: Float[np.ndarray, " F"]  # equalisation of the music, normalised to keep the known part's mean level


def fine_structure(x: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "T F"]:
    """Return the spectral fine structure by which music is recognised: peaks relative to their neighbourhood.

    It is the log magnitude minus its mean over `_FINE` bins, which removes loudness and any smooth filter, and minus its mean over
    time, which removes a steady hum. Weak music shows in it between the harmonics of speech.
    """
    level = np.log(x + 0.01 * x.mean())
    fine = level - uniform_filter1d(level, _FINE, axis=1, mode="nearest")
    return fine - fine.mean(0)


def similarity(a: Float[np.ndarray, "T F"], b: Float[np.ndarray, "K F"]) -> Float[np.ndarray, " n"]:
    """Return the normalised correlation of the fine structures of a mixture, a, and known frames, b, for every possible start."""
    return _normalised(scipy.signal.oaconvolve(a, b[::-1], mode="valid", axes=0).sum(1), (a**2).sum(1), b)


def _of_few(a: Float[np.ndarray, "T F"], energy: Float[np.ndarray, " T"], b: Float[np.ndarray, "K F"]) -> Float[np.ndarray, " n"]:
    """`similarity` for few known frames, many times faster; `energy` is that of each frame of a."""
    n, frames = len(a) - len(b) + 1, a @ b.T
    products = np.sum([frames[k : n + k, k] for k in range(len(b))], axis=0)
    return _normalised(products, energy, b)


def _normalised(
    products: Float[np.ndarray, " n"], energy: Float[np.ndarray, " T"], b: Float[np.ndarray, "K F"]
) -> Float[np.ndarray, " n"]:
    norm = np.sqrt(np.convolve(energy, np.ones(len(b)), mode="valid") * (b**2).sum())
    # Where there are no frames, the products are nothing but rounding errors.
    return np.where(norm > 1e-5 * norm.max(initial=0.0), products, 0) / np.maximum(norm, 1e-12)


def find(
    mixture: Float[np.ndarray, "T F"],
    known: Float[np.ndarray, "K F"],
    align: bool = True,
    weigh: bool = True,
    times: Int[np.ndarray, " T"] | None = None,
    *,
    threshold: float = 0.5,
) -> Repetition | None:
    """Find the period of the known music in the mixture; None if it does not repeat clearly, or the mixture is too short.

    Args:
        mixture: frames to search.
        known: consecutive frames of the music.
        align: estimate gain and filter, which are 1 otherwise.
        weigh: estimate missing frames from their repeats and from the statistics of the known part; otherwise by the median of
            their repeats.
        times: index in time of each frame of the mixture, ascending; nothing is known of the frames in between. By default the
            frames are consecutive.
        threshold: least autocorrelation of `similarity` at the period, relative to its variance.
    """
    times = np.arange(len(mixture)) if times is None else times - times[:1]
    length, n_known = int(times[-1]) + 1 if len(times) else 0, len(known)
    if n_known < 4 or length < 2 * n_known + 4:
        return None
    fine = np.zeros((length, mixture.shape[1]), mixture.dtype)
    fine[times] = fine_structure(mixture)  # absent frames stay zero, which correlates with nothing
    score = similarity(fine, fine_structure(known))
    centred = score - score.mean()
    longest = len(centred) // 2  # at least two periods to compare
    if longest <= n_known:
        return None
    raw = scipy.signal.correlate(centred, centred, mode="full", method="fft")[len(centred) - 1 :]
    # Dividing by the number of pairs makes lags comparable; adding 5 to that number damps chance peaks at long lags.
    strength = raw / (np.arange(len(centred), 0, -1) + 5) / max(centred.var(), 1e-12)
    lags = strength[n_known : longest + 1]
    if lags.max() <= 0:
        return None
    # Multiples of the period correlate as well as the period itself: take the first lag close to the best.
    near = np.flatnonzero(lags >= 0.85 * lags.max())
    first = near[: np.argmax(np.diff(near, append=near[-1] + 2) > 1) + 1]  # the lags of the first peak
    period = n_known + int(first[np.argmax(lags[first])])
    strongest = float(strength[period])
    if strongest < threshold:
        return None
    period = _refined(fine, period, least=n_known)
    start = int(np.argmax([score[p::period].mean() for p in range(period)])) if period <= len(score) else 0
    place: Int[np.ndarray, " T"] = (times - start) % period
    gain, filter = np.ones(len(mixture)), np.ones(mixture.shape[1])
    if align and (place < n_known).any():
        gain, filter = _played(mixture, known, times, place)
    alone = mixture / (gain[:, None] * filter[None, :])
    repeats = [alone[place == k] for k in range(n_known, period)]
    read = _weighed(alone, known) if weigh else _median
    rows = np.stack([read(x) for x in repeats if len(x)]) if any(map(len, repeats)) else np.zeros((0, mixture.shape[1]))
    dtype = mixture.dtype
    return Repetition(period, start, rows.astype(dtype), strongest, gain.astype(dtype), filter.astype(dtype))


def _refined(a: Float[np.ndarray, "T F"], period: int, *, least: int, within: int = 4) -> int:
    """The lag near `period` at which the mixture's fine structure, a, has its highest normalised autocorrelation."""

    def alike(lag: int) -> float:
        here, there = a[lag:], a[:-lag]
        return float((here * there).sum() / np.sqrt(max((here**2).sum() * (there**2).sum(), 1e-24)))

    return max(range(max(period - within, least), min(period + within + 1, len(a) - 1)), key=alike)


def _played(
    mixture: Float[np.ndarray, "T F"], known: Float[np.ndarray, "K F"], times: Int[np.ndarray, " T"], place: Int[np.ndarray, " T"]
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " F"]]:
    """Estimate the music's gain per frame, and its filter, where the known part is played (`place`: position in the period).

    Speech raises the ratio of the mixture to the known part, so a low quantile is taken: alternately over the loud bins of a frame
    for its gain, and over the loud frames of a bin for the filter. Between the known parts the gain is interpolated.
    """
    margin = min(2, (len(known) - 1) // 2)  # the outermost known frames partly hold silence
    here = (place >= margin) & (place < len(known) - margin)
    if not here.any():
        here = place < len(known)
    x, c, times_here = mixture[here], known[place[here]], times[here]
    loud_in_frame = c > c.mean(1, keepdims=True)
    loud_in_bin = c > 0.3 * c.mean(0, keepdims=True)
    gain, filter = np.ones(len(c)), np.ones(c.shape[1])
    for _ in range(4):
        gain = _low_ratio(x, c * filter[None, :], loud_in_frame, axis=1)
        gain = median_filter(gain, 9, mode="nearest")
        filter = _low_ratio(x, c * gain[:, None], loud_in_bin, axis=0)
        filter = np.exp(uniform_filter1d(np.log(filter), min(9, len(filter)), mode="nearest"))
    level = np.average(filter, weights=known.mean(0) + 1e-12)
    return np.exp(np.interp(times, times_here, np.log(gain * level))), filter / level


def _low_ratio(x: np.ndarray, rate: np.ndarray, counts: np.ndarray, *, axis: int) -> np.ndarray:
    """The `_USUAL` quantile of x / rate along an axis over the cells in `counts` with a positive rate; 1 if there are none."""
    ratio = np.where(counts & (rate > 0), x / np.maximum(rate, 1e-12), np.inf)
    n = np.isfinite(ratio).sum(axis)
    # Cells that do not count are infinite and sort last.
    at = np.expand_dims((_USUAL * np.maximum(n - 1, 0)).astype(int), axis)
    low = np.take_along_axis(np.sort(ratio, axis), at, axis).squeeze(axis)
    return np.clip(np.where(n > 0, low, 1.0), 1e-3, 1e3)


# --- every part of the music once ----------------------------------------------------------------------------------------

_CHUNK = 32  # frames compared at once: half a second


def distinct(
    stretches: Sequence[Float[np.ndarray, "_ F"]], mixture: Float[np.ndarray, "T F"], most: int, alike: float = 0.7
) -> list[Float[np.ndarray, "_ F"]]:
    """Return stretches of music without repeats: parts of those given, of the longest first, in playing order within each.

    Chunks whose `similarity` to the frames kept so far reaches `alike` are left out. If more than `most` frames remain, the chunks
    most similar to the mixture are kept.
    """
    ordered = sorted((s for s in stretches if s.any()), key=len, reverse=True)
    if not ordered:
        return []
    everything = np.concatenate(ordered)
    fine = fine_structure(everything)
    energy = (fine**2).sum(1)
    kept: list[tuple[int, int]] = []
    first = 0
    for stretch in ordered:
        for start in range(first, first + len(stretch), _CHUNK):
            stop = min(start + _CHUNK, first + len(stretch))
            chunk = fine[start:stop]
            places = [slice(a, b) for a, b in _joined(kept) if b - a >= len(chunk)]
            if max((float(_of_few(fine[at], energy[at], chunk).max()) for at in places), default=0.0) < alike:
                kept.append((start, stop))
        first += len(stretch)
    if sum(b - a for a, b in kept) > most:
        fine_mixture = fine_structure(mixture)
        energy = (fine_mixture**2).sum(1)
        score = [float(_of_few(fine_mixture, energy, fine[a:b]).max()) if b - a <= len(mixture) else 0.0 for a, b in kept]
        best: list[tuple[int, int]] = []
        for n in np.argsort(score)[::-1]:
            if sum(b - a for a, b in best) + kept[n][1] - kept[n][0] <= most:
                best.append(kept[n])
        kept = sorted(best)
    edges = np.cumsum([len(stretch) for stretch in ordered]).tolist()
    return [everything[a:b] for a, b in _joined(kept, edges)]


def _joined(parts: Sequence[tuple[int, int]], edges: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Join adjacent parts, except at `edges`."""
    joined: list[tuple[int, int]] = []
    for start, stop in parts:
        if joined and joined[-1][1] == start and start not in edges:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined


# --- what the missing part sounds like -----------------------------------------------------------------------------------

_LEAST = 0.1  # quantile of the repeats of a bin that is taken as the upper bound of the music
_SPEECH_SHAPE = 0.5  # of the Gamma distribution of speech in a bin
_PLACES = np.linspace(0.02, 1.0, 30)[:, None]  # grid on which the density is evaluated, relative to that upper bound


def _median(repeats: Float[np.ndarray, "K F"]) -> Float[np.ndarray, " F"]:
    return np.median(repeats, axis=0)


def _weighed(alone: Float[np.ndarray, "T F"], known: Float[np.ndarray, "K F"]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from the repeats of a missing frame to its posterior mean, bin by bin.

    The prior of a bin is a Gamma distribution with the moments of that bin in the known part. Each repeat is music plus Gamma
    speech, whose mean is the excess of the whole mixture (filter and gain removed) over the known part.
    """

    def smooth(values: np.ndarray) -> np.ndarray:
        return uniform_filter1d(values, min(5, len(values)), mode="nearest")

    music, spread = smooth(known.mean(0)) + 1e-12, smooth(known.var(0)) + 1e-24
    shape = np.clip(music**2 / spread, 0.3, 5.0)
    speech = np.maximum(smooth(alone.mean(0)) - music, 0.02 * music) / _SPEECH_SHAPE

    def read(repeats: Float[np.ndarray, "K F"]) -> Float[np.ndarray, " F"]:
        values = _PLACES * np.quantile(repeats, _LEAST, axis=0)
        log_density = (shape - 1) * np.log(values + 1e-12) - values * shape / music
        for x in repeats:
            beside = np.maximum(x - values, 0) + 0.1 * x  # magnitudes add up only to within a tenth or so
            log_density += (_SPEECH_SHAPE - 1) * np.log(beside + 1e-12) - beside / speech
        density = np.exp(log_density - log_density.max(0))
        return (density * values).sum(0) / density.sum(0)

    return read
