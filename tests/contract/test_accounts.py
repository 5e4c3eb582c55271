"""Accounts as operators handle them, told against the ledger's public side: suspended, counted, found; users erased."""

import asyncio
import io
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_ledger,
    a_limit,
    a_limit_set,
    a_plan,
    a_record,
    a_reserve,
    a_subject,
    an_opening,
    buy,
    code_of,
    decision_of,
    view_of,
)
from tests.contract.populated import populate, windows_catalog
from tests.contract.test_engine import SqliteStore

from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.revocations import Revocations
from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.catalog_file import plan_from_definition
from subscription_mcp.domain.instants import DAY
from subscription_mcp.domain.subscriptions import ALLOWED_FROM, AccountKey, Scheduled, Status, Subscription
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    Decided,
    EndSessions,
    EraseUser,
    Outcome,
    RevokeTokens,
    SessionDecided,
    SessionsEnded,
    SetStatus,
    StatusChanged,
    Subject,
    UserErased,
)
from subscription_mcp.ledger.machine.facts import Changes
from subscription_mcp.ledger.queries import (
    AccountCount,
    AccountPage,
    AuditTrail,
    EventPage,
    FullestHolders,
    RevocationsSince,
    TenantActivity,
    TenantSummary,
    UsageTotals,
    Whose,
)
from subscription_mcp.ledger.sqlite.schema import PRAGMAS, migrate
from subscription_mcp.ledger.sqlite.store import Store
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.tools.accounts import erased_text

ROOT = Actor("root", "superadmin")
ALIAS = "erased-0123456789abcdef"
ALICE = "alice.o-neil@example.org"
"""An id no text of ours holds by chance."""
AFTER_ALL = 2**51
"""In 2041. To sum up thousands of years after it takes long, and there is nothing in them."""
PAID = a_plan(a_limit(50), key="pro", monthly="10.00")
WHOLE = a_subject(None, account="bob")


TRIAL = plan_from_definition(
    "trial", 0, {**a_plan(a_limit(50), key="trial").definition, "trial": {"days": 7}}
)


def trial_catalog() -> Catalog:
    return a_catalog(TRIAL, PAID, default_plan="trial")


def a_status(action: Any, subject: Subject = WHOLE) -> SetStatus:
    return SetStatus(subject, ROOT, action, "for the test")


def an_erasure(
    user: str = ALICE, *, tenant: str = "acme", alias: str = ALIAS, reason: str = "asked for it"
) -> EraseUser:
    return EraseUser(tenant, user, alias, ROOT, reason)


async def erase(ledger: Ledger, user: str = ALICE, **how: Any) -> UserErased:
    outcome = await ledger.submit_one(an_erasure(user, **how))
    assert isinstance(outcome, UserErased), outcome
    return outcome


# Statuses

STEPS: dict[Status, list[str]] = {
    "trialing": [],
    "expired": ["8 days"],
    "active": ["buy"],
    "past_due": ["buy", "payment_failed"],
    "suspended": ["suspend"],
    "canceled": ["erase"],
}
BY_HAND = ("suspend", "activate", "payment_failed", "payment_received")


async def brought_to(ledger: Ledger, clock: Clock, status: Status) -> Subject:
    """An account in a status, by what brings one there."""
    whole = WHOLE
    await ledger.submit_one(Arrive(a_subject("bob")))
    for step in STEPS[status]:
        if step == "8 days":
            clock.advance(days=8)
        elif step == "buy":
            assert code_of(await buy(ledger, "pro")) == "ok"
        elif step == "erase":
            await erase(ledger, "bob")
            whole = a_subject(None, account=ALIAS)
        else:
            assert code_of(await ledger.submit_one(a_status(step))) == "ok"
    view = view_of(await ledger.rehearse(Arrive(whole)))
    assert view.subscription is not None
    assert view.subscription.status_at(ledger.now()) == status
    return whole


