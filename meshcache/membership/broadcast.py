"""The transmit queue: news on their way to everybody (SWIM section 4.1).

Each piece of news rides on messages that are sent anyway, least-sent first, until it
has been sent `limit` times; by then all have heard it with high probability. Newer news
of a member take the place of older. Good news (joins) and bad (suspicions, deaths,
farewells) wait in lists of their own and are drawn equally, so that a burst of one
kind does not starve the other. Accusations travel in a third, with gossip alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Generic, TypeVar, final

from meshcache.codec.messages import Accusation
from meshcache.model import Member, NodeId, State

__all__ = ["Broadcasts", "Queue"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@final
class Queue(Generic[K, V]):
    """News in the order of how often they have been sent. Driver thread only.

    A bucket for each count, each in order of arrival, so that drawing costs what is
    drawn and not what waits.
    """

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: list[dict[K, V]] = [{}]

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def __bool__(self) -> bool:
        return any(self._buckets)

    def __contains__(self, key: K) -> bool:
        return any(key in bucket for bucket in self._buckets)

    def put(self, key: K, news: V) -> None:
        """Add news that have not been sent yet, in place of older ones of *key*."""
        self.drop(key)
        self._buckets[0][key] = news

    def drop(self, key: K) -> None:
        """Forget the news of *key*, if there are any."""
        for bucket in self._buckets:
            if key in bucket:
                del bucket[key]
                return

    def draw(self, room: int, limit: int) -> list[V]:
        """Return up to *room* news, least-sent first, and count them as sent."""
        taken: list[tuple[int, dict[K, V]]] = []
        for sent, bucket in enumerate(self._buckets):
            if room <= 0:
                break
            if bucket:
                part = self._take(sent, room)
                taken.append((sent + 1, part))
                room -= len(part)
        for sent, part in taken:
            if sent < limit:
                self._put_back(sent, part)
        return [news for _, part in taken for news in part.values()]

    def _take(self, sent: int, room: int) -> dict[K, V]:
        """Return the whole bucket, or as much of it as there is room for."""
        bucket = self._buckets[sent]
        if len(bucket) <= room:
            self._buckets[sent] = {}
            return bucket
        part = dict(islice(bucket.items(), room))
        for key in part:
            del bucket[key]
        return part

    def _put_back(self, sent: int, part: dict[K, V]) -> None:
        if len(self._buckets) == sent:
            self._buckets.append({})
        self._buckets[sent].update(part)


@final
class Broadcasts:
    """Good news, bad news and accusations. Confined to the driver thread."""

    __slots__ = ("_accusations", "_bad", "_good")

    def __init__(self) -> None:
        self._good: Queue[NodeId, Member] = Queue()
        self._bad: Queue[NodeId, Member] = Queue()
        self._accusations: Queue[tuple[bytes, bytes], Accusation] = Queue()

    def __len__(self) -> int:
        return len(self._good) + len(self._bad) + len(self._accusations)

    def __bool__(self) -> bool:
        return bool(self._good or self._bad or self._accusations)

    def __contains__(self, node_id: NodeId) -> bool:
        return node_id in self._good or node_id in self._bad

    def put(self, member: Member) -> None:
        """Queue the newest word on a member, in place of any older."""
        self.drop(member.node_id)
        good = member.state is State.ALIVE
        (self._good if good else self._bad).put(member.node_id, member)

    def drop(self, node_id: NodeId) -> None:
        """Forget the news of a member, if there are any."""
        self._good.drop(node_id)
        self._bad.drop(node_id)

    def accuse(self, accusation: Accusation) -> None:
        """Queue the name of one who accuses."""
        self._accusations.put((accusation.subject, accusation.accuser), accusation)

    def acquit(self, node_id: NodeId, accusers: Iterable[NodeId]) -> None:
        """Forget who accused a member that is not suspect any more."""
        for accuser in accusers:
            self._accusations.drop((node_id, accuser))

    def draw(self, room: int, limit: int) -> list[Member]:
        """Return up to *room* news of members: half bad, half good, or what there is.

        News above *limit* transmissions are gone.
        """
        half = max(room // 2, room - len(self._good))
        news = self._bad.draw(half, limit)
        return news + self._good.draw(room - len(news), limit)

    def draw_accusations(self, room: int, limit: int) -> list[Accusation]:
        """Return up to *room* accusations, least-sent first."""
        return self._accusations.draw(room, limit)
