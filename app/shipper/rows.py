"""Rows: what the lines of a journal say, as every store can take them.

Invariant: a line is a row or it is damaged. A right checksum says who wrote a line, not that each of its values has the
type and the range that a store has room for.
"""

import ipaddress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.json import Decoder

from ..journal.lines import DamagedLine, body_of
from ..journal.segments import Stream
from ..tracking.tokens import CORRELATION_IDS

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


CorrelationIds = Annotated[tuple[str | None, ...], Meta(min_length=1, max_length=CORRELATION_IDS)]


class Hex(bytes):
    """Bytes that a line has as hexadecimal digits."""

    __slots__ = ()


class Row(Struct, frozen=True, gc=False):
    """One hit, by the names that `encode_line` gives. Not a Hit: a store takes words, and no time is lost on more."""

    id: Int64
    kind: Literal["open", "click"]
    mode: Literal["aggregate", "anonymized", "person_based"]
    at: datetime
    space: Int64
    event: Int64
    mailing: Int64
    link: Int32
    registered: bool
    agent: str
    outcome: Literal["served", "corrected", "gone"]
    family: str | None = None
    recipient: str | None = None
    nonce: Hex | None = None
    pseudonym: Hex | None = None
    gap: Literal["key_destroyed", "key_missing"] | None = None
    address: str | None = None
    user_agent: str | None = None
    url: str | None = None
    correlation_ids: CorrelationIds | None = None


MODES = {Stream.IDENTIFIED: ("person_based",), Stream.REDUCED: ("anonymized", "aggregate")}
"""Whose rows a stream has."""


def read_row(line: bytes) -> Row:
    """The row of a whole line; DamagedLine if it is none."""
    body = body_of(line)
    try:
        row = _decode(body)
    except (ValueError, RecursionError) as error:
        raise DamagedLine(f"a journal line is no hit of this version ({error}); it is quarantined") from error
    if row.at.tzinfo is not UTC or (row.address is not None and not _is_address(row.address)):
        raise DamagedLine("a journal line has a time or an address that no hit has; it is quarantined")
    return row


def _from_hex(_: type, digits: Any) -> Hex:
    """What the decoder asks for each `Hex`; it takes a TypeError for a ValueError."""
    return Hex.fromhex(digits)


_decode = Decoder(Row, dec_hook=_from_hex).decode


@lru_cache(1_000)
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
