"""The transmit queue: news on their way to everybody (SWIM section 4.1).

Each piece of news rides on messages that are sent anyway, least-sent first, until it
has been sent `limit` times; by then all have heard it with high probability. Newer news
of a member take the place of older. Good news (joins) and bad (suspicions, deaths,
farewells) wait in lists of their own and are drawn equally, so that a burst of one
kind does not starve the other. Accusations travel in a third, with gossip alone.
"""

from __future__ import annotations

from collections.abc import Hashable
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

    __slots__ = ("_buckets", "_sent")

    def __init__(self) -> None:
        self._buckets: list[dict[K, V]] = [{}]
        self._sent: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def __contains__(self, key: K) -> bool:
        return key in self._sent

    def put(self, key: K, news: V) -> None:
        """Add news that have not been sent yet, in place of older ones of *key*."""
        self.drop(key)
        self._buckets[0][key] = news
        self._sent[key] = 0

    def drop(self, key: K) -> None:
        """Forget the news of *key*, if there are any."""
        sent = self._sent.pop(key, None)
        if sent is not None:
            del self._buckets[sent][key]

    def draw(self, room: int, limit: int) -> list[V]:
        """Return up to *room* news, least-sent first, and count them as sent."""
        chosen: list[tuple[int, K]] = []
        for sent, bucket in enumerate(self._buckets):
            if len(chosen) >= room:
                break
            chosen += [(sent, key) for key in list(bucket)[: room - len(chosen)]]
        return [self._sent_once(sent, key, limit) for sent, key in chosen]

    def _sent_once(self, sent: int, key: K, limit: int) -> V:
        news = self._buckets[sent].pop(key)
        if sent + 1 >= limit:
            del self._sent[key]
            return news
        if len(self._buckets) == sent + 1:
            self._buckets.append({})
        self._buckets[sent + 1][key] = news
        self._sent[key] = sent + 1
        return news


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
