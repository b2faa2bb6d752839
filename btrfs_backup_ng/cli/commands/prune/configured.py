"""The deletion at configured places, by the policy that each has."""

from btrfs_backup_ng.__util__ import Refused
from btrfs_backup_ng.actions.prune.place import PruneRequest
from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.commands.prune.site import PruneOptions, Site
from btrfs_backup_ng.cli.commands.prune.snapshots import Thinning, look_at_all
from btrfs_backup_ng.cli.config.places import ConfiguredPlace, find_absent, ssh_at
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.core.events import Tally
from btrfs_backup_ng.core.judgement import Clock
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.machine import usual_prefix
from btrfs_backup_ng.session.session import Session

#: For places without a policy, which are looked at as others need what they have.
_ALL = Policy(everything=True)


def thinnings(
    options: PruneOptions, session: Session, call: Call, output: Output
) -> list[Thinning]:
    """Return the work at each source and target, after a look at all of them.

    Nothing is deleted at the targets of a source that cannot be looked at: it is not
    known which backup the next transfer needs.
    """
    places = options.configured
    session = replace(session, ssh_at=ssh_at(places))
    away, refused = find_absent(places, session, output)
    clock = Clock(session.now, session.is_synchronised)
    general = PruneRequest(
        keep=None,
        keep_at=None,
        prefix=None,
        usual_prefix=usual_prefix(),
        clock=clock,
        is_forced=options.force,
    )
    works: list[tuple[ConfiguredPlace, Thinning]] = []
    for place in places:
        if place.location in away or place.source in away:
            continue
        job = place.plan.job
        site = Site(
            place.location,
            replace(session, folder=place.folder or session.folder),
            replace(options, wait_s=job.wait_s),
            call,
            output,
            Tally(),
        )
        keep = place.keep or _ALL
        request = replace(
            general,
            keep=None if place.destination else keep,
            keep_at=keep if place.destination else None,
            prefix=job.naming.prefix,
        )
        work = Thinning(site, request, refused.get(str(place.location)))
        works.append((place, work))
    found = [work for _, work in works]
    look_at_all(found, general)
    lost = {p.source for p, work in works if work.unseen and not p.destination}
    for place, work in works:
        if place.destination and place.source in lost:
            work.unseen = Refused(
                f"the source {place.source} cannot be looked at, so nothing is deleted"
                f" at {place.location}"
            )
    return found
