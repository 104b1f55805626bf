"""Messages and single links, made for senders of any language: what is to be sent in, the tracked form of it out.

Invariants: every answer with a mail is one message more among its mailing's sent ones, and no refusal is; a key of one
space opens no other space's messages.
"""

import binascii
import contextlib
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter
from pybase64 import b64decode, b64encode_as_string
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...config import Settings
from ...errors import DestinationRefused, SettingsError
from ...sending.dispatch import Dispatch
from ...sending.links import mint_link, reopen_message, start_message, start_with_link
from ...sending.minting import Minter
from ...sending.prepare import Limits, Prepared, prepare
from ...sending.sources import Document, Mail, Source
from ...store import settings as store
from ...tracking.settings import ceiling, check_name, permission
from .bodies import Body, json_answer, words
from .identity import Minting, Visit
from .ids import ShortId
from .problems import Kind, Refusal
from .requests import MailRoute

router = APIRouter(route_class=MailRoute, tags=["messages"])

Ceiling = Annotated[str, words("aggregate", "anonymized", "person_based")]
PermissionWord = Annotated[str, words("granted", "denied", "unknown")]
SPACE = Field(None, description="A key of one space may leave it out.")
EVENT = Field(description="Its name or id.")
MAILING = Field(description="Your own name of what is sent; the mailing is made at its first use.")
_RECIPIENT = "Your own id for the person, e.g. the customer number."
_UTF_8 = b"\xef\xbb\xbf"


class Content(Body):
    """What is to be sent: `html` or `mail`. The rest can take tracking away, and adds none."""

    html: str | None = Field(None, description="An HTML document, or a piece of one.")
    mail: str | None = Field(None, description="A whole MIME mail, in base64.")
    ceiling: Ceiling = Field("person_based", description="At most so much is recorded.")
    links: bool = Field(True, description="Whether links are tracked.")
    pixel: bool = Field(True, description="Whether opens are.")
    text_parts: bool = Field(True, description="Whether the links of plain text are tracked, in a mail.")

    def source(self, settings: Settings, place: str = "") -> Source:
        """Refusal for none of the two or both, or no base64; MailRefused for what cannot be read."""
        if (self.html is None) == (self.mail is None):
            raise Refusal(Kind.INVALID, "send either html or mail", field=f"{place}html")
        if self.html is not None:
            return _document(self.html, settings, f"{place}html")
        try:
            raw = b64decode(self.mail or "", validate=True)
        except (binascii.Error, ValueError):
            problem = "the mail is no base64; encode the whole message, without line breaks"
            raise Refusal(Kind.INVALID, problem, field=f"{place}mail") from None
        return Mail(raw, self.text_parts, settings.app_schemes)

    def limits(self) -> Limits:
        return Limits(ceiling(self.ceiling), self.links, self.pixel)


class NewMessage(Content):
    """A message to be made: one mail to one recipient."""

    space: ShortId | None = SPACE
    event: str = EVENT
    mailing: str = MAILING
    recipient: str = Field(description=_RECIPIENT)
    permission: PermissionWord = Field(description="The recipient's tracking permission.")


class MessageLink(BaseModel):
    """A tracked link. `label` is what this mail's reader sees of it."""

    number: int
    pattern: str
    label: str
    url: str


class MadeMessage(BaseModel):
    """A message: `html` or `mail` (in base64), whichever was sent in.

    `ceiling` is off, `message_id` null and `reason` says why, if it is untracked. `untouched` counts the links that
    stayed as they were by reason. `counted` is false for a mail that was tracked before, which counts already.
    """

    message_id: str | None
    ceiling: str
    html: str | None
    mail: str | None
    links: list[MessageLink]
    pixel: bool
    untouched: dict[str, int]
    counted: bool
    reason: str


class WantedLink(Body):
    """A link to be minted: of a message that exists, or of a new one for an address."""

    url: str | None = Field(None, description="Where it leads to.")
    pixel: bool = Field(False, description="True: the pixel instead of a link.")
    message_id: str | None = Field(None, description="Of a message that exists; without it a new one is made.")
    recipient: str | None = Field(None, description=_RECIPIENT)
    space: ShortId | None = SPACE
    event: str | None = Field(None, description="Its name or id.")
    mailing: str | None = Field(None, description="Your own name of it; made at its first use.")
    permission: PermissionWord | None = Field(None, description="The recipient's tracking permission.")


class MintedLink(BaseModel):
    """A tracked URL. `link` is its number in the mailing, null for a pixel."""

    url: str
    link: int | None
    ceiling: str
    message_id: str


# --- messages --------------------------------------------------------------------------------------------------------


