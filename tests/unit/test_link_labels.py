"""Labels tell marketers which link is meant, and never say whose mail it was in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tracking.links import describe_label


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Im Browser ansehen", "Im Browser ansehen"),
        ("20 % sichern", "20 % sichern"),
        ("Anfahrt über die „Isarhöhe“", "Anfahrt über die „Isarhöhe“"),
        ("Invoice 4711 for you", "Invoice {value} for you"),
        ("Write to clara@example.org", "Write to {value}"),
        ("Order 2026112400017", "Order {value}"),
        ("Call 0664 123 45 67", ""),
        ("", ""),
    ],
)
def test_labels(label: str, expected: str) -> None:
    assert expected == describe_label(label, "4711")


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from(["clara.weiss", "Clara Weiss", "k-88213"]))
def test_no_recipient_is_in_a_label(before: str, after: str, recipient: str) -> None:
    assert recipient.casefold() not in describe_label(f"{before} {recipient} {after}", recipient).casefold()
