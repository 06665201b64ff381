"""One node's whole behaviour, pure: what comes in, what must be done about it."""
