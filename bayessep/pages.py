"""What reproductions print: tables and findings, for terminals and as Markdown."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

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
