"""Gibbs sampling: conditionals are read as draws, the local step is a draw too. Exact in the limit; the yardstick of the others.

The data must be whole numbers of counts (the sources are split by multinomial draws), and every weight must be one.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from bayessep.inference import conjugate
from bayessep.inference.conjugate import Schedule
from bayessep.inference.loop import Algorithm

# One local draw a sweep: given the split counts, all blocks are drawn one after the other.
_ONE_GROUP = Schedule(groups=(("excitations", "gain", "templates", "filter", "catalogue"),))


def gibbs(
    module: Any, problem: Any, initial: Callable[..., Any], *, readings: Any = None, schedule: Schedule = _ONE_GROUP
) -> Algorithm:
    """The pair (init, step) of a Gibbs sampler; run it with `loop.collect`.

    The `schedule` names the blocks, those of the jingle mixture if it is left out; a local draw is taken before each group.

    Blocks read as ``"fixed"`` are points, and stay at the mean that they start with. The objective of its Info is the log joint
    density up to a constant, for watching, not for stopping.

    Raises ValueError where the problem is pruned to candidates: a sampler that never visits the others is not exact. And where a
    block with a flat prior would be drawn: in a frame without music nothing holds its gain, which is drawn beyond all bounds, and
    no music ever fits it again. And where the data are no counts: nothing would be drawn of what is left over of whole ones.
    """
    if problem.candidates is not None:
        raise ValueError("a Gibbs sampler visits every entry of the catalogue: build the problem with candidates=None")
    if readings is None:
        readings = module.Blocks(*("sample" for _ in module.Blocks._fields))
    try:
        flat = [name for name, is_flat in module.flat(problem)._asdict().items() if is_flat and getattr(readings, name) == "sample"]
    except jax.errors.TracerArrayConversionError:  # in a function that is being compiled, nobody can tell
        flat = []
    if flat and problem.has_music:
        raise ValueError(f"blocks with flat priors ({', '.join(flat)}) cannot be drawn: give them shapes, or read them as fixed")
    with suppress(jax.errors.TracerArrayConversionError):
        _check_counts(problem)
    return conjugate.algorithm(module, problem, initial, readings=readings, schedule=schedule, sampled=True, fixed="log_mode")


def _check_counts(problem: Any) -> None:
    frames = getattr(problem, "frames", None)
    if frames is None:
        return
    x, weight = np.asarray(frames.x), np.asarray(frames.weight)
    if (x != np.floor(x)).any() or (weight != 1).any():
        raise ValueError("a Gibbs sampler splits counts: the data must be whole numbers, and every frame's weight one")
