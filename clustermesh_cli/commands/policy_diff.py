# SPDX-License-Identifier: Apache-2.0
"""`clustermesh policy diff`: which identity pairs and recent connections of the live mesh are judged differently by a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from clustermesh_cli.agent_answers import agent_pods, ask_agent, ask_all_agents
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.connection_decision import build_engine
from clustermesh_cli.console import Console
from clustermesh_cli.decision_text import short_labels
from clustermesh_cli.diff_report import (
    DiffChange,
    DiffFlow,
    DiffNode,
    DiffReport,
    change_lines,
    coverage_lines,
    coverage_warnings,
    sum_line,
)
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.flow_changes import FlowChange, PolicySets, flow_changes
from clustermesh_cli.live_policy import AgentView, LiveCluster, read_agent, read_cluster, read_services
from clustermesh_cli.node_policies import by_address, compare_nodes
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient
from kube.errors import KubeError
from meshapi.connection import ConnectionEnd, RecentConnections
from meshapi.shown_times import rfc3339
from meshkit import yamltext
from meshkit.answer_form import AnswerForm
from meshmodel.identity import NumericIdentity, identity_name, is_of_nodes, is_reserved
from meshmodel.labels import CLUSTER_LABEL, NAMESPACE_LABEL, Labels
from meshpolicy import Engine, Policy, policy_ref
from meshpolicy.documents import load_documents, open_list
from meshpolicy.errors import PolicyError
from meshpolicy.mapstate import Verdict
from meshpolicy.port import NamedPorts
from meshpolicy.reference import Direction, PolicyKind
from meshpolicy.staged import is_staged, unstaged
from meshpolicy.verdict_changes import VerdictChange, packets_text, verdict_changes

Document = Mapping[str, object]

_MOST_ROWS: Final = 200_000
_MOST_ROWS_EACH: Final = 4_000
_FEWEST_ROWS: Final = 50
_NAMED_NODES: Final = 3
_WORDS: Final = {True: "allowed", False: "denied"}


def diff(
    path: str, client: KubeClient, system: str, form: AnswerForm, console: Console, *, with_staged: bool = False
) -> ExitCode:
    """Print one line per changed pair. CHECK_FAILED if a document is in error: it would have no effect.

    DEGRADED if a part of a valid one is not enforced as written, as `policy lint` has it.

    A document of the file that is staged is judged as if it were in force; `with_staged`: so are the cluster's.

    Nothing is written. Raises: CommandError if the file cannot be read or the cluster does not answer.
    """
    report = _compare(_read(path) if path else [], client, system, with_staged=with_staged)
    if form is not AnswerForm.TABLE:
        print_answer(report, (), form, console)
    else:
        _show(report, console)
    if report.errors:
        return ExitCode.CHECK_FAILED
    return ExitCode.DEGRADED if report.not_enforced else ExitCode.OK


def _show(report: DiffReport, console: Console) -> None:
    for error in report.errors:
        console.fail(error)
    if report.errors:
        return
    for line in change_lines(report):
        console.line(line)
    for line in coverage_lines(report):
        console.line(line)
    for warning in (
        *(f"not enforced: {text}" for text in report.not_enforced),
        *report.warnings,
        *coverage_warnings(report),
    ):
        console.warn(warning)
    console.line(sum_line(report))


def _compare(added: Sequence[Document], client: KubeClient, system: str, *, with_staged: bool) -> DiffReport:
    live = read_cluster(client, system, client.context)
    if with_staged:
        added = _applied([found for found in live.documents if _is_staged(found)], added)
    programs = ProgramClient(client, system)
    view = read_agent(programs, live.context)
    items = tuple(load_documents(added, live.policy_context))
    errors = [item for item in items if isinstance(item, PolicyError)]
    if errors:
        return DiffReport(
            cluster=live.name,
            errors=[f"{error.document}: {error}" if error.document else str(error) for error in errors],
        )
    before, had_no_effect = build_engine(live, view)
    in_force = [unstaged(document) for document in added]
    after, has_no_effect = build_engine(replace(live, documents=_applied(live.documents, in_force)), view)
    warnings = [
        *_as_if(added),
        *(text for text in has_no_effect if text not in had_no_effect),
        *_tell_services((before, after), programs, live.context),
        *_not_compared(before, after, live),
    ]
    own = [n for n, labels in view.identities.items() if _value(labels, CLUSTER_LABEL) == live.name]
    found = verdict_changes(before, after, own, _ports(live, view))
    groups = compare_nodes(before, after, live.nodes, live.name, system)
    answers, missing = ask_all_agents({live.context: programs}, asking_for(rows_of_each(programs)))
    names = {pod.address: pod.named_ports for pod in live.pods if pod.named_ports and not pod.uses_host_network}
    flows = flow_changes(PolicySets(before, after, view, names, by_address(groups, live.nodes)), answers)
    changes = [_change(change, after, _name(after, change.subject)) for change in found]
    changes += [_change(change, after, _nodes_name(group.names)) for group in groups for change in group.changes]
    return DiffReport(
        cluster=live.name,
        pairs=len({(change.direction, change.source, change.destination) for change in changes}),
        changes=changes,
        flows=[_flow(change, after) for change in flows.changes],
        connections_judged=flows.judged,
        connections_unknown=flows.unknown,
        nodes=[_node(answer) for answer in sorted(answers, key=lambda answer: answer.node)],
        nodes_missing=missing,
        not_enforced=[f"{item.key}: {text}" for item in items if isinstance(item, Policy) for text in item.problems],
        warnings=warnings,
    )


def _is_staged(document: Document) -> bool:
    try:
        return is_staged(document)
    except PolicyError:
        return False  # it is refused, and not in force in any case


def _as_if(added: Sequence[Document]) -> Iterator[str]:
    names = sorted(str(policy_ref(document)) for document in added if _is_staged(document))
    if names:
        yield f"judged as if in force, though staged: {', '.join(names)}"


def rows_of_each(programs: ProgramClient) -> int:
    """How many kinds of connections each agent is asked for, so that all fit into this program."""
    try:
        agents = len(agent_pods(programs))
    except KubeError:
        agents = 0  # said where they are asked
    return max(_FEWEST_ROWS, min(_MOST_ROWS_EACH, _MOST_ROWS // max(1, agents)))


def asking_for(most: int) -> Callable[[ProgramClient, str], RecentConnections]:
    """What asks an agent for its recent connections, so many kinds at most."""
    path = f"v1/flows/connections?most={most}"
    return lambda programs, pod: ask_agent(programs, pod, path, RecentConnections)


def _tell_services(engines: Sequence[Engine], programs: ProgramClient, context: str) -> Iterator[str]:
    """The engines know who the backends of Services are, if a rule names one."""
    if not any(engine.uses_services() for engine in engines):
        return
    try:
        services = read_services(programs, context)
    except CommandError as exc:
        yield f"rules that name Services are compared as if no Service had a backend: {exc}"
    else:
        for engine in engines:
            engine.set_services(services)


def _not_compared(before: Engine, after: Engine, live: LiveCluster) -> Iterator[str]:
    old, new = ({policy for policy in engine.policies() if policy.is_host} for engine in (before, after))
    if old != new and not live.nodes:
        yield "host policies are not compared: the cluster has no Node object that may be read"
    elif old != new:
        yield (
            "nodes are compared with the guard's defaults (their settings may open more), and of their connections those "
            "with pods of the cluster are known"
        )
    if after.node_keys() - before.node_keys():
        yield (
            "rules that ask for labels of nodes that no policy asked for are compared as if no node's were known: "
            "what they allow is left out, and what they deny is every node"
        )


def _read(path: str) -> list[Document]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        texts = [item for item in yamltext.load_documents(text) if item is not None]
    except (OSError, UnicodeDecodeError, yamltext.YamlTextError) as exc:
        raise CommandError(f"{path}: {exc}", ExitCode.USAGE) from exc
    found = [part for item in texts for part in (open_list(item) if isinstance(item, Mapping) else (item,))]
    documents = [item for item in found if isinstance(item, Mapping)]
    if len(documents) != len(found) or not documents:
        raise CommandError(f"{path}: holds no policy: begin with apiVersion, kind, metadata and spec", ExitCode.USAGE)
    return documents


def _applied(documents: Sequence[Document], added: Sequence[Document]) -> tuple[Document, ...]:
    """The documents after `kubectl apply`: one of the same kind, namespace and name is replaced."""
    by_key = {_key(document): document for document in (*documents, *added)}
    return tuple(by_key.values())


def _key(document: Document) -> tuple[str, str, str]:
    meta = document.get("metadata")
    fields = meta if isinstance(meta, Mapping) else {}
    kind = str(document.get("kind"))
    is_namespaced = kind not in (PolicyKind.CLUSTERWIDE, PolicyKind.TIERED, PolicyKind.CIDR_GROUP)
    return kind, str(fields.get("namespace") or "default") if is_namespaced else "", str(fields.get("name"))


def _ports(live: LiveCluster, view: AgentView) -> Mapping[NumericIdentity, NamedPorts]:
    """The port names of one pod of each identity."""
    found: dict[NumericIdentity, NamedPorts] = {}
    for pod in live.pods:
        row = view.row_of(pod.address) if pod.named_ports and pod.address else None
        if row is not None:
            found.setdefault(NumericIdentity(row.identity), pod.named_ports)
    return found


def _nodes_name(names: Sequence[str]) -> str:
    """node n1, or nodes n1, n2 and 7 more."""
    more = f" and {len(names) - _NAMED_NODES} more" if len(names) > _NAMED_NODES else ""
    return f"node{'s' * (len(names) > 1)} {', '.join(names[:_NAMED_NODES])}{more}"


def _change(change: VerdictChange, engine: Engine, subject: str) -> DiffChange:
    peer = _peer_name(engine, change.peer.name)
    source, destination = (peer, subject) if change.direction is Direction.INGRESS else (subject, peer)
    reason, rule = _why(change.before, change.after)
    return DiffChange(
        direction=change.direction.word,
        source=source,
        destination=destination,
        packets=list(change.packets),
        before=_WORDS[change.before.allowed],
        after=_WORDS[change.after.allowed],
        reason=reason,
        rule=rule,
    )


def _flow(change: FlowChange, engine: Engine) -> DiffFlow:
    row, is_ingress = change.last, change.direction is Direction.INGRESS
    subject = _nodes_name([change.judged_node]) if change.judged_node else _name(engine, change.subject)
    ranges = {number: text for text, number in engine.prefixes().items()}
    peer = ranges.get(change.peer) or _name(engine, change.peer)
    reason, rule = _why(change.before, change.after)
    return DiffFlow(
        direction=change.direction.word,
        source=peer if is_ingress else subject,
        destination=subject if is_ingress else peer,
        packets=packets_text(row.protocol, row.port, row.port),
        connections=change.connections,
        dropped=change.dropped,
        before=_WORDS[change.before.allowed],
        after=_WORDS[change.after.allowed],
        reason=reason,
        rule=rule,
        example=f"{_end_name(row.source)} -> {_end_name(row.destination)}",
        node=change.node,
        last=rfc3339(row.last),
    )


def _node(answer: RecentConnections) -> DiffNode:
    return DiffNode(
        node=answer.node,
        since=rfc3339(answer.since),
        is_whole=answer.is_whole,
        lost=answer.lost,
        left_out=answer.left_out,
        connections=sum(row.connections for row in answer.connections),
    )


def _end_name(end: ConnectionEnd) -> str:
    return f"{end.namespace}/{end.pod} ({end.ip})" if end.pod else end.ip


def _why(before: Verdict, after: Verdict) -> tuple[str, str]:
    """In words, and the rule alone: the one that decides now, or the one without which the default does."""
    decided = after.entry or before.entry
    if after.entry is not None:
        return f"by {after.entry.rule}", str(after.entry.rule)
    return (f"without {decided.rule}", str(decided.rule)) if decided is not None else ("by default", "")


def _peer_name(engine: Engine, text: str) -> str:
    return _name(engine, NumericIdentity(int(text))) if text.isdecimal() else text


def _name(engine: Engine, number: NumericIdentity) -> str:
    """namespace/labels@cluster of pods, the name of a reserved identity."""
    labels = engine.labels_of(number) or ()
    if is_reserved(number):
        return identity_name(number)
    own = ",".join(short_labels(labels)) or str(int(number))
    if is_of_nodes(number):
        return f"nodes {own}"
    return f"{_value(labels, NAMESPACE_LABEL)}/{own}@{_value(labels, CLUSTER_LABEL)}"


def _value(labels: Labels, key: str) -> str:
    return next((label.value for label in labels if label.key == key), "")
