"""Rows of `make bench` about Conv-TasNet: beside the same network of torch.nn modules, and on a recording.

Both networks have the same weights, and what they say is compared before anything is measured. Both are given all cores. What
compares them needs torch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bayessep.extras import library
from tests.benchmarks.beside_torch import Compared, Side, same, torch_on_all_cores

RATE, SECONDS = 16_000, 4.0


def _pair(config: Any) -> tuple[Any, Any, np.ndarray]:
    """Our parameters, the torch network with the same weights, and a mixture's sources, (1, 2, N)."""
    import jax
    from flax import nnx

    torch_on_all_cores()
    from bayessep.models import conv_tasnet
    from tests.benchmarks import torch_networks

    parameters = conv_tasnet.init(config, jax.random.key(0)).parameters
    model = nnx.merge(conv_tasnet.graph(config), parameters)
    arrays = {name: np.array(getattr(model, name)[...]) for name in nnx.to_pure_dict(parameters)}
    sizes = ("filters", "length", "bottleneck", "hidden", "kernel", "blocks", "repeats")
    theirs = torch_networks.WholeFrames(torch_networks.ConvTasNet(**{name: getattr(config, name) for name in sizes}))
    torch_networks.fill(theirs.network, arrays)
    return parameters, theirs, np.random.default_rng(0).standard_normal((1, 2, round(SECONDS * RATE)), np.float32)


def products(config: Any, *, gradients: bool) -> Side:
    """The products of matrices alone that the network comes down to, by numpy's BLAS: nothing in float32 gets around them."""
    c, rng = config, np.random.default_rng(0)
    frames = round(SECONDS * RATE) // c.hop + 1
    sizes = [(c.length, c.filters), (c.filters, c.bottleneck), (c.bottleneck, 2 * c.filters), *[(c.filters, c.length)] * 2]
    sizes += [(c.bottleneck, c.hidden), (c.hidden, c.bottleneck)] * (c.repeats * c.blocks)

    def given(n: int, m: int) -> tuple[np.ndarray, ...]:
        return tuple(rng.standard_normal(shape, np.float32) for shape in ((frames, n), (n, m), (frames, m)))

    arrays = {size: (given(*size), given(*size)) for size in set(sizes)}

    def run() -> None:
        for size in sizes:
            (x, w, y), (to_x, to_w, to_y) = arrays[size]
            np.matmul(x, w, out=to_y)
            if gradients:
                np.matmul(x.T, y, out=to_w)
                np.matmul(y, w.T, out=to_x)

    return run


def forward(config: Any) -> Compared:
    """What both say of a mixture."""
    import jax.numpy as jnp

    torch = library("torch", "bench")
    from bayessep.models import conv_tasnet

    parameters, network, sources = _pair(config)
    x = jnp.asarray(sources.sum(1))
    mixture = torch.from_numpy(sources.sum(1))

    def ours() -> np.ndarray:
        return np.asarray(conv_tasnet.predict(config, parameters, x))

    @torch.inference_mode()
    def theirs() -> np.ndarray:
        return network(mixture).numpy()

    return Compared(ours, theirs, same(ours(), theirs()))


def learning(network: Any, config: Any, batch: Any) -> Callable[[], float]:
    """Steps of training of a network, which starts from key 0, on one batch: each call is the next one, and returns its loss."""
    import jax

    key = jax.random.key(0)
    state = network.init(config, key)

    def run() -> float:
        nonlocal state
        state, found = network.step(config, state, batch, key)
        return float(jax.block_until_ready((state, found))[1].loss)

    return run


def steps(config: Any) -> Compared:
    """A step of training on one mixture; the losses of the first are compared."""
    import jax.numpy as jnp

    torch = library("torch", "bench")
    from bayessep.models import conv_tasnet
    from bayessep.models.waveform_separation import Batch
    from tests.benchmarks import torch_networks

    _, network, sources = _pair(config)
    batch = Batch(jnp.asarray(sources.sum(1)), jnp.asarray(sources))
    mixture, true, optimiser = torch.from_numpy(sources.sum(1)), torch.from_numpy(sources), torch_networks.optimiser(network)

    ours = learning(conv_tasnet, config, batch)
    theirs = partial(torch_networks.train_step, network, optimiser, mixture, true)
    return Compared(ours, theirs, same(np.asarray(ours()), np.asarray(theirs())))


def training(recipe: Any) -> Side:
    """A step of training of a recipe's network on mixtures of noise, which take as long as those of recordings."""
    from bayessep.models.waveform_separation import Batch
    from bayessep.separator_training import NETWORKS

    sources = np.random.default_rng(0).standard_normal((recipe.batch, 2, round(recipe.seconds * RATE)), np.float32)
    return learning(NETWORKS[recipe.network], recipe.config, Batch(sources.sum(1), sources))


def separator() -> Any:
    """The preset small, as it starts."""
    import jax

    from bayessep.models import conv_tasnet
    from bayessep.neural import Separator

    config = conv_tasnet.PRESETS["small"]
    return Separator("conv-tasnet", config, conv_tasnet.init(config, jax.random.key(0)).parameters, RATE, both_signs=True)


def recording(seconds: float) -> tuple[Side, float]:
    """Separation of a generated recording by the preset small; and how long the recording is."""
    from bayessep.broadcast import generate_broadcast
    from bayessep.neural import separate

    made = generate_broadcast(0, seconds=seconds, sample_rate=RATE)
    return partial(separate, made.mixture[None], made.sample_rate, separator()), len(made.mixture) / made.sample_rate
