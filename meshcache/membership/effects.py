"""What the membership machine asks its driver to do, and what it tells it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from meshcache.codec.mail import Reply, Send
from meshcache.model import Member, State

__all__ = ["Changed", "Effect"]


class Changed(NamedTuple):
    """A member is new, or its state, epoch, addresses, host or weight has changed.

    `previous` is the state it had, or None for a new member. A raised incarnation
    alone is no change. This node reports itself too: when it joins and leaves.
    """

    member: Member
    previous: State | None


Effect: TypeAlias = Send | Reply | Changed
