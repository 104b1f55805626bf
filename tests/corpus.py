"""The corpus of mails: real-looking ones from many programs, in many languages and charsets, and what each becomes.

In tests/mails/expected.json stands for each mail, written by hand: `links`, where each tracked link must lead, which is
what a browser would request from the original mail; their `labels`; `untouched`, the others by reason; the number of
`pixels`; `taken_out`, the opt-outs that do not reach the reader; and `anew`, if a body has to be encoded anew.
"""

import json
from email import message_from_bytes, policy
from email.message import Message
from pathlib import Path
from typing import Any

from app.sending.html_links import Link
from app.tracking.destinations import web_codec

MAILS = Path(__file__).parent / "mails"
EXPECTED: dict[str, dict[str, Any]] = json.loads((MAILS / "expected.json").read_bytes())
NAMES = sorted(EXPECTED)
TRACKED = [name for name in NAMES if EXPECTED[name]["links"] or EXPECTED[name]["pixels"]]
"""Those in which there is something to put in."""


def raw_mail(name: str) -> bytes:
    return (MAILS / name).read_bytes()


def without_opt_outs(name: str) -> bytes:
    """The mail as it would be without the attributes that rewriting takes out."""
    raw = raw_mail(name)
    for before, after in EXPECTED[name].get("taken_out", {}).items():
        assert raw.count(before.encode()) == 1, before
        raw = raw.replace(before.encode(), after.encode())
    return raw


def leaves(raw: bytes) -> list[Message]:
    """The mail's parts that have no parts of their own, as Python's own parser finds them."""
    return [part for part in message_from_bytes(raw, policy=policy.compat32).walk() if not part.is_multipart()]


def decoded(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


def text_of(part: Message) -> str:
    """A part as its reader sees it, as far as its label says how; other bytes are escaped as surrogates."""
    codec = web_codec(str(part.get_content_charset("utf-8"))) or "utf-8"
    return decoded(part).decode(codec, "surrogateescape")


def is_shown(part: Message) -> bool:
    return part.get_content_maintype() == "text" and part.get_filename() is None


class Tracker:
    """Numbers the links it is asked for."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    def __call__(self, link: Link) -> str:
        self.links.append(link)
        return self.url(len(self.links))

    @staticmethod
    def url(number: int) -> str:
        return f"https://t.example/c/{number:040}"
