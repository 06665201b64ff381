"""A TCP proxy in front of one listener that can be made a bad network.

Each direction has faults of its own: whole ZMTP messages lost with some probability,
everything delayed, or everything held (a path gone silent, without a reset). Messages
are told apart by ZMTP's framing, as dropping bytes would only break the connection;
greetings, handshakes and heartbeats are never lost, only delayed or held. Without a
secret only: what CURVE wraps is not looked into.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from dataclasses import dataclass, field

__all__ = ["Faults", "Proxy"]

GREETING = 64
LONG, COMMAND = 0x02, 0x04


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Faults:
    """What happens to one direction, from now on; change it at any time."""

    loss: float = 0.0
    delay: float = 0.0
    passed: int = 0
    lost: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    let_go: asyncio.Event = field(default_factory=_set_event)

    def lose(self) -> bool:
        """Decide on one message, and count it."""
        lost = self.rng.random() < self.loss
        self.lost += lost
        self.passed += not lost
        return lost


class Proxy:
    """Listens on a port of its own and passes all on to *target*, a loopback port.

    Attributes:
        address: what the node behind it should advertise.
        inward: faults on the way to the node.
        outward: faults on the way back from it.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.inward, self.outward = Faults(), Faults()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def hold(self, faults: Faults) -> None:
        """Have one direction go silent, without a reset, until `heal`."""
        self._loop.call_soon_threadsafe(faults.let_go.clear)

    def heal(self) -> None:
        """End all faults; what was held goes on its way."""
        for faults in (self.inward, self.outward):
            faults.loss = faults.delay = 0.0
            self._loop.call_soon_threadsafe(faults.let_go.set)

    def close(self) -> None:
        """End every connection and the thread."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._serve())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    def _end(self) -> None:
        self._main.cancel()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            server = await asyncio.start_server(
                lambda reader, writer: tasks.create_task(self._join(reader, writer)),
                sock=self._listener,
            )
            async with server:
                await server.serve_forever()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Be one connection, until either side ends it."""
        try:
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1", self._target
            )
        except OSError:
            writer.transport.abort()
            return
        ways = [
            asyncio.create_task(_pass(reader, far_writer, self.inward)),
            asyncio.create_task(_pass(far_reader, writer, self.outward)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
            far_writer.transport.abort()


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
) -> None:
    """Pass frames on in one direction, each when its delay is over."""
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(10_000)
    sending = asyncio.create_task(_send(waiting, writer, faults))
    now = asyncio.get_running_loop().time
    try:
        await _pass_greeting(reader, writer)
        while True:
            frame = await _frame(reader)
            if frame[0] & COMMAND or not faults.lose():
                waiting.put_nowait((now() + faults.delay, frame))
    except (asyncio.IncompleteReadError, OSError):
        return
    finally:
        sending.cancel()


async def _pass_greeting(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    # Bit by bit: each side waits for the first bytes of the other.
    left = GREETING
    while left:
        part = await reader.read(left)
        if not part:
            raise asyncio.IncompleteReadError(part, left)
        left -= len(part)
        writer.write(part)


async def _send(
    waiting: asyncio.Queue[tuple[float, bytes]],
    writer: asyncio.StreamWriter,
    faults: Faults,
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due, frame = await waiting.get()
        await asyncio.sleep(max(0.0, due - loop.time()))
        await faults.let_go.wait()
        writer.write(frame)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    flags = await reader.readexactly(1)
    length = await reader.readexactly(8 if flags[0] & LONG else 1)
    return flags + length + await reader.readexactly(int.from_bytes(length))
