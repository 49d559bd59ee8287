from typing import Any

from kubernetes.client import Configuration

def load_incluster_config(client_configuration: Configuration | None = None) -> None: ...
def load_kube_config(
    config_file: str | None = None,
    context: str | None = None,
    client_configuration: Configuration | None = None,
    persist_config: bool = True,
) -> None: ...
def list_kube_config_contexts(
    config_file: str | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]: ...
