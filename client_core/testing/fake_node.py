"""FakeNode: a gRPC server in this process that serves a FakeLedger, and fails where told to."""

import struct
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from client_core.messages import is_linked
from client_core.records import COMMAND_BYTES, MAX_MESSAGE_COMMANDS
from client_core.testing.fake_history import FakeHistoryService
from client_core.testing.fake_ledger import FakeLedger
from client_core.testing.fake_values import CLOSED, FakeAccount, FakeAsset, FakeHold
from proto import ledger_pb2, ledger_pb2_grpc

MAX_CALLS: Final = 64
"""Streams, watches and queries at a time: each has a thread."""

_POLL_S: Final = 0.05
_BEHIND_S: Final = 5.0
_PAGE: Final = 100
_PAGE_MAX: Final = 1_000
_WATCHED_MAX: Final = 10_000
_ACCOUNT: Final = struct.Struct("<qqqqQQqIH2xQQqII32x")
_ROLES: Final = {"leader": ledger_pb2.ROLE_LEADER, "follower": ledger_pb2.ROLE_FOLLOWER}


class FakeNode:
    """One node of `ledger`, or of a new one: `with FakeNode() as node`, then `node.address`.

    `role` is "leader" or "follower"; nodes that share a FakeLedger are one cluster. What is set
    here holds from the next call on: `unavailable` (every call fails), `delay_s` (before each
    answer), `behind` (it has not applied what a query wants), `token` (calls must carry it).
    `credentials` make it speak TLS. It answers HistoryService as well: `history=node.address`.
    """

    def __init__(
        self,
        ledger: FakeLedger | None = None,
        *,
        role: str = "leader",
        leader: str = "",
        listen: str = "127.0.0.1:0",
        token: str = "",
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.ledger = ledger or FakeLedger()
        self.role = role
        self.leader = leader
        self.epoch = 1
        self.unavailable = False
        self.behind = False
        self.delay_s = 0.0
        self.token = token
        self.address = ""
        self.calls: list[str] = []
        """The calls that came, by name: "Submit" once for each of its messages."""
        self._drop = 0
        self._before_run = False
        self._listen = listen
        self._credentials = credentials
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        """Listen; `address` is where."""
        self._server = grpc.server(
            futures.ThreadPoolExecutor(MAX_CALLS),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ),
        )
        ledger_pb2_grpc.add_CommandServiceServicer_to_server(_Service(self), self._server)
        ledger_pb2_grpc.add_QueryServiceServicer_to_server(_Service(self), self._server)
        ledger_pb2_grpc.add_ClusterServiceServicer_to_server(_Service(self), self._server)
        history = FakeHistoryService(self, _Service(self)._came, _abort)
        ledger_pb2_grpc.add_HistoryServiceServicer_to_server(history, self._server)
        if self._credentials is None:
            port = self._server.add_insecure_port(self._listen)
        else:
            port = self._server.add_secure_port(self._listen, self._credentials)
        self.address = f"{self._listen.rpartition(':')[0]}:{port}"
        if self.role == "leader" and not self.leader:
            self.leader = self.address
        self._stopped.clear()
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it as a crash would: no answer to what is under way."""
        self._stopped.set()
        self._server.stop(None).wait()

    def drop_replies(self, count: int = 1, *, before_run: bool = False) -> None:
        """The next `count` messages of commands break their streams instead of being answered.

        They are run, unless `before_run`: the client can't tell, and must send them again.
        """
        self._drop, self._before_run = count, before_run

    def stop_leading(self, leader: str = "") -> None:
        """Refuse commands from now on, naming `leader` as the one who leads."""
        self.role, self.leader = "follower", leader

    def start_leading(self) -> None:
        """Lead from now on, in the next epoch."""
        self.role, self.leader = "leader", self.address
        self.epoch += 1


class _Service:
    """All three services of the contract that client_core speaks to."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._ledger = node.ledger

    # Commands

    def Submit(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        self._admit(context)
        self._must_lead(context)
        for index, request in enumerate(requests):
            self._came("Submit", context)
            self._must_lead(context)
            packed = request.commands
            problem = _malformed(packed)
            if problem:
                where = {"message": str(index), "command": "-1", "cause": problem}
                _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMANDS", where)
            dropped = self._node._drop > 0
            self._node._drop -= dropped
            if dropped and self._node._before_run:
                context.abort(grpc.StatusCode.UNAVAILABLE, "this node was told to fail")
            replies = self._ledger.apply(packed)
            if dropped:
                context.abort(grpc.StatusCode.UNAVAILABLE, "this node was told to fail")
            yield ledger_pb2.SubmitResponse(replies=replies, ledger_time_ns=self._ledger.time_ns)

    # Queries

    def GetAccount(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._query("GetAccount", request, context)
        with self._ledger.changed:
            account = self._ledger.accounts.get(request.account_id)
            if account is None:
                _not_found(context, "ACCOUNT_NOT_FOUND", f"account {request.account_id}")
            return ledger_pb2.GetAccountResponse(
                account=_account(account), applied_sequence=self._ledger.applied
            )

    def GetAccounts(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._query("GetAccounts", request, context)
        count, rest = divmod(len(request.account_ids), 8)
        if rest or not 1 <= count <= MAX_MESSAGE_COMMANDS:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", {})
        ids = struct.unpack(f"<{count}Q", request.account_ids)
        with self._ledger.changed:
            found = [self._ledger.accounts.get(account_id) for account_id in ids]
            records = [_record(account) if account else bytes(_ACCOUNT.size) for account in found]
            return ledger_pb2.GetAccountsResponse(
                accounts=b"".join(records), applied_sequence=self._ledger.applied
            )

    def ListAccounts(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._query("ListAccounts", request, context)
        size = request.page_size or _PAGE
        if size > _PAGE_MAX:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", {})
        with self._ledger.changed:
            fitting = [
                account
                for account in self._ledger.accounts.values()
                if account.account_id > request.after_account_id and _fits(account, request)
            ]
            page = fitting[:size]
            return ledger_pb2.ListAccountsResponse(
                accounts=map(_account, page),
                next_after_account_id=page[-1].account_id if len(fitting) > size else 0,
                applied_sequence=self._ledger.applied,
            )

    def GetHold(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._query("GetHold", request, context)
        with self._ledger.changed:
            hold = self._ledger.holds.get(request.hold_id)
            if hold is None:
                given = 1 <= request.hold_id < self._ledger.next_hold
                reason = "HOLD_NOT_OPEN" if given else "HOLD_NOT_FOUND"
                _not_found(context, reason, f"hold {request.hold_id}")
            return ledger_pb2.GetHoldResponse(
                hold=_hold(hold), applied_sequence=self._ledger.applied
            )

    def GetTotals(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._query("GetTotals", request, context)
        with self._ledger.changed:
            return ledger_pb2.GetTotalsResponse(
                assets=_assets(self._ledger),
                applied_sequence=self._ledger.applied,
                ledger_time_ns=self._ledger.time_ns,
            )

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self._query("Watch", request, context)
        wanted = set(request.account_ids)
        if not 1 <= len(wanted) <= _WATCHED_MAX:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", {})
        with self._ledger.changed:
            missing = wanted - self._ledger.accounts.keys()
            if missing:
                _not_found(context, "ACCOUNT_NOT_FOUND", f"account {min(missing)}")
            accounts = [self._ledger.accounts[account_id] for account_id in request.account_ids]
            seen, applied = len(self._ledger.changes), self._ledger.applied
        yield ledger_pb2.WatchResponse(accounts=map(_account, accounts), applied_sequence=applied)
        while context.is_active() and not self._node._stopped.is_set():
            if self._node.unavailable:
                context.abort(grpc.StatusCode.UNAVAILABLE, "this node was told to fail")
            with self._ledger.changed:
                self._ledger.changed.wait(_POLL_S)
                changes = self._ledger.changes[seen:]
                seen, applied = len(self._ledger.changes), self._ledger.applied
            accounts = [account for account in changes if account.account_id in wanted]
            if accounts:
                yield ledger_pb2.WatchResponse(
                    accounts=map(_account, accounts), applied_sequence=applied
                )

    # The node

    def GetStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._came("GetStatus", context)
        node, ledger = self._node, self._ledger
        with ledger.changed:
            return ledger_pb2.GetStatusResponse(
                role=_ROLES[node.role],
                node_id="fake",
                address=node.address,
                leader=node.leader,
                epoch=node.epoch,
                applied_sequence=ledger.applied,
                ledger_time_ns=ledger.time_ns,
                accounts=len(ledger.accounts),
                ledger_id=ledger.ledger_id,
                chain=bytes(32),
                assets=_assets(ledger),
            )

    def Execute(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "a fake node only has Submit")

    ExecuteBatch = Execute

    def HandOver(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "a fake node has nobody to hand over to")

    # What every call goes through

    def _admit(self, context: Any) -> None:
        if self._node.unavailable:
            context.abort(grpc.StatusCode.UNAVAILABLE, "this node was told to fail")
        told = dict(context.invocation_metadata()).get("authorization", "")
        if self._node.token and told != f"Bearer {self._node.token}":
            _abort(context, grpc.StatusCode.UNAUTHENTICATED, "TOKEN_WRONG", {})

    def _came(self, name: str, context: Any) -> None:
        self._node.calls.append(name)
        self._admit(context)
        if self._node.delay_s:
            time.sleep(self._node.delay_s)

    def _must_lead(self, context: Any) -> None:
        if self._node.role != "leader":
            leader = {"leader": self._node.leader}
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", leader)

    def _query(self, name: str, request: Any, context: Any) -> None:
        self._came(name, context)
        if request.consistency.linearizable:
            self._must_lead(context)
        if request.consistency.HasField("at_least_sequence"):
            self._wait_for(request.consistency.at_least_sequence, context)

    def _wait_for(self, sequence: int, context: Any) -> None:
        left_s = context.time_remaining()
        deadline = time.monotonic() + (_BEHIND_S if left_s is None else left_s)
        while self._node.behind or self._ledger.applied <= sequence:
            if self._node.behind or time.monotonic() >= deadline:
                metadata = {"applied_sequence": str(self._ledger.applied), "wanted": str(sequence)}
                _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, "BEHIND", metadata)
            with self._ledger.changed:
                self._ledger.changed.wait(_POLL_S)


def _abort(context: Any, code: Any, reason: str, metadata: dict[str, str]) -> NoReturn:
    """End the call as a node does: with google.rpc details."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="ringledger", metadata=metadata))
    rich = status_pb2.Status(code=code.value[0], message=reason, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", rich.SerializeToString()),))
    context.abort(code, f"{reason}: {metadata}")
    raise AssertionError("abort raises")


def _not_found(context: Any, reason: str, what: str) -> NoReturn:
    _abort(context, grpc.StatusCode.NOT_FOUND, reason, {"what": what})


def _malformed(packed: bytes) -> str:
    """Why it can't be a message; empty if it can."""
    count, rest = divmod(len(packed), COMMAND_BYTES)
    if rest or not 1 <= count <= MAX_MESSAGE_COMMANDS:
        return f"{len(packed)} bytes are no 1 to {MAX_MESSAGE_COMMANDS} commands"
    return "the last command is LINKED" if is_linked(packed[-COMMAND_BYTES:]) else ""


def _fits(account: FakeAccount, request: Any) -> bool:
    state = 2 if account.state & ~CLOSED else 1
    state = 3 if account.state & CLOSED else state
    return (
        request.state in (0, state)
        and (not request.HasField("asset") or request.asset == account.asset)
        and (not request.HasField("code") or request.code == account.code)
        and (not request.HasField("reference") or request.reference == account.reference)
    )


def _record(account: FakeAccount) -> bytes:
    return _ACCOUNT.pack(
        *(account.posted, account.held, account.floor, account.ceiling),
        *(account.version, account.last_sequence, account.credits_total, account.asset),
        *(account.state, account.account_id, account.reference, account.opened_ns),
        *(account.code, account.open_holds),
    )


def _account(account: FakeAccount) -> ledger_pb2.Account:
    return ledger_pb2.Account(
        account_id=account.account_id,
        asset=account.asset,
        posted=account.posted,
        held=account.held,
        debits_total=account.credits_total - account.posted,
        credits_total=account.credits_total,
        version=account.version,
        last_sequence=account.last_sequence,
        reference=account.reference,
        code=account.code,
        opened_ns=account.opened_ns,
        floor=account.floor,
        ceiling=account.ceiling,
        open_holds=account.open_holds,
        debits_locked=bool(account.state & 1),
        credits_locked=bool(account.state & 2),
        closed=bool(account.state & CLOSED),
        available=account.posted - account.held - account.floor,
    )


def _hold(hold: FakeHold) -> ledger_pb2.OpenHold:
    return ledger_pb2.OpenHold(
        hold_id=hold.hold_id,
        debit_account=hold.debit_account,
        credit_account=hold.credit_account,
        asset=hold.asset,
        remaining=hold.remaining,
        expires_ns=hold.expires_ns,
        opened_sequence=hold.opened_sequence,
        code=hold.code,
    )


def _assets(ledger: FakeLedger) -> list[ledger_pb2.Asset]:
    def message(asset: FakeAsset) -> ledger_pb2.Asset:
        return ledger_pb2.Asset(
            asset=asset.number,
            decimals=asset.decimals,
            symbol=asset.symbol.rstrip(b"\0").decode("ascii"),
            posted_total=-asset.external,
            accounts=asset.accounts,
            held_total=asset.held,
            open_holds=asset.open_holds,
        )

    return [message(asset) for _, asset in sorted(ledger.assets.items())]
