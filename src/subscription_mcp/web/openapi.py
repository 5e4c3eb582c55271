"""The OpenAPI document: written from the tools, their models and the table of codes, so that it cannot differ
from what is served. The words a catalog allows are in it: it speaks of this server.

A test holds its paths against the routes, and another one calls the server as the document says.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from subscription_mcp import __version__
from subscription_mcp.domain.catalog import Catalog
from subscription_mcp.domain.errors import HTTP_STATUS
from subscription_mcp.domain.identifiers import ID_PATTERN
from subscription_mcp.domain.usage import TEXT_LENGTH_MAX
from subscription_mcp.tools import wire
from subscription_mcp.tools.toolbox import TOOLS, Tool, schema_of
from subscription_mcp.web.problems import PROBLEM

Schema = dict[str, Any]

ADVISORY_TOOLS = frozenset({"check_quota"})
"""Tools that answer 200 whatever the decision says: asking was what was wanted."""

JSON = "application/json"
_COMPONENTS = "#/components/schemas/"

EDGE = (400, 403, 405, 408, 413, 421, 431, 500)
"""What any path can answer, before anything of it was asked."""
ASKED = (*EDGE, 401, 404, 409, 422, 503)
"""What a path answers besides, once somebody asks about a plan or an account: a group may have no seat left."""
TOOL = (*ASKED, 402, 415)
_FAULTS_OF_HTTP = frozenset({400, 405, 408, 413, 415, 421, 431})

_SOMEBODY = "sam"
_LEASES = {
    "reserve_usage": {"settle_usage": "reservation_id"},
    "open_session": {"renew_session": "session_id", "close_session": "session_id"},
}
"""Which answers bring what which other tool needs."""

_WORDS = {
    400: "The request cannot be read: no JSON, a key twice, nested too deeply, or headers that contradict.",
    401: "No access token, or one that is not accepted.",
    402: "There is no subscription.",
    403: "The role does not reach that far, the plan does not include it, or the Origin is not answered.",
    404: "No such tool for this caller, or no such account or price.",
    405: "This path does not take that method.",
    408: "The body was not complete within 10 seconds.",
    409: "It contradicts what is already there.",
    413: "The body is larger than 4 MiB.",
    415: "The body is not JSON in UTF-8.",
    421: "This server does not answer for that Host.",
    422: "An argument is wrong; `fields` says which.",
    429: "A limit is used up.",
    431: "The request line and headers are too large.",
    500: "Our fault; it is in the log.",
    503: "The ledger cannot be written; nothing was counted.",
}
_HEADERS: dict[str, Schema] = {
    "RateLimit": {
        "description": 'What is left, as in draft-ietf-httpapi-ratelimit-headers: `"messages-day";r=48;t=3600`.',
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": 'The limits, named `{meter}-{window}`: `"messages-day";q=50;w=86400`.',
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds until the limit resets; absent where waiting does not help.",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    },
    "WWW-Authenticate": {
        "description": "`Bearer`, with the address of the protected resource metadata.",
        "schema": {"type": "string", "pattern": "^Bearer "},
        "required": True,
    },
    "Allow": {"description": "The methods it takes.", "schema": {"type": "string"}},
}
_HEADERS_OF = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("RateLimit", "RateLimit-Policy", "Retry-After"),
}
_LIMIT_HEADERS = ("RateLimit", "RateLimit-Policy")


def openapi_document(catalog: Catalog, base_url: str) -> Schema:
    """The whole document, for a server at this address with this catalog."""
    schemas = _Schemas(catalog)
    paths: dict[str, Schema] = {
        "/api/mcp/tools": {"get": _tools_listed()},
        **{f"/api/mcp/tools/{tool.name}": {"post": _tool_called(tool, schemas)} for tool in TOOLS},
        "/api/tenants/{tenant_id}/subscription": {"get": _subscription(schemas)},
        "/api/plans": {
            "get": _operation(
                "getPlans", "The plans on offer", schemas.of(wire.PlansResult), EDGE, is_public=True
            )
        },
        "/api/pricing": {"get": _pricing(schemas)},
        **_about_the_server(),
        "/mcp": _mcp(),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "subscription-mcp",
            "version": __version__,
            "description": "Plans, quotas and usage over HTTP: the tools of the MCP server at /mcp, with statuses, "
            "headers and problem documents.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token says who calls, in which tenant and with which roles.",
                }
            },
            "headers": _HEADERS,
            "responses": {_response_name(status): _problem_response(status) for status in sorted(_WORDS)},
            "schemas": {**schemas.collected, "Problem": _problem(schemas)},
        },
    }


# Operations


def _operation(
    name: str,
    summary: str,
    answer: Schema,
    faults: Iterable[int],
    *,
    is_public: bool = False,
    headers: Iterable[str] = (),
) -> Schema:
    ok: Schema = {"description": "Done.", "content": {JSON: {"schema": answer}}}
    if headers:
        ok["headers"] = _header_references(headers)
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": ok, **_responses(faults)},
    }
    if is_public:
        operation["security"] = []
    return operation


def _tools_listed() -> Schema:
    text, flag = {"type": "string"}, {"type": "boolean"}
    hints = {"readOnlyHint": flag, "destructiveHint": flag, "idempotentHint": flag, "openWorldHint": flag}
    tool = {
        "name": text,
        "title": text,
        "description": text,
        "inputSchema": {"type": "object"},
        "outputSchema": {"type": "object"},
        "annotations": _whole(hints),
    }
    listing = _whole({"tools": {"type": "array", "items": _whole(tool)}})
    return _operation("listTools", "The tools as the caller sees them", listing, ASKED)


def _tool_called(tool: Tool, schemas: "_Schemas") -> Schema:
    arguments = schemas.of(tool.arguments)
    needed = ["arguments"] if tool.input_schema.get("required") else []
    envelope: Schema = {
        "type": "object",
        "properties": {
            "tenant_id": {
                "type": "string",
                "pattern": ID_PATTERN,
                "description": "Only for another tenant; must agree with a tenant_id in the arguments.",
            },
            "arguments": arguments,
        },
        "required": needed,
        "additionalProperties": False,
    }
    answer = _whole({"result": schemas.of(tool.result), "text": {"type": "string"}})
    decides = issubclass(tool.result, wire.DecisionResult)
    operation = _operation(
        tool.name,
        tool.title,
        answer,
        (*TOOL, 429) if decides and tool.name not in ADVISORY_TOOLS else TOOL,
        headers=_LIMIT_HEADERS if decides else (),
    )
    operation["description"] = tool.description
    content: Schema = {"schema": envelope}
    examples = _examples(tool, schemas.catalog)
    if examples:
        content["examples"] = {name: {"value": {"arguments": given}} for name, given in examples.items()}
    operation["requestBody"] = {"required": True, "content": {JSON: content}}
    for name, handle in _LEASES.get(tool.name, {}).items():
        given = {handle: f"$response.body#/result/{handle}"}
        links = operation["responses"]["200"].setdefault("links", {})
        links[name] = {"operationId": name, "requestBody": {"arguments": given}}
    return operation


def _examples(tool: Tool, catalog: Catalog) -> dict[str, Schema]:
    """Calls in the words of the catalog: about the caller, and by a service for a user."""
    words = {
        "event": next(iter(catalog.events), None),
        "feature": next(iter(catalog.features), None),
        "plan": catalog.plans_by_price[-1].key if catalog.plans_by_price else None,
        "action": "list",
    }
    properties = tool.input_schema.get("properties", {})
    given: Schema = {name: words.get(name) for name in tool.input_schema.get("required", ())}
    if tool.arguments is wire.RecordUsageBatchArguments:
        return {"forAUser": {"events": [{"user_id": _SOMEBODY, "event": words["event"]}]}}
    if None in given.values():
        return {}  # it needs what another answer brings
    if "dry_run" in properties:
        given["dry_run"] = True
    examples = {"forMe": given}
    if "user_id" in properties:
        examples["forAUser"] = {"user_id": _SOMEBODY, **given}
    return examples


def _subscription(schemas: "_Schemas") -> Schema:
    an_id = {"type": "string", "pattern": ID_PATTERN}
    operation = _operation(
        "getSubscription",
        "Plan and usage of the caller, of somebody else, or of a whole tenant",
        {"anyOf": [schemas.of(wire.SubscriptionResult), schemas.of(wire.TenantResult)]},
        ASKED,
    )
    operation["parameters"] = [
        {"name": "tenant_id", "in": "path", "required": True, "schema": an_id},
        *(
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": an_id,
                "description": "Nobody named means me; a service must name somebody.",
            }
            for name in ("user_id", "account_id")
        ),
    ]
    return operation


def _pricing(schemas: "_Schemas") -> Schema:
    operation = _operation(
        "getPricing",
        "What calls of models and providers cost, or those of one, also where it is not listed",
        schemas.of(wire.PricingResult),
        (*EDGE, 404, 422),
        is_public=True,
    )
    a_name = {"type": "string", "minLength": 1, "maxLength": TEXT_LENGTH_MAX}
    operation["parameters"] = [
        {"name": name, "in": "query", "required": False, "schema": a_name, "description": description}
        for name, description in (
            ("model", "Like gpt-4o or openai/gpt-4o."),
            ("provider", "Where the name of the model does not say it, or for what it costs as a whole."),
        )
    ]
    return operation


def _about_the_server() -> dict[str, Schema]:
    def status(*words: str) -> Schema:
        return _whole({"status": {"enum": list(words)}})

    metadata = {
        "type": "object",
        "properties": {
            "resource": {"type": "string"},
            "resource_name": {"type": "string"},
            "bearer_methods_supported": {"type": "array", "items": {"type": "string"}},
            "authorization_servers": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["resource", "resource_name", "bearer_methods_supported"],
        "additionalProperties": False,
    }
    message: Schema = {"status": {"enum": ["degraded"]}, "message": {"type": "string"}}
    ready = _operation(
        "isReady",
        "The ledger can be written and tokens can be judged; degraded on the last good keys of the identity provider",
        {"oneOf": [status("ok"), _whole(message)]},
        EDGE,
        is_public=True,
    )
    ready["responses"]["503"] = {
        "description": "The ledger cannot be written right now, or there are no keys to judge tokens by.",
        "content": {JSON: {"schema": _whole(message | {"status": {"enum": ["unavailable"]}})}},
    }
    return {
        "/healthz": {
            "get": _operation("isAlive", "The process is alive", status("ok"), EDGE, is_public=True)
        },
        "/readyz": {"get": ready},
        "/.well-known/oauth-protected-resource/mcp": {
            "get": _operation(
                "getResourceMetadata",
                "Protected resource metadata (RFC 9728)",
                metadata,
                EDGE,
                is_public=True,
            )
        },
        "/openapi.json": {
            "get": _operation("getOpenApi", "This document", {"type": "object"}, EDGE, is_public=True)
        },
    }


def _mcp() -> Schema:
    """MCP itself: what its messages hold is the protocol's to say, and `tools/list` describes the tools."""
    message: Schema = {
        "type": "object",
        "properties": {"jsonrpc": {"const": "2.0"}},
        "required": ["jsonrpc"],
    }
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    faults = (*EDGE, 401, 404, 406, 415)
    post = _operation("postMcp", "One MCP message (streamable HTTP)", message, faults)
    post["responses"]["200"]["content"] |= stream
    post["responses"]["202"] = {"description": "Taken; there is nothing to answer."}
    post["requestBody"] = {"required": True, "content": {JSON: {"schema": message}}}
    get = _operation("getMcp", "The stream of an MCP session (older clients)", message, faults)
    get["responses"]["200"]["content"] = stream
    delete = _operation("deleteMcp", "End an MCP session (older clients)", message, faults)
    delete["responses"]["200"] = {"description": "It has ended."}
    # A request that cannot be answered is a problem document; one that can has a JSON-RPC error of its own.
    for operation in (post, get, delete):
        for status in faults:
            if status in (400, 404, 406):
                operation["responses"][str(status)] = {
                    "description": _WORDS.get(status, HTTPStatus(status).phrase),
                    "content": {
                        JSON: {"schema": message},
                        PROBLEM: {"schema": {"$ref": f"{_COMPONENTS}Problem"}},
                    },
                }
    return {"post": post, "get": get, "delete": delete}


