"""What every engine of the ledger must do, told against its public side: submit, rehearse, look, query.

A new engine is one more entry in `STORES`, with a way to count its rows and to break and mend it.
"""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    closing,
    contextmanager,
)
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import (
    Clock,
    a_catalog,
    a_change,
    a_ledger,
    a_limit,
    a_limit_set,
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
from tests.platforms import posix

from subscription_mcp.domain.catalog import TOTAL_MAX, UNLIMITED, Catalog
from subscription_mcp.domain.errors import Refusal
from subscription_mcp.domain.instants import DAY, HOUR, MINUTE, format_instant, parse_instant
from subscription_mcp.domain.usage import Bounds
from subscription_mcp.ledger import writer
from subscription_mcp.ledger.commands import (
    Actor,
    Arrive,
    CheckUsage,
    LimitsChanged,
    Outcome,
    PlanChanged,
    PlansPublished,
    RevokeTokens,
    Standing,
    TokensRevoked,
)
from subscription_mcp.ledger.filelock import FileLock
from subscription_mcp.ledger.queries import (
    AccountCount,
    AccountIds,
    AuditTrail,
    EventPage,
    PlanHolders,
    RevocationsSince,
    TenantSummary,
    UsageTotals,
    Whose,
)
from subscription_mcp.ledger.sqlite import engine as sqlite_engine
from subscription_mcp.ledger.sqlite.accounts import ACCOUNT_IDS
from subscription_mcp.ledger.writer import Ledger

MESSAGES = ("messages", "day")


class SqliteStore:
    """A SQLite ledger in a folder, and what a test may do to it behind the engine's back."""

    engine = "sqlite"

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = place / "ledger.db"

    def open(
        self,
        *,
        catalog: Catalog | None = None,
        clock: Clock | None = None,
        publish: bool = True,
        bounds: Bounds | None = None,
    ) -> AbstractAsyncContextManager[Ledger]:
        return a_ledger(
            self.place, catalog=catalog, clock=clock, engine=self.engine, publish=publish, bounds=bounds
        )

    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        with closing(sqlite3.connect(self.path)) as connection:
            names = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            ]
            return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}

    @contextmanager
    def without_a_table(self) -> Iterator[None]:
        """Half of a save works, then it fails."""
        self._execute("ALTER TABLE rollup RENAME TO rollup_elsewhere")
        try:
            yield
        finally:
            self._execute("ALTER TABLE rollup_elsewhere RENAME TO rollup")

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        """No file may grow."""
        resource = posix("resource")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else is writing."""
        lock = FileLock(self.path.with_name("ledger.db.lock"))
        try:
            with lock:
                yield
        finally:
            lock.close()

    def _execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(statement)


STORES = [SqliteStore]


def one_plan(*limits, **plan) -> Catalog:
    return a_catalog(a_plan(*limits, **plan))


async def everybody_had_a_turn() -> None:
    """Every task that could go on has gone on: the writer has taken what it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def used(ledger: Ledger, subject="bob", *, meter: str = "messages", window: str = "day") -> int:
    """What the account's view says is used."""
    who = a_subject(subject) if isinstance(subject, str) else subject
    view = view_of(await ledger.rehearse(Arrive(who)))
    return next(state.used for state in view.limits if (state.meter, state.window) == (meter, window))


async def arrive(ledger: Ledger, **subject):
    return await ledger.look(Arrive(a_subject(**subject)), may_make_known=True)


async def events_of(ledger: Ledger, clock: Clock, whose: Whose | None = None, **page):
    question = EventPage(
        whose or Whose("acme"), clock.now - 40 * DAY, clock.now + DAY, **{"size": -1, **page}
    )
    return [event for _, event in (await ledger.query(question))[0]]


async def history(ledger: Ledger, action: str = "", whose: Whose | None = None):
    return await ledger.query(AuditTrail(whose or Whose("acme"), action, 100))


# What is recorded is there


async def test_what_was_recorded_is_there_after_reopening(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit([a_record("bob"), a_record("bob", quantity=4, key="k"), a_record("eve")])
        await buy(ledger, "advanced", "eve", actor="eve")
        await ledger.submit_one(a_limit_set(7))
    async with store.open(clock=clock) as ledger:
        assert await used(ledger) == 5
        assert decision_of(await ledger.submit_one(a_record("bob", quantity=4, key="k"))).replayed
        assert [event.quantity for event in await events_of(ledger, clock)] == [1, 4, 1]
        view = view_of(await ledger.rehearse(Arrive(a_subject("eve"))))
        assert view.plan is not None and view.plan.key == "advanced"
        assert code_of(await ledger.submit_one(a_record("bob", quantity=3))) == "quota_exceeded"


async def test_an_event_says_everything_that_was_recorded(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        at = clock.now - HOUR
        decision = decision_of(
            await ledger.submit_one(
                a_record("bob", "llm_call", attributes={"provider": "gemini", "tokens": 9}, occurred_at=at)
            )
        )
        (event,) = await events_of(ledger, clock)
    assert event.id == decision.event_id
    assert (event.tenant, event.account_kind, event.account, event.user) == ("acme", "personal", "bob", "bob")
    assert (event.event, event.plan, event.plan_version, event.source) == ("llm_call", "basic", 1, "app")
    assert event.attributes == {"provider": "gemini", "tokens": 9}
    assert event.gains == {"llm_calls": 1, "llm_tokens": 9, "gemini_calls": 1}
    assert (event.occurred_at, event.recorded_at) == (at, clock.now)


async def test_a_limit_of_50_lets_exactly_50_of_640_at_once_through(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50))) as ledger:
        outcomes = await asyncio.gather(*[ledger.submit_one(a_record()) for _ in range(640)])
        assert Counter(map(code_of, outcomes)) == {"ok": 50, "quota_exceeded": 590}
        assert sorted(decision_of(o).limits[0].used for o in outcomes if code_of(o) == "ok") == [
            *range(1, 51)
        ]


async def test_commands_of_one_submit_are_done_in_order(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(10))) as ledger:
        outcomes = await ledger.submit([a_record(quantity=n) for n in (6, 5, 4, 1)])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "quota_exceeded", "ok", "quota_exceeded"]


async def test_one_command_that_is_wrong_does_not_take_the_others_with_it(store: SqliteStore) -> None:
    async with store.open() as ledger:
        outcomes = await ledger.submit(
            [a_record(), a_record(event="nonsense"), a_record(quantity=0), a_record()]
        )
        assert [code_of(o) for o in outcomes] == ["ok", "invalid_request", "invalid_request", "ok"]
        assert await used(ledger) == 2


async def test_accounts_and_tenants_do_not_share_a_limit(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(1))) as ledger:
        subjects = [a_subject("bob"), a_subject("eve"), a_subject("bob", "globex")]
        outcomes = await ledger.submit([a_record(who) for who in subjects * 2])
        assert [code_of(outcome) for outcome in outcomes] == ["ok"] * 3 + ["quota_exceeded"] * 3


async def test_what_already_happened_is_recorded_past_the_limit(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(1))) as ledger:
        await ledger.submit_one(a_record())
        over = decision_of(await ledger.submit_one(a_record(enforce=False, key="k")))
        assert (over.allowed, over.code, over.event_id is None) == (False, "quota_exceeded", False)
        assert over.limits[0].used == 2
        again = decision_of(await ledger.submit_one(a_record(enforce=False, key="k")))
        assert again.as_dict() == {**over.as_dict(), "replayed": True}


async def test_without_a_default_plan_only_what_happened_anyway_is_recorded(store: SqliteStore) -> None:
    _, advanced, _ = three_plans()
    async with store.open(catalog=a_catalog(advanced, default_plan=None)) as ledger:
        assert code_of(await ledger.submit_one(a_record())) == "payment_required"
        recorded = decision_of(await ledger.submit_one(a_record(enforce=False, key="k")))
        assert (recorded.code, recorded.plan) == ("payment_required", None)
        again = decision_of(await ledger.submit_one(a_record(enforce=False, key="k")))
        assert again.as_dict() == {**recorded.as_dict(), "replayed": True}
        assert code_of(await buy(ledger, "advanced")) == "ok"
        assert await used(ledger) == 1