@pytest.mark.parametrize("status", get_args(Status))
@pytest.mark.parametrize("action", BY_HAND)
async def test_a_status_changes_where_the_table_allows_it_and_nowhere_else(
    store: SqliteStore, action: Any, status: Status
) -> None:
    clock = Clock()
    async with store.open(catalog=trial_catalog(), clock=clock) as ledger:
        whole = await brought_to(ledger, clock, status)
        before = store.rows()
        outcome = await ledger.submit_one(a_status(action, whole))
        if status in ALLOWED_FROM[action]:
            assert isinstance(outcome, StatusChanged), outcome
            assert outcome.audit.action == f"subscription.{action}"
            assert (outcome.audit.actor, outcome.audit.reason) == (ROOT, "for the test")
        else:
            assert code_of(outcome) == "conflict"
            assert store.rows() == before


async def test_nobody_is_suspended_who_was_never_seen(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert code_of(await ledger.submit_one(a_status("suspend"))) == "not_found"
        assert code_of(await ledger.submit_one(a_status("suspend", a_subject("nobody")))) == "not_found"


# Sessions


async def test_all_open_sessions_of_a_user_or_of_a_whole_group_end_at_once(store: SqliteStore) -> None:
    async with store.open() as ledger:
        for user in ("ann", "ben"):
            await ledger.submit_one(Arrive(a_subject(user, group="team", group_admin=user == "ann")))
        opened = await ledger.submit(
            [an_opening(user) for user in ("ann", "ann", "ben", "ben", "ben", "bob")]
        )
        assert {code_of(outcome) for outcome in opened} == {"ok"}

        one = await ledger.submit_one(EndSessions(a_subject("ann"), ROOT, "lost laptop"))
        assert isinstance(one, SessionsEnded)
        assert (one.closed, one.after.sessions_active) == (2, 0)
        team = a_subject(None, account="team")
        assert view_of(await ledger.rehearse(Arrive(team))).sessions_active == 3
        rest = await ledger.submit_one(EndSessions(team, ROOT, "moved"))
        assert isinstance(rest, SessionsEnded)
        assert (rest.closed, rest.audit.before, rest.audit.after) == (3, {"sessions": 3}, {"sessions": 0})
        none = await ledger.submit_one(EndSessions(team, ROOT, "again"))
        assert isinstance(none, SessionsEnded) and none.closed == 0
        assert view_of(await ledger.rehearse(Arrive(a_subject("bob")))).sessions_active == 1
        assert code_of(await ledger.submit_one(EndSessions(a_subject("nobody"), ROOT, "?"))) == "not_found"


# Found and counted


async def ids(ledger: Ledger, size: int = 50, after: Any = None, **asked: Any) -> tuple[list[str], Any]:
    page, more = await ledger.query(AccountPage("acme", ledger.now(), size, after, **asked))
    return [key.account for _, key in page], page[-1][0] if more else None


async def test_accounts_are_found_by_parts_of_ids_plan_status_and_kind(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=trial_catalog(), clock=clock) as ledger:
        for user in ("Anna", "bob", "joanna"):
            await ledger.submit_one(Arrive(a_subject(user)))
        await ledger.submit_one(Arrive(a_subject("susANNe", group="team", group_admin=True)))
        await ledger.submit_one(Arrive(a_subject("anna", "globex")))
        assert code_of(await buy(ledger, "pro")) == "ok"
        assert await ids(ledger) == (["Anna", "bob", "joanna", "team"], None)
        assert await ids(ledger, parts=("ANN",)) == (["Anna", "joanna", "team"], None)
        assert await ids(ledger, parts=("ann", "jo")) == (["joanna"], None)
        assert await ids(ledger, parts=("%",)) == ([], None)
        assert await ids(ledger, account_kind="group") == (["team"], None)
        assert await ids(ledger, plan="pro") == (["bob"], None)
        assert await ids(ledger, status="trialing", account_kind="personal") == (["Anna", "joanna"], None)
        clock.advance(days=8)
        assert await ids(ledger, status="expired") == (["Anna", "joanna", "team"], None)


async def test_pages_of_accounts_go_on_where_the_last_one_ended(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit([Arrive(a_subject(f"user-{number}")) for number in range(7)])
        await ledger.submit_one(Arrive(a_subject("boss", group="team")))
        found, after = await ids(ledger, 3)
        await ledger.submit_one(Arrive(a_subject("late")))
        while after is not None:
            page, after = await ids(ledger, 3, after)
            found += page
        assert sorted(found) == sorted([*(f"user-{number}" for number in range(7)), "team", "late"])


NOW = Clock().now
AT = {"before": NOW - 9 * DAY, "now": NOW, "after": NOW + 9 * DAY}


def subscriptions() -> list[Subscription]:
    """Every combination of what a status follows from, on both sides of now."""
    at, found = [None, *AT.values()], []
    plan = ("pro", 1, "monthly", None)
    schedules = [
        Scheduled(when, reason, *(plan if goes_on else ()))  # type: ignore[arg-type]
        for when in AT.values()
        for reason in ("change", "cancel", "end")
        for goes_on in (True, False)
        if goes_on or reason != "change"
    ]
    for scheduled in [None, *schedules]:
        for trial_ends_at in at:
            for past_due_since in (None, AT["before"]):
                for suspended_at in (None, AT["before"]):
                    for ended_as in (None, "canceled", "expired"):
                        found.append(
                            Subscription(
                                "basic", 1, "default", NOW, NOW, trial_ends_at=trial_ends_at,
                                trial_started_at=None if trial_ends_at is None else NOW - 20 * DAY,
                                scheduled=scheduled, past_due_since=past_due_since,
                                suspended_at=suspended_at, ended_as=ended_as,  # type: ignore[arg-type]
                                ended_at=None if ended_as is None else AT["before"],
                            )
                        )  # fmt: skip
    return found


def test_the_plan_and_status_said_in_sql_are_those_of_the_subscription(
    store: SqliteStore, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "plain.db", isolation_level=None)) as connection:
        migrate(connection)
        sql = Store(connection)
        for number, subscription in enumerate(subscriptions()):
            tenant, as_of_now = f"tenant-{number}", subscription.at(NOW)
            sql.save(Changes(subscriptions={AccountKey(tenant, "personal", "bob"): subscription}))
            expected = AccountCount(as_of_now.plan, as_of_now.status_at(NOW), 1, 1, 1)
            assert sql.answer(TenantSummary(tenant, NOW)) == [expected], subscription
        assert number > 500


async def test_who_has_no_plan_any_more_is_counted_as_ended(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=trial_catalog(), clock=clock) as ledger:
        for user in ("ann", "ben"):
            await ledger.submit_one(Arrive(a_subject(user)))
        clock.advance(days=40)
        await ledger.submit_one(Arrive(a_subject("cleo")))
        assert code_of(await buy(ledger, "pro", "cleo", actor="cleo")) == "ok"
        since = clock.now - 30 * DAY
        counts = await ledger.query(TenantSummary("acme", clock.now, since))
        assert sorted(counts, key=lambda count: count.plan) == [
            AccountCount("pro", "active", 1, 1, 1),
            AccountCount("trial", "expired", 2, 2, 0),
        ]
        assert [count.is_inactive for count in sorted(counts, key=lambda count: count.plan)] == [False, True]


async def test_a_trial_of_a_group_counts_once_and_a_conversion_is_counted(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=trial_catalog(), clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject("tom", group="team", group_admin=True)))
        await ledger.submit([Arrive(a_subject("ann")), Arrive(a_subject("ben"))])
        await ledger.submit_one(an_opening("ann"))
        assert code_of(await buy(ledger, "pro", "ben", actor="ben")) == "ok"
        assert await ledger.query(TenantActivity("acme", clock.now)) == (3, 2, 1, 1)
        clock.advance(days=7)
        assert await ledger.query(TenantActivity("acme", clock.now)) == (3, 0, 1, 0)
        assert await ledger.query(TenantActivity("nowhere", clock.now)) == (0, 0, 0, 0)


