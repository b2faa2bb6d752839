"""Sphinx configuration: the manual, and an API page made of all modules there are."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import btrfs_backup_ng  # noqa: E402

project = "btrfs-backup-ng"
author = "the btrfs-backup-ng maintainers"
copyright = f"2026, {author}"
version = release = btrfs_backup_ng.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "*.md"]
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "ignore-module-all": True,  # what is imported is told of where it is made
    "member-order": "bysource",
}
autodoc_typehints = "signature"
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
