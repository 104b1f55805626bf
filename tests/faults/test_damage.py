"""Damage to journals, and to what lies around them: nothing waits for a person, and only what was destroyed is missing.

Every row of the table has a collector of its own. Some of its hits are shipped, then the shippers are killed, more
hits are journaled and the collector is killed, or lives on, as the row says. Then its files are damaged and the
shippers come back. What must be missing is known from the files: the hits of whole lines that were there before and are
not any more, unless they had been shipped.
"""

import contextlib
import os
import random
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from app.journal.lines import DamagedLine, decode_line
from app.journal.segments import SHIPPER_LOCK, WRITER_LOCK, Stream, lock, segment_path, segments
from app.store.snapshot import restore
from tests.faults.asks import COLUMNS, Ask, asks, identity
from tests.faults.gauges import readiness, value
from tests.faults.postgres import Postgres, patiently
from tests.faults.rig import Part, Rig
from tests.integration.service import Service, free_port, until

IDENTIFIED = Stream.IDENTIFIED
AT_FIRST, SHIPPED, LATER = 40, 160, 160
"""Requests of each row: before a copy of its journal is made, before the shippers are killed, and after that."""

SETTINGS = {"MAILTRAIL_JOURNAL_SEGMENT_BYTES": "8192"}
OLD_SECONDS = 3600.0
SHIP_SECONDS = 20.0

Identity = tuple[Any, ...]


@dataclass(slots=True)
class Scene:
    """One row's journal; `older` is a copy of it from before most hits, `watermark` the identified stream's."""

    part: Part
    journal: Path
    older: Path
    watermark: tuple[int, int] = (0, 0)
    asked: list[Ask] = field(default_factory=list)
    destroyed: set[Identity] = field(default_factory=set)

    def segments(self) -> list[Path]:
        return [segment.path for segment in segments(self.journal, IDENTIFIED)]

    def unshipped(self) -> list[Path]:
        """The identified stream's segments that lie wholly behind the watermark."""
        return [s.path for s in segments(self.journal, IDENTIFIED) if s.number > self.watermark[0]]


Damage = Callable[[Scene], None]


# --- What is done to a journal whose writer is dead -------------------------------------------------------------------


def tear_the_last_line(scene: Scene) -> None:
    last = scene.segments()[-1]
    os.truncate(last, last.stat().st_size - 17)


def flip_a_bit(scene: Scene) -> None:
    _flip(scene.unshipped()[0], 100, 1)


def flip_many_bits(scene: Scene) -> None:
    choose = random.Random(4)
    for path in scene.unshipped():
        for _ in range(6):
            _flip(path, choose.randrange(path.stat().st_size - 1), 1 << choose.randrange(8))


def _flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def empty_a_segment(scene: Scene) -> None:
    os.truncate(scene.unshipped()[0], 0)


def remove_the_first(scene: Scene) -> None:
    scene.segments()[0].unlink()


def remove_one_in_the_middle(scene: Scene) -> None:
    scene.unshipped()[1].unlink()


def remove_the_last(scene: Scene) -> None:
    scene.segments()[-1].unlink()


