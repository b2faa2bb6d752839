"""The ``send`` verb: of all that ``run`` does, only the transfers."""

from collections.abc import Sequence

from btrfs_backup_ng.cli.backup_options import add_backup_options
from btrfs_backup_ng.cli.commands import run
from btrfs_backup_ng.cli.config.options import add_config
from btrfs_backup_ng.cli.parser import Parser, add_display, new_parser


def main(words: Sequence[str]) -> int:
    """Send the targets that are configured what they are missing."""
    fixed = {"Job.take_snapshot": False, "Job.prune": False}
    return run.run_steps(words, build_parser, fixed)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "send",
        usage="[options] [VOLUME ...]",
        description="Send each target of the configuration the snapshots that it is"
        " missing; make no new one, delete nothing.",
        epilog=run.EPILOG,
    )
    add_config(parser)
    run.add_only(parser)
    add_backup_options(parser, has_steps=False)
    add_display(parser)
    return parser
