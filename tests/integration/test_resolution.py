"""The resolution of tracking modes cell by cell, the whole way: a token over real HTTP, read back by SQL.

The oracle is the specification's table in words of its own; it calls nothing of the program's.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any

import asyncpg
import pytest

from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Key, KeyRing, Message
from tests.integration.service import Service

ORDER = ["off", "aggregate", "anonymized", "person_based"]
DEFAULTS = ["anonymized", "person_based"]
RELAYS = ["off", "anonymized", "person_based"]
PERMISSIONS = ["unknown", "granted", "denied"]
CEILINGS = ["aggregate", "anonymized", "person_based"]
SPACES = ["known", "deleted", "unknown"]
EVENTS = ["inherits", "by_permission", "unknown"]


@dataclass(frozen=True)
class Cell:
    origin: str
    space: str
    default: str
    relay: str
    event: str
    permission: str
    ceiling: str

    @property
    def recorded(self) -> str:
        """What the specification says of this cell."""
        return min(self._in_force, self.ceiling, key=ORDER.index)

    @property
    def _in_force(self) -> str:
        if self.space == "deleted":
            return "off"
        if self.origin == "relay":
            return "off" if self.space == "unknown" else self.relay
        if self.space == "unknown" or self.event == "unknown":
            return "anonymized"
        if self.event == "by_permission":
            return "person_based" if self.permission == "granted" else "anonymized"
        return self.default


CELLS = [Cell(*words) for words in product(["event", "relay"], SPACES, DEFAULTS, RELAYS, EVENTS, PERMISSIONS, CEILINGS)]


@pytest.fixture(scope="module")
def recorded(service: Service) -> Iterator[dict[tuple[Cell, str], list[asyncpg.Record]]]:
    """Every cell's hits, after a click and an open of each over HTTP; a cell is known by its mailing."""
    keys = asyncio.run(_set_up(service.database_url))
    service.serve()
    # One connection for all of them would do, but clients come with connections of their own.
    for number, cell in enumerate(CELLS, 1):
        message = Message(
            space=_space_id(cell),
            event={"inherits": 1, "by_permission": 2, "unknown": 3}[cell.event],
            mailing=number,
            origin=Origin[cell.origin.upper()],
            ceiling=Mode[cell.ceiling.upper()],
            permission=Permission[cell.permission.upper()],
            issue_day=datetime.now(UTC).date(),
            recipient="erika@example.com",
        )
        click = keys.mint_click(message, f"https://shop.example/{number}?customer=erika", 1)
        answered = service.get(f"/c/{click}", [("User-Agent", "Mozilla/5.0 (X11; Linux) Firefox/140.0")])
        assert (answered.status, answered.location) == (302, f"https://shop.example/{number}?customer=erika")
        assert service.get(f"/o/{keys.mint_open(message)}.gif").status == 200
    expected = sum(2 for cell in CELLS if cell.recorded != "off")
    service.wait_for_hits(expected)
    found: dict[tuple[Cell, str], list[asyncpg.Record]] = {}
    for row in service.query("select * from mailtrail.hits"):
        found.setdefault((CELLS[row["mailing_id"] - 1], row["kind"]), []).append(row)
    yield found
    service.stop()


def _space_id(cell: Cell) -> int:
    return 1 + SPACES.index(cell.space) * 100 + DEFAULTS.index(cell.default) * 10 + RELAYS.index(cell.relay)


async def _set_up(url: str) -> KeyRing:
    """Spaces of every setting with a key each; the unknown ones lose their row as in a database restored in part."""
    connection = await asyncpg.connect(url)
    keys: dict[int, Key] = {}
    for space, default, relay in product(SPACES, DEFAULTS, RELAYS):
        cell = Cell("", space, default, relay, "", "", "")
        number = _space_id(cell)
        await connection.execute(
            "insert into mailtrail.spaces (id, name, default_mode, relay_mode, deleted_at)"
            " values ($1, $2, $3, $4, case when $5 then now() end)",
            number,
            f"space {number}",
            default,
            relay,
            space == "deleted",
        )
        for event, by_permission in ((1, False), (2, True)):
            await connection.execute(
                "insert into mailtrail.events (space_id, id, name, by_permission) values ($1, $2, $3, $4)",
                number,
                event,
                f"event {event}",
                by_permission,
            )
        key = Key.generate(number)
        keys[key.key_id] = key
        await connection.execute(
            "insert into vault.token_keys (id, space_id, secret) values ($1, $2, $3)", key.key_id, number, key.secret
        )
    async with connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(
            "delete from mailtrail.spaces where id >= $1",
            _space_id(Cell(*["unknown"] * 2, DEFAULTS[0], RELAYS[0], "", "", "")),
        )
    await connection.close()
    return KeyRing(keys)


@pytest.mark.parametrize("kind", ["click", "open"])
def test_every_cell_is_recorded_as_the_table_says(recorded: dict[Any, list[asyncpg.Record]], kind: str) -> None:
    assert len(CELLS) == 2 * 3 * 2 * 3 * 3 * 3 * 3
    wrong = []
    for cell in CELLS:
        modes = [row["mode"] for row in recorded.get((cell, kind), [])]
        if modes != ([] if cell.recorded == "off" else [cell.recorded]):
            wrong.append((cell, modes))
    assert wrong == []


def test_every_row_holds_what_its_mode_allows_and_nothing_else(recorded: dict[Any, list[asyncpg.Record]]) -> None:
    personal = ("recipient", "nonce", "client_address", "user_agent", "url")
    modes = set()
    for (cell, kind), rows in recorded.items():
        for row in rows:
            modes.add(row["mode"])
            there = {name for name in personal if row[name] is not None}
            if row["mode"] == "person_based":
                assert {"recipient", "nonce"} <= there, cell
                assert ("url" in there, "user_agent" in there) == (kind == "click", kind == "click"), cell
                assert row["pseudonym"] is None, cell
            else:
                assert there == set(), cell
                assert (row["pseudonym"] is not None) == (row["mode"] == "anonymized"), cell
                assert row["at"].second == row["at"].microsecond == 0, cell
                assert row["at"].minute == 0 or row["mode"] == "anonymized", cell
    assert modes == {"person_based", "anonymized", "aggregate"}
