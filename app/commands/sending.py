"""`rewrite` and `link`: mails are made ready for sending, and single links are minted."""

import re
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import click
import orjson

from .. import config
from ..config import Settings
from ..errors import SettingsError
from ..sending.dispatch import find_dispatch
from ..sending.links import mint_link, read_message_id, reopen_message, start_message, start_with_link
from ..sending.minting import Minter
from ..sending.prepare import Prepared, prepare
from ..sending.sources import Form, read_source
from ..store.keys import read_export
from ..store.pool import Connection
from ..tracking.modes import Mode, Origin
from ..tracking.settings import ceiling as ceiling_of
from ..tracking.settings import check_base_url, check_recipient
from ..tracking.settings import permission as permission_of
from ..tracking.tokens import KeyRing, Message
from .context import in_database, who

_ADDRESS = ("space", "event", "mailing", "recipient", "permission")
_PERMISSIONS = "granted|denied|unknown"
_CEILINGS = {
    Mode.PERSON_BASED: "person-based: who opens and clicks is recorded",
    Mode.ANONYMIZED: "anonymized: opens and clicks are counted, never whose they are",
    Mode.AGGREGATE: "aggregate: only totals are counted",
    Mode.OFF: "not tracked: nothing is recorded",
}
_REASONS = {
    "already_tracked": "tracked already",
    "anchor": "inside the mail",
    "declined": "not wanted",
    "dkim": "mail signed with DKIM",
    "encrypted": "encrypted part",
    "malformed": "malformed mail or part",
    "no_text": "mail without HTML or plain text",
    "personalised": "possibly personal",
    "placeholder": "with a placeholder to be filled",
    "prepared_before": "left when the mail was prepared first",
    "relative": "without a host",
    "scheme": "neither http nor https",
    "signed": "signed part",
    "too_long": "too long",
    "tracked_for_another": "tracked for another mail",
    "unclear": "whose end nobody can tell",
    "undecodable": "undecodable part",
    "unsubscribe": "for unsubscribing",
}


@click.command()
@click.option("--space", metavar="NAME", help="The space, by name or id.")
@click.option("--event", metavar="NAME", help="The event, by name or id.")
@click.option("--mailing", metavar="NAME", help="Your own name for the mailing; made at its first use.")
@click.option("--recipient", metavar="ID", help="Your own id for the person, e.g. the customer number.")
@click.option("--permission", metavar=_PERMISSIONS, help="The recipient's tracking permission.")
@click.option("--eml", "form", flag_value="mail", help="The input is a whole mail; otherwise that is found out.")
@click.option("--html", "form", flag_value="html", help="The input is an HTML document.")
@click.option("--no-text", is_flag=True, help="Leave the links of the plain text alone.")
@click.option("--report", is_flag=True, help="List every tracked link on stderr.")
@click.option("--batch", is_flag=True, help="The input is lines of JSON: a template, then each recipient.")
@click.option("--events", is_flag=True, help="As --batch, each line with an event's data.")
@click.pass_context
def rewrite(
    context: click.Context,
    /,
    form: Form | None,
    no_text: bool,
    report: bool,
    batch: bool,
    events: bool,
    **address: str | None,
) -> None:
    """Track the links of a mail or an HTML document from stdin, put the pixel in, and write it to stdout.

    With --batch or --events lines of JSON come in, a template and then the recipients, and mails go out likewise.
    """
    settings = config.load()
    if batch or events:
        _refuse_options_of_one_mail(context)
        _rewrite_lines(settings, of_event=events)
        return
    space, event, mailing, recipient, permission = _values_of(context, address)
    source = read_source(_read_stdin(), form, text_parts=not no_text, app_schemes=settings.app_schemes)

    async def work(connection: Connection) -> tuple[Prepared, bool]:
        async with connection.transaction():
            dispatch, is_new = await find_dispatch(connection, who(), space, event, mailing, recipient, permission)
            return await prepare(connection, source, dispatch, settings), is_new

    prepared, is_new = in_database(work, settings)
    sys.stdout.buffer.write(prepared.raw)
    sys.stdout.buffer.flush()
    click.echo(f"mailtrail: {_summary(prepared)}" + (f"; the mailing {mailing!r} is new" if is_new else ""), err=True)
    if report:
        for link in prepared.links:
            click.echo("  ".join(filter(None, (f"{link.number:4d}", link.label, link.pattern))), err=True)


