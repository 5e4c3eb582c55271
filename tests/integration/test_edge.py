"""The edge: what is refused before anything is asked, byte by byte, and how long a slow client is waited for."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.harness import TODAY, Place, Server, discreet

IMPATIENT = (sys.executable, str(Path(__file__).with_name("impatient_server.py")))
CALL = "/api/mcp/tools/record_usage"
ARGUMENTS = {"user_id": "bella", "event": "message"}
GIVE_UP_SECONDS = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("edge"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Place(tmp_path_factory.mktemp("impatient"), clock=TODAY, command=IMPATIENT).serving() as server:
        yield server


class Wire:
    """A connection on which every byte is ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, server: Server, *, limit: int = 2**16) -> "Wire":
        host, port = server.base_url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=limit))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and document of the next answer."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers["content-length"]))
        discreet(head + body.decode())
        return int(first.split()[1]), headers, json.loads(body)

    async def refused(self, status: int) -> dict[str, str]:
        """The headers of an answer that is a problem document of this status."""
        found, headers, document = await self.answer()
        assert found == status, document
        assert headers["content-type"] == "application/problem+json"
        assert (document["status"], document["code"]) == (status, "invalid_request")
        assert document["detail"] == document["message"]
        return headers

    async def ended(self) -> bytes:
        """What else came before the other side closed."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


def head(path: str, *headers: str, method: str = "POST", host: str = "Host: 127.0.0.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", host, *headers, "", ""]).encode()


def authorized(server: Server) -> str:
    return f"Authorization: Bearer {server.place.token('app', role='service')}"


def call(path: str) -> dict[str, Any]:
    if path == CALL:
        return {"arguments": ARGUMENTS}
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "record_usage", "arguments": ARGUMENTS},
    }


def with_more(path: str, extra: str) -> bytes:
    """A call with one more member at its end."""
    return (json.dumps(call(path))[:-1] + ", " + extra + "}").encode()


JSON = "Content-Type: application/json"
BODIES = {
    "nested 33 deep": (JSON, lambda path: with_more(path, '"x": ' + "[" * 32 + "]" * 32), 400),
    "a key twice": (JSON, lambda path: with_more(path, '"x": {"a": 1, "a": 2}'), 400),
    "a key twice at the top": (JSON, lambda path: with_more(path, json.dumps(call(path))[1:-1]), 400),
    "NaN": (JSON, lambda path: with_more(path, '"x": NaN'), 400),
    "UTF-16": (JSON, lambda path: json.dumps(call(path)).encode("utf-16"), 400),
    "UTF-8 with a mark": (JSON, lambda path: b"\xef\xbb\xbf" + json.dumps(call(path)).encode(), 400),
    "another charset": (f"{JSON}; charset=utf-16", lambda path: json.dumps(call(path)).encode("utf-16"), 415),
    "a lookalike": ("Content-Type: application/jsonp", lambda path: json.dumps(call(path)).encode(), 415),
    "text": ("Content-Type: text/plain", lambda path: json.dumps(call(path)).encode(), 415),
    "no type": ("X-Nothing: 1", lambda path: json.dumps(call(path)).encode(), 415),
    "packed": (f"{JSON}\r\nContent-Encoding: gzip", lambda path: json.dumps(call(path)).encode(), 415),
    "two types": (f"{JSON}\r\n{JSON}", lambda path: json.dumps(call(path)).encode(), 400),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("path", [CALL, "/mcp"])
async def test_a_body_that_could_mean_two_things_is_refused_alike(
    place: Place, server: Server, path: str, kind: str
) -> None:
    header, make, status = BODIES[kind]
    before = place.rows()
    body = make(path)
    wire = await Wire.to(server)
    accept = "Accept: application/json, text/event-stream"
    await wire.send(head(path, authorized(server), header, accept, f"Content-Length: {len(body)}") + body)
    await wire.refused(status)
    wire.close()
    assert place.rows() == before


async def test_utf_8_by_name_is_taken_and_the_body_may_come_in_pieces(server: Server) -> None:
    body = json.dumps(call(CALL)).encode()
    wire = await Wire.to(server)
    await wire.send(head(CALL, authorized(server), f'{JSON}; charset="UTF-8"', "Transfer-Encoding: chunked"))
    for number in range(len(body)):
        await wire.send(b"1\r\n" + body[number : number + 1] + b"\r\n")
    await wire.send(b"0\r\n\r\n")
    status, _, document = await wire.answer()
    assert (status, document["result"]["code"]) == (200, "ok")
    wire.close()


REQUESTS = {
    "no http": (lambda: b"GIVE ME / PLEASE\r\n\r\n", 400),
    "no host": (lambda: b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (lambda: head("/healthz", "Host: 127.0.0.1", method="GET"), 400),
    "another host": (lambda: head("/healthz", method="GET", host="Host: 127.0.0.1:80.evil.example"), 421),
    "two lengths": (lambda: head(CALL, "Content-Length: 1", "Content-Length: 2") + b"{}", 400),
    "two types": (lambda: head("/healthz", JSON, JSON, method="GET"), 400),
    "length and chunks": (
        lambda: head(CALL, "Content-Length: 2", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        400,
    ),
    "unknown coding": (lambda: head(CALL, "Transfer-Encoding: gzip, chunked"), 400),
    "another coding in chunks": (
        lambda: head(CALL, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"),
        400,
    ),
    "a line folded": (lambda: head("/healthz", "X-Long: a\r\n b", method="GET"), 400),
    "a space before the colon": (lambda: head("/healthz", "Content-Length : 0", method="GET"), 400),
    "lines without a return": (lambda: head("/healthz", method="GET").replace(b"\r", b""), 400),
    "an address as target": (lambda: head("http://127.0.0.1/healthz", method="GET"), 400),
    "a tunnel": (lambda: head("127.0.0.1:80", method="CONNECT"), 400),
    "headers of 20 KB": (lambda: head("/healthz", "X-Big: " + "x" * 20_000, method="GET"), 431),
    "path of 20 KB": (lambda: head("/" + "x" * 20_000, method="GET"), 431),
    "5 MB announced": (lambda: head(CALL, "Content-Length: 5000000"), 413),
    "no end of it announced": (lambda: head(CALL, "Content-Length: " + "9" * 19), 413),
}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_that_is_none_is_refused_with_a_problem_document(server: Server, kind: str) -> None:
    make, status = REQUESTS[kind]
    wire = await Wire.to(server)
    await wire.send(make())
    await wire.refused(status)
    wire.close()


async def test_headers_without_end_are_refused_while_they_come(server: Server) -> None:
    wire = await Wire.to(server)
    await wire.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    for number in range(17):
        await wire.send(f"X-{number}: {'x' * 1_000}\r\n".encode())
    await wire.refused(431)
    wire.close()


@pytest.mark.parametrize(
    "start", [b"1;ignored=", b"1\r\n{\r\n0\r\nX-Trailer: "], ids=["extension", "trailer"]
)
async def test_what_is_no_part_of_a_body_does_not_go_on_for_ever(server: Server, start: bytes) -> None:
    wire = await Wire.to(server)
    await wire.send(head(CALL, authorized(server), JSON, "Transfer-Encoding: chunked") + start)

    async def go_on() -> None:
        while True:
            await wire.send(b"x" * 1_000)
            await asyncio.sleep(0.05)

    going_on = asyncio.create_task(go_on())
    await wire.refused(431)
    going_on.cancel()
    wire.close()


async def test_a_trailer_is_no_header(server: Server) -> None:
    body = json.dumps(call(CALL)).encode()
    chunks = b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(body), body, authorized(server).encode())
    wire = await Wire.to(server)
    await wire.send(head(CALL, JSON, "Transfer-Encoding: chunked") + chunks)
    assert (await wire.answer())[0] == 401
    await wire.send(head(CALL, authorized(server), JSON, "Transfer-Encoding: chunked") + chunks)
    assert (await wire.answer())[0] == 200
    wire.close()


async def test_an_offer_of_another_protocol_is_declined_and_the_request_answered(server: Server) -> None:
    """As Java's client makes with its first request of all, body included."""
    body = json.dumps(call(CALL)).encode()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
    request = head(CALL, authorized(server), JSON, *offer, f"Content-Length: {len(body)}") + body
    for cut in (len(request), len(request) - len(body), len(request) - 1):
        wire = await Wire.to(server)
        await wire.send(request[:cut])
        await wire.send(request[cut:] + head("/healthz", method="GET"))
        status, _, document = await wire.answer()
        assert (status, document["result"]["code"]) == (200, "ok")
        assert (await wire.answer())[2] == {"status": "ok"}
        wire.close()