async def test_no_counter_passes_what_every_json_reader_keeps_exact(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(UNLIMITED))) as ledger:
        full = TOTAL_MAX // 10**12
        outcomes = await ledger.submit([a_record(quantity=10**12) for _ in range(full)])
        assert {code_of(outcome) for outcome in outcomes} == {"ok"}
        left = TOTAL_MAX - full * 10**12
        codes = [code_of(o) for o in await ledger.submit([a_record(quantity=q) for q in (left, 1)])]
        assert codes == ["ok", "quota_exceeded"]
        assert code_of(await ledger.submit_one(a_record(enforce=False))) == "invalid_request"
        assert await used(ledger) == TOTAL_MAX


# All or nothing


@pytest.mark.parametrize("fault", ["without_a_table", "disk_full"])
async def test_a_batch_that_cannot_be_saved_counts_nothing_and_the_ledger_goes_on(
    store: SqliteStore, fault: str
) -> None:
    async with store.open(catalog=one_plan(a_limit(50))) as ledger:
        await ledger.submit_one(a_record("bob", key="before"))
        rows = store.rows()
        with getattr(store, fault)():
            outcomes = await asyncio.gather(
                ledger.submit([a_record("bob", key=f"k{n}") for n in range(5)]),
                ledger.submit([a_record("newcomer")]),
                ledger.submit([a_limit_set(7)]),
            )
        # Also the change of a limit, which writes nothing where the fault is: they were one batch.
        assert [code_of(o) for o in outcomes[0] + outcomes[1]] == ["unavailable"] * 6
        assert all(outcome.retryable for outcome in outcomes[0])
        assert code_of(outcomes[2][0]) == "unavailable"
        assert store.rows() == rows
        assert await used(ledger) == 1
        outcomes = [await ledger.submit([a_record("bob", key=f"k{n}") for n in range(5)])]
        assert [(code_of(o), decision_of(o).replayed) for o in outcomes[0]] == [("ok", False)] * 5
        assert await used(ledger) == 6


async def test_plans_that_could_not_be_published_are_not_the_current_ones(store: SqliteStore) -> None:
    edited = a_plan(a_limit(3))
    async with store.open(catalog=one_plan(a_limit(50))) as ledger:
        with store.disk_full():
            assert code_of(await ledger.submit_one(a_publication(edited))) == "unavailable"
        assert decision_of(await ledger.submit_one(a_record())).limits[0].maximum == 50
        published = await ledger.submit_one(a_publication(edited))
        assert isinstance(published, PlansPublished) and published.versions == {"basic": 2}
        assert decision_of(await ledger.submit_one(a_record("eve"))).limits[0].maximum == 3


async def test_an_answer_stands_although_the_checkpoint_after_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(tmp_path)
    monkeypatch.setattr(sqlite_engine, "CHECKPOINT_ROWS", 1)
    async with store.open(catalog=one_plan(a_limit(UNLIMITED))) as ledger:
        await ledger.submit([a_record(f"user{n}") for n in range(2_000)])
        await ledger.submit_one(a_record())  # the log is written from its beginning again
        size = store.path.stat().st_size
        resource = posix("resource")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        try:
            outcome = await ledger.submit_one(a_record())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "checkpoint failed" in caplog.text
        assert code_of(outcome) == "ok"
        assert await used(ledger) == 2


async def test_ready_tells_whether_it_can_be_written(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert await ledger.ready()
        await ledger.submit_one(a_record())
        with store.without_a_table():
            assert code_of(await ledger.submit_one(a_record())) == "unavailable"
        assert await ledger.ready()
        assert code_of(await ledger.submit_one(a_record())) == "ok"


async def test_a_closed_ledger_answers_unavailable(store: SqliteStore) -> None:
    async with store.open() as ledger:
        pass
    assert code_of(await ledger.submit_one(a_record())) == "unavailable"


async def test_what_waits_when_the_ledger_closes_is_still_done(store: SqliteStore) -> None:
    async with store.open() as ledger:
        waiting = [asyncio.create_task(ledger.submit_one(a_record())) for _ in range(5)]
        await everybody_had_a_turn()
    assert [code_of(await task) for task in waiting] == ["ok"] * 5


# A caller that goes away


async def test_a_caller_that_goes_away_leaves_all_or_nothing(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(UNLIMITED)), clock=clock) as ledger:
        dice = random.Random(7)
        tasks = [
            asyncio.create_task(ledger.submit([a_record(f"user{n}") for _ in range(5)])) for n in range(200)
        ]
        answered = set()
        for n, task in enumerate(tasks):
            if dice.random() < 0.5:
                task.cancel()
            elif dice.random() < 0.2:
                await everybody_had_a_turn()
            if n % 50 == 49:
                await ledger.submit_one(a_record("pause"))
        for n, outcome in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
            if isinstance(outcome, list):
                assert [code_of(o) for o in outcome] == ["ok"] * 5
                answered.add(f"user{n}")
        counted = Counter(event.user for event in await events_of(ledger, clock))
        del counted["pause"]
        assert set(counted.values()) <= {5}
        assert answered <= set(counted)
        assert len(answered) < 200


async def test_who_gave_up_before_it_was_begun_was_never_there(store: SqliteStore) -> None:
    async with store.open() as ledger:
        with store.locked():
            first = asyncio.create_task(ledger.submit_one(a_record()))
            await everybody_had_a_turn()
            second = asyncio.create_task(ledger.submit_one(a_record()))
            await everybody_had_a_turn()
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
        assert code_of(await first) == "ok"
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 2


async def test_more_than_100_000_waiting_are_answered_at_once(store: SqliteStore) -> None:
    async with store.open() as ledger:
        with store.locked():
            first = asyncio.create_task(ledger.submit_one(a_record()))
            await everybody_had_a_turn()
            many = asyncio.create_task(ledger.submit([a_record()] * 100_000))
            await everybody_had_a_turn()
            refused = await ledger.submit_one(a_record())
            assert not first.done() and not many.done(), "it waited until they gave up"
            assert code_of(refused) == "unavailable"
            many.cancel()
            await asyncio.gather(many, return_exceptions=True)
        assert code_of(await first) == "ok"
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 2


async def test_a_lock_that_is_not_given_is_given_up_and_counts_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "START_WITHIN_SECONDS", 0.05)
    async with store.open() as ledger:
        with store.locked():
            assert code_of(await ledger.submit_one(a_record())) == "unavailable"
            assert not await ledger.ready()
        monkeypatch.setattr(writer, "START_WITHIN_SECONDS", 10)
        assert decision_of(await ledger.submit_one(a_record())).limits[0].used == 1


# Idempotency