def cut_behind_the_watermark(scene: Scene) -> None:
    number, offset = scene.watermark
    os.truncate(segment_path(scene.journal, IDENTIFIED, number), offset // 2)


def restore_an_older_copy(scene: Scene) -> None:
    shutil.rmtree(scene.journal)
    shutil.copytree(scene.older, scene.journal)


def copy_it_beside_itself(scene: Scene) -> None:
    for name in (f"{scene.journal.name}.bak", f"{scene.journal.name} (copy)", f"copy-{scene.journal.name}"):
        shutil.copytree(scene.journal, scene.journal.with_name(name))


def put_foreign_files_between(scene: Scene) -> None:
    some = scene.unshipped()[0].read_bytes()
    for name in ("identified-x.seg", "identified-00000001.seg~", "other-00000001.seg", "notes.txt", "identified-.seg"):
        (scene.journal / name).write_bytes(some)
    (scene.journal / "lost+found").mkdir()


def make_a_segment_a_directory(scene: Scene) -> None:
    segment = scene.unshipped()[0]
    segment.unlink()
    segment.mkdir()


def make_a_segment_a_link(scene: Scene) -> None:
    segment = scene.unshipped()[0]
    moved = scene.older.with_name(f"{scene.older.name}-moved")
    shutil.move(segment, moved)
    segment.symlink_to(moved)


def make_a_segment_a_dead_link(scene: Scene) -> None:
    segment = scene.unshipped()[0]
    segment.unlink()
    segment.symlink_to(scene.older / "nowhere")


def remove_both_locks(scene: Scene) -> None:
    for name in (WRITER_LOCK, SHIPPER_LOCK):
        (scene.journal / name).unlink(missing_ok=True)
    # A journal whose lock was removed a moment ago is left to a writer that may live.
    os.utime(scene.journal, (time.time() - OLD_SECONDS,) * 2)


def put_a_file_in_its_place(scene: Scene) -> None:
    shutil.rmtree(scene.journal)
    scene.journal.write_text("no directory")


# --- What is done under a living writer and living shippers -----------------------------------------------------------


def cut_the_open_segments(scene: Scene) -> None:
    there = len(scene.segments())
    for stream in Stream:
        os.truncate(segments(scene.journal, stream)[-1].path, 0)
    _ask_until_it_is_noticed(scene, there + 1)


def remove_the_writers_lock(scene: Scene) -> None:
    (scene.journal / WRITER_LOCK).unlink()
    until(lambda: (scene.journal / WRITER_LOCK).exists() and _is_locked(scene.journal), "the lock is taken anew")


def remove_the_shippers_lock(scene: Scene) -> None:
    (scene.journal / SHIPPER_LOCK).unlink()
    until((scene.journal / SHIPPER_LOCK).exists, "the other shipper takes the journal, too")


def remove_the_open_segments(scene: Scene) -> None:
    there = len(scene.segments())
    for stream in Stream:
        segments(scene.journal, stream)[-1].path.unlink()
    _ask_until_it_is_noticed(scene, there)


def _ask_until_it_is_noticed(scene: Scene, segments_then: int) -> None:
    """The writer looks once a second; what it writes until then is lost with the segment."""

    def is_noticed() -> bool:
        asked = _ask(scene.part.service.port, islice(_requests, 6))
        scene.asked += asked
        scene.destroyed |= {identity(ask.row) for ask in asked}
        time.sleep(0.1)
        return len(scene.segments()) >= segments_then

    until(is_noticed, "a new segment")


def _is_locked(journal: Path) -> bool:
    descriptor = lock(journal, WRITER_LOCK)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


DEAD: tuple[Damage, ...] = (
    tear_the_last_line,
    flip_a_bit,
    flip_many_bits,
    empty_a_segment,
    remove_the_first,
    remove_one_in_the_middle,
    remove_the_last,
    cut_behind_the_watermark,
    restore_an_older_copy,
    copy_it_beside_itself,
    put_foreign_files_between,
    make_a_segment_a_directory,
    make_a_segment_a_link,
    make_a_segment_a_dead_link,
    remove_both_locks,
    put_a_file_in_its_place,
)
LIVING: tuple[Damage, ...] = (
    cut_the_open_segments,
    remove_the_writers_lock,
    remove_the_shippers_lock,
    remove_the_open_segments,
)
COSTS_NOTHING = {
    remove_the_first,
    copy_it_beside_itself,
    put_foreign_files_between,
    make_a_segment_a_link,
    remove_both_locks,
    remove_the_writers_lock,
    remove_the_shippers_lock,
}

_requests: Iterator[Ask]


@dataclass(slots=True)
class Found:
    """What there was in the end."""

    scenes: dict[Damage, Scene]
    recorded: Counter[Identity]
    counters: dict[str, float]
    quarantined: int
    log: str


@pytest.fixture(scope="module")
def found(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """Does everything to everyone, and drains."""
    global _requests
    base = tmp_path_factory.mktemp("d")
    rig = Rig(base / "r", postgres, collectors=len(DEAD) + len(LIVING), shippers=2, settings=SETTINGS)
    try:
        for part in rig.workers:  # not all at once: starting takes a second of a core
            part.start()
            part.service.wait_ready()
        rig.start()
        _requests = asks(rig.keys, rig.space, rig.day_keys(), 1)
        scenes = {
            damage: Scene(part, _journal_of(part), base / damage.__name__)
            for damage, part in zip((*DEAD, *LIVING), rig.workers, strict=True)
        }
        _damage_the_dead(rig, scenes)
        _damage_the_living(rig, scenes)
        yield _look(rig, scenes)
    finally:
        rig.close()


def _damage_the_dead(rig: Rig, scenes: dict[Damage, Scene]) -> None:
    for scene in scenes.values():
        scene.asked += _ask(scene.part.service.port, islice(_requests, AT_FIRST))
        shutil.copytree(scene.journal, scene.older)
        scene.asked += _ask(scene.part.service.port, islice(_requests, SHIPPED))
    _wait_until_all_are_shipped(rig, scenes)
    for part in rig.ships:
        part.kill()
    recorded = _recorded(rig)
    for damage in DEAD:
        scene = scenes[damage]
        scene.asked += _ask(scene.part.service.port, islice(_requests, LATER))
        scene.part.kill()
        (row,) = patiently(
            rig.service.database_url,
            "select segment, byte_offset from mailtrail.journals where stream = 'identified' and id = $1",
            scene.journal.name,
        )
        scene.watermark = (row["segment"], row["byte_offset"])
        before = _readable(scene.journal)
        damage(scene)
        scene.destroyed = before - _readable(scene.journal) - recorded.keys()
    for part in rig.ships:
        part.start()
    _wait_until_all_are_shipped(rig, scenes)


def _damage_the_living(rig: Rig, scenes: dict[Damage, Scene]) -> None:
    for damage in LIVING:
        scene = scenes[damage]
        damage(scene)
        for _ in range(4):  # with pauses, in which shippers look
            scene.asked += _ask(scene.part.service.port, islice(_requests, LATER // 4))
            time.sleep(0.2)
    _wait_until_all_are_shipped(rig, scenes)


def _look(rig: Rig, scenes: dict[Damage, Scene]) -> Found:
    service = rig.workers[-1].service
    names = ("segments_short_total", "segments_missing_total", "torn_tails_total", "lines_quarantined_total")
    ((quarantined,),) = patiently(rig.service.database_url, "select count(*) from mailtrail.quarantine")
    return Found(
        scenes,
        _recorded(rig),
        {name: value(service, name) for name in names},
        quarantined,
        rig.service.log.read_text(),
    )


def _wait_until_all_are_shipped(rig: Rig, scenes: dict[Damage, Scene]) -> None:
    """All but what was destroyed; a row of which some are missing for too long is left to its own test."""
    with contextlib.suppress(AssertionError):
        until(lambda: not _are_missing(rig, scenes), "all that is left is shipped", SHIP_SECONDS)


def _are_missing(rig: Rig, scenes: dict[Damage, Scene]) -> bool:
    recorded = _recorded(rig)
    identities = {identity(ask.row) for scene in scenes.values() for ask in scene.asked}
    return not identities - recorded.keys() <= set().union(*(scene.destroyed for scene in scenes.values()))


def _recorded(rig: Rig) -> Counter[Identity]:
    rows = patiently(rig.service.database_url, f"select {', '.join(COLUMNS)} from mailtrail.hits")
    return Counter(identity(tuple(row)) for row in rows)


def _readable(journal: Path) -> set[Identity]:
    """The hits of a journal's whole lines, read as plainly as can be."""
    found = set()
    for stream in Stream:
        for path in journal.glob(f"{stream.value}-????????.seg") if journal.is_dir() else ():
            for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else ():
                try:
                    hit = decode_line(line)
                except DamagedLine:
                    continue
                found.add((hit.mailing, hit.nonce or hit.pseudonym or hit.link))
    return found


def _journal_of(part: Part) -> Path:
    """The directory whose lock a collector holds."""
    assert part.process is not None
    opened = [os.readlink(path) for path in Path(f"/proc/{part.process.pid}/fd").iterdir()]
    (held,) = [Path(path) for path in opened if path.endswith(f"/{WRITER_LOCK}")]
    return held.parent


def _ask(port: int, requests: Iterator[Ask]) -> list[Ask]:
    """Asks one after the other; every one is answered right."""
    asked = []
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        for ask in requests:
            connection.sendall(ask.request)
            status = answers.readline().split()[1]
            headers = dict(iter(lambda: answers.readline().rstrip().partition(b": ")[::2], (b"", b"")))
            answers.read(int(headers.get(b"content-length", 0)))
            assert status == (b"200" if ask.location is None else b"302")
            asked.append(ask)
    return asked


@pytest.mark.parametrize("damage", [*DEAD, *LIVING], ids=lambda damage: damage.__name__)
def test_only_what_was_destroyed_is_missing_and_nothing_is_there_twice(found: Found, damage: Damage) -> None:
    scene = found.scenes[damage]
    asked = {identity(ask.row) for ask in scene.asked}
    assert asked - found.recorded.keys() <= scene.destroyed
    assert Counter(dict.fromkeys(asked & found.recorded.keys(), 1)) == Counter(
        {key: found.recorded[key] for key in asked if key in found.recorded}
    )
    if damage in COSTS_NOTHING:
        assert scene.destroyed == set()
    else:  # else it was no damage
        assert scene.destroyed


def test_no_hit_is_made_up(found: Found) -> None:
    asked = {identity(ask.row) for scene in found.scenes.values() for ask in scene.asked}
    assert found.recorded.keys() <= asked


def test_every_damage_is_counted(found: Found) -> None:
    counters = found.counters
    assert counters["lines_quarantined_total"] == found.quarantined >= 2
    assert counters["torn_tails_total"] == 1
    # behind the watermark, an older copy, under its writer
    assert counters["segments_short_total"] >= 2
    # one in the middle, a directory, a dead link, an older copy, the open ones
    assert counters["segments_missing_total"] >= 5


def test_no_damage_is_a_fault_of_ours(found: Found) -> None:
    assert "Traceback" not in found.log
    assert "fault=" not in found.log


# --- The settings' copy, the schema, the clock ------------------------------------------------------------------------

SHIFTED_CLOCK = """
import os, time

def shifted(now=time.time, path=os.environ["CLOCK_SHIFT"]):
    with open(path) as file:
        return now() + float(file.read())

time.time = shifted
"""
"""A sitecustomize.py: Python's clock says what a file adds to it."""

END_CONNECTIONS = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()"""

DAY = 86_400.0


@pytest.fixture
def rig(postgres: Postgres, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "r", postgres, collectors=1, settings=SETTINGS)
    yield made
    made.close()


def test_a_damaged_copy_of_the_settings_is_replaced(rig: Rig) -> None:
    rig.start()
    requests = asks(rig.keys, rig.space, rig.day_keys(), 1)
    file, (part,) = rig.directory / "data" / "snapshot", rig.workers
    good = file.read_bytes()
    for number, damaged in enumerate((b"", good[: len(good) // 2], good.replace(b'"format":1', b'"format":2')), 1):
        part.end()
        file.write_bytes(damaged)
        part.start()
        part.service.wait_ready()
        assert len(_ask(part.service.port, islice(requests, 10))) == 10
        assert restore(file) is not None
        assert rig.service.log.read_text().count("the database replaces it") == number
    rig.service.wait_for_hits(30)


def test_without_database_and_with_a_damaged_copy_a_collector_waits_for_settings(rig: Rig) -> None:
    """Clicks get 503, as an installation that has never had settings gives them, until the database is there."""
    file = rig.directory / "data" / "snapshot"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b'{"format":1,')
    alone = replace(rig.service, database_url="postgresql://postgres@127.0.0.1:1/none", port=free_port(), processes=[])
    process = alone.start("collect")
    try:
        until(lambda: _status(alone, "/readyz") == 503, "it answers", log=alone.log)
        (ask,) = islice(asks(rig.keys, rig.space, dict.fromkeys([datetime.now(UTC).date()], bytes(32)), 1), 1)
        assert _status(alone, ask.request.split()[1].decode()) in (503, 200 if ask.location is None else 503)
        assert "no_settings" in readiness(alone)[1]
        assert "Traceback" not in alone.log.read_text()
    finally:
        process.kill()
        process.wait()


def _status(service: Service, target: str) -> int | None:
    with contextlib.suppress(OSError):
        return service.get(target).status
    return None


def test_a_schema_newer_than_the_program_stops_no_redirect_and_starts_nothing(rig: Rig) -> None:
    rig.start()
    requests = asks(rig.keys, rig.space, rig.day_keys(), 1)
    url, (part,) = rig.service.database_url, rig.workers
    told = "the database has migration 9999_later, which this program does not know"
    patiently(url, "insert into mailtrail.migrations (number, name, checksum) values (9999, '9999_later', '')")
    for command in ("collect", "ship", "up", "migrate"):
        done = rig.service.run(command, check=False)
        assert done.returncode == 1, command
        assert told in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()
    patiently(url, END_CONNECTIONS)
    asked = _ask(part.service.port, islice(requests, 50))
    until(lambda: rig.service.log.read_text().count(told) >= 2, "both running processes tell", log=rig.service.log)
    asked += _ask(part.service.port, islice(requests, 50))
    assert all(each.runs for each in rig.parts)
    patiently(url, "delete from mailtrail.migrations where number = 9999")
    rig.service.wait_for_hits(len(asked))


def test_whatever_the_clock_says_each_hit_is_there_once_at_a_time_that_can_be(
    postgres: Postgres, tmp_path: Path
) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    clock = {"PYTHONPATH": str(tmp_path), "CLOCK_SHIFT": str(shift)}
    rig = Rig(tmp_path / "r", postgres, collectors=1, settings=SETTINGS | clock)
    try:
        rig.start()
        requests = asks(rig.keys, rig.space, rig.day_keys(), 1)
        now = datetime.now(UTC)
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        before_month, year_2100 = (
            (month - now).total_seconds() - 1,
            (datetime(2100, 2, 28, tzinfo=UTC) - now).total_seconds(),
        )
        asked: dict[Identity, float] = {}
        for seconds in (
            0,
            5 * 3600,
            -5 * 3600,
            before_month,
            before_month + 2,
            year_2100,
            -now.timestamp(),
            1e18,
            -1e18,
            0,
        ):
            draft = shift.with_suffix(".new")
            draft.write_text(str(seconds))
            draft.replace(shift)
            for ask in _ask(rig.ports[0], islice(requests, 40)):
                asked[identity(ask.row)] = seconds
            if abs(seconds) == 1e18:
                time.sleep(1.5)  # so that the server looks at it, too, for its date
        until(lambda: not asked.keys() - _recorded(rig).keys(), "all are shipped", log=rig.service.log)
        assert set(_recorded(rig).values()) == {1}
        rows = patiently(rig.service.database_url, f"select at, {', '.join(COLUMNS)} from mailtrail.hits")
        for row in rows:
            seconds = asked[identity(tuple(row)[1:])]
            assert row["clock_clamped"] == (abs(seconds) > 40 * DAY), seconds
            says = now if row["clock_clamped"] else now + timedelta(seconds=seconds)
            assert says - timedelta(hours=1) <= row["at"] <= says + timedelta(minutes=5), seconds
        clamped = sum(row["clock_clamped"] for row in rows)
        assert clamped == 160
        until(lambda: value(rig.workers[0].service, "clock_clamped_total") == clamped, "all of them are counted")
        assert "Traceback" not in rig.service.log.read_text()
    finally:
        rig.close()
