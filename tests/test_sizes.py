"""Sizes that arrays are padded to."""

from bayessep.models.sizes import roomy


def test_sizes_are_few_and_hold_what_they_must() -> None:
    assert [roomy(n, 1) for n in (1, 2, 3, 5, 9, 1024, 1025)] == [1, 2, 4, 8, 16, 1024, 2048]
    assert sorted({roomy(n, 4) for n in range(65, 129)}) == [80, 96, 112, 128]
    assert all(n <= roomy(n, 4) < 1.25 * n + 1 for n in range(1, 3000))
