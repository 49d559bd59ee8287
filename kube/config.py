# SPDX-License-Identifier: Apache-2.0
"""A client from a kubeconfig, or from the service account of our pod.

The package `kubernetes` is imported only for users with an `auth-provider` (OpenID Connect with refresh tokens): it costs
more than everything else a command does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import urllib3

from kube.client import KubeClient
from kube.connection import connect_chosen, make_pool, make_tls
from kube.credentials import Credentials, TokenFile
from kube.errors import ConfigError
from kube.kubeconfig import Context, read_kubeconfig
from kube.transport import Transport

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
USER_AGENT: Final = "clustermesh"


def load_client(kubeconfig: str | None = None, context: str | None = None) -> KubeClient:
    """A client for the cluster that the arguments, the pod or the user's kubeconfig name, in this order.

    No connection is made yet; a credential plugin is run.
    Raises: ConfigError if there is no usable configuration.
    """
    if _is_in_cluster(kubeconfig, context):
        server, pool, credentials = _connect_in_cluster()
        return KubeClient(Transport(server, pool, credentials, agent=USER_AGENT), context="in-cluster")
    chosen = read_kubeconfig(kubeconfig).choose(context)
    server = str(chosen.cluster["server"])
    if "auth-provider" in chosen.user:
        pool, credentials = _connect_by_library(kubeconfig, chosen.context)
    else:
        pool, credentials = connect_chosen(chosen)
    return KubeClient(Transport(server, pool, credentials, agent=USER_AGENT), context=chosen.context)


def list_contexts(kubeconfig: str | None = None) -> list[Context]:
    """Every context of a kubeconfig, in its order.

    Raises: ConfigError if there is no readable kubeconfig.
    """
    return read_kubeconfig(kubeconfig).contexts()


def _is_in_cluster(kubeconfig: str | None, context: str | None) -> bool:
    if kubeconfig or context or os.environ.get("KUBECONFIG"):
        return False
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT / "token").exists()


def _connect_in_cluster() -> tuple[str, urllib3.PoolManager, Credentials]:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT") or "443"
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    try:
        ca_pem = (SERVICE_ACCOUNT / "ca.crt").read_bytes()
    except OSError as exc:
        raise ConfigError("in-cluster configuration", detail=str(exc)) from exc
    if not ca_pem.strip():
        raise ConfigError("in-cluster configuration", detail=f"{SERVICE_ACCOUNT / 'ca.crt'} is empty")
    context = make_tls(ca_pem, (None, None), is_insecure=False, what="in-cluster configuration")
    return server, make_pool(server, context, "", ""), TokenFile(SERVICE_ACCOUNT / "token")


def _connect_by_library(kubeconfig: str | None, context: str) -> tuple[urllib3.PoolManager, Credentials]:
    """For what only the package `kubernetes` can renew."""
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject
    from kubernetes.config import load_kube_config

    configuration = Configuration()
    configuration.retries = False
    try:
        load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    except Exception as exc:  # the library raises whatever its YAML, file and network layers raise
        raise ConfigError(f"kubeconfig context {context}", detail=str(exc)) from exc

    return RESTClientObject(configuration).pool_manager, _LibraryCredentials(configuration)


class _LibraryCredentials:
    """A token that the library refreshes by itself before it ends."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration

    def authorization(self) -> str | None:
        key = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return str(key) if key else None

    def renew(self, refused: str | None) -> bool:
        return self.authorization() != refused
