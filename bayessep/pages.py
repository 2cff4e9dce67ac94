"""Tables and findings of the reproductions, for terminals and as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from scipy import stats

from bayessep.comparison import plain_table


class Table(NamedTuple):
    """A table, to be printed in a terminal or as Markdown."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


class Finding(NamedTuple):
    """A claim, whether the results support it (None: undecided), and the numbers."""

    statement: str
    holds: bool | None
    numbers: str

    @property
    def answer(self) -> str:
        """Verdict in a word or two."""
        return "not settled" if self.holds is None else "yes" if self.holds else "no"


def settled(gain: float, low: float, high: float, least: float = 0.0) -> bool | None:
    """Return whether a gain is established.

    True if its interval lies above 0 and the gain is at least `least`; False if the interval does not reach above 0, or the gain
    misses a positive `least`; else None: the interval contains 0 or is unknown.

    Args:
        gain: as measured.
        low, high: the ends of its interval; NaN where there is none, as for a single result.
        least: the claimed gain; with 0, any gain.
    """
    if gain >= least and low > 0:
        return True
    return False if high <= 0 or gain < least and least > 0 else None


def half_width(deviation: float, count: int) -> float:
    """Return half of the 95 % interval (Student's t) of a mean of `count` values with this standard deviation; NaN for one."""
    return float(stats.t.ppf(0.975, count - 1)) * deviation / count**0.5 if count > 1 else float("nan")


def bootstrap(groups: int | Sequence[int], of: Callable[..., Any], draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % interval of a statistic by bootstrap over groups of results, such as artists or songs.

    Args:
        groups: number of groups, within which results are not independent; one number for each kind of group. Each draw takes
            as many of a kind as there are.
        of: called with the groups drawn, with repeats: for each kind an array (draws, groups) of indices. Returns the statistic
            of each draw.
        draws: number of draws.

    Returns:
        The ends of the interval; NaN where a kind has only one group, which says nothing about others.
    """
    rng = np.random.default_rng(0)
    kinds = [groups] if isinstance(groups, int) else groups
    if min(kinds) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(of(*(rng.integers(n, size=(draws, n)) for n in kinds)), [2.5, 97.5])
    return round(float(low), 9), round(float(high), 9)  # where both sides are equal, a difference is 0, not rounding


def between(low: float, high: float, form: str = "+.1f") -> str:
    """Format an interval to follow its number; empty if it is unknown."""
    return "" if np.isnan(low + high) else f", 95 % from {signed(low, form)} to {signed(high, form)}"


def signed(value: float, form: str = "+.1f") -> str:
    """Format a number with a minus sign rather than a hyphen, as in tables."""
    return f"{value:{form}}".replace("-", "−")


def spanned(values: Iterable[int]) -> str:
    """Format the range of some numbers, or the one that they all are."""
    low, *_, high = sorted([*values] * 2)
    return str(low) if low == high else f"{low}–{high}"


def not_all(there: int, planned: int) -> str:
    """Return a note that results are incomplete; empty if they are not."""
    return f" Not all of it has been run: {there} of {planned} results are there." if there < planned else ""


def every(answers: Iterable[bool | None]) -> bool | None:
    """Return whether all claims hold: False if any fails, else None if any is undecided."""
    given = set(answers)
    return False if False in given else None if None in given else True


def to_rich(table: Table) -> Any:
    """Format a table for a terminal."""
    made = plain_table(table.title, table.note)
    for n, head in enumerate(table.head):
        made.add_column(head, justify="left" if n == 0 else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*row)
    return made


def account(tables: Iterable[Table], findings: Iterable[Finding], path: object, *before: str) -> Any:
    """Format tables, findings and the path of the full results for a terminal."""
    statements = "\n".join(f"{f.answer:<12}{f.statement} ({f.numbers})" for f in findings)
    return Group(*before, *map(to_rich, tables), statements, "", f"all of it: {path}")


def page(title: str, about: str, pictures: Mapping[str, str], tables: Iterable[Table], findings: Iterable[Finding]) -> str:
    """Format pictures (files next to the page, and their captions), tables and findings as Markdown."""
    parts = [f"# {title}\n\n{about}\n", *(f"![{shows}]({name})\n" for name, shows in pictures.items())]
    for table in tables:
        cells = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
        lines = [f"## {table.title}\n", *("| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in cells)]
        parts.append("\n".join([*lines, *([f"\n{table.note}"] if table.note else [])]) + "\n")
    lines = [f"- **{f.statement}: {f.answer}** ({f.numbers})." for f in findings]
    return "\n".join([*parts, "## What they say\n", *lines]) + "\n"
