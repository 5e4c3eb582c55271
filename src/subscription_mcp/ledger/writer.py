"""The writer: takes every command that waits, has the engine do them in one transaction, answers each.

There is no timer: what arrived during the last commit is the next batch. Nobody is answered before the
commit. A caller that goes away changes nothing: its command is either not begun, or happens whole.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Any, TypeVar

from subscription_mcp.domain.errors import Refusal, internal, unavailable
from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.commands import (
    SOLITARY,
    AccountView,
    Arrive,
    Command,
    Outcome,
    ReportOutage,
)
from subscription_mcp.ledger.port import Engine, LedgerUnavailable
from subscription_mcp.ledger.queries import Query

log = logging.getLogger(__name__)

BATCH_COMMANDS_MAX = 1024
WAITING_COMMANDS_MAX = 100_000
START_WITHIN_SECONDS = 10
OutcomeKind = TypeVar("OutcomeKind", bound=Outcome)


class _Entry:
    __slots__ = ("answer", "commands")

    def __init__(self, commands: Sequence[Command], answer: "asyncio.Future[list[Outcome]]") -> None:
        self.commands = commands
        self.answer = answer

    @property
    def is_solitary(self) -> bool:
        return isinstance(self.commands[0], SOLITARY) if self.commands else False


class _Start:
    """Whoever is first: the database's thread that begins the batch, or the writer that gives it up."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken = False

    def take(self) -> bool:
        with self._lock:
            taken, self._taken = self._taken, True
            return not taken


