# SPDX-License-Identifier: Apache-2.0
"""What processes have used, as the kernel counts it."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Figures = dict[str, float]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all threads that ever ran included. Its clock's number: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of a process: `VmRSS` now, `VmHWM` at its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(field + ":"))
    return round(int(found.split()[1]) / 1024, 1)


class Meter:
    """Between its making and `read`: wall and CPU of this process, CPU of the others, memory."""

    def __init__(self, **others: int) -> None:
        self._others = others
        self._memory = memory_mib(os.getpid())
        self._before = {name: cpu_s(pid) for name, pid in others.items()}
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def read(self, records: int = 0) -> Figures:
        wall_s, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        found = {"wall_s": round(wall_s, 3), "cpu_s": round(cpu, 3)}
        for name, pid in self._others.items():
            found[f"{name}_cpu_s"] = round(cpu_s(pid) - self._before[name], 3)
        own = os.getpid()
        found |= {"rss_before_mib": self._memory, "rss_mib": memory_mib(own), "rss_peak_mib": memory_mib(own, "VmHWM")}
        if records:
            found |= {"records": records, "records_per_s": round(records / wall_s)}
        return found


async def until(holds: Callable[[], bool]) -> None:
    """It holds; looked at every few milliseconds."""
    while not holds():  # noqa: ASYNC110 - what is waited for rings no bell
        await asyncio.sleep(0.003)


def quantiles(samples_ms: Sequence[float]) -> Figures:
    """Middle and end of a distribution, in milliseconds."""
    ordered = sorted(samples_ms)
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p90_ms": round(ordered[len(ordered) * 90 // 100], 2),
        "p99_ms": round(ordered[len(ordered) * 99 // 100], 2),
        "max_ms": round(ordered[-1], 2),
        "samples": len(ordered),
    }


def best(runs: Sequence[Figures]) -> Figures:
    """The run that used least CPU: other work on the machine only ever adds. Says how far the worst was from it."""
    chosen = dict(min(runs, key=lambda figures: figures["cpu_s"]))
    if len(runs) > 1:
        chosen |= {"runs": len(runs), "cpu_s_worst": max(figures["cpu_s"] for figures in runs)}
        chosen["wall_s"] = min(figures["wall_s"] for figures in runs)
        if "records" in chosen:
            chosen["records_per_s"] = round(chosen["records"] / chosen["wall_s"])
    return chosen


def ratio(ours: Figures, raw: Figures, name: str = "cpu_s") -> float:
    """How many times the bare client's cost ours is."""
    return round(ours[name] / raw[name], 2) if raw.get(name) else 0.0
