"""CURVE for a whole cluster from one shared secret, and the handler that enforces it.

The secret is stretched into one key pair that every node uses at both ends, so whoever
knows the secret is a member and nobody else gets past the handshake. ZeroMQ asks a ZAP
handler about each client key. Without one it *accepts* (libzmq 4.3.5, unless
ZAP_ENFORCE_DOMAIN is set), so the domain is enforced and the handler answers from the
node's own poll loop: one per context, gone when the node is gone.
"""

from __future__ import annotations

from typing import Final, final

import zmq
from zmq.utils import z85

__all__ = ["Curve", "Doorman"]

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
ZAP_DOMAIN: Final = b"meshcache"
_PERSON: Final = b"meshcache-curve1"
_REQUEST_PARTS: Final = 7


@final
class Curve:
    """The cluster's key pair. Thread-safe."""

    __slots__ = ("public", "secret")

    def __init__(self, secret: str) -> None:
        # It loads OpenSSL: megabytes that a node without a secret has no use for.
        from hashlib import blake2b  # noqa: PLC0415

        seed = blake2b(secret.encode(), digest_size=32, person=_PERSON).digest()
        self.secret: bytes = z85.encode(seed)
        self.public: bytes = zmq.curve_public(self.secret)

    def guard(self, listener: zmq.Socket[bytes]) -> None:
        """Let only holders of the key connect to *listener*. Before it is bound."""
        listener.setsockopt(zmq.CURVE_SERVER, 1)
        listener.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        listener.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        listener.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def unlock(self, link: zmq.Socket[bytes]) -> None:
        """Let *link* connect to guarded listeners. Before it is connected."""
        link.setsockopt(zmq.CURVE_SERVERKEY, self.public)
        link.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        link.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


@final
class Doorman:
    """The ZAP handler (ZeroMQ RFC 27). Confined to the driver thread."""

    __slots__ = ("_public", "refused", "socket")

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], curve: Curve) -> None:
        self._public = z85.decode(curve.public)
        self.refused = 0
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ZAP_ENDPOINT)

    def answer(self) -> None:
        """Answer every question that waits."""
        while True:
            try:
                envelope, question = _split(self.socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            version, request_id = question[0], question[1]
            allowed = (
                len(question) == _REQUEST_PARTS
                and question[2] == ZAP_DOMAIN
                and question[5] == b"CURVE"
                and question[6] == self._public
            )
            self.refused += not allowed
            verdict = (b"200", b"OK") if allowed else (b"400", b"unknown key")
            answer = [version, request_id, *verdict, b"member" if allowed else b"", b""]
            self.socket.send_multipart([*envelope, b"", *answer], zmq.NOBLOCK)


def _split(parts: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the envelope before the empty delimiter, and the question after it."""
    at = parts.index(b"")
    return parts[:at], parts[at + 1 :]