async def test_space_around_a_value_is_no_part_of_it(server: Server) -> None:
    wire = await Wire.to(server)
    await wire.send(head("/healthz", method="GET", host="Host: \t127.0.0.1 \t"))
    assert (await wire.answer())[0] == 200
    wire.close()


async def test_a_head_alone_is_sent_without_waiting_for_more(server: Server) -> None:
    wire = await Wire.to(server)
    await wire.send(head("/healthz", method="HEAD"))
    async with asyncio.timeout(GIVE_UP_SECONDS):
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    await wire.send(head("/healthz", method="GET"))  # and the connection goes on
    assert (await wire.answer())[0] == 200
    wire.close()


async def test_requests_sent_ahead_are_answered_in_their_order(server: Server) -> None:
    body = json.dumps(call(CALL)).encode()
    asked = head(CALL, authorized(server), JSON, f"Content-Length: {len(body)}") + body
    wire = await Wire.to(server)
    await wire.send(
        asked + head("/healthz", method="GET") + asked + head(CALL, JSON, "Content-Length: 2") + b"{}"
    )
    assert [(await wire.answer())[0] for _ in range(4)] == [200, 200, 200, 401]
    wire.close()


async def test_who_is_answered_is_not_answered_for_what_follows(server: Server) -> None:
    """What comes after a whole request may be nonsense; the answer that is under way is still to the request."""
    body = json.dumps(call(CALL)).encode()
    wire = await Wire.to(server)
    await wire.send(
        head(CALL, authorized(server), JSON, f"Content-Length: {len(body)}") + body + b"\x16\x03 x"
    )
    status, headers, document = await wire.answer()
    assert (status, headers["connection"], document["result"]["code"]) == (200, "close", "ok")
    assert await wire.ended() == b""
    wire.close()


