"""The row of `make bench` about the masking network of paper 002: beside the same networks of torch.nn modules.

Both sides have the same weights and see the same two images, and their losses are compared before anything is measured. It needs
torch.
"""

from typing import Any

import numpy as np

from tests.benchmarks.beside_torch import Compared, same, torch_on_all_cores


def steps(config: Any) -> Compared:
    """A step of training on one mixture and one piece of music; the losses of the first are compared, each as a share of itself.

    Those of the generator are told by discriminators that have made their step: they compare gradients, too.
    """
    torch = torch_on_all_cores()
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from bayessep.models import masker_training
    from tests.benchmarks import torch_images

    state, key = masker_training.init(config, jax.random.key(0)), jax.random.key(0)
    g = torch_images.Generator(config.channels, config.blocks)
    critics = {name: torch_images.Discriminator(config.critic, config.layers, config.scales) for name in state.critics}
    for network, learned in ((g, state.generator.parameters), *((critics[name], state.critics[name]) for name in critics)):
        torch_images.fill(network, {".".join(map(str, path)): np.array(of[...]) for path, of in nnx.to_flat_state(learned)})
    sides = torch_images.side(g=g), torch_images.side(**critics)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 1, config.frames, config.bins)).astype(np.float32)
    batch, pair = masker_training.Batch(*map(jnp.asarray, images)), torch.from_numpy(images)[:, :, None]

    def ours() -> dict[str, float]:
        nonlocal state
        state, losses = masker_training.step(config, state, batch, key)
        return {name: float(loss) for name, loss in jax.block_until_ready((state, losses))[1].items()}

    def theirs() -> dict[str, float]:
        return torch_images.train_step(*sides, *pair)

    mine, other = ours(), theirs()
    difference = same(np.array([mine[name] / loss for name, loss in other.items()]), np.ones(len(other)))
    return Compared(ours, theirs, difference)
