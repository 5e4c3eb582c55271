"""A ledger with a little of everything in it: every table has rows, in several states each."""

from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_clearing,
    a_closing,
    a_limit,
    a_limit_set,
    a_member_change,
    a_plan,
    a_publication,
    a_record,
    a_reserve,
    a_settle,
    a_subject,
    an_opening,
    buy,
    code_of,
    decision_of,
)

from subscription_mcp.domain.catalog import UNLIMITED, Catalog
from subscription_mcp.domain.instants import DAY, HOUR
from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    CloseInvoices,
    Command,
    CorrectUsage,
    EditPlan,
    GrantAllowance,
    InvoicesClosed,
    Outcome,
    PayInvoice,
    ReportOutage,
    RevokeTokens,
    SetAlertThresholds,
)
from subscription_mcp.ledger.writer import Ledger

BERLIN = "Europe/Berlin"
OPERATOR = Actor("olivia", "superadmin")


def windows_catalog(*, weekly: bool = False, sliding: bool = True) -> Catalog:
    """Plans that limit in every kind of window; `weekly` is a later edition of it. Without `sliding` there are
    only the windows that begin and end by a calendar."""
    late = [
        a_limit(20_000, window="week", timezone=BERLIN),
        *([a_limit(20_000, window="rolling:P10D", scope="account")] if sliding else []),
        a_limit(9_000, meter="storage_mb", window="level", scope="account"),
    ]
    basic = a_plan(
        a_limit(5_000, window="hour"),
        a_limit(10_000, timezone=BERLIN),
        a_limit(UNLIMITED, window="lifetime"),
        *([a_limit(1_000, window="minute")] if sliding else []),
        a_limit(9_000, meter="storage_mb", window="level"),
        *(late if weekly else []),
        timezone=BERLIN,
        sessions=3,
        session_seconds=3_600,
    )
    advanced = a_plan(
        a_limit(90_000, window="billing_period"),
        a_limit(90_000, window="month", scope="account"),
        a_limit(UNLIMITED, meter="llm_tokens", window="day"),
        key="advanced",
        monthly="29.00",
        yearly="290.00",
        seats=5,
    )
    trial = a_plan(a_limit(100), key="trial", trial_days=10)
    return a_catalog(basic, advanced, trial, a_plan(key="dropped"))


def _event_of(recorded: Outcome) -> str:
    id_ = decision_of(recorded).event_id
    assert id_ is not None
    return id_


async def populate(ledger: Ledger, clock: Clock, *, sliding: bool = True, correcting: bool = True) -> None:
    """A hundred days of usage by people and a group, changes of plan, reservations, sessions and revocations.
    The clock moves; the ledger's catalog is `windows_catalog(sliding=…)`. Unless `correcting`, nothing is taken back."""

    async def do(*commands: Command) -> list[Outcome]:
        outcomes = await ledger.submit(commands)
        assert {code_of(outcome) for outcome in outcomes} == {"ok"}, outcomes
        return outcomes

    team = a_subject("tom", group="team", group_admin=True)
    await do(Arrive(team), Arrive(a_subject("tina", group="team")), Arrive(a_subject("bob", "globex")))
    for day in range(100):
        clock.advance(hours=23, minutes=7, microseconds=day)
        called = {"provider": ("gemini", "claude", "ünï")[day % 3], "tokens": day * 10}
        await do(
            a_record("bob", quantity=day % 5 + 1, key=f"key-{day}"),
            a_record("tom", "llm_call", attributes=called),
            a_record("tina", quantity=2, occurred_at=clock.now - day % 35 * DAY),
            a_record(a_subject("bob", "globex"), "tool_call", attributes={"tool": "search"}, source="other"),
            a_record("tina", "storage", 40 if day % 3 else -50, attributes={"response_ms": day}),
        )
        if day == 20:
            assert code_of(await buy(ledger, "advanced")) == "ok"
            assert code_of(await buy(ledger, "advanced", team, actor="tom")) == "ok"
        if day == 50:
            again = a_catalog(*windows_catalog(weekly=True, sliding=sliding).plans.values())
            await do(a_publication(*again.plans.values()))
        if day == 60:
            assert code_of(await buy(ledger, "advanced", interval="yearly")) == "ok"
        if day == 80:
            assert code_of(await buy(ledger, "basic", team, actor="tom")) == "ok"
    given = {"role": "tenant_admin", "actor": "olivia", "duration_days": 5}
    await do(Arrive(a_subject("theo")))
    assert code_of(await buy(ledger, "trial", "theo", **given)) == "ok"
    for account in (AccountKey("acme", "personal", "bob"), AccountKey("acme", "group", "team")):
        (closed,) = await do(CloseInvoices(account))
        assert isinstance(closed, InvoicesClosed) and closed.closed > 1
        await do(PayInvoice(account, closed.to_pay[0].number, "simulated", "a-reference"))
    assert code_of(await ledger.submit_one(a_record("theo", quantity=101))) == "quota_exceeded"
    late = await do(a_reserve("bob", quantity=7, key="held"), a_reserve("tina", quantity=3, ttl_seconds=60))
    clock.advance(minutes=5)
    kept = await do(a_settle(late[0], 5), a_settle(late[1]), a_reserve("tom", quantity=9, ttl_seconds=900))
    await do(a_settle(kept[2], 0), a_reserve("tom", quantity=4, ttl_seconds=900), a_reserve("bob"))
    sessions = await do(an_opening("bob", key="opened"), an_opening("bob"), an_opening("tina"))
    await do(a_closing(sessions[1]))
    tina, operator = a_subject("tina", account="team"), OPERATOR
    await do(a_limit_set(70, "tina", window="hour"))
    await do(GrantAllowance(tina, operator, "messages", "hour", 9, "a gift"))
    (used,) = await do(a_record("tina", quantity=73))
    await do(a_record("tina", quantity=3))
    if correcting:
        await do(CorrectUsage("acme", _event_of(used), operator, "twice"))
    if sliding:
        clock.advance(minutes=2)  # no rate is in use when one is cleared
    await do(
        a_limit_set(UNLIMITED, meter="messages", window="billing_period"),
        a_limit_set(70, "tina", window="hour", expires_at=clock.now + HOUR),
        a_change("basic", offer="a-handle"),
        EditPlan(OPERATOR, "archive", "dropped", reason="nobody wants it"),
        *([a_clearing("tina")] if sliding else []),
        SetAlertThresholds(a_subject("bob"), OPERATOR, (50, 100)),
        a_limit_set(1, "tina", window="day"),
        ReportOutage(clock.now - HOUR),
        RevokeTokens(OPERATOR, clock.now, subject="mallory", tenant="acme", reason="gone"),
        RevokeTokens(OPERATOR, clock.now, token_id="a-token"),
        a_member_change("add", "uma", actor="tom"),
        a_member_change("remove", "uma", actor="tom", tokens_before=clock.now),
    )
    clock.advance(seconds=1)  # by a rate that is cleared the ledger's own clock goes on a little
