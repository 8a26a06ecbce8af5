"""`python -m cluster_app handover`: the leader hands over to a standby that has caught up.

It asks all nodes, chooses a standby that could lead and has read what the leader had counted a
moment before, and tells the leader to end its epoch. The standby takes the next one at once.
"""

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from cluster_app.errors import Fault, UsageError
from cluster_app.settings import split_address
from cluster_app.tokens import read_tokens
from proto import ledger_pb2, ledger_pb2_grpc

_PREFIX: Final = "RINGLEDGER_"
_ENDPOINTS_MAX: Final = 64
_CALL_TIMEOUT_S: Final = 2.0
_LOOK_S: Final = 0.002
_FRESH_S: Final = 0.1
"""A standby has caught up when it has read, within this, what the leader had counted before."""

Status = ledger_pb2.GetStatusResponse


@dataclass(frozen=True)
class HandoverSettings:
    """What `handover` takes. Durations are seconds; `token` is sent as bearer token."""

    endpoints: tuple[str, ...]
    timeout_s: float
    tls_ca: str
    tls_cert: str
    tls_key: str
    token: str = field(repr=False)


class Node:
    """One node's channel for admin calls."""

    def __init__(self, endpoint: str, settings: HandoverSettings) -> None:
        self.endpoint = endpoint
        self._metadata = (("authorization", f"Bearer {settings.token}"),) if settings.token else ()
        credentials = _credentials(settings)
        self.channel: grpc.Channel = (
            grpc.insecure_channel(endpoint)
            if credentials is None
            else grpc.secure_channel(endpoint, credentials)
        )
        self._stub: Any = ledger_pb2_grpc.ClusterServiceStub(self.channel)
        self.error = ""

    def status(self) -> Status | None:
        """Its status; None when it gives none, and `error` says why."""
        try:
            status: Status = self._stub.GetStatus(
                ledger_pb2.GetStatusRequest(), timeout=_CALL_TIMEOUT_S, metadata=self._metadata
            )
            return status
        except grpc.RpcError as error:
            self.error = _text(error)
            return None

    def hand_over(self, standby: Status, timeout_s: float) -> ledger_pb2.HandOverResponse:
        """Raises Fault when it doesn't."""
        request = ledger_pb2.HandOverRequest(
            standby=standby.address, standby_next_offset=standby.next_offset
        )
        try:
            answer: ledger_pb2.HandOverResponse = self._stub.HandOver(
                request, timeout=timeout_s, metadata=self._metadata
            )
            return answer
        except grpc.RpcError as error:
            raise Fault(
                f"the leader at {self.endpoint} did not hand over: {_text(error)}"
            ) from None


def main(arguments: Sequence[str]) -> int:
    """Hand over, and print who leads now; returns 0. Raises Fault and UsageError."""
    settings = read_settings(arguments)
    with ExitStack() as stack:
        nodes = [Node(endpoint, settings) for endpoint in settings.endpoints]
        for node in nodes:
            stack.callback(node.channel.close)
        deadline = time.monotonic() + settings.timeout_s
        leader, before = _leader(nodes)
        standby, ready = _caught_up(leader, _standbys(nodes, before), deadline)
        ended = leader.hand_over(ready, settings.timeout_s)
        ended_s = time.monotonic()
        after = _await_leader(standby, nodes, ended.epoch, deadline)
        print(
            f"handed_over from={before.address} to={after.address} epoch={after.epoch} "
            f"applied={ended.applied_sequence} took_ms={(time.monotonic() - ended_s) * 1e3:.0f}",
            flush=True,
        )
    return 0


def _leader(nodes: list[Node]) -> tuple[Node, Status]:
    claims = [
        (status.epoch, node, status)
        for node in nodes
        if (status := node.status()) is not None and status.role == ledger_pb2.ROLE_LEADER
    ]
    if not claims:
        said = "; ".join(f"{node.endpoint}: {node.error or 'does not lead'}" for node in nodes[:8])
        raise Fault(f"no leader among --endpoints: {said}")
    _, node, status = max(claims, key=lambda claim: claim[0])
    return node, status


def _standbys(nodes: list[Node], leader: Status) -> list[Node]:
    found, hindered = [], []
    for node in nodes:
        status = node.status()
        if status is None or status.role != ledger_pb2.ROLE_STANDBY:
            continue
        if status.ledger_id != leader.ledger_id:
            raise Fault(f"{node.endpoint} stands by another ledger: take it out of --endpoints")
        if status.cannot_lead_because:
            hindered.append(f"{node.endpoint}: {status.cannot_lead_because}")
        else:
            found.append(node)
    if hindered and not found:
        raise Fault(f"no standby could lead, so nothing was done: {'; '.join(hindered[:8])}")
    if not found:
        raise Fault(
            "no standby among --endpoints, so nothing was done: start another `leader` on the same "
            "journal, and name its address"
        )
    return found


