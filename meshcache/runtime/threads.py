"""Real OS threads and real locks, whatever was patched.

gevent's `monkey.patch_all` makes `threading.Thread` a greenlet. A ZeroMQ poll loop in
a greenlet freezes the whole process, so the node's own threads and hand-over locks
come from the originals that gevent keeps.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

__all__ = ["STACK_NAME", "Lock", "allocate_lock", "is_patched", "start_thread"]

STACK_NAME: Final = "meshcache"
Lock = _thread.LockType


def _original(name: str) -> Any:
    """Return what `_thread` calls *name*, from before any patching."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(_thread, name)
    return monkey.get_original("_thread", name)


def is_patched(module: str) -> bool:
    """Whether gevent has replaced what a module of the standard library does."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def allocate_lock() -> Lock:
    """Return a lock that blocks an OS thread, never a greenlet."""
    lock: Lock = _original("allocate_lock")()
    return lock


def start_thread(name: str, run: Callable[[], None]) -> Callable[[float], bool]:
    """Run *run* in a daemon OS thread; return a function that waits for its end.

    The thread is a daemon: a node must never keep an application from exiting.
    """
    if not is_patched("threading"):
        thread = threading.Thread(target=run, name=f"{STACK_NAME}-{name}", daemon=True)
        thread.start()
        return lambda timeout: _joined(thread, timeout)
    ended = allocate_lock()
    ended.acquire()

    def body() -> None:
        try:
            run()
        finally:
            ended.release()

    _original("start_new_thread")(body, ())
    return lambda timeout: bool(ended.acquire(timeout=timeout))


def _joined(thread: threading.Thread, timeout: float) -> bool:
    thread.join(timeout)
    return not thread.is_alive()
