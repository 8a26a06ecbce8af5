"""How the apps serve: settings, a listening socket, the ledger's client, then until SIGTERM."""

import gc
import socket
import sys
from collections.abc import Callable
from typing import Final

import uvloop

from client_app.gate import Gate
from client_app.http_server import (
    BACKLOG,
    ConnectionLimits,
    HttpServer,
    listen_on,
    raise_file_limit,
)
from client_app.live import LiveLedger
from client_app.logs import configure_logs
from client_app.settings import AppSettings, split_address
from client_core import Client, RingledgerClientError

BODIES_AT_ONCE: Final = 32
"""So many of the largest bodies may be on their way in together: 64 MiB by default."""


def serve(
    settings: AppSettings,
    client: Client,
    build_app: Callable[[LiveLedger], Gate],
    announce: Callable[[str], None],
) -> int:
    """Serve until SIGTERM. 0: clean stop, 1: the ledger or the port isn't there.

    `announce` is told the address once it is served.
    """
    configure_logs(settings.log_level)
    return uvloop.run(_serve(settings, client, build_app, announce))


async def _serve(
    settings: AppSettings,
    client: Client,
    build_app: Callable[[LiveLedger], Gate],
    announce: Callable[[str], None],
) -> int:
    host, port = split_address(settings.listen, "listen")
    try:
        listener = listen_on(host, port)
    except OSError as error:
        print(f"error: can't listen on {settings.listen}: {error.strerror}", file=sys.stderr)
        return 1
    with listener:
        try:
            async with client:
                live = LiveLedger(client, settings.max_pages)
                app = build_app(live)
                async with app.running():
                    server = HttpServer(
                        app,
                        ConnectionLimits(
                            raise_file_limit(settings.max_connections),
                            settings.idle_timeout_s,
                            settings.transfer_timeout_s,
                        ),
                        settings.stop_timeout_s,
                        (settings.https_cert, settings.https_key) if settings.https_cert else None,
                        on_stop=live.end_pages,
                        sockets=app.pages is not None,
                    )
                    _tune_collector()
                    listener.listen(BACKLOG)  # ready: who connects now is served in a moment
                    announce(_address_of(listener))
                    try:
                        await server.run_on(listener)
                    finally:
                        await live.close()
        except RingledgerClientError as error:
            print(f"error: no node of {settings.endpoints} answers: {error}", file=sys.stderr)
            return 1
    return 0


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tune_collector() -> None:
    """Requests leave few cycles behind: look for them less often, and never through the modules.

    8 % of a transfer's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
