"""A server with one of everything the conformance suite asks a server about, under the names the suite uses.

It is an ordinary server of the SDK's that knows nothing of metering: `everything_bare.py` serves it as it is,
`everything_metered.py` behind our guard, hooks and ledger, and both have to answer the suite alike.
"""

import base64
import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, Extension, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolResult,
    Completion,
    ContentBlock,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    JSONRPCMessage,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field
from starlette.applications import Starlette

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
STEP_SECONDS = 0.05
RETRY_MILLISECONDS = 100

TOOLS: list[Callable[..., Any]] = []
PROMPTS: list[Callable[..., Any]] = []
Asked = CallToolResult | InputRequiredResult


def tool(function: Callable[..., Any]) -> Callable[..., Any]:
    TOOLS.append(function)
    return function


def prompt(function: Callable[..., Any]) -> Callable[..., Any]:
    PROMPTS.append(function)
    return function


def said(words: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=words)])


# --- What a tool can answer --------------------------------------------------------------------------------


def image() -> ImageContent:
    return ImageContent(data=PIXEL, mime_type="image/png")


def embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


@tool
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@tool
def test_image_content() -> list[ContentBlock]:
    return [image()]


@tool
def test_audio_content() -> list[ContentBlock]:
    return [AudioContent(data=SILENCE, mime_type="audio/wav")]


