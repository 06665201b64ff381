"""Which partitions are whose, as this node sees it, and what follows when that changes.

Every partition has a `Tenure`: the object through which near entries are tied to its
owner's generations, and through which the owner's arena is read where it lies on this
host. When a partition moves, its tenure ends and a new one begins; all that was read
under the old one is dead at once. What this node holds of a partition that is no longer
its own is sealed in its arena likewise.

The table and the list of tenures are replaced or changed by assignment only, so
application threads read them without a lock: whoever sees the old tenure sees it end.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Final, final

from meshcache.engine.handover import Handover, Sealed
from meshcache.engine.peers import Peers
from meshcache.engine.readers import Readers
from meshcache.hashing import PARTITIONS, bucket_of, partition_of
from meshcache.model import Member, NodeId
from meshcache.placement.placement import Placement
from meshcache.placement.table import Table
from meshcache.placement.table import moved as moved_between
from meshcache.store.arena import Arena
from meshcache.store.generations import Generations, Stamp, Tenure
from meshcache.store.layout import SEALED
from meshcache.store.tags import private_tags
from meshcache.store.view import View, seal_time

__all__ = ["Lanes", "Look", "Ranges", "no_lane"]

Lanes = Callable[[Member], View | None]
"""Opens the arena of a member, if it lies on this host; must not block."""

Look = Callable[[], Iterable[View]]
"""Opens the arenas of this host that have come since the last look, and seals those
whose owners have died."""

LOOK_AGAIN: Final = 0.25
"""Seconds between two such looks while siblings are waited for that are yet to be
met."""


def no_lane(_member: Member) -> View | None:
    """Open no arena: those of others cannot be seen."""
    return None


@final
class Ranges:
    """The partition table and this node's part in it."""

    __slots__ = (
        "_began",
        "_closed",
        "_expecting",
        "_handover",
        "_held",
        "_intact",
        "_lanes",
        "_look",
        "_looked",
        "_me",
        "_nobody",
        "_open_lane",
        "_orphans",
        "_peers",
        "_placement",
        "_readers",
        "_since",
        "_store",
        "_strangers",
        "_undead",
        "_wired",
        "copies",
        "table",
        "tenures",
    )

    def __init__(
        self,
        me: Member,
        store: Arena,
        peers: Peers,
        readers: Readers,
        handover: Handover,
        *,
        open_lane: Lanes,
        look: Look,
    ) -> None:
        self._me = me
        self._store = store
        self._peers = peers
        self._readers = readers
        self._handover = handover
        self._open_lane = open_lane
        self._look = look
        self._lanes: dict[NodeId, View] = {}
        # Of the lanes, those whose owners membership has not met yet, since when; and
        # those that it has given up, although nobody has sealed them.
        self._strangers: dict[NodeId, float] = {}
        self._undead: dict[NodeId, tuple[View, float]] = {}
        self._began = 0.0
        self._looked = 0.0
        self._orphans: tuple[View, ...] = ()
        self._expecting = False
        self._since = 1
        self._held = array("I", bytes(4 * PARTITIONS))
        self._placement = Placement()
        self._nobody = Generations()
        # What is read under it is not kept near: the tenure of what is not open.
        self._closed = Tenure(self._nobody.table)
        self._closed.end()
        # The table and the tenures with which all that is ours was seen to be open.
        self._intact: tuple[Table, bytes] | None = None
        # Owners whose arenas this process cannot see, and what it was told of tags,
        # by which that falls which it keeps near of theirs.
        self._wired: set[NodeId] = set()
        self.copies: Final = private_tags()
        self.table: Table = self._placement.update(())
        # One for all, until the first table gives each its own.
        self.tenures = [Tenure(self._nobody.table)] * PARTITIONS

    # --- the arenas of this host -------------------------------------------------

    def expect(self, now: float) -> None:
        """Open nothing before discovery has said who else there is."""
        self._expecting = True
        self._began = now
        self._since = seal_time(now)

    def neighbours(self, living: Iterable[View], orphans: Iterable[View]) -> None:
        """Hear which arenas there were on this host when we came.

        The *living* are waited for although membership has not met them yet.
        *orphans* are those whose owners had died; what none of the living has ever
        held is taken over from them.
        """
        self._find(living, self._began)
        self._orphans = tuple(orphans)

    def _find(self, living: Iterable[View], now: float) -> None:
        """Take note of arenas whose owners may be yet to be met."""
        for view in living:
            node_id = NodeId(view.node_id)
            if node_id in self._undead:
                continue
            if self._lanes.setdefault(node_id, view) is view:
                self._strangers[node_id] = now

    def unmet(self, now: float) -> dict[NodeId, float]:
        """Look for siblings that hold something, and that membership does not know.

        Returns:
            since when each is known here.
        """
        self._look_around(now)
        self._forget_sealed()
        strangers = self._strangers.items()
        holding = {n: at for n, at in strangers if self._lanes[n].holds_any}
        return holding | {n: at for n, (_, at) in self._undead.items()}

    def awaits_strangers(self, now: float, patience: float) -> bool:
        """Whether there are such, and known for less than *patience*."""
        return any(now - since < patience for since in self.unmet(now).values())

    def _look_around(self, now: float) -> None:
        if now != self._looked:
            self._looked = now
            self._find(self._look(), now)

    def _forget_sealed(self) -> None:
        undead = self._undead.items()
        self._undead = {n: known for n, known in undead if known[0].holds_any}

    def discovered(self, *, nobody: bool) -> None:
        """Hear what discovery's first look brought."""
        self._expecting = self._expecting and not nobody

    def meet(self, member: Member, now: float) -> None:
        """Open the arena of a member that is new, if it lies on this host.

        Only now does it hear of us, and what it is to seal.
        """
        self._strangers.pop(member.node_id, None)
        self._undead.pop(member.node_id, None)
        self._handover.met(member.node_id, now)
        view = self._open_lane(member)
        if view is not None:
            self._lanes[member.node_id] = view

    def part(self, node_id: NodeId, now: float) -> None:
        """Let go of the arena of a member that is gone. Its partitions have moved.

        When it held them last is kept: who held them before that is not to be asked.
        """
        self._wired.discard(node_id)
        self._strangers.pop(node_id, None)
        self._handover.parted()
        view = self._lanes.pop(node_id, None)
        if view is None:
            return
        self._undead[node_id] = view, now
        held, time = self._held, seal_time(now)
        for partition in range(PARTITIONS):
            if view.ever_held(partition):
                sealed = view.sealed(partition)
                last = view.sealed_at(partition) if sealed else time
                held[partition] = max(held[partition], last)

    def lane(self, node_id: NodeId) -> View | None:
        """Return the arena of a member as this process sees it, if it does."""
        return self._lanes.get(node_id)

    # --- the table ---------------------------------------------------------------

    def update(self, members: Iterable[Member], now: float) -> list[int]:
        """Make the table of *members* and return the partitions that moved."""
        old, new = self.table, self._placement.update(members)
        if new is old:
            return []
        moved = moved_between(old, new)
        if self._expecting and len(new.members) > 1:
            # We thought that all was ours, and had opened none of it. What still is
            # comes from those who were here before.
            self._expecting = False
            me = self._me.node_id
            old = Placement().update([m for m in new.members if m.node_id != me])
            moved = sorted({*moved, *new.partitions_of(self._me.node_id)})
        for partition in moved:
            self.tenures[partition].end()
        self.table = new
        with self._store.lock:
            self._move(moved, old, new, now)
        return moved

    def _move(self, moved: list[int], old: Table, new: Table, now: float) -> None:
        if not old.members and self._begins(new):
            self._begin(now)
            return
        gained: list[Sealed] = []
        lost = []
        for partition in moved:
            owner = new.owner(partition)
            if owner is not None and owner.node_id == self._me.node_id:
                if self._gains(partition, now):
                    gained.append(Sealed(partition, None, now))
            else:
                if self._loses(partition):
                    lost.append(partition)
                self.tenures[partition] = self._tenure_of(owner)
        if lost:
            self._handover.seal(lost, now)
        self._open(gained, old, now)

    def _begins(self, table: Table) -> bool:
        """Whether this, our first table, gives us all, and we know of nobody else."""
        ids = [member.node_id for member in table.members]
        return ids == [self._me.node_id] and not self._lanes and self._is_new()

    def _is_new(self) -> bool:
        """Whether no partition has ever been ours."""
        return self._store.untouched

    def _begin(self, now: float) -> None:
        """Gain all at once, as `_gains` does one by one."""
        self.tenures[:] = [self._closed] * PARTITIONS
        if self._expecting:
            self._handover.expect_all(now)
        else:
            self._open([Sealed(p, None, now) for p in range(PARTITIONS)], None, now)

    def own_all(self, placement: Placement) -> None:
        """Own everything at once, for good: no other member will ever come."""
        self._placement = placement
        self.table = placement.update([self._me])
        self._store.grant_all()
        # One tenure serves them all: none of them ends before the node does.
        self.tenures = [self._tenure_of(self._me)] * PARTITIONS

    def reclaim(self, now: float) -> list[int]:
        """Open again what others have sealed here, taking us for dead.

        They held it meanwhile, so it is theirs to seal first, and to hand over.
        """
        self._forget_sealed()
        table, store = self.table, self._store
        tenures = bytes(store.tenures)
        if self._intact == (table, tenures):
            return []
        ours = table.partitions_of(self._me.node_id)
        shut = [partition for partition in ours if not store.granted(partition)]
        if not shut:
            self._intact = table, tenures
            return []
        deposed = [p for p in shut if not self._handover.awaits(p)]
        if deposed:
            self._handover.gave_up_at = now
        for partition in deposed:
            self.tenures[partition].end()
        with store.lock:
            free = [Sealed(p, None, now) for p in deposed if self._gains(p, now)]
            return self._open(free, table, now)

    def _gains(self, partition: int, now: float) -> bool:
        """Whether a partition that has become ours is to be opened, and at once."""
        if self._handover.keep(partition) or self._store.granted(partition):
            self.tenures[partition] = self._tenure_of(self._me)
            return False
        self.tenures[partition] = self._closed
        if self._expecting:
            self._handover.expect(partition, now)
            return False
        return not self._is_held(partition, now, now)

    def _open(self, gained: list[Sealed], old: Table | None, now: float) -> list[int]:
        """Open partitions that nobody holds, and let their entries arrive.

        Two newcomers may come to open the same one, each by a table that does not have
        the other. So each marks it in its arena first and then looks at everybody's:
        one at least sees the other, and takes its mark back.
        """
        if not gained:
            return []
        first = len(gained) == PARTITIONS and self._is_new()
        before = self._grant(gained, first=first)
        self._find(self._look(), now)
        alone = not self._lanes and not self._orphans
        if first and alone and all(view is None for _, view, _ in gained):
            return self._open_all()
        inherited: dict[View, list[int]] = {}
        opened = []
        for (partition, waited, since), tenure in zip(gained, before, strict=True):
            if self._is_held(partition, since, now):
                self._store.forgo(partition, tenure)
                continue
            self._handover.opened(partition)
            self.tenures[partition] = self._tenure_of(self._me)
            opened.append(partition)
            if tenure:
                # Who read it when we had it before may have missed who had it since.
                self._readers.moved_all()
            if old is not None and self._is_far(old.owner(partition)):
                continue
            held = self._holders(partition, waited)
            if self._was_last(partition, held):
                self._store.reopen(partition, tenure)
            elif source := self._source(partition, waited, held):
                inherited.setdefault(source, []).append(partition)
        for view, partitions in inherited.items():
            self._handover.adopt(view, partitions, now)
        return opened

    def _grant(self, gained: list[Sealed], *, first: bool) -> list[int]:
        """Mark partitions as ours; return what undoes that, for each."""
        if first:
            self._store.grant_all()
            return [0] * PARTITIONS
        return [self._store.grant(partition) for partition, _, _ in gained]

    def _open_all(self) -> list[int]:
        """Open what has been marked: everything, of which nobody ever held a part."""
        self._handover.opened_all()
        me = self._me
        self.tenures[:] = [self._tenure_of(me) for _ in range(PARTITIONS)]
        return list(range(PARTITIONS))

    def _is_far(self, owner: Member | None) -> bool:
        """Whether what an owner has stored cannot be seen from here."""
        if owner is None or owner.node_id == self._me.node_id:
            return False
        return owner.node_id not in self._lanes

    def _holders(self, partition: int, waited: View | None) -> dict[bytes, View]:
        """Return the arenas that have held a partition.

        By node, for one that died lately may be a lane and an orphan. *waited* is one
        that is gone from here, but was waited for.
        """
        held = {v.node_id: v for v in self._orphans if v.held_last(partition)}
        held |= {v.node_id: v for v in self._lanes.values() if v.ever_held(partition)}
        return held if waited is None else {**held, waited.node_id: waited}

    def _was_last(self, partition: int, held: dict[bytes, View]) -> bool:
        """Whether nobody has held a partition since we did ourselves."""
        times = [view.sealed_at(partition) for view in held.values()]
        return self._store.sealed_at(partition) > max(self._held[partition], *times, 0)

    def _source(
        self, partition: int, waited: View | None, held: dict[bytes, View]
    ) -> View | None:
        """Return the arena of the one who held a partition last, if that is known.

        An arena keeps what it held long ago, and others may have written since. So it
        must have been sealed since we are here, or be that of one who was dead when we
        came; and no one that we know of, or knew, may have held the partition after it.
        """
        if not held:
            return None
        # Looked at once: another process may seal at any moment.
        seals = [(view.sealed_at(partition), view) for view in held.values()]
        last = max(at for at, _ in seals)
        latest = [view for at, view in seals if at == last]
        # Seals have the time in hundredths. Of two at once, the one that was waited
        # for was seen to be the later.
        source = waited if waited in latest else latest[0]
        ours = self._store.sealed_at(partition)
        floor = max(self._held[partition], ours and ours + 1)
        if all(source.node_id != orphan.node_id for orphan in self._orphans):
            floor = max(floor, self._since)
        known = source is waited or len(latest) == 1
        return source if known and last >= floor else None

    def _loses(self, partition: int) -> bool:
        """Whether a partition that is another's is to be sealed, and that at once."""
        granted = self._store.granted(partition)
        return not self._handover.give_up(partition) and granted

    def settle(self, now: float) -> list[int]:
        """Open what may be opened by now, and take some entries in.

        Returns:
            the partitions that were opened.
        """
        handover = self._handover
        if self._strangers and now - self._looked >= LOOK_AGAIN:
            # One of them may have died before anybody has met it.
            self._look_around(now)
        sealed = handover.sealed(
            now,
            alone=not self._expecting,
            gone=lambda node, since: self._is_gone(node, since, now),
        )
        free = [s for s in sealed if not self._is_held(s.partition, s.since, now)]
        with self._store.lock:
            opened = self._open(free, None, now)
        handover.step(now)
        if handover.settled:
            self._orphans = ()
            self._forget_strangers(now)
        return opened

    def _forget_strangers(self, now: float) -> None:
        """Let go of the arenas of nodes that ended before membership met them."""
        for node_id, view in list(self._lanes.items()):
            if view.state == SEALED and self._peers.get(node_id) is None:
                self.part(node_id, now)

    def _is_held(self, partition: int, since: float, now: float) -> bool:
        """Whether somebody has to seal a partition yet, who is waited for then."""
        undead = ((node_id, view) for node_id, (view, _) in self._undead.items())
        for node_id, view in (*self._lanes.items(), *undead):
            if not view.sealed(partition) and not self._is_gone(node_id, since, now):
                self._handover.wait(partition, view, node_id, since)
                return True
        return False

    def _is_gone(self, node_id: NodeId, since: float, now: float) -> bool:
        """Whether a node is not waited for any more, after having been since *since*.

        Membership has given it up. One that it has not met lives, by its lock: they
        find each other soon, if they can at all.
        """
        stranger = node_id in self._strangers
        waits = self._handover.waits(since, now, stranger=stranger)
        return not waits and self._peers.get(node_id) is None

    def _tenure_of(self, owner: Member | None) -> Tenure:
        if owner is None:
            return Tenure(self._nobody.table)
        if owner.node_id == self._me.node_id:
            store = self._store
            return Tenure(store.generations.table, store.get, store.tags)
        lane = self._lanes.get(owner.node_id)
        if lane is not None:
            return Tenure(lane.generations, lane.get, lane.tags)
        self._wired.add(owner.node_id)
        peer = self._peers.learn(owner)
        return Tenure(peer.generations.table, None, self.copies)

    @property
    def copying(self) -> bool:
        """Whether this process may keep values of owners whose arenas it cannot see."""
        return bool(self._wired)

    # --- keys --------------------------------------------------------------------

    def owner(self, hashed: int) -> Member | None:
        """Return the member that owns the key of this hash."""
        return self.table.owner_of(hashed)

    def sibling(self, hashed: int) -> Member | None:
        """Return who owns the key, if it is a node of this host that answers.

        For any thread: it only looks into dicts.
        """
        owner = self.table.owner_of(hashed)
        if owner is None or owner.node_id not in self._lanes:
            return None
        peer = self._peers.get(owner.node_id)
        return peer.member if peer is not None and peer.usable else None

    def mine(self, hashed: int) -> bool:
        """Whether this node owns the key of this hash."""
        owner = self.table.owner_of(hashed)
        return owner is not None and owner.node_id == self._me.node_id

    def deposed(self, hashed: int) -> bool:
        """Whether a sibling has sealed here what we own, and we have not noticed.

        It took us for dead, and has opened the key's partition in our place.
        """
        partition = partition_of(hashed)
        if self._store.granted(partition) or not self.mine(hashed):
            return False
        return not self._handover.awaits(partition)

    def stamp(self, hashed: int) -> Stamp:
        """Return the stamp of this moment, to be taken before a value is read.

        One that does not stand where a sibling is the owner that has not opened the
        key's partition, or not any more: another may hold it, and take a write.
        """
        partition = partition_of(hashed)
        owner = self.table.owner_of(hashed)
        view = None if owner is None else self._lanes.get(owner.node_id)
        shut = view is not None and view.sealed(partition)
        tenure = self._closed if shut else self.tenures[partition]
        return tenure.stamp(bucket_of(hashed))
