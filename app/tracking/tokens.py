"""Tokens: what a tracked link or pixel carries, sealed so that it can be neither read nor made without the key.

    base64url( version:1 ‖ key_id:3 ‖ AES-SIV( plaintext ) )      unpadded

AES-SIV (RFC 5297) is deterministic and misuse-resistant; version and key id are its associated data. The plaintext, in
order, big-endian:

    flags 1 · issue day 2 · event 4 · mailing 6 · nonce 8 (not in aggregate) · link number varint (click)
    · recipient length varint and bytes (only under a person_based ceiling) · destination (click; ASCII, the rest)

Where a mail has correlation ids, the sender's own of single mails, they stand in the recipient's bytes.

Invariants: only the canonical spelling of a token opens; a token whose ceiling is below person_based has no recipient
field at all; the kind is inside the seal, so that a click token is no open token and a message id is neither.
"""

import os
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from msgspec import Struct
from msgspec.structs import force_setattr, replace
from pybase64 import b64decode, b64encode_as_string

from ..errors import DestinationRefused, NotFound, TokenRefused
from .modes import Mode, Origin, Permission

VERSION = 1
MAX_TOKEN_BYTES = 6_144
SECRET_BYTES = 64
NONCE_BYTES = 8
CORRELATION_IDS = 3
"""So many a mail may have."""

_HEADER_BYTES = 4
_EPOCH = date(2020, 1, 1).toordinal()
_HTTPS = "https://"


class Kind(Enum):
    """What a token is for; `label` is the word used in journals and metrics."""

    OPEN = 0
    CLICK = 1
    MESSAGE = 2

    def __init__(self, _: int) -> None:
        self.label = self.name.lower()


CorrelationIds = tuple[str | None, ...]
"""Empty, or one for each place; None where there is none."""

# Looked up by its class, each would cost a tenth of opening a token (Python 3.11).
_CLICK, _AGGREGATE, _PERSON_BASED = Kind.CLICK, Mode.AGGREGATE, Mode.PERSON_BASED


class KeyState(Enum):
    """New keys mint and decode; old keys decode for ever; a revoked key opens nothing."""

    MINTING = "minting"
    DECODING = "decoding"
    REVOKED = "revoked"


class Message(Struct, frozen=True, gc=False):
    """One mail to one recipient: everything that its links and its pixel share.

    `space`, `event` and `mailing` are random ids of 32, 32 and 48 bits; `issue_day` is a UTC day; `nonce` has 8 bytes.
    The recipient and the correlation ids exist only under a person_based ceiling: `Message` drops them under any lower
    one.
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
    correlation_ids: CorrelationIds = ()

    def __post_init__(self) -> None:
        if self.ceiling is Mode.OFF:
            raise ValueError("a message whose tracking is off has no tokens")
        if self.ceiling is not Mode.PERSON_BASED:
            force_setattr(self, "recipient", None)
            force_setattr(self, "correlation_ids", ())
        if self.ceiling is Mode.AGGREGATE:
            force_setattr(self, "nonce", b"")
        elif not self.nonce:
            force_setattr(self, "nonce", os.urandom(NONCE_BYTES))
        elif len(self.nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")

    def lowered_to(self, ceiling: Mode) -> "Message":
        """The same message under this ceiling, or under its own if that is lower."""
        return replace(self, ceiling=min(ceiling, self.ceiling))


class Edition(Struct, frozen=True, gc=False):
    """What all tokens of one kind share that a mailing's messages of one day, permission and ceiling carry.

    There are few of them, so each is read and decided upon once. `key` is the space and what the tokens begin with
    inside the seal: no two editions have the same.
    """

    key: bytes
    space: int
    event: int
    mailing: int
    kind: Kind
    origin: Origin
    ceiling: Mode
    permission: Permission
    issue_day: date
    scheme: str

    def of(self, recipient: str | None, nonce: bytes, correlation_ids: CorrelationIds = ()) -> Message:
        """One message of it."""
        return Message(
            space=self.space,
            event=self.event,
            mailing=self.mailing,
            origin=self.origin,
            ceiling=self.ceiling,
            permission=self.permission,
            issue_day=self.issue_day,
            recipient=recipient,
            nonce=nonce,
            correlation_ids=correlation_ids,
        )


class Token(Struct, frozen=True, gc=False):
    """An opened token. Clicks have `link` and `destination`; `registered`: the number is an entry of `links`.

    `recipient`, `nonce` and `correlation_ids` are the message's, each only where the ceiling allows it.
    """

    edition: Edition
    recipient: str | None = None
    nonce: bytes = b""
    link: int = 0
    registered: bool = True
    destination: str = ""
    correlation_ids: CorrelationIds = ()

    @property
    def message(self) -> Message:
        """The message that it was minted from."""
        return self.edition.of(self.recipient, self.nonce, self.correlation_ids)


class Link(NamedTuple):
    """What many mails link to: the link's number and its normalised destination."""

    number: int
    destination: str
    registered: bool = True


