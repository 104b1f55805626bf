"""Who asks, and what they may: people by their role, programs by the scopes of their key.

Invariant: what somebody may not see is not there for them. A space of others is NotFound, never NotAllowed.
"""

from dataclasses import dataclass
from enum import Enum

from ..errors import NotAllowed, NotFound
from ..store.pool import Row


class Scope(Enum):
    """What can be allowed. API keys never have `manage`."""

    READ = "read"
    WRITE = "write"
    MINT = "mint"
    PRIVACY = "privacy"
    """Whom a link belongs to, and what the relay records."""

    RELAY = "relay"
    """Sending mails through the mail relay."""

    MANAGE = "manage"
    """Users and their roles."""


_OF_ROLE = {
    "viewer": frozenset({Scope.READ}),
    "editor": frozenset({Scope.READ, Scope.WRITE, Scope.MINT}),
    "admin": frozenset(Scope),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or a program. `who` is their name in the audit log; `space` the only one they see, None: all."""

    who: str
    name: str
    scopes: frozenset[Scope]
    space: int | None

    @classmethod
    def of_user(cls, row: Row) -> "Principal":
        return cls(f"user:{row['name']}", row["name"], _OF_ROLE[row["role"]], row["space_id"])

    @classmethod
    def of_key(cls, row: Row) -> "Principal":
        return cls(f"key:{row['name']}", row["name"], frozenset(map(Scope, row["scopes"])), row["space_id"])

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def check(self, scope: Scope) -> None:
        """NotAllowed without the scope."""
        if scope not in self.scopes:
            raise NotAllowed(f"this needs the scope {scope.value!r}, which {self.who} does not have")

    def check_space(self, space: int) -> None:
        """NotFound for a space that they do not see."""
        if self.space is not None and self.space != space:
            raise NotFound("there is no such space")

    def check_everything(self) -> None:
        """NotAllowed for who sees one space only."""
        if self.space is not None:
            raise NotAllowed(f"this needs access to all spaces, which {self.who} does not have")
