"""The command line: run a node, look at a cluster, read and write its caches.

    meshcache node --cluster shop
    meshcache set --cluster shop users 7 Ada

All settings that have no option here come from the environment (`MESHCACHE_SECRET`,
`MESHCACHE_RUNTIME_DIR` and so on). Whoever only looks, reads or writes joins as an
observer: a member that owns nothing and leaves at the end.

Exit codes: 0 done, 1 not done or no such key, 2 asked for in the wrong way.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from runpy import run_path
from threading import Event
from time import sleep
from typing import Any, Final, TypeAlias, final

from meshcache.cache import Cache
from meshcache.clock import monotonic
from meshcache.config import Config
from meshcache.config.units import seconds
from meshcache.errors import ConfigError, MeshCacheError
from meshcache.hashing import PARTITIONS
from meshcache.model import MISSING, UNSET, Member, State
from meshcache.node import Node, NodeState
from meshcache.times import Ttl

try:
    import click
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in {"click", "rich"}:
        raise
    # This module is a program: whoever imports it wants to run it.
    sys.stderr.write(
        f"meshcache: no module named {missing.name!r}; "
        "the command line needs: pip install 'meshcache[cli]'\n"
    )
    raise SystemExit(2) from None

__all__ = ["main"]

POLL: Final = 0.02
WATCH: Final = 0.2
WIDTH: Final = 120
QUIET: Final = 0.25
"""Seconds for which the table must stand before an observer believes to know all: it
hears of the members one after the other, within a few round trips."""

_HERE: Final = Path(__file__).resolve().parent

Command: TypeAlias = Callable[..., None]


@final
class _Group(click.Group):
    """Commands whose errors are one line and an exit code, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        except MeshCacheError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="meshcache")
def main() -> None:
    """Look at, try out and repair a meshcache cluster.

    Settings without an option here are read from MESHCACHE_* variables; the secret
    always is, from MESHCACHE_SECRET.
    """


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_place = _options(
    click.option("--cluster", help="Name of the cluster.  [env: MESHCACHE_CLUSTER]"),
    click.option(
        "--seed",
        "seeds",
        multiple=True,
        metavar="HOST:PORT",
        help="A node to begin with; may be repeated. None are needed on one host.",
    ),
)
_joining = _options(
    _place,
    click.option(
        "--timeout",
        default=5.0,
        show_default=True,
        type=click.FloatRange(0.1, 3600),
        help="Seconds to look for the cluster.",
    ),
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_literal = click.option(
    "--literal",
    is_flag=True,
    help="Read KEY and VALUE as Python literals, as in 7, \"a\" or (1, 'x'), and "
    "print values so; without it they are text.",
)
_codec = click.option(
    "--codec",
    type=click.Choice(["msgpack", "json", "bytes"]),
    default="msgpack",
    show_default=True,
    help="What the application's cache encodes its values with.",
)
_entry = _options(click.argument("cache"), click.argument("key"), _literal, _joining)


@contextmanager
def _observer(
    cluster: str | None, seeds: tuple[str, ...], timeout: float
) -> Iterator[Node]:
    """Join as an observer that knows every member and who owns what."""
    settings = _given(cluster=cluster, seeds=seeds)
    # The application's own ports are for the application.
    bind = Config.load(os.environ, **settings).bind_address._replace(port=0)
    node = Node(**settings, bind=str(bind), data_port=0, observer=True, near_entries=0)
    if node.state is NodeState.DISABLED:
        raise click.ClickException("MESHCACHE_DISABLE is set: there is no cluster")
    with node:
        _await_cluster(node, timeout)
        yield node


def _given(**settings: Any) -> Any:
    """Return what was said on the command line; the rest is the environment's."""
    return {name: value for name, value in settings.items() if value}


def _await_cluster(node: Node, timeout: float) -> None:
    """Wait until somebody owns something and no more members turn up."""
    table, since = node.table(), monotonic()
    give_up = since + timeout
    while not (node.ready and table.members and monotonic() - since >= QUIET):
        sleep(POLL)
        if node.table() is not table:
            table, since = node.table(), monotonic()
        if monotonic() < give_up:
            continue
        if table.members:
            return  # they come and go faster than QUIET; this is how it is
        raise click.ClickException(
            f"nobody of cluster {node.config.cluster!r} was found in {timeout:g} s; on "
            "one host all share MESHCACHE_RUNTIME_DIR, elsewhere give --seed"
        )


def _thing(text: str, *, literal: bool) -> Any:
    """Return what a KEY or VALUE of the command line means."""
    if not literal:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise click.UsageError(f"--literal: {text!r} is no Python literal") from error


def _ttl(_context: click.Context, _option: click.Parameter, text: str | None) -> Ttl:
    if text is None or text == "none":
        return UNSET if text is None else None
    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is {error}; or write none") from error


def _show(table: Table) -> None:
    # Lines that are too long for the terminal are better than names cut short.
    Console(width=max(WIDTH, Console().width)).print(table)


def _at(member: Member | None) -> str | None:
    return member and f"{member.name} at {member.address} on {member.host}"


@main.command()
@_place
@click.option("--bind", metavar="HOST:PORT", help="Where to listen.")
@click.option("--advertise", metavar="HOST[:PORT]", help="What peers shall connect to.")
@click.option("--max-bytes", metavar="SIZE", help="Memory for entries, as in 64MB.")
@click.option("--preset", metavar="NAME", help="A set of settings: host or lan.")
@click.option("--insecure", is_flag=True, help="Listen to others without a secret.")
def node(**settings: Any) -> None:
    """Run a node in the foreground until Ctrl-C or SIGTERM.

    It keeps its share of the cluster's entries, and it is a seed for others. It has
    no loaders: what is missing is loaded by the process that asks.
    """
    stop = Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: stop.set())
    with Node(**_given(**settings)) as running:
        _watch(running, stop)
    click.echo("left the cluster")


