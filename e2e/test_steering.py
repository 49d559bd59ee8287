# SPDX-License-Identifier: Apache-2.0
"""Annotations that say which clusters a service prefers, held against where requests go."""

from __future__ import annotations

from typing import Final

from e2e.mesh import CLUSTERS, Mesh, wait_until

REQUESTS: Final = 200
ENOUGH: Final = range(120, 181)
"""Of 200 requests of which three quarters shall go to one cluster, as many as go there but once in a million runs."""
HALF: Final = range(65, 136)
"""The same of half of them."""
STEERED: Final = """
apiVersion: v1
kind: Service
metadata:
  name: steered
  annotations: {{service.cilium.io/global: "true"{more}}}
spec:
  selector: {{name: rebel-base}}
  ports: [{{port: 80}}]
"""


def annotated(name: str, value: str) -> str:
    return STEERED.format(more=f', mesh.clustermesh.io/{name}: "{value}"')


def test_weights_share_requests_order_prefers_and_zero_takes_out(whole: Mesh) -> None:
    def goes_to(*names: str) -> None:
        what = f"requests go to {names}"
        wait_until(what, lambda: set(whole.answers("koornacht", 20, target="steered")) == set(names))

    try:
        for cluster in CLUSTERS:
            whole.apply(cluster, STEERED.format(more=""))
        goes_to("Koornacht", "Tion")
        whole.apply("koornacht", annotated("affinity-order", "tion,local"))
        goes_to("Tion")
        whole.kubectl("tion", "scale", "deployment", "rebel-base", "--replicas", "0")
        goes_to("Koornacht")
        whole.kubectl("tion", "scale", "deployment", "rebel-base", "--replicas", "2")
        goes_to("Tion")
        whole.apply("koornacht", annotated("cluster-weights", "tion=0"))
        goes_to("Koornacht")
        whole.apply("koornacht", annotated("cluster-weights", "tion=3,local=1"))
        goes_to("Koornacht", "Tion")
        found = whole.answers("koornacht", REQUESTS, parallel=False, target="steered")
        assert found.total() == REQUESTS
        assert found["Tion"] in ENOUGH, found
        said = whole.clustermesh("explain", "service", "default/steered").stdout
        assert "weights koornacht=1, tion=3" in said
        assert "in the kernel, as decided" in said
        assert said.count("37.5%") == 2, said
        whole.clustermesh("drain", "tion", "--context", "kind-koornacht")
        goes_to("Koornacht")
        assert "tion is drained" in whole.clustermesh("explain", "service", "default/steered").stdout
        assert "cluster tion is drained" in whole.clustermesh("status", "--context", "kind-koornacht").stdout
        whole.clustermesh("undrain", "tion", "--context", "kind-koornacht")
        goes_to("Koornacht", "Tion")
    finally:
        whole.clustermesh("undrain", "tion", "--context", "kind-koornacht", check=False)
        whole.kubectl("tion", "scale", "deployment", "rebel-base", "--replicas", "2")
        for cluster in CLUSTERS:
            whole.delete(cluster, STEERED.format(more=""))


UNREADY: Final = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: steered-unready, labels: {kubernetes.io/service-name: steered}}
addressType: IPv4
ports: [{name: "", port: 80, protocol: TCP}]
endpoints:
"""


def test_a_tier_that_is_not_well_enough_passes_a_part_on_and_gets_it_back(whole: Mesh) -> None:
    """Two pods are ready and six are not: a quarter, half of what the threshold asks for."""
    unready = UNREADY + "".join(
        f"- {{addresses: [198.51.100.{n}], conditions: {{ready: false}}}}\n" for n in range(1, 7)
    )
    more = ', service.cilium.io/affinity: local, mesh.clustermesh.io/affinity-threshold: "50%"'
    try:
        for cluster in CLUSTERS:
            whole.apply(cluster, STEERED.format(more=more if cluster == "koornacht" else ""))
        wait_until("all in koornacht", lambda: set(whole.answers("koornacht", 20, target="steered")) == {"Koornacht"})
        whole.apply("koornacht", unready)
        wait_until("some in tion", lambda: len(whole.answers("koornacht", 20, target="steered")) == len(CLUSTERS))
        found = whole.answers("koornacht", REQUESTS, parallel=False, target="steered")
        assert found.total() == REQUESTS
        assert found["Tion"] in HALF, found
        said = whole.clustermesh("explain", "service", "default/steered").stdout
        assert "affinity-threshold 50%: local 50%, * 50%" in said
        assert "in the kernel, as decided" in said
        whole.delete("koornacht", unready)
        wait_until(
            "all in koornacht again",
            lambda: set(whole.answers("koornacht", 20, target="steered")) == {"Koornacht"},
            60.0,
        )
    finally:
        whole.delete("koornacht", unready)
        for cluster in CLUSTERS:
            whole.delete(cluster, STEERED.format(more=""))
