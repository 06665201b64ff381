"""A job: what the launcher gives a worker on its command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from airports.database import codes, countries
from airports.stream import catalogue, from_trace, read_trace, zipf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airports.stream import Request

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """Which cluster to join, which database to serve, which requests to ask."""

    cluster: str
    database: str
    slot: int
    slots: int
    rate: int
    trace: str | None

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the job in a command line argument."""
        return cls(**json.loads(text))

    def write(self) -> str:
        """Return the job as one command line argument."""
        return json.dumps(asdict(self))

    def stream(self) -> Callable[[], Iterator[Request]]:
        """Return what begins this slot's requests anew each time it is called."""
        path = Path(self.database)
        airports = codes(path)
        if self.trace is None:
            asked = catalogue(airports, countries(path))
            return lambda: zipf(asked, self.slot)
        keys = read_trace(Path(self.trace))
        return lambda: from_trace(keys, airports, self.slot, self.slots)
