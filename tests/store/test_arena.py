from __future__ import annotations

import mmap

import pytest

from meshcache.errors import ConfigError, ValueTooLarge
from meshcache.hashing import BUCKETS, PARTITIONS, bucket_of, key_hash, partition_of
from meshcache.store.arena import Arena, private
from meshcache.store.layout import OPEN, SEALED, TENURE_MAX, Layout, Words
from meshcache.store.view import BadArena, View


def partition(key):
    return partition_of(key_hash(key))


def neighbours(key, count):
    """Return keys of the same partition as *key*."""
    found, number = [], 0
    while len(found) < count:
        other = b"n\0%d" % number
        if partition(other) == partition(key):
            found.append(other)
        number += 1
    return found


# --- one key --------------------------------------------------------------------


def test_what_was_put_is_found_with_its_version_and_expiry(bench):
    assert bench.put(b"c\0key", b"value", version=7, expires=9.0)

    hashed = key_hash(b"c\0key")

    assert (b"value", 7, 9.0) == bench.arena.get(b"c\0key", hashed, 0.0)
    assert (b"value", 7, 9.0) == bench.view.get(b"c\0key", hashed, 0.0)
    assert (b"value", 7, 9.0) == bench.view.peek(b"c\0key", hashed, 0.0)
    assert {b"c\0key": b"value"} == bench.walked()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000, 9999])
def test_a_value_of_any_size_comes_back_the_same(make, size):
    bench = make(entries=200)
    value = bytes(number % 251 for number in range(size))
    bench.put(b"c\0key", value)

    assert value == bench.get(b"c\0key")


def test_an_entry_is_gone_at_the_moment_it_expires(bench):
    bench.put(b"c\0key", expires=5.0)

    assert b"value" == bench.get(b"c\0key", now=4.9)
    assert None is bench.get(b"c\0key", now=5.0)
    assert None is bench.peek(b"c\0key", now=5.0)
    assert {} == bench.walked(now=5.0)


@pytest.mark.parametrize(("version", "stored"), [(6, False), (7, True), (8, True)])
def test_the_greater_version_wins_and_an_equal_one_replaces(bench, version, stored):
    bench.put(b"c\0key", b"old", version=7)

    assert stored is bench.put(b"c\0key", b"new", version=version)
    assert (b"new" if stored else b"old") == bench.get(b"c\0key")


def test_a_version_may_be_any_number_of_64_bits(bench):
    bench.put(b"c\0key", version=2**64 - 1)
    bench.put(b"c\0zero", version=0)

    assert b"value" == bench.get(b"c\0key")
    assert b"value" == bench.get(b"c\0zero")


def test_a_dead_entry_does_not_hold_its_version_against_a_newcomer(bench):
    bench.put(b"c\0key", b"old", version=7, expires=5.0)

    assert bench.put(b"c\0key", b"new", version=6, now=6.0)
    assert b"new" == bench.get(b"c\0key", now=6.0)
    assert 1 == bench.arena.stats()["expired"]


def test_a_value_that_has_expired_already_replaces_the_old_one_by_nothing(bench):
    bench.put(b"c\0key", b"old", version=1)

    assert bench.put(b"c\0key", b"new", version=2, expires=3.0, now=3.0)
    assert None is bench.get(b"c\0key")
    assert 0 == bench.arena.stats()["entries"]


def test_touch_moves_the_expiry_and_nothing_else(bench):
    bench.put(b"c\0key", version=7, expires=5.0)

    assert (b"value", 7, 9.0) == bench.touch(b"c\0key", 9.0)
    assert b"value" == bench.get(b"c\0key", now=8.0)
    assert None is bench.touch(b"c\0never", 9.0)
    assert None is bench.touch(b"c\0key", 20.0, now=9.0)


def test_touch_into_the_past_removes(bench):
    bench.put(b"c\0key")

    assert b"value" == bench.touch(b"c\0key", 3.0, now=3.0).value
    assert None is bench.get(b"c\0key", now=0.0)


