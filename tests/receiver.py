"""A receiver of webhooks on this machine, as good or as bad as a test asks."""

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMgbG9uZyE="
WITHIN_SECONDS = 30
"""In which a message must have come."""


@dataclass(frozen=True)
class Message:
    """One request as it came: its id, what it says (None where its signature is not ours), and its headers."""

    id: str
    said: dict[str, Any] | None
    headers: dict[str, str]
    path: str


Reaction = Callable[[BaseHTTPRequestHandler], None]


def answers(status: int, **headers: str) -> Reaction:
    def react(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"content-length": "0", **headers}.items():
            request.send_header(name, value)
        request.end_headers()

    return react


def writes(text: bytes) -> Reaction:
    """Writes this to the connection and ends it, whatever HTTP says."""

    def react(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(text)
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True

    return react


class Receiver:
    """What came, in order; each message is met with the next of `reactions`, the last of them from then on."""

    def __init__(self, *reactions: Reaction) -> None:
        self._reactions = list(reactions)
        self._came: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.let_go = threading.Event()
        """Ends what hangs."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            said = Webhook(SECRET).verify(body, headers)
        except Exception:
            said = None
        reaction = self._reactions.pop(0) if len(self._reactions) > 1 else self._reactions[0]
        self._came.put(Message(headers["webhook-id"], said, headers, request.path))
        reaction(request)

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        self.let_go.wait()

    def next(self) -> Message:
        return self._came.get(timeout=WITHIN_SECONDS)

    @property
    def is_empty(self) -> bool:
        return self._came.empty()

    @contextmanager
    def listening(self) -> Iterator["Receiver"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.let_go.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()
