# SPDX-License-Identifier: Apache-2.0
"""Parts of objects with a life of their own: scale, binding, eviction, token, log and proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.deletion import DeleteOptions
from lab.devkube.api.error import bad_request, conflict, status_object, unsupported_media_type
from lab.devkube.api.exec import container_of
from lab.devkube.api.http import Request, Response, Stream, json_response
from lab.devkube.api.objects import Obj, copy_object, items_of, metadata, part, timestamp
from lab.devkube.api.patches import APPLY_PATCH, patch_object
from lab.devkube.api.proxy import Proxy
from lab.devkube.api.resource import ApiResource
from lab.devkube.api.routes import RequestTarget
from lab.devkube.api.runtime import LogOptions, Runtime
from lab.devkube.api.verbs import method_not_allowed

_SCALE = ApiResource("autoscaling", "v1", "scales", "Scale")
_TOKEN_LIFETIME_S = 3600


class Subresources:
    """Everything below an object but its status, which the verbs serve, and exec, which has its own transports."""

    def __init__(self, cluster: Cluster, runtime: Runtime) -> None:
        self._cluster, self._runtime = cluster, runtime
        self._proxy = Proxy(cluster, runtime)

    async def handle(self, target: RequestTarget, request: Request) -> Response | Stream:
        """Raises ApiError, 405 for a method that the subresource does not have."""
        if target.subresource == "proxy":
            return await self._proxy.handle(target, request)
        match (target.subresource, request.method):
            case ("scale", "GET" | "PUT" | "PATCH"):
                return self._scale(target, request)
            case ("log", "GET"):
                return self._log(target, request)
            case ("binding", "POST"):
                return self._bind(target, request)
            case ("eviction", "POST"):
                return self._evict(target, request)
            case ("token", "POST"):
                return self._token(target, request)
            case ("finalize", "PUT"):
                return self._finalize(target)
            case ("exec", _):
                raise bad_request("Upgrade request required")
        raise method_not_allowed()

    def _find(self, target: RequestTarget) -> Obj:
        return self._cluster.find(target.resource, target.namespace or "", target.name)

    def _scale(self, target: RequestTarget, request: Request) -> Response:
        obj = self._find(target)
        if request.method == "GET":
            return json_response(200, _scale_of(obj))
        if request.content_type == APPLY_PATCH:
            raise unsupported_media_type(request.content_type, ["application/merge-patch+json"])
        scale = request.object() if request.method == "PUT" else patch_object(_SCALE, _scale_of(obj), request)
        wanted = part(scale, "metadata").get("resourceVersion")
        if wanted not in (None, "", metadata(obj)["resourceVersion"]):
            raise conflict(target.resource, target.name, "the object has been modified")
        replicas = part(scale, "spec").get("replicas", 0)
        if not isinstance(replicas, int):
            raise bad_request("spec.replicas of a Scale is a number")
        scaled = copy_object(obj)
        scaled["spec"]["replicas"] = replicas
        return json_response(
            200, _scale_of(self._cluster.update_as(target.resource, scaled, dry_run=request.is_dry_run))
        )

    def _log(self, target: RequestTarget, request: Request) -> Stream:
        pod = self._find(target)
        options = LogOptions(
            container=container_of(pod, request.text("container")),
            follow=request.flag("follow"),
            tail_lines=request.number("tailLines"),
            previous=request.flag("previous"),
            since_s=request.number("sinceSeconds"),
            timestamps=request.flag("timestamps"),
            limit_bytes=request.number("limitBytes"),
        )
        chunks: AsyncIterator[bytes] = self._runtime.logs(pod, options)
        return Stream(chunks, content_type="text/plain")

    def _bind(self, target: RequestTarget, request: Request) -> Response:
        pod = copy_object(self._find(target))
        node = part(request.object(), "target").get("name")
        if pod["spec"].get("nodeName"):
            raise conflict(target.resource, target.name, f"pod is already assigned to node {pod['spec']['nodeName']}")
        pod["spec"]["nodeName"] = node
        self._cluster.update_as(target.resource, pod, dry_run=request.is_dry_run)
        return json_response(201, status_object(201))

    def _evict(self, target: RequestTarget, request: Request) -> Response:
        options = part(request.object(), "deleteOptions")
        dry_run = request.is_dry_run or "All" in (options.get("dryRun") or [])
        self._cluster.delete_as(
            target.resource, target.namespace or "", target.name,
            DeleteOptions(options.get("gracePeriodSeconds"), part(options, "preconditions").get("uid")), dry_run=dry_run,
        )  # fmt: skip
        return json_response(201, status_object(201))

    def _token(self, target: RequestTarget, request: Request) -> Response:
        self._find(target)
        asked = request.object()
        spec = part(asked, "spec")
        lifetime_s = int(spec.get("expirationSeconds") or _TOKEN_LIFETIME_S)
        token = self._cluster.service_account_token(target.namespace or "", target.name, spec.get("audiences") or ())
        now = self._cluster.wall()
        return json_response(201, {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": timestamp(now)},
            "spec": {"audiences": [], **spec, "expirationSeconds": lifetime_s},
            "status": {"token": token, "expirationTimestamp": timestamp(now + lifetime_s)},
        })  # fmt: skip

    def _finalize(self, target: RequestTarget) -> Response:
        """Namespaces are emptied by the server itself, so there is nobody's consent to take note of."""
        return json_response(200, self._find(target))


def _scale_of(obj: Obj) -> Obj:
    meta = {k: metadata(obj)[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    selector = part(part(obj, "spec"), "selector")
    labels = [f"{key}={value}" for key, value in sorted(part(selector, "matchLabels").items())]
    for term in items_of(selector, "matchExpressions"):
        values = ",".join(term.get("values") or ())
        word = {"In": "in", "NotIn": "notin"}.get(str(term["operator"]))
        plain = term["key"] if term["operator"] == "Exists" else f"!{term['key']}"
        labels.append(f"{term['key']} {word} ({values})" if word else plain)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": part(obj, "spec").get("replicas", 0)},
        "status": {"replicas": part(obj, "status").get("replicas", 0), "selector": ",".join(labels)},
    }