class PackedLink(NamedTuple):
    """What a token has besides its message: its own flags, the packed link number, the destination without https."""

    flags: int
    number: bytes
    destination: bytes

    def numbered(self, number: int) -> "PackedLink":
        """The same link under its number in the table `links`."""
        return PackedLink(self.flags, _varint(number << 1), self.destination)


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
        self._ciphers = {k.key_id: AESSIV(k.secret) for k in keys.values() if k.state is not KeyState.REVOKED}
        self._minting = {k.space: k.key_id for k in keys.values() if k.state is KeyState.MINTING}
        # By a token's first bytes.
        self._openers = {_header(key_id): _Opener(keys[key_id], cipher) for key_id, cipher in self._ciphers.items()}
        self._revoked = {_header(k.key_id) for k in keys.values() if k.state is KeyState.REVOKED}

    def mint_open(self, message: Message) -> str:
        """The token of the message's pixel."""
        return self.mint_packed(message, [PIXEL])[0]

    def mint_click(self, message: Message, destination: str, link: int, *, registered: bool = True) -> str:
        """The token of one link to an absolute ASCII URL; DestinationRefused where it cannot be sealed."""
        return self.mint_packed(message, [pack_link(Link(link, destination, registered))])[0]

    def message_id(self, message: Message) -> str:
        """The message, sealed: with it another process mints further links of the same mail."""
        return self.mint_packed(message, [MESSAGE_ID])[0]

    def mint_many(
        self, messages: Iterable[Message], links: Sequence[Link], *, pixel: bool = True
    ) -> Iterator[list[str]]:
        """For each message its tokens: first its pixel's, then those of the links in their order.

        What links share is checked and packed once, what a mail's tokens share once per message. Raises as `mint_open`
        and `mint_click` do, for a bad link before the first message.
        """
        packed = [PIXEL] * pixel + [pack_link(link) for link in links]
        sealers: dict[int, _Sealer] = {}
        for message in messages:
            sealer = sealers.get(message.space)
            if sealer is None:
                sealer = sealers[message.space] = self._sealer_of(message.space)
            yield sealer.seal_all(_pack_all(message, packed))

    def mint_packed(self, message: Message, packed: Sequence[PackedLink]) -> list[str]:
        """One message's tokens, of links that were packed before, `PIXEL` and `MESSAGE_ID`; raises as `mint_many`."""
        return self._sealer_of(message.space).seal_all(_pack_all(message, packed))

    def open(self, token: str | bytes, kind: Kind) -> Token:
        """The token's content; TokenRefused with its reason for anything that we did not mint as this kind."""
        sealed = _decode(token.encode("ascii", "replace") if isinstance(token, str) else token)
        opener = self._openers.get(sealed[:_HEADER_BYTES])
        if opener is None:
            raise TokenRefused("revoked" if sealed[:_HEADER_BYTES] in self._revoked else "unknown_key")
        try:
            plaintext = opener.decrypt(sealed[_HEADER_BYTES:], opener.associated)
        except InvalidTag:
            raise TokenRefused("forged") from None
        edition = opener.editions.get(plaintext[:_HEAD_BYTES]) or opener.read_edition(plaintext)
        if edition.kind is not kind:
            raise TokenRefused("wrong_kind")
        return _unpack(plaintext, edition)

    def _sealer_of(self, space: int) -> "_Sealer":
        """What makes plaintexts tokens under the space's minting key."""
        key_id = self._minting.get(space)
        if key_id is None:
            raise NotFound(f"space {space:08x} has no minting key; create one")
        return _Sealer(_header(key_id), self._ciphers[key_id].encrypt)


