# SPDX-License-Identifier: Apache-2.0
"""The only verbs on the load-balancing tables. Each call leaves the frontends of that service as its inputs say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from agent.loadbalancer.addresses import AddressRules, Network
from agent.loadbalancer.backend_set import make_backend_set
from agent.loadbalancer.chooser import RANDOM, Chooser, Consistency, Leads
from agent.loadbalancer.frontend import (
    ALL_ADDRESSES,
    at_node,
    families_of,
    frontend_keys,
    is_ipv6,
    key_of,
    leads,
    make_frontend,
    pairs_of,
)
from agent.loadbalancer.limit import BackendLimit
from agent.loadbalancer.ownership import CLUSTER_IP, Claim, Contests, claim_of, describe_loss
from agent.loadbalancer.slot_room import SlotRoom
from agent.settings import AgentSettings
from agent.tables import (
    NO_HINTS,
    Address,
    AgentDB,
    Backend,
    BackendSet,
    Frontend,
    FrontendKey,
    PeerHealth,
    Service,
    ServicePort,
    ServiceProblems,
)
from agent.wanted_backends import WantedBackends
from meshkit.clock import Clock, SystemClock
from meshkit.wake import Wake
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.steering import NO_STEERING


class LoadBalancerWriter:
    """Writes services, backends, frontends and service problems; every method must be called inside `db.write()`."""

    def __init__(
        self,
        db: AgentDB,
        external_ranges: Sequence[Network] = (),
        max_frontends: int = AgentSettings.service_frontends_max,
        max_backends: int = AgentSettings.service_backends_max,
        clock: Clock | None = None,
        *,
        scope: str = AgentSettings.services,
        consistency: Consistency = RANDOM,
        is_dual: bool = False,
    ) -> None:
        """`is_dual`: services have frontends of IPv6 too."""
        self._clock = clock or SystemClock()
        self._db, self._max_frontends = db, max_frontends
        self.wanted, self._limit = WantedBackends(is_dual, max_backends), BackendLimit(max_backends)
        self._scope, self.is_dual = scope, is_dual
        self._rules = AddressRules(db, external_ranges, self._owner_of_cluster_ip)
        self._contests = Contests()
        self._cluster_ips: dict[str, tuple[ServiceName, ...]] = {}
        self._outside: dict[str, set[ServiceName]] = {}  # who claims an address that is not its cluster IP
        self._keys: dict[
            ServiceName, Mapping[tuple[Address, ServicePort], None]
        ] = {}  # of services that do not get all
        self._refusals: dict[ServiceName, tuple[str, ...]] = {}
        self._mismatches: dict[ServiceName, tuple[str, ...]] = {}
        self.chooser = Chooser(db, self._clock, consistency)
        self.due_changed = Wake()

    def set_service(self, service: Service) -> None:
        """The service is as given, and so are its frontends; ports and addresses it no longer has are gone."""
        old = self._db.services.get(service.name)
        if not self._db.services.put(service):
            return
        moved = self._note_addresses(service.name, () if old is None else old.addresses, service.addresses)
        self._remember(service)
        self._place(service, () if old is None else frontend_keys(old))
        for ip in moved:
            self.reconsider_address(ip)

    def delete_service(self, name: ServiceName) -> None:
        """No frontend of the service is left. What peers contribute to it stays known."""
        old = self._db.services.get(name)
        if old is None:
            return
        self._db.services.delete(name)
        for key in frontend_keys(old):
            self._delete_frontend(key, name)
        for known in (self._keys, self._refusals, self._mismatches):
            known.pop(name, None)
        self.chooser.memory.forget(name)
        self._tell(name)
        for ip in self._note_addresses(name, old.addresses, ()):
            self.reconsider_address(ip)

    def set_backends(
        self,
        name: ServiceName,
        cluster: ClusterName,
        cluster_id: ClusterId,
        backends: Sequence[Backend],
        wall_s: float,
        *,
        unready: int = 0,
        unready6: int = 0,
        is_withheld: bool = False,
        left_out: str = "",
    ) -> None:
        """The cluster's whole contribution to the service is `backends`; nothing of it is left when they are empty.

        `unready`: how many more are known of the own cluster, and are not ready; `unready6`: of IPv6. `is_withheld`: there are
        some, not for us. `left_out`: why they are not all.
        """
        backends, is_news = self._limit.cut(name, cluster, backends, left_out)
        row: BackendSet | None = None
        if backends or is_withheld:
            self.chooser.know_cluster(cluster)
            row = make_backend_set(
                name, cluster, cluster_id, backends, wall_s, is_dual=self.is_dual, is_withheld=is_withheld
            )
            changed = self._db.backends.put(row)
        else:
            changed = self._db.backends.delete((name, cluster))
        if cluster == self._db.own and self._note_unready(name, unready, unready6):
            known = self._db.services.get(name)
            changed |= known is not None and known.steering.threshold_percent > 0
        service = self._db.services.get(name) if changed else None
        if service is not None and (service.is_global or cluster == self._db.own):
            self.chooser.memory.note_backends(
                name, cluster, row, self._clock.monotonic(), is_listing=not self._db.frontends.initialized
            )
            self._select(service, wall_s)
        if is_news:
            self._tell(name)

    def _note_unready(self, name: ServiceName, unready: int, unready6: int) -> bool:
        memory = self.chooser.memory
        return memory.note_unready(name, unready) | memory.note_unready(name, unready6, is_ipv6=True)

    def drain_cluster(self, cluster: ClusterName) -> None:
        """Nothing the cluster contributed is left anywhere."""
        for row in [b for b in self._db.backends.rows() if b.cluster == cluster]:
            self.set_backends(row.service, cluster, row.cluster_id, (), 0.0)

    def set_peer(self, peer: PeerHealth) -> None:
        """A withdrawn peer's backends count as unhealthy from here on; a peer that is back counts again."""
        if self._db.peers.put(peer):
            self._select_all({b.service for b in self._db.backends.rows() if b.cluster == peer.name})

    def set_drained(self, clusters: frozenset[ClusterName]) -> None:
        """Backends of exactly these clusters take no new connections from here on, where others can."""
        changed, self._db.drained = clusters ^ self._db.drained, clusters
        if changed:
            self._select_all({row.service for row in self._db.backends.rows() if row.cluster in changed})

    def delete_peer(self, name: ClusterName) -> None:
        self._db.peers.delete(name)

    def set_unreachable(self, addresses: frozenset[str]) -> None:
        """Backends at exactly these addresses count as unhealthy from here on: their node cannot be reached from here."""
        changed, self.chooser.unreachable = addresses ^ self.chooser.unreachable, addresses
        if changed:
            rows = self._db.backends.rows()
            self._select_all({r.service for r in rows if any(b.address in changed for b in r.of_both_families)})

    def set_failing(self, failing: Mapping[ServiceName, frozenset[tuple[str, str]]]) -> None:
        """Own pods, by node and address, that fail the health probe of each service: unhealthy from here on, and no others."""
        before, self.chooser.failing = self.chooser.failing, failing
        names = before.keys() | failing.keys()
        self._select_all({name for name in names if before.get(name) != failing.get(name)})

    def set_zone(self, zone: str) -> None:
        """This node is in `zone` from here on; backends may be meant for it."""
        if zone != self.chooser.here.zone:
            self.chooser.here = self.chooser.here._replace(zone=zone)
            rows = self._db.backends.rows()
            self._select_all({r.service for r in rows if any(b.hints is not NO_HINTS for b in r.of_both_families)})

    def reselect_due(self) -> None:
        """Services whose choice depends on how much time has passed are as they are to be now."""
        self._select_all(self.chooser.memory.take_due(self._clock.monotonic()))

    def reconsider_address(self, ip: str) -> None:
        """Services that claim this address by another field than clusterIP are judged again: it may be a cluster IP now."""
        for name in sorted(self._outside.get(ip, ())):
            service = self._db.services.get(name)
            if service is not None:
                self._place(service, frontend_keys(service))

    @property
    def outside_addresses(self) -> Collection[str]:
        """Addresses that services claim and that Kubernetes did not give them."""
        return self._outside.keys()

    # ---- selection

    def _select_all(self, names: Iterable[ServiceName]) -> None:
        for name in sorted(names):
            service = self._db.services.get(name)
            if service is not None:
                self._select(service)

    def _select(self, service: Service, wall_s: float = 0.0) -> None:
        """Every frontend the service has is chosen anew."""
        mismatches: list[str] = []
        limited, room = self._keys.get(service.name), SlotRoom(mismatches)
        for port in service.ports:
            for family in families_of(service):
                inside: Leads = ((), ())
                outside = inside
                if room.is_left:
                    inside = outside = self.chooser.targets_of(service, port, mismatches, is_ipv6=family)
                if (
                    room.is_left
                    and service.is_internal_local
                    and (port.node_port or any(a.kind != CLUSTER_IP for a in service.addresses))
                ):
                    outside = self.chooser.targets_of(service, port, [], is_inside=False, is_ipv6=family)
                has_room = room.take(port, max(len(inside[0]), len(outside[0])))
                pairs = [(a, port) for a in service.addresses if is_ipv6(a) == family and leads(a, port)]
                if not family and port.node_port:
                    pairs.append((ALL_ADDRESSES, at_node(port)))
                for address, at in pairs if limited is None else [pair for pair in pairs if pair in limited]:
                    if has_room:
                        targets = inside if address.kind == CLUSTER_IP else outside
                        self._put_frontend(self._frontend(service, address, at, targets, wall_s))
                    else:
                        self._delete_frontend(key_of(address, at), service.name)
        if service.steering is not NO_STEERING and self.chooser.memory.schedule(service, self._clock.monotonic()):
            self.due_changed.set()
        if mismatches or service.name in self._mismatches:
            self._mismatches[service.name] = tuple(dict.fromkeys(mismatches))
            self._tell(service.name)

    def _frontend(
        self, service: Service, address: Address, port: ServicePort, targets: Leads, wall_s: float
    ) -> Frontend:
        is_consistent = self.chooser.is_consistent(service)
        return make_frontend(service, address, port, targets, wall_s, scope=self._scope, is_consistent=is_consistent)

    def _remember(self, service: Service) -> None:
        """What selection is to know of the past of a service that is new, or asks for something new."""
        if service.steering is NO_STEERING and not self.chooser.memory.knows(service.name):
            return
        rows = self.chooser.rows_of(service.name)
        clusters = {self._db.own, *self._db.peers.keys()} if self._db.frontends.initialized else set()
        empty = clusters - {row.cluster for row in rows}
        self.chooser.memory.note_service(service, rows, empty, self._clock.monotonic())

    # ---- addresses

    def _note_addresses(self, name: ServiceName, old: Sequence[Address], new: Sequence[Address]) -> list[str]:
        """Who claims what is known; returns the cluster IPs that have another owner now."""
        moved = []
        for address in old:
            if address in new:
                continue
            if address.kind == CLUSTER_IP:
                owners = tuple(n for n in self._cluster_ips.pop(address.ip, ()) if n != name)
                if owners:
                    self._cluster_ips[address.ip] = owners
                moved.append(address.ip)
            else:
                self._outside.get(address.ip, set()).discard(name)
                if not self._outside.get(address.ip):
                    self._outside.pop(address.ip, None)
        for address in new:
            if address.kind != CLUSTER_IP:
                self._outside.setdefault(address.ip, set()).add(name)
            elif name not in (owners := self._cluster_ips.get(address.ip, ())):
                self._cluster_ips[address.ip] = tuple(sorted((*owners, name)))
                moved.append(address.ip)
        return [ip for ip in moved if ip in self._outside]

    def _owner_of_cluster_ip(self, ip: str, asking: ServiceName) -> ServiceName | None:
        return next((name for name in self._cluster_ips.get(ip, ()) if name != asking), None)

    def _place(self, service: Service, had: Collection[FrontendKey]) -> None:
        """The service has the frontends it may have, and no longer those it may not."""
        self._judge_addresses(service)
        if had:
            has = {key_of(address, port) for address, port in self._keys_of(service)}
            for key in had:
                if key not in has:
                    self._delete_frontend(key, service.name)
        self._select(service)
        if (
            service.unsupported
            or service.name in self._refusals
            or service.name in self._db.service_problems
            or self._limit.problems(service.name)
        ):
            self._tell(service.name)

    def _judge_addresses(self, service: Service) -> None:
        """What the service asks for and does not get is noted."""
        for known in (self._keys, self._refusals):
            known.pop(service.name, None)
        most = (len(service.addresses) + 1) * len(service.ports)
        if most <= self._max_frontends and all(a.kind == CLUSTER_IP for a in service.addresses):
            return
        pairs = pairs_of(service)
        refusals = {a: text for a in service.addresses if (text := self._rules.refusal(service, a))}
        allowed = tuple(pair for pair in pairs if pair[0] not in refusals)
        said = list(refusals.values())
        if len(allowed) > self._max_frontends:
            said.append(
                f"{len(allowed)} addresses times ports are more than {self._max_frontends} (service-frontends-max): "
                f"{key_of(*allowed[self._max_frontends])} and what follows is left out"
            )
        if said:
            self._keys[service.name] = dict.fromkeys(allowed[: self._max_frontends])
            self._refusals[service.name] = tuple(said)

    def _keys_of(self, service: Service) -> Collection[tuple[Address, ServicePort]]:
        found = self._keys.get(service.name)
        return pairs_of(service) if found is None else found

    def _put_frontend(self, frontend: Frontend) -> None:
        key, name = frontend.key, frontend.service
        if key not in self._contests:
            old = self._db.frontends.get(key)
            if old is None or old.service == name or not self._has_claim(old.service, key):
                self._db.frontends.put(frontend)
                return
            self._contests.join(key, (old.service,))
        self._contests.join(key, (name,))
        if self._claims(self._contests.rivals(key), key)[0].service == name:
            self._db.frontends.put(frontend)
        self._award(key)

    def _delete_frontend(self, key: FrontendKey, name: ServiceName) -> None:
        row = self._db.frontends.get(key)
        if row is not None and row.service == name:
            self._db.frontends.delete(key)
        if key in self._contests:
            left = self._contests.leave(key, name)
            self._award(key, left)

    def _award(self, key: FrontendKey, claimants: Sequence[ServiceName] = ()) -> None:
        """The strongest claim has the frontend, and the others are told."""
        claimants = claimants or self._contests.rivals(key)
        claims = self._claims(claimants, key)
        row = self._db.frontends.get(key)
        if claims and (row is None or row.service != claims[0].service):
            service = self._db.services.get(claims[0].service)
            assert service is not None
            address, port = next(pair for pair in self._keys_of(service) if key_of(*pair) == key)
            targets = self.chooser.targets_of(
                service, port, [], is_inside=address.kind == CLUSTER_IP, is_ipv6=is_ipv6(address)
            )
            self._db.frontends.put(self._frontend(service, address, port, targets, 0.0))
        for name in claimants:
            self._tell(name)

    def _claims(self, claimants: Iterable[ServiceName], key: FrontendKey) -> list[Claim]:
        """The strongest first."""
        services = (self._db.services.get(name) for name in claimants)
        return sorted(c for s in services if s is not None and (c := claim_of(s, key)) is not None)

    def _has_claim(self, name: ServiceName, key: FrontendKey) -> bool:
        service = self._db.services.get(name)
        return service is not None and any(key_of(*pair) == key for pair in self._keys_of(service))

    def _tell(self, name: ServiceName) -> None:
        """The service's problems are those known now."""
        service = self._db.services.get(name)
        found = [] if service is None else [*service.unsupported]
        found += [*self._refusals.get(name, ()), *self._limit.problems(name), *self._mismatches.get(name, ())]
        for key in self._contests.of(name):
            claims = self._claims(self._contests.rivals(key), key)
            found += [describe_loss(key, claim, claims[0]) for claim in claims[1:] if claim.service == name]
        if service is None or not found:
            self._db.service_problems.delete(name)
        else:
            self._db.service_problems.put(ServiceProblems(name, service.uid, tuple(found)))
