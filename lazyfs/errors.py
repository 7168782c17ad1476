"""The errors of lazyfs: those a person sees, each one line that says what to do, and those a program gets."""

import os


class LazyfsError(Exception):
    """A request that cannot be carried out; nothing was changed."""


class ConfigError(LazyfsError):
    """The configuration file or a command line value is wrong."""


class MountError(LazyfsError):
    """The mount point, /dev/fuse or the backing directory cannot be used."""


class CommandError(LazyfsError):
    """A control command is malformed or names something that does not exist."""


def refuse(code: int) -> OSError:
    """The error with which an operation is refused."""
    return OSError(code, os.strerror(code))
