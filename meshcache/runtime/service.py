"""What siblings ask of this node by the host wire, and who does it.

What comes as a letter (transport/letters.py) is done by whoever hears the bell first,
mostly a thread of the application. For the rest there is a thread of its own.

The thread sleeps until a sibling's frame comes. A write of one key that only changes
the store it does at once, as a thread of the application writes what this node owns
(`Owner.direct`); then the one who waits is answered, and the I/O thread sleeps on. All
else it hands to the I/O thread, whose answer goes back along the same connection: what
has to be told to readers, what ends a load, what is not ours, and what is no such
write.

Whichever thread does it, the order is the same: the store, the generation, the load of
that key detached, the readers told, the writer answered.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, final

from meshcache.clock import monotonic
from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import Found, Item, Reason, Refused, Verb, Written
from meshcache.engine.engine import Engine
from meshcache.engine.ops import Moved, WriteResult
from meshcache.engine.owner import DONE, moves
from meshcache.errors import MeshCacheError
from meshcache.hashing import bucket_of, key_hash, partition_of
from meshcache.runtime.driver import Driver
from meshcache.transport.arrivals import Arrival
from meshcache.transport.host import HostListener, HostRoute, NotTaken
from meshcache.transport.letters import PLAINLY_DONE, RING

__all__ = ["HostService"]

_DONE = (Found(DONE.status, DONE.number, 0, 0),)

_OURS: Final = sys.stdlib_module_names | {"meshcache", "msgpack", "xxhash"}

_log = logging.getLogger("meshcache.driver")


@final
class HostService:
    """This node's end of the host wires from its siblings. `run` is its thread's body.

    Args:
        listener: where the frames come in; closed when the thread ends.
        engine: asked for what any thread may do.
        driver: does the rest.
        frames: of this cluster.
    """

    def __init__(
        self, listener: HostListener, engine: Engine, driver: Driver, frames: FrameCodec
    ) -> None:
        self._listener = listener
        self._engine = engine
        self._driver = driver
        self._frames = frames
        self._epoch = engine.me.epoch
        self._bell = engine.store.bell
        self._get = engine.store.get
        self._tenures = engine.ranges.tenures
        self._direct = engine.owner.direct
        driver.attend = self.attend

    def run(self) -> None:
        """Serve until the listener is stopped, then close it."""
        listener, driver = self._listener, self._driver
        try:
            while not listener.stopped:
                # What a frame does must not end the thread: the others would hang.
                try:
                    listener.serve(self.take)
                except Exception:  # noqa: BLE001 - logged and counted; nobody else can
                    driver.errors += 1
                    _log.exception("a sibling's request failed; going on with the next")
                if not driver.behind:
                    driver.way_was_given()
        finally:
            listener.close()

    def attend(self) -> None:
        """Do what siblings have put into their pages, on the calling thread.

        What goes wrong there is not for the application to hear of, unless it was a
        signal's handler of its own that raised.
        """
        try:
            self._listener.attend(self._open, self._heard)
        except RecursionError:
            # The application is deep in calls: there may be no room to log it.
            self._driver.errors += 1
        except Exception as error:
            if not _is_ours(error):
                raise
            self._driver.errors += 1
            _log.exception("a sibling's letter failed; going on with the next")

    def _heard(self) -> None:
        self._bell[0] = 0

    def _open(self, frame: bytes, route: HostRoute) -> bytes | None:
        return self._do(frame, route, PLAINLY_DONE)

    def take(self, frame: bytes, route: HostRoute) -> bytes | None:
        """Do what *frame* asks and return the answer; None if the driver answers."""
        if self._bell[0] != RING:
            self._bell[0] = 0  # It was heard.
        return self._do(frame, route)

    def _do(
        self, frame: bytes, route: HostRoute, plainly: bytes | None = None
    ) -> bytes | None:
        write = self._frames.single_write(frame)
        if write is not None:
            rid, epoch, verb, item = write
            if epoch == self._epoch:
                result = self._write(verb, item)
                if result is DONE and plainly is not None:
                    return plainly
                if result is not None:
                    return self._answer(rid, result)
        if self._driver.arrived(Arrival(frame, route, inbound=True)):
            return None
        if write is not None:
            return self._frames.encode(Refused(write[0], Reason.OVERLOADED))
        self._listener.drop(route)
        return None

    def _write(self, verb: Verb, item: Item) -> WriteResult | None:
        """Do one write; None if it takes the driver to do it."""
        hashed = key_hash(item.key)
        engine = self._engine
        readers = engine.readers
        if readers or self._tenures[partition_of(hashed)].get is not self._get:
            return None
        try:
            result = self._direct(verb, item, hashed, monotonic())
        except MeshCacheError as error:
            raise NotTaken from error
        if engine.readers != readers and result is not None and moves(verb, result):
            # Somebody has begun to read here meanwhile.
            self._driver.note(Moved(bucket_of(hashed)))
        return result

    def _answer(self, rid: int, result: WriteResult) -> bytes:
        found = _DONE if result is DONE else (Found(*result, 0, 0),)
        return self._frames.encode(Written(rid, found))


def _is_ours(error: Exception) -> bool:
    """Whether *error* came about without any code of the application."""
    trace = error.__traceback__
    while trace is not None:
        module: str = trace.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _OURS:
            return False
        trace = trace.tb_next
    return True
