"""The user app: a person's own accounts, as a page and as REST.

connection -> limits (http_server) -> page or token, rate, route (gate) -> body, idempotency key
(routes) -> the token's accounts (user_routes) -> client_core.Client -> the leader
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog
from fastapi import FastAPI

from client_app.auth import RateLimit
from client_app.documents import Routes, describe
from client_app.errors import UsageError
from client_app.gate import Gate
from client_app.live import LiveLedger
from client_app.routes import BodyLimits, Requests
from client_app.serving import BODIES_AT_ONCE, serve
from client_app.settings import UserSettings, read_settings
from client_app.user_routes import UserRoutes
from client_app.user_tokens import UserTokens, signing_keys
from client_core import Client

_ABOUT: Final = (
    "A person's own accounts, named by a signed token. Amounts are decimal text and never rounded; "
    "every command runs exactly once for its Idempotency-Key; errors are application/problem+json."
)


def run(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM. 0: clean stop, 1: the ledger or the port isn't there, 2: a setting."""
    try:
        settings = read_settings(UserSettings, "user", arguments)
        tokens = UserTokens(signing_keys(settings), settings.jwt_audience)
        client = Client(
            settings.endpoint_list(),
            history=settings.history_endpoint,
            timeout_s=settings.timeout_s,
            query_timeout_s=settings.timeout_s,
        )
    except (UsageError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return serve(
        settings,
        client,
        lambda live: build_app(settings, tokens, client, live),
        lambda address: _announce(settings, address),
    )


def build_app(settings: UserSettings, tokens: UserTokens, client: Client, live: LiveLedger) -> Gate:
    """The whole app over an open client, as ASGI."""
    app = FastAPI(
        title="ringledger user",
        version="1",
        description=_ABOUT,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    routes = Routes(app)
    UserRoutes(client).add_to(routes)
    describe(app)
    gate = Gate(
        app,
        routes.by_path,
        tokens,
        RateLimit(settings.rate_limit, settings.rate_burst),
        Requests(
            BodyLimits(settings.max_body_bytes, BODIES_AT_ONCE * settings.max_body_bytes),
            client.new_id,
            settings.max_requests,
        ),
    )
    if settings.max_pages:
        from client_app.page_host import PageHost  # takes a second to load
        from client_app.pages.person import PATHS, WORDING, person
        from client_app.pages.visit import Site

        make = partial(person, Site(gate, tokens, live, WORDING, client.new_id))
        gate.pages = PageHost(app, "My accounts", PATHS, make, settings.max_pages)
    return gate


def _announce(settings: UserSettings, address: str) -> None:
    log: Any = structlog.get_logger()
    if settings.development and not (settings.jwt_keys or settings.jwt_public_key):
        log.warning("development: who reads this folder's key may sign tokens for any account")
    elif not settings.https_cert:
        log.warning("tokens travel in the clear: set --https-cert, or let a proxy do TLS")
    print(f"ready user address={address}", flush=True)
