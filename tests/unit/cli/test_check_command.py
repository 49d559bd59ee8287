# SPDX-License-Identifier: Apache-2.0
"""`check`: everything that `connect` makes sure of, as rows; and the matrix of ways from node to node."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import pytest
import yaml
from connect_world import NS, WALL_S, World, WritableApi
from explain_world import listing

from clustermesh_cli.commands.check import Preflight, check
from clustermesh_cli.commands.check_matrix import check_matrix
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.link_proof import Patience
from clustermesh_cli.path_matrix import make_matrix, matrix_lines, matrix_table
from clustermesh_cli.plan.check_row import CheckResult
from clustermesh_cli.plan.configured_peer import configured_peer
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.facts import ClusterFacts, KnownPeer
from clustermesh_cli.plan.mesh_rules import judge_mesh
from clustermesh_cli.plan.program_rules import judge_kernels, judge_versions
from clustermesh_cli.program_client import ProgramClient
from kube.errors import Unreachable
from kube.transport import Query
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus, Reach
from meshapi.probe import NodeProbes, PathState, ProbeRow
from meshapi.row import encode
from meshkit.answer_form import AnswerForm
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName


@pytest.fixture
def world() -> World:
    return World()


def report(world: World, *, form: AnswerForm = AnswerForm.JSON, only: str = "") -> tuple[ExitCode, Any]:
    clients = {context: client for context, client in world.clients().items() if only in context}
    stream = io.StringIO()
    preflight = Preflight(clients, "kube-system", Mode.BIDIRECTIONAL, {}, lambda: WALL_S + 60)
    code = check(preflight, form, Console(plain=True, stream=stream))
    text = stream.getvalue()
    return code, msgspec.json.decode(text) if form is AnswerForm.JSON else text


def rows(document: Any, what: str, result: CheckResult) -> list[str]:
    return [row["detail"] for row in document["rows"] if (row["check"], row["result"]) == (what, result)]


def test_rows_of_two_clusters_that_can_be_connected_say_so_and_nothing_is_written(world: World) -> None:
    _, document = report(world)
    assert (document["schema"], document["time"]) == (1, "2026-01-01T00:01:00Z")
    for what in ("names", "ids", "limits", "pod networks", "objects", "versions"):
        assert len(rows(document, what, CheckResult.OK)) == 1, what
    assert rows(document, "endpoint", CheckResult.OK) == [
        "192.0.2.2 port 32379 is south, by TLS", "192.0.2.1 port 32379 is north, by TLS",
    ]  # fmt: skip
    said = [row for row in document["rows"] if row["check"] == "session"]
    assert said[0]["next"] == "clustermesh connect --context kind-north --destination-context kind-south"
    assert world.writes() == []


def test_what_connect_refuses_is_a_row_that_fails(world: World) -> None:
    world.north.reached["192.0.2.2"] = Reach(problem="expired", detail="certificate has expired", advice="renew it")
    code, document = report(world)
    assert code == ExitCode.CHECK_FAILED
    (detail,) = rows(document, "endpoint", CheckResult.FAIL)
    assert detail == "north cannot use south at 192.0.2.2 port 32379: certificate has expired"
    assert "NEXT endpoint of north, south: renew it" in report(world, form=AnswerForm.TABLE)[1]
    with pytest.raises(CommandError, match=re.escape(detail)):
        world.connect()


def test_an_apiserver_that_does_not_say_in_time_what_it_reaches_is_named_without_the_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = WritableApi.request

    def request(api: WritableApi, method: str, path: str, **given: Any) -> tuple[int, bytes]:
        if "/reach?" in path:
            raise Unreachable(f"GET {path}", detail="read timed out")
        return ask(api, method, path, **given)

    monkeypatch.setattr(WritableApi, "request", request)
    silent = "north cannot use south at 192.0.2.2 port 32379: its clustermesh-apiserver gave no answer (read timed out)"
    assert rows(report(world)[1], "endpoint", CheckResult.FAIL)[0] == silent
    with pytest.raises(CommandError, match=re.escape(f"{silent}; nothing was changed")):
        world.connect()


def test_a_link_without_a_session_fails_and_one_with_it_is_well(world: World) -> None:
    world.connect()
    assert rows(report(world)[1], "session", CheckResult.OK) == ["north has read south", "south has read north"]
    world.north.has_sessions = False
    code, document = report(world)
    assert (code, rows(document, "session", CheckResult.FAIL)) == (
        ExitCode.CHECK_FAILED, ["north-node does not know south yet"],
    )  # fmt: skip


def test_clocks_that_differ_are_warned_of_and_refused_where_certificates_are_judged_differently(world: World) -> None:
    assert rows(report(world)[1], "clocks", CheckResult.OK) == ["north is 0.0 s ahead of south (measured within 0.0 s)"]
    world.south.clock_s += 45
    warned = "south is 45.0 s ahead of north (measured within 0.0 s)"
    assert rows(report(world)[1], "clocks", CheckResult.WARN) == [warned]
    world.connect()
    assert f"WARN {warned}" in world.stream.getvalue()
    before = world.state()
    world.south.clock_s += 20 * 365 * 86_400
    (refused,) = rows(report(world)[1], "clocks", CheckResult.FAIL)
    assert "authority of this cluster of north is expired by the clock of south" in refused
    with pytest.raises(CommandError, match=r"ahead of north.*nothing was changed") as caught:
        world.connect()
    assert (caught.value.code, world.state()) == (ExitCode.CHECK_FAILED, before)
    world.connect(is_verified=False)
    world.north.clock_s = 0.0
    assert rows(report(world)[1], "clocks", CheckResult.WARN) == ["north does not say what its clock shows"]


def test_one_cluster_alone_is_checked_with_the_peers_it_has(world: World) -> None:
    world.connect()
    world.north.reached["192.0.2.2"] = Reach(problem="refused", detail="connection refused")
    code, document = report(world, only="north")
    assert code == ExitCode.CHECK_FAILED
    assert rows(document, "endpoint", CheckResult.FAIL) == [
        "north cannot use south at 192.0.2.2 port 32379: connection refused"
    ]
    assert rows(document, "session", CheckResult.OK) == ["north has read south"]


def test_a_peer_that_may_read_and_is_not_trusted_is_named(world: World) -> None:
    """Its session that stands hides it: the next one is refused."""
    world.connect()
    assert rows(report(world)[1], "trust", CheckResult.FAIL) == []
    bundle = f"{NS}/configmaps/clustermesh-ca-bundle"
    for value in (None, "", "garbage"):
        world.north.write(bundle, {"data": {"south.crt": value}})
        code, document = report(world, only="north")
        (detail,) = rows(document, "trust", CheckResult.FAIL)
        assert detail.startswith("south may read north, and ConfigMap clustermesh-ca-bundle has no certificate")
        assert code == ExitCode.CHECK_FAILED
    world.connect()
    assert rows(report(world, only="north")[1], "trust", CheckResult.FAIL) == []


def test_a_cluster_that_cannot_be_read_is_a_row_and_the_other_is_looked_at(world: World) -> None:
    del world.south.answers[f"{NS}/configmaps/clustermesh-config"]
    code, document = report(world)
    assert code == ExitCode.CHECK_FAILED
    assert "not enabled in kind-south" in rows(document, "enabled", CheckResult.FAIL)[0]
    assert rows(document, "enabled", CheckResult.OK) == ["kind-north, id 1"]


def test_missing_certificates_fail_by_name_and_what_renews_them_is_said(world: World) -> None:
    code, document = report(world, only="north")
    found = [row for row in document["rows"] if row["check"] == "certificates"]
    assert code == ExitCode.CHECK_FAILED
    assert found[0]["detail"].startswith("server certificate: Secret clustermesh-apiserver-server-cert is missing")
    assert found[0]["next"] == "run clustermesh certs rotate"


def test_yaml_is_the_same_document(world: World) -> None:
    assert yaml.safe_load(report(world, form=AnswerForm.YAML)[1]) == report(world)[1]


# -- rules that need no cluster


def facts(name: str, number: int, *, peers: Mapping[str, KnownPeer] | None = None) -> ClusterFacts:
    return ClusterFacts(
        f"kind-{name}", ClusterName(name), ClusterId(number), 255, b"", None, (f"10.{number}.0.0/24",), peers or {}
    )


@pytest.mark.parametrize(
    ("clusters", "result", "words"),
    [
        (
            [facts("north", 1, peers={"west": KnownPeer(4, ("10.2.0.0/16",))}), facts("south", 2)],
            CheckResult.FAIL,
            "pod networks overlap: 10.2.0.0/24 of south and 10.2.0.0/16 of west, a peer of north",
        ),
        (
            [facts("north", 1, peers={"west": KnownPeer(4), "east": KnownPeer(4)})],
            CheckResult.FAIL,
            "east, a peer of north, and west, a peer of north, both have the id 4",
        ),
        (
            [facts("north", 1, peers={"west": KnownPeer(4)}), facts("south", 2, peers={"east": KnownPeer(4)})],
            CheckResult.WARN,
            "west, a peer of north, and east, a peer of south, both have the id 4",
        ),
        (
            [facts("north", 1, peers={"south": KnownPeer(7)}), facts("south", 2)],
            CheckResult.WARN,
            "north knows south by the id 7, and it has 2 now",
        ),
        ([facts("north", 1, peers={"west": KnownPeer(1)})], CheckResult.FAIL, "a peer west with its own id 1"),
    ],
)
def test_conflicts_with_peers_that_were_not_read(
    clusters: Sequence[ClusterFacts], result: CheckResult, words: str
) -> None:
    found = [row for row in judge_mesh(clusters) if row.result is not CheckResult.OK]
    assert [row.result for row in found] == [result]
    assert words in found[0].detail


def node(name: str, kernel: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"nodeInfo": {"kernelVersion": kernel}}}


@pytest.mark.parametrize(
    ("kernels", "result"),
    [
        (["6.1.0-13-amd64", "5.12.0"], CheckResult.OK),
        (["6.1.0", "5.11.22-generic"], CheckResult.FAIL),
        (["", "6.8"], CheckResult.OK),
        ([""], CheckResult.WARN),
    ],
)
def test_kernels_are_judged_by_what_nodes_say(kernels: list[str], result: CheckResult) -> None:
    (row,) = judge_kernels("north", [node(f"n{i}", kernel) for i, kernel in enumerate(kernels)])
    assert row.result is result


def test_versions_differ_within_a_cluster_and_between_two() -> None:
    old = ApiserverStatus(version="0.1.0", agents=[AgentStatus(node="a", version="0.1.0")])
    mixed = ApiserverStatus(version="0.2.0", agents=[AgentStatus(node="b", version="0.1.0")])
    assert [row.result for row in judge_versions({"north": old, "south": old})] == [CheckResult.OK]
    found = judge_versions({"north": old, "south": mixed})
    assert [(row.clusters, row.result) for row in found] == [
        (["south"], CheckResult.WARN), (["north", "south"], CheckResult.WARN),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "endpoints: []", "endpoints: ['http://10.0.0.1:2379']", "[", "endpoints: x"])
def test_a_file_that_is_none_for_a_peer_by_tls_is_no_peer(text: str) -> None:
    files = {"south": base64.b64encode(text.encode()).decode()}
    assert configured_peer(facts("north", 1), files, "south") is None


# -- the matrix


class ProbingApi(WritableApi):
    """North with two agents; a silent one does not answer."""

    def __init__(self, answers: Mapping[str, NodeProbes], *silent: str) -> None:
        super().__init__("north")
        self.probes, self.silent = answers, silent
        names = [*answers, *silent]
        labels = {"k8s-app": "clustermesh-agent"}
        pods = [{"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": name}} for name in names]
        self.answers[f"{NS}/pods"] = listing(*pods)

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: object
    ) -> tuple[int, bytes]:
        if path.endswith("/probes"):
            pod = path.split("/pods/")[1].partition(":")[0]
            if pod in self.silent:
                raise Unreachable("GET", detail="timed out")
            return 200, encode(self.probes[pod])
        return super().request(method, path, query=query, timeout_s=timeout_s, **given)


def probes(source: str, *paths: PathState, session: str = "ready") -> NodeProbes:
    targets = [
        ProbeRow(
            cluster="south", node=f"s{i}", address=f"192.0.2.{i}", path=path, way="overlay", session=session,
            rtt_s=0.0004 if path is PathState.WHOLE else None,
        )
        for i, path in enumerate(paths)
    ]  # fmt: skip
    return NodeProbes(cluster="north", node=source, targets=targets)


def matrix(api: ProbingApi, form: AnswerForm = AnswerForm.TABLE) -> tuple[ExitCode, str]:
    stream, clock = io.StringIO(), ManualClock()
    programs = {"kind-north": ProgramClient(api.client("kind-north"), "kube-system")}
    patience = Patience(3, clock.monotonic, clock.advance)
    code = check_matrix(programs, form, Console(plain=True, stream=stream), lambda: WALL_S, patience)
    return code, stream.getvalue()


W, S, N = PathState.WHOLE, PathState.SMALL_ONLY, PathState.NO_ANSWER


def test_a_whole_mesh_shows_round_trips_and_ends_well() -> None:
    code, text = matrix(ProbingApi({"n1": probes("n1", W, W), "n2": probes("n2", W, W)}))
    assert code == ExitCode.OK
    assert text.splitlines()[:3] == [
        "FROM       south/s0   south/s1", "north/n1   0.40ms     0.40ms", "north/n2   0.40ms     0.40ms",
    ]  # fmt: skip
    assert "OK   north -> south: 4/4 ways whole, sessions on 2/2 nodes" in text


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (ProbingApi({"n1": probes("n1", W, N)}), "FAIL north/n1 -> south/s1: no answer, never did"),
        (ProbingApi({"n1": probes("n1", S, W)}), "FAIL north/n1 -> south/s0: only small packets pass the overlay"),
        (ProbingApi({"n1": probes("n1", W, PathState.NOT_ASKED)}), "FAIL north/n1 -> south/s1: not asked yet"),
        (ProbingApi({"n1": probes("n1", W, W, session="withdrawn")}), "FAIL north -> south: 2/2 ways whole, sessions on 0/1"),
        (ProbingApi({"n1": probes("n1", W, W)}, "n2"), "FAIL n2: agent n2 does not answer"),
        (ProbingApi({"n1": probes("n1")}), "FAIL no agent knows a node of another cluster"),
    ],
    ids=["silent", "small", "not-asked", "no-session", "agent-silent", "no-peers"],
)  # fmt: skip
def test_one_way_that_does_not_work_or_is_not_known_is_degraded(api: ProbingApi, words: str) -> None:
    code, text = matrix(api)
    assert code == ExitCode.DEGRADED
    assert words in text


def test_nodes_of_two_clusters_may_have_one_name() -> None:
    def way(source: str, target: str, path: PathState) -> NodeProbes:
        row = ProbeRow(cluster=target, node="node-1", address="192.0.2.1", path=path, way="overlay", rtt_s=0.0004)
        return NodeProbes(cluster=source, node="node-1", targets=[row])

    made = make_matrix("", [way("north", "south", W), way("south", "north", N)], [])
    assert matrix_table(made) == (
        ("FROM", "north/node-1", "south/node-1"),
        [("north/node-1", "-", "0.40ms"), ("south/node-1", "FAIL", "-")],
    )
    assert [line for line in matrix_lines(made, ()) if "->" in line and "node-1" in line] == [
        "FAIL south/node-1 -> north/node-1: no answer, never did; is the overlay's UDP port (vxlan-port) open between them?"
    ]


def test_the_matrix_as_json_has_every_way_and_the_sums() -> None:
    document = cast(
        dict[str, Any], msgspec.json.decode(matrix(ProbingApi({"n1": probes("n1", W, S)}), AnswerForm.JSON)[1])
    )
    assert document["schema"] == 1
    assert [(path["source"], path["target"], path["path"]) for path in document["paths"]] == [
        ("n1", "s0", "whole"), ("n1", "s1", "small-only"),
    ]  # fmt: skip
    (pair,) = document["pairs"]
    assert (pair["whole"], pair["small-only"], pair["paths"], pair["rtt-median"]) == (1, 1, 2, 0.0004)
