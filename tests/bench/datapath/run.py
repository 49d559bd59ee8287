# SPDX-License-Identifier: Apache-2.0
"""`make bench SUITE=datapath`: services and endpoints into the kernel, and what translation costs connections."""

from __future__ import annotations

from typing import Any

from tests.bench.datapath import kernel_load, service_ratio


def run() -> dict[str, Any]:
    """Loads first: their figures are of this process, which the others grow."""
    return {"load": kernel_load.measure(), "ratio": service_ratio.measure()}
