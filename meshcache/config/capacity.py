"""How much a node may hold, and how much may be under way at once."""

from __future__ import annotations

from dataclasses import dataclass

from meshcache.config.setting import count, seconds, size

__all__ = ["Capacity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Room, patience and limits.

    Every table, queue and pool of a node has its limit here. The first six are worth
    a thought; the limits after them are there so that a fault elsewhere cannot use up
    this process, and seldom need a change.
    """

    max_bytes: int = size(
        "64MB",
        "256KiB",
        "32GiB",
        "Memory for the part of the cluster's entries that this node owns.",
        "The nodes together hold the sum of theirs.",
    )
    max_value_bytes: int = size(
        None,
        "1KiB",
        "1GiB",
        "The largest encoded value that is cached.",
        "Lower it to keep a few big values from pushing out many small ones.",
        none="an eighth of max_bytes, at most 1GiB",
    )
    near_entries: int = count(
        10_000,
        0,
        10_000_000,
        "How many decoded objects this process keeps in its own near cache.",
        "As many as are read over and over; 0 turns the near cache off.",
    )
    near_bytes: int = size(
        "16MB",
        "0B",
        "1TiB",
        "Encoded size of all that the near cache keeps.",
        "Objects take several times as much as their encoding; 0B turns it off.",
    )
    near_ttl: float = seconds(
        30.0,
        0,
        86_400,
        "How long a near entry is used without asking its owner again.",
        "It bounds what can go unseen, whatever messages are lost; 0s turns near off.",
    )
    request_timeout: float = seconds(
        1.0,
        0.001,
        60,
        "The one time-out that a read may cost when a peer is silent.",
        "Several round trips; when it is over the loader runs here.",
    )
    load_timeout: float = seconds(
        30.0,
        0.001,
        86_400,
        "How long anyone waits for a loader.",
        "Above the slowest load that still counts as working.",
    )
    loader_threads: int = count(
        8,
        1,
        1024,
        "Threads that run loaders for peers.",
        "As many blocking loads as the database may see from this node at once.",
    )
    loader_tasks: int = count(
        256,
        1,
        100_000,
        "Async loaders that run at once for peers.",
        "As many as the event loop and its connection pool stand.",
    )
    max_refreshes: int = count(
        1000,
        1,
        1_000_000,
        "Values that are loaded anew behind their readers at once; the threads for it "
        "are `loader_threads`.",
        "What finds no room stays old until the next read.",
    )
    refresh_pause: float = seconds(
        1.0,
        0.0,
        3600.0,
        "Seconds for which a key is not refreshed again after its load failed.",
        "Longer spares a backend in trouble.",
    )
    max_loaders: int = count(
        4096,
        1,
        4096,
        "Memoized functions that a node offers, and remembers of each peer.",
        "Those over the limit are loaded by their callers.",
    )
    max_flights: int = count(
        10_000,
        1,
        1_000_000,
        "Loads in progress at this owner.",
        "Over the limit callers are told to load for themselves.",
    )
    max_waiters: int = count(
        10_000,
        1,
        1_000_000,
        "Callers that wait for the same load.",
        "Over the limit callers are told to load for themselves.",
    )
    max_requests: int = count(
        10_000,
        1,
        1_000_000,
        "Requests of this node that are unanswered.",
        "Over the limit a read is a miss and its loader runs here.",
    )
    mailbox: int = count(
        100_000,
        1,
        10_000_000,
        "Calls that wait to be picked up by the driver thread.",
        "Above the number of threads and tasks that can call at once.",
    )
    max_key_bytes: int = size(
        "4096B",
        "64B",
        "64KiB",
        "The longest key, encoded, with the name of its cache.",
        "Hash long keys rather than raise it: each key is stored with its value.",
    )
    max_batch_keys: int = count(
        10_000,
        1,
        100_000,
        "Keys in one request for many.",
        "Longer lists go as several requests.",
    )
    max_batch_bytes: int = size(
        "4MiB",
        "64KiB",
        "1GiB",
        "Bytes of values in one request or answer for many.",
        "Longer lists go as several; smaller ones let other requests in between.",
    )
    coalesce_window: float = seconds(
        0.0,
        0,
        0.1,
        "How long a read of one key waits for others that ask the same peer, to go "
        "with them as one request.",
        "0.2ms where dozens of tasks read at once; one that reads alone is slower by "
        "up to a millisecond more. 0s sends each at once.",
    )
    sweep_interval: float = seconds(
        0.25,
        0.01,
        60,
        "Time between two looks for requests and flights that are overdue.",
        "A time-out may come this much late.",
    )
