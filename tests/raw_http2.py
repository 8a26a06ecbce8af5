"""HTTP/2 frames by hand, for what no gRPC client does: RFC 9113, headers as RFC 7541 literals."""

import socket
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from types import TracebackType
from typing import Final, NamedTuple, Self

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_BYTES: Final = 65_535
"""Of a stream and of a connection, unless a peer says otherwise."""

END_STREAM: Final = 1
_ACK: Final = 1
_END_HEADERS: Final = 4
_INITIAL_WINDOW_SIZE: Final = 4
_HEAD_BYTES: Final = 9
_READ_BYTES: Final = 1 << 18


class Kind(IntEnum):
    """Frame types."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8


class Frame(NamedTuple):
    """One frame as it was read."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as it is sent."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def opening(stream: int, method: str, **further: str) -> bytes:
    """The headers of a gRPC call; `grpc_timeout="1S"` is one more of them."""
    named = {":method": "POST", ":scheme": "http", ":path": f"/{method}", ":authority": "node"}
    named |= {"content-type": "application/grpc", "te": "trailers"}
    named |= {name.replace("_", "-"): value for name, value in further.items()}
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in named.items())
    return frame(Kind.HEADERS, _END_HEADERS, stream, block)


def message(stream: int, serialized: bytes) -> bytes:
    """One gRPC message in a DATA frame of its own."""
    return frame(Kind.DATA, 0, stream, b"\0" + struct.pack(">I", len(serialized)) + serialized)


def reset(stream: int) -> bytes:
    """The client takes a call back (CANCEL)."""
    return frame(Kind.RST_STREAM, 0, stream, struct.pack(">I", 8))


def room(stream: int, count: int) -> bytes:
    """Take so many bytes more of a stream, 0 for the connection."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">I", count))


def _text(text: str) -> bytes:
    encoded = text.encode("ascii")
    if len(encoded) >= 127:
        raise ValueError("a longer text needs another form of length")
    return bytes((len(encoded),)) + encoded


class RawConnection:
    """A connection that has sent its preface.

    `connection_bytes` may be sent on it, `stream_bytes` on its stream if it has but one: counted,
    never enforced.
    """

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self._data: dict[int, bytearray] = {}
        self.stream_bytes = self.connection_bytes = WINDOW_BYTES
        self.send(PREFACE + frame(Kind.SETTINGS, 0, 0))

    @property
    def room(self) -> int:
        """Bytes that may be sent on the only stream there is."""
        return min(self.stream_bytes, self.connection_bytes)

    def send(self, frames: bytes, data_bytes: int = 0) -> None:
        """Send; `data_bytes` of it fall under flow control. Raises OSError once it was closed."""
        self._socket.sendall(frames)
        self.stream_bytes -= data_bytes
        self.connection_bytes -= data_bytes

    def frames(self, seconds: float) -> Iterator[Frame]:
        """What comes within so many seconds, or until the node closes (EOFError)."""
        deadline = time.monotonic() + seconds
        while True:
            while (read := self._cut()) is not None:
                self._heed(read)
                yield read
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            self._socket.settimeout(left_s)
            try:
                received = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                return
            finally:
                self._socket.settimeout(None)
            if not received:
                raise EOFError("the node has closed the connection")
            self._unread += received

    def messages(self, stream: int) -> int:
        """Whole gRPC messages that have come on a stream."""
        framed, place, count = self._data.get(stream, b""), 0, 0
        while (begin := place + 5) <= len(framed):
            place = begin + int.from_bytes(framed[place + 1 : begin])
            count += place <= len(framed)
        return count

    def _cut(self) -> Frame | None:
        end = _HEAD_BYTES + int.from_bytes(self._unread[:3])
        if len(self._unread) < max(end, _HEAD_BYTES):
            return None
        data, self._unread = self._unread[:end], self._unread[end:]
        return Frame(data[3], data[4], int.from_bytes(data[5:9]), data[_HEAD_BYTES:])

    def _heed(self, read: Frame) -> None:
        """What every client does: acknowledge settings and pings, note answers, count its room."""
        if read.kind == Kind.SETTINGS and not read.flags & _ACK:
            for name, value in struct.iter_unpack(">HI", read.payload):
                if name == _INITIAL_WINDOW_SIZE:
                    self.stream_bytes += value - WINDOW_BYTES
            self.send(frame(Kind.SETTINGS, _ACK, 0))
        elif read.kind == Kind.PING and not read.flags & _ACK:
            self.send(frame(Kind.PING, _ACK, 0, read.payload))
        elif read.kind == Kind.DATA:
            self._data.setdefault(read.stream, bytearray()).extend(read.payload)
        elif read.kind == Kind.WINDOW_UPDATE:
            [count] = struct.unpack(">I", read.payload)
            if read.stream:
                self.stream_bytes += count
            else:
                self.connection_bytes += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
