"""Why an option of btrbk is not carried over."""

import re

from btrfs_backup_ng.core.btrbk.reader import Option

#: Options (or the beginnings of their names), and the difference here.
_REASONS = {
    "archive_": "there is no command like btrbk archive",
    "backend": "if you are not root, use --sudo; btrfs is called by its own name",
    "btrfs_commit_delete": "--sync waits until the space is free",
    "btrfs_progs_compat": "it is obsolete",
    "cache_dir": "it is about btrbk extents",
    "compat": "the other machine is asked what it can do",
    "gpg_|kdf_|openssl_|raw_": "there are no raw targets; shell:// takes a command",
    "group": "run takes the names of volumes, and --only those of targets",
    "ignore_extent_data_inline": "it is about btrbk extents",
    "incremental_": "each transfer has one parent: the nearest snapshot that both have",
    "lockfile": "each source and each target is locked by itself",
    "rate_limit_remote": "rate counts on this machine; set it instead",
    "receive_log": "it is obsolete",
    "resume_missing": "it is obsolete",
    "safe_commands": "it is about btrbk only",
    "snapshot_qgroup|target_qgroup": "quota groups are left as they are",
    "stream_buffer_remote": "use-mbuffer counts on this machine; set it instead",
    "stream_compress_": "compress has a level for zstd only",
    "transaction_": "the history is read with btrfs-backup-ng log",
    "warn_unknown_targets": "such backups are never deleted",
}
_OLD = re.compile("(snapshot|target)_preserve_(daily|weekly|monthly)")
_DEFAULTS = ("no", "default", "btrfs-progs", "mountpoint")
_KNOWN = re.compile(
    "incremental|noauto|preserve_(day_of_week|hour_of_day)|rate_limit|stream_(buffer"
    "|compress)|ssh_(cipher_spec|compression|identity|port|user)|timestamp_format"
    "|(snapshot|target)_preserve(_min)?|snapshot_(create|create_always|dir|name)"
)


def is_default(option: Option) -> bool:
    """Return whether an option only repeats the default."""
    return option.value in _DEFAULTS and not is_old(option)


def is_known(option: Option) -> bool:
    """Return whether an option has a meaning here, too, where it counts."""
    return bool(_KNOWN.fullmatch(option.key))


def is_old(option: Option) -> bool:
    """Return whether an option is of btrbk before 0.23.

    With one of them, btrbk deletes nothing, and sends nothing.
    """
    is_no_resume = option.key == "resume_missing" and option.value == "no"
    return bool(_OLD.fullmatch(option.key)) or is_no_resume


def reason_against(option: Option) -> str:
    """Return why an option is not carried over."""
    if is_old(option):
        return "it is of btrbk before 0.23, which deletes nothing with it: all is kept"
    for beginning, reason in _REASONS.items():
        if re.match(beginning, option.key):
            return reason
    if is_known(option):
        return "nothing that is carried over asks for it, or its value is not known"
    return "btrbk has no such option"
