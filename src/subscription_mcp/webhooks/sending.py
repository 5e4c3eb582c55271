"""One attempt to send one message, signed after Standard Webhooks. Of the answer only its status is looked at."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from subscription_mcp.domain.instants import Instant

if TYPE_CHECKING:
    import httpx2

MESSAGE_PREFIX = "msg_"
USER_AGENT = "subscription-mcp"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where messages go. Each is signed with every one of the `secrets`, so that a new one can be brought in while the
    receiver still knows the old one only."""

    url: str
    secrets: Sequence[str] = field(repr=False)
    timeout_seconds: int = 10


def http_client() -> "httpx2.AsyncClient":
    """A client that follows nothing and remembers nothing of one receiver for another."""
    import httpx2

    return httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=None)


def signed_headers(endpoint: Endpoint, delivery_id: str, payload: str, now: Instant) -> dict[str, str]:
    """The headers of a message that is sent at an instant of real time."""
    from standardwebhooks import Webhook

    id_, at_seconds = f"{MESSAGE_PREFIX}{delivery_id}", now // 1_000_000
    at = datetime.fromtimestamp(at_seconds, UTC)
    return {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": id_,
        "webhook-timestamp": str(at_seconds),
        "webhook-signature": " ".join(Webhook(secret).sign(id_, at, payload) for secret in endpoint.secrets),
    }


async def attempt(
    http: "httpx2.AsyncClient", endpoint: Endpoint, delivery_id: str, payload: str, now: Instant
) -> str | None:
    """Send once. None where it was received, else a short code of what went wrong."""
    import httpx2

    headers = signed_headers(endpoint, delivery_id, payload, now)
    try:
        async with (
            asyncio.timeout(endpoint.timeout_seconds),
            http.stream("POST", endpoint.url, content=payload.encode(), headers=headers) as response,
        ):
            status = response.status_code
    except TimeoutError:
        return "timeout"
    except httpx2.ConnectError as error:
        return "tls" if isinstance(error.__cause__, ssl.SSLError) else "unreachable"
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return "connection_broken"
    if 200 <= status < 300:
        return None
    return "redirected" if 300 <= status < 400 else f"http_{status}"
