"""The life of the daemon: recovery, sources, signals, the end."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence

from kifa._memory import forget_start
from kifa.config import Config, parse_address
from kifa.engine import Log
from kifa.errors import ExitCode, UsageError
from kifa.event_loop import EventLoop
from kifa.ingest import Ingest, Source
from kifa.notify import Notifier

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STOP_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


def run_daemon(config: Config) -> int:
    """Run until a signal, or until standard input as the only source ends; return the exit code.

    Raises:
        KifaError: the store cannot be opened, a source cannot be, or a sync failed.
    """
    if not any(config[name] for name in ("stdin", "files", "tcp", "udp", "unix")):
        raise UsageError("no source: give --stdin, --file, --tcp, --udp or --unix")
    loop = EventLoop()
    notifier = Notifier(os.environ)
    daemon = _Daemon(config, notifier)
    # Before recovery, so that a signal during it is not lost.
    loop.on_signals(_SIGNALS, daemon.on_signal)
    notifier.send("STATUS=recovering")
    with Log(config.data_dir, **config.engine_arguments()) as store:
        return int(daemon.run(store, loop))


class _Daemon:
    def __init__(self, config: Config, notifier: Notifier) -> None:
        self._config = config
        self._notifier = notifier
        self._store: Log | None = None
        self._sources: list[Source] = []
        self._stop_code: ExitCode | None = None
        self._fed_lsn = -1
        self._reopen_files: Callable[[], None] = lambda: None

    def run(self, store: Log, loop: EventLoop) -> ExitCode:
        self._store = store
        ingest = Ingest(store, loop)
        for open_source in self._openers(ingest):
            self._sources += open_source()
        self._notifier.send("READY=1", f"STATUS=durable LSN {store.durable_lsn}")
        if self._notifier.watchdog_seconds:
            self._feed_watchdog(store, loop)
        log.info("ready, durable LSN %d", store.durable_lsn)
        forget_start()
        while self._stop_code is None:
            ingest.run_round()
        self._notifier.send("STOPPING=1")
        log.info("stopping")
        for source in self._sources:
            source.stop()
        ingest.drain()
        for source in self._sources:
            source.close()
        ingest.close()
        code = self._summarise(ingest)
        if code is ExitCode.OK and ingest.failure is not None:
            raise ingest.failure
        return code

    def _summarise(self, ingest: Ingest) -> ExitCode:
        assert self._store is not None
        assert self._stop_code is not None
        log.info(
            "stopped at LSN %d; %d refused, %d lost",
            self._store.durable_lsn,
            ingest.refused,
            ingest.lost,
        )
        if self._stop_code is ExitCode.OK and (ingest.refused or ingest.lost):
            return ExitCode.REFUSED
        return self._stop_code

    def on_signal(self, number: int) -> None:
        if number in _STOP_CODES:
            if self._stop_code is None:
                self._stop_code = _STOP_CODES[signal.Signals(number)]
        elif number == signal.SIGHUP:
            self._reopen_files()
        elif self._store is not None and number in (signal.SIGUSR1, signal.SIGUSR2):
            mode = "emergency" if number == signal.SIGUSR1 else self._config["flush_mode"]
            self._store.set_flush_mode(mode)
            log.warning("flush mode is %s", mode)

    def _on_end_of_input(self) -> None:
        if not any(self._config[name] for name in ("files", "tcp", "udp", "unix")):
            self._stop_code = self._stop_code or ExitCode.OK

    def _openers(self, ingest: Ingest) -> list[Callable[[], Sequence[Source]]]:
        config = self._config
        openers: list[Callable[[], Sequence[Source]]] = []
        if config["files"]:
            openers.append(lambda: [self._open_files(ingest)])
        if config["tcp"] or config["unix"]:
            from kifa.sources.stream import (
                Connection,
                Limits,
                StreamListener,
                listen_tcp,
                listen_unix,
                room_for_connections,
            )

            limits = Limits(
                room_for_connections(config["max_connections"]),
                config["max_line_size_bytes"],
                config["idle_timeout_seconds"],
                config["framing"] == "octet-counting",
                config["ack"],
            )
            connections: set[Connection] = set()

            def listen(listeners: list[socket.socket], name: str) -> Sequence[Source]:
                return [
                    StreamListener(ingest, listener, name, limits, connections)
                    for listener in listeners
                ]

            for text in config["tcp"]:
                address = parse_address(text)
                openers.append(lambda a=address, t=text: listen(listen_tcp(*a), t))  # type: ignore[misc]
            for path in config["unix"]:
                openers.append(lambda p=path: listen([listen_unix(p)], p))  # type: ignore[misc]
        if config["udp"]:
            from kifa.sources.udp import DatagramSource

            for text in config["udp"]:
                openers.append(lambda t=text: [DatagramSource(ingest, t)])  # type: ignore[misc]
        if config["stdin"]:
            from kifa.sources.stdin import StandardInput

            openers.append(
                lambda: [
                    StandardInput(
                        ingest,
                        ack=config["ack"],
                        max_line_size_bytes=config["max_line_size_bytes"],
                        on_end=self._on_end_of_input,
                    )
                ]
            )
        return openers

    def _open_files(self, ingest: Ingest) -> Source:
        from kifa.sources.tail import FileSource

        files = FileSource(
            ingest,
            self._config["files"],
            from_end=self._config["files_from"] == "end",
            max_line_size_bytes=self._config["max_line_size_bytes"],
        )
        self._reopen_files = files.reopen
        return files

    def _feed_watchdog(self, store: Log, loop: EventLoop) -> None:
        """Give a sign of life, if there is one: nothing waits to be durable, or something became durable."""
        durable = store.durable_lsn
        if durable == store.last_lsn or durable > self._fed_lsn:
            self._notifier.send("WATCHDOG=1", f"STATUS=durable LSN {durable}")
        self._fed_lsn = durable
        loop.call_later(
            self._notifier.watchdog_seconds / 3, lambda: self._feed_watchdog(store, loop)
        )
