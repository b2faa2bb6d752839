"""Sphinx configuration: the manual, and an API page made of all modules there are.

The pages of tasks are Markdown, as README is, to be readable where the code is.
They use little of it, which :func:`to_rst` translates for Sphinx.
"""

import gc
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import btrfs_backup_ng  # noqa: E402

# The search for garbage, of which there is little, would take a third of a build.
gc.set_threshold(50_000, 1000)

project = "btrfs-backup-ng"
author = "the btrfs-backup-ng maintainers"
copyright = f"2026, {author}"
version = release = btrfs_backup_ng.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
source_suffix = {".rst": "restructuredtext", ".md": "restructuredtext"}
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "ignore-module-all": True,  # what is imported is told of where it is made
    "member-order": "bysource",
}
autodoc_typehints = "signature"
autodoc_use_type_comments = False  # there are none
html_theme = "alabaster"
html_theme_options = {"description": "Incremental btrfs backups"}


def write_api_pages() -> None:
    """Write one page a module, so that none can be missing or stale."""
    pages = HERE / "api"
    pages.mkdir(exist_ok=True)
    wanted = {}
    for path in sorted((HERE.parent / "btrfs_backup_ng").rglob("*.py")):
        parts = path.relative_to(HERE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        title = name.replace("__", r"\_\_")
        wanted[f"{name}.rst"] = (
            f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n"
        )
    for page in pages.glob("*.rst"):
        if page.name not in wanted:
            page.unlink()
    for page_name, text in wanted.items():
        (pages / page_name).write_text(text)


write_api_pages()


def to_rst(text: str) -> str:
    """Return a page of Markdown as reStructuredText."""
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    blocks = re.split(
        r"^(```.*\n(?:.*\n)*?```\n|(?:    .*\n|\n(?=    ))+)", text, flags=re.M
    )
    return "".join(
        _prose(block) if number % 2 == 0 else _literal(block)
        for number, block in enumerate(blocks)
    )


def _literal(block: str) -> str:
    if block.startswith("```"):
        lines = block.splitlines()[1:-1]
        block = "".join(f"    {line}".rstrip() + "\n" for line in lines)
    return f"\n.. code-block:: none\n\n{block}\n"


def _prose(text: str) -> str:
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)
    text = re.sub(r"\[([^]]+)\]\((http[^)]+)\)", r"`\1 <\2>`__", text)
    text = re.sub(r"\[([^]]+)\]\(([\w-]+)\.(?:md|rst)\)", r":doc:`\1 <\2>`", text)
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    for marks, line in (("###", "~"), ("##", "-"), ("#", "=")):
        text = re.sub(
            rf"^{marks} (.*)$",
            lambda found: f"{found[1]}\n{line * len(found[1])}",
            text,
            flags=re.M,
        )
    return re.sub(r"(?:^\|.*\n)+", lambda found: _table(found[0]), text, flags=re.M)


def _table(text: str) -> str:
    rows = [re.split(r"\s*(?<!\\)\|\s*", line)[1:-1] for line in text.splitlines()]
    lines = ["", ".. list-table::", "   :header-rows: 1", ""]
    for row in rows[:1] + rows[2:]:
        lines += [
            f"   {'*' if not at else ' '} - {cell}" for at, cell in enumerate(row)
        ]
    return "\n".join([*lines, "", ""])


def _read(app, docname, source) -> None:
    if Path(app.env.doc2path(docname)).suffix == ".md":
        source[0] = to_rst(source[0])


def setup(app) -> None:
    """Let Sphinx read pages of Markdown."""
    app.connect("source-read", _read)
