"""Plans created, updated, archived and migrated at run time, and what a catalog file may change under a ledger."""

from dataclasses import replace
from typing import Any

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_limit,
    a_plan,
    a_publication,
    a_record,
    a_subject,
    buy,
    code_of,
    decision_of,
    three_plans,
    view_of,
)
from tests.contract.test_engine import SqliteStore, one_plan

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    EditPlan,
    MigratePlan,
    Outcome,
    PlanChanged,
    PlanEdited,
    PlanMigrated,
    PlansPublished,
    PublishPlans,
)
from subscription_mcp.ledger.queries import AuditTrail, PlanHolders, PlanRecord, PlanRecords, Whose
from subscription_mcp.ledger.writer import Ledger

SUSAN = Actor("susan", "superadmin")
TEAM = {
    "title": "Team",
    "price": {"monthly": "49.00"},
    "limits": [{"meter": "messages", "window": "day", "limit": 500}],
}


def an_edit(action: Any, plan: str, reason: str | None = None, **table: Any) -> EditPlan:
    return EditPlan(SUSAN, action, plan, table, reason)


def a_migration(plan: str, **fields: Any) -> MigratePlan:
    return MigratePlan(SUSAN, plan, "new terms", **fields)


def edited(outcome: Outcome) -> PlanEdited:
    assert isinstance(outcome, PlanEdited), outcome
    return outcome


def migrated(outcome: Outcome) -> PlanMigrated:
    assert isinstance(outcome, PlanMigrated), outcome
    return outcome


def refusal(outcome: Outcome, code: str) -> Refusal:
    assert isinstance(outcome, Refusal) and outcome.code == code, outcome
    return outcome


def published(outcome: Outcome) -> PlansPublished:
    assert isinstance(outcome, PlansPublished), outcome
    return outcome


async def offered(ledger: Ledger) -> dict[str, int]:
    await ledger.refresh()
    return {key: plan.version for key, plan in ledger.engine.catalog.plans.items()}


async def record_of(ledger: Ledger, plan: str) -> PlanRecord:
    (record,) = await ledger.query(PlanRecords(ledger.now(), plan))
    assert isinstance(record, PlanRecord)
    return record


async def trail(ledger: Ledger, action: str, whose: Whose | None = None) -> list[Any]:
    return list(await ledger.query(AuditTrail(whose or Whose(""), action, 10)))


# Creating and updating


async def test_a_new_plan_is_offered_at_once_also_by_another_process(store: SqliteStore) -> None:
    async with store.open() as one, store.open(publish=False) as other:
        made = edited(await one.submit_one(an_edit("create", "team", "asked for", **TEAM)))
        assert (made.plan.version, made.is_archived) == (1, False)
        assert await offered(other) == {"basic": 1, "advanced": 1, "premium": 1, "team": 1}
        assert code_of(await buy(other, "team")) == "ok"
        assert decision_of(await one.submit_one(a_record(quantity=500))).plan == "team"
        assert code_of(await other.submit_one(a_record())) == "quota_exceeded"
        (entry,) = await trail(other, "plan.create")
        assert (entry.id, entry.actor, entry.reason, entry.before) == (
            made.audit.id,
            SUSAN,
            "asked for",
            None,
        )
        assert entry.after["definition"]["limits"][0]["limit"] == 500


async def test_an_update_replaces_what_is_given_and_subscribers_stay(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record("old", quantity=50))
        made = edited(await ledger.submit_one(an_edit("update", "basic", limits=TEAM["limits"])))
        assert (made.plan.version, made.plan.title, made.plan.price.is_free) == (2, "Basic", True)
        assert [limit.maximum for limit in made.plan.limits] == [500]
        assert code_of(await ledger.submit_one(a_record("old"))) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_record("new", quantity=51))) == "ok"
        assert await ledger.query(PlanHolders(ledger.now())) == [("basic", 1, 1), ("basic", 2, 1)]
        record = await record_of(ledger, "basic")
        assert (record.origin, record.holders) == ("runtime", {1: 1, 2: 1})
        (entry,) = await trail(ledger, "plan.update")
        assert (entry.before["version"], entry.after["version"]) == (1, 2)


