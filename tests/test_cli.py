"""The command line's usage and errors; tests/processes has it against real nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner

from meshcache import cli

ROOT = Path(__file__).parents[1]
JOINING = ("status", "get", "set", "delete", "explain")


@pytest.fixture
def meshcache(tmp_path, monkeypatch):
    """Run a command line in this process, in a cluster where nobody is."""
    for name in [name for name in os.environ if name.startswith("MESHCACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MESHCACHE_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("MESHCACHE_CLUSTER", uuid4().hex)
    return lambda *line: CliRunner().invoke(cli.main, line)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An install: the package is not in a checkout."""
    package = tmp_path / "site-packages" / "meshcache"
    package.mkdir(parents=True)
    monkeypatch.setattr(cli, "_HERE", package)
    return package


def one_line(result):
    return result.output.removeprefix("Error: ").rstrip("\n").split("\n")


def test_help_names_every_command(meshcache):
    result = meshcache("--help")

    assert 0 == result.exit_code
    for command in ("demo", "node", "bench", *JOINING):
        assert f"\n  {command} " in result.output


@pytest.mark.parametrize("command", JOINING)
def test_help_of_what_joins_names_the_options_to_find_a_cluster(meshcache, command):
    result = meshcache(command, "-h")

    assert 0 == result.exit_code
    for option in ("--cluster", "--seed", "--timeout"):
        assert option in result.output
    assert "--secret" not in result.output


@pytest.mark.parametrize(
    "line",
    [
        ("no-such-command",),
        ("get", "users"),
        ("set", "users", "7"),
        ("get", "users", "--literal", "seven"),
        ("set", "users", "7", "x", "--ttl", "soon"),
        ("get", "users", "7", "--codec", "pickle"),
        ("status", "--timeout", "0"),
        ("status", "--seed", "::::"),
        ("node", "--bind", "nonsense"),
        ("node", "--bind", "0.0.0.0:0"),
        ("bench", "no-such-benchmark"),
    ],
    ids=" ".join,
)
def test_what_is_asked_for_in_the_wrong_way_exits_with_2(meshcache, line):
    result = meshcache(*line)

    assert 2 == result.exit_code, result.output
    assert "Error: " in result.output


def test_bad_setting_of_the_environment_exits_with_2(meshcache, monkeypatch):
    monkeypatch.setenv("MESHCACHE_MAX_BYTES", "many")

    result = meshcache("status")

    assert 2 == result.exit_code
    assert "MESHCACHE_MAX_BYTES" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [("status",), ("get", "users", "7"), ("set", "users", "7", "x")],
    ids=" ".join,
)
def test_cluster_where_nobody_is_exits_with_1_and_says_where_it_looked(meshcache, line):
    result = meshcache(*line, "--timeout", "0.1")

    assert 1 == result.exit_code
    assert 1 == len(one_line(result))
    assert os.environ["MESHCACHE_CLUSTER"] in result.output
    assert "--seed" in result.output


def test_meshcache_turned_off_exits_with_1(meshcache, monkeypatch):
    monkeypatch.setenv("MESHCACHE_DISABLE", "yes")

    result = meshcache("status")

    assert 1 == result.exit_code
    assert ["MESHCACHE_DISABLE is set: there is no cluster"] == one_line(result)


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_install_without_a_checkout_says_where_the_rest_is(
    meshcache, elsewhere, command
):
    result = meshcache(command)

    assert 1 == result.exit_code
    assert 1 == len(one_line(result))
    assert "checkout" in result.output


@pytest.mark.parametrize("where", ["the wheel", "the checkout"])
def test_demo_passes_its_arguments_and_its_exit_code_through(
    meshcache, elsewhere, where
):
    demos = (elsewhere if where == "the wheel" else elsewhere.parent) / "demos"
    demos.mkdir()
    demos.joinpath("launch.py").write_text(
        "def main(argv):\n    print(argv)\n    return 7\n"
    )

    result = meshcache("demo", "--nodes", "3", "--help", "-x")

    assert 7 == result.exit_code
    assert ["--nodes", "3", "--help", "-x"] == eval(result.output)


def test_bench_runs_what_it_finds_and_passes_its_flags_on(
    meshcache, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(cli, "_HERE", tmp_path / "meshcache")
    folder = tmp_path / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    source = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    folder.joinpath("bench_one.py").write_text(source)
    folder.joinpath("bench_two.py").write_text(source + "sys.exit(1)\n")

    one = meshcache("bench", "--quick", "--json", "one")
    printed = capfd.readouterr().out
    two = meshcache("bench", "two")

    assert 0 == one.exit_code
    assert ["--quick", "--json"] == json.loads(printed)
    assert 1 == two.exit_code


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["click", "rich"])
def test_missing_extra_is_one_line_that_says_what_to_install(tmp_path, absent):
    tmp_path.joinpath("blocker.py").write_text(
        f"import sys; sys.modules[{absent!r}] = None\n"
        "import runpy; runpy.run_module('meshcache', run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, tmp_path / "blocker.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert 2 == ended.returncode
    assert 1 == ended.stderr.count("\n")
    assert "pip install 'meshcache[cli]'" in ended.stderr
