"""Belief: what this node makes of what it hears about members.

All reports come through `learn`, all changes of state through `accept`, whatever their
cause; so whatever must follow a change (news, suspicion, probing order, the effect
`Changed`, a question about the address) follows it always.
"""

from __future__ import annotations

from typing import Final, final

from meshcache.codec.messages import Accusation
from meshcache.membership.core import Core
from meshcache.membership.effects import Changed
from meshcache.membership.probe import Targets
from meshcache.membership.roster import Record
from meshcache.membership.rules import accuses, supersedes
from meshcache.membership.suspicion import Suspicion, Suspicions
from meshcache.model import Member, NodeId, State

__all__ = ["INCARNATION_MAX", "Belief"]

INCARNATION_MAX: Final = 2**32 - 1

MAX_PROOFS: Final = 1024
"""Dead processes that are remembered although nobody has spoken of them yet."""


@final
class Belief:
    """The members as this node sees them. Confined to the driver thread."""

    __slots__ = ("_core", "_proofs", "suspicions", "targets")

    def __init__(self, core: Core) -> None:
        self._core = core
        # Epochs of processes that are known to be gone, and that we have not met yet.
        self._proofs: dict[NodeId, int] = {}
        self.suspicions = Suspicions()
        self.targets = Targets(core.rng)

    def learn(self, heard: Member, *, hearsay: bool = False) -> None:
        """Believe *heard* if it is news. *hearsay* is what a list says of the dead."""
        roster = self._core.roster
        if heard.node_id == roster.me.node_id:
            self._hear_of_myself(heard)
            return
        record = roster.get(heard.node_id)
        if record is None:
            self._meet(heard, hearsay=hearsay)
            return
        known = record.member
        if heard == known:
            return
        if not supersedes(heard, known):
            self._correct(known, heard, hearsay=hearsay)
            return
        if heard.epoch == known.epoch:
            if hearsay and record.live and heard.state is State.DEAD:
                heard = heard._replace(state=State.SUSPECT)
                if not supersedes(heard, known):
                    return
            if record.proven and heard.state <= State.SUSPECT:
                heard = heard._replace(state=State.DEAD)
        self.accept(heard)

    def accept(self, member: Member) -> None:
        """Make *member* the belief, and see to all that follows."""
        core = self._core
        record = core.roster.get(member.node_id)
        known = record.member if record else None
        core.counters.updates_merged += 1
        core.roster.put(member, core.now)
        core.tell(member)
        self._follow_state(known, member)
        if known is None:
            core.out.append(Changed(member, None))
        elif (known.epoch, known[3:]) != (member.epoch, member[3:]):
            core.out.append(Changed(member, known.state))
        moved = known is None or known.address != member.address
        if moved and member.state <= State.SUSPECT:
            self._contest(member)

    def say_of_myself(self, me: Member) -> None:
        """Make *me* this node's own record, and tell everybody."""
        core = self._core
        core.roster.put(me, core.now)
        core.tell(me)

    def accuse(self, node_id: NodeId, epoch: int) -> None:
        """Take note that this node's own probe of a process had no answer."""
        core = self._core
        record = core.roster.get(node_id)
        if record is None or not record.live or record.member.epoch != epoch:
            return
        if record.member.state is State.ALIVE:
            self.accept(record.member._replace(state=State.SUSPECT))
        accuser = core.roster.me.node_id
        if self.suspicions.confirm(node_id, accuser):
            core.counters.accusations += 1
            member = record.member
            core.tell_accuser(Accusation(node_id, epoch, member.incarnation, accuser))

    def confirm(self, accusation: Accusation) -> None:
        """Take note that another node's probe of a suspect had no answer either."""
        core = self._core
        record = core.roster.get(NodeId(accusation.subject))
        if record is None or not _is_about(accusation, record.member):
            return
        accuser = NodeId(accusation.accuser)
        if self.suspicions.confirm(record.member.node_id, accuser):
            core.tell_accuser(accusation)

    def accused(self, accusation: Accusation) -> Member | None:
        """Return the suspect that an accusation is still about."""
        record = self._core.roster.get(NodeId(accusation.subject))
        if record is None or not _is_about(accusation, record.member):
            return None
        return record.member

    def ill_of(self, member: Member) -> tuple[Member, ...]:
        """Return what *member* should hear about itself, if we think ill of it."""
        record = self._core.roster.get(member.node_id)
        if record is None or not accuses(record.member, member):
            return ()
        return (record.member,) if self._core.settings.buddy else ()

    def deadline(self) -> float | None:
        """Return when the time of the first suspect is over."""
        return self.suspicions.deadline(well=self._core.awareness.well)

    def lose_link(self, record: Record) -> None:
        """Take note that this node's connection to a member was refused or broke."""
        record.unlinked = True
        self._core.counters.links_lost += 1
        self.suspicions.unlink(record.member.node_id, lost=True)

    def restore_link(self, node_id: NodeId, epoch: int) -> None:
        """Take note of a word of a process, or of a new connection to it."""
        record = self._core.roster.get(node_id)
        if record is not None and record.unlinked and record.member.epoch == epoch:
            record.unlinked = False
            self.suspicions.unlink(node_id, lost=False)

    def bury_suspects(self) -> None:
        """Take for dead those whose time to object is over."""
        core = self._core
        for node_id in self.suspicions.due(core.now, well=core.awareness.well):
            record = core.roster.get(node_id)
            assert record is not None
            core.counters.verdicts += 1
            self.accept(record.member._replace(state=State.DEAD))

    def prove_dead(self, node_id: NodeId, epoch: int) -> None:
        """Take note that a process is known to be gone, whatever it said before.

        Also of one that is yet to be heard of: others may not know.
        """
        record = self._core.roster.get(node_id)
        if record is None and len(self._proofs) < MAX_PROOFS:
            self._proofs[node_id] = epoch
        if record is None or record.member.epoch != epoch:
            return
        record.proven = True
        if record.live:
            self.accept(record.member._replace(state=State.DEAD))

    def lives_at(self, address: str, member: Member) -> None:
        """Take note that *member* answered what was sent to *address*."""
        for record in self._core.roster.at(address):
            if record.live and record.member.epoch < member.epoch:
                self._displace(record.member.node_id)

    def _meet(self, heard: Member, *, hearsay: bool) -> None:
        # A list may be the only place where somebody long dead is still known; taking
        # that in would pass tombstones on for ever, each node starting the day anew.
        if hearsay and heard.state >= State.DEAD:
            return
        if not self._core.roster.has_room():
            self._core.counters.refused += 1
            return
        self.accept(heard)
        if self._proofs.get(heard.node_id) == heard.epoch:
            self.prove_dead(heard.node_id, heard.epoch)

    def _correct(self, known: Member, heard: Member, *, hearsay: bool) -> None:
        """Spread a verdict again where an older ALIVE is still about."""
        if heard[:4] == known[:4]:
            return
        core = self._core
        core.counters.stale_dropped += 1
        if (
            not hearsay
            and known.state >= State.DEAD
            and accuses(known, heard)
            and known.node_id not in core.broadcasts
        ):
            core.tell(known)

    def _follow_state(self, known: Member | None, member: Member) -> None:
        was = None if known is None else known.state
        was_live = was is not None and was <= State.SUSPECT
        is_live = member.state <= State.SUSPECT
        if is_live and not was_live:
            self.targets.add(member.node_id)
        elif was_live and not is_live:
            self.targets.remove(member.node_id)
        ended = self.suspicions.end(member.node_id)
        if ended is not None:
            self._core.broadcasts.acquit(member.node_id, ended.accusers)
        if member.state is State.SUSPECT:
            self._begin_suspicion(member.node_id)
        if was is not member.state:
            self._count(was, member.state)
            if self.suspicions:
                self.suspicions.require(self._confirmations())

    def _begin_suspicion(self, node_id: NodeId) -> None:
        core, settings = self._core, self._core.settings
        suspicion = Suspicion(
            core.now,
            *settings.suspicion_bounds(core.live_count),
            self._confirmations(),
            settings.suspicion_unlinked,
        )
        record = core.roster.get(node_id)
        suspicion.unlinked = record is not None and record.unlinked
        self.suspicions.start(node_id, suspicion)

    def _confirmations(self) -> int:
        # This node, the others that could accuse, and the accused itself.
        return self._core.settings.confirmations(self._core.roster.alive_count + 2)

    def _count(self, was: State | None, state: State) -> None:
        counters = self._core.counters
        if state is State.SUSPECT:
            counters.suspicions += 1
        elif state is State.DEAD:
            counters.deaths += 1
        elif state is State.ALIVE and was is State.SUSPECT:
            counters.false_suspicions += 1
        elif state is State.ALIVE and was is not None:
            counters.resurrections += 1

    def _hear_of_myself(self, heard: Member) -> None:
        core = self._core
        me = core.roster.me
        if heard.epoch != me.epoch:
            core.counters.conflicts += heard.epoch > me.epoch
        elif heard.incarnation < me.incarnation:
            # Whoever says so has not heard our last word; if it is an accusation it
            # is older than our answer, which goes round once more.
            if heard.state > State.ALIVE and me.node_id not in core.broadcasts:
                core.tell(me)
        elif heard.state > me.state or heard.incarnation > me.incarnation:
            self._refute(heard)

    def _refute(self, heard: Member) -> None:
        core = self._core
        me = core.roster.me
        if heard.incarnation > me.incarnation:
            core.counters.conflicts += 1
        if me.state is State.LEFT or heard.incarnation >= INCARNATION_MAX:
            return
        self.say_of_myself(me._replace(incarnation=heard.incarnation + 1))
        core.awareness.worse()
        core.counters.refutations += 1
        core.gossip_at = core.now

    def _contest(self, member: Member) -> None:
        """Find out who lives at the address of *member*, if others claim it too."""
        core = self._core
        me = core.roster.me
        if member.address == me.address:
            if member.epoch < me.epoch:
                self._displace(member.node_id)
            return
        rivals = [rival for rival in core.roster.at(member.address) if rival.live]
        if len(rivals) > 1 and not all(rival.displaced for rival in rivals):
            core.contested.append(member.address)

    def _displace(self, node_id: NodeId) -> None:
        core = self._core
        record = core.roster.get(node_id)
        assert record is not None
        if not record.displaced:
            record.displaced = True
            core.counters.displaced += 1
            self.accept(record.member._replace(state=State.DEAD))


def _is_about(accusation: Accusation, member: Member) -> bool:
    return (
        member.state is State.SUSPECT
        and member.epoch == accusation.epoch
        and member.incarnation == accusation.incarnation
    )
