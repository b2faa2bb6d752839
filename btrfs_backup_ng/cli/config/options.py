"""The options of every command that reads the configuration."""

import argparse

#: The file of root.
ROOTS_FILE = "/etc/btrfs-backup-ng/config.toml"
#: The part of an epilog about the file.
EPILOG_FILE = f"""\
files:
  {ROOTS_FILE}  the configuration of root
  ~/.config/btrfs-backup-ng/config.toml  that of another user, or the same in
    $XDG_CONFIG_HOME
"""


def add_config(group: argparse._ActionsContainer) -> None:
    """Add the option that names the configuration."""
    group.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="read this configuration",
    )
