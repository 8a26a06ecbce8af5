"""The network: gRPC's server, context and channel, as far as the roles and client_core use them.

A connection keeps its messages in order and whole, as HTTP/2 over TCP does. Its faults are those
of a network: it is slow, it is cut, and what was under way is lost in either direction; an end
learns of a cut soon, or only by the keepalive. The handlers, their codecs and their refusals are
the real ones.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import grpc

from tests.simulation.journals import MS, US
from tests.simulation.stand_ins import process, world
from tests.simulation.world import NS_PER_S, Process, World

_KEEPALIVE_S: Final = 20.0
_Metadata = tuple[tuple[str, Any], ...]


class Network:
    """Which process serves which address, and the connections that are open."""

    def __init__(self, here: World) -> None:
        self.world = here
        self.servers: dict[str, SimServer] = {}
        self.links: dict[int, Link] = {}
        self.cut_off: set[str] = set()
        """Processes that nobody reaches, for now."""
        self.delay_ns = 0
        self._links = 0

    def connect(self, client: Process, target: str) -> "Link | None":
        """A connection; None when nobody listens there or it can't be reached."""
        server = self.servers.get(target)
        if server is None or not server.process.alive or self._is_cut(client, server.process):
            return None
        self._links += 1
        link = Link(self, self._links, client, server)
        self.links[link.number] = link
        return link

    def cut(self, link: "Link") -> None:
        """Break one connection: what is under way is lost, and both ends learn of it."""
        link.is_cut = True
        self.links.pop(link.number, None)
        for tell, owner in ((link.lose_client, link.client), (link.lose_server, link.server)):
            silent = self.world.random.random() < 0.2
            wait_ns = int(_KEEPALIVE_S * NS_PER_S) if silent else self.world.between(MS, 200 * MS)
            self.world.post(wait_ns, tell, owner)

    def isolate(self, name: str) -> None:
        """Cut a process off: its connections break, and new ones fail."""
        self.cut_off.add(name)
        for link in list(self.links.values()):
            if name in (link.client.name, link.server.name):
                self.cut(link)

    def heal(self) -> None:
        """Everybody reaches everybody again."""
        self.cut_off.clear()
        self.delay_ns = 0

    def lose_process(self, dead: Process) -> None:
        """A process has died: the system resets its connections."""
        for address in [a for a, server in self.servers.items() if server.process is dead]:
            del self.servers[address]
        for link in [link for link in self.links.values() if dead in (link.client, link.server)]:
            self.cut(link)

    def _is_cut(self, *ends: Process) -> bool:
        return any(end.name in self.cut_off for end in ends)


class Link:
    """One call's connection: messages in order, each way."""

    def __init__(self, network: Network, number: int, client: Process, server: "SimServer") -> None:
        self.number = number
        self.client = client
        self.server = server.process
        self.is_cut = False
        self.unanswered = 0
        """Messages sent less messages received by the client: a guess at what a cut loses."""
        self.lose_client: Callable[[], None] = lambda: None
        self.lose_server: Callable[[], None] = lambda: None
        self._network = network
        self._arrives_ns = {True: 0, False: 0}

    def send(self, to_server: bool, deliver: Callable[[], None], data: bytes = b"") -> None:
        """Hand something to the other end's event loop, unless the connection breaks before."""
        here, network = self._network.world, self._network
        delay_ns = here.between(50 * US, 2 * MS) + network.delay_ns
        arrives_ns = max(self._arrives_ns[to_server], here.now_ns + delay_ns)
        self._arrives_ns[to_server] = arrives_ns
        here.note(f"message {self.number} {'to' if to_server else 'from'} {self.server.name}", data)
        owner = self.server if to_server else self.client

        def arrive() -> None:
            if not self.is_cut:
                deliver()

        here.post(arrives_ns - here.now_ns, arrive, owner)

    def close(self) -> None:
        """Both ends are done with it."""
        self._network.links.pop(self.number, None)


