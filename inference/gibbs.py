"""Gibbs sampling: conditionals are read as draws, and the local step is a draw too. Exact in the limit; a reference for the others.

The data must be integer counts (multinomial draws split them among the sources), and every frame weight must be one.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from bayessep.inference import conjugate
from bayessep.inference.conjugate import Schedule
from bayessep.inference.loop import Algorithm

# One local draw per sweep: given the split counts, all blocks are drawn one after the other.
_ONE_GROUP = Schedule(groups=(("excitations", "gain", "templates", "filter", "catalogue"),))


def gibbs(
    module: Any, problem: Any, initial: Callable[..., Any], *, readings: Any = None, schedule: Schedule = _ONE_GROUP
) -> Algorithm:
    """Return the pair (init, step) of a Gibbs sampler; run it with `loop.collect`.

    `schedule` names the blocks, by default those of the jingle mixture; a local draw is taken before each group.

    Blocks read as ``"fixed"`` are points and stay at the mean they start with. The objective in `Info` is the log joint density
    up to a constant: use it for monitoring, not for stopping.

    Raises:
        ValueError: the problem is pruned to candidates: a sampler that never visits the other entries is not exact.
        ValueError: a block with a flat prior would be drawn: in a frame without music nothing bounds its gain, which would grow
            until no music ever fits again.
        ValueError: the data are not integer counts, whose fractions no draw could attribute, or a frame weight is not one.
    """
    if problem.candidates is not None:
        raise ValueError("a Gibbs sampler visits every entry of the catalogue: build the problem with candidates=None")
    if readings is None:
        readings = module.Blocks(*("sample" for _ in module.Blocks._fields))
    try:
        flat = [name for name, is_flat in module.flat(problem)._asdict().items() if is_flat and getattr(readings, name) == "sample"]
    except jax.errors.TracerArrayConversionError:  # under jit the values are unknown and cannot be checked
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
