"""How soon everybody knows that a member is gone, side by side with memberlist.

Each round starts a cluster of meshcache and then one of hashicorp/memberlist, with
what each ships for a local network, takes one member away, and waits until all others
have said so. `kill` is a SIGKILL on this host, over loopback. `silence` unplugs a
network namespace: no reset and no refusal, only silence. Times are from the fault to
the first and to the last of the survivors. `false` counts survivors taken for dead.

    python tests/benchmarks/bench_detection.py [--fault kill|silence] [--members 8 24]
            [--rounds N] [--only meshcache|memberlist] [--quick] [--json]

memberlist comes as Debian packages it: `apt-get install golang-go
golang-github-hashicorp-memberlist-dev`. Without Go, meshcache is measured alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).resolve()
GO_MAIN = HERE.parent / "memberlist" / "main.go"
GOPATH = Path("/usr/share/gocode")
SECRET = "a secret for this benchmark"
PORT = 7946
READY_WITHIN = 60.0
KNOWN_WITHIN = 90.0
CALM = 10.0
"""Seconds between the start and the fault, so that starting up weighs on neither: a
node that was late meanwhile stretches its own time-outs for some periods."""
QUICK_CALM = 1.0

sys.path[:0] = [str(HERE.parents[1] / "processes"), str(HERE.parents[2])]

from namespaces import Network, why_not  # noqa: E402 - found by the line above


class Place(NamedTuple):
    """Where a member runs, how it gets there, and whom it may ask."""

    host: str
    port: int
    seed: str
    prefix: tuple[str, ...]
    folder: Path


class Member:
    """A child process that says, one JSON object a line, what it hears of others."""

    def __init__(self, command: list[str]) -> None:
        self.name = ""
        self.heard: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == "ready":
                self.name = said["name"]
            self.heard.append(said)

    def ready(self) -> bool:
        assert self.process.poll() is None, "a member did not start"
        return bool(self.name)

    def knows(self, count: int) -> bool:
        return self.ready() and count == len(self.alive())

    def alive(self) -> set[str]:
        """Return the others it holds alive."""
        others: set[str] = set()
        for said in list(self.heard):
            if said["event"] == "join":
                others.add(said["name"])
            elif said["event"] == "dead":
                others.discard(said["name"])
        return others - {self.name}

    def first(self, event: str, name: str) -> int | None:
        """Return when it first said *event* of *name*, in wall-clock ns."""
        for said in list(self.heard):
            if (said["event"], said["name"]) == (event, name):
                return int(said["at"])
        return None

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._reader.join(10)
        self.process.stdin.close()
        self.process.stdout.close()


def meshcache_command(place: Place) -> list[str]:
    settings: dict[str, Any] = {"cluster": "bench", "runtime_dir": str(place.folder)}
    if place.prefix:
        settings |= {
            "bind": f"{place.host}:{place.port}",
            "seeds": [place.seed],
            "directory": False,
            "secret": SECRET,
        }
    return [*place.prefix, sys.executable, str(HERE), "--member", json.dumps(settings)]


def memberlist_command(place: Place, binary: Path) -> list[str]:
    command = [*place.prefix, str(binary), "-name", f"{place.host}:{place.port}"]
    command += ["-host", place.host, "-port", str(place.port)]
    if place.seed != f"{place.host}:{place.port}":
        command += ["-join", place.seed]
    return command


def be_member(settings: dict[str, Any]) -> None:
    """Be a node of meshcache that speaks as the Go program does."""
    import meshcache

    events = {"ALIVE": "join", "SUSPECT": "suspect", "DEAD": "dead", "LEFT": "dead"}
    lock = threading.Lock()

    def say(event: str, name: str) -> None:
        with lock:
            line = {"event": event, "name": name, "at": time.time_ns()}
            print(json.dumps(line), flush=True)

    node = meshcache.Node(**settings)
    node.subscribe(lambda c: say(events[c.member.state.name], c.member.node_id.hex()))
    node.start()
    say("ready", node.me.node_id.hex())
    sys.stdin.read()
    node.stop()


@contextmanager
def places(fault: str, count: int) -> Iterator[tuple[list[Place], Network | None]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if fault == "silence":
            network = stack.enter_context(Network(count))
            seed = f"{network.address(1)}:{PORT}"
            yield (
                [
                    Place(network.address(n), PORT, seed, network.prefix(n), folder)
                    for n in range(1, count + 1)
                ],
                network,
            )
        else:
            ports = free_ports(count)
            seed = f"127.0.0.1:{ports[0]}"
            yield [Place("127.0.0.1", port, seed, (), folder) for port in ports], None


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def measure(
    system: str, fault: str, count: int, binary: Path | None, calm: float
) -> dict[str, Any]:
    """Start a cluster, take its last member away, and see who notices when."""
    with places(fault, count) as (spots, network), ExitStack() as stack:
        members = []
        for spot in spots:
            if system == "meshcache":
                command = meshcache_command(spot)
            else:
                assert binary is not None
                command = memberlist_command(spot, binary)
            members.append(member := Member(command))
            stack.callback(member.end)
            if spot is spots[0]:
                wait(member.ready, READY_WITHIN)
        wait(lambda: sum(m.knows(count - 1) for m in members) == count, READY_WITHIN)
        time.sleep(calm)
        victim, survivors = members[-1], members[:-1]
        at = time.time_ns()
        if network is None:
            victim.process.kill()
        else:
            network.unplug([count])
        known = wait(lambda: times(survivors, victim.name), KNOWN_WITHIN)
        lost = {victim.name}
        wrong = sum(
            len({s.name for s in survivors} - s.alive() - {s.name} - lost)
            for s in survivors
        )
        suspected = [s.first("suspect", victim.name) for s in survivors]
        return {
            "system": system,
            "fault": fault,
            "members": count,
            "first": (min(known) - at) / 1e9,
            "last": (max(known) - at) / 1e9,
            "suspected": seconds_after(at, suspected),
            "false": wrong,
        }


def times(survivors: list[Member], name: str) -> list[int]:
    """Return when each came to know, or nothing while one does not."""
    found = [survivor.first("dead", name) for survivor in survivors]
    return [at for at in found if at is not None] if None not in found else []


def seconds_after(at: int, found: list[int | None]) -> float | None:
    known = [moment for moment in found if moment is not None]
    return (min(known) - at) / 1e9 if known else None


def wait(holds: Any, within: float) -> Any:
    end = time.monotonic() + within
    while not (answer := holds()):
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {within} s")
        time.sleep(0.02)
    return answer


def build(folder: Path) -> Path | None:
    """Build the Go program against Debian's memberlist; None where that is not."""
    go = shutil.which("go")
    if go is None or not GOPATH.is_dir():
        print("no Go, or no memberlist: meshcache alone", file=sys.stderr)
        return None
    binary = folder / "member"
    environ = {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(folder)}
    command = [go, "build", "-o", str(binary), str(GO_MAIN)]
    subprocess.run(command, check=True, env=os.environ | environ)
    return binary


