"""Messages to a webhook, sent by a real server to a real receiver that fails, hangs, redirects and lies."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Place
from tests.integration.test_live_updates import record
from tests.receiver import SECRET, Receiver, answers, writes

README = Path(__file__).resolve().parents[2] / "README.md"
OK, FAILED, CONFIGURATION = 0, 1, 2
GARBAGE = b"\x00\x01 this is no HTTP \xff\r\n\r\n"
TWICE = b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def a_place(folder: Path, receiver: Receiver, *, timeout_seconds: int = 30) -> Place:
    """Where nothing hangs nobody gives up on an answer, however busy the machine is."""
    return Place(
        folder,
        WEBHOOKS__URL=receiver.url,
        WEBHOOKS__SECRET=SECRET,
        WEBHOOKS__TIMEOUT_SECONDS=str(timeout_seconds),
    )


def messages(place: Place) -> list[dict[str, Any]]:
    """What was not received, as the operator sees it."""
    done = place.run("webhook", "send", "--list", "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["messages"]
    return found


async def test_an_alert_and_a_change_of_plan_arrive_signed(tmp_path: Path) -> None:
    receiver = Receiver(answers(204))
    place = a_place(tmp_path, receiver)
    with receiver.listening(), place.serving() as server:
        await record(place, server, "bob", 40)
        came = receiver.next()
        assert came.said is not None, "the signature is wrong"
        assert came.said["type"] == "alert.created"
        data = came.said["data"]
        assert came.id != f"msg_{data['alert_id']}" and came.id.startswith("msg_")
        assert (data["tenant_id"], data["account_id"], data["user_id"]) == ("acme", "bob", "bob")
        assert (data["threshold_percent"], data["severity"], data["used"], data["limit"]) == (
            80,
            "info",
            40,
            50,
        )
        assert data["message"] == "Basic plan: 40 of 50 messages used today; 80 % is reached."
        assert came.headers["content-type"] == "application/json"
        async with server.api(place.token("bob")) as bob:
            offered = (await bob.call("upgrade_tier", plan="advanced")).json()["result"]
            await bob.call("upgrade_tier", plan="advanced", confirmation=offered["confirmation"])
        changed = receiver.next()
        assert changed.said is not None and changed.said["type"] == "subscription.changed"
        data = changed.said["data"]
        assert (data["account_id"], data["action"]) == ("bob", "subscription.change")
        assert (data["before"]["plan"], data["after"]["plan"]) == ("basic", "advanced")
    assert receiver.is_empty
    assert messages(place) == []
    assert place.run("verify").returncode == OK


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (answers(500), "http_500"),
        (answers(410), "http_410"),
        (answers(307, location="http://127.0.0.1:9/elsewhere"), "redirected"),
        (writes(GARBAGE), "connection_broken"),
        (writes(b""), "connection_broken"),
        (writes(TWICE), "http_500"),
    ],
    ids=["500", "410", "redirect", "garbage", "nothing", "twice"],
)
async def test_what_was_not_received_is_sent_again_under_the_same_id(
    tmp_path: Path, bad: Any, code: str
) -> None:
    receiver = Receiver(bad, answers(200))
    place = a_place(tmp_path, receiver, timeout_seconds=1)
    with receiver.listening(), place.serving() as server:
        await record(place, server, "bob", 40)
        first, second = receiver.next(), receiver.next()
        assert first.id == second.id and first.said == second.said
        assert (first.path, second.path) == ("/hook", "/hook")
        assert f"failed at attempt 1: {code}\n" in server.log or f"attempt 1: {code}" in server.log
    assert receiver.is_empty


async def test_a_receiver_that_hangs_holds_up_nothing_but_its_message(tmp_path: Path) -> None:
    receiver = Receiver(answers(200))
    receiver._reactions.insert(0, receiver.hang)
    place = a_place(tmp_path, receiver, timeout_seconds=1)
    with receiver.listening(), place.serving() as server:
        await record(place, server, "bob", 40)
        hung = receiver.next()
        await record(place, server, "eve", 40)  # answered while the first one hangs
        others = [receiver.next(), receiver.next()]
        assert {one.id for one in others} > {hung.id}
        receiver.let_go.set()
        server.wait_for_log("attempt 1: timeout")
    assert messages(place) == []


async def test_a_server_killed_between_sending_and_noting_it_sends_it_again(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(request: BaseHTTPRequestHandler) -> None:
        os.kill(killed[0], signal.SIGKILL)

    receiver = Receiver(kill, answers(200))
    place = a_place(tmp_path, receiver, timeout_seconds=1)
    with receiver.listening():
        with place.serving() as server:
            killed.append(server.process.pid)
            await record(place, server, "bob", 40)
            first = receiver.next()
            server.process.wait()
        ((state, attempts),) = place.select("SELECT state, attempts FROM delivery")
        assert (state, attempts) == ("pending", 1)
        with place.serving():
            again = receiver.next()
    assert again.id == first.id and again.said == first.said is not None
    assert receiver.is_empty
    assert place.select("SELECT state, attempts FROM delivery") == [("delivered", 2)]


async def test_several_servers_on_one_ledger_send_each_message_once(tmp_path: Path) -> None:
    receiver = Receiver(answers(200))
    place = a_place(tmp_path, receiver)
    with receiver.listening(), place.serving() as one, place.serving(), place.serving():
        async with one.api(place.token("app", role="service")) as app:
            events = [{"user_id": f"u{n}", "event": "message", "quantity": 40} for n in range(30)]
            await app.call("record_usage_batch", events=events)
        came = [receiver.next() for _ in range(30)]
    assert len({message.id for message in came}) == 30
    assert receiver.is_empty


async def test_what_is_dead_is_listed_and_sent_again_by_hand(tmp_path: Path) -> None:
    receiver = Receiver(answers(200))
    place = a_place(tmp_path, receiver)
    with place.serving(WEBHOOKS__URL=None, WEBHOOKS__SECRET=None) as server:
        await record(place, server, "bob", 45)  # nobody sends here
    assert [one["state"] for one in messages(place)] == ["pending", "pending"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        ids = [one["id"] for one in messages(place)]
        failed = place.run("webhook", "send", *ids, WEBHOOKS__URL=nowhere)
    assert failed.returncode == FAILED
    assert "2 messages not received." in failed.stderr and "last error unreachable" in failed.stdout
    assert place.run("webhook", "send", "--dead").stderr == "There is nothing to send.\n"
    with receiver.listening():
        done = place.run("webhook", "send", *ids)
        assert done.returncode == OK, done.stderr
        assert {receiver.next().id, receiver.next().id} == {f"msg_{id_}" for id_ in ids}
        again = place.run("webhook", "send", ids[0])  # also one that was received
        assert again.returncode == OK and receiver.next().id == f"msg_{ids[0]}"
        test = place.run("webhook", "send", "--test", "--json")
        assert test.returncode == OK
        (shown,) = json.loads(test.stdout)["messages"]
        assert (shown["event"], shown["state"]) == ("webhook.test", "delivered")
        came = receiver.next()
        assert came.said is not None and came.said["type"] == "webhook.test"
    assert messages(place) == []


def test_a_webhook_is_configured_whole_or_not_at_all(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for variables, says in (
        ({"WEBHOOKS__URL": "https://a.example/x"}, "WEBHOOKS__SECRET is required"),
        ({"WEBHOOKS__URL": "http://a.example/x", "WEBHOOKS__SECRET": SECRET}, "must begin with https://"),
        (
            {"WEBHOOKS__URL": "https://a.example/x", "WEBHOOKS__SECRET": "hunter2"},
            "must be whsec_ and 24 to 64",
        ),
        ({"WEBHOOKS__SECRET": SECRET, "WEBHOOKS__SECRET_FILE": "x"}, "are both set: keep one"),
        ({"WEBHOOKS__URL": "https://a.example/x", "WEBHOOKS__SECRET_FILE": "gone"}, "cannot be read"),
    ):
        done = place.run("webhook", "send", "--test", **variables)
        assert done.returncode == CONFIGURATION and says in done.stderr, done.stderr
        assert "hunter2" not in done.stderr
    assert place.run("webhook", "send", "--test").returncode == CONFIGURATION
    for wrong in ([], ["--test", "--dead"], ["--list", "an-id"]):
        assert place.run("webhook", "send", *wrong).returncode == CONFIGURATION


async def test_a_secret_in_a_file_and_a_second_one_beside_it_sign(tmp_path: Path) -> None:
    old = "whsec_" + "b2xkIHNlY3JldCBvZiB0aGUgdGVzdHMsIDMyIGJ5dGVzIQ=="
    (tmp_path / "secret.txt").write_text(f"{old}\n{SECRET}\n")
    receiver = Receiver(answers(200))
    place = Place(tmp_path, WEBHOOKS__URL=receiver.url, WEBHOOKS__SECRET_FILE="secret.txt")
    with receiver.listening():
        assert place.run("webhook", "send", "--test").returncode == OK
    came = receiver.next()
    assert came.said is not None and len(came.headers["webhook-signature"].split()) == 2


async def test_the_receiver_of_the_readme_takes_a_message_once_and_no_forged_one(tmp_path: Path) -> None:
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
        if "standardwebhooks" in block
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    receiver = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", code],
        env={"WEBHOOK_SECRET": SECRET, "PORT": str(port), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    place = Place(tmp_path, WEBHOOKS__URL=url, WEBHOOKS__SECRET=SECRET, WEBHOOKS__TIMEOUT_SECONDS="5")
    try:
        done = place.run("webhook", "send", "--test", "--json")
        while done.returncode and "unreachable" in done.stdout:  # it has not begun to listen yet
            (waiting, *_) = json.loads(done.stdout)["messages"]
            done = place.run("webhook", "send", waiting["id"], "--json")
        assert done.returncode == OK, done.stdout + done.stderr
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "webhook.test {}\n"
        (sent,) = json.loads(done.stdout)["messages"]
        assert place.run("webhook", "send", sent["id"]).returncode == OK
        forged = "whsec_" + "Zm9yZ2VkIHNlY3JldCwgYWxzbyAzMiBieXRlcyBsb25nIQ=="
        refused = place.run("webhook", "send", "--test", WEBHOOKS__SECRET=forged)
        assert refused.returncode == FAILED and "http_401" in refused.stdout
    finally:
        receiver.kill()
        rest, _ = receiver.communicate()
    assert rest == ""


async def test_doctor_says_how_the_webhook_stands(tmp_path: Path) -> None:
    receiver = Receiver(answers(200))
    place = a_place(tmp_path, receiver)

    def finding(**variables: str) -> dict[str, Any]:
        document = json.loads(place.run("doctor", "--json", **variables).stdout)
        (found,) = [one for one in document["findings"] if one["check"] == "webhook"]
        return dict(found)

    with place.serving(WEBHOOKS__URL=None, WEBHOOKS__SECRET=None) as server:
        await record(place, server, "bob", 40)
    assert finding()["seen"] == f"{receiver.url}, 1 secret, 1 message waiting, 0 dead"
    with closing(sqlite3.connect(place.database)) as database, database:
        database.execute("UPDATE delivery SET state = 'dead', ended_at = created_at")
    worse = finding()
    assert (worse["state"], worse["seen"]) == (
        "warn",
        f"{receiver.url}, 1 secret, 0 messages waiting, 1 dead",
    )
    with receiver.listening():
        assert place.run("webhook", "send", "--dead").returncode == OK
    assert finding()["state"] == "ok"
    assert finding(WEBHOOKS__SECRET="", WEBHOOKS__SECRET_FILE="gone")["state"] == "FAIL"
