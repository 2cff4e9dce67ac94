"""Scores of speech and music detection: by label, by frame, by segment, and calibration of probabilities.

No score is NaN. A class that is never predicted has precision 0, one that never occurs has recall 0, and one that does neither has
F1 0; `ClassScores` defines which classes then count in a mean. (`segment_scores` follows pyannote.metrics, which gives 1 there.)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from bayessep.errors import UserError
from bayessep.extras import library
from bayessep.timeline import BOTH, MUSIC, NOISE, SPEECH, UNLABELLED, Segment, fill_gaps, frame_switches, in_our_words, merge

# --- labels --------------------------------------------------------------------------------------------------------------


class ClassScores(NamedTuple):
    """Scores of each class, in the order of `classes`, from 0 to 1."""

    classes: tuple[Hashable, ...]
    precision: Float[np.ndarray, " C"]
    recall: Float[np.ndarray, " C"]
    f1: Float[np.ndarray, " C"]
    support: Int[np.ndarray, " C"]  # number of occurrences in truth
    predicted: Int[np.ndarray, " C"]  # and in the prediction

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur in truth or prediction; 0 if none does."""
        return _mean(self.f1, self.support + self.predicted > 0)

    @property
    def true_f1(self) -> float:
        """Mean F1 of the classes that occur in truth; NaN if none does."""
        return float(self.f1[self.support > 0].mean()) if self.support.any() else float("nan")

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that occur in truth; 0 if none does. The accuracy of paper 003."""
        return _mean(self.recall, self.support > 0)


def class_scores(
    truth: Shaped[np.ndarray, " _"] | Sequence[Hashable],
    predicted: Shaped[np.ndarray, " _"] | Sequence[Hashable],
    classes: Sequence[Hashable] | None = None,
) -> ClassScores:
    """Return precision, recall and F1 of each class, for one label per example.

    Args:
        truth, predicted: labels, such as numbers or words.
        classes: those to score, in this order; None for all that occur, sorted. An example with another true label still counts as
            a false alarm if it is predicted to be one of these.

    Raises:
        UserError: truth and prediction differ in length.
    """
    true, found = np.asarray(truth), np.asarray(predicted)
    if true.shape != found.shape:
        raise UserError(f"{len(true)} true labels and {len(found)} predicted ones cannot be compared; give as many of both.")
    names = sorted({*true.tolist(), *found.tolist()}) if classes is None else list(classes)
    is_true = np.array([true == name for name in names], bool).reshape(len(names), len(true))
    is_found = np.array([found == name for name in names], bool).reshape(len(names), len(true))
    return _of_counts(tuple(names), *(a.sum(1) for a in (is_true & is_found, is_true, is_found)))


def _of_counts(
    classes: tuple[Hashable, ...], hits: Int[np.ndarray, " C"], support: Int[np.ndarray, " C"], predicted: Int[np.ndarray, " C"]
) -> ClassScores:
    f1 = _share(2 * hits, support + predicted)
    return ClassScores(classes, _share(hits, predicted), _share(hits, support), f1, support, predicted)


def _share(part: Int[np.ndarray, " C"], whole: Int[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def _mean(values: Float[np.ndarray, " C"], which: Bool[np.ndarray, " C"]) -> float:
    return float(values[which].mean()) if which.any() else 0.0


# --- frames --------------------------------------------------------------------------------------------------------------


class FrameScores(NamedTuple):
    """Frame scores of a recording; frames that the reference leaves unlabelled do not count."""

    each: ClassScores  # speech and music; a frame with both counts for both
    exclusive: ClassScores  # speech, music, speech+music: a frame has at most one of them
    frames: int  # number of frames scored


def frame_scores(
    reference: Sequence[Segment], estimate: Sequence[Segment], duration: float | int, hop: float | int = 0.010
) -> FrameScores:
    """Score an estimated timeline frame by frame.

    Frames are `hop` seconds long and labelled at their middle. Gaps between segments of the reference are unlabelled; fill them
    with noise (`bayessep.timeline.fill_gaps`) if they are known to be neither class. Gaps in the estimate are neither class, and so
    are segments with an unknown label.

    Raises:
        UserError: the duration or the hop is not positive.
        ValueError: segments overlap; `bayessep.timeline.flatten` turns them into a timeline.
    """
    if not (duration > 0 and hop > 0):
        raise UserError(f"{duration} s in frames of {hop} s cannot be scored; give positive numbers.")
    times = (np.arange(max(1, round(duration / hop))) + 0.5) * hop
    true, found = (frame_switches(in_our_words(segments, NOISE), times) for segments in (reference, estimate))
    counts = true.labelled
    on = [np.stack([s.speech, s.music])[:, counts] for s in (true, found)]
    each = _of_counts((SPEECH, MUSIC), *(a.sum(1) for a in (on[0] & on[1], *on)))
    names = np.array([NOISE, SPEECH, MUSIC, BOTH])
    labels = (names[1 * speech + 2 * music] for speech, music in on)
    return FrameScores(each, class_scores(*labels, classes=(SPEECH, MUSIC, BOTH)), int(counts.sum()))


# --- segments ------------------------------------------------------------------------------------------------------------


class SegmentScores(NamedTuple):
    """Scores of the time during which a class is on."""

    error: float  # detection error rate: seconds of misses and false alarms per second of the class; may exceed 1
    precision: float
    recall: float
    f1: float


def segment_scores(
    reference: Sequence[Segment], estimate: Sequence[Segment], duration: float | int, *, collar: float | int = 0.0
) -> dict[str, SegmentScores]:
    """Score speech and music in an estimated timeline by exact segment times (pyannote.metrics).

    Speech+music counts as speech and as music. Unlabelled time of the reference does not count, as in `frame_scores`. For a class
    that is absent, pyannote's values are kept: an error of 0, and precision and recall of 1, if it is not predicted either; an
    error of 1 and precision of 0 if it is.

    Args:
        reference, estimate: timelines.
        duration: duration of the recording in seconds.
        collar: seconds around each reference boundary that are not scored, half before it and half after.

    Raises:
        UserError: pyannote.metrics is not installed, or the duration is not positive or the collar negative.
    """
    if not (duration > 0 and collar >= 0):
        raise UserError(f"{duration} s with collars of {collar} s cannot be scored; give positive numbers.")
    reference, estimate = (in_our_words(segments, NOISE) for segments in (reference, estimate))
    core = library("pyannote.core", "detection")
    detection = library("pyannote.metrics.detection", "detection", package="pyannote.metrics")

    def annotation(segments: Sequence[Segment], label: str) -> Any:
        made = core.Annotation()
        on = [s._replace(label=label, probability=None) for s in segments if s.label in (label, BOTH)]
        for n, s in enumerate(merge(on)):  # no boundary where only the other class starts or stops
            made[core.Segment(s.start, s.end), n] = label
        return made

    known = [core.Segment(s.start, s.end) for s in fill_gaps(reference, duration) if s.label != UNLABELLED]
    scored = core.Timeline(known).support()
    found = {}
    for label in (SPEECH, MUSIC):
        pair = annotation(reference, label), annotation(estimate, label)
        error, precision, recall = (
            float(metric(collar=float(collar))(*pair, uem=scored))
            for metric in (detection.DetectionErrorRate, detection.DetectionPrecision, detection.DetectionRecall)
        )
        both = precision + recall
        found[label] = SegmentScores(error, precision, recall, 2 * precision * recall / both if both > 0 else 0.0)
    return found


# --- probabilities -------------------------------------------------------------------------------------------------------


class Reliability(NamedTuple):
    """Points of a reliability diagram: how often an event occurs that is predicted with a given probability."""

    error: float  # expected calibration error: the mean of |probability - frequency| over bins, weighted by counts
    edges: Float[np.ndarray, "K+1"]  # of the bins; a bin includes its upper edge
    probability: Float[np.ndarray, " K"]  # mean in each bin; the middle of an empty bin
    frequency: Float[np.ndarray, " K"]  # observed in each bin; the middle of an empty bin
    counts: Int[np.ndarray, " K"]


def reliability(probabilities: Float[np.ndarray, " _"], truth: Bool[np.ndarray, " _"], bins: int = 15) -> Reliability:
    """Measure the calibration of one class's probabilities (Naeini, Cooper, Hauskrecht 2015), in bins of equal width.

    Raises:
        UserError: there are no probabilities, one is not between 0 and 1, truth differs in length, or there is no bin.
    """
    p = np.asarray(probabilities, np.float64)
    if len(p) == 0 or len(p) != len(truth) or bins < 1:
        raise UserError(
            f"{len(p)} probabilities of {len(truth)} truths in {bins} bins have no calibration; give equally many, at least one."
        )
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"{p[~((p >= 0) & (p <= 1))][0]} is not a probability; it must lie between 0 and 1.")
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], p)
    counts, sums, trues = (np.bincount(bin_of, weights, bins) for weights in (None, p, np.asarray(truth, np.float64)))
    middles, some = (edges[1:] + edges[:-1]) / 2, np.maximum(counts, 1)
    probability, frequency = (np.where(counts > 0, of / some, middles) for of in (sums, trues))
    error = float(np.sum(counts * np.abs(probability - frequency)) / len(p))
    return Reliability(error, edges, probability, frequency, counts.astype(np.int64))
