"""When the ledger cannot be had: the server says so, counts nothing, and comes back by itself."""

import asyncio
import ctypes
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.harness import ERAS, STOP_WITHIN_SECONDS, TODAY, Place, audit, problem_of
from tests.platforms import posix

CANNOT_REACH = 5
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE = 1
MESSAGE = {"user_id": "bella", "event": "message"}


def as_anybody() -> None:
    """Give up root's way past file modes, where the tests run as root: read-only then is read-only."""
    if os.geteuid() == 0:
        dropped = ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
        assert dropped == 0, os.strerror(ctypes.get_errno())


def a_folder(folder: Path) -> Path:
    (folder / "a-folder").mkdir()
    return folder / "a-folder"


def below_a_file(folder: Path) -> Path:
    (folder / "a-file").write_text("x")
    return folder / "a-file" / "ledger.db"


def in_a_read_only_folder(folder: Path) -> Path:
    (folder / "read-only").mkdir(mode=0o500)
    return folder / "read-only" / "ledger.db"


def a_read_only_file(folder: Path) -> Path:
    assert Place(folder, DATABASE_URL=f"sqlite:///{folder}/frozen.db").run("migrate").returncode == 0
    (folder / "frozen.db").chmod(0o400)
    return folder / "frozen.db"


def something_else(folder: Path) -> Path:
    (folder / "letter.db").write_text("Dear ledger, " * 1000)
    return folder / "letter.db"


def nowhere(folder: Path) -> Path:
    return Path("/proc/nowhere/ledger.db")


