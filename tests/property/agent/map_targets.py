# SPDX-License-Identifier: Apache-2.0
"""The three reconciler targets of an agent on memory maps, what they hold as values to compare, and a kill at any write."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from agent.datapath.layout import ServiceFlag
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.ipcache.ops import IpcacheTarget
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.policy.ops import EndpointTarget
from agent.tables import AgentDB, ClaimOrigin, Endpoint, EndpointVerdicts, Frontend, FrontendKey, Prefix, Target
from meshkit.clock import ManualClock
from meshkit.reconciler import Reconciler
from meshmodel.identity import NumericIdentity
from meshmodel.labels import Label
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpolicy import EndpointPolicy, Engine, PolicyContext, parse_policy

MAPS = (
    "services",
    "backends",
    "members",
    "source_ranges",
    "ipcache",
    "policy",
    "endpoints_by_address",
    "endpoints_by_ifindex",
)
PRUNE_S = 1800.0


class Killed(BaseException):
    """The process ends here; nothing of it runs any more."""


class Interfaces:
    """Attachments that outlive the agent."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.on_write: Callable[[int], None] = lambda _ifindex: None

    def attach(self, ifindex: int) -> None:
        self.running.add(ifindex)
        self.on_write(ifindex)

    def detach(self, ifindex: int) -> None:
        self.running.discard(ifindex)
        self.on_write(ifindex)

    def attached(self) -> set[int]:
        return set(self.running)

    def unattached(self, ifindexes: Collection[int]) -> set[int]:
        return set(ifindexes) - self.running


class Node:
    """Tables, targets and reconcilers of one node; `restart` is a new process on the same maps."""

    def __init__(self, sizes: dict[str, int] | None = None) -> None:
        self.maps: MemoryMaps = memory_maps(sizes)
        self.interfaces = Interfaces()
        self.known: set[str] = set()
        """Addresses of which somebody says that they live."""
        self.clock = ManualClock()
        self.writes_left: int | None = None
        self.writes = 0
        for name in MAPS:
            written = getattr(self.maps, name)
            written.on_write = self._counted(written.on_write)
        self.interfaces.on_write = self._counted(self.interfaces.on_write)
        self.db = AgentDB(ClusterName("north"), ClusterId(1))
        self.restart()

    def restart(self) -> None:
        self.load_balancer = LoadBalancerTarget(self.maps, self.clock.wall, owner_of=self.owner_of)
        self.load_balancer.restore()
        endpoints = EndpointTarget(self.maps, self.interfaces)
        endpoints.restore()
        self.reconcilers: dict[str, Reconciler[Any, Any]] = {
            "frontends": Reconciler(self.db.frontends, self.load_balancer, clock=self.clock),
            "prefixes": Reconciler(self.db.prefixes, IpcacheTarget(self.maps.ipcache), clock=self.clock),
            "endpoints": Reconciler(self.db.verdicts, endpoints, clock=self.clock),
        }

    def owner_of(self, target: Target, service: ServiceName | None) -> str | None:
        return "" if target.address in self.known else None

    def _counted(self, check: Callable[[Any], None]) -> Callable[[Any], None]:
        def counted(key: Any) -> None:
            check(key)
            self.writes += 1
            if self.writes_left is not None:
                self.writes_left -= 1
                if self.writes_left <= 0:
                    raise Killed

        return counted

    def put(self, *rows: Frontend | Prefix | EndpointVerdicts) -> None:
        with self.db.write():
            for row in rows:
                self._table(row).put(row)

    def delete(self, *rows: Frontend | Prefix | EndpointVerdicts) -> None:
        with self.db.write():
            for row in rows:
                self._table(row).delete(self._table(row).key(row))

    def _table(self, row: Frontend | Prefix | EndpointVerdicts) -> Any:
        match row:
            case Frontend():
                return self.db.frontends
            case Prefix():
                return self.db.prefixes
            case EndpointVerdicts():
                return self.db.verdicts

    def round(self) -> None:
        """Everything that is due now is tried once, and no failed row a second time."""
        now = self.clock.monotonic()
        for reconciler in self.reconcilers.values():
            for _ in range(50):
                if reconciler.run_once(now).wake_at != now:
                    break
            else:
                raise AssertionError(f"never done: {reconciler.dump()}")

    def settle(self) -> None:
        """Until no row waits; a map that refused once is asked again."""
        for _ in range(50):
            self.round()
            if all(r.status().is_settled for r in self.reconcilers.values()):
                self._check_room()
                return
            self.clock.advance(60.0)
        raise AssertionError("".join(r.dump() for r in self.reconcilers.values()))

    def _check_room(self) -> None:
        """What is counted as written is what the maps hold."""
        target = self.load_balancer
        assert target._room.used == sum(1 for _ in self.maps.services.items())
        assert target._member_room.used == sum(1 for _ in self.maps.members.items())

    def compare(self) -> None:
        """The next prune interval has come."""
        self.clock.advance(PRUNE_S)
        self.settle()

    def failed(self) -> set[str]:
        return {str(f.key) for r in self.reconcilers.values() for f in r.status().failures}

    def state(self, *, with_ids: bool = True) -> dict[str, Any]:
        """Everything the node holds, without the order of slots and without policy revisions, which count changes."""
        maps = self.maps
        names = {k.id: k.id if with_ids else v._replace(state=0) for k, v in maps.backends.items()}
        slots = sorted(
            (k._replace(slot=0), v.service_id, names.get(v.backend_id, 0)) for k, v in maps.services.items() if k.slot
        )
        return {
            "slots beyond the count": len(slots) - sum(v.count for k, v in maps.services.items() if not k.slot),
            "heads": sorted(item for item in maps.services.items() if not item[0].slot),
            "slots": slots,
            "backends": sorted((names[k.id], v) for k, v in maps.backends.items()),
            "members": sorted((k.service_id, names.get(k.backend_id, 0)) for k, _ in maps.members.items()),
            "source ranges": sorted(maps.source_ranges.items()),
            "ipcache": sorted(maps.ipcache.items()),
            "policy": sorted(maps.policy.items()),
            "addresses": sorted((k, v._replace(policy_revision=0)) for k, v in maps.endpoints_by_address.items()),
            "interfaces": sorted((k, v._replace(policy_revision=0)) for k, v in maps.endpoints_by_ifindex.items()),
            "attached": sorted(self.interfaces.running),
        }

    def references(self) -> dict[Target, tuple[int, int, int]]:
        """Per backend: its id and its users."""
        entries = self.load_balancer.backends._entries
        return {target: (e.id, e.in_slots, e.draining) for target, e in entries.items()}


