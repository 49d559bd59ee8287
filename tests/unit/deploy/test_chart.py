# SPDX-License-Identifier: Apache-2.0
"""Helm makes of the chart what `clustermesh enable` applies, object by object; both are written from the same files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from clustermesh_cli.commands.enable import EnableOptions, plan_objects
from clustermesh_cli.manifests import load_crds, load_settings
from clustermesh_cli.plan.cluster_identity import ClusterIdentity
from clustermesh_cli.plan.exposure import ExposureWish, decide_exposure
from clustermesh_cli.plan.program_settings import FIXED, OF_ENABLE
from deploy.chart_source import CHART, write
from meshkit.version import program_version
from meshmodel.names import ClusterId, ClusterName

DAY_S = 86_400
SAMPLES: Mapping[str, tuple[Any, str]] = {
    "int": (1234567, "1234567"), "float": (900.5, "900.5"), "bool": (False, "false"), "str": ("a", "a"), "path": ("/a", "/a"),
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The same wish in the words of both."""

    values: dict[str, Any] = field(default_factory=dict)
    exposure: ExposureWish = field(default_factory=ExposureWish)
    mirror: bool = True
    relay: bool = False
    lifetime_s: float = 365 * DAY_S
    settings: dict[str, str | None] = field(default_factory=dict)
    image: str = ""


def every_setting() -> Choice:
    """Each setting that can be chosen, in Helm's types and in the command's text."""
    values: dict[str, dict[str, Any]] = {"agent": {}, "apiserver": {}, "relay": {"enabled": True}}
    settings: dict[str, str | None] = {}
    for program, names in load_settings().items():
        for name, known in names.items():
            if name in FIXED[program] | OF_ENABLE[program]:
                continue
            typed, text = (known.choices[-1], known.choices[-1]) if known.choices else SAMPLES[known.type]
            values[program][name] = [typed, typed] if known.is_list else typed
            settings[f"{program}.{name}"] = f"{text},{text}" if known.is_list else text
    return Choice(values, settings=settings, relay=True)


CHOICES = {
    "nothing": Choice(),
    "load balancer": Choice({"serviceType": "LoadBalancer"}, ExposureWish("LoadBalancer")),
    "no port": Choice({"serviceType": "ClusterIP"}, ExposureWish("ClusterIP")),
    "a port": Choice({"nodePort": 30123}, ExposureWish("NodePort", 30123)),
    "relay": Choice({"relay": {"enabled": True}, "mirror": False}, relay=True, mirror=False),
    "images": Choice(
        {"images": dict.fromkeys(("agent", "apiserver", "relay"), "own/mesh:1"), "certificateLifetimeSeconds": DAY_S},
        image="own/mesh:1",
        lifetime_s=DAY_S,
    ),
    "every setting": every_setting(),
}


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}
    assert len(found) == len(objects)
    return found


def installed(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What Helm would send to a cluster."""
    with helm.Chart.load(CHART) as chart:
        texts = chart.render({"clusterName": "north", "clusterId": 7, **values}, name="mesh", namespace="mesh-system")
    return [obj for text in texts.values() for obj in yaml.safe_load_all(text) if obj]


def enabled(choice: Choice) -> list[dict[str, Any]]:
    """What the command would."""
    image = {
        name: choice.image or f"clustermesh/clustermesh-{name}:{program_version()}"
        for name in ("apiserver", "agent", "relay")
    }
    options = EnableOptions(
        "mesh-system", "north", 7, choice.exposure, (), image["apiserver"], image["agent"], choice.mirror,
        lifetime_s=choice.lifetime_s, settings=choice.settings, relay=choice.relay, relay_image=image["relay"],
    )  # fmt: skip
    identity = ClusterIdentity(ClusterName("north"), ClusterId(7), 255)
    exposure = decide_exposure(None, choice.exposure, has_peers=False)
    objects = plan_objects(options, identity, {}, exposure, with_certificates=True)
    return [obj for obj in objects if obj["kind"] != "CustomResourceDefinition"]


@pytest.mark.parametrize("name", CHOICES)
def test_helm_installs_what_the_command_does(name: str) -> None:
    found, wanted = by_name(installed(CHOICES[name].values)), by_name(enabled(CHOICES[name]))
    assert found.keys() == wanted.keys()
    for key, obj in wanted.items():
        assert found[key] == obj, key


def test_the_chart_is_as_its_sources_say() -> None:
    """`python -m deploy.chart_source` writes it."""
    fixed = {program: FIXED[program] | OF_ENABLE[program] for program in FIXED}
    for name, text in write(program_version(), fixed).items():
        assert (CHART / name).read_text() == text, name
    assert {
        str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file() and "crds" not in path.parts
    } == set(write(program_version(), fixed))


def test_helm_installs_the_same_kinds() -> None:
    with helm.Chart.load(CHART) as chart:
        crds = [obj for crd in chart.crds for obj in yaml.safe_load_all(Path(CHART, crd["name"]).read_text())]
    assert by_name(crds) == by_name(load_crds())


def test_helm_finds_nothing_to_complain_about() -> None:
    found = helm.lint(CHART, {"clusterName": "north", "clusterId": 7}, strict=True, kube_version="v1.30.0")
    assert (found["errors"], [m for m in found["messages"] if m["severity"] > 1]) == ([], [])


@pytest.mark.parametrize(
    "values",
    [
        {"clusterName": ""},
        {"clusterName": "North"},
        {"clusterId": 0},
        {"clusterId": 512},
        {"serviceType": "ExternalName"},
        {"agent": {"vxlan-prot": 8473}},
        {"agent": {"vxlan-port": "many"}},
        {"agent": {"node-name": "n1"}},
        {"apiserver": {"log-level": "loud"}},
        {"relays": True},
    ],
    ids=str,
)
def test_values_that_the_command_would_refuse_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmValuesError, match=next(iter(values))):
        installed(values)
