"""The settings as keyword arguments, for editors and type checkers.

A test holds this to the fields of `Config`, which checks the values.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TypedDict

from meshcache.config.seed import Seed

__all__ = ["Keywords"]


class Keywords(TypedDict, total=False):
    """What `meshcache.start` and `Node` take; see `Config` for what they mean.

    Sizes may be written as "64MB", durations as "500ms".
    """

    preset: str
    max_bytes: int | str
    max_value_bytes: int | str | None
    near_entries: int
    near_bytes: int | str
    near_ttl: float | str
    request_timeout: float | str
    load_timeout: float | str
    loader_threads: int
    loader_tasks: int
    max_refreshes: int
    refresh_pause: float | str
    max_loaders: int
    max_flights: int
    max_waiters: int
    max_requests: int
    mailbox: int
    max_key_bytes: int | str
    max_batch_keys: int
    max_batch_bytes: int | str
    coalesce_window: float | str
    sweep_interval: float | str
    probe_interval: float | str
    probe_timeout: float | str
    indirect_probes: int
    suspicion_alpha: int
    suspicion_beta: int
    suspicion_confirmations: int
    suspicion_unlinked: float | str
    max_health: int
    retransmit_mult: int
    max_updates: int
    gossip_interval: float | str
    gossip_fanout: int
    gossip_to_dead: float | str
    push_pull_interval: float | str
    reconnect_interval: float | str
    seed_interval: float | str
    directory_interval: float | str
    forget_after: float | str
    max_members: int
    control_hwm: int
    data_hwm: int
    max_control_frame: int | str
    heartbeat_interval: float | str
    heartbeat_timeout: float | str
    handshake_timeout: float | str
    reconnect_min: float | str
    reconnect_max: float | str
    link_idle: float | str
    cluster: str
    bind: str
    data_port: int
    advertise: str | None
    seeds: Iterable[Seed] | Seed
    secret: str | None
    insecure: bool
    observer: bool
    directory: bool
    runtime_dir: str | PathLike[str] | None
    host_lane: bool
    arena_dir: str | PathLike[str] | None
    replicas: int
