"""Whether what is compiled is there, is of these sources, and is in use."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

import meshcache
from meshcache import native
from meshcache.config import Config, units
from meshcache.errors import ConfigError

ROOT = Path(meshcache.__file__).parents[1]
FOLDER = Path(native.__file__).parent
HOOK = ROOT / "hatch_build.py"


def load(name="native_once_more"):
    """Return `meshcache.native` as it is where the process begins now."""
    spec = importlib.util.spec_from_file_location(name, native.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_disk():
    """The compiled module, whether it is in use or not."""
    try:
        return importlib.import_module("meshcache.native._native")
    except ImportError:
        pytest.skip("nothing was compiled")


# --- what the variable says ------------------------------------------------------


@pytest.mark.parametrize("word", ["no", "0", "false", "off", " No ", "FALSE"])
def test_a_no_leaves_what_is_compiled_aside(monkeypatch, word):
    monkeypatch.setenv("MESHCACHE_NATIVE", word)
    module = load()

    assert not module.built
    assert module.reader() is None
    for make in (module.decoder, module.encoder, module.keys, module.records):
        assert len is make(len)


@pytest.mark.parametrize("word", [None, "", "yes", "1", "true", "on"])
def test_it_is_in_use_by_default(monkeypatch, on_disk, word):
    if word is None:
        monkeypatch.delenv("MESHCACHE_NATIVE", raising=False)
    else:
        monkeypatch.setenv("MESHCACHE_NATIVE", word)
    module = load()

    assert module.built
    assert on_disk.Reader is module.reader()
    for make in (module.decoder, module.encoder, module.keys, module.records):
        assert len is make(len).__wrapped__


def test_where_nothing_was_compiled_python_does_it(monkeypatch):
    monkeypatch.delenv("MESHCACHE_NATIVE", raising=False)
    monkeypatch.delattr(native, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "meshcache.native._native", None)
    module = load()

    assert not module.built
    assert module.reader() is None
    assert len is module.decoder(len)


@pytest.mark.parametrize("interface", [None, 0, -1])
def test_what_was_compiled_before_a_change_is_left_aside(
    monkeypatch, on_disk, interface
):
    monkeypatch.delenv("MESHCACHE_NATIVE", raising=False)
    if interface is None:
        monkeypatch.delattr(on_disk, "INTERFACE")
    else:
        monkeypatch.setattr(on_disk, "INTERFACE", interface)
    module = load()

    assert not module.built
    assert module.reader() is None


@pytest.mark.parametrize("word", ["maybe", "2", "nope"])
def test_a_word_that_is_neither_yes_nor_no_is_refused_by_name(word):
    with pytest.raises(ConfigError, match=rf"^MESHCACHE_NATIVE='{word}'"):
        Config.load(environ={"MESHCACHE_NATIVE": word})


def test_every_no_is_one_of_the_settings_too_and_of_the_build():
    assert not any(units.flag(word) for word in native.REFUSALS)
    for word in ("yes", "no"):
        assert Config.load(environ={}) == Config.load(
            environ={"MESHCACHE_NATIVE": word}
        )
    if HOOK.exists():
        tree = ast.parse(HOOK.read_text())
        (found,) = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "REFUSALS"
        ]

        assert native.REFUSALS == found


PROGRAM = """
import sys
import sysconfig
import meshcache
from meshcache import native

with meshcache.Node(cluster=sys.argv[1], runtime_dir=sys.argv[2]) as node:
    cache = node.cache("c", ttl=60)
    cache.set("key", {"a": [1, "b"]})
    cache.set(7, (1, 2), tags=["t"])
    found = [cache.get("key"), cache.get(7), cache.get("none")]
    cache.invalidate_tags("t")
    found.append(cache.get(7))
    cache.delete("key")
    found.append(cache.get("key"))
print([native.built, node.stats()["native"], *found])
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("word", ["no", "yes"])
def test_a_cache_works_with_and_without(tmp_path, word):
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"test-{uuid4().hex[:12]}", str(tmp_path)],
        env={**os.environ, "MESHCACHE_NATIVE": word, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    built = word == "yes" and importlib.util.find_spec("meshcache.native._native")
    found = [{"a": [1, "b"]}, (1, 2), None, None, None]

    assert f"{[bool(built), bool(built), *found]}\n" == done.stdout, done.stderr


# --- of what it was made ---------------------------------------------------------


def test_what_is_compiled_is_of_these_sources(on_disk):
    # As `source_digest` in hatch_build.py, which needs what only a build has.
    sources = sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")])
    if not sources:
        pytest.skip("an install has no sources")
    digest = sha256()
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())

    assert digest.hexdigest()[:16] == on_disk.SOURCE, (
        f"{on_disk.__file__} was made of other sources: install again "
        "(pip install -e .), or say MESHCACHE_NATIVE=no"
    )


