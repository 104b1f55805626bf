"""`migrate` and `config`: what is done once, and what is set."""

import json

import click
from rich.text import Text

from .. import config
from ..store import pool
from ..store.installation import install
from .context import run
from .tables import json_option, show_rows


@click.command()
def migrate() -> None:
    """Bring the database's schema to the one of this version."""
    applied = run(_migrate(config.load()))
    click.echo(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


@click.command(name="config")
@json_option
def show_config(as_json: bool) -> None:
    """Show every setting: its variable, its value here, its default, and what it does."""
    rows = config.described(config.load())
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    show_rows(
        ("variable", "value", "default", "what it does"),
        [(row.variable, Text(row.value, "bold" if row.value != row.default else ""), *row[2:]) for row in rows],
    )


async def _migrate(settings: config.Settings) -> list[str]:
    async with pool.connected(pool.url_of(settings)) as connection:
        return await install(connection, settings)
