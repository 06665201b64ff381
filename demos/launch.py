"""The demo: several processes, one application, no server, and a kill.

    python demos/launch.py              or: meshcache demo
    python demos/launch.py --nodes 8 --seconds 60
    python demos/launch.py --trace keys.txt.gz --no-kill --json

Starts the processes, replays requests in each, kills one, starts it again, and says
whether the mesh kept its promises: exit code 0, or 1 with the broken one named.
"""

# ruff: noqa: PLC0415 - what is imported late is found by _find_imports

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve()
_MAX_NODES: Final = 32
_MAX_SECONDS: Final = 3600.0
_RATE: Final = 2000
_USAGE_ERROR: Final = 2
_INTERRUPTED: Final = 130


def main(argv: list[str] | None = None) -> int:
    """Run the demo, or one worker of it; return the exit code."""
    _find_imports()
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.worker is not None:
            return _work(options.worker)
        _refuse_nonsense(parser, options)
        return _launch(options)
    except ModuleNotFoundError as error:
        print(
            f'{error}. The demo needs: pip install "meshcache[demo]"', file=sys.stderr
        )
        return _USAGE_ERROR


def _find_imports() -> None:
    # The demo's own modules lie beside this file, in a checkout as in an install;
    # the package lies beside the demos in a checkout only.
    if str(_HERE.parent) not in sys.path:
        sys.path.insert(0, str(_HERE.parent))
    if importlib.util.find_spec("meshcache") is None:
        sys.path.append(str(_HERE.parent.parent))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshcache demo",
        description="Several processes share one cache; one of them is killed.",
    )
    add = parser.add_argument
    add("--nodes", type=int, default=4, metavar="N", help="processes (default 4)")
    add("--seconds", type=float, default=20.0, metavar="S", help="replay (default 20)")
    add(
        "--trace", type=Path, metavar="FILE", help="replay its keys, one a line; or .gz"
    )
    add(
        "--rate",
        type=int,
        default=_RATE,
        metavar="R",
        help=f"requests a second and process, 0 for flat out (default {_RATE})",
    )
    add("--json", action="store_true", help="print the summary as JSON, no screen")
    add("--no-kill", action="store_true", help="let every process live")
    add("--worker", help=argparse.SUPPRESS)
    return parser


def _refuse_nonsense(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> None:
    if not 1 <= options.nodes <= _MAX_NODES:
        parser.error(f"--nodes must be between 1 and {_MAX_NODES}")
    if options.nodes == 1 and not options.no_kill:
        parser.error("one process killed leaves nobody to notice: add --no-kill")
    if not 1 <= options.seconds <= _MAX_SECONDS:
        parser.error(f"--seconds must be between 1 and {_MAX_SECONDS:.0f}")
    if options.rate < 0:
        parser.error("--rate must not be negative")
    if options.trace is not None and not options.trace.is_file():
        parser.error(f"--trace: there is no file {options.trace}")


def _work(job: str) -> int:
    from launcher.job import Job
    from launcher.worker import work

    return work(Job.read(job))


def _launch(options: argparse.Namespace) -> int:
    from launcher.run import run
    from launcher.story import Plan

    plan = Plan(
        nodes=options.nodes,
        seconds=options.seconds,
        rate=options.rate,
        kill=not options.no_kill,
        trace=str(options.trace.resolve()) if options.trace else None,
    )
    try:
        return run(plan, _HERE, as_json=options.json)
    except KeyboardInterrupt:
        print("interrupted: every process has been ended", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
