"""What a clear, or tags, make of the answers of all members, told by hand."""

from __future__ import annotations

import pytest

import meshcache
from meshcache import changes
from meshcache.codec.messages import Status
from meshcache.engine.ops import Closed, Unreached, WriteResult, WriteResults
from meshcache.errors import PeerTimeout, PeerUnavailable
from meshcache.runtime.steps import Answer
from meshcache.runtime.tickets import SyncTicket
from meshcache.testing import isolated

DONE = WriteResult(Status.HIT, b"")
ANN = Unreached("ann:2", unknown=False)
BOB = Unreached("bob:2", unknown=True)

FORGET = pytest.mark.parametrize(
    "forget",
    [changes.clear, lambda region, runtime: changes.untag(region, runtime, ["t"])],
)


@pytest.fixture
def told():
    """Take the steps of an operation, and tell it how it went."""
    with isolated():
        region = meshcache.Cache("c").region

        def one(forget, outcome):
            steps = forget(region, region.bind())
            next(steps)
            with pytest.raises(StopIteration):
                steps.send(Answer(SyncTicket(), outcome))

        yield one


@FORGET
def test_it_is_done_when_all_have_done_it(told, forget):
    told(forget, WriteResults((DONE, DONE)))


@FORGET
@pytest.mark.parametrize(
    ("missed", "kind"),
    [((ANN,), PeerUnavailable), ((BOB,), PeerTimeout), ((ANN, BOB), PeerTimeout)],
)
def test_who_was_not_reached_is_named_once(told, forget, missed, kind):
    with pytest.raises(PeerUnavailable) as raised:
        told(forget, WriteResults((*missed, *missed, DONE)))

    assert kind is type(raised.value)
    assert [1] * len(missed) == [str(raised.value).count(m.address) for m in missed]


@FORGET
def test_when_the_node_stops_it_is_not_known(told, forget):
    with pytest.raises(PeerTimeout, match="some members"):
        told(forget, Closed())
