"""The table of a campaign, for people and as JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from client_app.bench_machine import describe_commit, describe_machine, describe_versions
from tests.campaign.checks import Checked
from tests.campaign.faults import Fault

LEADER_KILLS: Final = "kill -9 of the leader"
_AFTER_NS: Final = 1_000_000_000
_KINDS_OF_FINDINGS: Final = (
    *("lost", "doubled", "wrong", "reordered", "unresolved", "invented", "balances", "nodes"),
    *("history", "stale", "misread"),
)


@dataclass(frozen=True)
class Report:
    """Everything that a campaign has to tell. `seconds` tells where its time went."""

    minutes: float
    seed: int
    faults: list[Fault]
    checked: Checked
    epochs: int
    skipped_records: int
    retries: int
    ended_by_themselves: list[str]
    seconds: dict[str, float]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found, and there was something to find it in."""
        return not self.checked.found.counts and self.checked.answered > 0 and self.counted > 0

    @property
    def counted(self) -> int:
        """Faults with commands under way and an effect."""
        return sum(fault.counts for fault in self.faults)

    def gaps_s(self, faults: Iterable[Fault]) -> npt.NDArray[np.float64]:
        """For each fault the longest time, around it, in which no client was answered."""
        times = self.checked.reply_ns
        gaps = np.diff(times)
        found = []
        for fault in faults:
            end_ns = max(fault.healed_ns, fault.begun_ns + _AFTER_NS)
            first = max(int(np.searchsorted(times, fault.begun_ns)) - 1, 0)
            last = max(int(np.searchsorted(times, end_ns)), first + 1)
            found.append(float(gaps[first:last].max(initial=0)) / 1e9)
        return np.array(found)

    def values(self) -> dict[str, Any]:
        """Figures by name."""
        checked = self.checked
        kills = self.gaps_s(fault for fault in self.faults if fault.kind == LEADER_KILLS)
        return {
            "minutes": round(self.minutes, 2),
            "seed": self.seed,
            "faults": self.counted,
            "faults_without_effect": len(self.faults) - self.counted,
            "commands": checked.commands,
            "answered": checked.answered,
            "balances_read": checked.reads,
            "unknown_outcomes": checked.unknown,
            "unknown_outcomes_resolved": checked.resolved,
            "repeated_on_purpose": checked.repeated,
            "retries_inside_the_client": self.retries,
            "epochs": self.epochs,
            "skipped_records": self.skipped_records,
            "longest_without_service_s": round(
                float(np.diff(checked.reply_ns).max(initial=0)) / 1e9, 3
            ),
            "after_leader_kills_p50_s": _quantile(kills, 0.5),
            "after_leader_kills_p99_s": _quantile(kills, 0.99),
            **{kind: checked.found.count(kind) for kind in _KINDS_OF_FINDINGS},
        }


def _quantile(values: npt.NDArray[np.float64], share: float) -> float | None:
    return round(float(np.quantile(values, share)), 3) if len(values) else None


def table(report: Report) -> str:
    """Markdown: faults by kind, then the figures."""
    lines = [
        "| fault | times | of these without effect | longest without service, s (median, most) |",
        "| --- | --- | --- | --- |",
    ]
    for kind in sorted({fault.kind for fault in report.faults}):
        faults = [fault for fault in report.faults if fault.kind == kind]
        gaps = report.gaps_s(faults)
        idle = sum(not fault.counts for fault in faults)
        lines.append(
            f"| {kind} | {len(faults)} | {idle} | {np.median(gaps):.2f}, {gaps.max():.2f} |"
        )
    lines += ["", "| figure | value |", "| --- | --- |"]
    for name, value in report.values().items():
        shown = f"{value:,}" if isinstance(value, int) and name != "seed" else value
        lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines)


def publish(report: Report, path: Path) -> None:
    """Print the table and what was found; write everything as JSON."""
    print(table(report))
    for line in report.checked.found.shown:
        print(f"FOUND {line}")
    for line in report.ended_by_themselves:
        print(f"ended by itself: {line}")
    print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    written = {
        "values": report.values(),
        "statuses": report.checked.statuses,
        "faults": [asdict(fault) for fault in report.faults],
        "found": report.checked.found.shown,
        "ended_by_themselves": report.ended_by_themselves,
        "seconds": report.seconds,
        "machine": describe_machine(),
        "commit": describe_commit(),
        "versions": describe_versions(),
    }
    path.write_text(json.dumps(written, indent=1, default=str) + "\n")
