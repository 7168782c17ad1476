"""A private ext4 on a loop device, so that everything written to a device can be counted. For root only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SECTOR_SIZE = 512


class NoLoopDevice(Exception):
    """There can be none here, and why."""


class LoopDevice:
    """A mounted file system of its own below a directory; use as a context."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        """Describe a device of ``size_bytes``, whose image and mount point are in ``directory``."""
        self._image = directory / "device.img"
        self.mount_point = directory / "device"
        self._size_bytes = size_bytes
        self._device = ""

    def __enter__(self) -> LoopDevice:
        """Make and mount it.

        Raises:
            NoLoopDevice: this user may not, or a tool or the kernel does not know how.
        """
        if os.geteuid() != 0:
            raise NoLoopDevice("not root")
        if not all(map(shutil.which, ("losetup", "mkfs.ext4", "mount", "umount"))):
            raise NoLoopDevice("losetup or mkfs.ext4 is missing")
        self.mount_point.mkdir()
        with self._image.open("wb") as image:
            image.truncate(self._size_bytes)
        try:
            options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
            _run("mkfs.ext4", *options, str(self._image))
            self._device = _run("losetup", "--find", "--show", "--direct-io=on", str(self._image))
            _run("mount", self._device, str(self.mount_point))
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        """Undo what was done, however far it got."""
        if self.mount_point.is_mount():
            try:
                _run("umount", str(self.mount_point))
            except NoLoopDevice:
                # A store that was interrupted may have files open: it goes when they are closed.
                _run("umount", "--lazy", str(self.mount_point))
        # Asked for by image: whoever was interrupted need not know its device.
        found = _run(
            "losetup", "--noheadings", "--output", "NAME", "--associated", str(self._image)
        )
        for device in found.split():
            _run("losetup", "--detach", device)
        self._image.unlink()
        self.mount_point.rmdir()

    def written_bytes(self) -> int:
        """Return the bytes that were written to the device so far, everything synced."""
        _run("sync", "--file-system", str(self.mount_point))
        fields = Path(f"/sys/block/{Path(self._device).name}/stat").read_text().split()
        return int(fields[6]) * SECTOR_SIZE


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = result.stderr.strip().splitlines() or ["failed"]
        raise NoLoopDevice(f"{command[0]}: {reason[-1]}")
    return result.stdout.strip()
