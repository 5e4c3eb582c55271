"""Usage as a file: the tool page by page over both transports and eras, and the command in one go."""

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, Talk, problem_of, talking
from tests.platforms import posix

OK, FAILED, CONFIGURATION, CANNOT_REACH = 0, 1, 2, 5
ANSWER_BYTES_MAX = 256 * 1024
NOVEMBER = {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"}
WIDE = dict.fromkeys(("provider", "model", "tool", "client"), '"=ü中' * 64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("exports"), clock=TODAY)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serving() as server:
        yield server


async def record(place: Place, server: Server, user: str, count: int, **fields: Any) -> None:
    """Events of somebody that have happened, whatever the limit."""
    event = {"user_id": user, "event": "message", "enforce": False, **fields}
    async with server.api(place.token("app", role="service", tenant=fields.pop("tenant_id", "acme"))) as app:
        answer = await app.call("record_usage_batch", events=[event] * count)
        assert answer.status_code == 200, answer.text


def table_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text, newline=""), strict=True))


async def pages(talk: Talk, **arguments: Any) -> list[dict[str, Any]]:
    """Every page of an export."""
    found = [await talk.call("export_usage", **arguments)]
    while found[-1]["next_cursor"]:
        found.append(await talk.call("export_usage", **arguments, cursor=found[-1]["next_cursor"]))
    return found


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_pages_joined_are_one_file_with_every_event_once(
    place: Place, server: Server, transport: str, era: str
) -> None:
    user = f"petra.{transport}.{era}"
    await record(place, server, user, 600, attributes={"model": "=cmd|' /C calc'!A0", "client": "slack"})
    async with talking(place, server, transport, place.token(user, tier="premium"), ERAS[era]) as petra:
        found = await pages(petra, format="csv", **NOVEMBER)
        assert len(found) > 1 and all(page["next_cursor"] for page in found[:-1])
        rows = table_of("".join(page["content"] for page in found))
        assert len(rows) == sum(page["events"] for page in found) == 600
        assert len({row["event_id"] for row in rows}) == 600
        assert {row["model"] for row in rows} == {"'=cmd|' /C calc'!A0"}
        assert {(row["user_id"], row["plan"], row["gains.messages"]) for row in rows} == {
            (user, "basic", "1")
        }
        lines = "".join(page["content"] for page in await pages(petra, format="jsonl", **NOVEMBER))
        listed = (await petra.call("list_usage_events", page_size=200, **NOVEMBER))["events"]
        written = [json.loads(line) for line in lines.splitlines()]
        assert len(written) == 600 and written[::-1][:200] == listed
        assert [row["event_id"] for row in rows] == [event["event_id"] for event in written]


async def test_the_words_of_an_answer_hold_the_file_and_say_where_it_was_cut(
    place: Place, server: Server
) -> None:
    await record(place, server, "wanda", 501)
    async with server.client(place.token("wanda", tier="premium")) as wanda:
        first = await wanda.result("export_usage", {"format": "csv", **NOVEMBER})
        shown, document = first.content[0].text, first.structured_content  # type: ignore[union-attr]
        assert document is not None and document["events"] < 501
        sentence, _, content = shown.partition("\n\n")
        assert content == document["content"]
        assert sentence.endswith(f"cut here, more with cursor {document['next_cursor']}.")
        rest = await wanda.result(
            "export_usage", {"format": "csv", **NOVEMBER, "cursor": document["next_cursor"]}
        )
        assert rest.content[0].text.split("\n")[0].endswith("that is all of them.")  # type: ignore[union-attr]


async def test_no_answer_is_larger_than_256_kib_whatever_events_carry(place: Place, server: Server) -> None:
    await record(place, server, "wilma", 300, attributes=WIDE)
    async with server.api(place.token("wilma", tier="premium")) as wilma:
        for format_ in ("csv", "jsonl"):
            events, cursor = 0, {}
            while True:
                answer = await wilma.call("export_usage", format=format_, **NOVEMBER, **cursor)
                assert answer.status_code == 200 and len(answer.content) <= ANSWER_BYTES_MAX
                page = answer.json()["result"]
                assert page["events"] > 0
                events += page["events"]
                if page["next_cursor"] is None:
                    break
                cursor = {"cursor": page["next_cursor"]}
            assert events == 300