def frontend(
    name: str, chosen: list[Target], *, draining: list[Target] | None = None, port: int = 80, timeout_s: int = 0,
    address: str = "", protocol: str = "TCP", ranges: tuple[str, ...] | None = None,
) -> Frontend:  # fmt: skip
    key = FrontendKey(address or f"10.96.0.{ord(name)}", port, protocol)
    service = ServiceName("test", name)
    found = Frontend(
        key, service, "ClusterIP", "", tuple(chosen), tuple(draining or ()), timeout_s, source_ranges=ranges
    )
    return found if ranges is None else replace(found, reach=ServiceFlag.SOURCE_RANGES)


def backend(number: int | str, port: int = 8080, protocol: str = "TCP") -> Target:
    return Target(number if isinstance(number, str) else f"10.1.0.{number}", port, protocol, 1)


def prefix(text: str, identity: int = 70_000, tunnel: str = "172.18.0.3") -> Prefix:
    return Prefix(text, identity, tunnel, ClusterName("south"), ClusterId(2), ClaimOrigin.POD)


def verdicts(
    number: int, ports: list[int], *, mac: str = "", address: str = "", ifindex: int = 0, ipv6: tuple[str, ...] = ()
) -> EndpointVerdicts:
    address, mac = address or f"10.1.1.{number}", mac or f"02:00:00:00:00:{number:02x}"
    endpoint = Endpoint(address, number, ifindex or 100 + number, mac, "02:ff:00:00:00:01", 65_536 + 1, "test", "p")
    return EndpointVerdicts(replace(endpoint, ipv6=ipv6), policy(tuple(ports)))


def policy(ports: tuple[int, ...]) -> EndpointPolicy:
    """Ingress from everybody on these ports; not enforced without any."""
    context = PolicyContext("north", False)
    engine = Engine(context)
    subject = NumericIdentity(1 << 16 | 1)
    place = (Label("k8s", "io.cilium.k8s.policy.cluster", "north"), Label("k8s", "io.kubernetes.pod.namespace", "test"))
    engine.set_identity(subject, (Label("k8s", "app", "a"), *place))
    if ports:
        listed = [{"port": str(port), "protocol": "TCP"} for port in ports]
        spec = {"endpointSelector": {}, "ingress": [{"fromEntities": ["all"], "toPorts": [{"ports": listed}]}]}
        meta = {"name": "p", "namespace": "test"}
        document = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": meta, "spec": spec}
        engine.set_policy(parse_policy(document, context))
    return engine.endpoint_policy(subject)
