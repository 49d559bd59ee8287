# SPDX-License-Identifier: Apache-2.0
"""The columns of kinds that are only kept. Pure; `now` is the wall clock in seconds."""

from __future__ import annotations

from typing import Final

from lab.devkube.api.column import AGE, INTEGER, NAME, NONE, UNKNOWN, UNSET, Column, plain, since, value_at
from lab.devkube.api.objects import Obj, items_of, part

_MODES: Final = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
_NO_VALUE: Final = "N/A"


def _stateful_ready(obj: Obj) -> str:
    return f"{part(obj, 'status').get('readyReplicas') or 0}/{part(obj, 'spec').get('replicas') or 0}"


def _last_schedule(obj: Obj, now: float) -> str:
    at = part(obj, "status").get("lastScheduleTime")
    return since(at, now) if at else NONE


def _modes(field: str) -> Column:
    def read(obj: Obj) -> str:
        modes = part(obj, field).get("accessModes") or ()
        return ",".join(_MODES.get(mode, mode) for mode in modes)

    return Column("Access Modes", plain(read))


def _capacity(field: str) -> Column:
    return Column("Capacity", plain(lambda obj: part(part(obj, field), "capacity").get("storage", "")))


def _claim_of_volume(obj: Obj) -> str:
    claim = part(part(obj, "spec"), "claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


def _target(obj: Obj) -> str:
    reference = part(part(obj, "spec"), "scaleTargetRef")
    return f"{reference.get('kind', '')}/{reference.get('name', '')}"


def _metrics(obj: Obj) -> str:
    wanted = [
        part(part(metric, str(metric.get("type", "")).lower()), "target") for metric in items_of(obj["spec"], "metrics")
    ]
    if not wanted:
        return NONE
    names = [str(part(metric, "resource").get("name", "")) for metric in items_of(obj["spec"], "metrics")]
    shown = [
        f"{name}: {UNKNOWN}/{target['averageUtilization']}%"
        if "averageUtilization" in target
        else f"{UNKNOWN}/{_value(target)}"
        for name, target in zip(names, wanted, strict=True)
    ]
    return ", ".join(shown)


def _value(target: Obj) -> str:
    return str(target.get("averageValue") or target.get("value") or "")


def _hosts(obj: Obj) -> str:
    hosts = [str(rule["host"]) for rule in items_of(part(obj, "spec"), "rules") if rule.get("host")]
    return ",".join(hosts) or "*"


def _ingress_address(obj: Obj) -> str:
    found = items_of(part(part(obj, "status"), "loadBalancer"), "ingress")
    return ",".join(str(each.get("ip") or each.get("hostname") or "") for each in found)


def _budget(field: str) -> Column:
    name = "Min Available" if field == "minAvailable" else "Max Unavailable"
    return Column(name, plain(lambda obj: str(part(obj, "spec").get(field, _NO_VALUE))))


def _is_default_class(obj: Obj) -> str:
    annotations = obj["metadata"].get("annotations") or {}
    mark = " (default)" if annotations.get("storageclass.kubernetes.io/is-default-class") == "true" else ""
    return f"{obj['metadata']['name']}{mark}"


def _api_service(obj: Obj) -> str:
    service = part(part(obj, "spec"), "service")
    return f"{service.get('namespace', '')}/{service.get('name', '')}" if service else "Local"


def _webhook_count(obj: Obj) -> int:
    return len(items_of(obj, "webhooks"))


KEPT_COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "StatefulSet": (NAME, Column("Ready", plain(_stateful_ready)), AGE),
    "CronJob": (
        NAME, Column("Schedule", value_at("spec", "schedule")), Column("Timezone", value_at("spec", "timeZone")),
        Column("Suspend", plain(lambda o: str(bool(part(o, "spec").get("suspend"))))),
        Column("Active", plain(lambda o: len(items_of(part(o, "status"), "active"))), type=INTEGER),
        Column("Last Schedule", _last_schedule), AGE,
    ),
    "PersistentVolumeClaim": (
        NAME, Column("Status", value_at("status", "phase")), Column("Volume", value_at("spec", "volumeName", default="")),
        _capacity("status"), _modes("status"), Column("StorageClass", value_at("spec", "storageClassName", default="")),
        Column("VolumeAttributesClass", value_at("spec", "volumeAttributesClassName", default=UNSET)), AGE,
    ),
    "PersistentVolume": (
        NAME, _capacity("spec"), _modes("spec"), Column("Reclaim Policy", value_at("spec", "persistentVolumeReclaimPolicy")),
        Column("Status", value_at("status", "phase")), Column("Claim", plain(_claim_of_volume)),
        Column("StorageClass", value_at("spec", "storageClassName", default="")),
        Column("VolumeAttributesClass", value_at("spec", "volumeAttributesClassName", default=UNSET)),
        Column("Reason", value_at("status", "reason", default="")), AGE,
    ),
    "HorizontalPodAutoscaler": (
        NAME, Column("Reference", plain(_target)), Column("Targets", plain(_metrics)),
        Column("MinPods", value_at("spec", "minReplicas", default=UNSET)), Column("MaxPods", value_at("spec", "maxReplicas")),
        Column("Replicas", value_at("status", "currentReplicas", default=0), type=INTEGER), AGE,
    ),
    "Ingress": (
        NAME, Column("Class", value_at("spec", "ingressClassName")), Column("Hosts", plain(_hosts)),
        Column("Address", plain(_ingress_address)),
        Column("Ports", plain(lambda o: "80, 443" if items_of(part(o, "spec"), "tls") else "80")), AGE,
    ),
    "IngressClass": (
        NAME, Column("Controller", value_at("spec", "controller")),
        Column("Parameters", value_at("spec", "parameters", "name")), AGE,
    ),
    "PodDisruptionBudget": (
        NAME, _budget("minAvailable"), _budget("maxUnavailable"),
        Column("Allowed Disruptions", value_at("status", "disruptionsAllowed", default=0), type=INTEGER), AGE,
    ),
    "StorageClass": (
        Column("Name", plain(_is_default_class)), Column("Provisioner", value_at("provisioner")),
        Column("ReclaimPolicy", value_at("reclaimPolicy")), Column("VolumeBindingMode", value_at("volumeBindingMode")),
        Column("AllowVolumeExpansion", plain(lambda o: str(bool(o.get("allowVolumeExpansion"))).lower())), AGE,
    ),
    "PriorityClass": (
        NAME, Column("Value", value_at("value", default=0), type=INTEGER),
        Column("Global-Default", plain(lambda o: str(bool(o.get("globalDefault"))).lower())), AGE,
        Column("PreemptionPolicy", value_at("preemptionPolicy")),
    ),
    "RuntimeClass": (NAME, Column("Handler", value_at("handler")), AGE),
    "APIService": (NAME, Column("Service", plain(_api_service)), Column("Available", plain(lambda _obj: UNKNOWN)), AGE),
    "MutatingWebhookConfiguration": (NAME, Column("Webhooks", plain(_webhook_count), type=INTEGER), AGE),
    "ValidatingWebhookConfiguration": (NAME, Column("Webhooks", plain(_webhook_count), type=INTEGER), AGE),
}  # fmt: skip
