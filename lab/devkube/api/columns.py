# SPDX-License-Identifier: Apache-2.0
"""The columns of `kubectl get`, kind by kind. Pure; `now` is the wall clock in seconds."""

from __future__ import annotations

from typing import Any

from lab.devkube.api.column import (
    AGE,
    INTEGER,
    NAME,
    NONE,
    UNKNOWN,
    UNSET,
    Cell,
    Column,
    duration,
    plain,
    since,
    value_at,
)
from lab.devkube.api.columns_kept import KEPT_COLUMNS
from lab.devkube.api.jsonpath import find_all
from lab.devkube.api.objects import Obj, is_deleting, items_of, labels_of, name_of, parse_timestamp, part

_ROLE_PREFIX = "node-role.kubernetes.io/"
_LIMIT = 3


def _statuses(pod: Obj) -> list[Obj]:
    return items_of(part(pod, "status"), "containerStatuses")


def _pod_ready(pod: Obj) -> str:
    ready = sum(bool(status.get("ready")) for status in _statuses(pod))
    return f"{ready}/{len(items_of(pod['spec'], 'containers'))}"


def _pod_status(pod: Obj) -> str:
    status = part(pod, "status")
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    for container in _statuses(pod):
        state = part(container, "state")
        waiting, ended = part(state, "waiting"), part(state, "terminated")
        if waiting.get("reason") or ended.get("reason"):
            reason = str(waiting.get("reason") or ended["reason"])
        elif ended:
            reason = f"ExitCode:{ended.get('exitCode', 0)}"
    return "Terminating" if is_deleting(pod) else reason


def _pod_restarts(pod: Obj, now: float) -> str:
    total = sum(int(status.get("restartCount", 0)) for status in _statuses(pod))
    ends = [part(part(status, "lastState"), "terminated").get("finishedAt") for status in _statuses(pod)]
    last = max((end for end in ends if end), default=None)
    return f"{total} ({since(last, now)} ago)" if total and last else str(total)


def _service_ports(service: Obj) -> str:
    def one(port: Obj) -> str:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port['port']}{node}/{port.get('protocol', 'TCP')}"

    return ",".join(one(port) for port in items_of(service["spec"], "ports")) or NONE


def _external_ip(service: Obj) -> str:
    spec = service["spec"]
    ingress = items_of(part(part(service, "status"), "loadBalancer"), "ingress")
    given = [str(i.get("ip") or i.get("hostname")) for i in ingress] + list(spec.get("externalIPs") or ())
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", NONE))
    return ",".join(given) or ("<pending>" if spec.get("type") == "LoadBalancer" else NONE)


def _selector(selector: Obj) -> str:
    pairs = [f"{key}={value}" for key, value in selector.items() if isinstance(value, str)]
    return ",".join(sorted(pairs)) or NONE


def _match_labels(obj: Obj) -> str:
    return _selector(part(part(obj["spec"], "selector"), "matchLabels"))


def _template_containers(field: str) -> Cell:
    def read(obj: Obj, _now: float) -> str:
        containers = items_of(part(part(obj["spec"], "template"), "spec"), "containers")
        return ",".join(str(container.get(field, "")) for container in containers)

    return read


def _deployment_ready(obj: Obj) -> str:
    return f"{part(obj, 'status').get('readyReplicas', 0)}/{obj['spec'].get('replicas', 1)}"


def _node_status(node: Obj) -> str:
    conditions = {c["type"]: c["status"] for c in items_of(part(node, "status"), "conditions")}
    ready = {"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready", ""), "Unknown")
    return f"{ready},SchedulingDisabled" if node["spec"].get("unschedulable") else ready


def _node_roles(node: Obj) -> str:
    roles = [key.removeprefix(_ROLE_PREFIX) for key in labels_of(node) if key.startswith(_ROLE_PREFIX)]
    return ",".join(sorted(roles)) or NONE


def _node_address(kind: str) -> Cell:
    def read(node: Obj, _now: float) -> str:
        addresses = items_of(part(node, "status"), "addresses")
        return next((str(a["address"]) for a in addresses if a.get("type") == kind), NONE)

    return read


def _some(values: list[str], empty: str) -> str:
    more = f" + {len(values) - _LIMIT} more..." if len(values) > _LIMIT else ""
    return ",".join(values[:_LIMIT]) + more if values else empty


