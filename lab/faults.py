# SPDX-License-Identifier: Apache-2.0
"""Cut and heal the underlay between clusters or nodes, below everything a node could do about it.

The bridge of the underlay drops the packets; the set of dropped address pairs in the kernel is the only state.
"""

from __future__ import annotations

import re
import subprocess
from typing import Final

from lab.names import LabNames
from lab.netns import command_inside
from lab.topology import NODES, POSSIBLE, NodePlan

TABLE: Final = "lab_faults"
PREPARE: Final = f"""
table bridge {TABLE} {{
  set cut {{ type ipv4_addr . ipv4_addr; }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ether type ip ip saddr . ip daddr @cut counter drop
  }}
}}
"""
PAIR: Final = re.compile(r"(\d+\.\d+\.\d+\.\d+) \. (\d+\.\d+\.\d+\.\d+)")

Pair = tuple[str, str]


class UnknownPlaceError(ValueError):
    """Neither a cluster nor a node has this name."""


def nodes_of(place: str) -> tuple[NodePlan, ...]:
    """The nodes a cluster's or a node's name stands for. Raises: UnknownPlaceError naming what exists."""
    found = tuple(node for node in NODES if place in (node.name, node.cluster))
    if not found:
        known = [cluster.name for cluster in POSSIBLE] + [node.name for node in NODES]
        raise UnknownPlaceError(f"{place!r} is neither a cluster nor a node; there are {', '.join(known)}")
    return found


def plan_cut(first: str, second: str | None) -> list[Pair]:
    """Address pairs to drop so that the two places cannot reach each other; without a second, the first reaches nobody."""
    ours = nodes_of(first)
    others = nodes_of(second) if second else tuple(node for node in NODES if node not in ours)
    pairs = {(a.address, b.address) for a in ours for b in others if a != b}
    return sorted(pairs | {(b, a) for a, b in pairs})


def cut(lab: LabNames, first: str, second: str | None = None) -> list[Pair]:
    """Nothing passes between the two places until healed."""
    pairs = plan_cut(first, second)
    _nft(lab, f"{PREPARE}add element bridge {TABLE} cut {{ {_elements(pairs)} }}\n")
    return pairs


def heal(lab: LabNames, first: str | None = None, second: str | None = None) -> None:
    """The two places reach each other again; without names every cut is undone."""
    present = set(cuts(lab))
    gone = present & set(plan_cut(first, second)) if first else present
    if gone:
        _nft(lab, f"delete element bridge {TABLE} cut {{ {_elements(sorted(gone))} }}\n")


def cuts(lab: LabNames) -> list[Pair]:
    """The address pairs that are dropped now."""
    command = command_inside(lab.underlay, ["nft", "list", "set", "bridge", TABLE, "cut"])
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return sorted(PAIR.findall(shown.stdout)) if shown.returncode == 0 else []


def _elements(pairs: list[Pair]) -> str:
    return ", ".join(f"{a} . {b}" for a, b in pairs)


def _nft(lab: LabNames, script: str) -> None:
    command = command_inside(lab.underlay, ["nft", "-f", "-"])
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"nft: {done.stderr.strip()}")