@pytest.mark.parametrize("window", ["hour", "day", "month", "billing_period", "lifetime", "rolling:PT5H"])
async def test_who_is_near_a_limit_of_any_window_is_a_candidate(store: SqliteStore, window: str) -> None:
    clock = Clock()
    catalog = a_catalog(a_plan(a_limit(10, window=window), a_limit(20, window=window, scope="account")))
    async with store.open(catalog=catalog, clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject("tom", group="team")))
        await ledger.submit_one(Arrive(a_subject("tim", group="team")))
        for user, quantity in (("full", 10), ("near", 8), ("far", 7), ("tom", 9), ("tim", 7)):
            await ledger.submit_one(a_record(user, quantity=quantity))
        found = await ledger.query(FullestHolders("acme", clock.now, 800, 10))
        assert [(key.account, user) for key, user in found] == [
            ("full", "full"),
            ("team", "tom"),
            ("near", "near"),
            ("team", ""),
        ]
        if window != "lifetime":
            clock.advance(days=40)
            assert await ledger.query(FullestHolders("acme", clock.now, 800, 10)) == []


async def test_a_limit_set_by_hand_makes_a_candidate(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record("bob"))
        await ledger.submit_one(a_limit_set(1))
        found = await ledger.query(FullestHolders("acme", ledger.now(), 800, 10))
        assert found == [(AccountKey("acme", "personal", "bob"), "bob")]


