"""`verify`, `backup`, `restore`, `export` and `import` as an operator types them."""

import asyncio
import json
import os
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.harness import COMMAND, TODAY, Place
from tests.platforms import posix

PIPE_BYTES = 65_536
OK, FAILED, CONFIGURATION, CANNOT_REACH = 0, 1, 2, 5


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "one").mkdir()
    return Place(tmp_path / "one", clock=TODAY)


@pytest.fixture
def another(tmp_path: Path) -> Place:
    (tmp_path / "other").mkdir()
    return Place(tmp_path / "other", clock=TODAY)


async def record(place: Place, *users: str) -> None:
    async with place.over_stdio(place.token("app", role="service")) as app:
        for user in users:
            recorded = await app.call(
                "record_usage", user_id=user, event="message", idempotency_key=f"key-{user}"
            )
            assert recorded["allowed"]


def data(place: Place, *arguments: str) -> dict[str, Any]:
    done = place.run(*arguments, "--json")
    assert done.returncode == OK, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def test_verify_says_that_all_agrees_or_what_does_not(place: Place) -> None:
    await record(place, "bella", "adam")
    found = data(place, "verify")
    assert (found["ok"], found["events"], found["differences"]) == (True, 2, [])
    done = place.run("verify")
    assert (done.returncode, done.stdout) == (OK, "")
    assert done.stderr.startswith("All agree: 2 events, ")
    with closing(sqlite3.connect(place.database, isolation_level=None)) as database:
        database.execute(
            "UPDATE counter SET used = 7 WHERE window = (SELECT id FROM word WHERE text = 'day')"
        )
    done = place.run("verify")
    assert (done.returncode, done.stdout) == (FAILED, "")
    assert "The counter of messages per day from 2026-11-20T00:00:00Z of " in done.stderr
    assert "says 7; the events say 1." in done.stderr
    done = place.run("verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (FAILED, False)


async def test_copies_and_exports_are_made_while_a_server_runs_and_put_back_when_none_does(
    place: Place, another: Place
) -> None:
    copy, export = place.folder / "copy.db", place.folder / "ledger.jsonl"
    with place.serving() as server:
        async with server.api(place.token("app", role="service")) as app:
            for user in ("bella", "adam"):
                response = await app.call("record_usage", user_id=user, event="message", idempotency_key=user)
                assert response.status_code == 200
        assert data(place, "backup", str(copy)) == {"file": str(copy), "size_bytes": copy.stat().st_size}
        assert data(place, "export", "--all", str(export))["rows"]["event"] == 2
        assert {stat.S_IMODE(one.stat().st_mode) for one in (copy, export)} == {0o600}
        assert data(place, "verify")["ok"]
        refused = place.run("restore", str(copy), "--yes")
        assert (refused.returncode, "is open in another program" in refused.stderr) == (CANNOT_REACH, True)
    await record(place, "carol")
    restored = data(place, "restore", str(copy), "--yes")
    assert data(place, "verify")["events"] == 2
    assert restored["replaced"] in [str(path) for path in place.folder.iterdir()]
    imported = data(another, "import", str(export))
    assert (imported["ok"], imported["events"]) == (True, 2)
    for one in (place, another):
        async with one.over_stdio(one.token("app", role="service")) as app:
            again = await app.call("record_usage", user_id="adam", event="message", idempotency_key="other")
            assert again["limits"][0]["used"] == 2
    assert data(another, "verify")["events"] == 3


async def test_a_copy_is_verified_where_it_lies_named_or_as_the_ledger(place: Place) -> None:
    await record(place, "bella", "adam")
    folder = place.folder / "copies"
    folder.mkdir()
    copy = folder / "copy.db"
    assert place.run("backup", str(copy)).returncode == OK
    whole = copy.read_bytes()
    expected = data(place, "verify")
    assert expected["events"] == 2
    assert data(place, "verify", str(copy)) == expected
    done = place.run("verify", "--json", DATABASE_URL=f"sqlite:///{copy}")
    assert (done.returncode, json.loads(done.stdout)) == (OK, expected)
    assert ([path.name for path in folder.iterdir()], copy.read_bytes()) == (["copy.db"], whole)
    with closing(sqlite3.connect(copy, isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 3")
    done = place.run("verify", str(copy))
    assert (done.returncode, "has schema 3, and this version verifies" in done.stderr) == (CANNOT_REACH, True)
    assert [path.name for path in folder.iterdir()] == ["copy.db"]


async def test_a_token_revoked_since_the_copy_stays_revoked_when_it_is_put_back(place: Place) -> None:
    await record(place, "bella")
    copy, access_token = place.folder / "copy.db", place.token("bella")
    assert place.run("backup", str(copy)).returncode == OK
    assert place.run("token", "revoke", "--subject", "bella", "--tenant", "acme").returncode == OK
    done = place.run("restore", str(copy), "--yes")
    assert done.returncode == OK
    assert "Still in force: 1 revocation of access tokens that the copy did not have" in done.stderr
    with place.serving() as server:
        async with server.api(access_token) as bella:
            assert (await bella.call("get_tier_info")).status_code == 401
    place.database.write_bytes(b"")
    done = place.run("restore", str(copy), "--yes")
    assert "revoked after the copy was made may be accepted again" in done.stderr


async def test_an_emptied_ledger_stops_every_command_that_opens_it(place: Place) -> None:
    await record(place, "bella")
    place.database.write_bytes(b"")
    for command in (
        ("verify",),
        ("limits", "list", "--user", "bella"),
        ("migrate",),
        ("serve", "--port", "0"),
    ):
        done = place.run(*command)
        assert (done.returncode, "is empty, and held a ledger" in done.stderr) == (CANNOT_REACH, True), done
    assert place.database.read_bytes() == b""


async def test_nothing_is_replaced_without_being_asked_to(place: Place) -> None:
    await record(place, "bella")
    kept = place.folder / "kept"
    kept.write_text("mine")
    for command in (("backup", str(kept)), ("export", "--all", str(kept)), ("restore", str(kept))):
        done = place.run(*command)
        assert (done.returncode, done.stdout) == (CONFIGURATION, "")
        assert "--yes" in done.stderr
    assert kept.read_text() == "mine"
    assert place.run("restore", str(kept), "--yes").returncode == FAILED
    assert place.run("export", str(kept)).returncode == CONFIGURATION
    assert place.run("backup", str(kept), "--yes").returncode == OK
    assert place.run("restore", str(kept), "--yes").returncode == OK
    assert place.run("export", "--all", str(kept), "--yes").returncode == OK
    done = place.run("import", str(kept))
    assert (done.returncode, "has something in it already" in done.stderr) == (FAILED, True)
    assert place.run("import", str(place.folder / "missing")).returncode == CONFIGURATION
    assert data(place, "verify")["events"] == 1


def test_without_a_ledger_there_is_nothing_to_keep(place: Place) -> None:
    for command in (("verify",), ("backup", "copy.db"), ("export", "--all", "ledger.jsonl")):
        done = place.run(*command)
        assert (done.returncode, done.stdout) == (CANNOT_REACH, "")
        assert "There is no ledger at" in done.stderr
    assert [path for path in place.folder.iterdir() if path.name.startswith(("ledger", "copy"))] == []


def test_an_import_killed_in_the_middle_has_imported_nothing(place: Place, another: Place) -> None:
    users = [f"user{number}" for number in range(80)]
    asyncio.run(record(place, *users))
    export, pipe = place.folder / "ledger.jsonl", place.folder / "pipe"
    assert place.run("export", "--all", str(export)).returncode == OK
    whole = export.read_bytes()
    assert len(whole) > 2 * PIPE_BYTES
    os.mkfifo(pipe)
    importing = subprocess.Popen(
        [*COMMAND, "import", str(pipe)], env=another.environment(), cwd=another.folder, stderr=subprocess.PIPE
    )
    with importing, pipe.open("wb", buffering=0) as stream:
        stream.write(whole[:-200])  # more than a pipe holds: when this is done, half of it was taken
        importing.kill()
    assert data(another, "import", str(export))["events"] == len(users)


async def test_a_full_disk_spoils_no_copy_and_no_ledger(place: Place) -> None:
    resource = posix("resource")
    await record(place, "bella")
    copy = place.folder / "copy.db"
    assert place.run("backup", str(copy)).returncode == OK
    whole = copy.read_bytes()

    def disk_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    for command in (("backup", str(copy), "--yes"), ("restore", str(copy), "--yes")):
        done = place.run(*command, before_exec=disk_full)
        assert done.returncode in (FAILED, CANNOT_REACH), done
        assert done.stderr.startswith("Error: ")
    assert copy.read_bytes() == whole
    assert data(place, "verify")["events"] == 1
    assert [path.name for path in place.folder.iterdir() if path.name.endswith(".new")] == []
