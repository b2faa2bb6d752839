"""Locations: the user's words for a place, parsed."""

import enum
import os
import re

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.core.value import Value, replace


class Scheme(enum.Enum):
    LOCAL = "local"
    SSH = "ssh"
    SHELL = "shell"


class Location(Value):
    """The parsed words for a place. It may not exist.

    :ivar path: absolute path (local and ssh), or the command (shell).
    """

    scheme: Scheme
    path: str
    host: str = ""
    user: str = ""
    port: int | None = None

    def __str__(self) -> str:
        """Return the text that parses to the same location."""
        if self.scheme is Scheme.LOCAL:
            return self.path
        if self.scheme is Scheme.SHELL:
            return f"shell://{self.path}"
        return f"ssh://{self.address}{self.path}"

    @property
    def address(self) -> str:
        """``[user@]host[:port]``, with brackets around IPv6."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{user}{f'[{self.host}]' if ':' in self.host else self.host}{port}"

    @property
    def is_here(self) -> bool:
        """Whether it is a path of this machine."""
        return self.scheme is Scheme.LOCAL

    @property
    def is_remote(self) -> bool:
        """Whether it is a path of another machine."""
        return self.scheme is Scheme.SSH

    @property
    def is_command(self) -> bool:
        """Whether it is a command of this machine, which takes streams."""
        return self.scheme is Scheme.SHELL

    @property
    def machine(self) -> "Location":
        """Return its machine, and the way to it: the location without a path."""
        return replace(self, path="")

    def is_beside(self, other: "Location") -> bool:
        """Return whether two places are on one machine, reached in the same way."""
        return self.machine == other.machine

    def join(self, path: str) -> "Location":
        """Return the location of ``path``, relative to this one or absolute."""
        return replace(self, path=os.path.join(self.path, path))


#: A host name, an alias of ssh's configuration, or an IPv4 address. A leading
#: dash would be an option of ssh.
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_IPV6 = r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?"
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.@\\+-]*"


def parse_location(text: str, *, working_directory: str) -> Location:
    """Read a location from the command line.

    :param working_directory: the start of relative local paths.
    :raises UsageError: if the text is not a location. A password in it is not
        repeated.
    """
    if not text:
        raise UsageError("a location must not be empty")
    scheme, separator, rest = text.partition("://")
    if separator and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        if scheme == "shell":
            if not rest.strip():
                raise UsageError("shell:// needs a command after it")
            return Location(Scheme.SHELL, rest)
        if scheme == "ssh":
            return _parse_ssh(rest)
        raise UsageError(
            f"unknown kind of location: {scheme}://",
            hint="Use /path, ssh://[user@]host[:port]/path or shell://COMMAND.",
        )
    first = text.split("/", 1)[0]
    if ":" in first and not text.startswith("."):
        raise _ambiguous(text)
    path = os.path.join(working_directory, text)
    return Location(Scheme.LOCAL, _tidied(path))


def _ambiguous(text: str) -> UsageError:
    """Refuse ``nas:/path``, which could be a directory; show both spellings."""
    place, _, path = text.partition(":")
    if "@" in path.split("/", 1)[0]:
        return _password_error()
    path = path.lstrip("/") or "PATH"
    there = f"ssh://{path}" if place == "ssh" else f"ssh://{place}/{path}"
    return UsageError(
        f"{visible(text)} could be a path or a host",
        hint=f"A directory of that name:  {visible('./' + text)}"
        f"     Another machine:  {visible(there)}",
    )


def _password_error() -> UsageError:
    return UsageError(
        "a location must not contain a password",
        hint="Use a key:  --ssh-identity-file FILE",
    )


def _parse_ssh(rest: str) -> Location:
    authority, slash, path = rest.partition("/")
    user, _, place = authority.rpartition("@")
    if ":" in user:
        raise _password_error()
    host, port = _split_port(place)
    if not slash:
        raise UsageError(
            f"ssh://{visible(rest)} has no path; give an absolute one",
            hint=f"Write:  ssh://{visible(authority.rstrip(':'))}/PATH",
        )
    if not (re.fullmatch(_HOST, host) or re.fullmatch(_IPV6, host) and ":" in host):
        raise UsageError(f"'{visible(host)}' is not a host name")
    if user and not re.fullmatch(_USER, user):
        raise UsageError(f"'{visible(user)}' is not a user name")
    return Location(Scheme.SSH, _tidied(f"/{path}"), host, user, port)


def _split_port(place: str) -> tuple[str, int | None]:
    if bracketed := re.fullmatch(r"\[([^]]*)\](?::(.*))?", place):
        host = bracketed[1]
        text = bracketed[2] or ""
    else:
        host, _, text = place.partition(":")
    if not text:
        return host, None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise UsageError(
            f"'{visible(text)}' is not a port",
            hint="Write an IPv6 address in brackets:  ssh://[::1]:22/path",
        )
    return host, int(text)


def _tidied(path: str) -> str:
    """Drop empty and ``.`` parts. ``..`` is kept: a symlink may precede it."""
    if "\0" in path:
        raise UsageError("a path cannot contain a NUL byte")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)
