"""The native edge as a server: bound, given handlers and books, started, stopped."""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt
import structlog

from cluster_app.bank import DONE_TEXTS, NOT_FOUND_TEXT, REFUSED_TEXTS, BankQueryService
from cluster_app.edge._native import Edge
from cluster_app.edge.calls import Aborted, Call, QuestionContext, Worded, worded
from cluster_app.edge.commands import NativeIngress
from cluster_app.errors import Fault
from cluster_app.ingress import too_many_streams
from cluster_app.rpc import not_leader
from cluster_app.server import KEEPALIVE_MS, OTHER_CALLS_MAX, warn_when_open
from cluster_app.settings import EdgeSettings, split_address
from cluster_app.state_view import StateView
from cluster_app.tls import TlsChanges, TlsTexts
from cluster_app.tokens import TOKEN_MISSING, TOKEN_UNKNOWN, digests_of
from cluster_core.books import Books
from cluster_core.record import Operation, Status
from cluster_core.structure import client_operations

_CONNECTIONS_MAX: Final = 16_384
_FILES_ELSEWHERE: Final = 256
"""The journal's, the stores', HTTP's: they can be opened while every connection is taken."""

_UNIMPLEMENTED: Final[Worded] = (grpc.StatusCode.UNIMPLEMENTED.value[0], "Method not found!", [])


class NativeServer:
    """What of grpc.aio.Server the nodes use, and `ingress`, `answer_queries` beside it."""

    def __init__(
        self,
        settings: EdgeSettings,
        listen: str,
        *,
        max_in_flight: int,
        max_streams: int,
        shared_port: bool,
    ) -> None:
        """Binds; call it inside the running loop. Raises Fault and UsageError as `server_on`."""
        warn_when_open(settings, listen)
        files = settings.tls()
        self._tls = TlsChanges(files, self._change_tls) if files else None
        self._edge = _bind(
            listen,
            shared_port,
            edge_settings(
                settings,
                self._tls.texts if self._tls else None,
                max_in_flight=max_in_flight,
                max_streams=max_streams,
            ),
        )
        host = listen.rpartition(":")[0]
        self.address: Final = settings.advertise or f"{host}:{self._edge.port}"
        self.ingress: Final = NativeIngress(
            self._edge, max_in_flight=max_in_flight, max_streams=max_streams
        )
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._calls: dict[int, Call] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._bank_queries: BankQueryService | None = None
        self._tls_questions: list[int] = []
        self._tls_look: asyncio.Task[None] | None = None
        self._happened: Final[dict[str, Callable[..., None]]] = {
            "opened": self._opened,
            "message": self._message,
            "writable": self._writable,
            "cancelled": self._cancelled,
            "ask_message": self._ask_message,
            "ask_lost": self._ask_lost,
            "ask_query": self._ask_query,
            "ask_tls": self._ask_tls,
        }

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Handlers of what the edge doesn't serve by itself."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service_name: str, handlers: Any) -> None:
        """Generated code names its handlers twice; once is enough."""

    def answer_queries(self, view: StateView, books: Books) -> None:
        """Answer plain queries from the books, without Python; with patience from the view."""
        self._bank_queries = BankQueryService(view)
        self._edge.read_books(
            _words(books.marks), _words(books.ledger), _words(books.accounts), _words(books.assets)
        )

    async def start(self) -> None:
        """Serve from now on."""
        asyncio.get_running_loop().add_reader(self._edge.wake_descriptor, self._wake)
        self._edge.start()

    async def stop(self, grace_s: float | None) -> None:
        """Take no new calls, give those that are served `grace_s`, then end them."""
        await asyncio.to_thread(self._edge.stop, grace_s or 0.0)
        asyncio.get_running_loop().remove_reader(self._edge.wake_descriptor)
        for call in list(self._calls.values()):
            call.cancel()

    def _wake(self) -> None:
        self._edge.clear_wake()
        for name, *told in self._edge.events():
            try:
                self._happened[name](*told)
            except Exception as fault:  # noqa: BLE001 - all else that has happened must be heard
                structlog.get_logger().exception("edge_event_failed")
                self._edge.refuse(told[0], _failed(fault))
                self._edge.finish(told[0], _failed(fault))
        self.ingress.wake()

    # calls that are passed on

    def _opened(
        self, number: int, method: str, message: bytes | None, timeout_s: float | None
    ) -> None:
        details: Any = _HandlerCallDetails(method)
        for handlers in self._handlers:
            handler = handlers.service(details)
            if handler is not None:
                call = Call(self._edge, number, handler, timeout_s, message)
                self._calls[number] = call
                call.when_over(lambda: self._calls.pop(number, None))
                return
        self._edge.finish(number, _UNIMPLEMENTED)

    def _message(self, number: int, message: bytes | None) -> None:
        if number in self._calls:
            self._calls[number].take_message(message)

    def _writable(self, number: int) -> None:
        if number in self._calls:
            self._calls[number].go_on()

    def _cancelled(self, number: int) -> None:
        if number in self._calls:
            self._calls[number].cancel()

    # questions

    def _ask_message(self, number: int, contract: int, index: int, message: bytes) -> None:
        judged = self.ingress.judge_message(contract, index, message)
        if isinstance(judged, bytes):
            self._edge.answer(number, judged)
        else:
            self._edge.refuse(number, worded(judged))

    def _ask_lost(
        self, number: int, contract: int, answered: int, not_run_from: int, reason: str
    ) -> None:
        refusal = self.ingress.lost(contract, answered, not_run_from, reason)
        self._edge.refuse(number, worded(refusal))

    def _ask_query(self, number: int, message: bytes) -> None:
        self._answer_later(number, lambda: self._query(message))

    async def _query(self, message: bytes) -> bytes:
        if self._bank_queries is None:
            raise Fault("a query before there was anything to read")
        return await self._bank_queries.answer(message, QuestionContext().as_context())

    def _ask_tls(self, number: int) -> None:
        self._tls_questions.append(number)
        if self._tls_look is None:
            self._tls_look = asyncio.get_running_loop().create_task(self._look_at_tls())

    async def _look_at_tls(self) -> None:
        """One look serves all connections that came before it: many at once cost one thread."""
        try:
            while self._tls_questions:
                numbers, self._tls_questions = self._tls_questions, []
                if self._tls is not None:
                    await asyncio.to_thread(self._tls)
                for number in numbers:
                    self._edge.answer(number, b"")
        finally:
            self._tls_look = None

    def _change_tls(self, texts: TlsTexts) -> None:
        self._edge.change_tls(*texts)

    def _answer_later(self, number: int, find: Callable[[], Awaitable[bytes]]) -> None:
        async def answer() -> None:
            try:
                self._edge.answer(number, await find())
            except Aborted as end:
                self._edge.refuse(number, end.worded)
            except Exception as fault:  # noqa: BLE001 - who asks waits for an answer
                structlog.get_logger().exception("edge_question_failed")
                self._edge.refuse(number, _failed(fault))

        task = asyncio.get_running_loop().create_task(answer())
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)


