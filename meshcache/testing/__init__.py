"""Tools for testing what meshcache does to an application, and meshcache itself.

Nothing here is a mock: the simulator runs the real machines over a real codec, on a
network and a clock that do as they are told.
"""

from __future__ import annotations

from meshcache.testing.chaos import (
    Deed,
    NotSettled,
    Report,
    plan,
    run,
    settling_bound,
)
from meshcache.testing.history import (
    Read,
    Stale,
    Write,
    not_linearizable,
    stale_reads,
)
from meshcache.testing.invariants import InvariantBroken, Invariants
from meshcache.testing.isolation import isolated
from meshcache.testing.simulator import Happening, Machine, Seat, Simulator
from meshcache.testing.timetravel import Time, time_travel
from meshcache.transport.memory import Conditions, MemoryNetwork

__all__ = [
    "Conditions",
    "Deed",
    "Happening",
    "InvariantBroken",
    "Invariants",
    "Machine",
    "MemoryNetwork",
    "NotSettled",
    "Read",
    "Report",
    "Seat",
    "Simulator",
    "Stale",
    "Time",
    "Write",
    "isolated",
    "not_linearizable",
    "plan",
    "run",
    "settling_bound",
    "stale_reads",
    "time_travel",
]
