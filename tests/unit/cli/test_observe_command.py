# SPDX-License-Identifier: Apache-2.0
"""`observe` of every agent through the API server: filtered there, merged in the order of time; who is silent is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from connect_world import NS, WritableApi
from explain_world import listing

from clustermesh_cli import followed_flows
from clustermesh_cli.commands.observe import FlowPrinter, observe_agents, observe_relay
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.flow_sources import ClusterRelay
from clustermesh_cli.observe_wish import parse_wish
from clustermesh_cli.program_client import ProgramClient
from flows.answer import answers
from flows.document import json_line, read_json
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.query import NOTHING_MATCHES, Reading
from flows.ring import FlowEntry, Ring
from kube.errors import Unreachable, error_for
from kube.transport import Query
from tests.unit.cli.test_events_command import Stream


def decode(entry: FlowEntry, _number: int) -> pb.Flow:
    flow = pb.Flow.FromString(entry.raw)
    flow.time.FromNanoseconds(entry.time_ns)
    return flow


def entry(second: int, pod: str) -> FlowEntry:
    flow = pb.Flow(verdict=pb.FORWARDED, Summary="UDP")
    flow.IP.source, flow.IP.destination = "10.0.0.1", "10.0.0.2"
    flow.source.namespace, flow.source.pod_name = "shop", pod
    flow.event_type.type, flow.event_type.sub_type = 4, 3
    return FlowEntry(second * 10**9, pod, "head", flow.SerializeToString())


class ObservedApi(WritableApi):
    """A cluster with an agent on n1 and one on n2, each with a ring; who is silent does not answer."""

    def __init__(self, *silent: str) -> None:
        super().__init__("north")
        self.silent, self.transport = silent, self
        pods = [
            {
                "metadata": {"name": f"agent-{n}", "labels": {"k8s-app": "clustermesh-agent"}},
                "spec": {"nodeName": f"n{n}"},
            }
            for n in (1, 2)
        ]
        self.answers[f"{NS}/pods"] = listing(*pods)
        self.rings = {f"agent-{n}": Ring(decode, 7) for n in (1, 2)}
        self.rings["agent-1"].extend([entry(1, "web-1"), entry(3, "db-1")])
        self.rings["agent-2"].extend([entry(2, "web-2"), entry(4, "web-3")])

    def lines(self, pod: str, request: str) -> bytes:
        ring, wanted = self.rings[pod], read_json(request, observer.GetFlowsRequest(), "request")
        wanted.follow = False
        reading, answer = Reading(ring, wanted), answers(decode, f"north/{pod}", wanted.field_mask)
        return b"".join(json_line(answer(item, n)).encode() + b"\n" for item, n in reading.step())

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: object
    ) -> tuple[int, bytes]:
        for pod in self.rings:
            if path.startswith(f"{NS}/pods/{pod}:9879/proxy/v1/flows"):
                if pod in self.silent:
                    raise Unreachable("GET", detail="timed out")
                (request,) = parse_qs(urlsplit(path).query)["request"]
                return 200, self.lines(pod, request)
        return super().request(method, path, query=query, timeout_s=timeout_s, **given)

    def stream(self, path: str, *, query: Query, read_timeout_s: float, headers: Mapping[str, str]) -> Stream:
        del read_timeout_s, headers
        pod = next(pod for pod in self.rings if f"/{pod}:" in path)
        text = self.lines(pod, str(cast("Mapping[str, Any]", query)["request"]))
        return Stream(text[:40], text[40:])


def observed(api: ObservedApi, words: str) -> int:
    programs = ProgramClient(api.client("kind-north"), "kube-system")
    return observe_agents(parse_wish(words.split(), "", 0.0), programs)


def test_flows_of_all_nodes_stand_in_the_order_of_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert observed(ObservedApi(), "--pod shop/web --print-node-name") == ExitCode.OK
    said = capsys.readouterr()
    assert [line.split("/web-")[1].split(" ")[0] for line in said.out.splitlines()] == ["1", "2", "3"]
    assert said.err == ""


def test_the_last_are_those_of_each_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert observed(ObservedApi(), "--last 1 -o table") == ExitCode.OK
    assert [line.split()[3] for line in capsys.readouterr().out.splitlines()[1:]] == ["shop/db-1", "shop/web-3"]


def test_a_silent_agent_is_named_and_the_others_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert observed(ObservedApi("agent-2"), "") == ExitCode.DEGRADED
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err.startswith("WARN n2: ")


def test_flows_are_shown_as_they_come_until_no_agent_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match="ended its answer"):
        observed(ObservedApi(), "--follow --last 9")
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4
    assert said.err.count("WARN agent ") == 2


def status(message: str, node: str = "north/n1", state: int = relay.NODE_CONNECTED) -> observer.GetFlowsResponse:
    event = relay.NodeStatusEvent(state_change=relay.NodeState.ValueType(state), node_names=[node], message=message)
    return observer.GetFlowsResponse(node_status=event, node_name="north/relay")


@pytest.mark.parametrize("has_flow", [False, True])
def test_nodes_that_hold_nothing_of_it_are_told_where_nothing_is_shown(
    capsys: pytest.CaptureFixture[str], has_flow: bool
) -> None:
    shown = FlowPrinter(parse_wish([], "", 0.0))
    nothing = f"{NOTHING_MATCHES}: it keeps 7 flows"
    for answer in (status(""), status(nothing), status("flows since noon: older ones are not kept", "north/n2")):
        shown.show(answer)
    if has_flow:
        shown.show(observer.GetFlowsResponse(flow=pb.Flow(Summary="x")))
    shown.end()
    told = [line.partition("]: ")[2] for line in capsys.readouterr().err.splitlines()]
    older = "north/n2: flows since noon: older ones are not kept"
    assert told == ([older] if has_flow else [older, f"north/n1: {nothing}"])


def test_what_is_wrong_with_a_node_is_told_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    shown = FlowPrinter(parse_wish([], "", 0.0))
    shown.show(status("refused", state=relay.NODE_UNAVAILABLE))
    assert capsys.readouterr().err.rstrip().endswith("1 nodes are unavailable: north/n1: refused")
    assert shown.is_incomplete


class RefusingRelay(WritableApi):
    """A relay that is asked for flows of a cluster that never told it any."""

    def stream(self, path: str, **_: object) -> Stream:
        raise error_for(f"GET {path}", 400, "", "clusters: north has no flows of nowhere")


def test_what_a_relay_refuses_is_a_mistake_in_the_question() -> None:
    relay_of_north = ClusterRelay(ProgramClient(RefusingRelay("north").client("kind-north"), "kube-system"))
    with pytest.raises(CommandError, match=r"^clusters: north has no flows of nowhere$") as caught:
        list(relay_of_north.flows(observer.GetFlowsRequest(), ["nowhere"]))
    assert caught.value.code is ExitCode.USAGE


class EndingRelay(WritableApi):
    """A cluster whose relay ends each answer after two flows, as one that is stopped does."""

    def __init__(self) -> None:
        super().__init__("north")
        self.transport, self.asked = self, list[observer.GetFlowsRequest]()

    def stream(self, path: str, *, query: Mapping[str, Any], **_: object) -> Stream:
        self.asked.append(read_json(query["request"], observer.GetFlowsRequest(), "request"))
        if len(self.asked) > 3:
            raise Unreachable("GET", detail="refused")
        first = 2 * len(self.asked) - 1
        flows = [decode(entry(n, "web"), n) for n in (first, first + 1)]
        return Stream(*(json_line(observer.GetFlowsResponse(flow=f, time=f.time)).encode() + b"\n" for f in flows))


def test_a_relay_that_ends_an_answer_without_end_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    programs = ProgramClient(EndingRelay().client("kind-north"), "kube-system")
    assert observe_relay(parse_wish(["--last", "2"], "", 0.0), ClusterRelay(programs)) is ExitCode.OK
    with pytest.raises(CommandError, match=r"^clustermesh-relay ended its answer$") as caught:
        observe_relay(parse_wish(["--follow"], "", 0.0), ClusterRelay(programs))
    assert caught.value.code is ExitCode.DEGRADED
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_an_answer_that_ended_with_its_token_goes_on_from_where_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed_flows, "LIVED_S", 0.0)
    api = EndingRelay()
    relay_of_north = ClusterRelay(ProgramClient(api.client("kind-north"), "kube-system"))
    shown = followed_flows.followed(
        "it", relay_of_north.flows, parse_wish(["-f", "--last", "9"], "", 0.0).request, print
    )
    times = [next(shown).time.seconds for _ in range(6)]
    assert times == [1, 2, 3, 4, 5, 6]
    assert [(r.number, r.since.ToNanoseconds()) for r in api.asked] == [
        (9, 0),
        (0, 2 * 10**9 + 1),
        (0, 4 * 10**9 + 1),
    ]
    assert capsys.readouterr().out.splitlines() == ["it ended its answer, asking again"] * 2