def _endpoints(obj: Obj) -> str:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in items_of(obj, "subsets")
        for port in items_of(subset, "ports")
        for address in items_of(subset, "addresses")
    ]
    return _some(found, NONE)


def _slice_ports(obj: Obj) -> str:
    return _some([str(port.get("port", "*")) for port in items_of(obj, "ports")], UNSET)


def _slice_endpoints(obj: Obj) -> str:
    return _some([address for e in items_of(obj, "endpoints") for address in e.get("addresses") or ()], UNSET)


def _data_count(obj: Obj) -> int:
    return len(part(obj, "data")) + len(part(obj, "binaryData"))


def _role_ref(obj: Obj) -> str:
    reference = part(obj, "roleRef")
    return f"{reference.get('kind')}/{reference.get('name')}"


def _event_object(event: Obj) -> str:
    involved = part(event, "involvedObject")
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


def _job_status(job: Obj) -> str:
    for kind in ("Complete", "Failed", "Suspended"):
        if any(
            c.get("type") == kind and c.get("status") == "True" for c in items_of(part(job, "status"), "conditions")
        ):
            return kind
    return "Terminating" if is_deleting(job) else "Running"


def _job_completions(job: Obj) -> str:
    spec, succeeded = part(job, "spec"), part(job, "status").get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _job_duration(job: Obj, now: float) -> str:
    status = part(job, "status")
    if "startTime" not in status:
        return ""
    end = parse_timestamp(status["completionTime"]) if "completionTime" in status else now
    return duration(end - parse_timestamp(status["startTime"]))


def _event_last(event: Obj, now: float) -> str:
    seen = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    count = int(event.get("count") or 1)
    if count > 1 and event.get("firstTimestamp"):
        return f"{since(seen, now)} (x{count} over {since(event['firstTimestamp'], now)})"
    return since(seen, now)


