"""The retention of btrbk -> a policy that keeps the same, or more."""

import re

from btrfs_backup_ng.core.policy import DAYS

#: Of the highest number in a policy.
_DIGITS = 6


def carry_policy(minimum: str, preserve: str, day: str, hour: str) -> tuple[str, str]:
    """Return the policy for the retention of btrbk, and why it keeps more, or "".

    :param minimum: ``snapshot_preserve_min`` or ``target_preserve_min``.
    :param preserve: ``snapshot_preserve`` or ``target_preserve``.
    :param day: ``preserve_day_of_week``.
    :param hour: ``preserve_hour_of_day``.
    """
    if minimum == "all":
        return "all", ""
    kept, counts = _minimum(minimum), _counts(preserve)
    if kept is None or counts is None or day not in DAYS or not _is_hour(hour):
        return "all", "btrbk does not know this retention, so all is kept"
    words, why = [], ""
    number, unit = kept
    if unit and number == "0":
        number, why = "1", "no policy keeps the current period only"
    if minimum == "no" and not counts:
        why = "the newest backup always stays"
    if unit and number == "*":
        return "all", ""
    if unit:
        words.append(f"min={number}{unit}")
    words += [f"{count}{each}" for each, count in counts.items()]
    units = {*counts, unit}
    if units & {*"my"}:
        words.append("whole-weeks")
    if units & {*"wmy"} and day != DAYS[0]:
        words.append(f"week={day}")
    if units & {*"dwmy"} and int(hour):
        words.append(f"day={int(hour)}h")
    return " ".join(words) or "latest", why


def _minimum(text: str) -> tuple[str, str] | None:
    """Return number and unit of a time, ("", "") without one, or None if unknown."""
    if text in ("latest", "no"):
        return "", ""
    found = re.fullmatch(r"([0-9]+)([hdwmy])", text)
    return (_number(found[1]), found[2]) if found else None


def _counts(text: str) -> dict[str, str] | None:
    """Return a number, or ``*``, for each unit, or None if the text is no retention."""
    counts: dict[str, str] = {}
    for word in [] if text == "no" else text.split():
        found = re.fullmatch(r"(\*|[0-9]+)([hdwmy])", word.lower())
        if not found or found[2] in counts:
            return None
        counts[found[2]] = _number(found[1])
    return {unit: count for unit, count in counts.items() if count != "0"}


def _number(digits: str) -> str:
    """Return a number, or ``*`` if it is larger than one in a policy."""
    number = digits.lstrip("0") or "0"
    return number if len(number) <= _DIGITS else "*"


def _is_hour(text: str) -> bool:
    return bool(re.fullmatch("[0-9]|1[0-9]|2[0-3]", text))
