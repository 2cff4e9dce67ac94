"""Median filters with exactly scipy's values, as comparator networks without data-dependent control flow."""

from __future__ import annotations

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from bayessep.errors import UserError

_FOUND = {
    11: "jf bi cd eh cj eb hi kb fd kc af ae fi hj ec bd cg hc cb ec cf fg fj fb cf",
    21: "cd ab ef gh bd eg mo pq ji ln lm ac ir no fh ij ae tu st tu pk qk qt ku bf mn cg ps jm cb il rn nu ip aj jq ls oq rk os "
    "ks co mt rl gs dh lp nk ft er np mq om gf fm do rf hn dg bl gh fl fg qo pl qr pi qi gj kj hr hk hi ki",
}
"""Comparators for the medians of paper 003, a fifth to a quarter fewer than in `_sorting`: found by a random search that started
from it and kept correct networks. A letter is a position; the first of a pair receives the lesser number."""


def _sorting(n: int) -> list[tuple[int, int]]:
    """Return Batcher's odd-even merge sort for the next power of two, without comparators beyond n (as if infinity were there)."""
    size = 1 << (n - 1).bit_length()
    sort: list[tuple[int, int]] = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    a, b = i + j, i + j + k
                    if a // (2 * p) == b // (2 * p) and b < n:
                        sort.append((a, b))
            k //= 2
        p *= 2
    return sort


@lru_cache
def _selection(n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Return comparators that bring the median of n to the middle: two positions, and whether the min and the max are needed."""
    found = [(ord(a) - ord("a"), ord(b) - ord("a")) for a, b in _FOUND[n].split()] if n in _FOUND else _sorting(n)
    needed = {n // 2}
    kept: list[tuple[int, int, bool, bool]] = []
    for a, b in reversed(found):
        if a in needed or b in needed:
            kept.append((a, b, a in needed, b in needed))
            needed |= {a, b}
    return tuple(reversed(kept))


@partial(jax.jit, static_argnames=("size", "axis"))
def median(x: Float[Array, "*B T F"], size: int, axis: int) -> Float[Array, "*B T F"]:
    """Return the median of `size` neighbours along an axis, with mirrored edges: exactly `scipy.ndimage.median_filter`.

    A sorting network of minima and maxima over shifted copies, without data-dependent control flow: one pass over memory. The
    gradient goes to the neighbour that is the median, shared equally among ties. If a neighbour is NaN, the result is any of them.

    Raises:
        UserError: `size` is not odd and positive.
    """
    if size < 1 or size % 2 == 0:
        raise UserError(f"a median of {size} neighbours has no middle; give an odd number.")
    return x if size == 1 or x.size == 0 else _median(x, size, axis)


def _neighbours(x: Float[Array, "*B T F"], size: int, axis: int) -> list[Float[Array, "*B T F"]]:
    n, edge = x.shape[axis], size // 2
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (edge, edge, 0)
    # Zero-pad, then write the mirrored edges: for `jnp.pad` the compiler makes two copies, and reads from three places.
    padded = lax.pad(x, jnp.zeros((), x.dtype), edges)
    mirrored = np.pad(np.arange(n), edge, mode="symmetric")
    for start in (0, edge + n):
        ends = jnp.take(x, mirrored[start : start + edge], axis=axis, mode="clip")
        padded = lax.dynamic_update_slice_in_dim(padded, ends, start, axis)
    return [lax.slice_in_dim(padded, k, k + n, axis=axis) for k in range(size)]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _median(x: Float[Array, "*B T F"], size: int, axis: int) -> Float[Array, "*B T F"]:
    place = _neighbours(x, size, axis)
    for a, b, lesser, greater in _selection(size):
        x_a, x_b = place[a], place[b]
        # One instruction each; `jnp.minimum` takes six on a CPU, because it checks for NaN.
        in_order = x_a < x_b
        if lesser:
            place[a] = jnp.where(in_order, x_a, x_b)
        if greater:
            place[b] = jnp.where(in_order, x_b, x_a)
    return place[size // 2]


def _median_and_input(x: Float[Array, "*B T F"], size: int, axis: int) -> tuple[Array, tuple[Array, Array]]:
    found: Array = _median(x, size, axis)
    return found, (x, found)


def _to_the_median(size: int, axis: int, kept: tuple[Array, Array], gradient: Float[Array, "*B T F"]) -> tuple[Array]:
    # Compiling the gradient of the network itself would take minutes.
    x, found = kept
    near, pull = jax.vjp(lambda x: _neighbours(x, size, axis), x)
    hits = [(place == found).astype(x.dtype) for place in near]
    each = gradient / sum(hits[1:], hits[0])
    return pull([each * hit for hit in hits])


_median.defvjp(_median_and_input, _to_the_median)
