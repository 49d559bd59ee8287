# SPDX-License-Identifier: Apache-2.0
"""`clustermesh check`: everything that `connect` makes sure of, looked at without changing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import kube.resource as k
from certs.validity import KeptCertificates
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.check_text import check_lines, check_table
from clustermesh_cli.clock_proof import ask_clock
from clustermesh_cli.cluster_certificates import read_certificates
from clustermesh_cli.cluster_facts import read_facts
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, CommandRefusedError, ExitCode
from clustermesh_cli.link_proof import look_at_reach
from clustermesh_cli.link_writer import read_objects
from clustermesh_cli.listed_rows import table_lines
from clustermesh_cli.plan.check_row import CheckReport, CheckResult, CheckRow, worst
from clustermesh_cli.plan.clock_rules import CLOCKS, judge_clocks, judge_nodes
from clustermesh_cli.plan.configured_peer import configured_peer
from clustermesh_cli.plan.connect import PeerLink, check_access, plan_links
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.endpoint import ENDPOINT, given_access
from clustermesh_cli.plan.facts import ClusterFacts
from clustermesh_cli.plan.link_change import connecting_steps, plan_changes
from clustermesh_cli.plan.mesh_rules import judge_mesh
from clustermesh_cli.plan.peering import find_real_files
from clustermesh_cli.plan.program_rules import judge_certificates, judge_kernels, judge_programs, judge_versions
from clustermesh_cli.plan.relay_rules import judge_relay
from clustermesh_cli.plan.session import session_problem
from clustermesh_cli.plan.trust_rules import judge_trust
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.program_statuses import read_apiserver
from clustermesh_cli.relay_state import ask_relay
from kube.client import KubeClient
from kube.errors import KubeError
from meshapi.apiserver import ApiserverStatus
from meshapi.installed import CA_BUNDLE, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS
from meshapi.shown_times import rfc3339
from meshkit.answer_form import AnswerForm
from meshkit.errors import MeshError

ENABLED: Final = "enabled"
SESSION: Final = "session"
OBJECTS: Final = "objects"


class Preflight:
    """Looks at the first context of `clients`, and at its links with the others in `mode`.

    `endpoints`: HOST:PORT by context, in place of what its Service says.
    """

    def __init__(
        self,
        clients: Mapping[str, KubeClient],
        namespace: str,
        mode: Mode,
        endpoints: Mapping[str, Sequence[str]],
        wall: Callable[[], float],
    ) -> None:
        self._clients, self._namespace, self._mode, self._wall = clients, namespace, mode, wall
        self._given = {context: given_access(entries) for context, entries in endpoints.items() if entries}
        self._programs = {context: ProgramClient(client, namespace) for context, client in clients.items()}
        self._statuses: dict[str, ApiserverStatus] = {}
        self._kept: dict[str, Sequence[KeptCertificates]] = {}

    def look(self) -> CheckReport:
        """What does not answer is a row that fails; the rest is looked at all the same."""
        rows: list[CheckRow] = []
        facts = []
        for context, client in self._clients.items():
            try:
                found = read_facts(client, self._namespace, context)
            except MeshError as exc:
                rows.append(_fail(ENABLED, [context], str(exc)))
                continue
            facts.append(replace(found, access=self._given[context]) if context in self._given else found)
            rows += self._look_at_cluster(facts[-1])
        rows += judge_mesh(facts)
        rows += judge_versions({fact.name: self._statuses[fact.context] for fact in facts if self._knows(fact)})
        rows += self._look_at_clocks([fact for fact in facts if self._knows(fact)])
        if len(facts) == len(self._clients):
            rows += self._look_at_links(facts)
        return CheckReport(time=rfc3339(self._wall()), result=worst(rows), rows=rows)

    def _look_at_cluster(self, cluster: ClusterFacts) -> Iterable[CheckRow]:
        client = self._clients[cluster.context]
        yield CheckRow(
            check=ENABLED, clusters=[cluster.name], result=CheckResult.OK, detail=f"{cluster.context}, id {cluster.id}"
        )
        try:
            self._kept[cluster.name] = kept = read_certificates(client, self._namespace)
            yield from judge_certificates(cluster.name, kept, self._wall())
            bundle, users = (client.get(k.CONFIG_MAPS, name, self._namespace) for name in (CA_BUNDLE, REMOTE_USERS))
            yield from judge_trust(cluster.name, bundle, users)
            yield from judge_kernels(cluster.name, client.list(k.NODES))
            asked_s = self._wall()
            self._statuses[cluster.context] = status = read_apiserver(self._programs[cluster.context])
            yield from judge_programs(cluster.name, status)
            yield from judge_nodes(cluster.name, status, self._wall() - asked_s)
            yield from judge_relay(cluster.name, ask_relay(self._programs[cluster.context]))
        except MeshError as exc:
            yield _fail("programs", [cluster.name], str(exc))

    def _look_at_clocks(self, clusters: Sequence[ClusterFacts]) -> Iterable[CheckRow]:
        clocks = []
        for cluster in clusters:
            try:
                clock = ask_clock(cluster.name, self._programs[cluster.context], self._wall)
            except MeshError as exc:
                yield _fail(CLOCKS, [cluster.name], str(exc))
                continue
            if clock is not None:
                clocks.append(clock)
            else:
                detail = f"{cluster.name} does not say what its clock shows"
                yield CheckRow(
                    check=CLOCKS, clusters=[cluster.name], result=CheckResult.WARN, detail=detail, next="upgrade it"
                )
        yield from judge_clocks(clocks, self._kept, self._wall())

    def _knows(self, cluster: ClusterFacts) -> bool:
        return cluster.context in self._statuses

    def _look_at_links(self, facts: Sequence[ClusterFacts]) -> Iterable[CheckRow]:
        local, *remotes = facts
        links = plan_links(local, remotes, self._mode)
        if links:
            yield self._look_at_objects(links)
        for link in links:
            yield from self._look_at_link(link)
        read = {fact.name for fact in facts}
        for cluster in facts:
            for name in cluster.peers:
                if name not in read or (cluster is not local and self._mode is Mode.UNICAST):
                    yield from self._look_at_peer(cluster, name)

    def _look_at_objects(self, links: Sequence[PeerLink]) -> CheckRow:
        everybody: list[str] = list(dict.fromkeys(c.name for link in links for c in (link.reader, link.target)))
        try:
            plan_changes(connecting_steps(links, self._namespace), read_objects(self._clients, self._namespace))
        except MeshError as exc:
            return _fail(OBJECTS, everybody, str(exc))
        return CheckRow(
            check=OBJECTS, clusters=everybody, result=CheckResult.OK, detail="what connect writes to is there"
        )

    def _look_at_link(self, link: PeerLink) -> Iterable[CheckRow]:
        names: list[str] = [link.reader.name, link.target.name]
        if self._knows(link.reader):
            yield from self._reach(link)
        if link.target.name in link.reader.peers:
            yield self._look_at_session(link.reader, link.target.name)
        else:
            detail = f"{link.reader.name} does not read {link.target.name} yet"
            remedy = f"clustermesh connect --context {link.reader.context} --destination-context {link.target.context}"
            yield CheckRow(check=SESSION, clusters=names, result=CheckResult.OK, detail=detail, next=remedy)

    def _look_at_peer(self, cluster: ClusterFacts, peer: str) -> Iterable[CheckRow]:
        """A peer whose own cluster is not read: by the files that it was connected with."""
        client = self._clients[cluster.context]
        try:
            mirror, agents = (client.get(k.SECRETS, name, self._namespace) for name in (MIRROR_SECRET, PEERS_SECRET))
        except KubeError as exc:
            yield _fail(ENDPOINT, [cluster.name, peer], str(exc))
            return
        files = find_real_files(*(((secret or {}).get("data") or {}) for secret in (mirror, agents)))
        target = configured_peer(cluster, files, peer)
        if target is None:
            yield _fail(ENDPOINT, [cluster.name, peer], f"{cluster.name} has no file by which {peer} is reached by TLS")
        elif self._knows(cluster):
            yield from self._reach(PeerLink(cluster, target))
        yield self._look_at_session(cluster, peer)

    def _reach(self, link: PeerLink) -> Iterable[CheckRow]:
        names = [link.reader.name, link.target.name]
        try:
            check_access(link.target)
            yield from look_at_reach(link, self._programs[link.reader.context])
        except (CommandRefusedError, CommandError, KubeError) as exc:
            yield _fail(ENDPOINT, names, str(exc).removesuffix("; nothing was changed"))

    def _look_at_session(self, reader: ClusterFacts, peer: str) -> CheckRow:
        """A session proves what an endpoint alone does not: that the peer accepts the reader's certificate and lets it read."""
        names = [reader.name, peer]
        if not self._knows(reader):
            return _fail(SESSION, names, "not known while clustermesh-apiserver does not answer")
        problem = session_problem(self._statuses[reader.context], peer)
        if problem is None:
            return CheckRow(
                check=SESSION, clusters=names, result=CheckResult.OK, detail=f"{reader.name} has read {peer}"
            )
        return _fail(SESSION, names, problem, f"clustermesh status --context {reader.context}")


def check(preflight: Preflight, form: AnswerForm, console: Console) -> ExitCode:
    """Print every row; a failed check if one fails."""
    report = preflight.look()
    print_answer(report, check_lines(report, table_lines(check_table(report))), form, console)
    return ExitCode.CHECK_FAILED if report.result is CheckResult.FAIL else ExitCode.OK


def _fail(what: str, clusters: Sequence[str], detail: str, remedy: str = "") -> CheckRow:
    return CheckRow(check=what, clusters=list(clusters), result=CheckResult.FAIL, detail=detail, next=remedy)
