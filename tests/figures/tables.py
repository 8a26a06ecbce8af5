"""BENCHMARK.md's tables, from the committed JSON: no figure in them is typed by hand.

A block lies between `<!-- figures: NAME -->` and `<!-- end of figures -->`. One whose JSON isn't
there yet stays as it is; it says of which commit it is.
"""

import re
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from tests.bench_latency import CANONICAL as CANONICAL_RATE
from tests.bench_latency import SERIES, broke
from tests.bench_report import shown
from tests.bench_throughput import BATCHES, PEER, RATIO, SETTINGS
from tests.bench_throughput import CANONICAL as CANONICAL_BATCH
from tests.figures.committed import TARGETS, Envelope, Row

Envelopes = Mapping[str, Envelope]
_BLOCK: Final = re.compile(
    r"(?P<begin><!-- figures: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end of figures -->)",
    re.DOTALL,
)
_ANSWERED: Final = {
    "kafka": ("in the broker's page cache", "`kill -9` of all; not the broker's power"),
    "flush": ("on the broker's disk", "a power cut"),
    "rf3": ("in the page cache of two machines", "the loss of any one machine"),
    "sqlite": ("on this machine's disk", "a power cut"),
}

_KINDS: Final = {
    "rates and ratios": ("/s", "x"),
    "times": ("ms", "s"),
    "CPU": ("us",),
    "sizes": ("MB", "bytes"),
}
_EACH: Final = "-one"
"""How a peer's row ends that has a transfer a call."""


class NoBlock(Exception):
    """BENCHMARK.md has a block that nobody knows, or lacks one; the message says which."""


def with_tables(text: str, envelopes: Envelopes) -> str:
    """The document with each block made new whose figures are there. Raises NoBlock."""
    found = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(found) != sorted(BLOCKS):
        wrong = sorted({*found} ^ {*BLOCKS}) or sorted(found)
        raise NoBlock(f"these blocks are missing, unknown or there twice: {', '.join(wrong)}")

    def made(match: re.Match[str]) -> str:
        needs, make = BLOCKS[match["name"]]
        if not all(target in envelopes for target in needs):
            return match[0]
        body = make(*(envelopes[target] for target in needs))
        return f"{match['begin']}{body.strip()}\n{match['end']}"

    return _BLOCK.sub(made, text)


def headline(throughput: Envelope, latency: Envelope) -> str:
    """Two figures, and where they are from."""
    transfers = throughput.row(f"kafka-batch-{CANONICAL_BATCH}")
    single = latency.row(f"kafka-{CANONICAL_RATE}")
    ratio = throughput.row(RATIO)
    rate = transfers.shown("rate").replace("/s", " transfers/s") if transfers else "not measured"
    p99 = single.shown("p99") if single else "not measured"
    cores = throughput.json["machine"]["cores"]
    times = {
        name: f"{ratio.measured(name) or 0:.3g} times" if ratio else "not compared with"
        for name in ("kafka", "flush")
    }
    return (
        f"**{rate}** journaled in Kafka, applied and answered ({_goals_of(transfers, 'rate')}), "
        f"{times['kafka']} what PostgreSQL does with the same transfers in the same run. That is "
        "one broker's page cache, which a power cut empties; with each batch synced to the "
        f"broker's disk, as PostgreSQL's are, {times['flush']}.\n"
        f"**p99 {p99}** at {CANONICAL_RATE:,} single commands/s ({_goals_of(single, 'p99')}; open "
        "loop, those of a millisecond share a message). "
        f"Client, leader and broker share {cores} cores.\n"
        f"Their runs: {_span(transfers, 'rate')} (commit {throughput.commit}, "
        f"{throughput.json['begun'][:10]}), and {_span(single, 'p99')} (commit {latency.commit}, "
        f"{latency.json['begun'][:10]})."
    )


def by_batch(throughput: Envelope) -> str:
    """Batch sizes down, journals across."""
    lines = []
    for batch in BATCHES:
        rows = [throughput.row(f"{setting.name}-batch-{batch}") for setting in SETTINGS]
        cells = [_cell(row, "rate") for row in rows]
        lines.append([f"{batch:,}", *cells])
    names = ["commands a message, 16 in flight", *(setting.what for setting in SETTINGS)]
    return _table(names, lines) + _plots("throughput") + _source(throughput)


def by_journal(throughput: Envelope) -> str:
    """What each durability costs."""
    ratio, lines = throughput.row(RATIO), []
    for setting in SETTINGS:
        row = throughput.row(f"{setting.name}-batch-{CANONICAL_BATCH}")
        single = throughput.row(f"{setting.name}-single")
        where, survives = _ANSWERED[setting.name]
        times = _cell(ratio, setting.name, goals=True) if ratio and row else "-"
        lines.append(
            [
                setting.what,
                f"{where}; survives {survives}",
                _cell(row, "rate", goals=True),
                times,
                f"{_cell(single, 'p50', goals=True)} / {_cell(single, 'p99', goals=True)}",
            ]
        )
    names = ["journal", "an answered command is", f"transfers/s, batches of {CANONICAL_BATCH:,}"]
    names += ["times PostgreSQL", "one at a time, p50 / p99"]
    return _table(names, lines) + _source(throughput)


