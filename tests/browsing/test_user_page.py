"""The user app's page in a real browser: a person's own accounts, and nobody else's."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, expect

from client_app.user_tokens import SigningKey, new_token
from client_core import SyncClient
from tests.admin_process import UserProcess
from tests.archiver_process import ArchiverProcess
from tests.browser import WAIT_MS, Browser, OpenPage, seen_within_a_second
from tests.leader_process import LeaderProcess, journal_url

KEY = "0123456789abcdef0123456789abcdef"


class Site(NamedTuple):
    """A ledger, its archiver and the user app."""

    app: UserProcess
    ledger: SyncClient
    history: Path

    def open(self, browser: Browser, accounts: list[int], valid_s: float = 600) -> OpenPage:
        key = SigningKey("k1", "HS256", KEY.encode())
        token = new_token(key, "ringledger-user", "alice", accounts, valid_s)
        return browser.open(f"http://{self.app.address}/#token={token}")

    def funded(self, amount: str = "0") -> int:
        account = self.ledger.create_account().entity
        if Decimal(amount):
            self.ledger.deposit(account, amount)
        return account


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("user")
    journal = journal_url(folder)
    with (
        LeaderProcess(journal).wait_ready() as leader,
        ArchiverProcess(folder, journal, f"sqlite:///{folder / 'history.db'}") as archiver,
    ):
        archiver.wait_ready()
        flags = ("--history-endpoint", archiver.address, "--jwt-keys", f"k1:{KEY}")
        with (
            UserProcess(leader.address, *flags).wait_ready() as app,
            SyncClient(leader.address) as ledger,
        ):
            yield Site(app, ledger, folder / "history.db")


def submitted(page: Page, name: str, button: str, **fields: str) -> None:
    page.locator(f".tab[data-name={name}]").click()
    confirmed(page, name, button, **fields)


def confirmed(page: Page, name: str, button: str, **fields: str) -> None:
    form = page.locator(f"form[data-operation={name}]")
    for field, value in fields.items():
        form.locator(f"[name={field}]").fill(value)
    form.get_by_role("button", name=button).click()
    page.get_by_role("button", name="Confirm").click()
    expect(form.locator(".notice.good")).to_be_visible()


def test_a_person_moves_their_own_money_and_the_payee_sees_and_takes_it(
    site: Site, browser: Browser
) -> None:
    mine, theirs = site.funded("100.00"), site.funded()
    payer, payee = site.open(browser, [mine]), site.open(browser, [theirs])
    assert "token" not in payer.page.url
    expect(payee.page.locator("#state")).to_contain_text("Live")
    page = payer.page
    submitted(page, "deposit", "Deposit", amount="10.00")
    submitted(page, "withdraw", "Withdraw", amount="5.00")
    submitted(page, "transfer", "Transfer", credit_account=str(theirs), amount="25.00")
    balance = payee.page.locator(f"[data-balance='{theirs}']")
    expect(balance).to_have_text("25.00")
    assert site.ledger.account(mine).posted == 80
    submitted(page, "hold", "Hold", credit_account=str(theirs), amount="30.00")
    expect(page.locator("tr[data-hold]")).to_have_count(1)
    assert page.locator("tr[data-hold] button").count() == 0  # only the payee may take it
    payee.page.reload()
    payee.page.get_by_role("button", name="Take").click()
    confirmed(payee.page, "capture", "Capture", amount="12.50")
    expect(balance).to_have_text("37.50")
    expect(payee.page.locator(".statement td.change").first).to_have_text("+12.50")
    assert seen_within_a_second(site.ledger, theirs, balance)
    account = site.ledger.account(mine)
    assert (account.posted, account.held) == (Decimal("67.50"), Decimal(0))
    payer.picture("user")
    for opened in (payer, payee):
        opened.context.close()
        assert opened.said == []


def test_a_statement_says_when_history_is_behind_and_is_completed_later(
    site: Site, browser: Browser
) -> None:
    account = site.funded("1.00")
    opened = site.open(browser, [account])
    entries = opened.page.locator(".entries tr[data-sequence]")
    expect(entries).to_have_count(2)
    with closing(sqlite3.connect(site.history, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        site.ledger.deposit(account, "2.00")
        behind = opened.page.get_by_text("History is behind")
        expect(behind).to_be_visible()
        expect(entries).to_have_count(2)
        other.execute("ROLLBACK")
    expect(entries).to_have_count(3, timeout=2 * WAIT_MS)
    expect(behind).to_be_hidden()
    opened.context.close()


def test_a_token_that_runs_out_ends_the_page(site: Site, browser: Browser) -> None:
    account = site.funded("1.00")
    for valid_s in (3, 12, 48):  # on a busy machine a page may take longer to open than the first
        opened = site.open(browser, [account], valid_s=valid_s)
        shown = opened.page.locator(".account-card, .notice.bad")
        expect(shown.first).to_be_visible()
        if shown.first.get_attribute("href"):
            break
        opened.context.close()
    expect(opened.page.get_by_role("heading", name="Sign in")).to_be_visible(timeout=60e3)
    expect(opened.page.locator("main")).not_to_contain_text("1.00")
    expect(opened.page.locator(".notice.bad")).to_contain_text("isn't taken")
    opened.picture("user-sign-in")
    opened.context.close()


def test_accounts_that_the_ledger_does_not_have_are_told(site: Site, browser: Browser) -> None:
    opened = site.open(browser, [999_999])
    expect(opened.page.locator("main")).to_contain_text("No account here")
    opened.context.close()
    assert opened.said == []
