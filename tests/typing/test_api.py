"""`api.py` beside this file passes every type checker that is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def checked(*command: str) -> str:
    """Return what a checker says of `api.py`; empty if it has nothing to say."""
    run = subprocess.run(
        [sys.executable, "-m", *command, str(HERE / "api.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return run.stdout + run.stderr if run.returncode else ""


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs("mypy")
def test_mypy_sees_the_parameters_of_memoized_functions():
    assert "" == checked("mypy", "--strict", "--warn-unused-ignores")


@pytest.mark.slow
@pytest.mark.timeout(300)
@needs("pyright")
def test_pyright_sees_the_parameters_of_memoized_functions():
    assert "" == checked("pyright", "-p", str(ROOT), "--pythonpath", sys.executable)


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "meshcache" / "py.typed").is_file()
