# SPDX-License-Identifier: Apache-2.0
"""The figures beside what we want of them. What other programs cost is in docs, with how it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# what: (where the figure is, comparison, target)
TARGETS: dict[str, tuple[str, str, float]] = {
    "publish 7,278 keys from lists, CPU s": ("publish_small.from_lists.cpu_s", "<=", 3.2),
    "publish 7,278 keys, whole program from its start, CPU s": ("change.start.cpu_s", "<=", 3.2),
    "burst of 20,000 published, per s": ("publish.burst.records_per_s", ">=", 5000),
    "mirror 111,500 records, CPU s": ("mirror.first.mirror_cpu_s", "<=", 15),
    "mirror 111,500 records, wall s": ("mirror.first.wall_s", "<=", 12),
    "burst of 20,000 mirrored, per s": ("mirror.burst.records_per_s", ">=", 5000),
    "mirror hop, p50 ms": ("mirror.steady.p50_ms", "<=", 2.7),
    "100,000 services decoded, CPU s": ("services.decoded.cpu_s", "<=", 2),
    "100,000 services decoded, wall s": ("services.decoded.wall_s", "<=", 3),
    "100,000 services decoded, peak RSS MiB": ("services.decoded.rss_peak_mib", "<=", 400),
    "request to etcd key, p50 ms": ("change.slice.request_to_key.p50_ms", "<=", 6),
    "request to etcd key, p99 ms": ("change.slice.request_to_key.p99_ms", "<=", 13),
    "facade, put to watch, p50 ms more": ("facade.put_to_watch.overhead_p50_ms", "<=", 0.5),
    "facade, 100,000 events to each of four peers, CPU s per peer": ("facade.cpu_s_per_peer", "<=", 0.3),
}


def judge(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Every target whose part was measured: what is wanted, what was found, whether that is enough."""
    found: dict[str, Any] = {}
    for what, (path, comparison, target) in TARGETS.items():
        value = _at(figures, path)
        if value is not None:
            is_met = value <= target if comparison == "<=" else value >= target
            found[what] = {"target": f"{comparison} {target:g}", "measured": value, "is_met": is_met}
    return found


def _at(figures: Mapping[str, Any], path: str) -> float | None:
    at: Any = figures
    for name in path.split("."):
        if not isinstance(at, Mapping) or name not in at:
            return None
        at = at[name]
    return float(at)