def _failed(fault: Exception) -> Worded:
    """A fault of this node's own, as grpc.aio tells it."""
    return grpc.StatusCode.UNKNOWN.value[0], f"Unexpected {type(fault)}: {fault}", []


class _HandlerCallDetails:
    """What a generic handler looks at."""

    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()

    def __init__(self, method: str) -> None:
        self.method = method


def _bind(listen: str, shared_port: bool, settings: dict[str, Any]) -> Edge:
    host, port = split_address(listen, "listen")
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM
        )
        shown = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
        return Edge(f"{shown}:{port}", shared_port, settings)
    except OSError as error:
        raise Fault(f"cannot listen on {listen}: {error.strerror}: is the port in use?") from None


def edge_settings(
    settings: EdgeSettings, tls: TlsTexts | None, *, max_in_flight: int, max_streams: int
) -> dict[str, Any]:
    """All that an `Edge` is made with, by the names in `src/edge.rs`."""
    fields, flags = client_operations()
    done, refused = [""] * (max(Operation) + 1), [""] * (max(Status) + 1)
    for operation, text in DONE_TEXTS.items():
        done[operation] = text
    for status, text in REFUSED_TEXTS.items():
        refused[status] = text
    return {
        "max_in_flight": max_in_flight,
        "max_streams": max_streams,
        "max_calls": settings.max_streams + OTHER_CALLS_MAX,
        "max_connections": _connections_max(),
        "max_message_bytes": settings.max_message_bytes,
        "keepalive_ms": KEEPALIVE_MS,
        "operation_fields": fields,
        "operation_flags": flags,
        "done_texts": done,
        "refused_texts": refused,
        "not_found_text": NOT_FOUND_TEXT,
        "token_digests": digests_of(settings.tokens()),
        "token_missing": worded(TOKEN_MISSING),
        "token_unknown": worded(TOKEN_UNKNOWN),
        "too_many_streams": worded(too_many_streams(max_streams)),
        "not_leading": worded(not_leader("")),
        "tls": tls and tuple(tls),
    }


def _connections_max() -> int:
    """Connections that the limit of open files leaves room for, once it is as high as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return _CONNECTIONS_MAX
    return max(1, min(_CONNECTIONS_MAX, hard - _FILES_ELSEWHERE))


def _words(array: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The same memory as u64 words."""
    return array.view(np.ndarray).view(np.uint64)
