from __future__ import annotations

import pytest
from launcher.wire import (
    Asked,
    Loaded,
    Pause,
    Paused,
    Progress,
    Replay,
    Started,
    Stop,
    Sync,
    Synced,
    Trouble,
    View,
    decode,
    encode,
)

MESSAGES = [
    Replay(None),
    Replay(17),
    Pause(),
    Sync(),
    Stop(),
    Started("ab12"),
    View(7, {"ab12": "ALIVE"}, ["ab12"], "000"),
    Progress(3, latency={"near": {"31": 3}}, slowest_read_ns=900),
    Asked(["within:CDG:100"]),
    Loaded("within:CDG:100"),
    Paused(17),
    Synced(),
    Trouble("a\nb \u2028 é"),
]


@pytest.mark.parametrize(
    "message", MESSAGES, ids=lambda message: type(message).__name__
)
def test_message_is_one_line_and_comes_back_as_it_was(message):
    line = encode(message)

    assert [line] == line.splitlines(keepends=True)
    assert message == decode(line)
