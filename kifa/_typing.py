"""What annotations need, at a tenth of the cost of `typing`, which is 0.6 MiB and, here, 10 ms of every start.

To type checkers these names are those of `typing`. At run time they mean nothing, but for `NamedTuple`: that of
`typing` compiles the text of each annotation, which is most of what it costs.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know better

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypeVar as TypeVar
else:
    from collections import namedtuple

    Any = ClassVar = Self = object

    class Protocol:
        """The base of classes that only describe."""

    def TypeVar(name, **_):
        """Return what only annotations mention."""
        return name

    class _NamedTupleType(type):
        def __new__(kind, name, bases, content):
            if not bases:
                return super().__new__(kind, name, bases, content)
            fields = content["__annotations__"]
            defaults = [content.pop(field) for field in fields if field in content]
            made = namedtuple(name, fields, defaults=defaults, module=content["__module__"])
            for key, value in content.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_NamedTupleType):
        """The base of classes of which the annotated names are fields, in order; see `collections.namedtuple`."""
