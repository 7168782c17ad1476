"""`KifaHandler`: records are durable when they are logged, and whoever logs hears of every failure."""

from __future__ import annotations

import logging
import logging.config
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kifa
from kifa.client import Client
from kifa.logging import KifaHandler
from tests.conftest import run_python
from tests.daemons import DEADLINE_SECONDS, data_of
from tests.test_daemon_sockets import listening


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("shop")
    yield logger
    for handler in list(logger.handlers):
        handler.close()


def test_a_record_is_durable_and_verbatim_in_a_log(store: Path, logger: logging.Logger) -> None:
    handler = KifaHandler(path=store, segment_size_mib=1)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.warning("sold %d\nof %s", 3, "Brötchen\r")
    assert data_of(store) == ["WARNING sold 3\nof Brötchen\r".encode()]
    try:
        raise RuntimeError("a\udcffb")
    except RuntimeError:
        logger.exception("failed")
    entry = data_of(store)[1].decode()
    assert entry.startswith("ERROR failed\nTraceback")
    assert entry.endswith("RuntimeError: a\\udcffb")


@pytest.mark.parametrize("framing", ["newline", "octet-counting"])
def test_a_record_is_one_entry_of_a_daemon(
    framing: str, tmp_path: Path, logger: logging.Logger
) -> None:
    options = ("--tcp", "127.0.0.1:0", "--ack", "--framing", framing)
    with listening(tmp_path, *options) as (_, (port,)):
        logger.addHandler(KifaHandler(address=f"127.0.0.1:{port}", framing=framing))
        logger.info("two\nlines\r")
        shown = b"two\nlines\r" if framing == "octet-counting" else rb"two\nlines\r"
        assert data_of(tmp_path) == [shown]
        logger.handlers[0].close()
        with pytest.raises(kifa.ClosedError):
            logger.info("late")


def test_failures_are_raised_where_the_record_was_logged(
    store: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log = kifa.open(store)
    logger.addHandler(KifaHandler(log=log))
    logger.info("one")
    with pytest.raises(TypeError):
        logger.info("%d", "no number")
    with pytest.raises(kifa.EntryTooLargeError):
        logger.info("x" * (1 << 21))
    log.close()
    with pytest.raises(kifa.ClosedError):
        logger.info("two")
    logger.handlers[0].flush()  # as at exit: the log was closed in good order
    assert data_of(store) == [b"one"]


def test_failures_can_be_reported_instead(
    store: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log = kifa.open(store)
    logger.addHandler(KifaHandler(log=log, raises=False))
    log.close()
    logger.info("lost")
    assert "ClosedError" in capsys.readouterr().err


def test_a_refusal_and_a_lost_daemon_are_raised(tmp_path: Path, logger: logging.Logger) -> None:
    options = ("--tcp", "127.0.0.1:0", "--ack", "--max-line-size-bytes", 10)
    with listening(tmp_path, *options) as (process, (port,)):
        logger.addHandler(KifaHandler(address=f"127.0.0.1:{port}"))
        with pytest.raises(kifa.EntryRefusedError, match="11 bytes"):
            logger.info("x" * 11)
        logger.info("one")
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        process.wait(DEADLINE_SECONDS)
        with pytest.raises(ConnectionRefusedError):
            logger.info("two")
    # Back again, it is found: nothing was in flight, so nothing can be lost or doubled.
    with listening(tmp_path, "--tcp", f"127.0.0.1:{port}", "--ack"):
        logger.info("three")
    assert data_of(tmp_path) == [b"one", b"three"]
    with pytest.raises(ConnectionRefusedError):
        KifaHandler(address=f"127.0.0.1:{port}")


def test_threads_share_a_handler(tmp_path: Path, logger: logging.Logger) -> None:
    options = ("--tcp", "127.0.0.1:0", "--ack")
    with listening(tmp_path / "daemon", *options) as (_, (port,)):
        logger.addHandler(KifaHandler(path=tmp_path / "log"))
        logger.addHandler(KifaHandler(address=f"127.0.0.1:{port}"))

        def work(number: int) -> None:
            for line in range(50):
                logger.info("%d %d", number, line)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logger.handlers[0].close()
    for store in ("daemon", "log"):
        entries = data_of(tmp_path / store)
        for number in range(8):
            mine = [entry for entry in entries if entry.startswith(b"%d " % number)]
            assert mine == [b"%d %d" % (number, line) for line in range(50)]


def test_forked_children(tmp_path: Path) -> None:
    """With a daemon a child has a connection of its own; with a log it is told that it cannot."""
    script = (
        "import logging, os, sys, kifa\n"
        "from kifa.logging import KifaHandler\n"
        "def child(call):\n"
        "    if (pid := os.fork()) == 0:\n"
        "        try: call()\n"
        "        except kifa.ForkedError: os._exit(7)\n"
        "        os._exit(0)\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "logger = logging.getLogger('shop')\n"
        "logger.setLevel('INFO')\n"
        "logger.addHandler(KifaHandler(address=sys.argv[1]))\n"
        "logger.info('parent')\n"
        "assert child(lambda: logger.info('child')) == 0\n"
        "logger.info('parent')\n"
        "logger.handlers[:] = [KifaHandler(path=sys.argv[2])]\n"
        "logger.info('parent')\n"
        "assert child(lambda: logger.info('child')) == 7\n"
        "assert child(logging.shutdown) == 0\n"
        "logger.info('parent')\n"
    )
    options = ("--tcp", "127.0.0.1:0", "--ack")
    with listening(tmp_path / "daemon", *options) as (_, (port,)):
        result = run_python(script, f"127.0.0.1:{port}", str(tmp_path / "log"))
    assert (result.returncode, result.stderr) == (0, b"")
    assert data_of(tmp_path / "daemon") == [b"parent", b"child", b"parent"]
    assert data_of(tmp_path / "log") == [b"parent", b"parent"]


def test_what_kifa_itself_logs_does_not_go_into_its_log(store: Path) -> None:
    handler = KifaHandler(path=store)
    own = logging.Logger("kifa.engine")
    own.addHandler(handler)
    own.warning("flush failed")
    handler.close()
    assert data_of(store) == []


def test_a_configuration_can_name_it(store: Path) -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"kifa": {"class": "kifa.logging.KifaHandler", "path": str(store)}},
        "loggers": {"shop.till": {"handlers": ["kifa"], "level": "INFO"}},
    }
    logging.config.dictConfig(config)
    logger = logging.getLogger("shop.till")
    try:
        logger.info("sold")
    finally:
        logger.handlers[0].close()
        logger.handlers.clear()
    assert data_of(store) == [b"sold"]


def test_one_target_must_be_given(store: Path) -> None:
    with pytest.raises(kifa.UsageError):
        KifaHandler()
    with pytest.raises(kifa.UsageError):
        KifaHandler(path=store, address="127.0.0.1:1")


def test_a_signal_handler_that_interrupts_a_client_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (_, (port,)):
        client = Client(f"127.0.0.1:{port}")
        told: list[BaseException] = []
        wait = client._wait

        def interrupted(writes: bool) -> bool:
            try:
                client.send(b"inner")
            except kifa.KifaError as error:
                told.append(error)
            return wait(writes)

        monkeypatch.setattr(client, "_wait", interrupted)
        assert client.send(b"outer") == 1
        client.close()
    assert len(told) >= 1
    assert data_of(tmp_path) == [b"outer"]
