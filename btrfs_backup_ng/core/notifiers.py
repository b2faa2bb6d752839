"""Where messages go: the section ``[notify]`` of a configuration."""

import re

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.core.configuration import ConfigKey, Configuration, Scope
from btrfs_backup_ng.core.hooks import read_command
from btrfs_backup_ng.core.notices import NoticeKind
from btrfs_backup_ng.core.value import Value

_KINDS = tuple(kind.value for kind in NoticeKind)


class Mail(Value):
    """Mail to one or more addresses.

    :ivar sender: "" for the user that the program runs as.
    :ivar host: of an SMTP server, with its port; "" for the program ``sendmail``.
    :ivar user: for a login there; "" for none.
    :ivar password_file: path of the file with the password.
    """

    to: tuple[str, ...]
    sender: str = ""
    host: str = ""
    user: str = ""
    password_file: str = ""


class Url(Value):
    """The address of a server. It may be a secret.

    :ivar path: of a file with the address, instead of the address.
    """

    text: str = ""
    path: str = ""


class Notifiers(Value):
    """All that are configured.

    :ivar on: the kinds of messages that mail, webhook and command get.
    :ivar ping: gets the begin and the end of each run.
    """

    on: frozenset[NoticeKind] = frozenset(NoticeKind)
    mail: Mail | None = None
    ping: Url | None = None
    webhook: Url | None = None
    command: tuple[str, ...] = ()


#: Notifiers that get messages, and all of them.
_READERS = ("mail", "webhook", "webhook-file", "command")
_NOTIFIERS = (*_READERS, "ping", "ping-file")
#: Keys -> the one that each needs, or excludes.
_NEEDS = {
    "mail-from": "mail",
    "mail-host": "mail",
    "mail-user": "mail-password-file",
    "mail-password-file": "mail-user",
}
_EXCLUDES = {"ping-file": "ping", "webhook-file": "webhook"}


def read_notifiers(configuration: Configuration) -> Notifiers | None:
    """Return the notifiers of a configuration; None without the section.

    :raises UsageError: if keys contradict each other, or none of them is a notifier;
        with a line.
    """
    settings, line = configuration.notify, configuration.notify_line
    if not line:
        return None
    for key, setting in settings.items():
        if _NEEDS.get(key, key) not in settings:
            error = UsageError(f"it needs another key:  {_NEEDS[key]}")
            raise configuration.error_in(setting, error)
        if _EXCLUDES.get(key) in settings:
            error = UsageError(f"there is {_EXCLUDES[key]} already")
            raise configuration.error_in(setting, error)
    named = {key for key, setting in settings.items() if setting.value}
    if not named.intersection(_NOTIFIERS):
        hint = 'Add one:  mail = "root"     or:  webhook, command, ping'
        raise configuration.error(line, "notify", "no notifier is named", hint)
    if "on" in settings and not named.intersection(_READERS):
        error = UsageError(
            "it is about mail, webhook and command; ping tells every run"
        )
        raise configuration.error_in(settings["on"], error)
    value = {key: setting.value for key, setting in settings.items()}

    def url(name: str) -> Url | None:
        if path := value.get(f"{name}-file"):
            return Url(path=path)
        return Url(value[name]) if name in value else None

    mail = None
    if "mail" in value:
        names = ("mail-from", "mail-host", "mail-user", "mail-password-file")
        mail = Mail(value["mail"], *(value.get(name, "") for name in names))
    return Notifiers(
        frozenset(value.get("on", NoticeKind)),
        mail,
        url("ping"),
        url("webhook"),
        value.get("command", ()),
    )


def is_url(text: str) -> bool:
    from urllib.parse import urlsplit  # here: few have one

    if not re.fullmatch(r"https?://[^\s/?#@]+([/?#][!-~]*)?", text):
        return False
    try:
        split = urlsplit(text)
        return bool(split.hostname) and split.port != 0
    except ValueError:  # of a wrong port, or brackets
        return False


def _url(text: str) -> str:
    if not is_url(text):
        raise ValueError("expected an address like https://host/path")
    return text


def _kind(text: str) -> NoticeKind:
    if text not in _KINDS:
        raise ValueError(f"'{visible(text)}' is none of {', '.join(_KINDS)}")
    return NoticeKind(text)


def _address(text: str) -> str:
    name = r'[^\s,;:<>()\[\]"\\@]+'
    if not re.fullmatch(rf"(?!-){name}(@[\w-]+(\.[\w-]+)*)?", text):
        raise ValueError(f"'{visible(text)}' is no address, like root or me@host")
    return text


def _host(text: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/@\[\]]+)(?::([0-9]{1,5}))?", text)
    if not match or not 0 < int(match[2] or 25) < 1 << 16:
        raise ValueError(f"'{visible(text)}' is no server, like smtp.host or host:587")
    return text


def _file(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"'{visible(text)}' is not an absolute path")
    return text


_IN = frozenset({Scope.NOTIFY})
#: The keys of the section.
NOTIFY_KEYS = (
    ConfigKey("on", _IN, _kind, is_list=True),
    ConfigKey("mail", _IN, _address, is_list=True),
    ConfigKey("mail-from", _IN, _address),
    ConfigKey("mail-host", _IN, _host),
    ConfigKey("mail-user", _IN, str),
    ConfigKey("mail-password-file", _IN, _file),
    ConfigKey("ping", _IN, _url),
    ConfigKey("ping-file", _IN, _file),
    ConfigKey("webhook", _IN, _url),
    ConfigKey("webhook-file", _IN, _file),
    ConfigKey("command", _IN, read_command, is_command=True),
)
