# SPDX-License-Identifier: Apache-2.0
"""What sig-network's tests of Services demand for clients that are pods, row by row, with a second cluster behind the Service.

Services of a row without a selector have slices by hand: their endpoints are pods of koornacht whose conditions the row says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
import yaml

from e2e.mesh import CLUSTERS, IN_TURN, Mesh, outcomes, wait_until

NAME: Final = "conformance"
OWN, REMOTE, REFUSED = "Koornacht", "Tion", "curl error 7"
PODS: Final = {"name": "rebel-base"}
READY: Final = {"ready": True, "serving": True, "terminating": False}
UNREADY: Final = {"ready": False, "serving": False, "terminating": False}
ENDING: Final = {"ready": False, "serving": True, "terminating": True}
ENDED: Final = {"ready": False, "serving": False, "terminating": True}
PUBLISHED: Final = {"ready": True, "serving": False, "terminating": True}
"""As a Service with publishNotReadyAddresses has an ending pod that is not ready."""


class Row(NamedTuple):
    """`spec` is koornacht's Service; `conditions`: of its pods, by hand; `in_tion`: tion has pods behind the same name."""

    name: str
    expected: frozenset[str]
    spec: dict[str, Any]
    conditions: tuple[dict[str, bool], ...] = ()
    in_tion: bool = False


def row(name: str, expected: str, *conditions: dict[str, bool], in_tion: bool = False, **spec: Any) -> Row:
    found = spec if conditions else {"selector": PODS, **spec}
    return Row(name, frozenset(expected.split("/")), found, conditions, in_tion)


TABLE: Final = (
    row("ready pods of both clusters answer", f"{OWN}/{REMOTE}", in_tion=True),
    row("a Service of type NodePort answers at its cluster address", f"{OWN}/{REMOTE}", in_tion=True, type="NodePort"),
    row("a Service of type LoadBalancer answers there too", f"{OWN}/{REMOTE}", in_tion=True, type="LoadBalancer"),
    row("an unready pod gets nothing", REFUSED, UNREADY),
    row("an unready pod leaves all to the other cluster", REMOTE, UNREADY, in_tion=True),
    row("a ready pod is enough", OWN, READY, UNREADY),
    row("an ending pod that serves is the last resort", OWN, ENDING),
    row("an ending pod gets nothing while another cluster is ready", REMOTE, ENDING, in_tion=True),
    row("an ending pod that does not serve gets nothing", REFUSED, ENDED),
    row("publishNotReadyAddresses lets an ending pod answer", OWN, PUBLISHED, publishNotReadyAddresses=True),
    row(
        "publishNotReadyAddresses goes on beside others",
        f"{OWN}/{REMOTE}",
        PUBLISHED,
        in_tion=True,
        publishNotReadyAddresses=True,
    ),
)


def service(**spec: Any) -> str:
    metadata = {"name": NAME, "annotations": {"service.cilium.io/global": "true"}}
    ports = [{"port": 80, "protocol": "TCP"}]
    return yaml.safe_dump(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports, **spec}}
    )


def by_hand(
    addresses: list[str],
    conditions: tuple[dict[str, bool], ...],
    hints: dict[str, Any] | None = None,
    *,
    name: str = "by-hand",
    port: int = 80,
) -> str:
    rest = {"hints": hints} if hints else {}
    endpoints = [
        {"addresses": [ip], "conditions": each, **rest} for ip, each in zip(addresses, conditions, strict=False)
    ]
    return yaml.safe_dump(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{NAME}-{name}", "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": port, "protocol": "TCP"}],
            "endpoints": endpoints,
        }
    )


@pytest.fixture
def clean(whole: Mesh) -> Iterator[Mesh]:
    """The mesh; nothing of a row is left in it afterwards."""
    yield whole
    whole.delete("koornacht", by_hand([], ()))
    for cluster in CLUSTERS:
        whole.delete(cluster, service())


def address(mesh: Mesh) -> str:
    return str(mesh.get("koornacht", "service", NAME)["spec"]["clusterIP"])


def asked(mesh: Mesh, target: str, script: str = IN_TURN, count: int = 12) -> list[str]:
    """How requests of one pod of koornacht ended, one after the other."""
    client, _, _ = mesh.pod("koornacht", "x-wing")
    command = script.format(count=count, limit=2, target=target)
    done = mesh.kubectl("koornacht", "exec", client, "--", "/bin/sh", "-c", command, check=False)
    return list(outcomes(done.stdout + done.stderr).elements())


def expect(mesh: Mesh, what: str, expected: frozenset[str], target: str) -> None:
    seen: frozenset[str] = frozenset()

    def is_so() -> bool:
        nonlocal seen
        seen = frozenset(asked(mesh, target))
        return seen == expected

    try:
        wait_until(f"{what}: {sorted(expected)}", is_so)
    except AssertionError as exc:
        raise AssertionError(f"{exc}; the last requests: {sorted(seen)}") from None


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name.replace(" ", "-"))
def test_endpoints_and_types(clean: Mesh, row: Row) -> None:
    if row.in_tion:
        clean.apply("tion", service(selector=PODS))
    clean.apply("koornacht", service(**row.spec))
    if row.conditions:
        pods = [pod["status"]["podIP"] for pod in clean.pods("koornacht", "name=rebel-base")]
        assert len(pods) >= len(row.conditions)
        clean.apply("koornacht", by_hand(pods, row.conditions))
    expect(clean, row.name, row.expected, address(clean))


