"""Where other nodes may be found: addresses, and never a word to who is there.

A provider answers one question, `addresses()`, as often as it is asked. It may block,
so it is asked from the scout thread and never from the I/O thread. Nothing here
remembers an answer for long: what is true of a network now need not be in a minute.
"""

from meshcache.discovery.directory import Directory, Record, Scan
from meshcache.discovery.provider import Provider
from meshcache.discovery.seeds import providers

__all__ = [
    "Directory",
    "Provider",
    "Record",
    "Scan",
    "providers",
]
