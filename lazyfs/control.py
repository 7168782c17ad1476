"""The commands of the control socket: each is checked whole, carried out, and answered.

A command is a JSON object with "cmd" and the arguments of the method it names; the arguments'
names and types are those of the method's signature.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lazyfs import faults as fault
from lazyfs import report as reports
from lazyfs.corrupt import Corruptions
from lazyfs.describe import OP_NAMES
from lazyfs.errors import CommandError, LazyfsError
from lazyfs.inode import Inode
from lazyfs.profiles import PowerLoss, get_profile
from lazyfs.server import Server
from lazyfs.trace import Recorder

Answer = dict[str, Any]


def command(method: Callable[..., Answer]) -> Callable[..., Answer]:
    """Mark a method as a command; its name with hyphens is the command's."""
    method.__dict__["is_command"] = True
    return method


class Control:
    """Commands to one mount.

    Args:
        server: of the mount.
        mount_point, root: for `status`.
    """

    def __init__(self, server: Server, mount_point: Path, root: Path) -> None:
        self._server = server
        self._mount_point = mount_point
        self._root = root
        self._corruptions = Corruptions()
        self._recorder: Recorder | None = None
        self._commands = {
            name.replace("_", "-"): method
            for name, method in inspect.getmembers(self, inspect.ismethod)
            if getattr(method, "is_command", False)
        }
        server.faults.fail_sync = server.disk.fail_sync
        server.faults.cut_power = self._cut

    def execute_line(self, line: str) -> str:
        """Carry out one line of JSON. Returns the answer, one line of JSON without its end."""
        try:
            message = json.loads(line)
        except ValueError as error:
            return json.dumps({"ok": False, "error": f"not JSON: {error}"})
        return json.dumps(self.execute(message))

    def execute(self, message: object) -> Answer:
        """Carry out one command.

        Returns:
            "ok" true and what was done, or "ok" false and "error"; then nothing was changed.
        """
        try:
            method, arguments = self._check(message)
            with self._server.lock:
                return {"ok": True, **method(**arguments)}
        except LazyfsError as error:
            return {"ok": False, "error": str(error)}
        except OSError as error:
            return {"ok": False, "error": error.strerror or str(error)}

    def close(self) -> None:
        """Finish a recording that is still going on."""
        if self._recorder is not None:
            self._recorder.close()

    def _check(self, message: object) -> tuple[Callable[..., Answer], dict[str, Any]]:
        if not isinstance(message, dict):
            raise CommandError("a command is a JSON object")
        arguments = dict(message)
        name = arguments.pop("cmd", None)
        method = self._commands.get(name) if isinstance(name, str) else None
        if method is None:
            raise CommandError(f"unknown command {name!r}; known are {', '.join(self._commands)}")
        parameters = inspect.signature(method, eval_str=True).parameters
        for key, value in arguments.items():
            if key not in parameters:
                raise CommandError(f"{name}: unknown argument {key!r}")
            wanted = parameters[key].annotation
            # In JSON true is no number, in Python it is.
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise CommandError(f"{name}: {key}: {value!r} has the wrong type")
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in arguments:
                raise CommandError(f"{name}: the argument {key!r} is missing")
        return method, arguments

    # -- power and state -----------------------------------------------------------------

    @command
    def power_loss(self, seed: int | None = None, keep_handles: bool = False) -> Answer:
        """Cut the power. See `Server.power_loss`."""
        return asdict(self.cut(seed, keep_handles))

    def cut(self, seed: int | None = None, keep_handles: bool = False) -> PowerLoss:
        """Cut the power and note it in the trace; the caller holds the lock."""
        result = self._server.power_loss(seed, keep_handles)
        if self._recorder is not None:
            self._recorder.note("power-loss", seed=result.seed)
        return result

    def _cut(self) -> None:
        self.cut()

    @command
    def checkpoint(self) -> Answer:
        """Make everything durable, as sync does."""
        before = reports.unsynced(self._server.disk)
        self._server.disk.sync_all()
        if self._recorder is not None:
            self._recorder.note("sync")
        return {"synced_bytes": before["unsynced_bytes"], "synced_names": len(before["names"])}

    @command
    def report(self) -> Answer:
        """What would be lost now. See `report.unsynced`."""
        return reports.unsynced(self._server.disk)

    @command
    def status(self) -> Answer:
        """What this mount is."""
        disk = self._server.disk
        return {
            "pid": os.getpid(),
            "mount_point": str(self._mount_point),
            "root": str(self._root),
            "profile": disk.profile.name,
            "next_seed": disk.seed,
            "quota_bytes": disk.quota_bytes,
            "used_bytes": disk.used_bytes(),
            "inodes": len(disk.inodes),
            "rules": len(self._server.faults.rules),
        }

    @command
    def profile(
        self, name: str, ignored_syncs: list[str] | None = None, seed: int | None = None
    ) -> Answer:
        """Use another profile from now on. What is pending stays pending, except names that the
        new profile makes durable at once."""
        globs = None if ignored_syncs is None else tuple(ignored_syncs)
        disk = self._server.disk
        disk.set_profile(get_profile(name, globs))
        if seed is not None:
            disk.seed = seed
        return {"profile": name, "contract": disk.profile.contract, "next_seed": disk.seed}

    # -- faults --------------------------------------------------------------------------

    @command
    def fail(
        self,
        op: str,
        errno: str = "EIO",
        path: str = "*",
        nth: int = 1,
        forever: bool = False,
        aftermath: str = "kept",
    ) -> Answer:
        """Let the n-th matching operation fail. See `faults.Fail`."""
        if aftermath not in fault.AFTERMATHS:
            raise CommandError(f"aftermath: one of {', '.join(fault.AFTERMATHS)}")
        code = fault.parse_errno(errno)
        return self._add(
            fault.Fail(_op(op), path, _nth(nth), forever, code=code, aftermath=aftermath)
        )

    @command
    def slow(
        self,
        delay_ms: float | int,
        op: str = "*",
        path: str = "*",
        nth: int = 1,
        forever: bool = True,
    ) -> Answer:
        """Delay matching operations."""
        if delay_ms < 0:
            raise CommandError("delay_ms: a number of milliseconds from 0")
        return self._add(fault.Slow(_op(op), path, _nth(nth), forever, delay_s=delay_ms / 1000))

    @command
    def kill(
        self,
        op: str = "*",
        path: str = "*",
        nth: int = 1,
        pid: int = 0,
        when: str = "before",
        power_loss: bool = False,
    ) -> Answer:
        """SIGKILL a process at the n-th matching operation. See `faults.Kill`."""
        if when not in ("before", "after"):
            raise CommandError("when: before or after")
        if pid < 0 or pid == 1:
            raise CommandError("pid: a process id, or 0 for the process that asks")
        return self._add(
            fault.Kill(_op(op), path, _nth(nth), pid=pid, before=when == "before", cut=power_loss)
        )

    @command
    def rules(self) -> Answer:
        """The rules in force, with their matches so far."""
        listed = [
            {"kind": type(rule).__name__.lower(), "op": rule.op, "path": rule.path,
             "nth": rule.nth, "forever": rule.forever, "matches": rule.matches}
            for rule in self._server.faults.rules
        ]  # fmt: skip
        return {"rules": listed}

    @command
    def clear(self, kind: str = "all") -> Answer:
        """Remove rules: of one kind (fail, slow, kill) or all."""
        kinds = {"all": fault.Rule, "fail": fault.Fail, "slow": fault.Slow, "kill": fault.Kill}
        if kind not in kinds:
            raise CommandError(f"kind: one of {', '.join(kinds)}")
        return {"removed": self._server.faults.clear(kinds[kind])}

    @command
    def quota(self, bytes: int | None) -> Answer:
        """Limit the sum of all file sizes; null removes the limit."""
        disk = self._server.disk
        if bytes is not None and bytes < 0:
            raise CommandError("bytes: a number from 0, or null")
        disk.quota_bytes = bytes
        return {"quota_bytes": bytes, "used_bytes": disk.used_bytes()}

    def _add(self, rule: fault.Rule) -> Answer:
        self._server.faults.add(rule)
        return {"added": type(rule).__name__.lower(), "op": rule.op, "path": rule.path}

    # -- damage --------------------------------------------------------------------------

    @command
    def corrupt(
        self,
        path: str,
        kind: str,
        offset: int = 0,
        length: int = 1,
        mask: int = 1,
        other_offset: int = 0,
        distance: int = 0,
    ) -> Answer:
        """Damage the synced content of a file. See `corrupt.Corruptions`."""
        inode = self._file(path)
        damage = self._corruptions
        if kind == "flip":
            done = damage.flip(inode, path, offset, length, mask)
        elif kind == "zero":
            done = damage.zero(inode, path, offset, length)
        elif kind == "swap":
            done = damage.swap(inode, path, offset, other_offset, length)
        elif kind == "misdirect":
            done = damage.misdirect(inode, path, distance)
        else:
            raise CommandError("kind: flip, zero, swap or misdirect")
        return {"injected": asdict(done)}

    @command
    def corruptions(self) -> Answer:
        """The register of all damage injected."""
        return {"corruptions": self._corruptions.register()}

    def _file(self, path: str) -> Inode:
        inode = self._server.disk.resolve(path.lstrip("/"))
        if not inode.is_file:
            raise CommandError(f"{path}: not a regular file")
        return inode

    # -- traces --------------------------------------------------------------------------

    @command
    def record(self, file: str | None) -> Answer:
        """Record every operation with its data to a file; null ends the recording."""
        ended = 0
        started = None if file is None else Recorder(Path(file))
        if self._recorder is not None:
            ended = self._recorder.count
            self._server.faults.watchers.remove(self._recorder.watch)
            self._recorder.close()
        self._recorder = started
        if started is not None:
            self._server.faults.watchers.append(started.watch)
        return {"recording": file, "operations_recorded": ended}


def _op(name: str) -> str:
    if name not in OP_NAMES and not any(mark in name for mark in "*?["):
        raise CommandError(f"unknown operation {name!r}; known are {', '.join(sorted(OP_NAMES))}")
    return name


def _nth(nth: int) -> int:
    if nth < 1:
        raise CommandError("nth: counted from 1")
    return nth
