"""What the membership machine counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

__all__ = ["Counters"]


@final
@dataclass(slots=True)
class Counters:
    """Plain numbers, each from the node's start. Confined to the driver thread."""

    probes: int = 0  # probes begun, in turn or because a connection was lost
    acks: int = 0  # probes answered, directly or through a helper
    timeouts: int = 0  # probes without a direct answer in time
    indirect_probes: int = 0  # helpers asked
    failures: int = 0  # probes without any answer
    late_acks: int = 0  # of these, answered after all when they had ended
    relayed: int = 0  # probes made for others
    nacks_sent: int = 0  # times we told another that its target is silent
    nacks: int = 0  # times a helper told us so
    refutations: int = 0  # accusations of this node, answered
    accusations: int = 0  # suspicions this node raised or confirmed by its own probe
    suspicions: int = 0  # members that became suspect here, by whoever's word
    false_suspicions: int = 0  # suspects that came back
    deaths: int = 0  # members taken for dead here, by whoever's word
    verdicts: int = 0  # of these, by this node's own suspicion running out
    links_lost: int = 0  # connections to living members that were refused or broke
    displaced: int = 0  # of these, because a newer process answers at their address
    resurrections: int = 0  # dead members that came back by their own word
    push_pulls: int = 0  # exchanges of the whole list begun
    mismatches: int = 0  # of these, because the checksums differed
    reconnects: int = 0  # dead members tried again
    seed_contacts: int = 0  # seeds tried
    updates_sent: int = 0  # news sent, once for each message they rode on
    updates_merged: int = 0  # news believed
    stale_dropped: int = 0  # news older than what is known
    misaddressed: int = 0  # probes meant for another process at our address
    conflicts: int = 0  # reports of us that only another holder of our id can make
    refused: int = 0  # members not taken in because the table is full
    forgotten: int = 0  # dead and departed members dropped after their time
    late: int = 0  # ticks so late that this node distrusts itself

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
