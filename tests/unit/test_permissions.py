"""The rows of operation, role and reach against the table that spells them out a second time."""

import pytest
from tests.permission_table import ROLES, ROWS

from subscription_mcp.auth.permissions import (
    ANY_CALLER,
    ANYBODY,
    COMMANDS,
    COMPLETIONS,
    FILES_ONLY,
    NOBODY,
    PROMPTS,
    REACH,
    RESOURCES,
    ROUTES,
    STANDING_ROLES,
    Reach,
    is_for_the_operator,
    reach,
    row_of_action,
    rows_of_tool,
)

RECORDING = ["record_usage", "record_usage_batch", "reserve_usage", "settle_usage"]
CELLS = [(row, role, Reach[cell]) for row, cells in ROWS.items() for role, cell in cells.items()]


@pytest.mark.parametrize(("operation", "role", "expected"), CELLS)
def test_a_role_reaches_as_far_as_the_table_says(operation: str, role: str, expected: Reach) -> None:
    assert reach(operation, frozenset({role}), members_may_record=False) is expected


def test_the_table_has_no_other_rows_or_columns() -> None:
    assert set(ROWS) == set(REACH)
    assert ROLES == STANDING_ROLES
    assert all(tuple(row) == STANDING_ROLES for row in REACH.values())


def test_roles_add_up_to_the_farthest() -> None:
    roles = frozenset({"member", "service", "tenant_admin"})
    assert reach("record_usage", roles, members_may_record=False) is Reach.TENANT
    assert reach("manage_limits", roles, members_may_record=False) is Reach.TENANT


@pytest.mark.parametrize("operation", RECORDING)
def test_members_record_for_themselves_only_where_it_is_allowed(operation: str) -> None:
    for role in ("member", "holder", "admin", "tenant_admin", "superadmin"):
        roles = frozenset({"member", role})
        assert reach(operation, roles, members_may_record=True) is Reach.SELF
        assert reach(operation, roles, members_may_record=False) is Reach.NONE
    assert reach(operation, frozenset({"member", "service"}), members_may_record=True) is Reach.TENANT


@pytest.mark.parametrize("operation", [row for row in ROWS if row not in RECORDING])
def test_the_permission_to_record_opens_nothing_else(operation: str) -> None:
    for role in STANDING_ROLES:
        roles = frozenset({"member", role})
        assert reach(operation, roles, members_may_record=True) is reach(
            operation, roles, members_may_record=False
        )


@pytest.mark.parametrize(
    "operation",
    [
        *("", "erase_account", "RECORD_USAGE", "get_tier_info "),
        *("manage_accounts", "manage_accounts.", "manage_accounts.search.all", "get_tier_info.list"),
        *(NOBODY, ANYBODY, ANY_CALLER, FILES_ONLY),
    ],
)
def test_an_unknown_operation_is_allowed_to_nobody(operation: str) -> None:
    assert reach(operation, frozenset(STANDING_ROLES), members_may_record=True) is Reach.NONE


@pytest.mark.parametrize("roles", [set(), {"owner"}, {"ADMIN"}, {""}])
def test_an_unknown_role_reaches_nothing(roles: set[str]) -> None:
    for operation in REACH:
        assert reach(operation, frozenset(roles), members_may_record=True) is Reach.NONE


def test_reach_is_ordered() -> None:
    assert Reach.NONE < Reach.SELF < Reach.ACCOUNT < Reach.TENANT < Reach.ALL


def test_a_tool_has_the_rows_of_its_name_and_of_its_actions() -> None:
    assert rows_of_tool("get_tier_info") == ("get_tier_info",)
    assert set(rows_of_tool("list_alerts")) == {
        *("list_alerts", "list_alerts.mark_read", "list_alerts.thresholds"),
    }
    assert len(rows_of_tool("manage_accounts")) == 9
    assert rows_of_tool("manage") == rows_of_tool("") == rows_of_tool("manage_accounts.search") == ()


def test_an_action_is_decided_by_its_own_row_and_without_one_by_that_of_its_tool() -> None:
    assert row_of_action("manage_limits", "clear_rate") == "manage_limits.clear_rate"
    assert row_of_action("manage_limits", "set") == "manage_limits"
    assert row_of_action("manage_accounts", "erase") == "manage_accounts.erase"
    assert row_of_action("manage_accounts", "rename") not in REACH


@pytest.mark.parametrize("surface", [RESOURCES, PROMPTS, COMPLETIONS, ROUTES, COMMANDS])
def test_nobody_is_offered_what_has_no_row(surface: dict[str, str]) -> None:
    assert surface["no such thing"] == NOBODY
    assert "no such thing" not in surface


def test_the_operator_of_the_machine_has_the_commands_that_a_superadmin_or_a_reader_of_files_has() -> None:
    assert is_for_the_operator("token revoke")
    assert is_for_the_operator("doctor")
    assert not is_for_the_operator("token")
    assert not is_for_the_operator("record_usage")
