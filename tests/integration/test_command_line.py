"""Every command as a person or a script runs it: what is on stdout, what on stderr, and the exit code."""

import json
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness import COMMAND, TODAY, Place

from subscription_mcp.catalogs import shipped_names
from subscription_mcp.cli.main import COMMANDS

OK, FAILED, CONFIGURATION, AUTHENTICATION, CANNOT_REACH = 0, 1, 2, 4, 5


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, clock=TODAY)


def test_help_names_every_command(place: Place) -> None:
    shown = place.run("--help")
    assert shown.returncode == OK
    for command in COMMANDS:
        assert f"  {command} " in shown.stdout
    assert place.run("--version").stdout.startswith("subscription-mcp")
    unknown = place.run("sevre")
    assert (unknown.returncode, unknown.stdout) == (CONFIGURATION, "")


# Tokens


def test_a_minted_token_is_alone_on_stdout_and_is_accepted(place: Place) -> None:
    minted = place.run(
        "token", "mint", "--user", "bella", "--tenant", "acme", "--tier", "advanced", "--ttl", "2h"
    )
    assert minted.returncode == OK
    token = minted.stdout.strip()
    assert minted.stdout == f"{token}\n"
    assert token not in minted.stderr
    assert "bella" in minted.stderr
    for inspected in (
        place.run("token", "inspect", token, "--json"),
        place.run("token", "inspect", "--json", standard_input=token),
        place.run("token", "inspect", "--json", TOKEN=token),
    ):
        assert inspected.returncode == OK, inspected.stderr
        document = json.loads(inspected.stdout)
        assert document["valid"]
        assert document["claims"]["sub"] == "bella"
        assert document["claims"]["tenant_id"] == "acme"
        assert token.rpartition(".")[2] not in inspected.stdout


def test_a_token_this_server_does_not_take_is_4(place: Place) -> None:
    expired = place.token("bella", ttl_seconds=60, issued_ago_seconds=600)
    inspected = place.run("token", "inspect", expired)
    assert inspected.returncode == AUTHENTICATION
    assert "verdict  The access token expired at" in inspected.stdout
    assert place.run("token", "inspect", "nonsense").returncode == AUTHENTICATION
    nothing = place.run("token", "inspect")
    assert nothing.returncode == AUTHENTICATION
    assert "There is no access token" in nothing.stderr


def test_the_local_key_is_made_once_and_is_private(place: Place) -> None:
    environment = {"AUTH__SECRET": None, "DATABASE_URL": None}
    first = place.run("token", "mint", "--user", "bella", **environment)
    inspected = place.run("token", "inspect", first.stdout.strip(), **environment)
    assert (first.returncode, inspected.returncode) == (OK, OK), inspected.stdout
    (key,) = place.folder.rglob("local-key")
    assert key.stat().st_mode & 0o777 == 0o600
    # Not the key of the server with a secret.
    assert place.run("token", "inspect", first.stdout.strip()).returncode == AUTHENTICATION


@pytest.mark.parametrize(
    "arguments",
    [
        ("token", "mint"),
        ("token", "mint", "--user", "a b"),
        ("token", "mint", "--user", "bella", "--role", "king"),
        ("token", "mint", "--user", "bella", "--ttl", "soon"),
        ("token", "mint", "--user", "bella", "--ttl", "0s"),
        ("serve", "--port", "99999"),
        ("usage", "--nonsense"),
    ],
)
def test_a_wrong_usage_is_2_with_a_sentence(place: Place, arguments: tuple[str, ...]) -> None:
    done = place.run(*arguments)
    assert (done.returncode, done.stdout) == (CONFIGURATION, "")
    assert "Error: " in done.stderr


# Catalogs


