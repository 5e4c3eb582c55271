"""What is wrong with arguments, in words that stand alone."""

from typing import Any

import pytest

from subscription_mcp.domain.errors import Refusal
from subscription_mcp.tools import wire
from subscription_mcp.tools.validation import parsed

ALERTS, BILLING = wire.ListAlertsArguments, wire.GetBillingHistoryArguments
CHECK = wire.CheckQuotaArguments
LIMITS, USAGE = wire.ManageLimitsArguments, wire.GetUsageAnalyticsArguments
GRANT = {"action": "grant", "meter": "calls", "window": "day", "quantity": 5}
SET = {"action": "set", "meter": "calls", "window": "day", "reason": "x"}
LIMIT_RULE = f'an integer from 0 to {2**53 - 1}, "unlimited", or an amount like "150.00"'


@pytest.mark.parametrize(
    ("model", "arguments", "said", "field"),
    [
        (BILLING, {"period": "2026-13"}, "period must be a year or a month, like 2026 or 2026-11.", "period"),
        (BILLING, {"period": "today"}, "period must be a year or a month, like 2026 or 2026-11.", "period"),
        (LIMITS, {**GRANT, "reason": ""}, "reason must have at least 1 character.", "reason"),
        (LIMITS, {**GRANT, "reason": "x" * 257}, "reason must have at most 256 characters.", "reason"),
        (LIMITS, GRANT, "grant needs reason.", "arguments"),
        (LIMITS, {**SET, "limit": "many"}, f"limit must be {LIMIT_RULE}.", "limit"),
        (LIMITS, {**SET, "limit": "1,50"}, 'limit must be a decimal string like "29.00".', "limit"),
        (LIMITS, {**SET, "limit": "150.0000001"}, "limit must have at most 6 decimals.", "limit"),
        (LIMITS, {**SET, "limit": "-1"}, "limit must be from 0 to 9007199254.740991.", "limit"),
        (LIMITS, {**SET, "limit": -1}, f"limit must be {LIMIT_RULE}.", "limit"),
        (LIMITS, {**SET, "limit": 150.0}, f"limit must be {LIMIT_RULE}.", "limit"),
        (LIMITS, {**SET, "limit": True}, f"limit must be {LIMIT_RULE}.", "limit"),
        (
            LIMITS,
            {**GRANT, "reason": "x", "quantity": "0"},
            "quantity must be from 0.000001 to 1000000.",
            "quantity",
        ),
        (USAGE, {"meters": []}, "meters must have at least 1 entry.", "meters"),
        (USAGE, {"group_by": ["user"] * 5}, "group_by must have at most 4 entries.", "group_by"),
        (USAGE, {"start": "2026-11-01T00:00:00Z"}, "start and end go together.", "arguments"),
        (
            ALERTS,
            {"thresholds": [1.5]},
            'thresholds must be a list of whole percents, or "plan".',
            "thresholds",
        ),
        (ALERTS, {"thresholds": [0]}, "thresholds must be whole percents from 1 to 1000.", "thresholds"),
        (
            CHECK,
            {"event": "call", "estimate_from": {"text": [1]}},
            "estimate_from.text must be a text or its size.",
            "estimate_from.text",
        ),
        (ALERTS, {"mark_read": []}, "mark_read must be 1 to 100 alert_ids.", "mark_read"),
    ],
)
def test_a_problem_is_told_in_one_sentence(
    model: type[wire.Arguments], arguments: dict[str, Any], said: str, field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        parsed(model, arguments)
    assert refused.value.message == said
    assert [problem.field for problem in refused.value.fields] == [field]
