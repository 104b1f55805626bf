"""Patterns of dates: which are read, to the instant, and which are refused with the part that cannot be."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tracking.date_patterns import MAX_PATTERN_LENGTH, PatternRefused, date_pattern, read_iso, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("yyyy-MM-dd HH:mm:ss", "2026-11-27 14:05:09", datetime(2026, 11, 27, 14, 5, 9, tzinfo=BERLIN)),
        ("dd.MM.yyyy", "24.12.1980", datetime(1980, 12, 24, tzinfo=BERLIN)),
        ("d.M.yy", "1.2.68", datetime(2068, 2, 1, tzinfo=BERLIN)),
        ("d.M.yy", "01.02.69", datetime(1969, 2, 1, tzinfo=BERLIN)),
        ("yyyyMMdd", "20261127", datetime(2026, 11, 27, tzinfo=BERLIN)),
        ("y/M/d", "2026/1/2", datetime(2026, 1, 2, tzinfo=BERLIN)),
        ("MM/dd/yyyy hh:mm a", "11/27/2026 12:05 AM", datetime(2026, 11, 27, 0, 5, tzinfo=BERLIN)),
        ("MM/dd/yyyy hh:mm a", "11/27/2026 12:05 pm", datetime(2026, 11, 27, 12, 5, tzinfo=BERLIN)),
        ("yyyy-MM-dd'T'hh:mm:ss", "2026-11-27T14:05:09", datetime(2026, 11, 27, 14, 5, 9, tzinfo=BERLIN)),
        ("HH 'o''clock' ''", "14 o'clock '", datetime(1970, 1, 1, 14, tzinfo=BERLIN)),
        ("yyyy-MM-dd HH:mm:ss.SSS", "2026-11-27 14:05:09.070", datetime(2026, 11, 27, 14, 5, 9, 70_000, tzinfo=BERLIN)),
        ("yyyy-MM-dd HH:mmX", "2026-11-27 14:05Z", datetime(2026, 11, 27, 14, 5, tzinfo=UTC)),
        ("yyyy-MM-dd HH:mmXXX", "2026-11-27 14:05+05:30", datetime(2026, 11, 27, 8, 35, tzinfo=UTC)),
        ("yyyy-MM-dd HH:mmZ", "2026-11-27 14:05-0330", datetime(2026, 11, 27, 17, 35, tzinfo=UTC)),
    ],
)
def test_what_a_pattern_reads(pattern: str, text: str, expected: datetime) -> None:
    found = date_pattern(pattern).read(text, BERLIN)
    assert found is not None
    assert expected == found
    assert expected.utcoffset() == found.utcoffset() or found.tzinfo is not BERLIN


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("yyyy-MM-dd", "2026-02-30"),
        ("yyyy-MM-dd", "2026-2-3"),
        ("yyyy-MM-dd", "2026-02-03 "),
        ("yyyy-MM-dd", "2026-02-03\n"),
        ("yyyy-MM-dd", "２０２６-02-03"),
        ("yyyy-MM-dd", "0000-01-01"),
        ("d.M.yyyy", "001.1.2026"),
        ("HH:mm", "24:00"),
        ("hh:mm a", "13:00 PM"),
        ("hh:mm a", "00:00 AM"),
        ("yyyy.MM", "2026x11"),
        ("HH:mmXXX", "14:05+24:00"),
        ("HH:mmXXX", "14:05+01:60"),
    ],
)
def test_what_a_pattern_does_not_read(pattern: str, text: str) -> None:
    assert date_pattern(pattern).read(text, UTC) is None


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("dd. MMM yyyy", "'MMM'"),
        ("EEE dd.MM.yyyy", "'EEE'"),
        ("dd.MM.yyyy z", "'z'"),
        ("yyy", "'yyy'"),
        ("ddd", "'ddd'"),
        ("dd.MM.yyyyTHH", "'T'"),
        ("SSSSSSS", "'SSSSSSS'"),
        ("dd.MM.dd", "twice"),
        ("HH hh a", "twice"),
        ("yy yyyy", "twice"),
        ("dd 'of", "not closed"),
        ("", "1 to 100 characters"),
        ("  ", "1 to 100 characters"),
        ("d" * (MAX_PATTERN_LENGTH + 1), "1 to 100 characters"),
    ],
)
def test_what_is_no_pattern(pattern: str, words: str) -> None:
    with pytest.raises(PatternRefused, match=words):
        date_pattern(pattern)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-27", datetime(2026, 11, 27, tzinfo=BERLIN)),
        ("2026-11-27T14:05", datetime(2026, 11, 27, 14, 5, tzinfo=BERLIN)),
        ("2026-11-27 14:05:09", datetime(2026, 11, 27, 14, 5, 9, tzinfo=BERLIN)),
        ("2026-11-27T14:05:09.123Z", datetime(2026, 11, 27, 14, 5, 9, 123_000, tzinfo=UTC)),
        ("2026-11-27T14:05:09+01:00", datetime(2026, 11, 27, 14, 5, 9, tzinfo=timezone(timedelta(hours=1)))),
        ("2026-11-27T14:05:09-0330", datetime(2026, 11, 27, 17, 35, 9, tzinfo=UTC)),
    ],
)
def test_iso_8601(text: str, expected: datetime) -> None:
    assert expected == read_iso(text, BERLIN)


@pytest.mark.parametrize(
    "text", ["", "2026", "20261127", "2026-W48-5", "27.11.2026", "2026-13-01", "2026-11-27T25:00", "2026-11-27T14:05 "]
)
def test_what_is_not_iso_8601_here(text: str) -> None:
    assert read_iso(text, UTC) is None


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "CEST+1"])
def test_time_zones_that_nobody_knows(name: str) -> None:
    with pytest.raises(PatternRefused, match="Europe/Berlin"):
        zone_of(name)


FIELDS = st.sampled_from(
    ["yyyy", "MM", "dd", "HH", "mm", "ss", "'T'", "-", ":", " ", ".", "d", "a", "X", "yy", "*", "("]
)


@given(st.lists(FIELDS, min_size=1, max_size=8).map("".join), st.text(max_size=30))
def test_no_text_breaks_a_pattern(pattern: str, text: str) -> None:
    try:
        compiled = date_pattern(pattern)
    except PatternRefused:
        return
    assert compiled.read(text, UTC) is None or compiled.expression.fullmatch(text)


@given(st.datetimes(min_value=datetime(1000, 1, 1)))
def test_what_a_pattern_writes_it_reads(moment: datetime) -> None:
    written = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    assert moment.replace(tzinfo=UTC) == date_pattern("yyyy-MM-dd HH:mm:ss.SSSSSS").read(written, UTC)