class _Sealer(NamedTuple):
    """Seals under one key."""

    header: bytes
    encrypt: Callable[[bytes, list[bytes]], bytes]

    def seal_all(self, plaintexts: Iterable[bytes]) -> list[str]:
        """A token for each; DestinationRefused if one gets too long."""
        header, encrypt = self
        associated = [header]
        tokens = [
            b64encode_as_string(header + encrypt(plaintext, associated), b"-_").rstrip("=") for plaintext in plaintexts
        ]
        if (longest := max(map(len, tokens), default=0)) > MAX_TOKEN_BYTES:
            raise DestinationRefused(
                "too_long", f"the link's token has {longest} bytes, more than {MAX_TOKEN_BYTES}; leave it untracked"
            )
        return tokens


class _Opener:
    """Opens the tokens of one key, and remembers the editions that it has met."""

    def __init__(self, key: Key, cipher: AESSIV) -> None:
        self.space = key.space
        self.decrypt = cipher.decrypt
        self.associated = [_header(key.key_id)]
        self.editions: dict[bytes, Edition] = {}

    def read_edition(self, plaintext: bytes) -> Edition:
        """The edition of one that was not met lately."""
        head = plaintext[:_HEAD_BYTES]
        edition = _read_edition(head, self.space)
        if len(self.editions) >= _MAX_EDITIONS:
            self.editions.clear()
        self.editions[head] = edition
        return edition


def key_id_of(token: str) -> int:
    """The id of the key that a token names, so that only this key need be fetched; TokenRefused if it is no token."""
    return int.from_bytes(_decode(token.encode("ascii", "replace"))[1:_HEADER_BYTES])


def _header(key_id: int) -> bytes:
    return bytes([VERSION]) + key_id.to_bytes(3)


# base64url (RFC 4648, section 5) without padding, one spelling only.
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PLUS, _SLASH = b"+/"  # numbers are found in bytes five times as fast as bytes are
_MIN_TOKEN_BYTES = 28
"""Of one with a single byte inside the seal."""
_PADDING = (b"", b"===", b"==", b"=")
# By the length modulo 4: what the last character may be when its lowest 4 or 2 bits are spare and must be 0.
_LAST: tuple[frozenset[int], ...] = tuple(map(frozenset, (_ALPHABET, b"", _ALPHABET[::16], _ALPHABET[::4])))


def _decode(token: bytes) -> bytes:
    """The bytes of a canonical token: no padding, no stray characters, no non-zero spare bits."""
    length = len(token)
    rest = length & 3
    # The decoder takes the two characters of plain base64 too.
    if not 0 < length <= MAX_TOKEN_BYTES or token[-1] not in _LAST[rest] or _PLUS in token or _SLASH in token:
        raise TokenRefused("malformed")
    try:
        sealed = b64decode(token + _PADDING[rest], b"-_", True)
    except ValueError:
        raise TokenRefused("malformed") from None
    if length < _MIN_TOKEN_BYTES or sealed[0] != VERSION:
        raise TokenRefused("malformed")
    return sealed


# --- The plaintext --------------------------------------------------------------------------------------------------

_MAX_EDITIONS = 1_000
"""Met lately; two or three hundred bytes each."""

# Flags, from the lowest bit: kind 2 · origin 1 · ceiling 2 · permission 2 · destination is not https 1.
_NOT_HTTPS = 0x80
_HEAD = struct.Struct(">BHIHI")
"""Flags, issue day, event, and the mailing in two parts."""
_HEAD_BYTES = _HEAD.size
_AFTER_NONCE = _HEAD_BYTES + NONCE_BYTES

_byte = [bytes([number]) for number in range(256)].__getitem__


PIXEL = PackedLink(Kind.OPEN.value | _NOT_HTTPS, b"", b"")
MESSAGE_ID = PackedLink(Kind.MESSAGE.value | _NOT_HTTPS, b"", b"")


def _pack_all(message: Message, packed: Iterable[PackedLink]) -> list[bytes]:
    """What is sealed for each of a message's links."""
    head, recipient = _pack_head(message), _pack_recipient_field(message)
    flags, shared = head[0], head[1:]
    return [_byte(flags | flag) + shared + number + recipient + destination for flag, number, destination in packed]


def _pack_head(message: Message) -> bytes:
    """Everything in front of the link number, with only the message's own flags set."""
    mailing = message.mailing
    head: bytes = _HEAD.pack(
        message.origin.value << 2 | message.ceiling << 3 | message.permission.value << 5,
        message.issue_day.toordinal() - _EPOCH,
        message.event,
        mailing >> 32,
        mailing & 0xFFFFFFFF,
    )
    return head + message.nonce


