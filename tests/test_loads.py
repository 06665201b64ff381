"""What a load does with each answer of the engine, told by hand."""

from __future__ import annotations

import pytest

import meshcache
from meshcache.clock import monotonic
from meshcache.codec.envelope import MARK, Envelope, Kind, unwrap
from meshcache.codec.values import codec
from meshcache.engine.ops import (
    Failure,
    GetKeys,
    Got,
    Granted,
    LoadKey,
    LoadKeys,
    Lot,
    Results,
    Tier,
)
from meshcache.errors import LoadError, RecursiveLoad
from meshcache.freshness import Freshness, Recipe
from meshcache.loads import ALONE_TIMEOUT, Wanted, load
from meshcache.many import Batch, load_many
from meshcache.memoize import Memo
from meshcache.options import settings_of
from meshcache.runtime.chain import MAX_DEPTH
from meshcache.runtime.failures import packed
from meshcache.runtime.steps import STILL, Answer, Behind, RunHere
from meshcache.runtime.tickets import SyncTicket
from meshcache.testing import isolated, time_travel

TIMEOUT = 10.0


@pytest.fixture
def region():
    with isolated():
        yield meshcache.Cache("c", jitter=0, ttl=60).region


def found(stored, late=-100.0, version=7):
    """What an owner has: over its ttl for some seconds, and kept for 300."""
    expires = monotonic() - late + 300.0
    return Got(stored, expires, version, Tier.PEER, None)


def kept(value):
    return Envelope(codec("msgpack").encode(value), 300_000).wrap()


def error():
    """A remembered error, kept for as long as a value is."""
    failure = Failure("builtins:KeyError", "nobody", "", b"")
    return Envelope(packed(failure), 300_000, kind=Kind.ERROR).wrap()


def loading(region, *, timeout=TIMEOUT, chain=(), node=True):
    """The steps of a load of one key, of which nothing is here."""
    full, hashed = region.full(None, "k")
    op = LoadKey(full, hashed, "", 0, b"", chain, timeout)
    runtime = region.bind() if node else None
    return load(region, runtime, Wanted("k", op, lambda: "new", Recipe(), {}))


def counted(region, *names):
    counts = region.tally.as_dict()
    return [counts[name] for name in names]


def answered(steps, *outcomes):
    """Send *outcomes*; return the last step that was asked for."""
    step = next(steps)
    for outcome in outcomes:
        step = steps.send(Answer(SyncTicket(), outcome))
    return step


def result(steps, sent):
    """Send the last answer; return what the steps return."""
    with pytest.raises(StopIteration) as done:
        steps.send(sent)
    return done.value.value


def test_what_is_too_old_for_this_reader_is_asked_for_anew(region):
    steps = loading(region)
    again = answered(steps, found(kept("old"), late=100.0))

    assert isinstance(again, LoadKey)
    assert 7 == again.than
    newer = found(kept("newer"), version=8)
    assert "newer" == result(steps, Answer(SyncTicket(), newer))


def test_what_is_too_old_once_more_is_loaded_here(region):
    steps = loading(region)
    old = found(kept("old"), late=100.0)
    step = answered(steps, old, old._replace(version=8))

    assert isinstance(step, RunHere)
    assert "new" == result(steps, step.loader())


@pytest.mark.parametrize("window", ["stale", "stale_if_error"])
def test_an_error_that_is_over_is_never_an_old_value(window):
    """It may have ended on its way here."""
    with isolated():
        steps = loading(meshcache.Cache("c", **{window: 300}).region)
        again = answered(steps, found(error(), late=100.0))

        assert isinstance(again, LoadKey)
        assert 7 == again.than
        with pytest.raises(OSError, match="down"):
            steps.throw(OSError("down"))


def test_a_refresh_that_finds_an_error_has_failed():
    with isolated():
        steps = loading(meshcache.Cache("c", stale=300).region)
        behind = answered(steps, found(kept("old"), late=100.0))
        assert isinstance(behind, Behind)
        refresh = behind.steps()
        assert 7 == next(refresh).than
        with pytest.raises(LoadError, match="nobody"):
            refresh.send(Answer(SyncTicket(), found(error(), version=8)))

        assert "old" == result(steps, STILL)


def test_what_cannot_be_read_is_loaded_here(region):
    steps = loading(region)
    step = answered(steps, found(MARK + b"junk"))

    assert isinstance(step, RunHere)
    assert "new" == result(steps, step.loader())
    assert [1, 1, 0] == counted(region, "load", "local", "raised")


def test_without_a_node_the_loader_runs_at_once_and_counts(region):
    steps = loading(region, node=False)
    step = next(steps)

    assert (TIMEOUT, 0.0) == (step.timeout, step.waited)
    assert "new" == result(steps, step.loader())
    assert [1, 1, 0] == counted(region, "load", "local", "raised")


