"""How much is recorded: the modes, their order, and which one is in force.

Invariant: nothing here ever raises a mode. `effective` is the meet of what is in force now and of the ceiling that was
sealed into the token, so neither a later looser setting nor an unknown space or event makes a sent mail more talkative.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum


class Mode(IntEnum):
    """How much a hit records; the order is the lattice: a smaller mode records less."""

    OFF = 0
    AGGREGATE = 1
    ANONYMIZED = 2
    PERSON_BASED = 3

    label: str
    """The word used in SQL, on the command line and in journals, e.g. `person_based`."""

    def __init__(self, _: int) -> None:
        self.label = self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> "Mode":
        """The mode of a label; raises KeyError for any other word."""
        return cls[label.upper()]


class Permission(Enum):
    """The recipient's tracking permission, as the sender passed it at send time."""

    UNKNOWN = 0
    GRANTED = 1
    DENIED = 2


class Origin(Enum):
    """Where a mail came from: sent for an event, or through the mail relay."""

    EVENT = 0
    RELAY = 1


@dataclass(frozen=True, slots=True)
class Space:
    """A tenant's tracking settings. New spaces are anonymized, their relay is off."""

    default_mode: Mode = Mode.ANONYMIZED
    relay_mode: Mode = Mode.OFF
    deleted: bool = False

    def __post_init__(self) -> None:
        if self.default_mode not in (Mode.ANONYMIZED, Mode.PERSON_BASED):
            raise ValueError("a space's default mode is anonymized or person_based")
        if self.relay_mode is Mode.AGGREGATE:
            raise ValueError("a space's relay mode is off, anonymized or person_based")


@dataclass(frozen=True, slots=True)
class Event:
    """An event's tracking setting: it inherits the space's default, or tracks by the recipient's permission."""

    by_permission: bool = False


class Rule(Enum):
    """What decided about a mode."""

    SPACE_UNKNOWN = "space_unknown"
    SPACE_DELETED = "space_deleted"
    RELAY = "relay"
    EVENT_UNKNOWN = "event_unknown"
    PERMISSION = "permission"
    DEFAULT = "default"


def decide(origin: Origin, space: Space | None, event: Event | None, permission: Permission) -> tuple[Mode, Rule]:
    """The mode that the settings ask for now, and why; `None` stands for a space or event that is not known.

    A deleted space records nothing. The relay never asks for permission. An event that tracks by permission overrides
    the space's default in both directions. What is not known is never guessed upwards.
    """
    if space is None:
        return Mode.OFF if origin is Origin.RELAY else Mode.ANONYMIZED, Rule.SPACE_UNKNOWN
    if space.deleted:
        return Mode.OFF, Rule.SPACE_DELETED
    if origin is Origin.RELAY:
        return space.relay_mode, Rule.RELAY
    if event is None:
        return min(space.default_mode, Mode.ANONYMIZED), Rule.EVENT_UNKNOWN
    if event.by_permission:
        return Mode.PERSON_BASED if permission is Permission.GRANTED else Mode.ANONYMIZED, Rule.PERMISSION
    return space.default_mode, Rule.DEFAULT


def in_force(origin: Origin, space: Space | None, event: Event | None, permission: Permission) -> Mode:
    """The mode that the settings ask for now."""
    return decide(origin, space, event, permission)[0]


def effective(now: Mode, ceiling: Mode) -> Mode:
    """The mode a hit is recorded in: never above what is in force now, never above the token's ceiling."""
    return min(now, ceiling)
