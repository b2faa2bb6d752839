"""The options about ssh, for every command that has them."""

import argparse

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.parser import OptionGroup, Parser, read_fields
from btrfs_backup_ng.core.model import SshOptions, TransferOptions
from btrfs_backup_ng.core.value import replace


def add_ssh(parser: Parser) -> None:
    """Add the options about how other machines are reached.

    An option that is one of ssh's own needs only a few lines here: its ``type`` returns
    ``KEY=VALUE``, and its field is ``options``, like that of ``--ssh-opt``.
    """
    group = parser.add_argument_group("ssh")
    ssh = OptionGroup(group, SshOptions)
    _add_login(ssh)
    _add_secrets(ssh)
    group.add_argument(
        "--ssh-host-key-policy",
        choices=["accept-new", "strict"],
        default="accept-new",
        help="unknown hosts: accept-new remembers their key, strict refuses them"
        " (default: %(default)s)",
    )
    ssh.add(
        "sudo_password_file",
        "--sudo-password-file",
        metavar="F",
        help="the first line of F is the password for sudo on the other machine",
    )
    ssh.add(
        "silence_s",
        "--stall-timeout",
        type=values.seconds,
        metavar="SPAN",
        help="stop a transfer without progress, and give up a place without an answer,"
        " after SPAN, like 90 (seconds) or 5m; 0: never (default: %(default)g)",
    )


def _add_login(ssh: OptionGroup) -> None:
    add = ssh.add
    add(
        "options",
        "--ssh-opt",
        action="append",
        type=_key_value,
        metavar="KEY=VALUE",
        help="passed to ssh -o; overrides our defaults; may be repeated",
    )
    add(
        "sudo",
        "--ssh-sudo",
        action="store_true",
        help="use sudo on the other machine (default: detect)",
    )
    add(
        "identity_file",
        "--ssh-identity-file",
        metavar="F",
        help="log in with this private key",
    )
    add(
        "username",
        "--ssh-username",
        metavar="U",
        help="log in as U if the place names no user",
    )


def _add_secrets(ssh: OptionGroup) -> None:
    add = ssh.add
    add(
        "password_login",
        "--no-password-auth",
        action="store_false",
        help="never ask for a password",
    )
    add(
        "password_file",
        "--ssh-password-file",
        metavar="F",
        help="the first line of F is the password or passphrase for ssh",
    )
    add(
        "auth_sock",
        "--ssh-auth-sock",
        metavar="PATH",
        help='socket of your ssh agent, which sudo hides: "$SSH_AUTH_SOCK"',
    )


def read_ssh(options: argparse.Namespace) -> SshOptions:
    """Read the options of :func:`add_ssh`."""
    strict = options.ssh_host_key_policy == "strict"
    return read_fields(SshOptions, options, strict_host_keys=strict)


def read_transfer(options: argparse.Namespace) -> tuple[TransferOptions, SshOptions]:
    """Read the options of transfers and of connections, which depend on each other.

    ``--stall-timeout`` counts for both; with ``--retries``, a lost connection is opened
    again as often as necessary.
    """
    ssh = read_ssh(options)
    transfer = read_fields(TransferOptions, options, stall_timeout_s=ssh.silence_s)
    return transfer, replace(ssh, reopenings=None) if transfer.retries else ssh


def _key_value(text: str) -> str:
    key, separator, _ = text.partition("=")
    if not (separator and key.isascii() and key.isalnum()):
        raise UsageError(
            f"'{visible(text)}' is not an ssh option; write it like --ssh-opt Port=2222"
        )
    return text