def _caught_up(leader: Node, standbys: list[Node], deadline: float) -> tuple[Node, Status]:
    """A standby that has read what the leader had counted just before, and its status."""
    behind = 0
    while True:
        for standby in standbys:
            counted = leader.status()
            if counted is None:
                raise Fault(f"the leader at {leader.endpoint} answers no more: {leader.error}")
            asked = time.monotonic()
            while time.monotonic() < asked + _FRESH_S:
                status = standby.status()
                if status is None or status.role != ledger_pb2.ROLE_STANDBY:
                    break
                if status.cannot_lead_because:
                    raise Fault(
                        f"the standby at {standby.endpoint} could not lead, so nothing was done: "
                        f"{status.cannot_lead_because}"
                    )
                behind = counted.next_offset - status.next_offset
                if behind <= 0:
                    return standby, status
                time.sleep(_LOOK_S)
        if time.monotonic() > deadline:
            raise Fault(
                f"no standby has caught up ({behind} batches behind), so nothing was done: wait "
                "until one has, and ask again"
            )
        time.sleep(_LOOK_S)


def _await_leader(standby: Node, nodes: list[Node], epoch: int, deadline: float) -> Status:
    """The status of whoever leads a later epoch: the standby, or another one that was faster."""
    while True:
        for node in (standby, *nodes):
            status = node.status()
            if (
                status is not None
                and status.role == ledger_pb2.ROLE_LEADER
                and status.epoch > epoch
            ):
                return status
        if time.monotonic() > deadline:
            raise Fault(
                f"epoch {epoch} was ended in good order, but nobody has taken the next one yet: "
                "the old leader does so itself after its election timeout; look at the nodes' logs"
            )
        time.sleep(_LOOK_S)


def read_settings(arguments: Sequence[str]) -> HandoverSettings:
    """The settings from flags and RINGLEDGER_* variables. Raises UsageError."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_app handover",
        description="Hand the leadership over to a standby that has caught up.",
        epilog="Each flag is also an environment variable, RINGLEDGER_ENDPOINTS for --endpoints.",
    )
    texts: dict[str, tuple[str, str]] = {
        "endpoints": ("127.0.0.1:9500", "HOST:PORT,HOST:PORT of leader and standbys (%(default)s)"),
        "timeout-s": ("30", "seconds for the whole"),
        "tls-ca": ("", "PEM file of the authorities that sign the nodes' certificates"),
        "tls-cert": ("", "PEM file: own certificate, where nodes ask for one (mTLS)"),
        "tls-key": ("", "PEM file: its key"),
        "token": ("", "bearer token, or @FILE with one a line: the first is sent"),
    }
    for name, (default, text) in texts.items():
        variable = os.environ.get(_PREFIX + name.replace("-", "_").upper())
        parser.add_argument(f"--{name}", default=variable or default, help=text)
    read = parser.parse_args(arguments)
    endpoints = tuple(part.strip() for part in read.endpoints.split(",") if part.strip())
    if not 1 <= len(endpoints) <= _ENDPOINTS_MAX:
        raise UsageError(f"--endpoints: give 1 to {_ENDPOINTS_MAX} of HOST:PORT")
    for endpoint in endpoints:
        split_address(endpoint, "endpoints")
    if bool(read.tls_cert) != bool(read.tls_key):
        raise UsageError("--tls-cert and --tls-key go together: set both, or neither")
    return HandoverSettings(
        endpoints,
        _seconds(read.timeout_s),
        read.tls_ca,
        read.tls_cert if read.tls_ca else "",
        read.tls_key if read.tls_ca else "",
        read_tokens(read.token)[0] if read.token else "",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3_600:
        raise UsageError("--timeout-s must be above 0 and at most 3600 seconds")
    return seconds


def _credentials(settings: HandoverSettings) -> grpc.ChannelCredentials | None:
    if not settings.tls_ca:
        return None
    return grpc.ssl_channel_credentials(
        _read_file("--tls-ca", settings.tls_ca),
        _read_file("--tls-key", settings.tls_key),
        _read_file("--tls-cert", settings.tls_cert),
    )


def _read_file(flag: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{flag}: cannot read {path}: {error.strerror}") from None


def _text(error: grpc.RpcError) -> str:
    call: Any = error
    return f"{call.code().name}: {call.details()}"
