"""Questions to the archiver at a campaign's end: here and there, by the client's own library."""

import asyncio
import random
from typing import Any, Final

from client_core.errors import RingledgerClientError
from client_core.history import History
from cluster_core.record import ReplyFlag, Status
from tests.campaign.archived import HISTORY
from tests.campaign.findings import Found
from tests.campaign.replayed import Replayed

COMMANDS: Final = 200
ACCOUNTS: Final = 50

_COMPLETE_TIMEOUT_S: Final = 600.0
"""Killed every minute for an hour, it may be a million commands behind."""


def ask_history(address: str, replayed: Replayed, draw: random.Random, found: Found) -> None:
    """Some commands by their ids and some balances, once the history is complete."""
    asyncio.run(_ask(address, replayed, draw, found))


async def _ask(address: str, replayed: Replayed, draw: random.Random, found: Found) -> None:
    end = len(replayed.commands)
    sequences = draw.sample(range(end), min(COMMANDS, end))
    accounts = range(1, replayed.state.accounts + 1)
    try:
        async with History(address, timeout_s=_COMPLETE_TIMEOUT_S) as history:
            for sequence in sequences:
                await _ask_command(history, replayed, sequence, found)
            for account in draw.sample(accounts, min(ACCOUNTS, len(accounts))):
                balance = await history.balance(account)
                posted = int(replayed.state.books.accounts["posted"][account])
                if balance.minor != posted or balance.below_sequence != end:
                    said = f"account {account} is told as {balance.minor}, it has {posted}"
                    found.add(HISTORY, 1, said)
    except RingledgerClientError as error:
        found.add(HISTORY, 1, f"the archiver did not answer: {error}")


async def _ask_command(history: History, replayed: Replayed, sequence: int, found: Found) -> None:
    command: Any = replayed.commands[sequence]
    reply: Any = replayed.replies[sequence]
    command_id = command.tobytes()[:16]
    answer = await history.command(command_id, at_least=len(replayed.commands) - 1)
    if reply["flags"] & ReplyFlag.DUPLICATE:
        # told is the first one's, which has its own entry
        sequence, reply = int(reply["sequence"]), replayed.replies[int(reply["sequence"])]
    entry = answer.entry
    told = None if entry is None else (entry.sequence, int(entry.status), entry.reference)
    expected = (sequence, int(Status.OK), int(command["reference"]))
    if reply["status"] == Status.OK and told != expected:
        found.add(HISTORY, 1, f"sequence {sequence} is told as {told}")
    elif reply["status"] != Status.OK and told is not None and told[0] == sequence:
        found.add(HISTORY, 1, f"sequence {sequence} was refused, and is told as {told}")
