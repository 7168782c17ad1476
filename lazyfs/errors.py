"""The errors of lazyfs that a person sees: each message is one line and says what to do."""


class LazyfsError(Exception):
    """A request that cannot be carried out; nothing was changed."""


class ConfigError(LazyfsError):
    """The configuration file or a command line value is wrong."""


class MountError(LazyfsError):
    """The mount point, /dev/fuse or the backing directory cannot be used."""


class CommandError(LazyfsError):
    """A control command is malformed or names something that does not exist."""
