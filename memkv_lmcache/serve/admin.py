# SPDX-License-Identifier: Apache-2.0
"""The server's HTTP for operators: health, readiness, status and metrics.

Reads counters and nothing else, so that it can never hold up the data path.  It is
bounded itself: a few connections at once, and none for longer than some seconds.  It
has no authentication and is therefore on loopback unless told otherwise.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from memkv_lmcache.errors import Status, error_for

_MAX_CONNECTIONS = 16
_MAX_AGE_S = 10.0
_POLL_S = 0.5
_JOIN_S = 2.0

HEALTHY, DEGRADED, UNHEALTHY = "healthy", "degraded", "unhealthy"


class Health(NamedTuple):
    """``status`` is one of the three words above, ``reason`` why it is not the first.

    ``ready``: may clients be sent here?
    """

    status: str
    ready: bool
    reason: str = ""


class Pages(NamedTuple):
    """What the pages show, asked anew for each request."""

    health: Callable[[], Health]
    status: Callable[[], Mapping[str, Any]]
    metrics: Callable[[], bytes]


class _Reply(NamedTuple):
    code: HTTPStatus
    kind: str
    body: bytes


def answer(pages: Pages, path: str) -> _Reply:
    """The page at ``path``."""
    if path == "/v1/health":
        health = pages.health()
        fine = health.status != UNHEALTHY
        return _json({"status": health.status, "reason": health.reason}, fine)
    if path == "/v1/ready":
        health = pages.health()
        return _json({"ready": health.ready, "reason": health.reason}, health.ready)
    if path == "/v1/status":
        return _json(pages.status())
    if path == "/v1/metrics":
        return _Reply(HTTPStatus.OK, CONTENT_TYPE_LATEST, pages.metrics())
    pages_there = "/v1/health /v1/ready /v1/status /v1/metrics"
    missing = {"error": f"no such page; there are {pages_there}"}
    return _json(missing)._replace(code=HTTPStatus.NOT_FOUND)


def _json(value: Mapping[str, Any], fine: bool = True) -> _Reply:
    code = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
    return _Reply(code, "application/json", json.dumps(value).encode() + b"\n")


class Admin:
    """Listens from the constructor on; :meth:`close` ends it.

    MemKVError with the status SYSTEM: the address cannot be bound.
    """

    def __init__(self, address: str, pages: Pages) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server(host.strip("[]"), int(port), pages)
        except OSError as error:
            text = f"admin address {address}: {error.strerror or error}"
            raise error_for(Status.SYSTEM, text) from None
        self.address = f"{host}:{self._server.server_port}"
        """With its real port."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="memkv-admin"
        )
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        """Closes it and what is connected to it; waits for nobody."""
        self._server.shutdown()
        self._server.cut(older_than=0)
        self._server.server_close()
        self._thread.join(_JOIN_S)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self.pages = pages
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}
        [info] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:1]
        self.address_family = info[0]
        super().__init__((host, port), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            if len(self._since) >= _MAX_CONNECTIONS:
                return False
            self._since[request] = time.monotonic()
            return True

    def service_actions(self) -> None:
        self.cut(older_than=_MAX_AGE_S)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def cut(self, older_than: float) -> None:
        """Ends connections of that age, in seconds, whatever they are doing."""
        latest = time.monotonic() - older_than
        with self._lock:
            for request, since in self._since.items():
                if since <= latest:
                    _shut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that hangs up is no event."""


def _shut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it hung up first
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "memkv"
    sys_version = ""

    def do_GET(self) -> None:
        reply = answer(self.server.pages, self.path.partition("?")[0])
        self.send_response(reply.code)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: probes come every few seconds."""
