# SPDX-License-Identifier: Apache-2.0
"""How each part is doing, from what the parts show: components for /readyz, one status record for everybody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from clustermesh_apiserver.apiserver import Apiserver, Publication
from clustermesh_apiserver.convert.confirmations import Confirmations, WaitingNode
from clustermesh_apiserver.convert.identity import IdentityRefusal
from clustermesh_apiserver.source.follow import NOT_WAITED_FOR
from kvstore.lease import LeaseSession
from meshapi.agent import AgentStatus
from meshapi.apiserver import NOT_SEEN, ApiserverStatus, FacadeSession
from meshapi.installed import AGENT_SELECTOR
from meshkit.errors import MAXIMUM_TEXT
from meshkit.health import Health
from meshkit.version import program_version
from meshmodel.keys import Kind

MAX_PROBLEMS: Final = 100
SAID_AFTER_S: Final = 10.0
LOSS_SAID_S: Final = 600.0
"""A pod that waits this long for its node's agent is a problem; before, it is starting."""


def report_health(apiserver: Apiserver, health: Health) -> bool:
    """Every component has said how it is; True if the program may be called ready."""
    _report_kubernetes(apiserver, health)
    if apiserver.publication is None:
        health.starting("store", apiserver.store_error or "etcd is not open yet")
        health.starting("publish")
    else:
        publisher = apiserver.publication.publisher
        _report_store(apiserver.publication, health)
        missing = [kind.value for kind, written in publisher.stores.items() if not written.synced.is_set()]
        health.starting("publish", f"not complete: {', '.join(missing)}") if missing else health.ok("publish")
    _report_mirror(apiserver, health)
    if apiserver.keeper is not None:
        problem = "; ".join(apiserver.keeper.problems)
        health.degraded("certificates", problem) if problem else health.ok("certificates")
    waiting = _long_waiting(apiserver.confirmations, apiserver.clock.monotonic())
    if waiting:
        health.degraded(
            "announcements", f"pods wait to be confirmed on {', '.join(w.node for w in waiting)}"[:MAXIMUM_TEXT]
        )
    else:
        health.ok("announcements")
    if apiserver.facade_server.facade is None:
        health.starting("facade", "; ".join(apiserver.facade_server.problems) or "not serving yet")
    else:
        health.ok("facade")
    return health.ready()


def make_status(apiserver: Apiserver, health: Health, agents: list[AgentStatus] | None = None) -> ApiserverStatus:
    """The whole program at one look."""
    ready = report_health(apiserver, health)
    publication, stores = apiserver.publication, apiserver.stores()
    etcd = publication.store.status if publication is not None else None
    return ApiserverStatus(
        cluster=apiserver.settings.cluster_name,
        cluster_id=apiserver.settings.cluster_id,
        max_connected_clusters=apiserver.settings.max_connected_clusters,
        version=program_version(),
        ready=ready,
        started=apiserver.started_s,
        now=apiserver.clock.wall(),
        source=apiserver.source.name,
        published={kind.value: len(written.wanted) for kind, written in stores.items()},
        synced={kind.value: written.synced.is_set() for kind, written in stores.items()},
        etcd_version=etcd.version if etcd is not None else "",
        certificate_not_after=apiserver.facade_server.not_after_s,
        sessions=_sessions(apiserver),
        health={name: part.level.value for name, part in health.snapshot().items()},
        peers=apiserver.peers(),
        agents=agents or [],
        problems=problems(apiserver)[:MAX_PROBLEMS],
    )


def problems(apiserver: Apiserver) -> list[str]:
    """Everything a person should look at, as sentences."""
    found = list(apiserver.facade_server.problems)
    found += apiserver.keeper.problems if apiserver.keeper is not None else ()
    source, publication = apiserver.source, apiserver.publication
    facade = apiserver.facade_server.facade
    limited = [client for client in facade.clients() if client.limit] if facade is not None else []
    found += [f"client {client.name} of the facade is at its limit of {client.limit}" for client in limited]
    found += [f"kubernetes {name}: {p.last_error}" for name, p in sorted(source.progress.items()) if p.failures]
    unreadable = [intake for intake in source.intakes if intake.unreadable]
    found += [f"{intake.unreadable} times {intake.resource.plural} could not be understood" for intake in unreadable]
    if apiserver.allocator.last_error:
        found.append(f"identities cannot be allocated: {apiserver.allocator.last_error}")
    found += waiting_problems(apiserver.confirmations, apiserver.clock.monotonic(), apiserver.clock.wall())
    if publication is not None:
        found += _publication_problems(publication, apiserver.clock.monotonic())
    for kind, what in ((Kind.IDENTITIES, "identities"), (Kind.IPS, "pods or endpoints")):
        counts = sorted(refused(apiserver, kind).items())
        found += [_unpublished(apiserver, count, what, reason) for reason, count in counts]
    return found + [f"{problem.subject}: {problem.message}" for problem in apiserver.problems.current()]


def _unpublished(apiserver: Apiserver, count: int, what: str, reason: str) -> str:
    """Pods whose numbers are of another cluster id are away for every peer, and only a person can decide which id is right."""
    if reason != IdentityRefusal.OUT_OF_RANGE or "pods" not in what:
        return f"{count} {what} not published: {reason}"
    return (
        f"{NOT_SEEN}{count} {what} whose identities are out of the range of cluster id {apiserver.settings.cluster_id}: "
        "put back the id that the cluster had, or delete those identities (kubectl delete ciliumidentity NUMBER), which are "
        "then made anew"
    )


