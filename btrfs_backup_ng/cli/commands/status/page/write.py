"""The page of a look, written to its file."""

from collections.abc import Sequence

from btrfs_backup_ng.cli.commands.status.page.document import page
from btrfs_backup_ng.cli.commands.status.page.gather import gather
from btrfs_backup_ng.cli.commands.status.view import Looked
from btrfs_backup_ng.cli.whole_file import replace_whole
from btrfs_backup_ng.session.history import Record
from btrfs_backup_ng.session.session import Session


def write_page(
    path: str, looked: Looked, records: Sequence[Record], session: Session
) -> None:
    """Write the page.

    :raises BackupError: if it cannot be written.
    """
    view = gather(looked.entries, looked.sources, records, session)
    replace_whole(path, page(view))
