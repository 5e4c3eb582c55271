"""Plans edited at run time: what there is, a new plan or version, one no longer offered, subscribers moved on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from subscription_mcp.domain.subscriptions import AccountKey
from subscription_mcp.ledger.commands import EditPlan, MigratePlan, PlanEdited, PlanMigrated
from subscription_mcp.ledger.queries import PlanRecord, PlanRecords
from subscription_mcp.ledger.writer import Ledger
from subscription_mcp.operations.access import Access, Caller

ACCOUNTS_SHOWN = 20
ALL_VERSIONS = 0
TOOL = "manage_plans"


@dataclass(slots=True)
class PlanManaged:
    """A plan as it is now, or in a preview would be; who holds another version of it by `affected`, with some of these
    accounts; `moved` is how many were moved to the newest."""

    action: Literal["create", "update", "archive", "migrate"]
    record: PlanRecord
    is_preview: bool
    affected: Mapping[int, int]
    accounts: list[tuple[AccountKey, int]] = field(default_factory=list)
    moved: int | None = None
    audit_id: str | None = None


class PlanEditing:
    """Listing, creating, updating and archiving plans, moving their subscribers."""

    def __init__(self, ledger: Ledger, access: Access) -> None:
        self._ledger = ledger
        self._access = access

    async def listed(self, caller: Caller) -> list[PlanRecord]:
        """Every plan there is, with who holds which version. Raises Refusal."""
        self._access.actor_everywhere(TOOL, caller)
        await self._ledger.refresh()
        records: list[PlanRecord] = await self._ledger.query(PlanRecords(self._ledger.now()))
        return records

    async def edit(
        self,
        caller: Caller,
        action: Literal["create", "update", "archive"],
        plan: str,
        table: Mapping[str, Any],
        reason: str | None,
        *,
        dry_run: bool,
    ) -> PlanManaged:
        """Create, update or archive a plan, or show what that would be. Raises Refusal."""
        actor = self._access.actor_everywhere(TOOL, caller)
        command = EditPlan(actor, action, plan, table, reason)
        outcome = await self._ledger.do(command, PlanEdited, keep=not dry_run)
        now = outcome.plan
        newest = ALL_VERSIONS if action == "archive" else now.version
        found = await self._record(plan, newest)
        if found is None:  # the preview of a new plan
            found = PlanRecord(now, "runtime", True, False, {}, [])
        affected = {version: accounts for version, accounts in found.holders.items() if version != newest}
        origin = found.origin if action == "archive" else "runtime"
        record = replace(
            found,
            plan=now,
            origin=origin,
            is_offered=not outcome.is_archived,
            is_archived=outcome.is_archived,
        )
        audit_id = None if dry_run else outcome.audit.id
        return PlanManaged(action, record, dry_run, affected, found.some_on_older, audit_id=audit_id)

    async def migrate(
        self, caller: Caller, plan: str, reason: str, from_version: int | None, *, dry_run: bool
    ) -> PlanManaged:
        """Move who holds an older version to the newest, some hundred accounts at a time: interrupted, it is called
        again and goes on. Raises Refusal."""
        actor = self._access.actor_everywhere(TOOL, caller)
        command = MigratePlan(actor, plan, reason, from_version)
        outcome = await self._ledger.do(command, PlanMigrated, keep=False)
        before = await self._record(plan, outcome.plan.version)
        assert before is not None
        affected = {
            version: accounts
            for version, accounts in before.holders.items()
            if version != outcome.plan.version and from_version in (None, version)
        }
        accounts = [(account, version) for account, version in before.some_on_older if version in affected]
        if dry_run:
            return PlanManaged("migrate", before, True, affected, accounts)
        moved, audit_id = 0, None
        while True:
            outcome = await self._ledger.do(command, PlanMigrated)
            moved += outcome.moved
            audit_id = audit_id or (outcome.audit.id if outcome.audit is not None else None)
            if outcome.last is None:
                break
            command = replace(command, after=outcome.last)
        after = await self._record(plan, outcome.plan.version)
        assert after is not None
        return PlanManaged("migrate", after, False, affected, accounts, moved, audit_id)

    async def _record(self, plan: str, newest: int) -> PlanRecord | None:
        found: list[PlanRecord] = await self._ledger.query(
            PlanRecords(self._ledger.now(), plan, ACCOUNTS_SHOWN, newest)
        )
        return found[0] if found else None
