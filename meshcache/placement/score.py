"""How much a node and a partition want each other (highest random weight).

Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998): every
pair has a score that anybody can compute, and the partition goes to the node that
scores highest. Another node's coming or going changes no score, so a partition moves
only if the node it wants most has come or gone.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64_intdigest

__all__ = ["score"]

score: Final = xxh3_64_intdigest
"""`score(node_id, partition)`: xxh3-64 of the id, seeded with the partition.

The bare function, without a wrapper around it: a join calls it 16,384 times. The
scores are part of the protocol, for nodes that score differently own differently
(tests/placement/test_table.py holds the golden table).
"""
