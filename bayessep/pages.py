"""What reproductions print: tables and findings, for terminals and as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from scipy import stats

from bayessep.comparison import plain_table


class Table(NamedTuple):
    """Something to print: as text for terminals, or as Markdown."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


class Finding(NamedTuple):
    """A statement, whether the results bear it out (None: they do not settle it), and the numbers."""

    statement: str
    holds: bool | None
    numbers: str

    @property
    def answer(self) -> str:
        """In a word or two."""
        return "not settled" if self.holds is None else "yes" if self.holds else "no"


def settled(gain: float, low: float, high: float, least: float = 0.0) -> bool | None:
    """Whether there is a gain, of `least` as measured; None where its interval has room for both a gain and a loss, or is unknown.

    Args:
        gain: as measured.
        low, high: the ends of its interval; NaN where there is none, as of a single result.
        least: what is claimed; with 0, any gain.
    """
    if gain >= least and low > 0:
        return True
    return False if high <= 0 or gain < least and least > 0 else None


def half_width(deviation: float, count: int) -> float:
    """Half of the 95 % interval of a mean of so many values of a standard deviation, by Student's t; NaN of a single one."""
    return float(stats.t.ppf(0.975, count - 1)) * deviation / count**0.5 if count > 1 else float("nan")


def bootstrap(groups: int | Sequence[int], of: Callable[..., Any], draws: int = 2000) -> tuple[float, float]:
    """Between what a number lies with 95 %, where results come in groups, of which others might have been met.

    Args:
        groups: how many there are: artists or songs, whose results are not independent. Of several kinds, as many are drawn of
            each as there are.
        of: told which are drawn, in a row for each draw, with repeats, an array (draws, groups) for each kind; returns the
            number of each row.
        draws: how many.

    Returns:
        Its ends; NaN where there is but one group of a kind, which says nothing of others.
    """
    rng = np.random.default_rng(0)
    kinds = [groups] if isinstance(groups, int) else groups
    if min(kinds) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(of(*(rng.integers(n, size=(draws, n)) for n in kinds)), [2.5, 97.5])
    return float(low), float(high)


def between(low: float, high: float, form: str = "+.1f") -> str:
    """What is said of an interval behind its number; nothing where there is none."""
    return "" if np.isnan(low + high) else f", 95 % from {low:{form}} to {high:{form}}"


def not_all(there: int, planned: int) -> str:
    """That results are not all that are planned; nothing if they are."""
    return f" Not all of it has been run: {there} of {planned} results are there." if there < planned else ""


def every(answers: Iterable[bool | None]) -> bool | None:
    """Whether all of several claims hold: one that does not is enough for a no, and one that is not settled for that."""
    given = set(answers)
    return False if False in given else None if None in given else True


def to_rich(table: Table) -> Any:
    """A table for a terminal."""
    made = plain_table(table.title, table.note)
    for n, head in enumerate(table.head):
        made.add_column(head, justify="left" if n == 0 else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*row)
    return made


def account(tables: Iterable[Table], findings: Iterable[Finding], path: object, *before: str) -> Any:
    """Tables, findings and where all of it is, for a terminal."""
    statements = "\n".join(f"{f.answer:<12}{f.statement} ({f.numbers})" for f in findings)
    return Group(*before, *map(to_rich, tables), statements, "", f"all of it: {path}")


def page(title: str, about: str, pictures: Mapping[str, str], tables: Iterable[Table], findings: Iterable[Finding]) -> str:
    """Pictures (files beside the page, and what they show), tables and findings as Markdown."""
    parts = [f"# {title}\n\n{about}\n", *(f"![{shows}]({name})\n" for name, shows in pictures.items())]
    for table in tables:
        cells = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
        lines = [f"## {table.title}\n", *("| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in cells)]
        parts.append("\n".join([*lines, *([f"\n{table.note}"] if table.note else [])]) + "\n")
    lines = [f"- **{f.statement}: {f.answer}** ({f.numbers})." for f in findings]
    return "\n".join([*parts, "## What they say\n", *lines]) + "\n"
