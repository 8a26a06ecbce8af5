"""Random client messages for the packed decoder, and what it must say of each.

A message is one to a few commands: sound ones of all operations, then changed here and there, cut
or lengthened. `is_well_formed` says once more, from the contract's text and by numpy over all of
them at once, which are to be taken.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cluster_app.ingress import NativeCodec
from cluster_app.rpc import Refusal
from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND
from cluster_core.state_machine import StateMachine

COMMAND_BYTES: Final = 64
MESSAGES_AT_ONCE: Final = 20_000
_COMMANDS_MAX: Final = 4
_PARAMETERS: Final = LedgerParameters(
    window_capacity=1 << 10, account_capacity=1 << 8, hold_capacity=1 << 8
)

_USED: Final = {
    1: ("asset", "reference", "code"),
    2: ("credit_account", "amount", "code"),
    3: ("debit_account", "amount", "code"),
    4: ("debit_account", "credit_account", "amount", "code"),
    5: ("asset", "reference", "code"),
    6: ("debit_account", "credit_account", "amount", "timeout_s", "code"),
    7: ("reference", "amount", "code"),
    8: ("reference", "amount", "code"),
    10: ("debit_account", "code"),
    11: ("debit_account", "code"),
    12: ("debit_account", "code"),
    13: ("debit_account", "amount", "reference", "code"),
}
"""Which fields each operation of a client has; 9, EXPIRE, is the leader's own."""
_FLAGS: Final = {2: 1 | 4, 3: 1 | 4, 4: 1 | 2 | 4, 6: 1 | 4, 7: 1 | 2 | 8}
"""Beside LINKED alone: EXPECT_VERSION 4, which brings the reference, BALANCING 2, 8 the rest."""
_FIELDS: Final = (
    *("debit_account", "credit_account", "amount", "reference", "asset", "timeout_s", "code"),
)


@dataclass
class Tally:
    """What became of the messages."""

    messages: int = 0
    taken: int = 0
    refused: int = 0
    commands: int = 0
    seconds: float = 0.0
    statuses: set[int] = field(default_factory=set)


def sound_commands(draw: np.random.Generator, count: int) -> npt.NDArray[Any]:
    """COMMAND [count], all well-formed, some LINKED."""
    commands = np.zeros(count, COMMAND)
    operations = draw.choice(list(_USED), count)
    commands["operation"] = operations
    commands.view(np.uint8).reshape(count, COMMAND_BYTES)[:, :16] = draw.integers(
        0, 256, (count, 16), dtype=np.uint8
    )
    small = {"amount": 1_000, "asset": 3, "timeout_s": 3, "code": 4}
    for operation, names in _USED.items():
        here = operations == operation
        for name in names:
            values = draw.integers(0, small.get(name, 12), count)
            commands[name][here] = values[here].astype(commands[name].dtype)
        allowed = _FLAGS.get(operation, 1)
        flags = draw.integers(0, 16, count) & allowed
        commands["flags"][here] = flags[here]
    without = (commands["flags"] & 4) == 0
    for operation in (2, 3, 4, 6):
        commands["reference"][(operations == operation) & without] = 0
    return commands


def hostile_messages(draw: np.random.Generator, count: int) -> list[bytes]:
    """`count` messages of packed commands, about half of them changed somewhere."""
    lengths = draw.integers(1, _COMMANDS_MAX + 1, count)
    packed = bytearray(sound_commands(draw, int(lengths.sum())).tobytes())
    ends = np.cumsum(lengths) * COMMAND_BYTES
    data = np.frombuffer(packed, np.uint8)
    data = data.copy()
    last_flags = ends - COMMAND_BYTES + 54
    closed = draw.random(count) < 0.8
    data[last_flags[closed]] &= 0xFE
    changed = draw.integers(0, len(data), count)
    data[changed] ^= draw.integers(0, 256, count, dtype=np.uint8) * (draw.random(count) < 0.6)
    raw = data.tobytes()
    starts = ends - lengths * COMMAND_BYTES
    cut = np.where(draw.random(count) < 0.03, draw.integers(-63, 64, count), 0)
    return [
        raw[start : max(end + more, start)]
        for start, end, more in zip(starts.tolist(), ends.tolist(), cut.tolist(), strict=True)
    ]


