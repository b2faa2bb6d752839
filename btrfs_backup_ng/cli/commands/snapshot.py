"""The ``snapshot`` verb: of all that ``run`` does, only the snapshots."""

from collections.abc import Sequence

from btrfs_backup_ng.cli.backup_options import add_backup_options
from btrfs_backup_ng.cli.commands import run
from btrfs_backup_ng.cli.config.options import add_config
from btrfs_backup_ng.cli.parser import Parser, add_display, new_parser


def main(words: Sequence[str]) -> int:
    """Make the snapshots of what is configured."""
    fixed = {"Job.transfer": False, "Job.prune": False}
    return run.run_steps(words, build_parser, fixed)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "snapshot",
        usage="[options] [VOLUME ...]",
        description="Make a snapshot of each volume of the configuration; send nothing,"
        " delete nothing. It does not wait for a run that sends.",
        epilog=run.EPILOG,
    )
    add_config(parser)
    add_backup_options(parser, has_steps=False)
    add_display(parser)
    return parser
