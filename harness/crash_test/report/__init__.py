"""``--report DIR``: report.json for programs, junit.xml for CI, report.html for people, all from one `RunResult`."""

from __future__ import annotations

import json
from pathlib import Path

from harness.crash_test.report.junit import junit_xml
from harness.crash_test.report.page import html_page
from harness.crash_test.results import RunResult


def write_report(run: RunResult, directory: Path) -> None:
    """Write the three files, each whole or not at all.

    Raises:
        OSError: the directory cannot be made or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.json": json.dumps(run.to_json(), indent=1).encode(),
        "junit.xml": junit_xml(run),
        "report.html": html_page(run).encode(),
    }
    for name, content in contents.items():
        temporary = directory / f".{name}.tmp"
        temporary.write_bytes(content)
        temporary.replace(directory / name)