async def test_what_comes_between_two_pages_is_in_neither(place: Place, server: Server) -> None:
    await record(place, server, "ulla", 501)
    async with server.client(place.token("ulla", tier="premium")) as ulla:
        first = await ulla.call("export_usage", format="csv", **NOVEMBER)
        await record(place, server, "ulla", 3)
        second = await ulla.call("export_usage", format="csv", **NOVEMBER, cursor=first["next_cursor"])
        assert first["events"] + second["events"] == 501
        anew = await pages(ulla, format="csv", **NOVEMBER)
        assert sum(page["events"] for page in anew) == 504


async def test_a_cursor_is_good_for_the_same_people_and_period_only(place: Place, server: Server) -> None:
    await record(place, server, "carla", 501)
    async with (
        server.api(place.token("carla", tier="premium")) as carla,
        server.api(place.token("boris", tier="premium")) as boris,
    ):
        page = (await carla.call("export_usage", format="csv", **NOVEMBER)).json()["result"]
        given = {"format": "csv", "cursor": page["next_cursor"]}
        for answer in (
            await boris.call("export_usage", **NOVEMBER, **given),
            await carla.call("export_usage", **{**NOVEMBER, **given, "start": "2026-11-02T00:00:00Z"}),
            await carla.call("export_usage", **{**NOVEMBER, **given, "cursor": "bm90IG1pbmU"}),
            await carla.call("export_usage", **{**NOVEMBER, **given, "cursor": "ü"}),
        ):
            assert problem_of(answer, 422, "invalid_request")["fields"][0]["field"] == "cursor"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-11-20T00:00"}, "start"),
        ({"start": "2026-11-20", "end": "2026-11-20"}, "end"),
        ({"end": "2026-10-01T00:00:00Z"}, "end"),
        ({"end": "2029-01-01T00:00:00Z"}, "end"),
        ({"format": "xlsx"}, "format"),
    ],
)
async def test_a_wrong_argument_is_told_by_name(
    place: Place, server: Server, asked: dict[str, str], field: str
) -> None:
    async with server.api(place.token("nora", tier="premium")) as nora:
        answer = await nora.call("export_usage", **{"format": "csv", **NOVEMBER, **asked})
        assert problem_of(answer, 422, "invalid_request")["fields"][0]["field"] == field


async def test_nothing_used_is_a_file_without_rows(place: Place, server: Server) -> None:
    async with server.client(place.token("noel", tier="premium")) as noel:
        page = await noel.call("export_usage", format="csv", **NOVEMBER)
        assert (table_of(page["content"]), page["events"], page["next_cursor"]) == ([], 0, None)
        assert page["content"].startswith("event_id,tenant_id,")
        page = await noel.call("export_usage", format="jsonl", **NOVEMBER)
        assert (page["content"], page["events"]) == ("", 0)


async def test_an_admin_has_the_events_of_the_whole_group_and_a_member_their_own(
    place: Place, server: Server
) -> None:
    admin = place.token("ada", group="team", role="admin", tier="premium")
    member = place.token("max", group="team")
    async with server.client(admin) as ada, server.client(member) as max_:
        await ada.call("get_tier_info")
        await max_.call("get_tier_info")
        await record(place, server, "ada", 2)
        await record(place, server, "max", 3)
        whole = await ada.call("export_usage", format="csv", account_id="team", **NOVEMBER)
        assert [row["user_id"] for row in table_of(whole["content"])] == ["ada"] * 2 + ["max"] * 3
        own = await max_.call("export_usage", format="csv", **NOVEMBER)
        assert own["events"] == 3
        refused = await max_.refusal("export_usage", format="csv", account_id="team", **NOVEMBER)
        assert refused["code"] == "forbidden"


