"""The collector: answers requests, journals their hits before the answer leaves, and counts both.

Invariants: `handle` never raises and waits for nothing but the journal's file; a hit that is not in the journal is
counted with its reason; nothing of a request is ever logged.
"""

import os
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Protocol

import structlog
from prometheus_client import Counter

from ..config import Settings
from ..journal.writer import Loss
from ..logs import place_of
from ..metrics import Metrics
from ..tracking.hits import Hit, Outcome, PseudonymGap
from ..tracking.modes import Mode
from ..tracking.snapshot import Snapshot
from ..tracking.tokens import Kind
from .answer import NO_SETTINGS, UNAVAILABLE, Answer, Header, Rules, answer, bad_token, kind_of

_log = structlog.get_logger()

_LABELS = {Kind.CLICK: "click", Kind.OPEN: "open"}
_REFUSED = "refused"
_REASONS = ("malformed", "unknown_key", "forged", "revoked", "wrong_kind", NO_SETTINGS)
_ID_BATCH = struct.Struct("256Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


class Journal(Protocol):
    """Where hits go."""

    def append(self, hit: Hit, /) -> Loss | None:
        """Writes the hit; None when it is in the file, else why it is not."""


class SnapshotHolder(Protocol):
    """Who follows the settings."""

    @property
    def current(self) -> Snapshot | None:
        """The settings in effect; None before the first were loaded."""

    @property
    def confirmed(self) -> bool:
        """Whether they are young enough to record what they allow."""


class Collector:
    """One process's collector; not for use by several threads."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        journal: Journal,
        snapshots: SnapshotHolder,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives Unix seconds; whatever it says, hits get a time that can be stored."""
        # Bound once: every lookup here would be made for every request.
        self._rules = Rules.of(settings)
        self._refuse_on_loss = settings.journal_full == "refuse_503"
        self._append = journal.append
        self._snapshots = snapshots
        self._clock = clock
        self._next_hit_id = HitIds().next
        self._metrics = metrics
        self._answers = {
            (kind, outcome): metrics.answers.labels(label, outcome.value if outcome else _REFUSED)
            for kind, label in _LABELS.items()
            for outcome in (*Outcome, None)
        }
        self._hits: dict[tuple[Kind, Mode], Counter] = {
            (kind, mode): metrics.hits.labels(label, mode.label)
            for kind, label in _LABELS.items()
            for mode in Mode
            if mode is not Mode.OFF
        }
        _show_zeros(metrics)

    def handle(self, method: str, path: bytes, headers: Sequence[Header], peer: str | None) -> Answer:
        """The answer to send; its hit, if it has one, is in the journal. Arguments as for `answer`."""
        made = self.take(method, path, headers, peer)
        self.count(made)
        return made

    def take(self, method: str, path: bytes, headers: Sequence[Header], peer: str | None) -> Answer:
        """`handle` without the counting: for those who first wait for the disk. They call `count` in the end."""
        snapshots = self._snapshots
        try:
            made = answer(
                method,
                path,
                headers,
                peer,
                rules=self._rules,
                snapshot=snapshots.current,
                confirmed=snapshots.confirmed,
                at=_instant(self._clock()),
                hit_id=self._next_hit_id(),
            )
        except Exception as error:
            self.tell_fault(error)
            return bad_token(kind_of(path), None)
        return made if made.hit is None else self._journal(made, made.hit)

    def lose(self, made: Answer, loss: Loss) -> Answer:
        """The answer when its hit could not be kept: the same without a hit, or 503 if no hit may be lost."""
        self._metrics.hits_lost.labels(loss.value).inc()
        return UNAVAILABLE[made.kind] if self._refuse_on_loss else made._replace(hit=None)

    def count(self, made: Answer) -> None:
        """Counts the answer as it leaves, and its hit."""
        self._answers[made.kind, made.outcome].inc()
        hit = made.hit
        if hit is not None:
            self._hits[made.kind, hit.mode].inc()
            if hit.pseudonym_gap is not None:
                self._metrics.pseudonym_gaps.labels(hit.pseudonym_gap.value).inc()
            if made.capped:
                self._metrics.hits_capped.inc()
        elif made.reason is not None:
            self._metrics.tokens_refused.labels(_LABELS[made.kind], made.reason).inc()

    def tell_fault(self, error: Exception) -> None:
        """Counts and logs a fault of ours: its type and place, for its text may quote the request."""
        self._metrics.answer_faults.inc()
        _log.error("a fault in the collector; the request was answered all the same", fault=place_of(error))

    def _journal(self, made: Answer, hit: Hit) -> Answer:
        try:
            loss = self._append(hit)
        except Exception as error:
            self.tell_fault(error)
            loss = Loss.WRITE_ERROR
        return made if loss is None else self.lose(made, loss)


class HitIds:
    """Random ids of 63 bits, never 0, from the system's generator: they tell nothing about each other."""

    def __init__(self) -> None:
        self._ids: list[int] = []  # filled at the first use: a fork before that shares nothing

    def next(self) -> int:
        if not self._ids:
            self._ids.extend(_ID_BATCH.unpack(os.urandom(_ID_BATCH.size)))
        return self._ids.pop() >> 1 or 1


def _instant(seconds: float) -> datetime:
    """The instant in UTC; a clock that is out of all bounds gives their nearer end."""
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return _LATEST if seconds > 0 else _EPOCH
    return at if at > _EPOCH else _EPOCH


def _show_zeros(metrics: Metrics) -> None:
    """Makes the counters of what should not happen visible before it does, so that the first one is an increase."""
    for label, reason in product(_LABELS.values(), _REASONS):
        metrics.tokens_refused.labels(label, reason)
    for loss in Loss:
        metrics.hits_lost.labels(loss.value)
    for gap in PseudonymGap:
        metrics.pseudonym_gaps.labels(gap.value)
