"""A fake node for your own tests: a small, exact ledger in this process, and faults to order.

    with FakeNode() as node, SyncClient(node.address) as ledger:
        node.drop_replies(1)  # run, but not answered: the client has to ask again

It speaks what `client_core` speaks (Submit, every query, history, GetStatus), in threads of its
own, so it serves programs with and without an event loop. It keeps nothing and is made for tests,
not for use.
"""

from client_core.testing.fake_ledger import FakeLedger
from client_core.testing.fake_node import FakeNode

__all__ = ["FakeLedger", "FakeNode"]