async def test_a_body_that_grows_past_the_bound_is_refused(server: Server) -> None:
    wire = await Wire.to(server)
    await wire.send(head("/mcp", authorized(server), JSON, "Transfer-Encoding: chunked"))
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    for _ in range(5):
        await wire.send(piece)
    await wire.refused(413)
    wire.close()


async def test_who_has_no_token_is_refused_before_a_body_is_read(server: Server) -> None:
    wire = await Wire.to(server)
    await wire.send(head(CALL, JSON, "Content-Length: 1000"))
    status, _, document = await wire.answer()
    assert (status, document["code"]) == (401, "unauthenticated")
    wire.close()


# Slow clients


async def test_headers_that_do_not_end_are_waited_for_only_so_long(impatient: Server) -> None:
    wire = await Wire.to(impatient)
    await wire.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    await wire.refused(408)
    assert await wire.ended() == b""
    wire.close()


async def test_a_byte_now_and_then_buys_no_time(impatient: Server) -> None:
    """Headers first, then, on another connection, a body."""
    for request, byte in (
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", b"x"),
        (head(CALL, authorized(impatient), JSON, "Content-Length: 1000"), b" "),
        (head("/mcp", authorized(impatient), JSON, "Content-Length: 1000"), b" "),
    ):
        wire = await Wire.to(impatient)

        async def trickle(wire: Wire = wire, request: bytes = request, byte: bytes = byte) -> None:
            await wire.send(request)
            while True:
                await wire.send(byte)
                await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        headers = await wire.refused(408)
        assert headers["connection"] == "close"
        trickling.cancel()
        wire.close()


async def test_a_connection_that_says_nothing_is_closed(impatient: Server) -> None:
    wire = await Wire.to(impatient)
    assert await wire.ended() == b""
    wire.close()


async def test_the_rest_of_a_body_nobody_wants_is_read_only_so_long(impatient: Server) -> None:
    wire = await Wire.to(impatient)
    await wire.send(head(CALL, JSON, "Content-Length: 1000"))
    assert (await wire.answer())[0] == 401

    async def trickle() -> None:
        while True:
            await wire.send(b" ")
            await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    with suppress(ConnectionResetError):  # it closed while a byte was under way
        assert await wire.ended() == b""
    trickling.cancel()
    wire.close()


async def test_who_does_not_read_is_let_go(impatient: Server) -> None:
    """The answers it asked for would fill our memory; how much of them is made is bounded, and for how long."""
    sockets = held_by(impatient)
    wire = await Wire.to(impatient, limit=1024)
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    wire.writer.write(head("/openapi.json", method="GET") * 400)
    await until(lambda: held_by(impatient) == sockets + 1)
    await until(lambda: held_by(impatient) == sockets)
    wire.close()


async def test_a_slow_client_disturbs_nobody(impatient: Server) -> None:
    request = head(CALL, authorized(impatient), JSON, "Content-Length: 1000")
    wires = [await Wire.to(impatient) for _ in range(50)]
    for wire in wires:
        await wire.send(request)
    async with impatient.api(impatient.place.token("bella")) as bella:
        assert (await bella.call("get_tier_info")).status_code == 200
    for wire in wires:
        await wire.refused(408)
        wire.close()


def held_by(server: Server) -> int:
    """How many sockets the server holds."""
    links = Path(f"/proc/{server.process.pid}/fd")
    return sum(1 for link in links.iterdir() if str(link.readlink()).startswith("socket:"))


async def until(condition: Any) -> None:
    async with asyncio.timeout(GIVE_UP_SECONDS):
        while not condition():  # noqa: ASYNC110 (another process is looked at)
            await asyncio.sleep(0.02)
