"""What the roster keeps up to date must be what its members add up to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshcache.membership.roster import Roster
from meshcache.model import Member, NodeId, State

ME = Member(NodeId(b"0" * 16), 1, 0, State.ALIVE, "a0", "d0", "h0", 1)

words = st.builds(
    lambda who, epoch, incarnation, state, address: Member(
        NodeId(str(who).encode() * 16),
        epoch,
        incarnation,
        state,
        f"a{address}",
        "d",
        "h",
        1,
    ),
    st.integers(1, 5),
    st.integers(1, 2),
    st.integers(0, 2),
    st.sampled_from(State),
    st.integers(1, 3),
)


def fresh(roster: Roster) -> Roster:
    """A roster that has heard of each member once."""
    made = Roster(roster.me, 100)
    for member in roster.members():
        if member is not roster.me:
            made.put(member, 0.0)
    return made


@given(st.lists(words, max_size=20), st.integers(3, 6), st.booleans())
def test_counts_lists_and_checksum_follow_every_change(heard, limit, forget):
    roster = Roster(ME, limit)
    for at, member in enumerate(heard):
        if roster.get(member.node_id) or roster.has_room():
            roster.put(member, float(at))
    if forget:
        roster.forget(before=float(len(heard) // 2))

    anew = fresh(roster)
    assert anew.checksum == roster.checksum
    assert len(roster.live()) == roster.live_count == anew.live_count
    assert len(roster.alive()) == roster.alive_count == anew.alive_count
    assert {m for m in roster.members() if m.state is State.DEAD} == set(
        roster.dead(since=-1.0)
    )
    for address in ("a1", "a2", "a3"):
        assert {m for m in roster.members() if m.address == address} == {
            record.member for record in roster.at(address)
        }


def test_only_the_dead_of_that_time_are_listed():
    roster = Roster(ME, 10)
    ann = ME._replace(node_id=NodeId(b"a" * 16), address="a1", state=State.DEAD)
    bob = ME._replace(node_id=NodeId(b"b" * 16), address="a2", state=State.DEAD)
    roster.put(ann, 5.0)
    roster.put(bob, 9.0)
    roster.put(bob._replace(incarnation=1), 12.0)

    assert [bob._replace(incarnation=1)] == roster.dead(since=6.0)
    assert [] == roster.dead(since=9.5)
