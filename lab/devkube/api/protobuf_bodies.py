# SPDX-License-Identifier: Apache-2.0
"""Request bodies in Kubernetes' protobuf form, for the kinds that kubectl sends that way; everything else is refused.

Source: field numbers of the generated.proto files of the Kubernetes API; a test sends each kind with a real kubectl.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lab.devkube.api.error import ApiError, bad_request
from lab.devkube.api.objects import Obj

PROTOBUF_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\0"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STRING_VALUE = 1
_IGNORED = "what clients send but do not decide"


class Wire(StrEnum):
    TEXT = "text"
    BASE64 = "base64"
    NUMBER = "number"
    POINTER = "pointer"  # a number that is sent only if it is set, zero included
    FLAG = "flag"
    FLAG_POINTER = "flag pointer"
    INT_OR_STRING = "int or string"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    wire: Wire = Wire.TEXT
    message: str = ""
    many: bool = False
    map: bool = False


def _text(name: str) -> _Field:
    return _Field(name)


def _texts(name: str) -> _Field:
    return _Field(name, many=True)


def _pairs(name: str, wire: Wire = Wire.TEXT) -> _Field:
    return _Field(name, wire, map=True)


def _one(name: str, message: str) -> _Field:
    return _Field(name, Wire.MESSAGE, message)


def _many(name: str, message: str) -> _Field:
    return _Field(name, Wire.MESSAGE, message, many=True)


_META = {1: _one("metadata", "ObjectMeta")}
_WORKLOAD = _META | {3: _one("status", _IGNORED)}

_MESSAGES: dict[str, dict[int, _Field]] = {
    "ObjectMeta": {
        1: _text("name"), 2: _text("generateName"), 3: _text("namespace"), 5: _text("uid"), 6: _text("resourceVersion"),
        11: _pairs("labels"), 12: _pairs("annotations"), 14: _texts("finalizers"),
    },
    "Namespace": _META | {2: _one("spec", "NamespaceSpec"), 3: _one("status", _IGNORED)},
    "NamespaceSpec": {1: _texts("finalizers")},
    "ConfigMap": _META | {
        2: _pairs("data"), 3: _pairs("binaryData", Wire.BASE64), 4: _Field("immutable", Wire.FLAG_POINTER),
    },
    "Secret": _META | {
        2: _pairs("data", Wire.BASE64), 3: _text("type"), 4: _pairs("stringData"),
        5: _Field("immutable", Wire.FLAG_POINTER),
    },
    "ServiceAccount": _META | {
        2: _many("secrets", "ObjectReference"), 3: _many("imagePullSecrets", "LocalObjectReference"),
        4: _Field("automountServiceAccountToken", Wire.FLAG_POINTER),
    },
    "LocalObjectReference": {1: _text("name")},
    "ObjectReference": {
        1: _text("kind"), 2: _text("namespace"), 3: _text("name"), 4: _text("uid"), 5: _text("apiVersion"),
    },
    "Service": _WORKLOAD | {2: _one("spec", "ServiceSpec")},
    "ServiceSpec": {
        1: _many("ports", "ServicePort"), 2: _pairs("selector"), 3: _text("clusterIP"), 4: _text("type"),
        5: _texts("externalIPs"), 7: _text("sessionAffinity"), 10: _text("externalName"),
        11: _text("externalTrafficPolicy"), 18: _texts("clusterIPs"), 19: _texts("ipFamilies"),
    },
    "ServicePort": {
        1: _text("name"), 2: _text("protocol"), 3: _Field("port", Wire.NUMBER),
        4: _Field("targetPort", Wire.INT_OR_STRING), 5: _Field("nodePort", Wire.NUMBER), 6: _text("appProtocol"),
    },
    "Deployment": _WORKLOAD | {2: _one("spec", "DeploymentSpec")},
    "DeploymentSpec": {
        1: _Field("replicas", Wire.POINTER), 2: _one("selector", "LabelSelector"),
        3: _one("template", "PodTemplateSpec"), 4: _one("strategy", "DeploymentStrategy"),
        5: _Field("minReadySeconds", Wire.NUMBER), 6: _Field("revisionHistoryLimit", Wire.POINTER),
        7: _Field("paused", Wire.FLAG), 9: _Field("progressDeadlineSeconds", Wire.POINTER),
    },
    "DeploymentStrategy": {1: _text("type")},
    "LabelSelector": {1: _pairs("matchLabels"), 2: _many("matchExpressions", "LabelSelectorRequirement")},
    "LabelSelectorRequirement": {1: _text("key"), 2: _text("operator"), 3: _texts("values")},
    "PodTemplateSpec": _META | {2: _one("spec", "PodSpec")},
    "PodSpec": {
        2: _many("containers", "Container"), 3: _text("restartPolicy"),
        4: _Field("terminationGracePeriodSeconds", Wire.POINTER), 6: _text("dnsPolicy"), 7: _pairs("nodeSelector"),
        8: _text("serviceAccountName"), 10: _text("nodeName"), 11: _Field("hostNetwork", Wire.FLAG),
    },
    "Container": {
        1: _text("name"), 2: _text("image"), 3: _texts("command"), 4: _texts("args"), 5: _text("workingDir"),
        6: _many("ports", "ContainerPort"), 7: _many("env", "EnvVar"), 14: _text("imagePullPolicy"),
    },
    "ContainerPort": {
        1: _text("name"), 2: _Field("hostPort", Wire.NUMBER), 3: _Field("containerPort", Wire.NUMBER),
        4: _text("protocol"), 5: _text("hostIP"),
    },
    "EnvVar": {1: _text("name"), 2: _text("value")},
    "Role": _META | {2: _many("rules", "PolicyRule")},
    "ClusterRole": _META | {2: _many("rules", "PolicyRule"), 3: _one("aggregationRule", "AggregationRule")},
    "AggregationRule": {1: _many("clusterRoleSelectors", "LabelSelector")},
    "PolicyRule": {
        1: _texts("verbs"), 2: _texts("apiGroups"), 3: _texts("resources"), 4: _texts("resourceNames"),
        5: _texts("nonResourceURLs"),
    },
    "RoleBinding": _META | {2: _many("subjects", "Subject"), 3: _one("roleRef", "RoleRef")},
    "ClusterRoleBinding": _META | {2: _many("subjects", "Subject"), 3: _one("roleRef", "RoleRef")},
    "Subject": {1: _text("kind"), 2: _text("apiGroup"), 3: _text("name"), 4: _text("namespace")},
    "RoleRef": {1: _text("apiGroup"), 2: _text("kind"), 3: _text("name")},
    "PodDisruptionBudget": _WORKLOAD | {2: _one("spec", "PodDisruptionBudgetSpec")},
    "PodDisruptionBudgetSpec": {
        1: _Field("minAvailable", Wire.INT_OR_STRING), 2: _one("selector", "LabelSelector"),
        3: _Field("maxUnavailable", Wire.INT_OR_STRING),
    },
    "SelfSubjectReview": _META | {2: _one("status", _IGNORED)},
    "SelfSubjectAccessReview": _WORKLOAD | {2: _one("spec", "AccessReviewSpec")},
    "SelfSubjectRulesReview": _WORKLOAD | {2: _one("spec", "RulesReviewSpec")},
    "AccessReviewSpec": {
        1: _one("resourceAttributes", "ResourceAttributes"), 2: _one("nonResourceAttributes", "NonResourceAttributes"),
    },
    "RulesReviewSpec": {1: _text("namespace")},
    "ResourceAttributes": {
        1: _text("namespace"), 2: _text("verb"), 3: _text("group"), 4: _text("version"), 5: _text("resource"),
        6: _text("subresource"), 7: _text("name"),
    },
    "NonResourceAttributes": {1: _text("path"), 2: _text("verb")},
    "TokenRequest": _WORKLOAD | {2: _one("spec", "TokenRequestSpec")},
    "TokenRequestSpec": {
        1: _texts("audiences"), 3: _one("boundObjectRef", "BoundObjectReference"),
        4: _Field("expirationSeconds", Wire.POINTER),
    },
    "BoundObjectReference": {1: _text("kind"), 2: _text("apiVersion"), 3: _text("name"), 4: _text("uid")},
    "Eviction": _META | {2: _one("deleteOptions", "DeleteOptions")},
    "DeleteOptions": {
        1: _Field("gracePeriodSeconds", Wire.POINTER), 2: _one("preconditions", "Preconditions"),
        3: _Field("orphanDependents", Wire.FLAG_POINTER), 4: _text("propagationPolicy"), 5: _texts("dryRun"),
    },
    "Preconditions": {1: _text("uid"), 2: _text("resourceVersion")},
}  # fmt: skip


def decode_body(body: bytes) -> Obj:
    """The object in the envelope. Raises ApiError 400 for broken bytes, 415 for what this server cannot read."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body of the request is not a Kubernetes protobuf message")
    try:
        envelope = dict(_fields(body[len(_MAGIC) :]))
        kind_fields = dict(_fields(_as_bytes(envelope.get(1, b""))))
        kind = _as_bytes(kind_fields.get(2, b"")).decode()
        obj = _message(kind, _as_bytes(envelope.get(2, b"")), kind)
    except (IndexError, UnicodeDecodeError, ValueError) as exc:
        raise bad_request(f"the body of the request is broken: {exc}") from exc
    return {"apiVersion": _as_bytes(kind_fields.get(1, b"")).decode(), "kind": kind} | obj


