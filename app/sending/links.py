"""Single links and pixels, minted outside of a mail that is at hand: a new message, or a further link of one.

Invariants: a message is counted as sent when it is made, and never again; what its id opens to is never raised.
"""

from ..config import Settings
from ..errors import SettingsError, TokenRefused
from ..store import keys
from ..store import settings as store
from ..store.pool import Connection
from ..tracking.destinations import normalise
from ..tracking.links import PLACEHOLDER, host_of, pattern_of
from ..tracking.modes import Mode, Origin
from ..tracking.tokens import KeyRing, Kind, Message, key_id_of
from .dispatch import Dispatch, Terms, read_terms
from .minting import Minter, click_token, key_ids, refuse_tracked


async def start_message(connection: Connection, dispatch: Dispatch, settings: Settings) -> Minter:
    """A new message under what the settings allow now, counted as sent; SettingsError where tracking is off."""
    async with connection.transaction():
        minter = await _new_message(connection, dispatch, settings)
        await store.count_sent(connection, dispatch.mailing, minter.message.ceiling)
    return minter


async def start_with_link(
    connection: Connection, dispatch: Dispatch, url: str, settings: Settings
) -> tuple[Minter, str, int]:
    """A new message with the tracked URL and number of its first link. What is refused is not counted."""
    async with connection.transaction():
        minter = await _new_message(connection, dispatch, settings)
        tracked, number = await mint_link(connection, minter, url, settings, dispatch.recipient)
        # After the links, as in `prepare`: two senders that lock in different orders wait for each other.
        await store.count_sent(connection, dispatch.mailing, minter.message.ceiling)
    return minter, tracked, number


async def _new_message(connection: Connection, dispatch: Dispatch, settings: Settings) -> Minter:
    terms = await read_terms(
        connection, settings, dispatch.space, dispatch.event, dispatch.mailing, dispatch.permission
    )
    message = dispatch.message(_allowed(terms))
    return Minter(await keys.key_ring(connection, message.space), message, terms.base, terms.parameters)


async def reopen_message(
    connection: Connection, message_id: str, settings: Settings, only_space: int | None = None
) -> Minter:
    """The message of an id, under its own ceiling or what the settings allow now, whichever is less.

    With `only_space` the id of another space's message is one that no key opens.
    """
    try:
        key_ids = [key_id_of(message_id)] if only_space is None else []
    except TokenRefused as refused:
        raise _no_message(refused) from None
    ring = await keys.key_ring(connection, only_space, key_ids)
    message = read_message_id(ring, message_id)
    event = message.event if message.origin is Origin.EVENT else None
    terms = await read_terms(connection, settings, message.space, event, message.mailing, message.permission)
    message = message.lowered_to(_allowed(terms))
    return Minter(await keys.key_ring(connection, message.space), message, terms.base, terms.parameters)


def read_message_id(ring: KeyRing, message_id: str) -> Message:
    """What was sealed into a message id; SettingsError for anything else."""
    try:
        return ring.open(message_id, Kind.MESSAGE).message
    except TokenRefused as refused:
        raise _no_message(refused) from None


async def mint_link(
    connection: Connection, minter: Minter, url: str, settings: Settings, recipient: str | None = None
) -> tuple[str, int]:
    """The tracked URL of a link and its number, registered if it is new. DestinationRefused if it cannot be tracked.

    A hidden link counts for its recipient as in a whole mail, once however often it is minted. A message id below
    person_based holds no recipient: without `recipient` nobody can say whose link it is or whether its path names one,
    so it counts for nobody, and one that is not registered yet goes by its host only.
    """
    destination = normalise(url, app_schemes=settings.app_schemes)
    if token := click_token(destination):
        refuse_tracked(await keys.key_ring(connection, None, key_ids([token])), destination)
    recipient = _recipient(minter.message, recipient)
    pattern = pattern_of(destination, recipient)
    number = await _number(connection, minter.message.mailing, pattern, recipient)
    return minter.click_url(destination, pattern, number), number


async def _number(connection: Connection, mailing: int, pattern: str, recipient: str | None) -> int:
    fingerprints = await store.link_fingerprints(connection, mailing)
    link, mark = fingerprints.describe((pattern, 1)), fingerprints.mark(recipient)
    if recipient is None and not await store.is_registered(connection, mailing, link):
        link = fingerprints.describe((f"{host_of(pattern)}/{PLACEHOLDER}", 1))
    (numbered,) = await store.number_links(connection, mailing, [link], mark)
    await store.mark_links(connection, mailing, [numbered], mark)
    return numbered.number


def _recipient(message: Message, given: str | None) -> str | None:
    if given is not None and message.recipient not in (None, given):
        raise SettingsError("the message was made for another recipient; leave the recipient out", field="recipient")
    return message.recipient or given


def _allowed(terms: Terms) -> Mode:
    if terms.mode is Mode.OFF:
        raise SettingsError("tracking is off for this mail; send its links as they are")
    return terms.mode


def _no_message(refused: TokenRefused) -> SettingsError:
    return SettingsError(
        f"this is no message id that one of our keys opens ({refused.reason});"
        " it is what `mailtrail rewrite`, `mailtrail link` and the API give",
        field="message_id",
    )
