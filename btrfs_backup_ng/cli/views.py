"""Views: the values that several commands show, as lines and in documents alike."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from btrfs_backup_ng.core.document import Aged
from btrfs_backup_ng.core.model import Role
from btrfs_backup_ng.core.plan import WhyFull
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.place.contents import Broken, Kept, State
from btrfs_backup_ng.place.forecast import Forecast


class SnapshotView(Value):
    """A snapshot or backup; of a damaged one, as far as known."""

    name: str
    kind: Role
    created: Aged[datetime | None]
    state: State
    complete: bool
    why: str
    uuid: UUID | None = None
    parent_uuid: UUID | None = None
    received_uuid: UUID | None = None


def view_kept(kept: Kept) -> SnapshotView:
    """Return the view of a snapshot or backup."""
    snapshot = kept.snapshot
    return SnapshotView(
        name=snapshot.name,
        kind=kept.kind,
        created=snapshot.created,
        state=kept.state,
        complete=kept.state is State.COMPLETE,
        why=kept.why,
        uuid=snapshot.uuid,
        parent_uuid=snapshot.parent_uuid,
        received_uuid=snapshot.received_uuid,
    )


def view_broken(broken: Broken) -> SnapshotView:
    """Return the view of something damaged."""
    return SnapshotView(
        name=broken.name,
        kind=broken.kind,
        created=broken.created,
        state=State.DAMAGED,
        complete=False,
        why=broken.why,
    )


class CaseView(Value):
    """The next backup with one prefix."""

    prefix: str | None
    parent: str | None
    why_full: WhyFull | None
    refusals: tuple[str, ...]


class ForecastView(Value):
    """The forecast of the next backup."""

    incremental: bool | None
    certain: bool
    parent: str | None
    cases: tuple[CaseView, ...]
    coming: tuple[str, ...]


def view_forecast(forecast: Forecast | None) -> ForecastView | None:
    """Return the view of a forecast."""
    if forecast is None:
        return None
    cases = tuple(
        CaseView(
            case.prefix,
            case.parent.name if case.parent else None,
            case.why_full,
            tuple(case.refusals),
        )
        for case in forecast.cases
    )
    parents = {case.parent for case in cases}
    return ForecastView(
        incremental=forecast.is_incremental,
        certain=forecast.is_certain,
        parent=parents.pop() if len(parents) == 1 else None,
        cases=cases,
        coming=tuple(forecast.coming),
    )


class PlacesReport(Value):
    """The document of a command: an element for each place."""

    places: Sequence[object]
