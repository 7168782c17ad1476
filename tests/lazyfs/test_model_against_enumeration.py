"""After a power loss the model is in exactly the states that an independent enumeration allows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyfs.inode import Directory, paths_of
from lazyfs.model import Disk
from lazyfs.profiles import PROFILES, get_profile
from tests.lazyfs.reference import GARBAGE, Op, Reference, State

NAMES = ("a", "b", "d/a")
MIN_CUTS = 200
MAX_CUTS = 4000


@pytest.fixture(autouse=True)
def known_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random.Random, "randbytes", lambda self, count: GARBAGE * count)


def run_on_disk(disk: Disk, op: Op) -> None:
    kind, name, *rest = op
    assert isinstance(name, str)
    if kind == "fsyncdir":
        disk.sync(disk.resolve(name))
        return
    head, _, tail = name.rpartition("/")
    parent, last = disk.resolve(head), tail.encode()
    assert isinstance(parent, Directory)
    if kind == "create":
        disk.create(parent, last, 0o100644)
    elif kind in ("rename", "link"):
        head, _, tail = str(rest[0]).rpartition("/")
        new_parent = disk.resolve(head)
        assert isinstance(new_parent, Directory)
        if kind == "rename":
            disk.rename(parent, last, new_parent, tail.encode())
        else:
            disk.link(disk.resolve(name), new_parent, tail.encode())
    elif kind == "unlink":
        disk.unlink(parent, last)
    elif kind == "fsync":
        disk.sync(disk.resolve(name))
    elif kind == "zero":
        disk.zero(disk.resolve(name), rest[0], rest[1], extend=False)
    else:
        getattr(disk, str(kind))(disk.resolve(name), *rest)


def state_of(disk: Disk) -> State:
    return frozenset(
        (path, disk.read(inode, 0, inode.size))
        for inode in disk.inodes.values()
        if inode.is_file
        for path in paths_of(inode)
    )


def new_disk(profile: str) -> Disk:
    disk = Disk(get_profile(profile))
    disk.create(disk.root, b"d", 0o040755)
    disk.sync_all()
    return disk


def cut(profile: str, program: list[Op], seed: int) -> State:
    disk = new_disk(profile)
    for op in program:
        run_on_disk(disk, op)
    disk.power_loss(seed)
    return state_of(disk)


def possible(profile: str, program: list[Op]) -> tuple[list[Op], set[State]]:
    """The operations of a program that are possible, and the states after them."""
    reference = Reference(profile)
    return [op for op in program if reference.run(op)], reference.states()


name = st.sampled_from(NAMES)
small = st.integers(0, 6)
data = st.integers(1, 4).flatmap(lambda n: st.sampled_from([b"x" * n, b"y" * n]))
operation = st.one_of(
    st.tuples(st.just("create"), name),
    st.tuples(st.just("create"), name),
    st.tuples(st.just("write"), name, small, data),
    st.tuples(st.just("write"), name, small, data),
    st.tuples(st.just("truncate"), name, small),
    st.tuples(st.just("allocate"), name, small, st.integers(1, 4)),
    st.tuples(st.just("zero"), name, small, st.integers(1, 4)),
    st.tuples(st.just("rename"), name, name),
    st.tuples(st.just("link"), name, name),
    st.tuples(st.just("unlink"), name),
    st.tuples(st.just("fsync"), name),
    st.tuples(st.just("fsyncdir"), st.sampled_from(["", "d"])),
)


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=120, deadline=None)
@given(program=st.lists(operation, max_size=12), seeds=st.sets(st.integers(0, 2**32), min_size=5))
def test_no_state_that_is_not_allowed(profile: str, program: list[Op], seeds: set[int]) -> None:
    program, allowed = possible(profile, program)
    for seed in seeds:
        assert cut(profile, program, seed) in allowed


PROGRAMS: dict[str, list[Op]] = {
    "new file": [("create", "a"), ("write", "a", 0, b"xx")],
    "overwrite": [("create", "a"), ("write", "a", 0, b"xxxx"), ("fsync", "a"), ("fsyncdir", ""),
                  ("write", "a", 1, b"yy"), ("truncate", "a", 3)],
    "save by rename": [("create", "a"), ("write", "a", 0, b"x"), ("fsync", "a"), ("fsyncdir", ""),
                       ("create", "b"), ("write", "b", 0, b"yy"), ("rename", "b", "a")],
    "save with fsync": [("create", "a"), ("write", "a", 0, b"x"), ("fsync", "a"), ("fsyncdir", ""),
                        ("create", "b"), ("write", "b", 0, b"yy"), ("fsync", "b"),
                        ("rename", "b", "a")],
    "between directories": [("create", "a"), ("fsync", "a"), ("fsyncdir", ""),
                            ("rename", "a", "d/a"), ("create", "a")],
    "rotate": [("create", "a"), ("write", "a", 0, b"x"), ("fsync", "a"), ("fsyncdir", ""),
               ("rename", "a", "b"), ("create", "a")],
    "half synced rename": [("create", "a"), ("create", "b"), ("rename", "a", "d/a"),
                           ("fsyncdir", "d")],
    "link and unlink": [("create", "a"), ("write", "a", 0, b"x"), ("fsync", "a"), ("fsyncdir", ""),
                        ("link", "a", "b"), ("unlink", "a"), ("create", "a")],
    "allocate": [("create", "a"), ("fsync", "a"), ("fsyncdir", ""), ("allocate", "a", 0, 4),
                 ("write", "a", 1, b"x"), ("zero", "a", 0, 3)],
}  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_allowed_state_is_reached(profile: str, program: str) -> None:
    operations, allowed = possible(profile, PROGRAMS[program])
    assert operations == PROGRAMS[program]
    seen: set[State] = set()
    for seed in range(MAX_CUTS):
        seen.add(cut(profile, operations, seed))
        assert seen <= allowed
        # Not as soon as all are there: a state that is not allowed may still come.
        if seen == allowed and seed >= MIN_CUTS:
            break
    assert seen == allowed


@pytest.mark.parametrize("profile", PROFILES)
def test_same_seed_same_loss(profile: str) -> None:
    program = PROGRAMS["save by rename"]
    assert cut(profile, program, 7) == cut(profile, program, 7)
