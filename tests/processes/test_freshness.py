"""Tags, stale values and many keys between real processes."""

from __future__ import annotations

import uuid

import pytest

KEYS = [f"key {index}" for index in range(40)]


@pytest.fixture(scope="module", params=[True, False], ids=["on-the-host", "by-message"])
def three(standing, request):
    """Processes that read each other's memory, or that talk as if on other hosts."""
    return standing.start(
        3, cluster=f"fresh-{uuid.uuid4().hex[:8]}", host_lane=request.param
    )


@pytest.fixture(autouse=True)
def empty(three):
    three[0].ask("do", "clear")


def found(agent):
    return agent.ask("do", "get_many", KEYS)


def test_a_tag_invalidated_in_one_process_holds_in_all_when_the_call_returns(three):
    """By every tier: each process has read all values near before."""
    for turn in range(20):
        writer, others = three[turn % 3], three[turn % 2 + 1]
        writer.ask("do", "set_many", dict.fromkeys(KEYS[:20], turn), tags=["red"])
        writer.ask("do", "set_many", dict.fromkeys(KEYS[20:], turn), tags=["blue"])
        for agent in three:
            for _ in range(3):
                assert len(KEYS) == len(found(agent))
        others.ask("do", "invalidate_tags", "red")
        for agent in three:
            assert dict.fromkeys(KEYS[20:], turn) == found(agent)


def test_what_is_written_after_an_invalidation_lives_whoever_writes_it(three):
    for turn in range(20):
        for key in KEYS:
            three[turn % 3].ask("do", "set", key, turn, tags=["red"])
        three[(turn + 1) % 3].ask("do", "invalidate_tags", "red")
        three[(turn + 2) % 3].ask("do", "set", KEYS[turn], turn, tags=["red"])
        for agent in three:
            assert {KEYS[turn]: turn} == found(agent)
