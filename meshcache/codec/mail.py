"""What a machine wants sent. The driver does it; the machine never waits for it.

`Send` goes to an address over this node's own connection to it. `Reply` goes back the
way a message came, so an answer needs no second connection and no address at all.
Delivery is never promised: a full queue, a missing peer or a closed route drops the
message, and every machine has a deadline that notices.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, TypeAlias

from meshcache.codec.messages import Control, Data, Message

__all__ = ["Mail", "Reply", "Route", "Send"]

Route: TypeAlias = Hashable
"""Where a message came from: the transport's own token, compared and handed back."""


class Send(NamedTuple):
    """Send *message* to the node listening at *address*."""

    address: str
    message: Control | Data


class Reply(NamedTuple):
    """Answer along *route*."""

    route: Route
    message: Message


Mail: TypeAlias = Send | Reply