async def test_who_is_gone_takes_the_place_of_nobody_near_a_limit(store: SqliteStore) -> None:
    """Neither the erased, nor those whose trial is over."""
    clock = Clock()
    lasting = a_plan(a_limit(50, window="lifetime"), key="trial")
    trial = plan_from_definition("trial", 0, {**lasting.definition, "trial": {"days": 7}})
    async with store.open(catalog=a_catalog(trial, PAID, default_plan="trial"), clock=clock) as ledger:

        async def candidates() -> list[str]:
            found = await ledger.query(FullestHolders("acme", clock.now, 800, 2))
            return [key.account for key, _ in found]

        full = [f"full{number}" for number in range(4)]
        await ledger.submit([a_record(user, quantity=50) for user in full])
        await ledger.submit([a_limit_set(60, user, window="lifetime") for user in full[:2]])
        await ledger.submit_one(a_record("near", quantity=45))
        assert "near" not in await candidates()
        for user in full[1:]:
            await erase(ledger, user, alias=f"erased-{user}")
        assert await candidates() == ["full0", "near"]
        clock.advance(days=8)
        assert await candidates() == []


async def test_a_former_member_of_a_group_takes_the_place_of_nobody(store: SqliteStore) -> None:
    catalog = a_catalog(a_plan(a_limit(10)))
    async with store.open(catalog=catalog) as ledger:
        for user, quantity in (("tom", 10), ("tim", 9), ("tess", 8)):
            await ledger.submit_one(Arrive(a_subject(user, group="team", group_admin=user == "tess")))
            await ledger.submit_one(a_record(user, quantity=quantity))
        await erase(ledger, "tom")
        found = await ledger.query(FullestHolders("acme", ledger.now(), 800, 2))
        assert [user for _, user in found] == ["tim", "tess"]


# Erased


def everything(path: Path) -> bytes:
    """The bytes of a database and of its log."""
    log = path.with_name(path.name + "-wal")
    return path.read_bytes() + (log.read_bytes() if log.exists() else b"")


