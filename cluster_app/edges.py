"""Which edge serves a node's hot calls: the native one where it is built, else grpc.aio."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from cluster_app.errors import Fault
from cluster_app.ingress import Ingress
from cluster_app.server import server_on
from cluster_app.settings import EdgeSettings
from cluster_app.state_view import StateView
from cluster_core.books import Books

if TYPE_CHECKING:
    from cluster_app.edge.serving import NativeServer

_MISSING: Final = "the native edge isn't built: install Rust and run `make setup` again"


@dataclass
class BoundEdge:
    """A server that isn't started yet, and the command side that it feeds."""

    server: "grpc.aio.Server | NativeServer"
    ingress: Ingress
    address: str

    def add(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        servicer: health.aio.HealthServicer,
        names: Sequence[str],
    ) -> None:
        """Serve these handlers, health, and the reflection of the services `names`."""
        server: Any = self.server
        server.add_generic_rpc_handlers(handlers)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(reflection.aio.ReflectionServicer(names), server)

    def answer_queries(self, view: StateView, books: Books) -> None:
        """Let the edge read the books by itself, if it can."""
        if not isinstance(self.server, grpc.aio.Server):
            self.server.answer_queries(view, books)


def bind_edge(
    settings: EdgeSettings,
    listen: str,
    *,
    max_in_flight: int = 0,
    max_streams: int = 0,
    shared_port: bool = False,
    tells: bool = True,
) -> BoundEdge:
    """Bind `listen` on the edge that the settings ask for; call it inside the running loop.

    `tells`: log a line when the native edge isn't there; of several processes one is enough.
    Raises Fault when the port can't be had, or the native edge is asked for and not built;
    UsageError when the TLS files can't be used.
    """
    if is_native(settings.edge, tells=tells):
        from cluster_app.edge.serving import NativeServer

        native = NativeServer(
            settings,
            listen,
            max_in_flight=max_in_flight,
            max_streams=max_streams,
            shared_port=shared_port,
        )
        return BoundEdge(native, native.ingress, native.address)
    server, address = server_on(settings, listen, shared_port=shared_port)
    return BoundEdge(server, Ingress(max_in_flight=max_in_flight, max_streams=max_streams), address)


def is_native(edge: str, *, tells: bool = True) -> bool:
    """Whether `--edge` means the native one here. Raises Fault when it must be and isn't built."""
    if edge == "grpcio":
        return False
    try:
        import cluster_app.edge._native  # noqa: F401
    except ImportError:
        if edge == "native":
            raise Fault(f"--edge native: {_MISSING}") from None
        if tells:
            structlog.get_logger().info("grpc.aio serves", why=_MISSING)
        return False
    return True
