"""Batches: each line once, as a hit or as damage; and the rows that PostgreSQL gets of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.journal.lines import encode_line
from app.journal.segments import Stream
from app.shipper.batches import Batch
from app.shipper.journals import START, Position
from app.shipper.postgres import COLUMNS, Window, _is_refusal, _row, _total_key
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from app.tracking.tokens import Kind

AT = datetime(2026, 11, 24, 13, 37, 42, 123456, tzinfo=UTC)
PERSON = Hit(1, Kind.CLICK, Mode.PERSON_BASED, AT, 1, 2, 3, 4, True, "human")
ANONYMIZED = replace(PERSON, mode=Mode.ANONYMIZED)
WINDOW = Window.around(AT, retention_days=60)


def batch_of(stream: Stream, lines: list[bytes]) -> Batch:
    batch = Batch("0123456789abcdef", stream, None, Position(1, 7))
    batch.take(lines)
    return batch


lines = st.one_of(
    st.binary(max_size=30).map(lambda body: body.replace(b"\n", b"") + b"\n"),
    st.integers(0, 2**63 - 1).map(lambda number: encode_line(replace(PERSON, hit_id=number))),
    st.integers(0, 2**63 - 1).map(lambda number: encode_line(replace(ANONYMIZED, hit_id=number))),
)


@given(st.lists(lines), st.sampled_from(Stream))
def test_every_line_is_in_its_batch_once_and_only_its_streams_lines_are_hits(read: list[bytes], stream: Stream) -> None:
    batch = batch_of(stream, read)
    assert sorted(read) == sorted([line for _, line in batch.hits] + batch.damaged)
    assert all(encode_line(hit) == line and Stream.of(hit.mode) is stream for hit, line in batch.hits)
    whole = {Stream.IDENTIFIED: b"person_based", Stream.REDUCED: b"anonymized"}[stream]
    assert sum(whole in line for line in read) == len(batch.hits)


def test_shuffling_loses_nothing_and_keeps_lines_with_their_hits() -> None:
    read = [encode_line(replace(ANONYMIZED, hit_id=number)) for number in range(100)]
    batch = batch_of(Stream.REDUCED, [*read, *(b"%d\n" % number for number in range(100))])
    hits, damaged = list(batch.hits), list(batch.damaged)
    batch.shuffle()
    assert hits != batch.hits
    assert damaged != batch.damaged
    assert sorted(hits, key=lambda entry: entry[1]) == sorted(batch.hits, key=lambda entry: entry[1])
    assert sorted(damaged) == sorted(batch.damaged)
    assert all(encode_line(hit) == line for hit, line in batch.hits)


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
    row = _row(replace(PERSON, mode=mode, at=AT + timedelta(days=9)), WINDOW)
    assert (clock, True) == (row[COLUMNS.index("at")], row[COLUMNS.index("clock_clamped")])
    kept = _row(replace(PERSON, mode=mode), WINDOW)
    assert (AT, False) == (kept[COLUMNS.index("at")], kept[COLUMNS.index("clock_clamped")])


def test_rows_and_keys_of_totals_have_their_columns_order() -> None:
    row = _row(PERSON, WINDOW)
    assert len(COLUMNS) == len(row)
    named = dict(zip(COLUMNS, row, strict=True))
    hour = AT.replace(minute=0, second=0, microsecond=0)
    names = ("kind", "link", "registered", "mode", "agent", "space_id", "event_id")
    assert (named["mailing_id"], hour, *(named[name] for name in names)) == _total_key(row)


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
