"""Every metric, declared once. Labels are short fixed words: never an id, an address, a URL or a token.

The counters of all processes that share a data directory lie in one directory of memory-mapped files and are added up
by whoever is asked (prometheus-client's multi-process mode), so that any worker's /metrics gives the whole picture.
"""

import fcntl
import os
from pathlib import Path
from typing import Literal, get_args

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from .errors import DiskUnavailable

_GaugeMode = Literal["livemax", "livemostrecent"]

_FILE_BYTES = 2**16
"""What prometheus-client makes its files from the start; ours never outgrow it."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One process's metrics. Without a directory they are its own (tests, single commands)."""

    def __init__(self, directory: Path | None = None) -> None:
        self._registry = CollectorRegistry()
        self._directory = directory
        if directory is not None:
            self._lock = _join(directory)

        def counter(name: str, description: str, *labels: str) -> Counter:
            return Counter(f"mailtrail_{name}", description, labels, registry=self._registry)

        def gauge(name: str, description: str, mode: _GaugeMode) -> Gauge:
            return Gauge(f"mailtrail_{name}", description, registry=self._registry, multiprocess_mode=mode)

        self.answers = counter(
            "answers", "Answers to tracking requests; outcome: served, corrected, gone or refused.", "kind", "outcome"
        )
        self.hits = counter("hits", "Hits written to the journal, by the mode they were recorded in.", "kind", "mode")
        self.tokens_refused = counter(
            "tokens_refused",
            "Tokens that did not open; reason: malformed, unknown_key, forged, revoked, wrong_kind or, before the"
            " first settings were loaded, no_settings.",
            "kind",
            "reason",
        )
        self.hits_lost = counter(
            "hits_lost", "Answered hits that could not be journaled; reason: journal_full or write_error.", "reason"
        )
        self.pseudonym_gaps = counter(
            "pseudonym_gaps",
            "Anonymized hits without a pseudonym; key_destroyed is meant to be, key_missing is an alarm.",
            "reason",
        )
        self.hits_capped = counter(
            "hits_capped", "Hits recorded at most anonymized because the settings were unconfirmed for too long."
        )
        self.answer_faults = counter(
            "answer_faults", "Faults inside the collector that were answered as a bad token; each is in the log."
        )
        self.connections_shed = counter(
            "connections_shed", "Connections ended to make room for new ones, idle ones, first those that never asked."
        )
        self.snapshot_age = gauge(
            "snapshot_unconfirmed_seconds", "Time since the settings were last confirmed, worst process.", "livemax"
        )
        self.snapshot_version = gauge(
            "snapshot_version", "Version of the settings that a process loaded last.", "livemostrecent"
        )
        self.journal_bytes = gauge("journal_bytes", "Size of all journals.", "livemostrecent")
        self.oldest_unshipped = gauge(
            "oldest_unshipped_seconds", "Age of the oldest journaled hit that is not in the database.", "livemostrecent"
        )
        self.hits_shipped = counter("hits_shipped", "Hits committed to the database.", "stream")
        self.lines_quarantined = counter(
            "lines_quarantined", "Journal lines put into quarantine; reason: damaged or refused.", "reason"
        )
        self.segments_short = counter(
            "segments_short", "Segments found shorter than what was shipped from them, closed."
        )
        self.segments_missing = counter(
            "segments_missing", "Segments that were gone from the disk before all of them was known to be shipped."
        )
        self.torn_tails = counter(
            "torn_tails", "Half lines at the end of segments whose writer is gone, cut: their hits were not answered."
        )
        self.ship_failures = counter(
            "ship_failures",
            "Shipments that failed and are tried again; reason: unavailable (the database), conflict (another shipper"
            " was faster), unreadable (a journal) or other.",
            "reason",
        )
        self.clock_clamped = counter("clock_clamped", "Hits whose time lay outside the database's clock and retention.")
        self.relay_mails = counter(
            "relay_mails",
            "Mails that the next mail server took from the relay, one for each recipient; ceiling: person_based,"
            " anonymized, aggregate or off.",
            "ceiling",
        )
        self.relay_refusals = counter(
            "relay_refusals",
            "Envelopes and mails that the relay did not take; reason: upstream_refused, upstream_down, upstream_slow,"
            " upstream_lost, database, mail (signed or encrypted), size, line_end, partial (some recipients have it) or"
            " fault.",
            "reason",
        )
        self.relay_left_out = counter(
            "relay_left_out",
            "What mails said of themselves and the relay could not use; kind: correlation_id or group.",
            "kind",
        )
        self.relay_sessions_refused = counter(
            "relay_sessions_refused", "Clients that the relay sent away because there were too many."
        )
        self.relay_upstream_up = gauge(
            "relay_upstream_up",
            "1 while the relay reaches the next mail server, 0 while it does not.",
            "livemostrecent",
        )
        self.housekeeping_failures = counter(
            "housekeeping_failures", "Day keys, months or retention that could not be seen to, tried again soon."
        )

    def render(self) -> bytes:
        """The metrics of all processes in Prometheus' text format; of this one alone while the disk fails."""
        if self._directory is None:
            return generate_latest(self._registry)
        try:
            return _render_all(self._directory)
        except (OSError, ValueError, RuntimeError):  # now of all times somebody wants to know how many hits are lost
            return generate_latest(self._registry)


def _render_all(directory: Path) -> bytes:
    _forget_dead_processes(directory)
    collected = CollectorRegistry()
    MultiProcessCollector(collected, path=str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(collected)


def _forget_dead_processes(directory: Path) -> None:
    """Removes the gauges of killed processes, which say nothing any more; their counters stay."""
    for path in directory.glob("gauge_live*_*.db"):
        process = path.stem.rpartition("_")[2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            path.unlink(missing_ok=True)


def _join(directory: Path) -> int:
    """Opens the shared directory; whoever comes first empties it, so that counters of an earlier start are gone."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskUnavailable.at(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for stale in directory.glob("*.db"):
            stale.unlink()
    except BlockingIOError:
        pass  # another process of this data directory lives, the files are current
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        _reserve(directory)
    except OSError as error:
        os.close(descriptor)
        raise DiskUnavailable.at(directory, error) from error
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    return descriptor


def _reserve(directory: Path) -> None:
    """Makes this process's files with their room: they are written through memory, where a full disk kills (SIGBUS)."""
    for kind in ("counter", *(f"gauge_{mode}" for mode in get_args(_GaugeMode))):
        descriptor = os.open(directory / f"{kind}_{os.getpid()}.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _FILE_BYTES)
        finally:
            os.close(descriptor)
