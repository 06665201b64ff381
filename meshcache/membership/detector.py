"""The failure detector: probes in turn and out of turn, and probes made for others.

It finds out who does not answer and says so to `Belief`; what that means for the member
is decided there.
"""

from __future__ import annotations

from typing import Final, final

from meshcache.clock import NEVER
from meshcache.codec.mail import Reply, Route, Send
from meshcache.codec.messages import Ack, Nack, PingReq
from meshcache.membership.belief import Belief
from meshcache.membership.core import Core
from meshcache.membership.probe import Probe, Relay
from meshcache.model import Member, NodeId

__all__ = ["Detector"]

MAX_PROBES: Final = 64
MAX_RELAYS: Final = 256
MAX_FAILED: Final = 64
"""Probes that have failed and whose late answers are still recognized."""


@final
class Detector:
    """The probes of one node. Confined to the driver thread."""

    __slots__ = ("_belief", "_core", "_failed", "_probes", "_relays", "round_at")

    def __init__(self, core: Core, belief: Belief) -> None:
        self._core = core
        self._belief = belief
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._failed: dict[int, Probe] = {}
        self.round_at = NEVER

    def deadline(self) -> float:
        """Return when a round begins, a time-out ends or a Nack is due."""
        soonest = self.round_at
        for probe in self._probes.values():
            soonest = min(soonest, probe.deadline)
        for relay in self._relays.values():
            soonest = min(soonest, relay.deadline)
        return soonest

    def distrust(self) -> None:
        """Give every probe its time anew: its answer may have come while we slept."""
        core = self._core
        timeout = core.awareness.stretch(core.settings.probe_timeout)
        interval = core.awareness.stretch(core.settings.probe_interval)
        for probe in self._probes.values():
            if probe.indirect_at is not None:
                probe.indirect_at = core.now + timeout
            probe.ends_at = core.now + interval

    def doubt(self, member: Member) -> None:
        """Probe a member at once, or seek help at once where a probe is under way."""
        probe = self._probe_of(member.node_id)
        if probe is not None:
            if probe.indirect_at is not None:
                self._ask_helpers(probe)
            return
        suspicion = self._belief.suspicions.get(member.node_id)
        if suspicion is None or self._core.roster.me.node_id not in suspicion.accusers:
            self._begin_probe(member)

    def doubt_unlinked(self, member: Member) -> None:
        """Probe a member whose connection is lost by all ways at once, and briefly.

        A direct answer is not to be expected, and it has been silent for a while.
        """
        self.doubt(member)
        probe = self._probe_of(member.node_id)
        if probe is not None:
            if probe.indirect_at is not None:
                self._ask_helpers(probe)
            core = self._core
            soon = core.now + core.awareness.stretch(core.settings.probe_timeout)
            probe.ends_at = min(probe.ends_at, soon)

    def answered(self, ack: Ack) -> None:
        """Take note of an answer, ours or one to be passed on."""
        core = self._core
        probe = self._probes.get(ack.seq)
        if probe is not None and ack.subject == probe.target:
            del self._probes[ack.seq]
            core.awareness.better()
            core.counters.acks += 1
        elif self._failed and ack.seq in self._failed:
            self._answered_late(self._failed[ack.seq], ack)
        relay = self._relays.get(ack.seq)
        if relay is not None and ack.subject == relay.target:
            del self._relays[ack.seq]
            core.acknowledge(relay.route, relay.origin_seq, relay.target, core.news())

    def _answered_late(self, probe: Probe, ack: Ack) -> None:
        """Take an answer after the verdict: the target lives, if it is slow.

        The suspicion stands, since only its own word ends it; what stood behind it
        does not.
        """
        if ack.subject == probe.target:
            del self._failed[probe.seq]
            self._core.counters.late_acks += 1
            self._belief.restore_link(probe.target, probe.epoch)

    def nacked(self, nack: Nack) -> None:
        """Take note that a helper is well and heard nothing."""
        probe = self._probes.get(nack.seq)
        if probe is not None and probe.nack(nack.sender.node_id):
            self._core.counters.nacks += 1

    def help(self, request: PingReq, route: Route) -> None:
        """Probe the target of *request* for its sender."""
        core = self._core
        record = core.roster.get(NodeId(request.target))
        if record is None or record.member.epoch != request.target_epoch:
            self._nack(request.seq, route)
            return
        if len(self._relays) >= MAX_RELAYS:
            del self._relays[next(iter(self._relays))]
        target, budget = record.member, request.budget_ms / 1000
        seq = core.next_seq()
        self._relays[seq] = Relay(route, request.seq, target.node_id, core.now, budget)
        core.counters.relayed += 1
        core.ping(target, seq)

    def tick(self) -> None:
        """End what has run out, and begin the next round when it is time."""
        self._end_probes()
        self._end_relays()
        core = self._core
        if core.now < self.round_at:
            return
        interval = core.settings.probe_interval
        self.round_at = core.now + core.awareness.stretch(interval)
        target = self._belief.targets.next()
        record = None if target is None else core.roster.get(target)
        if record is not None:
            self._begin_probe(record.member)

    def _begin_probe(self, member: Member) -> None:
        if len(self._probes) >= MAX_PROBES or self._probe_of(member.node_id):
            return
        core = self._core
        stretch, settings = core.awareness.stretch, core.settings
        probe = Probe(
            core.next_seq(),
            member.node_id,
            member.epoch,
            indirect_at=core.now + stretch(settings.probe_timeout),
            ends_at=core.now + stretch(settings.probe_interval),
        )
        self._probes[probe.seq] = probe
        core.counters.probes += 1
        core.ping(member, probe.seq)

    def _probe_of(self, node_id: NodeId) -> Probe | None:
        for probe in self._probes.values():
            if probe.target == node_id:
                return probe
        return None

    def _end_probes(self) -> None:
        core = self._core
        for probe in [p for p in self._probes.values() if p.deadline <= core.now]:
            if probe.indirect_at is not None:
                self._ask_helpers(probe)
            if probe.ends_at <= core.now:
                self._fail(probe)

    def _fail(self, probe: Probe) -> None:
        core = self._core
        del self._probes[probe.seq]
        if len(self._failed) >= MAX_FAILED:
            del self._failed[next(iter(self._failed))]
        self._failed[probe.seq] = probe
        core.counters.failures += 1
        core.awareness.worse(probe.blame())
        self._belief.accuse(probe.target, probe.epoch)

    def _ask_helpers(self, probe: Probe) -> None:
        core = self._core
        probe.indirect_at = None
        core.counters.timeouts += 1
        timeout = core.awareness.stretch(core.settings.probe_timeout)
        budget = max(0.0, min(timeout, probe.ends_at - core.now))
        able = [m for m in core.roster.alive() if m.node_id != probe.target]
        count = min(core.settings.indirect_probes, len(able))
        for helper in core.rng.sample(able, count):
            probe.helpers.append(helper.node_id)
            core.counters.indirect_probes += 1
            request = PingReq(
                probe.seq,
                core.roster.me,
                probe.target,
                probe.epoch,
                int(budget * 1000),
                core.news(),
            )
            core.out.append(Send(helper.address, request))

    def _end_relays(self) -> None:
        now = self._core.now
        for seq, relay in [*self._relays.items()]:
            if relay.nack_at is not None and relay.nack_at <= now:
                # It stays: a late answer is still passed on.
                relay.nack_at = None
                self._nack(relay.origin_seq, relay.route)
            elif relay.ends_at <= now:
                del self._relays[seq]

    def _nack(self, seq: int, route: Route) -> None:
        core = self._core
        core.counters.nacks_sent += 1
        core.out.append(Reply(route, Nack(seq, core.roster.me, core.news())))
