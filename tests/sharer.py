"""A process in which eight devices share a step of networks' training: ``python -m tests.sharer`` prints how they differ.

Each line has the name of a network, and the greatest difference, relative to the greatest number, between what a step gives that is
computed whole and one whose batch is shared: losses, running statistics, and what the optimiser keeps of gradients.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bayessep.models import blstm_mask, conv_tasnet, deep_karaoke, masker_training, speech_music_detector, waveform_separation
from bayessep.models.idempotent_masker import IdempotentMasker
from tests.test_detector_training import TINY

SIZE = 24


def networks() -> Iterator[tuple[str, Any, Any, Callable[[Any], Any]]]:
    """Name, module and config, batch, what of a state is compared: parameters after SGD alone, as Adam's first step is a sign."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    config = replace(TINY, network="b1", feature="MS", bands=21).detector
    label = np.arange(SIZE, dtype=np.int32) % 3
    batch = speech_music_detector.Batch(noise(SIZE, TINY.patch, config.width), label, np.abs(noise(SIZE, 2)))
    yield "detector b1", (speech_music_detector, config), batch, lambda state: state.statistics
    sources = noise(SIZE, 2, 640)
    waves = waveform_separation.Batch(sources.sum(1), sources)
    tasnet = conv_tasnet.ConvTasNet(filters=16, length=32, bottleneck=8, hidden=8, blocks=2, repeats=1)
    for module, sizes in ((conv_tasnet, tasnet), (blstm_mask, blstm_mask.BlstmMask(layers=1, units=6, window=64, hop=32))):
        yield module.__name__.rsplit(".", 1)[1], (module, sizes), waves, lambda state: state.optimiser
    windows = deep_karaoke.Batch(np.abs(noise(SIZE, 4, 9)), (noise(SIZE, 4, 9) > 0).astype(np.float32))
    karaoke = deep_karaoke.DeepKaraoke(bins=9, frames=4, width=12)
    yield "deep_karaoke", (deep_karaoke, karaoke), windows, lambda state: state.parameters
    # Gradients of discriminators alone: those of the biases before a generator's norms are rounding.
    masker = IdempotentMasker(bins=16, frames=16, hop=4, channels=2, blocks=1, critic=2, layers=2, scales=2)
    images = masker_training.Batch(*np.tanh(noise(2, SIZE, 16, 16)))
    yield "idempotent_masker", (masker_training, masker), images, lambda state: (state.generator.statistics, state.optimisers[1])


def difference(module: Any, config: Any, batch: Any, of: Callable[[Any], Any]) -> float:
    """Relative difference between a step on one copy of the batch and one on a batch that all devices share."""
    mesh, found = Mesh(np.array(jax.devices()), ("x",)), []
    for axes in ((), ("x",)):
        whole, place = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(*axes))
        state, key = jax.device_put((module.init(config, jax.random.key(0)), jax.random.key(1)), whole)
        state, losses = module.step(config, state, jax.device_put(batch, place), key)
        found.append([np.asarray(leaf, np.float64) for leaf in jax.tree.leaves((of(state), losses))])
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)) for a, b in zip(*found, strict=True))


if __name__ == "__main__":
    for name, network, batch, of in networks():
        print(name, jax.device_count(), difference(*network, batch, of), sep="\t", flush=True)
