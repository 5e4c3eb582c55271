"""What an engine must do. Everything that changes state goes through `transact`; every rule is in the
machine, so an engine only loads facts, saves changes and answers questions about what is committed."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeVar

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.commands import Command, Outcome
from subscription_mcp.ledger.queries import Query


class LedgerUnavailable(Exception):
    """The batch did not happen: nothing of it was counted. The message is for the log, not for clients."""


class LedgerUnusable(Exception):
    """The ledger cannot be opened. The message tells an operator what is wrong and what to do."""


class TransferRefused(Exception):
    """A ledger or a file is not fit for what was asked; nothing was changed. The message is for an operator."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was recomputed from the events, and the first differences found, as sentences for an operator."""

    events: int
    counters: int
    rollups: int
    holds: int
    differences: tuple[str, ...]


T = TypeVar("T")
Ask = Callable[[Query], Any]
Touched = frozenset[tuple[str, str]] | None
"""Tenant and id of the accounts and users a commit concerned; None may be everybody."""


class Engine(Protocol):
    """One store of the ledger. All methods are called from one event loop."""

    catalog: Catalog
    """The file's meters and rules with the ledger's current plan versions, as last seen."""

    async def open(self) -> None:
        """Create or migrate where the engine may, check the schema and settings. Raises LedgerUnusable."""

    async def close(self) -> None: ...

    async def transact(self, commands: Sequence[Command], start: Callable[[], bool]) -> list[Outcome]:
        """Lock, call `start` (False: the callers gave up, do nothing), read the clock, `machine.run`, save,
        commit durably. All or nothing; raises LedgerUnavailable."""

    async def rehearse(self, command: Command) -> tuple[Outcome, bool]:
        """The outcome on committed facts and whether it would change something; nothing is kept."""

    async def refresh(self) -> None:
        """Bring `catalog` up to what is committed, by whichever process. Raises LedgerUnavailable."""

    def now(self) -> Instant:
        """The ledger's clock, never behind the last commit."""

    async def query(self, question: Query) -> Any:
        """list[UsageRow], (list[(position, UsageEvent)], more), position, list[AuditEntry],
        list[AccountCount], (started, running, converted, sessions), (list[(position, AccountKey)], more),
        list[Session], list[(AccountKey, user)], list[(plan, version, accounts)], list[PlanRecord],
        list[Revocation], list[account], (list[MemberRow], more), (Billing, plans) list[AccountKey] or overrides."""

    async def read_aside(self, reading: Callable[[Ask], T]) -> T:
        """Ask one snapshot as many questions as `reading` likes, for as long as it takes, beside everybody else;
        `reading` runs on another thread. Raises LedgerUnavailable, and what `reading` raises."""

    def changes(self) -> AsyncGenerator[Touched]:
        """What commits touched, from the first answer on, which comes at once: this process's own as they
        happen, those of others within half a second. Costs nothing where nobody asks."""

    async def ready(self) -> None:
        """Whether the ledger can be read and written right now; raises LedgerUnavailable."""

    async def verify(self) -> Verification:
        """Work out every counter, rollup and hold again from the rows of one snapshot and compare, in bounded
        memory, while others go on writing. Raises LedgerUnavailable."""

    async def dump(self, write: Callable[[bytes], object]) -> Mapping[str, int]:
        """Write everything, as `transfer` says, from one snapshot; `write` is called on any thread. How many
        rows of each table. Raises LedgerUnavailable."""

    async def load(self, stream: BinaryIO) -> Mapping[str, int]:
        """Take over what `dump` wrote, into a ledger that is empty, in one transaction. Raises TransferRefused,
        LedgerUnavailable."""
