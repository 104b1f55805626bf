"""A message's URLs: minted with a key alone, recognised again, and the same for everybody under aggregate."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DestinationRefused, NotFound, TokenRefused
from app.sending.minting import Minter, click_token, key_ids, opened, pixel_tokens
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Key, KeyRing, KeyState, Kind, Message, key_id_of

KEY = Key(0xA1B2C3, 7, bytes(64))
RING = KeyRing({KEY.key_id: KEY})
BASE = "https://t.example/mail"
URL = "https://shop.example/jackets"


def minter(ceiling: Mode = Mode.PERSON_BASED, recipient: str = "4711", base: str = BASE) -> Minter:
    day = date(2026, 11, 24)
    return Minter(RING, Message(7, 5, 6, Origin.EVENT, ceiling, Permission.GRANTED, day, recipient), base)


def test_urls_open_to_what_was_minted() -> None:
    made = minter()
    url = made.mint_unregistered("HTTPS://Shop.example/a b", 3, "4711")
    assert url.startswith(f"{BASE}/c/")
    opened = RING.open(click_token(url), Kind.CLICK)
    assert (made.message, 3, False, "https://shop.example/a%20b") == (
        opened.message,
        opened.link,
        opened.registered,
        opened.destination,
    )
    (pixel,) = pixel_tokens([made.pixel_url().encode()])
    assert made.message == RING.open(pixel, Kind.OPEN).message
    assert made.message == RING.open(made.message_id, Kind.MESSAGE).message


@given(st.sampled_from(["", "?utm_source=x", "#top", "?a/c/b"]), st.integers(1, 10_000))
def test_a_minted_url_is_recognised_whatever_is_appended(appended: str, number: int) -> None:
    url = minter().click_url(URL, URL, number)
    assert opened(RING, click_token(url + appended), Kind.CLICK)
    assert {KEY.key_id} == key_ids([click_token(url)])
    assert KEY.key_id == key_id_of(click_token(url))


@pytest.mark.parametrize(
    "url",
    ["https://shop.example/", "https://shop.example/c/", "https://shop.example/c/abc", "https://a.example/?u=/c/abc"],
)
def test_other_urls_are_not_ours(url: str) -> None:
    assert not opened(RING, click_token(url), Kind.CLICK)


def test_a_token_of_another_kind_or_key_is_not_opened() -> None:
    made = minter()
    (pixel,) = pixel_tokens([made.pixel_url().encode()])
    assert not opened(RING, pixel, Kind.CLICK)
    assert not opened(KeyRing({}), pixel, Kind.OPEN)
    assert not opened(KeyRing({KEY.key_id: Key(KEY.key_id, 7, KEY.secret, KeyState.REVOKED)}), pixel, Kind.OPEN)
    assert set() == key_ids(["abc", "", "%"])
    with pytest.raises(TokenRefused):
        key_id_of("abc")


def test_pixels_are_found_in_utf_16_too() -> None:
    tag = f'<img src="{minter().pixel_url()}">'
    assert list(pixel_tokens([tag.encode()])) == list(pixel_tokens([tag.encode("utf-16")])) != []


def test_a_tracked_link_is_not_tracked_again() -> None:
    with pytest.raises(DestinationRefused, match="tracked already"):
        minter().mint_unregistered(minter(base="https://old.example").click_url(URL, URL, 1), 1)


def test_a_key_that_does_not_mint_is_named() -> None:
    with pytest.raises(NotFound, match="00000007 has no minting key"):
        Minter(KeyRing({}), minter().message, BASE).pixel_url()


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_under_aggregate_everybody_gets_the_same(one: str, other: str) -> None:
    first, second = minter(Mode.AGGREGATE, one), minter(Mode.AGGREGATE, other)
    assert first.pixel_url() == second.pixel_url()
    assert first.click_url(URL, URL, 1) == second.click_url(URL, URL, 1)
    assert first.message_id == second.message_id


@pytest.mark.parametrize("url", [f"{URL}?id=4711", f"{URL}#clara", f"{URL}/4711223", f"{URL}/clara", f"{URL}?a=1"])
def test_under_aggregate_what_could_be_personal_stays_untracked(url: str) -> None:
    with pytest.raises(DestinationRefused) as refused:
        minter(Mode.AGGREGATE).mint_unregistered(url, 1, "clara")
    assert "personalised" == refused.value.reason
    assert minter(Mode.ANONYMIZED).mint_unregistered(url, 1, "clara")
