from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from meshcache.testing.history import (
    Read,
    Stale,
    Write,
    not_linearizable,
    stale_reads,
)

FIRST, SECOND = Write("key", 1, 0.0, 1.0), Write("key", 2, 2.0, 3.0)


def test_a_read_of_the_latest_write_is_fresh():
    assert [] == stale_reads([FIRST, SECOND], [Read("key", 2, 4.0, 5.0)])


def test_a_read_of_what_was_overwritten_before_it_began_is_stale():
    planted = Read("key", 1, 3.1, 3.2)

    assert [Stale(planted, "overwritten")] == stale_reads([FIRST, SECOND], [planted])


def test_a_read_that_began_while_the_overwriting_write_went_on_may_see_either():
    either = [Read("key", 1, 2.9, 9.0), Read("key", 2, 2.9, 9.0)]

    assert [] == stale_reads([FIRST, SECOND], either)


def test_of_two_overlapping_writes_either_may_be_the_later():
    beside = Write("key", 2, 0.5, 1.5)
    either = [Read("key", 1, 2.0, 2.1), Read("key", 2, 2.0, 2.1)]

    assert [] == stale_reads([FIRST, beside], either)


def test_a_long_write_does_not_hide_a_short_one_after_it():
    long = Write("key", 3, 1.5, 100.0)
    planted = Read("key", 1, 50.0, 51.0)

    found = stale_reads([FIRST, long, SECOND], [planted])

    assert [Stale(planted, "overwritten")] == found


def test_a_value_cannot_be_read_before_its_write_began():
    planted = Read("key", 2, 1.0, 1.9)

    assert [Stale(planted, "not yet written")] == stale_reads([SECOND], [planted])


def test_a_value_that_nobody_wrote_is_noticed():
    planted = Read("key", 3, 4.0, 5.0)
    foreign = Read("other", 1, 4.0, 5.0)

    found = stale_reads([FIRST], [planted, foreign])

    assert [Stale(planted, "never written"), Stale(foreign, "never written")] == found


def test_keys_are_judged_apart():
    other = Write("other", 2, 2.0, 3.0)

    assert [] == stale_reads([FIRST, other], [Read("key", 1, 4.0, 5.0)])


def test_going_back_to_the_old_value_is_not_linearizable_though_not_stale():
    overlapping = Write("key", 2, 2.0, 9.0)
    reads = [Read("key", 2, 3.0, 4.0), Read("key", 1, 5.0, 6.0)]

    assert [] == stale_reads([FIRST, overlapping], reads)
    assert {"key": (1, 2)} == not_linearizable([FIRST, overlapping], reads)


def test_two_reads_that_settle_an_order_differently_are_not_linearizable():
    beside = [Write("key", 1, 0.0, 3.0), Write("key", 2, 1.0, 2.0)]
    reads = [Read("key", 1, 4.0, 5.0), Read("key", 2, 6.0, 7.0)]

    assert [] == stale_reads(beside, reads)
    assert {"key": (2, 1)} == not_linearizable(beside, reads)


# --- against every order there is --------------------------------------------


def fits_an_order(writes, reads):
    operations = [*writes, *reads]
    for order in permutations(operations):
        value = None
        for at, operation in enumerate(order):
            if any(later.end < operation.start for later in order[at + 1 :]):
                break
            if isinstance(operation, Write):
                value = operation.number
            elif value != operation.number:
                break
        else:
            return True
    return False


@st.composite
def histories(draw):
    # Times all differ: whether an end and a start at one time overlap is a matter of
    # taste.
    count = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    moments = draw(st.permutations(range(2 * sum(count))))
    spans = [sorted(moments[at : at + 2]) for at in range(0, len(moments), 2)]
    writes = [
        Write("key", number, *span) for number, span in enumerate(spans[: count[0]])
    ]
    numbers = st.integers(0, count[0] - 1)
    reads = [Read("key", draw(numbers), *span) for span in spans[count[0] :]]
    return writes, reads


@given(histories())
def test_it_agrees_with_trying_every_order(history):
    fits = fits_an_order(*history)
    passed = not stale_reads(*history) and not not_linearizable(*history)

    assert fits == passed
