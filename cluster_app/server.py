"""A node's gRPC server: its limits, who may call it, and the port that it is bound to."""

import ipaddress
from typing import Final

import grpc
import structlog

from cluster_app.errors import Fault
from cluster_app.settings import NodeSettings, TlsFiles
from cluster_app.tokens import TokenCheck

OTHER_CALLS_MAX: Final = 1_024
"""Unary calls and queries beside the command streams, so that health is always answered."""

KEEPALIVE_MS: Final = 20_000
"""A peer that vanished without a word (cable, NAT) holds its streams for twice this at most."""

_CLIENT_KEEPALIVE_MS: Final = 5_000
"""Clients may ask so often whether this node still answers; gRPC's five minutes would end their
connections."""


def server_on(
    settings: NodeSettings, listen: str, *, shared_port: bool = False
) -> tuple[grpc.aio.Server, str]:
    """(a server bound to `listen` that isn't started yet, the address that others are told).

    Call it inside the running loop. `shared_port`: other processes may bind it as well
    (SO_REUSEPORT), and the system spreads connections over them. Raises Fault when the port can't
    be had, UsageError when the TLS files can't be used.
    """
    warn_when_open(settings, listen)
    tokens = settings.tokens()
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_streams + OTHER_CALLS_MAX,
        options=(
            ("grpc.so_reuseport", int(shared_port)),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_concurrent_streams", settings.max_streams + OTHER_CALLS_MAX),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),
            ("grpc.http2.min_ping_interval_without_data_ms", _CLIENT_KEEPALIVE_MS),
        ),
        # without tokens there is none, and a call costs what it did
        interceptors=(TokenCheck(tokens),) if tokens else None,
    )
    try:
        port = _add_port(server, listen, settings.tls())
    except RuntimeError:
        port = 0
    if not port:
        raise Fault(f"cannot listen on {listen}: is the port in use?")
    host = listen.rpartition(":")[0]
    return server, settings.advertise or f"{host}:{port}"


def _add_port(server: grpc.aio.Server, listen: str, files: TlsFiles | None) -> int:
    if files is None:
        return server.add_insecure_port(listen)
    from cluster_app.tls import server_credentials

    return server.add_secure_port(listen, server_credentials(files))


def warn_when_open(settings: NodeSettings, listen: str) -> None:
    """Say once what an address that others can reach lacks."""
    missing = []
    if not settings.tls_cert:
        missing.append("--tls-cert and --tls-key: what is sent can be read and changed on its way")
    if not settings.token and not settings.tls_client_ca:
        missing.append("--token or --tls-client-ca: whoever reaches the port can move money")
    if missing and not _is_loopback(listen.rpartition(":")[0]):
        structlog.get_logger().warning("open to the network", listen=listen, missing=missing)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
