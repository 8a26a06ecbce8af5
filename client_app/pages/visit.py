"""One open page: who has it, what it shows, and what it is told as it happens.

connected --> key from the browser's tab --> signed in --> a view --> News of what it shows
hidden, cut off --> the watch is let go        key or token not taken --> sign-in
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from functools import wraps
from typing import Any, Final, NamedTuple, Protocol

import structlog
from nicegui import Client, background_tasks, ui
from nicegui.events import GenericEventArguments
from starlette.types import ASGIApp, Scope

from client_app.auth import Caller, Callers
from client_app.live import PAGES_EACH, LiveLedger, News
from client_app.pages.calls import Calls, Refusal
from client_app.pages.own_files import address_of
from client_app.pages.parts import box, button, error_box, link, set_text, text
from client_app.pages.texts import rounded
from client_app.problems import Problem
from client_app.schemas import Json
from client_core import RingledgerClientError

SCRIPT: Final = (
    "document.addEventListener('visibilitychange',"
    "()=>emitEvent('visibility',document.visibilityState));"
    "addEventListener('hashchange',()=>{if(location.hash.startsWith('#token='))location.reload()});"
    "Object.defineProperty(window,'did_handshake',{get:()=>!!window.socket,set:()=>{}});"
)
"""All of our own that a page runs by itself; each view is made by the server.

