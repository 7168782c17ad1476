"""Runs one mount: puts disk, device and controls together, and takes them apart again."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lazyfs import mount as mounting
from lazyfs.config import Config
from lazyfs.control import Control
from lazyfs.control_socket import ControlSocket, default_socket
from lazyfs.device import Device
from lazyfs.errors import MountError
from lazyfs.faults import Event, Faults
from lazyfs.fifo import FifoControl
from lazyfs.injection import install
from lazyfs.mirror import DirectoryBacking
from lazyfs.model import Disk
from lazyfs.profiles import get_profile
from lazyfs.server import Server

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What to mount and how; values given here win over those of the configuration file."""

    mount_point: Path
    root: Path
    config: Config = field(default_factory=Config)
    profile: str | None = None
    seed: int | None = None
    socket: Path | None = None
    replace: bool = False

    @property
    def socket_path(self) -> Path:
        """Where the control socket is."""
        return self.socket or self.config.socket or default_socket(self.mount_point)


def run(settings: Settings, ready: Callable[[], None]) -> None:
    """Mount, serve until unmounted or until SIGTERM or SIGINT, and clean up.

    Args:
        settings: what to mount.
        ready: called once the mount and its controls can be used.
    Raises:
        LazyfsError: it could not be mounted; nothing is left behind.
    """
    config = settings.config
    profile = get_profile(settings.profile or config.profile or "lazyfs", config.ignored_syncs)
    root = settings.root
    if not root.is_dir():
        raise MountError(f"{root}: the root is not an existing directory")
    mount_point = mounting.prepare_mount_point(settings.mount_point, settings.replace)
    if root.resolve() == mount_point or mount_point in root.resolve().parents:
        raise MountError(f"{root}: the root must not be inside the mount point")
    _allow_many_descriptors()
    seed = next((s for s in (settings.seed, config.seed) if s is not None), 0)
    disk = Disk(profile, DirectoryBacking(root), seed)
    disk.quota_bytes = config.quota_bytes
    server = Server(disk, Faults())
    control = Control(server, mount_point, root)
    for injection in config.injections:
        install(injection, server)
    if config.log_all_operations:
        server.faults.watchers.append(_log_operation)
    with contextlib.ExitStack() as stack:
        stack.callback(control.close)
        fifo = _fifo(config, control, server)
        if fifo is not None:
            stack.callback(fifo.close)
        device = Device(mounting.mount(mount_point), server)
        stack.callback(_unmount_if_mounted, mount_point)
        stack.callback(server.faults.end_delays)
        # Last: whoever finds the socket finds a mount.
        socket = ControlSocket(settings.socket_path, control)
        stack.callback(socket.close)
        stack.enter_context(_stop_on_signal(device, server))
        ready()
        device.run()


def _fifo(config: Config, control: Control, server: Server) -> FifoControl | None:
    if config.fifo_path is None:
        return None
    return FifoControl(config.fifo_path, config.fifo_path_completed, control, server)


def _log_operation(event: Event, error: OSError | None) -> None:
    result = "ok" if error is None else error.strerror
    to_path = f" -> {event.to_path}" if event.to_path else ""
    _log.warning("%s %s%s %s: %s", event.op, event.path, to_path, event.details, result)


def _unmount_if_mounted(mount_point: Path) -> None:
    if mounting.mounted_at(mount_point) is not None:
        mounting.unmount(mount_point)


def _allow_many_descriptors() -> None:
    # Each open file of the mount needs one.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _stop_on_signal(device: Device, server: Server) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        server.faults.end_delays()
        device.stop()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def daemonize(settings: Settings, log: Path | None) -> int:
    """Run the mount in a process of its own session and wait until it is ready.

    Args:
        settings: what to mount.
        log: where its messages go; None for nowhere.
    Returns:
        The process id.
    Raises:
        LazyfsError: it could not be mounted; the message is the process's own.
    """
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _run_detached(settings, log, write_fd)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        message = pipe.read().decode("utf-8", "replace")
    if message != "ready":
        os.waitpid(pid, 0)
        raise MountError(message or "the mount process ended before it was ready")
    return pid


def _run_detached(settings: Settings, log: Path | None, write_fd: int) -> None:
    """In the forked process: never returns."""
    code = 1
    try:
        os.setsid()
        target = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, number in ((null, 0), (target, 1), (target, 2)):
            os.dup2(source, number)

        def ready() -> None:
            os.write(write_fd, b"ready")
            os.close(write_fd)

        run(settings, ready)
        code = 0
    except MountError as error:
        os.write(write_fd, str(error).encode())
    except Exception as error:
        with contextlib.suppress(OSError):
            os.write(write_fd, str(error).encode())
        _log.exception("the mount ended")
    finally:
        os._exit(code)
