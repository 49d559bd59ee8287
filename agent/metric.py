# SPDX-License-Identifier: Apache-2.0
"""How the agent's metrics are named. Cilium's names under our prefix; none names a pod or a policy."""

from __future__ import annotations

from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

PREFIX: Final = "clustermesh_agent"


def gauge(name: str, help_text: str, value: float) -> Metric:
    """One number without labels."""
    family = GaugeMetricFamily(f"{PREFIX}_{name}", help_text)
    family.add_metric([], value)
    return family
