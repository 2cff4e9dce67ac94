"""Mixed-precision matrix products, for hardware that multiplies bfloat16 faster than float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float, Float32

PRECISIONS = ("float32", "bfloat16")


def product(x: Float[Array, "T n"], w: Float[Array, "n m"], precision: str = "float32") -> Float[Array, "T m"]:
    """Matrix product x w with factors in one of `PRECISIONS`, in the backward pass too; the result is float32."""
    return _rounded(x, w) if precision == "bfloat16" else x @ w


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
