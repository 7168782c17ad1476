"""Debian's rsyslog forwards to the daemon over TCP, in both of its framings."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.daemons import DEADLINE_SECONDS, data_of, read_until, start, wait_for

MESSAGES = 3000

CONFIG = """
global(workDirectory="{directory}" maxMessageSize="64k")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{directory}/log" RateLimit.Interval="0")
template(name="plain" type="string" string="%msg:2:$%")
action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" TCP_Framing="{framing}" template="plain")
"""


@pytest.mark.parametrize(
    ("ours", "theirs"), [("newline", "traditional"), ("octet-counting", "octet-counted")]
)
def test_every_forwarded_message_is_an_entry(ours: str, theirs: str, tmp_path: Path) -> None:
    messages = [b"message %d %s" % (n, b"x" * (n * 37 % 6000)) for n in range(MESSAGES)]
    store = tmp_path / "store"
    rsyslog = None
    daemon = start(store, "--tcp", "127.0.0.1:0", "--framing", ours)
    try:
        ready = read_until(daemon.stderr, b"ready").decode()
        (port,) = re.findall(r"', (\d+)\)", ready)
        config = tmp_path / "rsyslog.conf"
        config.write_text(CONFIG.format(directory=tmp_path, port=port, framing=theirs))
        rsyslog = subprocess.Popen(
            ["/usr/sbin/rsyslogd", "-n", "-f", config, "-i", tmp_path / "pid"]
        )
        wait_for((tmp_path / "log").exists)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(DEADLINE_SECONDS)
            sender.connect(str(tmp_path / "log"))
            for message in messages:
                sender.send(b"<13>Jan 31 18:30:00 shop: " + message)
        wait_for(lambda: len(data_of(store)) >= MESSAGES, lambda: len(data_of(store)))
        rsyslog.terminate()
        rsyslog.wait(DEADLINE_SECONDS)
        daemon.terminate()
        assert daemon.wait(DEADLINE_SECONDS) == 143
    finally:
        for process in filter(None, (rsyslog, daemon)):
            process.kill()
            process.communicate()
    assert data_of(store) == messages
