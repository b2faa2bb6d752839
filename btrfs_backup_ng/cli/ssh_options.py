"""The options about ssh, for every verb that has them."""

import argparse

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.cli import types as values
from btrfs_backup_ng.core.model import STALL_TIMEOUT_S, SshOptions


def add_ssh(parser: argparse.ArgumentParser) -> None:
    """Add the options about how other machines are reached."""
    group = parser.add_argument_group("ssh")
    add = group.add_argument
    add(
        "--ssh-opt",
        action="append",
        default=[],
        type=_ssh_option,
        metavar="KEY=VALUE",
        help="an option as for ssh -o; wins over ours; may be repeated",
    )
    add(
        "--ssh-sudo",
        action="store_true",
        help="use sudo on the other machine (default: find out)",
    )
    add("--ssh-identity-file", metavar="F", default="", help="log in with this key")
    add(
        "--ssh-username",
        metavar="U",
        default="",
        help="log in as U where the place names no user",
    )
    add("--no-password-auth", action="store_true", help="never ask for a password")
    add(
        "--ssh-password-file",
        metavar="F",
        default="",
        help="the first line of F answers what ssh asks: a password or passphrase",
    )
    add(
        "--ssh-auth-sock",
        metavar="PATH",
        default="",
        help='socket of your ssh agent, which sudo hides: "$SSH_AUTH_SOCK"',
    )
    add(
        "--ssh-host-key-policy",
        choices=["accept-new", "strict"],
        default="accept-new",
        help="a host that is not known yet: accept-new remembers its key, strict"
        " refuses it (default: %(default)s)",
    )
    add(
        "--sudo-password-file",
        metavar="F",
        default="",
        help="the first line of F is the password that sudo asks for there",
    )
    add(
        "--stall-timeout",
        type=values.seconds,
        metavar="S",
        default=STALL_TIMEOUT_S,
        help="end a transfer in which nothing moves, and give up a place, also of this"
        " machine, that says nothing, for S seconds, 0 for never (default: 300)",
    )


def ssh_options(options: argparse.Namespace) -> SshOptions:
    """Read what :func:`add_ssh` added.

    Whoever tries again after a cut opens a lost connection as often as it takes.
    """
    retries = getattr(options, "retries", 0)
    return SshOptions(
        options=tuple(options.ssh_opt),
        sudo=options.ssh_sudo,
        identity_file=options.ssh_identity_file,
        username=options.ssh_username,
        password_login=not options.no_password_auth,
        auth_sock=options.ssh_auth_sock,
        strict_host_keys=options.ssh_host_key_policy == "strict",
        password_file=options.ssh_password_file,
        sudo_password_file=options.sudo_password_file,
        reopenings=None if retries else 1,
        silence_s=options.stall_timeout,
    )


def _ssh_option(text: str) -> str:
    key, separator, _ = text.partition("=")
    if not (separator and key.isascii() and key.isalnum()):
        raise UsageError(
            f"'{visible(text)}' is not an ssh option; write it like --ssh-opt Port=2222"
        )
    return text
