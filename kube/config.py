# SPDX-License-Identifier: Apache-2.0
"""Credentials: from a kubeconfig, or from the service account of our pod. Package `kubernetes` decides how."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from kube.client import KubeClient
from kube.errors import ConfigError
from kube.transport import Transport

if TYPE_CHECKING:
    from kubernetes.client import Configuration

SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
POOL_SIZE = 16
USER_AGENT = "clustermesh"


@dataclass(frozen=True, slots=True)
class Context:
    """One named way to reach a cluster, as a kubeconfig lists it."""

    name: str
    cluster: str
    user: str
    namespace: str
    current: bool


def load_client(kubeconfig: str | None = None, context: str | None = None) -> KubeClient:
    """A client for the cluster that the arguments, the pod or the user's kubeconfig name, in this order.

    No connection is made yet.
    Raises: ConfigError if there is no usable configuration.
    """
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject

    configuration = Configuration()
    configuration.retries = False
    configuration.connection_pool_maxsize = POOL_SIZE
    if _in_cluster(kubeconfig, context):
        _load_in_cluster(configuration)
        context_name = "in-cluster"
    else:
        context_name = _load_kubeconfig(configuration, kubeconfig, context)
    if _is_loopback(configuration.host):
        configuration.proxy = None  # as kubectl: never through a proxy to ourselves
    pool = RESTClientObject(configuration).pool_manager

    def authorization() -> str | None:
        key = configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return str(key) if key else None

    transport = Transport(configuration.host, pool, authorization, agent=USER_AGENT)
    return KubeClient(transport, context=context_name)


def list_contexts(kubeconfig: str | None = None) -> list[Context]:
    """Every context of a kubeconfig, in its order.

    Raises: ConfigError if there is no readable kubeconfig.
    """
    from kubernetes.config import list_kube_config_contexts

    try:
        contexts, current = list_kube_config_contexts(config_file=kubeconfig)
    except Exception as exc:  # the library raises whatever its YAML and file layers raise
        raise ConfigError("kubeconfig", detail=str(exc)) from exc
    current_name = current.get("name")
    return [
        Context(
            name=str(entry["name"]),
            cluster=str(entry["context"].get("cluster", "")),
            user=str(entry["context"].get("user", "")),
            namespace=str(entry["context"].get("namespace", "default")),
            current=entry["name"] == current_name,
        )
        for entry in contexts
    ]


def _in_cluster(kubeconfig: str | None, context: str | None) -> bool:
    if kubeconfig or context or os.environ.get("KUBECONFIG"):
        return False
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and SERVICE_ACCOUNT_TOKEN.exists()


def _load_in_cluster(configuration: Configuration) -> None:
    from kubernetes.config import load_incluster_config

    try:
        load_incluster_config(client_configuration=configuration)
    except Exception as exc:  # ConfigException, OSError on the mounted files
        raise ConfigError("in-cluster configuration", detail=str(exc)) from exc


def _load_kubeconfig(configuration: Configuration, kubeconfig: str | None, context: str | None) -> str:
    from kubernetes.config import load_kube_config

    where = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    except Exception as exc:  # the library raises whatever its YAML, file and exec layers raise
        raise ConfigError(f"kubeconfig {where}" + (f" context {context}" if context else ""), detail=str(exc)) from exc
    if context:
        return context
    return next((entry.name for entry in list_contexts(kubeconfig) if entry.current), "")


def _is_loopback(server: str) -> bool:
    host = urlparse(server).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