async def test_null_takes_away_what_a_plan_can_be_without(store: SqliteStore) -> None:
    async with store.open() as ledger:
        with_seats = edited(await ledger.submit_one(an_edit("update", "premium", seats={"max": 5})))
        assert with_seats.plan.seats_max == 5
        without = edited(await ledger.submit_one(an_edit("update", "premium", seats=None)))
        assert without.plan.seats_max is None
        problem = refusal(
            await ledger.submit_one(an_edit("update", "premium", price=None)), "invalid_request"
        )
        assert [(one.field, one.rule) for one in problem.fields] == [("plan.price", "is missing")]


async def test_an_update_that_says_the_same_and_a_plan_made_twice_are_conflicts(store: SqliteStore) -> None:
    async with store.open() as ledger:
        same = refusal(await ledger.submit_one(an_edit("update", "basic", title="Basic")), "conflict")
        assert same.message == "Nothing changed: version 1 of basic says the same."
        twice = refusal(await ledger.submit_one(an_edit("create", "basic", **TEAM)), "conflict")
        assert "update edits it" in twice.message
        unknown = refusal(await ledger.submit_one(an_edit("update", "basics", title="B")), "not_found")
        assert "Did you mean 'basic'?" in unknown.message
        assert await offered(ledger) == {"basic": 1, "advanced": 1, "premium": 1}


@pytest.mark.parametrize(
    ("table", "field", "rule"),
    [
        ({"limits": [{"meter": "mesages", "window": "day", "limit": 1}]}, "plan.limits[0].meter", "messages"),
        ({"limits": [{"meter": "messages", "window": "dya", "limit": 1}]}, "plan.limits[0].window", "day"),
        (
            {"limits": [{"meter": "messages", "window": "day", "limit": -1}]},
            "plan.limits[0].limit",
            "negative",
        ),
        (
            {"limits": [{"meter": "storage_mb", "window": "day", "limit": 1}]},
            "plan.limits[0].window",
            "level",
        ),
        ({"price": {"monthly": 29.99}}, "plan.price.monthly", "decimal string"),
        ({"price": {}}, "plan.price", "monthly or yearly"),
        ({"titel": "Team"}, "plan.titel", "did you mean 'title'?"),
        ({"features": ["sso"]}, "plan.features[0]", "names no feature"),
        ({"changes_to": ["premum"]}, "plan.changes_to[0]", "did you mean 'premium'?"),
        ({"trial": {"days": 7}}, "plan.trial", "a trial is free"),
        ({"timezone": "Europe/Berln"}, "plan.timezone", "did you mean 'Europe/Berlin'?"),
        ({"sessions": {"max_duration": "2 hours"}}, "plan.sessions.max_duration", "ISO 8601"),
        ({"seats": {"max": 0}}, "plan.seats.max", "at least 1"),
        ({"provider_price_ids": {"weekly": "x"}}, "plan.provider_price_ids.weekly", "monthly"),
        ({"a b\n": 1}, "plan.?a?b?n?", "unknown key"),
    ],
)
async def test_a_plan_is_judged_like_one_of_the_file(
    store: SqliteStore, table: dict[str, Any], field: str, rule: str
) -> None:
    async with store.open() as ledger:
        for command in (
            an_edit("create", "team", **{**TEAM, **table}),
            an_edit("update", "premium", **table),
        ):
            (problem,) = refusal(await ledger.submit_one(command), "invalid_request").fields
            assert problem.field == field
            assert rule in problem.rule
        assert await offered(ledger) == {"basic": 1, "advanced": 1, "premium": 1}


async def test_what_was_written_is_not_repeated_in_a_fault(store: SqliteStore) -> None:
    async with store.open() as ledger:
        wrong = {**TEAM, "limits": [{"meter": "evil words", "window": "day", "limit": 1}]}
        said = refusal(await ledger.submit_one(an_edit("create", "team", **wrong)), "invalid_request")
        assert "evil" not in f"{said.message} {said.fields}"
        named = refusal(await ledger.submit_one(an_edit("create", "Evil Team", **TEAM)), "invalid_request")
        assert ([one.field for one in named.fields], "Evil" in named.message) == (["plan.plan"], False)


