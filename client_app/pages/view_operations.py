"""Every operation, with a form that asks before it sends."""

from contextlib import suppress
from typing import Final

from nicegui import ui

from client_app.live import News
from client_app.pages.calls import Refusal
from client_app.pages.forms import FormOptions, OperationForm
from client_app.pages.operations import OPERATIONS
from client_app.pages.parts import Tabs, card, error_box, loading, text
from client_app.pages.texts import operation_name
from client_app.pages.visit import Visit
from client_app.schemas import Json

_NAMES: Final = {name: operation_name(name) for name in OPERATIONS}


class OperationsView:
    """All forms, of which one is shown."""

    def __init__(self, visit: Visit, named: str) -> None:
        self._visit = visit
        self._named = named
        self._assets: dict[str, str] = {}
        with visit.show(self, "Operations · ringledger", "Operations"):
            text("h1", "Operations")
            self._card = card()
            with self._card:
                loading()
        visit.watch((), nodes=True)

    async def load(self) -> None:
        """Ask for the assets, which a form offers."""
        try:
            await self._read_assets()
        except Refusal as refusal:
            if not self._visit.refused(refusal):
                self._card.clear()
                with self._card:
                    error_box(refusal, self.load)
            return
        self._card.clear()
        with self._card:
            Tabs(
                "Operation",
                _NAMES,
                self._form,
                self._named,
                lambda name: ui.navigate.history.replace(f"/operations/{name}"),
            )

    async def _read_assets(self) -> None:
        for asset in (await self._visit.calls.get("/assets"))["assets"]:
            shown = f"{asset['number']}: {asset['symbol']}, {asset['decimals']} decimals"
            self._assets[str(asset["number"])] = shown

    def _form(self, name: str) -> None:
        async def renewed(_: Json) -> None:
            with suppress(Refusal):
                await self._read_assets()

        on_done = renewed if name == "register_asset" else None
        options = FormOptions(assets=self._assets, operator=True, on_done=on_done)
        OperationForm(self._visit, name, options)

    def on_news(self, news: News) -> None:
        """Nothing here changes by itself."""

    def close(self) -> None:
        """Nothing to end."""
