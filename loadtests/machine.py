"""The machine under the measurement: its cores, the programs that must be there, and what processes use of it.

Invariant: nothing is installed here; what is missing is named with the command that brings it.
"""

import atexit
import contextlib
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from app.errors import MailtrailError

PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "h2load": "nghttp2-client"}
"""The programs that are measured with, and Debian's packages that bring them."""

_ALSO_LOOKED_AT = ("/usr/local/sbin", "/usr/sbin")
_WAIT_SECONDS = 30.0
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


class ToolMissing(MailtrailError):
    """A program that the bench measures with is not there."""

    exit_code = 3


class MeasurementFailed(MailtrailError):
    """Something that was measured did not do what the figure says it does; there is no figure then."""

    exit_code = 4


def check_tools() -> None:
    """ToolMissing names all that are missing, and how to get them."""
    if missing := [program for program in PACKAGES if _found(program) is None]:
        packages = " ".join(PACKAGES[program] for program in missing)
        raise ToolMissing(f"{', '.join(missing)} missing; on Debian or Ubuntu: apt-get install {packages}")


def tool(program: str) -> str:
    """The path of a program that `check_tools` has found."""
    return _found(program) or program


def _found(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_ALSO_LOOKED_AT)))


# --- cores -----------------------------------------------------------------------------------------------------------


def two_cores() -> tuple[int, int]:
    """The server's core and the generator's; MeasurementFailed where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise MeasurementFailed("the server and the generator need a core each, and there is only one")
    return cores[0], cores[1]


@contextlib.contextmanager
def on_cores(*cores: int) -> Iterator[None]:
    """This thread, and whatever is started inside with all its threads, runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def undisturbed() -> Iterator[bool]:
    """This thread, and what is started inside, runs before all ordinary processes of its core; False where it may not.

    Linux may leave a core to whoever has it until the next tick, 4 ms at 250 Hz, though a server there has work by
    then. With the real-time class (sched(7), SCHED_RR; root or CAP_SYS_NICE) the server has it at once.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        is_allowed = True
    except PermissionError:
        is_allowed = False
    try:
        yield is_allowed
    finally:
        if is_allowed:
            os.sched_setscheduler(0, policy, parameter)


# --- processes -------------------------------------------------------------------------------------------------------


def end_in_order() -> None:
    """SIGTERM ends this process as Ctrl-C does, with the servers and directories that are its own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all below it, those that ended meanwhile included."""
    total = 0.0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # its time is its parent's by now
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def finished_cpu_seconds() -> float:
    """CPU time of the processes that this one started, waited for and saw end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rss_bytes(pid: int) -> int:
    """Memory that a process holds."""
    return int(psutil.Process(pid).memory_info().rss)


def raise_file_limit() -> None:
    """As many open files as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], what: str, seconds: float = _WAIT_SECONDS) -> None:
    """Waits until the condition holds; MeasurementFailed if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.02)


# --- what it is ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_directory() -> Iterator[Path]:
    """A directory on a disk, gone afterwards with all that is in it; in memory a sync would cost nothing."""
    parent = Path(os.environ.get("TMPDIR", "/var/tmp"))
    if _file_system(parent) in _MEMORY_FILE_SYSTEMS:
        raise MeasurementFailed(f"{parent} lies in memory; set TMPDIR to a directory on a disk")
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    # At this process's end too: the embedded PostgreSQL's handler runs then and makes its directory again.
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _file_system(directory: Path) -> str:
    resolved = directory.resolve()
    mounts = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[str(above)] for above in (resolved, *resolved.parents) if str(above) in mounts), "")


def description() -> str:
    """Processor, cores, memory, kernel and Python, in one line."""
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    kernel = platform.release().partition("-")[0]
    return (
        f"{_processor()}, {cores} cores, {memory:.0f} GB, Linux {kernel},"
        f" {platform.python_implementation()} {platform.python_version()}"
    )


def tool_versions() -> str:
    """What the generators and the peer that is a program of its own say they are."""
    said = {
        name: _said_by(tool(name), option) for name, option in (("wrk", "-v"), ("nginx", "-v"), ("h2load", "--version"))
    }
    return ", ".join(f"{name} {found[0] if (found := _VERSION.findall(text)) else '?'}" for name, text in said.items())


def _said_by(program: str, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
