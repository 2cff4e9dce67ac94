"""Where in a recording speech sounds, and where music: what `bayessep.cleaning` begins with."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bayessep import timeline
from bayessep.separators import Progress, silent


class Detection(NamedTuple):
    """What is on when, and how sure that is."""

    segments: list[timeline.Segment]  # cover the recording; labels speech, music, speech+music, silence; probability each
    hop: float  # seconds between frames of the next two
    speech: Float[np.ndarray, " T"]  # calibrated P(speech sounds), alone or over music
    music: Float[np.ndarray, " T"]  # calibrated P(music sounds)
    duration: float  # seconds


def detect(path: Path, *, progress: Progress = silent) -> Detection:
    """Find the speech and the music of a recording."""
    raise NotImplementedError
