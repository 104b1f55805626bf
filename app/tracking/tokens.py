"""Tokens: what a tracked link or pixel carries, sealed so that it can be neither read nor made without the key.

    base64url( version:1 ‖ key_id:3 ‖ AES-SIV( plaintext ) )      unpadded

AES-SIV (RFC 5297) is deterministic and misuse-resistant; version and key id are its associated data. The plaintext, in
order, big-endian:

    flags 1 · issue day 2 · event 4 · mailing 6 · nonce 8 (not in aggregate) · link number varint (click)
    · recipient length varint and bytes (only under a person_based ceiling) · destination (click; ASCII, the rest)

Invariants: only the canonical spelling of a token opens; a token whose ceiling is below person_based has no recipient
field at all; the kind is inside the seal, so that a click token is no open token and a message id is neither.
"""

import base64
import binascii
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import Enum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from ..errors import DestinationRefused, NotFound, TokenRefused
from .modes import Mode, Origin, Permission

VERSION = 1
MAX_TOKEN_BYTES = 6_144
SECRET_BYTES = 64
NONCE_BYTES = 8
_HEADER_BYTES = 4
_EPOCH = date(2020, 1, 1)
_HTTPS = b"https://"


class Kind(Enum):
    """What a token is for."""

    OPEN = 0
    CLICK = 1
    MESSAGE = 2


