"""Many mails by lines of JSON: a template first, then a line for each recipient; each is answered by a line.

    {"space": "Shop", "event": "newsletter", "mailing": "November", "html": "<p>Hello {{ name }}…", "fields": ["name"]}
    {"recipient": "4711", "permission": "granted", "values": {"name": "Erika"}}

Invariants: a line that cannot be is answered with a problem and ends nothing; memory grows neither with the number of
lines nor, beyond `MAX_LINE_BYTES`, with their length; `done` is said once every mail is counted.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec
import orjson

from ..config import Settings
from ..errors import DestinationRefused, MailRefused, MailtrailError, NotFound, SettingsError, StoreUnavailable
from ..tracking.event_data import EventData, read_event_data
from ..tracking.event_types import EventType
from ..tracking.settings import check_recipient, permission
from .bulk import Sending
from .strict_json import NoJson, read_json
from .template import Personalised, Template

MAX_LINE_BYTES = 2**20
FLUSH_BYTES = 2**16
"""Answers are handed on together up to about so many bytes."""

_MAX_DETAIL = 1_000
_MAX_SHOWN = 100
_WRONG = re.compile(r"(.*?)(?: - at `\$\.?(.*?)(?:\[\.\.\.\])?`)?", re.S)
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.S)
Head = TypeVar("Head", bound=msgspec.Struct)


class LineTooLong(MailtrailError):
    """A line has more than `MAX_LINE_BYTES`."""


class BrokenOff(MailtrailError):
    """Whoever reads the lines ends the batch; `word` is the problem's."""

    def __init__(self, word: str, problem: str) -> None:
        super().__init__(problem)
        self.word = word


# --- lines -----------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line by its number from 1, as an editor shows it; without content it was too long."""

    number: int
    content: bytes | None

    def read(self) -> Any:
        """The line's JSON; LineTooLong, NoJson, or SettingsError for a value that cannot be."""
        if self.content is None:
            raise LineTooLong(f"the line has more than {MAX_LINE_BYTES} bytes; send less")
        return read_json(self.content)


@dataclass(slots=True)
class LineSplitter:
    """Makes lines of chunks, however those are cut; empty lines are counted and left out."""

    _rest: bytearray = field(default_factory=bytearray)
    _is_too_long: bool = False
    _number: int = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._append(piece)
            yield from self._take()
        self._append(rest)

    def end(self) -> Iterator[Line]:
        """The last line, if nothing ended it."""
        yield from self._take()

    def _append(self, piece: bytes) -> None:
        if len(self._rest) + len(piece) > MAX_LINE_BYTES:
            self._is_too_long = True
            self._rest.clear()
        elif not self._is_too_long:
            self._rest += piece

    def _take(self) -> Iterator[Line]:
        self._number += 1
        content = None if self._is_too_long else bytes(self._rest)
        self._rest.clear()
        self._is_too_long = False
        if content is None or content.strip():
            yield Line(self._number, content)


class Feed:
    """Lines as they come: nothing is read ahead of who asks for it."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._lines = self._split(chunks)

    async def first(self) -> Line:
        """The line with the template; SettingsError if nothing comes."""
        async for lines in self._lines:
            for line in lines:
                self._others = lines
                return line
        raise SettingsError("there is no line; begin with one that says what is sent and has the template")

    async def groups(self) -> AsyncIterator[Iterator[Line]]:
        """The lines behind the first, as many together as came together."""
        yield self._others
        async for lines in self._lines:
            yield lines

    @staticmethod
    async def _split(chunks: AsyncIterator[bytes]) -> AsyncIterator[Iterator[Line]]:
        splitter = LineSplitter()
        async for chunk in chunks:
            yield splitter.feed(chunk)
        yield splitter.end()


# --- what the lines say ----------------------------------------------------------------------------------------------


class MessagesHead(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The first line of a batch of messages."""

    space: str | None = None
    event: str
    mailing: str
    html: str
    fields: list[str] = []
    ceiling: str = "person_based"