def _watch(running: Node, stop: Event) -> None:
    """Print who comes and goes, and whether the table counts them all."""
    me = running.me
    click.echo(f"node {_at(me)}, cluster {running.config.cluster!r}; Ctrl-C ends it")
    known = {me.node_id: me.state}
    was = ""
    while not stop.is_set():
        nodes = [member for member in running.members() if member.weight]
        for member in nodes:
            if known.get(member.node_id) is not member.state:
                known[member.node_id] = member.state
                click.echo(f"node {_at(member)} is {member.state.name.lower()}")
        alive = sum(member.state is State.ALIVE for member in nodes)
        now = f"{'ready' if running.ready else 'not ready'}, nodes alive: {alive}"
        if now != was:
            click.echo(now)
            was = now
        stop.wait(WATCH)


@main.command()
@_joining
@_json
def status(*, as_json: bool, **place: Any) -> None:
    """Show the members of a cluster and what each owns."""
    with _observer(**place) as here:
        name, table = here.config.cluster, here.table()
        others = [m for m in here.members() if m.node_id != here.me.node_id]
    others.sort(key=lambda m: (m.state, -m.weight, m.host, m.address))
    rows = [_row(member, table.count(member.node_id)) for member in others]
    if as_json:
        epoch = f"{table.epoch:016x}"
        click.echo(json.dumps({"cluster": name, "table": epoch, "members": rows}))
        return
    headings = [*_row(others[0], 0)][1:]
    shown = Table(*headings, title=f"cluster {name}, nodes: {len(table.members)}")
    for row in rows:
        row["share"] = f"{row['share']:.1%}"
        shown.add_row(*(str(row[heading]) for heading in headings))
    _show(shown)


def _row(member: Member, partitions: int) -> dict[str, Any]:
    started = datetime.fromtimestamp(member.epoch / 1e9, UTC)
    return {
        "node_id": member.node_id.hex(),
        "name": member.name,
        "address": member.address,
        "host": member.host,
        "state": member.state.name.lower(),
        "role": "node" if member.weight else "observer",
        "started": started.strftime("%Y-%m-%d %H:%M:%SZ"),
        "incarnation": member.incarnation,
        "partitions": partitions,
        "share": partitions / PARTITIONS,
    }


