"""Whose arena a partition's entries come from, while others seal it."""

from __future__ import annotations

import pytest

from meshcache.codec.messages import Verb
from meshcache.hashing import key_hash, partition_of


class Sealing:
    """An arena whose owner seals a partition anew at each look."""

    def __init__(self, view):
        self.node_id = view.node_id
        self.looks = 0
        self._view = view

    def sealed_at(self, partition):
        self.looks += 1
        return self._view.sealed_at(partition) + self.looks - 1


@pytest.fixture
def seen(host):
    """What cat sees of a partition that ann, and then bob, has held."""
    h = host()
    for name in ("ann", "bob", "cat"):
        h.starts(name)
        h.settles()
    key = h.keys("cat", 1, owner="bob")[0]
    h.direct("bob", Verb.SET, key, b"v")
    partition = partition_of(key_hash(key))
    views = [h["cat"].ranges.lane(h.nodes[n].me.node_id) for n in ("ann", "bob")]
    h.passes(0.1)
    views[1].depose([partition], h.now)
    return h["cat"].ranges, partition, views


def test_a_seal_is_read_once_though_it_may_move_meanwhile(seen):
    ranges, partition, (ann, bob) = seen
    sealing = Sealing(bob)
    held = {view.node_id: view for view in (ann, sealing)}

    assert None is ranges._source(partition, None, {})
    assert sealing is ranges._source(partition, None, held)
    assert 1 == sealing.looks
