"""Mixed-precision matrix products, for hardware that multiplies bfloat16 faster than float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, BFloat16, Float, Float32

from bayessep.errors import UserError

PRECISIONS = ("float32", "bfloat16")


def check_precision(precision: str) -> None:
    """Raise a UserError unless it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is not known; choose one of {', '.join(PRECISIONS)}.")


def product(x: Float[Array, "*rows n"], w: Float[Array, "n m"], precision: str = "float32") -> Float[Array, "*rows m"]:
    """Matrix product x w with factors in one of `PRECISIONS`, in the backward pass too; the result is float32."""
    if precision != "bfloat16":
        return x @ w
    return _rounded(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], -1)


def linear(layer: nnx.Linear, x: Float[Array, "*rows n"], precision: str = "float32") -> Float[Array, "*rows m"]:
    """Dense layer with a bias, whose matrix product has factors in one of `PRECISIONS`."""
    assert layer.bias is not None
    return product(x, layer.kernel[...], precision) + jnp.expand_dims(layer.bias[...], tuple(range(x.ndim - 1)))


def _half(x: Float32[Array, "n m"]) -> BFloat16[Array, "n m"]:
    return x.astype(jnp.bfloat16)


def _dot(x: BFloat16[Array, "n m"], w: BFloat16[Array, "m k"]) -> Float32[Array, "n k"]:
    return jnp.dot(x, w, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _rounded(x: Float32[Array, "T n"], w: Float32[Array, "n m"]) -> Float32[Array, "T m"]:
    """Product in bfloat16, with a backward pass in bfloat16 as well.

    JAX's own would keep cotangents, and with them two thirds of the multiplications of a training step, in float32.
    """
    return _dot(_half(x), _half(w))


def _forward(x: Float32[Array, "T n"], w: Float32[Array, "n m"]) -> tuple[Array, tuple[Array, Array]]:
    x, w = _half(x), _half(w)
    return _dot(x, w), (x, w)


def _backward(kept: tuple[Array, Array], slope: Float32[Array, "T m"]) -> tuple[Array, Array]:
    x, w = kept
    slope = _half(slope)
    return _dot(slope, w.T), _dot(x.T, slope)


_rounded.defvjp(_forward, _backward)
