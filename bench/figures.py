"""The figures of all rounds: medians and spreads, for people and as JSON."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from bench.outage import Round

# Name in the JSON, heading, decimals.
_COLUMNS = [
    ("away_cpu_percent", "away: CPU %", 2),
    ("away_rss_peak_mb", "RSS MB", 0),
    ("away_rss_growth_mb", "growth", 1),
    ("messages_per_second", "drain: msg/s", 0),
    ("worker_us", "worker µs", 0),
    ("registry_us", "registry µs", 0),
    ("redis_us", "Redis µs", 0),
    ("drain_rss_peak_mb", "RSS MB", 0),
]


def document(rounds: Sequence[Round], options: dict[str, Any]) -> dict[str, Any]:
    """Return everything measured. A figure of the summary is [lowest, median, highest] of its rounds."""
    summary = [_summary(alike) for alike in _groups(rounds)]
    return {
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "options": options,
        "rounds": [asdict(one) for one in rounds],
        "summary": summary,
        "ours_to_stock": _ratios(summary),
    }


def _groups(rounds: Sequence[Round]) -> list[list[Round]]:
    groups: dict[tuple[str, int], list[Round]] = {}
    for one in rounds:
        groups.setdefault((one.contestant, one.workers), []).append(one)
    return list(groups.values())


def _summary(rounds: Sequence[Round]) -> dict[str, Any]:
    first = rounds[0]
    figures = [_figures(one) for one in rounds]
    return {
        "contestant": first.contestant,
        "workers": first.workers,
        "messages": first.messages,
        "rounds": len(rounds),
        **{name: _spread([one[name] for one in figures]) for name in figures[0]},
    }


def _figures(one: Round) -> dict[str, float]:
    drain = asdict(one.drain)
    drain["drain_rss_peak_mb"] = drain.pop("rss_peak_mb")
    del drain["seconds"]
    if one.away is None:
        return drain
    return {
        "away_cpu_percent": one.away.cpu_percent,
        "away_rss_peak_mb": one.away.rss_peak_mb,
        "away_rss_growth_mb": one.away.rss_peak_mb - one.away.rss_mb,
        **drain,
    }


def _spread(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in (min(values), median(values), max(values))]


def _ratios(summary: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Compare one worker with one worker, by the medians."""
    single = {one["contestant"]: one for one in summary if one["workers"] == 1}
    if len(single) < 2:
        return None
    ours, stock = single["ours"], single["stock"]
    compared = ("messages_per_second", "worker_us", "registry_us")
    return {name: round(ours[name][1] / stock[name][1], 3) for name in compared if stock[name][1]}


def table(document: dict[str, Any]) -> str:
    """Return the summary as a table in Markdown: medians, with the spread when there were several rounds."""
    lines = [
        "| | messages | " + " | ".join(heading for _, heading, _ in _COLUMNS) + " |",
        "|---" * (2 + len(_COLUMNS)) + "|",
    ]
    for one in document["summary"]:
        who = one["contestant"] + (f", {one['workers']} workers" if one["workers"] > 1 else "")
        cells = [_cell(one.get(name), decimals) for name, _, decimals in _COLUMNS]
        lines.append(f"| {who} | {one['messages']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(spread: Sequence[float] | None, decimals: int) -> str:
    if spread is None:
        return "-"
    lowest, middle, highest = (f"{value:,.{decimals}f}" for value in spread)
    return middle if lowest == highest else f"{middle} ({lowest} to {highest})"
