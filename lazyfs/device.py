"""The loop between the kernel and the server: read a request, have it done, write the answer."""

from __future__ import annotations

import errno
import logging
import os
import select
import time

from lazyfs import protocol as fuse
from lazyfs.describe import Request
from lazyfs.server import Server

_log = logging.getLogger(__name__)
_BUFFER_BYTES = fuse.MAX_WRITE_BYTES + (1 << 16)
_MAX_BACKGROUND = 64
# Waking a sleeping process on another CPU of a virtual machine takes longer than serving the
# request (60 against 20 us). A program that syncs each write asks again within this time; after
# it the process sleeps until it is woken.
_LINGER_NS = 200_000


class Device:
    """One mounted file system as the kernel talks to it.

    Args:
        fd: from `mount.mount`; closed at the end of `run`.
        server: carries out the requests.
    """

    def __init__(self, fd: int, server: Server) -> None:
        self._fd = fd
        self._server = server
        self._buffer = bytearray(_BUFFER_BYTES)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Serve until the file system is unmounted or `stop` was called."""
        try:
            os.set_blocking(self._fd, False)
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.register(self._wake_read, select.POLLIN)
            while self._serve_waiting():
                if any(fd == self._wake_read for fd, _ in poll.poll()):
                    return
        finally:
            for fd in (self._fd, self._wake_read, self._wake_write):
                os.close(fd)

    def stop(self) -> None:
        """Make `run` return. Safe in a signal handler and in another thread."""
        os.write(self._wake_write, b"\0")

    def _serve_waiting(self) -> bool:
        """Serve until no request came for a moment. Returns False once the mount is gone."""
        view = memoryview(self._buffer)
        buffers = [self._buffer]
        quiet_at_ns = time.monotonic_ns() + _LINGER_NS
        while True:
            try:
                length = os.readv(self._fd, buffers)
            except BlockingIOError:
                if time.monotonic_ns() > quiet_at_ns:
                    return True
                os.sched_yield()
                continue
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return False
                if error.errno == errno.ENOENT:  # the request was interrupted
                    continue
                raise
            self._serve_one(view[:length])
            quiet_at_ns = time.monotonic_ns() + _LINGER_NS

    def _serve_one(self, message: memoryview) -> None:
        _, opcode, unique, node, uid, gid, pid, _ = fuse.IN_HEADER.unpack_from(message)
        body = message[fuse.IN_HEADER.size :]
        code = 0
        try:
            if opcode == fuse.INIT:
                answer: bytes | None = self._init(body)
            else:
                answer = self._server.handle(Request(opcode, node, uid, gid, pid, body))
        except OSError as error:
            answer, code = b"", error.errno or errno.EIO
        except Exception:
            # The program gets an error; a bug here must not take the whole mount with it.
            _log.exception("request %d failed", opcode)
            answer, code = b"", errno.EIO
        if answer is None:
            return
        head = fuse.OUT_HEADER.pack(fuse.OUT_HEADER.size + len(answer), -code, unique)
        try:
            os.write(self._fd, head + answer)
        except OSError as error:
            # ENOENT: whoever asked was killed meanwhile; ENODEV shows at the next read.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def _init(self, body: memoryview) -> bytes:
        major, minor, max_readahead, flags = fuse.INIT_IN.unpack_from(body)
        if major != fuse.MAJOR or minor < fuse.MIN_MINOR:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        flags2 = 0
        if flags & fuse.INIT_EXT:
            flags2 = int.from_bytes(body[16:20], "little")
        wanted = (
            fuse.ASYNC_READ
            | fuse.ATOMIC_O_TRUNC
            | fuse.BIG_WRITES
            | fuse.AUTO_INVAL_DATA
            | fuse.PARALLEL_DIROPS
            | fuse.MAX_PAGES
            | fuse.HANDLE_KILLPRIV_V2
            | fuse.INIT_EXT
        )
        # Without it a file opened for direct I/O cannot be mapped shared, and pages are cached.
        self._server.direct_io = bool(flags2 & fuse.DIRECT_IO_ALLOW_MMAP)
        return fuse.INIT_OUT.pack(
            fuse.MAJOR,
            min(minor, fuse.MINOR),
            max_readahead,
            flags & wanted,
            _MAX_BACKGROUND,
            _MAX_BACKGROUND * 3 // 4,
            fuse.MAX_WRITE_BYTES,
            1,
            fuse.MAX_WRITE_BYTES // 4096,
            0,
            flags2 & fuse.DIRECT_IO_ALLOW_MMAP,
        )
