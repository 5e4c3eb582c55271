"""The main job, played by a real MCP client: a user asks, uses up a day, is refused, upgrades, and goes on.

    .venv/bin/python examples/bedrock_chat.py [URL]

Two callers, as in production: the user's own client, and the application's back end, which records what the user
does. Catalog: bedrock-chat.
"""
# ruff: noqa: T201

from stage import Stage, new, play

USER = new("nadia")


async def story(stage: Stage) -> None:
    user = await stage.enter("--user", USER, "--tier", "basic")
    backend = await stage.enter("--user", "chat-backend", "--role", "service")

    await user.say("user: what is left?", "get_tier_info")
    allowed = 0
    for _ in range(50):
        _, decision = await backend("record_usage", user_id=USER, event="message")
        allowed += decision["allowed"]
    print(f"back end: records 50 messages\n{allowed} allowed\n")
    await backend.say("back end: one more", "record_usage", user_id=USER, event="message")
    offer = await user.say("user: upgrade me", "upgrade_tier", plan="advanced")
    await user.say("user: yes", "upgrade_tier", plan="advanced", confirmation=offer["confirmation"])
    words, _ = await backend("record_usage", user_id=USER, event="message")
    print(f"back end: one more\n{words}")


if __name__ == "__main__":
    play(story)
