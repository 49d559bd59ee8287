# SPDX-License-Identifier: Apache-2.0
"""Parse a verb, ask the agent, print.

Exit codes: 0 done, 1 no answer or one that cannot be written, 2 usage, 3 degraded (status), not enforced (policy get) or
different (verify), 4 failed check.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from agent.cli import render
from meshapi.agent import (
    NODE_ENDPOINT,
    AgentStatus,
    EndpointRow,
    IdentityRow,
    LoadBalancerMaps,
    MapEntry,
    MapStatus,
    NameRow,
    NamesForgotten,
    NodeRow,
    PolicyList,
    PolicyMapRow,
    SelectorRow,
    TableText,
    Verification,
)
from meshapi.installed import AGENT, AGENT_SOCKET, PEER_DIRECTORY
from meshapi.row import Items, Row, encode
from meshapi.service import ServiceExplanation, ServiceStatus
from meshapi.shown_times import with_times
from meshkit.answer_form import FORMS, AnswerForm, format_document
from meshkit.arguments import Arguments
from meshkit.decoding import decode_as
from meshkit.refusal import read_refusal
from meshkit.text import visible

TIMEOUT_S: Final = 10.0
VERIFY_TIMEOUT_S: Final = 60.0
_T = TypeVar("_T")


class NoAnswerError(Exception):
    """The agent of this node does not answer, or says no."""


def main(argv: Sequence[str]) -> int:
    """Run one verb; returns the exit code."""
    arguments = make_parser().parse_args(argv)
    client = SocketClient(arguments.socket)
    try:
        return int(arguments.run(client, arguments))
    except NoAnswerError as exc:
        sys.stderr.write(f"Error: {exc}\n")
        return 1


class SocketClient:
    """The REST interface of this node's agent, on its unix socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, path: str, answer: type[_T], *, timeout_s: float = TIMEOUT_S) -> _T:
        """What the agent answers. Raises: NoAnswerError, also for what is not such an answer."""
        return self._ask("GET", path, answer, timeout_s)

    def post(self, path: str, answer: type[_T], *, timeout_s: float) -> _T:
        """The agent does something, and answers. Raises: NoAnswerError, also for what is not such an answer."""
        return self._ask("POST", path, answer, timeout_s)

    def _ask(self, method: str, path: str, answer: type[_T], timeout_s: float) -> _T:
        with self.open(path, timeout_s, method) as response:
            try:
                return decode_as(response.read(), answer)
            except msgspec.DecodeError as exc:
                raise NoAnswerError(f"{path}: not an answer of this version of the agent: {exc}") from exc

    @contextmanager
    def open(self, path: str, timeout_s: float | None, method: str = "GET") -> Iterator[Answer]:
        """The answer to one request, to be read as it comes. Raises: NoAnswerError."""
        connection = _UnixConnection(self.path, timeout_s)
        try:
            with _answering(self.path):
                connection.request(method, path)
                response = connection.getresponse()
                if response.status != 200:
                    raise NoAnswerError(f"{path}: {response.status} {read_refusal(response.read())}")
            yield Answer(response, self.path)
        finally:
            connection.close()


class Answer:
    """What comes from the agent. Reading raises NoAnswerError; a fault of who writes it out somewhere is none of the agent's."""

    def __init__(self, response: HTTPResponse, path: str) -> None:
        self._response, self._path = response, path

    def read(self) -> bytes:
        """All of it."""
        with _answering(self._path):
            return self._response.read()

    def lines(self) -> Iterator[bytes]:
        """Each line as it comes."""
        while True:
            with _answering(self._path):
                line = self._response.readline()
            if not line:
                return
            yield line


