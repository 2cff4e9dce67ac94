"""Classify speech, music and their overlap by networks on feature patches of 0.7 s.

Bhattacharjee, Prasanna, Guha, “Clean vs. Overlapped Speech-Music Detection Using Harmonic-Percussive Features and Multi-Task
Learning” (2022): four networks from the literature (B1 to B4) with a head of three classes, and the paper's heads for related
tasks: is it speech alone, is it music alone, and in which ratio are they mixed (multi-task, figure 3a); the ratio can also be fed
to the other two (cascaded information, figure 3b). Sizes and details follow the authors' code, with which the paper's results were
obtained.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from bayessep.models.detector_networks import B4, GLOROT, MADE, Dense, Detector, Noise, batch_norm, normalised

MUSIC, SPEECH, BOTH, NEITHER = range(4)
"""Class indices in the order of the paper's code, which has the first three (`Detector.classes`)."""


class Output(NamedTuple):
    """Raw outputs of a detector for each patch (for each frame with the network ``frames``), before sigmoid and softmax."""

    classes: Float[Array, "*B C"]  # logits of music, speech, both and, with four classes, neither
    speech: Float[Array, "*B"] | None = None  # logit of speech alone
    music: Float[Array, "*B"] | None = None  # logit of music alone
    ratio: Float[Array, "*B 2"] | None = None  # [t_M, t_S]: energies of music and of speech, the greater being 1


class Batch(NamedTuple):
    """Patches of features with labels and mixing-ratio targets."""

    features: Float[Array | np.ndarray, "N L D"]
    label: Int[Array | np.ndarray, "*B"]
    ratio: Float[Array | np.ndarray, "*B 2"]


