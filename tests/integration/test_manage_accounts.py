"""What operators do with accounts, as they meet it: over MCP in both eras, over HTTP and on the command line."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Server, problem_of, talking

from subscription_mcp.auth.permissions import reach
from subscription_mcp.operations.cursors import cursor_of
from subscription_mcp.tools.toolbox import TOOLS, list_bytes

ALICE = "alice.o-neil@example.org"
WHY = "for the test"
TRANSPORTS = [(transport, era) for transport in ("stdio", "http") for era in ERAS]
combinations = pytest.mark.parametrize(("transport", "era"), TRANSPORTS)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Trials, paid plans and groups with a pool."""
    return Place(tmp_path_factory.mktemp("notes"), clock=TODAY, CATALOG="notion-agent")


@pytest.fixture(scope="module")
def server(notes: Place) -> Iterator[Server]:
    with notes.serving() as server:
        yield server


def root(place: Place, tenant: str = "acme") -> str:
    return place.token("root", tenant=tenant, role="superadmin")


# Suspended


@pytest.mark.parametrize("kind", ["personal", "group"])
@combinations
async def test_a_suspended_account_is_refused_everything_but_reading(
    notes: Place, server: Server, transport: str, era: str, kind: str
) -> None:
    user = f"sue.{kind}.{transport}.{era}"
    group = f"team.{user}" if kind == "group" else None
    token = notes.token(user, group=group, role="admin" if group else None)
    target = {"account_id": group} if group else {"user_id": user}
    async with (
        talking(notes, server, transport, token, ERAS[era]) as sue,
        talking(notes, server, transport, notes.token("app", role="service"), ERAS[era]) as app,
        talking(notes, server, transport, root(notes), ERAS[era]) as operator,
    ):
        await sue.call("get_tier_info")
        usage = {"user_id": user, "event": "request", "attributes": {"tokens": 5}}
        assert (await app.call("record_usage", **usage))["allowed"]
        session = (await app.call("open_session", user_id=user))["session_id"]
        held = (await app.call("reserve_usage", **usage))["reservation_id"]

        done = await operator.call("manage_accounts", action="suspend", reason=WHY, **target)
        assert done["account"]["status"] == "suspended"
        assert done["account"]["audit"][0] | {"at": ""} == {
            "audit_id": done["audit_id"],
            "action": "subscription.suspend",
            "account_id": group or user,
            "user_id": None,
            "actor": "root",
            "actor_role": "superadmin",
            "reason": WHY,
            "before": {**done["account"]["audit"][0]["before"], "status": "trialing"},
            "after": {**done["account"]["audit"][0]["after"], "status": "suspended"},
            "at": "",
        }

        for tool, given in (
            ("record_usage", usage),
            ("reserve_usage", usage),
            ("check_quota", usage),
            ("open_session", {"user_id": user}),
        ):
            refused = await app.call(tool, **given)
            assert (refused["allowed"], refused["code"]) == (False, "subscription_inactive"), tool
            assert refused["message"].startswith("This account was suspended 2026-11-20 14:03 UTC."), tool
        for talk, tool, given in (
            (app, "renew_session", {"session_id": session}),
            (sue, "open_session", {}),
            (sue, "upgrade_tier", {"plan": "teams"}),
            (sue, "manage_subscription", {"action": "cancel"}),
            (operator, "upgrade_tier", {"plan": "teams", **target}),
            (operator, "manage_accounts", {"action": "suspend", "reason": WHY, **target}),
        ):
            answer = await talk.result(tool, given)
            document = answer.structured_content or json.loads(answer.content[1].text)  # type: ignore[union-attr]
            expected = "conflict" if tool == "manage_accounts" else "subscription_inactive"
            assert document["code"] == expected, (tool, document)
        # What was held before and happened anyway is told all the same, and counted.
        late = await app.call("settle_usage", reservation_id=held)
        assert late["event_id"] is not None
        tier = await sue.call("get_tier_info")
        assert (tier["status"], tier["plan"]) == ("suspended", "trial")
        assert (await sue.call("list_plans"))["plans"]
        assert (await sue.call("get_usage_analytics"))["totals"][0]["events"] == 2
        assert not (await sue.call("has_feature", feature="basic_functionality"))["granted"]

        done = await operator.call("manage_accounts", action="activate", reason=WHY, **target)
        assert done["account"]["status"] == "trialing"
        assert (await app.call("record_usage", **usage))["allowed"]
        again = await operator.refusal("manage_accounts", action="activate", reason=WHY, **target)
        assert again["code"] == "conflict"


