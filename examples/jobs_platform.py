"""Quotas by the day and the month, storage that goes up and down, a rate that grows with the plan, and an operator.

    .venv/bin/python examples/jobs_platform.py [URL]

Catalog: jobs-platform.
"""

from stage import Stage, new, play

IVY = new("ivy")


async def story(stage: Stage) -> None:
    ivy = await stage.enter("--user", IVY)
    backend = await stage.enter("--user", "jobs-backend", "--role", "service")
    operator = await stage.enter("--user", "olga", "--role", "superadmin")
    whom = {"user_id": IVY}

    await ivy.say("ivy: what do I have?", "get_tier_info")
    for feature in ("api_access", "priority_support"):
        await backend.say(f"back end: has she {feature}?", "has_feature", feature=feature, **whom)

    # A level: up, too far, down
    await backend.say("back end: stores 90 MB", "record_usage", event="storage", quantity=90, **whom)
    await backend.say("back end: 20 MB more", "record_usage", event="storage", quantity=20, **whom)
    await backend.say("back end: deletes 50 MB", "record_usage", event="storage", quantity=-50, **whom)

    # A rate: 60 calls in a minute
    for _ in range(60):
        await backend("record_usage", event="api_call", **whom)
    await backend.say("back end: the 61st call in a minute", "record_usage", event="api_call", **whom)
    await operator.say(
        "operator: let her go on", "manage_limits", action="clear_rate", reason="a launch", **whom
    )
    await backend.say("back end: once more", "record_usage", event="api_call", **whom)

    # A plan for some days, by the operator; unlimited is a value of its own
    _, offer = await operator("upgrade_tier", plan="enterprise", duration_days=14, **whom)
    await operator.say(
        "operator: Enterprise for two weeks",
        "upgrade_tier",
        plan="enterprise",
        duration_days=14,
        confirmation=offer["confirmation"],
        **whom,
    )
    await backend.say("back end: 500 jobs", "record_usage", event="job", quantity=500, **whom)
    await operator.say("operator: suspended", "manage_accounts", action="suspend", reason="fraud?", **whom)
    await backend.say("back end: a job", "record_usage", event="job", **whom)
    await ivy.say("ivy: what is going on?", "get_tier_info")
    await operator.say("operator: all fine", "manage_accounts", action="activate", reason="no fraud", **whom)
    await backend.say("back end: a job", "record_usage", event="job", **whom)
    await operator.say("operator: who is there?", "manage_accounts", action="search", query=IVY)
    await operator.say("operator: how do we do?", "manage_accounts", action="statistics")


if __name__ == "__main__":
    play(story)