def pack_link(link: Link) -> PackedLink:
    """Checks and packs what a link's tokens share; DestinationRefused for what is no URL of printable ASCII."""
    destination = link.destination
    if not destination.isascii() or not destination.isprintable() or " " in destination:
        raise DestinationRefused("invalid", "a destination is a URL of printable ASCII; encode it before minting")
    is_https = destination.startswith(_HTTPS)
    return PackedLink(
        Kind.CLICK.value | (0 if is_https else _NOT_HTTPS),
        _varint(link.number << 1 | (not link.registered)),
        destination.removeprefix(_HTTPS).encode("ascii"),
    )


def _read_edition(head: bytes, space: int) -> Edition:
    try:
        flags, day, event, mailing_high, mailing_low = _HEAD.unpack(head)
        return Edition(
            key=space.to_bytes(4) + head,
            space=space,
            event=event,
            mailing=mailing_high << 32 | mailing_low,
            kind=Kind(flags & 3),
            origin=Origin(flags >> 2 & 1),
            ceiling=Mode(flags >> 3 & 3),
            permission=Permission(flags >> 5 & 3),
            issue_day=date.fromordinal(_EPOCH + day),
            scheme="" if flags & _NOT_HTTPS else _HTTPS,
        )
    except (struct.error, ValueError):  # who holds the space's key can seal anything
        raise TokenRefused("malformed") from None


def _unpack(plaintext: bytes, edition: Edition) -> Token:
    at, nonce = _HEAD_BYTES, b""
    if edition.ceiling is not _AGGREGATE:
        at, nonce = _AFTER_NONCE, plaintext[_HEAD_BYTES:_AFTER_NONCE]
    link = 0
    if edition.kind is _CLICK:
        link, at = plaintext[at], at + 1
        if link >= 0x80:
            link, at = _read_varint(plaintext, at - 1)
    recipient = None
    correlation_ids: CorrelationIds = ()
    if edition.ceiling is _PERSON_BASED:
        head, at = plaintext[at], at + 1
        if head >= 0x80:
            head, at = _read_varint(plaintext, at - 1)
        end = at + (head >> 2)
        packing, packed = head & 3, plaintext[at:end]
        if packing == _WITH_IDS:
            packing, packed, correlation_ids = _unpack_with_ids(packed)
        recipient = _unpack_recipient(packing, packed)
        at = end
    destination = edition.scheme + plaintext[at:].decode("ascii") if edition.kind is _CLICK else ""
    return Token(edition, recipient, nonce, link >> 1, not link & 1, destination, correlation_ids)


def _pack_recipient_field(message: Message) -> bytes:
    """Length and bytes; nothing at all under a ceiling below person_based."""
    if message.ceiling is not Mode.PERSON_BASED:
        return b""
    packing, packed = _pack_recipient(message.recipient)
    if message.correlation_ids:
        packing, packed = _WITH_IDS, _pack_with_ids(packing, packed, message.correlation_ids)
    return _varint(packing | len(packed) << 2) + packed


_UUID_LENGTH = 36
# How a recipient is packed: 0 there is none, 1 UTF-8, 2 a canonical UUID in its 16 bytes, 3 any of these as a field of
# its own, and then each correlation id: its length and 1, or 0 for none, as varint, and its UTF-8.
_WITH_IDS = 3


def _pack_recipient(recipient: str | None) -> tuple[int, bytes]:
    if recipient is None:
        return 0, b""
    if len(recipient) != _UUID_LENGTH:
        return 1, recipient.encode()
    try:
        parsed = uuid.UUID(recipient)
    except ValueError:
        return 1, recipient.encode()
    return (2, parsed.bytes) if str(parsed) == recipient else (1, recipient.encode())


def _unpack_recipient(packing: int, packed: bytes) -> str | None:
    if packing == 0:
        return None
    return packed.decode() if packing == 1 else str(uuid.UUID(bytes=packed))


def _pack_with_ids(packing: int, packed: bytes, correlation_ids: CorrelationIds) -> bytes:
    fields = [_varint(packing | len(packed) << 2), packed]
    for each in correlation_ids:
        encoded = b"" if each is None else each.encode()
        fields += (_varint(0 if each is None else len(encoded) + 1), encoded)
    return b"".join(fields)


def _unpack_with_ids(field: bytes) -> tuple[int, bytes, CorrelationIds]:
    head, at = _read_varint(field, 0)
    end = at + (head >> 2)
    packed = field[at:end]
    found: list[str | None] = []
    while end < len(field):
        length, at = _read_varint(field, end)
        end = at + max(length - 1, 0)
        found.append(field[at:end].decode() if length else None)
    return head & 3, packed, tuple(found)


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
