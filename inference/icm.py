"""Iterated conditional modes (ICM): EM for the most probable templates and excitations, with sources and indices summed out.

Every conditional is read as its mode (paper 000, section 2.3.2). Below shape 1 a Gamma has its mode at zero, where its density is
infinite: ``"mode"`` then stops at the smallest normal number, from which a cell hardly recovers. The objective still rises, largely
through cells that end there, which makes the solution sparse. The mode of the logarithm, ``"log_mode"``, exists for every shape and
is the default, except for blocks with flat priors: these are parameters and get their maximum-likelihood estimate, the ``"mode"``.
"""

from collections.abc import Callable
from typing import Any, Literal

from bayessep.inference import conjugate
from bayessep.inference.conjugate import Schedule
from bayessep.inference.loop import Algorithm


def icm(
    module: Any,
    problem: Any,
    initial: Callable[..., Any],
    *,
    mode: Literal["mode", "log_mode"] = "log_mode",
    readings: Any = None,
    schedule: Schedule = Schedule(),
) -> Algorithm:
    """Return (init, step) that raise the log joint density of `problem` monotonically; arguments as for `cavi`.

    Raises ValueError if the prior's shape is to be learned for a block read as its mode: the density at zero has no upper bound.
    """
    if readings is None:
        readings = conjugate.usual(module, problem, mode)
    learned = [name for name, on in problem.learn._asdict().items() if on and getattr(readings, name, None) == "mode"]
    if learned:
        raise ValueError(f"shapes of priors ({', '.join(learned)}) cannot be learned with modes, which may be 0: take log_mode")
    return conjugate.algorithm(module, problem, initial, readings=readings, schedule=schedule, fixed="log_mode")
