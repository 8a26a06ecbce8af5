"""What the checks of a campaign found."""

from dataclasses import dataclass, field
from typing import Final

SHOWN_MAX: Final = 5
"""Findings of a kind that are described; all are counted."""


@dataclass
class Found:
    """What is not as it should be, by kind: how often, and the first few in words."""

    counts: dict[str, int] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, first: str) -> None:
        """`count` findings of a kind, of which `first` is one."""
        if not count:
            return
        self.counts[kind] = self.counts.get(kind, 0) + count
        if sum(line.startswith(kind) for line in self.shown) < SHOWN_MAX:
            self.shown.append(f"{kind}: {first}")

    def count(self, kind: str) -> int:
        """How many of this kind."""
        return self.counts.get(kind, 0)

    def take(self, other: "Found") -> None:
        """Everything that another one has."""
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        self.shown += other.shown
