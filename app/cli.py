"""The command line: `mailtrail …`, in a checkout `python -m app …`.

Invariant: an error that a person can mend is one clear line on stderr with the exit code of its class, never a
traceback.
"""

import sys

import asyncpg
import click

from . import __version__
from .commands import admin, demo, doctor, keys, sending, serving, settings, setup, sql
from .errors import MailtrailError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Tracks opens and clicks of e-mails, and records only what the settings allow."""


for command in (
    serving.up,
    serving.collect,
    serving.ship,
    admin.admin,
    setup.migrate,
    settings.space,
    settings.event,
    settings.mailing,
    keys.keys,
    sending.rewrite,
    sending.link,
    sql.sql,
    demo.demo,
    doctor.doctor,
    setup.show_config,
):
    cli.add_command(command)


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
