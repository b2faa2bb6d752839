"""Texts in a TOML document, and names that need no quotes in one."""

import json
import re
from collections.abc import Collection


def write_text(text: str) -> str:
    """Return a text as TOML writes it: as JSON does, without invisible characters."""
    return "".join(map(_shown, json.dumps(text, ensure_ascii=False)))


def _shown(sign: str) -> str:
    return sign if sign.isprintable() else f"\\U{ord(sign):08x}"


def write_key(name: str) -> str:
    """Return the name of a key or section, in quotes if it needs them."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else write_text(name)


def plain_name(text: str, taken: Collection[str]) -> str:
    """Return a free name for a section, made of a text.

    :param text: as a path; ``/`` becomes ``root``.
    """
    name = re.sub(r"[^\w.-]+", "-", text.strip("/")).strip("-.") or "root"
    while name in taken:
        name += "-2"
    return name