def peers(throughput: Envelope) -> str:
    """Each peer's rate, and ours as so many times it: with one transfer a message where the peer
    has one a call.
    """
    lines = []
    many, one = (throughput.row(f"kafka-batch-{batch}") for batch in (CANONICAL_BATCH, 1))
    for row in throughput.rows:
        if not row.name.startswith(PEER.partition("-")[0] + "-"):
            continue
        figure = row.figures[0]
        ours = one if row.name.endswith(_EACH) else many
        rate = ours.measured("rate") if ours else None
        told = row.json["not_measured"]
        value = figure["measured"]
        times = f"{rate / value:.3g}" if rate and value else "-"
        measured = f"not measured: {told}" if told else shown(value, figure["unit"])
        lines.append([figure["what"], measured, times])
    shapes = f"batches of {CANONICAL_BATCH:,}, or of 1 where the peer's call has one"
    names = ["peer", "transfers/s", f"ours on Kafka ({shapes}), times that"]
    return _table(names, lines) + _source(throughput)


def by_rate(latency: Envelope) -> str:
    """Each series to the point where it breaks."""
    parts = []
    for series in SERIES:
        lines = []
        keys = ("p50", "p99", "p999", "max")
        for row in latency.rows:
            if row.axes.get("series") != series.name:
                continue
            offered = row.axes["offered"]
            if not row.json["runs"]:
                lines.append([f"{offered:,}", row.json["not_measured"], *("-" for _ in keys)])
                continue
            served = f"{(row.measured('rate') or 0) / offered:.0%}"
            values = {key: row.measured(key) or 0.0 for key in ("rate", "p99")}
            name = f"{offered:,}" + (", **broken**" if broke(values, offered) else "")
            lines.append([name, served, *(_cell(row, key, goals=True) for key in keys)])
        if lines:
            names = [f"{series.what}: offered a second", "served", "p50", "p99", "p99.9", "max"]
            parts.append(_table(names, lines))
    others = [row for row in latency.rows if not row.axes]
    return "\n".join([*parts, _goals(others)]) + _plots("latency") + _source(latency)


def growth(measured: Envelope) -> str:
    """Accounts, then followers."""
    parts = []
    for axis, journal, keys in (
        ("accounts", "SQLite", ("rate", "p99", "leader_cpu", "resident", "account", "command")),
        ("followers", "Kafka", ("rate", "p99", "leader_cpu")),
    ):
        told = {
            "rate": "transfers",
            "p99": "p99 of a message",
            "leader_cpu": "CPU of the leader a command",
            "resident": "memory of the leader",
            "account": "of that an account",
            "command": "a command of the window",
        }
        lines = [[f"{at:,}", *(row.shown(key) for key in keys)] for at, row in measured.along(axis)]
        if lines:
            parts.append(_table([f"{axis} ({journal})", *(told[key] for key in keys)], lines))
    others = [row for row in measured.rows if not row.axes]
    plots = _plots("growth-accounts", "growth-followers")
    return "\n".join(parts) + "\n" + _goals(others) + plots + _source(measured)


def cost(throughput: Envelope) -> str:
    """CPU a command, on both sides."""
    lines = []
    for setting in SETTINGS[:2]:
        for batch, row in throughput.along("batch", journal=setting.name):
            if batch in {1, 64, CANONICAL_BATCH}:
                cells = [row.shown(key) for key in ("leader_cpu", "client_cpu")]
                lines.append([f"{setting.what}, batches of {batch:,}", *cells])
    names = ["CPU a command", "leader", "client (Python)"]
    return _table(names, lines) + _source(throughput)


def kernel(throughput: Envelope) -> str:
    """The state machine alone."""
    rows = [row for row in throughput.rows if row.name.startswith("kernel")]
    return _goals(rows) + _source(throughput)


def all_rows(measured: Envelope) -> str:
    """Every figure with its floor and aim."""
    return _goals(measured.rows) + _source(measured)


def agreement(*envelopes: Envelope) -> str:
    """How far the last two whole runs lie apart, for each benchmark and kind of figure."""
    lines, runs = [], set()
    for envelope in envelopes:
        cells = [_apart(envelope, units) for units in _KINDS.values()]
        if any(cell != "-" for cell in cells):
            lines.append([f"`make bench-{envelope.json['target']}`", *cells])
            before = envelope.json["before"]
            runs |= {
                (envelope.json["begun"], envelope.commit),
                (before["begun"], before["commit"][:8]),
            }
    if not lines:
        return "Measured once so far."
    names = ["two whole runs: half of the figures lie within / the furthest", *_KINDS]
    told = ", ".join(f"{begun[:16].replace('T', ' ')} ({commit})" for begun, commit in sorted(runs))
    return _table(names, lines) + f"\nBegun {told}, on one machine.\n"


