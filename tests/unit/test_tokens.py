"""Laws of the token: what was minted opens, nothing else does, and a ceiling keeps the recipient out."""

import base64
import uuid
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.errors import DestinationRefused, NotFound, TokenRefused
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import (
    CORRELATION_IDS,
    MESSAGE_ID,
    PIXEL,
    Key,
    KeyRing,
    KeyState,
    Kind,
    Link,
    Message,
    pack_link,
)

SPACE = 0xC0FFEE
KEY = Key(0x0A0B0C, SPACE, bytes(range(64)))
RING = KeyRing({KEY.key_id: KEY})

recipients = st.none() | st.uuids().map(str) | st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
destinations = st.builds(
    str.__add__,
    st.sampled_from(["https://", "http://", "myapp://"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=1_000),
)
messages = st.builds(
    Message,
    space=st.just(SPACE),
    event=st.integers(0, 2**32 - 1),
    mailing=st.integers(0, 2**48 - 1),
    origin=st.sampled_from(Origin),
    ceiling=st.sampled_from([m for m in Mode if m is not Mode.OFF]),
    permission=st.sampled_from(Permission),
    issue_day=st.integers(0, 65_535).map(lambda days: date(2020, 1, 1) + timedelta(days=days)),
    recipient=recipients,
    correlation_ids=st.just(())
    | st.tuples(*[st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=255)] * CORRELATION_IDS),
)


def message(ceiling: Mode = Mode.PERSON_BASED, recipient: str | None = "4711") -> Message:
    return Message(SPACE, 7, 9, Origin.EVENT, ceiling, Permission.GRANTED, date(2026, 11, 24), recipient)


def plaintext(token: str) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return AESSIV(KEY.secret).decrypt(sealed[4:], [sealed[:4]])


@given(messages, destinations, st.integers(0, 2**31), st.booleans())
def test_what_was_minted_opens(msg: Message, destination: str, link: int, registered: bool) -> None:
    click = RING.mint_click(msg, destination, link, registered=registered)
    opened = RING.open(click, Kind.CLICK)
    assert (msg, link, registered, destination) == (opened.message, opened.link, opened.registered, opened.destination)
    assert Kind.CLICK is opened.edition.kind
    assert msg == RING.open(RING.mint_open(msg), Kind.OPEN).message
    assert msg == RING.open(RING.message_id(msg), Kind.MESSAGE).message


links = st.builds(Link, st.integers(0, 2**31), destinations, st.booleans())


@given(st.lists(messages, max_size=4), st.lists(links, max_size=4), st.booleans())
def test_minting_many_gives_what_minting_each_gives(mails: list[Message], links: list[Link], pixel: bool) -> None:
    each = [
        [RING.mint_open(mail)] * pixel
        + [RING.mint_click(mail, link.destination, link.number, registered=link.registered) for link in links]
        for mail in mails
    ]
    assert each == list(RING.mint_many(mails, links, pixel=pixel))


@given(messages, st.lists(links, max_size=4))
def test_what_was_packed_before_gives_the_same_tokens(mail: Message, links: list[Link]) -> None:
    packed = [MESSAGE_ID, PIXEL, *map(pack_link, links)]
    (many,) = RING.mint_many([mail], links)
    assert [RING.message_id(mail), *many] == RING.mint_packed(mail, packed)


@given(links, st.integers(0, 2**31))
def test_a_packed_link_can_get_another_number(link: Link, number: int) -> None:
    assert pack_link(Link(number, link.destination)) == pack_link(link).numbered(number)


def test_packing_refuses_what_is_no_url() -> None:
    for bad in ("https://a.example/ ", "https://a.example/\n", "https://a.example/ä"):
        with pytest.raises(DestinationRefused):
            pack_link(Link(1, bad))
    with pytest.raises(NotFound, match="no minting key"):
        RING.mint_packed(replace(message(), space=1), [PIXEL])


def test_minting_many_refuses_a_bad_link_before_the_first_message() -> None:
    for bad in ("https://a.example/\n", "https://a.example/" + "x" * 6_000):
        with pytest.raises(DestinationRefused):
            list(RING.mint_many(iter([message()]), [Link(1, "https://a.example/"), Link(2, bad)]))
    with pytest.raises(NotFound, match="no minting key"):
        list(RING.mint_many([replace(message(), space=1)], []))


@given(messages, st.data())
def test_any_flipped_bit_is_refused(msg: Message, data: st.DataObject) -> None:
    token = RING.mint_click(msg, "https://shop.example/a?b=c", 3)
    sealed = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TokenRefused):
        RING.open(base64.urlsafe_b64encode(bytes(sealed)).rstrip(b"=").decode(), Kind.CLICK)


