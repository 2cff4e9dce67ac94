"""Mixed-precision matrix products, for hardware that multiplies bfloat16 faster than float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, BFloat16, Float, Float32

from bayessep.errors import UserError

PRECISIONS = ("float32", "bfloat16")


def check_precision(precision: str) -> None:
    """Raise a UserError unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")


def product(x: Float[Array, "*rows n"], w: Float[Array, "n m"], precision: str = "float32") -> Float[Array, "*rows m"]:
    """Matrix product x w with factors in one of `PRECISIONS`, in the backward pass too; the result is float32."""
    return _rounded(x, w) if precision == "bfloat16" else x @ w


def linear(layer: nnx.Linear, x: Float[Array, "*rows n"], precision: str = "float32") -> Float[Array, "*rows m"]:
    """Dense layer with a bias, whose matrix product has factors in one of `PRECISIONS`."""
    assert layer.bias is not None
    return product(x, layer.kernel[...], precision) + jnp.expand_dims(layer.bias[...], tuple(range(x.ndim - 1)))


def _half(x: Float32[Array, "*s"]) -> BFloat16[Array, "*s"]:
    return x.astype(jnp.bfloat16)


@jax.custom_vjp
def _rounded(x: Float32[Array, "*rows n"], w: Float32[Array, "n m"]) -> Float32[Array, "*rows m"]:
    """Product in bfloat16, with a backward pass in bfloat16 as well.

    JAX's own would keep cotangents, and with them two thirds of the multiplications of a training step, in float32. Rows are never
    reshaped, which would gather a batch that several devices share.
    """
    return _forward(x, w)[0]


def _forward(x: Float32[Array, "*rows n"], w: Float32[Array, "n m"]) -> tuple[Array, tuple[Array, Array]]:
    x, w = _half(x), _half(w)
    return jnp.dot(x, w, preferred_element_type=jnp.float32), (x, w)


def _backward(kept: tuple[Array, Array], slope: Float32[Array, "*rows m"]) -> tuple[Array, Array]:
    x, w = kept
    slope, rows = _half(slope), tuple(range(x.ndim - 1))
    of_w = lax.dot_general(x, slope, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    return jnp.dot(slope, w.T, preferred_element_type=jnp.float32), of_w


_rounded.defvjp(_forward, _backward)
