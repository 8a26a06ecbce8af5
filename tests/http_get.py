"""Requests to a node's HTTP side, and its metrics as Prometheus would read them."""

import http.client
import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 10.0

Labels = tuple[tuple[str, str], ...]


def request(
    address: str,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, str]:
    """(status, body) of one request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def answer(address: str, path: str, method: str = "GET", body: bytes | None = None) -> Any:
    """A JSON answer, with its status under "status"."""
    status, text = request(address, path, method, body)
    return {"status": status, **json.loads(text)}


def scrape(address: str) -> dict[tuple[str, Labels], float]:
    """All samples: (name, sorted labels) to value."""
    status, text = request(address, "/metrics")
    assert status == 200, text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(address: str, name: str, **labels: str) -> float:
    """One sample's value. Raises KeyError when the node doesn't give it."""
    return scrape(address)[f"ringledger_{name}", tuple(sorted(labels.items()))]
