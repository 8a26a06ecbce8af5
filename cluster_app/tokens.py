"""Bearer tokens: who may call a node at all.

Tokens are kept and compared as SHA-256 digests, each in constant time: neither how long a
comparison takes nor a core dump of this table tells a token.
"""

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from cluster_app.errors import UsageError
from cluster_app.rpc import Context, Refusal

_FLAG: Final = "--token"
_TOKEN: Final = re.compile(r"[!-~]{16,512}")
_TOKENS_MAX: Final = 64
_FILE_BYTES_MAX: Final = 1 << 16

_HEADER: Final = "authorization"
_SCHEME: Final = "bearer "
_OPEN: Final = "/grpc.health.v1.Health/"
"""Load balancers and supervisors have no token."""

_REMEDY: Final = "send the metadata `authorization: Bearer TOKEN` with a token of this node"


def read_tokens(text: str) -> tuple[str, ...]:
    """The tokens in a setting, or in the file that `@PATH` names: one a line.

    Empty lines and those that begin with # are left out. Raises UsageError, never showing a
    token, when there is none, or one that can't be used.
    """
    if text.startswith("@"):
        text = _read(text[1:])
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    tokens = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not 1 <= len(tokens) <= _TOKENS_MAX:
        raise UsageError(f"{_FLAG} holds {len(tokens)} tokens: give 1 to {_TOKENS_MAX}, one a line")
    for number, token in tokens:
        if not _TOKEN.fullmatch(token):
            raise UsageError(
                f"{_FLAG}: line {number} is no token: 16 to 512 ASCII characters without spaces "
                "(`openssl rand -hex 32` makes one)"
            )
    return tuple(token for _, token in tokens)


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        text = data.decode("ascii")
    except OSError as error:
        raise UsageError(f"{_FLAG}: cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{_FLAG}: {name} is no ASCII text") from None
    if len(data) > _FILE_BYTES_MAX:
        raise UsageError(f"{_FLAG}: {name} is over {_FILE_BYTES_MAX:,} bytes")
    return text


TOKEN_MISSING: Final = Refusal(
    grpc.StatusCode.UNAUTHENTICATED, f"this node wants a token: {_REMEDY}", "TOKEN_MISSING"
)
TOKEN_UNKNOWN: Final = Refusal(
    grpc.StatusCode.UNAUTHENTICATED, f"this node doesn't know the token: {_REMEDY}", "TOKEN_UNKNOWN"
)


def digests_of(tokens: Iterable[str]) -> list[bytes]:
    """What is kept of tokens: their SHA-256 digests."""
    return [_digest(token) for token in tokens]


class TokenCheck(grpc.aio.ServerInterceptor):
    """Lets a call through with one of the tokens; grpc.health.v1 needs none.

    A stream is looked at once, when it is opened. Others are UNAUTHENTICATED with the reason
    TOKEN_MISSING or TOKEN_UNKNOWN, whatever they call: who has no token isn't told what there is.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = digests_of(tokens)
        self._missing = _refusing(TOKEN_MISSING)
        self._unknown = _refusing(TOKEN_UNKNOWN)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: Any,
    ) -> Any:
        """The handler of this call, or one that refuses it."""
        if not handler_call_details.method.startswith(_OPEN):
            token = _presented(handler_call_details.invocation_metadata)
            if token is None:
                return self._missing
            if not self._knows(token):
                return self._unknown
        return await continuation(handler_call_details)

    def _knows(self, token: str) -> bool:
        presented = _digest(token)
        # all of them, so that the time doesn't tell which one was meant
        return sum(hmac.compare_digest(presented, digest) for digest in self._digests) > 0


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _presented(metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
    """The bearer token of a call; None without one, or with more than one."""
    values = [value for key, value in metadata or () if key == _HEADER]
    if len(values) != 1 or not isinstance(values[0], str):
        return None
    if values[0][: len(_SCHEME)].lower() != _SCHEME:
        return None
    return values[0][len(_SCHEME) :].strip() or None


def _refusing(refusal: Refusal) -> Any:
    """A handler for any kind of call: it ends the call before it reads anything of it."""

    async def refuse(_: Any, context: Context) -> None:
        await refusal.abort(context)

    return grpc.stream_stream_rpc_method_handler(refuse, None, None)
