# SPDX-License-Identifier: Apache-2.0
"""The alert rules and the dashboard speak of metrics that the programs serve, and of the state they are in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

import deploy
from e2e.mesh import SYSTEM, Mesh

FOLDER = Path(deploy.__file__).parent / "monitoring"
NAME = re.compile(r"\bclustermesh_(?:agent|apiserver)_\w+")
PROXY = f"/api/v1/namespaces/{SYSTEM}"


def expressions() -> list[str]:
    """Every expression of the rules and of the dashboard."""
    rules: Any = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    board: Any = json.loads((FOLDER / "dashboard.json").read_text())
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return asked + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def served(mesh: Mesh) -> str:
    """What the apiserver and one agent of koornacht serve."""
    (agent, *_) = mesh.pods("koornacht", "k8s-app=clustermesh-agent", SYSTEM)
    places = (
        "services/clustermesh-apiserver-status:9880",
        f"pods/{agent['metadata']['name']}:9879",
    )
    return "".join(mesh.kubectl("koornacht", "get", "--raw", f"{PROXY}/{p}/proxy/metrics").stdout for p in places)


def test_every_metric_that_a_rule_or_a_panel_names_is_served(mesh: Mesh) -> None:
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", served(mesh), re.MULTILINE))
    known = set(kinds) | {f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram"}
    named = {name for text in expressions() for name in NAME.findall(text)}
    assert len(named) > 20
    assert named - known == set()


def test_the_mirrors_session_with_each_peer_is_measured(mesh: Mesh) -> None:
    labels = '{source_cluster="koornacht",target_cluster="tion"}'
    text = served(mesh)
    assert f"clustermesh_apiserver_remote_cluster_readiness_status{labels} 1.0" in text
    age = re.search(rf"^clustermesh_apiserver_remote_cluster_data_age_seconds{re.escape(labels)} (\S+)$", text, re.M)
    assert age is not None
    assert 0 <= float(age[1]) < 120


def test_the_way_to_each_peer_is_measured_and_shown(mesh: Mesh) -> None:
    labels = re.escape('{source_cluster="koornacht",target_cluster="tion"}')
    rtt = re.search(rf"^clustermesh_agent_remote_cluster_rtt_seconds{labels} (\S+)$", served(mesh), re.M)
    assert rtt is not None
    assert 0 < float(rtt[1]) < 1
    assert re.search(r"^tion .* \d+/\d+ +\d+\.\dms  ready$", mesh.clustermesh("status").stdout, re.M)
