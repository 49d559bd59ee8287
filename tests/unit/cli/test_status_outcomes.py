# SPDX-License-Identifier: Apache-2.0
"""`status` where a program does not answer: what is known is shown, as text and as JSON, and the exit code says so."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from connect_world import NS, PROXY, WritableApi
from explain_world import listing

from clustermesh_cli.commands.status import ANSWER_S, status
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.mesh_health import LEAVING
from kube.config import load_client
from kube.errors import Unreachable
from kube.resource import SERVICES
from kube.transport import Query
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus
from meshapi.peer import RemoteCluster
from meshapi.row import encode
from meshkit.answer_form import AnswerForm
from tests.unit.kube.kube_recorder import kubeconfig
from tests.unit.kube.kube_script import ScriptedServer

DAEMON_SET = "/apis/apps/v1/namespaces/kube-system/daemonsets/clustermesh-agent"
READY = RemoteCluster(name="south", ready=True, connected=True, age_s=4.0)


class SilentApiserver(WritableApi):
    """North, whose apiserver answers with this code, and two agents, of which the second does not answer."""

    def __init__(self, code: int = 503, body: bytes = b"no endpoints available") -> None:
        super().__init__("north")
        self.answer = code, body
        pods = [
            {
                "metadata": {"name": f"agent-{n}", "labels": {"k8s-app": "clustermesh-agent"}},
                "spec": {"nodeName": f"node-{n}"},
            }
            for n in (1, 2)
        ]
        agent = AgentStatus(node="node-1", cluster="north", ready=True, peers=[READY])
        self.answers[f"{NS}/pods"] = listing(*pods)
        self.answers[f"{NS}/pods/agent-1:9879/proxy/v1/status"] = encode(agent)

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: object
    ) -> tuple[int, bytes]:
        if path.startswith(f"{PROXY}/status"):
            return self.answer
        if "agent-2" in path:
            raise Unreachable("GET agent-2", detail="timed out")
        return super().request(method, path, query=query, timeout_s=timeout_s, **given)


def run(api: WritableApi, form: AnswerForm = AnswerForm.TABLE, *, wait_s: float | None = None) -> tuple[ExitCode, str]:
    stream = io.StringIO()
    console = Console(plain=True, stream=stream)
    code = status(api.client("kind-north"), "kube-system", console, form, wait_s=wait_s)
    return code, stream.getvalue()


@pytest.mark.parametrize(("code", "body"), [(503, b"no endpoints"), (500, b""), (200, b"<html>"), (200, b"[]")])
@pytest.mark.runbook("apiserver-silent")
def test_the_agents_are_asked_while_the_apiserver_does_not_answer(code: int, body: bytes) -> None:
    found, text = run(SilentApiserver(code, body))
    assert found == ExitCode.DEGRADED
    assert "CLUSTER north (id 1)   1/2 agents ready" in text
    assert "FAIL Deployment clustermesh-apiserver is silent: the agents were asked one by one" in text
    assert "FAIL clustermesh-apiserver does not answer (" in text
    assert "FAIL node-2 is not ready: agent not reached: GET agent-2: timed out" in text
    assert "Published" not in text


def test_the_same_is_said_as_json() -> None:
    found, text = run(SilentApiserver(), AnswerForm.JSON)
    document = msgspec.json.decode(text)
    assert (found, document["outcome"]["exit-code"]) == (ExitCode.DEGRADED, 3)
    assert document["outcome"]["result"] == "degraded"
    assert [agent["node"] for agent in document["agents"]] == ["node-1", "node-2"]
    (peer,) = document["verdict"]["peers"]
    assert (peer["name"], peer["age-s"], peer["probes-total"]) == ("south", 4.0, 0)
    assert not _names_with_underscores(document)


@pytest.mark.parametrize(("args", "is_leaving"), [([], False), (["--detach"], True)])
@pytest.mark.runbook("leaving")
def test_a_removal_that_was_not_finished_is_the_first_thing_said(args: list[str], is_leaving: bool) -> None:
    api = SilentApiserver()
    template = {"spec": {"containers": [{"name": "agent", "args": ["--port=1", *args]}]}}
    api.answers[DAEMON_SET] = json.dumps({"spec": {"template": template}}).encode()
    _, text = run(api)
    first = next(line for line in text[text.index("Cluster Connections") :].splitlines() if line.startswith("FAIL"))
    assert (first == f"FAIL {LEAVING}") == is_leaving
    assert text.count("on its way out of the mesh") == is_leaving


class GuardedApi(WritableApi):
    """North, to somebody who may ask its programs and neither see Secrets nor what is of the whole cluster."""

    def request(self, method: str, path: str, **given: Any) -> tuple[int, bytes]:
        if "/secrets/" in path or path == "/api/v1/nodes":
            refused = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "you may not"}
            return 403, msgspec.json.encode(refused)
        return super().request(method, path, **given)


RELAY_SERVICE = f"{NS}/services/clustermesh-relay"
RELAY_NODES = f"{NS}/services/clustermesh-relay:9882/proxy/v1/flows/nodes"
BOTH = "clustermesh-relay has the flows of 2 of 2 nodes"
ONE = "clustermesh-relay has the flows of 1 of 2 nodes; without north/b"


@pytest.mark.parametrize(
    ("states", "code", "line"),
    [
        (("NODE_CONNECTED", "NODE_CONNECTED"), ExitCode.OK, f"OK   {BOTH}"),
        (("NODE_CONNECTED", "NODE_UNAVAILABLE"), ExitCode.OK, f"WARN {ONE}"),
        (None, ExitCode.DEGRADED, "FAIL clustermesh-relay answered 503: no"),
    ],
)
def test_the_relay_of_flows_is_asked_where_there_is_one(
    states: tuple[str, str] | None, code: ExitCode, line: str
) -> None:
    api = GuardedApi("north")  # whose certificates are not judged
    agent = AgentStatus(node="node-1", cluster="north", ready=True, peers=[READY])
    well = ApiserverStatus(cluster="north", cluster_id=1, ready=True, agents=[agent])
    api.answers[f"{PROXY}/status"] = encode(well)
    _, without = run(api)
    assert "relay" not in without
    api.answers[RELAY_SERVICE] = {"metadata": {"name": "clustermesh-relay"}}
    if states is not None:
        nodes = [{"name": f"north/{name}", "state": state} for name, state in zip("ab", states, strict=True)]
        api.answers[RELAY_NODES] = json.dumps({"nodes": nodes}).encode()
    else:
        api.refuse[RELAY_NODES] = 503
    found, text = run(api)
    assert found == code, text
    assert next(said for said in text.splitlines() if "relay" in said).startswith(line)


def test_whoever_may_not_see_secrets_sees_the_rest_and_what_is_left_out() -> None:
    api = GuardedApi("north")
    agent = AgentStatus(node="node-1", cluster="north", ready=True, peers=[READY])
    api.answers[f"{PROXY}/status"] = encode(ApiserverStatus(cluster="north", cluster_id=1, ready=True, agents=[agent]))
    stream = io.StringIO()
    code = status(
        api.client("kind-north"), "kube-system", Console(plain=True, stream=stream), AnswerForm.TABLE, wait_s=None
    )
    text = stream.getvalue()
    assert (code, "1/1 agents ready" in text) == (ExitCode.OK, True)
    assert text.splitlines()[-1] == "RESULT well, as far as it is shown to you"
    for what in (
        "configured peers",
        "certificates",
        "whether the authority is being replaced",
        "the address of the store",
    ):
        assert f"WARN not shown to you, and not judged: {what} (you may not)" in text


def test_a_wait_that_ends_shows_what_is_known() -> None:
    found, text = run(SilentApiserver(), wait_s=0.0)
    assert found == ExitCode.TIMEOUT
    assert "1/2 agents ready" in text


def test_nothing_is_printed_before_the_failure_of_a_mesh_that_is_not_enabled() -> None:
    api = SilentApiserver()
    api.answers.pop(f"{NS}/services/clustermesh-apiserver")
    stream = io.StringIO()
    with pytest.raises(CommandError, match="not enabled"):
        status(
            api.client("kind-north"), "kube-system", Console(plain=True, stream=stream), AnswerForm.JSON, wait_s=None
        )
    assert stream.getvalue() == ""


def _names_with_underscores(document: Any) -> list[str]:
    """Names of members; health, synced and published are keyed by what programs call their parts."""
    if isinstance(document, dict):
        return [n for n in document if "_" in n] + [f for v in document.values() for f in _names_with_underscores(v)]
    return [f for v in document for f in _names_with_underscores(v)] if isinstance(document, list) else []


class TimedApiserver(SilentApiserver):
    """Remembers how long it was given for every answer."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: set[float] = set()

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: object
    ) -> tuple[int, bytes]:
        self.limits.add(timeout_s)
        return super().request(method, path, query=query, timeout_s=timeout_s, **given)


