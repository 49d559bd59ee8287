# SPDX-License-Identifier: Apache-2.0
"""The kubelet's decisions without any process: phases, restarts, probes, environment, files."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from lab.devkube.api.objects import Obj
from lab.devkube.kubelet.atomicdir import write_directory
from lab.devkube.kubelet.backoff import RestartDelays
from lab.devkube.kubelet.environment import DownwardFacts, MissingSourceError, container_environment, expand
from lab.devkube.kubelet.probe import Counter
from lab.devkube.kubelet.process import Mount, outer_first
from lab.devkube.kubelet.record import ContainerRecord, PodPlace, Running, Terminated, Waiting, phase, pod_status
from lab.devkube.kubelet.site import PodAddresses, resolv_conf
from lab.devkube.kubelet.volumes import ACCOUNT_MOUNT, File, Sources, host_path, mounts_of, volume_files
from lab.images.table import command_line, find_image, short_name
from lab.topology import KOORNACHT

FACTS = DownwardFacts("10.1.1.2", "172.18.0.3")
POD: Obj = {
    "metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"app": "x"}},
    "spec": {"nodeName": "koornacht-worker", "restartPolicy": "Always", "containers": []},
}
OBJECTS: dict[tuple[str, str], Obj] = {
    ("configmaps", "cm"): {"data": {"message": "hello", "level": "3"}},
    ("secrets", "s"): {"data": {"key": base64.b64encode(b"\x00secret").decode()}},
}
SOURCES = Sources(
    lambda plural, _namespace, name: OBJECTS.get((plural, name)), lambda _namespace, account: f"token-{account}"
)


def record(state: Waiting | Running | Terminated, runs: int = 1) -> ContainerRecord:
    return ContainerRecord({"name": "c", "image": "nginx"}, state=state, runs=runs)


@pytest.mark.parametrize(
    ("policy", "codes", "wanted"),
    [
        ("Always", [0, 0], "Running"),
        ("OnFailure", [0, 0], "Succeeded"),
        ("OnFailure", [0, 1], "Running"),
        ("Never", [0, 0], "Succeeded"),
        ("Never", [0, 3], "Failed"),
    ],
)
def test_phase_of_ended_containers_follows_the_restart_policy(policy: str, codes: list[int], wanted: str) -> None:
    pod = {**POD, "spec": {**POD["spec"], "restartPolicy": policy}}
    assert phase(pod, [], [record(Terminated(code, 0, 1)) for code in codes]) == wanted


def test_a_pod_is_pending_until_its_first_container_has_started() -> None:
    assert phase(POD, [], [record(Waiting("ErrImagePull"), runs=0)]) == "Pending"
    assert phase(POD, [record(Running(0))], [record(Waiting(), runs=0)]) == "Pending"
    assert phase(POD, [], [record(Waiting("CrashLoopBackOff"))]) == "Running"


def test_a_pod_is_ready_only_when_all_its_containers_are() -> None:
    containers = [record(Running(0)), record(Running(0))]
    containers[0].ready = True
    status = pod_status(POD, PodPlace("10.1.1.2", "172.18.0.3", 0), [], containers, 10)
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "False"
    containers[1].ready = True
    status = pod_status({**POD, "status": status}, PodPlace("10.1.1.2", "172.18.0.3", 0), [], containers, 20)
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["lastTransitionTime"]) == ("True", "1970-01-01T00:00:20Z")


def test_the_first_restart_is_immediate_and_a_minute_of_running_is_forgiven() -> None:
    delays = RestartDelays()
    assert [delays.next(0.1) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert delays.next(61) == 0


def test_probe_verdicts_need_their_thresholds_in_a_row() -> None:
    counter = Counter({"failureThreshold": 3, "successThreshold": 2}, verdict=True)
    for ok in (False, False, True, False, False):
        counter.add(ok=ok)
    assert counter.verdict
    counter.add(ok=False)
    assert not counter.verdict
    counter.add(ok=True)
    assert not counter.verdict
    counter.add(ok=True)
    assert counter.verdict


def test_environment_comes_from_values_objects_and_the_downward_api() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "CM_"}],
        "env": [
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "level"}}},
            {"name": "OPTIONAL", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}},
            {"name": "URL", "value": "http://$(IP):80/$(UNKNOWN)/$$(IP)"},
        ],
    }
    found = container_environment(POD, container, {"PATH": "/bin"}, FACTS, SOURCES.find)
    assert found == {
        "PATH": "/bin", "CM_message": "hello", "CM_level": "3", "NODE": "koornacht-worker", "IP": "10.1.1.2",
        "LABEL": "x", "LEVEL": "3", "URL": "http://10.1.1.2:80/$(UNKNOWN)/$(IP)",
    }  # fmt: skip
    assert expand("$(A)$(B)", {"A": "$(B)", "B": "b"}) == "$(B)b", "a value is not expanded again"


@pytest.mark.parametrize(
    "reference",
    [{"configMapKeyRef": {"name": "none", "key": "k"}}, {"configMapKeyRef": {"name": "cm", "key": "none"}}],
    ids=["object", "key"],
)
def test_a_reference_to_nothing_is_named(reference: Obj) -> None:
    with pytest.raises(MissingSourceError, match="none"):
        container_environment(POD, {"env": [{"name": "A", "valueFrom": reference}]}, {}, FACTS, SOURCES.find)


def test_volumes_hold_their_sources_items_and_modes() -> None:
    items = [{"key": "message", "path": "www/index.html"}]
    assert volume_files(POD, {"configMap": {"name": "cm", "items": items}}, FACTS, SOURCES) == {
        "www/index.html": File(b"hello")
    }
    assert volume_files(POD, {"secret": {"secretName": "s", "defaultMode": 0o400}}, FACTS, SOURCES) == {
        "key": File(b"\x00secret", 0o400)
    }
    with pytest.raises(MissingSourceError, match='secret "gone" not found'):
        volume_files(POD, {"secret": {"secretName": "gone"}}, FACTS, SOURCES)
    assert volume_files(POD, {"secret": {"secretName": "gone", "optional": True}}, FACTS, SOURCES) == {}


def test_every_container_sees_its_service_account_unless_the_pod_refuses() -> None:
    assert [mount["mountPath"] for mount in mounts_of(POD, {})] == [ACCOUNT_MOUNT]
    refusing = {**POD, "spec": {**POD["spec"], "automountServiceAccountToken": False}}
    assert mounts_of(refusing, {}) == []


def test_a_mount_inside_another_one_is_not_hidden_by_it() -> None:
    """The repository in /tmp, for example, where a pod has an emptyDir at /tmp."""
    targets = ["/var/run/secrets/x", "/tmp/clone/.venv", "/data/", "/tmp", "/var", "/tmp/clone", "/tmp-not"]
    mounts = [Mount(Path("/s"), target) for target in targets]
    found = [mount.target for mount in outer_first(mounts)]
    assert sorted(found) == sorted(targets)
    for index, target in enumerate(found):
        inside = [other for other in found if other != target and other.startswith(target.rstrip("/") + "/")]
        assert all(found.index(other) > index for other in inside)


def test_host_paths_lead_to_the_nodes_own_instance(tmp_path: Path) -> None:
    special = {"/sys/fs/bpf": tmp_path / "bpf"}
    assert host_path("/sys/fs/bpf/clustermesh", tmp_path, special) == tmp_path / "bpf/clustermesh"
    assert host_path("/var/run/x", tmp_path, special) == tmp_path / "var/run/x"
    assert host_path("/lib/modules", tmp_path, special) == Path("/lib/modules")


def test_a_directory_changes_all_at_once_and_forgets_old_names(tmp_path: Path) -> None:
    assert write_directory(tmp_path, {"a": File(b"1"), "sub/b": File(b"1", 0o400)})
    before = (tmp_path / "..data").readlink()
    assert not write_directory(tmp_path, {"a": File(b"1"), "sub/b": File(b"1", 0o400)}), "nothing changed"
    assert (tmp_path / "..data").readlink() == before
    assert write_directory(tmp_path, {"a": File(b"2"), "c": File(b"2")})
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("..")} == {"a", "c"}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes() == b"2"
    assert len([path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()]) == 1


def test_addresses_are_reused_as_late_as_possible() -> None:
    pool = PodAddresses("10.1.1.0/29")
    first = pool.take()
    pool.free(first)
    taken = [pool.take() for _ in range(5)]
    assert first == "10.1.1.2"
    assert taken == ["10.1.1.3", "10.1.1.4", "10.1.1.5", "10.1.1.6", "10.1.1.2"]
    with pytest.raises(LookupError):
        pool.take()


def test_names_resolve_through_the_cluster_unless_the_pod_is_on_its_nodes_network() -> None:
    assert "nameserver 172.20.1.10\nsearch default.svc.cluster.local" in resolv_conf(POD, KOORNACHT)
    on_host = {**POD, "spec": {"hostNetwork": True}}
    assert "nameserver" not in resolv_conf(on_host, KOORNACHT)
    on_host["spec"]["dnsPolicy"] = "ClusterFirstWithHostNet"
    assert "nameserver 172.20.1.10" in resolv_conf(on_host, KOORNACHT)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("nginx", "nginx"),
        ("docker.io/library/nginx:1.15.8", "nginx"),
        ("localhost:5000/curlimages/curl", "curl"),
        ("quay.io/cilium/json-mock:v1.3.3@sha256:f26044", "json-mock"),
    ],
)
def test_images_are_known_by_the_last_part_of_their_name(reference: str, name: str) -> None:
    assert short_name(reference) == name
    assert find_image(reference) is not None


def test_a_name_that_only_resembles_an_image_is_unknown() -> None:
    assert find_image("mynginx") is None
    assert find_image("nginx-unprivileged") is None


def test_an_explicit_command_wins_and_arguments_alone_keep_the_entrypoint() -> None:
    image = find_image("nginx")
    assert image is not None
    assert command_line(image, ("sleep",), ("5",)) == ("sleep", "5")
    assert command_line(image, (), ("-t",)) == ("nginx", "-t")
    assert command_line(image, (), ()) == ("nginx", "-g", "daemon off;")
