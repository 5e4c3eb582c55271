"""Asking the person behind the client, where the client can be asked.

What is to be confirmed lies in the ledger as an offer with a single-use handle. The question only carries the
handle along: over the modern protocol sealed in the `requestState` of an input-required answer, over the legacy
one in the call that waits. So an answer that is sent a second time meets an offer that is used up.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from subscription_mcp.tools import texts
from subscription_mcp.tools.bodies import Answer

log = logging.getLogger(__name__)

Call = Callable[[dict[str, Any]], Awaitable[Answer]]

QUESTION = "confirm"
ANSWER_WITHIN_SECONDS = 600
"""As long as the offer lives."""
FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "confirm": {"type": "boolean", "title": "Go ahead", "description": "Yes applies exactly this."}
    },
    "required": ["confirm"],
}


async def confirmed(
    call: Call, arguments: dict[str, Any], ctx: Context[Any, Any]
) -> Answer | InputRequiredResult:
    """The answer of a tool; where it only offers something, what the person says about it decides. `call` judges
    the arguments. Raises what it raises."""
    handle = ctx.request_state
    if handle is not None and "confirmation" not in arguments:
        answers = ctx.input_responses or {}
        if QUESTION in answers:
            return await _decided(call, arguments, handle, answers[QUESTION])
    answer = await call(arguments)
    if answer.question is None or not _can_be_asked(ctx):
        return answer
    form = ElicitRequestFormParams(message=answer.question.words, requested_schema=FORM)
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return InputRequiredResult(
            input_requests={QUESTION: ElicitRequest(params=form)}, request_state=answer.question.handle
        )
    said: ElicitResult | None = None
    try:
        with anyio.move_on_after(ANSWER_WITHIN_SECONDS):
            said = await ctx.session.elicit_form(form.message, FORM, related_request_id=ctx.request_id)
    except (MCPError, ValidationError):
        # It could not be asked after all: the handle in the answer lets it confirm by another call.
        log.info("a client that declares elicitation did not answer a question")
        return answer
    return await _decided(call, arguments, answer.question.handle, said)


async def _decided(call: Call, arguments: dict[str, Any], handle: str, said: object) -> Answer:
    # Only a plain yes counts: consent that has to be guessed is none.
    content = said.content if isinstance(said, ElicitResult) and said.action == "accept" else None
    if content is not None and content.get("confirm") is True:
        return await call({**arguments, "confirmation": handle})
    preview = await call({**arguments, "dry_run": True})
    return Answer(texts.DECLINED, {**preview.document, "status": "declined"})


def _can_be_asked(ctx: Context[Any, Any]) -> bool:
    """Whether the client declared that it asks people with forms, and the question can reach it. A bare
    declaration, from before there were modes, means forms."""
    capabilities = ctx.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS or ctx.session.can_send_request
