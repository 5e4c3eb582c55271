"""The product's own command line, with two use cases that raise what a broken library might. Run as a script."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from subscription_mcp import assembly
from subscription_mcp.cli.main import main
from subscription_mcp.domain.catalog import Plan
from subscription_mcp.domain.decisions import Decision
from subscription_mcp.operations.access import Caller
from subscription_mcp.operations.metering import Metering, UsageReport
from subscription_mcp.operations.plans import Plans
from subscription_mcp.tools.toolbox import Toolbox

BREAKS: Mapping[str, type[BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "RuntimeError": RuntimeError,
}


class BreakingMetering(Metering):
    async def check(self, caller: Caller, report: UsageReport) -> Decision:
        """Raises what the attribute `raise` names, after it has waited for something."""
        await asyncio.sleep(0)
        raise BREAKS[str(report.attributes["raise"])]("the password is in the .py file")


class BreakingPlans(Plans):
    def offered(self) -> list[Plan]:
        raise SystemExit("the password is in the .py file")


_make_service = assembly.make_service


def make_breaking_service(*arguments: Any, **named: Any) -> assembly.Service:
    service = _make_service(*arguments, **named)
    ledger, access = service.ledger, service.operations.access
    metering = BreakingMetering(ledger, access, service.operations.prices)
    operations = replace(service.operations, metering=metering, plans=BreakingPlans(ledger, access))
    return assembly.Service(ledger, operations, Toolbox(operations))


if __name__ == "__main__":
    assembly.make_service = make_breaking_service
    main()
