"""A bare grpc.aio server that answers the bank query with a constant: what the edge costs alone.

It does nothing else: no state, no parsing, no journal. A leader's figure beside this one, in the
same run, tells what the leader adds.
"""

import asyncio
import signal
from typing import Any

import grpc
import uvloop

from cluster_app import bank
from cluster_app.errors import Fault
from cluster_app.rpc import Context
from proto import balance_pb2

_ANSWER = balance_pb2.BalanceQueryResult(
    singleBalanceResult={"id": 1, "amount": 100, "precision": 2, "active": True}
).SerializeToString()


def serve_echo(listen: str) -> None:
    """Serve on `listen` until SIGTERM, after a line `ready`. Raises Fault for a port in use."""
    uvloop.run(_serve(listen))


async def _serve(listen: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler: Any = grpc.stream_stream_rpc_method_handler(_answer, None, None)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(bank.QUERY_SERVICE, {"sendQuery": handler}),)
    )
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError:
        raise Fault(f"cannot listen on {listen}: is the port in use?") from None
    await server.start()
    host = listen.rpartition(":")[0]
    print(f"ready echo address={host}:{port} epoch=0 applied=0", flush=True)
    await stop.wait()
    await server.stop(None)


async def _answer(_: object, context: Context) -> None:
    while await context.read() is not grpc.aio.EOF:
        await context.write(_ANSWER)
