"""Lines of a batch: however they are cut into chunks, whatever stands in them, and what is said about wrong ones."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MailRefused, MailtrailError, NotFound, SettingsError, StoreUnavailable
from app.sending.batch import (
    MAX_LINE_BYTES,
    BrokenOff,
    EventsHead,
    Feed,
    Line,
    LineSplitter,
    LineTooLong,
    MessagesHead,
    problem_of,
    read_head,
)
from app.sending.strict_json import NoJson


def split(*chunks: bytes) -> list[Line]:
    splitter = LineSplitter()
    return [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.end())


@given(st.lists(st.binary(max_size=6).map(lambda piece: piece.replace(b"\r", b"\n")), max_size=8))
def test_lines_do_not_depend_on_chunks(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = [Line(number, line) for number, line in enumerate(whole.split(b"\n"), 1) if line.strip()]
    assert expected == split(*chunks) == split(whole)


def test_a_long_line_is_said_to_be_one_and_the_next_is_read() -> None:
    exact = b"x" * MAX_LINE_BYTES
    assert [Line(1, exact), Line(2, None), Line(3, b"y")] == split(exact + b"\n", exact, b"x", exact, b"\ny")
    assert [Line(1, None)] == split(exact + b"x")


def test_what_is_kept_of_a_long_line_is_bounded() -> None:
    splitter = LineSplitter()
    for _ in range(100):
        assert [] == list(splitter.feed(b"x" * MAX_LINE_BYTES))
    assert len(splitter._rest) <= MAX_LINE_BYTES


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def lines_of(feed: Feed) -> tuple[Line, list[list[bytes | None]]]:
    first = await feed.first()
    return first, [[line.content for line in lines] async for lines in feed.groups()]


def test_the_first_line_comes_first_and_nothing_is_lost_behind_it() -> None:
    first, others = asyncio.run(lines_of(Feed(chunks_of(b"\n\na", b"b\nc\nd", b"e\n"))))
    assert (Line(3, b"ab"), [[b"c"], [b"de"], []]) == (first, others)


def test_nothing_is_read_ahead() -> None:
    asked: list[int] = []

    async def counted() -> AsyncIterator[bytes]:
        for number in range(10):
            asked.append(number)
            yield b"line\n"

    async def read_two() -> None:
        feed = Feed(counted())
        await feed.first()
        groups = feed.groups()
        for _ in range(2):
            list(await anext(groups))

    asyncio.run(read_two())
    assert [0, 1] == asked


def test_no_line_at_all() -> None:
    with pytest.raises(SettingsError, match="begin with one that says what is sent"):
        asyncio.run(lines_of(Feed(chunks_of(b"\n", b" \n"))))


# --- what they say ---------------------------------------------------------------------------------------------------


def test_a_first_line() -> None:
    line = Line(1, b'{"event": "news", "mailing": "May", "html": "<p>{{ a }}", "fields": ["a"]}')
    head = read_head(line, MessagesHead)
    assert (None, "news", "May", "<p>{{ a }}", ["a"], "person_based") == (
        *(head.space, head.event, head.mailing, head.html, head.fields, head.ceiling),
    )
    assert read_head(Line(1, b'{"event": "news", "html": "<p>"}'), EventsHead).mailing is None


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (b'{"event": "news", "html": "<p>"}', "mailing", "'mailing' is missing; send it"),
        (b'{"event": 5, "mailing": "May", "html": "<p>"}', "event", "event: expected `str`, got `int`; correct it"),
        (
            b'{"event": "n", "mailing": "May", "html": "<p>", "fields": ["a", 5]}',
            "fields[1]",
            "expected `str`, got `int`",
        ),
        (b'{"event": "n", "mailing": "M", "html": "", "x": 1}', "x", "there is no 'x' here; leave it out"),
        (b"[]", None, "the line: expected `object`, got `array`"),
        (b'{"event": "a", "event": "b"}', "event", "'event' is there twice; keep one"),
        (b'{"event": "a\\u0000"}', "event", "NUL characters"),
        (b'{"event": "\\ud800"}', "event", "lone surrogates"),
    ],
)
def test_a_first_line_that_cannot_be(text: bytes, field: str | None, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_head(Line(1, text), MessagesHead)
    assert field == refused.value.field
    assert words in str(refused.value)


@pytest.mark.parametrize("text", [b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 100_000, b""])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(NoJson):
        Line(1, text).read()


def test_a_line_that_is_too_long_is_not_read() -> None:
    with pytest.raises(LineTooLong, match="1048576"):
        Line(1, None).read()


def errors() -> Iterator[tuple[MailtrailError, dict[str, str]]]:
    yield NoJson("x"), {"type": "/problems/malformed", "detail": "x"}
    yield LineTooLong("x"), {"type": "/problems/too-large", "detail": "x"}
    yield MailRefused("x"), {"type": "/problems/mail", "detail": "x"}
    yield NotFound("x", field="a"), {"type": "/problems/not-found", "detail": "x", "field": "a"}
    yield SettingsError("x" * 2_000, field="a"), {"type": "/problems/invalid", "detail": "x" * 1_000, "field": "a"}
    yield BrokenOff("idle", "x"), {"type": "/problems/idle", "detail": "x"}


@pytest.mark.parametrize(("error", "expected"), list(errors()), ids=lambda each: type(each).__name__)
def test_problems(error: MailtrailError, expected: dict[str, str]) -> None:
    assert expected == problem_of(error)


def test_a_database_that_is_away_is_not_described() -> None:
    problem = problem_of(StoreUnavailable("postgresql://secret@db"))
    assert "/problems/unavailable" == problem["type"]
    assert "secret" not in problem["detail"]
