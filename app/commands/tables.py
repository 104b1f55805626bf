"""Lists as commands print them: JSON for scripts, a table for people.

Invariant: no id is ever cut, and what is not a terminal gets every line in full width.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

json_option = click.option("--json", "as_json", is_flag=True, help="For scripts.")

Entry = Mapping[str, Any]
"""One line of a list: its headings with underscores for spaces, and its values."""

_FULL_WIDTH = 10_000  # more than any line has; a table is only as wide as what stands in it


def space_id(number: int) -> str:
    return f"{number:08x}"


def event_id(number: int) -> str:
    return f"{number:08x}"


def mailing_id(number: int) -> str:
    return f"{number:012x}"


def key_id(number: int) -> str:
    return f"{number:06x}"


def show(entries: Sequence[Entry], *, as_json: bool, none_yet: str) -> None:
    """Prints a list; where it is empty, people get `none_yet` on stderr instead."""
    if as_json:
        click.echo(orjson.dumps([dict(entry) for entry in entries], option=orjson.OPT_INDENT_2))
    elif not entries:
        click.echo(none_yet, err=True)
    else:
        show_rows([heading.replace("_", " ") for heading in entries[0]], [list(entry.values()) for entry in entries])


def show_rows(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under headings, of which one may be there twice; a `Text` keeps its style."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        is_number = all(isinstance(row[number], int) for row in rows)
        table.add_column(heading, overflow="fold", no_wrap=heading == "id", justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(value if isinstance(value, Text) else _written(value) for value in row))
    _print(table)


def show_records(records: Sequence[asyncpg.Record]) -> None:
    """Prints what a query gave, as it is: bytes in hex, instants in full."""
    if not records:
        click.echo("no rows")
        return
    names = [name for name, _ in records[0].items()]
    show_rows(names, [[_exact(value) for value in record.values()] for record in records])


def show_one(entry: Entry, *, as_json: bool) -> None:
    """Prints one object, a line for each of its values."""
    if as_json:
        click.echo(orjson.dumps(dict(entry), option=orjson.OPT_INDENT_2))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, value in entry.items():
        table.add_row(heading.replace("_", " "), _written(value))
    _print(table)


def _print(table: Table) -> None:
    """Names and labels are people's own: nothing in them is markup or a code for an emoji."""
    width = None if sys.stdout.isatty() else _FULL_WIDTH
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return str(value)


def _exact(value: object) -> object:
    if value is None:
        return "–"
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, datetime) else value
