from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshcache.codec.messages import Accusation
from meshcache.membership.broadcast import Broadcasts, Queue
from meshcache.model import NodeId, State

LIMIT = 3


def test_news_are_sent_as_often_as_the_limit_says_and_no_more():
    queue: Queue[str, str] = Queue()
    queue.put("a", "news of a")

    sent = [queue.draw(5, LIMIT) for _ in range(5)]

    assert [["news of a"]] * 3 + [[], []] == sent
    assert len(queue) == 0


def test_the_least_sent_go_first():
    queue: Queue[str, str] = Queue()
    queue.put("old", "old")
    queue.draw(1, LIMIT)
    queue.put("new", "new")

    assert ["new"] == queue.draw(1, LIMIT)
    assert ["old", "new"] == queue.draw(2, LIMIT)


def test_newer_news_of_a_member_replace_older_and_start_anew():
    queue: Queue[str, str] = Queue()
    queue.put("a", "older")
    queue.draw(1, LIMIT)
    queue.draw(1, LIMIT)
    queue.put("a", "newer")

    assert [["newer"]] * 3 + [[]] == [queue.draw(1, LIMIT) for _ in range(4)]


def test_good_and_bad_news_share_the_room(member):
    broadcasts = Broadcasts()
    for i in range(10):
        broadcasts.put(member(f"good{i}"))
        broadcasts.put(member(f"bad{i}", state=State.DEAD))

    drawn = Counter(m.state for m in broadcasts.draw(6, LIMIT))

    assert {State.ALIVE: 3, State.DEAD: 3} == drawn


def test_room_that_one_kind_leaves_goes_to_the_other(member):
    for few, many in ((State.ALIVE, State.DEAD), (State.DEAD, State.ALIVE)):
        broadcasts = Broadcasts()
        broadcasts.put(member("few", state=few))
        for i in range(10):
            broadcasts.put(member(f"many{i}", state=many))

        assert {few: 1, many: 5} == Counter(m.state for m in broadcasts.draw(6, LIMIT))


def test_the_newest_word_replaces_the_older_across_the_lists(member):
    broadcasts = Broadcasts()
    broadcasts.put(member("a"))
    broadcasts.put(member("a", state=State.SUSPECT))

    assert [State.SUSPECT] == [m.state for m in broadcasts.draw(9, LIMIT)]
    assert 1 == len(broadcasts)


def test_accusations_wait_apart_from_the_members_they_are_about(member):
    broadcasts = Broadcasts()
    accusation = Accusation(b"x" * 16, 1, 0, b"y" * 16)
    broadcasts.accuse(accusation)

    assert [] == broadcasts.draw(9, LIMIT)
    assert [accusation] == broadcasts.draw_accusations(9, LIMIT)


def test_who_accused_one_that_is_acquitted_is_forgotten_and_nobody_else():
    broadcasts = Broadcasts()
    x, y, z = (NodeId(name * 16) for name in (b"x", b"y", b"z"))
    of_x, of_y = Accusation(x, 1, 0, z), Accusation(y, 1, 0, z)
    for accusation in (of_x, of_y, Accusation(x, 1, 0, y)):
        broadcasts.accuse(accusation)
    broadcasts.draw_accusations(1, LIMIT)

    broadcasts.acquit(x, [y, z])

    assert [of_y] == broadcasts.draw_accusations(9, LIMIT)


class QueueAgainstModel(RuleBasedStateMachine):
    """The queue against a plain list sorted by how often each was sent."""

    def __init__(self):
        super().__init__()
        self.queue: Queue[int, int] = Queue()
        self.sent: dict[int, int] = {}
        self.version = 0
        self.latest: dict[int, int] = {}

    @rule(key=st.integers(0, 5))
    def put(self, key):
        self.version += 1
        self.queue.put(key, self.version)
        self.sent[key] = 0
        self.latest[key] = self.version

    @rule(key=st.integers(0, 5))
    def drop(self, key):
        self.queue.drop(key)
        self.sent.pop(key, None)

    @rule(room=st.integers(0, 7))
    def draw(self, room):
        drawn = self.queue.draw(room, LIMIT)
        keys = [next(k for k, v in self.latest.items() if v == news) for news in drawn]

        assert len(drawn) == min(room, len(self.sent))
        assert len(set(keys)) == len(keys)
        rest = [count for key, count in self.sent.items() if key not in keys]
        assert all(self.sent[key] <= count for key in keys for count in rest)
        for key in keys:
            self.sent[key] += 1
            if self.sent[key] == LIMIT:
                del self.sent[key]

    @invariant()
    def holds_what_was_not_sent_often_enough(self):
        assert len(self.sent) == len(self.queue)
        assert all(key in self.queue for key in self.sent)
        assert all(count < LIMIT for count in self.sent.values())


TestQueueAgainstModel = QueueAgainstModel.TestCase
