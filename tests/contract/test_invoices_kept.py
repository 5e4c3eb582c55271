"""What the ledger keeps of charges: the history of each subscription, invoices that are closed and paid, and what
`verify` finds in them."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_ledger,
    a_limit,
    a_member_change,
    a_plan,
    a_publication,
    a_record,
    a_status,
    a_subject,
    a_subscription_change,
    buy,
    change_of,
    code_of,
    manage,
    members_of,
)
from tests.contract.test_engine import SqliteStore

from subscription_mcp.domain.catalog import UNLIMITED, Catalog
from subscription_mcp.domain.instants import DAY, Instant, format_instant
from subscription_mcp.domain.invoices import Billing, Invoice, Statement, statement_of
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import (
    AccountView,
    Actor,
    Arrive,
    CloseInvoices,
    CorrectUsage,
    EraseUser,
    InvoicePaid,
    InvoicesClosed,
    MigratePlan,
    PayInvoice,
)
from subscription_mcp.ledger.queries import (
    AccountsToBill,
    AuditTrail,
    BillingOf,
    EventPage,
    StatementOf,
    Whose,
)
from subscription_mcp.ledger.sqlite.schema import migrations, statements_of
from subscription_mcp.ledger.writer import Ledger

BOB = AccountKey("acme", "personal", "bob")


def shop() -> Catalog:
    return a_catalog(
        a_plan(a_limit(5)),
        a_plan(a_limit(50, window="billing_period"), key="pro", monthly="29.00", yearly="290.00"),
        a_plan(a_limit(500, window="billing_period"), key="max", monthly="99.00"),
        a_plan(a_limit(500), key="teams", monthly="49.00", per_seat="12.00", seats=UNLIMITED),
    )


async def billing_of(ledger: Ledger, account: AccountKey = BOB) -> Billing:
    billing, _ = await ledger.query(BillingOf(account))
    assert isinstance(billing, Billing)
    return billing


async def statement(ledger: Ledger, account: AccountKey = BOB) -> Statement:
    billing, plans = await ledger.query(BillingOf(account))
    return statement_of(billing, plans, ledger.now())


async def close(ledger: Ledger, account: AccountKey = BOB) -> InvoicesClosed:
    closed = await ledger.submit_one(CloseInvoices(account))
    assert isinstance(closed, InvoicesClosed), closed
    return closed


async def pay(ledger: Ledger, invoice: Invoice, account: AccountKey = BOB) -> Invoice:
    paid = await ledger.submit_one(PayInvoice(account, invoice.number, "simulated", f"sim-{invoice.number}"))
    assert isinstance(paid, InvoicePaid), paid
    return paid.invoice


async def due(ledger: Ledger, now: Instant | None = None) -> list[AccountKey]:
    found: list[AccountKey] = await ledger.query(AccountsToBill(now or ledger.now(), 100))
    return found


async def test_every_state_a_command_leaves_is_a_row_with_what_was_charged(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject("bob")))
        await buy(ledger, "pro")
        clock.advance(days=15)
        change = change_of(await buy(ledger, "max"))
        await manage(ledger, "cancel")
        await manage(ledger, "resume")
        await ledger.submit([a_status("suspend"), a_status("activate")])
        rows = (await billing_of(ledger)).rows
        assert [
            (row.action.partition(".")[2], row.subscription.plan, row.charge and len(row.charge.lines))
            for row in rows
        ] == [
            ("start", "basic", None),
            ("change", "pro", 1),
            ("change", "max", 2),
            ("change", "max", 0),
            ("suspend", "max", None),
            ("activate", "max", None),
        ]
        assert rows[2].charge is not None
        assert sum(line.micros for line in rows[2].charge.lines) == change.price_now.micros > 0
        assert [row.at for row in rows] == sorted(row.at for row in rows)


async def test_what_is_charged_is_what_was_shown_when_it_was_offered(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        clock.advance(days=15)
        shown = change_of(await ledger.submit_one(a_change("max", offer="a-handle")))
        clock.advance(minutes=9)
        done = change_of(await ledger.submit_one(a_change("max", confirmation="a-handle")))
        assert done.price_now == shown.price_now
        (row,) = (await billing_of(ledger)).rows[-1:]
        assert row.charge is not None and row.charge.lines == shown.lines
        assert (await ledger.engine.verify()).differences == ()


async def test_who_cancels_and_resumes_all_day_leaves_one_row(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        for _ in range(5):
            clock.advance(minutes=1)
            await manage(ledger, "cancel")
            await manage(ledger, "resume")
        assert [row.action.partition(".")[2] for row in (await billing_of(ledger)).rows] == [
            "start",
            "change",
            "change",
        ]
        # In one batch, too, where the rows before are not saved yet.
        await ledger.submit(
            [
                a_subscription_change(action, **{step: f"{action}-{number}"})
                for number in range(3)
                for action in ("cancel", "resume")
                for step in ("offer", "confirmation")
            ]
        )
        assert len((await billing_of(ledger)).rows) == 3
        clock.advance(days=31)
        await manage(ledger, "cancel")
        rows = (await billing_of(ledger)).rows
        assert len(rows) == 4 and rows[2].subscription.scheduled is None
        trail = await ledger.query(AuditTrail(Whose("acme"), "subscription.", 100))
        assert len(trail) == 2 + 10 + 6 + 1  # people are told of each
        assert (await ledger.engine.verify()).differences == ()


async def test_what_is_read_is_the_same_as_what_all_of_the_history_says(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject("bob")))
        for number in range(12):
            await buy(ledger, ("pro", "max", "teams")[number % 3], digest=b"%d" % number)
            clock.advance(days=9)
            if number % 2:
                await ledger.submit([a_status("suspend"), a_status("activate")])
            if number % 3:
                await close(ledger)
            read, titles = await ledger.query(StatementOf(BOB, ledger.now()))
            assert read == await statement(ledger)
        assert read.invoices and titles.items() >= {"pro": "Pro", "max": "Max", "teams": "Teams"}.items()
        assert [one.status for one in read.invoices[-3:]] == ["closed", "closed", "closed"]


async def test_first_sight_of_what_costs_nothing_waits_for_nobody(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await ledger.submit_one(Arrive(a_subject("bob")))
        assert len((await billing_of(ledger)).rows) == 1
        assert await due(ledger, ledger.now() + 2**50) == []


async def test_invoices_are_closed_once_and_paid_once(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        assert await due(ledger) == [BOB]
        (first,) = (await close(ledger)).to_pay
        again = await close(ledger)
        assert (again.closed, again.to_pay) == (0, [first])
        assert await due(ledger) == [BOB]
        paid = await pay(ledger, first)
        assert (paid.status, paid.reference) == ("paid", f"sim-{first.number}")
        clock.advance(hours=1)
        assert await pay(ledger, first) == paid  # the first answer
        assert await due(ledger) == []
        renewal = (await statement(ledger)).upcoming
        assert renewal is not None
        assert await due(ledger, renewal.issued_at - 1) == []
        assert await due(ledger, renewal.issued_at) == [BOB]
        assert code_of(await ledger.submit_one(PayInvoice(BOB, "X-1", "simulated", "x"))) == "not_found"


async def test_what_was_closed_does_not_change_and_reads_the_same_before(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        clock.advance(days=70)
        before = (await statement(ledger)).invoices
        assert [invoice.status for invoice in before] == ["open"] * 3
        await close(ledger)
        after = (await statement(ledger)).invoices
        assert [replace(one, closed_at=None) for one in after] == before
        assert [one.status for one in after] == ["closed"] * 3
        clock.advance(days=10)
        await buy(ledger, "max")
        await close(ledger)
        assert (await statement(ledger)).invoices[:3] == after


async def test_many_processes_close_and_pay_each_invoice_once(tmp_path: Path) -> None:
    clock = Clock()
    async with (
        a_ledger(tmp_path, catalog=shop(), clock=clock) as one,
        a_ledger(tmp_path, catalog=shop(), clock=clock, publish=False) as two,
    ):
        await buy(one, "pro")
        clock.advance(days=100)

        async def bill(ledger: Ledger) -> int:
            closed = await close(ledger)
            for invoice in closed.to_pay:
                await pay(ledger, invoice)
            return closed.closed

        assert sum(await asyncio.gather(*(bill(ledger) for ledger in (one, two) * 5))) == 4
        assert [invoice.status for invoice in (await statement(one)).invoices] == ["paid"] * 4
        assert (await one.engine.verify()).differences == ()


async def test_nothing_is_to_be_paid_while_a_payment_is_overdue(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        await ledger.submit_one(a_status("payment_failed"))
        assert (await close(ledger)).to_pay == []
        assert await due(ledger) == []
        assert [one.status for one in (await statement(ledger)).invoices] == ["closed"]
        clock.advance(days=40)
        await ledger.submit_one(a_status("payment_received"))
        assert await due(ledger) == [BOB]
        # The period that began without service is not charged.
        assert len((await close(ledger)).to_pay) == 1
        assert (await ledger.engine.verify()).differences == ()


async def test_a_period_that_began_suspended_is_not_given_back_either(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        clock.advance(days=10)
        await ledger.submit_one(a_status("suspend"))
        clock.advance(days=30)
        await ledger.submit_one(a_status("activate"))
        assert change_of(await buy(ledger, "max")).price_now.micros == 99_000_000
        assert [one.total_micros for one in (await statement(ledger)).invoices] == [29_000_000, 99_000_000]


async def test_a_founded_group_has_its_own_invoices(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "teams", seats=2)
        founded = members_of(
            await ledger.submit_one(
                a_member_change(
                    "add", "ann", "bob", actor="bob", actor_role="holder", account_kind="personal"
                )
            )
        )
        clock.advance(days=31)
        await close(ledger)
        await close(ledger, founded.account)
        assert [one.total_micros for one in (await statement(ledger)).invoices] == [73_000_000]
        assert [one.total_micros for one in (await statement(ledger, founded.account)).invoices] == [
            73_000_000
        ]
        assert (await ledger.engine.verify()).differences == ()


async def test_a_migrated_plan_costs_its_new_price_at_the_renewal(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        dearer = [
            a_plan(a_limit(50), key="pro", monthly="39.00", yearly="390.00") if plan.key == "pro" else plan
            for plan in shop().plans.values()
        ]
        await ledger.submit_one(a_publication(*dearer))
        await ledger.submit_one(MigratePlan(Actor("olivia", "superadmin"), "pro", "dearer"))
        clock.advance(days=31)
        assert [one.total_micros for one in (await statement(ledger)).invoices] == [29_000_000, 39_000_000]
        await close(ledger)
        assert (await ledger.engine.verify()).differences == ()


async def test_invoices_of_an_erased_user_stay_under_the_alias(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        clock.advance(days=40)
        closed = await close(ledger)
        await pay(ledger, closed.to_pay[0])
        before = (await statement(ledger)).invoices
        erased = await ledger.submit_one(
            EraseUser("acme", "bob", "erased-1", Actor("olivia", "superadmin"), "asked to be")
        )
        assert erased.remaining == 0  # type: ignore[union-attr]
        alias = AccountKey("acme", "personal", "erased-1")
        assert await billing_of(ledger) == Billing([], [], [])
        assert (await statement(ledger, alias)).invoices == before
        clock.advance(days=400)
        assert (await close(ledger, alias)).closed == 0
        assert len((await statement(ledger, alias)).invoices) == 2
        assert (await ledger.engine.verify()).differences == ()


FAULTS = {
    "a line of a closed invoice": (
        "UPDATE invoice SET lines = json_set(lines, '$[0][1]', 28000000)",
        "Invoice {number} of the personal account bob of tenant acme says 28.00 USD in 1 lines; the history says 29.00"
        " USD in 1.",
    ),
    "an invoice of nothing": (
        "UPDATE invoice SET number = 'X-1'",
        "Invoice X-1 of the personal account bob of tenant acme is of nothing in its history.",
    ),
    "a payment of nothing": (
        "DELETE FROM invoice",
        "A payment of the personal account bob of tenant acme is for invoice {number}, which is not there.",
    ),
    "what a change cost": (
        "UPDATE subscription_history SET charge = json_set(charge, '$[1][0][1]', 1000000) WHERE charge IS NOT NULL",
        "What was charged to the personal account bob of tenant acme at 2026-11-20T14:03:11Z is not what plan and time"
        " make it.",
    ),
    "a row of the history": (
        "DELETE FROM subscription_history WHERE seq = (SELECT max(seq) FROM subscription_history)",
        "The subscription of the personal account bob of tenant acme is not what its history says.",
    ),
}


@pytest.mark.parametrize(("statement_", "sentence"), FAULTS.values(), ids=FAULTS)
async def test_verify_finds_a_planted_fault(tmp_path: Path, statement_: str, sentence: str) -> None:
    async with a_ledger(tmp_path, catalog=shop()) as ledger:
        await ledger.submit_one(Arrive(a_subject("bob")))
        await buy(ledger, "pro")
        (invoice,) = (await close(ledger)).to_pay
        await pay(ledger, invoice)
        assert (await ledger.engine.verify()).differences == ()
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        assert connection.execute(statement_).rowcount
    async with a_ledger(tmp_path, catalog=shop()) as ledger:
        assert sentence.format(number=invoice.number) in (await ledger.engine.verify()).differences


async def test_a_subscription_from_before_there_was_a_history_is_charged_from_its_next_renewal(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with a_ledger(tmp_path / "newest", catalog=shop(), clock=clock) as ledger:
        await buy(ledger, "pro")
        await ledger.submit_one(a_record())
        began = clock.now
    path, newest = tmp_path / "ledger.db", tmp_path / "newest" / "ledger.db"
    (number,) = (n for n, text in migrations().items() if "subscription_history" in text)
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        for script in [migrations()[n] for n in range(1, number)]:
            for one in statements_of(script):
                old.execute(one)
        old.execute("ATTACH ? AS newest", (str(newest),))
        tables = [name for (name,) in old.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
        for table in tables:
            old.execute(f"DELETE FROM main.{table}")
            columns = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
            old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newest.{table}")
        (application,) = old.execute("PRAGMA newest.application_id").fetchone()
        old.execute(f"PRAGMA application_id = {application}")
        old.execute(f"PRAGMA user_version = {number - 1}")
    clock.advance(days=75)
    async with a_ledger(tmp_path, catalog=shop(), clock=clock, publish=False) as ledger:
        (row,) = (await billing_of(ledger)).rows
        assert (row.action, row.at, row.subscription.plan) == ("subscription.known", began, "pro")
        assert await due(ledger) == [BOB]
        await close(ledger)
        found = (await statement(ledger)).invoices
        assert [format_instant(one.issued_at)[:10] for one in found] == ["2026-12-20", "2027-01-20"]
        assert (await ledger.engine.verify()).differences == ()


@pytest.mark.parametrize("group", [None, "team"])
async def test_what_went_beyond_a_limit_is_charged_when_the_period_is_over(
    store: SqliteStore, group: str | None
) -> None:
    clock = Clock()
    sold = a_plan(
        a_limit(5, window="month", scope="account", overage="0.02"), key="pro", monthly="29.00", seats=9
    )
    who = a_subject("bob", group=group, group_admin=True) if group else a_subject("bob")
    account = AccountKey("acme", "group", "team") if group else BOB
    async with store.open(catalog=a_catalog(a_plan(a_limit(5)), sold), clock=clock) as ledger:
        await buy(ledger, "pro", who)
        await ledger.submit_one(a_record(who, quantity=12))
        upcoming = (await statement(ledger, account)).upcoming
        assert upcoming is not None and upcoming.total_micros == 29_140_000
        clock.advance(days=31)
        await ledger.submit_one(a_record(who, quantity=1, occurred_at=clock.now - 25 * DAY))
        await close(ledger, account)
        (_, renewal) = (await statement(ledger, account)).invoices
        (line,) = (line for line in renewal.lines if line.kind == "overage")
        assert (line.quantity, line.unit_micros, line.micros) == (8, 20_000, 160_000)
        await ledger.submit_one(a_record(who, quantity=3, occurred_at=clock.now - 25 * DAY))
        clock.advance(days=31)
        assert (await statement(ledger, account)).invoices[1] == renewal
        assert [one.micros for one in (await statement(ledger, account)).invoices[2].lines] == [
            29_000_000,
            60_000,
        ]
        await close(ledger, account)
        assert (await ledger.engine.verify()).differences == ()


async def test_a_free_plan_with_a_price_beyond_its_limit_is_looked_at_each_month(store: SqliteStore) -> None:
    clock = Clock()
    free = a_plan(a_limit(5, window="month", scope="account", overage="1.00"), key="metered")
    async with store.open(catalog=a_catalog(a_plan(), free), clock=clock) as ledger:
        await buy(ledger, "metered")
        assert code_of(await ledger.submit_one(a_record(quantity=7))) == "ok"
        assert await due(ledger) == [BOB]
        assert (await close(ledger)).to_pay == []
        assert await due(ledger) == []
        clock.advance(days=30)
        assert await due(ledger) == [BOB]
        (invoice,) = (await close(ledger)).to_pay
        assert (invoice.total_micros, invoice.number[-2:]) == (2_000_000, "U1")


def metered_shop() -> Catalog:
    """Plans that cost nothing, or something, and more beyond their limit."""
    beyond = a_limit(5, window="billing_period", scope="account", overage="1.00")
    return a_catalog(
        a_plan(),
        a_plan(beyond, key="metered"),
        a_plan(beyond, key="pro", monthly="29.00"),
        a_plan(beyond, key="pro_plus", monthly="49.00"),
    )


async def test_who_owes_what_was_used_beyond_a_limit_is_past_due_though_the_plan_is_free(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=metered_shop(), clock=clock) as ledger:
        await buy(ledger, "metered")
        assert code_of(await ledger.submit_one(a_record(quantity=7))) == "ok"
        clock.advance(days=31)
        assert [one.total_micros for one in (await close(ledger)).to_pay] == [2_000_000]
        await ledger.submit_one(a_status("payment_failed"))
        assert (await close(ledger)).to_pay == []  # it is asked for again when it is received
        clock.advance(days=8)
        assert code_of(await ledger.submit_one(a_record())) == "payment_required"
        await ledger.submit_one(a_status("payment_received"))
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        assert (await ledger.engine.verify()).differences == ()


async def test_another_plan_does_not_forgive_what_is_overdue_unless_nothing_is_charged_any_more(
    store: SqliteStore,
) -> None:
    clock = Clock()
    async with store.open(catalog=metered_shop(), clock=clock) as ledger:
        await buy(ledger, "metered")
        await ledger.submit_one(a_status("payment_failed"))
        assert change_of(await buy(ledger, "pro")).after.past_due_since is not None
        await ledger.submit_one(a_status("payment_received"))
        await manage(ledger, "cancel")
        await ledger.submit_one(a_status("payment_failed"))
        clock.advance(days=31)
        view = await ledger.submit_one(Arrive(a_subject("bob")))
        assert isinstance(view, AccountView) and view.subscription is not None
        assert (view.subscription.plan, view.subscription.past_due_since) == ("basic", None)


async def test_a_plan_that_is_free_up_to_its_limit_can_be_canceled(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=metered_shop(), clock=clock) as ledger:
        await buy(ledger, "metered")
        await ledger.submit_one(a_record(quantity=7))
        assert change_of(await manage(ledger, "cancel")).to_plan == "basic"
        clock.advance(days=31)
        assert [one.total_micros for one in (await close(ledger)).to_pay] == [2_000_000]
        assert code_of(await manage(ledger, "cancel")) == "conflict"
        clock.advance(days=400)
        assert (await close(ledger)).closed == 0


async def test_what_a_token_names_is_charged_nothing_here_not_even_beyond_its_limit(
    store: SqliteStore,
) -> None:
    clock = Clock()
    claimed = a_subject("bob", tier="pro")
    async with store.open(catalog=metered_shop(), clock=clock) as ledger:
        await ledger.submit_one(Arrive(claimed))
        assert code_of(await ledger.submit_one(a_record(claimed, quantity=12))) == "ok"
        page, _ = await ledger.query(EventPage(Whose("acme"), 0, clock.now + 1, 10))
        (event,) = (event for _, event in page)
        # What was beyond is told, for whoever sold the plan to charge it.
        assert event.gains == {"messages": 12, "messages:overage": 7}
        clock.advance(days=10)
        bought = change_of(await buy(ledger, "pro_plus"))
        assert bought.price_now.micros == 49_000_000 and bought.credited.micros == 0
        assert bought.effective_at == bought.after.anchor == clock.now
        assert code_of(await ledger.submit_one(a_record(claimed, quantity=6))) == "ok"
        await ledger.submit_one(
            CorrectUsage("acme", event.id, Actor("olivia", "tenant_admin"), "recorded twice")
        )
        clock.advance(days=31)
        await close(ledger)
        assert [one.total_micros for one in (await statement(ledger)).invoices] == [49_000_000, 50_000_000]
        assert (await ledger.engine.verify()).differences == ()


async def test_what_went_beyond_a_limit_is_charged_however_late_somebody_closes(tmp_path: Path) -> None:
    clock = Clock()
    sold = a_plan(a_limit(5, window="billing_period", overage="0.50"), key="pro", monthly="29.00")
    async with a_ledger(tmp_path, catalog=a_catalog(a_plan(a_limit(5)), sold), clock=clock) as ledger:
        await buy(ledger, "pro")
        await ledger.submit_one(a_record(quantity=9))
        clock.advance(days=900)
        for number in range(4):  # with each some rows are looked at that may be deleted
            await ledger.submit_one(Arrive(a_subject(f"user{number}")))
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as rows:
            (counters,) = rows.execute("SELECT count(*) FROM counter WHERE start > 0").fetchone()
        assert counters == 2  # the units and their charge; what is limited is gone
        await close(ledger)
        assert [one.total_micros for one in (await statement(ledger)).invoices[:3]] == [
            29_000_000,
            31_000_000,
            29_000_000,
        ]
        assert (await ledger.engine.verify()).differences == ()
