"""From a secret to a key pair, and the one who looks at the keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from meshcache.transport.security import ZAP_DOMAIN, ZAP_ENDPOINT, Curve, Doorman

SECRET = "a secret of the cluster"


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    made = zmq.Context()
    yield made
    made.destroy(0)


@pytest.fixture
def door(context):
    """A doorman, and a way to put questions to it as libzmq does."""
    curve = Curve(SECRET)
    doorman = Doorman(context, curve)
    asker = context.socket(zmq.DEALER)
    asker.connect(ZAP_ENDPOINT)

    def ask(*question: bytes) -> list[bytes] | None:
        asker.send_multipart([b"", *question])
        assert doorman.socket.poll(1000)
        doorman.answer()
        return asker.recv_multipart() if asker.poll(0) else None

    yield doorman, curve, ask
    doorman.socket.close(0)
    asker.close(0)


def question(curve: Curve, **changes: bytes) -> list[bytes]:
    fields = {
        "version": b"1.0",
        "request": b"7",
        "domain": ZAP_DOMAIN,
        "address": b"127.0.0.1",
        "identity": b"",
        "mechanism": b"CURVE",
        "key": z85.decode(curve.public),
    }
    return list((fields | changes).values())


def test_the_same_secret_makes_the_same_keys_in_every_process():
    curve = Curve(SECRET)

    assert (curve.public, curve.secret) == (Curve(SECRET).public, Curve(SECRET).secret)
    assert zmq.curve_public(curve.secret) == curve.public


def test_another_secret_makes_other_keys():
    assert Curve(SECRET).public != Curve(SECRET + "!").public


def test_the_keys_do_not_show_the_secret():
    curve = Curve(SECRET)

    assert SECRET.encode() not in z85.decode(curve.secret)
    assert curve.secret != curve.public


def test_the_clusters_key_is_let_in(door):
    doorman, curve, ask = door

    assert [b"", b"1.0", b"7", b"200", b"OK", b"member", b""] == ask(*question(curve))
    assert 0 == doorman.refused


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(32)},
        {"key": b""},
        {"mechanism": b"NULL"},
        {"mechanism": b"PLAIN"},
        {"domain": b"global"},
        {"domain": b""},
    ],
)
def test_everything_else_is_not(door, changes):
    doorman, curve, ask = door
    answer = ask(*question(curve, **changes))

    assert [b"", b"1.0", b"7", b"400", b"unknown key", b"", b""] == answer
    assert 1 == doorman.refused


@pytest.mark.parametrize("length", [2, 6, 8])
def test_a_question_of_another_length_is_not_let_in(door, length):
    doorman, curve, ask = door
    answer = ask(*[*question(curve), b"more"][:length])

    assert b"400" == answer[3]
    assert 1 == doorman.refused


def test_several_questions_are_answered_at_once(context):
    curve = Curve(SECRET)
    doorman = Doorman(context, curve)
    asker = context.socket(zmq.DEALER)
    asker.connect(ZAP_ENDPOINT)
    for number in (b"1", b"2", b"3"):
        asker.send_multipart([b"", *question(curve, request=number)])
    doorman.socket.poll(1000)
    doorman.answer()
    answers = [asker.recv_multipart() for _ in range(3)]
    doorman.socket.close(0)
    asker.close(0)

    assert [b"1", b"2", b"3"] == [answer[2] for answer in answers]


def test_where_nobody_looks_at_the_keys_nobody_gets_in(context):
    """libzmq lets everybody in where there is no handler, unless told not to."""
    curve = Curve(SECRET)
    listener, link = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    curve.guard(listener)
    curve.unlock(link)
    watch = listener.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )
    port = listener.bind_to_random_port("tcp://127.0.0.1")
    link.connect(f"tcp://127.0.0.1:{port}")
    watched = recv_monitor_message(watch) if watch.poll(5000) else {}
    listener.disable_monitor()
    for each in (watch, listener, link):
        each.close(0)

    assert zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL == watched.get("event")
