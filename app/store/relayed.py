"""Envelopes of the relay that only some of their recipients could be given: who has the mail already.

Invariant: there are only hashes, which nobody can try out without the mail itself; after seven days they are gone.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from .pool import Connection
from .queries import queries

_SQL = queries("relayed")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A mail from a sender in a space. Its own hash is no part of what is kept: guessing an address needs the mail."""

    _secret: bytes

    @classmethod
    def of(cls, space: int, sender: str, content: bytes) -> "Envelope":
        head = f"{space:08x} {sender}\n".encode(errors="surrogateescape")
        return cls(hashlib.sha256(head + hashlib.sha256(content).digest()).digest())

    @property
    def id(self) -> bytes:
        return hashlib.sha256(b"envelope" + self._secret).digest()

    def recipient(self, path: str) -> bytes:
        return hashlib.sha256(b"recipient" + self._secret + path.encode(errors="surrogateescape")).digest()


async def done(connection: Connection, envelope: Envelope) -> dict[bytes, str]:
    """The replies that recipients, by their hashes, were given before: accepted, or refused for good."""
    return {row["recipient"]: row["reply"] for row in await connection.fetch(_SQL["done"], envelope.id)}


async def note(connection: Connection, envelope: Envelope, replies: Mapping[str, str]) -> None:
    """Keeps the replies by recipients' paths, until the envelope comes again."""
    hashes = [envelope.recipient(path) for path in replies]
    await connection.execute(_SQL["note"], envelope.id, hashes, list(replies.values()))


async def forget(connection: Connection, envelope: Envelope) -> None:
    await connection.execute(_SQL["forget"], envelope.id)


async def forget_old(connection: Connection) -> None:
    """Those that are older than any queue."""
    await connection.execute(_SQL["forget_old"])