def is_well_formed(messages: list[bytes]) -> npt.NDArray[np.bool_]:
    """bool [n]: which messages the contract allows."""
    sizes = np.array([len(message) for message in messages])
    whole = (sizes % COMMAND_BYTES == 0) & (sizes > 0)
    counts = np.where(whole, sizes // COMMAND_BYTES, 0)
    commands = np.frombuffer(
        b"".join(m for m, fits in zip(messages, whole.tolist(), strict=True) if fits), COMMAND
    )
    operations = commands["operation"]
    right = np.zeros(len(commands), np.bool_)
    for operation, names in _USED.items():
        here = operations == operation
        fits = (commands["flags"] & ~np.uint16(_FLAGS.get(operation, 1))) == 0
        for name in _FIELDS:
            unused = name not in names
            if unused and name == "reference" and operation in (2, 3, 4, 6):
                fits &= (commands[name] == 0) | (commands["flags"] & 4 != 0)
            elif unused:
                fits &= commands[name] == 0
        right |= here & fits
    owners = np.repeat(np.arange(len(messages)), counts)
    wrong = np.bincount(owners[~right], minlength=len(messages)) > 0
    answer: npt.NDArray[np.bool_] = whole & ~wrong
    lasts = np.cumsum(counts)[whole] - 1
    answer[np.flatnonzero(whole)[commands["flags"][lasts] & 1 != 0]] = False
    return answer


def fuzz_decoder(seed: int, messages: int, *, seconds_max: float = float("inf")) -> Tally:
    """Send messages through the leader's own decoder, and what it takes into a state machine.

    Raises AssertionError where the decoder takes what the contract doesn't allow or refuses what
    it does, where anything but a refusal comes out, or where the state's sums are wrong after.
    """
    draw = np.random.default_rng(seed)
    codec, state, tally = NativeCodec(), StateMachine(_PARAMETERS), Tally()
    begun, now_ns = time.monotonic(), 1_700_000_000 * 10**9
    while tally.messages < messages and time.monotonic() - begun < seconds_max:
        batch = hostile_messages(draw, min(MESSAGES_AT_ONCE, messages - tally.messages))
        expected = is_well_formed(batch).tolist()
        taken = [
            message
            for message, fits in zip(batch, expected, strict=True)
            if _decoded(codec, message, fits)
        ]
        tally.messages += len(batch)
        tally.taken += len(taken)
        tally.refused += len(batch) - len(taken)
        now_ns += 10**9
        _apply(state, taken, now_ns, tally)
    tally.seconds = time.monotonic() - begun
    return tally


def _decoded(codec: NativeCodec, message: bytes, fits: bool) -> bool:
    header = b"\x0a" + _varint(len(message))
    decoded = codec.decode(header + message, 0)
    if fits:
        assert isinstance(decoded, tuple), (message.hex(), decoded)
        assert bytes(decoded[0]) == message
        return True
    assert isinstance(decoded, Refusal), message.hex()
    assert len(decoded.message) < 1_000
    return False


def _apply(state: StateMachine, taken: list[bytes], now_ns: int, tally: Tally) -> None:
    """What is taken has wrong values at worst: each is answered, and money stays what it was."""
    commands = np.frombuffer(b"".join(taken), COMMAND)
    at = 0
    while at < len(commands):
        end = min(at + 4_096, len(commands))
        while end < len(commands) and commands["flags"][end - 1] & 1:
            end += 1
        replies = state.apply(commands[at:end], now_ns)
        tally.statuses |= set(np.unique(replies["status"]).tolist())
        at = end
    tally.commands += len(commands)
    assert state.applied == tally.commands
    accounts = state.books.accounts[1 : state.accounts + 1]
    for number in state.asset_numbers():
        asset = state.asset(number)
        assert asset is not None
        posted = sum(accounts["posted"][accounts["asset"] == number].tolist())
        assert posted + int(asset["external"]) == 0


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
