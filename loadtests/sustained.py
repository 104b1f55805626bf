"""End to end on two cores with everything running, the generator included: HTTP in, rows in PostgreSQL out.

Invariant: a rate counts only if it was kept, no hit waited for its row for `LAG_SECONDS`, a journal's segment was full
and a checkpoint was made meanwhile, and in the end there are as many rows as redirects.
"""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.journal.segments import Stream, segments

from . import generators, machine
from .display import Display
from .figures import END_TO_END, Figure, Results
from .generators import Answered, OpenLoop
from .installation import Installation, alternating, installed
from .machine import MeasurementFailed
from .peers import Everything, running
from .requests import write_uris
from .stage import Options, browser_headers

FIGURES = (END_TO_END,)
LAG_SECONDS = 5.0
STEP_LAG_SECONDS = 2.0
"""What a short step may have: a lag that grows slowly must not pass for none."""

KEPT = 0.98
RATES = tuple(range(5_000, 42_500, 2_500))
FIRST_RATE = 20_000
CLIENT_RATE = 250
"""Of each of the generator's clients: it shares the cores here, and many clients cost it more than a few."""

_SAMPLE_SECONDS = 1.0
_SETTLE_SECONDS = 1.5
_DRAIN_SECONDS = 60.0
_STEPS = 4
_AROUND_SECONDS = 5.0
_GROUPS = {"collect": "collector", "ship": "shipper"}


def planned_seconds(options: Options) -> float:
    """How long it will take if the first sustained rate is kept."""
    return _STEPS * (options.step_seconds + _AROUND_SECONDS) + options.sustained_seconds + 2 * _AROUND_SECONDS


@dataclass(slots=True)
class Sample:
    """What was seen in one second: the age of the oldest hit without its row, and hits on the way in seconds."""

    oldest_seconds: float
    behind_seconds: float

    @property
    def lag_seconds(self) -> float:
        return max(self.oldest_seconds, self.behind_seconds)


@dataclass(slots=True)
class Held:
    """A load that came to its end."""

    answered: Answered
    samples: list[Sample]
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def worst_lag_seconds(self) -> float:
        return max((sample.lag_seconds for sample in self.samples), default=0.0)

    def cpu_us(self, group: str) -> float:
        """CPU microseconds a hit of one group of processes."""
        return self.cpu_seconds[group] / self.answered.answers * 1e6


class NotKept(Exception):
    """The rate was too high; how that showed."""


def run(directory: Path, options: Options, display: Display, results: Results) -> None:
    """Finds the highest rate that a short step keeps, then sustains it; breaks it down there, the next lower one."""
    cores = machine.two_cores()
    with machine.on_cores(*cores), installed(directory / "pg", *cores) as installation:
        everything = Everything(installation, directory / "everything", cores)
        everything.variables = {"MAILTRAIL_WORKERS": str(options.workers)}
        with running(everything):
            load = Loading(installation, everything, directory, display)
            held, rate = _sustain(load, _highest_rate(load, options), options)
            load.check_whole()
    _tell(results, held, rate)


def _highest_rate(load: "Loading", options: Options) -> int:
    """By halving the rates between the highest that was kept and the lowest that was not."""
    kept, broken, at = -1, len(RATES), RATES.index(FIRST_RATE)
    while broken - kept > 1:
        try:
            load.hold(RATES[at], options.step_seconds, STEP_LAG_SECONDS)
            kept = at
        except NotKept as reason:
            load.display.tell(f"end to end: {RATES[at]:,} hits/s not kept: {reason}")
            broken = at
        at = (kept + broken) // 2
    if kept < 0:
        raise MeasurementFailed(f"end to end: not even {RATES[0]:,} hits/s were kept")
    return kept


def _sustain(load: "Loading", highest: int, options: Options) -> tuple[Held, int]:
    for rate in reversed(RATES[: highest + 1]):
        try:
            with load.checkpoint_after(options.sustained_seconds / 2):
                return load.hold(
                    rate, options.sustained_seconds, LAG_SECONDS, rotates=options.sustained_seconds > 60
                ), rate
        except NotKept as reason:
            load.display.tell(f"end to end: {rate:,} hits/s not sustained: {reason}")
    raise MeasurementFailed(f"end to end: not even {RATES[0]:,} hits/s were sustained")


def _tell(results: Results, held: Held, rate: int) -> None:
    results.add(
        END_TO_END,
        [held.answered.per_second],
        f"{held.answered.answers:,} hits in {held.answered.seconds:.0f} s, lag at most {held.worst_lag_seconds:.1f} s",
    )
    each = {group: held.cpu_us(group) for group in held.cpu_seconds}
    for group, microseconds in {**each, "everything": sum(each.values())}.items():
        results.add(Figure(f"end to end: CPU of {group}", "µs/hit"), [microseconds], f"at {rate:,} hits/s")


