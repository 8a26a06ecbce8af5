"""Faults of both sorts, one after the other each and both at the same time, until time is up."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.campaign.cluster import Cluster
from tests.campaign.faults import (
    BESIDE,
    ON_COMMANDS_WAY,
    ROLLING_RESTART,
    WHOLE_TIMEOUT_S,
    Fault,
    Harm,
    Kinds,
)

_PAUSE_S: Final = (0.2, 1.0)
_PAUSE_BESIDE_S: Final = (1.5, 4.5)
"""Between two faults of a sort, at random. A node that starts again costs seconds of a core."""

_IN_FLIGHT_TIMEOUT_S: Final = 2.0
"""For the moment at which commands are under way: answers take a few milliseconds."""


def rounds(kinds: Kinds, draw: random.Random) -> Iterator[str]:
    """Kinds in random order, each as often as it should come; round after round."""
    while True:
        rows = [
            [name]
            for name, (_, weight) in kinds.items()
            if name != ROLLING_RESTART
            for _ in range(weight)
        ]
        if ROLLING_RESTART in kinds:
            rows.append([ROLLING_RESTART] * kinds[ROLLING_RESTART][1])
        draw.shuffle(rows)
        yield from (name for row in rows for name in row)


def inflict(cluster: Cluster, kind: str, harm: Harm, draw: random.Random) -> Fault:
    """Do one fault, from its beginning to its healing."""
    in_flight = 0
    until = time.monotonic() + _IN_FLIGHT_TIMEOUT_S
    while not in_flight and time.monotonic() < until:
        in_flight = cluster.counts().in_flight
        cluster.wait(0.0)
    begun_ns = time.monotonic_ns()
    target, effect = harm(cluster, draw)
    return Fault(kind, target, begun_ns, time.monotonic_ns(), in_flight, effect)


class Inflicted:
    """Faults one after the other, of both sorts at the same time, until their time is up."""

    def __init__(self, cluster: Cluster, end: float, draw: random.Random) -> None:
        self._cluster = cluster
        self._end = end
        self._draws = [random.Random(draw.getrandbits(64)) for _ in range(2)]
        self._faults: list[Fault] = []
        self._failure: Exception | None = None

    def run(self) -> list[Fault]:
        """Inflict them all, in the order of their beginnings. For the main thread."""
        beside = threading.Thread(target=self._run_beside)
        beside.start()
        try:
            self._run(ON_COMMANDS_WAY, _PAUSE_S, self._draws[0], self._cluster.wait_served)
            while beside.is_alive():
                self._cluster.wait(0.1)
        finally:
            self._end = 0.0
            beside.join()
        if self._failure is not None:
            raise self._failure
        return sorted(self._faults, key=lambda fault: fault.begun_ns)

    def _run_beside(self) -> None:
        try:
            self._run(BESIDE, _PAUSE_BESIDE_S, self._draws[1], lambda _: True)
        except Exception as failure:  # noqa: BLE001 told on the main thread
            self._failure = failure

    def _run(
        self,
        kinds: Kinds,
        pause_s: tuple[float, float],
        draw: random.Random,
        well: Callable[[float], bool],
    ) -> None:
        for kind in rounds(kinds, draw):
            begun = time.monotonic()
            is_well = well(min(WHOLE_TIMEOUT_S, max(self._end - begun, 0.0)))
            waited = time.monotonic() - begun
            self._cluster.wait(draw.uniform(*pause_s))
            if time.monotonic() >= self._end or self._failure is not None:
                return
            fault = inflict(self._cluster, kind, kinds[kind][0], draw)
            self._faults.append(fault)
            print(
                f"{len(self._faults):4} after {waited:4.1f} s{'' if is_well else ', NOT well'}: "
                f"{fault.kind}: {fault.target}: {fault.effect or 'no effect'}, "
                f"{fault.in_flight} under way",
                flush=True,
            )