# The command


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A ledger of 1,200 events of two people, closed."""
    folder = tmp_path_factory.mktemp("export-command")
    place = Place(folder, clock=TODAY)
    with place.serving() as server:
        import asyncio

        asyncio.run(record(place, server, "bella", 600, attributes={"model": "gpt"}))
        asyncio.run(record(place, server, "adam", 600, occurred_at="2026-10-31T23:59:59Z"))
    return place


def test_the_command_writes_what_is_asked_for_to_stdout(ledger: Place) -> None:
    done = ledger.run("export", "--usage", "--tenant", "acme")
    assert (done.returncode, done.stderr) == (OK, "1,200 events.\n")
    assert len(table_of(done.stdout)) == 1200
    november = ledger.run(
        *("export", "--usage", "--tenant", "acme", "--start", "2026-11-01", "--end", "2026-12-01")
    )
    assert {row["user_id"] for row in table_of(november.stdout)} == {"bella"}
    lines = ledger.run("export", "--usage", "--tenant", "acme", "--user", "adam", "--format", "jsonl")
    assert {json.loads(line)["user_id"] for line in lines.stdout.splitlines()} == {"adam"}


def test_a_file_is_there_as_a_whole_and_replaces_none_by_itself(ledger: Place, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    done = ledger.run("export", "--usage", "--tenant", "acme", str(file), "--json")
    assert json.loads(done.stdout) == {"file": str(file), "events": 1200}
    whole = file.read_bytes()
    assert whole.count(b"\r\n") == 1201
    again = ledger.run("export", "--usage", "--tenant", "acme", str(file))
    assert again.returncode == CONFIGURATION and "add --yes to replace it" in again.stderr
    assert ledger.run("export", "--usage", str(file), "--yes").stderr == f"{file}: 0 events.\n"
    assert file.read_bytes().count(b"\r\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["usage.csv"]


def test_a_full_disk_leaves_no_half_of_a_file(ledger: Place, tmp_path: Path) -> None:
    resource = posix("resource")

    def disk_full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    file = tmp_path / "usage.csv"
    done = ledger.run("export", "--usage", "--tenant", "acme", str(file), before_exec=disk_full)
    assert done.returncode == FAILED and done.stderr.startswith(f"Error: {file} cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_whoever_stops_reading_ends_it_quietly(ledger: Place) -> None:
    posix("resource")
    process = subprocess.Popen(
        [*ledger.startable(), "export", "--usage", "--tenant", "acme"],
        env=ledger.environment(),
        cwd=ledger.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(20)
    process.stdout.close()
    assert process.wait(timeout=60) == OK
    assert process.stderr.read() == b""
    process.stderr.close()


def test_interrupted_it_leaves_nothing_behind(ledger: Place, tmp_path: Path) -> None:
    posix("resource")
    folder = tmp_path / "out"
    folder.mkdir()
    held = os.open(ledger.database.with_name("ledger.db.lock"), os.O_RDWR)
    fcntl = posix("fcntl")
    fcntl.flock(held, fcntl.LOCK_EX)  # so that it waits, and surely is not done before the signal
    process = subprocess.Popen(
        [*ledger.startable(), "export", "--usage", "--tenant", "acme", str(folder / "usage.csv")],
        env=ledger.environment(),
        cwd=ledger.folder,
        stderr=subprocess.PIPE,
    )
    try:
        while not list(folder.iterdir()):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
    finally:
        os.close(held)
    assert process.wait(timeout=60) == 130
    assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Add --all for the whole ledger, or --usage"),
        (("--all", "--usage", "x"), "Add --all for the whole ledger, or --usage"),
        (("--all",), "Name the FILE"),
        (("--all", "--start", "2026-01-01", "x"), "--all is the whole ledger"),
        (("--usage", "--json"), "it goes with a FILE"),
        (("--usage", "--start", "March"), "or a day like 2026-11-20"),
        (("--usage", "--end", "2026-02-30"), "a date or time that does not exist"),
        (("--usage", "--start", "2026-03-01", "--end", "2026-03-01"), "must lie after the start"),
        (("--usage", "--user", "no such user"), "--user"),
    ],
)
def test_a_wrong_choice_is_told_in_a_sentence(ledger: Place, arguments: tuple[str, ...], said: str) -> None:
    done = ledger.run("export", *arguments)
    assert done.returncode == CONFIGURATION and done.stdout == ""
    assert said in " ".join(done.stderr.split()), done.stderr


def test_nobody_is_made_known_by_an_export(ledger: Place) -> None:
    before = ledger.rows()
    done = ledger.run("export", "--usage", "--tenant", "acme", "--user", "nobody")
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (OK, 1, "0 events.\n")
    assert ledger.rows() == before
    missing = ledger.run("export", "--usage", "--tenant", "acme", "--account", "no-such-account")
    assert missing.returncode == FAILED and "No such account" in missing.stderr


def test_without_a_ledger_it_says_so(tmp_path: Path) -> None:
    done = Place(tmp_path).run("export", "--usage", str(tmp_path / "usage.csv"))
    assert done.returncode == CANNOT_REACH and "There is no ledger" in done.stderr
