# SPDX-License-Identifier: Apache-2.0
"""Manifests that the lab's tests apply."""

from __future__ import annotations

from typing import Any

Obj = dict[str, Any]


def config_map(name: str, **data: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def web(name: str, text: str, replicas: int = 2, **pod: Any) -> list[Obj]:
    """A ConfigMap, a Deployment of nginx that serves it, and a NodePort Service in front."""
    container = {
        "name": "web",
        "image": "nginx",
        "volumeMounts": [{"name": "html", "mountPath": "/usr/share/nginx/html"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
    }
    volume = {"name": "html", "configMap": {"name": name, "items": [{"key": "message", "path": "index.html"}]}}
    spec = {"containers": [container], "volumes": [volume], **pod}
    service_spec = {"type": "NodePort", "selector": {"name": name}, "ports": [{"port": 80}]}
    return [
        config_map(name, message=text),
        deployment(name, spec, replicas),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service_spec},
    ]


def deployment(name: str, pod_spec: Obj, replicas: int = 1) -> Obj:
    template = {"metadata": {"labels": {"name": name}}, "spec": pod_spec}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"name": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def pod(name: str, *containers: Obj, **spec: Any) -> Obj:
    meta = {"name": name, "labels": {"name": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": list(containers), **spec}}


def shell(script: str, name: str = "c", **container: Any) -> Obj:
    return {"name": name, "image": "busybox", "command": ["/bin/sh", "-c", script], **container}
