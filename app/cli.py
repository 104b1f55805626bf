"""The command line: `mailtrail …`, in a checkout `python -m app …`.

Invariant: an error that a person can mend is one clear line on stderr with the exit code of its class, never a
traceback.
"""

import sys
from importlib import import_module

import asyncpg
import click

from . import __version__
from .errors import MailtrailError

_COMMANDS = {
    "admin": "admin",
    "collect": "collect",
    "config": "setup",
    "demo": "demo",
    "doctor": "doctor",
    "event": "settings",
    "keys": "keys",
    "link": "sending",
    "mailing": "settings",
    "migrate": "setup",
    "relay": "relay",
    "rewrite": "sending",
    "ship": "ship",
    "space": "settings",
    "sql": "sql",
    "up": "up",
}


class _Commands(click.Group):
    """Loads a command's module when it is asked for: a worker must not start later for what it never uses."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = import_module(f".commands.{_COMMANDS[name]}", __package__)
        command: click.Command = getattr(module, name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Tracks opens and clicks of e-mails, and records only what the settings allow."""


def main() -> None:
    """The program's entry."""
    try:
        cli(prog_name="mailtrail")
    except MailtrailError as error:
        click.echo(f"mailtrail: {error}", err=True)
        sys.exit(error.exit_code)
    except asyncpg.DataError:  # its text may quote the value, which may not be printable
        click.echo("mailtrail: PostgreSQL cannot take a name or id that was given; it must be UTF-8 text", err=True)
        sys.exit(1)
    except asyncpg.PostgresError as error:
        hint = f"; {error.hint}" if error.hint else ""
        click.echo(f"mailtrail: PostgreSQL refuses: {error.args[0]}{hint}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        sys.exit(1)
