"""Iterated conditional modes: EM for the most probable templates and excitations, sources and indices summed out.

Every conditional is read as its mode (paper 000, section 2.3.2). Below shape 1 a Gamma has its mode at zero, where its density is
infinite: ``"mode"`` then stops at the smallest number, from where a cell hardly comes back. The objective still rises, much of
it by cells that end there: they are sparse. The mode of the logarithm, ``"log_mode"``, exists for every shape and is the default,
but for blocks with flat priors: these are parameters and have their maximum-likelihood estimate, the ``"mode"``.
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
    """The pair (init, step) that raises the log joint density of `problem` monotonically; arguments as for `cavi`.

    Raises ValueError where the shape of a prior is learned of a block that is read as its mode: the density of zeros has no bound.
    """
    if readings is None:
        readings = conjugate.usual(module, problem, mode)
    learned = [name for name, on in problem.learn._asdict().items() if on and getattr(readings, name, None) == "mode"]
    if learned:
        raise ValueError(f"shapes of priors ({', '.join(learned)}) cannot be learned with modes, which may be 0: take log_mode")
    return conjugate.algorithm(module, problem, initial, readings=readings, schedule=schedule, fixed="log_mode")
