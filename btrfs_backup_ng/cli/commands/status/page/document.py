"""The page of ``status --html``: one file without scripts, and without the network."""

from btrfs_backup_ng import PROGRAM, __version__
from btrfs_backup_ng.__util__ import read_packaged
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.commands.status.page import sections
from btrfs_backup_ng.cli.commands.status.page.html import Html, joined, tag
from btrfs_backup_ng.cli.commands.status.page.view import PageView

#: Nothing may be loaded or run, whatever a name contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(view: PageView) -> str:
    """Return the page."""
    is_fine = all(entry.is_fine(view.now) for entry in view.entries)
    verdict = sections.verdict(view.entries, view.now)
    style = Html(read_packaged(__package__, "style.css"))
    head = [
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("title", f"Backups of {view.host}: {verdict}"),
        tag("style", style),
    ]
    when = wording.exact(view.now)
    body = [
        tag(
            "header",
            tag("p", f"Backups of {view.host}, {when}"),
            tag("h1", verdict, class_="good" if is_fine else "bad"),
        ),
        tag(
            "main",
            sections.freshness(view),
            sections.retention(view),
            sections.transfers(view),
            sections.space(view),
            sections.checks(view),
            sections.problems(view),
            sections.restoring(view),
        ),
        tag("footer", f"{PROGRAM} {__version__}"),
    ]
    document = tag(
        "html", tag("head", joined(head)), tag("body", joined(body)), lang="en"
    )
    return f"<!DOCTYPE html>\n{document}\n"