async def test_the_default_plan_stays_free(store: SqliteStore) -> None:
    async with store.open() as ledger:
        problem = refusal(
            await ledger.submit_one(an_edit("update", "basic", price={"monthly": "1.00"})), "invalid_request"
        )
        assert [one.field for one in problem.fields] == ["plan.price"]


async def test_a_preview_leaves_nothing(store: SqliteStore) -> None:
    async with store.open() as ledger:
        rows = store.rows()
        assert edited(await ledger.rehearse(an_edit("create", "team", **TEAM))).plan.version == 1
        assert edited(await ledger.rehearse(an_edit("archive", "premium"))).is_archived
        assert (await offered(ledger), store.rows()) == ({"basic": 1, "advanced": 1, "premium": 1}, rows)


async def test_an_edit_is_seen_by_the_next_command_of_its_batch(store: SqliteStore) -> None:
    async with store.open() as ledger:
        outcomes = await ledger.submit(
            [
                a_record("old", quantity=50),
                an_edit("update", "basic", limits=TEAM["limits"]),
                a_record("new", quantity=51),
                a_migration("basic"),
                a_record("old"),
            ]
        )
        assert [code_of(outcome) for outcome in outcomes] == ["ok"] * 5
        assert migrated(outcomes[3]).moved == 1


# Archiving, and the file beside it


async def test_an_archived_plan_is_kept_by_its_holders_and_the_file_does_not_bring_it_back(
    store: SqliteStore,
) -> None:
    async with store.open() as ledger:
        await buy(ledger, "premium")
        await ledger.submit_one(an_edit("archive", "premium", "too cheap"))
        assert await offered(ledger) == {"basic": 1, "advanced": 1}
        assert code_of(await ledger.submit_one(a_change("premium", "eve", actor="eve"))) == "invalid_request"
        assert decision_of(await ledger.submit_one(a_record(quantity=1_000))).plan == "premium"
        record = await record_of(ledger, "premium")
        assert (record.is_offered, record.is_archived, record.holders) == (False, True, {1: 1})
    async with store.open(publish=False) as ledger:
        again = published(await ledger.submit_one(a_publication(*three_plans())))
        assert (again.archived, again.versions) == (("premium",), {"basic": 1, "advanced": 1})
        again_archived = refusal(await ledger.submit_one(an_edit("archive", "premium")), "conflict")
        assert "not offered any more" in again_archived.message
        back = edited(await ledger.submit_one(an_edit("update", "premium")))
        assert (back.plan.version, back.is_archived) == (2, False)
        assert await offered(ledger) == {"basic": 1, "advanced": 1, "premium": 2}
        assert not (await record_of(ledger, "premium")).is_archived


async def test_what_newcomers_get_and_the_only_way_on_cannot_be_archived(store: SqliteStore) -> None:
    async with store.open() as ledger:
        default = refusal(await ledger.submit_one(an_edit("archive", "basic")), "conflict")
        assert "default plan" in default.message
        await ledger.submit_one(an_edit("update", "advanced", changes_to=["premium"]))
        needed = refusal(await ledger.submit_one(an_edit("archive", "premium")), "conflict")
        assert "only plan to which Advanced leads" in needed.message
        await ledger.submit_one(an_edit("update", "advanced", changes_to=["premium", "basic"]))
        assert edited(await ledger.submit_one(an_edit("archive", "premium"))).is_archived


async def test_all_plans_archived_is_none_on_offer(store: SqliteStore) -> None:
    only = a_catalog(a_plan(a_limit(1), monthly="5.00"), default_plan=None)
    async with store.open(catalog=only) as ledger:
        await ledger.submit_one(an_edit("archive", "basic"))
        assert await offered(ledger) == {}
    async with store.open(catalog=only) as ledger:
        assert await offered(ledger) == {}
        assert code_of(await ledger.submit_one(a_change("basic"))) == "invalid_request"