@pytest.mark.parametrize("era", ERAS)
async def test_an_overdue_payment_is_let_be_for_seven_days(tmp_path: Path, era: str) -> None:
    place = Place(tmp_path, clock="2026-11-20T12:00:00Z", CATALOG="jobs-platform")
    app_token, bob_token = place.token("app", role="service"), place.token("bob", tier="pro")
    job = {"user_id": "bob", "event": "job"}
    about = {"user_id": "bob", "reason": WHY}
    with place.serving() as server:
        async with (
            server.client(bob_token, ERAS[era]) as bob,
            server.client(root(place), ERAS[era]) as operator,
        ):
            await bob.call("get_tier_info")
            done = await operator.call("manage_accounts", action="payment_failed", **about)
            assert done["account"]["status"] == "past_due"
            again = await operator.refusal("manage_accounts", action="payment_failed", **about)
            assert again["code"] == "conflict"
    with place.serving(CLOCK="2026-11-27T11:59:59Z") as server:
        async with server.client(app_token, ERAS[era]) as app:
            assert (await app.call("record_usage", **job))["allowed"]
    with place.serving(CLOCK="2026-11-27T12:00:00Z") as server:
        async with server.client(app_token, ERAS[era]) as app, server.client(bob_token, ERAS[era]) as bob:
            refused = await app.call("record_usage", **job)
            assert (refused["allowed"], refused["code"]) == (False, "payment_required")
            assert (await bob.call("open_session"))["code"] == "payment_required"
            assert (await bob.refusal("upgrade_tier", plan="enterprise"))["code"] == "payment_required"
            assert (await bob.call("get_tier_info"))["status"] == "past_due"
        async with server.api(app_token) as api:
            problem_of(await api.call("record_usage", **job), 402, "payment_required")
        async with (
            server.client(root(place), ERAS[era]) as operator,
            server.client(app_token, ERAS[era]) as app,
        ):
            done = await operator.call("manage_accounts", action="payment_received", **about)
            assert done["account"]["status"] == "active"
            assert (await app.call("record_usage", **job))["allowed"]


# Found and shown


@pytest.mark.parametrize("era", ERAS)
async def test_accounts_are_found_page_by_page_as_their_holders_see_them(
    notes: Place, server: Server, era: str
) -> None:
    tenant = f"found-{era}"
    app_token = notes.token("app", tenant=tenant, role="service")
    admin_token = notes.token("tara", tenant=tenant, role="tenant_admin")
    async with server.client(app_token, ERAS[era]) as app, server.client(admin_token, ERAS[era]) as tara:
        for number in range(5):
            await app.call(
                "record_usage", user_id=f"user-{number}", event="request", attributes={"tokens": 1}
            )
        boss = notes.token("boss", tenant=tenant, group="team", role="admin")
        async with server.client(boss, ERAS[era]) as talk:
            await talk.call("get_tier_info")
        pat = notes.token("pat", tenant=tenant, tier="pro")
        async with server.client(pat, ERAS[era]) as talk:
            mine = await talk.call("get_tier_info")

        first = await tara.call("manage_accounts", action="search", page_size=3)
        second = await tara.call("manage_accounts", action="search", page_size=3, cursor=first["next_cursor"])
        third = await tara.call("manage_accounts", action="search", page_size=3, cursor=second["next_cursor"])
        assert third["next_cursor"] is None
        pages = [[account["account_id"] for account in page["accounts"]] for page in (first, second, third)]
        assert [len(page) for page in pages] == [3, 3, 1]
        assert sorted(chain(*pages)) == ["pat", "team", *(f"user-{number}" for number in range(5))]

        (found,) = (await tara.call("manage_accounts", action="search", query="PAT plan:pro"))["accounts"]
        same = ("account_id", "account_kind", "plan", "status", "origin", "usage_status", "limits")
        assert {name: found[name] for name in same} == {name: mine[name] for name in same}
        assert (found["users"], found["created_at"]) == (1, TODAY)
        (team,) = (await tara.call("manage_accounts", action="search", query="kind:group bos"))["accounts"]
        assert (team["account_id"], team["account_kind"], team["users"]) == ("team", "group", 1)
        assert not (await tara.call("manage_accounts", action="search", query="status:canceled"))["accounts"]

        for other in (
            {"query": "pat"},
            {"query": "kind:group"},
            {"cursor": "bm90IG91cnM"},
            {"cursor": "x"},
            {"cursor": cursor_of(2**63, tenant, "", None, None, None)},
        ):
            asked = {"action": "search", "cursor": first["next_cursor"], **other}
            assert (await tara.refusal("manage_accounts", **asked))["code"] == "invalid_request"
        unknown = await tara.refusal("manage_accounts", action="search", query="status:gone")
        assert unknown["fields"] == [
            {
                "field": "query",
                "rule": "status: must be followed by one of trialing, active, past_due, suspended, canceled, expired",
            }
        ]
        for plan in ("", "Pro", "gone"):
            unknown = await tara.refusal("manage_accounts", action="search", query=f"plan:{plan}")
            rule = "plan: must be followed by one of trial, pro, plus, teams"
            assert (unknown["code"], unknown["fields"]) == (
                "invalid_request",
                [{"field": "query", "rule": rule}],
            )
    async with server.client(root(notes), ERAS[era]) as operator:
        stolen = {"action": "search", "tenant_id": "acme", "cursor": first["next_cursor"], "page_size": 3}
        assert (await operator.refusal("manage_accounts", **stolen))["code"] == "invalid_request"
        seen = await operator.call("manage_accounts", action="search", tenant_id=tenant)
        assert len(seen["accounts"]) == 7


