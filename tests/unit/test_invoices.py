"""Invoices worked out from the history of a subscription: every kind of line, and sums that agree with what was
charged."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import a_limit, a_plan

from subscription_mcp.domain.catalog import UNLIMITED, Plan
from subscription_mcp.domain.instants import DAY, HOUR, MINUTE, Instant, format_instant, parse_instant
from subscription_mcp.domain.invoices import (
    Billing,
    Charge,
    HistoryRow,
    Invoice,
    InvoiceLine,
    OverageCount,
    Statement,
    settled_until,
    statement_of,
    takes_the_place_of,
)
from subscription_mcp.domain.invoices_proved import (
    CountedAt,
    CountedThen,
    Range,
    charge_differs,
    worked_out_again,
)
from subscription_mcp.domain.money import format_amount, round_to_minor
from subscription_mcp.domain.subscriptions import (
    Change,
    Subscription,
    as_it_was,
    cancellation,
    change_of_plan,
    change_of_seats,
    going_on,
    left_behind,
    migrated,
    price_of,
    started,
)
from subscription_mcp.domain.windows import BillingPeriod

NOVEMBER = parse_instant("2026-11-01T00:00:00Z")
PLANS = {
    plan.key: plan.with_version(1)
    for plan in (
        a_plan(key="free"),
        a_plan(key="trial", trial_days=7),
        a_plan(key="small", monthly="29.00", yearly="290.00"),
        a_plan(key="large", monthly="99.00", yearly="990.00"),
        a_plan(key="teams", monthly="49.00", per_seat="12.00", seats=UNLIMITED),
    )
}
SMALL_2 = a_plan(key="small", monthly="39.00", yearly="390.00").with_version(2)
EURO = a_plan(a_limit(5, overage="0.05"), key="euro", monthly="9.00", currency="EUR").with_version(1)
VERSIONS = {(plan.key, plan.version): plan for plan in (*PLANS.values(), SMALL_2, EURO)}


@dataclass
class Account:
    """An account as the machine would lead it: what is held, its history, and what its people were told they pay."""

    now: Instant = NOVEMBER
    held: Subscription | None = None
    rows: list[HistoryRow] = field(default_factory=list)
    overages: list[OverageCount] = field(default_factory=list)
    closed: list[Invoice] = field(default_factory=list)
    told_micros: int = 0
    """The sum of price_now at each change and price_next at each renewal."""

    @property
    def current(self) -> Subscription:
        assert self.held is not None
        return self.held.at(self.now)

    @property
    def plan(self) -> Plan:
        return VERSIONS[(self.current.plan, self.current.version)]

    def keep(self, after: Subscription, charge: Charge | None = None) -> None:
        id_ = f"01930000-0000-7000-8000-0000abcd{len(self.rows):04x}"
        self.rows.append(HistoryRow(id_, self.now, "subscription.change", after, charge))
        self.held = after

    def agree(self, change: Change) -> Change:
        self.told_micros += 0 if change.is_scheduled else change.price_now.micros
        self.keep(
            change.after, Charge(change.price_now.currency, () if change.is_scheduled else change.lines)
        )
        return change

    def begin(self, plan: str, origin="default") -> None:
        self.keep(started(PLANS[plan], origin, self.now))

    def buy(self, plan: str, interval="monthly", seats=None, days=None) -> Change:
        held = self.current if self.held is not None else None
        from_plan = self.plan if held is not None else None
        how = {"seats": seats, "days": days, "follows": PLANS["free"]}
        return self.agree(change_of_plan(held, from_plan, PLANS[plan], interval, "purchase", self.now, **how))

    def seats(self, seats: int) -> Change:
        return self.agree(change_of_seats(self.current, self.plan, seats, self.now))

    def cancel(self) -> Change:
        return self.agree(cancellation(self.current, self.plan, PLANS["free"], self.now))

    def resume(self) -> Change:
        return self.agree(as_it_was(self.current, self.plan, PLANS["free"], self.now))

    def suspend(self) -> None:
        self.keep(replace(self.current, suspended_at=self.now))

    def activate(self) -> None:
        self.keep(going_on(self.current, replace(self.current, suspended_at=None), self.plan, self.now))

    def fail(self) -> None:
        self.keep(replace(self.current, past_due_since=self.now))

    def receive(self) -> None:
        self.keep(going_on(self.current, replace(self.current, past_due_since=None), self.plan, self.now))

    def migrate(self) -> None:
        self.keep(migrated(self.current, self.plan, SMALL_2, None, 1, self.now))

    def wait(self, until: Instant) -> None:
        """Let time pass, renewal by renewal."""
        while True:
            assert self.held is not None
            held = self.current
            end = held.period_at(self.now).end
            assert end is not None
            at = min(end, held.scheduled.at) if held.scheduled is not None else end
            if at > until:
                break
            self.now = at
            then = self.current
            if then.period_at(at).start == at and self._is_charged(then):
                price = price_of(self.plan, then.interval, then.seats)
                assert price is not None
                self.told_micros += price.micros
        self.now = until

    def _is_charged(self, then: Subscription) -> bool:
        stands_still = then.ended_as or then.trial_ends_at or then.suspended_at
        stands_still = stands_still or (then.past_due_since and self.now - then.past_due_since >= 7 * DAY)
        return not stands_still and then.prepaid_until is None and then.origin != "token"

    def until(self, text: str) -> None:
        self.wait(parse_instant(text))

    @property
    def billing(self) -> Billing:
        return Billing(self.rows, self.overages, self.closed)

    @property
    def billing_replaced(self) -> Billing:
        """The same with rows in place of others, as the ledger keeps them."""
        rows: list[HistoryRow] = []
        for row in self.rows:
            if rows and takes_the_place_of(row, rows[-1]):
                rows.pop()
            rows.append(row)
        return replace(self.billing, rows=rows)

    @property
    def billing_unsettled(self) -> Billing:
        """What the ledger reads where only what is not closed is worked out."""
        since = settled_until(self.closed)
        held_then = max((n for n, row in enumerate(self.rows) if row.at < (since or 0)), default=0)
        return replace(self.billing_replaced, rows=self.rows[held_then:], settled_until=since)

    @property
    def statement(self) -> Statement:
        return statement_of(self.billing, VERSIONS, self.now)

    def close(self) -> None:
        self.closed += [replace(one, closed_at=self.now) for one in self.statement.open]


def shown(invoices: list[Invoice]) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Day, total and the lines of each."""
    return [
        (
            format_instant(one.issued_at)[:10],
            format_amount(one.total_micros, one.currency),
            [(line.kind, line.of, format_amount(line.micros, one.currency)) for line in one.lines],
        )
        for one in invoices
    ]


