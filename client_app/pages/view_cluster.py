"""The cluster as it is now: who leads, how fast, how far behind the others are."""

from typing import Any, Final

from nicegui.elements.mixins.text_element import TextElement

from client_app.live import News
from client_app.pages.parts import Column, box, card, loading, set_text, table, text
from client_app.pages.plot import Plot
from client_app.pages.texts import NONE, duration, grouped, rounded
from client_app.pages.visit import Visit
from client_app.schemas import Json

_FIGURES: Final = {
    "rate": "Commands/s",
    "applied": "Applied",
    "accounts": "Accounts",
    "ring": "Ring fill",
    "snapshot": "Snapshot's age",
    "history": "History's lag",
}
_COLUMNS: Final = (
    Column("Role"),
    Column("Address"),
    Column("Epoch", "num wide"),
    Column("Applied", "num"),
    Column("Lag", "num"),
    Column("Name", "wide"),
)


class ClusterView:
    """Figures, the plot, and a row for each node."""

    def __init__(self, visit: Visit) -> None:
        with visit.show(self, "Cluster · ringledger", "Cluster"):
            text("h1", "Cluster")
            with box("dl", "figures"):
                self._figures = {}
                for name, title in _FIGURES.items():
                    with box("div", "card figure", data_figure=name):
                        text("dt", title)
                        self._figures[name] = text("dd", NONE)
            with card("Commands per second"):
                self._plot = Plot("Commands per second")
            with card("Nodes"):
                self._nodes = box("div")
                with self._nodes:
                    loading("Asking the nodes…")
        self._shown: list[Any] | None = None
        self._cells: list[list[TextElement]] = []
        visit.watch((), nodes=True)

    def on_news(self, news: News) -> None:
        """Once a second."""
        status = news.status
        if status is None:
            return
        if "nodes_error" in status:
            self._shown = None
            self._nodes.clear()
            with self._nodes:
                text("p", status["nodes_error"], "notice bad")
            return
        for name, shown in figures(status).items():
            set_text(self._figures[name], shown)
        if "rates" in status:
            self._plot.set(status["rates"])
        else:
            self._plot.add(status["rate"])
        self._draw_nodes(status["nodes"])

    def close(self) -> None:
        """Nothing to end."""

    def _draw_nodes(self, nodes: list[Json]) -> None:
        rows = [_cells(node) for node in nodes]
        kinds = [[len(cells), *cells[:2]] for cells in rows]
        if self._shown is None or kinds != self._shown:
            self._shown = kinds
            self._nodes.clear()
            with self._nodes, table(_COLUMNS, "Nodes"):
                self._cells = [_row(node, cells) for node, cells in zip(nodes, rows, strict=True)]
            return
        for made, cells in zip(self._cells, rows, strict=True):
            for element, shown in zip(made, cells, strict=True):
                set_text(element, shown)


def figures(status: Json) -> dict[str, str]:
    """What the cards above the plot say."""
    by_role = {node.get("role"): node for node in reversed(status["nodes"])}
    leader, learner, archiver = map(by_role.get, ("leader", "learner", "archiver"))
    reachable = [node for node in status["nodes"] if node["reachable"]]
    newest = leader or (reachable[0] if reachable else None)
    snapshot = "no learner" if learner is None else "none yet"
    if learner is not None and learner["snapshot_taken_ns"]:
        age_ns = max(0, status["now_ns"] - learner["snapshot_taken_ns"])
        snapshot = duration(age_ns / 1e9)
    ring = NONE
    if leader is not None and leader["ring_capacity"]:
        ring = f"{100 * leader['in_flight_commands'] / leader['ring_capacity']:.1f} %"
    return {
        "rate": rounded(status["rate"]) if leader is not None else NONE,
        "applied": NONE if newest is None else grouped(newest["applied_sequence"]),
        "accounts": NONE if newest is None else grouped(newest["accounts"]),
        "ring": ring,
        "snapshot": snapshot,
        "history": "no archiver" if archiver is None else grouped(archiver["lag_commands"]),
    }


def _cells(node: Json) -> list[str]:
    if not node["reachable"]:
        return ["away", node["endpoint"], node["error"]]
    return [
        node["role"],
        node["address"] or node["endpoint"],
        grouped(node["epoch"]),
        grouped(node["applied_sequence"]),
        NONE if node["role"] == "leader" else grouped(node["lag_commands"]),
        node["node_id"],
    ]


def _row(node: Json, cells: list[str]) -> list[TextElement]:
    kind = "badge bad" if not node["reachable"] else "badge"
    if node.get("role") == "leader":
        kind = "badge good"
    with box("tr", "" if node["reachable"] else "down"):
        with box("td"):
            made = [text("span", cells[0], kind)]
        made.append(text("td", cells[1], "mono"))
        if not node["reachable"]:
            made.append(text("td", cells[2], colspan=4))
            return made
        for column, shown in zip(_COLUMNS[2:], cells[2:], strict=True):
            made.append(text("td", shown, column.classes))
    return made