async def fill_with_alice(ledger: Ledger, clock: Clock) -> None:
    """Alice in every table there is, among others."""
    await populate(ledger, clock)

    async def do(*commands: Any) -> list[Outcome]:
        outcomes = await ledger.submit(commands)
        assert {code_of(outcome) for outcome in outcomes} == {"ok"}, outcomes
        return outcomes

    team = a_subject(ALICE, group="team")
    others = {"provider": "gemini", "tokens": 7, "client": f"{ALICE}'s laptop"}
    await do(
        a_record(ALICE, key=f"{ALICE}-1"),
        a_record(ALICE, "llm_call", attributes=others),
        a_record(ALICE, key="own", source=ALICE),
        a_record("bob", source=ALICE),
        an_opening(ALICE, key=f"{ALICE}-session"),
        a_reserve(ALICE, quantity=3, key=f"{ALICE}-held"),
        a_limit_set(70, ALICE, reason=f"{ALICE} asked, says <{ALICE}>"),
        RevokeTokens(ROOT, clock.now, subject=ALICE, tenant="acme", reason=f"{ALICE} left"),
        RevokeTokens(ROOT, clock.now, subject=ALICE),
        RevokeTokens(ROOT, clock.now, token_id=f"{ALICE}:1"),
    )
    assert code_of(await buy(ledger, "advanced", ALICE, actor=ALICE)) == "ok"
    await do(Arrive(team), a_record(ALICE, "storage", 5), an_opening(ALICE), a_reserve(ALICE))


async def totals(ledger: Ledger) -> list[tuple[str, int, int]]:
    rows = await ledger.query(UsageTotals(Whose("acme"), 0, AFTER_ALL, frozenset()))
    return sorted((row.meter, row.events, row.quantity) for row in rows)


async def test_an_erased_user_is_in_no_table_and_in_no_byte_and_totals_stay(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=windows_catalog(), clock=clock) as ledger:
        await fill_with_alice(ledger, clock)
        assert ALICE.encode() in everything(store.path)
        before, rows_before = await totals(ledger), store.rows()
        erased = await erase(ledger, reason=f"{ALICE} wrote to us")
        assert erased.remaining == 0
        assert {what for what, count in erased.counts.items() if count} == set(erased.counts)
        assert ALICE.encode() not in everything(store.path)
        assert await totals(ledger) == before
        rows = store.rows()
        same = {
            "event",
            "counter",
            "rolling",
            "rollup",
            "limit_override",
            "subscription",
            "trial",
            "revocation",
        }
        assert {table: rows[table] for table in same} == {table: rows_before[table] for table in same}
        assert (await ledger.engine.verify()).differences == ()

        whose = Whose("acme", "personal", ALIAS)
        newest, *_ = await ledger.query(AuditTrail(whose, "", 10))
        assert (newest.action, newest.actor, newest.reason) == ("account.erase", ROOT, f"{ALIAS} wrote to us")
        assert newest.after == {"alias": ALIAS}
        page, _ = await ledger.query(EventPage(whose, 0, clock.now + 1, 10))
        assert {event.user for _, event in page} == {ALIAS}
        kept = {"provider": "gemini", "client": f"{ALIAS}'s laptop"}
        assert [dict(event.attributes) for _, event in page if event.attributes] == [kept]
        personal = view_of(await ledger.rehearse(Arrive(a_subject(None, account=ALIAS))))
        assert personal.subscription is not None
        assert personal.subscription.status_at(clock.now) == "canceled"
        assert personal.sessions_active == 0

    async with store.open(catalog=windows_catalog(), clock=clock, publish=False) as ledger:
        assert (await ledger.engine.verify()).differences == ()
    assert ALICE.encode() not in everything(store.path)


async def test_an_erased_ledger_is_exported_and_imported_whole(store: SqliteStore, tmp_path: Path) -> None:
    clock, first, second = Clock(), io.BytesIO(), io.BytesIO()
    async with store.open(catalog=windows_catalog(), clock=clock) as ledger:
        await fill_with_alice(ledger, clock)
        await erase(ledger)
        await ledger.engine.dump(first.write)
    assert ALICE.encode() not in first.getvalue()
    first.seek(0)
    async with a_ledger(tmp_path / "new", catalog=windows_catalog(), clock=clock, publish=False) as ledger:
        await ledger.engine.load(first)
        assert (await ledger.engine.verify()).differences == ()
        await ledger.engine.dump(second.write)
    assert second.getvalue() == first.getvalue()