def an_account(plan: str = "free", **how) -> Account:
    account = Account(now=NOVEMBER - HOUR)
    account.begin("free")
    account.wait(NOVEMBER)
    if plan != "free":
        account.buy(plan, **how)
    return account


def test_each_month_costs_its_price_from_the_day_it_was_bought() -> None:
    account = an_account("small")
    account.until("2027-01-15T00:00:00Z")
    assert shown(account.statement.invoices) == [
        ("2026-11-01", "29.00", [("base", "plan", "29.00")]),
        ("2026-12-01", "29.00", [("base", "plan", "29.00")]),
        ("2027-01-01", "29.00", [("base", "plan", "29.00")]),
    ]
    upcoming = account.statement.upcoming
    assert upcoming is not None and shown([upcoming]) == [
        ("2027-02-01", "29.00", [("base", "plan", "29.00")])
    ]
    line = account.statement.invoices[1].lines[0]
    assert (line.plan, line.quantity, line.unit_micros) == ("small", 1, 29_000_000)
    assert [format_instant(at)[:10] for at in (line.start, line.end)] == ["2026-12-01", "2027-01-01"]


def test_a_renewal_is_due_in_its_very_microsecond_and_not_before() -> None:
    account = an_account("small")
    account.wait(parse_instant("2026-12-01T00:00:00Z") - 1)
    assert len(account.statement.invoices) == 1
    account.wait(account.now + 1)
    assert len(account.statement.invoices) == 2


