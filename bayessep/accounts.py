"""What there is to say about a separation besides its sound, as ``separation.json`` holds it."""

from typing import Any

from bayessep.pipeline import Separation
from bayessep.streaming import LongSeparation


def of_separation(result: Separation) -> dict[str, Any]:
    """The account of a recording that was taken apart as a whole."""
    return {
        "bound": result.bound,
        "trace": result.trace,
        "sweeps": result.steps,
        "converged": result.converged,
        "seconds": result.seconds,
        "period_seconds": result.period,
        "frames": _frames(result),
        "gain": result.gain,
        "frequencies": result.frequencies,
        "filter": result.filter,
        "segments": [s._asdict() for s in result.segments],
        "notes": list(result.notes),
    }


def of_long_separation(result: LongSeparation) -> dict[str, Any]:
    """The same of one that was worked on in pieces: bound, filter and gain are those of pieces, and there is none for all."""
    return {
        "bound": None,
        "trace": result.trace,
        "sweeps": len(result.trace),
        "converged": None,
        "seconds": result.seconds,
        "period_seconds": None,
        "frames": _frames(result),
        "gain": None,
        "frequencies": None,
        "filter": None,
        "segments": [s._asdict() for s in result.segments],
        "notes": list(result.notes),
    }


def _frames(result: Separation | LongSeparation) -> dict[str, Any]:
    times = result.times
    return {"hop_seconds": float(times[1] - times[0]) if len(times) > 1 else None, "times": times, "p_music": result.p_music}
