"""`migrate` and `config`: what is done once, and what is set."""

import json

import click
from rich.text import Text

from ..config import Settings, described, load
from ..store import pool
from ..store.installation import install
from .context import run
from .tables import json_option, show_rows


@click.command()
def migrate() -> None:
    """Bring the database's schema to the one of this version."""
    applied = run(_migrate(load()))
    click.echo(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


@click.command()
@json_option
def config(as_json: bool) -> None:
    """Show every setting: its variable, its value here, its default, and what it does."""
    rows = described(load())
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    show_rows(
        ("variable", "value", "default", "what it does"),
        [(row.variable, Text(row.value, "bold" if row.value != row.default else ""), *row[2:]) for row in rows],
    )


async def _migrate(settings: Settings) -> list[str]:
    async with pool.connected(pool.url_of(settings)) as connection:
        return await install(connection, settings)
