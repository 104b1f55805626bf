"""The relay's two commands with an address, read as far as the relay has to know.

Pure. Invariant: an address is passed on exactly as it was written; whether it is one, the next mail server says.
Source: RFC 5321 (4.1.1.2, 4.1.1.3), RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 4954 (AUTH=).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .smtp_replies import BAD_PARAMETER, BAD_RECIPIENT, BAD_SENDER, TOO_BIG, UNKNOWN_PARAMETER, UTF8_UNASKED, Refused

# In quotes an address may have spaces and brackets; some senders leave the brackets around it out.
_PATH = r'<(?:"(?:[^"\\\0-\x1f\x7f]|\\[^\0-\x1f\x7f])*+"|[^<>"\0-\x20\x7f])*+>|[^<>"\0-\x20\x7f]++'
_SENDER = re.compile(rf"FROM: *+({_PATH})(?: ++(.*))?", re.I)
_RECIPIENT = re.compile(rf"TO: *+({_PATH})(?: ++(.*))?", re.I)
_SIZE = re.compile(r"\d{1,20}")
_BODIES = ("7BIT", "8BITMIME")


@dataclass(frozen=True, slots=True)
class Sender:
    """Of MAIL: the path in its brackets, `<>` for none, and what the client says of the mail."""

    path: str
    size: int | None = None
    body: str | None = None
    """7BIT or 8BITMIME; None if the client did not say."""
    utf8: bool = False


def read_sender(argument: str | None, most_bytes: int) -> Sender:
    """What stands behind MAIL; raises Refused."""
    found = _SENDER.fullmatch(argument or "")
    if found is None or _has_stray_bytes(found[1]):
        raise Refused(BAD_SENDER)
    parameters = dict(_parameters(found[2] or ""))
    size, body = parameters.pop("SIZE", None), parameters.pop("BODY", None)
    utf8 = parameters.pop("SMTPUTF8", None)
    parameters.pop("AUTH", None)  # whoever is signed in vouches for the sender
    if parameters:
        raise Refused(UNKNOWN_PARAMETER)
    sender = Sender(_bracketed(found[1]), _size(size, most_bytes), _body(body), utf8 is not None)
    if utf8:
        raise Refused(BAD_PARAMETER)
    _check_ascii(sender.path, sender.utf8)
    return sender


def read_recipient(argument: str | None, *, utf8: bool) -> str:
    """The path behind RCPT in its brackets; raises Refused."""
    found = _RECIPIENT.fullmatch(argument or "")
    if found is None or _has_stray_bytes(found[1]) or _bracketed(found[1]) == "<>":
        raise Refused(BAD_RECIPIENT)
    if (found[2] or "").strip():
        raise Refused(UNKNOWN_PARAMETER)
    path = _bracketed(found[1])
    _check_ascii(path, utf8)
    return path


def _has_stray_bytes(path: str) -> bool:
    """Bytes that were no UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in path)


def _bracketed(path: str) -> str:
    return path if path.startswith("<") else f"<{path}>"


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    for word in text.split():
        name, _, value = word.partition("=")
        yield name.upper(), value


def _size(value: str | None, most_bytes: int) -> int | None:
    if value is None:
        return None
    if _SIZE.fullmatch(value) is None:
        raise Refused(BAD_PARAMETER)
    if int(value) > most_bytes:
        raise Refused(TOO_BIG)
    return int(value)


def _body(value: str | None) -> str | None:
    if value is None:
        return None
    if value.upper() not in _BODIES:
        raise Refused(BAD_PARAMETER)
    return value.upper()


def _check_ascii(path: str, utf8: bool) -> None:
    if not (path.isascii() or utf8):
        raise Refused(UTF8_UNASKED)
