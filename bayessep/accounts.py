"""Write a separation to files: stems and labels, and the contents of ``separation.json``."""

from pathlib import Path
from typing import Any

import numpy as np

from bayessep import audio, segments
from bayessep.pipeline import Separation
from bayessep.streaming import LongSeparation

FILES = {"speech": "speech.wav", "music": "music.wav", "labels": "labels.csv", "details": "separation.json"}
"""Files in the folder of a separation."""


def write(folder: Path, result: Separation, sample_rate: int, gain: float) -> None:
    """Write the stems, times `gain`, and the labels."""
    for stem in ("speech", "music"):
        audio.write(folder / FILES[stem], getattr(result, stem) * np.float32(gain), sample_rate)
    segments.write(folder / FILES["labels"], result.segments)


def of_separation(result: Separation) -> dict[str, Any]:
    """Return the contents of ``separation.json`` for a recording that was separated as a whole."""
    return _common(result) | {
        "bound": result.bound,
        "sweeps": result.steps,
        "converged": result.converged,
        "period_seconds": result.period,
        "gain": result.gain,
        "frequencies": result.frequencies,
        "filter": result.filter,
    }


def of_long_separation(result: LongSeparation) -> dict[str, Any]:
    """Return the same for a recording separated in blocks; null stands for what exists per block, if at all."""
    unknown = ("bound", "sweeps", "converged", "period_seconds", "gain", "frequencies", "filter")
    return _common(result) | dict.fromkeys(unknown)


def _common(result: Separation | LongSeparation) -> dict[str, Any]:
    times = result.times
    hop = float(times[1] - times[0]) if len(times) > 1 else None
    return {
        "trace": result.trace,
        "seconds": result.seconds,
        "frames": {"hop_seconds": hop, "times": times, "p_music": result.p_music},
        "segments": [s._asdict() for s in result.segments],
        "notes": list(result.notes),
    }