async def test_a_key_replays_the_first_numbers_whatever_happened_since(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        first = decision_of(await ledger.submit_one(a_record(key="k")))
        await ledger.submit([a_record() for _ in range(9)])
        await buy(ledger, "premium")
        clock.advance(days=2)
        again = decision_of(await ledger.submit_one(a_record(key="k")))
        assert again.as_dict() == {**first.as_dict(), "replayed": True}
        assert await used(ledger, window="month") == 10


async def test_a_replay_is_told_in_the_same_time_zone(store: SqliteStore) -> None:
    plan = a_plan(
        *[a_limit(50, window=w) for w in ("hour", "day", "week", "month", "billing_period", "lifetime")],
        timezone="Asia/Kolkata",
    )
    async with store.open(catalog=a_catalog(plan)) as ledger:
        first = decision_of(await ledger.submit_one(a_record(key="k")))
        again = decision_of(await ledger.submit_one(a_record(key="k")))
        assert again.as_dict() == {**first.as_dict(), "replayed": True}


async def test_the_same_key_with_another_request_is_a_conflict(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record(key="k"))
        assert code_of(await ledger.submit_one(a_record(key="k", quantity=2))) == "conflict"
        assert await used(ledger) == 1


async def test_a_refusal_is_not_remembered_so_the_key_works_after_an_upgrade(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert code_of(await ledger.submit_one(a_record(key="k", quantity=60))) == "quota_exceeded"
        await buy(ledger, "advanced")
        decision = decision_of(await ledger.submit_one(a_record(key="k", quantity=60)))
        assert (decision.code, decision.replayed, decision.limits[0].used) == ("ok", False, 60)


async def test_a_key_used_twice_in_one_batch_counts_once(store: SqliteStore) -> None:
    async with store.open() as ledger:
        first, again, other = await ledger.submit(
            [a_record(key="k"), a_record(key="k"), a_record(key="k", quantity=2)]
        )
        assert decision_of(again).as_dict() == {**decision_of(first).as_dict(), "replayed": True}
        assert code_of(other) == "conflict"
        assert await used(ledger) == 1


async def test_a_key_belongs_to_its_tenant_and_source(store: SqliteStore) -> None:
    async with store.open() as ledger:
        records = [
            a_record(key="k"),
            a_record(key="k", source="other"),
            a_record(a_subject("bob", "globex"), key="k"),
        ]
        outcomes = await ledger.submit(records)
        assert [decision_of(outcome).replayed for outcome in outcomes] == [False] * 3
        assert [decision_of(o).replayed for o in await ledger.submit(records)] == [True] * 3


async def test_a_key_is_remembered_for_35_days(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_record(key="k"))
        clock.advance(days=35, microseconds=-1)
        assert decision_of(await ledger.submit_one(a_record(key="k"))).replayed
        assert code_of(await ledger.submit_one(a_record(key="k", quantity=2))) == "conflict"
        clock.advance(microseconds=1)
        assert not decision_of(await ledger.submit_one(a_record(key="k", quantity=2))).replayed
        assert decision_of(await ledger.submit_one(a_record(key="k", quantity=2))).replayed


# Which plan: first sight


async def plan_and_origin(ledger: Ledger, **subject) -> tuple[str, str]:
    view = await arrive(ledger, **subject)
    assert view.subscription is not None
    return view.subscription.plan, view.subscription.origin


@pytest.mark.parametrize(
    ("tier", "plan"),
    [
        (None, ("basic", "default")),
        ("premium", ("premium", "token")),
        ("nonsense", ("basic", "default")),
        ("basic", ("basic", "token")),
    ],
)
async def test_the_first_call_makes_the_subscription(store: SqliteStore, tier, plan) -> None:
    async with store.open() as ledger:
        assert await plan_and_origin(ledger, tier=tier) == plan
        assert await plan_and_origin(ledger) == plan
        (entry,) = await history(ledger, "subscription.")
        assert (entry.action, entry.actor, entry.before) == (
            "subscription.start",
            Actor("bob", "token"),
            None,
        )


async def test_a_plan_nobody_chose_is_replaced_once_by_the_first_token_that_names_one(
    store: SqliteStore,
) -> None:
    async with store.open() as ledger:
        assert await plan_and_origin(ledger) == ("basic", "default")
        assert await plan_and_origin(ledger, tier="nonsense") == ("basic", "default")
        assert await plan_and_origin(ledger, tier="advanced") == ("advanced", "token")
        assert await plan_and_origin(ledger, tier="premium") == ("advanced", "token")


async def test_an_old_token_cannot_bring_an_old_tier_back(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, tier="advanced")
        await buy(ledger, "premium")
        assert await plan_and_origin(ledger, tier="advanced") == ("premium", "purchase")


# Where the issuer decides about plans


def issued(tier: str | None, at: int | None, **fields: object) -> dict[str, object]:
    return {"tier": tier, "tier_decides": True, "claimed_at": at, **fields}


async def test_the_issuers_word_changes_the_plan_at_once_up_and_down(store: SqliteStore) -> None:
    async with store.open() as ledger:
        for tier, at in (("advanced", 100), ("premium", 200), ("basic", 300)):
            await arrive(ledger, **issued(tier, at))
            assert await plan_and_origin(ledger) == (tier, "token")
        trail = await ledger.query(AuditTrail(Whose("acme", "personal", "bob"), "subscription.", 10))
        assert [entry.after["plan"] for entry in trail] == ["basic", "premium", "advanced"]
        assert [entry.after["origin"] for entry in trail] == ["token"] * 3
        assert {(entry.actor.user, entry.actor.role) for entry in trail} == {("bob", "token")}


async def test_the_issuers_word_goes_on_with_a_period_that_is_paid_for(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        anchors = []
        for tier, at in (("basic", 100), ("advanced", 200), ("premium", 300), ("basic", 400)):
            clock.advance(days=1)
            await arrive(ledger, **issued(tier, at))
            view = await arrive(ledger)
            assert view.subscription is not None
            anchors.append(view.subscription.anchor)
        first = anchors[0]
        assert [anchor - first for anchor in anchors] == [0, DAY, DAY, 3 * DAY]


async def test_a_token_issued_earlier_does_not_take_the_issuers_later_word_back(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, **issued("premium", 200))
        for older in (100, 200):
            await arrive(ledger, **issued("basic", older))
            assert await plan_and_origin(ledger) == ("premium", "token")
        await arrive(ledger, **issued("basic", None))  # it does not say, and its issuer is trusted
        assert await plan_and_origin(ledger) == ("basic", "token")
        await arrive(ledger, **issued("premium", 200))
        assert await plan_and_origin(ledger) == ("basic", "token")


@pytest.mark.parametrize("reopened", [False, True])
async def test_of_a_groups_tokens_the_one_issued_last_names_the_plan_whoever_comes_last(
    store: SqliteStore, reopened: bool
) -> None:
    seen = [
        ("eve", "premium", 100, "premium"),
        ("ann", "premium", 300, "premium"),  # the same again, and from now on the last word
        ("bob", "basic", 200, "premium"),
        ("eve", "premium", 100, "premium"),
        ("bob", "advanced", 400, "advanced"),
        ("ann", "premium", 300, "advanced"),
        ("eve", "premium", 400, "advanced"),
    ]
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(store.open())
        for user, tier, at, plan in seen:
            if reopened:
                await stack.aclose()
                ledger = await stack.enter_async_context(store.open())
            await arrive(ledger, user=user, group="team", **issued(tier, at))
            assert await plan_and_origin(ledger, user=user) == (plan, "token")
        trail = await ledger.query(AuditTrail(Whose("acme", "group", "team"), "subscription.", 10))
        assert [(entry.actor.user, entry.after["plan"]) for entry in trail] == [
            ("bob", "advanced"),
            ("eve", "premium"),
        ]


async def test_a_members_token_that_names_no_group_leaves_the_groups_plan_as_it_is(
    store: SqliteStore,
) -> None:
    async with store.open() as ledger:
        await arrive(ledger, user="eve", group="team", group_admin=True, **issued("premium", 100))
        await arrive(ledger, group="team")
        for fields in ({}, {"group_admin": True}, {"account": "team", "group": "other"}):
            view = await arrive(ledger, **issued("basic", 200, **fields))
            assert view.standing == Standing("acme", "group", "team", "bob", "member")
            assert view.plan is not None and view.plan.key == "premium"
        # Its administrator answers for it, also where the provider knows nothing of groups.
        await arrive(ledger, user="eve", **issued("advanced", 200))
        assert await plan_and_origin(ledger) == ("advanced", "token")


async def test_the_issuers_word_overrules_what_was_bought_or_scheduled(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger)
        await buy(ledger, "premium")
        await buy(ledger, "basic")  # waits for the period's end
        await arrive(ledger, **issued("premium", 100))
        view = await arrive(ledger)
        assert view.subscription is not None
        assert (view.subscription.origin, view.subscription.scheduled) == ("token", None)


async def test_a_token_without_a_valid_tier_leaves_the_issuers_plan_as_it_is(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, **issued("advanced", 100))
        rows = store.rows()
        for tier in (None, "no-such-plan", "advanced"):
            await arrive(ledger, **issued(tier, 200))
        assert await plan_and_origin(ledger) == ("advanced", "token")
        assert store.rows() == rows


# Tokens taken back


async def test_a_revocation_is_kept_with_who_and_why(store: SqliteStore) -> None:
    operator = Actor("olivia", "superadmin")
    async with store.open() as ledger:
        before = store.rows()
        for fields in ({"token_id": "t1"}, {"subject": "bob"}, {"tenant": "acme", "subject": "bob"}):
            outcome = await ledger.submit_one(RevokeTokens(operator, 1_000_000, reason="lost", **fields))
            assert isinstance(outcome, TokensRevoked)
        assert store.rows() != before
    async with store.open() as ledger:
        kept = await ledger.query(RevocationsSince(0))
        assert [(one.token_id, one.tenant, one.subject) for one in kept] == [
            ("t1", None, None),
            (None, None, "bob"),
            (None, "acme", "bob"),
        ]
        assert [one.issued_before for one in kept] == [1_000_000] * 3
        assert await ledger.query(RevocationsSince(kept[1].seq)) == kept[2:]
        (entry,) = await ledger.query(AuditTrail(Whose("acme", "personal", "bob"), "token.", 10))
        assert (entry.action, entry.actor, entry.reason) == ("token.revoke", operator, "lost")
        assert entry.after == {
            "tenant_id": "acme",
            "subject": "bob",
            "issued_before": "1970-01-01T00:00:01Z",
        }


async def test_a_service_record_makes_the_default_and_the_users_own_token_replaces_it(
    store: SqliteStore,
) -> None:
    async with store.open() as ledger:
        assert decision_of(await ledger.submit_one(a_record())).plan == "basic"
        assert await plan_and_origin(ledger, tier="premium") == ("premium", "token")
        assert await used(ledger) == 1


async def test_other_peoples_looks_and_checks_leave_no_trace(store: SqliteStore) -> None:
    async with store.open() as ledger:
        rows = store.rows()
        view = await ledger.look(Arrive(a_subject("bob", tier="premium")), may_make_known=False)
        assert view.plan is not None and view.plan.key == "premium"
        commands = [
            Arrive(a_subject("bob", group="team")),
            CheckUsage(a_subject("bob"), "message"),
            a_record(key="k"),
            a_change("advanced", offer="handle"),
        ]
        assert [code_of(await ledger.rehearse(command)) for command in commands] == ["ok"] * 4
        await ledger.rehearse(a_limit_set(7))
        assert store.rows() == rows


async def test_a_refused_record_makes_nobody(store: SqliteStore) -> None:
    async with store.open() as ledger:
        rows = store.rows()
        assert code_of(await ledger.submit_one(a_record(quantity=51, key="k"))) == "quota_exceeded"
        assert store.rows() == rows


# Which account


async def standing(ledger: Ledger, **subject) -> Standing:
    return (await arrive(ledger, **subject)).standing


async def test_a_claim_joins_its_group_and_membership_stays_without_it(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert await standing(ledger, group="team") == Standing("acme", "group", "team", "bob", "member")
        assert await standing(ledger) == Standing("acme", "group", "team", "bob", "member")
        assert await standing(ledger, user="eve", group="team", group_admin=True) == Standing(
            "acme", "group", "team", "eve", "admin"
        )
        assert [entry.action for entry in await history(ledger, "member.")] == ["member.join"] * 2


async def test_without_a_group_the_account_is_ones_own(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert await standing(ledger) == Standing("acme", "personal", "bob", "bob", "holder")


async def test_who_is_in_a_group_has_no_second_quota_of_their_own(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, group="team")
        named = await ledger.submit_one(a_record(a_subject(account="bob")))
        assert code_of(named) == "invalid_request"
        claimed = await ledger.rehearse(Arrive(a_subject("eve", account="eve", group="team")))
        assert code_of(claimed) == "invalid_request"


async def test_a_group_with_a_persons_id_is_not_that_person(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await buy(ledger, "premium", "bella", actor="bella")
        only_the_group = a_subject("bella", account="bella", account_kind="group")
        assert code_of(await ledger.rehearse(Arrive(only_the_group))) == "invalid_request"
        whole_group = a_subject(None, account="bella", account_kind="group")
        assert code_of(await ledger.rehearse(Arrive(whole_group))) == "not_found"
        await arrive(ledger, user="mallory", group="bella")
        group = view_of(await ledger.rehearse(Arrive(whole_group)))
        assert (group.standing.account_kind, group.subscription and group.subscription.plan) == (
            "group",
            "basic",
        )
        person = view_of(await ledger.rehearse(Arrive(a_subject("bella"))))
        assert (person.standing.account_kind, person.subscription and person.subscription.plan) == (
            "personal",
            "premium",
        )


async def test_the_ledgers_role_decides_not_the_tokens(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, group="team")
        assert (await standing(ledger, group="team", group_admin=True)).role == "member"


async def test_another_claim_moves_the_user_to_another_group(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, group="red")
        await arrive(ledger, user="eve", group="red")
        assert (await arrive(ledger, group="blue")).seats_used == 1
        red = await ledger.look(Arrive(a_subject(None, account="red")), may_make_known=False)
        assert red.seats_used == 1
        assert (await standing(ledger)).account == "blue"
        (entry, *_) = await history(ledger, "member.")
        assert (entry.before, entry.after) == (
            {"account_id": "red"},
            {"account_id": "blue", "role": "member"},
        )


async def test_who_goes_and_comes_back_in_one_batch_takes_one_seat(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, user="bob", group="south")
        await arrive(ledger, user="ann", group="north")
        outcomes = await ledger.submit(
            [Arrive(a_subject("bob", group="north")), Arrive(a_subject("bob", group="south"))]
        )
        assert [view_of(outcome).seats_used for outcome in outcomes] == [2, 1]


async def test_a_service_naming_an_account_the_user_is_not_in_is_refused(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await arrive(ledger, user="eve", group="team")
        refused = await ledger.submit_one(a_record(a_subject("bob", account="team")))
        assert code_of(refused) == "invalid_request"
        assert isinstance(refused, Refusal) and refused.fields[0].field == "account_id"
        assert code_of(await ledger.submit_one(a_record(a_subject("eve", account="team")))) == "ok"
        assert code_of(await ledger.submit_one(a_record(a_subject("bob", account="bob")))) == "ok"


async def test_a_full_group_takes_nobody_else_in(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50), seats=2)) as ledger:
        first = [Arrive(a_subject(user, group="team")) for user in ("a", "b", "c")]
        outcomes = await ledger.submit(first)
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "conflict"]
        assert code_of(await ledger.submit_one(first[0])) == "ok"
        await arrive(ledger, user="a", group="elsewhere")
        assert code_of(await ledger.submit_one(first[2])) == "ok"


async def test_a_group_and_a_user_of_the_same_id_are_two_accounts(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(1))) as ledger:
        await arrive(ledger, user="eve", group="bob")
        records = [
            a_record(a_subject("bob")),
            a_record(a_subject("eve")),
            a_record(a_subject("bob")),
            a_record(a_subject("eve")),
        ]
        assert [code_of(o) for o in await ledger.submit(records)] == ["ok", "ok"] + ["quota_exceeded"] * 2


async def test_the_whole_account_shows_what_all_use_together(store: SqliteStore) -> None:
    catalog = one_plan(a_limit(10), a_limit(15, scope="account"))
    async with store.open(catalog=catalog) as ledger:
        for user in ("bob", "eve"):
            await arrive(ledger, user=user, group="team")
        outcomes = await ledger.submit([a_record(user, quantity=8) for user in ("bob", "eve")])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "quota_exceeded"]
        refused = [state for state in decision_of(outcomes[1]).limits if state.refused]
        assert [(state.scope, state.used) for state in refused] == [("account", 8)]
        await ledger.submit_one(a_record("eve", quantity=3))
        whole = await ledger.look(Arrive(a_subject(None, account="team")), may_make_known=False)
        assert [(state.scope, state.used) for state in whole.limits] == [("account", 11)]
        assert (whole.seats_used, whole.standing.role) == (2, None)
        own = await arrive(ledger, user="eve")
        assert {(state.scope, state.used) for state in own.limits} == {("user", 3), ("account", 11)}


async def test_the_account_of_a_user_in_no_group_is_named_by_the_users_id(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record())
        whole = await ledger.look(Arrive(a_subject(None, account="bob")), may_make_known=False)
        assert whole.standing == Standing("acme", "personal", "bob", "bob", None)
        assert {state.used for state in whole.limits} == {1}


# Overrides


async def test_an_override_holds_until_it_is_cleared_and_both_are_remembered(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record(quantity=5))
        changed = await ledger.submit_one(a_limit_set(7))
        assert isinstance(changed, LimitsChanged)
        assert [view.limits[0].maximum for view in (changed.before, changed.after)] == [50, 7]
        assert code_of(await ledger.submit_one(a_record(quantity=3))) == "quota_exceeded"
        await ledger.submit_one(a_limit_set(UNLIMITED))
        assert code_of(await ledger.submit_one(a_record(quantity=100))) == "ok"
        await ledger.submit_one(a_limit_set(None))
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        assert code_of(await ledger.submit_one(a_limit_set(None))) == "not_found"
        entries = await history(ledger, "limit.")
        assert [(e.action, e.before["limit"], e.after["limit"]) for e in entries] == [
            ("limit.clear", "unlimited", 50),
            ("limit.set", 7, "unlimited"),
            ("limit.set", 50, 7),
        ]
        assert (entries[-1].reason, entries[-1].actor) == ("asked for it", Actor("olivia", "tenant_admin"))
        assert entries[-1] == changed.audit


async def test_an_override_expires_by_itself(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T10:00:00Z")
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=7))
        await ledger.submit_one(a_limit_set(7, expires_at=clock.now + HOUR))
        clock.advance(minutes=59, seconds=59)
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        clock.advance(seconds=1)
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        assert code_of(await ledger.submit_one(a_limit_set(7, expires_at=clock.now))) == "invalid_request"


async def test_an_override_stays_through_a_change_of_plan(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record())
        await ledger.submit_one(a_limit_set(7))
        changed = await buy(ledger, "premium")
        assert isinstance(changed, PlanChanged)
        assert {state.window: state.maximum for state in changed.limits_after} == {"day": 7, "month": 25_000}


@pytest.mark.parametrize(
    ("maximum", "code"), [(50, "ok"), (0, "ok"), (51, "forbidden"), (UNLIMITED, "forbidden")]
)
async def test_a_member_can_be_limited_within_the_plan_only(store: SqliteStore, maximum, code) -> None:
    async with store.open() as ledger:
        await arrive(ledger, group="team")
        assert code_of(await ledger.submit_one(a_limit_set(maximum, within_plan=True))) == code


async def test_within_the_plan_the_group_itself_is_not_limited(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50, scope="account"))) as ledger:
        await arrive(ledger, group="team")
        team = a_subject(None, account="team")
        assert code_of(await ledger.submit_one(a_limit_set(10, team, within_plan=True))) == "forbidden"
        assert code_of(await ledger.submit_one(a_limit_set(10, team))) == "ok"


