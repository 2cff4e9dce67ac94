"""The No-U-Turn sampler on any NumPyro program: a thin layer over NumPyro's own, as a reference on small problems."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_median, init_to_value

from bayessep import gamma
from bayessep.gamma import Gamma


class Draws(NamedTuple):
    """Posterior draws with their convergence diagnostics."""

    values: dict[str, Array]  # site -> (chains, samples, *shape of the site)
    r_hat: dict[str, Float[Array, "..."]]  # split R-hat of every cell: near 1 once the chains agree
    effective: dict[str, Float[Array, "..."]]  # effective sample size of every cell
    diverging: Bool[Array, "chains samples"]
    steps: Array  # (chains, samples): leapfrog steps of each draw


def nuts(
    program: Callable[..., None],
    key: PRNGKeyArray,
    *args: Any,
    warmup: int = 500,
    samples: int = 500,
    chains: int = 2,
    start: Mapping[str, Gamma | Array] | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    progress: bool = False,
    **static: Any,
) -> Draws:
    """Sample the posterior of `program(*args, **static)`, with all chains vectorised on one device.

    `start` holds initial values of sites (for a Gamma, its mean), the same in every chain; other sites start at the median of
    their prior. Raises ValueError for a program with `numpyro.param` sites, which NumPyro would silently hold at their
    initial value: give such blocks a proper prior or a value.
    """
    # Bind the arguments: NumPyro's sampler would rebuild them with numbers in place of arrays, which checked classes refuse.
    program = partial(program, *args, **static)
    parameters = _parameters(program)
    if parameters:
        raise ValueError(f"a sampler needs a proper prior, or a given value, for {', '.join(parameters)}")
    if start is None:
        strategy = init_to_median
    else:
        strategy = init_to_value(values={k: gamma.mean(q) if isinstance(q, Gamma) else q for k, q in start.items()})
    kernel = NUTS(
        program, init_strategy=strategy, target_accept_prob=target_accept, max_tree_depth=max_tree_depth
    )
    sampler = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=samples,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=progress,
    )
    sampler.run(key, extra_fields=("diverging", "num_steps"))
    values = sampler.get_samples(group_by_chain=True)
    extra = sampler.get_extra_fields(group_by_chain=True)
    host = {name: jax.device_get(value) for name, value in values.items()}
    return Draws(
        values,
        {name: jnp.asarray(split_gelman_rubin(value)) for name, value in host.items()},
        {name: jnp.asarray(effective_sample_size(value)) for name, value in host.items()},
        extra["diverging"],
        extra["num_steps"],
    )


def _parameters(program: Callable[[], None]) -> list[str]:
    found: list[str] = []

    def look(key):
        trace = numpyro.handlers.trace(numpyro.handlers.seed(program, key)).get_trace()
        found.extend(name for name, site in trace.items() if site["type"] == "param")

    jax.eval_shape(look, jax.random.key(0))
    return found
