"""Sizes that arrays are padded to, so that recordings of similar length share compiled programs."""

from __future__ import annotations


def roomy(n: int, an_octave: int) -> int:
    """Return the smallest size that is at least n: powers of two, each octave in `an_octave` (a power of two) equal steps."""
    step = max((1 << (n - 1).bit_length()) // (2 * an_octave), 1)
    return -(-n // step) * step
