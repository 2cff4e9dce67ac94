"""Gibbs sampling: conditionals are read as draws, the local step is a draw too. Exact in the limit; the yardstick of the others.

The data must be whole numbers of counts (the sources are split by multinomial draws), and every weight must be one.
"""

from collections.abc import Callable
from typing import Any

from bayessep.inference import conjugate
from bayessep.inference.conjugate import Schedule
from bayessep.inference.loop import Algorithm

# One local draw a sweep: given the split counts, all blocks are drawn one after the other.
_ONE_GROUP = Schedule(groups=(("excitations", "gain", "templates", "filter", "catalogue"),))


def gibbs(module: Any, problem: Any, initial: Callable[..., Any], *, readings: Any = None) -> Algorithm:
    """The pair (init, step) of a Gibbs sampler; run it with `loop.collect`.

    Blocks read as ``"fixed"`` are points, and stay at the mean that they start with. The objective of its Info is the log joint
    density up to a constant, for watching, not for stopping.

    Raises ValueError where the problem is pruned to candidates: a sampler that never visits the others is not exact.
    """
    if problem.candidates is not None:
        raise ValueError("a Gibbs sampler visits every entry of the catalogue: build the problem with candidates=None")
    if readings is None:
        readings = module.Blocks(*("sample" for _ in module.Blocks._fields))
    return conjugate.algorithm(module, problem, initial, readings=readings, schedule=_ONE_GROUP, sampled=True, fixed="log_mode")