_PLAIN = (NAME, AGE)
_TEMPLATE_COLUMNS = (
    Column("Containers", _template_containers("name"), wide=True),
    Column("Images", _template_containers("image"), wide=True),
    Column("Selector", plain(_match_labels), wide=True),
)

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": (
        NAME, Column("Ready", plain(_pod_ready)), Column("Status", plain(_pod_status)),
        Column("Restarts", _pod_restarts), AGE, Column("IP", value_at("status", "podIP"), wide=True),
        Column("Node", value_at("spec", "nodeName"), wide=True),
        Column("Nominated Node", value_at("status", "nominatedNodeName"), wide=True),
        Column("Readiness Gates", plain(lambda _pod: NONE), wide=True),
    ),
    "Service": (
        NAME, Column("Type", value_at("spec", "type")), Column("Cluster-IP", value_at("spec", "clusterIP")),
        Column("External-IP", plain(_external_ip)), Column("Port(s)", plain(_service_ports)), AGE,
        Column("Selector", plain(lambda o: _selector(part(o["spec"], "selector"))), wide=True),
    ),
    "Deployment": (
        NAME, Column("Ready", plain(_deployment_ready)),
        Column("Up-to-date", value_at("status", "updatedReplicas", default=0), type=INTEGER),
        Column("Available", value_at("status", "availableReplicas", default=0), type=INTEGER), AGE,
        *_TEMPLATE_COLUMNS,
    ),
    "ReplicaSet": (
        NAME, Column("Desired", value_at("spec", "replicas", default=0), type=INTEGER),
        Column("Current", value_at("status", "replicas", default=0), type=INTEGER),
        Column("Ready", value_at("status", "readyReplicas", default=0), type=INTEGER), AGE,
        *_TEMPLATE_COLUMNS,
    ),
    "DaemonSet": (
        NAME, Column("Desired", value_at("status", "desiredNumberScheduled", default=0), type=INTEGER),
        Column("Current", value_at("status", "currentNumberScheduled", default=0), type=INTEGER),
        Column("Ready", value_at("status", "numberReady", default=0), type=INTEGER),
        Column("Up-to-date", value_at("status", "updatedNumberScheduled", default=0), type=INTEGER),
        Column("Available", value_at("status", "numberAvailable", default=0), type=INTEGER),
        Column("Node Selector", plain(lambda o: _selector(part(o["spec"]["template"]["spec"], "nodeSelector")))), AGE,
        *_TEMPLATE_COLUMNS,
    ),
    "Job": (
        NAME, Column("Status", plain(_job_status)), Column("Completions", plain(_job_completions)),
        Column("Duration", _job_duration), AGE, *_TEMPLATE_COLUMNS,
    ),
    "Node": (
        NAME, Column("Status", plain(_node_status)), Column("Roles", plain(_node_roles)), AGE,
        Column("Version", value_at("status", "nodeInfo", "kubeletVersion", default="")),
        Column("Internal-IP", _node_address("InternalIP"), wide=True),
        Column("External-IP", _node_address("ExternalIP"), wide=True),
        Column("OS-Image", value_at("status", "nodeInfo", "osImage", default=UNKNOWN), wide=True),
        Column("Kernel-Version", value_at("status", "nodeInfo", "kernelVersion", default=UNKNOWN), wide=True),
        Column("Container-Runtime", value_at("status", "nodeInfo", "containerRuntimeVersion", default=UNKNOWN), wide=True),
    ),
    "Namespace": (NAME, Column("Status", value_at("status", "phase")), AGE),
    "ConfigMap": (NAME, Column("Data", plain(_data_count), type=INTEGER), AGE),
    "Secret": (NAME, Column("Type", value_at("type")), Column("Data", plain(_data_count), type=INTEGER), AGE),
    "ServiceAccount": (
        NAME, Column("Secrets", plain(lambda o: len(items_of(o, "secrets"))), type=INTEGER), AGE,
    ),
    "Endpoints": (NAME, Column("Endpoints", plain(_endpoints)), AGE),
    "EndpointSlice": (
        NAME, Column("AddressType", value_at("addressType")), Column("Ports", plain(_slice_ports)),
        Column("Endpoints", plain(_slice_endpoints)), AGE,
    ),
    "Lease": (NAME, Column("Holder", value_at("spec", "holderIdentity", default="")), AGE),
    "NetworkPolicy": (
        NAME, Column("Pod-Selector", plain(lambda o: _selector(part(part(o["spec"], "podSelector"), "matchLabels")))),
        AGE,
    ),
    "Role": (NAME, Column("Created At", value_at("metadata", "creationTimestamp"))),
    "ClusterRole": (NAME, Column("Created At", value_at("metadata", "creationTimestamp"))),
    "RoleBinding": (NAME, Column("Role", plain(_role_ref)), AGE),
    "ClusterRoleBinding": (NAME, Column("Role", plain(_role_ref)), AGE),
    "CustomResourceDefinition": (NAME, Column("Created At", value_at("metadata", "creationTimestamp"))),
    "Event": (
        Column("Last Seen", _event_last), Column("Type", value_at("type", default="")),
        Column("Reason", value_at("reason", default="")), Column("Object", plain(_event_object)),
        Column("Subobject", value_at("involvedObject", "fieldPath", default=""), wide=True),
        Column("Source", value_at("source", "component", default=""), wide=True),
        Column("Message", value_at("message", default="")),
        Column("First Seen", lambda o, now: since(o.get("firstTimestamp"), now), wide=True),
        Column("Count", value_at("count", default=1), wide=True, type=INTEGER), Column("Name", plain(name_of), wide=True),
    ),
}  # fmt: skip


def built_in_columns(kind: str) -> tuple[Column, ...]:
    return _COLUMNS.get(kind) or KEPT_COLUMNS.get(kind, _PLAIN)


def custom_columns(definitions: tuple[Obj, ...]) -> tuple[Column, ...]:
    """The columns a custom resource definition asks for, the name first; an age if it asks for nothing."""
    asked = tuple(
        Column(
            str(definition["name"]), _path_cell(str(definition["jsonPath"]), str(definition.get("type", "string"))),
            wide=bool(definition.get("priority")), type=str(definition.get("type", "string")),
        )
        for definition in definitions
    )  # fmt: skip
    return (NAME, *asked) if asked else _PLAIN


def _path_cell(path: str, kind: str) -> Cell:
    def read(obj: Obj, now: float) -> Any:
        found = find_all(path, obj)
        if not found:
            return None
        return since(found[0], now) if kind == "date" else found[0]

    return read