@pytest.mark.parametrize("era", ERAS)
async def test_one_account_is_shown_with_who_is_in_it_and_what_was_changed(
    notes: Place, server: Server, era: str
) -> None:
    tenant = f"shown-{era}"
    admin_token = notes.token("tara", tenant=tenant, role="tenant_admin")
    boss_token = notes.token("boss", tenant=tenant, group="team", role="admin")
    app_token = notes.token("app", tenant=tenant, role="service")
    async with (
        server.client(boss_token, ERAS[era]) as boss,
        server.client(admin_token, ERAS[era]) as tara,
        server.client(app_token, ERAS[era]) as app,
    ):
        assert (await boss.buy("teams"))["status"] == "applied"
        session = await app.call("open_session", user_id="boss")
        shown = (await tara.call("manage_accounts", action="show", account_id="team"))["account"]
        assert set(shown) == {*(await boss.call("get_tier_info")), "members", "open_sessions", "audit"} - {
            "text"
        }
        assert shown["members"] == [{"user_id": "boss", "role": "admin", "joined_at": TODAY}]
        assert [one["session_key"] for one in shown["open_sessions"]] == [session["session_key"]]
        changed, *_ = shown["audit"]
        assert (changed["action"], changed["actor"]) == ("subscription.change", "boss")
        assert (changed["before"]["plan"], changed["after"]["plan"]) == ("trial", "teams")

        await app.call("open_session", user_id="boss")
        ended = await tara.call("manage_accounts", action="end_sessions", account_id="team", reason=WHY)
        assert (ended["sessions_ended"], ended["account"]["open_sessions"]) == (2, [])
        assert ended["account"]["sessions"]["active"] == 0
        assert ended["account"]["audit"][0]["audit_id"] == ended["audit_id"]
        assert (await app.refusal("renew_session", session_id=session["session_id"]))["code"] == "not_found"


# Counted


@pytest.mark.parametrize("era", ERAS)
async def test_a_tenant_in_numbers(tmp_path: Path, era: str) -> None:
    place = Place(tmp_path, clock="2026-10-01T12:00:00Z", CATALOG="notion-agent")
    with place.serving() as server:
        for user in ("old-1", "old-2", "old-3"):
            async with server.client(place.token(user), ERAS[era]) as talk:
                await talk.call("get_tier_info")
                if user == "old-3":
                    assert (await talk.buy("pro"))["status"] == "applied"
    with place.serving(CLOCK="2026-11-20T12:00:00Z") as server:
        async with server.client(place.token("boss", group="team", role="admin"), ERAS[era]) as boss:
            await boss.call("get_tier_info")
        async with server.client(place.token("mate", group="team"), ERAS[era]) as mate:
            refused = await mate.refusal("get_tier_info")
            assert refused["code"] == "conflict"  # a trial has one seat
        app_token, admin_token = place.token("app", role="service"), place.token("tara", role="tenant_admin")
        async with server.client(app_token, ERAS[era]) as app, server.client(admin_token, ERAS[era]) as tara:
            await app.call("open_session", user_id="boss")
            await app.call("record_usage", user_id="new", event="request", attributes={"tokens": 45_000})
            for _ in range(2):
                await app.call(
                    "record_usage", user_id="old-3", event="request", attributes={"tokens": 450_000}
                )
            found = (await tara.call("manage_accounts", action="statistics"))["statistics"]
        near = found.pop("near_limits")
        assert found == {
            "tenant_id": "acme",
            "accounts": 3,
            "users": 3,
            "inactive": 2,
            "plans": [
                {"plan": "trial", "accounts": 2, "users": 2, "began_last_30_days": 2},
                {"plan": "pro", "accounts": 1, "users": 1, "began_last_30_days": 0},
            ],
            "by_status": {
                "trialing": 2, "active": 1, "past_due": 0, "suspended": 0, "canceled": 0, "expired": 2,
            },
            "trials": {"started": 5, "running": 2, "converted": 1, "expired": 2, "conversion_percent": 20.0},
            "sessions_open": 1,
            "as_of": "2026-11-20T12:00:00Z",
        }  # fmt: skip
        assert [(one["account_id"], one["limit"]["meter"], one["limit"]["percent"]) for one in near] == [
            ("new", "tokens", 90.0),
            ("old-3", "tokens", 90.0),
        ]
        async with server.api(root(place, "globex")) as operator:
            tenant = (await operator.get("/api/tenants/acme/subscription")).json()["tenant"]
            assert (tenant["accounts"], tenant["users"], tenant["inactive"]) == (3, 3, 2)
            assert {one["plan"]: one["accounts"] for one in tenant["plans"]} == {
                "trial": 2, "pro": 1, "plus": 0, "teams": 0,
            }  # fmt: skip
            answer = await operator.call("manage_accounts", action="statistics", tenant_id="acme")
            assert answer.json()["result"]["statistics"]["accounts"] == 3
            answer = await operator.call("manage_accounts", action="statistics", tenant_id="nowhere")
            empty = answer.json()["result"]["statistics"]
            assert (empty["accounts"], empty["trials"]["conversion_percent"]) == (0, None)


