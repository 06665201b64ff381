"""The page of the reference that lists every setting."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from meshcache.config import Config
from meshcache.config.reference import reference

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m meshcache.config > docs/reference/configuration.md"
    )


def test_the_page_has_a_row_for_each_setting():
    rows = [line for line in reference().splitlines() if line.count(" | ") == 3]

    for spec in fields(Config):
        assert 1 == sum(row.startswith(f"| `{spec.name}` |") for row in rows)


@pytest.mark.slow
def test_the_page_is_what_the_module_prints():
    found = subprocess.run(
        [sys.executable, "-m", "meshcache.config"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
        timeout=30,
    )

    assert reference() == found.stdout