def test_shipped_catalogs_are_listed_and_shown(place: Place) -> None:
    listed = json.loads(place.run("catalog", "list", "--json").stdout)
    assert [catalog["name"] for catalog in listed] == list(shipped_names())
    assert "\nbedrock-chat" in place.run("catalog", "list").stdout
    shown = json.loads(place.run("catalog", "show", "bedrock-chat", "--json").stdout)
    assert [plan["plan"] for plan in shown["plans"]] == ["basic", "advanced", "premium"]
    assert shown["events"] == {"message": {}, "tool_call": {"tool": "text"}}
    told = place.run("catalog", "show", "bedrock-chat").stdout
    assert "\nEvents: message, tool_call (tool: text).\n" in told
    assert "Advanced (advanced): 29.00 USD a month" in told


BROKEN = {
    "unknown key": ('title = "Basic"', 'titel = "Basic"', "title"),
    "unknown meter": (
        'meter = "messages", window = "day", limit = 50',
        'meter = "mesages", window = "day", limit = 50',
        "messages",
    ),
    "negative limit": ("limit = 50 }", "limit = -50 }", "plans.basic"),
    "price as a float": ('monthly = "29.00"', "monthly = 29.00", "plans.advanced"),
    "no such window": ('window = "day", limit = 50', 'window = "dya", limit = 50', "day"),
    "two plans of one name": ("[plans.advanced]", "[plans.basic]", "basic"),
    "no TOML at all": ("[plans.advanced]", "[plans.advanced", "line"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_catalog_stops_with_file_key_fault_and_nearest_word(place: Place, fault: str) -> None:
    good = (Path(__file__).parents[2] / "src/subscription_mcp/catalogs/bedrock-chat.toml").read_text("utf-8")
    right, wrong, expected = BROKEN[fault]
    assert right in good
    path = place.folder / "mine.toml"
    path.write_text(good.replace(right, wrong, 1))
    for command in (("catalog", "check", str(path)), ("catalog", "show", str(path))):
        done = place.run(*command)
        assert (done.returncode, done.stdout) == (CONFIGURATION, "")
        assert "mine.toml" in done.stderr
        assert expected in done.stderr, done.stderr
    started = place.run("serve", "--port", "0", CATALOG=str(path))
    assert started.returncode == CONFIGURATION
    assert "mine.toml" in started.stderr
    assert not place.database.exists()


def test_a_good_catalog_of_ones_own_is_fine(place: Place) -> None:
    good = (Path(__file__).parents[2] / "src/subscription_mcp/catalogs/bedrock-chat.toml").read_text("utf-8")
    (place.folder / "mine.toml").write_text(good.replace("limit = 50 }", "limit = 7 }"))
    checked = place.run("catalog", "check", "mine.toml")
    assert checked.returncode == OK, checked.stderr
    assert place.run("catalog", "check", CATALOG="mine.toml").stderr.startswith(
        f"{place.folder / 'mine.toml'}: fine"
    )
    assert "7 messages a day" in place.run("catalog", "show", CATALOG="mine.toml").stdout
    shown = place.run("usage", "--user", "bella", CATALOG="mine.toml")
    assert "0 of 7" in shown.stdout
    assert place.run("catalog", "check", "missing.toml").returncode == CONFIGURATION
    assert "bedrock-chat" in place.run("catalog", "show", "bedrok-chat").stderr


# Usage


def test_usage_of_the_token_of_somebody_and_as_json(place: Place) -> None:
    mine = place.run("usage", TOKEN=place.token("bella", tier="advanced"))
    assert mine.returncode == OK, mine.stderr
    assert mine.stdout.startswith("bella in acme: ")
    assert "0 of 200" in mine.stdout
    named = place.run("usage", "--tenant", "acme", "--user", "adam")
    assert "adam in acme: Basic plan" in named.stdout
    document = json.loads(place.run("usage", "--tenant", "acme", "--user", "adam", "--json").stdout)
    assert (document["tenant_id"], document["user_id"], document["plan"]) == ("acme", "adam", "basic")
    nobody = place.run("usage")
    assert (nobody.returncode, nobody.stdout) == (AUTHENTICATION, "")
    assert "There is no access token" in nobody.stderr
    assert place.run("usage", TOKEN="${SUBSCRIPTION_MCP_TOKEN}").returncode == AUTHENTICATION
    # Looking made nobody.
    assert place.rows()["subscription"] == 0


# Doctor, migrate


def test_doctor_finds_nothing_wrong_and_changes_nothing(place: Place) -> None:
    healthy = place.run("doctor", TOKEN=place.token("bella"))
    assert healthy.returncode == OK, healthy.stdout
    assert "FAIL" not in healthy.stdout
    assert not place.database.exists()
    document = json.loads(place.run("doctor", "--json").stdout)
    assert document["ok"]
    assert {finding["check"] for finding in document["findings"]} >= {
        "settings",
        "key",
        "catalog",
        "database",
    }


@pytest.mark.parametrize(
    ("variables", "check"),
    [
        ({"CATALOG": "bedrok-chat"}, "catalog"),
        ({"AUTH__SECRET": "short"}, "settings"),
        ({"DATBASE_URL": "sqlite:///x.db"}, "settings"),
        ({"TOKEN": "nonsense"}, "token"),
        ({"DATABASE_URL": "sqlite:///a-file/ledger.db"}, "database"),
        ({"DATABASE_URL": "sqlite:///a-folder"}, "database"),
    ],
)
def test_doctor_says_what_is_wrong_and_what_to_do(
    place: Place, variables: dict[str, str], check: str
) -> None:
    (place.folder / "a-file").write_text("x")
    (place.folder / "a-folder").mkdir()
    ill = place.run("doctor", **variables)
    assert ill.returncode == FAILED
    (line,) = [line for line in ill.stdout.splitlines() if line.startswith("FAIL")]
    assert line.split()[2] == check
    assert "fix: " in ill.stdout
    findings = json.loads(place.run("doctor", "--json", **variables).stdout)["findings"]
    assert [finding["check"] for finding in findings if finding["state"] == "FAIL"] == [check]


def test_doctor_says_that_the_ledger_counts_by_another_catalog(place: Place) -> None:
    assert place.run("usage", "--user", "bella").returncode == OK
    ill = place.run("doctor", CATALOG="notion-agent")
    assert ill.returncode == FAILED
    (line,) = [line for line in ill.stdout.splitlines() if line.startswith("FAIL")]
    assert line.endswith("counts by the catalog bedrock-chat")
    assert place.run("doctor").returncode == OK


def test_migrate_makes_the_schema_and_check_only_looks(place: Place) -> None:
    before = place.run("migrate", "--check")
    assert before.returncode == FAILED
    assert not place.database.exists()
    made = place.run("migrate")
    assert made.returncode == OK, made.stderr
    assert "done" in made.stderr
    assert place.run("migrate", "--check").returncode == OK
    assert "nothing to do" in place.run("migrate").stderr


# Settings


def test_an_unknown_setting_stops_with_the_nearest_one(place: Place) -> None:
    for command in (("serve", "--port", "0"), ("stdio",), ("usage", "--user", "bella"), ("migrate",)):
        done = place.run(*command, CATALOGUE="bedrock-chat")
        assert (done.returncode, done.stdout) == (CONFIGURATION, "")
        assert (
            "SUBSCRIPTION_MCP_CATALOGUE is no setting; the nearest is SUBSCRIPTION_MCP_CATALOG."
            in done.stderr
        )
    assert place.run("doctor", TEST_ANYTHING="1").returncode == OK


def test_a_configuration_file_is_read_where_it_is_named(place: Place) -> None:
    (place.folder / "subscription.toml").write_text('catalog = "bedrok-chat"\n')
    assert place.run("usage", "--user", "bella").returncode == OK  # not read only because it lies there
    named = place.run("--config", "subscription.toml", "usage", "--user", "bella")
    assert named.returncode == CONFIGURATION
    (place.folder / "other.toml").write_text("catalgo = 1\n")
    unknown = place.run("usage", "--user", "bella", CONFIG="other.toml")
    assert unknown.returncode == CONFIGURATION
    assert "the nearest is `catalog`" in unknown.stderr
    assert place.run("--config", "missing.toml", "doctor").returncode == FAILED


def test_a_frozen_clock_and_a_public_url_do_not_go_together(place: Place) -> None:
    done = place.run("serve", "--port", "0", PUBLIC_URL="https://quota.example.com")
    assert done.returncode == CONFIGURATION
    assert "CLOCK" in done.stderr


# Serving


def test_a_server_says_what_it_serves(place: Place) -> None:
    with place.serving() as server:
        server.wait_for_log(f"catalog   bedrock-chat\nledger    {place.database}\n")


def test_a_taken_port_is_said(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = place.run("serve", "--port", port)
    assert done.returncode == CONFIGURATION
    assert f"Port {port} of 127.0.0.1 cannot be used" in done.stderr


def test_another_host_needs_a_public_url(place: Place) -> None:
    done = place.run("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == CONFIGURATION
    assert "SUBSCRIPTION_MCP_PUBLIC_URL" in done.stderr


def test_ctrl_c_ends_the_server_without_a_traceback(place: Place) -> None:
    with place.serving() as server:
        server.process.send_signal(signal.SIGINT)
        assert server.ended() in (0, 130)
        assert "Traceback" not in server.log


def test_a_stdio_server_ends_when_its_input_does(place: Place) -> None:
    done = place.run("stdio", standard_input="")
    assert (done.returncode, done.stdout) == (OK, "")


# The demonstration's data


def ledgers_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.db"))


def test_demo_data_is_made_once_and_anew_on_request(place: Place) -> None:
    folder = place.folder / "demo"
    made = place.run("demo", "--no-serve", "--dir", str(folder))
    assert made.returncode == OK, made.stderr
    assert "making demo data" in made.stderr
    first, secret = ledgers_of(folder), (folder / "secret").read_text()
    again = place.run("demo", "--no-serve", "--dir", str(folder))
    assert "making demo data" not in again.stderr
    assert (ledgers_of(folder), (folder / "secret").read_text()) == (first, secret)
    reset = place.run("demo", "--no-serve", "--dir", str(folder), "--reset")
    assert "making demo data" in reset.stderr
    # A demo that still runs goes on in the old file.
    (new,) = set(ledgers_of(folder)) - set(first)
    assert len(first) == 1 and new in (folder / "subscription.toml").read_text()
    assert (folder / "secret").read_text() == secret
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert (folder / "subscription.toml").stat().st_mode & 0o777 == 0o600


def test_the_demo_says_that_it_is_not_about_the_configured_catalog(place: Place) -> None:
    folder = place.folder / "demo"
    told = place.run("demo", "--no-serve", "--dir", str(folder), CATALOG="notion-agent")
    assert told.returncode == OK
    assert "are those of bedrock-chat, not of notion-agent" in told.stderr
    for variables in ({}, {"CONFIG": str(folder / "subscription.toml")}, {"CATALOGUE": "a misspelt setting"}):
        again = place.run("demo", "--no-serve", "--dir", str(folder), **variables)
        assert again.returncode == OK and "not of" not in again.stderr


def test_two_demos_started_at_once_make_one_whole_set_of_data(place: Place) -> None:
    folder = place.folder / "demo"
    command = [*COMMAND, "demo", "--no-serve", "--dir", str(folder)]
    both = [
        subprocess.Popen(
            command, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [OK, OK], told
    assert sum("making demo data" in words for _, words in told) == 1
    (database,) = folder.glob("*.db")
    (made,) = [words for _, words in told if "making demo data" in words]
    with closing(sqlite3.connect(database)) as connection:
        (events,) = connection.execute("SELECT count(*) FROM event").fetchone()
    assert f"{events:,} events" in made
