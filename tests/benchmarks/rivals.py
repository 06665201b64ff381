"""The servers that benchmarks compete with: started here, ended here.

Each is a child process of its own on a free loopback port, keeps nothing on disk, and
runs on another core than the benchmark. A server or client that is not installed is
`Absent`, with the reason.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_TIMEOUT = 10.0
ECHO = """
import sys, zmq
listener = zmq.Context().socket(zmq.ROUTER)
print(listener.bind_to_random_port("tcp://127.0.0.1"), flush=True)
poller = zmq.Poller()
poller.register(listener, zmq.POLLIN)
poller.register(sys.stdin, zmq.POLLIN)
while True:
    ready = dict(poller.poll())
    if listener in ready:
        listener.send_multipart(listener.recv_multipart())
    if sys.stdin.fileno() in ready:
        break
"""


def shared_memory() -> str | None:
    """Return where arenas lie by default: on a disk each page would be written out."""
    path = Path("/dev/shm")
    return str(path) if path.is_dir() else None


class Absent(Exception):
    """A server or its client is not installed here."""


def on_core(core: int) -> None:
    """Keep this process, and those it starts, on one core if there are several."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0) | _cores())
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def _cores() -> set[int]:
    return set(range(os.cpu_count() or 1))


@contextmanager
def running(
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    pinned: bool = True,
) -> Iterator[subprocess.Popen[str]]:
    """Run *command* until the end of the block, on the other core if *pinned*."""
    if pinned:
        on_core(1)
    try:
        process = subprocess.Popen(
            command,
            env=os.environ | dict(environ or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        if pinned:
            on_core(0)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def zmq_echo() -> Iterator[Callable[[bytes], bytes]]:
    """Yield the round trip of a DEALER to a ROUTER and nothing else."""
    import zmq

    with (
        running([sys.executable, "-c", ECHO]) as process,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{process.stdout.readline().strip()}")

        def echo(frame: bytes) -> bytes:
            dealer.send(frame)
            return dealer.recv()

        yield echo


@contextmanager
def redis_server(content: Mapping[str, bytes]) -> Iterator[tuple[Any, Any]]:
    """Yield a redis-py client and an asyncio one, of a server that holds *content*."""
    with redis_process() as (_, client):
        import redis.asyncio

        client.mset(dict(content))
        yield client, redis.asyncio.Redis(port=port_of(client))


def port_of(client: Any) -> int:
    """Return the port of the server that a client of either kind talks to."""
    if hasattr(client, "connection_pool"):
        return int(client.connection_pool.connection_kwargs["port"])
    return int(client.server[1])


@contextmanager
def redis_process(*, pinned: bool = True) -> Iterator[tuple[int, Any]]:
    """Yield an empty server's process id, and a client of it."""
    try:
        import redis
    except ImportError as error:
        raise Absent(str(error)) from error
    command = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    with _server("redis-server", "--port", *command, pinned=pinned) as (port, pid):
        client = redis.Redis(port=port)
        yield pid, client
        client.close()


@contextmanager
def memcached(content: Mapping[str, bytes]) -> Iterator[Any]:
    """Yield a pymemcache client of a server that holds *content*."""
    with memcached_process() as (_, client):
        client.set_many(dict(content))
        yield client


@contextmanager
def memcached_process(*options: str, pinned: bool = True) -> Iterator[tuple[int, Any]]:
    """Yield an empty server's process id, and a client of it."""
    try:
        from pymemcache.client.base import Client
    except ImportError as error:
        raise Absent(str(error)) from error
    user = ("-u", "root") if os.getuid() == 0 else ()
    local = ("-l", "127.0.0.1", "-U", "0", *user, *options)
    with _server("memcached", "-p", *local, pinned=pinned) as (port, pid):
        client = Client(("127.0.0.1", port), no_delay=True)
        yield pid, client
        client.close()


@contextmanager
def _server(
    name: str, port_option: str, *options: str, pinned: bool
) -> Iterator[tuple[int, int]]:
    path = shutil.which(name)
    if path is None:
        raise Absent(f"{name} is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [path, port_option, str(port), *options]
    with running(command, pinned=pinned) as process:
        _await_port(process, port)
        yield port, process.pid


def _await_port(process: subprocess.Popen[str], port: int) -> None:
    give_up = time.monotonic() + START_TIMEOUT
    while time.monotonic() < give_up and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Absent(f"{process.args[0]} did not start on port {port}")
