"""Long short-term memory (Hochreiter, Schmidhuber, 1997): a single step, and a layer over time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from bayessep.models.precision import product


def uniform(key: Key[Array, ""], shape: tuple[int, ...], units: int) -> Float[Array, "..."]:
    """Initial weights, uniform in ±1/√units, as PyTorch draws them."""
    return jax.random.uniform(key, shape, minval=-(units**-0.5), maxval=units**-0.5)


def lstm_step(entered: Float[Array, "B n"], cell: Float[Array, "B m"]) -> tuple[Float[Array, "B m"], Float[Array, "B m"]]:
    """Take one LSTM step: return the new hidden and cell states, given the pre-activations (input, forget, cell, output gates)."""
    keep, forget, write, say = jnp.split(entered, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(keep) * jnp.tanh(write)
    return jax.nn.sigmoid(say) * jnp.tanh(cell), cell


class Lstm(nnx.Module):
    """LSTM layer in one direction."""

    def __init__(self, n_in: int, units: int, rngs: nnx.Rngs) -> None:
        def drawn(*shape: int) -> nnx.Param:
            return nnx.Param(uniform(rngs.params(), shape, units))

        self.enter, self.again, self.bias = drawn(n_in, 4 * units), drawn(units, 4 * units), drawn(4 * units)

    def __call__(
        self, x: Float[Array, "T B n"], backward: bool, valid: Bool[Array, "T b"] | None = None, precision: str = "float32"
    ) -> Float[Array, "T B m"]:
        """Hidden state of each frame; zero at invalid frames (`valid` is per example, or shared by all).

        `precision` is that of the factors of matrix products.
        """
        again = self.again[...]
        # The input projection does not depend on the recurrence: one matrix product for all frames.
        entering = product(x, self.enter[...], precision) + self.bias[...][None, None]

        def one(carried: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            (entered, heard), (hidden, cell) = now, carried
            hidden, cell = lstm_step(entered + product(hidden, again, precision), cell)
            # The state is reset at padding, so that a backward pass starts at the end of each recording.
            carried = jnp.where(heard[:, None], hidden, jnp.float32(0)), jnp.where(heard[:, None], cell, jnp.float32(0))
            return carried, carried[0]

        nothing = jnp.zeros((x.shape[1], len(again)), x.dtype)
        every = jnp.ones((len(x), 1), bool) if valid is None else valid
        return lax.scan(one, (nothing, nothing), (entering, every), reverse=backward)[1]
