# SPDX-License-Identifier: Apache-2.0
"""The alert rules and the dashboards speak of metrics that the programs serve, and of the state they are in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

import deploy
from e2e.mesh import SYSTEM, Mesh
from flows.measure import FAMILIES

FOLDER = Path(deploy.__file__).parent / "monitoring"
NAME = re.compile(r"\b(?:clustermesh_(?:agent|apiserver)|hubble)_\w+")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
PROXY = f"/api/v1/namespaces/{SYSTEM}"


def expressions() -> list[str]:
    """Every expression of the rules and of the dashboards."""
    rules: Any = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    boards: list[Any] = [json.loads((FOLDER / name).read_text()) for name in ("dashboard.json", "flows.json")]
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return asked + [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]


def served(mesh: Mesh) -> str:
    """What the apiserver and one agent of koornacht serve."""
    (agent, *_) = mesh.pods("koornacht", "k8s-app=clustermesh-agent", SYSTEM)
    places = (
        "services/clustermesh-apiserver-status:9880",
        f"pods/{agent['metadata']['name']}:9879",
    )
    texts = [mesh.kubectl("koornacht", "get", "--raw", f"{PROXY}/{p}/proxy/metrics").stdout for p in places]
    code, body = mesh.programs("koornacht").get_agent(agent["metadata"]["name"], "v1/flows/metrics")
    assert code == 200
    return "".join(texts) + body.decode()


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


def test_labels_by_which_flows_are_summed_are_those_of_the_measures(mesh: Mesh) -> None:
    measured = [text for text in expressions() if "hubble_" in text]
    assert len(measured) > 12
    for text in measured:
        (family, *_) = {name.removeprefix("hubble_").removesuffix("_total") for name in NAME.findall(text)}
        known = {*FAMILIES[family.removesuffix("_bucket")].labels, "le"} if family != "lost_events" else {"source"}
        grouped = {label.strip() for labels in GROUPED.findall(text) for label in labels.split(",")}
        assert grouped <= known, text


def test_flows_are_counted_on_every_node(mesh: Mesh) -> None:
    total = re.findall(r"^hubble_flows_processed_total\{.*\} (\S+)$", served(mesh), re.M)
    assert sum(map(float, total)) > 0
