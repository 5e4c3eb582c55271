"""Make one test user for each plan of the catalog and print their access tokens.

    .venv/bin/python examples/create_test_users.py [--tenant acme] [--json]

Reads the same settings as the server (SUBSCRIPTION_MCP_CONFIG, SUBSCRIPTION_MCP_DATABASE_URL, …) and may run
beside it. Running it again prints new tokens for the same users.
"""

# ruff: noqa: T201

import argparse
import asyncio
import json
import sys
import time
import uuid
from dataclasses import asdict, dataclass

from subscription_mcp.assembly import catalog_of, make_service, opened
from subscription_mcp.auth.keys import verification_key
from subscription_mcp.auth.tokens import TokenVerifier, mint
from subscription_mcp.cli.main import error_text, exit_code_of
from subscription_mcp.settings import Settings, load_settings

TOKEN_SECONDS = 30 * 86_400


@dataclass
class User:
    """Somebody to be in a test."""

    user: str
    plan: str
    token: str


def token_of(settings: Settings, user: str, tenant: str, tier: str) -> str:
    """An access token as your own identity provider would issue it."""
    return mint(
        verification_key(settings),
        user=user,
        tenant=tenant,
        tier=tier,
        ttl_seconds=TOKEN_SECONDS,
        issuer=settings.issuer,
        audience=settings.audiences[0],
        now_seconds=int(time.time()),
        token_id=str(uuid.uuid4()),
        claims=settings.auth.claims,
    )


async def create(settings: Settings, tenant: str) -> list[User]:
    catalog = catalog_of(settings)
    verifier = TokenVerifier.of(settings)
    made: list[User] = []
    async with opened(make_service(settings, catalog), catalog, publishing=False) as service:
        for tier in catalog.plans:
            user = f"test-{tier}"
            token = token_of(settings, user, tenant, tier)
            # The first authenticated call of a user makes them known, on the plan their token names.
            caller = await service.operations.access.caller(verifier.verify(token), may_make_known=True)
            assert caller.view is not None and caller.view.plan is not None
            made.append(User(user, caller.view.plan.key, token))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="Make one test user for each plan and print their tokens.")
    parser.add_argument("--tenant", default="acme", help="where they live (default: acme)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    try:
        users = asyncio.run(create(load_settings(), given.tenant))
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"Error: {error_text(error)}", file=sys.stderr)
        return code
    if given.json:
        print(json.dumps([asdict(user) for user in users], indent=2))
    else:
        for user in users:
            print(f"{user.user:16} {user.plan:10} {user.token}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