@click.command()
@click.argument("url", required=False)
@click.option("--pixel", is_flag=True, help="Print the pixel's URL instead of a link's.")
@click.option("--space", metavar="NAME", help="The space, by name or id.")
@click.option("--event", metavar="NAME", help="The event, by name or id.")
@click.option("--mailing", metavar="NAME", help="Your own name for the mailing; made at its first use.")
@click.option("--recipient", metavar="ID", help="Your own id for the person, e.g. the customer number.")
@click.option("--permission", metavar=_PERMISSIONS, help="The recipient's tracking permission.")
@click.option("--message-id", metavar="ID", help="Mint a further link of this mail, which says what it is for.")
@click.option("--keys", type=click.File("rb"), metavar="FILE", help="An export of keys: mint without any database.")
@click.option("--ceiling", metavar="MODE", help="With --keys: what may be recorded, as no settings say it.")
@click.option("--number", type=click.IntRange(1, 2**31 - 1), help="With --keys: the link's number in the mail, from 1.")
@click.option("--base", metavar="URL", help="With --keys: what links start with, if not MAILTRAIL_PUBLIC_URL.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def link(
    url: str | None,
    pixel: bool,
    message_id: str | None,
    keys: BinaryIO | None,
    ceiling: str | None,
    number: int | None,
    base: str | None,
    as_json: bool,
    **address: str | None,
) -> None:
    """Mint the tracked form of one URL and print it.

    With --keys, space, event and mailing are ids as `list` prints them, and the link is registered nowhere.
    """
    if (url is None) is not pixel:
        raise click.UsageError("give either a URL or --pixel")
    if keys is None and any(value is not None for value in (ceiling, number, base)):
        raise click.UsageError("--ceiling, --number and --base go with --keys; otherwise the settings say it")
    settings = config.load()
    order = _Order(url, message_id, address)
    if keys is not None:
        minted = _mint_alone(order, keys.read(), ceiling, number or 1, base, settings)
    else:
        order.check()
        minted = in_database(lambda connection: _mint(connection, order, settings), settings)
    minted.show(as_json=as_json)


# --- one link --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """What `link` is to mint: a link, or the pixel without a URL; of a message that exists, or for an address."""

    url: str | None
    message_id: str | None
    address: dict[str, str | None]

    def check(self, *needed: str) -> None:
        """UsageError unless there is a message id, or what is needed for a new message; all if nothing is named."""
        if self.message_id is None:
            self.values(*(needed or _ADDRESS))
        elif given := [name for name, value in self.address.items() if value is not None and name != "recipient"]:
            raise click.UsageError(f"the message id says it already; leave out {_options(given)}")

    def values(self, *names: str) -> dict[str, str]:
        """The address's values under these names; UsageError if one is missing."""
        if missing := [name for name in names if self.address[name] is None]:
            raise click.UsageError(f"{_options(missing)} missing; give it, or the --message-id of a mail that has it")
        return {name: value for name in names if (value := self.address[name]) is not None}


@dataclass(frozen=True, slots=True)
class _Minted:
    url: str
    minter: Minter
    link: int | None = None

    def show(self, *, as_json: bool) -> None:
        ceiling, message_id = self.minter.message.ceiling, self.minter.message_id
        if as_json:
            values = {"url": self.url, "link": self.link, "ceiling": ceiling.label, "message_id": message_id}
            click.echo(orjson.dumps(values, option=orjson.OPT_INDENT_2))
            return
        click.echo(self.url)
        number = f"link {self.link}, " if self.link else ""
        click.echo(f"mailtrail: {number}{_CEILINGS[ceiling]}; message id {message_id}", err=True)


async def _mint(connection: Connection, order: _Order, settings: Settings) -> _Minted:
    async with connection.transaction():
        if order.message_id is not None:
            minter = await reopen_message(connection, order.message_id, settings)
        else:
            dispatch, _ = await find_dispatch(connection, who(), *order.values(*_ADDRESS).values())
            if order.url is not None:
                minter, url, number = await start_with_link(connection, dispatch, order.url, settings)
                return _Minted(url, minter, number)
            minter = await start_message(connection, dispatch, settings)
        if order.url is None:
            return _Minted(minter.pixel_url(), minter)
        url, number = await mint_link(connection, minter, order.url, settings, order.address["recipient"])
        return _Minted(url, minter, number)