async def test_the_same_id_of_another_tenant_is_somebody_else(store: SqliteStore) -> None:
    async with store.open() as ledger:
        for tenant in ("acme", "globex"):
            await ledger.submit_one(a_record(a_subject(ALICE, tenant), key="key", source=ALICE))
            await ledger.submit_one(a_limit_set(70, a_subject(ALICE, tenant), reason=f"{ALICE} asked"))
        await ledger.submit_one(RevokeTokens(ROOT, 1, subject=ALICE))
        assert (await erase(ledger)).remaining == 0
        whose = Whose("globex", "personal", ALICE, ALICE)
        page, _ = await ledger.query(EventPage(whose, 0, ledger.now() + 1, 10))
        assert [(event.user, event.source) for _, event in page] == [(ALICE, ALICE)]
        assert [entry.reason for entry in await ledger.query(AuditTrail(whose, "limit.", 9))] == [
            f"{ALICE} asked"
        ]
        again = decision_of(
            await ledger.submit_one(a_record(a_subject(ALICE, "globex"), key="key", source=ALICE))
        )
        assert again.replayed
        assert [one.subject for one in await ledger.query(RevocationsSince(0))] == [ALICE]
        assert (await ledger.engine.verify()).differences == ()


async def test_words_of_the_catalog_and_ids_that_are_longer_stay(store: SqliteStore) -> None:
    """A user may be called like a plan, a meter, a window or the beginning of another user."""
    clock = Clock()
    for number, user in enumerate(("basic", "messages", "message", "day", "monthly", "acme", "gemini", "a")):
        catalog = windows_catalog()
        async with store.open(catalog=catalog, clock=clock) as ledger:
            longer = [f"{user}.x", f"x-{user}", f"{user}{user}"]
            await ledger.submit([a_record(one, key=f"{user}-{number}-{one}") for one in (user, *longer)])
            await ledger.submit_one(Arrive(a_subject(f"boss{number}", group="team")))
            await ledger.submit_one(
                a_record(f"boss{number}", "llm_call", attributes={"provider": "gemini", "tokens": 1})
            )
            assert code_of(await buy(ledger, "advanced", user, actor=user)) == "ok"
            before = await totals(ledger)
            erased = await erase(ledger, user, alias=f"erased-{number}")
            assert (erased.remaining, erased.is_group_too) == (0, False), user
            assert await totals(ledger) == before
            assert (await ledger.engine.verify()).differences == (), user
            for one in longer:
                view = view_of(await ledger.rehearse(Arrive(a_subject(None, account=one))))
                assert view.subscription is not None and view.subscription.created_at
            assert (
                view_of(await ledger.rehearse(Arrive(a_subject(None, account="team")))).standing.account
                == "team"
            )
            usage = await ledger.query(UsageTotals(Whose("acme"), 0, AFTER_ALL, frozenset({"dimensions"})))
            assert "gemini" in {row.value_of("provider") for row in usage}


async def test_a_group_of_the_same_id_stays_and_is_counted_as_what_remains(store: SqliteStore) -> None:
    async with store.open() as ledger:
        boss = a_subject("boss", group="team")
        await ledger.submit([a_record("team"), Arrive(boss), a_record(boss)])
        erased = await erase(ledger, "team")
        # The subscription and its history, the member, the holders of the group as a whole and of the member, and how
        # they joined.
        assert (erased.remaining, erased.is_group_too) == (6, True)
        assert "found in 6 places afterwards. A group of the same id is another account" in erased_text(
            erased
        )
        group = view_of(await ledger.rehearse(Arrive(a_subject(None, account="team"))))
        assert (group.standing.account_kind, group.seats_used) == ("group", 1)
        assert (await ledger.engine.verify()).differences == ()


