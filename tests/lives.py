"""The writer of one session of a random life (tests/test_many_lives.py): tries, and tells what came of it.

Lines on standard output: `t ID` before an entry is tried, `a LSN ID` when it is acknowledged, `r ID` when it was
refused and is not in the log, `o LSN` when the log is open, `d DAMAGE` for what recovery found, `f REASON` when it
could not be opened, `c` when it is closed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from typing import Any

SIZES = (0, 1, 30, 30, 200, 200, 200, 3_000, 4_056, 20_000)
RARE_SIZES = (120_000, 350_000, 700_000)


def content(identity: str) -> bytes:
    """What the entry of this identity holds: the identity, and as much more as the identity decides."""
    choices = random.Random(identity)
    size = choices.choice(RARE_SIZES if choices.random() < 0.01 else SIZES)
    start = identity.encode() + b" "
    return start + (start * (size // len(start) + 1))[:size]


def tell(*lines: str) -> None:
    os.write(1, "".join(line + "\n" for line in lines).encode())


class Session:
    """One opening of the store, from its first call to its last."""

    def __init__(self, name: str, log: Any, choices: random.Random) -> None:
        self.name, self.log, self.choices = name, log, choices
        self.count = 0

    def identities(self, count: int, thread: str = "m") -> list[str]:
        self.count += count
        return [f"{self.name}.{thread}.{self.count - count + i}" for i in range(count)]

    def append(self, identity: str) -> None:
        import kifa

        tell(f"t {identity}")
        try:
            lsn = self.log.append(content(identity))
        except kifa.PoisonedError:
            raise
        except (kifa.NoSpaceError, OSError):
            tell(f"r {identity}")
            raise
        if self.log.flush_mode != "normal":
            tell(f"a {lsn} {identity}")

    def append_many(self, count: int) -> None:
        identities = self.identities(count)
        tell(*(f"t {identity}" for identity in identities))
        lsns = self.log.append_many(list(map(content, identities)))
        tell(*(f"a {lsn} {identity}" for lsn, identity in zip(lsns, identities, strict=True)))

    def threads(self, threads: int, count: int) -> None:
        errors: list[BaseException] = []

        def body(identities: list[str]) -> None:
            try:
                for identity in identities:
                    self.append(identity)
            except BaseException as error:
                errors.append(error)

        running = [
            threading.Thread(target=body, args=(self.identities(count, f"t{self.count}"),))
            for _ in range(threads)
        ]
        for thread in running:
            thread.start()
        self.append_many(self.choices.randrange(1, 30))
        for thread in running:
            thread.join()
        if errors:
            raise errors[0]

    def step(self) -> None:
        kind = self.choices.choices(
            ["append", "many", "threads", "flush", "compact", "sync", "mode"],
            [8, 6, 3, 3, 2, 2, 1],
        )[0]
        if kind == "append":
            for identity in self.identities(self.choices.randrange(1, 12)):
                self.append(identity)
        elif kind == "many":
            self.append_many(self.choices.choice([1, 2, 7, 40, 300]))
        elif kind == "threads":
            self.threads(self.choices.randrange(2, 6), self.choices.randrange(1, 12))
        elif kind == "mode":
            self.log.set_flush_mode(self.choices.choice(["normal", "cautious", "emergency"]))
        else:
            getattr(self.log, kind)()


def main(path: str, name: str, plan: dict[str, Any]) -> int:
    import kifa

    choices = random.Random(name)
    try:
        log = kifa.open(path, **plan["settings"])
    except (kifa.KifaError, OSError) as error:
        tell(f"f {type(error).__name__}: {error}")
        return 0
    tell(f"o {log.last_lsn}", *(f"d {damage}" for damage in log.damage))
    session = Session(name, log, choices)
    for _ in range(plan["steps"]):
        try:
            session.step()
        except kifa.PoisonedError:
            break
        except (kifa.NoSpaceError, OSError):
            if choices.random() < 0.3:
                break
    if plan["end"] == "exit":
        os._exit(0)
    try:
        log.close()
        tell("c")
    except kifa.PoisonedError:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
