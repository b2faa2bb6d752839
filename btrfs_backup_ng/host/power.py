"""The power supply of this machine: /sys/class/power_supply of the kernel."""

import os

from btrfs_backup_ng.host.facts import names_in, read_text

#: A directory for each battery, and for each other supply.
SUPPLIES = "/sys/class/power_supply"


def is_on_battery() -> bool:
    """Return whether this machine runs on its battery.

    Batteries of its devices, such as a mouse, do not count.
    """
    supplies = [os.path.join(SUPPLIES, name) for name in names_in(SUPPLIES)]
    own = [each for each in supplies if _read(each, "scope") != "Device"]
    if any(_read(each, "online") == "1" for each in own if not _is_battery(each)):
        return False
    return any(
        _read(each, "status") == "Discharging" for each in own if _is_battery(each)
    )


def _is_battery(supply: str) -> bool:
    return _read(supply, "type") == "Battery"


def _read(supply: str, name: str) -> str:
    return read_text(os.path.join(supply, name)).strip()