async def test_a_member_can_have_a_cap_inside_a_pool(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(50, scope="account"))) as ledger:
        for user in ("bob", "eve"):
            await arrive(ledger, user=user, group="team")
        await ledger.submit_one(a_record(quantity=4))
        await ledger.submit_one(a_limit_set(5))
        bob = decision_of(await ledger.submit_one(a_record(quantity=2)))
        assert [(s.scope, s.maximum, s.used, s.refused) for s in bob.limits] == [
            ("user", 5, 4, True),
            ("account", 50, 4, False),
        ]
        assert code_of(await ledger.submit_one(a_record("eve", quantity=46))) == "ok"
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"


async def test_an_unknown_limit_is_refused_with_those_there_are(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record())
        refused = await ledger.submit_one(a_limit_set(7, window="week"))
        assert isinstance(refused, Refusal) and refused.code == "invalid_request"
        assert "It limits: messages per day, messages per month." in refused.message


async def test_a_limit_of_somebody_never_seen_is_most_likely_a_typing_error(store: SqliteStore) -> None:
    async with store.open() as ledger:
        rows = store.rows()
        assert code_of(await ledger.submit_one(a_limit_set(7, "bbo"))) == "not_found"
        assert store.rows() == rows


# Changes of plan


async def test_an_offer_changes_nothing_and_its_handle_works_once(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_record(quantity=50))
        offered = await ledger.submit_one(a_change("advanced", offer="handle"))
        assert isinstance(offered, PlanChanged)
        assert (offered.confirmed, offered.handle) == (False, "handle")
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"
        done = await ledger.submit_one(a_change("advanced", confirmation="handle"))
        assert isinstance(done, PlanChanged) and done.confirmed
        assert [(s.window, s.maximum, s.used) for s in done.limits_after] == [
            ("day", 200, 50),
            ("month", 5_000, 50),
        ]
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        again = await ledger.submit_one(a_change("premium", confirmation="handle"))
        assert code_of(again) == "invalid_request"


