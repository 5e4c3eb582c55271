"""A free trial, a plan for one, then a team that shares a pool.

    .venv/bin/python examples/notion_agent.py [URL]

Catalog: notion-agent.
"""

from stage import Stage, new, play

MIRA, NOAH, TEAM = new("mira"), new("noah"), new("studio")


async def story(stage: Stage) -> None:
    mira = await stage.enter("--user", MIRA)
    backend = await stage.enter("--user", "notes-backend", "--role", "service")

    # A trial begins by itself
    await mira.say("mira: what do I have?", "get_tier_info")
    await backend("record_usage", user_id=MIRA, event="request", attributes={"tokens": 900})
    for _ in range(119):
        await backend("record_usage", user_id=MIRA, event="request", attributes={"tokens": 400})
    await backend.say("back end: the 121st request", "record_usage", user_id=MIRA, event="request")
    await mira.say("mira: back to a trial, please", "upgrade_tier", plan="trial")
    await mira.agree("mira: Plus, then", "upgrade_tier", plan="plus")
    await mira.say("mira: or rather Pro", "upgrade_tier", plan="pro")
    await backend.say("back end: the next request", "record_usage", user_id=MIRA, event="request")
    await mira.say("mira: what did I use?", "list_usage_events", page_size=2)

    # A team: its token names the group, its plan has seats, its pool is one
    lead = await stage.enter("--user", NOAH, "--group", TEAM, "--role", "admin")
    await lead.agree("noah: Teams for three", "upgrade_tier", plan="teams", seats=3)
    await lead.say("noah: Ada joins us", "manage_members", action="add", user_id=new("ada"))
    await lead.say("noah: and Ben", "manage_members", action="add", user_id=new("ben"))
    await lead.say("noah: and Cleo", "manage_members", action="add", user_id=new("cleo"))
    await lead.agree("noah: one more seat", "manage_subscription", action="set_seats", seats=4)
    await lead.say("noah: now Cleo", "manage_members", action="add", user_id=new("cleo"))
    await lead.say(
        "noah: Ben gets 2 requests of the pool",
        "manage_limits",
        action="set",
        user_id=new("ben"),
        meter="requests",
        window="billing_period",
        limit=2,
        reason="an intern",
    )
    for _ in range(2):
        await backend("record_usage", user_id=new("ben"), event="request", attributes={"tokens": 100})
    await backend.say("back end: Ben's third", "record_usage", user_id=new("ben"), event="request")
    await backend.say(
        "back end: Ada's first",
        "record_usage",
        user_id=new("ada"),
        event="request",
        attributes={"tokens": 250},
    )
    await lead.say("noah: who uses it?", "get_usage_analytics", account_id=TEAM, group_by=["user"])
    await lead.agree("noah: cancel", "manage_subscription", action="cancel")
    await lead.say("noah: no, stay", "manage_subscription", action="resume", dry_run=True)


if __name__ == "__main__":
    play(story)
