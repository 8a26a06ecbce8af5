"""The console in a real browser, over a real ledger: what is clicked is read back by gRPC."""

import re
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from client_core import SyncClient
from tests.admin_process import AdminProcess
from tests.archiver_process import ArchiverProcess
from tests.browser import WAIT_MS, Browser, OpenPage, seen_within_a_second
from tests.leader_process import LeaderProcess, journal_url

KEY = "k" * 32


class Site(NamedTuple):
    """A ledger, its archiver and the console."""

    leader: LeaderProcess
    admin: AdminProcess
    ledger: SyncClient

    def open(self, browser: Browser, path: str = "/") -> OpenPage:
        return browser.open(f"http://{self.admin.address}{path}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("console")
    journal = journal_url(folder)
    with (
        LeaderProcess(journal, "--node-id", "<b>first</b>").wait_ready() as leader,
        ArchiverProcess(folder, journal, f"sqlite:///{folder / 'history.db'}") as archiver,
    ):
        archiver.wait_ready()
        flags = ("--history-endpoint", archiver.address)
        with (
            AdminProcess(leader.address, *flags).wait_ready() as admin,
            SyncClient(leader.address) as ledger,
        ):
            yield Site(leader, admin, ledger)


@pytest.fixture
def hasty(site: Site) -> Iterator[Site]:
    """The same ledger, in a console that waits five seconds for it."""
    with AdminProcess(site.leader.address, "--timeout-s", "5").wait_ready() as admin:
        yield site._replace(admin=admin)


@pytest.fixture
def page(site: Site, browser: Browser) -> Iterator[Page]:
    """The console; whatever a test does, its console says nothing."""
    opened = site.open(browser)
    yield opened.page
    opened.context.close()
    assert opened.said == []


def home(page: Page) -> str:
    """The app's address."""
    return "/".join(page.url.split("/", 3)[:3])


def filled(page: Page, name: str, **fields: str | bool) -> None:
    """Choose an operation and fill its form."""
    if "/operations" in page.url:
        page.locator(f".tab[data-name={name}]").click()
    else:
        page.goto(f"{home(page)}/operations/{name}")
    form = page.locator(f"form[data-operation={name}]")
    expect(form.locator(".notice")).to_have_count(0)  # it is a new one
    for field, value in fields.items():
        if isinstance(value, bool):
            control = form.locator(f"[data-name={field}]")
            if (control.get_attribute("aria-checked") == "true") != value:
                control.click()
        elif field == "asset":
            form.get_by_label("Asset").click()
            page.get_by_role("option", name=re.compile(f"^{value}: ")).click()
        else:
            form.locator(f"[name={field}]").fill(value)


def submitted(page: Page, name: str, **fields: str | bool) -> dict[str, str]:
    """Fill a form, confirm, and read the reply."""
    filled(page, name, **fields)
    form = page.locator(f"form[data-operation={name}]")
    form.locator("button[type=submit]").click()
    page.get_by_role("button", name="Confirm").click()
    expect(form.locator(".notice.good")).to_be_visible()
    titles = form.locator(".notice dt").all_inner_texts()
    return dict(zip(titles, form.locator(".notice dd").all_inner_texts(), strict=True))


def opened_account(page: Page, asset: str = "1") -> int:
    return int(submitted(page, "create_account", asset=asset)["Account"].removeprefix("#"))


def funded(site: Site, amount: str = "0") -> int:
    account = site.ledger.create_account().entity
    if Decimal(amount):
        site.ledger.deposit(account, amount)
    return account


def posted(site: Site, account: int) -> Decimal:
    return site.ledger.account(account).posted


def test_every_form_does_what_it_says(site: Site, page: Page) -> None:
    submitted(page, "register_asset", number="7", symbol="EUR", decimals="3")
    assert site.ledger.account(opened_account(page, asset="7")).asset.symbol == "EUR"
    a, b = opened_account(page), opened_account(page)
    assert submitted(page, "deposit", credit_account=str(a), amount="100.00")["Amount"] == "100.00"
    submitted(page, "withdraw", debit_account=str(a), amount="10.50")
    told = submitted(page, "transfer", debit_account=str(a), credit_account=str(b), amount="25")
    assert (posted(site, a), posted(site, b)) == (Decimal("64.50"), Decimal(25))
    assert told["From"] == f"#{a}"
    held = submitted(
        page, "hold", debit_account=str(a), credit_account=str(b), amount="30", timeout_s="3600"
    )
    assert site.ledger.account(a).held == 30
    submitted(page, "capture", hold=held["Hold"], amount="12.50", keep_rest_held=True)
    assert (posted(site, b), site.ledger.account(a).held) == (Decimal("37.50"), Decimal("17.50"))
    submitted(page, "release", hold=held["Hold"])
    assert site.ledger.account(a).held == 0
    submitted(page, "lock", account=str(a), credits=False)
    assert site.ledger.account(a).debits_locked
    assert not site.ledger.account(a).credits_locked
    submitted(page, "unlock", account=str(a))
    assert not site.ledger.account(a).debits_locked
    submitted(page, "set_limits", account=str(a), floor="-50.00", ceiling="1000")
    assert site.ledger.account(a).ceiling == 1_000
    submitted(page, "set_limits", account=str(a), floor="0", ceiling="")
    assert site.ledger.account(a).ceiling is None
    c = opened_account(page)
    submitted(page, "close", account=str(c))
    assert site.ledger.account(c).closed


def test_a_transfer_is_seen_in_other_browsers_within_a_second(
    site: Site, page: Page, browser: Browser
) -> None:
    a, b = funded(site, "100.00"), funded(site)
    table, account = site.open(browser, "/accounts"), site.open(browser, f"/account/{b}")
    cell = table.page.locator(f"tr[data-account='{b}'] [data-cell=posted]")
    expect(cell).to_have_text("0.00")
    expect(account.page.locator("[data-cell=posted]")).to_have_text("0.00")
    expect(account.page.locator("#state")).to_contain_text("Live")
    submitted(page, "transfer", debit_account=str(a), credit_account=str(b), amount="12.34")
    shown = (cell, account.page.locator("[data-cell=posted]"))
    for each in shown:
        expect(each).to_have_text("12.34")
    expect(account.page.locator(".statement td.change").first).to_have_text("+12.34")
    assert seen_within_a_second(site.ledger, b, *shown)
    table.context.close()
    account.context.close()
    assert table.said == account.said == []


def test_what_is_not_confirmed_is_not_sent(site: Site, page: Page) -> None:
    account = funded(site)
    filled(page, "deposit", credit_account=str(account), amount="5.00")
    page.locator("form[data-operation=deposit] button[type=submit]").click()
    expect(page.get_by_text(f"Deposit 5.00 to account {account}?")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert posted(site, account) == 0


def test_a_transfer_needs_nothing_but_the_keyboard(site: Site, page: Page) -> None:
    a, b = funded(site, "10.00"), funded(site)
    page.goto(f"{home(page)}/operations/transfer")
    page.locator("[name=debit_account]").focus()
    page.keyboard.type(str(a))
    page.keyboard.press("Tab")
    page.keyboard.type(str(b))
    page.keyboard.press("Tab")
    page.keyboard.type("3.00")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Confirm")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".notice.good")).to_be_visible()
    assert posted(site, b) == 3


class HeldSocket:
    """A page's socket, whose messages from the app wait until they are let through."""

    def __init__(self, page: Page) -> None:
        self._waiting: list[str | bytes] | None = []
        page.route_web_socket(re.compile("_nicegui_ws"), self._begin)

    def _begin(self, to_page: WebSocketRoute) -> None:
        self._to_page = to_page
        to_page.connect_to_server().on_message(self._pass)

    def _pass(self, message: str | bytes) -> None:
        if self._waiting is None:
            self._to_page.send(message)
        else:
            self._waiting.append(message)

    def let_through(self) -> None:
        waiting, self._waiting = self._waiting, None
        for message in waiting or ():
            self._to_page.send(message)


def test_what_is_typed_before_a_page_is_connected_arrives_as_it_was_typed(
    site: Site, page: Page
) -> None:
    account = funded(site)
    for _ in range(5):  # each event had its own chance to be late
        socket = HeldSocket(page)
        page.goto(f"{home(page)}/operations/deposit")
        form = page.locator("form[data-operation=deposit]")
        form.locator("[name=credit_account]").fill(str(account))
        form.locator("[name=amount]").focus()
        for key in "1234567.89":
            page.keyboard.type(key, delay=7)
        page.keyboard.press("Enter")
        socket.let_through()
        expect(page.get_by_text(f"Deposit 1234567.89 to account {account}?")).to_be_visible()


def test_an_operation_without_an_answer_is_sent_again_and_done_once(
    hasty: Site, browser: Browser
) -> None:
    site = hasty
    account = funded(site)
    opened = site.open(browser)
    page = opened.page
    filled(page, "deposit", credit_account=str(account), amount="5.00")
    page.locator("form[data-operation=deposit] button[type=submit]").click()
    expect(page.locator("#state")).to_contain_text("Live")
    site.leader.signal(signal.SIGSTOP)
    try:
        page.get_by_role("button", name="Confirm").click()
        expect(page.locator(".reply .notice.bad")).to_contain_text("Trying again is safe")
    finally:
        site.leader.signal(signal.SIGCONT)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".notice.good")).to_be_visible()
    assert posted(site, account) == 5
    opened.context.close()