@pytest.mark.parametrize(
    "confirmation",
    [
        a_change("advanced", confirmation="another"),
        a_change("advanced", confirmation="handle", actor="eve"),
        a_change("advanced", confirmation="handle", digest=b"another request"),
        a_change("advanced", a_subject("bob", "globex"), confirmation="handle"),
    ],
    ids=["handle", "actor", "digest", "tenant"],
)
async def test_a_handle_is_good_for_one_actor_and_one_request(store: SqliteStore, confirmation) -> None:
    async with store.open() as ledger:
        for tenant in ("acme", "globex"):
            await ledger.submit_one(a_record(a_subject("bob", tenant)))
        await ledger.submit_one(a_change("advanced", offer="handle"))
        assert code_of(await ledger.submit_one(confirmation)) == "invalid_request"
        assert code_of(await ledger.submit_one(a_change("advanced", confirmation="handle"))) == "ok"


@pytest.mark.parametrize(("seconds", "microseconds", "code"), [(600, -1, "ok"), (600, 0, "invalid_request")])
async def test_a_handle_is_good_for_ten_minutes(store: SqliteStore, seconds, microseconds, code) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_change("advanced", offer="handle"))
        clock.advance(seconds=seconds, microseconds=microseconds)
        assert code_of(await ledger.submit_one(a_change("advanced", confirmation="handle"))) == code


async def test_a_handle_used_twice_in_one_batch_changes_the_plan_once(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await ledger.submit_one(a_change("advanced", offer="handle"))
        outcomes = await ledger.submit([a_change("advanced", confirmation="handle")] * 2)
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "conflict"]
        assert len(await history(ledger, "subscription.change")) == 1


async def test_a_plan_already_held_or_scheduled_is_a_conflict(store: SqliteStore) -> None:
    async with store.open() as ledger:
        assert code_of(await ledger.submit_one(a_change("basic", offer="h"))) == "conflict"
        await buy(ledger, "advanced")
        assert code_of(await ledger.submit_one(a_change("advanced", offer="h"))) == "conflict"
        await buy(ledger, "basic")
        assert code_of(await ledger.submit_one(a_change("basic", offer="h"))) == "conflict"


async def test_a_plan_nobody_sells_is_refused_with_the_nearest(store: SqliteStore) -> None:
    async with store.open() as ledger:
        refused = await ledger.submit_one(a_change("premum"))
        assert isinstance(refused, Refusal) and "Did you mean 'premium'?" in refused.message
        assert code_of(await ledger.submit_one(a_change("premium", interval="yearly"))) == "invalid_request"


