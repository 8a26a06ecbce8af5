"""The console: which view an address shows."""

import re
from collections.abc import Callable
from typing import Any, Final

from nicegui import Client, PageArguments, ui
from starlette.requests import Request

from client_app.pages.sending import recall
from client_app.pages.view_account import AccountView
from client_app.pages.view_accounts import AccountsView
from client_app.pages.view_cluster import ClusterView
from client_app.pages.view_command import CommandView
from client_app.pages.view_operations import OperationsView
from client_app.pages.visit import FirstView, Site, Visit, Wording

WORDING: Final = Wording(
    "ringledger-key",
    "key",
    "API key",
    "The console uses the same API keys as the REST API. It is kept in this tab only.",
    "Look for a typing error, or ask who runs the ledger.",
)
PATHS: Final = re.compile(
    r"/|/accounts|/account/[1-9][0-9]{0,19}|/commands|/command/[0-9a-fA-F-]{1,36}"
    r"|/operations|/operations/[a-z_]{1,32}"
)
_LINKS: Final = {
    "Cluster": "/",
    "Accounts": "/accounts",
    "Commands": "/commands",
    "Operations": "/operations",
}


async def console(site: Site, client: Client, request: Request) -> None:
    """Make one page of the console."""
    visit = Visit(site, client, request.scope)
    visit.header("ringledger", _LINKS)
    await visit.begin(lambda: _signed_in(visit), lambda: recall(visit, operator=True))


async def _signed_in(visit: Visit) -> None:
    if not visit.site.callers.open_to_anybody:
        await visit.calls.get("/assets")  # tells whether the key is right
    first = FirstView()
    with visit.main:
        ui.sub_pages(_views(visit, first), show_404=False)
    await first.wait()


def _views(visit: Visit, first: FirstView) -> dict[str, Callable[..., Any]]:
    async def cluster() -> None:
        ClusterView(visit)

    async def accounts(arguments: PageArguments) -> None:
        await AccountsView(visit, arguments.query_parameters).load()

    async def account(named: str) -> None:
        await AccountView(visit, named).load()

    async def command(named: str = "") -> None:
        await CommandView(visit, named).load()

    async def operations(named: str = "") -> None:
        await OperationsView(visit, named).load()

    return {
        "/": first.told_by(cluster),
        "/accounts": first.told_by(accounts),
        "/account/{named}": first.told_by(account),
        "/commands": first.told_by(command),
        "/command/{named}": first.told_by(command),
        "/operations": first.told_by(operations),
        "/operations/{named}": first.told_by(operations),
    }
