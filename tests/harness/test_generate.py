"""gen-transactions, run as its users do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

COMMAND = [sys.executable, "-m", "harness.generate"]


def generate(*arguments: str) -> list[dict[str, object]]:
    output = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, check=True, timeout=30
    ).stdout
    return [json.loads(line) for line in output.splitlines()]


def without_time(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**line, "timestamp": ""} for line in lines]


def test_the_same_seed_gives_the_same_stream_at_any_rate() -> None:
    fast = without_time(generate("-n", "700", "-s", "7"))
    assert fast == without_time(generate("-n", "700", "-s", "7", "-r", "5000"))
    assert fast[:10] == without_time(generate("-n", "10", "-s", "7"))
    assert fast != without_time(generate("-n", "700", "-s", "8"))


def test_fields_and_weights() -> None:
    lines = generate("-n", "20000", "-s", "1", "-t", "3", "-a", "2")
    names = "txn_id terminal_id agent_id timestamp type amount currency method sender receiver"
    assert list(lines[0]) == [*names.split(), "status", "receipt"]
    assert len({line["txn_id"] for line in lines}) == 20_000
    assert len({line["terminal_id"] for line in lines}) == 3
    assert len({line["agent_id"] for line in lines}) == 2
    for field, weights in {
        "type": {"payment": 60, "withdrawal": 20, "deposit": 15, "transfer": 5},
        "method": {"mobile_money": 70, "cash": 20, "card": 10},
        "status": {"completed": 95, "failed": 3, "pending": 2},
    }.items():
        found = Counter(line[field] for line in lines)
        for value, percent in weights.items():
            assert abs(found[value] / 200 - percent) < 1.5, (field, value)


def test_a_broken_pipe_is_quiet() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(timeout=10)


def test_a_wrong_option_is_named() -> None:
    result = subprocess.run([*COMMAND, "-n", "-1"], capture_output=True, check=False, timeout=10)
    assert result.returncode == 2
    assert b"-n" in result.stderr