class EventsHead(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The first line of a batch of one event's data; `event` is the definition's id."""

    space: str | None = None
    event: str
    mailing: str | None = None
    html: str
    fields: list[str] = []
    ceiling: str = "person_based"


class _Recipient(msgspec.Struct, forbid_unknown_fields=True):
    recipient: str
    permission: str
    values: dict[str, str] = {}


class _Occurrence(msgspec.Struct, forbid_unknown_fields=True):
    payload: dict[str, Any]
    values: dict[str, str] = {}


def read_head(line: Line, head: type[Head]) -> Head:
    """The first line; raises as `Line.read`, and SettingsError with the path of what is missing or wrong."""
    return _convert(line.read(), head)


def compile_template(head: MessagesHead | EventsHead, settings: Settings) -> Template:
    """The template of a first line; SettingsError for fields that cannot be."""
    if not head.html.strip():
        raise SettingsError("the template is empty; give the mail's HTML", field="html")
    return Template.compile(head.html, head.fields, app_schemes=settings.app_schemes)


def _convert(content: Any, to: type[Head]) -> Head:
    try:
        return msgspec.convert(content, to)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from None


def _misfit(text: str) -> SettingsError:
    """What a validator says, with what to do about it."""
    problem, path = found.groups() if (found := _WRONG.fullmatch(text)) else (text, None)
    if named := _FIELD.fullmatch(problem):
        is_missing, name = named[1].startswith("missing"), named[2][:_MAX_SHOWN]
        mend = f"{name!r} is missing; send it" if is_missing else f"there is no {name!r} here; leave it out"
        return SettingsError(mend, field=f"{path}.{name}" if path else name)
    return SettingsError(f"{path or 'the line'}: {problem.lower()}; correct it", field=path or None)


# --- answers ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Batch:
    """Answers lines with mails of one send; with an event type the lines are that event's data."""

    sending: Sending
    event_type: EventType | None = None
    done: int = 0
    refused: int = 0
    has_broken_off: bool = False

    async def answer(self, line: Line) -> bytes:
        """The answer to a line; StoreUnavailable if it cannot be made now, and nothing is counted."""
        try:
            made = await (self._mail(line) if self.event_type is None else self._mail_of_event(line, self.event_type))
        except StoreUnavailable:
            raise
        except MailtrailError as error:
            self.refused += 1
            return _line({"line": line.number, "problem": problem_of(error)})
        self.done += 1
        return _line({"line": line.number, **made})

    async def _mail(self, line: Line) -> dict[str, Any]:
        asked = _convert(line.read(), _Recipient)
        permitted = permission(asked.permission)
        check_recipient(asked.recipient)
        try:
            return _shown(await self.sending.mail(asked.recipient, permitted, asked.values))
        except SettingsError as error:
            raise _of_values(error) from None

    async def _mail_of_event(self, line: Line, event_type: EventType) -> dict[str, Any]:
        asked = _convert(line.read(), _Occurrence)
        data = read_event_data(event_type, asked.payload)
        # First, because a mail that is made is counted, and must be answered.
        terms = await self.sending.terms(data.permission)
        values = {name: data.texts[name] for name in self.sending.template.fields if name in data.texts} | asked.values
        try:
            made = _shown(await self.sending.mail(data.recipient, data.permission, values))
        except SettingsError as error:
            raise _of_values(error) from None
        return {**made, "decided": decided(data, terms.mode.label, terms.rule.value)}


def decided(data: EventData, mode: str, rule: str) -> dict[str, str]:
    """What an event's data and the settings decided about a mail."""
    return {
        "recipient": data.recipient,
        "permission": data.permission.name.lower(),
        "mode": mode,
        "rule": rule,
    }


async def answers(batch: Batch, feed: Feed) -> AsyncIterator[bytes]:
    """The answers to all lines, and `{"done": …, "refused": …}` at the end.

    Where a batch breaks off, its last line is a problem instead; the lines answered until then are made and counted
    with the send's end.
    """
    waiting = bytearray()
    try:
        async for lines in feed.groups():
            for line in lines:
                waiting += await batch.answer(line)
                if len(waiting) >= FLUSH_BYTES:
                    yield bytes(waiting)
                    waiting.clear()
                    await asyncio.sleep(0)  # who else uses the loop gets a turn
            if waiting:
                yield bytes(waiting)
                waiting.clear()
                await asyncio.sleep(0)
        await batch.sending.count()
    except (BrokenOff, StoreUnavailable) as error:
        batch.has_broken_off = True
        yield bytes(waiting) + _line({"problem": problem_of(error)})
        return
    yield _line({"done": batch.done, "refused": batch.refused})


def problem_of(error: MailtrailError) -> dict[str, str]:
    """A problem as the API has them, without what the line's place says already."""
    if isinstance(error, StoreUnavailable):
        detail = "the database cannot be reached; send the lines without an answer again later"
    else:
        detail = str(error)[:_MAX_DETAIL]
    shown = {"type": f"/problems/{_word(error)}", "detail": detail}
    path = getattr(error, "field", None)
    return shown | {"field": path} if path else shown


_WORDS: tuple[tuple[type[MailtrailError], str], ...] = (
    (NoJson, "malformed"),
    (LineTooLong, "too-large"),
    (MailRefused, "mail"),
    (DestinationRefused, "destination"),
    (StoreUnavailable, "unavailable"),
    (NotFound, "not-found"),
)


def _word(error: MailtrailError) -> str:
    if isinstance(error, BrokenOff):
        return error.word
    return next((word for error_type, word in _WORDS if isinstance(error, error_type)), "invalid")


def _of_values(error: SettingsError) -> SettingsError:
    """The template names a field; in a line it is one of the values."""
    return SettingsError(str(error), field=f"values.{error.field}" if error.field else "values")


def _shown(mail: Personalised) -> dict[str, Any]:
    return {
        "message_id": mail.message_id,
        "ceiling": mail.ceiling.label,
        "html": mail.html,
        "untouched": mail.untouched,
    }


def _line(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
