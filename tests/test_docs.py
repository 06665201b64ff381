"""What the documents show works: their code runs, their links and tests exist.

A block marked `python no-run` shows code for which a framework or a database is
needed; it must still compile. Every other `python` block is a program of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PROMISE = re.compile(r"\[`(test_\w+)`\]\(([^)]+)\)")


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """A piece of Python in a document."""

    document: str
    line: int
    runs: bool
    code: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for path in documents():
        text = path.read_text()
        for match in BLOCK.finditer(text):
            language, marks, code = match.groups()
            if language == "python":
                line = text.count("\n", 0, match.start()) + 1
                name = str(path.relative_to(ROOT))
                found.append(Block(name, line, "no-run" not in marks, code))
    return found


def test_the_documents_that_must_be_there_show_code():
    shown = {block.document for block in blocks() if block.runs}

    assert "README.md" in shown
    for number in ("01", "02", "03", "04"):
        assert any(name.startswith(f"docs/tutorial/{number}") for name in shown)


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_every_block_of_code_compiles(block):
    compile(block.code, str(block), "exec")


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("block", [b for b in blocks() if b.runs], ids=str)
def test_every_block_of_code_runs(block, tmp_path):
    (tmp_path / "block.py").write_text(block.code)
    paths = [str(ROOT), *filter(None, sys.path)]
    ours = {
        "PYTHONPATH": os.pathsep.join(paths),
        "MESHCACHE_RUNTIME_DIR": str(tmp_path),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", "block.py"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if "MESHCACHE" not in k} | ours,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert 0 == run.returncode, run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    text = BLOCK.sub("", path.read_text())
    inside = [link.partition("#")[0] for link in LINK.findall(text) if ":" not in link]

    assert [] == [link for link in inside if link and not (path.parent / link).exists()]


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_promise_names_a_test_that_exists(path):
    for name, file in PROMISE.findall(path.read_text()):
        assert f"def {name}(" in (path.parent / file).read_text(), name
