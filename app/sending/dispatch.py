"""What a mail is sent for and to whom, and what the settings say about that right now.

Invariant: a ceiling comes from the settings in the database at that moment and is never raised by anything else.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from ..config import Settings
from ..errors import NotFound
from ..store import events
from ..store import settings as store
from ..store.pool import Connection
from ..store.queries import queries
from ..tracking.modes import Event, Mode, Origin, Permission, Rule, Space, decide
from ..tracking.settings import check_recipient, permission
from ..tracking.tokens import CorrelationIds, Message

_SQL = queries("settings")


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One mail to one recipient, by ids. Without an event it goes through the relay, and `mailing` is a group there.

    SettingsError for a recipient that cannot be sealed.
    """

    space: int
    event: int | None
    mailing: int
    recipient: str
    permission: Permission
    correlation_ids: CorrelationIds = ()
    """The sender's own ids of this one mail, kept with person-based hits only."""

    def __post_init__(self) -> None:
        check_recipient(self.recipient)

    def message(self, ceiling: Mode) -> Message:
        """A new message under this ceiling, issued today (UTC)."""
        return Message(
            space=self.space,
            event=self.event or 0,
            mailing=self.mailing,
            origin=origin_of(self.event),
            ceiling=ceiling,
            permission=self.permission,
            issue_day=datetime.now(UTC).date(),
            recipient=self.recipient,
            correlation_ids=self.correlation_ids,
        )

    def differences(self, message: Message) -> list[str]:
        """What of a message is not of this dispatch. Its recipient is known only under person_based."""
        pairs = {
            "space": (self.space, message.space),
            "event": ((origin_of(self.event), self.event or 0), (message.origin, message.event)),
            "mailing": (self.mailing, message.mailing),
            "permission": (self.permission, message.permission),
            "recipient": (self.recipient, message.recipient or self.recipient),
        }
        return [name for name, (ours, theirs) in pairs.items() if ours != theirs]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a mail now: how much may be recorded and why, the base of its links, its mailing's parameters."""

    mode: Mode
    rule: Rule
    base: str
    parameters: str = ""


def origin_of(event: int | None) -> Origin:
    return Origin.RELAY if event is None else Origin.EVENT


async def find_dispatch(
    connection: Connection, who: str, space: str, event: str, mailing: str, recipient: str, permitted: str
) -> tuple[Dispatch, bool]:
    """A dispatch by names (or hex ids) and the permission's word, and whether its mailing is new.

    A mailing's name is the sender's own id of it: it is made at its first use. Space and event must be there.
    """
    word, recipient = permission(permitted), check_recipient(recipient)
    space_id = (await store.find_space(connection, space))["id"]
    event_id = (await events.find_event(connection, space_id, event))["id"]
    row, is_new = await store.ensure_mailing(connection, who, space_id, event_id, mailing)
    return Dispatch(space_id, event_id, row["id"], recipient, word), is_new


async def read_terms(
    connection: Connection, settings: Settings, space: int, event: int | None, mailing: int, permission: Permission
) -> Terms:
    """Reads everything that decides in one statement; NotFound for a space or mailing that is not there."""
    row = await connection.fetchrow(_SQL["terms"], space, event, mailing)
    if row is None:
        raise NotFound(f"there is no space {space:08x}; `mailtrail space list` shows them")
    if not row["has_mailing"]:
        raise NotFound(f"the event has no mailing {mailing:012x}; `mailtrail mailing list` shows them")
    mode, rule = decide(
        origin_of(event),
        Space(Mode.from_label(row["default_mode"]), Mode.from_label(row["relay_mode"]), row["deleted"]),
        None if row["by_permission"] is None else Event(row["by_permission"]),
        permission,
    )
    return Terms(mode, rule, row["tracking_url"] or settings.public_url, row["url_parameters"] or "")