def test_a_load_waits_as_long_as_the_node_says_unless_it_says_itself():
    with isolated(load_timeout=7):
        region = meshcache.Cache("c").region

        assert TIMEOUT == next(loading(region)).timeout
        assert 7 == next(loading(region, timeout=0)).timeout
        assert ALONE_TIMEOUT == next(loading(region, timeout=0, node=False)).timeout


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_loaders_within_loaders_are_bounded(region, depth):
    steps = loading(region, chain=tuple(range(depth)))
    if depth < MAX_DEPTH:
        assert isinstance(next(steps), LoadKey)
    else:
        with pytest.raises(RecursiveLoad, match="within 1000 others"):
            next(steps)


def test_an_error_of_a_load_is_counted_where_it_is_raised(region):
    steps = loading(region, node=False)
    next(steps)
    with pytest.raises(OSError, match="down"):
        steps.throw(OSError("down"))

    assert [1, 0, 1] == counted(region, "load", "local", "raised")


def test_the_wait_for_a_lease_is_taken_off_its_time():
    with time_travel() as time, isolated():
        steps = loading(meshcache.Cache("c").region)
        next(steps)
        time.advance(3)
        step = steps.send(Answer(SyncTicket(), Granted(1, Tier.FILL, None)))

        assert TIMEOUT == step.timeout
        assert 3 == pytest.approx(step.waited, abs=0.5)
        steps.close()


def test_a_key_of_a_batch_that_is_too_old_is_asked_for_by_itself(region):
    batch = Batch(["k"], lambda keys: dict.fromkeys(keys, "new"), Recipe(), TIMEOUT)
    steps = load_many(region, region.bind(), batch)
    asked = next(steps)
    old = found(kept("old"), late=100.0)
    alone = steps.send(Answer(SyncTicket(), Lot((old,))))

    assert isinstance(asked, LoadKeys)
    assert isinstance(alone, LoadKey)
    assert asked.keys[0][0] == alone.key
    anew = found(kept("anew"))
    assert {"k": "anew"} == result(steps, Answer(SyncTicket(), anew))


@pytest.mark.parametrize(
    ("stored", "late", "expected"),
    [
        (kept("fresh"), -100.0, True),
        (kept("old"), 100.0, False),
        (error(), -100.0, False),
        (MARK + b"junk", -100.0, False),
    ],
)
def test_a_cache_contains_what_its_owner_has_fresh(region, stored, late, expected):
    steps = region.contains(region.bind(), "k")
    step = next(steps)
    got = found(stored, late)

    assert isinstance(step, GetKeys)
    assert expected is result(steps, Answer(SyncTicket(), Results((got,))))


# --- for a peer -------------------------------------------------------------------


@pytest.fixture(params=["sync", "async"])
def loaded_for_a_peer(request, runner):
    """Have a function run as a peer would; return what is to be stored, and its counts.

    It takes three seconds of a clock that is moved by hand.
    """
    with time_travel() as time:

        def run(error=None, **options):
            def load(number):
                time.advance(3)
                if error is not None:
                    raise error
                return number

            async def aload(number):
                return load(number)

            is_async = request.param == "async"
            settings = settings_of(options, Freshness(), meshcache.UNSET)
            whole = meshcache.Cache("c", ttl=60, jitter=0).region
            region = whole.part("f", settings.freshness)
            memo = Memo(aload if is_async else load, region, settings)
            key = memo.key_for(7)
            stored = (
                runner.run(memo.aload(key, b"")) if is_async else memo.load(key, b"")
            )
            return unwrap(stored.value), stored.ttl_ms, region.tally.as_dict()["load"]

        with isolated():
            yield run


def test_a_peer_is_told_what_the_load_took_and_it_is_counted(loaded_for_a_peer):
    envelope, ttl_ms, loads = loaded_for_a_peer(early=1)

    assert 3_000 == pytest.approx(envelope.cost_ms, abs=500)
    assert (60_000, 1, Kind.VALUE) == (ttl_ms, loads, envelope.kind)


def test_an_error_that_is_remembered_is_what_a_peer_stores(loaded_for_a_peer):
    options = {"errors": LookupError, "error_ttl": 5, "tags": lambda number: "red"}
    envelope, ttl_ms, _ = loaded_for_a_peer(KeyError("nobody"), **options)

    assert (Kind.ERROR, 1, 5_000) == (envelope.kind, len(envelope.tags), ttl_ms)


@pytest.mark.parametrize("options", [{}, {"error_ttl": 5, "errors": OSError}])
def test_any_other_error_is_raised_to_a_peer(loaded_for_a_peer, options):
    with pytest.raises(KeyError, match="nobody"):
        loaded_for_a_peer(KeyError("nobody"), **{"errors": LookupError} | options)
