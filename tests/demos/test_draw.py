from __future__ import annotations

import io

import pytest
from launcher.draw import draw
from launcher.picture import Event, Picture, Row
from rich.console import Console


def drawn(picture, width, height):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(draw(picture, width, height))
    return console.file.getvalue().splitlines()


def picture(nodes, owners):
    return Picture(
        nodes,
        phase="replaying",
        done=0.5,
        elapsed_s=3599.9,
        per_second=123_456.7,
        rows=[
            Row(slot, f"w{slot + 1}", "ab12cd34", 1234567, "suspect 2/3", 0.5, 99, 9**8)
            for slot in range(nodes)
        ],
        owners=owners,
        hits={"near": 9**8, "host": 9**7, "peer": 0, "fill": 3, "local": 0},
        latency_us={"near": {"p50": 0.9, "p99": 999.9}},
        distinct=30_000,
        loads=30_000,
        events=[Event(3599.0, "something long to tell " * 8)] * 20,
    )


@pytest.mark.parametrize("nodes", [1, 4, 32])
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_picture_fits_the_terminal(nodes, size):
    width, height = size
    lines = drawn(picture(nodes, "0" * 16384), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_four_members_and_three_events_fit_the_smallest_terminal():
    lines = drawn(picture(4, "0" * 16384), 80, 24)

    assert sum(line.startswith("●") for line in lines) == 4
    assert sum(line.startswith("3599.00 s") for line in lines) == 3


def test_picture_of_nothing_yet_can_be_drawn():
    assert drawn(Picture(4), 80, 24)


def test_picture_says_when_every_key_was_loaded_once():
    assert any("each loaded once" in line for line in drawn(picture(4, ""), 80, 24))