@tool
def test_embedded_resource() -> list[ContentBlock]:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@tool
def test_multiple_content_types() -> list[ContentBlock]:
    return [
        TextContent(text="Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]


@tool
def test_error_handling() -> str:
    raise RuntimeError("This tool intentionally returns an error for testing")


@tool
def test_header_parameter(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    return f"Routed to {region}"


SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def json_schema_2020_12_tool() -> str:
    return "Its input schema is what matters."


# --- What it can say meanwhile -----------------------------------------------------------------------------


@tool
async def test_tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await anyio.sleep(STEP_SECONDS)
    return "Progress was reported."


@tool
async def test_tool_with_logging(ctx: Context) -> str:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(words)
        await anyio.sleep(STEP_SECONDS)
    return "Logging was done."


@tool
async def test_logging_tool(ctx: Context) -> str:
    await ctx.info("Only for clients that asked for a log level")
    return "Logged."


@tool
async def test_reconnection(ctx: Context) -> str:
    await ctx.close_sse_stream()
    await anyio.sleep(2 * RETRY_MILLISECONDS / 1000)
    return "The client came back for this."


@tool
async def test_trigger_tool_change(ctx: Context) -> str:
    await ctx.notify_tools_changed()
    return "Told."


@tool
async def test_trigger_prompt_change(ctx: Context) -> str:
    await ctx.notify_prompts_changed()
    return "Told."


# --- What it can ask in the legacy era: a request in the middle of a call -----------------------------------


def schema_of(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


async def elicited(ctx: Context, message: str, properties: dict[str, Any]) -> str:
    schema = {**schema_of(properties), "required": []}
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}"


@tool
async def test_sampling(prompt: str, ctx: Context) -> str:
    question = SamplingMessage(role="user", content=TextContent(text=prompt))
    answer = await ctx.session.create_message([question], max_tokens=100, related_request_id=ctx.request_id)
    assert isinstance(answer.content, TextContent)
    return f"LLM response: {answer.content.text}"


@tool
async def test_elicitation(message: str, ctx: Context) -> str:
    return await elicited(ctx, message, {"username": {"type": "string"}, "email": {"type": "string"}})


@tool
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    states = ["active", "inactive", "pending"]
    return await elicited(
        ctx,
        "Please review",
        {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": states, "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
    )


@tool
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    options = ["option1", "option2", "option3"]
    values = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
    return await elicited(
        ctx,
        "Please choose",
        {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": values},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["One", "Two", "Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": values}},
        },
    )


# --- What it can ask in the modern era: an answer that requires input ---------------------------------------


def form(message: str, **types: str) -> ElicitRequest:
    properties = {name: {"type": kind} for name, kind in types.items()}
    return ElicitRequest(
        params=ElicitRequestFormParams(message=message, requested_schema=schema_of(properties))
    )


def sampling(words: str) -> CreateMessageRequest:
    question = SamplingMessage(role="user", content=TextContent(text=words))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[question], max_tokens=100))


def required(state: str | None = None, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def form_answer(ctx: Context, key: str) -> dict[str, Any] | None:
    """What was filled in; None where the question is still open."""
    answer = (ctx.input_responses or {}).get(key)
    return answer.content if isinstance(answer, ElicitResult) and answer.action == "accept" else None


NAME = form("What is your name?", name="string")


def greeted(ctx: Context) -> Asked:
    answer = form_answer(ctx, "user_name")
    return required(user_name=NAME) if answer is None else said(f"Hello, {answer.get('name')}!")


@tool
def test_input_required_result_elicitation(ctx: Context) -> Asked:
    return greeted(ctx)


@tool
def test_streaming_elicitation(ctx: Context) -> Asked:
    return greeted(ctx)


@tool
def test_input_required_result_sampling(ctx: Context) -> Asked:
    answer = (ctx.input_responses or {}).get("capital_question")
    if not isinstance(answer, CreateMessageResult):
        return required(capital_question=sampling("What is the capital of France?"))
    assert isinstance(answer.content, TextContent)
    return said(answer.content.text)


@tool
def test_input_required_result_list_roots(ctx: Context) -> Asked:
    answer = (ctx.input_responses or {}).get("client_roots")
    if not isinstance(answer, ListRootsResult):
        return required(client_roots=ListRootsRequest())
    return said(", ".join(str(root.uri) for root in answer.roots))


@tool
def test_input_required_result_request_state(ctx: Context) -> Asked:
    if form_answer(ctx, "confirm") is None or ctx.request_state != "asked":
        return required("asked", confirm=form("Please confirm", ok="boolean"))
    return said("state-ok")


@tool
def test_input_required_result_tampered_state(ctx: Context) -> Asked:
    return test_input_required_result_request_state(ctx)  # type: ignore[no-any-return]


@tool
def test_input_required_result_multiple_inputs(ctx: Context) -> Asked:
    questions: dict[str, InputRequest] = {
        "user_name": NAME,
        "greeting": sampling("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    if not questions.keys() <= (ctx.input_responses or {}).keys():
        return required("asked", **questions)
    return said("All of it was answered.")


@tool
def test_input_required_result_multi_round(ctx: Context) -> Asked:
    if ctx.request_state == "named" and form_answer(ctx, "step2") is not None:
        return said("Both steps are done.")
    if ctx.request_state == "asked" and form_answer(ctx, "step1") is not None:
        return required("named", step2=form("Step 2: What is your favorite color?", color="string"))
    return required("asked", step1=form("Step 1: What is your name?", name="string"))


@tool
def test_input_required_result_capabilities(ctx: Context) -> Asked:
    can = ctx.client_capabilities
    questions: dict[str, InputRequest] = {}
    if can is not None and can.elicitation is not None:
        questions["user_name"] = NAME
    if can is not None and can.sampling is not None:
        questions["greeting"] = sampling("Generate a greeting")
    return required(**questions)


@tool
def test_missing_capability(ctx: Context) -> str:
    can = ctx.client_capabilities
    if can is None or can.sampling is None:
        needed = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs sampling", needed)
    return "Sampling could be asked for."


# --- Prompts and resources ---------------------------------------------------------------------------------


@prompt
def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@prompt
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@prompt
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    content = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(content), UserMessage("Please process the embedded resource above.")]


@prompt
def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(image()), UserMessage("Please analyze the image above.")]


@prompt
def test_input_required_result_prompt(ctx: Context) -> str | InputRequiredResult:
    answer = form_answer(ctx, "user_context")
    if answer is None:
        return required(user_context=form("What context should the prompt use?", context="string"))
    return f"In the context of {answer.get('context')}"


def add_resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain", description="Text")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png", description="Bytes")
    def static_binary() -> bytes:
        return base64.b64decode(PIXEL)

    @server.resource("test://template/{id}/data", mime_type="application/json", description="Of a template")
    def of_template(id: str) -> str:
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain", description="To listen to")
    def watched() -> str:
        return "Watched resource content"


# --- The whole ---------------------------------------------------------------------------------------------


class Memory(EventStore):
    """What was sent on each stream, so that a client that comes back gets the rest of it."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._sent.append((stream_id, message))
        return str(len(self._sent))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        last = int(last_event_id)
        stream, _ = self._sent[last - 1]
        for number, (of_stream, message) in enumerate(self._sent, 1):
            if number > last and of_stream == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


def build_everything(
    *, middleware: Iterable[Any] = (), extensions: Iterable[Extension] = ()
) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer(
        "everything", version="1.0.0", middleware=list(middleware), extensions=list(extensions)
    )
    for function in TOOLS:
        server.add_tool(function, description=f"For the scenario of {function.__name__}")
    by_schema = Tool.from_function(json_schema_2020_12_tool, description="Its schema is kept as it is")
    by_schema.parameters = SCHEMA_2020_12
    server._tool_manager._tools[by_schema.name] = by_schema
    for function in PROMPTS:
        server.prompt(description=f"For the scenario of {function.__name__}")(function)
    add_resources(server)

    @server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        return Completion(values=[f"{argument.value}-1", f"{argument.value}-2"])

    async def nothing(ctx: Any, params: Any) -> EmptyResult:
        return EmptyResult()

    # What legacy clients may ask and the SDK leaves to the server.
    for method, params in (
        ("logging/setLevel", SetLevelRequestParams),
        ("resources/subscribe", SubscribeRequestParams),
        ("resources/unsubscribe", UnsubscribeRequestParams),
    ):
        server._lowlevel_server.add_request_handler(method, params, nothing)
    return server


def http_app(
    server: MCPServer[Any], transport_security: TransportSecuritySettings | None = None
) -> Starlette:
    return server.streamable_http_app(
        event_store=Memory(), retry_interval=RETRY_MILLISECONDS, transport_security=transport_security
    )
