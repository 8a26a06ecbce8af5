"""An operation on its way: sent under one key, and sent again under it until there is an answer.

The tab remembers what was sent until the answer came. A page that is loaded anew, because its user
or the app began again, offers to send that once more: whatever happened, it is done once.
"""

import json
import re
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, Final, NamedTuple

from nicegui import ui

from client_app.pages.calls import Refusal, Reply
from client_app.pages.operations import OPERATIONS
from client_app.pages.parts import account_link, box, button, error_box, fact, link, text
from client_app.pages.texts import grouped, operation_name, reason
from client_app.pages.visit import Visit
from client_app.schemas import Json

_STORED: Final = "ringledger-sent:"
_KEY: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RECALLED_MAX: Final = 8
_ANSWER_S: Final = 10.0
_READ_ALL: Final = (
    "Object.keys(sessionStorage).filter(name => name.startsWith(PREFIX))"
    ".slice(0, MAX).map(name => sessionStorage.getItem(name))"
)


_NOT_SENT: Final = Refusal(
    0, {"title": "Not sent", "detail": "The browser didn't answer in time. Nothing was done."}
)


class Sent(NamedTuple):
    """An operation: whose it is, its name in OPERATIONS, its fields, its idempotency key."""

    caller: str
    name: str
    body: Json
    key: str


class Sending:
    """Sends one form's operations, and shows in `place` what becomes of them."""

    def __init__(
        self,
        visit: Visit,
        place: ui.element,
        *,
        operator: bool,
        on_busy: Callable[[bool], Any] = lambda _: None,
        on_done: Callable[[Json], Any] = lambda _: None,
    ) -> None:
        self._visit = visit
        self._place = place
        self._operator = operator
        self._on_busy = on_busy
        self._on_done = on_done

    async def send(self, sent: Sent, *, doubtful: bool = False) -> None:
        """Send it, remembered until it is answered; `doubtful`: it may have been done before."""
        operation = OPERATIONS[sent.name]
        rest = dict(sent.body)
        path = operation.path.replace("{}", str(rest.pop(operation.of, "")))
        self._on_busy(True)
        self._show(lambda: text("p", "Sent, waiting for the ledger…", "quiet"))
        try:
            if not await self._remember(sent):
                self._show(lambda: error_box(_NOT_SENT))
                return
            reply = await self._visit.calls.send(operation.method, path, rest, key=sent.key)
        except Refusal as refusal:
            if not refusal.is_open:
                self._forget(sent)
            self._refused(refusal, sent, doubtful=doubtful or refusal.is_doubtful)
        else:
            self._forget(sent)
            done = self._on_done(reply.content)
            if isawaitable(done):
                await done
            self._show(lambda: _reply_box(sent.name, reply, operator=self._operator))
        finally:
            self._on_busy(False)

    def offer(self, sent: Sent) -> None:
        """Show an operation of an earlier page that has no answer, with a way to get one."""

        async def again() -> None:
            await self.send(sent, doubtful=True)

        def drop() -> None:
            self._forget(sent)
            self._place.clear()

        with self._place, box("div", "notice bad", role="alert"):
            text("strong", f"{operation_name(sent.name)}: no answer came")
            asked = OPERATIONS[sent.name].asks(sent.body).removesuffix("?")
            text("p", f"{asked}. Trying again is safe: it is done once, whatever happened.")
            with box("div", "buttons"):
                button("Try again", again)
                button("Leave it", drop, "plain")

    def _refused(self, refusal: Refusal, sent: Sent, *, doubtful: bool) -> None:
        content = dict(refusal.content)
        if not refusal.is_open:
            content["detail"] = reason(refusal.code, refusal.detail)
            self._show(lambda: error_box(Refusal(refusal.status, content)))
            return

        async def again() -> None:
            await self.send(sent, doubtful=doubtful)

        content["title"] = "The outcome is unknown" if doubtful else "Not done"
        content["detail"] = (
            f"{refusal.detail} Trying again is safe: it is done once, whatever happened."
        )
        self._show(lambda: error_box(Refusal(refusal.status, content), again))

    def _show(self, make: Callable[[], Any]) -> None:
        if self._place.is_deleted:  # its user has gone on to another view
            return
        self._place.clear()
        with self._place:
            make()

    async def _remember(self, sent: Sent) -> bool:
        """Whether the tab has it: else a page that is loaded anew would not know of it."""
        stored = json.dumps(json.dumps(sent))
        script = f"(sessionStorage.setItem({json.dumps(_STORED + sent.key)}, {stored}), true)"
        if self._visit.client.is_deleted:
            return False
        try:
            told = await self._visit.client.run_javascript(script, timeout=_ANSWER_S)
        except TimeoutError:
            return False
        return told is True

    def _forget(self, sent: Sent) -> None:
        self._run(f"sessionStorage.removeItem({json.dumps(_STORED + sent.key)})")

    def _run(self, script: str) -> None:
        if not self._visit.client.is_deleted:
            self._visit.client.run_javascript(script)


async def recall(visit: Visit, *, operator: bool) -> None:
    """Offer what the tab has sent without an answer, if it was the same caller's."""
    script = _READ_ALL.replace("PREFIX", json.dumps(_STORED)).replace("MAX", str(_RECALLED_MAX))
    told = await visit.client.run_javascript(script, timeout=_ANSWER_S)
    for stored in told if isinstance(told, list) else ():
        sent = _read(stored)
        if sent is not None and visit.caller is not None and sent.caller == visit.caller.name:
            with visit.notices:
                place = box("div")
            Sending(visit, place, operator=operator).offer(sent)


def _read(stored: object) -> Sent | None:
    """What a tab remembered; None for what none of our pages wrote."""
    try:
        caller, name, body, key = json.loads(str(stored))
        fields = OPERATIONS[name].fields
        good = _KEY.fullmatch(key) is not None and isinstance(caller, str)
        for field in fields:
            value = body.get(field.name)
            if field.kind == "check":
                good = good and value in (None, True, False)
            else:
                good = good and (value is None or field.wrong(str(value)) is None)
        OPERATIONS[name].asks(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Sent(caller, name, body, key) if good else None


def _reply_box(name: str, reply: Reply, *, operator: bool) -> None:
    content = reply.content

    def account(title: str, named: int) -> None:
        text("dt", title)
        with box("dd"):
            if operator:
                account_link(named)
            else:
                text("span", f"#{named}")

    with box("div", "notice good", role="status"):
        before = ", by an earlier request" if reply.replayed else ""
        text("strong", f"{operation_name(name)}: done{before}")
        with box("dl", "facts"):
            if content.get("amount"):
                fact("Amount", grouped(content["amount"]))
            if content.get("account"):
                account("Account", content["account"])
            if content.get("hold"):
                fact("Hold", str(content["hold"]))
            for title, side in (("From", "debit"), ("To", "credit")):
                if content.get(f"{side}_account"):
                    account(title, content[f"{side}_account"])
                if content.get(f"{side}_balance"):
                    fact("Its balance now", grouped(content[f"{side}_balance"]))
            fact("Sequence", grouped(content["sequence"]))
            if reply.command_id and operator:
                text("dt", "Command")
                with box("dd"):
                    link(reply.command_id, f"/command/{reply.command_id}", "mono")
