# SPDX-License-Identifier: Apache-2.0
"""The parts of one run of the program: what always exists, and what exists while a store is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clustermesh_apiserver.convert.confirmations import Confirmations
from clustermesh_apiserver.convert.exporter_set import ExporterSet
from clustermesh_apiserver.identity.allocator import IdentityAllocator
from clustermesh_apiserver.mirror.peers import Mirror
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.publish.own_store import OwnStore
from clustermesh_apiserver.publish.publisher import Publisher
from clustermesh_apiserver.renewal.keeper import CertificateKeeper
from clustermesh_apiserver.serve.facade_server import FacadeServer
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.tables import Tables
from kvstore.lease import LeaseSession
from kvstore.sharedstore import SharedStore
from meshapi.peer import RemoteCluster
from meshkit.clock import Clock
from meshkit.guard import Admit
from meshmodel.keys import Kind
from meshpeer.outside import Outside


@dataclass(frozen=True, slots=True)
class Publication:
    """One life of the store, and what works on it."""

    store: OwnStore
    publisher: Publisher
    exporters: ExporterSet
    mirror: Mirror | None

    def sessions(self) -> dict[str, LeaseSession]:
        """The leases that are kept, by what hangs on them."""
        mirrored = {"records of peers": self.mirror.session} if self.mirror is not None else {}
        return {"records of this cluster": self.publisher.session, **mirrored}


@dataclass(slots=True, kw_only=True)
class Apiserver:
    """Everything a run consists of. `publication` is None while no store is open, `store_error` says why.

    `started_s` is wall time; `status_port` is 0 until the status server listens. `admit` decides who
    may ask over the network. `keeper` is None where somebody else renews certificates.
    """

    settings: ApiserverSettings
    clock: Clock
    outside: Outside
    started_s: float
    tables: Tables
    problems: Problems
    source: Source
    confirmations: Confirmations
    allocator: IdentityAllocator
    facade_server: FacadeServer
    admit: Admit
    keeper: CertificateKeeper | None = None
    publication: Publication | None = None
    store_error: str = ""
    status_port: int = 0

    def peers(self) -> list[RemoteCluster]:
        """The peers that are mirrored."""
        mirror = self.publication.mirror if self.publication is not None else None
        return mirror.statuses() if mirror is not None else []

    def stores(self) -> Mapping[Kind, SharedStore]:
        """What is published, by kind; nothing while no store is open."""
        return self.publication.publisher.stores if self.publication is not None else {}
