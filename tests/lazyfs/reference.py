"""What may be on a disk after a power loss, enumerated from the profiles' contracts.

Written apart from `lazyfs.model`, as simply as possible: lists of everything that happened, and
every allowed choice tried out. Paths are `name` or `d/name`; `d` exists and is synced.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Op = tuple[Any, ...]
State = frozenset[tuple[str, bytes]]
GARBAGE = b"?"


@dataclass
class File:
    """The synced content of a file and what was done since."""

    synced: bytes = b""
    pending: list[Op] = field(default_factory=list)

    def now(self) -> bytes:
        content = self.synced
        for op in self.pending:
            content = changed(content, op)
        return content


def changed(content: bytes, op: Op) -> bytes:
    """Content after one whole operation."""
    kind, *arguments = op
    if kind == "write":
        data: bytes
        offset, data = arguments
        content = content.ljust(offset, b"\0")
        return content[:offset] + data + content[offset + len(data) :]
    if kind == "truncate":
        size: int = arguments[0]
        return content[:size].ljust(size, b"\0")
    if kind == "allocate":
        return content.ljust(sum(arguments), b"\0")
    offset, length = arguments
    end = min(offset + length, len(content))
    return content[:offset] + bytes(max(0, end - offset)) + content[max(offset, end) :]


class Reference:
    """Follows a program, and enumerates the states after a power loss now."""

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.names: dict[str, File] = {}
        self.durable: dict[str, File] = {}
        self.journal: list[dict[str, File | None]] = []

    def run(self, op: Op) -> bool:
        """Carry out one operation. Returns whether it was possible."""
        kind, name, *rest = op
        assert isinstance(name, str)
        if kind == "fsyncdir":
            self._sync_directory(name)
            return True
        if kind == "create":
            if name in self.names:
                return False
            self._rename_slots({name: File()})
            return True
        if name not in self.names:
            return False
        file = self.names[name]
        if kind == "rename":
            if rest[0] != name and self.names.get(str(rest[0])) is not file:
                self._rename_slots({name: None, str(rest[0]): file})
        elif kind == "link":
            if rest[0] in self.names:
                return False
            self._rename_slots({str(rest[0]): file})
        elif kind == "unlink":
            self._rename_slots({name: None})
        elif kind == "fsync":
            self._sync_file(file)
        else:
            file.pending.append((kind, *rest))
        return True

    def states(self) -> set[State]:
        """Every state the contract allows after a power loss now."""
        result = set()
        for kept in self._surviving_names():
            names = dict(self.durable)
            for index in kept:
                _set(names, self.journal[index])
            files = list({id(file): file for file in names.values()}.values())
            for contents in itertools.product(*(self._contents(file) for file in files)):
                by_file = {id(file): content for file, content in zip(files, contents, strict=True)}
                result.add(frozenset((name, by_file[id(file)]) for name, file in names.items()))
        return result

    def _rename_slots(self, slots: dict[str, File | None]) -> None:
        _set(self.names, slots)
        if self.profile in ("lazyfs", "lying-flash"):
            _set(self.durable, slots)
        else:
            self.journal.append(slots)

    def _sync_file(self, file: File) -> None:
        if self.profile == "lying-flash":
            return
        if self.profile == "ext4-ordered":
            named_now = {name for name, other in self.names.items() if other is file}
            named_durably = {name for name, other in self.durable.items() if other is file}
            if named_now != named_durably or len(file.now()) != len(file.synced):
                self._commit(set(range(len(self.journal))))
        file.synced = file.now()
        file.pending = []

    def _sync_directory(self, directory: str) -> None:
        if self.profile == "ext4-ordered":
            self._commit(set(range(len(self.journal))))
            return
        chosen = {
            index
            for index, slots in enumerate(self.journal)
            if any(_directory(name) == directory for name in slots)
        }
        while True:
            more = {
                earlier
                for later in chosen
                for earlier in range(later)
                if self.journal[earlier].keys() & self.journal[later].keys()
            }
            if more <= chosen:
                break
            chosen |= more
        self._commit(chosen)

    def _commit(self, chosen: set[int]) -> None:
        for index in sorted(chosen):
            _set(self.durable, self.journal[index])
        self.journal = [s for index, s in enumerate(self.journal) if index not in chosen]

    def _surviving_names(self) -> Iterator[tuple[int, ...]]:
        count = len(self.journal)
        if self.profile == "ext4-ordered":
            yield from (tuple(range(length)) for length in range(count + 1))
        elif self.profile == "random":
            for size in range(count + 1):
                for subset in itertools.combinations(range(count), size):
                    if self._in_order(set(subset)):
                        yield subset
        else:
            yield ()

    def _in_order(self, subset: set[int]) -> bool:
        return all(
            earlier in subset
            for later in subset
            for earlier in range(later)
            if self.journal[earlier].keys() & self.journal[later].keys()
        )

    def _contents(self, file: File) -> set[bytes]:
        if self.profile == "ext4-ordered":
            result, content = {file.synced}, file.synced
            for op in file.pending:
                content = changed(content, op)
                result.add(content)
            return result
        if self.profile != "random":
            return {file.synced}
        contents = {file.synced}
        for op in file.pending:
            contents |= {new for old in contents for new in _fates(old, op)}
        return contents


def _fates(content: bytes, op: Op) -> Iterator[bytes]:
    """What one operation that was not wholly lost can have left; writes are within a sector."""
    yield changed(content, op)
    if op[0] == "write":
        offset, data = op[1], op[2]
        assert isinstance(offset, int)
        assert isinstance(data, bytes)
        yield content.ljust(offset + len(data), b"\0")
        yield changed(content, ("write", offset, bytes(len(data))))
        yield changed(content, ("write", offset, GARBAGE * len(data)))


def _set(names: dict[str, File], slots: dict[str, File | None]) -> None:
    for name, file in slots.items():
        names.pop(name, None)
        if file is not None:
            names[name] = file


def _directory(name: str) -> str:
    return name.rpartition("/")[0]
