# SPDX-License-Identifier: Apache-2.0
"""What the programs of one cluster say of themselves: its apiserver, or its agents alone while that does not answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

import kube.resource as k
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.program_client import ProgramClient
from kube.errors import KubeError
from meshapi.agent import AgentStatus, decode_agent
from meshapi.apiserver import ApiserverStatus, decode_apiserver
from meshapi.installed import AGENT_SELECTOR, CLUSTER_ID_KEY, CLUSTER_NAME_KEY
from meshkit.refusal import read_refusal

AT_ONCE: Final = 16


class ApiserverSilentError(CommandError):
    """The apiserver does not answer with its status; the message says what came instead."""


def read_apiserver(programs: ProgramClient) -> ApiserverStatus:
    """What the apiserver says of the cluster. Raises: ApiserverSilentError; CommandError if no token can be made."""
    try:
        code, body = programs.get_apiserver("v1/status?nodes=true")
        if code == 200:
            return decode_apiserver(body)
        why = f"HTTP {code}: {read_refusal(body)}"
    except msgspec.DecodeError as exc:
        why = f"what it answers is not its status: {exc}"
    except KubeError as exc:
        why = str(exc)
    raise ApiserverSilentError(
        f"clustermesh-apiserver does not answer ({why}); see kubectl -n {programs.namespace} get pods",
        ExitCode.DEGRADED,
    )


def ask_agents(programs: ProgramClient, silence: str) -> ApiserverStatus:
    """What the agents say, each asked on its own, in place of an apiserver that does not answer; `silence` says why.

    Nothing is known of what it publishes and mirrors. Raises: KubeError, CommandError if no token can be made.
    """
    from concurrent.futures import ThreadPoolExecutor

    config = read_config(programs.client, programs.namespace)
    pods = programs.client.list(k.PODS, programs.namespace, AGENT_SELECTOR)
    number = config.get(CLUSTER_ID_KEY, "")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        agents = sorted(pool.map(lambda pod: _ask(programs, pod), pods), key=lambda agent: agent.node)
    return ApiserverStatus(
        cluster=config.get(CLUSTER_NAME_KEY, ""),
        cluster_id=int(number) if number.isdecimal() else 0,
        ready=False,
        agents=agents,
        problems=[silence],
    )


def _ask(programs: ProgramClient, pod: Mapping[str, Any]) -> AgentStatus:
    name, node = str(pod["metadata"]["name"]), str(pod["spec"].get("nodeName", ""))
    try:
        code, body = programs.get_agent(name, "v1/status")
        if code == 200:
            return decode_agent(body)
        why = f"agent answered {code}: {read_refusal(body)}"
    except msgspec.DecodeError as exc:
        why = f"agent answered something else than its status: {exc}"
    except KubeError as exc:
        why = f"agent not reached: {exc}"
    return AgentStatus(node=node or name, ready=False, problems=[why])