@main.command()
@_entry
@_json
def explain(
    *, cache: str, key: str, literal: bool, as_json: bool, **place: Any
) -> None:
    """Show where KEY of CACHE lives, how old it is and how long it lives.

    A key that is not stored has the tier "fill": a read would have to load it.
    """
    thing = _thing(key, literal=literal)
    with _observer(**place) as here:
        found = here.explain(cache, thing)
    facts = found._asdict() | {"key": repr(thing), "owner": _at(found.owner)}
    facts["replicas"] = [_at(replica) for replica in found.replicas]
    if as_json:
        click.echo(json.dumps(facts))
        return
    shown = Table(show_header=False)
    for name, value in facts.items():
        shown.add_row(name, "-" if value is None else str(value))
    _show(shown)


@main.command()
@_entry
@_codec
def get(*, cache: str, key: str, literal: bool, codec: str, **place: Any) -> None:
    """Print the value stored under KEY of CACHE; exit with 1 if there is none."""
    thing = _thing(key, literal=literal)
    with _observer(**place) as here:
        value = Cache(cache, node=here, codec=codec).get(thing, MISSING)
    if value is MISSING:
        raise click.ClickException(f"nothing is stored under {thing!r} of {cache!r}")
    click.echo(value if isinstance(value, str) and not literal else repr(value))


@main.command("set")
@_entry
@click.argument("value")
@click.option(
    "--ttl",
    callback=_ttl,
    metavar="DURATION",
    help="How long it lives: 30s, 5m, or none, for ever.  [default: 5m]",
)
@_codec
def set_(
    *,
    cache: str,
    key: str,
    value: str,
    ttl: Ttl,
    literal: bool,
    codec: str,
    **place: Any,
) -> None:
    """Store VALUE under KEY of CACHE."""
    things = _thing(key, literal=literal), _thing(value, literal=literal)
    with _observer(**place) as here:
        Cache(cache, node=here, codec=codec).set(*things, ttl)


@main.command()
@_entry
def delete(*, cache: str, key: str, literal: bool, **place: Any) -> None:
    """Forget KEY of CACHE; exit with 1 if nothing was stored there."""
    thing = _thing(key, literal=literal)
    with _observer(**place) as here:
        done = Cache(cache, node=here).delete(thing)
    if not done:
        raise click.ClickException(f"nothing was stored under {thing!r} of {cache!r}")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Run the demo; `meshcache demo --help` shows its own options."""
    # In a wheel the demos are within the package, in a checkout next to it.
    launchers = [home / "demos" / "launch.py" for home in (_HERE, _HERE.parent)]
    launcher = next(filter(Path.is_file, launchers), None)
    if launcher is None:
        raise click.ClickException(
            "this install has no demos; they come with the wheel and the checkout"
        )
    sys.exit(run_path(str(launcher))["main"](list(arguments)))


@main.command()
@click.argument("names", nargs=-1)
@click.option("--quick", is_flag=True, help="Less of everything: seconds each.")
@_json
def bench(*, names: tuple[str, ...], quick: bool, as_json: bool) -> None:
    """Run the benchmarks of a checkout, or those of NAMES, as in `bench reads`."""
    folder = _HERE.parent / "tests" / "benchmarks"
    files = sorted(folder.glob("bench_*.py"))
    known = {file.stem.removeprefix("bench_"): file for file in files}
    if not known:
        raise click.ClickException(
            "the benchmarks are in the source checkout, not in the package; get it, "
            "install it with its [bench] extra and run this command there"
        )
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"no {unknown[0]!r}; there are {', '.join(known)}")
    flags = [*["--quick"] * quick, *["--json"] * as_json]
    path = [str(_HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    for name in names or known:
        if not as_json:
            click.secho(f"--- {name}", bold=True)
        done = subprocess.run(  # noqa: S603 - our own file, by this interpreter
            [sys.executable, str(known[name]), *flags],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            check=False,
        )
        if done.returncode:
            raise click.ClickException(f"{name} ended with code {done.returncode}")