async def test_a_retry_for_somebody_else_is_not_counted_twice_whatever_its_key_is_like(
    store: SqliteStore,
) -> None:
    async with store.open() as ledger:
        others = [a_record("bob", key=key) for key in ("7", "order-7", "job:7:retry")]
        others += [an_opening("bob", key="7:session"), a_reserve("bob", key="7/held")]
        theirs = [
            a_record("7", key="one"),
            an_opening("7", key="two"),
            a_reserve("7", key="three"),
            a_record("bob", key="four", source="7"),
        ]
        assert {code_of(outcome) for outcome in await ledger.submit([*others, *theirs])} == {"ok"}
        erased = await erase(ledger, "7")
        assert (erased.counts["answers"], erased.remaining) == (4, 0)
        for again, replayed in ((others, True), (theirs, False)):
            for outcome in await ledger.submit(again):
                assert isinstance(outcome, Decided | SessionDecided)
                assert outcome.decision.replayed is replayed
        assert (await ledger.engine.verify()).differences == ()


@pytest.mark.parametrize(
    ("user", "reason", "of_theirs"),
    [
        ("7", "For 7 days, ticket ABC-7, v1.7", f"For {ALIAS} days, ticket ABC-7, v1.7"),
        ("eve", "eve.x about eve@example.com", "eve.x about eve@example.com"),
    ],
)
async def test_what_was_said_about_others_stays_as_it_was_said(
    store: SqliteStore, user: str, reason: str, of_theirs: str
) -> None:
    async with store.open() as ledger:
        await ledger.submit([a_record("bob"), a_record("ann"), a_record(user)])
        await ledger.submit([a_limit_set(70, one, reason=reason) for one in ("bob", user)])
        await ledger.submit_one(
            replace(a_limit_set(70, "ann", reason=reason), actor=Actor(user, "tenant_admin"))
        )
        assert (await erase(ledger, user)).remaining == 0
        for account, expected in (("bob", reason), (ALIAS, of_theirs), ("ann", of_theirs)):
            (entry,) = await ledger.query(AuditTrail(Whose("acme", "personal", account), "limit.", 9))
            assert entry.reason == expected


async def test_a_revoked_token_of_an_erased_user_stays_revoked(store: SqliteStore) -> None:
    def a_principal(token_id: str, issued_at: int, tenant: str = "acme") -> Principal:
        return Principal(tenant, ALICE, None, None, frozenset({"member"}), "", 2**40, token_id, issued_at)

    async with store.open() as ledger:
        await ledger.submit_one(a_record(ALICE))
        await ledger.submit_one(RevokeTokens(ROOT, 100_000_000, subject=ALICE, tenant="acme"))
        await ledger.submit_one(RevokeTokens(ROOT, 50_000_000, subject=ALICE))
        await ledger.submit_one(RevokeTokens(ROOT, 0, token_id=f"{ALICE}:1"))
        await erase(ledger)
        found = await ledger.query(RevocationsSince(0))
        assert not [one for one in found if ALICE in f"{one.subject} {one.token_id}"]

        async def since(seq: int) -> Any:
            return await ledger.query(RevocationsSince(seq))

        revoked = Revocations(since)
        assert await revoked.hold(a_principal("t", 99))
        assert not await revoked.hold(a_principal("t", 100))
        assert await revoked.hold(a_principal("t", 49, "globex"))
        assert not await revoked.hold(a_principal("t", 50, "globex"))
        assert await revoked.hold(a_principal(f"{ALICE}:1", 1000))
        assert not await revoked.hold(a_principal(f"{ALICE}:2", 1000))


async def test_who_comes_back_is_somebody_new_whose_trial_is_over(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=trial_catalog(), clock=clock) as ledger:
        await ledger.submit_one(a_record(ALICE, quantity=30))
        clock.advance(days=1)
        await erase(ledger)
        assert await ledger.query(TenantActivity("acme", clock.now)) == (1, 0, 0, 0)
        assert code_of(await ledger.submit_one(a_record(ALICE))) == "trial_expired"
        view = view_of(await ledger.submit_one(Arrive(a_subject(ALICE))))
        assert view.subscription is not None
        assert (view.subscription.status_at(clock.now), view.limits[0].used) == ("expired", 0)
        assert code_of(await buy(ledger, "pro", ALICE, actor=ALICE)) == "ok"
        assert decision_of(await ledger.submit_one(a_record(ALICE))).limits[0].used == 1
        again = await erase(ledger, alias="erased-again")
        assert again.remaining == 0
        assert (await ledger.engine.verify()).differences == ()


