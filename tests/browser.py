"""A real Chromium for tests: pages of their own, console errors noted, pictures under build/."""

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    expect,
    sync_playwright,
)

from client_core import SyncClient
from tests.leader_process import START_TIMEOUT_S

PICTURES: Final = Path(__file__).parent.parent / "build" / "pages"
WIDTHS: Final = (1280, 390)
WAIT_MS: Final = 15_000.0
"""How long something may take to appear that isn't measured; socket.io alone waits up to 7.5 s
before it connects again.
"""

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def seen_within_a_second(ledger: SyncClient, account: int, *shown: Locator) -> bool:
    """Whether all of `shown` have the account's balance within a second of one of five deposits,
    and after each in the end: the machine may be busy elsewhere for some of them.
    """
    soon = False
    for _ in range(5):
        posted = f"{ledger.deposit(account, 1).credit_balance:,.2f}"
        begun = time.monotonic()
        for each in shown:
            expect(each).to_have_text(posted)
        soon = soon or time.monotonic() - begun < 1
    return soon


def missing_for_browser() -> str | None:
    """What there is to install, if anything."""
    if any(map(shutil.which, _NAMES)):
        return None
    return "no Chromium here: `make setup-browser` installs Debian's"


class OpenPage:
    """One page in a browser profile of its own, and what its console said."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.said: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(message.text)

    def picture(self, name: str) -> None:
        """Keep a picture of the page at each width, light and dark; nothing may stick out."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        before = self.page.viewport_size
        for width in WIDTHS:
            schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
            for scheme in schemes:
                self.page.set_viewport_size({"width": width, "height": 800})
                self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                assert self.page.evaluate(
                    "document.documentElement.scrollWidth <= window.innerWidth"
                ), f"{name} is wider than {width} px"
                path = PICTURES / f"{name}-{width}-{scheme}.png"
                self.page.screenshot(path=path, full_page=True)
        if before is not None:
            self.page.set_viewport_size(before)
        self.page.emulate_media(color_scheme="light")


class Browser:
    """A running Chromium."""

    def __enter__(self) -> Self:
        self._playwright = sync_playwright().start()
        expect.set_options(timeout=WAIT_MS)
        path = next(filter(None, map(shutil.which, _NAMES)))
        self._chromium = self._playwright.chromium.launch(
            executable_path=path,
            # tests run as root in containers; the pages are our own
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=START_TIMEOUT_S * 1e3,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._chromium.close()
        self._playwright.stop()

    def open(self, address: str, **options: Any) -> OpenPage:
        """A page of another person: no profile is shared."""
        context = self._chromium.new_context(
            viewport={"width": 1280, "height": 800}, locale="en-GB", **options
        )
        context.set_default_timeout(WAIT_MS)
        opened = OpenPage(context)
        opened.page.goto(address)
        return opened
