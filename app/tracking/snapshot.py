"""The snapshot: all settings and keys that an answer needs, as one immutable value.

Invariant: it is replaced whole, never changed, so that one answer never mixes two states of the settings; a key past
its destruction day is in no snapshot that a collector holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from .modes import Event, Mode, Space, effective, in_force
from .tokens import Edition, KeyRing, Message

LinkId = tuple[int, int, int]
"""(space, mailing, link number) of a registered link."""


_MAX_DECIDED = 10_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a collector knows. `overrides`: where a link goes instead, None for switched off; `day_keys` by UTC day."""

    version: int
    spaces: Mapping[int, Space]
    events: Mapping[tuple[int, int], Event]
    overrides: Mapping[LinkId, str | None]
    keys: KeyRing
    day_keys: Mapping[date, bytes]
    anonymization_days: int
    _decided: dict[bytes, Mode] = field(default_factory=dict, init=False, compare=False, repr=False)

    def in_force(self, message: Message | Edition, *, confirmed: bool = True) -> Mode:
        """The mode that the settings ask for now; settings unconfirmed for too long allow at most anonymized."""
        now = in_force(
            message.origin,
            self.spaces.get(message.space),
            self.events.get((message.space, message.event)),
            message.permission,
        )
        return now if confirmed else min(now, Mode.ANONYMIZED)

    def mode_of(self, message: Message | Edition, *, confirmed: bool = True) -> Mode:
        """The mode in which a hit of this message, or of any of this edition, is recorded."""
        return effective(self.in_force(message, confirmed=confirmed), message.ceiling)

    def decided_mode_of(self, edition: Edition) -> Mode:
        """`mode_of` with confirmed settings, decided once per edition: neither it nor the snapshot ever changes."""
        decided = self._decided
        mode = decided.get(edition.key)
        if mode is None:
            if len(decided) >= _MAX_DECIDED:
                decided.clear()
            mode = decided[edition.key] = self.mode_of(edition)
        return mode

    def destroyed_before(self, today: date) -> date:
        """Keys of days before this one may no longer exist."""
        return today - timedelta(days=self.anonymization_days)

    def forget_expired(self, today: date) -> "Snapshot":
        """The same without keys past their destruction day; itself if there are none."""
        first = self.destroyed_before(today)
        if all(day >= first for day in self.day_keys):
            return self
        return replace(self, day_keys={day: key for day, key in self.day_keys.items() if day >= first})
