"""Addresses of nodes, as users give them and as nodes tell them."""

import os
import re
from collections.abc import Iterable
from typing import Final

ENDPOINTS_MAX: Final = 64
"""Given ones. Each is asked for its status every few seconds."""

_HOST_MAX: Final = 253
_ENDPOINT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


def parse_endpoints(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """1 to 64 different `HOST:PORT`, from text with commas, a list, or RINGLEDGER_ENDPOINTS.

    Raises ValueError, naming what is wrong.
    """
    if given is None:
        given = os.environ.get("RINGLEDGER_ENDPOINTS", "")
    parts = given.split(",") if isinstance(given, str) else list(given)
    endpoints = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not endpoints:
        raise ValueError("no endpoints: give HOST:PORT[,HOST:PORT...], or RINGLEDGER_ENDPOINTS")
    if len(endpoints) > ENDPOINTS_MAX:
        raise ValueError(f"{len(endpoints)} endpoints: give {ENDPOINTS_MAX} at most")
    for endpoint in endpoints:
        if not is_endpoint(endpoint):
            raise ValueError(
                f"{endpoint[:80]!r} is no endpoint: write HOST:PORT, such as 127.0.0.1:9500"
            )
    return endpoints


def history_endpoint(given: str | None) -> str:
    """The archiver's `HOST:PORT`, from text or RINGLEDGER_HISTORY_ENDPOINT; "" for none."""
    return os.environ.get("RINGLEDGER_HISTORY_ENDPOINT", "") if given is None else given


def is_endpoint(text: str) -> bool:
    """Whether it is HOST:PORT (IPv6 in brackets), the port in 1 .. 65535."""
    match = _ENDPOINT.fullmatch(text) if len(text) <= _HOST_MAX + 6 else None
    return match is not None and 1 <= int(match[1]) <= 65_535
