"""What reproductions print: tables and findings, for terminals and as Markdown."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Group

from bayessep.comparison import plain_table


class Table(NamedTuple):
    """Something to print: as text for terminals, or as Markdown."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


class Finding(NamedTuple):
    """A statement, whether the results bear it out, and the numbers."""

    statement: str
    holds: bool
    numbers: str


def bootstrap(groups: int, of: Callable[[Int[np.ndarray, "D G"]], Any], draws: int = 2000) -> tuple[float, float]:
    """Between what a number lies with 95 %, where results come in groups, of which others might have been met.

    Args:
        groups: how many there are: artists or songs, whose results are not independent.
        of: told which are drawn, in a row for each draw, with repeats; returns the number of each row.
        draws: how many.
    """
    low, high = np.percentile(of(np.random.default_rng(0).integers(groups, size=(draws, groups))), [2.5, 97.5])
    return float(low), float(high)


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
    statements = "\n".join(f"{'yes' if f.holds else 'no ':<4}{f.statement} ({f.numbers})" for f in findings)
    return Group(*before, *map(to_rich, tables), statements, "", f"all of it: {path}")


def page(title: str, about: str, pictures: Mapping[str, str], tables: Iterable[Table], findings: Iterable[Finding]) -> str:
    """Pictures (files beside the page, and what they show), tables and findings as Markdown."""
    parts = [f"# {title}\n\n{about}\n", *(f"![{shows}]({name})\n" for name, shows in pictures.items())]
    for table in tables:
        cells = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
        lines = [f"## {table.title}\n", *("| " + " | ".join(row) + " |" for row in cells)]
        parts.append("\n".join([*lines, *([f"\n{table.note}"] if table.note else [])]) + "\n")
    lines = [f"- **{f.statement}: {'yes' if f.holds else 'no'}** ({f.numbers})." for f in findings]
    return "\n".join([*parts, "## What they say\n", *lines]) + "\n"
