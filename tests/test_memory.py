from __future__ import annotations

import subprocess
import sys

FORGET = """
import hashlib, re
from kifa._memory import forget_start

def resident_file_pages_kib():
    return int(re.search(r"RssFile:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

expected = hashlib.sha256(b"x" * 100_000).hexdigest()
before = resident_file_pages_kib()
forget_start()
print(before - resident_file_pages_kib())
assert hashlib.sha256(b"x" * 100_000).hexdigest() == expected
forget_start()
"""


def test_what_starting_needed_is_given_back_and_comes_again_when_needed() -> None:
    found = subprocess.run([sys.executable, "-c", FORGET], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 1024