@router.post("/messages", response_model=MadeMessage)
async def make_message(visit: Minting, body: NewMessage) -> Response:
    """Tracks an HTML document or a whole mail for one recipient, as far as the settings allow now, and counts it."""
    source, limits = body.source(visit.settings), body.limits()
    space = await visit.named_space(body.space)
    event = await visit.named_event(space["id"], body.event)
    async with visit.connection.transaction():
        dispatch = await dispatch_of(visit, space["id"], event["id"], body.mailing, body.recipient, body.permission)
        prepared = await prepare(visit.connection, source, dispatch, visit.settings, limits)
    return json_answer(MadeMessage(**shown(prepared, body)))


async def dispatch_of(visit: Visit, space: int, event: int, mailing: str, recipient: str, permitted: str) -> Dispatch:
    """A dispatch of a body's words; its mailing is made at its first use."""
    checked = Dispatch(space, event, 0, recipient, permission(permitted))
    return Dispatch(space, event, await ensure_mailing(visit, space, event, mailing), recipient, checked.permission)


async def ensure_mailing(visit: Visit, space: int, event: int, name: str, field: str = "mailing") -> int:
    """The number of the mailing of this name, made at its first use."""
    with naming(field):
        check_name(name, "mailing")
    row, _ = await store.ensure_mailing(visit.connection, visit.who, space, event, name)
    return int(row["id"])


@contextlib.contextmanager
def naming(field: str) -> Iterator[None]:
    """Lets a rule that is broken name the body's own field."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(str(error), field=field) from None


def shown(prepared: Prepared, content: Content) -> dict[str, object]:
    """What `MadeMessage` has of a mail."""
    is_html = content.html is not None
    return {
        "message_id": prepared.message_id,
        "ceiling": prepared.ceiling.label,
        "html": prepared.raw.removeprefix(_UTF_8).decode() if is_html else None,
        "mail": None if is_html else b64encode_as_string(prepared.raw),
        "links": [
            MessageLink(number=link.number, pattern=link.pattern, label=link.label, url=link.url)
            for link in prepared.links
        ],
        "pixel": prepared.pixel,
        "untouched": dict(prepared.untouched),
        "counted": prepared.counted,
        "reason": prepared.reason,
    }


def _document(html: str, settings: Settings, field: str) -> Document:
    """A text has no bytes that a charset in it could be about: a byte order mark says that these are UTF-8."""
    if not html.strip():
        raise Refusal(Kind.INVALID, "the document is empty; send the mail's HTML", field=field)
    return Document(_UTF_8 + html.removeprefix("\ufeff").encode(), settings.app_schemes)


# --- links -----------------------------------------------------------------------------------------------------------


@router.post("/links", response_model=MintedLink)
async def make_link(visit: Minting, body: WantedLink) -> Response:
    """Mints a tracked link or a pixel. Without a message id it is of a new message, which counts as one sent."""
    if (body.url is None) is not body.pixel:
        raise Refusal(Kind.INVALID, "send either url or pixel: true", field="url")
    async with visit.connection.transaction():
        minter, url, number = await _mint(visit, body)
    minted = MintedLink(url=url, link=number, ceiling=minter.message.ceiling.label, message_id=minter.message_id)
    return json_answer(minted)


async def _mint(visit: Visit, body: WantedLink) -> tuple[Minter, str, int | None]:
    connection, settings = visit.connection, visit.settings
    if body.message_id is not None:
        _check_left_out(body)
        minter = await reopen_message(connection, body.message_id, settings, visit.principal.space)
    else:
        dispatch = await _dispatch(visit, body)
        if body.url is not None:
            with _naming_url():
                return await start_with_link(connection, dispatch, body.url, settings)
        minter = await start_message(connection, dispatch, settings)
    if body.url is None:
        return minter, minter.pixel_url(), None
    with _naming_url():
        return minter, *await mint_link(connection, minter, body.url, settings, body.recipient)


async def _dispatch(visit: Visit, body: WantedLink) -> Dispatch:
    names = ("event", "mailing", "recipient", "permission")
    event, mailing, recipient, permitted = (_given(body, name) for name in names)
    space = await visit.named_space(body.space)
    found = await visit.named_event(space["id"], event)
    return await dispatch_of(visit, space["id"], found["id"], mailing, recipient, permitted)


def _given(body: WantedLink, name: str) -> str:
    value: str | None = getattr(body, name)
    if value is None:
        raise Refusal(Kind.INVALID, f"{name} is missing; send it, or the message_id of a mail that has it", field=name)
    return value


def _check_left_out(body: WantedLink) -> None:
    for name in ("space", "event", "mailing", "permission"):
        if getattr(body, name) is not None:
            raise Refusal(Kind.INVALID, f"the message id says it already; leave {name} out", field=name)


@contextlib.contextmanager
def _naming_url() -> Iterator[None]:
    try:
        yield
    except DestinationRefused as error:
        raise Refusal(Kind.DESTINATION, str(error), field="url") from None
