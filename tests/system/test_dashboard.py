"""The dashboard, the scrape configuration and ARCHITECTURE.md, against what real nodes give."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster_app.settings import (
    ArchiverSettings,
    FollowerSettings,
    LeaderSettings,
    LearnerSettings,
)
from cluster_core.record import Operation, Status
from tests.archiver_process import ArchiverProcess
from tests.follower_process import FollowerProcess
from tests.http_get import request
from tests.leader_process import LeaderProcess, journal_url
from tests.learner_process import LearnerProcess
from tests.ledger_load import create_account, deposits, submit

ROOT = Path(__file__).parent.parent.parent
DASHBOARDS = ROOT / "cluster_app" / "dashboards"
BY_PROMETHEUS = {"job", "instance"}
"""Labels that the scrape itself adds."""

COUNTERS = {"rate", "increase", "irate", "resets"}
LABEL_VALUES: dict[str, set[str]] = {
    "operation": {operation.name for operation in Operation},
    "status": {status.name for status in Status},
    "role": {"leader", "follower", "learner", "archiver"},
}


@dataclass
class Shown:
    """Each sample's name, its labels, and whether it only ever rises."""

    labels: dict[str, set[str]] = field(default_factory=dict)
    rising: dict[str, bool] = field(default_factory=dict)

    def add(self, address: str) -> None:
        """Take in what a node gives."""
        status, text = request(address, "/metrics")
        assert status == 200, text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.labels.setdefault(sample.name, set()).update(sample.labels)
                self.rising[sample.name] = family.type in ("counter", "histogram")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """What a leader, a learner, a follower and an archiver give that have done some work."""
    folder = tmp_path_factory.mktemp("nodes")
    journal, store = journal_url(folder), f"sqlite:///{folder / 'snapshots.db'}"
    with (
        LeaderProcess(journal, "--no-snapshot") as leader,
        LearnerProcess(folder, journal, store, "--snapshot-interval-s", "0.1") as learner,
        FollowerProcess(folder, journal, "--no-snapshot") as follower,
        ArchiverProcess(folder, journal, f"sqlite:///{folder / 'history.db'}") as archiver,
    ):
        refused = np.concatenate([deposits(1, account=99), deposits(1)])
        submit(leader.wait_ready().address, create_account(), refused)
        learner.wait_ready().wait_snapshots(2)
        shown = Shown()
        shown.add(leader.http_address)
        shown.add(learner.http_address)
        shown.add(follower.wait_ready().http_address)
        shown.add(archiver.wait_ready().http_address)
        return shown


def dashboards() -> Iterator[dict[str, Any]]:
    for path in sorted(DASHBOARDS.glob("*.json")):
        yield json.loads(path.read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for board in dashboards() for panel in board["panels"]]


def queries() -> list[str]:
    """Every query, as Grafana would send it."""
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
        for panel in panels()
        for target in panel.get("targets", ())
    ]


def nodes_of(expression: Any) -> Iterator[Any]:
    """An expression and all below it."""
    yield expression
    below = [getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "param")]
    below += [getattr(expression, "vector_selector", None), *getattr(expression, "args", ())]
    for inner in below:
        if inner is not None:
            yield from nodes_of(inner)


def labels_asked_for(node: Any) -> set[str]:
    """The labels that one node of an expression names."""
    modifier: Any = getattr(node, "modifier", None)
    asked = set(getattr(modifier, "labels", None) or ())
    matching = getattr(modifier, "matching", None)
    if matching is not None:
        asked |= set(matching.labels) | set(modifier.group_labels or ())
    return asked


