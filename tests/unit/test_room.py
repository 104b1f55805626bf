"""The room for connections: who goes when it is full, and that it is told."""

import resource
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from app.collector.room import RESERVED, Room, most_connections
from app.metrics import Metrics


@dataclass(eq=False)
class Fake:
    """A connection that remembers whether it was ended."""

    is_busy: bool = False
    ended: list[bool] = field(default_factory=list)

    def end(self) -> None:
        self.ended.append(True)


def shed(metrics: Metrics) -> float:
    return float(metrics.connections_shed._value.get())


def test_the_one_that_never_asked_goes_first_then_the_oldest_that_nobody_waits_on() -> None:
    metrics = Metrics()
    room = Room(4, metrics)
    asked, waits, silent, later = Fake(), Fake(is_busy=True), Fake(), Fake()
    for each in (asked, waits, silent, later):
        room.enter(each)
    room.know(waits)
    room.know(asked)
    assert [] == asked.ended + waits.ended + silent.ended + later.ended
    for expected in (silent, later):
        new = Fake()
        room.enter(new)
        room.know(new)
        assert [True] == expected.ended
    last = Fake()
    room.enter(last)
    assert ([True], [], []) == (asked.ended, waits.ended, last.ended)
    assert 3 == shed(metrics)


def test_who_has_left_is_not_counted_and_not_ended() -> None:
    metrics = Metrics()
    room = Room(2, metrics)
    gone, stays = Fake(), Fake()
    room.enter(gone)
    room.enter(stays)
    room.leave(gone)
    room.know(gone)  # its last answer is on the way
    room.leave(gone)
    room.enter(Fake())
    assert [] == gone.ended + stays.ended
    assert 0 == shed(metrics)


def test_with_everybody_busy_the_new_one_goes() -> None:
    room = Room(1, Metrics())
    busy, new = Fake(is_busy=True), Fake()
    room.enter(busy)
    room.enter(new)
    assert ([], [True]) == (busy.ended, new.ended)


def test_a_storm_is_one_line_of_the_log() -> None:
    room = Room(1, Metrics())
    with capture_logs() as log:
        for _ in range(100):
            room.enter(Fake())
    assert ["warning"] == [line["log_level"] for line in log]
    assert 1 == log[0]["most"]


@pytest.mark.parametrize(("limit", "most"), [(20_000, 20_000 - RESERVED), (1_024, 1_024 - RESERVED), (100, 50)])
def test_descriptors_are_left_for_the_journal(limit: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert most == most_connections()
