"""Rows as the bytes that PostgreSQL's COPY takes in its binary format.

    signature · flags · rows · -1        a row: number of fields, then each field's length (-1: null) and bytes

https://www.postgresql.org/docs/current/sql-copy.html describes it; a field's bytes are what its type's `recv` function
reads. Most of a row comes again with other rows: those bytes are made once, which the driver's own encoder cannot know
(docs/performance.md). Invariant: what is encoded has the types and ranges that `rows` vouches for.
"""

import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from struct import Struct

from ..tracking.pseudonyms import PSEUDONYM_BYTES
from .rows import Row

COLUMNS = (
    "id",
    "at",
    "pseudonym",
    "recipient",
    "nonce",
    "client_address",
    "user_agent",
    "url",
    "correlation_ids",
    "clock_clamped",
    "kind",
    "mode",
    "space_id",
    "event_id",
    "mailing_id",
    "link",
    "registered",
    "agent",
    "outcome",
    "agent_family",
    "pseudonym_gap",
)
CHUNK_ROWS = 500
"""Rows handed over at once: between two chunks the event loop goes on."""

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_FALSE, _TRUE = b"\0\0\0\1\0", b"\0\0\0\1\1"
_EPOCH, _MICROSECOND = datetime(2000, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_MAX_KNOWN = 20_000

Values = tuple[str, str, int, int, int, int, bool, str, str, str | None, str | None]
_shared_values: Callable[[Row], Values] = attrgetter(
    "kind", "mode", "space", "event", "mailing", "link", "registered", "agent", "outcome", "family", "gap"
)
_int4, _int8 = Struct(">ii").pack, Struct(">iq").pack
_length = Struct(">i").pack
_begin = Struct(">hiqiq").pack
"""The number of fields, id and time."""

_TIME_AT = len(_begin(0, 0, 0, 0, 0)) - 8

_NULLS = 6 * _NULL
"""For what only person-based hits have."""

_begin_anonymized = Struct(f">hiqiqi{PSEUDONYM_BYTES}s{len(_NULLS)}s").pack
"""The same as `_begin`, a pseudonym, and the nulls."""

_begin_array = Struct(">iiiii").pack
"""Of PostgreSQL's `array_recv`: dimensions, whether there are nulls, the elements' type, their number, the first's."""

_TEXT_TYPE = 25


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What a row has in common with every other on the same link by the same kind of client, and its bytes.

    Equal only to itself, which is cheap; an encoder gives all these rows the same one, unless it forgot it in between.
    """

    values: Values
    encoded: bytes

    @property
    def mode(self) -> str:
        return self.values[1]


Encoded = tuple[bytes, datetime, Shared]
"""A row's bytes in the order of COLUMNS, its time, and what it shares."""


class RowEncoder:
    """Encodes rows, and remembers what they share. Hot path, guarded by loadtests/drain.py."""

    def __init__(self) -> None:
        self._known: dict[Values, Shared] = {}

    def encode(self, row: Row) -> Encoded:
        """The row, with a time that is the collector's."""
        values = _shared_values(row)
        shared = self._known.get(values) or self._learn(values)
        at, pseudonym = row.at, row.pseudonym
        time = (at - _EPOCH) // _MICROSECOND
        if pseudonym is not None and len(pseudonym) == PSEUDONYM_BYTES and _is_nobody(row):
            begin = _begin_anonymized(len(COLUMNS), 8, row.id, 8, time, PSEUDONYM_BYTES, pseudonym, _NULLS)
            return begin + shared.encoded, at, shared
        fields = (
            _begin(len(COLUMNS), 8, row.id, 8, time),
            _bytes(pseudonym),
            _text(row.recipient),
            _bytes(row.nonce),
            _NULL if row.address is None else _inet(row.address),
            _text(row.user_agent),
            _text(row.url),
            _texts(row.correlation_ids),
            shared.encoded,
        )
        return b"".join(fields), at, shared

    def _learn(self, values: Values) -> Shared:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        kind, mode, space, event, mailing, link, registered, agent, outcome, family, gap = values
        fields = (
            _FALSE,
            *map(_text, (kind, mode)),
            *(_int8(8, number) for number in (space, event, mailing)),
            _int4(4, link),
            _TRUE if registered else _FALSE,
            *map(_text, (agent, outcome, family, gap)),
        )
        shared = self._known[values] = Shared(values, b"".join(fields))
        return shared


def with_clock(encoded: Encoded, at: datetime) -> Encoded:
    """The row with another time, which is the database's clock's."""
    row, _, shared = encoded
    begin, own = row[:_TIME_AT], row[_TIME_AT + 8 : -len(shared.encoded)]
    time = ((at - _EPOCH) // _MICROSECOND).to_bytes(8, signed=True)
    return begin + time + own + _TRUE + shared.encoded[len(_FALSE) :], at, shared


async def stream(rows: Sequence[Encoded]) -> AsyncIterator[bytes]:
    """What COPY takes for these rows, in pieces."""
    yield _SIGNATURE
    for start in range(0, len(rows), CHUNK_ROWS):
        yield b"".join([encoded for encoded, _, _ in rows[start : start + CHUNK_ROWS]])
    yield _END


def _is_nobody(row: Row) -> bool:
    return (
        row.recipient is None
        and row.nonce is None
        and row.address is None
        and row.user_agent is None
        and row.url is None
        and row.correlation_ids is None
    )


def _text(value: str | None) -> bytes:
    return _NULL if value is None else _bytes(value.encode())


def _texts(values: tuple[str | None, ...] | None) -> bytes:
    if values is None:
        return _NULL
    begin = _begin_array(1, None in values, _TEXT_TYPE, len(values), 1)
    return _bytes(begin + b"".join(map(_text, values)))


def _bytes(value: bytes | None) -> bytes:
    return _NULL if value is None else _length(len(value)) + value


@lru_cache(1_000)
def _inet(value: str) -> bytes:
    """Family (2: IPv4, 3: IPv6), bits of the network, 0 for no CIDR, length, and the address."""
    address = ipaddress.ip_address(value)
    family = 2 if address.version == 4 else 3
    return _bytes(bytes((family, address.max_prefixlen, 0, len(address.packed))) + address.packed)
