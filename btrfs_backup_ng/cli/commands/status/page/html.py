"""Elements of a page: text -> HTML, in which no text can be an element."""

from collections.abc import Sequence

from btrfs_backup_ng.__util__ import visible

_ENTITIES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
}
_TABLE = str.maketrans(_ENTITIES)


class Html(str):
    """A part of a page; any other text becomes one by :func:`escaped`."""


def escaped(text: str) -> Html:
    """Return a text that shows as it is, between elements and in attributes."""
    if isinstance(text, Html):
        return text
    return Html(visible(text).translate(_TABLE))


def tag(name: str, *content: str, **attributes: object) -> Html:
    """Return an element.

    :param content: texts, which are escaped, and elements.
    :param attributes: by their names, with ``_`` for a dash, and one more at the end.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    inside = "".join(map(escaped, content))
    return Html(f"<{name}{words}>{inside}</{name}>")


def joined(parts: Sequence[Html]) -> Html:
    """Return elements one behind the other."""
    return Html("\n".join(parts))


def clipped(text: str, most: int = 80) -> str:
    """Return a text with its middle left out if it is long."""
    text = visible(text)
    if len(text) <= most:
        return text
    half = most // 2 - 1
    return f"{text[:half]}…{text[-half:]}"