# Erased


@pytest.mark.parametrize("era", ERAS)
async def test_an_erased_user_is_gone_and_what_was_used_is_not(tmp_path: Path, era: str) -> None:
    place = Place(tmp_path, clock=TODAY, CATALOG="jobs-platform")
    app_token = place.token("app", role="service")
    with place.serving() as server:
        async with (
            server.client(place.token(ALICE, tier="pro"), ERAS[era]) as alice,
            server.client(app_token, ERAS[era]) as app,
            server.client(root(place), ERAS[era]) as operator,
        ):
            await alice.call("get_tier_info")
            await app.call(
                "record_usage", user_id=ALICE, event="job", quantity=7, idempotency_key=f"{ALICE}:1"
            )
            await app.call("open_session", user_id=ALICE)
            usage = {"group_by": ["event"]}
            before = await operator.call("get_usage_analytics", tenant_id="acme", **usage)
            done = await operator.call(
                "manage_accounts", action="erase", user_id=ALICE, reason=f"{ALICE} asked"
            )
            erased = done["erased"]
            assert (erased["remaining"], erased["counts"]["events"], erased["counts"]["sessions"]) == (
                0,
                1,
                1,
            )
            assert ALICE not in done["text"]
            after = await operator.call("get_usage_analytics", tenant_id="acme", **usage)
            assert (after["totals"], after["breakdown"]) == (before["totals"], before["breakdown"])
            log = place.database.with_name("ledger.db-wal")
            assert ALICE.encode() not in place.database.read_bytes() + log.read_bytes()
            gone = await operator.call("manage_accounts", action="show", account_id=erased["alias"])
            assert (gone["account"]["status"], gone["account"]["open_sessions"]) == ("canceled", [])
            assert gone["account"]["audit"][0]["audit_id"] == done["audit_id"]
            again = await operator.refusal("manage_accounts", action="erase", user_id=ALICE, reason=WHY)
            assert again["code"] == "not_found"
            back = await app.call("record_usage", user_id=ALICE, event="job")
            assert (back["plan"], back["limits"][0]["used"]) == ("free", 1)
    assert place.run("verify").returncode == 0
    assert place.run("export", "--all", "ledger.jsonl").returncode == 0
    other = Place(tmp_path / "other", clock=TODAY, CATALOG="jobs-platform")
    other.folder.mkdir()
    assert other.run("import", str(tmp_path / "ledger.jsonl")).returncode == 0
    assert other.run("verify").returncode == 0


# Who may, and how it is asked


