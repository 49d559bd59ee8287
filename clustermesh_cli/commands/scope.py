# SPDX-License-Identifier: Apache-2.0
"""`clustermesh inspect-policy-default-local-cluster`: what the switch changes, and for which pods of which cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.console import Console
from clustermesh_cli.decision_text import short_labels
from clustermesh_cli.exit_code import ExitCode
from clustermesh_cli.live_policy import AgentView, LiveCluster, read_agent, read_cluster
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient
from meshapi.installed import SCOPE_KEY
from meshapi.row import SCHEMA
from meshkit.answer_form import AnswerForm
from meshmodel.identity import NumericIdentity, is_of_nodes
from meshmodel.labels import CLUSTER_LABEL, Labels, find_label, labels_text
from meshpolicy.reference import PolicyKind, PolicyRef
from meshpolicy.scope import ScopeChange, inspect_default_local_cluster

KINDS: Final[Mapping[str, tuple[PolicyKind, str]]] = {
    "cilium-network-policies": (PolicyKind.CILIUM, "CiliumNetworkPolicy"),
    "cilium-cluster-wide-network-policies": (PolicyKind.CLUSTERWIDE, "CiliumClusterWideNetworkPolicy"),
    "network-policies": (PolicyKind.KUBERNETES, "NetworkPolicy"),
    "cluster-network-policies": (PolicyKind.TIERED, "ClusterNetworkPolicy"),
}
"""Member, kind and heading: those of Cilium's command, its members with hyphens; the last is of a kind unknown to it."""
SHOWN_PODS: Final = 3


@dataclass(frozen=True, slots=True)
class LostPeer:
    """An identity that a rule selects now and would not select with the switch on."""

    identity: int
    cluster: str
    labels: Labels
    pods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Every policy looked at, and each rule that changes with the peers it loses."""

    cluster: str
    switch: bool
    affected: Mapping[str, Mapping[str, bool]]
    changes: tuple[tuple[ScopeChange, tuple[LostPeer, ...]], ...]


def inspect_scope(
    client: KubeClient, system: str, namespace: str | None, console: Console, form: AnswerForm
) -> ExitCode:
    """Print what changes for the policies of a namespace, of all without one (then clusterwide ones too)."""
    live = read_cluster(client, system, client.context)
    inspection = inspect(live, read_agent(ProgramClient(client, system), client.context), namespace)
    if form is AnswerForm.TABLE:
        render(inspection, console)
    else:
        print_answer({"schema": SCHEMA, **to_document(inspection)}, (), form, console)
    return ExitCode.OK


def inspect(live: LiveCluster, view: AgentView, namespace: str | None) -> Inspection:
    """Compare both positions of the switch. Pure."""
    documents = [document for document in live.documents if _is_asked(document, namespace)]
    groups = [document for document in live.documents if document.get("kind") == PolicyKind.CIDR_GROUP]
    found = inspect_default_local_cluster([*groups, *documents], live.policy_context, view.identities)
    changed = {(change.origin.policy.kind, _key(change.origin.policy)) for change in found}
    affected = {
        member: {
            name: (kind, name) in changed
            for name in sorted(_document_name(d) for d in documents if d.get("kind") == kind)
        }
        for member, (kind, _) in KINDS.items()
    }
    return Inspection(
        cluster=live.name,
        switch=live.default_local_cluster,
        affected=affected,
        changes=tuple((change, tuple(_lost(change.lost, view))) for change in found),
    )


def _is_asked(document: Mapping[str, object], namespace: str | None) -> bool:
    if document.get("kind") not in {kind for kind, _ in KINDS.values()}:
        return False
    return namespace is None or _metadata(document).get("namespace") == namespace


def _lost(identities: Iterable[NumericIdentity], view: AgentView) -> Iterable[LostPeer]:
    pods: dict[int, list[str]] = {}
    for row in view.addresses.values():
        if row.name and row.namespace:
            pods.setdefault(row.identity, []).append(f"{row.namespace}/{row.name}")
    for number in identities:
        labels = view.identities.get(number, ())
        yield LostPeer(int(number), _cluster(labels), labels, tuple(sorted(pods.get(number, ()))))


def _cluster(labels: Labels) -> str:
    label = find_label(labels, CLUSTER_LABEL)
    return label.value if label is not None else ""


def _metadata(document: Mapping[str, object]) -> Mapping[str, object]:
    metadata = document.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _document_name(document: Mapping[str, object]) -> str:
    metadata = _metadata(document)
    return "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name")) if part)


def _key(ref: PolicyRef) -> str:
    return f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name


def render(inspection: Inspection, console: Console) -> None:
    """Per kind: how many stay as they are, each policy, and under a changed one the rules and the peers they lose."""
    state = "on" if inspection.switch else "off"
    console.info(f"policy-default-local-cluster is {state} in cluster {inspection.cluster}; on, compared with off:")
    for member, (kind, heading) in KINDS.items():
        policies = inspection.affected[member]
        same = sum(not changes for changes in policies.values())
        (console.ok if same == len(policies) else console.warn)(f"{heading} {same}/{len(policies)}")
        for name, changes in policies.items():
            (console.warn if changes else console.ok)(f"  {name}")
            for change, lost in inspection.changes if changes else ():
                if (change.origin.policy.kind, _key(change.origin.policy)) == (kind, name):
                    _render_change(change, lost, console)
        console.line()


def _render_change(change: ScopeChange, lost: tuple[LostPeer, ...], console: Console) -> None:
    verb = "denies" if change.deny else "allows"
    console.line(f"       {change.origin.section} {verb} {' or '.join(change.selectors)}")
    for peer in lost:
        more = len(peer.pods) - SHOWN_PODS
        pods = ", ".join(peer.pods[:SHOWN_PODS]) + (f" and {more} more" if more > 0 else "")
        who = "nodes" if is_of_nodes(peer.identity) else pods or "no pod now"
        console.line(f"         no longer: identity {peer.identity} of cluster {peer.cluster}: {who}")
        console.line(f"           {', '.join(short_labels(peer.labels))}")
    if not lost:
        console.line("         nobody that exists now; pods of other clusters that come later")


def to_document(inspection: Inspection) -> dict[str, object]:
    """Three maps from ns/name to whether it would change, and which rules and peers."""
    return {
        "cluster": inspection.cluster,
        SCOPE_KEY: inspection.switch,
        **inspection.affected,
        "changes": [
            {
                "policy": _key(change.origin.policy),
                "kind": change.origin.policy.kind,
                "rule": change.origin.section,
                "deny": change.deny,
                "selectors": list(change.selectors),
                "lost": [
                    {
                        "identity": p.identity,
                        "cluster": p.cluster,
                        "labels": labels_text(p.labels),
                        "pods": list(p.pods),
                    }
                    for p in lost
                ],
                "kept": [int(number) for number in change.kept],
            }
            for change, lost in inspection.changes
        ],
    }
