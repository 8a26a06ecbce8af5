"""What history knows of an account, as rows: its statement, and its open holds."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nicegui import background_tasks, ui

from client_app.pages.calls import Calls, Refusal
from client_app.pages.parts import (
    Column,
    account_link,
    box,
    button,
    empty,
    error_box,
    link,
    loading,
    local_time,
    table,
    text,
)
from client_app.pages.texts import change_text, grouped, hold_text, is_zero, operation_name
from client_app.schemas import Json

_NEWEST: Final = 25
_OLDER: Final = 50
_ENTRIES_MAX: Final = 500
"""Of one account on one page: each row takes memory in this program, too."""

_TRIES: Final = 12
_TRY_S: Final = 0.25
"""History knows of a command a moment later than the ledger."""

_SLOW_TRY_S: Final = 5.0
"""After so many tries: the archiver is far behind, which may last."""

_BEHIND: Final = "History is behind: the newest entries and holds are not listed yet."

_LOOK_S: Final = 0.6
"""Between two looks at the open holds."""

_COLUMNS: Final = (
    Column("Time"),
    Column("What"),
    Column("With"),
    Column("Change", "num"),
    Column("Balance", "num"),
)
_HOLD_COLUMNS: Final = (
    Column("Hold"),
    Column("From"),
    Column("For"),
    Column("Still held", "num"),
    Column("Until", "wide"),
    Column(""),
)


def history_problem(error: Exception, again: Callable[[], Any] | None = None) -> ui.element:
    """Why there is no answer from history, and what to do."""
    if isinstance(error, Refusal) and error.code == "HISTORY_NOT_SET":
        return empty(
            "No archiver is set",
            "Statements come from the history. Start an archiver and set "
            "RINGLEDGER_HISTORY_ENDPOINT.",
        )
    return error_box(error, again)


def plain_account(account: int | str) -> ui.element:
    """An account that there is no page for."""
    return text("span", "outside" if str(account) == "0" else f"#{account}")


class Statement:
    """An account's statement: the newest page follows what happens, older ones are added below."""

    def __init__(
        self,
        calls: Calls,
        account: str,
        *,
        operator: bool = False,
        on_late: Callable[[], Any] = lambda: None,
    ) -> None:
        """`on_late` is called when history has caught up after it was behind."""
        self._on_late = on_late
        self._calls = calls
        self._account = account
        self._operator = operator
        self._link = account_link if operator else plain_account
        self._entries: dict[int, Json] = {}
        self._following: int | None = None
        self._wanted = -1
        self._late = False
        self._task: asyncio.Task[Any] | None = None
        self._behind = text("p", _BEHIND, "notice", role="status")
        self._behind.set_visibility(False)
        self._node = box("div", "statement")
        with self._node:
            loading()

    def reach(self, sequence: int) -> None:
        """Up to this sequence the account has changed: history is asked until it knows."""
        self._wanted = max(self._wanted, sequence)
        if self._task is None or self._task.done():
            self._task = background_tasks.create(self._reach(), name="statement")

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _reach(self) -> None:
        tries = 0
        while not self._node.is_deleted:
            wanted = self._wanted
            try:
                page = await self._calls.get(
                    f"/accounts/{self._account}/statement", page_size=_NEWEST
                )
            except Refusal as refusal:
                self._problem(refusal)
                return
            self._take(page, newest=True)
            if page["complete_sequence"] > self._wanted:
                self._behind.set_visibility(False)
                if self._late:
                    self._late = False
                    self._on_late()
                return
            self._late = True
            tries = tries + 1 if wanted == self._wanted or tries > _TRIES else 0
            self._behind.set_visibility(tries > _TRIES)
            await asyncio.sleep(_TRY_S if tries <= _TRIES else _SLOW_TRY_S)

    async def _more(self) -> None:
        try:
            page = await self._calls.get(
                f"/accounts/{self._account}/statement", page_size=_OLDER, before=self._following
            )
        except Refusal as refusal:
            with self._node:
                history_problem(refusal)
        else:
            self._take(page, newest=False)

    def _problem(self, refusal: Refusal) -> None:
        if self._node.is_deleted:
            return
        self._node.clear()
        with self._node:
            history_problem(refusal, lambda: self.reach(self._wanted))

    def _take(self, page: Json, *, newest: bool) -> None:
        entries = page["entries"]
        overlaps = any(entry["sequence"] in self._entries for entry in entries)
        if newest and self._entries and all(e["sequence"] in self._entries for e in entries):
            return
        if newest and not overlaps:
            self._entries.clear()
        if not newest or not overlaps or self._following is None:
            self._following = page["next_before"]
        self._entries |= {entry["sequence"]: entry for entry in entries}
        for oldest in sorted(self._entries)[: max(0, len(self._entries) - _ENTRIES_MAX)]:
            del self._entries[oldest]
        if not self._node.is_deleted:
            self._draw()

    def _draw(self) -> None:
        self._node.clear()
        with self._node:
            if not self._entries:
                empty("Nothing yet", "What happens to this account is listed here.")
                return
            columns = (*_COLUMNS, Column("Command", "wide")) if self._operator else _COLUMNS
            with table(columns, "Statement", "stacked entries"):
                for sequence in sorted(self._entries, reverse=True):
                    self._row(self._entries[sequence])
            if self._following is not None and len(self._entries) < _ENTRIES_MAX:
                with box("div", "buttons"):
                    button("Older entries", self._more, "plain")

    def _row(self, entry: Json) -> None:
        with box("tr", data_sequence=entry["sequence"]):
            local_time(entry["timestamp_ns"], "td", "time")
            with box("td", "what"):
                text("span", operation_name(entry["operation"]))
                if entry["hold"]:
                    text("span", hold_text(entry), "quiet")
            with box("td", "with"):
                self._other_side(entry)
            text("td", change_text(entry["change"]), f"num change {_sign(entry['change'])}")
            text("td", grouped(entry["balance"]), "num after")
            if self._operator:
                with box("td", "wide"):
                    command = entry["command_id"]
                    if command:
                        link(f"{command[:8]}…", f"/command/{command}", "mono")
                    else:
                        text("span", f"sequence {entry['sequence']}", "quiet")

    def _other_side(self, entry: Json) -> None:
        if entry["operation"] in ("deposit", "withdraw"):
            self._link(0)
            return
        is_debit = str(entry["debit_account"]) == self._account
        other = str(entry["credit_account"] if is_debit else entry["debit_account"])
        if other not in ("0", self._account):
            self._link(other)