def test_nothing_is_billed_for_what_costs_nothing() -> None:
    free, trial = an_account(), Account()
    trial.begin("trial")
    for account in (free, trial):
        account.until("2027-06-01T00:00:00Z")
        assert (account.statement.invoices, account.statement.upcoming) == ([], None)


def test_after_a_trial_the_first_invoice_is_of_the_instant_the_plan_was_bought() -> None:
    account = Account()
    account.begin("trial")
    account.until("2026-11-04T12:00:00Z")
    account.buy("small")
    account.until("2026-12-04T12:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [
        ("2026-11-04", "29.00"),
        ("2026-12-04", "29.00"),
    ]


def test_a_year_is_one_invoice() -> None:
    account = an_account("small", interval="yearly")
    account.until("2027-11-01T00:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [
        ("2026-11-01", "290.00"),
        ("2027-11-01", "290.00"),
    ]


def test_seats_are_a_line_and_more_of_them_are_prorated() -> None:
    account = an_account("teams", seats=2)
    account.until("2026-11-16T00:00:00Z")
    account.seats(5)
    account.until("2026-12-10T00:00:00Z")
    account.seats(3)
    account.until("2027-01-01T00:00:00Z")
    assert shown(account.statement.invoices) == [
        ("2026-11-01", "73.00", [("base", "plan", "49.00"), ("seats", "seats", "24.00")]),
        ("2026-11-16", "18.00", [("proration", "seats", "18.00")]),
        ("2026-12-01", "109.00", [("base", "plan", "49.00"), ("seats", "seats", "60.00")]),
        ("2027-01-01", "85.00", [("base", "plan", "49.00"), ("seats", "seats", "36.00")]),
    ]
    prorated = account.statement.invoices[1].lines[0]
    assert (prorated.quantity, prorated.unit_micros) == (3, 12_000_000)


def test_what_a_change_charges_and_gives_back_are_lines_that_add_up_to_what_was_shown() -> None:
    account = an_account("small")
    account.until("2026-11-16T00:00:00Z")
    assert account.buy("large").price_now.micros == 35_000_000
    account.until("2026-12-01T00:00:00Z")
    assert shown(account.statement.invoices)[1:] == [
        ("2026-11-16", "35.00", [("proration", "plan", "49.50"), ("proration", "plan", "-14.50")]),
        ("2026-12-01", "99.00", [("base", "plan", "99.00")]),
    ]


def test_a_change_for_the_end_of_the_period_costs_nothing_before() -> None:
    account = an_account("large")
    account.until("2026-11-10T00:00:00Z")
    account.buy("small")
    assert account.statement.upcoming is not None
    assert account.statement.upcoming.total_micros == 29_000_000
    account.until("2026-12-01T00:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [
        ("2026-11-01", "99.00"),
        ("2026-12-01", "29.00"),
    ]


def test_what_was_canceled_is_not_charged_again_unless_it_was_resumed() -> None:
    account = an_account("small")
    account.until("2026-11-10T00:00:00Z")
    account.cancel()
    assert account.statement.upcoming is None
    account.until("2026-11-20T00:00:00Z")
    account.resume()
    account.until("2026-12-10T00:00:00Z")
    account.cancel()
    account.until("2027-05-10T00:00:00Z")
    assert len(account.statement.invoices) == 2


def test_credit_is_kept_when_a_change_gives_back_more_than_it_costs_and_used_by_the_next_invoices() -> None:
    account = an_account("large", interval="yearly")
    account.buy("small", days=30)
    assert account.rows[-1].charge is not None
    account.until("2026-12-05T00:00:00Z")
    account.buy("large")
    account.until("2027-01-05T00:00:00Z")
    first, given, used, more = shown(account.statement.invoices)
    assert first[:2] == ("2026-11-01", "990.00")
    assert given == (
        "2026-11-01",
        "0.00",
        [("base", "plan", "29.00"), ("proration", "plan", "-990.00"), ("credit", "kept", "961.00")],
    )
    assert used == ("2026-12-05", "0.00", [("base", "plan", "99.00"), ("credit", "used", "-99.00")])
    assert more[1] == "0.00"
    assert account.statement.credit_micros == {"USD": 763_000_000}


