# SPDX-License-Identifier: Apache-2.0
"""What recording costs packets: two equal pairs of nodes, one that records at medium and one that records nothing, in one run.

Rounds alternate between the two, so that noise of the machine meets both; the figure is the ratio of medians. Client and
server share one CPU. A reader takes the records of the node of the client on the other, as its agent would.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agent.datapath.config import Aggregation, AttachMode
from tests.bench.datapath.service_ratio import VIP, lead_service, load, served
from tests.integration.datapath.datapath_topology import Topology, topology
from tests.packet.datapath_host import bpffs, build_objects, run

READ_S: Final = 0.02


def measure(rounds: int = 9, seconds: float = 0.5) -> dict[str, Any]:
    """Connections a second and the median exchange with a service of the other node, and the ratios on to off."""
    build_objects()
    with tempfile.TemporaryDirectory() as work:
        tool = Path(work) / "load"
        run("cc", "-O2", "-o", str(tool), str(Path(__file__).with_name("load.c")))
        with (
            bpffs(Path(work) / "on") as on_pins,
            bpffs(Path(work) / "off") as off_pins,
            topology(f"dpo-on-{os.getpid()}", on_pins, AttachMode.AUTO) as on,
            topology(f"dpo-no-{os.getpid()}", off_pins, AttachMode.AUTO, aggregation=Aggregation.OFF) as off,
        ):
            return _measure(on, off, tool, rounds, seconds)


def _measure(on: Topology, off: Topology, tool: Path, rounds: int, seconds: float) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for made in (on, off):
        lead_service(made, VIP, made.pods()[4], 1)
    with served(tool, on.pods()[4]), served(tool, off.pods()[4]), _reader(on) as taken:
        for kind, unit in (("connect", "rate"), ("exchange", "p50_us")):
            pairs = [
                tuple(load(tool, made.pods()[0], kind, VIP, 80, seconds)[unit] for made in (on, off))
                for _ in range(rounds)
            ]
            with_, without = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = with_ / without if unit == "rate" else without / with_
            label = "connections_per_s" if kind == "connect" else "exchange_p50_us"
            figures[label] = {"on": with_, "off": without, "ratio": round(ratio, 4), "target": 0.97}
        figures["records_taken"] = taken[0]
        figures["records_lost"] = sum(map(sum, _lost(on)))
    return figures


def _lost(made: Topology) -> Iterator[list[int]]:
    for node in made.nodes:
        ring = node.datapath.event_ring()
        yield ring.lost
        ring.close()


@contextmanager
def _reader(made: Topology) -> Iterator[list[int]]:
    """Takes what the nodes record; the number of records."""
    rings, taken, stop = [node.datapath.event_ring() for node in made.nodes], [0], threading.Event()

    def read() -> None:
        os.sched_setaffinity(0, {0})
        while not stop.wait(READ_S):
            taken[0] += sum(len(ring.take()) for ring in rings)

    thread = threading.Thread(target=read, name="reader of records")
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()
        for ring in rings:
            ring.close()
