"""One subscription shared by a group: bought by its admin, used by everybody, edited by a super-admin at run time.

    .venv/bin/python examples/group_tokens.py [URL]

Catalog: group-tokens.
"""

from stage import Stage, new, play

GROUP, ADMIN, MEMBER = new("clinic"), new("greta"), new("hugo")


async def story(stage: Stage) -> None:
    admin = await stage.enter("--user", ADMIN, "--group", GROUP, "--role", "admin")
    member = await stage.enter("--user", MEMBER, "--group", GROUP)
    backend = await stage.enter("--user", "voice-backend", "--role", "service")
    root = await stage.enter("--user", "root", "--role", "superadmin")

    # The super-admin makes a plan while everything runs
    plan = {
        "plan": new("starter"),
        "title": "Starter",
        "price": {"monthly": "19.99"},
        "seats": {"max": 3},
        "limits": [
            {"meter": "llm_tokens", "window": "billing_period", "limit": 1_000, "scope": "account"},
            {"meter": "voice_tokens", "window": "billing_period", "limit": 500, "scope": "account"},
        ],
        "provider_price_ids": {"monthly": "price_starter"},
    }
    await root.say("super-admin: a new plan", "manage_plans", action="create", plan=plan)

    await member.say("hugo: what do I have?", "get_tier_info")
    await backend.say("back end: Hugo dictates", "record_usage", user_id=MEMBER, event="voice", quantity=100)
    await admin.agree("greta: Starter for all of us", "upgrade_tier", plan=new("starter"))
    await admin.say("greta: once more", "upgrade_tier", plan=new("starter"))

    # All users share the limits; at 80 % it says so, at 100 % it stops
    await backend.say("back end: Hugo writes", "record_usage", user_id=MEMBER, event="llm", quantity=500)
    await backend.say("back end: Greta writes", "record_usage", user_id=ADMIN, event="llm", quantity=320)
    await backend.say(
        "back end: it has happened, and was more than expected",
        "record_usage",
        user_id=MEMBER,
        event="llm",
        quantity=250,
        enforce=False,
    )
    await backend.say("back end: before the next", "check_quota", user_id=ADMIN, event="llm")
    await admin.say(
        "greta: who used what?", "get_usage_analytics", account_id=GROUP, group_by=["event", "user"]
    )

    # The plan is edited; who has it keeps the old version until migrated
    more = [dict(plan["limits"][0], limit=2_000), plan["limits"][1]]
    edited = {"plan": new("starter"), "limits": more}
    await root.say("super-admin: Starter gets more", "manage_plans", action="update", plan=edited)
    await backend.say("back end: before the next", "check_quota", user_id=ADMIN, event="llm")
    await root.say(
        "super-admin: for everybody", "manage_plans", action="migrate", plan=new("starter"), reason="a gift"
    )
    await backend.say("back end: before the next", "check_quota", user_id=ADMIN, event="llm")
    await root("manage_plans", action="archive", plan=new("starter"), reason="only a story")
    await root.say("super-admin: who has what?", "manage_accounts", action="search", query="kind:group")


if __name__ == "__main__":
    play(story)