@pytest.mark.parametrize(
    "make", [a_folder, below_a_file, in_a_read_only_folder, a_read_only_file, something_else, nowhere]
)
def test_a_ledger_that_cannot_be_used_stops_the_start_with_a_sentence(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    place = Place(tmp_path, DATABASE_URL=f"sqlite:///{path}")
    for command in (("serve", "--port", "0"), ("stdio",), ("usage", "--user", "bella")):
        done = place.run(*command, before_exec=as_anybody)
        assert done.returncode == CANNOT_REACH, (command, done.stderr)
        assert done.stdout == ""
        (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert str(path) in sentence or str(path.parent) in sentence
        assert len(sentence) > len("Error: ") + len(str(path)) + 10


async def test_a_full_disk_is_unavailable_counts_nothing_and_heals(tmp_path: Path) -> None:
    resource, place = posix("resource"), Place(tmp_path, clock=TODAY)
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:
            written = 0
            for _ in range(3):
                assert (await app.call("record_usage", **MESSAGE)).status_code == 200
                written += 1
            log = tmp_path / "ledger.db-wal"
            full = max(log.stat().st_size, place.database.stat().st_size)
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
            response = await app.call("record_usage", **MESSAGE)
            while response.status_code == 200:
                written += 1
                assert written < 40, "the disk never filled up"
                response = await app.call("record_usage", **MESSAGE)
            document = problem_of(response, 503, "unavailable")
            assert document["retryable"]
            assert "nothing was counted" in document["message"]
            keyed = MESSAGE | {"idempotency_key": "during"}
            problem_of(await app.call("record_usage", **keyed), 503, "unavailable")
            assert (await app.get("/healthz")).status_code == 200
            async with server.client(place.token("app", role="service")) as over_mcp:
                refusal = await over_mcp.refusal("record_usage", **MESSAGE)
                assert (refusal["code"], refusal["retryable"]) == ("unavailable", True)
                batch = await over_mcp.call("record_usage_batch", events=[MESSAGE, MESSAGE])
                assert [result["code"] for result in batch["results"]] == ["unavailable"] * 2
            assert place.rows()["event"] == written

            resource.prlimit(
                server.process.pid,
                resource.RLIMIT_FSIZE,
                (resource.RLIM_INFINITY, resource.RLIM_INFINITY),
            )
            decision = (await app.call("record_usage", **keyed)).json()["result"]
            assert (decision["replayed"], decision["limits"][0]["used"]) == (False, written + 1)
            assert (await app.get("/readyz")).status_code == 200
    assert audit(place) == written + 1


async def test_two_servers_and_a_command_on_one_file_see_each_other(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    with place.serving() as one, place.serving() as two:
        token = place.token("app", role="service")
        async with one.api(token) as here, two.api(token) as there:
            for number in range(1, 11):
                api = here if number % 2 else there
                decision = (await api.call("record_usage", **MESSAGE)).json()["result"]
                assert decision["limits"][0]["used"] == number

            async def shown() -> int:
                done = await asyncio.to_thread(
                    place.run, "usage", "--tenant", "acme", "--user", "bella", "--json"
                )
                assert done.returncode == 0, done.stderr
                used: int = json.loads(done.stdout)["limits"][0]["used"]
                return used

            async def more(api: Any) -> None:
                for _ in range(5):
                    assert (await api.call("record_usage", **MESSAGE)).status_code == 200

            during, *_ = await asyncio.gather(shown(), more(here), more(there))
            assert 10 <= during <= 20
            assert await shown() == 20
            tier = await there.get("/api/tenants/acme/subscription?user_id=bella")
            assert tier.json()["limits"][0]["used"] == 20
    assert audit(place) == 20


async def test_a_plan_changed_in_one_process_holds_in_the_other_at_once(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    with place.serving() as server:
        async with (
            server.api(place.token("app", role="service")) as app,
            place.over_stdio(place.token("bella")) as bella,
        ):
            full = await app.call("record_usage", quantity=50, **MESSAGE)
            assert full.status_code == 200
            problem_of(await app.call("record_usage", **MESSAGE), 429, "quota_exceeded")
            await bella.buy("premium")
            decision = (await app.call("record_usage", **MESSAGE)).json()["result"]
            assert (decision["plan"], decision["limits"][0]["used"]) == ("premium", 51)


async def test_a_lock_that_is_not_given_back_is_unavailable_within_seconds(tmp_path: Path) -> None:
    """The one slow test: the bounded wait for the lock is what it is about."""
    fcntl, place = posix("fcntl"), Place(tmp_path, clock=TODAY)
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:
            assert (await app.call("record_usage", **MESSAGE)).status_code == 200
            lock = tmp_path / "ledger.db.lock"
            with lock.open("r+") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                asked = time.monotonic()
                refused, ready, checked = await asyncio.gather(
                    app.call("record_usage", **MESSAGE),
                    app.get("/readyz"),
                    app.call("check_quota", **MESSAGE),
                )
                assert time.monotonic() - asked < 15
                problem_of(refused, 503, "unavailable")
                assert ready.status_code == 503
                assert checked.json()["result"]["limits"][0]["used"] == 1  # reading needs no lock
                waiting = asyncio.create_task(app.call("record_usage", **MESSAGE))
                await app.get("/healthz")
            decision = (await waiting).json()["result"]
            assert decision["limits"][0]["used"] == 2, "the call that was given up counted"
            assert (await app.get("/readyz")).status_code == 200
    assert audit(place) == 2


async def test_sigterm_under_load_ends_cleanly_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY)
    acknowledged: set[str] = set()
    enough = asyncio.Event()
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:

            async def keep_recording(worker: int) -> None:
                for number in range(1_000):
                    key = f"{worker}-{number}"
                    try:
                        response = await app.call(
                            "record_usage", **MESSAGE, enforce=False, idempotency_key=key
                        )
                    except httpx2.TransportError:
                        return
                    assert response.status_code == 200, response.text
                    acknowledged.add(key)
                    if len(acknowledged) >= 300:
                        enough.set()

            async with server.client(place.token("bella"), "legacy") as open_stream:
                await open_stream.call("get_tier_info")
                working = asyncio.gather(*(keep_recording(worker) for worker in range(16)))
                await enough.wait()
                asked = time.monotonic()
                server.process.terminate()
                await working
                assert await asyncio.to_thread(server.ended) == 0
                assert time.monotonic() - asked < STOP_WITHIN_SECONDS
        assert "Traceback" not in server.log, server.log
    stored = {key for (key,) in place.select("SELECT key FROM answer")}
    assert acknowledged <= stored
    assert audit(place) == len(stored)


@pytest.mark.parametrize("era", ERAS)
def test_stdout_of_the_stdio_server_carries_only_json_rpc(tmp_path: Path, era: str) -> None:
    place = Place(tmp_path)
    meta: dict[str, Any] = {}
    if era == "modern":
        meta = {
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        }
    greeting = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    messages: list[dict[str, Any]] = [
        *(
            [
                {"id": 0, "method": "initialize", "params": greeting},
                {"method": "notifications/initialized"},
            ]
            if era == "legacy"
            else [{"id": 0, "method": "server/discover", "params": meta}]
        ),
        {"id": 1, "method": "tools/list", "params": meta},
        {"id": 2, "method": "tools/call", "params": {"name": "get_tier_info", "arguments": {}, **meta}},
        {"id": 3, "method": "tools/call", "params": {"name": "no_such", "arguments": {}, **meta}},
        {"id": 4, "method": "no/such", "params": meta},
        {"id": 5, "method": "tools/call", "params": {"name": "check_quota", "arguments": {"x": 1}, **meta}},
    ]
    with subprocess.Popen(
        [*place.startable(), "stdio"],
        env=place.environment(TOKEN=place.token("bella")),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = []
        for message in messages:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()
            if "id" in message:
                answers.append(json.loads(process.stdout.readline()))
        rest, log = process.communicate()
    assert process.returncode == 0, log
    assert rest == ""
    assert "Traceback" not in log
    assert [answer["jsonrpc"] for answer in answers] == ["2.0"] * 6
    assert [answer["id"] for answer in answers] == list(range(6))
    assert ["error" in answer for answer in answers] == [False, False, False, True, True, False]
