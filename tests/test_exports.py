"""The public names, and that every module says what it offers."""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

import meshcache
from meshcache import MeshCacheError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "meshcache"

PUBLIC = [
    "MISSING",
    "UNSET",
    "AsyncMemoized",
    "Cache",
    "CacheEntry",
    "CacheInfo",
    "Changed",
    "Codec",
    "Config",
    "ConfigError",
    "Explanation",
    "KeyRefused",
    "LoadError",
    "LoadTimeout",
    "Member",
    "Memoized",
    "MeshCacheError",
    "Node",
    "NodeClosed",
    "NodeState",
    "NotANumber",
    "NotReady",
    "PeerTimeout",
    "PeerUnavailable",
    "RecursiveLoad",
    "SerializationError",
    "State",
    "ValueTooLarge",
    "bypass",
    "memoize",
    "memoize_many",
    "node",
    "register",
    "start",
    "stop",
]

CACHE = [
    "get",
    "set",
    "add",
    "touch",
    "delete",
    "incr",
    "decr",
    "get_many",
    "set_many",
    "delete_many",
    "get_or_load",
    "clear",
    "memoize",
    "memoize_many",
    "name",
    "node",
]
NODE = [
    "start",
    "stop",
    "state",
    "me",
    "members",
    "table",
    "ready",
    "wait_ready",
    "owner",
    "explain",
    "stats",
    "cache",
    "subscribe",
    "changes",
]


def modules() -> list[str]:
    """Every module of the package but those that are run with `-m`."""
    paths = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths]
    return [n.removesuffix(".__init__") for n in names if not n.endswith("__main__")]


def test_the_public_names_are_these():
    assert PUBLIC == meshcache.__all__
    for name in PUBLIC:
        assert hasattr(meshcache, name)


@pytest.mark.parametrize("name", modules())
def test_every_module_lists_names_that_it_has_in_order(name):
    if name == "meshcache.cli":
        pytest.importorskip("click")
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    is_package = hasattr(module, "__path__")

    assert is_package or listed is not None
    for offered in listed or ():
        assert hasattr(module, offered)
    assert len(set(listed or ())) == len(listed or ())


@pytest.mark.parametrize("name", modules())
def test_what_a_module_uses_of_another_is_offered_there(name):
    tree = ast.parse(Path(find_spec(name).origin).read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if not node.module.startswith("meshcache"):
            continue
        other = importlib.import_module(node.module)
        for imported in node.names:
            is_module = hasattr(getattr(other, imported.name), "__file__")
            assert is_module or imported.name in other.__all__, (
                f"{name} uses {imported.name} of {node.module}"
            )


def test_caches_and_nodes_have_the_settled_operations():
    assert [] == [name for name in CACHE if not hasattr(meshcache.Cache, name)]
    assert [] == [name for name in NODE if not hasattr(meshcache.Node, name)]


def test_every_error_is_one_of_ours():
    errors = [getattr(meshcache, name) for name in PUBLIC]
    ours = [e for e in errors if inspect.isclass(e) and issubclass(e, Exception)]

    assert 13 == len(ours)
    assert all(issubclass(e, MeshCacheError) for e in ours)


def test_the_sentinels_are_themselves():
    assert "meshcache.MISSING" == repr(meshcache.MISSING)
    assert "meshcache.UNSET" == repr(meshcache.UNSET)
    assert not meshcache.MISSING


def test_the_version_is_that_of_the_installed_package():
    try:
        installed = version("meshcache")
    except PackageNotFoundError:
        with pytest.raises(PackageNotFoundError):
            meshcache.__version__  # noqa: B018 - it is computed
        return

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == installed == meshcache.__version__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Cash'"):
        meshcache.Cash  # noqa: B018 - it is computed
