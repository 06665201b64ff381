"""Every number that the membership machine obeys, and the formulas made of them.

Sources: SWIM (Das et al., DSN 2002), Lifeguard (arXiv 1707.00788), and the defaults
that hashicorp/memberlist ships for a local network. Seconds are real seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, log2, log10
from typing import Final, Self

from meshcache.errors import ConfigError

__all__ = ["Settings"]

_QUICK_LIVE: Final = 3
_SCALE_FROM: Final = 32
_MOST_UPDATES: Final = 90
"""A member is at most 640 bytes on the wire, and a control frame 64 KiB."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one node takes part in membership. All nodes should use the same.

    Attributes:
        probe_interval: one member is probed in each period of this length. Shorter
            finds deaths sooner and costs every member two messages a period.
        probe_timeout: an answer later than this is sought through helpers. Above
            the slowest usual round trip, below half of `probe_interval`.
        indirect_probes: how many helpers are asked.
        suspicion_alpha: the shortest suspicion, in periods, at up to ten members.
        suspicion_beta: the longest suspicion, as a multiple of the shortest.
        suspicion_confirmations: how many independent accusers bring it from the
            longest to the shortest.
        suspicion_unlinked: the shortest suspicion, in seconds, of a member to which
            this node's own connection is lost too; inf for as long as any other.
        max_health: how far a node that is slow itself stretches its own time-outs; 0
            for not at all.
        buddy: whoever is spoken to hears at once what is thought of it, so that a
            suspect can object in one round trip.
        retransmit_mult: how often news are sent on, per decimal digit of members.
        gossip_interval: how often news that found no probe to ride on are sent.
        gossip_fanout: to how many members.
        gossip_to_dead: for how long the dead are still told that they are, so that
            one who is not can object.
        push_pull_interval: how often the whole list is exchanged with one member.
        reconnect_interval: how often the dead are tried again, for ever.
        seed_interval: how often the seeds are tried again, for ever.
        forget_after: when a dead or departed member is forgotten.
        max_members: how many members are known at most, the dead among them.
        max_updates: how many members one message speaks of at most.
    """

    probe_interval: float = 1.0
    probe_timeout: float = 0.5
    indirect_probes: int = 3
    suspicion_alpha: float = 4.0
    suspicion_beta: float = 6.0
    suspicion_confirmations: int = 3
    suspicion_unlinked: float = 3.5
    max_health: int = 8
    buddy: bool = True
    retransmit_mult: int = 4
    gossip_interval: float = 0.2
    gossip_fanout: int = 3
    gossip_to_dead: float = 30.0
    push_pull_interval: float = 30.0
    reconnect_interval: float = 30.0
    seed_interval: float = 15.0
    forget_after: float = 86_400.0
    max_members: int = 8192
    max_updates: int = 64

    @property
    def forget_observers_after(self) -> float:
        """When a departed member that owned nothing is forgotten: two exchanges on."""
        return 2 * self.push_pull_interval

    @classmethod
    def of(cls, config: object) -> Self:
        """Return what of *config* membership obeys; the rest is for studies."""
        shared = (f.name for f in fields(cls) if hasattr(config, f.name))
        return cls(**{name: getattr(config, name) for name in shared})

    def __post_init__(self) -> None:
        if not 0 < self.probe_timeout < self.probe_interval:
            raise ConfigError("probe_timeout must be above 0 and below probe_interval")
        if self.suspicion_alpha <= 0 or self.suspicion_beta < 1:
            raise ConfigError("suspicion_alpha must be > 0 and suspicion_beta >= 1")
        if self.suspicion_unlinked <= 0:
            raise ConfigError("suspicion_unlinked must be above 0")
        if not 1 <= self.max_updates <= _MOST_UPDATES:
            raise ConfigError(f"max_updates must be 1 to {_MOST_UPDATES}")
        if min(self.gossip_fanout, self.retransmit_mult, self.max_members) < 1:
            raise ConfigError(
                "gossip_fanout, retransmit_mult and max_members must be at least 1"
            )
        if min(self.indirect_probes, self.suspicion_confirmations, self.max_health) < 0:
            raise ConfigError(
                "indirect_probes, suspicion_confirmations and max_health must not be "
                "negative"
            )
        shortest = min(
            self.gossip_interval,
            self.push_pull_interval,
            self.reconnect_interval,
            self.seed_interval,
        )
        if shortest <= 0:
            raise ConfigError("an interval must be above 0")

    @property
    def late_after(self) -> float:
        """A tick this much later than it was due says that this node is slow."""
        return self.probe_timeout / 2

    def retransmit_limit(self, live: int) -> int:
        """Return how often one node sends one piece of news, at *live* members."""
        return self.retransmit_mult * ceil(log10(live + 1))

    def suspicion_bounds(self, live: int) -> tuple[float, float]:
        """Return the shortest and the longest suspicion, at *live* members."""
        shortest = self.suspicion_alpha * max(1.0, log10(live)) * self.probe_interval
        return shortest, shortest * self.suspicion_beta

    def confirmations(self, live: int) -> int:
        """Return how many confirmations a suspicion needs to be at its shortest.

        *live* counts those who could accuse, and the accused. With up to three there
        may be nobody left to confirm, so none is asked for.
        """
        return min(self.suspicion_confirmations, live - 2) if live > _QUICK_LIVE else 0

    def push_pull_every(self, live: int) -> float:
        """Return the push/pull interval: longer in large clusters, as lists grow."""
        if live <= _SCALE_FROM:
            return self.push_pull_interval
        return self.push_pull_interval * (ceil(log2(live / _SCALE_FROM)) + 1)
