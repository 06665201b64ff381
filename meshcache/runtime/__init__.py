"""The edges of a node: its I/O thread, its helpers, and what fork and exit do to it."""