async def test_the_file_does_not_overwrite_a_plan_edited_at_run_time_until_it_is_reset(
    store: SqliteStore,
) -> None:
    basic, advanced, _ = three_plans()
    async with store.open() as ledger:
        await ledger.submit_one(an_edit("update", "premium", price={"monthly": "119.00"}))
        await ledger.submit_one(an_edit("create", "team", **TEAM))
    dearer = a_plan(a_limit(1_000), key="premium", monthly="109.00")
    async with store.open(catalog=a_catalog(basic, advanced, dearer), publish=False) as ledger:
        command = a_publication(basic, advanced, dearer)
        first = published(await ledger.submit_one(command))
        assert first.held_back == ["premium"]
        assert first.versions == {"basic": 1, "advanced": 1, "premium": 2, "team": 1}
        command.reset = "premium"
        assert published(await ledger.submit_one(command)).versions["premium"] == 3
        assert ledger.engine.catalog.plans["premium"].definition == dearer.definition
        command.reset = None
        after = published(await ledger.submit_one(command))
        assert (after.held_back, after.published, after.versions["premium"]) == ([], [], 3)
        command.reset = "team"
        assert "archive it" in refusal(await ledger.submit_one(command), "invalid_request").message


async def test_a_reset_offers_an_archived_plan_again(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(an_edit("archive", "premium"))
        command = a_publication(*three_plans())
        command.reset = "premium"
        assert published(await ledger.submit_one(command)).versions["premium"] == 1
        command.reset = None
        assert published(await ledger.submit_one(command)).archived == ()


async def test_an_update_back_to_what_the_file_says_stays_current(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(5))) as ledger:
        for maximum in (6, 5):
            limits = [{"meter": "messages", "window": "day", "limit": maximum}]
            await ledger.submit_one(an_edit("update", "basic", limits=limits))
        again = published(await ledger.submit_one(a_publication(a_plan(a_limit(5)))))
        assert (again.versions, again.held_back, again.published) == ({"basic": 3}, [], [])


# Migrating


