"""Subscriptions through a fork."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

ROOT = Path(__file__).parents[2]


def test_in_a_forked_child_a_subscriber_is_told_of_the_childs_own_node(
    tmp_path, cluster
):
    script = f"""
        import os, time
        import meshcache

        told = []

        def heard(own_id):
            end = time.monotonic() + 10
            while (os.getpid(), own_id) not in told:
                assert time.monotonic() < end, told
                time.sleep(0.01)

        node = meshcache.Node(cluster={cluster!r}, runtime_dir={str(tmp_path)!r})
        node.subscribe(lambda c: told.append((os.getpid(), c.member.node_id)))
        node.start()
        heard(node.me.node_id)
        child = os.fork()
        node.start()
        heard(node.me.node_id)
        node.stop()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        cwd=ROOT,
        timeout=30,
        check=False,
        capture_output=True,
        text=True,
    )

    assert 0 == done.returncode, done.stderr
