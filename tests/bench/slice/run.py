# SPDX-License-Identifier: Apache-2.0
"""`make bench SUITE=slice`."""

from __future__ import annotations

from typing import Any

from tests.bench.datapath import service_ratio
from tests.bench.slice import propagation


def run() -> dict[str, Any]:
    """Figures of both halves: control plane and datapath."""
    return {"propagation": propagation.measure(), "datapath": service_ratio.measure()}