class Loading:
    """The running service under load, and what was answered since its start."""

    def __init__(self, installation: Installation, everything: Everything, directory: Path, display: Display) -> None:
        self.display = display
        self._installation = installation
        self._everything = everything
        person_based, anonymized = installation.person_based, installation.anonymized
        kinds = (anonymized.clicks, person_based.clicks)
        self._uris = write_uris(directory / "clicks.uris", alternating(*kinds))
        self._log = directory / "h2load.log"
        self._answered = 0

    def hold(self, rate: int, seconds: float, lag_seconds: float, *, rotates: bool = False) -> Held:
        """Load at this rate; NotKept if the rate or the lag was not, MeasurementFailed if a hit is missing."""
        load = OpenLoop(self._everything.port, self._uris, browser_headers(), rate, seconds, CLIENT_RATE)
        segments_before, cpu_before = self._segment_numbers(), self._cpu_seconds()
        self.display.shows(f"end to end: {rate:,} hits/s for {seconds:.0f} s")
        samples: list[Sample] = []
        generator_before = machine.finished_cpu_seconds()
        with self._generator(load) as generator:
            reason = self._watch(generator, load, lag_seconds, samples)
        if reason:
            self._wait_until_shipped()
            self._answered = self._everything.counted()
            raise NotKept(reason)
        generator_cpu = machine.finished_cpu_seconds() - generator_before
        answered = generators.parse_h2load(self._log.read_text(), generator_cpu)
        self._answered += answered.answers
        cpu = {name: after - cpu_before[name] for name, after in self._cpu_seconds().items()}
        held = Held(answered, samples, {**cpu, "generator": answered.cpu_seconds})
        self._wait_until_shipped()
        self.check_whole()
        if answered.per_second < KEPT * load.exact_rate:
            raise NotKept(f"{answered.per_second:,.0f} hits/s were answered")
        if rotates and not all(
            after > before for before, after in zip(segments_before, self._segment_numbers(), strict=True)
        ):
            raise MeasurementFailed("end to end: no journal segment was full within the measured time")
        return held

    def check_whole(self) -> None:
        """MeasurementFailed unless the answers, the journaled hits and the rows are equally many."""
        rows = self._installation.query("select count(*) from mailtrail.hits")[0][0]
        counted = self._everything.counted()
        if not self._answered == counted == rows:
            raise MeasurementFailed(f"end to end: {self._answered} redirects, {counted} hits, {rows} rows")

    @contextlib.contextmanager
    def checkpoint_after(self, seconds: float) -> Iterator[None]:
        """A checkpoint of PostgreSQL in the middle of what runs inside."""
        before = self._last_checkpoint()
        made = threading.Timer(seconds, self._installation.query, ("checkpoint",))
        made.start()
        try:
            yield
        finally:
            made.cancel()
            made.join()
        if self._last_checkpoint() == before:
            raise MeasurementFailed("end to end: no checkpoint was made within the measured time")

    @contextlib.contextmanager
    def _generator(self, load: OpenLoop) -> Iterator["subprocess.Popen[bytes]"]:
        with self._log.open("wb") as log, subprocess.Popen(load.command(), stdout=log, stderr=log) as generator:
            try:
                yield generator
            finally:
                if generator.poll() is None:
                    generator.terminate()

    def _watch(
        self, generator: "subprocess.Popen[bytes]", load: OpenLoop, lag_seconds: float, samples: list[Sample]
    ) -> str:
        """Looks once a second until the generator ends; gives the reason if the rate was not kept."""
        deadline = time.monotonic() + load.seconds / KEPT + 2
        while generator.poll() is None:
            begun = time.monotonic()
            sample = self._look(load.rate)
            samples.append(sample)
            if sample.lag_seconds > lag_seconds:
                return f"a lag of {sample.lag_seconds:.1f} s after {len(samples)} s"
            if begun > deadline:
                return "the answers came too slowly"
            with contextlib.suppress(subprocess.TimeoutExpired):
                generator.wait(max(0.0, begun + _SAMPLE_SECONDS - time.monotonic()))
            self.display.passed(_SAMPLE_SECONDS)
        return ""

    def _look(self, rate: int) -> Sample:
        everything = self._everything
        shipped = everything.metric("mailtrail_hits_shipped_total")
        behind = everything.metric("mailtrail_hits_total") - shipped
        return Sample(everything.metric("mailtrail_oldest_unshipped_seconds"), max(0.0, behind) / rate)

    def _wait_until_shipped(self) -> None:
        """Until all hits have their rows and no more come: the counters are published once a second."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        last = (-1.0, -1.0)
        while True:
            seen = (self._everything.metric("mailtrail_hits_shipped_total"), float(self._everything.counted()))
            if seen == last and seen[0] == seen[1]:
                return
            if time.monotonic() > deadline:
                raise MeasurementFailed(f"end to end: of {seen[1]:,.0f} hits only {seen[0]:,.0f} have their rows")
            last = seen
            time.sleep(_SETTLE_SECONDS)

    def _last_checkpoint(self) -> object:
        return self._installation.query("select checkpoint_lsn from pg_control_checkpoint()")[0][0]

    def _segment_numbers(self) -> list[int]:
        """The highest number of each stream's segments."""
        numbers = dict.fromkeys(Stream, 0)
        for journal in (self._everything.directory / "journals").iterdir():
            for stream in Stream:
                numbers[stream] = max(numbers[stream], *(each.number for each in segments(journal, stream)), 0)
        return list(numbers.values())

    def _cpu_seconds(self) -> dict[str, float]:
        """By groups of processes, PostgreSQL's with its helpers."""
        found = dict.fromkeys(_GROUPS.values(), 0.0)
        for process in machine.family(self._everything.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                for command, group in _GROUPS.items():
                    if command in words:
                        times = process.cpu_times()
                        found[group] += times.user + times.system
        return {**found, "PostgreSQL": machine.cpu_seconds(self._installation.postmaster)}