async def test_an_operator_reaches_no_farther_than_its_role(notes: Place, server: Server) -> None:
    async with (
        server.api(notes.token("eve")) as member,
        server.api(notes.token("app", role="service")) as app,
        server.api(notes.token("tara", role="tenant_admin")) as tara,
        server.api(root(notes)) as operator,
    ):
        assert (await member.call("get_tier_info")).status_code == 200
        for nobody in (member, app):
            assert (await nobody.call("manage_accounts", action="statistics")).status_code == 404
        for action in ("suspend", "activate", "payment_failed", "payment_received", "erase"):
            refused = await tara.call("manage_accounts", action=action, user_id="eve", reason=WHY)
            problem_of(refused, 403, "forbidden")
        for given in (
            {"action": "search"},
            {"action": "statistics"},
            {"action": "show", "user_id": "eve"},
            {"action": "end_sessions", "user_id": "eve", "reason": WHY},
        ):
            assert (await tara.call("manage_accounts", **given)).status_code == 200, given
            problem_of(await tara.call("manage_accounts", tenant_id="globex", **given), 403, "forbidden")
        there = await operator.call("manage_accounts", action="show", tenant_id="globex", account_id="eve")
        problem_of(there, 404, "not_found")


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"action": "suspend", "user_id": "eve"}, "suspend needs reason"),
    *(
        ({"action": "suspend", "user_id": "eve", "reason": blank}, "at least one visible character")
        for blank in (" ", "\u00a0\u2003", "\u200d")
    ),
    ({"action": "suspend", "reason": WHY}, "suspend needs account_id or user_id"),
    ({"action": "show"}, "show needs account_id or user_id"),
    ({"action": "show", "user_id": "eve", "reason": WHY}, "show takes no reason"),
    ({"action": "search", "user_id": "eve"}, "search is about a whole tenant"),
    ({"action": "statistics", "account_id": "eve"}, "statistics is about a whole tenant"),
    ({"action": "statistics", "query": "eve"}, "statistics takes no query"),
    ({"action": "erase", "account_id": "eve", "reason": WHY}, "erase needs user_id"),
    ({"action": "erase", "account_id": "t", "user_id": "eve", "reason": WHY}, "erase needs user_id"),
    ({"action": "search", "page_size": 51}, "page_size must be at most 50"),
    ({"action": "rename", "user_id": "eve"}, "action must be one of"),
]


@pytest.mark.parametrize(("given", "said"), ARGUMENTS)
async def test_what_an_action_needs_and_does_not_take_is_said(
    notes: Place, server: Server, given: dict[str, Any], said: str
) -> None:
    async with server.api(root(notes)) as operator:
        problem = problem_of(await operator.call("manage_accounts", **given), 422, "invalid_request")
        assert said in problem["detail"]


def test_a_list_of_tools_costs_a_model_no_more_than_it_may() -> None:
    def seen_by(role: str) -> list[Any]:
        roles = frozenset({"member", role})
        return [tool for tool in TOOLS if reach(tool.name, roles, members_may_record=False)]

    assert list_bytes(seen_by("holder")) <= 12_000
    assert list_bytes(list(TOOLS)) <= 16_000


async def test_the_command_line_does_the_same(tmp_path: Path) -> None:
    place = Place(tmp_path, clock=TODAY, CATALOG="jobs-platform")
    with place.serving() as server:
        async with (
            server.api(place.token("bob", tier="pro")) as bob_himself,
            server.api(place.token("app", role="service")) as app,
        ):
            assert (await bob_himself.call("get_tier_info")).status_code == 200
            for user in ("bob", ALICE):
                assert (await app.call("open_session", user_id=user)).status_code == 200

    def run(*words: str, code: int = 0) -> str:
        done = place.run("accounts", *words)
        assert done.returncode == code, done.stderr
        return done.stdout

    acme, bob = ("--tenant", "acme"), ("--tenant", "acme", "--user", "bob")
    found = json.loads(run("search", *acme, "bo", "--json"))
    assert [account["account_id"] for account in found["accounts"]] == ["bob"]
    assert run("search", *acme, "nobody") == "No account matches.\n"
    assert "status" in run("suspend", *bob, "--reason", WHY, "--json")
    assert "suspended 2026-11-20 14:03 UTC" in run("show", *bob)
    run("suspend", *bob, "--reason", WHY, code=1)
    assert run("activate", *bob, "--reason", WHY).startswith("Done, effective at once (activate).")
    assert run("payment-failed", *bob, "--reason", WHY).startswith(
        "Done, effective at once (payment_failed)."
    )
    run("payment-failed", *bob, "--reason", WHY, code=1)
    run("payment-received", *bob, "--reason", " ", code=2)
    assert (
        json.loads(run("payment-received", *bob, "--reason", WHY, "--json"))["account"]["status"] == "active"
    )
    assert run("end-sessions", *bob, "--reason", WHY).startswith("1 open session ended.")
    assert run("statistics", *acme).startswith("acme: 2 accounts with 2 users, 0 more")
    run("show", *acme, code=2)
    erased = json.loads(run("erase", *acme, "--user", ALICE, "--reason", WHY, "--yes", "--json"))["erased"]
    assert erased["remaining"] == 0
    assert place.run("verify").returncode == 0