def _apart(envelope: Envelope, units: Collection[str]) -> str:
    """The larger one is so much more than the smaller one."""
    apart = sorted(
        (max(now, then) / min(now, then) - 1, figure["what"])
        for figure, now, then in envelope.twice()
        if figure["unit"] in units
    )
    if not apart:
        return "-"
    furthest, what = apart[-1]
    return f"{statistics.median(each for each, _ in apart):.0%} / {furthest:.0%} ({what})"


BLOCKS: Final[Mapping[str, tuple[Sequence[str], Callable[..., str]]]] = {
    "headline": (("throughput", "latency"), headline),
    "batch": (("throughput",), by_batch),
    "journal": (("throughput",), by_journal),
    "peers": (("throughput",), peers),
    "latency": (("latency",), by_rate),
    "growth": (("growth",), growth),
    "cost": (("throughput",), cost),
    "kernel": (("throughput",), kernel),
    "recovery": (("recovery",), all_rows),
    "history": (("history",), all_rows),
    "ghz": (("ghz",), all_rows),
    "admin": (("admin",), all_rows),
    "pages": (("pages",), all_rows),
    "agreement": (TARGETS, agreement),
}
"""A block's name, the benchmarks it needs, and how it is made."""


def _goals_of(row: Row | None, key: str) -> str:
    if row is None:
        return "not measured"
    figure = row.figure(key)
    floor, aim = (shown(figure[goal], figure["unit"]) for goal in ("floor", "aim"))
    return f"{'misses its' if figure['misses_floor'] else 'its'} floor {floor}, aim {aim}"


def _span(row: Row | None, key: str) -> str:
    """From the lowest to the highest of its runs."""
    if row is None:
        return "not measured"
    figure = row.figure(key)
    lowest, highest = (shown(figure[end], figure["unit"]) for end in ("lowest", "highest"))
    return f"{lowest} to {highest}"


def _cell(row: Row | None, key: str, *, goals: bool = False) -> str:
    """A figure in short, with its floor and aim if asked; bold where it misses its floor."""
    if row is None:
        return "not measured"
    figure = row.figure(key)

    def short(value: float | None) -> str:
        return shown(value, figure["unit"]).removesuffix("/s").strip()

    told = short(figure["measured"])
    told = f"**{told}**" if figure["misses_floor"] else told
    ends = [f"{goal} {short(figure[goal])}" for goal in ("floor", "aim") if figure[goal]]
    return f"{told} ({', '.join(ends)})" if goals and ends else told


def _goals(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        for figure in row.figures:
            unit = figure["unit"]
            told = shown(figure["measured"], unit)
            if figure["misses_floor"]:
                told = f"**{told}**, misses the floor"
            if row.json["not_measured"]:
                told = f"not measured: {row.json['not_measured']}"
            goals = [shown(figure[goal], unit).replace("-", "") for goal in ("floor", "aim")]
            lines.append([figure["what"], told, *goals])
    return _table(["what", "measured", "floor", "aim"], lines)


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [names, ["---"] * len(names), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _plots(*names: str) -> str:
    """Where tests/figures/plots.py draws them."""
    return "\n" + "".join(f"![{name}](tests/figures/{name}.svg)\n" for name in names)


def _machine(envelope: Envelope) -> str:
    machine = envelope.json["machine"]
    return f"{machine['cpu'].replace('(R)', '')}, {machine['cores']} cores"


def _source(envelope: Envelope) -> str:
    """What made the table: command, commit, machine, runs and how far they lie apart."""
    runs = {len(row.json["runs"]) for row in envelope.rows if row.json["runs"]}
    apart = "".join(
        f"; {kind} of the same row lie {spread:.0%} apart at most"
        for kind, units in _KINDS.items()
        if (spread := max((row.spread(units) for row in envelope.rows), default=0.0))
    )
    load = max(
        (run["load_before"] for row in envelope.rows for run in row.json["runs"]), default=0.0
    )
    told = f"{min(runs, default=0)}" + (f" to {max(runs)}" if len(runs) > 1 else "")
    dirty = " (with changes)" if envelope.json["commit"]["dirty"] else ""
    return (
        f"\n`make bench-{envelope.json['target']}`, {envelope.json['begun'][:10]}, commit "
        f"{envelope.commit}{dirty}, {_machine(envelope)}; runs of each row: "
        f"{told}, the median counts{apart}; load average before a row at most {load:.1f}.\n"
    )
