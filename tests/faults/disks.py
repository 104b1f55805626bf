"""Disks that things happen to: an ext4 of its own that loses what was not synced, a tmpfs that gets full.

They are mounted under a test's directory, which takes root and, for ext4, loop devices. Invariant: leaving the context
unmounts, whatever still happens on the disk.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.integration.service import until

UNMOUNT_SECONDS = 20.0
_SHUT_DOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN: every read and write fails with EIO from now on."""

_WITHOUT_FLUSHING = struct.pack("I", 2)
"""EXT4_GOING_FLAGS_NOLOGFLUSH: what was not synced is gone, as after a loss of power."""


class Disk:
    """A file system at `place`, from entering to leaving."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True, exist_ok=True)
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.path.ismount(self.place):
            self.unmount()

    def mount(self) -> None:
        raise NotImplementedError

    def unmount(self) -> None:
        """Waits for the last process to let go of it; a killed one takes a moment."""
        until(lambda: _succeeds("umount", self.place), f"{self.place} is unmounted", UNMOUNT_SECONDS)

    def fill(self, leave_bytes: int = 0) -> None:
        """Writes a file until only `leave_bytes` are free."""
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                free = os.statvfs(self.place)
                left = free.f_bavail * free.f_frsize - leave_bytes
                if left <= 0:
                    return
                file.write(b"\0" * min(left, 2**20))

    def make_room(self) -> None:
        """Removes what `fill` wrote."""
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.place / "ballast"


class Tmpfs(Disk):
    """Memory, bounded."""

    def __init__(self, place: Path, *, max_bytes: int) -> None:
        super().__init__(place)
        self._max_bytes = max_bytes

    def mount(self) -> None:
        _run("mount", "-t", "tmpfs", "-o", f"size={self._max_bytes}", "tmpfs", self.place)


class Ext4(Disk):
    """A journaled file system on a loop device, whose power can fail."""

    def __init__(self, place: Path, *, max_bytes: int = 96 * 2**20) -> None:
        super().__init__(place)
        self._image = place.with_name(f"{place.name}.ext4")
        with self._image.open("wb") as file:
            file.truncate(max_bytes)
        _run("mkfs.ext4", "-q", "-F", self._image)

    def mount(self) -> None:
        _run("mount", "-o", "loop", self._image, self.place)

    def cut_power(self) -> None:
        """Nothing that is not on the disk by now will ever be; whoever goes on gets EIO."""
        descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUT_DOWN, _WITHOUT_FLUSHING)
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        """Mounts it again, which replays its journal. Nobody may have a file open in it."""
        self.unmount()
        self.mount()


def missing_rights() -> str | None:
    """What these disks lack on this machine, in a sentence; None if all is there."""
    if os.geteuid() != 0:
        return "only root can mount the disks of this test"
    lacking = [name for name in ("mount", "umount", "mkfs.ext4") if not shutil.which(name)]
    if lacking:
        return f"the disks of this test need {', '.join(lacking)}"
    if not Path("/dev/loop-control").exists():
        return "the disks of this test need loop devices (/dev/loop-control)"
    return None


needs_disks = pytest.mark.skipif(missing_rights() is not None, reason=missing_rights() or "")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr.strip()}"


def _succeeds(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
