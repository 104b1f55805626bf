"""One hit, one line: `crc32 in 8 hex digits · space · JSON · newline`, the format that writer and reader share.

Invariant: a line that decodes is a hit that was written whole; anything else (torn, flipped, foreign) raises
DamagedLine, so that the reader can quarantine and count it instead of shipping or skipping it silently.
"""

from binascii import crc32
from datetime import datetime
from typing import Any

import orjson
from msgspec import Struct
from msgspec.json import Encoder

from ..errors import MailtrailError
from ..tracking.hits import Hit, Outcome, PseudonymGap
from ..tracking.modes import Mode
from ..tracking.tokens import CorrelationIds, Kind

_CRC_BYTES = 9


class DamagedLine(MailtrailError):
    """A journal line does not say what was written."""


class Fields(Struct, frozen=True, gc=False, omit_defaults=True):
    """A line's JSON: labels and hex for whoever looks at it, and for SQL. What a hit does not have is left out."""

    id: int
    kind: str
    mode: str
    at: datetime
    space: int
    event: int
    mailing: int
    link: int
    registered: bool
    agent: str
    outcome: Outcome
    family: str | None = None
    recipient: str | None = None
    nonce: str | None = None
    pseudonym: str | None = None
    gap: PseudonymGap | None = None
    address: str | None = None
    user_agent: str | None = None
    url: str | None = None
    correlation_ids: CorrelationIds = ()


_encode = Encoder().encode


def encode_line(hit: Hit) -> bytes:
    """The hit's line, newline included. Fields that the hit does not have are left out."""
    nonce, name = hit.nonce, hit.pseudonym
    # JSON escapes every newline inside a value: a line of the file is always a line of the journal.
    body = _encode(
        Fields(
            hit.hit_id,
            hit.kind.label,
            hit.mode.label,
            hit.at,
            hit.space,
            hit.event,
            hit.mailing,
            hit.link,
            hit.link_registered,
            hit.agent_kind,
            hit.outcome,
            hit.agent_family,
            hit.recipient,
            None if nonce is None else nonce.hex(),
            None if name is None else name.hex(),
            hit.pseudonym_gap,
            hit.client_address,
            hit.user_agent,
            hit.url,
            hit.correlation_ids,
        )
    )
    return b"%08x %s\n" % (crc32(body), body)


def decode_line(line: bytes) -> Hit:
    """The hit of one line, with or without its newline; DamagedLine if it is not one."""
    body = body_of(line.removesuffix(b"\n") + b"\n")
    try:
        return _hit(orjson.loads(body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedLine(f"a journal line is no hit of this version ({error!r}); it is quarantined") from error


def body_of(line: bytes) -> bytes:
    """A whole line's JSON; DamagedLine if the checksum in front of it is another's."""
    body = line[_CRC_BYTES:-1]
    if line[:_CRC_BYTES] != b"%08x " % crc32(body):
        raise DamagedLine("a journal line's checksum does not match; it is quarantined, no step is needed")
    return body


def _hit(fields: dict[str, Any]) -> Hit:
    nonce, name, gap = fields.get("nonce"), fields.get("pseudonym"), fields.get("gap")
    return Hit(
        hit_id=fields["id"],
        kind=Kind[fields["kind"].upper()],
        mode=Mode.from_label(fields["mode"]),
        at=datetime.fromisoformat(fields["at"]),
        space=fields["space"],
        event=fields["event"],
        mailing=fields["mailing"],
        link=fields["link"],
        link_registered=fields["registered"],
        agent_kind=fields["agent"],
        outcome=Outcome(fields["outcome"]),
        agent_family=fields.get("family"),
        recipient=fields.get("recipient"),
        nonce=bytes.fromhex(nonce) if nonce is not None else None,
        pseudonym=bytes.fromhex(name) if name is not None else None,
        pseudonym_gap=PseudonymGap(gap) if gap is not None else None,
        client_address=fields.get("address"),
        user_agent=fields.get("user_agent"),
        url=fields.get("url"),
        correlation_ids=tuple(fields.get("correlation_ids", ())),
    )
