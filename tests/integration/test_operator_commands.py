"""`limits`, `plans` and `events tail`: the ledger as its operator sees it on the command line."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.harness import TODAY, Place

OK, FAILED, CONFIGURATION, CANNOT_REACH = 0, 1, 2, 5
BELLA = ("--tenant", "acme", "--user", "bella")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, clock=TODAY)


def data(place: Place, *arguments: str) -> dict[str, Any]:
    done = place.run(*arguments, "--json")
    assert done.returncode == OK, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def daily(limits: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [limit for limit in limits if (limit["meter"], limit["window"]) == ("messages", "day")]
    return found


# Limits


async def test_a_limit_is_set_and_cleared_and_both_are_remembered(place: Place) -> None:
    await record(place, "bella")
    assert daily(data(place, "limits", "list", *BELLA)["limits"])["limit"] == 50
    which = ("--meter", "messages", "--window", "day")
    changed = data(place, "limits", "set", *BELLA, *which, "--limit", "7", "--reason", "a pilot")
    assert (daily(changed["limits_before"])["limit"], daily(changed["limits_after"])["limit"]) == (50, 7)
    unlimited = data(place, "limits", "set", *BELLA, *which, "--limit", "unlimited", "--reason", "a friend")
    assert daily(unlimited["limits_after"])["limit"] is None
    cleared = data(place, "limits", "clear", *BELLA, *which, "--reason", "over")
    assert daily(cleared["limits_after"])["limit"] == 50
    history = data(place, "limits", "history", *BELLA)["history"]
    assert [entry["reason"] for entry in history] == ["over", "a friend", "a pilot"]
    assert {entry["actor"] for entry in history} == {"local-operator"}
    words = place.run("limits", "history", *BELLA).stdout
    assert "a pilot" in words and "local-operator" in words
    assert "1 of 50 used today" in place.run("limits", "list", *BELLA).stdout


async def test_a_limit_with_an_end_is_set_and_one_of_nobody_is_not(place: Place) -> None:
    await record(place, "bella")
    which = ("--meter", "messages", "--window", "day", "--limit", "7", "--reason", "a pilot")
    data(place, "limits", "set", *BELLA, *which, "--expires-at", "2026-12-01T00:00:00Z")
    never = place.run("limits", "set", *BELLA, *which, "--expires-at", "yesterday")
    assert never.returncode == CONFIGURATION
    for words in ("set", "--limit", "7"), ("grant", "--quantity", "7"):
        until = data(
            place,
            "limits",
            words[0],
            *BELLA,
            *which[:4],
            *words[1:],
            "--reason",
            "2026",
            "--expires-at",
            "2027-01-01",
        )
        assert until["history"][0]["after"]["expires_at"] == "2027-01-01T00:00:00Z"
    mistyped = place.run("limits", "set", *BELLA, "--meter", "mesages", *which[2:])
    assert mistyped.returncode == CONFIGURATION
    nobody = place.run("limits", "set", "--user", "nobody", *which)
    assert (nobody.returncode, "No such account yet" in nobody.stderr) == (FAILED, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("limits", "list"),
        ("limits", "list", "--user", "a b"),
        ("limits", "set", *BELLA, "--meter", "messages", "--window", "day", "--limit", "7"),
        ("limits", "set", *BELLA, "--meter", "messages", "--window", "day", "--limit", "-7", "--reason", "x"),
        ("limits", "clear", *BELLA, "--meter", "messages", "--window", "day"),
        ("plans", "show", "gold"),
        ("events", "tail", "--lines", "-1"),
    ],
)
def test_a_wrong_use_is_2_with_a_sentence(place: Place, arguments: tuple[str, ...]) -> None:
    done = place.run(*arguments)
    assert (done.returncode, done.stdout) == (CONFIGURATION, ""), done
    assert "Error: " in done.stderr


def test_a_ledger_that_cannot_be_opened_is_5(place: Place) -> None:
    (place.folder / "a-folder").mkdir()
    for command in (("limits", "list", *BELLA), ("plans", "list"), ("events", "tail")):
        done = place.run(*command, DATABASE_URL=f"sqlite:///{place.folder / 'a-folder'}")
        assert (done.returncode, done.stdout) == (CANNOT_REACH, "")


# Plans


async def test_plans_are_listed_shown_and_counted_by_version(place: Place) -> None:
    listed = data(place, "plans", "list")["plans"]
    assert [plan["plan"] for plan in listed] == ["basic", "advanced", "premium"]
    assert place.run("plans", "list").stdout.startswith("Basic (basic): free")
    assert data(place, "plans", "show", "advanced") == listed[1]
    shown = place.run("plans", "show", "advanced").stdout
    assert "29.00 USD monthly" in shown and "200 messages per day" in shown
    assert data(place, "plans", "holders")["holders"] == []
    assert "Nobody" in place.run("plans", "holders").stdout
    await record(place, "bella")
    assert data(place, "plans", "holders")["holders"] == [
        {"plan": "basic", "version": 1, "accounts": 1, "is_current": True}
    ]
    assert place.run("plans", "holders").stdout.split() == ["basic", "version", "1", "1", "account"]


# Events


async def record(place: Place, *users: str) -> None:
    async with place.over_stdio(place.token("app", role="service")) as app:
        for user in users:
            assert (await app.call("record_usage", user_id=user, event="message"))["allowed"]


async def test_the_newest_events_are_shown_and_narrowed_down(place: Place) -> None:
    assert place.run("events", "tail", "--tenant", "acme").returncode == CANNOT_REACH  # no ledger yet
    assert not place.database.exists()
    await record(place, "bella", "adam", "bella", "adam", "bella")
    everybody = place.run("events", "tail", "--tenant", "acme", "--json").stdout.splitlines()
    users = [json.loads(line)["user_id"] for line in everybody]
    assert users == ["bella", "adam", "bella", "adam", "bella"]
    last = place.run("events", "tail", "--tenant", "acme", "-n", "2", "--json").stdout.splitlines()
    assert last == everybody[-2:]
    words = place.run("events", "tail", "--tenant", "acme", "--user", "adam").stdout.splitlines()
    assert len(words) == 2 and all("adam message x1" in line for line in words)
    assert place.run("events", "tail", "--tenant", "acme", "--event", "message").stdout.count("\n") == 5
    assert place.run("events", "tail", "--tenant", "globex").stdout == ""
    unknown = place.run("events", "tail", "--tenant", "acme", "--event", "mesage")
    assert (unknown.returncode, "message" in unknown.stderr) == (CONFIGURATION, True)


def following(place: Place, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*place.startable(), "events", "tail", "--tenant", "acme", "--follow", "--json", *arguments],
        env=place.environment(),
        cwd=place.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_follow_shows_new_events_as_they_come_until_ctrl_c(place: Place) -> None:
    await record(place, "bella")
    with following(place, "--user", "bella") as tail:
        assert tail.stdout is not None and tail.stderr is not None
        seen = [json.loads(tail.stdout.readline())["event_id"]]
        await record(place, "adam", "bella", "bella")
        seen += [json.loads(tail.stdout.readline())["event_id"] for _ in range(2)]
        assert len(set(seen)) == 3
        tail.send_signal(signal.SIGINT)
        assert tail.wait(20) == 130
        assert tail.stdout.read() == ""
        assert "Traceback" not in tail.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes that can be watched")
async def test_follow_ends_when_nobody_reads_any_more(place: Place) -> None:
    await record(place, "bella")
    with following(place) as tail:
        assert tail.stdout is not None and tail.stderr is not None
        assert json.loads(tail.stdout.readline())["user_id"] == "bella"
        tail.stdout.close()
        assert tail.wait(20) == OK
        assert tail.stderr.read() == ""


def test_a_pipe_closed_in_the_middle_is_no_fault(place: Place) -> None:
    asyncio.run(record(place, "bella"))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*place.startable(), "events", "tail", "--tenant", "acme"],
        env=place.environment(),
        cwd=place.folder,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (OK, "")
