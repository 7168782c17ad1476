"""The parts a measurement stands on: the floor, the peers, the loop device, the stores, the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kifa
from bench._floor import FloorFile
from bench.installation import installation
from bench.lines import different_lines, write_lines
from bench.loop_device import LoopDevice, NoLoopDevice
from bench.peers import PEERS, KifaStore, Store
from bench.process import CommandError, Daemon, run
from bench.session import Options, Progress, Session, Turn
from bench.tables import START_MS, make_tables

DEADLINE_SECONDS = 60.0


def test_the_floor_writes_what_it_says(tmp_path: Path) -> None:
    before = written_by_this_process()
    with FloorFile(str(tmp_path / "floor"), 10_000) as floor:
        prepared = written_by_this_process()
        assert len(floor.write(10_000, 20)) == 20
        assert all(seconds > 0 for seconds in floor.write(1, 5))
        written = written_by_this_process() - prepared
    assert not (tmp_path / "floor").exists()
    if prepared > before:  # a file system without a device counts nothing
        assert written == 20 * 3 * 4096 + 5 * 4096


def written_by_this_process() -> int:
    content = Path("/proc/self/io").read_text()
    return int(content.split("\nwrite_bytes: ")[1].split()[0])


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 17])
def test_the_floor_copies_to_the_end(tmp_path: Path, size: int) -> None:
    (tmp_path / "source").write_bytes(b"x" * size)
    with (
        FloorFile(str(tmp_path / "floor")) as floor,
        (tmp_path / "source").open("rb", buffering=0) as source,
    ):
        assert floor.copy_from(source.fileno()) == size


def open_store(name: str, path: Path, mode: str) -> Store:
    return KifaStore(path, mode) if name == "kifa" else PEERS[name](path, mode)


@pytest.mark.parametrize("mode", ["cautious", "normal"])
@pytest.mark.parametrize("name", ["kifa", *PEERS])
def test_a_peer_keeps_what_it_was_given(name: str, mode: str, tmp_path: Path) -> None:
    store = open_store(name, tmp_path / name, mode)
    for number in range(60):
        store.append(b"single %d" % number)
    store.append_many([b"many %d" % number for number in range(10)])
    store.append(b"the last one")
    store.close()
    again = open_store(name, tmp_path / name, "cautious")
    last = again.last()
    again.close()
    if name == "kifa":
        assert last == 71
    elif mode == "cautious" or name not in ("rocksdb", "leveldb"):
        assert b"the last one" in bytes_of(
            last
        )  # else the entry that closed the last group is behind it


def bytes_of(value: object) -> bytes:
    if isinstance(value, tuple):
        return b"".join(part for part in value if isinstance(part, bytes))
    assert isinstance(value, bytes)
    return value


def test_made_tables_are_a_store(tmp_path: Path) -> None:
    count = make_tables(tmp_path / "store", 1 << 20, tables=3)
    entries = list(kifa.reader(tmp_path / "store").entries())
    assert [entry.lsn for entry in entries] == list(range(1, count + 1))
    assert {len(entry.data) for entry in entries} == {200}
    assert [entry.timestamp_ms for entry in entries] == [START_MS + entry.lsn for entry in entries]
    verify = [*installation().kifa, "verify", "-d", tmp_path / "store"]
    assert subprocess.run(verify, check=False).returncode == 0


def test_lines_have_one_size(tmp_path: Path) -> None:
    assert write_lines(tmp_path / "lines", 100_500, 200) == 100_500 * 200
    lines = (tmp_path / "lines").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == 100_500
    assert {len(line) for line in lines} == {200}
    assert len(set(lines[:1000])) == 1000
    assert len(different_lines(None)[0]) > 200


def test_commands_run_as_users_install_them() -> None:
    script = "import sys; print('__editable__' in ' '.join(sys.modules), sys.flags.isolated)"
    found = subprocess.run([installation().python, "-c", script], capture_output=True, check=True)
    assert found.stdout == b"False 0\n"
    version = subprocess.run([*installation().kifa, "--version"], capture_output=True, check=True)
    assert version.stdout.decode() == f"kifa {kifa.__version__}\n"
    script = "import kifa.engine; print(kifa.engine.__cached__)"
    command = [installation().python, "-c", script]
    found = subprocess.run(command, capture_output=True, check=True, cwd="/")
    assert Path(found.stdout.decode().strip()).exists(), "compiled at every start"


def test_use_is_of_the_command_alone() -> None:
    ballast = b"x" * (64 << 20)
    small = run([sys.executable, "-I", "-S", "-c", "pass"])
    large = run([sys.executable, "-I", "-S", "-c", "x = b'x' * (64 << 20)"])
    assert small.peak_mib < 40
    assert large.peak_mib > 64
    assert len(ballast) > small.written_bytes


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(CommandError, match="no such thing"):
        run([sys.executable, "-c", "import sys; sys.exit('no such thing')"])


def test_a_daemon_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no source"):
        Daemon(tmp_path / "store")


def test_a_daemon_is_ready_and_ends(tmp_path: Path) -> None:
    with Daemon(tmp_path / "store", "--stdin", "--ack") as daemon:
        assert daemon.status("VmRSS") > daemon.private_kib() > 1000
        os.write(daemon.stdin.fileno(), b"one\n")
        assert os.read(daemon.stdout.fileno(), 64) == b"ACK 1\n"
        assert daemon.wake_ups() > 0
        daemon.finish()
    assert daemon.process.returncode == 0


def test_turns_change_places_and_add_up(tmp_path: Path) -> None:
    session = Session(tmp_path, Options(rounds=2), Progress(is_live=False))
    one = session.measurement("x", "x")
    order: list[str] = []

    def subject(name: str, seconds: float) -> Turn:
        order.append(name)
        return Turn(10, seconds, [seconds / 10] * 10)

    session.take_turns(
        one, {"floor": lambda: subject("floor", 1.0), "kifa": lambda: subject("kifa", 2.0)}
    )
    assert order == ["floor", "kifa", "kifa", "floor"] * 4
    assert one.series == {"floor": [10.0, 10.0], "kifa": [5.0, 5.0]}
    assert one.ratio() == 0.5
    assert one.latencies["kifa"].count == 80


def test_progress_is_one_line_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    live = Progress(is_live=True)
    live.show("first", "round 1")
    live.show("first", "round 2")
    live.clear()
    assert "\n" not in capsys.readouterr().err
    quiet = Progress(is_live=False)
    for _ in range(3):
        quiet.show("first")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_loop_device_counts_and_goes(tmp_path: Path) -> None:
    device = LoopDevice(tmp_path, 64 << 20)
    try:
        with device:
            before = device.written_bytes()
            (device.mount_point / "file").write_bytes(os.urandom(1 << 20))
            assert 1 << 20 <= device.written_bytes() - before < 4 << 20
    except NoLoopDevice:
        assert os.geteuid() != 0 or not Path("/dev/loop-control").exists()
    assert_nothing_is_left(tmp_path)


def assert_nothing_is_left(directory: Path) -> None:
    assert list(directory.iterdir()) == []
    assert str(directory) not in Path("/proc/self/mounts").read_text()
    devices = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=False)
    assert str(directory) not in devices.stdout


def test_nothing_is_left_after_a_signal(tmp_path: Path) -> None:
    """As root it has a loop device then."""
    arguments = ["footprint", "--quick", "--peers", "", "--dir", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as process:
        end = time.monotonic() + DEADLINE_SECONDS
        while not list(tmp_path.glob("*/device/**/floor")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 143
    assert_nothing_is_left(tmp_path)
