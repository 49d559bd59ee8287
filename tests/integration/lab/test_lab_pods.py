# SPDX-License-Identifier: Apache-2.0
"""Pods of a lab as kubectl sees them: namespaces, volumes, probes, restarts, exec, logs and the end."""

from __future__ import annotations

import pytest
from lab_harness import Eventually, Kubectl
from lab_objects import config_map, deployment, pod, shell, web

from lab.names import LabNames

pytestmark = pytest.mark.root

WAIT_FOR_TERM = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


def ready(kubectl: Kubectl, name: str) -> None:
    kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=20s")


def container(kubectl: Kubectl, name: str) -> dict[str, object]:
    statuses = kubectl.get("pod", name)["status"].get("containerStatuses") or [{}]
    found: dict[str, object] = statuses[0]
    return found


def test_a_pod_has_namespaces_of_its_own(kubectl: Kubectl, client: str) -> None:
    shown = kubectl(
        "exec", client, "--", "sh", "-c", "hostname; ls -d /proc/[0-9]* | wc -l; ls /sys/class/net; mount | wc -l"
    )
    hostname, processes, *interfaces, mounts = shown.split()
    assert hostname == client
    assert int(processes) < 10
    assert sorted(interfaces) == ["eth0", "lo"]
    assert int(mounts) < 25, "the machine's mounts are not there"


def test_writes_of_one_pod_reach_neither_the_machine_nor_other_pods(
    kubectl: Kubectl, client: str, lab: LabNames
) -> None:
    kubectl("exec", client, "--", "sh", "-c", "echo mine > /etc/cml-marker")
    kubectl.apply(pod("neighbour", shell(WAIT_FOR_TERM)))
    ready(kubectl, "neighbour")
    assert kubectl.run("exec", "neighbour", "--", "cat", "/etc/cml-marker").returncode == 1
    assert kubectl("exec", client, "--", "cat", "/etc/cml-marker") == "mine\n"
    assert not (lab.directory / "etc").exists()


