"""`keys`: the keys that seal tokens are made, replaced, revoked, and kept in a safe place."""

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

import asyncpg
import click
import orjson

from ..errors import ConfigError, SettingsError
from ..store import keys as store
from ..store import settings
from ..store.pool import Connection
from .context import in_database, who
from .tables import json_option, key_id, show

_of_space = click.option("--space", required=True, metavar="NAME", help="The space, by name or id.")
_of_space_or_all = click.option("--space", metavar="NAME", help="Only this space's, by name or id.")


@click.group()
def keys() -> None:
    """Keys that seal tokens. Without them every sent link is dead: keep an export in a safe place."""


@keys.command("list")
@_of_space_or_all
@json_option
def list_keys(space: str | None, as_json: bool) -> None:
    """List keys, never their secrets."""

    async def read(connection: Connection) -> list[asyncpg.Record]:
        return await store.list_keys(connection, await _space_id(connection, space))

    show([_entry(row) for row in in_database(read)], as_json=as_json, none_yet="there is no key; make a space first")


@keys.command("create")
@_of_space
def create_key(space: str) -> None:
    """Make a key for a space that has none to seal with."""

    async def create(connection: Connection) -> int:
        return await store.create(connection, who(), (await settings.find_space(connection, space))["id"])

    click.echo(f"key {key_id(in_database(create))} is made; export it: without it the links it seals are dead")


@keys.command("rotate")
@_of_space
def rotate_key(space: str) -> None:
    """Make a new key to seal with; links sealed with older ones still open."""

    async def rotate(connection: Connection) -> int:
        return await store.rotate(connection, who(), (await settings.find_space(connection, space))["id"])

    click.echo(f"key {key_id(in_database(rotate))} seals from now on; export it: without it its links are dead")


@keys.command("revoke")
@click.argument("key", metavar="KEY")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke_key(key: str, yes: bool) -> None:
    """Let a key open nothing any more; every link that it sealed is a 404 for ever."""
    number = _key_number(key)
    row = in_database(lambda connection: store.find_key(connection, number))
    if not yes:
        click.confirm(
            f"Revoke key {key_id(number)} of the space {row['space_name']}? Every link and pixel that was sealed with"
            " it becomes a 404 for ever, in mails already sent too.",
            abort=True,
            err=True,
        )
    in_database(lambda connection: store.revoke(connection, who(), number))
    click.echo(f"key {key_id(number)} is revoked; every link that it sealed is a 404")
    if row["state"] == "minting":
        click.echo(f"the space has no key to seal with now; `mailtrail keys create --space {row['space_name']!r}`")


@keys.command("export")
@_of_space_or_all
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Instead of stdout.")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
def export_keys(space: str | None, output: Path | None, force: bool) -> None:
    """Write keys with their secrets as JSON, for a safe place or for a sender that has no database."""
    if output and output.exists() and not force:
        raise ConfigError(f"{output} exists; choose another file, or replace it with --force")

    async def export(connection: Connection) -> int:
        # Written inside the transaction: what could not be written does not count as exported.
        async with connection.transaction():
            document = await store.export(connection, who(), await _space_id(connection, space))
            _write(output, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return len(document["keys"])

    count = in_database(export)
    click.echo(f"{count} keys exported; whoever has them can open and forge the spaces' links", err=True)


@keys.command("import")
@click.argument("file", type=click.File("rb"))
def import_keys(file: BinaryIO) -> None:
    """Read keys of an export from FILE, or - for stdin; spaces that are missing are made."""
    try:
        document = orjson.loads(file.read())
    except orjson.JSONDecodeError:
        raise SettingsError("this is no JSON; give a file of `mailtrail keys export`") from None
    added, there = in_database(lambda connection: store.import_keys(connection, who(), document))
    click.echo(f"{added} keys imported, {there} were there already")


def _write(file: Path | None, content: bytes) -> None:
    if file is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise ConfigError(f"{file} cannot be written ({error.strerror}); nothing was exported") from None


async def _space_id(connection: Connection, name: str | None) -> int | None:
    return None if name is None else int((await settings.find_space(connection, name))["id"])


def _key_number(text: str) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        number = 0
    if not 0 < number < 2**store.KEY_BITS:
        raise click.UsageError(f"{text!r} is no key's id; `mailtrail keys list` shows them, e.g. 0a1b2c")
    return number


def _entry(row: asyncpg.Record) -> dict[str, object]:
    return {
        "id": key_id(row["id"]),
        "space": row["space_name"],
        "state": row["state"],
        "created": row["created_at"],
        "exported": row["exported_at"],
    }
