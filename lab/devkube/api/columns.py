# SPDX-License-Identifier: Apache-2.0
"""The columns of `kubectl get`, kind by kind. Pure; `now` is the wall clock in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.devkube.api.jsonpath import find_all
from lab.devkube.api.objects import Obj, is_deleting, items_of, labels_of, name_of, parse_timestamp, part

Cell = Callable[[Obj, float], Any]
NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"
_ROLE_PREFIX = "node-role.kubernetes.io/"
_LIMIT = 3


@dataclass(frozen=True, slots=True)
class Column:
    """One column; a wide one is shown on request only."""

    name: str
    cell: Cell
    wide: bool = False
    type: str = "string"

    def definition(self) -> Obj:
        name_format = "name" if self.name == "Name" else ""
        shown = {"name": self.name, "type": self.type, "format": name_format, "description": ""}
        return shown | {"priority": int(self.wide)}


def duration(seconds: float) -> str:
    """As kubectl prints an age: two units while the second one still matters."""
    s = max(0, int(seconds))
    minutes, hours, days = s // 60, s // 3600, s // 86400
    if s < 120:
        return f"{s}s"
    if minutes < 10:
        return f"{minutes}m{s % 60}s" if s % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def since(text: object, now: float) -> str:
    return duration(now - parse_timestamp(text)) if isinstance(text, str) else UNKNOWN


def _age(obj: Obj, now: float) -> str:
    return since(obj["metadata"].get("creationTimestamp"), now)


def _plain(read: Callable[[Obj], Any]) -> Cell:
    return lambda obj, _now: read(obj)


def _spec(*path: str, default: Any = NONE) -> Cell:
    def read(obj: Obj, _now: float) -> Any:
        value: Any = obj
        for field in path:
            value = value.get(field) if isinstance(value, dict) else None
        return default if value in (None, "") else value

    return read


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


def _event_last(event: Obj, now: float) -> str:
    seen = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    count = int(event.get("count") or 1)
    if count > 1 and event.get("firstTimestamp"):
        return f"{since(seen, now)} (x{count} over {since(event['firstTimestamp'], now)})"
    return since(seen, now)


_NAME = Column("Name", _plain(name_of))
_AGE = Column("Age", _age)
_PLAIN = (_NAME, _AGE)
_INT = "integer"
_TEMPLATE_COLUMNS = (
    Column("Containers", _template_containers("name"), wide=True),
    Column("Images", _template_containers("image"), wide=True),
    Column("Selector", _plain(_match_labels), wide=True),
)

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": (
        _NAME, Column("Ready", _plain(_pod_ready)), Column("Status", _plain(_pod_status)),
        Column("Restarts", _pod_restarts), _AGE, Column("IP", _spec("status", "podIP"), wide=True),
        Column("Node", _spec("spec", "nodeName"), wide=True),
        Column("Nominated Node", _spec("status", "nominatedNodeName"), wide=True),
        Column("Readiness Gates", _plain(lambda _pod: NONE), wide=True),
    ),
    "Service": (
        _NAME, Column("Type", _spec("spec", "type")), Column("Cluster-IP", _spec("spec", "clusterIP")),
        Column("External-IP", _plain(_external_ip)), Column("Port(s)", _plain(_service_ports)), _AGE,
        Column("Selector", _plain(lambda o: _selector(part(o["spec"], "selector"))), wide=True),
    ),
    "Deployment": (
        _NAME, Column("Ready", _plain(_deployment_ready)),
        Column("Up-to-date", _spec("status", "updatedReplicas", default=0), type=_INT),
        Column("Available", _spec("status", "availableReplicas", default=0), type=_INT), _AGE,
        *_TEMPLATE_COLUMNS,
    ),
    "ReplicaSet": (
        _NAME, Column("Desired", _spec("spec", "replicas", default=0), type=_INT),
        Column("Current", _spec("status", "replicas", default=0), type=_INT),
        Column("Ready", _spec("status", "readyReplicas", default=0), type=_INT), _AGE,
        *_TEMPLATE_COLUMNS,
    ),
    "DaemonSet": (
        _NAME, Column("Desired", _spec("status", "desiredNumberScheduled", default=0), type=_INT),
        Column("Current", _spec("status", "currentNumberScheduled", default=0), type=_INT),
        Column("Ready", _spec("status", "numberReady", default=0), type=_INT),
        Column("Up-to-date", _spec("status", "updatedNumberScheduled", default=0), type=_INT),
        Column("Available", _spec("status", "numberAvailable", default=0), type=_INT),
        Column("Node Selector", _plain(lambda o: _selector(part(o["spec"]["template"]["spec"], "nodeSelector")))), _AGE,
        *_TEMPLATE_COLUMNS,
    ),
    "Node": (
        _NAME, Column("Status", _plain(_node_status)), Column("Roles", _plain(_node_roles)), _AGE,
        Column("Version", _spec("status", "nodeInfo", "kubeletVersion", default="")),
        Column("Internal-IP", _node_address("InternalIP"), wide=True),
        Column("External-IP", _node_address("ExternalIP"), wide=True),
        Column("OS-Image", _spec("status", "nodeInfo", "osImage", default=UNKNOWN), wide=True),
        Column("Kernel-Version", _spec("status", "nodeInfo", "kernelVersion", default=UNKNOWN), wide=True),
        Column("Container-Runtime", _spec("status", "nodeInfo", "containerRuntimeVersion", default=UNKNOWN), wide=True),
    ),
    "Namespace": (_NAME, Column("Status", _spec("status", "phase")), _AGE),
    "ConfigMap": (_NAME, Column("Data", _plain(_data_count), type=_INT), _AGE),
    "Secret": (_NAME, Column("Type", _spec("type")), Column("Data", _plain(_data_count), type=_INT), _AGE),
    "ServiceAccount": (
        _NAME, Column("Secrets", _plain(lambda o: len(items_of(o, "secrets"))), type=_INT), _AGE,
    ),
    "Endpoints": (_NAME, Column("Endpoints", _plain(_endpoints)), _AGE),
    "EndpointSlice": (
        _NAME, Column("AddressType", _spec("addressType")), Column("Ports", _plain(_slice_ports)),
        Column("Endpoints", _plain(_slice_endpoints)), _AGE,
    ),
    "Lease": (_NAME, Column("Holder", _spec("spec", "holderIdentity", default="")), _AGE),
    "NetworkPolicy": (
        _NAME, Column("Pod-Selector", _plain(lambda o: _selector(part(part(o["spec"], "podSelector"), "matchLabels")))),
        _AGE,
    ),
    "Role": (_NAME, Column("Created At", _spec("metadata", "creationTimestamp"))),
    "ClusterRole": (_NAME, Column("Created At", _spec("metadata", "creationTimestamp"))),
    "RoleBinding": (_NAME, Column("Role", _plain(_role_ref)), _AGE),
    "ClusterRoleBinding": (_NAME, Column("Role", _plain(_role_ref)), _AGE),
    "CustomResourceDefinition": (_NAME, Column("Created At", _spec("metadata", "creationTimestamp"))),
    "Event": (
        Column("Last Seen", _event_last), Column("Type", _spec("type", default="")),
        Column("Reason", _spec("reason", default="")), Column("Object", _plain(_event_object)),
        Column("Subobject", _spec("involvedObject", "fieldPath", default=""), wide=True),
        Column("Source", _spec("source", "component", default=""), wide=True),
        Column("Message", _spec("message", default="")),
        Column("First Seen", lambda o, now: since(o.get("firstTimestamp"), now), wide=True),
        Column("Count", _spec("count", default=1), wide=True, type=_INT), Column("Name", _plain(name_of), wide=True),
    ),
}  # fmt: skip


def built_in_columns(kind: str) -> tuple[Column, ...]:
    return _COLUMNS.get(kind, _PLAIN)


def custom_columns(definitions: tuple[Obj, ...]) -> tuple[Column, ...]:
    """The columns a custom resource definition asks for, the name first; an age if it asks for nothing."""
    asked = tuple(
        Column(
            str(definition["name"]), _path_cell(str(definition["jsonPath"]), str(definition.get("type", "string"))),
            wide=bool(definition.get("priority")), type=str(definition.get("type", "string")),
        )
        for definition in definitions
    )  # fmt: skip
    return (_NAME, *asked) if asked else _PLAIN


def _path_cell(path: str, kind: str) -> Cell:
    def read(obj: Obj, now: float) -> Any:
        found = find_all(path, obj)
        if not found:
            return None
        return since(found[0], now) if kind == "date" else found[0]

    return read