def _sign(amount: str) -> str:
    if is_zero(amount):
        return "quiet"
    return "minus" if amount.startswith("-") else "plus"


class Holds:
    """The open holds of one account, asked for again when the account changes."""

    def __init__(
        self,
        calls: Calls,
        account: str,
        actions: Callable[[Json], Any],
        named: Callable[[int | str], Any] = account_link,
    ) -> None:
        """`actions` makes what can be done with a hold, `named` an account's name."""
        self._calls = calls
        self._account = account
        self._actions = actions
        self._named = named
        self._shown: list[Json] | None = None
        self._looks = 0
        self._may_have_missed = False
        self._task: asyncio.Task[Any] | None = None
        self._node = box("div", "holds")
        with self._node:
            loading()

    def look(self, *, again: bool) -> None:
        """Ask; `again` a moment later, too, for history knows of a new hold only then."""
        self._may_have_missed = True
        self._looks = 2 if again else max(1, self._looks)
        if self._task is None or self._task.done():
            self._task = background_tasks.create(self._look(), name="holds")

    def look_late(self) -> None:
        """History has caught up: ask once more, if it was asked while it may have been behind."""
        if self._may_have_missed:
            self.look(again=False)
            self._may_have_missed = False

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while self._looks:
            self._looks -= 1
            await self._ask()
            if self._looks:
                await asyncio.sleep(_LOOK_S)

    async def _ask(self) -> None:
        try:
            page = await self._calls.get(f"/accounts/{self._account}/holds")
        except Refusal as refusal:
            self._shown = None
            if not self._node.is_deleted:
                self._node.clear()
                with self._node:
                    history_problem(refusal, lambda: self.look(again=False))
            return
        if page["holds"] != self._shown and not self._node.is_deleted:
            self._shown = page["holds"]
            self._draw(page["holds"])

    def _draw(self, holds: list[Json]) -> None:
        self._node.clear()
        with self._node:
            if not holds:
                empty("No open holds", "Money that is reserved is listed here.")
                return
            with table(_HOLD_COLUMNS, "Open holds", "stacked held"):
                for hold in holds:
                    self._row(hold)

    def _row(self, hold: Json) -> None:
        with box("tr", data_hold=hold["hold"]):
            for classes, before, side in (
                ("what", "Hold ", ""),
                ("from", "from ", "debit"),
                ("for", "for ", "credit"),
            ):
                with box("td", classes):
                    text("span", before, "narrow")
                    if side:
                        self._named(hold[f"{side}_account"])
                    else:
                        text("span", str(hold["hold"]))
            text("td", grouped(hold["remaining"]), "num change")
            if hold["expires_ns"]:
                local_time(hold["expires_ns"], "td", "wide")
            else:
                text("td", "no end", "wide")
            with box("td", "actions"):
                self._actions(hold)
