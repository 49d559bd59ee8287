# SPDX-License-Identifier: Apache-2.0
"""`clustermesh observe`: a server's answers, or those of every agent of a cluster in the order of time."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final
from urllib.parse import quote

from clustermesh_cli.agent_answers import ask_all_agents, chosen_agents
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.flow_server import flow_server
from clustermesh_cli.flow_sources import ADVICE, ClusterRelay, empty_reason
from clustermesh_cli.followed_flows import followed
from clustermesh_cli.observe_wish import ObserveWish
from clustermesh_cli.program_client import ProgramClient
from flows.client import FlowClient
from flows.document import json_line, read_json
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as pb_relay
from flows.query import NOTHING_MATCHES
from flows.text import SEPARATOR, compact_line, dict_block, lost_line, status_line, table_lines
from kube.errors import KubeError
from meshapi.installed import DEFAULT_NAMESPACE, RELAY
from meshkit.refusal import read_refusal
from meshkit.text import visible

PATH: Final = "v1/flows"
SILENCE_S: Final = 3600.0


def observe(wish: ObserveWish) -> int:
    """Print until there is no more. Returns the exit code. Raises: CommandError."""
    if wish.raw:
        for name, filters in (("allowlist", wish.request.whitelist), ("denylist", wish.request.blacklist)):
            for each in filters:
                _say(f"{name}: {json_line(each)}")
        return ExitCode.OK
    if wish.agent_events:
        return _agent_events(wish)
    if wish.server:
        shown = FlowPrinter(wish)
        with _server(wish) as client:
            for answer in client.get_flows(wish.request, wish.clusters):
                shown.show(answer)
            shown.end()
        return ExitCode.OK
    programs = _programs(wish)
    relay = ClusterRelay(programs)
    if relay.is_installed():
        return observe_relay(wish, relay)
    if wish.clusters:
        raise CommandError(f"--clusters needs a relay, and this cluster has none: {ADVICE}", ExitCode.USAGE)
    return observe_agents(wish, programs)


def observe_relay(wish: ObserveWish, relay: ClusterRelay) -> int:
    """The same of a cluster's relay. Nodes that do not answer are told, and the code says so."""
    shown, request = FlowPrinter(wish), wish.request
    if request.follow and not request.HasField("until"):
        for answer in followed(RELAY, lambda asked: relay.flows(asked, wish.clusters), request, _warn):
            shown.show(answer)
    for answer in relay.flows(request, wish.clusters):
        shown.show(answer)
    shown.end()
    if not shown.flows:
        sys.stderr.write(f"{empty_reason(relay.nodes().nodes)}\n")
    return ExitCode.DEGRADED if shown.is_incomplete else ExitCode.OK


def observe_agents(wish: ObserveWish, programs: ProgramClient) -> int:
    """The same of every agent of a cluster, in the order of time. Who does not answer is named, and the code says so."""
    shown = FlowPrinter(wish)
    if wish.request.follow:
        for answer in _followed(programs, wish.request):
            shown.show(answer)
        return ExitCode.OK
    found, missing = ask_all_agents({"": programs}, lambda asked, pod: _ask(asked, pod, wish.request))
    for answer in sorted((one for each in found for one in each), key=lambda one: one.time.ToNanoseconds()):
        shown.show(answer)
    shown.end()
    for why in missing:
        sys.stderr.write(f"WARN {visible(why.removeprefix(': '))}\n")
    return ExitCode.DEGRADED if missing else ExitCode.OK


