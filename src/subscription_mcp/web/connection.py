"""One connection of the HTTP server, with the bounds an application cannot set from behind it.

uvicorn waits for ever for headers, for the rest of a body nobody reads, and for a reader that does not read;
and it answers what it cannot parse in plain text. Here each of these waits ends, and the answer is a problem
document. Always h11, whatever else is installed: one parser, judged by one set of tests.
"""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from subscription_mcp.web.problems import http_fault
from subscription_mcp.web.reading import HEADER_BYTES_MAX

HEADER_SECONDS_MAX = 10
BODY_SECONDS_MAX = 10
STALLED_SECONDS_MAX = 30

_WORDS = {
    HTTPStatus.REQUEST_TIMEOUT: f"The request was not complete within {BODY_SECONDS_MAX} seconds.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"Request line and headers are larger than {HEADER_BYTES_MAX} bytes.",
}


class Connection(H11Protocol):
    """uvicorn's, bounded in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_is_of: tuple[object, object] | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_client()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_client()
        self._await_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def _await_client(self) -> None:
        """While the client owes headers or the rest of a body, a deadline runs. It is set once for each:
        sending a byte now and then does not move it."""
        owing = self.conn.their_state
        if owing is h11.IDLE and self.timeout_keep_alive_task is not None:
            owing = h11.DONE  # between two requests; uvicorn's own timer runs
        if (owing, self.cycle) == self._deadline_is_of:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._deadline_is_of = (owing, self.cycle)
        if owing is h11.IDLE:
            self._deadline = self.loop.call_later(HEADER_SECONDS_MAX, self._headers_are_late)
        elif owing is h11.SEND_BODY:
            self._deadline = self.loop.call_later(BODY_SECONDS_MAX, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _headers_are_late(self) -> None:
        if self.conn.trailing_data[0]:
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

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]
        is_too_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if is_too_large else HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer in the application's place, and end."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = http_fault(status, _WORDS.get(status, "This is no valid HTTP request."))
            headers = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=status, headers=headers, reason=status.phrase.encode()),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
