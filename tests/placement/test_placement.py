# The expected value stands on the left here.

import random
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from meshcache.hashing import PARTITIONS
from meshcache.model import Member, NodeId, State
from meshcache.placement.placement import Placement
from meshcache.placement.seating import NODES_MAX
from meshcache.placement.table import moved

SIZES = [2, 3, 4, 8, 16, 32, 64]
SWAPS = 8


def member(node_id, epoch=1, **news):
    plain = Member(node_id, epoch, 0, State.ALIVE, "tcp://a", "tcp://d", "host", 1)
    return plain._replace(**news)


def members(n, rng):
    return [member(NodeId(rng.randbytes(16))) for _ in range(n)]


def fullest(table):
    owners = table.owners.tolist()
    return max(map(owners.count, range(len(table.members))))


def test_with_one_member_everything_is_its_own():
    (alone,) = members(1, random.Random(1))

    assert PARTITIONS == Placement().update([alone]).count(alone.node_id)


def test_the_order_of_members_does_not_matter():
    rng = random.Random(2)
    known = members(40, rng)
    here, there = (
        Placement().update(known),
        Placement().update(rng.sample(known, len(known))),
    )

    assert here.epoch == there.epoch
    assert here.members == there.members
    assert here.owners == there.owners


def test_the_same_members_give_the_same_table_object():
    known = members(3, random.Random(3))
    placement = Placement()

    table = placement.update(known)
    assert table is placement.update(reversed(known))
    assert table is placement.table


@pytest.mark.parametrize(
    "news",
    [{"address": "tcp://b"}, {"incarnation": 5}, {"state": State.SUSPECT}],
)
def test_news_of_a_member_keeps_owners_and_epoch_and_shows_the_news(news):
    a, b = members(2, random.Random(4))
    placement = Placement()
    old = placement.update([a, b])

    changed = a._replace(**news)
    new = placement.update([changed, b])
    assert new is not old
    assert {changed, b} == set(new.members)
    assert (old.epoch, old.owners) == (new.epoch, new.owners)
    assert [] == moved(old, new)


@pytest.mark.parametrize(
    "news",
    [{"weight": 0}, {"state": State.DEAD}, {"state": State.LEFT}],
)
def test_observers_and_the_departed_own_nothing(news):
    a, b, c = members(3, random.Random(5))
    placement = Placement()
    table = placement.update([a, b])

    assert table is placement.update([a, b, c._replace(**news)])
    assert PARTITIONS == placement.update([a, b._replace(**news)]).count(a.node_id)


def test_one_coming_as_another_goes_is_no_different_from_one_after_the_other():
    a, b, c = members(3, random.Random(10))
    at_once, in_turn = Placement(), Placement()
    for placement in (at_once, in_turn):
        placement.update([a, b])

    in_turn.update([a, b, c])
    in_turn.update([a, c])
    assert in_turn.table.members == at_once.update([a, c]).members
    assert in_turn.table.owners == at_once.table.owners


def test_when_all_have_gone_the_table_is_empty_and_can_fill_again():
    (a,) = members(1, random.Random(6))
    placement = Placement()
    full = placement.update([a])

    assert (0, None) == (placement.update([]).epoch, placement.table.owner(0))
    assert full.epoch == placement.update([a]).epoch
    assert a == placement.table.owner(0)


def test_a_restart_under_the_same_id_is_a_new_owner_of_the_same_partitions():
    a, b = members(2, random.Random(7))
    placement = Placement()
    old = placement.update([a, b])

    new = placement.update([a, b._replace(epoch=2)])
    assert old.epoch != new.epoch
    assert old.partitions_of(b.node_id) == moved(old, new)


def test_the_latest_epoch_speaks_for_an_id_that_is_there_twice():
    a, b = members(2, random.Random(8))
    later = b._replace(epoch=2)
    dead = b._replace(epoch=3, state=State.DEAD)

    assert {a, later} == set(Placement().update([later, a, b]).members)
    assert (a,) == Placement().update([dead, a, b]).members


def test_more_members_than_can_own_are_refused_and_nothing_changes():
    placement = Placement()
    many = [member(NodeId(n.to_bytes(16, "big"))) for n in range(NODES_MAX + 1)]

    with pytest.raises(AssertionError):
        placement.update(many)
    assert () == placement.table.members
    assert not placement._choices.nodes


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_the_fullest_is_within_a_tenth_and_a_change_moves_little(n):
    rng = random.Random(n)
    known = members(n, rng)
    placement = Placement()
    tables = [placement.update(known)]
    for _ in range(SWAPS):
        known.remove(rng.choice(known))
        tables.append(placement.update(known))
        known += members(1, rng)
        tables.append(placement.update(known))

    full = max(fullest(t) * len(t.members) for t in tables) / PARTITIONS
    share = PARTITIONS / n
    most = max(len(moved(old, new)) for old, new in pairwise(tables)) / share
    assert full <= 1.10
    assert most <= 1.2


class Path(RuleBasedStateMachine):
    """Members come and go; what is left must be a table that knows no history."""

    pool = members(60, random.Random(9))

    @initialize(n=st.sampled_from([0, 1, 5, 40]))
    def start(self, n):
        self.placement = Placement()
        self.known = set(self.pool[:n])
        self.placement.update(self.known)

    @rule(one=st.sampled_from(pool))
    def join_or_leave(self, one):
        self.known ^= {one}
        self.placement.update(self.known)

    @rule(some=st.sets(st.sampled_from(pool), min_size=2, max_size=20))
    def several_at_once(self, some):
        self.known ^= some
        self.placement.update(self.known)

    @rule(data=st.data(), state=st.sampled_from([State.SUSPECT, State.DEAD]))
    def one_changes_state(self, data, state):
        if self.known:
            one = data.draw(st.sampled_from(sorted(self.known)))
            self.placement.update(self.known - {one} | {one._replace(state=state)})
            self.placement.update(self.known)

    def teardown(self):
        if hasattr(self, "placement"):
            fresh = Placement().update(self.known)
            table = self.placement.table
            assert (fresh.epoch, fresh.members) == (table.epoch, table.members)
            assert fresh.owners == table.owners


Path.TestCase.settings = settings(
    max_examples=20, stateful_step_count=10, deadline=None, derandomize=True
)
test_any_path_to_the_same_members_ends_in_the_same_table = pytest.mark.slow(
    Path.TestCase
)