def test_no_answer_is_waited_for_longer_than_an_operator_would() -> None:
    api = TimedApiserver()
    run(api)
    assert api.limits == {ANSWER_S}


@pytest.mark.runbook("api-hangs")
def test_an_api_server_that_takes_the_question_and_never_answers_is_named(tmp_path: Path) -> None:
    with ScriptedServer([lambda _request, _connection: None]) as server:
        client = load_client(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.port}"))
        with pytest.raises(Unreachable, match=rf"{server.port}/.* no answer within 0\.2 s"):
            client.within(0.2).get(SERVICES, "a", "shop")


def test_a_peer_that_may_read_and_is_not_trusted_any_more_is_a_problem() -> None:
    api = SilentApiserver()
    api.answers[f"{NS}/configmaps/clustermesh-remote-users"] = {
        "data": {"users.yaml": "users: [{name: remote-south, role: remote}]"}
    }
    stream = io.StringIO()
    client = api.client("kind-north")
    assert status(client, "kube-system", Console(plain=True, stream=stream), AnswerForm.TABLE, wait_s=None) == 3
    assert "its next connection is refused" in stream.getvalue()
    assert "clustermesh connect between north and south again" in stream.getvalue()


@pytest.mark.parametrize("users", ["users: [oops", "users: [oops]", "users: 7"])
def test_users_that_cannot_be_read_are_a_problem_and_the_rest_is_shown(users: str) -> None:
    api = SilentApiserver()
    api.answers[f"{NS}/configmaps/clustermesh-remote-users"] = {"data": {"users.yaml": users}}
    stream = io.StringIO()
    client = api.client("kind-north")
    assert status(client, "kube-system", Console(plain=True, stream=stream), AnswerForm.TABLE, wait_s=None) == 3
    said = stream.getvalue()
    assert "who may read north is not known: ConfigMap clustermesh-remote-users: users.yaml cannot be read" in said
    assert "south" in said
