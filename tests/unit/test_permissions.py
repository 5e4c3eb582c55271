"""The whole table of operation, role and reach, spelled out a second time."""

import pytest

from subscription_mcp.auth.permissions import REACH, STANDING_ROLES, Reach, reach

MATRIX = """
                      member  holder   admin    service  tenant_admin  superadmin
get_tier_info         SELF    ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
upgrade_tier          NONE    ACCOUNT  ACCOUNT  NONE     TENANT        ALL
get_usage_analytics   SELF    ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
list_usage_events     SELF    ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
check_quota           SELF    ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
record_usage          NONE    NONE     NONE     TENANT   NONE          NONE
record_usage_batch    NONE    NONE     NONE     TENANT   NONE          NONE
reserve_usage         NONE    NONE     NONE     TENANT   NONE          NONE
settle_usage          NONE    NONE     NONE     TENANT   NONE          NONE
open_session          SELF    SELF     SELF     TENANT   SELF          SELF
renew_session         SELF    SELF     SELF     TENANT   SELF          SELF
close_session         SELF    SELF     SELF     TENANT   SELF          SELF
has_feature           SELF    ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
list_plans            SELF    ACCOUNT  ACCOUNT  TENANT   TENANT        ALL
manage_limits         NONE    ACCOUNT  ACCOUNT  NONE     TENANT        ALL
manage_plans          NONE    NONE     NONE     NONE     NONE          ALL
tenant_summary        NONE    NONE     NONE     NONE     TENANT        ALL
"""
_HEAD, *_ROWS = [line.split() for line in MATRIX.strip().splitlines()]
RECORDING = ["record_usage", "record_usage_batch", "reserve_usage", "settle_usage"]
CELLS = [(row[0], role, Reach[cell]) for row in _ROWS for role, cell in zip(_HEAD, row[1:], strict=True)]


@pytest.mark.parametrize(("operation", "role", "expected"), CELLS)
def test_a_role_reaches_as_far_as_the_table_says(operation: str, role: str, expected: Reach) -> None:
    assert reach(operation, frozenset({role}), members_may_record=False) is expected


def test_the_table_has_no_other_rows_or_columns() -> None:
    assert [row[0] for row in _ROWS] == list(REACH)
    assert tuple(_HEAD) == STANDING_ROLES
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


@pytest.mark.parametrize("operation", [row[0] for row in _ROWS if row[0] not in RECORDING])
def test_the_permission_to_record_opens_nothing_else(operation: str) -> None:
    for role in STANDING_ROLES:
        roles = frozenset({"member", role})
        assert reach(operation, roles, members_may_record=True) is reach(
            operation, roles, members_may_record=False
        )


@pytest.mark.parametrize("operation", ["", "erase_account", "RECORD_USAGE", "get_tier_info "])
def test_an_unknown_operation_is_allowed_to_nobody(operation: str) -> None:
    assert reach(operation, frozenset(STANDING_ROLES), members_may_record=True) is Reach.NONE


@pytest.mark.parametrize("roles", [set(), {"owner"}, {"ADMIN"}, {""}])
def test_an_unknown_role_reaches_nothing(roles: set[str]) -> None:
    for operation in REACH:
        assert reach(operation, frozenset(roles), members_may_record=True) is Reach.NONE


def test_reach_is_ordered() -> None:
    assert Reach.NONE < Reach.SELF < Reach.ACCOUNT < Reach.TENANT < Reach.ALL