def run(
    fault: str, sizes: list[int], rounds: int, only: str | None, *, quick: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield one result for each cluster, the two systems in turn."""
    with tempfile.TemporaryDirectory() as folder:
        binary = None if only == "meshcache" else build(Path(folder))
        systems = ["meshcache", "memberlist"] if binary else ["meshcache"]
        calm = QUICK_CALM if quick else CALM
        for _ in range(rounds):
            for count in sizes:
                for system in systems if only is None else [only]:
                    yield measure(system, fault, count, binary, calm)


def summary(results: list[dict[str, Any]]) -> str:
    rows = ["| fault | members | system | rounds | first | last | false |"]
    rows.append("|---|---|---|---|---|---|---|")
    kinds = {(r["fault"], r["members"], r["system"]): None for r in results}
    for fault, members, system in kinds:
        mine = [
            r
            for r in results
            if (r["fault"], r["members"], r["system"]) == (fault, members, system)
        ]
        spread = [_spread([r[which] for r in mine]) for which in ("first", "last")]
        wrong = sum(r["false"] for r in mine)
        rows.append(
            f"| {fault} | {members} | {system} | {len(mine)} | {spread[0]} | "
            f"{spread[1]} | {wrong} |"
        )
    return "\n".join(rows)


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=["kill", "silence"], default="kill")
    parser.add_argument("--members", type=int, nargs="+", default=[8, 24])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["meshcache", "memberlist"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--member", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member is not None:
        be_member(json.loads(options.member))
        return
    reason = why_not() if options.fault == "silence" else None
    if reason is not None:
        sys.exit(reason)
    sizes, rounds = ([4], 1) if options.quick else (options.members, options.rounds)
    results = []
    found = run(options.fault, sizes, rounds, options.only, quick=options.quick)
    for result in found:
        results.append(result)
        print(json.dumps(result), file=sys.stderr)
    print(json.dumps({"results": results}) if options.json else summary(results))


if __name__ == "__main__":
    main()