class FlowPrinter:
    """Answers in the form that was asked for."""

    def __init__(self, wish: ObserveWish) -> None:
        self._form, self._look = wish.form, wish.look
        self._rows: list[pb.Flow] = []
        self._is_first = True
        self._empty: list[str] = []
        self.flows = 0
        self.is_incomplete = False

    def show(self, answer: observer.GetFlowsResponse) -> None:
        """One answer; what nodes do is no part of the output, and goes to standard error."""
        kind = answer.WhichOneof("response_types")
        self.flows += kind == "flow"
        self.is_incomplete |= answer.node_status.state_change in (pb_relay.NODE_UNAVAILABLE, pb_relay.NODE_ERROR)
        if self._form in ("json", "jsonpb"):
            _say(json_line(answer))
            return
        match kind:
            case "flow":
                self._flow(answer.flow)
            case "lost_events":
                _say(lost_line(answer, self._look))
            case "node_status":
                self._node_status(answer)

    def _node_status(self, answer: observer.GetFlowsResponse) -> None:
        """That nodes are connected is what one expects, unless something is said of it.

        Which of them had nothing to say is told where that is all there is.
        """
        event, line = answer.node_status, status_line(answer, self._look)
        if event.state_change != pb_relay.NODE_CONNECTED:
            why = f": {event.message}" if event.message and event.state_change != pb_relay.NODE_ERROR else ""
            sys.stderr.write(visible(line + why) + "\n")
        elif event.message.startswith(NOTHING_MATCHES):
            self._empty.append(line)
        elif event.message:
            sys.stderr.write(visible(line) + "\n")

    def _flow(self, flow: pb.Flow) -> None:
        match self._form:
            case "table":
                self._rows.append(flow)
            case "dict":
                if not self._is_first:
                    _say(SEPARATOR)
                self._is_first = False
                _say(dict_block(flow, self._look))
            case _:
                _say(compact_line(flow, self._look))

    def end(self) -> None:
        """Nothing more comes."""
        if self._form == "table":
            for line in table_lines(self._rows, self._look):
                _say(line)
        if not self.flows:
            sys.stderr.writelines(visible(line) + "\n" for line in self._empty)


def _warn(text: str) -> None:
    sys.stderr.write(f"WARN {visible(text)}\n")


def _say(text: str) -> None:
    Console(plain=True).line(text)


def _server(wish: ObserveWish) -> AbstractContextManager[FlowClient]:
    flags = wish.arguments
    return flow_server(
        flags.server, flags.tls_ca_cert_files, flags.tls_client_cert_file, flags.tls_client_key_file, flags.tls_server_name,
        tls=flags.tls, timeout_s=flags.timeout,
    )  # fmt: skip


def _agent_events(wish: ObserveWish) -> int:
    if not wish.server:
        raise CommandError("agent events are asked of one observer: name it with --server", ExitCode.USAGE)
    flows = wish.request
    request = observer.GetAgentEventsRequest(number=flows.number, first=flows.first, follow=flows.follow)
    if flows.HasField("since"):
        request.since.CopyFrom(flows.since)
    if flows.HasField("until"):
        request.until.CopyFrom(flows.until)
    with _server(wish) as client:
        for answer in client.get_agent_events(request):
            _say(json_line(answer))
    return ExitCode.OK


def _programs(wish: ObserveWish) -> ProgramClient:
    from clustermesh_cli.verb_options import make_client

    client = make_client(wish.arguments.kubeconfig, wish.arguments.context)
    return ProgramClient(client, wish.arguments.mesh_namespace or DEFAULT_NAMESPACE)


def _ask(programs: ProgramClient, pod: str, request: observer.GetFlowsRequest) -> list[observer.GetFlowsResponse]:
    code, body = programs.get_agent(pod, f"{PATH}?request={quote(json_line(request))}")
    if code != 200:
        raise CommandError(f"agent {pod} answered {code}: {read_refusal(body)}", ExitCode.DEGRADED)
    return [read_json(line, observer.GetFlowsResponse(), pod) for line in body.splitlines()]


def _followed(programs: ProgramClient, request: observer.GetFlowsRequest) -> Iterator[observer.GetFlowsResponse]:
    """What agents say from now on, one thread for each, until they all end. Raises: CommandError."""
    told: queue.SimpleQueue[observer.GetFlowsResponse | CommandError] = queue.SimpleQueue()
    pods = chosen_agents(programs, None)

    def ask(pod: str, asked: observer.GetFlowsRequest) -> Iterator[observer.GetFlowsResponse]:
        try:
            stream = programs.follow_agent(pod, PATH, {"request": json_line(asked)}, SILENCE_S)
            buffer = b""
            while data := stream.read():
                head, newline, buffer = (buffer + data).rpartition(b"\n")
                for line in (head + newline).splitlines():
                    yield read_json(line, observer.GetFlowsResponse(), pod)
        except KubeError as exc:
            raise CommandError(f"agent {pod} does not answer: {exc}", ExitCode.DEGRADED) from exc

    def follow(pod: str) -> None:
        try:
            for answer in followed(f"agent {pod}", lambda asked: ask(pod, asked), request, _warn):
                told.put(answer)
        except CommandError as exc:
            told.put(exc)

    for _, pod in pods:
        threading.Thread(target=follow, args=(pod,), daemon=True).start()
    left = len(pods)
    while True:
        answer = told.get()
        if isinstance(answer, CommandError):
            _warn(str(answer))
            left -= 1
            if not left:
                raise answer
        else:
            yield answer
