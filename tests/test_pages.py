"""Findings: a yes, a no, and what is not settled."""

import math

import numpy as np
import pytest

from bayessep.pages import Finding, Table, between, bootstrap, every, page, settled

NAN = math.nan


@pytest.mark.parametrize(
    ("gain", "low", "high", "least", "answer"),
    [
        (2.0, 0.5, 3.5, 0.0, True), (2.0, -0.5, 4.5, 0.0, None), (-1.0, -3.0, 1.0, 0.0, None), (-1.0, -2.0, -0.1, 0.0, False),
        (0.0, 0.0, 0.0, 0.0, False), (3.0, 0.5, 5.5, 3.0, True), (3.0, -0.5, 6.5, 3.0, None), (2.9, 2.0, 3.8, 3.0, False),
        (5.0, NAN, NAN, 0.0, None), (2.0, NAN, NAN, 3.0, False),
    ],
)  # fmt: skip
def test_a_gain_is_settled_by_its_interval(gain: float, low: float, high: float, least: float, answer: bool | None) -> None:
    assert settled(gain, low, high, least) is answer


def test_one_group_says_nothing_of_others() -> None:
    values = np.array([1.0, 3.0])

    def mean(*rows: np.ndarray) -> np.ndarray:
        return np.mean([values[of].mean(1) for of in rows], axis=0)

    assert bootstrap(2, mean) == (1.0, 3.0) and bootstrap([2, 2], mean) == (1.0, 3.0)
    assert np.isnan([*bootstrap(1, mean), *bootstrap([2, 1], mean)]).all()
    assert between(*bootstrap(1, mean)) == "" and between(-1.0, 3.04) == ", 95 % from −1.0 to +3.0"


def test_several_claims_are_one() -> None:
    assert every([True, True]) is True and every([]) is True
    assert every([True, None]) is None and every([True, None, False]) is False


def test_a_page_says_what_is_not_settled() -> None:
    found = [Finding("A is better", None, "1 ± 2"), Finding("B is", True, "2 ± 1"), Finding("C is", False, "-2 ± 1")]
    assert [one.answer for one in found] == ["not settled", "yes", "no"]
    text = page("T", "about", {}, [Table("numbers", ["", "x"], [["a", "1"]], "a note")], found)
    assert "- **A is better: not settled** (1 ± 2)." in text and "| a | 1 |\n\na note" in text
    assert "| rock \\| live | 1 |" in page("T", "about", {}, [Table("numbers", ["", "x"], [["rock | live", "1"]])], [])
