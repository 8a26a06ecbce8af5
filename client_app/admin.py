"""The admin app: the ledger as a REST API and a console for operators and integrators.

connection -> limits (http_server) -> page or key, rate, route (gate) -> body, idempotency key
(routes) -> handler (admin_*) -> client_core.Client -> the leader
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog
from fastapi import FastAPI

from client_app.admin_accounts import AccountRoutes
from client_app.admin_batches import BatchRoutes
from client_app.admin_history import HistoryRoutes
from client_app.admin_ledger import LedgerRoutes
from client_app.admin_postings import PostingRoutes
from client_app.auth import ApiKeys, RateLimit
from client_app.bank_rest import BankRest
from client_app.documents import Routes, describe
from client_app.errors import UsageError
from client_app.gate import Gate
from client_app.live import LiveLedger
from client_app.open_holds import OpenHoldRoutes
from client_app.routes import BodyLimits, Requests
from client_app.serving import BODIES_AT_ONCE, serve
from client_app.settings import AdminSettings, read_settings
from client_core import Client

_ABOUT: Final = (
    "A double-entry ledger. Amounts are decimal text and never rounded; every command runs exactly "
    "once for its Idempotency-Key; errors are application/problem+json."
)


def run(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM. 0: clean stop, 1: the ledger or the port isn't there, 2: a setting."""
    try:
        settings = read_settings(AdminSettings, "admin", arguments)
        client = Client(
            settings.node_list(),
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
        lambda live: build_app(settings, client, live),
        lambda address: _announce(settings, address),
    )


def build_app(settings: AdminSettings, client: Client, live: LiveLedger) -> Gate:
    """The whole app over an open client, as ASGI."""
    app = FastAPI(
        title="ringledger admin",
        version="1",
        description=_ABOUT,
        openapi_url="/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
    )
    routes = Routes(app)
    for group in (
        PostingRoutes(client),
        AccountRoutes(client),
        BatchRoutes(client),
        LedgerRoutes(client),
        HistoryRoutes(client),
        OpenHoldRoutes(client),
    ):
        group.add_to(routes)
    bank = BankRest(client).routes(app)
    describe(app)
    keys = ApiKeys(settings.callers())
    gate = Gate(
        app,
        routes.by_path | bank,
        keys,
        RateLimit(settings.rate_limit, settings.rate_burst),
        Requests(
            BodyLimits(settings.max_body_bytes, BODIES_AT_ONCE * settings.max_body_bytes),
            client.new_id,
            settings.max_requests,
        ),
    )
    if settings.max_pages:
        from client_app.page_host import PageHost  # takes a second to load
        from client_app.pages.console import PATHS, WORDING, console
        from client_app.pages.visit import Site

        make = partial(console, Site(gate, keys, live, WORDING, client.new_id))
        gate.pages = PageHost(app, "ringledger", PATHS, make, settings.max_pages)
    return gate


def _announce(settings: AdminSettings, address: str) -> None:
    log: Any = structlog.get_logger()
    if settings.development:
        log.warning("development: whoever reaches this address may do anything")
    elif not settings.https_cert:
        log.warning("API keys travel in the clear: set --https-cert, or let a proxy do TLS")
    print(f"ready admin address={address}", flush=True)
