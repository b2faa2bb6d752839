"""The hooks of a configuration: programs that run before and after a step of a run."""

from btrfs_backup_ng.__util__ import parse_span, visible
from btrfs_backup_ng.core.configuration import ConfigKey, Scope, Settings
from btrfs_backup_ng.core.value import Value

#: The steps that hooks surround.
SNAPSHOT, RUN = "snapshot", "run"
_LIMIT = "hook-timeout"
_LIMIT_S = 600.0


class Hook(Value):
    """A program of the user, which runs before or after a step.

    :ivar name: its key: ``before-snapshot``.
    :ivar argv: the absolute path of the program, and its arguments.
    :ivar limit_s: the time that it may take.
    """

    name: str
    argv: tuple[str, ...]
    limit_s: float = _LIMIT_S


class Hooks(Value):
    """The hooks around a step."""

    before: Hook | None = None
    after: Hook | None = None


def read_hooks(step: str, *levels: Settings) -> Hooks:
    """Return the hooks around a step, from settings, the most general ones first."""
    found = {key: setting for level in levels for key, setting in level.items()}
    limit_s = found[_LIMIT].value if _LIMIT in found else _LIMIT_S

    def hook(name: str) -> Hook | None:
        argv = found[name].value if name in found else ()
        return Hook(name, argv, limit_s) if argv else None

    return Hooks(hook(f"before-{step}"), hook(f"after-{step}"))


def read_command(words: list[str]) -> tuple[str, ...]:
    """Return the words of a command; none undo an inherited one.

    :raises ValueError: if the program has no absolute path.
    """
    if words and not words[0].startswith("/"):
        raise ValueError(
            f"'{visible(words[0])}' is not an absolute path; no shell looks for the"
            " program"
        )
    return tuple(words)


def _limit(text: str) -> float:
    seconds = parse_span(text).total_seconds()
    if not seconds:
        raise ValueError("a hook needs some time")
    return seconds


_VOLUME = frozenset({Scope.TOP, Scope.VOLUME})
_TOP = frozenset({Scope.TOP})
#: The keys of hooks; those of a volume, and those of the whole run.
SNAPSHOT_HOOK_KEYS = (
    ConfigKey("before-snapshot", _VOLUME, read_command, is_command=True),
    ConfigKey("after-snapshot", _VOLUME, read_command, is_command=True),
    ConfigKey(_LIMIT, _VOLUME, _limit),
)
RUN_HOOK_KEYS = (
    ConfigKey("before-run", _TOP, read_command, is_command=True),
    ConfigKey("after-run", _TOP, read_command, is_command=True),
)