class KeyState(Enum):
    """New keys mint and decode; old keys decode for ever; a revoked key opens nothing."""

    MINTING = "minting"
    DECODING = "decoding"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Message:
    """One mail to one recipient: everything that its links and its pixel share.

    `space`, `event` and `mailing` are random ids of 32, 32 and 48 bits; `issue_day` is a UTC day; `nonce` has 8 bytes.
    The recipient exists only under a person_based ceiling: `Message` drops it under any lower one.
    """

    space: int
    event: int
    mailing: int
    origin: Origin
    ceiling: Mode
    permission: Permission
    issue_day: date
    recipient: str | None = None
    nonce: bytes = b""

    def __post_init__(self) -> None:
        if self.ceiling is Mode.OFF:
            raise ValueError("a message whose tracking is off has no tokens")
        if self.ceiling is not Mode.PERSON_BASED:
            object.__setattr__(self, "recipient", None)
        if self.ceiling is Mode.AGGREGATE:
            object.__setattr__(self, "nonce", b"")
        elif not self.nonce:
            object.__setattr__(self, "nonce", os.urandom(NONCE_BYTES))
        elif len(self.nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Token:
    """An opened token. Clicks have `link` and `destination`; `registered`: the number is an entry of `links`."""

    kind: Kind
    message: Message
    link: int = 0
    registered: bool = True
    destination: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """A token key of one space; `secret` has 64 bytes (AES-256-SIV), `key_id` 24 random bits."""

    key_id: int
    space: int
    secret: bytes = field(repr=False)
    state: KeyState = KeyState.MINTING

    @classmethod
    def generate(cls, space: int) -> "Key":
        return cls(int.from_bytes(os.urandom(3)), space, os.urandom(SECRET_BYTES))


class KeyRing:
    """The keys of any number of spaces: mints with a space's newest minting key, opens with whichever key is named."""

    def __init__(self, keys: Mapping[int, Key]) -> None:
        """`keys` by key id, oldest first."""
        self._keys = dict(keys)
        self._ciphers = {k.key_id: AESSIV(k.secret) for k in keys.values() if k.state is not KeyState.REVOKED}
        self._minting = {k.space: k.key_id for k in keys.values() if k.state is KeyState.MINTING}

    def mint_open(self, message: Message) -> str:
        """The token of the message's pixel."""
        return self._seal(message.space, _pack(Token(Kind.OPEN, message)))

    def mint_click(self, message: Message, destination: str, link: int, *, registered: bool = True) -> str:
        """The token of one link to an absolute ASCII URL; DestinationRefused where it cannot be sealed."""
        if not destination.isascii() or not destination.isprintable() or " " in destination:
            raise DestinationRefused("invalid", "a destination is a URL of printable ASCII; encode it before minting")
        token = self._seal(message.space, _pack(Token(Kind.CLICK, message, link, registered, destination)))
        if len(token) > MAX_TOKEN_BYTES:
            raise DestinationRefused(
                "too_long", f"the link's token has {len(token)} bytes, more than {MAX_TOKEN_BYTES}; leave it untracked"
            )
        return token

    def message_id(self, message: Message) -> str:
        """The message, sealed: with it another process mints further links of the same mail."""
        return self._seal(message.space, _pack(Token(Kind.MESSAGE, message)))

    def open(self, token: str, kind: Kind) -> Token:
        """The token's content; TokenRefused with its reason for anything that we did not mint as this kind."""
        sealed = _decode(token)
        key_id = int.from_bytes(sealed[1:_HEADER_BYTES])
        key = self._keys.get(key_id)
        if key is None:
            raise TokenRefused("unknown_key")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise TokenRefused("revoked")
        try:
            plaintext = cipher.decrypt(sealed[_HEADER_BYTES:], [sealed[:_HEADER_BYTES]])
        except InvalidTag:
            raise TokenRefused("forged") from None
        opened = _unpack(plaintext, key.space)
        if opened.kind is not kind:
            raise TokenRefused("wrong_kind")
        return opened

    def _seal(self, space: int, plaintext: bytes) -> str:
        key_id = self._minting.get(space)
        if key_id is None:
            raise NotFound(f"space {space:08x} has no minting key; create one")
        header = bytes([VERSION]) + key_id.to_bytes(3)
        sealed = header + self._ciphers[key_id].encrypt(plaintext, [header])
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def key_id_of(token: str) -> int:
    """The id of the key that a token names, so that only this key need be fetched; TokenRefused if it is no token."""
    return int.from_bytes(_decode(token)[1:_HEADER_BYTES])


def _decode(token: str) -> bytes:
    """The bytes of a canonical token: no padding, no stray characters, no non-zero spare bits."""
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise TokenRefused("malformed")
    try:
        sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except binascii.Error:
        raise TokenRefused("malformed") from None
    # The decoder skips stray characters and spare bits; only the encoder knows the one spelling.
    if base64.urlsafe_b64encode(sealed).rstrip(b"=").decode() != token:
        raise TokenRefused("malformed")
    if len(sealed) <= _HEADER_BYTES + 16 or sealed[0] != VERSION:
        raise TokenRefused("malformed")
    return sealed


# Flags, from the lowest bit: kind 2 · origin 1 · ceiling 2 · permission 2 · destination is not https 1.
def _pack(token: Token) -> bytes:
    message = token.message
    https = token.destination.startswith("https://")
    flags = (
        token.kind.value
        | message.origin.value << 2
        | message.ceiling << 3
        | message.permission.value << 5
        | (not https) << 7
    )
    parts = [
        bytes([flags]),
        (message.issue_day - _EPOCH).days.to_bytes(2),
        message.event.to_bytes(4),
        message.mailing.to_bytes(6),
        message.nonce,
    ]
    if token.kind is Kind.CLICK:
        parts.append(_varint(token.link << 1 | (not token.registered)))
    if message.ceiling is Mode.PERSON_BASED:
        recipient = _pack_recipient(message.recipient)
        parts += (_varint(recipient[0] | len(recipient[1]) << 2), recipient[1])
    if token.kind is Kind.CLICK:
        parts.append(token.destination.removeprefix("https://").encode("ascii"))
    return b"".join(parts)


def _unpack(plaintext: bytes, space: int) -> Token:
    flags = plaintext[0]
    kind, ceiling = Kind(flags & 3), Mode(flags >> 3 & 3)
    at = 13
    nonce = b""
    if ceiling is not Mode.AGGREGATE:
        nonce = plaintext[at : at + NONCE_BYTES]
        at += NONCE_BYTES
    link = 0
    if kind is Kind.CLICK:
        link, at = _read_varint(plaintext, at)
    recipient = None
    if ceiling is Mode.PERSON_BASED:
        head, at = _read_varint(plaintext, at)
        end = at + (head >> 2)
        recipient = _unpack_recipient(head & 3, plaintext[at:end])
        at = end
    message = Message(
        space=space,
        event=int.from_bytes(plaintext[3:7]),
        mailing=int.from_bytes(plaintext[7:13]),
        origin=Origin(flags >> 2 & 1),
        ceiling=ceiling,
        permission=Permission(flags >> 5 & 3),
        issue_day=_EPOCH + timedelta(days=int.from_bytes(plaintext[1:3])),
        recipient=recipient,
        nonce=nonce,
    )
    if kind is not Kind.CLICK:
        return Token(kind, message)
    scheme = b"" if flags >> 7 else _HTTPS
    return Token(kind, message, link >> 1, not link & 1, (scheme + plaintext[at:]).decode("ascii"))


# How a recipient is packed: 0 there is none, 1 UTF-8, 2 a canonical UUID in its 16 bytes.
def _pack_recipient(recipient: str | None) -> tuple[int, bytes]:
    if recipient is None:
        return 0, b""
    try:
        parsed = uuid.UUID(recipient)
    except ValueError:
        return 1, recipient.encode()
    return (2, parsed.bytes) if str(parsed) == recipient else (1, recipient.encode())


def _unpack_recipient(packing: int, packed: bytes) -> str | None:
    if packing == 0:
        return None
    return packed.decode() if packing == 1 else str(uuid.UUID(bytes=packed))


def _varint(number: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the high bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and the offset behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
