"""The collector: answers requests, journals their hits before the answer leaves, and counts both.

Invariants: `take_all` never raises and waits for nothing but the journal's file; a hit that is not in the journal is
counted with its reason; nothing of a request is ever logged.
"""

import os
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Protocol

import structlog
from msgspec.structs import replace

from ..config import Settings
from ..journal.writer import Loss
from ..logs import place_of
from ..metrics import Metrics
from ..tracking.hits import Hit, IpPolicy, Moment, Outcome, PseudonymGap
from ..tracking.modes import Mode
from ..tracking.snapshot import Snapshot
from ..tracking.tokens import Kind
from .answer import NO_SETTINGS, UNAVAILABLE, Answer, Form, Rules, answer, bad_token, kind_of
from .client import Client

_log = structlog.get_logger()

_KINDS = (Kind.CLICK, Kind.OPEN)
_REFUSED = "refused"
_REASONS = ("malformed", "unknown_key", "forged", "revoked", "wrong_kind", NO_SETTINGS)
_ID_BATCH = struct.Struct("256Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


class Journal(Protocol):
    """Where hits go."""

    def append_all(self, hits: Sequence[Hit], /) -> Sequence[Loss | None]:
        """Writes the hits; for each None when it is in the file, else why it is not."""


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
        self.keeps_addresses = settings.ip_policy is not IpPolicy.NONE
        self._refuse_on_loss = settings.journal_full == "refuse_503"
        self._append_all = journal.append_all
        self._snapshots = snapshots
        self._clock = clock
        self._next_hit_id = HitIds().next
        self._metrics = metrics
        self._answered: defaultdict[tuple[Form, Mode | None], int] = defaultdict(int)
        _show_zeros(metrics)

    def take_all(self, asked: Sequence[tuple[str, bytes, Client]]) -> list[Answer]:
        """The answers to the requests of one moment, their hits in the journal; `count` them when they leave.

        The hits have one time and go to the journal together. Arguments as for `answer`.
        """
        answers = self._decide(asked)
        places = [place for place, made in enumerate(answers) if made.hit is not None]
        if places:
            losses = self._journal([hit for made in answers if (hit := made.hit) is not None])
            if any(losses):
                for place, loss in zip(places, losses, strict=True):
                    if loss is not None:
                        answers[place] = self.lose(answers[place], loss)
        return answers

    def _decide(self, asked: Sequence[tuple[str, bytes, Client]]) -> list[Answer]:
        rules, snapshots, next_hit_id = self._rules, self._snapshots, self._next_hit_id
        snapshot, confirmed = snapshots.current, snapshots.confirmed
        answers: list[Answer] = []
        at = Moment.of(_instant(self._clock()))
        for method, path, client in asked:
            try:
                answers.append(answer(method, path, client, rules, snapshot, confirmed, at, next_hit_id()))
            except Exception as error:
                self.tell_fault(error)
                answers.append(bad_token(kind_of(path)))
        return answers

    def _journal(self, hits: Sequence[Hit]) -> Sequence[Loss | None]:
        try:
            return self._append_all(hits)
        except Exception as error:
            self.tell_fault(error)
            return [Loss.WRITE_ERROR] * len(hits)

    def lose(self, made: Answer, loss: Loss) -> Answer:
        """The answer when its hit could not be kept: the same without a hit, or 503 if no hit may be lost."""
        self._metrics.hits_lost.labels(loss.value).inc()
        return Answer(UNAVAILABLE[made.kind]) if self._refuse_on_loss else replace(made, hit=None)

    def count(self, made: Answer) -> None:
        """Counts the answer as it leaves, and its hit; the metrics show it when it is published."""
        hit = made.hit
        if hit is None:
            self._answered[made.form, None] += 1
            if made.reason is not None:
                self._metrics.tokens_refused.labels(made.kind.label, made.reason).inc()
            return
        self._answered[made.form, hit.mode] += 1
        if hit.pseudonym_gap is not None:
            self._metrics.pseudonym_gaps.labels(hit.pseudonym_gap.value).inc()
        if made.capped:
            self._metrics.hits_capped.inc()

    def publish(self) -> None:
        """Adds what was counted to the metrics: one by one this would cost a tenth of the work for a hit."""
        answered, self._answered = self._answered, defaultdict(int)
        for (form, mode), number in answered.items():
            kind, outcome = form.kind.label, form.outcome
            self._metrics.answers.labels(kind, outcome.value if outcome else _REFUSED).inc(number)
            if mode is not None:
                self._metrics.hits.labels(kind, mode.label).inc(number)

    def tell_fault(self, error: Exception) -> None:
        """Counts and logs a fault of ours: its type and place, for its text may quote the request."""
        self._metrics.answer_faults.inc()
        _log.error("a fault in the collector; the request was answered all the same", fault=place_of(error))


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
    """Makes counters visible before they count, so that the first one is an increase."""
    for kind, outcome in product(_KINDS, (*Outcome, None)):
        metrics.answers.labels(kind.label, outcome.value if outcome else _REFUSED)
    for kind, mode in product(_KINDS, Mode):
        if mode is not Mode.OFF:
            metrics.hits.labels(kind.label, mode.label)
    for kind, reason in product(_KINDS, _REASONS):
        metrics.tokens_refused.labels(kind.label, reason)
    for loss in Loss:
        metrics.hits_lost.labels(loss.value)
    for gap in PseudonymGap:
        metrics.pseudonym_gaps.labels(gap.value)
