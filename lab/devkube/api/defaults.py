# SPDX-License-Identifier: Apache-2.0
"""The values a cluster fills in where a manifest is silent; kubectl compares against them. Pure.

Each function changes the object it is given and may run again on its own result without effect.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from lab.devkube.api.objects import Obj, items_of, name_of, part

_POD_SPEC = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "terminationGracePeriodSeconds": 30,
    "schedulerName": "default-scheduler",
}
_CONTAINER = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_VOLUME_MODE = {"configMap": 0o644, "secret": 0o644, "projected": 0o644, "downwardAPI": 0o644}
_ROLLING = {"maxSurge": "25%", "maxUnavailable": "25%"}


def set_defaults(kind: str, obj: Obj) -> None:
    """Fill in what the API server fills in for this built-in kind; other kinds are left as they are."""
    if fill := _BY_KIND.get(kind):
        fill(obj)


def _fill(target: Obj, values: Obj) -> None:
    for field, value in values.items():
        if target.get(field) is None:
            target[field] = dict(value) if isinstance(value, dict) else value


def _namespace(obj: Obj) -> None:
    labels = obj["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = name_of(obj)
    _fill(obj, {"spec": {}, "status": {"phase": "Active"}})
    _fill(obj["spec"], {"finalizers": ["kubernetes"]})


def _service(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {"loadBalancer": {}}})
    spec = obj["spec"]
    _fill(spec, {"type": "ClusterIP", "sessionAffinity": "None"})
    if spec["type"] != "ExternalName":
        _fill(spec, {"internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _fill(spec, {"externalTrafficPolicy": "Cluster"})
    if spec["type"] == "LoadBalancer":
        _fill(spec, {"allocateLoadBalancerNodePorts": True})
    if spec["sessionAffinity"] == "ClientIP":
        _fill(spec, {"sessionAffinityConfig": {}})
        _fill(spec["sessionAffinityConfig"], {"clientIP": {}})
        _fill(spec["sessionAffinityConfig"]["clientIP"], {"timeoutSeconds": 10800})
    for port in items_of(spec, "ports"):
        _fill(port, {"protocol": "TCP"})
        if port.get("targetPort") in (None, "", 0) and spec.get("clusterIP") != "None":
            port["targetPort"] = port.get("port")


def _node(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {}})


def _pod(obj: Obj) -> None:
    _fill(obj, {"spec": {}})
    _pod_spec(obj["spec"])
    _fill(obj["spec"], {"enableServiceLinks": True, "preemptionPolicy": "PreemptLowerPriority", "priority": 0})
    _fill(obj["spec"], {"serviceAccountName": obj["spec"].get("serviceAccount") or "default"})
    obj["spec"]["serviceAccount"] = obj["spec"]["serviceAccountName"]
    _fill(obj, {"status": {"phase": "Pending", "qosClass": _quality_of_service(obj["spec"])}})


def _quality_of_service(spec: Obj) -> str:
    resources = [part(container, "resources") for container in items_of(spec, "containers")]
    if not any(part(r, "requests") or part(r, "limits") for r in resources):
        return "BestEffort"
    limited = all(part(r, "limits").keys() >= {"cpu", "memory"} for r in resources)
    same = all(part(r, "requests") in ({}, part(r, "limits")) for r in resources)
    return "Guaranteed" if limited and same else "Burstable"


def _pod_spec(spec: Obj) -> None:
    _fill(spec, _POD_SPEC | {"securityContext": {}})
    for container in (*items_of(spec, "initContainers"), *items_of(spec, "containers")):
        _container(container)
        if spec.get("hostNetwork"):
            for port in items_of(container, "ports"):
                _fill(port, {"hostPort": port.get("containerPort")})
    for volume in items_of(spec, "volumes"):
        for source, mode in _VOLUME_MODE.items():
            if isinstance(volume.get(source), dict):
                _fill(volume[source], {"defaultMode": mode})
        if isinstance(volume.get("hostPath"), dict):
            _fill(volume["hostPath"], {"type": ""})


def _container(container: Obj) -> None:
    image = str(container.get("image", "")).rsplit("/", 1)[-1]
    latest = ":" not in image or image.endswith(":latest")
    _fill(container, _CONTAINER | {"imagePullPolicy": "Always" if latest else "IfNotPresent", "resources": {}})
    for port in items_of(container, "ports"):
        _fill(port, {"protocol": "TCP"})
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(probe), dict):
            _fill(container[probe], _PROBE)
            if isinstance(request := container[probe].get("httpGet"), dict):
                _fill(request, {"path": "/", "scheme": "HTTP"})
    for variable in items_of(container, "env"):
        if isinstance(reference := part(variable, "valueFrom").get("fieldRef"), dict):
            _fill(reference, {"apiVersion": "v1"})


def _template(spec: Obj) -> None:
    _fill(spec, {"template": {}})
    _fill(spec["template"], {"metadata": {}, "spec": {}})
    _pod_spec(spec["template"]["spec"])


def _deployment(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {}})
    spec = obj["spec"]
    _fill(spec, {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": {}})
    _fill(spec["strategy"], {"type": "RollingUpdate"})
    if spec["strategy"]["type"] == "RollingUpdate":
        _fill(spec["strategy"], {"rollingUpdate": {}})
        _fill(spec["strategy"]["rollingUpdate"], _ROLLING)
    _template(spec)


def _replica_set(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {"replicas": 0}})
    _fill(obj["spec"], {"replicas": 1})
    _template(obj["spec"])


def _daemon_set(obj: Obj) -> None:
    empty = {"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}
    _fill(obj, {"spec": {}, "status": empty})
    spec = obj["spec"]
    _fill(spec, {"revisionHistoryLimit": 10, "updateStrategy": {}})
    _fill(spec["updateStrategy"], {"type": "RollingUpdate"})
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _fill(spec["updateStrategy"], {"rollingUpdate": {}})
        _fill(spec["updateStrategy"]["rollingUpdate"], {"maxSurge": 0, "maxUnavailable": 1})
    _template(spec)


def _job(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {}})
    spec = obj["spec"]
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    _fill(spec, {"parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False})
    _fill(spec, {"podReplacementPolicy": "TerminatingOrFailed"})
    _fill(spec, {"template": {}})
    _fill(spec["template"], {"metadata": {}, "spec": {}})
    policy = spec["template"]["spec"].get("restartPolicy")
    _pod_spec(spec["template"]["spec"])
    if policy is None:  # the one kind whose pods must say it
        del spec["template"]["spec"]["restartPolicy"]


def _stateful_set(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {"replicas": 0}})
    spec = obj["spec"]
    _fill(
        spec, {"replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady", "updateStrategy": {}}
    )
    _fill(spec["updateStrategy"], {"type": "RollingUpdate"})
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _fill(spec["updateStrategy"], {"rollingUpdate": {}})
        _fill(spec["updateStrategy"]["rollingUpdate"], {"partition": 0})
    _fill(spec, {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}})
    _template(spec)
    for claim in items_of(spec, "volumeClaimTemplates"):
        _fill(claim, {"apiVersion": "v1", "kind": "PersistentVolumeClaim"})
        _claim(claim)


def _claim(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {"phase": "Pending"}})
    _fill(obj["spec"], {"volumeMode": "Filesystem"})


def _volume(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {"phase": "Pending"}})
    _fill(obj["spec"], {"volumeMode": "Filesystem", "persistentVolumeReclaimPolicy": "Retain"})


def _cron_job(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {}})
    spec = obj["spec"]
    _fill(spec, {"concurrencyPolicy": "Allow", "suspend": False})
    _fill(spec, {"successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1, "jobTemplate": {}})
    _fill(spec["jobTemplate"], {"metadata": {}, "spec": {}})
    _fill(spec["jobTemplate"]["spec"], {"template": {}})
    template = spec["jobTemplate"]["spec"]["template"]
    _fill(template, {"metadata": {}, "spec": {}})
    _pod_spec(template["spec"])


def _autoscaler(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {}})
    _fill(obj["spec"], {"minReplicas": 1})


def _ingress(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {"loadBalancer": {}}})


def _storage_class(obj: Obj) -> None:
    _fill(obj, {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"})


def _priority_class(obj: Obj) -> None:
    _fill(obj, {"preemptionPolicy": "PreemptLowerPriority"})


def _api_service(obj: Obj) -> None:
    _fill(obj, {"spec": {}, "status": {}})
    if isinstance(service := obj["spec"].get("service"), dict):
        _fill(service, {"port": 443})


def _webhooks(obj: Obj) -> None:
    for hook in items_of(obj, "webhooks"):
        _fill(hook, {"failurePolicy": "Fail", "matchPolicy": "Equivalent", "timeoutSeconds": 10})
        _fill(hook, {"namespaceSelector": {}, "objectSelector": {}})
        if isinstance(service := part(hook, "clientConfig").get("service"), dict):
            _fill(service, {"port": 443})
        for rule in items_of(hook, "rules"):
            _fill(rule, {"scope": "*"})


def _mutating_webhooks(obj: Obj) -> None:
    _webhooks(obj)
    for hook in items_of(obj, "webhooks"):
        _fill(hook, {"reinvocationPolicy": "Never"})


def _secret(obj: Obj) -> None:
    _fill(obj, {"type": "Opaque"})
    texts = obj.pop("stringData", None) or {}
    for key, text in texts.items():
        obj.setdefault("data", {})[key] = base64.b64encode(str(text).encode()).decode()


def _network_policy(obj: Obj) -> None:
    _fill(obj, {"spec": {}})
    spec = obj["spec"]
    _fill(spec, {"podSelector": {}})
    _fill(spec, {"policyTypes": ["Ingress", "Egress"] if items_of(spec, "egress") else ["Ingress"]})
    for rule in (*items_of(spec, "ingress"), *items_of(spec, "egress")):
        for port in items_of(rule, "ports"):
            _fill(port, {"protocol": "TCP"})


def _endpoint_slice(obj: Obj) -> None:
    for port in items_of(obj, "ports"):
        _fill(port, {"protocol": "TCP", "name": ""})


def _binding(obj: Obj) -> None:
    _fill(part(obj, "roleRef"), {"apiGroup": "rbac.authorization.k8s.io"})
    for subject in items_of(obj, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            _fill(subject, {"apiGroup": "rbac.authorization.k8s.io"})


def _custom_resource_definition(obj: Obj) -> None:
    _fill(obj, {"spec": {}})
    _fill(obj["spec"], {"conversion": {"strategy": "None"}})
    names = part(obj["spec"], "names")
    if kind := names.get("kind"):
        _fill(names, {"singular": str(kind).lower(), "listKind": f"{kind}List"})


_BY_KIND: dict[str, Callable[[Obj], None]] = {
    "Namespace": _namespace,
    "Service": _service,
    "Node": _node,
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "DaemonSet": _daemon_set,
    "StatefulSet": _stateful_set,
    "Job": _job,
    "CronJob": _cron_job,
    "PersistentVolumeClaim": _claim,
    "PersistentVolume": _volume,
    "HorizontalPodAutoscaler": _autoscaler,
    "Ingress": _ingress,
    "StorageClass": _storage_class,
    "PriorityClass": _priority_class,
    "APIService": _api_service,
    "MutatingWebhookConfiguration": _mutating_webhooks,
    "ValidatingWebhookConfiguration": _webhooks,
    "Secret": _secret,
    "NetworkPolicy": _network_policy,
    "EndpointSlice": _endpoint_slice,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "CustomResourceDefinition": _custom_resource_definition,
}
