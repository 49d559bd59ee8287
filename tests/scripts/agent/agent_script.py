# SPDX-License-Identifier: Apache-2.0
"""A whole agent on memory maps and a manual clock: its real features, without etcd, Kubernetes and kernel.

The own cluster is `north` (id 1), the node is n1 at 172.18.0.2 with pods in 10.1.0.0/24. The own cluster's store speaks as
`north` too. After every command the clock moves a second, so that what follows from it has been done.

Told by Kubernetes:
apply FILE...                  Services, EndpointSlices and policies of the own cluster are as these documents say
delete KIND NS/NAME            and this one is gone
pods NS/NAME:PORT [ADDRESS...] one EndpointSlice of the service has these pods; PORT is 8080 or http=8080, and an address may
                               end in ,terminating or ,unready and have ,node=NAME ,for-zone=NAME and ,for-node=NAME
failing NODE [JSON]            the agent of this node says which pods fail their health probe; without JSON: its Lease is gone
Told by the stores of clusters:
peer NAME ID                   the cluster is followed, and every kind of it is listed (peer-connect: is not listed yet)
put NAME KIND KEY FILE         a record, as it stands in FILE or is given in braces
put-node NAME NODE IP CIDR [LABEL...]  records in short
put-ip NAME ADDRESS IDENTITY HOST [POD]
put-identity NAME NUMBER LABEL...
put-service NAME NS/NAME ADDRESS:PORT...
del NAME KIND KEY              the record is gone
listing NAME KIND              the listing begins again (listed: and is complete)
forget NAME                    the cluster is no peer any more
expire NAME                    its services are too old to be believed
withdraw NAME                  nothing is sent to it (restore: again)
Done to the node:
ipv6                           before all others: its programs go on with packets of IPv6, and it has maps for their services
interface ADDRESS IFINDEX      a pod has this interface; 0: none any more
fail-after MAP WRITES          the kernel refuses a write of this map after so many more
restart [TABLE...]             a new agent on the same maps; each of these tables waits for one more source
source-listed TABLE            which is complete now
pass SECONDS                   time passes
What came out:
table show NAME FILE           as clustermesh-agent prints it; so do service list, policy get, endpoint list FILE and
                               bpf policy get ADDRESS FILE
maps FILE, ipcache FILE        what the kernel holds, in short (maps-kept: with backends kept for open connections)
table-shares FRONTEND FILE     how many slots of a Maglev frontend lead to each backend
table-hash FRONTEND FILE       a checksum of that table, slot by slot
no-difference                  the service maps are as the tables say, as `clustermesh verify` compares them
attached [IFINDEX...]          where our programs run
policy-entries N               how many entries the policy map has
service-reasons NS/NAME FILE   every backend that is not chosen, and why
explain NS/NAME FILE           the rule that `clustermesh explain service` names
problem NS/NAME TEXT           a problem of the service contains the text (no-problem: it has none)
rejected NAME [REASON=N...]    exactly these records of the cluster were refused
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import zlib
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import yaml
from agent_world import KINDS, Fed, show_ipcache, show_services, table_of
from scripted_agent import FACTS, STEP_S, Agent, AtOnce, Machine, find_table

from agent.cli import render
from agent.core import open_core
from agent.datapath.memory import memory_maps
from agent.endpoints.rows import endpoint_rows
from agent.loadbalancer.convert import strip_service, strip_slice
from agent.loadbalancer.rows import ServiceRows
from agent.policy.rows import policy_list, policy_map_rows
from agent.settings import AgentSettings
from agent.tables import PeerHealth
from kube.reflector import Delete, Upsert
from kubeintent.health import read_health
from kvstore.store import Phase
from meshapi.installed import FAILING_PODS, HEALTH_LEASE_PREFIX
from meshkit.clock import ManualClock
from meshmodel.names import ClusterName, ServiceName
from meshpolicy import PolicyRef
from tests.support.script import Script, ScriptError


class AgentScript(Script):
    """One run of one script."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.clock, self.machine = ManualClock(), Machine()

    def run(self) -> None:
        """As Script.run; commands are given between two seconds of the agent's life."""
        with asyncio.Runner() as self._runner:
            self._runner.get_loop().set_default_executor(AtOnce())
            try:
                self._start(())
                super().run()
            finally:
                self._wait(self.agent.stop())

    def do(self, words: list[str]) -> None:
        super().do(words)
        self._pass_time(STEP_S)

    def _wait(self, what: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await what

        return self._runner.run(wait())

    def _start(self, sources: Sequence[str]) -> None:
        async def start() -> Agent:
            settings = AgentSettings(local_etcd="none", sync_timeout_s=600.0, maglev_table_size="251")
            agent = Agent(await open_core(settings, FACTS, None, self.machine, self.clock), self.machine, sources)
            agent.start()
            return agent

        self.agent: Agent = self._wait(start())
        self._pass_time(STEP_S)

    def _pass_time(self, seconds: float) -> None:
        self._wait(self.clock.run_for(seconds))
        self.agent.check()

    @property
    def _is_dual(self) -> bool:
        return self.agent.balancer.writer.is_dual

    # ---- inputs

    def do_ipv6(self) -> None:
        self._wait(self.agent.stop())
        self.machine.maps = memory_maps(ipv6=True)
        self._start(())

    def do_apply(self, *files: str) -> None:
        for document in (d for name in files for d in yaml.safe_load_all(self.section(name))):
            meta, kind = document["metadata"], document["kind"]
            key = f"{meta.get('namespace', '')}/{meta['name']}"
            if kind == "Service":
                self.agent.kubernetes.take_services(
                    [Upsert(key, strip_service(document, is_dual=self._is_dual))], _nothing
                )
            elif kind == "EndpointSlice":
                self.agent.kubernetes.take_slices([Upsert(key, strip_slice(document, is_dual=self._is_dual))], _nothing)
            else:
                self.agent.policy.compiler.set_document(document, _ref(kind, key))
                self.agent.policy.ring()

    def do_delete(self, kind: str, key: str) -> None:
        if kind == "Service":
            self.agent.kubernetes.take_services([Delete(key, None)], _nothing)
        elif kind == "EndpointSlice":
            self.agent.kubernetes.take_slices([Delete(key, None)], _nothing)
        else:
            self.agent.policy.compiler.remove_document(_ref(kind, key))
            self.agent.policy.ring()

    def do_pods(self, where: str, *addresses: str) -> None:
        key, _, port = where.rpartition(":")
        name, _, number = port.rpartition("=")
        for family, mark in (("IPv4", ""), *((("IPv6", "-6"),) if self._is_dual else ())):
            listed = [a for a in addresses if (":" in a) == (family == "IPv6")]
            document = {
                "metadata": _meta(f"{key}-{number}{mark}")
                | {"labels": {"kubernetes.io/service-name": key.split("/")[1]}},
                "addressType": family,
                "ports": [{"name": name, "port": int(number), "protocol": "TCP"}],
                "endpoints": [
                    {"addresses": [a.split(",")[0]], "conditions": _conditions(a), **_where(a)} for a in listed
                ],
            }
            piece = strip_slice(document, is_dual=self._is_dual)
            self.agent.kubernetes.take_slices([Upsert(f"{key}-{number}{mark}", piece)], _nothing)

    def do_peer(self, name: str, cluster_id: str) -> None:
        self.do_peer_connect(name, cluster_id)
        for kind in KINDS:
            self.do_listed(name, kind)

    def do_peer_connect(self, name: str, cluster_id: str) -> None:
        self.agent.connect(name, int(cluster_id))
        for kind in KINDS:
            self.do_listing(name, kind)

    def do_put(self, name: str, kind: str, key: str, value: str) -> None:
        text = value if value.startswith("{") else self.section(value).strip()
        self._fed(name).feed(KINDS[kind], Phase.CHANGES, (key, text.encode()))

    def do_put_node(self, name: str, node: str, address: str, cidr: str, *labels: str) -> None:
        network = ipaddress.ip_network(cidr)
        mask = base64.b64encode(network.netmask.packed).decode()
        record = {
            "Name": node, "Cluster": name, "ClusterID": self._fed(name).cluster_id,
            "IPAddresses": [{"Type": "InternalIP", "IP": address}],
            "IPv4AllocCIDR": {"IP": str(network.network_address), "Mask": mask},
            "Labels": dict(label.split("=") for label in labels),
        }  # fmt: skip
        self.do_put(name, "nodes", node, json.dumps(record))

    def do_put_ip(self, name: str, address: str, identity: str, host: str, pod: str = "") -> None:
        record = {"IP": address, "HostIP": host, "ID": int(identity), "K8sNamespace": "test", "K8sPodName": pod}
        self.do_put(name, "ips", address, json.dumps(record))

    def do_put_identity(self, name: str, number: str, *labels: str) -> None:
        place = ("io.kubernetes.pod.namespace=test", f"io.cilium.k8s.policy.cluster={name}")
        text = "".join(f"k8s:{label};" for label in sorted((*labels, *place)))
        self._fed(name).feed(KINDS["identities"], Phase.CHANGES, (number, text.encode()))

    def do_put_service(self, name: str, service: str, *backends: str) -> None:
        namespace, _, short = service.partition("/")
        found = (backend.rsplit(":", 1) for backend in backends)
        record = {
            "cluster": name, "clusterID": self._fed(name).cluster_id, "namespace": namespace, "name": short,
            "shared": True, "backends": {ip: {"": {"Protocol": "TCP", "Port": int(port)}} for ip, port in found},
        }  # fmt: skip
        self.do_put(name, "services", service, json.dumps(record))

    def do_del(self, name: str, kind: str, key: str) -> None:
        self._fed(name).feed(KINDS[kind], Phase.CHANGES, (key, None))

    def do_listing(self, name: str, kind: str) -> None:
        self._fed(name).feed(KINDS[kind], Phase.LISTING)

    def do_listed(self, name: str, kind: str) -> None:
        self._fed(name).feed(KINDS[kind], Phase.LISTED)

    def do_forget(self, name: str) -> None:
        self._fed(name).ingest.remove()
        del self.agent.clusters[name]

    def do_expire(self, name: str) -> None:
        self._fed(name).expire()

    def _fed(self, name: str) -> Fed:
        if name not in self.agent.clusters:
            raise ScriptError(f"no cluster {name} is followed")
        return self.agent.clusters[name]

    def do_withdraw(self, name: str) -> None:
        self._set_peer(name, is_withdrawn=True)

    def do_restore(self, name: str) -> None:
        self._set_peer(name, is_withdrawn=False)

    def do_drain(self, *names: str) -> None:
        """These clusters are drained, and no others."""
        with self.agent.db.write():
            self.agent.balancer.writer.set_drained(frozenset(map(ClusterName, names)))

    def _set_peer(self, name: str, *, is_withdrawn: bool) -> None:
        row = self.agent.db.peers.get(ClusterName(name))
        if row is None:
            raise ScriptError(f"no peer {name}")
        with self.agent.db.write():
            self.agent.balancer.writer.set_peer(PeerHealth(row.name, row.cluster_id, is_withdrawn))

    def do_interface(self, address: str, index: str) -> None:
        if int(index):
            self.machine.interfaces[address] = int(index)
        else:
            del self.machine.interfaces[address]
        self.machine.plugged.set()

    def do_fail_after(self, name: str, writes: str) -> None:
        getattr(self.machine.maps, name).fail_after(int(writes))

    def do_restart(self, *sources: str) -> None:
        self._wait(self.agent.stop())
        self._start(sources)

    def do_source_listed(self, name: str) -> None:
        self.agent.sources.listed[name]()

    def do_pass(self, seconds: str) -> None:
        self._pass_time(float(seconds))

    # ---- outputs

    def do_table(self, show: str, name: str, file: str) -> None:
        self.compare(file, find_table(self.agent.db, name).dump())

    def do_service(self, show: str, file: str) -> None:
        rows = ServiceRows(self.agent.db, self.agent.balancer.writer, self.agent.balancer.target, self.clock)
        self.compare(file, render.services(rows.services(), with_affinity=True))

    def do_policy(self, get: str, file: str) -> None:
        self.compare(file, render.policies(policy_list(self.agent.db, self.agent.policy.compiler)))

    def do_endpoint(self, show: str, file: str) -> None:
        self.compare(
            file,
            render.endpoints(
                endpoint_rows(self.agent.db, self.agent.policy.target.revision, self.agent.policy.target.failures)
            ),
        )

    def do_bpf(self, policy: str, get: str, address: str, file: str) -> None:
        row = self.agent.db.endpoints.get(address)
        if row is None:
            raise ScriptError(f"no endpoint {address}")
        entries = policy_map_rows(self.machine.maps.policy.items(), row.endpoint_id, self.agent.policy.compiler)
        self.compare(file, render.policy_map(entries))

    def do_maps(self, file: str) -> None:
        self.machine.maps.check()
        self.compare(file, show_services(self.machine.maps))

    def do_table_shares(self, frontend: str, file: str) -> None:
        self.machine.maps.check()
        counts = Counter(table_of(self.machine.maps, frontend))
        self.compare(file, "\n".join(f"{backend} {count}" for backend, count in sorted(counts.items())))

    def do_table_hash(self, frontend: str, file: str) -> None:
        self.compare(file, f"{zlib.crc32(' '.join(table_of(self.machine.maps, frontend)).encode()):08x}")

    def do_no_difference(self) -> None:
        found = self.agent.balancer.differences()()
        assert not found, found

    def do_maps_kept(self, file: str) -> None:
        self.machine.maps.check()
        self.compare(file, show_services(self.machine.maps, with_kept=True))

    def do_ipcache(self, file: str) -> None:
        self.compare(file, show_ipcache(self.machine.maps))

    def do_policy_entries(self, count: str) -> None:
        found = sum(1 for _ in self.machine.maps.policy.items())
        assert found == int(count), f"{found} entries"

    def do_attached(self, *interfaces: str) -> None:
        found = sorted(self.machine.attached())
        assert found == sorted(map(int, interfaces)), f"attached: {found}"

    def do_failing(self, node: str, text: str = "") -> None:
        name = HEALTH_LEASE_PREFIX + node
        if not text:
            self.agent.health.take([Delete(f"kube-system/{name}", None)])
            return
        annotations = {FAILING_PODS: text}
        item = {"metadata": {"namespace": "kube-system", "name": name, "annotations": annotations}}
        self.agent.health.take([Upsert(f"kube-system/{name}", read_health(item).row)])

    def do_service_reasons(self, name: str, file: str) -> None:
        rows = ServiceRows(self.agent.db, self.agent.balancer.writer, self.agent.balancer.target, self.clock)
        found = [b for s in rows.services() if s.name == name for b in s.backends if b.reason]
        self.compare(file, "\n".join(f"{b.address} {b.state}: {b.reason}" for b in found))

    def do_explain(self, name: str, file: str) -> None:
        rows = ServiceRows(self.agent.db, self.agent.balancer.writer, self.agent.balancer.target, self.clock)
        found = rows.explain(ServiceName.parse(name))
        assert found is not None, f"no service {name}"
        self.compare(file, found.rule)

    def do_problem(self, name: str, *text: str) -> None:
        found = self._problems(name)
        assert any(" ".join(text) in problem for problem in found), f"problems: {found}"

    def do_no_problem(self, name: str) -> None:
        assert not self._problems(name), f"problems: {self._problems(name)}"

    def _problems(self, name: str) -> list[str]:
        row = self.agent.db.services.get(ServiceName.parse(name))
        assert row is not None, f"no service {name}"
        return ServiceRows(self.agent.db, self.agent.balancer.writer, self.agent.balancer.target, self.clock).problems(
            row
        )

    def do_rejected(self, name: str, *expected: str) -> None:
        counts = self.agent.rejections.counts(ClusterName(name))
        found = [f"{reason}={count}" for reason, count in counts.items()]
        assert sorted(found) == sorted(expected), f"rejected: {found}"


def _ref(kind: str, key: str) -> PolicyRef:
    namespace, _, name = key.rpartition("/")
    return PolicyRef(kind, namespace, name)


def _conditions(text: str) -> dict[str, bool]:
    is_ending, is_unready = ",terminating" in text, ",unready" in text
    return {"ready": not is_ending and not is_unready, "serving": not is_unready, "terminating": is_ending}


def _where(text: str) -> dict[str, Any]:
    named = dict(part.split("=") for part in text.split(",") if "=" in part)
    hints = {
        field: [{"name": named[word]}]
        for word, field in (("for-zone", "forZones"), ("for-node", "forNodes"))
        if word in named
    }
    return {"nodeName": named.get("node"), "hints": hints}


def _meta(key: str) -> dict[str, Any]:
    namespace, _, name = key.partition("/")
    return {"namespace": namespace, "name": name}


def _nothing() -> None: ...
