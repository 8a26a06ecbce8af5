"""The pages and their sockets: what a browser may load, who may open them, who is told what."""

import contextlib
import re
import signal
import ssl
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import nicegui
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection

from client_core import SyncClient, create_account, deposit, hold
from client_core.testing import FakeNode
from tests.admin_process import AdminProcess
from tests.certificates import Authority
from tests.follower_process import FollowerProcess
from tests.leader_process import LeaderProcess, journal_url
from tests.server_process import poll_until
from tests.socket_page import SocketPage, client_id_of, get, open_socket

KEY = "k" * 32
DEADLINE_S = 20.0
ENDED_WITHIN_S = 11.0
"""A socket that answers no ping ends after 18 s anyhow."""

PAGES_MAX = 3
ROOM = 2 * PAGES_MAX + 32
"""Pages that an app makes, with those where nobody is signed in."""


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaderProcess]:
    with LeaderProcess(journal_url(tmp_path_factory.mktemp("pages"))).wait_ready() as leader:
        with SyncClient(leader.address) as ledger:
            for _ in range(60):
                ledger.create_account()
        yield leader


@pytest.fixture(scope="module")
def app(leader: LeaderProcess) -> Iterator[AdminProcess]:
    with AdminProcess(leader.address, "--max-pages", str(PAGES_MAX)).wait_ready() as app:
        yield app


def ends(socket: ClientConnection) -> bool:
    """Whether the app ends a socket whose pings nobody answers: long before they are missed."""
    begun = time.monotonic()
    with contextlib.suppress(ConnectionClosed):
        while time.monotonic() - begun < DEADLINE_S:
            socket.recv(timeout=DEADLINE_S)
    return time.monotonic() - begun < ENDED_WITHIN_S


def test_a_page_loads_nothing_from_elsewhere_and_runs_no_script_without_its_nonce(
    app: AdminProcess,
) -> None:
    page = get(app.port, "/")
    html = page.content.decode()
    policy = page.headers["content-security-policy"]
    found = re.search(r"script-src 'self' 'nonce-([\w-]{22})' 'unsafe-eval';", policy)
    assert found is not None
    assert set(re.findall(r"<script(?: nonce=\"([\w-]*)\")?", html)) == {found[1]}
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'unsafe-inline'" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert "set-cookie" not in page.headers
    assert get(app.port, "/").headers["content-security-policy"] != policy
    files = set(re.findall(r'(?:src|href)="([^"#]+)"|url\("([^"]+)"\)', html))
    addresses = {first or second for first, second in files} | set(
        re.findall(r'"(/_nicegui/[^"]+\.m?js)"', html)
    )
    # what stands in the import map for elements that no page of ours has isn't served
    unused = re.compile(r"data:image/svg\+xml,|/_nicegui/[0-9.]+/esm/")
    served = [address for address in addresses if not unused.match(address)]
    assert len(served) > 8
    for address in served:
        assert re.match(r"/(_nicegui/[0-9.]+|pages/[0-9a-f]{16})/", address), address
        file = get(app.port, address, accept_encoding="gzip, br")
        assert file.status == 200, address
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["content-encoding"] == "gzip"


def test_a_page_is_looked_at_without_making_one(app: AdminProcess) -> None:
    head = get(app.port, "/", method="HEAD")
    assert (head.status, head.content) == (200, b"")
    assert "content-security-policy" in head.headers


@pytest.mark.parametrize(
    "path",
    [
        "/pages/",
        "/pages/ledger.css",
        "/pages/../admin.py",
        "/%2e%2e/admin.py",
        "/account/0",
        "/account/x",
        "/somewhere",
        "/favicon.ico",
        "/_nicegui_ws/socket.io/?EIO=4&transport=polling",
        "/_nicegui/3.18.0/static/../nicegui.py",
        "/_nicegui/3.18.0/static/%2e%2e/nicegui.py",
        "/_nicegui/3.18.0/resources/x/y",
        "/_nicegui/3.18.0/dynamic_resources/codehilite",
        "/_nicegui/3.18.0/static/./nicegui.js",
        "/_nicegui/3.18.0/static//nicegui.js",
        "/_nicegui/3.18.0/esm/x",
        "/_nicegui/3.18.0/esm/x/y",
        "/_nicegui/client/x/upload/1",
        "/_nicegui/auto/static/x",
        "/docs",
        "/redoc",
    ],
)
def test_nothing_else_of_the_library_is_reached(app: AdminProcess, path: str) -> None:
    assert get(app.port, path).status == 404


