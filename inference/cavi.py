"""Coordinate-ascent variational inference (CAVI): conditionals are read as their arithmetic and geometric means.

Filter and gain with flat priors are parameters rather than random variables (paper 000): they are read as their mode, which is
the maximum-likelihood M-step, unless `readings` says otherwise.
"""

from collections.abc import Callable
from typing import Any

from bayessep.inference import conjugate
from bayessep.inference.conjugate import Schedule
from bayessep.inference.loop import Algorithm


def cavi(
    module: Any, problem: Any, initial: Callable[..., Any], *, readings: Any = None, schedule: Schedule = Schedule()
) -> Algorithm:
    """Return (init, step) that raise the evidence lower bound of `problem` monotonically (but see `conditionals.objective`).

    `module` is the model's module (`conjugate.ConjugateModel`), `initial(key)` returns the starting posterior, and `readings`
    overrides how blocks are read; ``"fixed"`` leaves a block as it starts.
    """
    if readings is None:
        readings = conjugate.usual(module, problem, "mean")
    return conjugate.algorithm(module, problem, initial, readings=readings, schedule=schedule)