def test_an_operation_without_an_answer_is_offered_by_a_page_that_is_loaded_anew(
    hasty: Site, browser: Browser
) -> None:
    site = hasty
    account = funded(site)
    opened = site.open(browser)
    page = opened.page
    filled(page, "deposit", credit_account=str(account), amount="6.00")
    page.locator("form[data-operation=deposit] button[type=submit]").click()
    site.leader.signal(signal.SIGSTOP)
    try:
        page.get_by_role("button", name="Confirm").click()
        expect(page.locator(".reply .notice.bad")).to_contain_text("Trying again is safe")
    finally:
        site.leader.signal(signal.SIGCONT)
    page.reload()
    notice = page.locator(".notices .notice")
    expect(notice).to_contain_text(f"Deposit 6.00 to account {account}.")
    opened.picture("no-answer")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".notices .notice.good")).to_be_visible()
    page.reload()
    expect(page.locator("#state")).to_contain_text("Live")
    expect(notice).to_have_count(0)
    assert posted(site, account) == 6
    opened.context.close()


def test_an_operation_that_is_sent_again_much_later_is_done_once(
    tmp_path: Path, browser: Browser
) -> None:
    with (
        LeaderProcess(journal_url(tmp_path), "--window-capacity", "8").wait_ready() as leader,
        AdminProcess(leader.address).wait_ready() as admin,
        SyncClient(leader.address) as ledger,
    ):
        account, other = (ledger.create_account().entity for _ in range(2))
        opened = browser.open(f"http://{admin.address}/")
        page = opened.page
        filled(page, "deposit", credit_account=str(account), amount="5.00")
        # as if the page were loaded anew when it is done, and before the answer has come
        page.evaluate("Storage.prototype.removeItem = () => {}")
        page.locator("form[data-operation=deposit] button[type=submit]").click()
        page.get_by_role("button", name="Confirm").click()
        expect(page.locator(".notice.good")).to_be_visible()
        page.reload()
        for _ in range(20):
            ledger.deposit(other, "1.00")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".notices .notice.bad")).to_contain_text("is no longer known")
        assert ledger.account(account).posted == 5
        opened.context.close()