def waiting_problems(confirmations: Confirmations, now_s: float, wall_s: float) -> list[str]:
    """Pods that peers do not hear of, as their node's agent has not confirmed them, and what to do about it."""
    found = []
    for waiting in _long_waiting(confirmations, now_s):
        since = datetime.fromtimestamp(wall_s - (now_s - waiting.since_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        last = f"wrote last at {waiting.renewed}" if waiting.renewed else "never wrote"
        found.append(
            f"node {waiting.node}: {len(waiting.pods)} pods are not announced to peers since {since}, first "
            f"{waiting.pods[0]}: the node's agent has not confirmed them and {last}; look at its pod "
            f"({AGENT_SELECTOR}, spec.nodeName={waiting.node}), or move the pods to another node"
        )
    strangers = [(ip, key) for ip, key, since_s in confirmations.strangers() if now_s - since_s >= SAID_AFTER_S]
    if strangers:
        ip, key = strangers[0]
        found.append(
            f"{len(strangers)} addresses in EndpointSlices are said to be pods, no pod has them, and they are not announced: "
            f"first {ip} in {key}"
        )
    if silent := confirmations.silent_nodes():
        found.append(
            f"{len(silent)} nodes have no agent that confirms pods, first {silent[0]}: their pods are announced at once; "
            "update or start the agent there"
        )
    return found


def _long_waiting(confirmations: Confirmations, now_s: float) -> list[WaitingNode]:
    return [waiting for waiting in confirmations.waiting() if now_s - waiting.since_s >= SAID_AFTER_S]


def lease_problems(sessions: Mapping[str, LeaseSession], now_s: float) -> list[str]:
    """Leases that ended early of late: readers were without the records on them for a while, and cannot tell why."""
    return [
        f"a lease under {loss.keys} {what} ended early {now_s - loss.at_s:.0f} s ago ({session.losses} were lost since the "
        "start): peers took these records for deleted until they were written again; see who may revoke leases in the store, "
        "and whether this program was held up for longer than lease-ttl"
        for what, session in sessions.items()
        if (loss := session.early_loss) is not None and now_s - loss.at_s < LOSS_SAID_S
    ]


def _publication_problems(publication: Publication, now_s: float) -> list[str]:
    store = publication.store
    found = [f"store: {store.problem}"] if store.problem else []
    found += store.warnings
    found += lease_problems(publication.sessions(), now_s)
    for kind, exporter in publication.exporters.by_kind.items():
        found += [f"{kind.value} {key} not converted: {why}" for key, why in sorted(exporter.failures.items())]
    for kind, written in publication.publisher.stores.items():
        found += [f"etcd rejected {count} {kind.value}: {why}" for why, count in written.rejected.items()]
    if publication.mirror is not None:
        found += [f"mirror file {name}: {why}" for name, why in sorted(publication.mirror.refused.items())]
        peers = publication.mirror.statuses()
        found += [f"mirrored peer {peer.name}: {warning}" for peer in peers for warning in peer.warnings]
    return found


def refused(apiserver: Apiserver, kind: Kind) -> dict[str, int]:
    """Of how many rows something is not published because every reader would reject it, by reason."""
    publication = apiserver.publication
    exporter = publication.exporters.by_kind.get(kind) if publication is not None else None
    return dict(Counter(reason.value for reason in exporter.refused.values())) if exporter is not None else {}


def _sessions(apiserver: Apiserver) -> list[FacadeSession]:
    facade = apiserver.facade_server.facade
    return [
        FacadeSession(
            name=info.name, address=info.address, since=info.since_s, watches=info.watches, bytes_sent=info.bytes_sent
        )
        for info in (facade.connections() if facade is not None else ())
    ]


def _report_store(publication: Publication, health: Health) -> None:
    """A store that takes no records is degraded, as peers and agents still read it; one that does not answer is failed."""
    store, error = publication.store, publication.publisher.last_error
    if store.is_silent:
        health.failed("store", store.problem)
    elif store.problem or error:
        health.degraded("store", store.problem or error)
    else:
        health.ok("store")


def _report_mirror(apiserver: Apiserver, health: Health) -> None:
    mirror = apiserver.publication.mirror if apiserver.publication is not None else None
    if mirror is None:
        return
    if waiting := mirror.blocking():
        health.starting("mirror", f"copying: {', '.join(waiting)}")
        return
    away = [peer.name for peer in apiserver.peers() if not peer.ready]
    health.degraded("mirror", f"not complete: {', '.join(away)}") if away else health.ok("mirror")


def _report_kubernetes(apiserver: Apiserver, health: Health) -> None:
    source = apiserver.source
    if source.plan is None:
        health.starting("kubernetes", "not reached yet")
        return
    waited_for = [(name, progress) for name, progress in source.progress.items() if name not in NOT_WAITED_FOR]
    listing = [name for name, progress in waited_for if not progress.synced]
    broken = [name for name, progress in source.progress.items() if progress.failures]
    if listing or not source.progress:
        health.starting("kubernetes", f"listing: {', '.join(sorted(listing))}")
    elif broken:
        health.degraded("kubernetes", f"not connected: {', '.join(sorted(broken))}")
    else:
        health.ok("kubernetes")