async def test_a_downgrade_happens_at_the_periods_end_without_any_job(store: SqliteStore) -> None:
    clock = Clock("2027-01-31T10:00:00Z")
    async with store.open(clock=clock) as ledger:
        await buy(ledger, "premium")
        clock.set("2027-02-10T00:00:00Z")
        scheduled = await buy(ledger, "basic")
        assert isinstance(scheduled, PlanChanged) and scheduled.change.is_scheduled
        assert format_instant(scheduled.change.effective_at) == "2027-02-28T10:00:00Z"
        clock.set("2027-02-28T09:59:59Z")
        assert decision_of(await ledger.submit_one(a_record(quantity=51))).plan == "premium"
        clock.set("2027-02-28T10:00:00Z")
    async with store.open(clock=clock) as ledger:
        refused = decision_of(await ledger.submit_one(a_record()))
        assert (refused.plan, refused.code, refused.limits[0].used) == ("basic", "quota_exceeded", 51)
        view = await arrive(ledger)
        assert view.subscription is not None and view.subscription.scheduled is None
        assert [event.plan for event in await events_of(ledger, clock)] == ["premium"]
        assert [e.action for e in await history(ledger, "subscription.")] == [
            "subscription.change",
            "subscription.schedule",
            "subscription.change",
            "subscription.start",
        ]


async def test_free_to_paid_begins_a_billing_period_with_nothing_used(store: SqliteStore) -> None:
    basic = a_plan(a_limit(50, window="billing_period"), a_limit(50))
    paid = a_plan(a_limit(60, window="billing_period"), a_limit(60), key="paid", monthly="1.00")
    dear = a_plan(a_limit(70, window="billing_period"), a_limit(70), key="dear", monthly="2.00")
    clock = Clock()
    async with store.open(catalog=a_catalog(basic, paid, dear), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=50))
        clock.advance(hours=1)
        await buy(ledger, "paid")
        assert (await used(ledger, window="billing_period"), await used(ledger)) == (0, 50)
        await ledger.submit_one(a_record(quantity=5))
        clock.advance(hours=1)
        await buy(ledger, "dear")
        assert (await used(ledger, window="billing_period"), await used(ledger)) == (5, 55)


# Windows


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        ("UTC", "2026-11-20T23:59:59Z", "2026-11-21T00:00:00Z"),
        ("Asia/Kolkata", "2026-11-20T18:29:59Z", "2026-11-20T18:30:00Z"),
        ("Europe/Berlin", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"),  # a day of 23 hours ends
        ("Europe/Berlin", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"),  # a day of 25 hours ends
    ],
)
async def test_a_day_begins_at_midnight_of_the_plans_zone(store: SqliteStore, zone, before, after) -> None:
    clock = Clock(before)
    async with store.open(catalog=one_plan(a_limit(1), timezone=zone), clock=clock) as ledger:
        first, second = await ledger.submit([a_record(), a_record()])
        assert (code_of(first), code_of(second)) == ("ok", "quota_exceeded")
        assert format_instant(decision_of(second).limits[0].resets_at or 0) == after
        clock.set(after)
        assert code_of(await ledger.submit_one(a_record())) == "ok"


async def test_a_month_begins_at_midnight_of_the_plans_zone(store: SqliteStore) -> None:
    clock = Clock("2026-11-30T18:29:59Z")
    catalog = one_plan(a_limit(1, window="month"), timezone="Asia/Kolkata")
    async with store.open(catalog=catalog, clock=clock) as ledger:
        assert [code_of(o) for o in await ledger.submit([a_record(), a_record()])] == ["ok", "quota_exceeded"]
        clock.advance(seconds=1)
        assert code_of(await ledger.submit_one(a_record())) == "ok"


async def test_a_late_event_counts_in_the_window_it_happened_in(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(2)), clock=clock) as ledger:
        yesterday = clock.now - DAY
        outcomes = await ledger.submit([a_record(occurred_at=yesterday) for _ in range(3)])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "quota_exceeded"]
        assert [unlock.action for unlock in decision_of(outcomes[2]).unlocks] == []
        assert await used(ledger) == 0


async def test_an_event_just_ahead_counts_in_the_window_that_comes(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T23:58:00Z")
    async with store.open(catalog=one_plan(a_limit(1)), clock=clock) as ledger:
        ahead = decision_of(await ledger.submit_one(a_record(occurred_at=clock.now + 5 * MINUTE)))
        assert format_instant(ahead.limits[0].period.start) == "2026-11-21T00:00:00Z"
        assert code_of(await ledger.submit_one(a_record())) == "ok"
        clock.advance(minutes=3)
        assert code_of(await ledger.submit_one(a_record())) == "quota_exceeded"


@pytest.mark.parametrize(
    ("offset", "code"),
    [
        (-35 * DAY, "ok"),
        (-35 * DAY - 1, "invalid_request"),
        (5 * MINUTE, "ok"),
        (5 * MINUTE + 1, "invalid_request"),
    ],
)
async def test_events_are_taken_from_35_days_back_to_5_minutes_ahead(
    store: SqliteStore, offset, code
) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        assert code_of(await ledger.submit_one(a_record(occurred_at=clock.now + offset))) == code


async def test_the_clock_never_runs_backwards(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        first = decision_of(await ledger.submit_one(a_record()))
        clock.advance(days=-2)
        second = decision_of(await ledger.submit_one(a_record()))
        assert second.as_of == first.as_of == ledger.now()
        assert second.limits[0].used == 2
        assert (await arrive(ledger)).as_of == first.as_of


# Versions of plans


async def test_an_edited_plan_is_a_new_version_and_subscribers_stay_on_theirs(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(5)), clock=clock) as ledger:
        await ledger.submit_one(a_record("old"))
    edited = a_plan(a_limit(2), a_limit(3, window="week"))
    async with store.open(catalog=a_catalog(edited), clock=clock, publish=False) as ledger:
        published = await ledger.submit_one(a_publication(edited))
        assert published == PlansPublished({"basic": 2}, ["basic"], [], is_first=False)
        old, new = await ledger.submit([a_record("old", quantity=3), a_record("new", quantity=3)])
        assert (code_of(old), code_of(new)) == ("ok", "quota_exceeded")
        await ledger.submit_one(a_record("new"))
        assert await ledger.query(PlanHolders(ledger.now())) == [("basic", 1, 1), ("basic", 2, 1)]
        assert [e.plan_version for e in await events_of(ledger, clock)] == [2, 1, 1]


async def test_a_window_only_an_old_version_has_is_still_counted(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(3, window="week"))) as ledger:
        await ledger.submit_one(a_record(quantity=2))
    async with store.open(catalog=one_plan(a_limit(100))) as ledger:
        outcomes = await ledger.submit([a_record(), a_record()])
        assert [code_of(outcome) for outcome in outcomes] == ["ok", "quota_exceeded"]


async def test_an_unchanged_file_publishes_nothing(store: SqliteStore) -> None:
    async with store.open() as ledger:
        rows = store.rows()
        again = await ledger.submit_one(a_publication(*three_plans()))
        assert again == PlansPublished({"basic": 1, "advanced": 1, "premium": 1}, [], [], is_first=False)
        assert store.rows() == rows
    async with store.open(publish=False) as ledger:
        again = await ledger.submit_one(a_publication(*three_plans()))
        assert isinstance(again, PlansPublished) and again.published == []


async def test_an_edit_taken_back_is_the_version_it_was_before(store: SqliteStore) -> None:
    async with store.open(catalog=one_plan(a_limit(5))) as ledger:
        for maximum, version in ((6, 2), (5, 1), (6, 2), (7, 3)):
            published = await ledger.submit_one(a_publication(a_plan(a_limit(maximum))))
            assert isinstance(published, PlansPublished) and published.versions == {"basic": version}


async def test_a_removed_plan_is_no_longer_offered_but_stays_with_who_holds_it(store: SqliteStore) -> None:
    basic, advanced, premium = three_plans()
    async with store.open() as ledger:
        await buy(ledger, "advanced")
    async with store.open(catalog=a_catalog(basic, premium)) as ledger:
        assert list(ledger.engine.catalog.plans) == ["basic", "premium"]
        assert decision_of(await ledger.submit_one(a_record())).plan == "advanced"
        assert code_of(await ledger.submit_one(a_change("advanced", "eve", actor="eve"))) == "invalid_request"
        refused = decision_of(await ledger.submit_one(a_record("eve", quantity=51)))
        assert refused.unlocks[0].plan == "premium"
        back = await ledger.submit_one(a_publication(basic, advanced, premium))
        assert isinstance(back, PlansPublished) and (back.published, back.versions["advanced"]) == ([], 1)