def test_wrong_addresses_of_files_make_no_pages_and_leave_the_right_ones_served(
    leader: LeaderProcess,
) -> None:
    with AdminProcess(leader.address, "--api-keys", f"me:{KEY}").wait_ready() as app:
        library = f"/_nicegui/{nicegui.__version__}"
        statuses = {get(app.port, f"{library}/esm/x{number}").status for number in range(300)}
        assert 200 not in statuses
        assert get(app.port, f"{library}/static/nicegui.js").status == 200


def seen_within_a_second(ledger: SyncClient, account: int, *pages: SocketPage) -> bool:
    """Whether each page is told of one of five changes within a second, and of all in the end:
    the machine may be busy elsewhere for some of them.
    """
    soon = False
    for _ in range(5):
        posted = str(ledger.deposit(account, "1.25").credit_balance)
        begun = time.monotonic()
        for page in pages:
            page.wait_for(posted)
        soon = soon or time.monotonic() - begun < 1
    return soon


def test_a_page_comes_with_its_accounts(app: AdminProcess) -> None:
    def has_them() -> bool:  # unless the app takes longer: then they come over the socket
        return b'"data-account":50' in get(app.port, "/accounts").content.replace(b" ", b"")

    assert any(has_them() for _ in range(5))


def test_a_page_is_told_of_each_change_within_a_second(
    app: AdminProcess, leader: LeaderProcess
) -> None:
    with SyncClient(leader.address) as ledger, SocketPage(app.port, "/accounts") as page:
        page.wait_for("Live")
        assert seen_within_a_second(ledger, 1, page)


def test_pages_that_open_later_are_told_by_the_same_watch(
    app: AdminProcess, leader: LeaderProcess
) -> None:
    with (
        SyncClient(leader.address) as ledger,
        SocketPage(app.port, "/account/3") as one,
        SocketPage(app.port, "/accounts") as two,
    ):
        for page in (one, two):
            page.wait_for("Live")
        assert seen_within_a_second(ledger, 3, one, two)


def test_a_hidden_page_lets_go_and_begins_again_with_the_newest(
    app: AdminProcess, leader: LeaderProcess
) -> None:
    with SyncClient(leader.address) as ledger, SocketPage(app.port, "/account/7") as page:
        page.wait_for("Live")
        found = re.search(r'"listener_id":"([^"]+)"[^{}]*"type":"visibility"', page.html)
        assert found is not None
        event = {"id": 0, "client_id": page.client_id, "listener_id": found[1]}
        posted = ""

        def is_told() -> bool:
            nonlocal posted
            posted = str(ledger.deposit(7, "3.75").credit_balance)
            with contextlib.suppress(AssertionError):
                page.wait_for(posted, 1.5)
                return True
            return False

        assert poll_until(is_told, DEADLINE_S)
        page.emit("event", event | {"args": ['"hidden"']})
        assert poll_until(lambda: not is_told(), DEADLINE_S)
        page.emit("event", event | {"args": ['"visible"']})
        page.wait_for(posted)


def test_more_pages_than_set_are_told_so_and_go_on_when_there_is_room(app: AdminProcess) -> None:
    with contextlib.ExitStack() as stack:
        pages = [stack.enter_context(SocketPage(app.port)) for _ in range(PAGES_MAX)]
        for page in pages:
            page.wait_for("Live")
        with SocketPage(app.port) as late:
            late.wait_for("Too many pages")
            stack.close()
            late.wait_for("Live")


def test_pages_that_nobody_opens_take_no_place_for_long(leader: LeaderProcess) -> None:
    flags = ("--max-pages", str(PAGES_MAX), "--api-keys", f"me:{KEY}")
    with AdminProcess(leader.address, *flags).wait_ready() as app:
        first = SocketPage(app.port)
        statuses = {get(app.port, "/").status for _ in range(ROOM + 5)}
        assert statuses == {200}  # where nobody is signed in, the oldest goes
        assert ends(first.socket)