def test_remove_returns_what_was_alive(bench):
    bench.put(b"c\0key", expires=5.0)
    bench.put(b"c\0late", expires=5.0)

    assert b"value" == bench.remove(b"c\0key").value
    assert None is bench.remove(b"c\0key")
    assert None is bench.remove(b"c\0late", now=6.0)
    assert 0 == bench.arena.stats()["entries"]


def test_keys_that_share_slot_and_fingerprint_are_told_apart(bench):
    one, two = b"c\0one", b"c\0two"
    hashed = key_hash(one)
    bench.arena.put(one, hashed, b"1", version=1, expires=9.0, now=0.0)
    bench.arena.put(two, hashed, b"2", version=1, expires=9.0, now=0.0)

    assert b"1" == bench.view.get(one, hashed, 0.0).value
    assert b"2" == bench.view.get(two, hashed, 0.0).value

    bench.arena.remove(one, hashed, 0.0)

    assert None is bench.view.get(one, hashed, 0.0)
    assert b"2" == bench.view.get(two, hashed, 0.0).value


def test_a_value_over_the_limit_is_refused_by_name_and_leaves_the_old_one(make):
    bench = make(entries=200)
    bench.put(b"c\0key")

    with pytest.raises(ValueTooLarge, match=r"10001 bytes .* 10000 .*max_value_bytes"):
        bench.put(b"c\0key", bytes(10_001), version=2)

    assert b"value" == bench.get(b"c\0key")
    assert 1 == bench.arena.stats()["refused_too_large"]


def test_a_value_that_is_larger_than_the_store_is_refused_by_name(make):
    bench = make(entries=20)

    with pytest.raises(ValueTooLarge, match="max_bytes"):
        bench.put(b"c\0key", bytes(5000))


def test_the_largest_value_that_fits_is_stored(make):
    bench = make(entries=20)
    bench.put(b"c\0small")
    room = bench.layout.main_bytes - 28 - len(b"c\0key")

    assert bench.put(b"c\0key", bytes(room))
    assert bytes(room) == bench.get(b"c\0key")

    with pytest.raises(ValueTooLarge, match=f"limit of {room} that max_bytes"):
        bench.put(b"c\0key", bytes(room + 1))


def test_a_key_too_long_for_its_field_is_refused(make):
    bench = make(entries=2000)

    assert bench.put(b"c\0" + bytes(65_533))

    with pytest.raises(ValueTooLarge, match="a key of 65536 bytes"):
        bench.put(b"c\0" + bytes(65_534))


# --- partitions -----------------------------------------------------------------


def test_nothing_is_stored_in_a_partition_that_is_not_ours(bench):
    bench.arena.revoke(partition(b"c\0key"))

    assert not bench.arena.granted(partition(b"c\0key"))
    assert not bench.put(b"c\0key")

    bench.arena.grant(partition(b"c\0key"))

    assert bench.arena.granted(partition(b"c\0key"))
    assert None is bench.get(b"c\0key")


def test_nothing_is_stored_before_the_first_grant():
    layout = Layout.for_bytes(300_000)
    arena = Arena(
        private(300_000), layout, node_id=bytes(16), epoch=1, host=1, max_value_bytes=99
    )
    hashed = key_hash(b"c\0key")

    assert not arena.put(b"c\0key", hashed, b"", version=1, expires=9.0, now=0.0)
    assert not arena.granted(3)


def test_revoking_ends_the_entries_of_the_partition_and_no_others(bench):
    bench.put(b"c\0key")
    bench.put(b"c\0other")

    bench.arena.revoke(partition(b"c\0key"))

    assert None is bench.get(b"c\0key")
    assert b"value" == bench.get(b"c\0other")
    assert bench.view.sealed(partition(b"c\0key"))
    assert not bench.view.sealed(partition(b"c\0other"))


