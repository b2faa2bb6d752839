"""``status --forget``: remove places from the history of this machine."""

from collections.abc import Sequence

from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.places import need_on_record
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.session.history import forget, remembered, state_directory


class Forgotten(Value):
    """A place that was removed from the history.

    :ivar records: how many there were.
    """

    place: str
    records: int


class ForgetReport(Value):
    """The document of ``--forget``."""

    forgotten: list[Forgotten]


def forget_places(places: Sequence[Location], call: Call) -> int:
    """Remove places from the history.

    :raises UsageError: if one is not in it; then none is removed.
    """
    records, output = remembered(needed=True), Output(call)
    for place in places:
        need_on_record(str(place), records)
    found = [Forgotten(str(p), forget(state_directory(), str(p))) for p in places]
    for one in found:
        lines = "1 line" if one.records == 1 else f"{one.records} lines"
        output.about(one.place, f"forgotten, with {lines} of the history")
    return output.finish(0, ForgetReport(found))
