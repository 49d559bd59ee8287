# SPDX-License-Identifier: Apache-2.0
"""`get`: lists of the whole mesh, and what is said where a program does not answer."""

from __future__ import annotations

import io

import msgspec
import pytest
from connect_world import NS, PROXY, WritableApi
from explain_world import endpoint, listing

from clustermesh_cli.commands.get import get
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.listed_rows import ListedKind, list_clusters
from clustermesh_cli.program_client import ProgramClient
from kube.errors import Unreachable
from kube.transport import Query
from meshapi.agent import AgentStatus, IdentityRow, NodeRow
from meshapi.apiserver import ApiserverStatus
from meshapi.peer import PeerState, RemoteCluster
from meshapi.row import encode
from meshapi.service import BackendStatus, ServiceStatus
from meshapi.shown_times import rfc3339
from meshkit.answer_form import AnswerForm

SILENT = "agent-1"


class TwoAgents(WritableApi):
    """North, whose apiserver and first agent do not answer."""

    def __init__(self) -> None:
        super().__init__("north")
        self.silent = {SILENT}
        pods = [
            {
                "metadata": {"name": f"agent-{n}", "labels": {"k8s-app": "clustermesh-agent"}},
                "spec": {"nodeName": f"n{n}"},
            }
            for n in (1, 2)
        ]
        self.answers[f"{NS}/pods"] = listing(*pods)
        backend = BackendStatus(
            address="10.2.0.9", port=80, cluster="south", chosen=False, reason="affinity", age_s=7.0
        )
        node = NodeRow(
            name="south/a",
            cluster="south",
            cluster_id=2,
            address="192.0.2.2",
            addresses=[],
            pod_cidrs=[],
            source="clustermesh",
        )
        peer = RemoteCluster(name="south", ready=True, connected=True, state=PeerState.READY, session_since=86_400.0)
        for name in ("agent-1", "agent-2"):
            self.answers |= {
                f"{NS}/pods/{name}:9879/proxy/v1/{path}": encode(answer)
                for path, answer in {
                    "status": AgentStatus(node=f"n{name[-1]}", cluster="north", cluster_id=1, ready=True, peers=[peer]),
                    "services": [
                        ServiceStatus(frontend="10.0.0.1:80/TCP", type="ClusterIP", name="a/b", backends=[backend])
                    ],
                    "nodes": [node],
                    "identities": [IdentityRow(131_073, "south", ["k8s:a=b"], "clustermesh")],
                    "endpoints": [endpoint(70_000)],
                }.items()
            }

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: object
    ) -> tuple[int, bytes]:
        if path.startswith(f"{PROXY}/status"):
            return 503, b""
        if any(name in path for name in self.silent):
            raise Unreachable("GET", detail="timed out")
        return super().request(method, path, query=query, timeout_s=timeout_s, **given)


def run(
    kind: ListedKind, form: AnswerForm = AnswerForm.TABLE, node: str | None = None, api: TwoAgents | None = None
) -> tuple[ExitCode, str]:
    stream = io.StringIO()
    programs = ProgramClient((api or TwoAgents()).client("kind-north"), "kube-system")
    code = get(programs, kind, node, form, Console(plain=True, stream=stream))
    return code, stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (ListedKind.SERVICES, "a/b       10.0.0.1:80/TCP   10.2.0.9:80   south     7s    no (affinity)"),
        (ListedKind.NODES, "south/a   192.0.2.2   -              south     clustermesh"),
        (ListedKind.IDENTITIES, "131073   south     clustermesh   k8s:a=b"),
    ],
)
def test_any_agent_that_answers_will_do(kind: ListedKind, line: str) -> None:
    code, text = run(kind)
    assert (code, text.splitlines()[1]) == (ExitCode.OK, line)


def test_endpoints_of_a_node_that_does_not_answer_are_missed_out_loud() -> None:
    code, text = run(ListedKind.ENDPOINTS)
    assert code == ExitCode.DEGRADED
    assert "FAIL n1: agent agent-1 does not answer" in text
    document = msgspec.json.decode(run(ListedKind.ENDPOINTS, AnswerForm.JSON)[1])
    assert (document["asked"], [item["node"] for item in document["items"]]) == (["n2"], ["n2"])
    assert len(document["missing"]) == 1


def test_clusters_come_from_the_agents_while_the_apiserver_is_silent() -> None:
    code, text = run(ListedKind.CLUSTERS, AnswerForm.JSON)
    document = msgspec.json.decode(text)
    assert (code, document["asked"]) == (ExitCode.DEGRADED, ["n2"])
    assert document["missing"][0].startswith("clustermesh-apiserver does not answer (HTTP 503")
    assert document["missing"][0].endswith("the list is what the agents know")
    assert [(item["cluster"], item["source"]) for item in document["items"]] == [
        ("north", "local"),
        ("south", "clustermesh"),
    ]
    peers = msgspec.json.decode(run(ListedKind.PEERS, AnswerForm.JSON)[1])["items"]
    assert [item["cluster"] for item in peers] == ["south"]


def test_nobody_answers_and_unknown_nodes_are_errors() -> None:
    api = TwoAgents()
    api.silent = {"agent-1", "agent-2"}
    with pytest.raises(CommandError, match="agent agent-2 does not answer") as caught:
        run(ListedKind.NODES, api=api)
    assert caught.value.code == ExitCode.DEGRADED
    with pytest.raises(CommandError, match="no agent on node n9: there are n1, n2"):
        run(ListedKind.NODES, node="n9")
    with pytest.raises(CommandError, match="agent agent-1 does not answer"):
        run(ListedKind.NODES, node="n1")


def test_moments_are_rfc_3339_and_never_is_empty() -> None:
    assert (rfc3339(86_400.0), rfc3339(0.0)) == ("1970-01-02T00:00:00Z", "")
    status = ApiserverStatus(cluster="north", cluster_id=1, ready=True)
    assert [row.state for row in list_clusters(status, with_own=True)] == ["ready"]