async def test_nobody_is_erased_who_is_not_there_or_is_the_last_admin(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert code_of(await ledger.submit_one(an_erasure("nobody"))) == "not_found"
        await ledger.submit_one(Arrive(a_subject("tom", group="team", group_admin=True)))
        await ledger.submit_one(Arrive(a_subject("tina", group="team")))
        assert code_of(await ledger.submit_one(an_erasure("tom", tenant="globex"))) == "not_found"
        before = store.rows()
        assert code_of(await ledger.submit_one(an_erasure("tom"))) == "conflict"
        assert store.rows() == before
        await ledger.submit_one(Arrive(a_subject("tess", group="team", group_admin=True)))
        erased = await erase(ledger, "tom")
        assert erased.counts["memberships"] == 1
        assert view_of(await ledger.rehearse(Arrive(a_subject(None, account="team")))).seats_used == 2
        trail = await ledger.query(AuditTrail(Whose("acme", "group", "team"), "member.remove", 9))
        assert [(entry.user, entry.before) for entry in trail] == [(ALIAS, {"role": "admin"})]
        assert (await ledger.engine.verify()).differences == ()


async def test_who_only_acted_for_others_is_erased_from_the_trail(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record("bob"))
        await ledger.submit_one(replace(a_limit_set(70), actor=Actor(ALICE, "tenant_admin")))
        erased = await erase(ledger)
        assert (erased.counts["audit_entries"], erased.remaining) == (1, 0)
        (entry,) = await ledger.query(AuditTrail(Whose("acme", "personal", "bob"), "limit.", 9))
        assert entry.actor == Actor(ALIAS, "tenant_admin")
        assert ALICE.encode() not in everything(store.path)


async def test_nothing_is_recorded_under_a_name_remembered_from_before(store: SqliteStore) -> None:
    """Neither by what waits beside the command, nor by another process on the same file."""
    async with store.open() as ledger, store.open(publish=False) as other:
        for one in (ledger, other):
            await one.submit_one(a_record(ALICE))
            assert decision_of(await one.rehearse_or_submit(a_record(ALICE))).event_id
        waiting = [ledger.submit_one(a_record(ALICE)) for _ in range(3)]
        erasing = ledger.submit_one(an_erasure())
        after = [ledger.submit_one(a_record(ALICE)) for _ in range(3)]
        done = await asyncio.gather(*waiting, erasing, *after)
        assert [code_of(outcome) for outcome in done] == ["ok"] * 7
        assert isinstance(done[3], UserErased) and done[3].remaining == 0
        assert decision_of(done[6]).limits[0].used == 3
        assert decision_of(await other.submit_one(a_record(ALICE))).limits[0].used == 4
        assert view_of(await other.rehearse(Arrive(a_subject(ALICE)))).limits[0].used == 4
        old, _ = await other.query(EventPage(Whose("acme", "personal", ALIAS), 0, other.now() + 1, 20))
        new, _ = await other.query(EventPage(Whose("acme", "personal", ALICE), 0, other.now() + 1, 20))
        assert (len(old), len(new)) == (7, 4)
        assert (await other.engine.verify()).differences == ()


async def test_the_log_is_emptied_when_nobody_reads_it_any_more(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRAGMAS, "busy_timeout", 10)
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_record(ALICE))
        with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM event").fetchone() == (1,)
            await erase(ledger)
            assert ALICE.encode() in everything(store.path)
        clock.advance(minutes=1)
        await ledger.submit_one(a_record("bob"))
        assert ALICE.encode() not in everything(store.path)