@pytest.mark.parametrize("code", [0, 3, 28])
def test_exec_hands_back_the_exit_code(kubectl: Kubectl, client: str, code: int) -> None:
    done = kubectl.run("exec", client, "--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (done.returncode, done.stdout) == (code, "out\n")
    assert done.stderr.startswith("err\n")


def test_exec_carries_input_to_its_end(kubectl: Kubectl, client: str) -> None:
    text = "".join(f"line {i}\n" for i in range(20_000))
    assert kubectl("exec", "-i", client, "--", "cat", stdin=text) == text


def test_exec_on_a_terminal_is_on_a_terminal(kubectl: Kubectl, client: str) -> None:
    output = kubectl.on_terminal(f"kubectl exec -ti {client} -- sh -c 'test -t 0 && test -t 1 && echo yes; exit 28'")
    assert "yes" in output.text
    assert output.code == 28


def test_a_changed_config_map_reaches_the_running_pod(kubectl: Kubectl, eventually: Eventually) -> None:
    kubectl.apply(*web("refreshed", "before", replicas=1))
    kubectl("rollout", "status", "deployment/refreshed", "--timeout=30s")

    def served() -> str:
        return kubectl("exec", "deploy/refreshed", "--", "curl", "-sS", "localhost")

    assert served() == "before"
    kubectl.apply(config_map("refreshed", message="after"))
    eventually(lambda: served() == "after")
    assert (
        kubectl.get("pods", "-l", "name=refreshed")["items"][0]["status"]["containerStatuses"][0]["restartCount"] == 0
    )


def test_a_pod_waits_for_the_secret_it_mounts(kubectl: Kubectl, eventually: Eventually) -> None:
    volume = {"name": "s", "secret": {"secretName": "late", "defaultMode": 0o400}}
    mount = {"name": "s", "mountPath": "/var/run/late", "readOnly": True}
    kubectl.apply(pod("patient", shell(WAIT_FOR_TERM, volumeMounts=[mount]), volumes=[volume]))
    eventually(lambda: "FailedMount" in kubectl("get", "events", "--field-selector", "involvedObject.name=patient"))
    assert kubectl.get("pod", "patient")["status"]["phase"] == "Pending"
    kubectl("create", "secret", "generic", "late", "--from-literal=key=value")
    ready(kubectl, "patient")
    assert (
        kubectl("exec", "patient", "--", "sh", "-c", "cat /var/run/late/key; stat -Lc %a /var/run/late/key")
        == "value400\n"
    )
    assert kubectl.run("exec", "patient", "--", "sh", "-c", "echo x > /var/run/late/key").returncode


def test_an_unknown_image_is_not_found_in_any_registry(kubectl: Kubectl, eventually: Eventually) -> None:
    kubectl.apply(pod("nosuch", {"name": "c", "image": "example.org/nosuch:v1", "command": ["sleep", "1"]}))

    def shown() -> bool:
        return any(word in kubectl("get", "pod", "nosuch") for word in ("ErrImagePull", "ImagePullBackOff"))

    eventually(shown)
    events = kubectl("get", "events", "--field-selector", "involvedObject.name=nosuch")
    assert 'Failed to pull image "example.org/nosuch:v1"' in events
    kubectl("delete", "pod", "nosuch", "--timeout=10s")


def test_a_container_that_ends_is_started_again_and_its_last_words_are_kept(
    kubectl: Kubectl, eventually: Eventually
) -> None:
    kubectl.apply(pod("crash", shell("echo run; sleep 0.2; exit 3")))
    eventually(lambda: "CrashLoopBackOff" in kubectl("get", "pod", "crash"))
    found = container(kubectl, "crash")
    assert found["lastState"]["terminated"]["exitCode"] == 3  # type: ignore[index]
    assert int(str(found["restartCount"])) >= 1
    assert kubectl("logs", "crash", "--previous") == "run\n"


def test_restart_policies_end_pods_as_they_say(kubectl: Kubectl, eventually: Eventually) -> None:
    kubectl.apply(
        pod("done", shell("exit 0"), restartPolicy="Never"),
        pod("failed", shell("exit 4"), restartPolicy="Never"),
    )
    eventually(lambda: kubectl.get("pod", "done")["status"].get("phase") == "Succeeded")
    eventually(lambda: kubectl.get("pod", "failed")["status"].get("phase") == "Failed")
    assert container(kubectl, "failed")["restartCount"] == 0


def test_a_failing_liveness_probe_restarts_and_a_failing_readiness_probe_does_not(
    kubectl: Kubectl, eventually: Eventually
) -> None:
    def probe(path: str) -> dict[str, object]:
        return {"exec": {"command": ["test", "-e", path]}, "periodSeconds": 1, "failureThreshold": 1}

    script = f"touch /tmp/alive /tmp/ready; {WAIT_FOR_TERM}"
    body = shell(
        script, livenessProbe={**probe("/tmp/alive"), "initialDelaySeconds": 1}, readinessProbe=probe("/tmp/ready")
    )
    kubectl.apply(pod("probed", body))
    ready(kubectl, "probed")
    kubectl("exec", "probed", "--", "rm", "/tmp/ready")
    eventually(lambda: container(kubectl, "probed")["ready"] is False)
    assert container(kubectl, "probed")["restartCount"] == 0
    kubectl("exec", "probed", "--", "rm", "/tmp/alive")
    eventually(lambda: container(kubectl, "probed")["restartCount"] == 1)
    ready(kubectl, "probed")
    assert "failed liveness probe" in kubectl("get", "events", "--field-selector", "involvedObject.name=probed")


def test_init_containers_go_first_and_containers_share_network_and_volumes(kubectl: Kubectl) -> None:
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    kubectl.apply(
        pod(
            "several",
            {"name": "web", "image": "nginx"},
            shell(WAIT_FOR_TERM, name="side", **mount),
            initContainers=[shell("echo prepared > /shared/file", name="init", **mount)],
            volumes=[{"name": "shared", "emptyDir": {}}],
        )
    )
    ready(kubectl, "several")
    assert kubectl("exec", "several", "-c", "side", "--", "cat", "/shared/file") == "prepared\n"
    assert "nginx" in kubectl("exec", "several", "-c", "side", "--", "curl", "-sS", "localhost")
    assert kubectl.get("pod", "several")["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_a_pod_that_ends_stays_in_its_slice_as_serving_until_it_is_gone(
    kubectl: Kubectl, eventually: Eventually
) -> None:
    slow = {"lifecycle": {"preStop": {"exec": {"command": ["sleep", "2"]}}}}
    kubectl.apply(
        deployment("leaving", {"containers": [{"name": "web", "image": "nginx", **slow}]}),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "leaving"},
         "spec": {"selector": {"name": "leaving"}, "ports": [{"port": 80}]}},
    )  # fmt: skip
    kubectl("rollout", "status", "deployment/leaving", "--timeout=30s")

    def conditions() -> list[dict[str, bool]]:
        slices = kubectl.get("endpointslices", "-l", "kubernetes.io/service-name=leaving")["items"]
        return [endpoint["conditions"] for item in slices for endpoint in item.get("endpoints") or []]

    assert conditions() == [{"ready": True, "serving": True, "terminating": False}]
    kubectl("scale", "deployment", "leaving", "--replicas", "0")
    eventually(lambda: conditions() == [{"ready": False, "serving": True, "terminating": True}])
    eventually(lambda: conditions() == [])