# Answers that say no


def _responses(statuses: Iterable[int]) -> dict[str, Schema]:
    return {
        str(status): {"$ref": f"#/components/responses/{_response_name(status)}"}
        for status in sorted(set(statuses))
        if status in _WORDS
    }


def _response_name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "").replace("-", "")


def _problem_response(status: int) -> Schema:
    codes = {code for code, of_code in HTTP_STATUS.items() if of_code == status}
    if status in _FAULTS_OF_HTTP or status == HTTPStatus.FORBIDDEN:
        codes.add("invalid_request")
    narrowed: Schema = {"properties": {"status": {"const": status}, "code": {"enum": sorted(codes)}}}
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        narrowed["required"] = ["decision"]
    response: Schema = {
        "description": _WORDS[status],
        "content": {PROBLEM: {"schema": {"allOf": [{"$ref": f"{_COMPONENTS}Problem"}, narrowed]}}},
    }
    if status in _HEADERS_OF:
        response["headers"] = _header_references(_HEADERS_OF[status])
    return response


def _problem(schemas: "_Schemas") -> Schema:
    """RFC 9457, with the error object of every surface beside its members."""
    error = schemas.inlined(wire.ErrorResult)
    properties: dict[str, Schema] = {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        **error["properties"],
    }
    properties["code"] = {"enum": [code for code in HTTP_STATUS if code != "ok"]}
    return {
        "type": "object",
        "properties": properties,
        "required": ["type", "title", "status", "detail", *error["required"]],
        "additionalProperties": False,
    }


