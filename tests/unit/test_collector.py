"""The collector around the pure answer: journal, counters, clock, ids and faults."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.collector.answer import PIXEL, Answer
from app.collector.client import client_of_headers
from app.collector.collector import Collector, HitIds
from app.config import Settings
from app.journal.lines import decode_line, encode_line
from app.journal.writer import Loss
from app.metrics import Metrics
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from app.tracking.snapshot import Snapshot
from tests.unit.test_answer import AT, GOOD_CLICK, GOOD_OPEN, HEADERS, PATHS, SNAPSHOT, click_path, message, open_path


@dataclass
class Holder:
    current: Snapshot | None = SNAPSHOT
    confirmed: bool = True


@dataclass
class Kept:
    """A journal in memory; `outcome` is what it says, or raises, from then on."""

    hits: list[Hit] = field(default_factory=list)
    outcome: Loss | Exception | None = None

    def append_all(self, hits: Sequence[Hit]) -> list[Loss | None]:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is None:
            self.hits.extend(hits)
        return [self.outcome] * len(hits)


class Bench:
    """A collector with everything around it."""

    def __init__(self, clock: Callable[[], float] = AT.timestamp, **settings: Any) -> None:
        self.metrics, self.journal, self.holder = Metrics(), Kept(), Holder()
        self.collector = Collector(Settings(**settings), self.metrics, self.journal, self.holder, clock)

    def ask(self, path: bytes, method: str = "GET") -> Answer:
        (made,) = self.collector.take_all([(method, path, client_of_headers(HEADERS, "203.0.113.9"))])
        self.collector.count(made)
        return made

    def counted(self) -> dict[str, float]:
        return counted(self.collector, self.metrics)


def counted(collector: Collector, metrics: Metrics) -> dict[str, float]:
    """All counters that are not 0."""
    collector.publish()
    lines = [line.rsplit(" ", 1) for line in metrics.render().decode().splitlines() if "_total" in line]
    return {
        name.removeprefix("mailtrail_").replace("_total", ""): float(value)
        for name, value in lines
        if not name.startswith("#") and float(value)
    }


def test_what_was_answered_is_journaled_and_counted() -> None:
    bench = Bench()
    made = [bench.ask(GOOD_CLICK), bench.ask(GOOD_OPEN), bench.ask(click_path(message(), link=40))]
    bench.ask(GOOD_CLICK, "HEAD")
    bench.ask(click_path(message(Mode.ANONYMIZED, issue_day=date(2026, 11, 23))))
    bench.ask(b"/c/nonsense")
    bench.ask(b"/o/nonsense.gif")
    bench.ask(GOOD_CLICK, "POST")
    assert [answer.hit for answer in made] == bench.journal.hits[:3]
    assert bench.counted() == {
        'answers{kind="click",outcome="served"}': 3,
        'answers{kind="click",outcome="gone"}': 1,
        'answers{kind="click",outcome="refused"}': 2,
        'answers{kind="open",outcome="served"}': 1,
        'answers{kind="open",outcome="refused"}': 1,
        'hits{kind="click",mode="person_based"}': 2,
        'hits{kind="click",mode="anonymized"}': 1,
        'hits{kind="open",mode="person_based"}': 1,
        'tokens_refused{kind="click",reason="malformed"}': 1,
        'tokens_refused{kind="open",reason="malformed"}': 1,
        'pseudonym_gaps{reason="key_missing"}': 1,
    }


def test_unconfirmed_settings_are_counted_where_they_cost_something() -> None:
    bench = Bench()
    bench.holder.confirmed = False
    bench.ask(GOOD_CLICK)
    bench.ask(GOOD_CLICK, "HEAD")
    bench.ask(click_path(message(Mode.AGGREGATE)))
    assert bench.counted()["hits_capped"] == 1
    assert [hit.mode for hit in bench.journal.hits] == [Mode.ANONYMIZED, Mode.AGGREGATE]


def test_without_settings_clicks_wait_and_pictures_do_not() -> None:
    bench = Bench()
    bench.holder.current = None
    assert [bench.ask(GOOD_CLICK).status, bench.ask(GOOD_OPEN).status] == [503, 200]
    assert bench.counted()['tokens_refused{kind="click",reason="no_settings"}'] == 1
    assert bench.counted()['tokens_refused{kind="open",reason="no_settings"}'] == 1
    bench.holder.current = SNAPSHOT
    assert bench.ask(GOOD_CLICK).status == 302


@pytest.mark.parametrize("trouble", [Loss.JOURNAL_FULL, Loss.WRITE_ERROR, RuntimeError("erika@example.com")])
@pytest.mark.parametrize(("journal_full", "statuses"), [("drop_new", [302, 200]), ("refuse_503", [503, 503])])
def test_a_hit_that_cannot_be_journaled(trouble: Loss | Exception, journal_full: str, statuses: list[int]) -> None:
    bench = Bench(journal_full=journal_full)
    bench.journal.outcome = trouble
    with structlog.testing.capture_logs() as logs:
        made = [bench.ask(GOOD_CLICK), bench.ask(GOOD_OPEN)]
    assert statuses == [answer.status for answer in made]
    assert [answer.hit for answer in made] == [None, None]
    reason = trouble.value if isinstance(trouble, Loss) else "write_error"
    counted = bench.counted()
    assert counted[f'hits_lost{{reason="{reason}"}}'] == 2
    assert [name for name in counted if name.startswith("hits{")] == []
    assert "erika" not in repr(logs)
    if journal_full == "refuse_503":
        assert dict(made[0].headers)[b"retry-after"] == b"5"
        assert counted['answers{kind="click",outcome="refused"}'] == 1


def test_nothing_is_lost_where_nothing_is_recorded() -> None:
    bench = Bench(journal_full="refuse_503")
    bench.journal.outcome = Loss.JOURNAL_FULL
    assert [bench.ask(GOOD_CLICK, "HEAD").status, bench.ask(b"/c/x").status] == [302, 404]
    assert "hits_lost" not in str(bench.counted())


def test_a_fault_is_answered_like_a_bad_token_and_told_without_its_text() -> None:
    bench = Bench()
    broken = replace(SNAPSHOT, spaces=None)  # type: ignore[arg-type]
    bench.holder.current = broken
    with structlog.testing.capture_logs() as logs:
        click, opened = bench.ask(GOOD_CLICK), bench.ask(GOOD_OPEN)
    assert (click.status, opened.status, opened.body) == (404, 200, PIXEL)
    assert bench.counted()["answer_faults"] == 2
    assert [log["fault"].startswith("AttributeError at snapshot.py:") for log in logs] == [True, True]
    assert bench.journal.hits == []


@pytest.mark.parametrize(
    ("seconds", "year"),
    [
        (0.0, 1970),
        (-1.0, 1970),
        (-1e12, 1970),
        (-1e30, 1970),
        (float("-inf"), 1970),
        (float("nan"), 1970),
        (253402300800.0, 9999),
        (1e30, 9999),
        (float("inf"), 9999),
    ],
)
def test_whatever_the_clock_says_the_redirect_goes_out(seconds: float, year: int) -> None:
    bench = Bench(lambda: seconds)
    paths = (GOOD_CLICK, click_path(message(Mode.ANONYMIZED)), GOOD_OPEN)
    assert [bench.ask(path).status for path in paths] == [302, 302, 200]
    assert {year} == {hit.at.year for hit in bench.journal.hits}
    assert {UTC} == {hit.at.tzinfo for hit in bench.journal.hits}
    assert "answer_faults" not in bench.counted()


def test_a_clock_that_steps_back_is_believed_and_breaks_nothing() -> None:
    times = iter([AT.timestamp(), AT.timestamp() - 86_400 * 400])
    bench = Bench(lambda: next(times))
    assert [bench.ask(GOOD_CLICK).status, bench.ask(GOOD_CLICK).status] == [302, 302]
    assert [hit.at for hit in bench.journal.hits] == [AT, datetime(2025, 10, 20, 13, 37, 42, 123456, tzinfo=UTC)]


def test_hit_ids_are_random_positive_and_fit_a_bigint() -> None:
    one, two = HitIds(), HitIds()
    ids = [source.next() for source in (one, two) for _ in range(3_000)]
    assert len(ids) == len(set(ids))
    assert min(ids) > 0
    assert 2**62 < max(ids) < 2**63


def _ids_of_a_child(ids: HitIds, out: Any) -> None:
    out.put([ids.next() for _ in range(10)])


def test_a_fork_before_the_first_id_shares_none() -> None:
    context = multiprocessing.get_context("fork")
    ids, out = HitIds(), context.SimpleQueue()
    child = context.Process(target=_ids_of_a_child, args=(ids, out))
    child.start()
    assert set(out.get()).isdisjoint([ids.next() for _ in range(10)])
    child.join()


BENCH = Bench(ip_policy="full", trusted_proxies="203.0.113.0/24")
NAMES = st.binary(max_size=20) | st.sampled_from([b"user-agent", b"sec-purpose", b"x-forwarded-for", b"host"])
SENT = st.builds(
    message,
    st.sampled_from([Mode.AGGREGATE, Mode.ANONYMIZED, Mode.PERSON_BASED]),
    space=st.sampled_from([1, 5, 6, 9]),
    event=st.integers(0, 2**32 - 1),
    issue_day=st.dates(date(2020, 1, 1), date(2100, 1, 1)),
    recipient=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
)


@given(
    st.sampled_from(["GET", "HEAD", "POST"]) | st.text(max_size=10),
    PATHS | st.binary(max_size=300) | SENT.map(click_path) | SENT.map(open_path),
    st.lists(st.tuples(NAMES, st.binary(max_size=600)), max_size=8),
    st.none() | st.text(max_size=20) | st.ip_addresses().map(str),
)
def test_no_request_is_a_fault(method: str, path: bytes, headers: list[tuple[bytes, bytes]], peer: str | None) -> None:
    BENCH.journal.hits.clear()
    (made,) = BENCH.collector.take_all([(method, path, client_of_headers(headers, peer))])
    assert made.status in (200, 302, 404, 405, 410)
    assert [made.hit] == (BENCH.journal.hits or [None])
    assert made.hit is None or decode_line(encode_line(made.hit)) == made.hit
    assert "answer_faults" not in BENCH.counted()