def test_session_affinity_is_switched_on_and_off_and_ends_after_its_time_out(clean: Mesh) -> None:
    slowly = "for i in $(seq 1 {count}); do curl -sS --max-time {limit} {target} 2>&1; sleep 2.2; done"
    both, config = frozenset({OWN, REMOTE}), {"clientIP": {"timeoutSeconds": 1}}
    clean.apply("tion", service(selector=PODS))
    clean.apply("koornacht", service(selector=PODS))
    expect(clean, "without affinity", both, address(clean))
    clean.apply("koornacht", service(selector=PODS, sessionAffinity="ClientIP"))
    wait_until("with affinity", lambda: len(set(asked(clean, address(clean), count=40))) == 1)
    assert len(set(asked(clean, address(clean), count=40))) == 1
    clean.apply("koornacht", service(selector=PODS, sessionAffinity="ClientIP", sessionAffinityConfig=config))
    wait_until("slower than the time-out", lambda: set(asked(clean, address(clean), slowly, 8)) == both)
    clean.apply("koornacht", service(selector=PODS, sessionAffinity="None", sessionAffinityConfig=None))
    expect(clean, "without affinity again", both, address(clean))


def test_a_service_goes_on_at_its_cluster_address_while_its_type_changes(clean: Mesh) -> None:
    both = frozenset({OWN, REMOTE})
    clean.apply("tion", service(selector=PODS))
    clean.apply("koornacht", service(selector=PODS))
    expect(clean, "first", both, before := address(clean))
    for kind in ("NodePort", "LoadBalancer", "ClusterIP"):
        clean.apply("koornacht", service(selector=PODS, type=kind))
        assert set(asked(clean, before, count=40)) <= both, kind
        expect(clean, kind, both, before)
        assert address(clean) == before


@pytest.mark.parametrize(
    "spec",
    [{"selector": PODS, "clusterIP": "None"}, {"type": "ExternalName", "externalName": "example.org"}],
    ids=["headless", "ExternalName"],
)
def test_what_has_no_cluster_address_has_no_frontend(clean: Mesh, spec: dict[str, Any]) -> None:
    _, node, _ = clean.pod("koornacht", "x-wing")

    def frontends() -> set[str]:
        rows = clean.agent_rest("koornacht", node, "/v1/services")
        return {row["frontend"] for row in rows if row["name"] == f"default/{NAME}"}

    clean.apply("koornacht", service(selector=PODS))
    wait_until("it is balanced", frontends)
    clean.delete("koornacht", service())
    clean.apply("koornacht", service(**spec))
    wait_until("it is balanced no more", lambda: not frontends())
    assert "rebel-base" in str(clean.agent_rest("koornacht", node, "/v1/services")), "others are"


def test_a_pod_reaches_itself_through_its_service(clean: Mesh) -> None:
    name, _, ip = clean.pod("koornacht", "rebel-base")
    clean.apply("koornacht", service())
    clean.apply("koornacht", by_hand([ip], (READY,)))

    def answers() -> list[str]:
        command = IN_TURN.format(count=5, limit=2, target=address(clean))
        done = clean.kubectl("koornacht", "exec", name, "--", "/bin/sh", "-c", command, check=False)
        return list(outcomes(done.stdout + done.stderr).elements())

    wait_until("it answers itself", lambda: answers() == [OWN] * 5)


def test_hints_lead_to_the_clients_zone_or_node_as_traffic_distribution_asks(clean: Mesh) -> None:
    """One endpoint answers and the other refuses, so that it shows which of them was taken. Tion's have no hints."""
    _, node, _ = clean.pod("koornacht", "x-wing")
    _, _, pod = clean.pod("koornacht", "rebel-base")
    closed = {"name": "closed", "port": 81}

    def hinted(answering: dict[str, Any], refusing: dict[str, Any] | None = None) -> None:
        clean.apply("koornacht", by_hand([pod], (READY,), answering))
        clean.apply("koornacht", by_hand([pod], (READY,), refusing, **closed))

    def label(zone: str) -> None:
        clean.kubectl("koornacht", "label", "node", node, "--overwrite", f"topology.kubernetes.io/zone{zone}")

    def zone(name: str) -> dict[str, Any]:
        return {"forZones": [{"name": name}]}

    def goes_to(what: str, *names: str) -> None:
        expect(clean, what, frozenset(names), address(clean))

    clean.apply("koornacht", service(trafficDistribution="PreferClose"))
    try:
        label("=a")
        hinted(zone("a"), zone("b"))
        goes_to("the client is in zone a", OWN)
        label("=b")
        goes_to("the client is in zone b", REFUSED)
        hinted(zone("a"))
        goes_to("one endpoint has no hint", OWN, REFUSED)
        hinted(zone("a"), zone("c"))
        goes_to("none is for zone b", OWN, REFUSED)
        hinted(*({**zone("b"), "forNodes": [{"name": name}]} for name in (node, "elsewhere")))
        goes_to("one is for the node", OWN)
        clean.apply("tion", service(selector=PODS))
        goes_to("a peer is chosen beside", OWN, REMOTE)
    finally:
        label("-")
        clean.delete("koornacht", by_hand([], (), **closed))
