"""Labelled segments of speech and music, and their conversion to and from frames.

A timeline is a list of segments in order and without overlaps; where speech and music sound together, one
segment is labelled ``speech+music``. `bayessep.segments` reads and writes them.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from bayessep.errors import UserError

SPEECH, MUSIC, BOTH = "speech", "music", "speech+music"
SILENCE, NOISE, UNLABELLED = "silence", "noise", "unlabelled"  # noise: neither speech nor music


class Segment(NamedTuple):
    """A labelled stretch of time, ``start <= t < end``, in seconds.

    ``probability`` is a detector's posterior of the label, None where a person gave it.
    """

    start: float
    end: float
    label: str
    probability: float | None = None


# ----------------------------------------------------------------------------------------------------- labels

# Other names of the labels, in lower case; spaces, dashes and underscores between words are equivalent.
ALIASES = {
    SPEECH: "speech s sp voice voiced talk talking spoken speaker male female",
    MUSIC: "music m mu jingle instrumental song",
    BOTH: "mixed mixture mix both overlap sm ms s+m speech+music music+speech speech&music speechmusic "
    "speech-music music-speech speech-over-music speech-with-music speech-and-music",
    SILENCE: "silence sil noenergy pause",
    NOISE: "noise n",
    UNLABELLED: "unlabelled unlabeled unknown",
}
_CANONICAL = {alias.replace("-", " "): label for label, aliases in ALIASES.items() for alias in aliases.split()}


def canonical(label: str) -> str | None:
    """Return the project's name for a label found in a file, None if it is unknown."""
    words = re.sub(r"\s*([+&])\s*", r"\1", re.sub(r"[\s_-]+", " ", label.strip().lower()))
    return _CANONICAL.get(words)


# ------------------------------------------------------------------------------------------ lists of segments


def _when(segment: Segment) -> tuple[float, float, str]:
    """Return the sort key of a segment."""
    return segment[:3]


def merge(segments: Iterable[Segment], gap: float | int = 0.0) -> list[Segment]:
    """Join neighbouring segments of the same label that lie at most ``gap`` seconds apart.

    Probabilities are averaged, weighted by duration; the result has none if one of the parts has none.
    """
    merged: list[Segment] = []
    for s in sorted(segments, key=_when):
        last = merged[-1] if merged else None
        if last is not None and last.label == s.label and s.start - last.end <= gap + 1e-9:
            merged[-1] = Segment(last.start, max(last.end, s.end), s.label, _average(last, s))
        else:
            merged.append(s)
    return merged


def _average(a: Segment, b: Segment) -> float | None:
    if a.probability is None or b.probability is None:
        return None
    first, second = a.end - a.start, b.end - b.start
    return (first * a.probability + second * b.probability) / (first + second)


_TOUCHING = 1e-6
"""Gaps of up to so many seconds are rounding errors; label files have no finer resolution."""


def fill_gaps(segments: Iterable[Segment], duration: float | int, label: str = UNLABELLED) -> list[Segment]:
    """Cover 0 to ``duration`` seconds: gaps become segments of ``label``, and what lies beyond is cut off.

    A gap of at most a microsecond is added to the segment before it, or after it at the beginning.
    """
    covered: list[Segment] = []
    at, duration = 0.0, float(duration)
    for s in sorted(segments, key=_when):
        if s.start >= duration:
            break
        if s.start - at > _TOUCHING:
            covered.append(Segment(at, s.start, label))
        elif covered:
            covered[-1] = covered[-1]._replace(end=s.start)
        else:
            s = s._replace(start=0.0)
        covered.append(s._replace(end=min(s.end, duration)))
        at = covered[-1].end
    if 0 < duration - at <= _TOUCHING and covered:
        covered[-1] = covered[-1]._replace(end=duration)
        return covered
    return [*covered, Segment(at, duration, label)] if at < duration else covered


def total(segments: Iterable[Segment], label: str) -> float:
    """Return the total duration of the segments with exactly this label, in seconds."""
    return float(sum(s.end - s.start for s in segments if s.label == label))


def flatten(segments: Iterable[Segment]) -> list[Segment]:
    """Resolve overlaps: speech with music becomes ``speech+music``, several overlapping voices become speech.

    Where neither is on, the first of noise, silence, unlabelled wins. The probability of an overlap is the
    minimum over its parts, an upper bound on that of their conjunction. Touching segments of equal label and
    probability are joined.
    """
    waiting = sorted(segments, key=_when)
    boundaries = sorted({t for s in waiting for t in (s.start, s.end)})
    pieces: list[Segment] = []
    active: list[Segment] = []
    upcoming = 0
    for left, right in zip(boundaries, boundaries[1:], strict=False):
        while upcoming < len(waiting) and waiting[upcoming].start <= left:
            active.append(waiting[upcoming])
            upcoming += 1
        active = [s for s in active if s.end > left]
        if not active:
            continue
        label = _together({s.label for s in active})
        parts = (SPEECH, MUSIC, BOTH) if label == BOTH else (label,)
        shared = [s.probability for s in active if s.label in parts]
        probability = None if None in shared else min(p for p in shared if p is not None)
        last = pieces[-1] if pieces else None
        if last is not None and (last.end, last.label, last.probability) == (left, label, probability):
            pieces[-1] = last._replace(end=right)
        else:
            pieces.append(Segment(left, right, label, probability))
    return pieces


def _together(labels: set[str]) -> str:
    if BOTH in labels or {SPEECH, MUSIC} <= labels:
        return BOTH
    known = [label for label in (SPEECH, MUSIC, NOISE, SILENCE, UNLABELLED) if label in labels]
    return known[0] if known else min(labels)