def test_an_importer_sees_what_a_sealed_partition_held(bench):
    bench.put(b"c\0key")
    bench.put(b"c\0other")
    bench.arena.revoke(partition(b"c\0key"))

    assert b"value" == bench.peek(b"c\0key")
    assert {b"c\0key": b"value"} == bench.walked({partition(b"c\0key")})


def test_granting_again_does_not_bring_the_old_entries_back(bench):
    bench.put(b"c\0key")
    bench.arena.revoke(partition(b"c\0key"))
    bench.arena.revoke(partition(b"c\0key"))

    bench.arena.grant(partition(b"c\0key"))

    assert None is bench.get(b"c\0key")
    assert None is bench.peek(b"c\0key")
    assert {} == bench.walked()
    assert bench.put(b"c\0key", b"new")
    assert b"new" == bench.get(b"c\0key")
    assert 1 == bench.arena.stats()["revoked_dropped"]


def test_granting_what_is_ours_changes_nothing(bench):
    bench.put(b"c\0key")

    bench.arena.grant(partition(b"c\0key"))

    assert b"value" == bench.get(b"c\0key")


@pytest.mark.parametrize("grants", range(TENURE_MAX - 2, TENURE_MAX + 2))
def test_no_entry_revives_when_the_numbers_of_tenures_come_round(bench, grants):
    first, second = neighbours(b"c\0key", 2)
    bench.put(b"c\0key")
    bench.put(b"c\0other")
    for number in range(grants):
        bench.arena.revoke(partition(b"c\0key"))
        bench.arena.grant(partition(b"c\0key"))
        if number == 2:
            bench.put(first)

    assert None is bench.get(b"c\0key")
    assert None is bench.get(first)
    assert b"value" == bench.get(b"c\0other")

    bench.put(second)
    for _ in range(grants):
        bench.arena.revoke(partition(b"c\0key"))
        bench.arena.grant(partition(b"c\0key"))

    assert None is bench.get(second)
    assert b"value" == bench.get(b"c\0other")


def test_the_walk_for_a_new_round_of_tenures_is_one_for_all_partitions(
    bench, monkeypatch
):
    walks = []
    monkeypatch.setattr(
        Arena,
        "_drop_dead",
        lambda arena, walk=Arena._drop_dead: walks.append(walk(arena)),
    )
    for _ in range(2 * TENURE_MAX):
        for number in range(50):
            bench.arena.revoke(number)
            bench.arena.grant(number)

    assert 2 == len(walks)


# --- clearing -------------------------------------------------------------------


def test_clearing_ends_a_cache_up_to_the_version_and_no_other_cache(bench):
    for version in (4, 5, 6):
        bench.put(b"c\0%d" % version, version=version)
    bench.put(b"cc\0key", version=4)

    bench.arena.clear(b"c", 5)

    assert None is bench.get(b"c\x004")
    assert None is bench.get(b"c\x005")
    assert b"value" == bench.get(b"c\x006")
    assert b"value" == bench.get(b"cc\0key")
    assert {b"c\x006", b"cc\0key"} == set(bench.walked())


def test_a_part_of_a_cache_is_cleared_with_it_and_not_the_other_way_round(bench):
    bench.put(b"a\0key")
    bench.put(b"a|b\0key")
    bench.put(b"a|c\0key")

    bench.arena.clear(b"a|b", 1)

    assert None is bench.get(b"a|b\0key")
    assert b"value" == bench.get(b"a\0key")
    assert b"value" == bench.get(b"a|c\0key")

    bench.arena.clear(b"a", 1)

    assert None is bench.get(b"a\0key")
    assert None is bench.get(b"a|c\0key")


def test_what_was_cleared_does_not_come_back_by_a_late_write_or_an_older_clear(bench):
    bench.arena.clear(b"c", 5)
    bench.arena.clear(b"c", 3)

    assert not bench.put(b"c\0key", version=5)
    assert bench.put(b"c\0key", version=6)


