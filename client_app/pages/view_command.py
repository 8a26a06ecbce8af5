"""A command by its id: what it was, and what it did."""

import re
from typing import Final

from nicegui import ui

from client_app.live import News
from client_app.pages.calls import Refusal
from client_app.pages.entries import history_problem
from client_app.pages.parts import (
    account_link,
    box,
    button,
    card,
    empty,
    fact,
    loading,
    local_time,
    text,
)
from client_app.pages.texts import grouped, operation_name
from client_app.pages.visit import Visit
from client_app.schemas import Json

_FORM: Final = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WRONG: Final = "A command's id has 32 hex digits, with or without dashes"
_MOVES: Final = ("deposit", "withdraw", "transfer", "hold", "capture", "release", "expire")


class CommandView:
    """What is known of one command; without an id, the field to type one."""

    def __init__(self, visit: Visit, named: str) -> None:
        self._visit = visit
        self._named = named
        with visit.show(self, "Commands · ringledger", "Commands"):
            text("h1", "Commands")
            with box(
                "form", "card search one", role="search", aria_label="Command", novalidate=True
            ).on("submit.prevent", self._find, args=[]):
                self._typed = ui.input("Command id", value=named).props(
                    "name=command outlined dense stack-label hide-bottom-space maxlength=36 "
                    "autocomplete=off spellcheck=false"
                )
                self._typed.on_value_change(lambda: setattr(self._typed, "error", None))
                with box("div", "buttons"):
                    button("Find", type="submit")
            self._found = box("div")
        visit.watch((), nodes=True)

    async def load(self) -> None:
        """Ask history, if there is an id."""
        self._found.clear()
        if not self._named:
            with self._found, card():
                empty(
                    "What became of a command?",
                    "Every reply and every statement has its command's id. "
                    "The history knows what it did.",
                )
            return
        if _FORM.fullmatch(self._named) is None:
            self._typed.error = _WRONG
            return
        with self._found:
            loading()
        try:
            command = (await self._visit.calls.get(f"/commands/{self._named}"))["command"]
        except Refusal as refusal:
            if not self._visit.refused(refusal):
                self._problem(refusal)
            return
        self._found.clear()
        with self._found, card(operation_name(command["operation"])):
            _facts(command)

    def on_news(self, news: News) -> None:
        """What was done stays as it is."""

    def close(self) -> None:
        """Nothing to end."""

    async def _find(self) -> None:
        typed = self._typed.value.strip().lower() if isinstance(self._typed.value, str) else ""
        if _FORM.fullmatch(typed) is None:
            self._typed.error = _WRONG
        elif typed == self._named:
            await self.load()
        else:
            ui.navigate.to(f"/command/{typed}")

    def _problem(self, refusal: Refusal) -> None:
        self._found.clear()
        with self._found, card():
            if refusal.code != "COMMAND_NOT_FOUND":
                history_problem(refusal, self.load)
                return
            complete = grouped(refusal.content["complete_sequence"])
            with empty(
                "Not done",
                f"No command of this id was done below sequence {complete}, "
                "which is as far as the history goes.",
            ):
                button("Look again", self.load, "plain")


def _facts(command: Json) -> None:
    done = command["status"] == "OK"
    moves = command["operation"] in _MOVES
    with box("dl", "facts"):
        text("dt", "Outcome")
        with box("dd"):
            kind = "badge good" if done else "badge bad"
            text("span", "done" if done else command["status"], kind)
        fact("Sequence", grouped(command["sequence"]))
        text("dt", "Time")
        local_time(command["timestamp_ns"], "dd")
        if command["amount"] is not None and command["asset"]:
            fact("Amount", f"{grouped(command['amount'])} {command['symbol']}")
        if moves or command["debit_account"]:
            _account("From" if moves else "Account", command["debit_account"])
            if moves and command["debit_account"]:
                fact("Its balance then", grouped(command["debit_balance"]))
        if moves:
            _account("To", command["credit_account"])
            if command["credit_account"]:
                fact("Its balance then", grouped(command["credit_balance"]))
        for name, title in (("hold", "Hold"), ("reference", "Reference"), ("code", "Code")):
            if command[name]:
                fact(title, str(command[name]))
        text("dt", "Id")
        with box("dd"):
            text("span", command["command_id"] or "none", "mono")


def _account(title: str, account: int) -> None:
    text("dt", title)
    with box("dd"):
        account_link(account)
