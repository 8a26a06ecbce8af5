"""How long clients are without service when a leader is killed, and when it hands over.

Leader and standby on one machine, 16 callers of one client. Each round has the leader hand over,
then kills the new one (kill -9), and takes the longest time between two answers around each.
`python -m tests.bench_recovery --only failover-kafka` (or `-sqlite`) measures it.
"""

import asyncio
from contextlib import ExitStack

from client_app.bench_machine import RunFailed
from proto import ledger_pb2
from tests.leader_process import LeaderProcess
from tests.ledger_load import status
from tests.moving_money import MovingMoney
from tests.server_process import free_ports
from tests.system.test_handover import handover


async def measure_failover(journal: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds without an answer, in each round, by `kill` and `handover`. Raises RunFailed."""
    gaps: dict[str, list[float]] = {"kill": [], "handover": []}
    with ExitStack() as stack:

        def start(listen: str) -> LeaderProcess:
            process = LeaderProcess(journal, "--no-snapshot", listen=listen)
            return stack.enter_context(process)

        # a port that is listened on again: no outgoing connection may take it meanwhile
        here, there = (f"127.0.0.1:{port}" for port in free_ports(2))
        leader = start(here).wait_ready()
        standby = start(there).wait_standby()
        async with MovingMoney([leader.address, standby.address]) as money:
            for _ in range(rounds):
                await money.answers(200)
                money.forget_gaps()
                code, said = await asyncio.to_thread(handover, leader.address, standby.address)
                if code:
                    raise RunFailed(said)
                await money.answers(200)
                gaps["handover"].append(money.longest_gap_s * 1e3)
                leader, standby = standby, leader
                await asyncio.to_thread(standby.wait_ready_again_as_standby)
                await asyncio.to_thread(leader.wait_ready)
                money.forget_gaps()
                leader.kill()
                await money.answers(200)
                gaps["kill"].append(money.longest_gap_s * 1e3)
                await asyncio.to_thread(standby.wait_ready)
                leader, standby = standby, start(leader.address)
                await asyncio.to_thread(standby.wait_standby)
            if status(leader.address).role != ledger_pb2.ROLE_LEADER:
                raise RunFailed("nobody leads in the end")
            await money.finish()
    return gaps
