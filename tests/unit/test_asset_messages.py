"""The assets that queries and status tell: always as of now, built again only when changed."""

from cluster_app.asset_messages import AssetMessages
from cluster_app.typed import read_asset
from cluster_core.reading import BooksReader
from cluster_core.state_machine import StateMachine
from proto import ledger_pb2
from tests.compared_ledger import create, deposit, funded_ledger, hold, register
from tests.property.strategies import symbol_number


def built(state: StateMachine) -> list[ledger_pb2.Asset]:
    return [read_asset(state.asset(number)) for number in state.asset_numbers()]


def test_assets_are_told_as_of_now_and_those_unchanged_are_not_built_again() -> None:
    ledger = funded_ledger()
    assets = AssetMessages(BooksReader(ledger.machine.books))
    first, _ = assets.read()
    assert first == built(ledger.machine)
    assert assets.read()[0] is first
    ledger.run(deposit(1, 7), hold(1, 2, 5))
    second, _ = assets.read()
    assert second == built(ledger.machine) != first
    assert second[0] is not first[0]
    assert second[1] is first[1]
    ledger.run(register(4_095, symbol=symbol_number(b"LAST")), register(3, symbol=77))
    ledger.run(register(3, symbol=symbol_number(b"MID")), create(asset=3))
    third, _ = assets.read()
    assert third == built(ledger.machine)
    assert [asset.asset for asset in third] == [1, 2, 3, 4_095]
    ledger.run(deposit(99, 1))  # refused: nothing has changed
    assert all(new is old for new, old in zip(assets.read()[0], third, strict=True))