def _header_references(names: Iterable[str]) -> dict[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


# Schemas


def _whole(properties: Mapping[str, Schema]) -> Schema:
    """An object with all of these and nothing else."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


class _Schemas:
    """The models as components, each once under its name."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.collected: dict[str, Schema] = {}
        self._words: dict[str, list[str]] = {
            "event": list(catalog.events),
            "feature": list(catalog.features),
            "meter": list(catalog.meters),
        }

    def of(self, model: type[BaseModel]) -> Schema:
        """A reference to the model, which is among the components from then on."""
        if model.__name__ not in self.collected:
            self.collected[model.__name__] = self.inlined(model)
        return {"$ref": f"{_COMPONENTS}{model.__name__}"}

    def inlined(self, model: type[BaseModel]) -> Schema:
        """The model's schema; what it refers to is among the components."""
        schema: Schema = _with_component_references(schema_of(model))
        for name, part in schema.pop("$defs", {}).items():
            self.collected.setdefault(name, part)
        if issubclass(model, wire.Arguments):
            self._name_words(schema)
        if model is wire.RecordUsageBatchArguments:
            # Each event is judged on its own: a wrong one is answered in its place.
            event = self.of(wire.RecordUsageArguments)
            schema["properties"]["events"]["items"] = {"anyOf": [event, {"type": "object"}]}
        return schema

    def _name_words(self, schema: Schema) -> None:
        """The catalog's words where an argument takes one of them."""
        for name, words in self._words.items():
            if words and name in schema["properties"]:
                schema["properties"][name]["enum"] = words
        if self._words["meter"] and "meters" in schema["properties"]:
            schema["properties"]["meters"]["items"]["enum"] = self._words["meter"]
        if "attributes" in schema["properties"]:
            schema["properties"]["attributes"] |= {
                "properties": _attributes(self.catalog),
                "additionalProperties": False,
            }


def _attributes(catalog: Catalog) -> dict[str, Schema]:
    """What any event of the catalog may carry; which one carries which is the catalog's to say."""
    json_type = {"text": "string", "integer": "integer"}
    kinds: dict[str, set[str]] = {}
    for event in catalog.events.values():
        for name, kind in event.attributes.items():
            kinds.setdefault(name, set()).add(json_type[kind])
    return {name: {"type": sorted(types)} for name, types in kinds.items()}


def _with_component_references(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_component_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: value.replace("#/$defs/", _COMPONENTS)
        if key == "$ref" and isinstance(value, str)
        else _with_component_references(value)
        for key, value in node.items()
    }
