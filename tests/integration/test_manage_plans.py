"""`manage_plans` as a super-admin uses it beside a running service, on the catalog of groups that share their tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness import ERAS, TODAY, Place, Talk, problem_of, talking

PLANS = ["basic", "standard", "professional"]
STARTER: dict[str, Any] = {
    "plan": "starter",
    "title": "Starter",
    "price": {"monthly": "9.99"},
    "seats": {"max": 2},
    "limits": [
        {"meter": "llm_tokens", "window": "billing_period", "limit": 1_000, "scope": "account"},
        {"meter": "voice_tokens", "window": "billing_period", "limit": 500, "scope": "account"},
    ],
    "provider_price_ids": {"monthly": "price_starter_1"},
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, clock=TODAY, CATALOG="group-tokens")


def susan(place: Place) -> str:
    return place.token("susan", tenant="vendor", role="superadmin")


def ada(place: Place) -> str:
    return place.token("ada", group="crew", role="admin")


async def plans_of(talk: Talk) -> dict[str, dict[str, Any]]:
    return {plan["plan"]: plan for plan in (await talk.call("manage_plans", action="list"))["plans"]}


@pytest.mark.parametrize("mode", ERAS.values(), ids=ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_plan_is_made_sold_changed_migrated_and_archived(
    place: Place, transport: str, mode: str
) -> None:
    with place.serving() as server:
        async with (
            talking(place, server, transport, susan(place), mode) as boss,
            server.client(ada(place), mode) as admin,
            server.api(place.token("app", role="service")) as app,
        ):
            preview = await boss.call("manage_plans", action="create", plan=STARTER, dry_run=True)
            assert (preview["dry_run"], preview["audit_id"]) == (True, None)
            assert list(await plans_of(boss)) == PLANS
            made = await boss.call("manage_plans", action="create", plan=STARTER, reason="small groups")
            (starter,) = made["plans"]
            assert (starter["version"], starter["origin"], starter["holders"]) == (1, "runtime", [])
            assert starter["provider_price_ids"] == {"monthly": "price_starter_1"}
            assert made["audit_id"]
            assert made["text"] == "Done, for everybody at once: Version 1 of Starter (starter) is on offer."

            # The other process offers it too.
            assert "starter" in [plan["plan"] for plan in (await admin.call("list_plans"))["plans"]]
            assert (await admin.buy("starter"))["status"] == "applied"

            async def consume(quantity: int) -> dict[str, Any]:
                answer = await app.call(
                    "check_quota", user_id="ada", account_id="crew", event="llm", quantity=quantity
                )
                decision: dict[str, Any] = answer.json()["result"]
                return decision

            used = await app.call("record_usage", user_id="ada", account_id="crew", event="llm", quantity=900)
            assert used.status_code == 200

            more = [{**STARTER["limits"][0], "limit": 5_000}, STARTER["limits"][1]]
            changed = await boss.call(
                "manage_plans",
                action="update",
                plan={"plan": "starter", "price": {"monthly": "14.99"}, "limits": more},
            )
            assert changed["affected"] == [{"version": 1, "accounts": 1}]
            assert changed["affected_accounts"] == [
                {"tenant_id": "acme", "account_id": "crew", "account_kind": "group", "version": 1}
            ]
            assert (await consume(200))["code"] == "quota_exceeded"

            before = await admin.call("get_tier_info")
            looked = await boss.call(
                "manage_plans", action="migrate", plan="starter", reason="more for all", dry_run=True
            )
            assert (looked["affected"], looked["moved"]) == ([{"version": 1, "accounts": 1}], None)
            moved = await boss.call("manage_plans", action="migrate", plan="starter", reason="more for all")
            assert (moved["moved"], moved["plans"][0]["holders"]) == (1, [{"version": 2, "accounts": 1}])
            assert (await consume(200))["code"] == "ok"
            after = await admin.call("get_tier_info")
            assert (after["period"], after["status"]) == (before["period"], "active")
            assert after["price"]["monthly"] == {"amount": "14.99", "currency": "USD"}
            assert {(limit["meter"], limit["used"]) for limit in after["limits"]} == {
                ("llm_tokens", 900),
                ("voice_tokens", 0),
            }

            gone = await boss.call(
                "manage_plans", action="archive", plan="starter", reason="not sold any more"
            )
            assert gone["plans"][0]["archived"] and not gone["plans"][0]["offered"]
            assert "starter" not in [plan["plan"] for plan in (await admin.call("list_plans"))["plans"]]
            assert (await admin.call("get_tier_info"))["plan"] == "starter"
            listed = (await plans_of(boss))["starter"]
            assert (listed["archived"], listed["version"]) == (True, 2)
    trail = "SELECT action, actor, actor_role, reason FROM audit WHERE action LIKE 'plan.%' ORDER BY seq"
    assert place.select(trail) == [
        ("plan.create", "susan", "superadmin", "small groups"),
        ("plan.update", "susan", "superadmin", None),
        ("plan.migrate", "susan", "superadmin", "more for all"),
        ("plan.archive", "susan", "superadmin", "not sold any more"),
    ]
    assert place.rows()["subscription"] == 1, "who edits plans is no subscriber"


async def test_what_was_listed_can_be_edited_and_sent_back(place: Place) -> None:
    with place.serving() as server:
        async with server.client(susan(place)) as boss:
            for plan in (await plans_of(boss)).values():
                said = await boss.refusal("manage_plans", action="update", plan=plan["definition"])
                assert (said["code"], "Nothing changed" in said["message"]) == ("conflict", True)
                renamed = {**plan["definition"], "plan": f"{plan['plan']}-2"}
                copy = (await boss.call("manage_plans", action="create", plan=renamed))["plans"][0]
                assert {**copy, "definition": 0, "plan": 0} == {
                    **plan,
                    "definition": 0,
                    "plan": 0,
                    "origin": "runtime",
                }


async def test_only_a_superadmin_has_it(place: Place) -> None:
    with place.serving() as server:
        for role in ("admin", "tenant_admin", "service"):
            async with server.client(place.token("x", role=role, group="crew")) as talk:
                assert "manage_plans" not in await talk.tools()
                assert (await talk.rpc_error("manage_plans", action="list"))[0] == -32602
        async with server.api(susan(place)) as boss:
            assert (await boss.call("manage_plans", action="list")).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "field", "rule"),
    [
        ({"action": "create"}, "arguments", "create needs plan"),
        ({"action": "list", "plan": "basic"}, "arguments", "list takes nothing else"),
        ({"action": "archive", "plan": "basic"}, "arguments", "archive needs reason"),
        ({"action": "update", "plan": "basic"}, "plan", "must be an object"),
        ({"action": "update", "plan": 7}, "plan", "must be a plan as an object"),
        ({"action": "update", "plan": {"title": "X"}}, "plan.plan", "must be the key"),
        (
            {"action": "archive", "plan": {"plan": "basic", "title": "X"}, "reason": "x"},
            "plan",
            "but the key",
        ),
        ({"action": "update", "plan": {"plan": "basic"}, "from_version": 1}, "arguments", "no from_version"),
        (
            {
                "action": "create",
                "plan": {**STARTER, "limits": [{**STARTER["limits"][0], "meter": "lm_tokens"}]},
            },
            "plan.limits[0].meter",
            "did you mean 'llm_tokens'?",
        ),
        ({"action": "update", "plan": {"plan": "basic", "title": "\ud800"}}, "plan.title", "characters"),
        (
            {"action": "update", "plan": {"plan": "basic", "seats": {"max": 10**30}}},
            "plan.seats.max",
            "at most",
        ),
        ({"action": "update", "plan": {"plan": "x" * 300, "title": "X"}}, None, "No such plan"),
    ],
)
async def test_a_wrong_call_names_the_field_and_the_rule(
    place: Place, arguments: dict[str, Any], field: str | None, rule: str
) -> None:
    with place.serving() as server:
        async with server.api(susan(place)) as boss:
            answer = await boss.raw("manage_plans", json.dumps({"arguments": arguments}))
            if field is None:
                assert rule in problem_of(answer, 404, "not_found")["message"]
                return
            (problem,) = problem_of(answer, 422, "invalid_request")["fields"]
            assert (problem["field"], rule in problem["rule"]) == (field, True), problem


# On the command line


def test_an_operator_without_a_client_edits_plans(place: Place) -> None:
    def data(*arguments: str) -> Any:
        done = place.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    table = 'plan = "starter"\ntitle = "Starter"\nprice = { monthly = "9.99" }\nlimits = []\n'
    (place.folder / "starter.toml").write_text(table)
    assert data("plans", "create", "starter.toml", "--dry-run")["dry_run"]
    assert data("plans", "create", "starter.toml")["plans"][0]["version"] == 1
    assert place.run("plans", "create", "starter.toml").returncode == 1
    (place.folder / "edit.toml").write_text('plan = "starter"\ntitle = "Starters"\n')
    assert "Version 2 of Starters (starter) is on offer" in place.run("plans", "update", "edit.toml").stdout
    nobody = place.run("plans", "migrate", "starter", "--reason", "x")
    assert (nobody.returncode, "nothing was changed" in nobody.stderr) == (1, True)
    (place.folder / "edit.toml").write_text('plan = "starter"\ntitle = 7\n')
    wrong = place.run("plans", "update", "edit.toml")
    assert (wrong.returncode, "plan.title must be a text" in wrong.stderr) == (2, True)
    (place.folder / "edit.toml").write_text("plan = starter\n")
    assert place.run("plans", "update", "edit.toml").returncode == 2
    archived = data("plans", "archive", "basic", "--reason", "not sold any more")
    assert archived["plans"][0]["archived"]
    assert [plan["plan"] for plan in data("plans", "list")["plans"]] == [
        "starter",
        "standard",
        "professional",
    ]
    assert [row[0] for row in place.select("SELECT actor FROM audit WHERE action = 'plan.archive'")] == [
        "local-operator"
    ]


async def test_the_file_wins_again_where_it_is_told_to(place: Place) -> None:
    with place.serving() as server:
        async with server.client(susan(place)) as boss:
            await boss.call("manage_plans", action="archive", plan="basic", reason="too cheap")
            price = {"plan": "standard", "price": {"monthly": "89.99"}}
            await boss.call("manage_plans", action="update", plan=price)
    with place.serving() as server:
        server.wait_for_log("plan 'standard' was edited at run time and stays so")
        server.wait_for_log("plan 'basic' was archived at run time and stays so")
        assert "`subscription-mcp plans reset basic --yes` lets the file win" in server.log
        async with server.client(susan(place)) as boss:
            assert list(await plans_of(boss)) == ["standard", "professional", "basic"]
    assert place.run("plans", "reset", "basic").returncode == 2
    for plan in ("basic", "standard"):
        done = place.run("plans", "reset", plan, "--yes")
        assert (
            done.returncode,
            done.stderr.endswith(f"Plan {plan} is offered as group-tokens.toml has it.\n"),
        ) == (
            0,
            True,
        ), done.stderr
    unknown = place.run("plans", "reset", "basics", "--yes")
    assert (unknown.returncode, "Did you mean 'basic'?" in unknown.stderr) == (2, True)
    with place.serving() as server:
        async with server.client(susan(place)) as boss:
            plans = await plans_of(boss)
            assert list(plans) == PLANS
            assert plans["standard"]["price"]["monthly"]["amount"] == "99.99"
        assert "at run time" not in server.log
