"""Fields of relay mails: they take away and never add, and what is left of the mail is what was around them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sending.relay_headers import RelayFields, read_relay_fields

GROUP = "X-Mailtrail-Group"
NAMES = [
    "X-PM-TrackOpens",
    "X-PM-TrackLinks",
    "X-Mailgun-Track",
    "X-Mailgun-Track-Opens",
    "X-Mailgun-Track-Clicks",
    "X-Mailjet-TrackOpen",
    "X-Mailjet-TrackClick",
    "X-inx-correlationId1",
    "X-inx-correlationId2",
    "X-inx-correlationId3",
    GROUP,
]
BODY = b"Subject: Sale\r\n\r\nX-PM-TrackOpens: false\r\n"


def read(*fields: str, rest: bytes = BODY, group: str = GROUP) -> RelayFields:
    return read_relay_fields("".join(f"{field}\r\n" for field in fields).encode() + rest, group)


def allowed(fields: RelayFields) -> tuple[bool, bool, bool]:
    """Opens, links of HTML, links of plain text."""
    return fields.opens, fields.html_links, fields.text_links


@pytest.mark.parametrize(
    ("field", "left"),
    [
        ("X-PM-TrackOpens: false", (False, True, True)),
        ("X-PM-TrackOpens: true", (True, True, True)),
        ("x-pm-trackopens:FALSE", (False, True, True)),
        ("X-PM-TrackLinks: None", (True, False, False)),
        ("X-PM-TrackLinks: HtmlAndText", (True, True, True)),
        ("X-PM-TrackLinks: HtmlOnly", (True, True, False)),
        ("X-PM-TrackLinks: TextOnly", (True, False, True)),
        ("X-Mailgun-Track: no", (False, False, False)),
        ("X-Mailgun-Track: yes", (True, True, True)),
        ("X-Mailgun-Track-Opens: no", (False, True, True)),
        ("X-Mailgun-Track-Clicks: no", (True, False, False)),
        ("X-Mailgun-Track-Clicks: htmlonly", (True, True, False)),
        ("X-Mailjet-TrackOpen: 0", (False, True, True)),
        ("X-Mailjet-TrackOpen: 1", (True, True, True)),
        ("X-Mailjet-TrackClick: 0", (True, False, False)),
        ("X-Mailjet-TrackClick: whatever", (True, True, True)),
    ],
)
def test_what_a_field_takes_away(field: str, left: tuple[bool, bool, bool]) -> None:
    fields = read(field)
    assert left == allowed(fields)
    assert BODY == fields.taken_out(f"{field}\r\n".encode() + BODY)


def test_each_field_takes_away_what_it_says() -> None:
    assert (False, False, False) == allowed(
        read(
            "X-PM-TrackLinks: HtmlOnly", "X-Mailjet-TrackOpen: 0", "X-PM-TrackLinks: TextOnly", "X-PM-TrackOpens: true"
        )
    )


def test_fields_are_taken_out_where_they_are_folded_and_wherever_they_stand() -> None:
    field = b"X-PM-TrackOpens:\r\n\tfalse\r\nX-inx-correlationId2 : 17\r\n"
    raw = b"To: a@b.example\r\n" + field + b"From: c@d.example\r\n\r\nText\r\n"
    fields = read_relay_fields(raw, GROUP)
    assert (False, True, True) == allowed(fields)
    assert (None, "17") == fields.correlation_ids
    assert b"To: a@b.example\r\nFrom: c@d.example\r\n\r\nText\r\n" == fields.taken_out(raw)


@pytest.mark.parametrize(
    "raw",
    [
        BODY,
        b"X-PM-TrackOpensX: false\r\n\r\n",
        b"Subject: a\r\n X-PM-TrackOpens: false\r\n\r\n",
        b"Content-Type: message/rfc822\r\n\r\nX-PM-TrackOpens: false\r\n\r\nText",
        b"",
    ],
)
def test_what_is_no_field_of_the_mail_itself_stays(raw: bytes) -> None:
    fields = read_relay_fields(raw, GROUP)
    assert ((True, True, True), ()) == (allowed(fields), fields.spans)
    assert raw == fields.taken_out(raw)


def test_ids_and_group() -> None:
    fields = read(
        "X-Inx-CorrelationID3: three",
        "X-inx-correlationId1:  order 17 ",
        "X-inx-correlationId1: second",
        "X-Mailtrail-Group: =?utf-8?q?Herbst=C3=B6ffnung?=",
    )
    assert ("order 17", None, "three") == fields.correlation_ids
    assert "Herbstöffnung" == fields.group


def test_another_field_can_name_the_group() -> None:
    fields = read("X-inx-correlationId1: order", "X-Mailtrail-Group: no", group="X-Inx-CorrelationId1")
    assert ("order", ("order",)) == (fields.group, fields.correlation_ids)
    assert 1 == len(fields.spans)


def test_what_cannot_be_used_is_left_out_and_counted() -> None:
    fields = read("X-inx-correlationId1: " + "x" * 256, "X-inx-correlationId2: fine", f"{GROUP}: a\x07b")
    assert (None, "fine") == fields.correlation_ids
    assert fields.group is None
    assert {"correlation_id": 1, "group": 1} == fields.left_out


values = st.sampled_from(
    ["true", "false", "None", "HtmlOnly", "TextOnly", "yes", "no", "0", "1", "", "=?utf-8?q?=FF?="]
)
lines = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.one_of(values, st.text(max_size=20))).map(
        lambda pair: f"{pair[0]}: {pair[1]}"
    ),
    st.text(max_size=30),
)


@given(st.lists(lines, max_size=8), st.sampled_from(["\r\n", "\n"]), st.binary(max_size=60))
def test_more_fields_never_allow_more(fields: list[str], line_end: str, rest: bytes) -> None:
    header = "".join(field + line_end for field in fields).encode(errors="replace")
    few = read_relay_fields(header + b"\r\n" + rest, GROUP)
    more = read_relay_fields(b"X-PM-TrackLinks: HtmlOnly\r\n" + header + b"\r\n" + rest, GROUP)
    assert all(now <= before for now, before in zip(allowed(more), allowed(few), strict=True))


@given(st.binary(max_size=300))
def test_any_bytes_can_be_read(raw: bytes) -> None:
    fields = read_relay_fields(raw, GROUP)
    assert len(fields.taken_out(raw)) == len(raw) - sum(end - start for start, end in fields.spans)


@given(st.lists(st.sampled_from([*NAMES, "Subject", "X-Other"]), max_size=10), st.text("abc \t", max_size=10))
def test_only_the_fields_are_taken_out(names: list[str], value: str) -> None:
    fields = [f"{name}: {value}\r\n" for name in names]
    left = [field for name, field in zip(names, fields, strict=True) if name not in NAMES]
    raw = "".join([*fields, "\r\n", "body"]).encode()
    assert "".join([*left, "\r\n", "body"]).encode() == read_relay_fields(raw, GROUP).taken_out(raw)
