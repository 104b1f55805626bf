"""Batches: each line once, as a hit or as damage; and the rows that PostgreSQL gets of them."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.journal.lines import encode_line
from app.journal.segments import Stream
from app.shipper.batches import Batch
from app.shipper.copying import RowEncoder, with_clock
from app.shipper.journals import START, Position
from app.shipper.postgres import Window, _fit, _is_refusal, _totals
from app.shipper.rows import Row, read_row
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from app.tracking.tokens import Kind

AT = datetime(2026, 11, 24, 13, 37, 42, 123456, tzinfo=UTC)
PERSON = Hit(1, Kind.CLICK, Mode.PERSON_BASED, AT, 1, 2, 3, 4, True, "human")
ANONYMIZED = replace(PERSON, mode=Mode.ANONYMIZED)
WINDOW = Window.around(AT, retention_days=60)


def batch_of(stream: Stream, lines: list[bytes]) -> Batch[Row]:
    batch: Batch[Row] = Batch("0123456789abcdef", stream, None, Position(1, 7))
    batch.take(lines, lambda row: row)
    return batch


def line_of(row: Row) -> bytes:
    return encode_line(replace(PERSON, hit_id=row.id, mode=Mode.from_label(row.mode)))


lines = st.one_of(
    st.binary(max_size=30).map(lambda body: body.replace(b"\n", b"") + b"\n"),
    st.integers(0, 2**63 - 1).map(lambda number: encode_line(replace(PERSON, hit_id=number))),
    st.integers(0, 2**63 - 1).map(lambda number: encode_line(replace(ANONYMIZED, hit_id=number))),
)


@given(st.lists(lines), st.sampled_from(Stream))
def test_every_line_is_in_its_batch_once_and_only_its_streams_lines_are_hits(read: list[bytes], stream: Stream) -> None:
    batch = batch_of(stream, read)
    assert sorted(read) == sorted(batch.lines + batch.damaged)
    assert [line_of(row) for row in batch.rows] == batch.lines
    whole = {Stream.IDENTIFIED: b"person_based", Stream.REDUCED: b"anonymized"}[stream]
    assert sum(whole in line for line in read) == len(batch.rows)


def test_shuffling_loses_nothing_and_keeps_lines_with_their_rows() -> None:
    read = [encode_line(replace(ANONYMIZED, hit_id=number)) for number in range(100)]
    batch = batch_of(Stream.REDUCED, [*read, *(b"%d\n" % number for number in range(100))])
    lines, damaged = list(batch.lines), list(batch.damaged)
    batch.shuffle()
    assert lines != batch.lines
    assert damaged != batch.damaged
    assert sorted(lines) == sorted(batch.lines)
    assert sorted(damaged) == sorted(batch.damaged)
    assert [line_of(row) for row in batch.rows] == batch.lines


def test_an_empty_batch_can_be_shuffled() -> None:
    batch = batch_of(Stream.REDUCED, [])
    batch.shuffle()
    assert ([], [], []) == (batch.rows, batch.lines, batch.damaged)


def test_the_window_reaches_from_the_first_kept_month_to_a_day_ahead() -> None:
    assert datetime(2026, 9, 1, tzinfo=UTC) == WINDOW.earliest
    assert WINDOW.holds(WINDOW.earliest)
    assert not WINDOW.holds(WINDOW.earliest - timedelta(microseconds=1))
    assert WINDOW.holds(AT + timedelta(days=1))
    assert not WINDOW.holds(AT + timedelta(days=1, microseconds=1))
    assert datetime(1970, 1, 1, tzinfo=UTC) == Window.around(AT, retention_days=10**9).earliest


@pytest.mark.parametrize(
    ("mode", "clock"),
    [
        (Mode.PERSON_BASED, AT),
        (Mode.ANONYMIZED, datetime(2026, 11, 24, 13, 37, tzinfo=UTC)),
        (Mode.AGGREGATE, datetime(2026, 11, 24, 13, tzinfo=UTC)),
    ],
)
def test_a_clamped_row_is_as_coarse_as_its_mode(mode: Mode, clock: datetime) -> None:
    encode = RowEncoder().encode
    times = [AT, AT + timedelta(days=9), AT]
    row = read_row(encode_line(replace(PERSON, mode=mode)))
    fitted, clamped = _fit([encode(replace(row, at=at)) for at in times], WINDOW)
    assert [AT, clock, AT] == [at for _, at, _ in fitted]
    assert {1} == clamped
    assert [encode(row), with_clock(encode(row), clock), encode(row)] == fitted


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 3), st.sampled_from(["human", "bot"]))))
def test_totals_count_every_row_once_under_its_hour(hits: list[tuple[int, int, str]]) -> None:
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    read = [
        replace(PERSON, at=begin + timedelta(microseconds=late), link=link, agent_kind=agent)
        for late, link, agent in hits
    ]
    expected = Counter(
        (
            *(hit.at.replace(minute=0, second=0, microsecond=0), 3, "click", hit.link, True, "person_based"),
            *(hit.agent_kind, 1, 2),
        )
        for hit in read
    )
    encode = RowEncoder().encode
    assert expected == _totals([encode(read_row(encode_line(hit))) for hit in read])


@pytest.mark.parametrize(
    ("state", "constraint", "refusal"),
    [
        ("22021", None, True),
        ("22P02", None, True),
        ("23514", "a_check", True),
        ("23502", None, True),
        ("23514", None, False),  # no partition for the row
        ("53100", None, False),
        ("57014", None, False),
        ("40P01", None, False),
    ],
)
def test_only_the_rows_own_faults_are_refusals(state: str, constraint: str | None, refusal: bool) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "it is so", "n": constraint})  # type: ignore[no-untyped-call]
    assert refusal == _is_refusal(error)


def test_positions_are_ordered_by_segment_first() -> None:
    assert START < Position(1, 1) < Position(2, 0)
