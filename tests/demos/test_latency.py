from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from launcher.latency import Histogram, bucket_of, middle_of

DURATIONS = st.integers(0, 10**12)


@given(DURATIONS)
def test_bucket_stands_for_its_durations_within_three_percent(ns):
    assert abs(middle_of(bucket_of(ns)) - ns) <= 0.03 * ns


@given(DURATIONS, DURATIONS)
def test_longer_duration_never_gets_a_lower_bucket(one, other):
    assert (one <= other) or (bucket_of(one) >= bucket_of(other))


@given(st.lists(DURATIONS, min_size=1), st.lists(DURATIONS))
def test_merging_counts_what_both_have_counted(ours, theirs):
    merged, one, other, both = (Histogram() for _ in range(4))
    for ns in ours:
        one.add(ns)
        both.add(ns)
    for ns in theirs:
        other.add(ns)
        both.add(ns)
    merged.merge(one)
    merged.merge(other)

    assert both.counts == merged.counts
    assert len(ours) + len(theirs) == merged.total


def test_median_and_tail_come_from_where_the_durations_lie():
    histogram = Histogram()
    for ns in [1_000] * 98 + [5_000_000] * 2:
        histogram.add(ns)

    assert 0.97 < histogram.quantile_us(0.5) < 1.03
    assert 4_850 < histogram.quantile_us(0.99) < 5_150


def test_nothing_counted_has_no_median():
    assert Histogram().quantile_us(0.5) is None