def _mint_alone(
    order: _Order, export: bytes, ceiling: str | None, number: int, base: str | None, settings: Settings
) -> _Minted:
    """Mints with nothing but keys: the number is the sender's own, and nobody registers it."""
    if order.message_id is None and ceiling is None:
        raise click.UsageError(
            "without a database nothing says how much may be recorded: pass --ceiling aggregate, anonymized or"
            " person_based"
        )
    at_most = Mode.PERSON_BASED if ceiling is None else ceiling_of(ceiling)
    order.check("space", "event", "mailing", "permission", *(["recipient"] if at_most is Mode.PERSON_BASED else []))
    ring = _ring(export)
    if order.message_id is not None:
        message = read_message_id(ring, order.message_id).lowered_to(at_most)
    else:
        message = _message(order, at_most)
    minter = Minter(ring, message, check_base_url(base) if base else settings.public_url)
    if order.url is None:
        return _Minted(minter.pixel_url(), minter)
    recipient = message.recipient or order.address["recipient"]
    return _Minted(minter.mint_unregistered(order.url, number, recipient, settings.app_schemes), minter, number)


def _ring(export: bytes) -> KeyRing:
    try:
        document = orjson.loads(export)
    except orjson.JSONDecodeError:
        raise SettingsError("the keys' file is no JSON; give a file of `mailtrail keys export`") from None
    return KeyRing({exported.key.key_id: exported.key for exported in read_export(document)})


def _message(order: _Order, ceiling: Mode) -> Message:
    given = order.values("space", "event", "mailing", "permission")
    recipient = order.address["recipient"]
    return Message(
        space=_id("space", given["space"], 8),
        event=_id("event", given["event"], 8),
        mailing=_id("mailing", given["mailing"], 12),
        origin=Origin.EVENT,
        ceiling=ceiling,
        permission=permission_of(given["permission"]),
        issue_day=datetime.now(UTC).date(),
        recipient=None if recipient is None else check_recipient(recipient),
    )


def _id(what: str, text: str, digits: int) -> int:
    if not re.fullmatch(f"[0-9A-Fa-f]{{1,{digits}}}", text) or not (number := int(text, 16)):
        raise click.UsageError(
            f"with --keys, --{what} is an id of {digits} hex digits, as `mailtrail {what} list` prints it, not {text!r}"
        )
    return number


def _options(names: list[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


# --- whole mails -----------------------------------------------------------------------------------------------------


def _values_of(context: click.Context, address: dict[str, str | None]) -> list[str]:
    """Whom a mail is for, in the order of `_ADDRESS`; click's own words for what is missing."""
    parameters = {parameter.name: parameter for parameter in context.command.params}
    values = []
    for name in _ADDRESS:
        if (value := address[name]) is None:
            raise click.MissingParameter(ctx=context, param=parameters[name])
        values.append(value)
    return values


def _refuse_options_of_one_mail(context: click.Context) -> None:
    given = [name for name, value in context.params.items() if value and name not in ("batch", "events")]
    if given:
        options = _options(["eml" if name == "form" else name.replace("_", "-") for name in given])
        raise click.UsageError(f"{options} is for one mail; a batch says it in its lines")


def _rewrite_lines(settings: Settings, *, of_event: bool) -> None:
    # What a batch takes is not needed for one mail.
    from .batches import rewrite_lines, summary

    _refuse_terminal("mailtrail rewrite --batch < lines.ndjson > mails.ndjson")
    batch = rewrite_lines(settings, of_event=of_event)
    click.echo(f"mailtrail: {summary(batch)}", err=True)
    if batch.refused or batch.has_broken_off:
        sys.exit(1)


def _read_stdin() -> bytes:
    _refuse_terminal("mailtrail rewrite … < mail.eml > tracked.eml")
    return sys.stdin.buffer.read()


def _refuse_terminal(example: str) -> None:
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError(f"hand it over on stdin: {example}")


def _summary(prepared: Prepared) -> str:
    """One line for people: what is tracked, how, and what is not and why."""
    if prepared.message_id:
        links = f"{prepared.tracked} link{'' if prepared.tracked == 1 else 's'}"
        parts = [f"tracked {links}{' and the pixel' if prepared.pixel else ''}, {_CEILINGS[prepared.ceiling]}"]
    else:
        parts = ["nothing tracked" + ("; the mail counts as sent untracked" if prepared.counted else "")]
    if prepared.untouched:
        parts.append(f"left as they were: {_reasons(prepared.untouched)}")
    if another := prepared.untouched["tracked_for_another"]:
        parts.append(
            f"careful: a click on {'that one link' if another == 1 else f'those {another} links'} is recorded for the"
            " recipient and mailing of that other mail; rewrite the original instead"
        )
    if prepared.message_id:
        parts.append(f"message id {prepared.message_id}")
    return "; ".join(parts)


def _reasons(untouched: Counter[str]) -> str:
    return ", ".join(f"{count} {_REASONS.get(reason, reason.replace('_', ' '))}" for reason, count in untouched.items())
