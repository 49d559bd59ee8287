# SPDX-License-Identifier: Apache-2.0
"""`clustermesh policy suggest`: policies that allow the flows that nodes hold, tried on these flows before they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from clustermesh_cli.agent_answers import ask_all_agents
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.commands.policy_diff import asking_for, rows_of_each
from clustermesh_cli.connection_decision import build_engine
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import ExitCode
from clustermesh_cli.flow_changes import FlowJudge
from clustermesh_cli.live_policy import AgentView, LiveCluster, read_agent, read_cluster
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.suggested_policies import (
    SuggestionReport,
    left_out_lines,
    policy_lines,
    seen_connections,
    still_denied,
)
from kube.client import KubeClient
from meshapi.connection import RecentConnections
from meshapi.shown_times import rfc3339
from meshkit.answer_form import AnswerForm
from meshpolicy.suggest import Suggestions, suggest


def suggest_policies(
    client: KubeClient,
    system: str,
    namespace: str,
    since_s: float,
    console: Console,
    *,
    form: AnswerForm = AnswerForm.TABLE,
    with_dropped: bool = True,
) -> ExitCode:
    """Print the policies as YAML that can be applied; what is not in them stands in comments. Nothing is written.

    DEGRADED where a node did not answer, a connection has no rule, or something else denies it still.
    """
    live = read_cluster(client, system, client.context)
    programs = ProgramClient(client, system)
    view = read_agent(programs, live.context)
    answers, missing = ask_all_agents({live.context: programs}, asking_for(rows_of_each(programs)))
    seen = seen_connections(answers, view, namespace, since_s, with_dropped=with_dropped)
    found = suggest(seen)
    report = SuggestionReport(
        cluster=live.name,
        policies=[policy.document for policy in found.policies],
        connections=sum(each.tag.row.connections for each in seen),  # type: ignore[attr-defined]
        denied=sorted(set(_denied(live, view, found))),
        left_out=left_out_lines(found),
        warnings=[f"not asked: {why}" for why in missing] + list(_uncovered(answers, since_s)),
    )
    print_answer(report, _lines(report, found, namespace), form, console)
    return ExitCode.DEGRADED if missing or report.denied or report.left_out else ExitCode.OK


def _denied(live: LiveCluster, view: AgentView, found: Suggestions) -> Iterator[str]:
    """By the suggestions alone, and by all that would be in force with them."""
    names = {pod.address: pod.named_ports for pod in live.pods if pod.named_ports and not pod.uses_host_network}
    added = tuple(policy.document for policy in found.policies)
    for documents in (added, (*live.documents, *added)):
        engine, _ = build_engine(replace(live, documents=documents), view)
        yield from still_denied(FlowJudge(engine, view, names), found.policies)


def _uncovered(answers: list[RecentConnections], since_s: float) -> Iterator[str]:
    for answer in answers:
        if not answer.is_whole and answer.since > since_s:
            yield f"{answer.node} holds flows since {rfc3339(answer.since)} only: what it saw before is in no rule"
        if answer.lost or answer.left_out:
            yield f"{answer.node} lost {answer.lost} events and left {answer.left_out} connections out: they are in no rule"


def _lines(report: SuggestionReport, found: Suggestions, namespace: str) -> Iterator[str]:
    import yaml  # takes long to load

    def dump(value: object) -> str:
        return str(yaml.safe_dump(value, sort_keys=False, default_flow_style=False))

    where = f"namespace {namespace}" if namespace else "all namespaces"
    number = len(found.policies)
    policies = f"{number} {'policy' if number == 1 else 'policies'}"
    yield f"# {policies} from {report.connections} connections of {where} of cluster {report.cluster}"
    yield "# A direction that a policy has rules for is closed to everything else."
    for policy in found.policies:
        yield from policy_lines(policy, dump)
    for title, texts in (
        ("denied even with these policies", report.denied),
        ("in no rule", report.left_out),
        ("WARN", report.warnings),
    ):
        for text in texts:
            yield f"# {title}: {text}"
    if not found.policies:
        yield "# no connection of a pod of this cluster was seen: make traffic, or ask for a longer time with --since"
