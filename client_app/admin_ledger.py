"""Routes about the ledger as a whole: assets, totals, the nodes."""

from typing import Final

from client_app.answers import decimal_text, done
from client_app.documents import Routes
from client_app.routes import Answer, Call
from client_app.schemas import (
    AssetsAnswer,
    ChangeAnswer,
    ClusterAnswer,
    RegisterAsset,
    TotalsAnswer,
)
from client_core import Client

_NODE_FIELDS: Final = (
    "endpoint",
    "reachable",
    "role",
    "node_id",
    "address",
    "leader",
    "epoch",
    "applied_sequence",
    "lag_commands",
    "ledger_time_ns",
)


class LedgerRoutes:
    """Handlers over one ledger."""

    def __init__(self, ledger: Client) -> None:
        self._ledger = ledger

    def add_to(self, routes: Routes) -> None:
        """Add them all."""
        routes.get("/api/v1/assets", self.assets, AssetsAnswer)
        routes.post("/api/v1/assets", self.register_asset, ChangeAnswer, created=True)
        routes.get("/api/v1/totals", self.totals, TotalsAnswer)
        routes.get("/api/v1/cluster", self.cluster, ClusterAnswer)

    async def assets(self, call: Call) -> Answer:
        """All registered assets."""
        totals = await self._ledger.totals()
        assets = [
            {"number": entry.asset.number, "symbol": entry.asset.symbol}
            | {"decimals": entry.asset.decimals}
            for entry in totals.assets
        ]
        return Answer({"assets": assets})

    async def register_asset(self, call: Call, body: RegisterAsset) -> Answer:
        """Register an asset, for ever; its external account is its outside."""
        reply = await self._ledger.register_asset(
            body.number, body.symbol, body.decimals, command_id=call.command_id
        )
        content = {**done(reply), "asset": body.number}
        return Answer(content, reply.duplicate, 201, "/api/v1/assets")

    async def totals(self, call: Call) -> Answer:
        """Sums over all accounts, for each asset."""
        totals = await self._ledger.totals()
        return Answer(
            {
                "assets": [
                    {
                        "number": entry.asset.number,
                        "symbol": entry.asset.symbol,
                        "decimals": entry.asset.decimals,
                        "posted": decimal_text(entry.posted),
                        "held": decimal_text(entry.held),
                        "accounts": entry.accounts,
                        "open_holds": entry.open_holds,
                    }
                    for entry in totals.assets
                ],
                "accounts": totals.accounts,
                "open_holds": totals.open_holds,
                "applied_sequence": totals.applied_sequence,
                "ledger_time_ns": totals.ledger_time_ns,
            }
        )

    async def cluster(self, call: Call) -> Answer:
        """Every known node, asked now; one that can't be reached says why."""
        nodes = []
        for status in await self._ledger.cluster():
            if status.reachable:
                nodes.append({name: getattr(status, name) for name in _NODE_FIELDS})
            else:
                nodes.append(
                    {"endpoint": status.endpoint, "reachable": False, "error": status.error}
                )
        return Answer({"nodes": nodes})