@pytest.mark.parametrize("recipient_length", [1, 2, 3])
def test_only_the_canonical_spelling_opens(recipient_length: int) -> None:
    token = RING.mint_open(message(recipient="x" * recipient_length))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    spellings = [token + "=", token + "==", token + "A", " " + token, token + "\n", token[:9] + "." + token[9:]]
    spellings += [token[:-1] + alphabet[last ^ spare] for spare in range(1, 16)]
    spellings += [token.replace("-", "+").replace("_", "/") + "!", token[:-1], ""]
    for spelling in spellings:
        with pytest.raises(TokenRefused):
            RING.open(spelling, Kind.OPEN)


@given(st.text(max_size=400) | st.binary(max_size=300).map(lambda b: base64.urlsafe_b64encode(b).decode().rstrip("=")))
def test_anything_else_is_refused(text: str) -> None:
    for kind in Kind:
        with pytest.raises(TokenRefused):
            RING.open(text, kind)


@given(
    messages.filter(lambda m: m.ceiling is not Mode.PERSON_BASED),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789@.", min_size=12, max_size=40),
)
def test_below_person_based_nothing_of_the_recipient_is_sealed(msg: Message, recipient: str) -> None:
    given_one = Message(
        msg.space,
        msg.event,
        msg.mailing,
        msg.origin,
        msg.ceiling,
        msg.permission,
        msg.issue_day,
        recipient,
        msg.nonce,
        (recipient, None, recipient),
    )
    destination = "https://shop.example/"
    sealed = plaintext(RING.mint_click(given_one, destination, 1))
    nonce_bytes = 0 if msg.ceiling is Mode.AGGREGATE else 8
    assert 13 + nonce_bytes + 1 + len("shop.example/") == len(sealed)
    assert recipient.encode() not in sealed
    assert RING.mint_click(msg, destination, 1) == RING.mint_click(given_one, destination, 1)


def test_a_uuid_takes_sixteen_bytes_and_keeps_its_spelling() -> None:
    canonical = str(uuid.UUID(int=0x1234))
    packed, spelled = RING.mint_open(message(recipient=canonical)), RING.mint_open(message(recipient=canonical.upper()))
    assert len(plaintext(packed)) == 1 + 2 + 4 + 6 + 8 + 1 + 16
    assert len(plaintext(packed)) < len(plaintext(spelled)) or canonical == canonical.upper()
    assert canonical == RING.open(packed, Kind.OPEN).message.recipient


def test_aggregate_tokens_are_the_same_for_everyone() -> None:
    assert RING.mint_open(message(Mode.AGGREGATE, "a")) == RING.mint_open(message(Mode.AGGREGATE, "b"))


def test_the_kind_is_inside_the_seal() -> None:
    for kind, token in [(Kind.CLICK, RING.mint_open(message())), (Kind.OPEN, RING.message_id(message()))]:
        with pytest.raises(TokenRefused, match="wrong_kind"):
            RING.open(token, kind)


def test_new_keys_mint_old_ones_decode_revoked_ones_open_nothing() -> None:
    old_token = RING.mint_open(message())
    new = Key(0x111111, SPACE, bytes(64))
    decoding = Key(KEY.key_id, SPACE, KEY.secret, KeyState.DECODING)
    rotated = KeyRing({KEY.key_id: decoding, new.key_id: new})
    assert rotated.open(old_token, Kind.OPEN).message.recipient == "4711"
    with pytest.raises(TokenRefused, match="unknown_key"):
        RING.open(rotated.mint_open(message()), Kind.OPEN)
    revoked = KeyRing({KEY.key_id: Key(KEY.key_id, SPACE, KEY.secret, KeyState.REVOKED), new.key_id: new})
    with pytest.raises(TokenRefused, match="revoked"):
        revoked.open(old_token, Kind.OPEN)


def test_a_key_of_another_space_mints_nothing_for_this_one() -> None:
    other = Key(1, SPACE + 1, bytes(64))
    with pytest.raises(NotFound, match="no minting key"):
        KeyRing({1: other}).mint_open(message())


@pytest.mark.parametrize("destination", ["https://a/\r\nX: y", "https://a/\x00", "https://a/ü", "https://a/ b"])
def test_what_could_split_a_header_is_not_minted(destination: str) -> None:
    with pytest.raises(DestinationRefused, match="printable ASCII"):
        RING.mint_click(message(), destination, 1)


def test_a_link_that_is_too_long_says_so() -> None:
    with pytest.raises(DestinationRefused, match="leave it untracked"):
        RING.mint_click(message(), "https://a/" + "x" * 6_000, 1)


def test_off_has_no_tokens() -> None:
    with pytest.raises(ValueError, match="off"):
        message(Mode.OFF)


def test_a_secret_is_not_printed() -> None:
    assert KEY.secret.hex()[:8] not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
