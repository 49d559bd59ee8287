# SPDX-License-Identifier: Apache-2.0
"""What the agent's verbs decide: the exit code that an answer means, and what they ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from agent.cli.verbs import main
from meshapi.agent import AgentStatus, EndpointRow, MapDifference, PolicyList, PolicyStatus, Verification
from meshapi.peer import RemoteCluster
from meshapi.row import encode


class Agent:
    """Answers on a unix socket what a test says, and writes down what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, list[str]()
        self.answers: dict[str, bytes] = {}

    def run(self, *words: str) -> int:
        return main([*words, "--socket", str(self.path)])


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    told = Agent(tmp_path / "agent.sock")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append(f"{self.command} {self.path}")
            body = told.answers.get(self.path.partition("?")[0])
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(b'{"message":"no such thing"}' if body is None else body)

        do_POST = do_GET  # noqa: N815 - the name that the library looks for

        def log_message(self, *_words: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    with ThreadingUnixStreamServer(str(told.path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield told
        server.shutdown()
        thread.join()


UP, DOWN = RemoteCluster(name="south", ready=True), RemoteCluster(name="west")
VALID = PolicyStatus(kind="np", namespace="a", name="b", valid=True)
DIFFERENCE = MapDifference(*["x"] * len(MapDifference.__struct_fields__))


@pytest.mark.parametrize(
    ("verb", "path", "answer", "code"),
    [
        ("status", "/v1/status", AgentStatus(ready=True), 0),
        ("status", "/v1/status", AgentStatus(ready=False), 3),
        ("status", "/v1/status", AgentStatus(ready=True, peers=[UP]), 0),
        ("status", "/v1/status", AgentStatus(ready=True, peers=[UP, DOWN]), 3),
        ("policy get", "/v1/policy", PolicyList(revision=1, policies=[VALID]), 0),
        (
            "policy get",
            "/v1/policy",
            PolicyList(revision=1, policies=[VALID, PolicyStatus(kind="np", namespace="a", name="c", valid=False)]),
            3,
        ),
        (
            "policy get",
            "/v1/policy",
            PolicyList(
                revision=1, policies=[PolicyStatus(kind="np", namespace="a", name="c", valid=True, not_enforced=["x"])]
            ),
            3,
        ),
        ("verify", "/v1/verify", Verification(), 0),
        ("verify", "/v1/verify", Verification(pending=4, repaired=[DIFFERENCE]), 0),
        ("verify", "/v1/verify", Verification(differences=[DIFFERENCE]), 3),
        ("verify", "/v1/verify", Verification(waiting_for=["south services"]), 3),
        ("verify --repair", "/v1/repair", Verification(repaired=[DIFFERENCE]), 0),
        ("verify --repair", "/v1/repair", Verification(differences=[DIFFERENCE]), 3),
    ],
)
def test_an_answer_that_calls_for_somebody_ends_with_three(
    agent: Agent, verb: str, path: str, answer: object, code: int
) -> None:
    agent.answers[path] = encode(answer)
    assert agent.run(*verb.split(), "-o", "json") == code
    assert agent.asked == [f"{'POST' if 'repair' in verb else 'GET'} {path}"]


@pytest.mark.parametrize("wanted", ["7", "10.1.0.7", "shop/cart"])
def test_an_endpoint_is_found_by_its_id_its_address_or_its_pod(agent: Agent, wanted: str) -> None:
    rows = [
        EndpointRow(77, "10.1.0.77", 70_000, True, True, namespace="shop", pod="cart-7"),
        EndpointRow(7, "10.1.0.7", 70_000, True, True, namespace="shop", pod="cart"),
    ]
    agent.answers = {"/v1/endpoints": encode(rows), "/v1/policy/endpoints/7": b"[]"}
    assert agent.run("bpf", "policy", "get", wanted) == 0
    assert agent.asked == ["GET /v1/endpoints", "GET /v1/policy/endpoints/7"]


def test_an_endpoint_that_is_not_here_is_named(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answers = {"/v1/endpoints": b"[]"}
    assert agent.run("bpf", "policy", "get", "cart") == 1
    assert capsys.readouterr().err == "Error: no endpoint cart on this node\n"


@pytest.mark.parametrize(
    ("verb", "asked"),
    [
        ("identity list a=b&c", "/v1/identities?label=a%3Db%26c"),
        ("fqdn cache list *.example", "/v1/fqdn/cache?pattern=%2A.example"),
        ("table show a/b?c", "/v1/tables?name=a/b%3Fc"),
        ("monitor", "/v1/flows?type=&last=20&pod=&format=text&follow=false"),
        (
            "monitor -o yaml --follow --last 3 --type drop --pod a/b",
            "/v1/flows?type=drop&last=3&pod=a%2Fb&format=json&follow=true",
        ),
    ],
)
def test_words_of_the_user_reach_the_agent_as_they_are(agent: Agent, verb: str, asked: str) -> None:
    agent.answers = dict.fromkeys(("/v1/identities", "/v1/tables", "/v1/flows", "/v1/fqdn/cache"), b"[]")
    assert agent.run(*verb.split()) == 0
    assert agent.asked == [f"GET {asked}"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "Error: /v1/status: 404 no such thing\n"),
        ({"/v1/status": b"[1]"}, "Error: /v1/status: not an answer of this version of the agent: "),
    ],
)
def test_a_refusal_and_nonsense_are_one_line(
    agent: Agent, capsys: pytest.CaptureFixture[str], answers: dict[str, bytes], said: str
) -> None:
    agent.answers = answers
    assert agent.run("status") == 1
    written = capsys.readouterr()
    assert (written.out, written.err.startswith(said), written.err.count("\n")) == ("", True, 1)


def test_no_agent_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nobody.sock"
    assert main(["status", "--socket", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"Error: the agent of this node does not answer on {path}: ")