def ordered(segments: Iterable[Segment]) -> list[Segment]:
    """Sort segments by time, and check that they form a timeline.

    Raises:
        ValueError: segments overlap or end before they start, or a label holds a tab or a line break.
    """
    timeline = sorted(segments, key=_when)
    for s in timeline:
        if not 0 <= s.start < s.end:
            raise ValueError(f"a segment must have 0 <= start < end, not {s}")
        if not s.label.isprintable():
            raise ValueError(f"a label is one line of printable text, not {s.label!r}")
    for s, following in zip(timeline, timeline[1:], strict=False):
        if following.start < s.end - 1e-9:
            raise ValueError(f"{following} begins before {s} has ended")
    return timeline


# ----------------------------------------------------------------------------------------------------- frames


def in_our_words(segments: Iterable[Segment], otherwise: str | None = None) -> list[Segment]:
    """Replace the labels, which may be any of `ALIASES`, by the project's names.

    Raises:
        UserError: a label is unknown, and no label to use `otherwise` is given.
    """
    found = []
    for s in segments:
        if (label := canonical(s.label) or otherwise) is None:
            at = f"from {s.start:g} to {s.end:g} s"
            raise UserError(f"the label {s.label!r} {at} is not known; use one of {', '.join(ALIASES)}.")
        found.append(s._replace(label=label))
    return found


class Switches(NamedTuple):
    """Activity of speech and music in each frame. Where ``labelled`` is false, it is unknown and the other two are false."""

    speech: Bool[np.ndarray, " T"]
    music: Bool[np.ndarray, " T"]
    labelled: Bool[np.ndarray, " T"]


def frame_switches(segments: Sequence[Segment], times: Float[np.ndarray, " T"]) -> Switches:
    """Sample segments without overlaps at frame centres, in seconds; labels may be any of `ALIASES`.

    Raises:
        UserError: a label is unknown: its frames would be misread.
    """
    timeline = in_our_words(ordered(segments))
    code = {SPEECH: (True, False, True), MUSIC: (False, True, True), BOTH: (True, True, True)}
    # Row 0 is for frames outside all segments.
    table = [
        (False, False, False),
        *(code.get(s.label, (False, False, s.label != UNLABELLED)) for s in timeline),
    ]
    row = np.searchsorted([s.start for s in timeline], times, side="right")
    ends = np.array([-np.inf, *(s.end for s in timeline)])
    row = np.where(times < ends[row], row, 0)
    speech, music, labelled = np.array(table, bool)[row].T
    return Switches(speech, music, labelled)


def labels_at(segments: Sequence[Segment], times: Float[np.ndarray, " T"]) -> list[str]:
    """Return the label at each time, from segments without gaps; "" before the first."""
    starts = np.array([s.start for s in segments])
    return [segments[n].label if n >= 0 else "" for n in np.searchsorted(starts, times, side="right") - 1]


def runs(on: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Return the runs of true frames as half-open intervals (start, stop)."""
    steps = np.diff(on.astype(int), prepend=0, append=0)
    return list(zip(np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist(), strict=True))


def from_frames(
    labels: Sequence[str],
    times: Float[np.ndarray, " T"],
    duration: float | int,
    *,
    min_duration: float | int = 0.0,
    probabilities: Float[np.ndarray, " T"] | None = None,
) -> list[Segment]:
    """Convert frame labels to segments that cover 0 to ``duration`` seconds.

    The boundary of neighbouring frames is half way between their centres. A run shorter than ``min_duration`` is
    merged into the run before it, at the beginning into the one after it. ``probabilities`` are those of the frame
    labels; the probability of a segment is their mean over its frames that carry its label.

    Raises:
        ValueError: the numbers of labels, times and probabilities differ, or there are none.
    """
    count = len(labels)
    if count == 0 or len(times) != count or (probabilities is not None and len(probabilities) != count):
        raise ValueError(f"{count} labels need as many times and probabilities, and at least one")
    changes = [n for n in range(1, count) if labels[n] != labels[n - 1]]
    kept: list[tuple[int, float, str]] = []  # (first frame, start, label)
    start = 0.0
    for first, after in zip([0, *changes], [*changes, count], strict=True):
        end = float(duration) if after == count else float(times[after - 1] + times[after]) / 2
        if end - start < min_duration and (kept or after < count):
            if not kept:
                continue  # too short, and nothing before it: the next run begins where this one did
        elif not kept or kept[-1][2] != labels[first]:
            kept.append((0 if not kept else first, start, labels[first]))
        start = end
    segments = []
    for (first, start, label), (after, end, _) in zip(kept, [*kept[1:], (count, float(duration), "")], strict=True):
        sure = None
        if probabilities is not None:
            sure = float(np.mean([probabilities[n] for n in range(first, after) if labels[n] == label]))
        segments.append(Segment(start, end, label, sure))
    return segments


def complete(
    given: Sequence[Segment],
    labels: Sequence[str],
    times: Float[np.ndarray, " T"],
    duration: float | int,
    *,
    min_duration: float | int = 0.0,
) -> list[Segment]:
    """Complete the given segments, under the project's names, by frame labels (`from_frames`) in the gaps.

    Given segments labelled ``unlabelled`` count as gaps; neighbours of the same label are joined.
    """
    segments: list[Segment] = []
    for s in fill_gaps([s for s in in_our_words(given) if s.label != UNLABELLED], duration):
        if s.label != UNLABELLED:
            segments.append(s)
            continue
        inside = np.flatnonzero((s.start <= times) & (times < s.end)).tolist()
        inside = inside or [int(np.argmin(np.abs(times - s.start)))]  # shorter than a frame
        found = from_frames([labels[n] for n in inside], times[inside] - s.start, s.end - s.start, min_duration=min_duration)
        segments += [f._replace(start=f.start + s.start, end=f.end + s.start) for f in found]
    return merge(segments)
