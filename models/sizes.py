"""Sizes that arrays are padded to, so that recordings of similar length share compiled programs."""

from __future__ import annotations


def roomy(n: int, an_octave: int) -> int:
    """Return the smallest of few sizes that is at least n: 2^k, and `an_octave` - 1 evenly spaced ones before the next power."""
    step = max((1 << (n - 1).bit_length()) // (2 * an_octave), 1)
    return -(-n // step) * step