def test_an_address_that_asks_for_page_after_page_must_wait(leader: LeaderProcess) -> None:
    flags = ("--max-pages", str(PAGES_MAX), "--api-keys", f"me:{KEY}")
    with AdminProcess(leader.address, *flags).wait_ready() as app:
        deadline = time.monotonic() + 90
        while get(app.port, "/").status != 429:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        (None, {}),
        ("https://example.org", {}),
        ("null", {}),
        ("http://127.0.0.1:1", {}),
        ("http://example.org", {"Host": "example.org"}),
    ],
    ids=str,
)
def test_no_other_site_opens_a_socket(
    app: AdminProcess, origin: str | None, headers: dict[str, str]
) -> None:
    client_id = client_id_of(get(app.port, "/").content)
    with pytest.raises(InvalidHandshake):
        open_socket(app.port, client_id, origin=origin, headers=headers)
    with open_socket(app.port, client_id) as own:
        own.send("40")


def test_a_socket_is_only_for_an_open_page_that_has_none(app: AdminProcess) -> None:
    with open_socket(app.port, "00000000-0000-4000-8000-000000000000") as gone:
        gone.send("40")
        said = [gone.recv(timeout=DEADLINE_S), gone.recv(timeout=DEADLINE_S)]
        assert "Implicit handshake failed" in str(said)  # a browser loads the page anew then
        assert ends(gone)
    with pytest.raises(InvalidHandshake):
        open_socket(app.port, "x")
    with SocketPage(app.port) as page, pytest.raises(InvalidHandshake):
        open_socket(app.port, page.client_id)


@pytest.mark.parametrize("path", ["/", "/api/v1/accounts", "/_nicegui_ws/socket.io/x"])
def test_no_other_path_takes_a_socket(app: AdminProcess, path: str) -> None:
    client_id = client_id_of(get(app.port, "/").content)
    with pytest.raises(InvalidHandshake):
        open_socket(app.port, client_id, path=path)


@pytest.mark.parametrize(
    "frame",
    [
        "2probe",
        "42",
        "42[]",
        '42["event",{}]',
        '42["handshake",{"client_id":"CLIENT"}]',
        '42["event",{"client_id":"another","id":0,"listener_id":"x","args":[]}]',
        '42["event",{"client_id":"CLIENT","id":"0","listener_id":"x","args":[]}]',
        '42["event",{"client_id":"CLIENT","id":0,"listener_id":"x","args":["{"]}]',
        '451-["event",{"_placeholder":true,"num":0}]',
        "42" + "[" * 20_000,
        b"\x00\x01",
        "x" * 70_000,
    ],
    ids=lambda frame: repr(frame[:40]),
)
def test_a_socket_ends_with_a_frame_that_no_page_sends(
    app: AdminProcess, frame: str | bytes
) -> None:
    with SocketPage(app.port) as page:
        page.wait_for("Live")
        if isinstance(frame, str):
            frame = frame.replace("CLIENT", page.client_id)
        page.socket.send(frame)
        assert ends(page.socket)


def test_a_socket_ends_with_too_many_frames(app: AdminProcess) -> None:
    with SocketPage(app.port) as page:
        page.wait_for("Live")
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1_000):
                page.emit("ack", {"client_id": page.client_id, "next_message_id": 0})
        assert ends(page.socket)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://example.org"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "example.org"},
        {"host": "example.org", "origin": "http://example.org"},
    ],
    ids=str,
)
def test_without_keys_no_other_sites_page_reads_or_writes(
    app: AdminProcess, headers: dict[str, str]
) -> None:
    for got in (
        app.call("GET", "/api/v1/accounts", None, headers),
        app.call("POST", "/api/v1/accounts", {}, headers),
    ):
        assert (got.status, got.json["code"]) == (403, "ORIGIN_REFUSED")


def test_without_keys_a_page_is_not_for_another_name(app: AdminProcess) -> None:
    assert get(app.port, "/", host="example.org").status == 403


def test_the_apps_own_page_may_write_without_keys(app: AdminProcess) -> None:
    own = {"origin": f"http://127.0.0.1:{app.port}", "sec-fetch-site": "same-origin"}
    assert app.call("POST", "/api/v1/accounts", {}, own).status == 201


def test_with_keys_a_page_shows_nothing_before_one_is_given(leader: LeaderProcess) -> None:
    flags = ("--api-keys", f"me:{KEY}", "--stop-timeout-s", "60")
    with AdminProcess(leader.address, *flags).wait_ready() as app:
        html = get(app.port, "/accounts").content
        assert b"data-account" not in html
        with SocketPage(app.port, "/accounts") as page:
            said = ""
            for message in page.messages():
                said += str(message)
                if "sessionStorage.getItem" in said:
                    break
            assert "sessionStorage.getItem" in said
            assert "data-account" not in said + str(list(page.messages(2)))
        with SocketPage(app.port, "/accounts") as page:
            page.sign_in(KEY)
            page.wait_for("Live")
            begun = time.monotonic()
            app.process.terminate()
            app.process.wait(60)
            assert (app.process.returncode, time.monotonic() - begun < 30) == (0, True)
        assert KEY not in app.output()