def test_a_deleted_pod_is_asked_to_end_and_made_to_when_its_time_is_up(kubectl: Kubectl) -> None:
    kubectl.apply(pod("stubborn", shell("trap '' TERM; while :; do sleep 0.1; done")))
    ready(kubectl, "stubborn")
    kubectl("delete", "pod", "stubborn", "--grace-period=1", "--timeout=10s")
    assert kubectl.run("get", "pod", "stubborn").returncode == 1


def test_a_log_is_followed_to_the_end_of_its_container(kubectl: Kubectl, eventually: Eventually) -> None:
    kubectl.apply(pod("talker", shell("for i in 1 2 3 4; do echo $i; sleep 0.2; done"), restartPolicy="Never"))
    eventually(lambda: kubectl.get("pod", "talker")["status"].get("phase") in ("Running", "Succeeded"))
    assert kubectl("logs", "-f", "talker") == "1\n2\n3\n4\n"
    assert kubectl("logs", "talker", "--tail=2") == "3\n4\n"


def test_each_node_has_a_bpffs_of_its_own_that_outlives_its_pods(
    kubectl: Kubectl, lab: LabNames, eventually: Eventually
) -> None:
    mount = {"volumeMounts": [{"name": "bpf", "mountPath": "/sys/fs/bpf"}]}
    spec = {
        "hostNetwork": True,
        "tolerations": [{"operator": "Exists"}],
        "containers": [shell(f"mkdir -p /sys/fs/bpf/$NODE; {WAIT_FOR_TERM}", **mount, env=[_node_name()])],
        "volumes": [{"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}}],
    }
    template = {"metadata": {"labels": {"name": "per-node"}}, "spec": spec}
    body = {"selector": {"matchLabels": {"name": "per-node"}}, "template": template}
    kubectl.apply({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "per-node"}, "spec": body})
    kubectl("rollout", "status", "daemonset/per-node", "--timeout=30s")
    assert len(kubectl.get("pods", "-l", "name=per-node")["items"]) == 3
    kubectl("delete", "daemonset", "per-node", "--timeout=10s")
    eventually(lambda: not kubectl.get("pods", "-l", "name=per-node")["items"])
    for node in ("koornacht-control-plane", "koornacht-worker", "koornacht-worker2"):
        names = {path.name for path in lab.node(node).bpffs.iterdir()}
        assert names - {"maps.debug", "progs.debug"} == {node}


def _node_name() -> dict[str, object]:
    return {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
