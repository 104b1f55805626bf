"""One hit, one line: `crc32 in 8 hex digits · space · JSON · newline`, the format that writer and reader share.

Invariant: a line that decodes is a hit that was written whole; anything else (torn, flipped, foreign) raises
DamagedLine, so that the reader can quarantine and count it instead of shipping or skipping it silently.
"""

from binascii import crc32
from datetime import datetime
from typing import Any

import orjson

from ..errors import MailtrailError
from ..tracking.hits import Hit, Outcome, PseudonymGap
from ..tracking.modes import Mode
from ..tracking.tokens import Kind

_CRC_BYTES = 9


class DamagedLine(MailtrailError):
    """A journal line does not say what was written."""


def encode_line(hit: Hit) -> bytes:
    """The hit's line, newline included. Fields that the hit does not have are left out."""
    fields = {
        "id": hit.hit_id,
        "kind": hit.kind.name.lower(),
        "mode": hit.mode.label,
        "at": hit.at.isoformat(),
        "space": hit.space,
        "event": hit.event,
        "mailing": hit.mailing,
        "link": hit.link,
        "registered": hit.link_registered,
        "agent": hit.agent_kind,
        "outcome": hit.outcome.value,
        "family": hit.agent_family,
        "recipient": hit.recipient,
        "nonce": hit.nonce and hit.nonce.hex(),
        "pseudonym": hit.pseudonym and hit.pseudonym.hex(),
        "gap": hit.pseudonym_gap and hit.pseudonym_gap.value,
        "address": hit.client_address,
        "user_agent": hit.user_agent,
        "url": hit.url,
    }
    # JSON escapes every newline inside a value: a line of the file is always a line of the journal.
    body = orjson.dumps({name: value for name, value in fields.items() if value is not None})
    return b"%08x %s\n" % (crc32(body), body)


def decode_line(line: bytes) -> Hit:
    """The hit of one line, with or without its newline; DamagedLine if it is not one."""
    body = line.removesuffix(b"\n")[_CRC_BYTES:]
    if line[:_CRC_BYTES] != b"%08x " % crc32(body):
        raise DamagedLine("a journal line's checksum does not match; it is quarantined, no step is needed")
    try:
        return _hit(orjson.loads(body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedLine(f"a journal line is no hit of this version ({error!r}); it is quarantined") from error


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
    )
