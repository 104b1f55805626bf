"""Addresses go on as they were written; what cannot be taken gets its own reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sending.smtp_commands import Sender, read_recipient, read_sender
from app.sending.smtp_replies import Refused, Reply, with_enhanced_code

MOST = 1_000


def code(argument: str | None) -> str:
    with pytest.raises(Refused) as refused:
        read_sender(argument, MOST)
    return refused.value.reply.encoded().decode()[:9]


@pytest.mark.parametrize(
    ("argument", "sender"),
    [
        ("FROM:<a@b.example>", Sender("<a@b.example>")),
        ("from: <a@b.example>", Sender("<a@b.example>")),
        ("FROM:a@b.example", Sender("<a@b.example>")),
        ("FROM:<>", Sender("<>")),
        ('FROM:<"a b>"@c.example> SIZE=12', Sender('<"a b>"@c.example>', size=12)),
        ("FROM:<@x.example:a@[IPv6:::1]>", Sender("<@x.example:a@[IPv6:::1]>")),
        ("FROM:<a@b> body=8bitmime SMTPUTF8", Sender("<a@b>", body="8BITMIME", utf8=True)),
        ("FROM:<ü@b.example> SMTPUTF8 AUTH=<>", Sender("<ü@b.example>", utf8=True)),
    ],
)
def test_senders(argument: str, sender: Sender) -> None:
    assert sender == read_sender(argument, MOST)


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (None, "501 5.1.7"),
        ("", "501 5.1.7"),
        ("TO:<a@b>", "501 5.1.7"),
        ("FROM:<a@b", "501 5.1.7"),
        ("FROM:<a b@c>", "501 5.1.7"),
        ("FROM:<a@b\udcff>", "501 5.1.7"),
        ("FROM:<a\x07@b>", "501 5.1.7"),
        ("FROM:<ü@b.example>", "553 5.6.7"),
        ("FROM:<a@b> SIZE=many", "501 5.5.4"),
        ("FROM:<a@b> SIZE=1001", "552 5.3.4"),
        ("FROM:<a@b> BODY=BINARYMIME", "501 5.5.4"),
        ("FROM:<a@b> SMTPUTF8=1", "501 5.5.4"),
        ("FROM:<a@b> RET=HDRS", "555 5.5.4"),
    ],
)
def test_senders_that_are_refused(argument: str | None, reply: str) -> None:
    assert reply == code(argument)


def test_recipients() -> None:
    assert "<a@b>" == read_recipient("TO:<a@b>", utf8=False)
    assert "<postmaster>" == read_recipient("TO:postmaster", utf8=False)
    for argument, reply in (("TO:<>", 501), ("TO:<a@b> NOTIFY=NEVER", 555), ("TO:<ü@b>", 553)):
        with pytest.raises(Refused) as refused:
            read_recipient(argument, utf8=False)
        assert reply == refused.value.reply.code


@given(st.text(max_size=60))
def test_nothing_gets_through_that_ends_a_line(text: str) -> None:
    try:
        path = read_sender(f"FROM:{text}", MOST).path
    except Refused:
        return
    assert path.isprintable() or not any(ord(character) < 32 or ord(character) == 127 for character in path)


@given(st.text(max_size=40).filter(lambda text: "\r" not in text))
def test_replies_keep_their_lines(text: str) -> None:
    lines = Reply(250, text).encoded().decode().split("\r\n")
    assert text.split("\n") == [line[4:] for line in lines]
    assert {"250-"} >= {line[:4] for line in lines[:-1]}
    assert "250 " == lines[-1][:4]


def test_our_own_replies_have_enhanced_codes() -> None:
    assert "502 5.5.1 EXPN not implemented" == with_enhanced_code("502 EXPN not implemented")
    assert "535 5.7.8 no" == with_enhanced_code("535 5.7.8 no")
    assert "250 receiver.example" == with_enhanced_code("250 receiver.example")
    assert "334 VXNl" == with_enhanced_code("334 VXNl")
