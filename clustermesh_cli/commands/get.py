# SPDX-License-Identifier: Apache-2.0
"""`clustermesh get`: what one cluster knows of the mesh, from its apiserver or from the agent of a node."""

from __future__ import annotations

from typing import TypeVar

from clustermesh_cli import listed_rows as rows
from clustermesh_cli.agent_answers import ask_agent, chosen_agents
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.listed_rows import ListedKind, ListedRows, Table
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.program_statuses import ApiserverSilentError, ask_agents, read_apiserver
from meshapi.agent import AgentStatus, EndpointRow, IdentityRow, NodeRow
from meshapi.installed import APISERVER
from meshapi.service import ServiceStatus
from meshkit.answer_form import AnswerForm

_T = TypeVar("_T")


def get(programs: ProgramClient, kind: ListedKind, node: str | None, form: AnswerForm, console: Console) -> ExitCode:
    """Print one list; degraded if a program that has a part of it does not answer.

    Raises: CommandError (degraded) where none answers.
    """
    found, table = _find(programs, kind, node)
    print_answer(found, rows.table_lines(table), form, console)
    if form is AnswerForm.TABLE:
        for problem in found.missing:
            console.fail(problem)
    return ExitCode.DEGRADED if found.missing else ExitCode.OK


def _find(programs: ProgramClient, kind: ListedKind, node: str | None) -> tuple[ListedRows, Table]:
    match kind:
        case ListedKind.CLUSTERS | ListedKind.PEERS:
            listed = _clusters(programs, kind)
            return listed, rows.clusters_table(listed.items)
        case ListedKind.ENDPOINTS:
            return _endpoints(programs, node)
        case ListedKind.SERVICES:
            asked, services = _ask_one(programs, node, "v1/services", list[ServiceStatus])
            return ListedRows(kind=kind, asked=asked, items=services), rows.services_table(services)
        case ListedKind.NODES:
            asked, nodes = _ask_one(programs, node, "v1/nodes", list[NodeRow])
            return ListedRows(kind=kind, asked=asked, items=nodes), rows.nodes_table(nodes)
        case ListedKind.IDENTITIES:
            asked, identities = _ask_one(programs, node, "v1/identities", list[IdentityRow])
            return ListedRows(kind=kind, asked=asked, items=identities), rows.identities_table(identities)


def _clusters(programs: ProgramClient, kind: ListedKind) -> ListedRows:
    """What the apiserver says; while it is silent, what the agents say, and that it is missing."""
    missing = []
    try:
        status, asked = read_apiserver(programs), [APISERVER]
    except ApiserverSilentError as exc:
        status = ask_agents(programs, str(exc))
        asked = [agent.node for agent in status.agents if agent.ready]
        missing = [f"{exc}; the list is what the agents know"]
    clusters = rows.list_clusters(status, with_own=kind is ListedKind.CLUSTERS)
    return ListedRows(kind=kind, asked=asked, items=clusters, missing=missing)


def _endpoints(programs: ProgramClient, node: str | None) -> tuple[ListedRows, Table]:
    found: list[rows.ListedEndpoint] = []
    asked, missing = [], []
    for name, pod in chosen_agents(programs, node):
        try:
            cluster = ask_agent(programs, pod, "v1/status", AgentStatus).cluster
            found += rows.list_endpoints(name, cluster, ask_agent(programs, pod, "v1/endpoints", list[EndpointRow]))
            asked.append(name)
        except CommandError as exc:
            missing.append(f"{name}: {exc}")
    answer = ListedRows(kind=ListedKind.ENDPOINTS, asked=asked, items=found, missing=missing)
    return answer, rows.endpoints_table(found)


def _ask_one(programs: ProgramClient, node: str | None, path: str, answer: type[_T]) -> tuple[list[str], _T]:
    """The answer of the first agent that gives one: all of them follow the same clusters."""
    last: CommandError | None = None
    for name, pod in chosen_agents(programs, node):
        try:
            return [name], ask_agent(programs, pod, path, answer)
        except CommandError as exc:
            last = exc
    assert last is not None  # there is an agent, and it did not answer
    raise last
