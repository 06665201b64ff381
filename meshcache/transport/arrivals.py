"""What comes in, by whatever way, and what is counted of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, final

from meshcache.codec.mail import Route

__all__ = ["Arrival", "Traffic"]


class Arrival(NamedTuple):
    """A frame, the way back to its sender, and whether it came to a listener."""

    frame: bytes
    route: Route
    inbound: bool


@final
@dataclass(slots=True)
class Traffic:
    """What the transport counts."""

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped_full: int = 0  # frames for a peer that takes no more
    dropped_stale: int = 0  # frames that waited too long for a connection
    dropped_large: int = 0  # frames over the plane's limit, not sent
    unroutable: int = 0  # answers whose connection is gone
    malformed: int = 0  # multipart messages, dropped
    links_opened: int = 0  # connections to peers begun
    links_idled: int = 0  # of these, closed for want of traffic
    refused_keys: int = 0  # connections without the cluster's secret

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
