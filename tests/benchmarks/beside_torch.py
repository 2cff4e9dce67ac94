"""What rows beside torch share: it is there, it has all cores, and the two sides compute the same.

The extra `bench` brings torch; without it those rows are left out, with that reason.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bayessep.devices import cores
from bayessep.extras import library

SAME = 1e-3
"""The largest difference of outputs, as a share of their peak, and of losses, as a share of the loss."""

Side = Callable[[], object]


class Compared(NamedTuple):
    """Two sides of a row that do the same, and the difference of what they say as a share of its peak."""

    ours: Side
    theirs: Side
    difference: float


def same(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, as a share of the peak.

    Raises:
        SystemExit: it is too large for two that compute the same.
    """
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference < SAME:
        raise SystemExit(f"the two networks do not compute the same: they differ by {difference:.1e} of the peak.")
    return difference


def torch_on_all_cores() -> Any:
    """The module torch.

    Raises:
        UserError: it is not installed.
    """
    torch = library("torch", "bench")
    torch.set_num_threads(cores())
    return torch
