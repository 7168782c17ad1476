"""The configuration file: LazyFS's TOML, and a section of our own.

LazyFS's keys that speak of its own cache are accepted and have no effect here: pages are not
evicted, so nothing is written before it is synced. Every other unknown key is an error.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyfs.errors import ConfigError
from lazyfs.injection import Crash, Injection, TornOp, TornSeq, parts_of

_CACHE_KEYS = {
    "apply_eviction": bool,
    "simple": {"custom_size": str, "blocks_per_page": int},
    "manual": {"io_block_size": int, "page_size": int, "no_pages": int},
}
_FILE_SYSTEM_KEYS = {"log_all_operations": bool, "logfile": str}
_LAZYFS_KEYS = {"profile": str, "seed": int, "ignored_syncs": list, "socket": str, "quota": int}
_FAULT_KEYS = {"fifo_path": str, "fifo_path_completed": str}
_SECTIONS: dict[str, dict[str, Any]] = {
    "faults": _FAULT_KEYS,
    "cache": _CACHE_KEYS,
    "file system": _FILE_SYSTEM_KEYS,
    "filesystem": _FILE_SYSTEM_KEYS,
    "lazyfs": _LAZYFS_KEYS,
}


@dataclass(frozen=True)
class Config:
    """What a configuration file says.

    Attributes:
        profile, seed, ignored_syncs, socket, quota_bytes: section `[lazyfs]`; ours.
        fifo_path, fifo_path_completed: section `[faults]`.
        injections: the `[[injection]]` tables.
        log_all_operations, logfile: section `[file system]`.
    """

    profile: str | None = None
    seed: int | None = None
    ignored_syncs: tuple[str, ...] | None = None
    socket: Path | None = None
    quota_bytes: int | None = None
    fifo_path: Path | None = None
    fifo_path_completed: Path | None = None
    injections: tuple[Injection, ...] = ()
    log_all_operations: bool = False
    logfile: Path | None = None


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: it cannot be read, or a key or value in it is wrong; names the key.
    """
    try:
        text = path.read_text("utf-8")
        # LazyFS writes this header with a space, which plain TOML does not allow.
        data = tomllib.loads(text.replace("[file system]", '["file system"]'))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return _parse(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _parse(data: dict[str, Any]) -> Config:
    injections = data.pop("injection", [])
    if not isinstance(injections, list):
        raise ConfigError("injection: write [[injection]]")
    for section, value in data.items():
        if section not in _SECTIONS:
            raise ConfigError(f"unknown section [{section}]")
        _check_keys(section, value, _SECTIONS[section])
    own, faults = data.get("lazyfs", {}), data.get("faults", {})
    file_system = data.get("filesystem", data.get("file system", {}))
    ignored = own.get("ignored_syncs")
    return Config(
        profile=own.get("profile"),
        seed=own.get("seed"),
        ignored_syncs=None if ignored is None else tuple(ignored),
        socket=_path(own, "socket"),
        quota_bytes=own.get("quota"),
        fifo_path=_path(faults, "fifo_path"),
        fifo_path_completed=_path(faults, "fifo_path_completed"),
        injections=tuple(_injection(item) for item in injections),
        log_all_operations=file_system.get("log_all_operations", False),
        logfile=_path(file_system, "logfile"),
    )


def _path(section: dict[str, Any], key: str) -> Path | None:
    return Path(section[key]) if section.get(key) else None


def _check_keys(section: str, value: object, known: dict[str, Any]) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{section}: not a section")
    for key, item in value.items():
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in [{section}]")
        wanted = known[key]
        if isinstance(wanted, dict):
            _check_keys(f"{section}.{key}", item, wanted)
        elif not isinstance(item, wanted) or (isinstance(item, bool) and wanted is not bool):
            raise ConfigError(f"{key!r} in [{section}]: wrong type, {wanted.__name__} is needed")


def _injection(item: dict[str, Any]) -> Injection:
    values = dict(item)
    kind = values.pop("type", None)
    occurrence = values.pop("occurrence", 1)
    try:
        if kind == "torn-op":
            parts = values.pop("parts", None)
            sizes = values.pop("parts_bytes", None)
            result: Injection = TornOp(
                values.pop("file"), occurrence, parts_of(parts, sizes), tuple(values.pop("persist"))
            )
        elif kind == "torn-seq":
            result = TornSeq(
                values.pop("file"), occurrence, values.pop("op"), tuple(values.pop("persist"))
            )
        elif kind in ("clear", "clear-cache"):
            result = Crash(
                timing=values.pop("timing"),
                op=values.pop("op"),
                from_rgx=values.pop("from", ""),
                to_rgx=values.pop("to", ""),
                occurrence=occurrence,
                crash=values.pop("crash", True),
            )
        else:
            raise ConfigError(f"injection: unknown type {kind!r}; torn-op, torn-seq or clear")
    except KeyError as error:
        raise ConfigError(f"injection {kind}: the key {error} is missing") from None
    except TypeError as error:
        raise ConfigError(f"injection {kind}: {error}") from None
    if values:
        raise ConfigError(f"injection {kind}: unknown key {next(iter(values))!r}")
    result.check()
    return result
