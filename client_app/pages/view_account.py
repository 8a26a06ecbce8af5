"""One account: balance, limits, holds and statement, all as they change; and what can be done."""

from functools import partial
from typing import Final

from client_app.live import News
from client_app.pages.calls import Refusal
from client_app.pages.entries import Holds, Statement
from client_app.pages.forms import FormOptions, OperationForm
from client_app.pages.parts import (
    Tabs,
    box,
    button,
    card,
    error_box,
    fact,
    link,
    loading,
    local_time,
    set_state,
    set_text,
    state_badge,
    text,
)
from client_app.pages.texts import grouped
from client_app.pages.visit import Visit
from client_app.schemas import Json

_ACTIONS: Final = {
    "deposit": "Deposit",
    "withdraw": "Withdraw",
    "transfer": "Transfer",
    "hold": "Hold",
    "lock": "Lock",
    "unlock": "Unlock",
    "set_limits": "Limits",
    "close": "Close",
}
_FACTS: Final = {
    "floor": "Floor",
    "ceiling": "Ceiling",
    "credits_total": "Ever credited",
    "debits_total": "Ever debited",
    "open_holds": "Open holds",
    "reference": "Reference",
    "code": "Code",
    "version": "Version",
    "last_sequence": "Last sequence",
}


class AccountView:
    """The page of one account, named by digits."""

    def __init__(self, visit: Visit, named: str) -> None:
        self._visit = visit
        self._named = named
        self._seen: Json | None = None
        self._statement: Statement | None = None
        self._holds: Holds | None = None
        self._place = visit.show(self, f"Account #{named} · ringledger", "Accounts")
        with self._place:
            self._head = text("h1", f"Account #{grouped(named)}")
            self._said = box("div")
            with self._said:
                loading()

    async def load(self) -> None:
        """Ask for the account, and show it."""
        try:
            account = await self._visit.calls.get(f"/accounts/{self._named}")
        except Refusal as refusal:
            if not self._visit.refused(refusal):
                self._said.clear()
                self._visit.watch((), nodes=True)
                with self._said:
                    error_box(refusal, self.load)
                    with box("p"):
                        link("To all accounts", "/accounts")
            return
        self._said.delete()
        with self._place:
            self._make(account)
        self._draw(account)
        self._visit.watch([account["account"]], nodes=True)

    def on_news(self, news: News) -> None:
        """Draw the account's newest state."""
        for account in news.accounts:
            if self._seen is not None and str(account["account"]) == self._named:
                self._draw(account)

    def close(self) -> None:
        """Ask history no more."""
        for part in (self._statement, self._holds):
            if part is not None:
                part.close()

    def _make(self, account: Json) -> None:
        with self._head:
            self._state = state_badge(account["state"])
        with card():
            with box("div", "balance-row"):
                self._balance = text("div", "", "balance", data_cell="posted")
                text("span", account["symbol"], "quiet")
            with box("dl", "facts pair"):
                self._held, self._available = fact("Held"), fact("Available")
            with box("details"):
                text("summary", "Details")
                with box("dl", "facts"):
                    self._facts = {
                        name: fact(title, data_cell=name) for name, title in _FACTS.items()
                    }
                    text("dt", "Opened")
                    local_time(account["opened_ns"], "dd")
        with card("Operations"):
            Tabs("Operation", _ACTIONS, self._form)
        with card("Open holds"):
            self._holds = Holds(self._visit.calls, self._named, self._hold_actions)
            self._hold_form = box("div")
        with card("Statement"):
            self._statement = Statement(
                self._visit.calls, self._named, operator=True, on_late=self._holds.look_late
            )

    def _form(self, name: str) -> None:
        own = "credit_account" if name == "deposit" else "debit_account"
        values = {own: self._named, "account": self._named}
        options = FormOptions(values=values, fixed=(own, "account"), operator=True)
        OperationForm(self._visit, name, options)

    def _hold_actions(self, hold: Json) -> None:
        for name, title in (("capture", "Capture"), ("release", "Release")):
            button(title, partial(self._act, name, hold["hold"]), "plain small")

    def _act(self, name: str, hold: int) -> None:
        self._hold_form.clear()
        with self._hold_form:
            options = FormOptions(values={"hold": hold}, fixed=("hold",), operator=True)
            OperationForm(self._visit, name, options).focus("amount")

    def _draw(self, account: Json) -> None:
        before, self._seen = self._seen, account
        set_text(self._balance, grouped(account["posted"]), flash=True)
        set_state(self._state, account["state"])
        set_text(self._held, grouped(account["held"]), flash=True)
        set_text(self._available, grouped(account["available"]), flash=True)
        for name, made in self._facts.items():
            set_text(made, "none" if account[name] is None else grouped(account[name]))
        held = (account["held"], account["open_holds"])
        if self._holds and (before is None or (before["held"], before["open_holds"]) != held):
            self._holds.look(again=before is not None)
        if self._statement and (before is None or before["version"] != account["version"]):
            self._statement.reach(account["last_sequence"])
