"""Who is calling over MCP: the bearer token of this request over HTTP, the configured token over stdio.

Both go through the same verifier. Over HTTP the SDK carries the request's access token into handlers, also
within a long legacy session whose token is renewed; ours carries the verified principal with it.
"""

from collections.abc import Awaitable, Callable
from functools import lru_cache

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from pydantic import ConfigDict

from subscription_mcp.auth.principal import Principal
from subscription_mcp.auth.tokens import TokenSource, TokenVerifier
from subscription_mcp.domain.errors import Refusal

Identify = Callable[[], Awaitable[Principal]]
"""The verified caller of the message being handled. Raises Refusal `unauthenticated`, or `unavailable` where
nobody can tell now."""


class VerifiedToken(AccessToken):
    """An access token that was verified, without its text: nothing behind this point can pass it on."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    principal: Principal


@lru_cache(maxsize=1024)
def authenticated(principal: Principal) -> AuthenticatedUser:
    """The caller as the SDK carries it from a request into its handlers."""
    return AuthenticatedUser(
        VerifiedToken(
            token="verified",
            client_id=principal.user,
            scopes=[],
            expires_at=principal.expires_at,
            subject=f"{principal.tenant}\n{principal.user}",
            claims={"iss": principal.issuer},
            principal=principal,
        )
    )


async def identify_by_request() -> Principal:
    """The caller of an HTTP request, verified before it came here."""
    return principal_of_request()


def principal_of_request() -> Principal:
    """The same, for those who need not wait. Raises Refusal `unauthenticated`."""
    access_token = get_access_token()
    if isinstance(access_token, VerifiedToken):
        return access_token.principal
    raise Refusal("unauthenticated", "This request carries no access token.")


def identify_by_configuration(source: TokenSource, verifier: TokenVerifier) -> Identify:
    """The caller over stdio: judged again at every call, so that an expired or revoked token stops working."""

    async def identify() -> Principal:
        return await verifier.admit(source.read())

    return identify