async def test_without_its_default_plan_a_newcomer_must_choose_one(store: SqliteStore) -> None:
    basic, advanced, _ = three_plans()
    async with store.open(catalog=a_catalog(basic, advanced)) as one:
        async with store.open(catalog=a_catalog(advanced, default_plan=None)):
            pass  # another process has published a file without it
        refused = decision_of(await one.submit_one(a_record()))
        assert (refused.code, refused.unlocks[0].plan) == ("payment_required", "advanced")


async def test_the_plans_keep_the_order_of_the_file(store: SqliteStore) -> None:
    basic, advanced, premium = three_plans()
    async with store.open(catalog=a_catalog(premium, basic, advanced)):
        pass
    async with store.open(catalog=a_catalog(basic, advanced, premium), publish=False) as ledger:
        assert list(ledger.engine.catalog.plans) == ["premium", "basic", "advanced"]


# Questions


async def test_pages_of_events_go_on_across_blocks_without_gap_or_repeat(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(catalog=one_plan(a_limit(UNLIMITED)), clock=clock) as ledger:
        for _ in range(3):
            await ledger.submit([a_record(("bob", "eve")[n % 2]) for n in range(3_000)])
            clock.advance(minutes=1)
        bob = Whose("acme", "personal", "bob", "bob")
        seen: list[str] = []
        before: int | None = None
        more = True
        while more:
            question = EventPage(bob, clock.now - DAY, clock.now + DAY, 700, before=before)
            page, more = await ledger.query(question)
            seen += [event.id for _, event in page]
            before = page[-1][0]
            assert len(page) == 700 or not more
            assert {event.user for _, event in page} == {"bob"}
        assert len(seen) == len(set(seen)) == 4_500


async def test_a_page_can_be_of_one_event_and_of_one_stretch_of_time(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        start = clock.now
        for name in ("message", "tool_call", "message"):
            await ledger.submit_one(a_record(event=name))
            clock.advance(hours=1)
        page, more = await ledger.query(EventPage(Whose("acme"), start, start + 2 * HOUR, 10))
        assert ([event.event for _, event in page], more) == (["tool_call", "message"], False)
        page, more = await ledger.query(EventPage(Whose("acme"), start, clock.now, 1, event="message"))
        assert ([event.occurred_at for _, event in page], more) == ([start + 2 * HOUR], True)
        for question in (
            EventPage(Whose("acme"), start, clock.now, 10, event="never heard of"),
            EventPage(Whose("nobody"), start, clock.now, 10),
            EventPage(Whose("acme", "group", "bob"), start, clock.now, 10),
        ):
            assert await ledger.query(question) == ([], False)


async def test_late_and_early_events_are_found_by_when_they_happened(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        happened = clock.now
        await ledger.submit_one(a_record("early", occurred_at=happened))
        clock.advance(minutes=-5)
    clock.advance(minutes=5)
    async with store.open(clock=clock) as ledger:
        clock.advance(days=35)
        await ledger.submit_one(a_record("late", occurred_at=happened))
        page, _ = await ledger.query(EventPage(Whose("acme"), happened, happened + 1, 10))
        assert [event.user for _, event in page] == ["late", "early"]


async def test_an_event_recorded_5_minutes_before_it_happens_is_in_its_period(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        happens = clock.now + 5 * MINUTE
        await ledger.submit_one(a_record(occurred_at=happens))
        page, _ = await ledger.query(EventPage(Whose("acme"), happens, happens + HOUR, 10))
        assert len(page) == 1


async def test_a_tenant_is_summed_up_by_plan(store: SqliteStore) -> None:
    async with store.open() as ledger:
        for user in ("a", "b"):
            await arrive(ledger, user=user, group="team")
        await arrive(ledger, user="c")
        await arrive(ledger, user="d", tier="premium")
        await arrive(ledger, user="e", tenant="globex")
        found = await ledger.query(TenantSummary("acme", ledger.now()))
        assert sorted(found, key=lambda count: count.plan) == [
            AccountCount("basic", "active", 2, 3, 2),
            AccountCount("premium", "active", 1, 1, 1),
        ]


async def test_accounts_are_found_by_the_beginning_of_their_id(store: SqliteStore) -> None:
    async with store.open() as ledger:
        for user in ("anna", "amy", "bob", "a_c"):
            await arrive(ledger, user=user)
        await arrive(ledger, user="zoe", group="amy")
        await arrive(ledger, user="adam", tenant="globex")
        assert await ledger.query(AccountIds("acme", "a", 10)) == ["a_c", "amy", "anna"]
        assert await ledger.query(AccountIds("acme", "", 2)) == ["a_c", "amy"]
        assert await ledger.query(AccountIds("acme", "a_", 10)) == ["a_c"]
        assert await ledger.query(AccountIds("initech", "", 10)) == []


async def test_the_accounts_somebody_types_are_found_along_indexes(store: SqliteStore) -> None:
    async with store.open():
        pass
    with closing(sqlite3.connect(store.path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {ACCOUNT_IDS}", ("a", "a", 1, 1, 1)).fetchall()
    steps = [step for *_, step in plan if "USING" in step or (step.startswith("SCAN") and step != "SCAN w")]
    assert steps == [
        "SEARCH word USING COVERING INDEX sqlite_autoindex_word_1 (text>? AND text<?)",
        "SEARCH s USING PRIMARY KEY (tenant=? AND account_kind=? AND account=?)",
    ]


async def test_who_watches_is_told_what_each_commit_touched(store: SqliteStore) -> None:
    async with store.open() as ledger, store.open() as other:
        await arrive(ledger, user="bob")
        async with aclosing(ledger.engine.changes()) as changes:
            assert await anext(changes) == frozenset()
            await ledger.submit_one(a_record("bob"))
            touched = await anext(changes)
            assert touched is not None
            assert ("acme", "bob") in touched
            await other.submit_one(a_record("eve"))
            assert await anext(changes) is None
            await ledger.rehearse(Arrive(a_subject("bob")))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await anext(changes)


moments = st.integers(0, 3 * 24 * 60).map(lambda minutes: minutes * MINUTE)
recorded = st.tuples(
    st.sampled_from(["bob", "eve"]),
    st.sampled_from(["message", "tool_call", "llm_call"]),
    st.integers(1, 9),
    moments,
)


@pytest.mark.parametrize("opened", STORES, ids=lambda store: store.engine)
@settings(max_examples=25)
@given(
    events=st.lists(recorded, min_size=5, max_size=60),
    start=moments,
    length=st.integers(1, 2 * 24 * 60 * 60).map(lambda seconds: seconds * 1_000_000),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]),
    columns=st.sets(st.sampled_from(["hour", "user", "account", "dimensions"])),
)
def test_usage_sums_to_what_the_events_of_any_period_say(
    opened: Callable[[Path], SqliteStore], events, start, length, zone, columns
) -> None:
    async def story(place: Path) -> None:
        plan = a_plan(a_limit(UNLIMITED), timezone=zone)
        clock = Clock("2026-10-26T12:00:00Z")
        first = parse_instant("2026-10-23T12:00:00Z")  # clocks change in Berlin on the 25th
        async with opened(place).open(catalog=a_catalog(plan), clock=clock) as ledger:
            await ledger.submit(
                [
                    a_record(user, event, quantity, occurred_at=first + at)
                    for user, event, quantity, at in events
                ]
            )
            period = (first + start, first + start + length)
            rows = await ledger.query(UsageTotals(Whose("acme"), *period, frozenset(columns)))
            page, _ = await ledger.query(EventPage(Whose("acme"), *period, -1))
        by_meter: Counter[str] = Counter()
        by_user: Counter[tuple[str | None, str]] = Counter()
        for _, event in page:
            for meter, gain in event.gains.items():
                by_meter[meter] += gain
                by_user[(event.user, meter)] += gain
        found: Counter[str] = Counter()
        found_by_user: Counter[tuple[str | None, str]] = Counter()
        for row in rows:
            found[row.meter] += row.quantity
            found_by_user[(row.user, row.meter)] += row.quantity
        assert +found == +by_meter
        if "user" in columns:
            assert +found_by_user == +by_user
        inside = [at for *_, at in events if start <= at < start + length]
        assert len(page) == len(inside)

    with TemporaryDirectory() as place:
        asyncio.run(story(Path(place)))


# Several ledgers on one store


@asynccontextmanager
async def two_ledgers(
    store: SqliteStore, catalog: Catalog, clock: Clock
) -> AsyncIterator[tuple[Ledger, Ledger]]:
    async with (
        store.open(catalog=catalog, clock=clock) as one,
        store.open(catalog=catalog, clock=clock) as other,
    ):
        yield one, other


async def test_two_ledgers_share_a_limit_exactly(store: SqliteStore) -> None:
    async with two_ledgers(store, one_plan(a_limit(50)), Clock()) as ledgers:
        outcomes = await asyncio.gather(*[ledgers[n % 2].submit_one(a_record()) for n in range(600)])
        assert Counter(map(code_of, outcomes)) == {"ok": 50, "quota_exceeded": 550}


async def test_two_ledgers_see_what_the_other_wrote(store: SqliteStore) -> None:
    clock = Clock()
    async with two_ledgers(store, a_catalog(), clock) as (one, other):
        await one.submit_one(a_record(quantity=50, key="k"))
        assert decision_of(await other.submit_one(a_record(quantity=50, key="k"))).replayed
        assert code_of(await other.submit_one(a_record())) == "quota_exceeded"
        await other.submit_one(a_change("advanced", offer="handle"))
        await one.submit_one(a_change("advanced", confirmation="handle"))
        assert code_of(await other.submit_one(a_record())) == "ok"
        await other.submit_one(a_limit_set(51))
        assert code_of(await one.submit_one(a_record())) == "quota_exceeded"
        edited = replace(a_plan(a_limit(1)), key="basic")
        await one.submit_one(a_publication(edited, *three_plans()[1:]))
        newcomers = await other.submit([a_record("new"), a_record("new")])
        assert [code_of(outcome) for outcome in newcomers] == ["ok", "quota_exceeded"]
        assert other.engine.catalog.plans["basic"].version == 2


async def test_a_failure_of_one_ledger_does_not_mislead_the_other(store: SqliteStore) -> None:
    async with two_ledgers(store, a_catalog(), Clock()) as (one, other):
        with store.without_a_table():
            failed = await one.submit([a_record("ann"), a_record("ben")])
            assert [code_of(outcome) for outcome in failed] == ["unavailable"] * 2
        await other.submit([a_record("cleo", key="x"), a_record("dan")])
        await one.submit([a_record("ann"), a_record("ben"), a_record("cleo")])
        for user, count in (("ann", 1), ("ben", 1), ("cleo", 2), ("dan", 1)):
            assert await used(other, user) == await used(one, user) == count


async def test_whatever_is_submitted_nothing_is_raised(store: SqliteStore) -> None:
    async with store.open() as ledger:
        odd = [
            a_record(a_subject("bob", "never seen")),
            a_record(attributes={"nope": 1}),
            a_record("bob", occurred_at=0),
            a_change("nope"),
            a_limit_set(1, a_subject(None, account="nobody")),
            Arrive(a_subject(None, account="nobody")),
        ]
        outcomes = await ledger.submit(odd)
        assert all(isinstance(outcome, Outcome) for outcome in outcomes)
        assert "internal" not in map(code_of, outcomes)


async def test_a_ledger_counts_by_one_catalog_until_another_is_put_in_its_place(store: SqliteStore) -> None:
    async with store.open() as ledger:
        basic, advanced, _ = three_plans()
        other = replace(a_publication(basic, advanced), catalog="another")
        rows = store.rows()
        assert code_of(await ledger.submit_one(other)) == "conflict"
        assert (store.rows(), list(ledger.engine.catalog.plans)) == (rows, ["basic", "advanced", "premium"])
        assert code_of(await ledger.submit_one(replace(other, replace_catalog=True))) == "ok"
        assert list(ledger.engine.catalog.plans) == ["basic", "advanced"]
        assert code_of(await ledger.submit_one(a_publication(*three_plans()))) == "conflict"


async def test_a_confirmation_is_for_the_terms_that_were_shown(store: SqliteStore) -> None:
    async with store.open() as ledger:
        basic, advanced, premium = three_plans()
        await ledger.submit_one(a_change("advanced", offer="shown"))
        dearer = a_plan(*advanced.limits, key="advanced", monthly="500.00")
        await ledger.submit_one(a_publication(basic, dearer, premium))
        assert code_of(await ledger.submit_one(a_change("advanced", confirmation="shown"))) == "conflict"
        await ledger.submit_one(a_change("advanced", offer="shown again"))
        await buy(ledger, "premium")
        assert (
            code_of(await ledger.submit_one(a_change("advanced", confirmation="shown again"))) == "conflict"
        )


async def test_what_was_shown_is_what_is_charged(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await buy(ledger, "advanced")
        clock.advance(days=10)
        offered = await ledger.submit_one(a_change("premium", offer="h"))
        clock.advance(minutes=9)
        applied = await ledger.submit_one(a_change("premium", confirmation="h"))
        assert isinstance(offered, PlanChanged) and isinstance(applied, PlanChanged) and applied.confirmed
        assert applied.change.price_now == offered.change.price_now


async def test_asking_for_the_held_plan_takes_back_a_scheduled_change(store: SqliteStore) -> None:
    async with store.open() as ledger:
        await buy(ledger, "premium")
        await buy(ledger, "advanced")
        taken_back = await buy(ledger, "premium")
        assert isinstance(taken_back, PlanChanged) and taken_back.change.price_now.micros == 0
        subscription = view_of(await ledger.rehearse(Arrive(a_subject()))).subscription
        assert subscription is not None and (subscription.plan, subscription.scheduled) == ("premium", None)
        assert code_of(await ledger.submit_one(a_change("premium", offer="again"))) == "conflict"


async def test_no_clock_records_before_what_is_recorded(store: SqliteStore) -> None:
    ahead, right = Clock(), Clock()
    ahead.advance(minutes=10)
    async with store.open(clock=ahead) as ledger:
        await ledger.submit([a_record() for _ in range(3)])
    async with store.open(clock=right) as ledger, store.open(clock=ahead) as other:
        await ledger.submit_one(a_record())
        ahead.advance(minutes=10)
        await other.submit_one(a_record())
        await ledger.submit_one(a_record())
        page, _ = await ledger.query(EventPage(Whose("acme"), right() - HOUR, right() + HOUR, -1))
        recorded = [event.recorded_at for _, event in page]
        assert len(recorded) == 6 and recorded == sorted(recorded, reverse=True)


async def test_usage_stays_in_its_hour_when_the_plans_time_zone_changes(store: SqliteStore) -> None:
    clock = Clock("2026-11-20T11:10:00Z")
    async with store.open(catalog=one_plan(a_limit(50)), clock=clock) as ledger:
        await ledger.submit_one(a_record(quantity=7))
    elsewhere = a_catalog(a_plan(a_limit(50, timezone="Asia/Kolkata"), timezone="Asia/Kolkata"))
    async with store.open(catalog=elsewhere, clock=clock) as ledger:
        asked = (parse_instant("2026-11-20T10:30:00Z"), parse_instant("2026-11-20T12:30:00Z"))
        rows = await ledger.query(UsageTotals(Whose("acme"), *asked, frozenset()))
        assert [row.quantity for row in rows] == [7]


async def test_an_offer_that_can_no_longer_be_confirmed_is_forgotten(store: SqliteStore) -> None:
    clock = Clock()
    async with store.open(clock=clock) as ledger:
        await ledger.submit_one(a_change("advanced", offer="old"))
        clock.advance(days=2)
        await ledger.submit_one(a_change("advanced", offer="new"))
    assert store.rows()["offer"] == 1
