"""`python -m lazyfs.bench`: prints how fast the model and the mount are on this machine."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

from lazyfs import mount as mounting
from lazyfs.client import Client
from lazyfs.model import Disk
from lazyfs.profiles import get_profile

BLOCK_BYTES = 4096
RUN_S = 2.0
FILES = 1000
_PROFILE = "posix-strict"


def model_operations_per_s() -> float:
    """Writes of 4 KiB and syncs on the model in memory; each counts as one operation."""
    disk = Disk(get_profile(_PROFILE))
    inode = disk.create(disk.root, b"file", 0o100644)
    block = bytes(BLOCK_BYTES)
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < RUN_S:
        for index in range(256):
            disk.write(inode, index * BLOCK_BYTES, block)
            disk.sync(inode, data_only=True)
        count += 512
    return count / (time.perf_counter() - begin)


def durable_writes_per_s(directory: Path, threads: int, file_bytes: int) -> float:
    """4 KiB O_DIRECT write + fdatasync, in total over the threads, each in a file of its own."""
    counts = [0] * threads
    begin = time.perf_counter()

    def work(number: int) -> None:
        fd = os.open(directory / f"{number}", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.ftruncate(fd, file_bytes)
        os.fsync(fd)
        block = mmap.mmap(-1, BLOCK_BYTES)
        first = file_bytes - (1 << 20)
        while time.perf_counter() - begin < RUN_S:
            os.pwrite(fd, block, first + counts[number] % 256 * BLOCK_BYTES)
            os.fdatasync(fd)
            counts[number] += 1
        os.close(fd)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begin)


class _Mount:
    """The file system in a process of its own, as users run it."""

    def __init__(self, top: Path) -> None:
        self.path = top / "mount"
        self.root = top / "root"
        self.socket = top / "socket"
        self.path.mkdir()
        self.root.mkdir()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lazyfs", str(self.path), "--root", str(self.root), "-f",
             "--profile", _PROFILE, "--socket", str(self.socket)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def stop(self) -> None:
        if mounting.mounted_at(self.path) is not None:
            mounting.unmount(self.path)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def _restart_ms(disk: _Mount) -> tuple[float, float]:
    """Power loss + unmount + mount on many files, each with un-synced data, in ms.

    Returns:
        The whole, and of it the start of the Python process.
    """
    for index in range(FILES):
        (disk.path / f"f{index}").write_bytes(bytes(BLOCK_BYTES))
    with Client(socket_path=disk.socket) as client:
        client.command("checkpoint")
    for index in range(FILES):
        with (disk.path / f"f{index}").open("r+b") as file:
            file.write(b"x")
    begin = time.perf_counter()
    with Client(socket_path=disk.socket) as client:
        client.command("power-loss")
    disk.stop()
    disk.start()
    whole = time.perf_counter() - begin
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import lazyfs.cli"], check=True)
    return whole * 1000, (time.perf_counter() - begin) * 1000


@click.command()
def main() -> None:
    """Measure and print."""
    click.echo(f"model in memory: {model_operations_per_s():,.0f} operations/s")
    missing = mounting.missing_requirement()
    if missing is not None:
        raise click.ClickException(missing)
    with tempfile.TemporaryDirectory(prefix="lazyfs-bench-") as top:
        disk = _Mount(Path(top))
        disk.start()
        try:
            for threads in (1, 8):
                for file_bytes in (1 << 20, 1 << 34):
                    rate = durable_writes_per_s(disk.path, threads, file_bytes)
                    click.echo(
                        f"4 KiB write + fdatasync, {threads} threads, files of "
                        f"{file_bytes >> 20:,} MiB: {rate:,.0f}/s"
                    )
            whole_ms, start_ms = _restart_ms(disk)
            click.echo(
                f"power loss + unmount + mount, {FILES} files: {whole_ms:.0f} ms, "
                f"of it the start of Python: {start_ms:.0f} ms"
            )
        finally:
            disk.stop()


if __name__ == "__main__":
    main()
