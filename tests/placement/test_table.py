# The expected value stands on the left here.

from array import array
from collections import Counter

import pytest
from xxhash import xxh3_64_intdigest

from meshcache.hashing import PARTITIONS, key_hash
from meshcache.model import Member, NodeId, State
from meshcache.placement.placement import Placement
from meshcache.placement.table import Table, moved

A, B, C, D = (NodeId(bytes([n]) * 16) for n in (0x0A, 0x0B, 0x0C, 0x0D))
TOP = 2**64 - 1


def member(node_id, epoch=1, **news):
    plain = Member(node_id, epoch, 0, State.ALIVE, "tcp://a", "tcp://d", "host", 1)
    return plain._replace(**news)


def table_of(*ids):
    return Placement().update(member(node_id) for node_id in ids)


def striped(*ids):
    """A table that can be told by heart: the members in turn, from partition 0 on."""
    owners = array("H", [p % len(ids) for p in range(PARTITIONS)])
    return Table(tuple(member(node_id) for node_id in ids), owners)


def test_three_fixed_nodes_own_what_they_have_always_owned():
    table = table_of(A, B, C)

    assert 0xFCDBF2289F521523 == table.epoch
    assert [5440, 5582, 5362] == [table.count(node_id) for node_id in (A, B, C)]
    assert "caabbabbbccabccaccccbcaa" == "".join(
        table.owner(p).name[1] for p in range(24)
    )
    assert 0xD26DB09E296E13B7 == xxh3_64_intdigest(bytes(table.owners.tolist()))


def test_an_empty_table_has_epoch_0_and_no_owners():
    table = Placement().table

    assert (0, ()) == (table.epoch, table.members)
    assert [None, None] == [table.owner(0), table.owner_of(TOP)]
    assert (0, [], [], []) == (
        table.count(A),
        table.partitions_of(A),
        table.ranges(A),
        table.rank(0, 2),
    )


def test_the_epoch_names_the_identities_and_nothing_else():
    owners = array("H", bytes(2 * PARTITIONS))
    epoch = Table((member(A), member(B)), owners).epoch

    news = member(A, incarnation=9, address="tcp://x", state=State.SUSPECT)
    assert epoch == Table((news, member(B)), owners).epoch
    assert epoch != Table((member(A, epoch=2), member(B)), owners).epoch
    assert epoch != Table((member(A),), owners).epoch


@pytest.mark.parametrize("partition", [0, 1, 8191, 8192, PARTITIONS - 1])
def test_the_first_and_last_hash_of_a_partition_have_its_owner(partition):
    table = striped(A, B, C)
    first = partition << 50

    owner = table.members[partition % 3]
    assert owner == table.owner(partition)
    assert owner == table.owner_of(first)
    assert owner == table.owner_of(first + 2**50 - 1)


def test_the_hash_after_a_partition_belongs_to_the_next():
    table = striped(A, B, C)

    assert table.owner(8) == table.owner_of(8 << 50)
    assert table.owner(7) == table.owner_of((8 << 50) - 1)


def test_every_key_has_an_owner_and_owners_share_the_keys():
    table = table_of(A, B)

    counts = Counter(table.owner_of(key_hash(b"%d" % n)).node_id for n in range(2000))
    assert {A, B} == set(counts)
    assert min(counts.values()) > 850


@pytest.mark.parametrize("partition", [-1, PARTITIONS])
def test_a_partition_that_does_not_exist_is_refused(partition):
    with pytest.raises(AssertionError):
        striped(A).owner(partition)


def test_members_partitions_and_counts_tell_the_same_story():
    table = table_of(A, B, C)

    for one in table.members:
        owned = [p for p in range(PARTITIONS) if table.owner(p) is one]
        assert owned == table.partitions_of(one.node_id)
        assert len(owned) == table.count(one.node_id)


def test_a_stranger_owns_nothing():
    table = table_of(A, B)

    assert (0, []) == (table.count(C), table.ranges(C))


def test_adjacent_partitions_make_one_range():
    half = array("H", [p >= PARTITIONS // 2 for p in range(PARTITIONS)])
    table = Table((member(A), member(B)), half)

    assert [(0, 2**63 - 1)] == table.ranges(A)
    assert [(2**63, TOP)] == table.ranges(B)


def test_all_ranges_together_are_the_hash_space_once():
    table = table_of(A, B, C)
    ranges = sorted(r for m in table.members for r in table.ranges(m.node_id))

    starts = [first for first, _ in ranges]
    assert [0] + [last + 1 for _, last in ranges[:-1]] == starts
    assert TOP == ranges[-1][1]


def test_rank_puts_the_owner_first_and_everybody_once():
    table = table_of(A, B, C, D)

    for partition in range(50):
        ranked = table.rank(partition, 4)
        assert table.owner(partition) is ranked[0]
        assert set(table.members) == set(ranked)
        assert ranked[:2] == table.rank(partition, 2)


def test_the_second_in_rank_owns_when_the_owner_has_gone():
    table, without = table_of(A, B, C, D), table_of(A, B, C)

    heirs = {p: table.rank(p, 2)[1] for p in table.partitions_of(D)}
    assert heirs == {p: without.owner(p) for p in heirs}


def test_rank_puts_an_owner_first_that_does_not_score_best():
    table = striped(A, B, C)

    assert [table.owner(p) for p in range(30)] == [
        table.rank(p, 1)[0] for p in range(30)
    ]


def test_moved_lists_what_has_another_owner():
    old, new = striped(A, B), striped(A, C)

    assert list(range(1, PARTITIONS, 2)) == moved(old, new)


def test_nothing_moves_when_members_only_change_places_in_the_list():
    old, new = (
        striped(B, D),
        Table(
            (member(A), member(B), member(D)),
            array("H", [1 + p % 2 for p in range(PARTITIONS)]),
        ),
    )

    assert [] == moved(old, new)
    assert [] == moved(new, old)


def test_a_new_epoch_of_the_same_node_is_another_owner():
    old = striped(A, B)
    again = Table((member(A), member(B, epoch=2)), array("H", old.owners))

    assert old.partitions_of(B) == moved(old, again)


def test_everything_moves_from_nobody_and_to_nobody():
    nobody, somebody = Placement().table, striped(A, B)

    assert list(range(PARTITIONS)) == moved(nobody, somebody)
    assert list(range(PARTITIONS)) == moved(somebody, nobody)
    assert [] == moved(nobody, nobody)


def test_owners_cannot_be_written():
    with pytest.raises(TypeError):
        striped(A).owners[0] = 1


def test_repr_names_the_epoch_and_the_members():
    table = striped(A, B)

    assert f"<Table {table.epoch:016x} of 2: 0a0a0a0a 0b0b0b0b>" == repr(table)
    assert "<Table 0000000000000000 of 0: nobody>" == repr(Placement().table)
