"""Calls of AI providers by what they cost: what is affordable, a cap that refuses in time, and what nobody knows.

    .venv/bin/python examples/alwrity.py [URL]

Catalog: alwrity.
"""

from stage import Stage, new, play

WREN = new("wren")
PRO = {"model": "gemini-2.5-pro"}


async def story(stage: Stage) -> None:
    wren = await stage.enter("--user", WREN)
    backend = await stage.enter("--user", "writing-backend", "--role", "service")
    call = {"user_id": WREN, "event": "api_call"}

    await wren.say("wren: what do I have?", "get_tier_info")
    short = {**PRO, "input_tokens": 1_000, "output_tokens": 500}
    await backend.say("back end: can she afford this?", "check_quota", attributes=short, **call)
    await backend.say("back end: it was that long", "record_usage", attributes=short, **call)

    # Nobody counted the tokens: from the texts, which are kept nowhere
    await backend.say(
        "back end: here is what was said",
        "record_usage",
        attributes={"provider": "google", "model": "gemini-2.5-flash"},
        estimate_from={"input_text": "Write a poem about a wren.", "output_text": "A wren, a wren! " * 40},
        **call,
    )
    new_model = {"provider": "openai", "model": "gpt-of-tomorrow", "input_tokens": 10, "output_tokens": 10}
    await backend.say("back end: a model nobody knows", "record_usage", attributes=new_model, **call)

    # Refused before it costs anything; a cheaper model would do
    long = {**PRO, "input_tokens": 80_000, "output_tokens": 290_000}
    await backend.say("back end: a whole book?", "check_quota", attributes=long, **call)

    await wren.agree("wren: Pro, then", "upgrade_tier", plan="pro")
    await backend.say("back end: the book", "record_usage", attributes=long, **call)
    await wren.say("wren: who cost what?", "get_usage_analytics", group_by=["provider"], meters=["cost"])


if __name__ == "__main__":
    play(story)
