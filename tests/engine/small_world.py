"""A small world: the same code over 16 partitions and 64 buckets.

    python tests/engine/small_world.py 1234       replay one schedule of `fences`
    python tests/engine/small_world.py 0 10000    run all of these

A table costs time for each partition, of which 16,384 minus three would hold nothing in
a schedule of three keys. In a small world five nodes begin in 2 ms and not in half a
second.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

__all__ = ["World", "load"]

HERE: Final = Path(__file__).parent
PACKAGE: Final = HERE.parents[1] / "meshcache"
BITS: Final = {"PARTITION_BITS": 4, "BUCKET_BITS": 6}


class World(NamedTuple):
    """A module of this folder, and the modules of the meshcache that it uses."""

    module: ModuleType
    package: dict[str, ModuleType]


def load(name: str) -> World:
    """Return the module *name* of this folder, with a meshcache of its own beneath.

    Only what lies below the runtime can be had so.
    """
    with _small():
        module = _run(f"small_{name}", HERE / f"{name}.py", {})
        return World(module, {n: m for n, m in sys.modules.items() if _ours(n)})


@contextmanager
def _small() -> Iterator[None]:
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _ours(name)}
    # Without its __init__: no facade, no runtime, nothing that hooks into a fork.
    package = ModuleType("meshcache")
    package.__path__ = [str(PACKAGE)]
    sys.modules["meshcache"] = package
    try:
        _run("meshcache.hashing", PACKAGE / "hashing.py", BITS)
        yield
    finally:
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        sys.modules.update(kept)


def _ours(name: str) -> bool:
    return name.partition(".")[0] == "meshcache"


def _run(name: str, path: Path, numbers: dict[str, int]) -> ModuleType:
    """Run the module at *path* as *name*, with other *numbers* in its first lines."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    lines = path.read_text(encoding="utf-8").splitlines()
    for variable, number in numbers.items():
        (at,) = (i for i, s in enumerate(lines) if s.startswith(f"{variable}: Final"))
        lines[at] = f"{variable} = {number}"
    exec(compile("\n".join(lines), str(path), "exec"), module.__dict__)
    return module


if __name__ == "__main__":
    sys.exit(load("fences").module.main(sys.argv[1:]))
