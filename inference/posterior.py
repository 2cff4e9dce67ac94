"""Export posteriors to ArviZ: as InferenceData before its version 1.0, as an xarray DataTree from then on.

ArviZ is imported only when needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from bayessep import gamma
from bayessep.gamma import Gamma


def to_arviz(
    draws: Mapping[str, Array],
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    sample_stats: Mapping[str, Array] | None = None,
    observed: Mapping[str, Array] | None = None,
) -> Any:
    """Return ArviZ's container of named draws of shape (chains, draws, ...), with the other groups if given.

    `dims` names the axes of a variable after the first two (for observed data, all of them) and `coords` labels them.
    Raises ValueError, naming the variable, if its first two axes are missing or differ from those of the other variables.
    """
    import arviz

    groups = {"posterior": draws, "sample_stats": sample_stats, "observed_data": observed}
    given: dict[str, Any] = {group: _arrays(values) for group, values in groups.items() if values}
    _check_axes(given)
    named = {name: list(axes) for name, axes in (dims or {}).items()}
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.from_dict(**given, dims=named, coords=dict(coords or {}))
    return arviz.from_dict(given, dims=named, coords=dict(coords or {}))


def draw(key: PRNGKeyArray, posterior: Mapping[str, Any] | tuple, draws: int) -> dict[str, Array]:
    """Draw independently, with shape (1, draws, ...), from a mean-field posterior of Gammas or points, by name.

    `posterior` is a mapping or a NamedTuple; values that are None are left out. In the `posterior` of a conjugate state every block
    is a Gamma, even if it is read as points or holds known entries: replace such blocks by arrays, or they are drawn too.
    """
    named = posterior if isinstance(posterior, Mapping) else cast(Any, posterior)._asdict()
    named = {name: q for name, q in named.items() if q is not None}

    def many(q, key):
        if not isinstance(q, Gamma):
            return jnp.broadcast_to(q, (1, draws, *q.shape))
        return jax.lax.map(lambda k: gamma.sample(k, q), jax.random.split(key, draws))[None]  # one at a time, to save memory

    keys = jax.random.split(key, len(named))
    return {name: many(q, k) for (name, q), k in zip(named.items(), keys, strict=True)}


def _arrays(values: Mapping[str, Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in values.items()}


def _check_axes(groups: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    expected: tuple[int, ...] | None = None
    for group in ("posterior", "sample_stats"):
        for name, value in groups.get(group, {}).items():
            expected = expected or value.shape[:2]
            if value.ndim < 2 or value.shape[:2] != expected:
                raise ValueError(f"{name} has shape {value.shape}; all draws start with the same (chains, draws)")
