"""What always holds of the ledger, told from its replies and records alone.

The test keeps its own books from what each success says was done; after every batch the kernel's
records must agree with them and keep the ledger's invariants. Only the digest comes from the
oracle, which also says which commands are worth drawing.
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cluster_core.batch import LedgerParameters
from cluster_core.record import COMMAND, REPLY
from cluster_core.state_machine import StateMachine, find_malformed
from tests.property.strategies import (
    NS_PER_S,
    batches,
    chains,
    first_commands,
    linked,
    next_times,
    packed,
)
from tests.property.test_state_machine import REPEATABLE
from tests.reference import (
    CAPTURE,
    CLOSE,
    CLOSED,
    CREATE_ACCOUNT,
    DEPOSIT,
    EXPIRE,
    HOLD,
    I64_MAX,
    KEEP_REST_HELD,
    LOCK,
    NO_ID,
    REGISTER_ASSET,
    RELEASE,
    SET_LIMITS,
    TRANSFER,
    UNLOCK,
    WITHDRAW,
    Command,
    ReferenceLedger,
    Status,
    is_uuid7,
    split_chains,
)

START_NS: Final = 1_700_000_000 * NS_PER_S
OPENING: Final = (CREATE_ACCOUNT, CREATE_ACCOUNT, REGISTER_ASSET)
MOVING: Final = (DEPOSIT, WITHDRAW, TRANSFER)
RESOLVING: Final = (CAPTURE, CAPTURE, RELEASE, EXPIRE)
GOVERNING: Final = (LOCK, UNLOCK, CLOSE, SET_LIMITS)
ONE: Final = (1,)


@dataclass(frozen=True)
class KnownHold:
    """What is known of an open hold from the commands that touched it."""

    debit_account: int
    credit_account: int
    remaining: int


class Books:
    """Balances, versions and open holds, kept from successful commands and their replies."""

    def __init__(self) -> None:
        self.debited: Counter[int] = Counter()  # by account
        self.credited: Counter[int] = Counter()
        self.versions: Counter[int] = Counter()
        self.holds: dict[int, KnownHold] = {}
        self.opened_holds = 0

    def enter(self, command: Command, entity: int, amount: int) -> None:
        """A command succeeded; its reply names the entity and the amount moved, held or freed."""
        operation = command.operation
        debit, credit = command.debit_account, command.credit_account
        moved = amount
        if operation in RESOLVING:
            hold = self.holds.pop(entity)
            kept = operation != CAPTURE or command.flags & KEEP_REST_HELD
            rest = hold.remaining - amount if kept and operation != EXPIRE else 0
            if rest:
                self.holds[entity] = replace(hold, remaining=rest)
            debit, credit = hold.debit_account, hold.credit_account
        if operation == HOLD:
            self.opened_holds += 1
            assert entity == self.opened_holds
            self.holds[entity] = KnownHold(debit, credit, amount)
        if operation in (HOLD, RELEASE, EXPIRE):
            credit = moved = 0  # nothing moves, and the credit account isn't touched
        if operation == CREATE_ACCOUNT:
            debit = entity
        self.debited[debit] += moved
        self.credited[credit] += moved
        self.versions.update({debit, credit})


class LedgerRules(RuleBasedStateMachine):
    """Runs commands of all kinds and checks the books after each batch."""

    @initialize(
        parameters=st.builds(
            LedgerParameters,
            window_capacity=st.sampled_from((8, 16, 64)),
            id_ahead_ns=st.sampled_from((0, NS_PER_S)),
            account_capacity=st.sampled_from((7, 12)),
            hold_capacity=st.sampled_from((2, 5, 64)),
        ),
        hash_seed=st.integers(0, 2**64 - 1),
    )
    def open_ledger(self, parameters: LedgerParameters, hash_seed: int) -> None:
        self.machine = StateMachine(parameters, hash_seed=hash_seed)
        self.reference = ReferenceLedger(**asdict(parameters))
        self.books = Books()
        self.history: list[Command] = []
        self.done: list[list[Command]] = []  # chains that succeeded, all under UUIDv7s
        self.now_ns = START_NS
        low_ceiling = Command(operation=SET_LIMITS, debit_account=4, reference=55)
        self.run([*first_commands(6), low_ceiling])

    @rule(data=st.data())
    def open_something(self, data: st.DataObject) -> None:
        self.run(data.draw(self.chains(OPENING, ONE)))

    @rule(data=st.data())
    def move_money(self, data: st.DataObject) -> None:
        self.run(data.draw(self.chains(MOVING, ONE)))

    @rule(data=st.data())
    def hold_money(self, data: st.DataObject) -> None:
        self.run(data.draw(self.chains((HOLD,), ONE)))

    @rule(data=st.data())
    def resolve_a_hold(self, data: st.DataObject) -> None:
        self.run(data.draw(self.chains(RESOLVING, ONE)))

    @rule(data=st.data())
    def govern_an_account(self, data: st.DataObject) -> None:
        self.run(data.draw(self.chains(GOVERNING, ONE)))

    @rule(data=st.data())
    def run_a_chain(self, data: st.DataObject) -> None:
        self.run(data.draw(chains(self.reference, self.now_ns, self.history, lengths=(2, 4, 6))))

    @rule(data=st.data())
    def run_a_batch(self, data: st.DataObject) -> None:
        self.run(data.draw(batches(self.reference, self.now_ns, self.history, max_chains=4)))

    @rule(data=st.data())
    def let_time_pass(self, data: st.DataObject) -> None:
        """The leader expires what is past its time; each expiry succeeds."""
        self.now_ns = data.draw(next_times(self.reference, self.now_ns))
        ends_ns = {number: hold.expires_ns for number, hold in self.reference.holds.items()}
        past = [number for number, end_ns in ends_ns.items() if 0 < end_ns <= self.now_ns]
        if data.draw(st.booleans()):
            replies = self.run([Command(operation=EXPIRE, reference=number) for number in past])
            assert set(replies["status"].tolist()) <= {Status.OK}

    @rule(data=st.data(), place=st.integers(0, 6))
    def fail_a_chain(self, data: st.DataObject, place: int) -> None:
        """Whatever the members before the refused one did is as if it had never been."""
        drawn = data.draw(chains(self.reference, self.now_ns, lengths=(2, 4, 6)))
        members = [command._replace(command_id=NO_ID) for command in drawn]
        members.insert(place, Command(operation=DEPOSIT, credit_account=1))
        before = self.records()
        statuses = self.run(linked(members))["status"].tolist()
        assert self.records() == before
        assert statuses.count(Status.LINKED_FAILED) == len(members) - 1
        assert Status.OK not in statuses

    @precondition(lambda self: bool(self.done))
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """What succeeded under a UUIDv7 never runs again, however long it is known."""
        chain = data.draw(st.sampled_from(self.done))
        before = self.records()
        replies = self.run(chain)
        assert self.records() == before
        for reply in replies:
            assert reply["flags"] or reply["status"] == Status.COMMAND_ID_TOO_OLD

    def chains(
        self, operations: tuple[int, ...], lengths: tuple[int, ...]
    ) -> st.SearchStrategy[list[Command]]:
        return chains(self.reference, self.now_ns, self.history[-20:], operations, lengths)

    def run(self, batch: list[Command]) -> npt.NDArray[Any]:
        """Apply a batch, enter its successes into the books, check everything."""
        commands = np.frombuffer(packed(batch), COMMAND)
        assert find_malformed(commands, from_client=False) is None
        before = self.records()
        replies = self.machine.apply(commands, self.now_ns)
        self.reference.apply(packed(batch), self.now_ns)
        self.history += batch
        done = [reply["status"] == Status.OK and not reply["flags"] for reply in replies]
        successes = iter(done)
        for chain in split_chains(batch):
            ran = [next(successes) for _ in chain]
            if all(ran) and all(is_uuid7(command.command_id) for command in chain):
                self.done.append(chain)
        for command, reply, success in zip(batch, replies, done, strict=True):
            if success:
                self.books.enter(command, int(reply["entity"]), int(reply["amount"]))
            elif not reply["flags"]:
                assert_names_nothing_but_its_status(reply)
        if not any(done):
            assert self.records() == before
        self.check_accounts()
        self.check_assets()
        self.check_holds()
        assert self.machine.digest() == self.reference.digest()
        return replies

    def records(self) -> list[bytes]:
        """All that a refused command must leave alone."""
        records = [*self.account_records(), *self.asset_records()]
        records += [hold for number in self.books.holds if (hold := self.machine.hold(number))]
        scalars = (self.machine.next_hold, self.machine.open_holds, self.machine.accounts)
        return [*(record.tobytes() for record in records), str(scalars).encode()]

    def account_records(self) -> list[np.void]:
        records = [self.machine.account(n + 1) for n in range(self.machine.accounts)]
        return [record for record in records if record is not None]

    def asset_records(self) -> list[np.void]:
        records = [self.machine.asset(number) for number in self.machine.asset_numbers()]
        return [record for record in records if record is not None]

    def check_accounts(self) -> None:
        """Each account's balances, limits and version follow from the books."""
        books = self.books
        for record in self.account_records():
            number, posted, held = (int(record[name]) for name in ("account_id", "posted", "held"))
            floor, ceiling = int(record["floor"]), int(record["ceiling"])
            holds = [hold for hold in books.holds.values() if hold.debit_account == number]
            assert int(record["credits_total"]) == books.credited[number]
            assert int(record["credits_total"]) - posted == books.debited[number]
            assert held == sum(hold.remaining for hold in holds)
            assert record["open_holds"] == len(holds)
            assert record["version"] == books.versions[number]
            assert -I64_MAX <= floor <= posted - held
            assert posted <= ceiling <= I64_MAX
            if record["state"] & CLOSED:
                assert (posted, held) == (0, 0)

    def check_assets(self) -> None:
        """Double entry: per asset, all accounts and the external one sum to zero."""
        accounts = self.account_records()
        for asset in self.asset_records():
            own = [account for account in accounts if account["asset"] == asset["number"]]
            assert int(asset["external"]) + sum(int(account["posted"]) for account in own) == 0
            assert int(asset["held"]) == sum(int(account["held"]) for account in own)
            assert asset["open_holds"] == sum(int(account["open_holds"]) for account in own)
            assert asset["accounts"] == len(own)

    def check_holds(self) -> None:
        """Open holds say what is left of them; resolved ones are gone for ever."""
        assert self.machine.next_hold == self.books.opened_holds + 1
        assert self.machine.open_holds == len(self.books.holds)
        for number in range(self.machine.next_hold + 1):
            record, known = self.machine.hold(number), self.books.holds.get(number)
            if record is None or known is None:
                assert (record, known) == (None, None)
                continue
            assert record["hold_id"] == number
            assert record["debit_account"] == known.debit_account
            assert record["credit_account"] == known.credit_account
            assert record["remaining"] == known.remaining > 0


def assert_names_nothing_but_its_status(reply: np.void) -> None:
    names = set(REPLY.names or ()) - {"sequence", "status"}
    assert not any(reply[name] for name in names)


LedgerRules.TestCase.settings = settings(REPEATABLE, max_examples=400, stateful_step_count=30)
TestLedgerRules = pytest.mark.timeout(600)(LedgerRules.TestCase)  # a failure is shrunk at length
