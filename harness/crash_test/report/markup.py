"""HTML and SVG as nested calls: text is escaped wherever it stands, so no line of a log can become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

# Neither HTML nor XML can hold these: controls, lone surrogates (undecodable file names), non-characters.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VOID = {"meta", "br", "link", "line", "rect", "circle", "polyline"}


class Markup(str):
    """A string that is markup already."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]


def printable(text: str) -> str:
    """Return ``text`` with a replacement character for what no document can hold."""
    return _NOT_TEXT.sub("\ufffd", text)


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """Return an element.

    Args:
        children: markup is taken as it is, text is escaped, None is left out, iterables are taken one by one.
        attributes: ``class_`` is class, other underscores are hyphens; None is left out.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{shown}/>")
    return Markup(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Return the children of an element, one after the other."""
    return Markup("".join(map(_one, children)))


def _one(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return _escaped(child)
    return f"{child:,}" if isinstance(child, int) else join(child)


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)