def test_a_page_has_its_socket_over_https(leader: LeaderProcess, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    own = authority.sign("app")
    tls = ssl.create_default_context(cafile=authority.own.certificate_file)
    flags = ("--https-cert", str(own.certificate_file), "--https-key", str(own.key_file))
    with AdminProcess(leader.address, *flags).wait_ready() as app:
        connection = HTTPSConnection("127.0.0.1", app.port, timeout=DEADLINE_S, context=tls)
        connection.request("GET", "/")
        client_id = client_id_of(connection.getresponse().read())
        connection.close()
        with open_socket(app.port, client_id, tls=tls) as socket:
            socket.send("40")
            said = [socket.recv(timeout=DEADLINE_S) for _ in range(3)]
            assert "update" in str(said) or "run_javascript" in str(said)


def test_pages_can_be_switched_off(leader: LeaderProcess) -> None:
    with AdminProcess(leader.address, "--max-pages", "0").wait_ready() as app:
        assert get(app.port, "/").status == 404
        assert app.call("GET", "/api/v1/accounts").status == 200
        with pytest.raises(InvalidHandshake):
            open_socket(app.port, "00000000-0000-4000-8000-000000000000")


def test_who_never_reads_is_told_the_newest_when_they_do(
    app: AdminProcess, leader: LeaderProcess
) -> None:
    with SyncClient(leader.address) as ledger, SocketPage(app.port, "/account/5") as slow:
        with SocketPage(app.port, "/account/5") as quick:
            quick.wait_for("Live")
            for _ in range(10):
                many = [deposit(ledger.new_id(), 5, 1) for _ in range(20)]
                posted = ledger.execute_all(many)[-1].credit_balance
            quick.wait_for(str(posted))
        slow.wait_for(str(posted))


def test_a_page_over_a_follower_that_stands_still_says_so_and_goes_on_over_another_node(
    tmp_path: Path,
) -> None:
    journal = journal_url(tmp_path)
    with (
        LeaderProcess(journal).wait_ready() as leader,
        FollowerProcess(tmp_path, journal).wait_ready() as follower,
        AdminProcess(f"{leader.address},{follower.address}").wait_ready() as app,
        SyncClient(leader.address) as ledger,
    ):
        ledger.create_account()
        with SocketPage(app.port, "/account/1") as page:
            page.wait_for("Live")
            posted = str(ledger.deposit(1, "1.25").credit_balance)
            page.wait_for(posted)
            follower.process.send_signal(signal.SIGSTOP)  # its workers go on serving
            try:
                posted = str(ledger.deposit(1, "2.50").credit_balance)
                page.wait_for("May be behind")
                page.wait_for(posted, 2 * DEADLINE_S)
            finally:
                follower.process.send_signal(signal.SIGCONT)
            page.wait_for("Live")


def test_a_hold_that_history_knows_a_moment_late_is_listed_all_the_same() -> None:
    with FakeNode() as node, FakeNode() as archiver:
        archiver.ledger.ledger_id = node.ledger.ledger_id
        flags = ("--history-endpoint", archiver.address)
        with AdminProcess(node.address, *flags).wait_ready() as app:

            def run(*commands: bytes, late_s: float = 0.0) -> None:
                node.ledger.apply(b"".join(commands))
                time.sleep(late_s)
                archiver.ledger.apply(b"".join(commands))

            ids = (uuid.uuid4().bytes for _ in range(4))
            run(*(create_account(next(ids)) for _ in range(2)), deposit(next(ids), 1, 1_000))
            with SocketPage(app.port, "/account/1") as page:
                page.wait_for("Live")
                run(hold(next(ids), 1, 2, 777), late_s=1.5)
                page.wait_for("no end")  # the row of the hold says so of it


def test_pages_go_with_their_sockets(app: AdminProcess) -> None:
    def is_room() -> bool:
        with SocketPage(app.port) as page:
            return any("Live" in str(content) for _, content in page.messages(2))

    for _ in range(PAGES_MAX + 2):
        assert poll_until(is_room, DEADLINE_S)
