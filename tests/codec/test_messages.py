"""The messages as a list: what each must have so that frames and docs can be made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from meshcache.codec import messages
from meshcache.codec.describe import page
from meshcache.codec.frames import hints
from meshcache.codec.messages import CONTROL, DATA, STRANGER, Message, Stranger

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "wire.md"
KINDS = CONTROL | DATA | {STRANGER: Stranger}


def test_every_message_has_one_kind():
    assert set(get_args(Message)) == set(KINDS.values())
    assert len(KINDS) == len(set(KINDS.values()))


def test_kinds_fit_a_byte_and_tell_the_planes_apart():
    assert all(0 < kind < 16 for kind in CONTROL)
    assert all(16 <= kind < STRANGER for kind in DATA)
    assert 255 == STRANGER


def test_what_is_exported_is_every_message_and_what_they_are_made_of():
    exported = [getattr(messages, name) for name in messages.__all__]

    assert [] == [m for m in KINDS.values() if m not in exported]


# --- the page of the reference ----------------------------------------------------


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run: python -m meshcache.codec.describe > docs/reference/wire.md"
    )


@pytest.mark.parametrize(("kind", "message"), KINDS.items())
def test_the_page_has_each_message_with_its_kind_its_fields_and_its_sentence(
    kind, message
):
    _, _, after = page().partition(f"\n### {kind} {message.__name__}\n")
    section = after.partition("\n### ")[0]

    assert message.__doc__.splitlines()[0] in section
    assert list(hints(message)) == [
        row.split("`")[1] for row in section.splitlines() if row.startswith("| `")
    ]


@pytest.mark.slow
def test_the_page_is_what_the_module_prints():
    found = subprocess.run(
        [sys.executable, "-m", "meshcache.codec.describe"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
        timeout=30,
    )

    assert page() == found.stdout
