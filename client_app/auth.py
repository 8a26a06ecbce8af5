"""Who calls: API keys as bearer tokens, and a token bucket for each caller.

People's tokens are in `user_tokens.py`.

Keys are kept and compared as keyed digests, whose key is this process's own: neither the memory
nor the time of a look-up tells anything about a key.
"""

import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from client_app.problems import Problem

ANYBODY: Final = "development"
"""The caller's name where no key is asked for."""

_SCHEME: Final = b"bearer "
_MAX_TOKEN_BYTES: Final = 256
_MAX_BUCKETS: Final = 16_384
"""Callers are few; addresses that sent a wrong key may be many. The oldest are forgotten."""


class Caller(NamedTuple):
    """Who sent a request. `accounts`: the only ones that it may touch, None for all.

    `until_s` is when that ends, seconds since the Unix epoch.
    """

    name: str
    accounts: frozenset[int] | None = None
    until_s: float = math.inf

    def check_accounts(self, accounts: Iterable[int]) -> None:
        """Raises Problem for an account that isn't the caller's, whether it exists or not."""
        if self.accounts is not None and not self.accounts.issuperset(accounts):
            raise Problem(403, "NOT_YOURS", "this account is not one of your token's")


class Callers(Protocol):
    """Who may call, by what they send."""

    @property
    def open_to_anybody(self) -> bool:
        """Whether nothing is asked for."""

    @property
    def asks_for(self) -> str:
        """What to send, for who sent nothing or something wrong."""

    def caller(self, authorization: bytes | None) -> Caller | None:
        """Who sent this Authorization header; None for a wrong one."""


class ApiKeys:
    """Names of callers by their keys: `ApiKeys([("billing", "k3y...")])`."""

    def __init__(self, callers: Iterable[tuple[str, str]]) -> None:
        self._secret = os.urandom(32)
        self._callers = {self._digest(key.encode()): Caller(name) for name, key in callers}

    @property
    def open_to_anybody(self) -> bool:
        """Whether no key is asked for."""
        return not self._callers

    @property
    def asks_for(self) -> str:
        """What to send."""
        return "send an API key: Authorization: Bearer KEY"

    def caller(self, authorization: bytes | None) -> Caller | None:
        """Who sent this Authorization header; None for a wrong one."""
        if not self._callers:
            return _ANYBODY
        token = bearer_token(authorization)
        if token is None or len(token) > _MAX_TOKEN_BYTES:
            return None
        # the table is searched by a digest that nobody outside can compute or steer
        return self._callers.get(self._digest(token))

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, digest_size=32, key=self._secret).digest()


def bearer_token(authorization: bytes | None) -> bytes | None:
    """The token of an Authorization header of the scheme Bearer."""
    if authorization is None or authorization[:7].lower() != _SCHEME:
        return None
    return authorization[7:].strip()


_ANYBODY: Final = Caller(ANYBODY)


class RateLimit:
    """A token bucket a caller: `rate` requests/s, `burst` at once. Rate 0 lets all pass."""

    def __init__(
        self, rate: float, burst: int, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._monotonic_s = monotonic_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> int:
        """0 if the caller may go on, else the seconds (1 or more) after which it may."""
        if not self._rate:
            return 0
        now = self._monotonic_s()
        tokens, then = self._buckets.get(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[caller] = (tokens - 1.0 if allowed else tokens, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1.0 - tokens) / self._rate))