# --- room -----------------------------------------------------------------------


def test_a_full_store_evicts_and_counts_what_was_still_good(make):
    bench = make(entries=100)
    for number in range(50):
        bench.put(b"c\0%d" % number, bytes(90), expires=1.0)
    for number in range(50, 300):
        bench.put(b"c\0%d" % number, bytes(90), now=2.0)

    stats = bench.arena.stats()

    assert 90 <= stats["entries"] <= 100
    assert 300 == stats["entries"] + stats["evicted"]
    assert stats["evicted"] == stats["evicted_unexpired"] + stats["expired"]
    assert stats["expired"] > 0
    assert stats["bytes"] == stats["max_bytes"] == bench.layout.total
    assert 0 < stats["bytes_live"] + stats["bytes_dead"] <= 100 * 128


def test_what_is_read_stays_when_a_scan_passes(make):
    bench = make(entries=100)
    for number in range(100):
        bench.put(b"c\0%d" % number, bytes(90))
    for _ in range(3):
        bench.get(b"c\x0050")

    for number in range(1000, 1300):
        bench.put(b"c\0%d" % number, bytes(90))

    assert None is not bench.get(b"c\x0050")
    assert None is bench.get(b"c\x001000")


def test_what_is_read_goes_round_in_main_and_what_is_not_goes_out(make):
    bench = make(entries=100)
    for number in range(300):
        bench.put(b"c\0%d" % number, bytes(90))
        for _ in range(2):
            bench.get(b"c\0%d" % number)
            bench.get(b"c\x000")

    assert None is not bench.get(b"c\x000")
    assert None is bench.get(b"c\x001")
    assert bench.arena.stats()["reinserted"] > 0
    assert bench.arena.stats()["promoted"] > 200


def test_a_newcomer_that_was_evicted_not_long_ago_goes_to_main(make):
    bench = make(entries=100)
    for number in range(120):
        bench.put(b"c\0%d" % number, bytes(90))
    gone = next(n for n in range(119, 0, -1) if bench.get(b"c\0%d" % n) is None)
    bench.put(b"c\0%d" % gone, bytes(90))

    assert 1 == bench.arena.stats()["ghost_hits"]

    # Whatever passes through small now leaves it alone.
    for number in range(200, 230):
        bench.put(b"c\0%d" % number, bytes(90))

    assert None is not bench.get(b"c\0%d" % gone)


def test_keys_that_are_written_again_and_again_do_not_drive_out_the_others(make):
    bench = make(entries=100)
    for number in range(80):
        bench.put(b"c\0%d" % number, bytes(90))
    for version in range(1000):
        bench.put(b"c\x0079", bytes(90), version=version)

    kept = sum(bench.get(b"c\0%d" % number) is not None for number in range(80))

    assert kept >= 70


def test_a_large_value_does_not_push_out_the_newcomers(make):
    bench = make(entries=100)
    for number in range(200):
        bench.put(b"c\0%d" % number, bytes(90))
    newest = [b"c\0%d" % number for number in range(195, 200)]
    bench.put(b"c\0large", bytes(1000))

    assert b"" not in {bench.get(key) or b"" for key in newest}
    assert bytes(1000) == bench.get(b"c\0large")


def test_a_crowd_in_one_set_evicts_its_least_read(bench):
    # Same set, different fingerprints.
    sets = bench.layout.sets
    hashes = [sets * (1000 + number) for number in range(17)]
    for number, hashed in enumerate(hashes):
        bench.arena.put(b"c\0%d" % number, hashed, b"", version=1, expires=9.0, now=0.0)
        if number != 3:
            bench.arena.get(b"c\0%d" % number, hashed, 0.0)

    there = [
        bench.view.get(b"c\0%d" % number, hashed, 0.0) is not None
        for number, hashed in enumerate(hashes)
    ]

    assert [number != 3 for number in range(17)] == there
    assert 1 == bench.arena.stats()["index_conflicts"]
    assert 16 == bench.arena.stats()["entries"]