class SimServer:
    """grpc.aio.Server: it takes the real generic handlers."""

    def __init__(self, network: Network, address: str) -> None:
        self.process = process()
        self.tasks: dict[asyncio.Task[None], Link] = {}
        self._network = network
        self._address = address
        self._handlers: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, *_: Any) -> None:
        """Health and reflection: nobody asks them here."""

    def answer_queries(self, *_: Any) -> None:
        """The handlers answer them."""

    async def start(self) -> None:
        self._network.servers[self._address] = self

    async def stop(self, grace: float | None) -> None:
        if self._network.servers.get(self._address) is self:
            del self._network.servers[self._address]
        tasks = set(self.tasks)
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=grace)
            for task in pending:
                task.cancel()

    def handler(self, method: str) -> Any:
        """The real handler of a method; None for one that is not served."""
        details = SimpleNamespace(method=method, invocation_metadata=())
        for generic in self._handlers:
            found = generic.service(details)
            if found is not None:
                return found
        return None

    def accept(self, link: Link, context: "SimContext", serve: Coroutine[Any, Any, None]) -> None:
        """Serve one call in this process's loop."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(serve)
        self.tasks[task] = link

        def ended(_: object) -> None:
            self.tasks.pop(task, None)

        task.add_done_callback(ended)

        def lose() -> None:
            loop.call_soon(task.cancel)

        link.lose_server = lose
        context.task = task


class SimContext:
    """grpc.aio.ServicerContext of one call."""

    def __init__(self, link: Link, deadline_s: float | None, call: Any) -> None:
        self.task: asyncio.Task[None] | None = None
        self._link = link
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._ended = False

    def arrived(self, request: Any) -> None:
        """A message of the client."""
        self._requests.put_nowait(request)

    async def read(self) -> Any:
        return await self._requests.get()

    async def write(self, message: bytes) -> None:
        if self._ended:
            raise asyncio.InvalidStateError("the call has ended")
        self._link.send(False, partial(self._call.answered, message), message)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: _Metadata = ()
    ) -> None:
        self.finish(code, details, trailing_metadata)
        raise grpc.aio.AbortError("aborted")

    def finish(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: _Metadata = ()
    ) -> None:
        """Send the status, once."""
        if not self._ended:
            self._ended = True
            self._link.send(False, partial(self._call.ended, code, details, trailing_metadata))

    def time_remaining(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - self._loop.time()

    def invocation_metadata(self) -> _Metadata:
        return ()


class SimChannel:
    """grpc.aio.Channel: every call has a connection of its own."""

    def __init__(self, network: Network, target: str) -> None:
        self._network = network
        self._target = target
        self._calls: dict[SimCall, None] = {}

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None
    ) -> Callable[..., Any]:
        async def call(request: Any, **options: Any) -> Any:
            data = request_serializer(request) if request_serializer else request
            running = self._start(method, options.get("timeout"))
            try:
                running.request(data)
                answers = [answer async for answer in running]
            finally:
                running.cancel()
            return response_deserializer(answers[0]) if response_deserializer else answers[0]

        return call

    def stream_stream(self, method: str, **_: Any) -> Callable[..., Any]:
        return lambda metadata=None: self._start(method, None)

    def _start(self, method: str, timeout_s: float | None) -> "SimCall":
        call = SimCall(self._network, self._target, method, timeout_s, self._calls)
        self._calls[call] = None
        return call

    async def close(self, grace: float | None = None) -> None:
        for call in list(self._calls):
            call.cancel()


class SimCall:
    """grpc.aio.Call, from the client's side."""

    def __init__(
        self,
        network: Network,
        target: str,
        method: str,
        timeout_s: float | None,
        calls: dict["SimCall", None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._status: tuple[grpc.StatusCode, str, _Metadata] | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        self._calls = calls
        self._context: SimContext | None = None
        self._early: list[Any] = []
        self._timer = None
        if timeout_s is not None:
            self._timer = self._loop.call_later(
                timeout_s, self.ended, grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded"
            )
        self._deadline_s = None if timeout_s is None else self._loop.time() + timeout_s
        self._link = network.connect(process(), target)
        if self._link is None:
            refused = world().between(200 * US, 20 * MS) / NS_PER_S
            unreachable = (grpc.StatusCode.UNAVAILABLE, f"failed to connect to {target}")
            self._loop.call_later(refused, self.ended, *unreachable)
            return
        self._link.lose_client = self._lost
        server = network.servers[target]
        self._link.send(True, partial(self._accepted, server, method), method.encode())

    def _accepted(self, server: SimServer, method: str) -> None:
        """On the server's side, between two turns of its loop."""
        link = self._link
        if link is None:
            raise AssertionError("an accepted call has a connection")
        loop = server.process.threads[0].loop

        def begin() -> None:
            handler = server.handler(method)
            context = self._context = SimContext(link, self._deadline_s, self)
            for request in self._early:
                context.arrived(request)
            server.accept(link, context, _serve(handler, context))

        loop.call_soon(begin)

    # the client's side

    def _lost(self) -> None:
        self._loop.call_soon(self.ended, grpc.StatusCode.UNAVAILABLE, "connection lost")

    def request(self, data: Any) -> None:
        """Send one message, or the end of sending."""
        if self._link is None:
            return
        self._link.unanswered += 1

        def arrive() -> None:
            if self._context is None:
                self._early.append(data)
            else:
                self._context.arrived(data)

        self._link.send(True, arrive, data if isinstance(data, bytes) else b"")

    async def write(self, data: bytes) -> None:
        if self._status is not None:
            raise asyncio.InvalidStateError("the call is over")
        self.request(data)

    async def done_writing(self) -> None:
        self.request(grpc.aio.EOF)

    def cancel(self) -> bool:
        if self._status is not None:
            return False
        link = self._link
        if link is not None and not link.is_cut:
            link.send(True, link.lose_server)
        self.ended(grpc.StatusCode.CANCELLED, "cancelled on this side")
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def answered(self, message: bytes) -> None:
        """A message of the server has arrived."""
        if self._status is None:
            if self._link is not None:
                self._link.unanswered -= 1
            self._answers.put_nowait(message)

    def ended(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: _Metadata = ()
    ) -> None:
        """The call is over; only the first status counts."""
        if self._status is not None:
            return
        self._status = (code, details, trailing_metadata)
        self._calls.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.close()
        for callback in self._callbacks:
            callback(self)
        self._answers.put_nowait(None)

    async def code(self) -> grpc.StatusCode:
        return self._status[0] if self._status else grpc.StatusCode.UNKNOWN

    async def details(self) -> str:
        return self._status[1] if self._status else ""

    async def trailing_metadata(self) -> _Metadata:
        return self._status[2] if self._status else ()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._answers.get()) is not None:
            yield message
        if self._status is None:
            raise AssertionError("the end of answers without a status")
        code, details, trailing = self._status
        if code is grpc.StatusCode.OK:
            return
        if code is grpc.StatusCode.CANCELLED:
            raise asyncio.CancelledError
        raise grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
        )


async def _serve(handler: Any, context: SimContext) -> None:
    """Run a real handler to its end; its status is the call's."""
    if handler is None:
        context.finish(grpc.StatusCode.UNIMPLEMENTED, "method not found")
        return
    try:
        if handler.unary_unary is not None:
            request = await context.read()
            await context.write(await handler.unary_unary(request, context))
        elif handler.unary_stream is not None:
            await handler.unary_stream(await context.read(), context)
        else:
            await handler.stream_stream(None, context)
        context.finish(grpc.StatusCode.OK)
    except grpc.aio.AbortError:
        pass
    except asyncio.CancelledError:
        context.finish(grpc.StatusCode.CANCELLED, "the server has stopped")
