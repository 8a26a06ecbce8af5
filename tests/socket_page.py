"""A page without a browser: its HTML, its socket, and what the app tells it over that."""

import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.server_process import poll_until

TIMEOUT_S = 20.0
_ACK_EVERY = 10
_NUMBER = re.compile(r'"_id":(\d+)')


class Answer(NamedTuple):
    """A raw HTTP answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    content: bytes


def get(port: int, path: str, *, method: str = "GET", **headers: str) -> Answer:
    """One request on a connection of its own; `_` in a header's name stands for `-`."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        content = answer.read()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, told, content)
    finally:
        connection.close()


def client_id_of(html: bytes) -> str:
    """The id of a page, as it stands in its HTML."""
    found = re.search(rb"'client_id': '([0-9a-f-]{36})'", html)
    assert found is not None, html[:500]
    return found[1].decode()


def open_socket(
    port: int,
    client_id: str,
    *,
    path: str = "/_nicegui_ws/socket.io/",
    origin: str | None = "",
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    **query: str,
) -> ClientConnection:
    """A page's socket, as its browser opens it. Raises InvalidStatus when it isn't taken."""
    asked = {
        "client_id": client_id,
        "next_message_id": "0",
        "implicit_handshake": "true",
        "document_id": str(uuid.uuid4()),
        "tab_id": str(uuid.uuid4()),
        "EIO": "4",
        "transport": "websocket",
    } | query
    return connect(
        f"{'wss' if tls else 'ws'}://127.0.0.1:{port}{path}?{urlencode(asked)}",
        ssl=tls,
        origin=f"http{'s' if tls else ''}://127.0.0.1:{port}" if origin == "" else origin,  # type: ignore[arg-type]
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=TIMEOUT_S,
    )


class SocketPage:
    """An open page of one app, as long as it is entered."""

    def __init__(self, port: int, path: str = "/") -> None:
        answer = get(port, path)
        assert answer.status == 200, answer
        self._port = port
        self.html = answer.content.decode()
        self.client_id = client_id_of(answer.content)
        self.tab_id = str(uuid.uuid4())
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(
            open_socket(port, self.client_id, tab_id=self.tab_id)
        )
        self.socket.send("40")
        self._unacked = 0

    def messages(self, timeout_s: float = TIMEOUT_S) -> Iterator[tuple[str, Any]]:
        """Name and content of what the app tells, to the end of the socket or the time."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                frame = self.socket.recv(timeout=left_s)
            except TimeoutError:
                return
            assert isinstance(frame, str)
            if frame == "2":
                self.socket.send("3")
            elif frame.startswith("42"):
                name, content = json.loads(frame[2:])
                self._acknowledge(content)
                yield name, content

    def wait_for(self, text: str, timeout_s: float = TIMEOUT_S) -> float:
        """Seconds until an element has this text. Raises AssertionError if none has."""
        begun = time.monotonic()
        for name, content in self.messages(timeout_s):
            if name == "update" and any(
                isinstance(element, dict) and element.get("text") == text
                for element in content.values()
            ):
                return time.monotonic() - begun
        raise AssertionError(f"nothing says {text!r}")

    def click(self, text: str) -> None:
        """Click the button of this text, once it is there. Raises AssertionError if none is."""
        for name, content in self.messages():
            for number, element in content.items() if name == "update" else ():
                props = element.get("props") if isinstance(element, dict) else None
                if props and props.get("label") == text:
                    heard = next(each for each in element["events"] if each["type"] == "click")
                    event = {"id": int(number), "listener_id": heard["listener_id"], "args": []}
                    self.emit("event", event | {"client_id": self.client_id})
                    return
        raise AssertionError(f"nothing says {text!r}")

    def sign_in(self, key: str) -> None:
        """Answer the app's question for the tab's key, as its browser would."""
        for name, content in self.messages():
            if name == "run_javascript" and "sessionStorage.getItem" in content["code"]:
                answer = {"client_id": self.client_id, "request_id": content["request_id"]}
                self.emit("javascript_response", answer | {"result": key})
                return
        raise AssertionError("no key is asked for")

    def open_again(self) -> ClientConnection:
        """Close the page's socket; another one for it, once the app has noticed that."""
        self.socket.close()
        opened: list[ClientConnection] = []

        def is_taken() -> bool:
            try:
                opened.append(open_socket(self._port, self.client_id, tab_id=self.tab_id))
            except InvalidStatus as refused:
                if refused.response.status_code != 403:
                    raise
            return bool(opened)

        assert poll_until(is_taken, TIMEOUT_S), "the app keeps the closed socket"
        return opened[0]

    def drain(self, stop: threading.Event) -> None:
        """Read all that the app tells, and look at nothing, until it ends or `stop` is set."""
        with suppress(ConnectionClosed):
            while not stop.is_set():
                try:
                    frame = self.socket.recv(timeout=1)
                except TimeoutError:
                    continue
                assert isinstance(frame, str)
                if frame == "2":
                    self.socket.send("3")
                elif numbered := _NUMBER.search(frame):
                    self._acknowledge({"_id": int(numbered[1])})

    def emit(self, name: str, content: Any) -> None:
        """Send an event, as the page's own script would."""
        self.socket.send(f"42{json.dumps([name, content])}")

    def _acknowledge(self, content: Any) -> None:
        self._unacked += 1
        if self._unacked >= _ACK_EVERY and "_id" in content:
            self._unacked = 0
            acked = {"client_id": self.client_id, "next_message_id": content["_id"] + 1}
            self.emit("ack", acked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