def _message(name: str, data: bytes, kind: str) -> Obj:
    if name == _IGNORED:
        return {}
    known = _MESSAGES.get(name)
    if known is None:
        raise _unreadable(kind, name)
    obj: Obj = {}
    for number, value in _fields(data):
        field = known.get(number)
        if field is None:
            if value not in (b"", 0):
                raise _unreadable(kind, f"{name} field {number}")
        elif field.map:
            pair = dict(_fields(_as_bytes(value)))
            key = _as_bytes(pair.get(1, b"")).decode()
            obj.setdefault(field.name, {})[key] = _value(field, pair.get(2, b""), kind)
        elif field.many:
            obj.setdefault(field.name, []).append(_value(field, value, kind))
        elif (one := _value(field, value, kind)) is not None:
            obj[field.name] = one
    return obj


def _value(field: _Field, value: int | bytes, kind: str) -> Any:
    """None for a value that stands for "not set"."""
    match field.wire:
        case Wire.TEXT:
            text = _as_bytes(value).decode()
            return text if text or field.many or field.map else None
        case Wire.BASE64:
            return base64.b64encode(_as_bytes(value)).decode()
        case Wire.NUMBER:
            return value or None
        case Wire.POINTER:
            return value
        case Wire.FLAG:
            return bool(value) or None
        case Wire.FLAG_POINTER:
            return bool(value)
        case Wire.INT_OR_STRING:
            return _int_or_string(_as_bytes(value))
        case Wire.MESSAGE:
            made = _message(field.message, _as_bytes(value), kind)
            return made if made or field.many else None


def _int_or_string(data: bytes) -> int | str | None:
    fields = dict(_fields(data))
    if fields.get(1, 0) == _STRING_VALUE:
        return _as_bytes(fields.get(3, b"")).decode() or None
    number = fields.get(2, 0)
    return number if isinstance(number, int) and number else None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
        elif wire == _BYTES:
            size, position = _varint(data, position)
            if position + size > len(data):
                raise ValueError("truncated field")
            yield number, data[position : position + size]
            position += size
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value - (1 << 64) if value >> 63 else value), position


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes were expected")
    return value


def _unreadable(kind: str, what: str) -> ApiError:
    advice = "send JSON instead: --dry-run=client -o yaml | kubectl apply -f -"
    text = f"this development server cannot read {what} in protobuf bodies of kind {kind}; {advice}"
    return ApiError(415, "UnsupportedMediaType", text)
