# SPDX-License-Identifier: Apache-2.0
"""`clustermesh status --summary` and `clustermesh config view`: what is installed, from Kubernetes alone."""

from __future__ import annotations

import kube.resource as k
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.installed_parts import (
    InstalledSettings,
    InstalledSummary,
    read_part,
    settings_lines,
    summary_lines,
)
from kube.client import KubeClient
from meshapi.installed import AGENT, APISERVER, CLUSTER_NAME_KEY, CONFIG_MAP, PROXIES, RELAY, RELAY_KEY
from meshkit.answer_form import AnswerForm

ANSWER_S = 5.0
WORKLOADS = (
    ("Deployment", k.DEPLOYMENTS, APISERVER),
    ("DaemonSet", k.DAEMON_SETS, AGENT),
    ("DaemonSet", k.DAEMON_SETS, PROXIES),
)
WITH_RELAY = (*WORKLOADS, ("Deployment", k.DEPLOYMENTS, RELAY))


def show_summary(client: KubeClient, namespace: str, form: AnswerForm, console: Console) -> ExitCode:
    """Print every workload with its replicas and images. Degraded unless each is there and whole."""
    client = client.within(ANSWER_S)
    config = read_config(client, namespace)
    wanted = WITH_RELAY if config.get(RELAY_KEY, "").lower() == "true" else WORKLOADS
    found = {name: (kind, client.get(resource, name, namespace)) for kind, resource, name in wanted}
    summary = InstalledSummary(
        cluster=config.get(CLUSTER_NAME_KEY, ""),
        parts=[read_part(kind, workload) for kind, workload in found.values() if workload is not None],
        missing=[f"{kind} {namespace}/{name}" for name, (kind, workload) in found.items() if workload is None],
    )
    print_answer(summary, summary_lines(summary), form, console)
    is_whole = not summary.missing and all(part.is_whole for part in summary.parts)
    return ExitCode.OK if is_whole else ExitCode.DEGRADED


def view_settings(client: KubeClient, namespace: str, form: AnswerForm, console: Console) -> None:
    """Print the settings of the cluster. Raises: CommandError where the mesh is not enabled."""
    config = client.get(k.CONFIG_MAPS, CONFIG_MAP, namespace)
    if config is None:
        raise CommandError(f"the mesh is not enabled here: there is no ConfigMap {namespace}/{CONFIG_MAP}")
    found = InstalledSettings(config_map=f"{namespace}/{CONFIG_MAP}", settings=dict(config.get("data") or {}))
    print_answer(found, settings_lines(found), form, console)
