"""Snapshots: read from the database in one transaction, kept on disk for starts without it.

Invariants: the copy on disk is complete or absent and readable by its owner only; a key past its destruction day is
never taken from it.
"""

import os
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil

from ..errors import MailtrailError
from ..tracking.modes import Event, Mode, Space
from ..tracking.snapshot import Snapshot
from ..tracking.tokens import Key, KeyRing, KeyState
from .pool import Connection
from .queries import queries

Rows = Mapping[str, list[list[Any]]]
"""What the statements of `sql/queries/snapshot.sql` gave, by their names."""

VERSION = queries("snapshot")["version"]
_FORMAT = 1


class SnapshotDamaged(MailtrailError):
    """The copy on disk cannot be used; it is replaced as soon as the database answers."""


async def read_rows(connection: Connection) -> Rows:
    """Settings and keys as one transaction sees them."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return {name: [list(row) for row in await connection.fetch(sql)] for name, sql in queries("snapshot").items()}


def build(rows: Rows, anonymization_days: int, held: Mapping[date, bytes] | None = None) -> Snapshot:
    """The snapshot of these rows and the day keys `held` besides, without keys that may no longer exist today."""
    day_keys: dict[date, bytes] = {row[0]: row[1] for row in rows["day_keys"]}
    snapshot = Snapshot(
        version=rows["version"][0][0],
        spaces={
            space: Space(Mode.from_label(default_mode), Mode.from_label(relay_mode), deleted)
            for space, default_mode, relay_mode, deleted in rows["spaces"]
        },
        events={(space, event): Event(by_permission) for space, event, by_permission in rows["events"]},
        overrides={(space, mailing, number): url for space, mailing, number, url in rows["overrides"]},
        keys=KeyRing(
            {key: Key(key, space, secret, KeyState(state)) for key, space, secret, state in rows["token_keys"]}
        ),
        day_keys={**(held or {}), **day_keys},
        anonymization_days=anonymization_days,
    )
    return snapshot.forget_expired(datetime.now(UTC).date())


def save(file: Path, rows: Rows, kept_days: Mapping[date, bytes]) -> None:
    """Replaces the copy on disk with these rows and only the day keys in `kept_days`."""
    content = {
        "format": _FORMAT,
        **rows,
        "token_keys": [[key, space, secret.hex(), state] for key, space, secret, state in rows["token_keys"]],
        "day_keys": [[day, key.hex()] for day, key in kept_days.items()],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    # A name of this process's own: workers share the directory and replace the file at the same time.
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(orjson.dumps(content))
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def clear_drafts(file: Path) -> None:
    """Removes copies that a killed process had half written: there are keys in them, and nobody replaces them."""
    for draft in file.parent.glob(f"{file.name}.*"):
        writer = draft.name.rpartition(".")[2]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            draft.unlink(missing_ok=True)


def restore(file: Path) -> tuple[Rows, float] | None:
    """The copy's rows and the seconds since it was last confirmed; None without one. Raises SnapshotDamaged."""
    try:
        content = orjson.loads(file.read_bytes())
        age = max(0.0, time.time() - file.stat().st_mtime)
        if content.pop("format") != _FORMAT:
            raise ValueError("another version wrote it")
        content["token_keys"] = [[key, sp, bytes.fromhex(secret), st] for key, sp, secret, st in content["token_keys"]]
        content["day_keys"] = [[date.fromisoformat(day), bytes.fromhex(key)] for day, key in content["day_keys"]]
        build(content, 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SnapshotDamaged(
            f"the settings' copy {file} cannot be used ({type(error).__name__}); the database replaces it"
        ) from error
    return content, age
