from __future__ import annotations

import pytest

from meshcache.model import Member, NodeId, State


@pytest.fixture
def member_list() -> tuple[Member, Member]:
    """Two members, named for their hosts."""
    first, second = (
        Member(NodeId(name.encode() * 4), 1, 0, State.ALIVE, name, name, name, 1)
        for name in ("me", "ann")
    )
    return first, second