Until its handshake is over, NiceGUI holds back each event with a timer of its own, and so lets a
click overtake what was typed. Told that it is, it hands them to socket.io, which keeps their order.
"""

_READ_KEY: Final = """(() => {
  const given = location.hash.match(/^#token=([\\w.-]+)$/);
  if (given) {
    sessionStorage.setItem(NAME, given[1]);
    history.replaceState(null, '', location.pathname);
  }
  return sessionStorage.getItem(NAME) ?? '';
})()"""
"""A link may bring the token behind the #, which no server ever sees in an address."""

_TO_MAIN: Final = "document.getElementById('main')?.focus({preventScroll: true})"
"""Who goes on by keyboard or hears the page begins with the new view."""

_KEY: Final = re.compile(r"[!-~]{1,4096}")
_ANSWER_S: Final = 10.0
_FIRST_S: Final = 2.0
_PAUSES_S: Final = (0.25, 0.5, 1.0, 2.0, 5.0)
_SIGN_OF_LIFE_S: Final = 10.0
SIGNED_IN: Final = "signed in"
"""Where a client's storage has the Caller, while its page may show anything."""

_LIVE: Final = ("live", "Live")

UNREAD_MAX: Final = 48
"""Messages that a browser may leave unread before it is told no more: the newest state waits."""


class View(Protocol):
    """What a page shows at the moment."""

    def on_news(self, news: News) -> None:
        """Something has changed."""

    def close(self) -> None:
        """Another view is shown now."""


class Wording(NamedTuple):
    """What the sign-in says, for a key or a token."""

    storage: str
    name: str
    label: str
    about: str
    wrong: str


class FirstView:
    """Waits until the first view is complete: then it comes with the page itself."""

    def __init__(self) -> None:
        self._done = asyncio.Event()

    def told_by(self, make: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        """A function like `make` that tells when it is done."""

        @wraps(make)
        async def made(**named: Any) -> None:
            try:
                await make(**named)
            finally:
                self._done.set()

        return made

    async def wait(self) -> None:
        """Wait, but not for ever: what comes later comes over the socket."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_S):
                await self._done.wait()


class Site(NamedTuple):
    """What all pages of a process share."""

    app: ASGIApp
    callers: Callers
    live: LiveLedger
    wording: Wording
    new_id: Callable[[], bytes]
    """Draws a command id, a UUIDv7: one made of it is done once, however late it is sent again."""


class Visit:
    """One open page of one person."""

    def __init__(self, site: Site, client: Client, scope: Scope) -> None:
        self.site = site
        self.client = client
        self.calls = Calls(site.app, scope)
        self.calls.on_unknown = self._unknown
        self.caller: Caller | None = None
        self.main: ui.element
        self._on_sign_in: Callable[[], Awaitable[None]]
        self._on_open: Callable[[], Awaitable[None]]
        self._is_open = False
        self._view: View | None = None
        self._accounts: tuple[int, ...] = ()
        self._nodes = False
        self._visible = True
        self._seen = _LIVE
        self._following: asyncio.Task[Any] | None = None
        client.on_connect(self._connected)
        client.on_disconnect(self._let_go)
        client.on_delete(self._close)
        ui.on("visibility", self._visibility)

    @property
    def signed_in(self) -> bool:
        """Whether its user may see anything."""
        return self.caller is not None

    def header(self, brand: str, links: dict[str, str]) -> None:
        """The line above everything: where one can go, and how live the page is."""
        link("Skip to content", "#main", "skip")
        with box("header", "top"):
            with box("a", "brand", href="/"):
                box("img", src=address_of("icon.svg"), alt="", width=24, height=24)
                text("span", brand)
            self._nav = box("nav", "", aria_label="Pages", id_="nav")
            with self._nav:
                self._links = {title: link(title, path) for title, path in links.items()}
            self._nav.set_visibility(False)
            with box("div", "state", id_="state", role="status", aria_live="polite"):
                self._dot = box("span", "dot-state", aria_hidden="true", data_kind="waiting")
                self._state = text("span", "Connecting")
                self._more = text("span", "", "quiet more")
            self.who = box("div", "who")
        self.notices = box("div", "notices")
        self.main = box("div", "main", id_="main", tabindex="-1")

    def set_state(self, kind: str, shown: str) -> None:
        """How live the page is: `live`, `waiting` or `broken`."""
        if self._dot.props.get("data-kind") != kind:
            self._dot.props["data-kind"] = kind
        set_text(self._state, shown)

    async def begin(
        self, on_sign_in: Callable[[], Awaitable[None]], on_open: Callable[[], Awaitable[None]]
    ) -> None:
        """Sign in with what the tab has; `on_sign_in` then asks, and shows something.

        `on_open` follows when its user is known and the browser is there.
        """
        self._on_sign_in, self._on_open = on_sign_in, on_open
        if self.site.callers.open_to_anybody:
            await self.enter()
            return
        with self.main:
            text("div", "Loading…", "empty quiet", role="status")
        key = await self._key_of_tab()
        if key is not None:
            self.calls.key = key if _KEY.fullmatch(key) else ""
            if self.calls.key:
                await self.enter()
            else:
                self.sign_out(None)

    async def _key_of_tab(self) -> str | None:
        """What the tab keeps, or brought; None when it has gone."""
        await self.client.connected()
        script = _READ_KEY.replace("NAME", json.dumps(self.site.wording.storage))
        try:
            key = await self.client.run_javascript(script, timeout=_ANSWER_S)
        except TimeoutError:
            key = ""
        if self.client.is_deleted:
            return None
        return key if isinstance(key, str) else ""

    async def enter(self) -> None:
        """Show what the key opens, or ask for another one."""
        self.main.clear()
        try:
            await self._on_sign_in()
        except Refusal as refusal:
            if refusal.status == 401:
                self.sign_out(refusal)
            else:
                self.main.clear()
                with self.main:
                    error_box(refusal, self.enter)
            return
        self.caller = self.site.callers.caller(self.calls.authorization)
        if self.caller is None:  # it has run out in the meantime
            self.sign_out(Refusal(401, {"code": "UNAUTHENTICATED"}))
            return
        self.client.storage[SIGNED_IN] = self.caller
        self._nav.set_visibility(bool(self._links))
        self._follow()
        await self._opened()

    def sign_out(self, why: Refusal | None, *, forget: bool = False) -> None:
        """Show nothing any more, and ask for a key. `forget`: the tab forgets its own."""
        had_key = bool(self.calls.key)
        self._leave()
        self.caller = None
        self.client.storage.pop(SIGNED_IN, None)
        self.calls.key = ""
        self._nav.set_visibility(False)
        self.who.clear()
        self.notices.clear()
        self._is_open = False
        self.set_state("waiting", "Signed out")
        set_text(self._more, "")
        self.main.clear()
        with self.main:
            self._sign_in_form(why if had_key else None)
        if forget:
            self.client.run_javascript("sessionStorage.clear()")
        # what was told before is kept for a socket that begins anew: not for who comes next
        self.client.outbox.message_history.clear()

    def show(self, view: View, title: str, chosen: str = "") -> ui.element:
        """Another view is shown now, in what is returned; `chosen` is its link in the header."""
        self._leave()
        self._view = view
        for name, made in self._links.items():
            if name == chosen:
                made.props["aria-current"] = "page"
            else:
                made.props.pop("aria-current", None)
                made.update()
        ui.page_title(title)
        if self.client.has_socket_connection and self.signed_in:
            self.client.run_javascript(_TO_MAIN)
        return box("div", "view")

    def watch(self, accounts: Iterable[int], *, nodes: bool = False) -> None:
        """What the view shows: it is told of that from now on."""
        self._accounts, self._nodes = tuple(accounts), nodes
        self._follow()

    def refused(self, refusal: Refusal) -> bool:
        """Whether an answer means that the key isn't taken: the page asks for another one then."""
        return refusal.status == 401

    def _sign_in_form(self, why: Refusal | None) -> None:
        wording = self.site.wording
        form = box("form", "card sign-in", novalidate=True)
        with form:
            text("h1", "Sign in")
            text("p", wording.about, "quiet")
            typed = ui.input(wording.label, password=True).props(
                "outlined stack-label autofocus autocomplete=off spellcheck=false maxlength=4096"
            )
            with box("div", "buttons"):
                button("Continue", type="submit")
            with box("div", "", aria_live="polite"):
                if why is not None:
                    title = f"This {wording.name} isn't taken"
                    said = {"title": title, "detail": wording.wrong, "code": why.code}
                    error_box(Refusal(401, said))

        async def submit() -> None:
            key = typed.value.strip() if isinstance(typed.value, str) else ""
            if not _KEY.fullmatch(key):
                typed.error = "It has no such characters" if key else "Please fill this in"
                return
            self.calls.key = key
            self._store(key)
            await self.enter()

        form.on("submit.prevent", submit, args=[])

    def _unknown(self, refusal: Refusal) -> None:
        if self.signed_in:
            with self.main:
                self.sign_out(refusal)

    def _store(self, key: str) -> None:
        name = json.dumps(self.site.wording.storage)
        self.client.run_javascript(f"sessionStorage.setItem({name}, {json.dumps(key)})")

    async def _connected(self) -> None:
        self.client.run_javascript("emitEvent('visibility',document.visibilityState)")
        self._follow()
        await self._opened()

    async def _opened(self) -> None:
        if self.signed_in and self.client.has_socket_connection and not self._is_open:
            self._is_open = True
            with suppress(TimeoutError):
                await self._on_open()

    def _visibility(self, event: GenericEventArguments) -> None:
        self._visible = event.args != "hidden"
        if self._visible:
            self._follow()
        else:
            self._let_go()

    def _let_go(self) -> None:
        if self._following is not None:
            self._following.cancel()
            self._following = None

    def _leave(self) -> None:
        self._let_go()
        self._accounts, self._nodes = (), False
        if self._view is not None:
            self._view.close()
            self._view = None

    def _close(self) -> None:
        self._leave()
        self.calls.key = ""

    def _follow(self) -> None:
        """Follow what is shown, from the beginning."""
        self._let_go()
        wanted = bool(self._accounts) or self._nodes
        if wanted and self._visible and self.signed_in and self.client.has_socket_connection:
            self._following = background_tasks.create(self._run(), name="page")

    async def _run(self) -> None:
        failures = 0
        self._seen = _LIVE
        while True:
            try:
                async with aclosing(self._news()) as all_news:
                    async for news in all_news:
                        failures = 0
                        with self.main:
                            self._tell(news)
            except Refusal as refusal:
                with self.main:
                    self.sign_out(refusal)
                return
            except (Problem, RingledgerClientError) as error:
                too_many = isinstance(error, Problem) and error.code == "OVERLOADED"
                self.set_state("broken", "Too many pages" if too_many else "Not live")
            except Exception:  # noqa: BLE001  # a fault of this program: the page begins anew
                structlog.get_logger().exception("a page isn't told of changes")
                self.set_state("broken", "Not live")
            else:
                self.set_state("broken", "Not live")
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
            failures += 1

    async def _news(self) -> AsyncGenerator[News, None]:
        """News as long as there are any. Raises Refusal when the key isn't taken any more."""
        caller = self.site.callers.caller(self.calls.authorization)
        if caller is None:
            raise Refusal(401, {"code": "UNAUTHENTICATED"})
        caller.check_accounts(self._accounts)
        each_max = None if caller.accounts is None else PAGES_EACH
        async with self.site.live.page(
            caller.name, self._accounts, nodes=self._nodes, each_max=each_max
        ) as page:
            while not page.ended:
                left_s = caller.until_s - time.time()
                if left_s <= 0:
                    raise Refusal(401, {"code": "UNAUTHENTICATED"})
                news = await page.take(min(_SIGN_OF_LIFE_S, left_s))
                if not page.ended:
                    yield news
                # meanwhile changes are joined; NiceGUI has no event for what was read
                while self._unread() and not page.ended:  # noqa: ASYNC110
                    await asyncio.sleep(_PAUSES_S[0])

    def _unread(self) -> bool:
        return len(self.client.outbox.message_history) > UNREAD_MAX

    def _tell(self, news: News) -> None:
        if news.status is not None:
            self._judge(news.status)
        self.set_state(*self._seen)
        if self._view is not None:
            self._view.on_news(news)

    def _judge(self, status: Json) -> None:
        """What the nodes' status says of how live the page can be, until the next one."""
        led = any(node.get("role") == "leader" for node in status.get("nodes", ()))
        if "nodes_error" in status:
            self._seen = "broken", "Not live"
        elif not led:
            self._seen = "broken", "Nobody leads"
        elif status["behind"]:
            self._seen = "waiting", "May be behind"
        else:
            self._seen = _LIVE
        is_told = led and self.caller is not None and self.caller.accounts is None
        set_text(self._more, f"{rounded(status['rate'])} commands/s" if is_told else "")
