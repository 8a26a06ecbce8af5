"""The accounts table: search, pages of 50, and balances that change while one looks."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from client_app.live import News
from client_app.pages.calls import Refusal
from client_app.pages.parts import (
    Column,
    box,
    button,
    card,
    empty,
    error_box,
    link,
    loading,
    set_state,
    set_text,
    state_badge,
    table,
    text,
)
from client_app.pages.texts import NONE, grouped
from client_app.pages.visit import Visit
from client_app.schemas import Json

_PAGE: Final = 50
_LOOKED_THROUGH_MAX: Final = 40
"""Calls for one page, of 262,144 accounts each."""

_COLUMNS: Final = (
    Column("Account"),
    Column("Balance", "num"),
    Column("Held", "num wide"),
    Column("Available", "num wide"),
    Column("Asset"),
    Column("State"),
    Column("Reference", "num wide"),
)
_AMOUNTS: Final = {"posted": "num", "held": "num wide", "available": "num wide"}
_SEARCHED: Final = {"reference": "Reference", "code": "Code", "asset": "Asset number"}
_STATES: Final = {"": "any", "open": "open", "locked": "locked", "closed": "closed"}
_DIGITS_MAX: Final = 20


class AccountsView:
    """One page of the table."""

    def __init__(self, visit: Visit, query: Mapping[str, str]) -> None:
        self._visit = visit
        self._wanted = {name: query.get(name, "") for name in (*_SEARCHED, "state")}
        after = query.get("after", "0")
        self._after = after if _is_number(after) else "0"
        self._rows: dict[int, dict[str, TextElement]] = {}
        with visit.show(self, "Accounts · ringledger", "Accounts"):
            text("h1", "Accounts")
            self._search()
            with card():
                self._list = box("div")
                self._pager = box("div", "buttons pager")
        with self._list:
            self._said = loading()

    async def load(self) -> None:
        """Fill it. A page can be short before the end: rare matches are looked for on and on."""
        found: list[Json] = []
        following: int | None = int(self._after)
        try:
            for _ in range(_LOOKED_THROUGH_MAX):
                page = await self._visit.calls.get(
                    "/accounts", **self._wanted, after=following, page_size=_PAGE - len(found)
                )
                found += page["accounts"]
                following = page["next_after"]
                if following is None or len(found) >= _PAGE:
                    break
                set_text(self._said, f"Looking beyond account {grouped(following)}…")
        except Refusal as refusal:
            if not self._visit.refused(refusal):
                self._visit.watch((), nodes=True)
                self._list.clear()
                with self._list:
                    error_box(refusal, self.load)
            return
        self._draw(found, following)

    def on_news(self, news: News) -> None:
        """Balances and states as they change."""
        for account in news.accounts:
            cells = self._rows.get(account["account"])
            if cells is None:
                continue
            for name in _AMOUNTS:
                set_text(cells[name], grouped(account[name]), flash=True)
            set_state(cells["state"], account["state"])

    def close(self) -> None:
        """Nothing to end."""

    def _search(self) -> None:
        form = box("form", "card search", role="search", aria_label="Accounts", novalidate=True)
        with form:
            inputs: dict[str, Any] = {"account": _number("Account id", "account", "")}
            for name, label in _SEARCHED.items():
                inputs[name] = _number(label, name, self._wanted[name])
            state = self._wanted["state"]
            inputs["state"] = ui.select(
                _STATES, label="State", value=state if state in _STATES else ""
            ).props("name=state outlined dense stack-label hide-bottom-space")
            with box("div", "buttons"):
                button("Search", type="submit")
                link("All", "/accounts", "button plain")

        def search() -> None:
            values = {name: str(made.value or "").strip() for name, made in inputs.items()}
            account = values.pop("account").lstrip("0")
            wrong = [name for name in (*_SEARCHED,) if not _is_number(values[name] or "0")]
            for name in wrong:
                inputs[name].error = "Digits only"
            if not _is_number(account or "0"):
                inputs["account"].error = "Digits only"
            elif account:
                ui.navigate.to(f"/account/{account}")
            elif not wrong:
                self._go(values, None)

        form.on("submit.prevent", search, args=[])

    def _go(self, values: dict[str, str], after: int | None) -> None:
        wanted = {name: value for name, value in values.items() if value}
        if after is not None:
            wanted["after"] = str(after)
        ui.navigate.to(f"/accounts?{urlencode(wanted)}" if wanted else "/accounts")

    def _draw(self, found: list[Json], following: int | None) -> None:
        self._list.clear()
        self._pager.clear()
        with self._list:
            if found:
                with table(_COLUMNS, "Accounts"):
                    self._rows = {account["account"]: _row(account) for account in found}
            elif any(self._wanted.values()) or self._after != "0":
                with empty("No account found", "No account fits all of this."):
                    link("Show all", "/accounts", "button plain")
            else:
                with empty("No accounts yet", "The first one is opened with an operation."):
                    link("Open an account", "/operations/create_account", "button")
        with self._pager:
            if self._after != "0":
                button("Back", ui.navigate.back, "plain")
            if following is not None:
                button("Next page", lambda: self._go(self._wanted, following), "plain")
        self._visit.watch(self._rows, nodes=True)


def _row(account: Json) -> dict[str, TextElement]:
    number = account["account"]
    with box("tr", data_account=number):
        with box("td"):
            link(f"#{grouped(number)}", f"/account/{number}")
        cells = {
            name: text("td", grouped(account[name]), classes, data_cell=name)
            for name, classes in _AMOUNTS.items()
        }
        text("td", account["symbol"])
        with box("td", data_cell="state"):
            cells["state"] = state_badge(account["state"])
        text("td", str(account["reference"] or NONE), "num wide")
    return cells


def _number(label: str, name: str, value: str) -> ui.input:
    made = ui.input(label, value=value if _is_number(value) else "").props(
        f"name={name} outlined dense stack-label hide-bottom-space autocomplete=off "
        f"inputmode=numeric maxlength={_DIGITS_MAX}"
    )
    made.on_value_change(lambda: setattr(made, "error", None))
    return made


def _is_number(text_: str) -> bool:
    return text_.isascii() and text_.isdigit() and len(text_) <= _DIGITS_MAX
