"""Which tokens a revocation meets, and how seldom the ledger is asked."""

import asyncio
from dataclasses import dataclass, replace

import pytest

from subscription_mcp.auth import revocations as revocations_module
from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.revocations import Revocations
from subscription_mcp.domain.errors import Refusal, unavailable
from subscription_mcp.domain.instants import SECOND

AT = 1_795_183_200
BELLA = Principal("acme", "bella", None, None, frozenset({"member"}), "i", AT + 600, "t1", AT)


@dataclass(frozen=True)
class Row:
    seq: int = 1
    token_id: str | None = None
    tenant: str | None = None
    subject: str | None = None
    issued_before: int = (AT + 10) * SECOND


class Ledger:
    """Rows, and the positions it was asked from."""

    def __init__(self, *rows: Row) -> None:
        self.rows = list(rows)
        self.asked: list[int] = []
        self.is_down = False

    async def since(self, position: int) -> list[Row]:
        self.asked.append(position)
        if self.is_down:
            raise unavailable()
        return [row for row in self.rows if row.seq > position]


class Time:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("row", "principal", "revoked"),
    [
        (Row(token_id="t1"), BELLA, True),
        (Row(token_id="t2"), BELLA, False),
        (Row(token_id="t1"), replace(BELLA, token_id=None), False),
        (Row(subject="bella"), BELLA, True),
        (Row(subject="bella"), replace(BELLA, tenant="other"), True),
        (Row(subject="sam"), BELLA, False),
        (Row(subject="acme"), BELLA, False),
        (Row(tenant="acme", subject="bella"), BELLA, True),
        (Row(tenant="other", subject="bella"), BELLA, False),
        (Row(tenant="acme"), BELLA, True),
        (Row(tenant="acme"), replace(BELLA, user="sam", token_id=None), True),
        (Row(tenant="bella"), BELLA, False),
        # Issued before, in the same second, after, and nobody knows when.
        (Row(subject="bella", issued_before=AT * SECOND), BELLA, False),
        (Row(subject="bella", issued_before=AT * SECOND + 1), BELLA, True),
        (Row(subject="bella"), replace(BELLA, issued_at=AT + 10), False),
        (Row(subject="bella"), replace(BELLA, issued_at=None), True),
        (Row(token_id="t1", issued_before=0), replace(BELLA, issued_at=AT + 99), True),
    ],
)
async def test_a_revocation_meets_exactly_what_it_names(
    row: Row, principal: Principal, revoked: bool
) -> None:
    assert await Revocations(Ledger(row).since).hold(principal) is revoked


async def test_the_later_of_two_revocations_counts_in_either_order() -> None:
    late, early = Row(1, subject="bella"), Row(2, subject="bella", issued_before=5)
    assert await Revocations(Ledger(late, early).since).hold(BELLA)


async def test_the_ledger_is_asked_at_most_twice_a_second_and_only_for_what_is_new() -> None:
    ledger, clock = Ledger(Row(7, token_id="t2")), Time()
    revocations = Revocations(ledger.since, monotonic=clock)
    for _ in range(100):
        assert not await revocations.hold(BELLA)
    assert ledger.asked == [0]
    ledger.rows.append(Row(8, token_id="t1"))
    clock.seconds += 0.49
    assert not await revocations.hold(BELLA)
    clock.seconds += 0.01
    assert await revocations.hold(BELLA)
    assert ledger.asked == [0, 7]


async def test_while_the_ledger_cannot_say_nobody_is_let_in_and_then_it_goes_on() -> None:
    ledger = Ledger(Row(token_id="t2"))
    ledger.is_down = True
    revocations = Revocations(ledger.since, monotonic=Time())
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            await revocations.hold(BELLA)
        assert caught.value.code == "unavailable"
    ledger.is_down = False
    assert not await revocations.hold(BELLA)


class Stream:
    """Something open on somebody's behalf."""

    def __init__(self, revocations: Revocations, principal: Principal = BELLA) -> None:
        self.times_ended = 0
        self.forget = revocations.end_with(principal, self.end)

    def end(self) -> None:
        self.times_ended += 1


async def test_what_is_open_ends_once_when_anybodys_call_brings_the_revocation() -> None:
    ledger, clock = Ledger(), Time()
    revocations = Revocations(ledger.since, monotonic=clock)
    sam = replace(BELLA, user="sam", token_id="t3")
    stream, left, of_sam = Stream(revocations), Stream(revocations), Stream(revocations, sam)
    left.forget()
    ledger.rows.append(Row(1, token_id="t1"))
    assert not await revocations.hold(sam)
    ledger.rows.append(Row(2, subject="bella"))
    clock.seconds += 0.5
    assert not await revocations.hold(sam)
    assert (stream.times_ended, left.times_ended, of_sam.times_ended) == (1, 0, 0)
    for one in (stream, of_sam):
        one.forget()


async def test_what_is_open_ends_though_nobody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations_module, "ASK_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(revocations_module, "AFTER_A_FAULT_SECONDS", 0.001)
    ledger = Ledger(Row(token_id="t1"))
    ended = asyncio.Event()

    async def since(position: int) -> list[Row]:
        ledger.is_down = len(ledger.asked) < 2  # and comes back
        return await ledger.since(position)

    forget = Revocations(since).end_with(BELLA, ended.set)
    async with asyncio.timeout(10):
        await ended.wait()
    assert len(ledger.asked) == 3
    forget()


@pytest.mark.parametrize("fault", [unavailable(), RuntimeError("a defect")], ids=["refusal", "defect"])
async def test_after_a_fault_it_is_asked_again_after_a_longer_while(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(revocations_module, "ASK_AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(revocations_module, "AFTER_A_FAULT_SECONDS", 0.002)
    asked: list[int] = []
    ended = asyncio.Event()

    async def since(position: int) -> list[Row]:
        asked.append(position)
        # From here on only the wait after a fault comes to an end.
        monkeypatch.setattr(revocations_module, "ASK_AGAIN_SECONDS", 3600)
        if len(asked) < 3:
            raise fault
        return [Row(token_id="t1")]

    forget = Revocations(since).end_with(BELLA, ended.set)
    async with asyncio.timeout(10):
        await ended.wait()
    forget()


async def test_nobody_asks_while_nothing_is_open() -> None:
    before = asyncio.all_tasks()
    revocations = Revocations(Ledger().since)
    forgotten = [Stream(revocations), Stream(revocations)]
    (watching,) = asyncio.all_tasks() - before
    for stream in forgotten:
        stream.forget()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_what_is_opened_for_somebody_revoked_ends_at_once() -> None:
    revocations = Revocations(Ledger(Row(token_id="t1")).since)
    assert await revocations.hold(BELLA)
    assert Stream(revocations).times_ended == 1


async def test_asked_now_the_ledger_is_asked_whoever_asked_before() -> None:
    ledger = Ledger()
    revocations = Revocations(ledger.since, monotonic=Time())
    assert not await revocations.hold(BELLA)
    ledger.rows.append(Row(token_id="t1"))
    assert not await revocations.hold(BELLA)
    assert await revocations.hold_now(BELLA)
    assert await revocations.hold(BELLA)
