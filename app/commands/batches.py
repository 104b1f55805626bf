"""`rewrite --batch`: a template and a line of JSON for each recipient on stdin, a line for each mail on stdout.

Invariant: memory does not grow with the number of lines; whoever reads the output slowly slows down the reading.
"""

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import Settings
from ..errors import NotFound, SettingsError
from ..sending.batch import Batch, EventsHead, Feed, MessagesHead, answers, compile_template, read_head
from ..sending.bulk import open_sending_of
from ..store import events as events_store
from ..store import migrate, pool
from ..store import settings as store
from ..store.pool import Database, Row
from ..tracking.event_types import EventType, parse_event_type
from ..tracking.settings import ceiling, check_name
from .context import run, who

_CHUNK_BYTES = 2**16


def rewrite_lines(settings: Settings, *, of_event: bool) -> Batch:
    """Answers every line of stdin; gives the counts. Raises for a first line that cannot be."""
    return run(_rewrite(settings, of_event=of_event))


async def _rewrite(settings: Settings, *, of_event: bool) -> Batch:
    url = pool.url_of(settings, may_create=False)
    async with pool.connected(url) as connection:
        await migrate.check(connection)
    database = Database(url, most=2)
    try:
        with _progress(sys.stdin.buffer) as advance:
            return await _answer(database, settings, Feed(_chunks(sys.stdin.buffer, advance)), of_event=of_event)
    finally:
        await database.close()


async def _answer(database: Database, settings: Settings, feed: Feed, *, of_event: bool) -> Batch:
    try:
        line = await feed.first()
        head = read_head(line, EventsHead) if of_event else read_head(line, MessagesHead)
        template, limit = compile_template(head, settings), ceiling(head.ceiling)
        space, event, event_type = await _find(database, head)
        mailing = check_name(event["name"] if head.mailing is None else head.mailing, "mailing")
    except SettingsError as error:
        raise SettingsError(f"the first line cannot be: {error}", field=error.field) from None
    opened = open_sending_of(database, settings, who(), space["id"], event["id"], mailing, template, ceiling=limit)
    async with opened as sending:
        batch = Batch(sending, event_type)
        async for lines in answers(batch, feed):
            sys.stdout.buffer.write(lines)
            sys.stdout.buffer.flush()  # whoever waits for an answer before the next line gets it
    return batch


async def _find(database: Database, head: MessagesHead | EventsHead) -> tuple[Row, Row, EventType | None]:
    """The space and the event of a first line, and the event's type where the lines are its data."""
    if head.space is None:
        raise SettingsError("the space is missing; name it", field="space")
    async with database.connection() as connection:
        space = await store.find_space(connection, head.space)
        if isinstance(head, MessagesHead):
            return space, await events_store.find_event(connection, space["id"], head.event), None
        event = await events_store.event_of_type(connection, space["id"], head.event)
    if event["definition"] is None:
        raise NotFound("the event has no definition; put one")
    return space, event, parse_event_type(event["definition"])


# --- stdin -----------------------------------------------------------------------------------------------------------


async def _chunks(stdin: BinaryIO, advance: "_Advance") -> AsyncIterator[bytes]:
    """What comes, as it comes: a pipe that is silent must not keep Ctrl-C from ending the command."""
    if not _is_pipe(stdin):
        while chunk := stdin.read(_CHUNK_BYTES):
            advance(len(chunk))
            yield chunk
        return
    reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), stdin)
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            advance(len(chunk))
            yield chunk
    finally:
        transport.close()


def _is_pipe(stdin: BinaryIO) -> bool:
    mode = _mode(stdin)
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _mode(stdin: BinaryIO) -> int:
    try:
        return os.fstat(stdin.fileno()).st_mode
    except OSError:  # no file at all
        return 0


# --- progress --------------------------------------------------------------------------------------------------------


class _Advance:
    """Counts what is read, and shows it where somebody sees it."""

    def __init__(self, progress: Progress | None, total: int | None) -> None:
        self._progress = progress
        if progress is not None:
            self._task = progress.add_task("read", total=total)

    def __call__(self, size: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, size)


@contextlib.contextmanager
def _progress(stdin: BinaryIO) -> Iterator[_Advance]:
    """A bar on stderr while it lasts, if that is a terminal; of a file it is known how much there is."""
    if not sys.stderr.isatty():
        yield _Advance(None, None)
        return
    total = os.fstat(stdin.fileno()).st_size if stat.S_ISREG(_mode(stdin)) else None
    columns = (TextColumn("rewriting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False) as progress:
        yield _Advance(progress, total)


def summary(batch: Batch) -> str:
    """One line for people: how many mails were made and how many lines refused."""
    refused = f"; {batch.refused} line{'' if batch.refused == 1 else 's'} refused" if batch.refused else ""
    return f"{batch.done} mail{'' if batch.done == 1 else 's'} made{refused}"
