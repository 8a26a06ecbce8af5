"""The network between the processes of a campaign: a TCP proxy whose links can be cut or slowed.

    python -m tests.campaign.proxy CONTROL LINKS

CONTROL is the port that takes orders; LINKS is JSON, link -> [[from_port, to_port], ...]. An order
is a line `{"link": ..., "mode": "open" | "cut" | "delay" | "reset", "delay_s": ...}`. The answer
tells the link's `seen` bytes since its mode was set: held back by a cut, or slowed; for "reset"
it counts connections that were broken or refused.

A cut holds everything back and lets it go when it heals, as TCP does by sending again: no
connection ends unless somebody's patience does.
"""

import asyncio
import json
import socket
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import uvloop

from tests.server_process import HOST

_HELD_MAX: Final = 1 << 20
"""What a cut holds back of one connection before its sender has to wait."""


@dataclass
class Link:
    """What may be cut as one: some ports, and the connections through them."""

    mode: str = "open"
    delay_s: float = 0.0
    seen: int = 0
    pipes: "set[Pipe]" = field(default_factory=set)

    def set(self, mode: str, delay_s: float) -> None:
        """Change the mode; what was held back goes on its way if the link opens."""
        self.mode, self.delay_s, self.seen = mode, delay_s, 0
        for pipe in list(self.pipes):
            if mode == "reset":
                self.seen += 1
                pipe.abort()
            else:
                pipe.flush()


class Pipe(asyncio.Protocol):
    """One direction of one connection: what arrives here is written to `other`."""

    def __init__(self, link: Link, target: tuple[str, int] | None) -> None:
        self.link = link
        self.other: Pipe | None = None
        self.transport: Any = None
        self._target = target
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._waiting = 0
        """Chunks under way on a slow link: later ones must not overtake them."""
        self._ended = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.link.pipes.add(self)
        if self._target is not None:
            if self.link.mode == "reset":
                self.link.seen += 1
                transport.abort()
                return
            transport.pause_reading()
            self._opening = asyncio.ensure_future(self._open(self._target))

    async def _open(self, target: tuple[str, int]) -> None:
        while self.link.mode == "cut":
            self.link.seen += 1
            await asyncio.sleep(0.02)
        try:
            _, other = await asyncio.get_running_loop().create_connection(
                lambda: Pipe(self.link, None), *target
            )
        except OSError:
            self.transport.abort()
            return
        if self.transport.is_closing():
            other.transport.abort()
            return
        self.other, other.other = other, self
        self.flush()
        other.flush()

    def data_received(self, data: bytes) -> None:
        if self.other is None:  # what was read before the other side was reached
            self._hold(data)
            return
        if self.link.mode == "open" and not self._held and not self._waiting:
            self._write(data)
            return
        self.link.seen += len(data)
        if self.link.mode == "delay" and not self._held:
            self._waiting += 1
            asyncio.get_running_loop().call_later(self.link.delay_s, self._arrive, data)
            return
        self._hold(data)

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _HELD_MAX:
            self.transport.pause_reading()
        if self.link.mode == "open" and not self._waiting:
            self.flush()

    def _arrive(self, data: bytes) -> None:
        self._waiting -= 1
        if self.link.mode == "cut":
            self._held.append(data)
            return
        self._write(data)
        if not self._waiting:
            self.flush()

    def flush(self) -> None:
        """Let go of what was held back, unless the link is still cut."""
        if self.link.mode == "cut" or self._waiting or self.other is None:
            return
        while self._held:
            self._write(self._held.popleft())
        self._held_bytes = 0
        if self._ended:
            self._close_other()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.link.pipes.discard(self)
        self._ended = True
        if self.link.mode != "cut" and not self._held and not self._waiting:
            self._close_other()
        else:
            # a cut hides even the end of a connection
            self.link.pipes.add(self)

    def _close_other(self) -> None:
        self.link.pipes.discard(self)
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.close()

    def abort(self) -> None:
        """Break the connection at once."""
        self._held.clear()
        self.transport.abort()
        self._close_other()


class Control(asyncio.Protocol):
    """Takes orders, a line each."""

    def __init__(self, links: dict[str, Link]) -> None:
        self._links = links
        self._line = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._line += data
        while b"\n" in self._line:
            line, _, self._line = self._line.partition(b"\n")
            order = json.loads(line)
            link = self._links[order["link"]]
            if "mode" in order:
                link.set(order["mode"], order.get("delay_s", 0.0))
            self._transport.write(json.dumps({"seen": link.seen}).encode() + b"\n")


async def _serve(control_port: int, ports: dict[str, list[tuple[int, int]]]) -> None:
    loop = asyncio.get_running_loop()
    links = {name: Link() for name in ports}
    for name, pairs in ports.items():
        for from_port, to_port in pairs:
            await loop.create_server(partial(Pipe, links[name], (HOST, to_port)), HOST, from_port)
    await loop.create_server(lambda: Control(links), HOST, control_port)
    print("ready proxy", flush=True)
    await loop.create_future()


class ProxyControl:
    """The campaign's end of the control port, for all of its threads."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=10)
        self._lines = self._socket.makefile("rb")
        self._turn = threading.Lock()

    def set(self, link: str, mode: str, delay_s: float = 0.0) -> int:
        """Set a link's mode: what it has seen so far (a reset counts at once)."""
        return self._order({"link": link, "mode": mode, "delay_s": delay_s})

    def seen(self, link: str) -> int:
        """What the link has held back, slowed or broken since its mode was set."""
        return self._order({"link": link})

    def _order(self, order: dict[str, Any]) -> int:
        with self._turn:
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            return int(json.loads(self._lines.readline())["seen"])

    def close(self) -> None:
        """Disconnect."""
        self._lines.close()
        self._socket.close()


def main() -> int:
    """Serve until killed."""
    uvloop.run(_serve(int(sys.argv[1]), json.loads(sys.argv[2])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