def test_a_fixed_number_of_days_is_charged_once_and_what_follows_is_free() -> None:
    account = an_account()
    account.buy("large", days=45)
    account.until("2027-06-01T00:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [("2026-11-01", "146.90")]


def test_a_plan_scheduled_after_a_fixed_number_of_days_is_charged_when_it_begins() -> None:
    account = an_account()
    account.buy("large", days=10)
    account.buy("small")
    account.until("2026-12-12T00:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [
        ("2026-11-01", "33.00"),
        ("2026-11-11", "29.00"),
        ("2026-12-11", "29.00"),
    ]


def test_a_period_that_begins_while_the_account_is_suspended_is_not_charged() -> None:
    account = an_account("small")
    account.until("2026-11-20T00:00:00Z")
    account.suspend()
    account.until("2027-01-10T00:00:00Z")
    account.activate()
    assert account.buy("large").price_now.micros == 99_000_000  # nothing was paid, so nothing is given back
    account.until("2027-02-10T00:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [
        ("2026-11-01", "29.00"),
        ("2027-01-10", "99.00"),
        ("2027-02-10", "99.00"),
    ]


def test_suspended_in_the_instant_a_period_begins_it_is_charged() -> None:
    account = an_account("small")
    account.until("2026-12-01T00:00:00Z")
    account.suspend()
    account.until("2026-12-10T00:00:00Z")
    account.activate()
    assert account.current.paid_micros is None
    assert len(account.statement.invoices) == 2


def test_an_overdue_payment_stops_charges_when_it_stops_the_service() -> None:
    account = an_account("small")
    account.until("2026-11-26T00:00:00Z")
    account.fail()
    account.until("2027-01-10T00:00:00Z")
    account.receive()
    account.until("2027-02-01T00:00:00Z")
    # In December the seven days had not passed; January began without service.
    assert [one[0] for one in shown(account.statement.invoices)] == ["2026-11-01", "2026-12-01", "2027-02-01"]


def test_another_version_costs_its_price_from_the_next_renewal() -> None:
    account = an_account("small")
    account.until("2026-11-10T00:00:00Z")
    account.migrate()
    account.until("2026-12-01T00:00:00Z")
    assert [one[1] for one in shown(account.statement.invoices)] == ["29.00", "39.00"]


def test_what_a_token_names_is_charged_by_its_issuer_until_something_is_bought_here() -> None:
    account = Account()
    account.begin("small", origin="token")
    account.until("2027-01-10T00:00:00Z")
    assert (account.statement.invoices, account.statement.upcoming) == ([], None)
    account.buy("large")
    account.until("2027-02-10T00:00:00Z")
    # At once and in full, with nothing given back of what was paid elsewhere; a billing period begins with it.
    assert shown(account.statement.invoices) == [
        ("2027-01-10", "99.00", [("base", "plan", "99.00")]),
        ("2027-02-10", "99.00", [("base", "plan", "99.00")]),
    ]


def test_down_from_what_a_token_names_waits_for_the_periods_end_and_is_charged_from_there() -> None:
    account = Account()
    account.begin("large", origin="token")
    assert account.buy("small").effective_at == parse_instant("2026-12-01T00:00:00Z")
    account.until("2027-01-10T00:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [
        ("2026-12-01", "29.00"),
        ("2027-01-01", "29.00"),
    ]


def test_to_cancel_what_a_token_names_and_resume_it_is_no_purchase() -> None:
    account = Account()
    account.begin("small", origin="token")
    account.cancel()
    assert account.resume().price_next.micros == 0
    account.until("2027-01-10T00:00:00Z")
    assert (account.statement.invoices, account.statement.upcoming) == ([], None)


def test_who_buys_seats_of_what_a_token_names_is_charged_here_from_then_on() -> None:
    account = Account()
    account.begin("teams", origin="token")
    account.until("2026-11-16T00:00:00Z")
    bought = account.seats(3)
    assert (bought.price_now.micros, bought.price_next.micros) == (12_000_000, 85_000_000)
    # Given back is what was paid here: two seats for half a month, not the plan.
    assert account.buy("large", "yearly").credited.micros == 0
    assert [line.micros for line in account.rows[-1].charge.lines] == [990_000_000, -12_000_000]  # type: ignore[union-attr]


def test_rows_that_only_say_what_is_scheduled_take_each_others_place_within_a_billing_period() -> None:
    account = an_account("small")
    for _ in range(20):
        account.cancel()
        account.wait(account.now + MINUTE)
        account.resume()
    assert [row.charge and len(row.charge.lines) for row in account.billing_replaced.rows] == [None, 1, 0]
    account.until("2026-12-05T00:00:00Z")
    account.cancel()
    account.resume()
    assert len(account.billing_replaced.rows) == 4
    account.suspend()
    account.activate()
    assert len(account.billing_replaced.rows) == 6


def test_a_founded_group_pays_from_the_next_renewal_and_its_founder_no_more() -> None:
    founder = an_account("teams", seats=2)
    founder.until("2026-11-10T00:00:00Z")
    group = Account(now=founder.now)
    group.keep(founder.current)
    founder.keep(left_behind(founder.current, PLANS["free"], founder.now))
    for account in (founder, group):
        account.until("2026-12-10T00:00:00Z")
    assert [one[0] for one in shown(founder.statement.invoices)] == ["2026-11-01"]
    assert [one[0] for one in shown(group.statement.invoices)] == ["2026-12-01"]


def test_a_period_that_begins_again_in_its_own_microsecond_is_billed_from_the_instant_shown() -> None:
    account = an_account("small")
    ended = replace(account.current, ended_at=account.now, ended_as="canceled", scheduled=None)
    account.keep(ended)
    account.buy("large")
    assert account.current.anchor_nudge == 1
    account.until("2026-12-01T00:00:00Z")
    assert [one[:2] for one in shown(account.statement.invoices)] == [
        ("2026-11-01", "29.00"),
        ("2026-11-01", "99.00"),
        ("2026-12-01", "99.00"),
    ]
    assert len({one.number for one in account.statement.invoices}) == 3


@pytest.mark.parametrize(
    ("units", "micros", "amount", "unit"),
    [
        (1_240, 2_480_000, "2.48", 2_000),
        (3, 15_000, "0.02", 5_000),
        (2, 4_999, "0.00", None),
        (3, 10_000, "0.01", None),
    ],
)
def test_what_went_beyond_a_limit_is_on_the_invoice_of_the_periods_end(
    units: int, micros: int, amount: str, unit: int | None
) -> None:
    account = an_account("small")
    account.overages = [OverageCount(NOVEMBER, "messages", units, micros)]
    upcoming = account.statement.upcoming
    assert upcoming is not None
    account.until("2026-12-01T00:00:00Z")
    renewal = account.statement.invoices[-1]
    assert upcoming.lines == renewal.lines
    lines = [line for line in renewal.lines if line.kind == "overage"]
    assert [format_amount(line.micros, "USD") for line in lines] == ([] if amount == "0.00" else [amount])
    assert all((line.of, line.quantity, line.unit_micros) == ("messages", units, unit) for line in lines)


def test_what_went_beyond_a_limit_before_the_end_is_billed_at_the_end() -> None:
    account = an_account("small")
    account.overages = [OverageCount(NOVEMBER, "messages", 100, 5_000_000)]
    account.until("2026-11-10T00:00:00Z")
    account.cancel()
    account.until("2027-03-01T00:00:00Z")
    assert shown(account.statement.invoices)[1:] == [
        ("2026-12-01", "5.00", [("overage", "messages", "5.00")])
    ]
    assert "-U" in account.statement.invoices[1].number


def test_a_period_that_is_cut_short_bills_what_went_beyond_a_limit_in_it() -> None:
    account = an_account("small")
    account.overages = [OverageCount(NOVEMBER, "messages", 100, 5_000_000)]
    account.until("2026-11-16T00:00:00Z")
    account.buy("large", interval="yearly")
    assert [line[0] for line in shown(account.statement.invoices)[1][2]] == ["base", "proration", "overage"]


def test_what_comes_late_or_is_taken_back_is_on_the_invoice_after_those_that_were_closed() -> None:
    account = an_account("small")
    account.overages = [OverageCount(NOVEMBER, "messages", 100, 5_000_000)]
    account.until("2026-12-01T00:00:00Z")
    account.close()
    before = account.statement.invoices
    account.overages = [OverageCount(NOVEMBER, "messages", 130, 6_500_000)]
    account.until("2027-01-01T00:00:00Z")
    assert account.statement.invoices[:2] == before
    late = account.statement.invoices[2].lines[1]
    assert (late.kind, late.micros, late.quantity) == ("overage", 1_500_000, 30)
    account.close()
    account.overages = [OverageCount(NOVEMBER, "messages", 0, 0)]
    account.until("2027-02-01T00:00:00Z")
    taken = account.statement.invoices[3]
    assert (taken.total_micros, [line.micros for line in taken.lines]) == (
        22_500_000,
        [29_000_000, -6_500_000],
    )


def used_in(line: InvoiceLine) -> tuple[str, str]:
    assert line.kind == "overage"
    return format_instant(line.start)[:10], format_instant(line.end)[:10]


def test_what_went_beyond_a_limit_is_told_with_the_billing_period_it_was_used_in() -> None:
    account = an_account("small")
    account.overages = [OverageCount(NOVEMBER, "messages", 100, 5_000_000)]
    account.until("2026-12-01T00:00:00Z")
    account.close()
    october = parse_instant("2026-10-01T00:00:00Z")
    account.overages = [
        OverageCount(october, "messages", 10, 500_000),
        OverageCount(NOVEMBER, "messages", 130, 6_500_000),
    ]
    account.until("2027-01-15T00:00:00Z")
    *_, closed, renewal = account.statement.invoices
    assert [used_in(line) for line in closed.overages] == [("2026-11-01", "2026-12-01")]
    told = [("2026-10-01", "2026-11-01"), ("2026-11-01", "2026-12-01")]
    assert [used_in(line) for line in renewal.overages] == told
    account.buy("large", interval="yearly")
    account.close()
    # Of a period that was told already the same is said, however the periods lie by now.
    account.overages[1] = OverageCount(NOVEMBER, "messages", 140, 7_000_000)
    account.until("2028-01-15T00:00:00Z")
    for billing in (account.billing, account.billing_unsettled):
        (late,) = statement_of(billing, VERSIONS, account.now).invoices[-1].overages
        assert used_in(late) == ("2026-11-01", "2026-12-01")


def test_a_period_that_is_cut_short_is_told_as_it_ended() -> None:
    account = an_account("small")
    account.overages = [OverageCount(NOVEMBER, "messages", 100, 5_000_000)]
    account.until("2026-11-16T00:00:00Z")
    account.buy("large", interval="yearly")
    (line,) = account.statement.invoices[1].overages
    assert used_in(line) == ("2026-11-01", "2026-11-16")


def test_a_period_that_is_counted_from_a_little_earlier_is_told_as_it_is_shown() -> None:
    account = an_account("small")
    account.keep(replace(account.current, ended_at=account.now, ended_as="canceled", scheduled=None))
    account.buy("large")
    begins, counted_from = account.now, account.current.anchor
    assert counted_from < begins
    account.overages = [OverageCount(counted_from, "messages", 100, 5_000_000)]
    account.until("2026-12-15T00:00:00Z")
    (line,) = account.statement.invoices[-1].overages
    assert (line.start, line.end) == (begins, account.current.period_at(account.now).start)
    assert line.counted_from == counted_from


def test_what_was_used_under_a_plan_of_another_currency_is_on_an_invoice_of_its_own_in_that_currency() -> (
    None
):
    account = Account(now=NOVEMBER)
    account.begin("free")
    account.agree(
        change_of_plan(
            account.current, account.plan, EURO, "monthly", "purchase", account.now, follows=PLANS["free"]
        )
    )
    account.until("2026-11-20T00:00:00Z")
    account.cancel()
    account.until("2026-12-05T00:00:00Z")
    account.close()
    account.buy("small")
    account.overages = [OverageCount(NOVEMBER, "messages", 100, 5_000_000)]
    upcoming = account.statement.upcoming
    assert upcoming is not None
    late = account.statement.open[0]
    assert (late.currency, late.total_micros, late.number[-15:]) == ("EUR", 5_000_000, "20261201-U1-EUR")
    assert shown(account.statement.open)[1:] == [("2026-12-05", "29.00", [("base", "plan", "29.00")])]
    account.close()
    account.overages = [
        OverageCount(NOVEMBER, "messages", 40, 2_000_000),
        OverageCount(account.now, "messages", 7, 700_000),
    ]
    account.until("2027-01-05T00:00:00Z")
    for billing in (account.billing, account.billing_unsettled):
        found = statement_of(billing, VERSIONS, account.now)
        assert [(one.currency, one.total_micros) for one in found.open] == [("USD", 29_700_000), ("EUR", 0)]
        assert found.credit_micros == {"EUR": 3_000_000}


def test_numbers_are_of_the_account_and_the_day() -> None:
    account = an_account("small")
    account.buy("large")
    account.until("2026-12-01T00:00:00Z")
    assert [one.number for one in account.statement.invoices] == [
        "0000ABCD0000-20261101-1",
        "0000ABCD0000-20261101-2",
        "0000ABCD0000-20261201-1",
    ]


def test_another_amount_in_the_history_is_noticed() -> None:
    account = an_account("small")
    account.until("2026-11-16T00:00:00Z")
    account.buy("large")
    before, row = account.rows[-2:]
    assert row.charge is not None
    assert not charge_differs(before.subscription, row, VERSIONS)
    for index in range(2):
        lines = list(row.charge.lines)
        lines[index] = replace(lines[index], micros=lines[index].micros + 10_000)
        spoilt = replace(row, charge=replace(row.charge, lines=tuple(lines)))
        assert charge_differs(before.subscription, spoilt, VERSIONS)


# Generated lives

STEPS = st.one_of(
    st.tuples(
        st.just("buy"),
        st.sampled_from(["free", "small", "large", "teams"]),
        st.sampled_from(["monthly", "yearly"]),
        st.integers(1, 4),
        st.sampled_from([None, None, 3, 45]),
    ),
    st.tuples(st.just("seats"), st.integers(1, 9)),
    *(
        st.tuples(st.just(what))
        for what in ("cancel", "resume", "suspend", "activate", "fail", "receive", "migrate", "close")
    ),
)
PAUSES = st.one_of(
    st.sampled_from([0, 1, DAY, 7 * DAY, 30 * DAY, 31 * DAY, 366 * DAY]), st.integers(0, 70 * DAY)
)


def take(account: Account, step: tuple) -> None:
    """Do it where the machine would."""
    what, *how = step
    status = account.current.status_at(account.now)
    paid = account.plan.price.monthly is not None and not account.plan.price.is_free
    match what:
        case "buy" if account.current.standstill_at(account.now) in (None, "trial_expired") or (
            status in ("canceled", "expired")
        ):
            plan, interval, seats, days = how
            interval = "monthly" if plan == "teams" else interval
            is_other = (plan, interval) != (account.current.plan, account.current.interval)
            if status in ("canceled", "expired") or is_other or days is not None:
                account.buy(plan, interval, seats, days)
        case "seats" if status in ("active", "past_due") and account.current.plan == "teams":
            scheduled = account.current.scheduled
            if how[0] != account.current.seats and (scheduled is None or scheduled.plan == "teams"):
                account.seats(how[0])
        case "cancel" if status in ("active", "past_due") and paid and account.current.scheduled is None:
            account.cancel()
        case "resume" if status in ("active", "past_due") and account.current.scheduled is not None:
            if account.current.scheduled.reason != "end":
                account.resume()
        case "suspend" if status != "suspended":
            account.suspend()
        case "activate" if status == "suspended":
            account.activate()
        case "fail" if status == "active" and paid:
            account.fail()
        case "receive" if status == "past_due":
            account.receive()
        case "migrate" if account.current.plan == "small":
            account.migrate()
        case "close":
            account.close()


@given(
    st.sampled_from([0, 30 * DAY, 90 * DAY + 5 * HOUR]),
    st.sampled_from([("free", "default"), ("small", "token"), ("large", "token")]),
    st.lists(st.tuples(PAUSES, STEPS), max_size=14),
    PAUSES,
)
@settings(deadline=None)
def test_all_invoices_together_are_what_was_agreed_at_each_change_and_each_renewal(
    start: int, first: tuple[str, str], life: list[tuple[int, tuple]], last: int
) -> None:
    account = Account(now=NOVEMBER + start)
    account.begin(*first)
    seen: dict[str, Invoice] = {}
    for pause, step in life:
        account.wait(account.now + pause)
        take(account, step)
        for invoice in account.statement.invoices:
            known = seen.setdefault(invoice.number, invoice)
            assert (known.lines, known.issued_at) == (invoice.lines, invoice.issued_at)
        for fewer in (account.billing_replaced, account.billing_unsettled):
            assert statement_of(fewer, VERSIONS, account.now) == account.statement
    account.wait(account.now + last)
    statement = account.statement
    lines = [line for invoice in statement.invoices for line in invoice.lines]
    credit = sum(line.micros for line in lines if line.kind == "credit")
    used = sum(line.micros for line in lines if line.of == "used")
    assert credit == sum(statement.credit_micros.values()) >= 0
    assert sum(line.micros for line in lines) == account.told_micros + used
    assert all(invoice.total_micros >= 0 for invoice in statement.invoices)
    assert all(line.micros % 10_000 == 0 for line in lines)
    assert {number: invoice.lines for number, invoice in seen.items()}.items() <= {
        invoice.number: invoice.lines for invoice in statement.invoices
    }.items()
    again = worked_out_again(account.billing, VERSIONS, account.now, {})
    assert all(again[one.number].lines == one.lines for one in account.closed)
    before: Subscription | None = None
    for row in account.rows:
        assert not charge_differs(before, row, VERSIONS), row
        before = row.subscription


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(-50, 200)), max_size=12))
@settings(deadline=None)
def test_however_often_invoices_are_closed_what_went_beyond_limits_is_charged_once(
    counts: list[tuple[int, int]],
) -> None:
    account = an_account("small")
    counted: dict[Instant, int] = {}
    then: CountedAt = {}
    for days, units in counts:
        start = BillingPeriod().period_at(account.now, account.current.billing_anchor).start
        counted[start] = max(0, counted.get(start, 0) + units)
        account.overages = [OverageCount(at, "messages", n, n * 3_333) for at, n in sorted(counted.items())]
        if days % 2:
            account.close()
            then[account.now] = {
                (at, "messages"): CountedThen(Range(n, n), Range(n * 3_333, n * 3_333))
                for at, n in counted.items()
            }
        account.wait(account.now + days * DAY + MINUTE)
    again = worked_out_again(account.billing, VERSIONS, account.now, then)
    assert all(again[one.number].lines == one.lines for one in account.closed)
    account.wait(account.now + 62 * DAY)
    billed: dict[Instant, int] = {}
    for invoice in account.statement.invoices:
        for line in invoice.lines:
            if line.kind == "overage":
                billed[line.counted_from] = billed.get(line.counted_from, 0) + line.micros
    assert {at: micros for at, micros in billed.items() if micros} == {
        at: micros for at, n in counted.items() if (micros := round_to_minor(n * 3_333, "USD"))
    }
