"""Who owns which slice of the hash space.

Nodes never negotiate: each computes the same table from the same members. Members
come in from membership, tables go out to routing, and neither is known here.
"""
