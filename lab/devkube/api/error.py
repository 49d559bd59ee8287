# SPDX-License-Identifier: Apache-2.0
"""What the API answers instead of an object: one exception, and the sentences clients are used to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lab.devkube.api.objects import Obj
from meshkit.errors import MeshError


class DescribedResource(Protocol):
    """What a sentence says of a kind of object."""

    @property
    def group(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def qualified(self) -> str: ...


class ApiError(MeshError):
    """A failed request, with everything needed to render the Status object a client expects."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, dict(details or {})

    def status(self) -> Obj:
        return status_object(self.code, self.reason, self.message, self.details)


@dataclass(frozen=True, slots=True)
class Cause:
    """One invalid field. `kind` is the machine-readable reason, `text` what a person reads after the field's name."""

    field: str
    kind: str
    text: str


def status_object(code: int, reason: str = "", message: str = "", details: Mapping[str, Any] | None = None) -> Obj:
    body: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
    body["status"] = "Failure" if code >= 400 else "Success"
    if message:
        body["message"] = message
    if reason:
        body["reason"] = reason
    if details:
        body["details"] = dict(details)
    return body | {"code": code}


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def not_found(resource: DescribedResource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def already_exists(resource: DescribedResource, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(resource, name))


def conflict(resource: DescribedResource, name: str, why: str) -> ApiError:
    text = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", text, _details(resource, name))


def forbidden(resource: DescribedResource, name: str, why: str) -> ApiError:
    text = f'{resource.qualified} "{name}" is forbidden: {why}'
    return ApiError(403, "Forbidden", text, _details(resource, name))


def invalid(resource: DescribedResource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422 naming every field that is wrong."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    texts = [f"{c.field}: {c.text}" for c in causes]
    listed = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _details(resource, name) | {"kind": resource.kind}
    details["causes"] = [{"reason": c.kind, "message": c.text, "field": c.field} for c in causes]
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details)


def expired(requested: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {requested} ({oldest})")


def too_large_revision(requested: int, current: int) -> ApiError:
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
    text = f"Timeout: Too large resource version: {requested}, current: {current}"
    return ApiError(504, "Timeout", text, details | {"retryAfterSeconds": 1})


def unsupported_media_type(content_type: str, accepted: Sequence[str]) -> ApiError:
    text = f"the body of the request was in an unknown format ({content_type}) - accepted media types include: "
    return ApiError(415, "UnsupportedMediaType", text + ", ".join(accepted))


def _details(resource: DescribedResource, name: str) -> dict[str, Any]:
    named = {"name": name, "kind": resource.plural}
    return named | {"group": resource.group} if resource.group else named
