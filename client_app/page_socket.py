"""What a page's socket may send: frames of the few kinds that pages send, and not too many.

NiceGUI speaks Socket.IO over a WebSocket: `3` answers a ping, `40` opens, `41` ends, and
`42["event",{...}]` is somebody's click or typing. Anything else ends the socket.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

from starlette.types import Message, Receive, Send

from client_app.auth import RateLimit

MAX_FRAME_BYTES: Final = 65_536
"""A browser sends what was typed into one field: a token is the longest, with 4 KiB."""

_RATE: Final = 50.0
_BURST: Final = 200
"""Frames/s of one socket: quicker than anybody types."""

_SEND_TIMEOUT_S: Final = 20.0
_PLAIN: Final = frozenset({"3", "40", "41", "1"})
_EVENT: Final = "42["
_ARGUMENTS_MAX: Final = 8


class RefusedFrame(Exception):
    """A frame that no page of ours sends."""


def check_frame(text: object, client_id: str) -> bool:
    """Whether a frame is to be handed on; a page's own log lines are not.

    Raises RefusedFrame for what no page sends, or for another page's event.
    """
    if not isinstance(text, str):
        raise RefusedFrame
    if text in _PLAIN:
        return True
    if not text.startswith(_EVENT):
        raise RefusedFrame
    try:
        name, content = json.loads(text[2:])
        if not isinstance(content, dict) or content.get("client_id") != client_id:
            raise RefusedFrame
        return _check_event(name, content)
    except (ValueError, TypeError, RecursionError):
        raise RefusedFrame from None


def _check_event(name: object, content: dict[str, Any]) -> bool:
    if name == "log":
        return False
    if name == "event":
        arguments = content.get("args", [])
        good = (
            type(content.get("id")) is int
            and isinstance(content.get("listener_id"), str)
            and isinstance(arguments, list)
            and len(arguments) <= _ARGUMENTS_MAX
        )
        if good:
            for argument in arguments:
                if argument is not None:
                    json.loads(argument)
    elif name == "ack":
        good = type(content.get("next_message_id")) is int
    else:
        good = name == "javascript_response" and isinstance(content.get("request_id"), str)
    if not good:
        raise RefusedFrame
    return True


class CheckedSocket:
    """One page's socket between the server and NiceGUI, as ASGI's `receive` and `send`."""

    def __init__(
        self,
        client_id: str,
        receive: Receive,
        send: Send,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client_id = client_id
        self._receive = receive
        self._send = send
        self._rate = RateLimit(_RATE, _BURST, monotonic_s)
        self._ended = False

    async def receive(self) -> Message:
        """The next good frame; the end of the socket after a wrong one, or too many."""
        while True:
            message = await self._receive()
            if message["type"] != "websocket.receive":
                return message
            try:
                if self._rate.take(""):
                    raise RefusedFrame
                if check_frame(message.get("text"), self._client_id):
                    return message
            except RefusedFrame:
                await self.end()
                return {"type": "websocket.disconnect", "code": 1008}

    async def end(self) -> None:
        """Close it."""
        await self.send({"type": "websocket.close", "code": 1008})

    async def send(self, message: Message) -> None:
        """Send one frame; who doesn't take it in time is cut off."""
        if self._ended:
            return
        if message["type"] == "websocket.close":
            self._ended = True
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await self._send(message)
        except TimeoutError:
            self._ended = True
            await self._send({"type": "websocket.close", "code": 1008})