def complaints(query: str, shown: Shown) -> list[str]:
    """What is wrong with a query: names, labels and values that no node gives."""
    try:
        tree = list(nodes_of(promql.parse(query)))
    except ValueError as error:
        return [f"{query}: {error}"]
    selectors = [node for node in tree if isinstance(node, promql.VectorSelector)]
    wrong = [] if selectors else [f"{query}: asks for nothing"]
    known = set(BY_PROMETHEUS)
    for selector in selectors:
        if selector.name not in shown.labels:
            wrong.append(f"{query}: no node gives {selector.name}")
            continue
        known |= (own := shown.labels[selector.name])
        for matcher in selector.matchers.matchers:
            if matcher.name not in own | BY_PROMETHEUS:
                wrong.append(f"{query}: {selector.name} has no label {matcher.name}")
            values = LABEL_VALUES.get(matcher.name)
            if values is not None and matcher.value not in values:
                wrong.append(f"{query}: {matcher.name} is never {matcher.value}")
    for node in tree:
        wrong += [f"{query}: nothing has {name}" for name in labels_asked_for(node) - known]
        if isinstance(node, promql.Call) and node.func.name in COUNTERS:
            name = node.args[0].vector_selector.name
            if not shown.rising.get(name):
                wrong.append(f"{query}: {node.func.name} of {name}, which also falls")
    return wrong


def test_every_query_of_the_dashboard_asks_for_what_nodes_give(shown: Shown) -> None:
    asked = queries()
    assert len(asked) > 30
    assert [wrong for query in asked for wrong in complaints(query, shown)] == []


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("rate(ringledger_commands_total[1m]", "unclosed|unexpected|invalid"),
        ("rate(ringledger_commands_total)", "expected type matrix"),
        ("ringledger_command_total", "no node gives ringledger_command_total"),
        ('ringledger_epoch{status="OK"}', "ringledger_epoch has no label status"),
        ('ringledger_commands_total{status="FINE"}', "status is never FINE"),
        ("sum by (state) (ringledger_commands_total)", "nothing has state"),
        ("rate(ringledger_epoch[1m])", "rate of ringledger_epoch, which also falls"),
        ("ringledger_ready * on (node) group_left (role) ringledger_node_info", "nothing has node"),
        ("1 + 1", "asks for nothing"),
    ],
)
def test_a_query_that_shows_nothing_is_found(shown: Shown, query: str, complaint: str) -> None:
    assert re.search(complaint, " ".join(complaints(query, shown)))


def test_nearly_all_that_nodes_give_is_on_the_dashboard(shown: Shown) -> None:
    text = " ".join(queries())
    unseen = {
        name
        for name in shown.labels
        if name.startswith("ringledger_") and name not in text and not name.endswith("_created")
    }
    assert unseen == set()


def test_architecture_lists_every_metric_and_no_other(shown: Shown) -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().split("## Metrics\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"`(ringledger_\w+)", section))
    given = {
        re.sub(r"_(bucket|count|sum)$", "", name) if shown.rising[name] else name
        for name in shown.labels
        if name.startswith("ringledger_")
    }
    assert listed == given


def test_panels_have_titles_units_and_places_of_their_own() -> None:
    places = set()
    for panel in panels():
        grid = panel["gridPos"]
        assert panel["title"]
        assert grid["x"] + grid["w"] <= 24
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in places, panel["title"]
                places.add((x, y))
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_compose_scrapes_the_nodes_usual_ports_and_provisions_the_dashboard() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    texts = {
        name: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", given["content"])
        for name, given in compose["configs"].items()
    }
    [scrape] = yaml.safe_load(texts["prometheus"])["scrape_configs"]
    [targets] = scrape["static_configs"]
    for settings in (LeaderSettings(), FollowerSettings(), LearnerSettings(), ArchiverSettings()):
        assert settings.http_address() is not None
        host, port = settings.http_address() or ("", 0)
        assert f"{host}:{port}" in targets["targets"]
    assert all(f'job="{scrape["job_name"]}"' in query for query in queries() if "process_" in query)
    [source] = yaml.safe_load(texts["grafana-datasource"])["datasources"]
    for panel in panels():
        assert panel["type"] == "row" or panel["datasource"]["uid"] == source["uid"]
    assert str(source["url"]).endswith(":9090")
    grafana = compose["services"]["grafana"]
    [provider] = yaml.safe_load(texts["grafana-dashboards"])["providers"]
    [mount] = grafana["volumes"]
    folder, inside, _ = mount.split(":")
    assert (ROOT / folder).resolve() == DASHBOARDS
    assert provider["options"]["path"] == inside
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (DASHBOARDS / home.name).exists()
    for name in ("prometheus", "grafana"):
        used = {config["source"] for config in compose["services"][name]["configs"]}
        assert used <= set(texts)