class Ledger:
    """The ledger as the rest of the product sees it: do, submit, rehearse, ask."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._waiting: deque[_Entry] = deque()
        self._waiting_commands = 0
        self._wake = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._closing = False
        self._failing_since: Instant | None = None

    async def open(self) -> None:
        """Open the engine and start the writer. Raises LedgerUnusable."""
        await self.engine.open()
        self._writing = asyncio.create_task(self._write(), name="ledger writer")

    async def close(self) -> None:
        """Finish what waits, then close the engine."""
        self._closing = True
        self._wake.set()
        if self._writing is not None:
            await asyncio.shield(self._writing)
        await self.engine.close()

    async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
        """Do the commands in order in one transaction; an outcome for each. Never raises: where the ledger
        cannot be written every outcome is `unavailable` and nothing was counted. One that is `SOLITARY` is
        submitted by itself."""
        assert len(commands) < 2 or not any(isinstance(command, SOLITARY) for command in commands)
        return await self._enqueue(commands)

    async def submit_one(self, command: Command) -> Outcome:
        return (await self._enqueue((command,)))[0]

    async def do(self, command: Command, kind: type[OutcomeKind], *, keep: bool = True) -> OutcomeKind:
        """Do the command, or without `keep` only rehearse it; its outcome is of that kind. Raises Refusal."""
        outcome = await (self.submit_one(command) if keep else self.rehearse(command))
        if isinstance(outcome, Refusal):
            raise outcome
        assert isinstance(outcome, kind)
        return outcome

    def _enqueue(self, commands: Sequence[Command]) -> "asyncio.Future[list[Outcome]]":
        answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        if self._closing or self._waiting_commands + len(commands) > WAITING_COMMANDS_MAX:
            answer.set_result([unavailable() for _ in commands])
            return answer
        self._waiting.append(_Entry(commands, answer))
        self._waiting_commands += len(commands)
        self._wake.set()
        return answer

    async def rehearse(self, command: Command) -> Outcome:
        """What the command would come to on committed facts; nothing is kept."""
        return (await self._rehearse(command))[0]

    async def rehearse_or_submit(self, command: Command) -> Outcome:
        """Do the command only where it would change something, else just say what it comes to."""
        outcome, would_change = await self._rehearse(command)
        return await self.submit_one(command) if would_change else outcome

    async def look(self, command: Arrive, *, may_make_known: bool) -> AccountView:
        """An account as it stands. Where the user's own call makes something on first sight it is written,
        else this only reads. Raises Refusal."""
        outcome = await (self.rehearse_or_submit(command) if may_make_known else self.rehearse(command))
        if isinstance(outcome, Refusal):
            raise outcome
        assert isinstance(outcome, AccountView)
        return outcome

    async def refresh(self) -> None:
        """See the plans as they are committed now. Raises Refusal `unavailable`."""
        try:
            await self.engine.refresh()
        except LedgerUnavailable as error:
            log.error("the ledger cannot be read: %s", error)
            raise unavailable() from None

    def now(self) -> Instant:
        return self.engine.now()

    async def query(self, question: Query) -> Any:
        """The answer to a question about what is committed. Raises Refusal `unavailable`."""
        try:
            return await self.engine.query(question)
        except LedgerUnavailable as error:
            log.error("the ledger cannot be read: %s", error)
            raise unavailable() from None

    async def ready(self) -> bool:
        try:
            async with asyncio.timeout(START_WITHIN_SECONDS):
                await self.engine.ready()
        except (LedgerUnavailable, TimeoutError) as error:
            log.warning("the ledger is not ready: %s", error)
            return False
        return True

    async def _rehearse(self, command: Command) -> tuple[Outcome, bool]:
        try:
            return await self.engine.rehearse(command)
        except LedgerUnavailable as error:
            log.error("the ledger cannot be read: %s", error)
            return unavailable(), False
        except Exception:
            log.exception("a %s could not be worked out", type(command).__name__)
            return internal(), False

    # The writer's own task

    async def _write(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                await self._do(batch)
            elif self._closing:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while self._waiting and (
            not batch
            or (
                size + len(self._waiting[0].commands) <= BATCH_COMMANDS_MAX
                and not batch[0].is_solitary
                and not self._waiting[0].is_solitary
            )
        ):
            entry = self._waiting.popleft()
            self._waiting_commands -= len(entry.commands)
            if entry.answer.done():  # its caller went away before it was begun
                continue
            batch.append(entry)
            size += len(entry.commands)
        return batch

    async def _do(self, batch: list[_Entry]) -> None:
        try:
            outcomes = await self._transact([command for entry in batch for command in entry.commands])
        except LedgerUnavailable as error:
            log.error("the ledger cannot be written: %s", error)
            outcomes = None
            if self._failing_since is None:
                self._failing_since = self.engine.now()
        except Exception:
            log.exception("a batch of %d could not be worked out", len(batch))
            if len(batch) > 1:  # one command must not take the others with it
                for entry in batch:
                    await self._do([entry])
                return
            _answer(batch[0], [internal() for _ in batch[0].commands])
            return
        if outcomes is not None and self._failing_since is not None:
            self._enqueue((ReportOutage(self._failing_since),))
            self._failing_since = None
        position = 0
        for entry in batch:
            count = len(entry.commands)
            if outcomes is None:
                _answer(entry, [unavailable() for _ in entry.commands])
            else:
                _answer(entry, outcomes[position : position + count])
            position += count

    async def _transact(self, commands: Sequence[Command]) -> list[Outcome]:
        """One transaction. Should the lock be held too long by somebody else, the batch is given up, which
        is only done where it has certainly not begun."""
        start, writing = _Start(), asyncio.current_task()
        assert writing is not None
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            if start.take():
                given_up = writing.cancel()

        # A timer and no task of its own: whoever is alone waits for every turn of the loop.
        timer = asyncio.get_running_loop().call_later(START_WITHIN_SECONDS, give_up)
        try:
            return await self.engine.transact(commands, start.take)
        except asyncio.CancelledError:
            if not given_up:
                raise
            writing.uncancel()
            raise LedgerUnavailable(f"the lock was not given within {START_WITHIN_SECONDS} s") from None
        finally:
            timer.cancel()


def _answer(entry: _Entry, outcomes: list[Outcome]) -> None:
    if not entry.answer.done():
        entry.answer.set_result(outcomes)
