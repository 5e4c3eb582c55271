"""What an engine must do. Everything that changes state goes through `transact`; every rule is in the
machine, so an engine only loads facts, saves changes and answers questions about what is committed."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.identifiers import AccountKind
from subscription_mcp.domain.instants import Instant
from subscription_mcp.ledger.commands import AuditEntry, Command, Outcome, UsageEvent


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


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose usage or history: a whole tenant, one account in it, or one user of that account."""

    tenant: str
    account_kind: AccountKind | None = None
    account: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums of the rollups in `[start, end)`, grouped by meter and the columns named: as `UsageRow`s, where
    what was not asked for is None."""

    whose: Whose
    start: Instant
    end: Instant
    columns: frozenset[str]
    """Of quarter, user, account, dimensions."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events newest first; `before` is the position the last page ended at. A `size` below 0 is all."""

    whose: Whose
    start: Instant
    end: Instant
    size: int
    event: str | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """What was changed, newest first; `action` is a prefix like `limit.`."""

    whose: Whose
    action: str
    size: int


@dataclass(frozen=True, slots=True)
class TenantSummary:
    """Accounts and users per plan of a tenant."""

    tenant: str
    now: Instant


@dataclass(slots=True)
class PlanCount:
    plan: str
    accounts: int
    users: int


@dataclass(frozen=True, slots=True)
class PlanHolders:
    """How many accounts hold which version of each plan, over all tenants."""

    now: Instant


@dataclass(frozen=True, slots=True)
class RevocationsSince:
    """The revocations after a position, in order; must not wait behind reports."""

    seq: int


@dataclass(frozen=True, slots=True)
class AccountIds:
    """The accounts of a tenant whose id begins with `prefix`, in order of their ids, at most `size`: to choose from
    while somebody types, so of very many some may be left out."""

    tenant: str
    prefix: str
    size: int


Touched = frozenset[tuple[str, str]] | None
"""Tenant and id of the accounts and users a commit concerned; None may be everybody."""


Query = UsageTotals | EventPage | AuditTrail | TenantSummary | PlanHolders | RevocationsSince | AccountIds


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
        """list[UsageRow], (list[(position, UsageEvent)], more), list[AuditEntry], list[PlanCount],
        list[(plan, version, accounts)], list[Revocation] or list[account]."""

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


__all__ = [
    "AccountIds",
    "AuditEntry",
    "AuditTrail",
    "Engine",
    "EventPage",
    "LedgerUnavailable",
    "LedgerUnusable",
    "PlanCount",
    "PlanHolders",
    "Query",
    "RevocationsSince",
    "TenantSummary",
    "Touched",
    "TransferRefused",
    "UsageEvent",
    "UsageTotals",
    "Verification",
    "Whose",
]
