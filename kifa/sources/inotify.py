"""What the kernel tells of files and directories, so that nothing needs to be polled."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from collections.abc import Callable

from kifa.event_loop import READABLE, EventLoop

log = logging.getLogger(__name__)

MODIFY = 0x00000002
ATTRIBUTES = 0x00000004
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
DELETE_SELF = 0x00000400
MOVE_SELF = 0x00000800
QUEUE_OVERFLOW = 0x00004000
IGNORED = 0x00008000
ONLY_DIRECTORY = 0x01000000

READ_SIZE_BYTES = 64 * 1024
_EVENT = struct.Struct("=iIII")

# File systems that others change without this kernel seeing it: from statfs(2) and the kernel's magic.h.
_UNSEEN_CHANGES = {
    0x00006969: "NFS",
    0x0000517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x01021997: "9P",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x0BD00BD0: "Lustre",
}
_STATFS_SIZE_BYTES = 256

OnEvent = Callable[[int, str], None]


class Inotify:
    """Watches inodes; events come from the event loop."""

    def __init__(self, loop: EventLoop, on_overflow: Callable[[], None]) -> None:
        """Start.

        Args:
            on_overflow: called when the kernel dropped events: anything may have changed.

        Raises:
            OSError: there are too many instances already.
        """
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._loop = loop
        self._on_overflow = on_overflow
        self._callbacks: dict[int, OnEvent] = {}
        self._descriptor = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        loop.add(self._descriptor, READABLE, self._on_readable)

    def _check(self, result: int) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result

    def watch(self, path: str, mask: int, callback: OnEvent) -> int:
        """Call ``callback(mask, name)`` for events of ``path``; return a handle for `unwatch`.

        Watching one inode twice gives the same handle, and the newer callback.

        Raises:
            OSError: it is not there, or there are too many watches.
        """
        handle = self._check(
            self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask)
        )
        self._callbacks[handle] = callback
        return handle

    def watch_descriptor(self, descriptor: int, mask: int, callback: OnEvent) -> int:
        """Watch the open file ``descriptor``, whatever its name is by now. As `watch`."""
        return self.watch(f"/proc/self/fd/{descriptor}", mask, callback)

    def unwatch(self, handle: int) -> None:
        """Hear no more of it. Idempotent."""
        if self._callbacks.pop(handle, None) is not None:
            # It fails where the kernel ended the watch before, together with the inode.
            self._libc.inotify_rm_watch(self._descriptor, handle)

    def _on_readable(self, _events: int) -> None:
        try:
            data = os.read(self._descriptor, READ_SIZE_BYTES)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            handle, mask, _cookie, size = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + size].rstrip(b"\0")
            offset += size
            if mask & QUEUE_OVERFLOW:
                self._on_overflow()
                continue
            callback = self._callbacks.get(handle)
            if callback is not None:
                if mask & IGNORED:
                    del self._callbacks[handle]
                callback(mask, os.fsdecode(name))

    def close(self) -> None:
        """Stop."""
        self._loop.remove(self._descriptor)
        os.close(self._descriptor)


def unseen_changes(path: str) -> str | None:
    """Return the name of the file system of ``path`` if inotify does not see all changes on it, else None."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE_BYTES)
    if ctypes.CDLL(None).statfs(os.fsencode(path), buffer) != 0:
        return None
    # The first member of struct statfs is f_type, a word.
    (kind,) = struct.unpack_from("@l", buffer)
    return _UNSEEN_CHANGES.get(kind & 0xFFFFFFFF)
