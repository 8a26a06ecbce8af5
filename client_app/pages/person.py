"""A person's own accounts: balances as they change, what can be done, holds and statement."""

import re
from functools import partial
from typing import Any, Final

from nicegui import Client, ui
from starlette.requests import Request

from client_app.live import News
from client_app.pages.entries import Holds, Statement, plain_account
from client_app.pages.forms import FormOptions, OperationForm
from client_app.pages.parts import (
    Tabs,
    box,
    button,
    card,
    empty,
    fact,
    local_time,
    set_text,
    text,
)
from client_app.pages.sending import recall
from client_app.pages.texts import grouped
from client_app.pages.visit import FirstView, Site, Visit, Wording
from client_app.schemas import Json

WORDING: Final = Wording(
    "ringledger-token",
    "token",
    "Token",
    "Your token says which accounts are yours. It is kept in this tab only.",
    "It may have expired: get a new one and paste it here.",
)
PATHS: Final = re.compile(r"/|/account/[1-9][0-9]{0,19}")
_ACTIONS: Final = {
    "transfer": "Transfer",
    "deposit": "Deposit",
    "withdraw": "Withdraw",
    "hold": "Hold",
}


async def person(site: Site, client: Client, request: Request) -> None:
    """Make one page of the user app."""
    visit = Visit(site, client, request.scope)
    visit.header("My accounts", {})
    await visit.begin(lambda: _signed_in(visit), lambda: recall(visit, operator=False))


async def _signed_in(visit: Visit) -> None:
    mine = await visit.calls.get("/accounts")
    _who(visit, mine)
    accounts: dict[str, Json] = {str(each["account"]): each for each in mine["accounts"]}
    if not accounts:
        visit.set_state("waiting", "")
        with visit.main, card():
            empty(
                "No account here",
                "Your token's accounts are not in this ledger. Ask who gave it to you.",
            )
        return
    first = FirstView()

    async def chosen(named: str = "") -> None:
        OwnView(visit, accounts, named if named in accounts else next(iter(accounts)))

    views: dict[str, Any] = {path: first.told_by(chosen) for path in ("/", "/account/{named}")}
    with visit.main:
        text("h1", "My accounts")
        ui.sub_pages(views, show_404=False)
    await first.wait()


def _who(visit: Visit, mine: Json) -> None:
    visit.who.clear()
    with visit.who:
        text("span", mine["subject"])
        with box("span", "quiet more"):
            text("span", "until ")
            local_time(mine["valid_until"] * 1_000_000_000)
        button("Sign out", lambda: visit.sign_out(None, forget=True), "plain small")


class OwnView:
    """All own accounts, and one of them with what can be done."""

    def __init__(self, visit: Visit, accounts: dict[str, Json], chosen: str) -> None:
        self._visit = visit
        self._accounts = accounts
        self._chosen = chosen
        self._seen: Json | None = None
        calls = visit.calls
        with visit.show(self, "My accounts"):
            with box("div", "cards", role="group", aria_label="My accounts"):
                self._balances = {named: self._card(each) for named, each in accounts.items()}
            with card(f"Account #{chosen}"):
                with box("dl", "facts pair"):
                    self._held, self._available = fact("Held"), fact("Available")
                Tabs("What to do", _ACTIONS, self._form)
            with card("Open holds"):
                self._holds = Holds(calls, chosen, self._hold_actions, plain_account)
                self._hold_form = box("div")
            with card("Statement"):
                self._statement = Statement(calls, chosen, on_late=self._holds.look_late)
        self._draw(accounts[chosen])
        visit.watch([each["account"] for each in accounts.values()], nodes=True)

    def on_news(self, news: News) -> None:
        """Draw the newest state of each account that changed."""
        for account in news.accounts:
            self._accounts[str(account["account"])] = account
            self._draw(account)

    def close(self) -> None:
        """Ask history no more."""
        self._statement.close()
        self._holds.close()

    def _card(self, account: Json) -> Any:
        named = str(account["account"])
        current = "true" if named == self._chosen else None
        with box("a", "card account-card", href=f"/account/{named}", **{"aria-current": current}):
            text("div", f"Account #{named} · {account['symbol']}", "quiet")
            shown = grouped(account["posted"])
            balance = text("div", shown, "balance small-balance", data_balance=named)
            if account["state"] != "open":
                text("span", account["state"], "badge warn")
        return balance

    def _form(self, name: str) -> None:
        choices = {
            named: f"#{named} ({account['symbol']})" for named, account in self._accounts.items()
        }
        own = "credit_account" if name == "deposit" else "debit_account"
        options = FormOptions(values={own: self._chosen}, accounts=choices)
        OperationForm(self._visit, name, options)

    def _hold_actions(self, hold: Json) -> None:
        # only who the money is held for may take it or give it back
        if str(hold["credit_account"]) in self._accounts:
            for name, title in (("capture", "Take"), ("release", "Give back")):
                button(title, partial(self._act, name, hold["hold"]), "plain small")

    def _act(self, name: str, hold: int) -> None:
        self._hold_form.clear()
        with self._hold_form:
            options = FormOptions(
                values={"hold": hold},
                fixed=("hold",),
                on_done=lambda _: self._holds.look(again=True),
            )
            OperationForm(self._visit, name, options).focus("amount")

    def _draw(self, account: Json) -> None:
        named = str(account["account"])
        if named in self._balances:
            set_text(self._balances[named], grouped(account["posted"]), flash=True)
        if named != self._chosen:
            return
        set_text(self._held, grouped(account["held"]), flash=True)
        set_text(self._available, grouped(account["available"]), flash=True)
        before, self._seen = self._seen, account
        if before is None or before["version"] != account["version"]:
            self._statement.reach(account["last_sequence"])
            self._holds.look(again=before is not None)