def test_an_outcome_stays_unknown_until_the_ledger_tells_it(site: Site, browser: Browser) -> None:
    account = funded(site)
    with AdminProcess(
        site.leader.address, "--timeout-s", "5", "--rate-limit", "0.001", "--rate-burst", "40"
    ).wait_ready() as admin:
        first = {"credit_account": account, "amount": "1.00"}
        assert admin.call("POST", "/api/v1/deposits", first).status == 200
        opened = browser.open(f"http://{admin.address}/")
        page = opened.page
        filled(page, "deposit", credit_account=str(account), amount="7.00")
        page.locator("form[data-operation=deposit] button[type=submit]").click()
        expect(page.locator("#state")).to_contain_text("Live")
        site.leader.signal(signal.SIGSTOP)
        try:
            page.get_by_role("button", name="Confirm").click()
            notice = page.locator(".reply .notice.bad")
            expect(notice).to_contain_text("The outcome is unknown")
        finally:
            site.leader.signal(signal.SIGCONT)
        assert posted(site, account) in (1, 8)  # it answers again
        statuses = {admin.call("GET", "/api/v1/assets").status for _ in range(60)}
        assert statuses == {200, 429}
        page.get_by_role("button", name="Try again").click()
        expect(notice).to_contain_text("RATE_LIMITED")
        expect(notice).to_contain_text("The outcome is unknown")
        page.reload()
        expect(page.locator(".notices .notice")).to_contain_text("no answer came")
        opened.context.close()


def test_a_refusal_says_why(site: Site, browser: Browser) -> None:
    a, b = funded(site, "1.00"), funded(site)
    opened = site.open(browser)
    page = opened.page
    filled(page, "transfer", debit_account=str(a), credit_account=str(b), amount="2.00")
    page.locator("form[data-operation=transfer] button[type=submit]").click()
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator(".reply .notice.bad")).to_contain_text("Less is available")
    opened.picture("refused")
    opened.context.close()


def test_a_statement_leads_to_the_command_and_what_it_did(site: Site, page: Page) -> None:
    a, b = funded(site, "9.00"), funded(site)
    site.ledger.transfer(a, b, "4.00")
    page.goto(f"{home(page)}/account/{a}")
    expect(page.locator("tr[data-sequence]")).to_have_count(3)  # history is there
    page.locator("tr[data-sequence] a.mono").first.click()
    expect(page.locator("main")).to_contain_text("Its balance then")
    facts = page.locator("dl.facts dd").all_inner_texts()
    assert facts[0] == "done"
    assert "4.00 UNIT" in facts
    assert {f"#{a}", f"#{b}", "5.00", "4.00"} <= set(facts)