def test_the_stub_names_all_that_is_there(on_disk):
    tree = ast.parse((FOLDER / "_native.pyi").read_text())
    named = {
        getattr(node, "name", None) or node.target.id
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AnnAssign)
    }

    assert {name for name in vars(on_disk) if not name.startswith("__")} == {
        name for name in named if not name.startswith("_")
    }


# --- how it is made --------------------------------------------------------------

BUILD = """
import json, sys
from pathlib import Path
from hatch_build import NativeHook

hook = NativeHook(".", {}, None, None, sys.argv[1], "wheel")
data = {"force_include": {}}
hook.initialize("standard", data)
made = hook._aside and [*map(str, Path(hook._aside.name).rglob("_native*.so"))]
hook.finalize("standard", data, "")
assert not Path(hook._aside.name).exists(), "something is left behind"
print(json.dumps([data, made]))
"""


needs_a_compiler = pytest.mark.skipif(
    shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is None
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="there is no compiler, or no headers of this Python",
)


def run_build(program, place, **environ):
    for needed in ("hatchling", "setuptools"):
        if importlib.util.find_spec(needed) is None or not HOOK.exists():
            pytest.skip(f"a build needs {needed} and a checkout")
    return subprocess.run(
        [sys.executable, "-c", program, str(place)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def build(tmp_path, **environ):
    done = run_build(BUILD, tmp_path, **environ)

    assert 0 == done.returncode, done.stderr

    return *json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.mark.slow
def test_without_a_compiler_a_build_says_so_and_goes_on(tmp_path):
    data, made, said = build(tmp_path, CC="/nonexistent/cc", MESHCACHE_NATIVE="")

    assert {"force_include": {}} == data
    assert not made
    assert "meshcache.native was not compiled" in said


@pytest.mark.slow
def test_a_build_leaves_it_out_if_it_shall(tmp_path):
    data, made, said = build(tmp_path, MESHCACHE_NATIVE="no")

    assert {"force_include": {}} == data
    assert not made
    assert "not compiled" not in said


@needs_a_compiler
@pytest.mark.slow
def test_a_build_puts_it_into_a_wheel_of_this_platform(tmp_path):
    data, made, _ = build(tmp_path, MESHCACHE_NATIVE="")
    (source, target), *others = data.pop("force_include").items()

    assert {"pure_python": False, "infer_tag": True} == data
    assert [] == others
    assert [source] == made
    assert f"meshcache/native/{Path(source).name}" == target
    assert not Path(source).exists()


AGAIN = """
import sys
import sysconfig
from pathlib import Path
from hatch_build import FOLDER, compiled, source_digest

root = Path(sys.argv[1])
for name in ("xxh3.h", "module.c"):
    made = compiled(root, root / "aside", inplace=True)
    print(source_digest(root / FOLDER).encode() in made.read_bytes())
    with (root / FOLDER / name).open("a") as source:
        source.write("/* changed */")
print(source_digest(root / FOLDER).encode() in made.read_bytes())
"""


@needs_a_compiler
@pytest.mark.slow
def test_a_change_of_any_source_is_compiled(tmp_path):
    copy = tmp_path / "meshcache" / "native"
    copy.mkdir(parents=True)
    for path in [*FOLDER.glob("*.c"), *FOLDER.glob("*.h")]:
        (copy / path.name).write_bytes(path.read_bytes())
    done = run_build(AGAIN, tmp_path)
    told = [line for line in done.stdout.splitlines() if line in {"True", "False"}]

    assert ["True", "True", "False"] == told, done.stderr


AFRESH = """
import sys
from hatch_build import NativeHook

NativeHook(sys.argv[1], {}, None, None, sys.argv[1], "wheel").initialize("editable", {})
"""


def test_an_editable_build_without_it_leaves_no_earlier_one(tmp_path):
    folder = tmp_path / "meshcache" / "native"
    folder.mkdir(parents=True)
    left = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    others = folder / "_native.cpython-27-other.so"
    left.touch()
    others.touch()
    done = run_build(AFRESH, tmp_path, MESHCACHE_NATIVE="no")

    assert 0 == done.returncode, done.stderr
    assert [others] == [*folder.iterdir()]
