"""Which of two reports about the same member wins.

Every node hears of every other node many times, out of order and from different
mouths. `supersedes` is the single rule that decides whether a report replaces what is
already believed. It is a strict total order, so the belief of a node is the greatest
report it has heard, whatever the order, and all nodes settle on the same one (SWIM
section 4.2). Two departures from the paper, both memberlist's: a verdict of DEAD does
not outrank a higher incarnation, so that a member wrongly buried can come back by its
own word; and the stored incarnation rises even when the state stays, or an old ALIVE
between two verdicts would bring back the dead.
"""

from __future__ import annotations

from meshcache.model import Member

__all__ = ["accuses", "supersedes"]


def supersedes(new: Member, known: Member) -> bool:
    """Return whether *new* replaces *known*. Both must name the same member.

    A newer process beats an older one, then a higher incarnation beats a lower one,
    then the worse news wins, or a suspicion could never spread.
    """
    assert new.node_id == known.node_id
    return (new.epoch, new.incarnation, new.state) > (
        known.epoch,
        known.incarnation,
        known.state,
    )


def accuses(known: Member, heard: Member) -> bool:
    """Return whether *known* is bad news that whoever said *heard* has to be told.

    It is when *heard* says better of the same process and does not supersede.
    """
    return (
        known.epoch == heard.epoch
        and known.incarnation >= heard.incarnation
        and known.state > heard.state
    )
