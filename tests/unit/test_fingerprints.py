"""Fingerprints stand for links without telling them; marks tell recipients apart without telling who they are."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.tracking.fingerprints import FINGERPRINT_BYTES, SHOWN_RECIPIENTS, Fingerprints

KEY, MAILING = bytes(range(32)), 0x1234_5678_9ABC
OURS = Fingerprints(KEY, MAILING)
FOREVER = ("598a613ea352dc2e68f7e2550bf3ae1f", "7bba04267e35199e1c7e5fd6324b4da3", "49")
texts = st.text(max_size=40)


@given(texts, texts, st.integers(1, 9))
def test_the_same_link_has_the_same_fingerprint_and_another_has_another(one: str, other: str, occurrence: int) -> None:
    described = OURS.describe((one, occurrence), other)
    again = OURS.describe((one, occurrence), other)
    assert described == again
    assert (one, other, occurrence) == (described.pattern, described.label, described.occurrence)
    assert FINGERPRINT_BYTES == len(described.fingerprint) == len(described.label_fingerprint)
    assert (one == other) is (described.fingerprint == OURS.describe((other, 1)).fingerprint)
    # A text as an address and as a label are two things.
    assert OURS.describe((one, 1), one).fingerprint != OURS.describe((one, 1), one).label_fingerprint


@given(texts)
def test_neither_another_installation_nor_another_mailing_has_the_same(pattern: str) -> None:
    others = [OURS, Fingerprints(KEY[::-1], MAILING), Fingerprints(KEY, MAILING + 1)]
    assert 3 == len({each.describe((pattern, 1)).fingerprint for each in others})


def test_fingerprints_stay_the_same_for_ever() -> None:
    """Another one under the same key gives every link of a mailing a second number."""
    described = OURS.describe(("https://shop.example/jackets?size", 1), "Jackets")
    assert FOREVER == (described.fingerprint.hex(), described.label_fingerprint.hex(), OURS.mark("4711").hex())


def test_a_mark_is_one_byte_that_many_recipients_share() -> None:
    marks = Counter(OURS.mark(f"k-{number}") for number in range(10_000))
    assert {1} == {len(mark) for mark in marks}
    assert 256 == len(marks)
    assert min(marks.values()) > SHOWN_RECIPIENTS


@given(texts)
def test_a_recipient_is_one_however_it_is_spelled(recipient: str) -> None:
    folded = recipient.casefold()
    assert OURS.mark(folded) == OURS.mark(f" {folded} ") == OURS.mark(folded.casefold())
    assert b"" == OURS.mark(None)


def test_texts_and_keys_are_not_in_what_is_shown_of_them() -> None:
    """As in the traceback of an error."""
    assert "otto" not in repr(OURS.describe(("https://shop.example/otto", 1), "Hello otto"))
    assert repr(KEY)[2:-1] not in repr(OURS)
