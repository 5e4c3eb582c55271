"""One connection of the HTTP server, with the bounds an application cannot set from behind it.

uvicorn waits for ever for headers, for the rest of a body nobody reads, and for a reader that does not read; it takes
headers of any size, and a trailer for one of them; and it answers what it cannot parse in plain text. Here each of
these waits ends, and the answer is a problem document. Always httptools, whatever else is installed: one parser,
judged by one set of tests.
"""

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from subscription_mcp.web.problems import http_fault
from subscription_mcp.web.reading import HEADER_BYTES_MAX

HEADER_SECONDS_MAX = 10
BODY_SECONDS_MAX = 10
STALLED_SECONDS_MAX = 30

_WORDS = {
    HTTPStatus.REQUEST_TIMEOUT: f"The request was not complete within {BODY_SECONDS_MAX} seconds.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"Request line and headers are larger than {HEADER_BYTES_MAX} bytes.",
}


class Part(Enum):
    """What of a request comes next."""

    HEAD = "head"
    BODY = "body"


class AtOnce(asyncio.Transport):
    """A transport that sends an answer's head together with what follows at once. Alone, each would be a system
    call, a packet that wakes the client, and a chance for another thread to take the interpreter."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self._held:
            self._transport.write(self._held + data)
            self._held = b""
        else:
            self._held = data
            self._loop.call_soon(self._let_go)

    def _let_go(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + len(self._held)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class Connection(HttpToolsProtocol):
    """uvicorn's, bounded in time and size."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._next = Part.HEAD
        self._unfinished_bytes = 0
        """How much came since the last thing that was whole: a head, a piece of a body."""
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_is_of: tuple[object, object] | None = None
        self._stalled: asyncio.TimerHandle | None = None

    # What the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(AtOnce(transport, self.loop))
        self._await_client()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._unfinished_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)
        else:
            if self._unfinished_bytes > HEADER_BYTES_MAX:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    # What the parser finds

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._next is Part.HEAD:  # else it is a trailer, which nobody would have judged
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        self._unfinished_bytes = 0
        if self.parser.should_upgrade():
            return
        if not self.url.startswith(b"/"):
            raise ValueError("a target that is no path")
        super().on_headers_complete()
        self._next = Part.BODY

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished_bytes = 0
        if self._next is Part.BODY:
            super().on_message_complete()
            self._next = Part.HEAD

    def _decline_upgrade(self, rest: bytes) -> None:
        """Take the request as if it offered no other protocol, as RFC 9110 allows: what follows it is then its body.
        The parser would have left it out."""
        if self.parser.get_method() == b"CONNECT":
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    # What uvicorn tells

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_client()
        self._await_reader()

    # How long is waited, and what then

    def _await_client(self) -> None:
        """While the client owes headers or the rest of a body, a deadline runs. It is set once for each:
        sending a byte now and then does not move it."""
        owing = (self._owed(), self.cycle)
        if owing == self._deadline_is_of:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._deadline_is_of = owing
        if owing[0] is Part.HEAD:
            self._deadline = self.loop.call_later(HEADER_SECONDS_MAX, self._head_is_late)
        elif owing[0] is Part.BODY:
            self._deadline = self.loop.call_later(BODY_SECONDS_MAX, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _owed(self) -> Part | None:
        if self.pipeline:
            return None  # whoever asks more before it is answered waits for us
        if self._next is Part.BODY:
            return Part.BODY
        if self.timeout_keep_alive_task is not None or self._is_answering():
            return None  # between two requests uvicorn's own timer runs
        return Part.HEAD

    def _is_answering(self) -> bool:
        """Whether a request that came whole is still being answered."""
        return self._next is Part.HEAD and self.cycle is not None and not self.cycle.response_complete

    def _head_is_late(self) -> None:
        if self._unfinished_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _await_reader(self) -> None:
        """Give up on a client that takes nothing of its answer for a while."""
        waiting = self.transport.get_write_buffer_size()
        if self._stalled is None and waiting:
            self._stalled = self.loop.call_later(STALLED_SECONDS_MAX, self._look_at_reader, waiting)

    def _look_at_reader(self, waiting_before: int) -> None:
        self._stalled = None
        if self.transport.get_write_buffer_size() >= waiting_before:
            self.transport.abort()
        else:
            self._await_reader()

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer in the application's place, and end."""
        cycle = self.cycle
        if self._is_answering():
            cycle.keep_alive = False  # ends once it has its answer, which no other may overtake
            return
        may_answer = self._next is Part.HEAD or not (cycle.response_started or self.pipeline)
        if self._next is Part.BODY:
            cycle.disconnected = True
            cycle.message_event.set()
        if may_answer:
            answer = http_fault(status, _WORDS.get(status, "This is no valid HTTP request."))
            headers = [b"%b: %b\r\n" % header for header in answer.raw_headers]
            self.transport.write(
                b"".join([STATUS_LINE[status], *headers, b"connection: close\r\n\r\n", answer.body])
            )
        self.transport.close()