# --- the memory -----------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [250_000, 1_000_000, 2_345_678, 64_000_000])
def test_the_layout_is_within_the_bound_and_wastes_next_to_nothing(max_bytes):
    layout = Layout.for_bytes(max_bytes)

    assert max_bytes - 2 * 4096 < layout.total <= max_bytes
    assert layout.sets % 2
    assert layout.total == len(private(max_bytes))


def test_a_store_too_small_for_its_own_tables_is_refused():
    with pytest.raises(ConfigError, match="max_bytes is 10000"):
        Layout.for_bytes(10_000)


def test_a_store_too_large_for_its_offsets_is_refused():
    with pytest.raises(ConfigError, match="at most"):
        Layout.for_bytes(40 * 10**9)


def test_a_view_knows_whose_arena_it_sees(bench):
    assert bytes(range(16)) == bench.view.node_id
    assert (7, 5, OPEN) == (bench.view.epoch, bench.view.host, bench.view.state)


def test_a_view_sees_the_generations_that_the_owner_moves(bench):
    bucket = bucket_of(key_hash(b"c\0key"))
    before = bench.view.generations[bucket]

    bench.arena.generations.bump(bucket)

    assert before + 1 == bench.view.generations[bucket]

    bench.arena.generations.bump_all()

    assert before + 2 == bench.view.generations[bucket]
    assert BUCKETS == len(bench.view.generations)


@pytest.mark.parametrize("side", ["arena", "view"])
def test_sealing_all_ends_every_read_but_the_importers(bench, side):
    bench.put(b"c\0key")
    before = list(bench.view.generations)

    getattr(bench, side).seal_all()

    assert None is bench.get(b"c\0key")
    assert not bench.put(b"c\0key", version=2)
    assert b"value" == bench.peek(b"c\0key")
    assert all(map(bench.view.sealed, range(PARTITIONS)))
    assert SEALED == bench.view.state
    assert [number + 1 for number in before] == list(bench.view.generations)


def test_a_memory_is_formatted_whatever_was_in_it(bench):
    bench.put(b"c\0key")
    bench.arena.clear(b"c", 9)
    bench.memory[: bench.layout.logs_at] = b"\xff" * bench.layout.logs_at

    arena = Arena(
        bench.memory,
        bench.layout,
        node_id=bytes(16),
        epoch=8,
        host=5,
        max_value_bytes=100,
    )
    for number in range(PARTITIONS):
        arena.grant(number)

    assert 8 == View(bench.memory).epoch
    assert None is bench.get(b"c\0key")
    assert arena.put(b"c\0k", 1 << 60, b"v", version=1, expires=9.0, now=0.0)
    assert b"v" == arena.get(b"c\0k", 1 << 60, 0.0).value


def test_a_memory_that_is_no_arena_is_refused(bench):
    for size in (4096, 100_000, bench.layout.total):
        with pytest.raises(BadArena):
            View(mmap.mmap(-1, size))
    with pytest.raises(BadArena, match="another boot"):
        View(bench.memory, host=6)

    assert 7 == View(bench.memory, host=5).epoch


@pytest.mark.parametrize(
    "word",
    [
        Words.MAGIC,
        Words.ORDER,
        Words.SETS,
        Words.SMALL_BYTES,
        Words.MAIN_BYTES,
    ],
)
@pytest.mark.parametrize("change", [1, 8, 1 << 40, -8, -16])
def test_a_header_whose_numbers_do_not_fit_is_refused(bench, word, change):
    header = memoryview(bench.memory)[:4096].cast("Q")
    header[word] = header[word] + change & 0xFFFF_FFFF_FFFF_FFFF

    with pytest.raises(BadArena):
        View(bench.memory)