async def test_a_migration_goes_on_in_bounded_steps_and_leaves_nobody(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit([a_record(f"user{n}") for n in range(7)])
        await ledger.submit_one(an_edit("update", "basic", limits=TEAM["limits"]))
        step = migrated(await ledger.submit_one(a_migration("basic", size=3)))
        assert (step.plan.version, step.moved) == (2, 3)
        assert step.last is not None and step.audit is not None
        assert await ledger.query(PlanHolders(ledger.now())) == [("basic", 1, 4), ("basic", 2, 3)]
        # Interrupted here, and called again from the beginning.
        again = migrated(await ledger.submit_one(a_migration("basic", size=3)))
        rest = migrated(await ledger.submit_one(a_migration("basic", size=3, after=again.last)))
        assert (again.moved, rest.moved, rest.last, rest.audit) == (3, 1, None, None)
        assert await ledger.query(PlanHolders(ledger.now())) == [("basic", 2, 7)]
        nobody = refusal(await ledger.submit_one(a_migration("basic")), "conflict")
        assert "nothing was changed" in nobody.message
        account = Whose("acme", "personal", "user0")
        (entry,) = await trail(ledger, "subscription.migrate", account)
        assert (entry.actor, entry.reason) == (SUSAN, "new terms")
        assert (entry.before["version"], entry.after["version"]) == (1, 2)
        of_plan = await trail(ledger, "plan.migrate")
        assert [one.before["accounts"] for one in of_plan] == [
            {"version 1, monthly": 4},
            {"version 1, monthly": 7},
        ]


async def test_what_was_used_stays_used_and_the_price_waits_for_the_renewal(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    async with store.open(clock=clock) as ledger:
        await buy(ledger, "advanced")
        clock.advance(days=3)
        await ledger.submit_one(a_record(quantity=150))
        before = view_of(await ledger.rehearse(Arrive(a_subject())))
        await ledger.submit_one(
            an_edit(
                "update",
                "advanced",
                price={"monthly": "35.00"},
                limits=[
                    {"meter": "messages", "window": "day", "limit": 100},
                    {"meter": "messages", "window": "week", "limit": 400},
                ],
            )
        )
        assert migrated(await ledger.submit_one(a_migration("advanced"))).moved == 1
        after = view_of(await ledger.rehearse(Arrive(a_subject())))
        assert before.subscription is not None and after.subscription is not None
        for name in ("anchor", "interval", "seats", "created_at", "origin"):
            assert getattr(before.subscription, name) == getattr(after.subscription, name)
        assert {(state.window, state.used) for state in after.limits} == {("day", 150), ("week", 150)}
        refused = decision_of(await ledger.submit_one(a_record()))
        assert refused.message.startswith("Advanced plan: 150 of 100 messages used today.")
        assert (refused.limits[0].remaining, refused.limits[0].permille) == (0, 1500)
        clock.advance(days=1)
        assert code_of(await ledger.submit_one(a_record())) == "ok"


async def test_who_goes_up_after_a_migration_is_given_back_what_was_paid(store: SqliteStore) -> None:
    clock = Clock("2026-11-01T00:00:00Z")
    async with store.open(clock=clock) as ledger:
        await buy(ledger, "advanced")
        for price in ("59.00", "69.00"):
            await ledger.submit_one(an_edit("update", "advanced", price={"monthly": price}))
            await ledger.submit_one(a_migration("advanced"))
        clock.set("2026-11-16T00:00:00Z")
        up = a_change("premium")
        half = await ledger.rehearse(up)
        assert isinstance(half, PlanChanged)
        assert (half.change.price_now.micros, half.change.price_next.micros) == (35_000_000, 99_000_000)
        clock.set("2026-12-16T12:00:00Z")  # the renewal was at the new price
        half = await ledger.rehearse(up)
        assert isinstance(half, PlanChanged) and half.change.price_now.micros == 15_000_000


async def test_only_one_version_is_migrated_where_it_is_named(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record("first"))
        await ledger.submit_one(an_edit("update", "basic", title="Basic 2"))
        await ledger.submit_one(a_record("second"))
        await ledger.submit_one(an_edit("update", "basic", title="Basic 3"))
        for wrong in (3, 9):
            problem = refusal(
                await ledger.submit_one(a_migration("basic", from_version=wrong)), "invalid_request"
            )
            assert [one.field for one in problem.fields] == ["from_version"]
        assert migrated(await ledger.submit_one(a_migration("basic", from_version=1))).moved == 1
        assert await ledger.query(PlanHolders(ledger.now())) == [("basic", 2, 1), ("basic", 3, 1)]


async def test_an_interval_the_new_version_is_not_sold_for_refuses_all_of_it(store: SqliteStore) -> None:
    yearly = a_plan(a_limit(9), key="pro", monthly="10.00", yearly="100.00")
    async with store.open(catalog=a_catalog(a_plan(a_limit(1)), yearly)) as ledger:
        await buy(ledger, "pro", "monthly-one", actor="monthly-one")
        await buy(ledger, "pro", "yearly-one", actor="yearly-one", interval="yearly")
        await ledger.submit_one(an_edit("update", "pro", price={"monthly": "12.00"}))
        problem = refusal(await ledger.submit_one(a_migration("pro")), "conflict")
        assert "1 account of version 1 pay yearly" in problem.message
        assert await ledger.query(PlanHolders(ledger.now())) == [("pro", 1, 2)]
        await ledger.submit_one(an_edit("update", "pro", price={"monthly": "12.00", "yearly": "120.00"}))
        assert migrated(await ledger.submit_one(a_migration("pro"))).moved == 2


async def test_a_scheduled_change_to_an_older_version_is_to_the_newest(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    async with store.open(clock=clock) as ledger:
        await buy(ledger, "premium")
        await buy(ledger, "advanced")  # waits for the period's end
        await ledger.submit_one(an_edit("update", "advanced", limits=TEAM["limits"]))
        assert migrated(await ledger.submit_one(a_migration("advanced"))).moved == 1
        clock.advance(days=31)
        view = view_of(await ledger.rehearse(Arrive(a_subject())))
        assert view.plan is not None
        assert (view.plan.key, view.plan.version) == ("advanced", 2)


async def test_seats_that_are_only_sold_now_are_one_for_each_user(store: SqliteStore) -> None:
    pro = a_plan(a_limit(9), key="pro", monthly="10.00")
    async with store.open(catalog=a_catalog(a_plan(a_limit(1)), pro)) as ledger:
        for user in ("ann", "bob"):
            await ledger.submit_one(a_record(a_subject(user, group="crew", group_admin=user == "ann")))
        await buy(ledger, "pro", a_subject("ann", group="crew"), actor="ann")
        await ledger.submit_one(an_edit("update", "pro", price={"monthly": "10.00", "per_seat": "2.00"}))
        await ledger.submit_one(a_migration("pro"))
        view = view_of(await ledger.rehearse(Arrive(a_subject(None, account="crew"))))
        assert view.subscription is not None and view.subscription.seats == 2


async def test_a_trial_keeps_its_dates(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(an_edit("update", "basic", trial={"days": 7}))
        await ledger.submit_one(a_record("new"))
        before = view_of(await ledger.rehearse(Arrive(a_subject("new"))))
        await ledger.submit_one(an_edit("update", "basic", trial={"days": 30}))
        await ledger.submit_one(a_migration("basic"))
        after = view_of(await ledger.rehearse(Arrive(a_subject("new"))))
        assert before.subscription is not None and after.subscription is not None
        assert after.subscription.version == 3
        assert after.subscription.trial_ends_at == before.subscription.trial_ends_at
        clock.advance(days=8)
        assert code_of(await ledger.submit_one(a_record("new"))) == "trial_expired"


async def test_two_processes_migrate_at_the_same_time_and_move_everybody_once(store: SqliteStore) -> None:
    async with store.open() as one, store.open(publish=False) as other:
        await one.submit([a_record(f"user{n}") for n in range(4)])
        await one.submit_one(an_edit("update", "basic", title="Basic 2"))
        first = migrated(await one.submit_one(a_migration("basic", size=2)))
        second = migrated(await other.submit_one(a_migration("basic", size=2)))
        behind = migrated(await one.submit_one(a_migration("basic", size=2, after=first.last)))
        assert (first.moved, second.moved, behind.moved) == (2, 2, 0)
        entries = await trail(one, "subscription.migrate", Whose("acme"))
        assert len({entry.account for entry in entries}) == len(entries) == 4
        assert (await one.engine.verify()).differences == ()


# What a catalog file may not change


def with_meters(catalog: Catalog, **changed: Any) -> Catalog:
    meters = {name: meter for name, meter in catalog.meters.items() if changed.get(name, meter) is not None}
    return replace(
        catalog, meters={name: replace(meter, **changed.get(name, {})) for name, meter in meters.items()}
    )


def a_replacement(*plans: Any) -> PublishPlans:
    command = a_publication(*plans)
    command.replace_catalog = True
    return command


@pytest.mark.parametrize(
    "change",
    [{"aggregate": "count"}, {"event": "tool_call"}, {"unit": "letter"}, {"where": (("provider", ("x",)),)}],
)
async def test_a_meter_that_was_used_does_not_count_otherwise(
    store: SqliteStore, change: dict[str, Any]
) -> None:
    plan = a_plan(a_limit(5))
    async with store.open(catalog=one_plan(a_limit(5))) as ledger:
        await ledger.submit_one(a_record())
    changed = with_meters(one_plan(a_limit(5)), messages=change, llm_calls=change)
    async with store.open(catalog=changed, publish=False) as ledger:
        problem = refusal(await ledger.submit_one(a_publication(plan)), "conflict")
        (key,) = change
        assert problem.message.startswith(
            f"meters.messages.{key}: {key} of this meter changed after it was used"
        )
        assert published(await ledger.submit_one(a_replacement(plan))).versions == {"basic": 1}
        assert published(await ledger.submit_one(a_publication(plan))).versions == {"basic": 1}


async def test_a_meter_nobody_used_may_count_otherwise(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(5))):
        pass
    changed = with_meters(one_plan(a_limit(5)), messages={"aggregate": "count"})
    async with store.open(catalog=changed) as ledger:
        await ledger.submit_one(a_record(quantity=3))
        view = view_of(await ledger.rehearse(Arrive(a_subject())))
        assert view.limits[0].used == 1


async def test_a_meter_that_somebodys_plan_limits_is_not_taken_away(store: SqliteStore) -> None:
    limited, without = a_plan(a_limit(5)), a_plan(a_limit(9, meter="tool_calls"))
    async with store.open(catalog=a_catalog(limited)) as ledger:
        await ledger.submit_one(a_record())
    gone = with_meters(a_catalog(without), messages=None)
    async with store.open(catalog=gone, publish=False) as ledger:
        problem = refusal(await ledger.submit_one(a_publication(without)), "conflict")
        assert problem.message.startswith(
            "meters.messages: is gone, but version 1 of plan 'basic', which 1 account holds, limits it"
        )
    async with store.open(catalog=a_catalog(without)) as ledger:
        await ledger.submit_one(a_migration("basic"))
    async with store.open(catalog=gone) as ledger:
        assert code_of(await ledger.submit_one(a_record(quantity=99))) == "ok"


async def test_the_currency_stays_while_somebody_pays_in_it(store: SqliteStore) -> None:
    basic, advanced, _ = three_plans()
    async with store.open(catalog=a_catalog(basic, advanced)) as ledger:
        await ledger.submit_one(a_record())
    euro = [a_plan(a_limit(50), currency="EUR"), a_plan(key="advanced", monthly="29.00", currency="EUR")]
    catalog = replace(a_catalog(*euro), currency="EUR")
    async with store.open(catalog=catalog, publish=False) as ledger:
        assert published(await ledger.submit_one(a_publication(*euro))).versions == {
            "basic": 2,
            "advanced": 2,
        }
    async with store.open(catalog=a_catalog(basic, advanced)) as ledger:
        await buy(ledger, "advanced")
    async with store.open(catalog=catalog, publish=False) as ledger:
        for command in (a_publication(*euro), a_replacement(*euro)):
            problem = refusal(await ledger.submit_one(command), "conflict")
            assert problem.message.startswith(
                "currency: is EUR now, but version 1 of plan 'advanced', which 1 account holds, costs USD"
            )


async def test_the_currency_stays_while_somebody_has_a_free_plan_that_sells_what_is_beyond_it(
    store: SqliteStore,
) -> None:
    basic = a_plan(a_limit(50))
    async with store.open(
        catalog=a_catalog(basic, a_plan(a_limit(5, overage="0.10"), key="metered"))
    ) as ledger:
        await buy(ledger, "metered")
    euro = [a_plan(a_limit(50), currency="EUR"), a_plan(a_limit(5), key="metered", currency="EUR")]
    async with store.open(catalog=replace(a_catalog(*euro), currency="EUR"), publish=False) as ledger:
        problem = refusal(await ledger.submit_one(a_publication(*euro)), "conflict")
        assert problem.message.startswith(
            "currency: is EUR now, but version 1 of plan 'metered', which 1 account holds, costs USD"
        )


async def test_a_default_plan_that_was_archived_or_costs_something_is_refused(store: SqliteStore) -> None:
    basic, advanced, premium = three_plans()
    free = a_plan(a_limit(1), key="free")
    async with store.open(catalog=a_catalog(basic, advanced, premium, free)) as ledger:
        await ledger.submit_one(an_edit("archive", "free"))
        await ledger.submit_one(an_edit("update", "advanced", price={"monthly": "9.00"}))
    for default, why in (
        ("free", "was archived at run time"),
        ("advanced", "was edited at run time and costs"),
    ):
        catalog = a_catalog(basic, a_plan(key="advanced"), premium, free, default_plan=default)
        async with store.open(catalog=catalog, publish=False) as ledger:
            command = a_publication(*catalog.plans.values())
            problem = refusal(await ledger.submit_one(command), "conflict")
            assert problem.message.startswith(f"default_plan: plan '{default}' {why}")
            assert await offered(ledger) == {"basic": 1, "advanced": 2, "premium": 1}


async def test_a_file_that_goes_back_says_so_and_makes_no_new_version(store: SqliteStore) -> None:
    old, new = a_plan(a_limit(5)), a_plan(a_limit(6))
    async with store.open(catalog=a_catalog(old)) as one, store.open(catalog=a_catalog(new)) as other:
        assert await offered(one) == await offered(other) == {"basic": 2}
        for plan, version, back in ((old, 1, ("basic",)), (new, 2, ()), (old, 1, ("basic",))):
            again = published(await one.submit_one(a_publication(plan)))
            assert (again.versions, again.brought_back, again.published) == ({"basic": version}, back, [])
        assert store.rows()["plan_version"] == 2
