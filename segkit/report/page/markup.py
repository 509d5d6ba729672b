"""HTML that cannot be broken by what it holds: text is escaped unless it was made here."""

import html
from collections.abc import Mapping
from typing import Final

VOID: Final = frozenset({"br", "col", "img", "input", "meta"})

# C0 and C1 controls but tab and line ends: HTML has no way to write them.
_CONTROLS: Final = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in {9, 10}}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | Markup | None


def escape(text: str) -> Markup:
    """Return text such that HTML shows it as it is, in content and in quoted attributes.

    What no file can hold as UTF-8 (halves of surrogate pairs, as in names of files that are not text) and control
    characters are replaced.
    """
    if isinstance(text, Markup):
        return text
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").translate(_CONTROLS)
    return Markup(html.escape(whole, quote=True))


def element(name: str, *children: Child, attributes: Mapping[str, str | float | bool | None] | None = None) -> Markup:
    """Return an element with its children, which are escaped unless they are markup; None is left out.

    Parameters
    ----------
    name
        Of the element.
    children
        Its content, in order.
    attributes
        By name. True gives an attribute without a value; None and False leave it out.

    Raises
    ------
    ValueError
        An element that has no content is given some.
    """
    given = "".join(
        f" {key}" if value is True else f' {key}="{escape(value if isinstance(value, str) else str(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None and value is not False
    )
    if name in VOID:
        if children:
            raise ValueError(f"<{name}> has no content")
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Return pieces one after the other, escaped unless they are markup."""
    return Markup("".join(escape(child) for child in children if child is not None))