def test_accounts_are_found_by_reference_and_paged(site: Site, page: Page) -> None:
    reference = 2**64 - 59  # no double has it
    account = site.ledger.create_account(reference=reference).entity
    for _ in range(60):
        site.ledger.create_account()
    page.goto(f"{home(page)}/accounts")
    expect(page.locator("tr[data-account]")).to_have_count(50)
    page.get_by_role("button", name="Next page").click()
    expect(page.locator("tr[data-account]").first).to_have_attribute("data-account", "51")
    page.get_by_role("button", name="Back").click()
    expect(page.locator("tr[data-account]").first).to_have_attribute("data-account", "1")
    page.locator("[name=reference]").fill(str(reference))
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tr[data-account]")).to_have_count(1)
    expect(page.locator(f"tr[data-account='{account}']")).to_contain_text(str(reference))
    page.locator("[name=reference]").fill("424242")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("main")).to_contain_text("No account found")


def test_what_the_ledger_says_is_never_read_as_html(page: Page) -> None:
    expect(page.locator("td", has_text="<b>first</b>")).to_be_visible()


def test_each_view_fits_both_widths_light_and_dark(site: Site, browser: Browser) -> None:
    a, b = funded(site, "1234567.89"), funded(site)
    site.ledger.transfer(a, b, "1000.00")
    site.ledger.hold(a, b, "250.00", timeout_s=3_600)
    opened = site.open(browser)
    page = opened.page
    expect(page.locator("[data-figure=rate] dd")).to_have_text(re.compile("[0-9]"))
    opened.picture("cluster")
    for name, path, shown in (
        ("accounts", "accounts", "tr[data-account]"),
        ("account", f"account/{a}", "tr[data-hold]"),
        ("operations", "operations/transfer", "form[data-operation]"),
        ("commands", "commands", ".empty"),
    ):
        page.goto(f"{home(page)}/{path}")
        expect(page.locator(shown).first).to_be_visible()
        opened.picture(name)
    opened.context.close()
    assert opened.said == []


def test_what_is_not_there_is_told_and_leads_on(site: Site, browser: Browser) -> None:
    opened = site.open(browser, "/account/999999")
    expect(opened.page.locator(".notice.bad")).to_contain_text("does not exist")
    opened.picture("no-account")
    opened.page.goto(f"http://{site.admin.address}/command/{'ab' * 16}")
    expect(opened.page.locator("main")).to_contain_text("Not done")
    opened.picture("no-command")
    opened.context.close()


def test_an_empty_ledger_without_archiver_says_what_to_do_and_keys_are_asked_for(
    tmp_path: Path, browser: Browser
) -> None:
    with LeaderProcess(journal_url(tmp_path)).wait_ready() as leader:
        flags = ("--api-keys", f"me:{KEY}")
        with AdminProcess(leader.address, *flags).wait_ready() as admin:
            opened = browser.open(f"http://{admin.address}/")
            page = opened.page
            page.get_by_label("API key").fill("wrong-key-0123456789")
            page.get_by_role("button", name="Continue").click()
            expect(page.locator(".notice.bad")).to_contain_text("isn't taken")
            opened.picture("sign-in")
            page.get_by_label("API key").fill(KEY)
            page.get_by_role("button", name="Continue").click()
            page.get_by_role("link", name="Accounts").click()
            expect(page.locator("main")).to_contain_text("No accounts yet")
            opened.picture("no-accounts")
            page.get_by_role("link", name="Open an account").click()
            page.get_by_role("button", name="Open account").last.click()
            page.get_by_role("button", name="Confirm").click()
            page.locator(".notice.good a", has_text="#1").click()
            expect(page.locator("main")).to_contain_text("No archiver is set")
            opened.picture("no-archiver")
            assert opened.context.cookies() == []
            assert page.evaluate("localStorage.length") == 0
            opened.context.close()


def test_a_page_goes_on_by_itself_when_the_app_comes_back(
    site: Site, browser: Browser, tmp_path: Path
) -> None:
    account = funded(site)
    with AdminProcess(site.leader.address).wait_ready() as first:
        opened = browser.open(f"http://{first.address}/account/{account}")
        state = opened.page.locator("#state")
        expect(state).to_contain_text("Live")
        code, _ = first.stop()
        assert code == 0
    lost = opened.page.locator("#popup")
    expect(lost).to_have_attribute("aria-hidden", "false")
    with AdminProcess(site.leader.address, listen=first.address).wait_ready():
        expect(lost).to_have_attribute("aria-hidden", "true", timeout=2 * WAIT_MS)
        expect(state).to_contain_text("Live")
        site.ledger.deposit(account, "7.00")
        expect(opened.page.locator("[data-cell=posted]")).to_have_text("7.00")
        opened.context.close()
