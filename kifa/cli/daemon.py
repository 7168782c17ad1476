"""``kifa daemon``: sources to the store."""

from __future__ import annotations

import os

from kifa._typing import Any
from kifa.config import load_config
from kifa.logs import set_up_logging


def run(data_dir: str | None, config_file: str | None, **given: Any) -> int:
    """Store what the sources send, each line or datagram as one entry.

    SIGINT and SIGTERM store everything that was read and end with 130 and 143, a second SIGINT leaves at once;
    SIGUSR1 switches to emergency mode, SIGUSR2 back.
    """
    set_up_logging(os.environ)
    config = load_config(given, data_dir=data_dir, config_file=config_file)
    from kifa.daemon import run_daemon

    return run_daemon(config)