@contextmanager
def _answering(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as exc:
        raise NoAnswerError(f"the agent of this node does not answer on {path}: {exc}") from exc


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def make_parser() -> argparse.ArgumentParser:
    """Every verb with its flags."""
    parser = Arguments(
        prog=AGENT,
        description="Ask the agent of this node. Without a verb: run the agent (--help there).",
    )
    shared = Arguments(add_help=False)
    shared.add_argument(
        "--socket",
        default=os.environ.get("CLUSTERMESH_SOCKET", AGENT_SOCKET),
        help=f"unix socket of the agent to ask (default: {AGENT_SOCKET})",
    )
    shared.add_argument("-o", "--output", choices=FORMS, default=AnswerForm.TABLE, help="form of the answer")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(parent: Any, name: str, help_text: str, run: Callable[..., int]) -> argparse.ArgumentParser:
        verb: argparse.ArgumentParser = parent.add_parser(name, help=help_text, parents=[shared])
        verb.set_defaults(run=run)
        return verb

    def group(parent: Any, name: str, help_text: str) -> Any:
        return parent.add_parser(name, help=help_text).add_subparsers(dest=name, required=True, metavar="VERB")

    add(verbs, "status", "state of the agent and of every peer", _status)
    service = add(group(verbs, "service", "services"), "list", "frontends and their backends", _services)
    service.add_argument(
        "--clustermesh-affinity", action="store_true", help="all candidates, marking the preferred ones"
    )
    bpf = group(verbs, "bpf", "what the kernel holds")
    add(group(bpf, "lb", "service map"), "list", "frontends, slots, backends", _bpf_lb)
    add(group(bpf, "ipcache", "address map"), "list", "prefix, identity, tunnel", _bpf_ipcache)
    realised = add(group(bpf, "policy", "policy map"), "get", "entries of one endpoint", _bpf_policy)
    realised.add_argument("endpoint", help="endpoint id, address, namespace/pod, or node: the node itself")
    add(group(verbs, "node", "nodes"), "list", "nodes of every cluster", _nodes)
    identity = add(group(verbs, "identity", "identities"), "list", "identities of every cluster", _identities)
    identity.add_argument("label", nargs="?", default="", help="only identities with a label that contains this")
    add(group(verbs, "endpoint", "endpoints"), "list", "pods of this node", _endpoints)
    names = group(group(verbs, "fqdn", "DNS names as peers"), "cache", "names that pods were told")
    for name, help_text, run in (
        ("list", "names, their addresses, and how long they count", _names),
        ("clean", "let names go, also for open connections", _clean_names),
    ):
        verb = add(names, name, help_text, run)
        verb.add_argument("pattern", nargs="?", default="*", help="such as example.org or *.example.org (default: all)")
    policy = group(verbs, "policy", "policies")
    add(policy, "get", "policies, in force or refused", _policies)
    add(policy, "selectors", "selectors and what they select", _selectors)
    table = add(group(verbs, "table", "what the agent knows, as text"), "show", "rows of one table, or of all", _table)
    table.add_argument("name", nargs="?", default="", help="such as frontends, prefixes, identities (default: all)")
    verify = add(verbs, "verify", "are the maps and attachments of this node as the tables say", _verify)
    verify.add_argument("--repair", action="store_true", help="make them so now, and print what remains")
    monitor = add(verbs, "monitor", "flows of this node", _monitor)
    monitor.add_argument("--type", default="", choices=("drop", "trace", "policy-verdict"), help="only this type")
    monitor.add_argument("--last", type=int, default=20, help="how many past flows first (default: 20)")
    monitor.add_argument("--pod", default="", help="only flows of pods that begin with namespace/name")
    monitor.add_argument("--follow", action="store_true", help="go on with every new flow")
    trouble = add(
        group(verbs, "troubleshoot", "why is a peer not connected"), "clustermesh", "try every peer file", _trouble
    )
    trouble.add_argument("cluster", nargs="*", help="only these peers")
    trouble.add_argument(
        "--clustermesh-config", type=Path, default=Path(PEER_DIRECTORY), help="directory with peer files"
    )
    trouble.add_argument("--timeout", type=float, default=5.0, help="seconds per peer")
    return parser


def _show(arguments: argparse.Namespace, answer: Row | Mapping[str, Any], text: Callable[[], str]) -> int:
    form = AnswerForm(arguments.output)
    shown = text() if form is AnswerForm.TABLE else format_document(encode(answer), form)
    _write(shown + "\n")
    return 0


def _write(text: str) -> None:
    sys.stdout.write(visible(text))


def _status(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get("/v1/status", AgentStatus)
    document = with_times(msgspec.to_builtins(answer))
    _show(arguments, document, lambda: render.status(answer, time.time()))  # noqa: TID251
    is_degraded = not answer.ready or any(not peer.ready for peer in answer.peers)
    return 3 if is_degraded else 0


def _services(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get("/v1/services", list[ServiceStatus])
    return _show(
        arguments, Items(items=answer), lambda: render.services(answer, with_affinity=arguments.clustermesh_affinity)
    )


def _clusters(client: SocketClient) -> dict[int, str]:
    status = client.get("/v1/status", AgentStatus)
    names = {peer.config.cluster_id: peer.name for peer in status.peers}
    return {**names, status.cluster_id: status.cluster}


def _bpf_lb(client: SocketClient, arguments: argparse.Namespace) -> int:
    services = client.get("/v1/maps/services", list[MapEntry])
    backends = client.get("/v1/maps/backends", list[MapEntry])
    answer = LoadBalancerMaps(services=services, backends=backends)
    if any(row.name == "services6" for row in client.get("/v1/maps", list[MapStatus])):
        answer.services6 = client.get("/v1/maps/services6", list[MapEntry])
        answer.backends6 = client.get("/v1/maps/backends6", list[MapEntry])
    return _show(arguments, answer, lambda: render.load_balancer_maps(answer, _clusters(client)))


def _bpf_ipcache(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get("/v1/maps/ipcache", list[MapEntry])
    return _show(arguments, Items(items=answer), lambda: render.ipcache(answer, _clusters(client)))


def _bpf_policy(client: SocketClient, arguments: argparse.Namespace) -> int:
    wanted = arguments.endpoint
    found = [
        row.id
        for row in client.get("/v1/endpoints", list[EndpointRow])
        if wanted in (str(row.id), row.address, f"{row.namespace}/{row.pod}")
    ]
    if wanted == "node":
        found = [NODE_ENDPOINT]
    if not found:
        raise NoAnswerError(f"no endpoint {wanted} on this node")
    answer = client.get(f"/v1/policy/endpoints/{found[0]}", list[PolicyMapRow])
    return _show(arguments, Items(items=answer), lambda: render.policy_map(answer))


def _nodes(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get("/v1/nodes", list[NodeRow])
    return _show(arguments, Items(items=answer), lambda: render.nodes(answer))


def _identities(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get(f"/v1/identities?label={urllib.parse.quote(arguments.label)}", list[IdentityRow])
    return _show(arguments, Items(items=answer), lambda: render.identities(answer))


def _names(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get(f"/v1/fqdn/cache?pattern={urllib.parse.quote(arguments.pattern)}", list[NameRow])
    return _show(arguments, Items(items=answer), lambda: render.names(answer))


def _clean_names(client: SocketClient, arguments: argparse.Namespace) -> int:
    path = f"/v1/fqdn/cache/clean?pattern={urllib.parse.quote(arguments.pattern)}"
    answer = client.post(path, NamesForgotten, timeout_s=TIMEOUT_S)
    return _show(arguments, answer, lambda: f"{answer.forgotten} forgotten")


def _endpoints(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get("/v1/endpoints", list[EndpointRow])
    return _show(arguments, Items(items=answer), lambda: render.endpoints(answer))


def _policies(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get("/v1/policy", PolicyList)
    _show(arguments, answer, lambda: render.policies(answer))
    return 3 if any(not row.valid or row.not_enforced for row in answer.policies) else 0


def _selectors(client: SocketClient, arguments: argparse.Namespace) -> int:
    answer = client.get("/v1/policy/selectors", list[SelectorRow])
    return _show(arguments, Items(items=answer), lambda: render.selectors(answer))


def _table(client: SocketClient, arguments: argparse.Namespace) -> int:
    with client.open(f"/v1/tables?name={urllib.parse.quote(arguments.name)}", TIMEOUT_S) as answer:
        text = answer.read().decode("utf-8", "replace").rstrip("\n")
    return _show(arguments, TableText(text=text), lambda: text)


def _verify(client: SocketClient, arguments: argparse.Namespace) -> int:
    if arguments.repair:
        answer = client.post("/v1/repair", Verification, timeout_s=VERIFY_TIMEOUT_S)
    else:
        answer = client.get("/v1/verify", Verification, timeout_s=VERIFY_TIMEOUT_S)
    _show(arguments, answer, lambda: render.verification(answer))
    return 0 if answer.is_equal else 3


def _monitor(client: SocketClient, arguments: argparse.Namespace) -> int:
    form = AnswerForm(arguments.output)
    sent = "text" if form is AnswerForm.TABLE else "json"
    query = {"type": arguments.type, "last": arguments.last, "pod": arguments.pod, "format": sent}
    path = f"/v1/flows?{urllib.parse.urlencode(query)}&follow={'true' if arguments.follow else 'false'}"
    with client.open(path, None if arguments.follow else TIMEOUT_S) as answer:
        for line in answer.lines():
            _write(
                line.decode("utf-8", "replace")
                if form is not AnswerForm.YAML
                else f"---\n{format_document(line, form)}\n"
            )
            sys.stdout.flush()
    return 0


def _trouble(client: SocketClient, arguments: argparse.Namespace) -> int:
    from meshpeer.troubleshoot import Limits, troubleshoot

    def resolve(host: str) -> str | None:
        """Ask the running agent, which knows every Service; a name it does not know goes to DNS."""
        name, _, rest = host.partition(".")
        namespace, _, domain = rest.partition(".")
        if domain.partition(".")[0] != "svc":
            return None
        try:
            answer = client.get(f"/v1/services/{namespace}/{name}", ServiceExplanation)
        except NoAnswerError:
            return None
        return answer.frontends[0].frontend.partition(":")[0] if answer.frontends else None

    limits = Limits(arguments.timeout, resolve)
    return troubleshoot(arguments.clustermesh_config, arguments.cluster, limits, AnswerForm(arguments.output), _write)
