"""What runs, and how long it still takes.

Invariant: it is drawn once a second and no oftener, for it shares the cores with what is measured.
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text


class _TimeLeft(ProgressColumn):
    """By what is planned, not by how fast it went so far: parts differ too much."""

    def render(self, task: Task) -> Text:
        left = timedelta(seconds=max(0, round(task.remaining or 0)))
        return Text(f"about {left} left")


class Display:
    """A context to look at a run: a bar over the planned seconds, and lines that stay."""

    def __init__(self, planned_seconds: float) -> None:
        self.console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=self.console,
            refresh_per_second=1,
        )
        self._task = self._progress.add_task("", total=planned_seconds)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, line: str, style: str = "") -> None:
        """A line that stays."""
        self._progress.print(line, style=style, markup=False, highlight=False)

    def shows(self, what: str) -> None:
        """What runs now."""
        self._progress.update(self._task, description=what)

    def passed(self, seconds: float) -> None:
        """Planned seconds that are over."""
        self._progress.advance(self._task, seconds)

    @contextlib.contextmanager
    def running(self, what: str, seconds: float) -> Iterator[None]:
        """What takes so many planned seconds."""
        self.shows(what)
        try:
            yield
        finally:
            self.passed(seconds)