def ratio_target(label: Int[np.ndarray, "*B"], smr_db: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B 2"]:
    """Targets [t_M, t_S] of the paper: [1, 0] for music, [0, 1] for speech, relative energies for overlap, the greater being 1.

    [0, 0] where there is neither.
    """
    music = np.where(label == BOTH, np.minimum(1, 10 ** (-smr_db / 10)), label == MUSIC)
    speech = np.where(label == BOTH, np.minimum(1, 10 ** (smr_db / 10)), label == SPEECH)
    return np.stack([music, speech], axis=-1).astype(np.float32)


# --- heads ---------------------------------------------------------------------------------------------------------------


class Task(nnx.Module):
    """Head of a related task: a hidden layer of 16 units and a linear output; `told` values are appended to the hidden units."""

    def __init__(self, n_in: int, n_out: int, told: int, rngs: nnx.Rngs) -> None:
        self.hidden = Dense(n_in, 16, 0.4, rngs)
        self.norm = batch_norm(16 + told, rngs) if told else None
        self.out = nnx.Linear(16 + told, n_out, kernel_init=GLOROT, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*B n"], noise: Noise = None, told: Float[Array, "*B k"] | None = None
    ) -> Float[Array, "*B m"]:
        hidden = self.hidden(x, noise)
        if self.norm is not None and told is not None:
            hidden = normalised(self.norm, jnp.concatenate([hidden, told], axis=-1), noise)
        return self.out(hidden)


class SpeechMusicDetector(nnx.Module):
    """Network with its heads."""

    def __init__(self, config: Detector, rngs: nnx.Rngs) -> None:
        self.network = MADE[config.network](config, rngs)
        n = self.network.n_out
        self.classes = nnx.Linear(n, config.classes, kernel_init=GLOROT, rngs=rngs)
        self.head = config.head
        if config.head != "single":
            told = 2 if config.head == "cascaded" else 0
            self.ratio = Task(n, 2, 0, rngs)
            self.speech, self.music = Task(n, 1, told, rngs), Task(n, 1, told, rngs)

    def __call__(self, x: Float[Array, "B L D"], noise: Noise = None) -> Output:
        seen = self.network(x, noise)
        classes = self.classes(seen)
        if self.head == "single":
            return Output(classes)
        ratio = self.ratio(seen, noise)
        told = ratio if self.head == "cascaded" else None
        return Output(classes, self.speech(seen, noise, told)[..., 0], self.music(seen, noise, told)[..., 0], ratio)


# --- losses --------------------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Weights of the four losses; equal ones were best in the paper."""

    speech: float = 1.0
    music: float = 1.0
    ratio: float = 1.0
    classes: float = 1.0


class Losses(NamedTuple):
    """Mean losses over a batch; 0 for tasks that the head does not have."""

    speech: Float[Array, ""]
    music: Float[Array, ""]
    ratio: Float[Array, ""]
    classes: Float[Array, ""]


def losses(output: Output, batch: Batch) -> Losses:
    """Cross-entropies of the classes, of speech alone and of music alone; squared error of the ratio (section II-C)."""
    classes = optax.softmax_cross_entropy_with_integer_labels(output.classes, batch.label).mean()
    zero = jnp.zeros_like(classes)
    if output.speech is None or output.music is None or output.ratio is None:
        return Losses(zero, zero, zero, classes)
    speech, music = (
        optax.sigmoid_binary_cross_entropy(logit, (batch.label == label).astype(logit.dtype)).mean()
        for logit, label in ((output.speech, SPEECH), (output.music, MUSIC))
    )
    return Losses(speech, music, ((output.ratio - batch.ratio) ** 2).mean(), classes)


def total(of: Losses, weights: Weights = Weights()) -> Float[Array, ""]:
    """Weighted sum of the losses."""
    return sum((w * loss for w, loss in zip(weights, of, strict=True)), start=jnp.zeros_like(of.classes))


def parameter_count(model: nnx.Module) -> int:
    """Number of parameters as Keras counts them, running means and variances included."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state))


# --- training ------------------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """Training state."""

    parameters: PyTree
    statistics: PyTree  # running means and variances of batch normalisation
    optimiser: optax.OptState


def _clipped() -> optax.GradientTransformation:
    """Clip the gradient of each array to a norm of 1."""
    return optax.stateless_with_tree_map(lambda g, _: g / jnp.maximum(1, jnp.linalg.norm(jnp.ravel(g))))


PAPERS_EPOCH = 8416
"""Steps per epoch in paper 003's code, which set the learning-rate decay of b3."""


def optimiser(config: Detector, steps_per_epoch: int = 1000) -> optax.GradientTransformation:
    """Optimiser of each network's code, Adam or SGD with a decaying rate; or Adam with the config's rate, if it has one.

    That rate warms up over 100 steps (or an epoch, if shorter) and decays to a tenth every 10 epochs; few steps are then enough.
    """
    if config.rate:
        growing = min(100, steps_per_epoch)
        falling = optax.exponential_decay(config.rate, 10 * steps_per_epoch, 0.1)
        falling = optax.join_schedules([optax.linear_schedule(0, config.rate, growing), falling], [growing])
        return optax.chain(_clipped(), optax.adam(falling))
    if config.network == "b1":
        return optax.adam(1e-4)
    if config.network == "b2":
        return optax.sgd(optax.exponential_decay(1e-3, 700, 0.1))
    if config.network == "b3":
        falling = optax.exponential_decay(2e-3, 3 * PAPERS_EPOCH, 0.1)
        return optax.chain(_clipped(), optax.sgd(falling, momentum=0.9))
    return optax.adam(1e-3)


@lru_cache
def graph(config: Detector) -> nnx.GraphDef:
    """Graph definition of the network, without parameters."""
    return nnx.split(nnx.eval_shape(lambda: SpeechMusicDetector(config, nnx.Rngs(0))))[0]


def init(config: Detector, key: Key[Array, ""], steps_per_epoch: int = 1000) -> State:
    """Return a freshly initialised detector and optimiser."""
    _, parameters, statistics = nnx.split(SpeechMusicDetector(config, nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
    return State(parameters, statistics, optimiser(config, steps_per_epoch).init(parameters))


@partial(jax.jit, static_argnames=("config",))
def predict(config: Detector, state: State, x: Float[Array, "B L D"]) -> Output:
    """Outputs for patches in inference mode."""
    return nnx.merge(graph(config), state.parameters, state.statistics)(x)


@partial(jax.jit, static_argnames=("config", "weights", "steps_per_epoch"), donate_argnames=("state",))
def step(
    config: Detector,
    state: State,
    batch: Batch,
    key: Key[Array, ""],
    weights: Weights = Weights(),
    steps_per_epoch: int = 1000,
) -> tuple[State, Losses]:
    """Take one step of the optimiser; the losses are those before it."""

    def loss(parameters: PyTree) -> tuple[Float[Array, ""], tuple[Losses, PyTree]]:
        # A copy: running statistics can be updated only inside the function that is differentiated.
        model = nnx.merge(graph(config), parameters, state.statistics, copy=True)
        found = losses(model(batch.features, nnx.Rngs(key)), batch)
        return total(found, weights) + _penalty(model), (found, nnx.state(model, nnx.BatchStat))

    gradient, (found, statistics) = jax.grad(loss, has_aux=True)(state.parameters)
    change, carried = optimiser(config, steps_per_epoch).update(gradient, state.optimiser, state.parameters)
    return State(optax.apply_updates(state.parameters, change), statistics, carried), found


def _penalty(model: SpeechMusicDetector) -> Float[Array, ""]:
    """L2 penalty of 0.01 on the hidden layers of the related tasks, and L1 plus L2 of 0.01 on b4's mel kernels.

    In the authors' code, all layers of b4 with related tasks have the L2 penalty.
    """
    tasks = () if model.head == "single" else (model.speech, model.music, model.ratio)
    found = sum(((task.hidden.linear.kernel[...] ** 2).sum() for task in tasks), start=jnp.float32(0))
    for bands in model.network.bands if isinstance(model.network, B4) else ():
        w = bands.weights[...]
        found += (w**2).sum() + jnp.abs(w).sum()
    return 0.01 * found
