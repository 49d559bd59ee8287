# SPDX-License-Identifier: Apache-2.0
"""Runs one script: Kubernetes objects go in, the records that are wanted and every write of them come out.

mode cilium slices mcs     what is read and published (default: cilium; or pods); opt-in: namespaces are not global
                           unless they say so; leases: what agents say of their pods is read
apply FILE...              objects of these sections arrive
delete KIND [NS/]NAME...   and go
listed                     every listing is complete
wants KIND FILE            exactly these records of the kind, `key value` per line, are wanted
writes [put|delete KIND/KEY ...]   exactly these changes since the last `writes`
synced KIND...             exactly these kinds are complete
networks NODE [NETWORK ...]  exactly these pod networks are announced for the node
problems [TEXT]            exactly one problem that contains the text, or none
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import yaml

from clustermesh_apiserver.convert.assembly import make_exporters
from clustermesh_apiserver.convert.confirmations import Confirmations
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.publish.announcement import kinds_of
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.plan import SourcePlan
from clustermesh_apiserver.tables import Tables
from kube.reflector import Delete, Synced, Upsert
from kube.resource import from_manifest, object_key
from meshkit.clock import ManualClock
from meshmodel.cluster_config import ExportMode
from meshmodel.endpointslice import decode as decode_slice
from meshmodel.identity import NumericIdentity
from meshmodel.keys import Kind
from meshmodel.labels import Labels
from meshmodel.node import decode as decode_node
from tests.support.script import Script


class Sink:
    """Remembers what is wanted and every change of it."""

    def __init__(self, kind: Kind, log: list[str]) -> None:
        self.kind, self.log = kind, log
        self.wanted: dict[bytes, bytes] = {}
        self.is_synced = False

    def upsert(self, key: bytes, value: bytes) -> None:
        if self.wanted.get(key) != value:
            self.wanted[key] = value
            self.log.append(f"put {self.kind.value}/{key.decode()}")

    def delete(self, key: bytes) -> None:
        if self.wanted.pop(key, None) is not None:
            self.log.append(f"delete {self.kind.value}/{key.decode()}")

    def mark_synced(self) -> None:
        self.is_synced = True


class Numbers:
    """Every label set gets the next number at once."""

    def __init__(self) -> None:
        self.known: dict[Labels, int] = {}

    def use(self, owner: str, labels: Labels) -> NumericIdentity | None:
        return NumericIdentity(self.known.setdefault(labels, 66000 + len(self.known)))

    def release(self, owner: str) -> None: ...


class ApiserverScript(Script):
    """One run of one script."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.log: list[str] = []
        modes = next((words[1:] for _, words in self.commands if words[0] == "mode"), ["cilium"])
        self._start(set(modes))

    def _start(self, modes: set[str]) -> None:
        mode = ExportMode.BOTH if "slices" in modes else ExportMode.SERVICES
        chosen = ApiserverSettings(cluster_name="c1", cluster_id=1, service_export_mode=mode, mcs_api="mcs" in modes)
        plan = SourcePlan(cilium="pods" not in modes, exports="mcs" in modes, cilium_slices="ces" in modes)
        self.tables, self.problems = Tables(), Problems(None, ManualClock())
        self.sinks = {kind: Sink(kind, self.log) for kind in kinds_of(chosen)}
        default = "opt-in" not in modes
        clock = ManualClock()
        confirmations = Confirmations(self.tables, now=clock.monotonic) if "leases" in modes else None
        self.source = Source(
            None,  # type: ignore[arg-type]
            self.tables,
            self.problems,
            lambda _: plan,
            default_global=default,
            confirmations=confirmations,
        )
        self.source.set_plan(plan)
        self.exporters = make_exporters(chosen, self.tables, self.sinks, Numbers())
        self.intakes = {intake.resource.kind: intake for intake in self.source.intakes}

    def run(self) -> None:
        """As Script.run, with a loop for the exporters."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.source.attach(self.exporters)
        super().run()
        self._check_exporters()

    def _check_exporters(self) -> None:
        faults = {key: why for exporter in self.exporters.by_kind.values() for key, why in exporter.failures.items()}
        assert faults == {}, "an exporter met what it cannot convert"

    def do_mode(self, *modes: str) -> None: ...

    def do_apply(self, *files: str) -> None:
        for name in files:
            for obj in yaml.safe_load_all(self.section(name)):
                obj["metadata"].setdefault("resourceVersion", "1")
                intake = self.intakes[from_manifest(obj).kind]
                intake.take([Upsert(object_key(obj), intake.strip(obj))])

    def do_delete(self, kind: str, *keys: str) -> None:
        self.intakes[kind].take([Delete(key, None) for key in keys])

    def do_listed(self) -> None:
        for intake in self.intakes.values():
            intake.take([Synced()])

    def do_wants(self, kind: str, name: str) -> None:
        wanted = sorted(self.sinks[Kind(kind)].wanted.items())
        self.compare(name, "\n".join(self._line(kind, key, value) for key, value in wanted))

    def do_writes(self, *words: str) -> None:
        self._check_exporters()
        expected = [" ".join(words[index : index + 2]) for index in range(0, len(words), 2)]
        found, self.log[:] = list(self.log), []
        assert sorted(found) == sorted(expected), f"writes were {found}"

    def do_synced(self, *kinds: str) -> None:
        found = {kind.value for kind, sink in self.sinks.items() if sink.is_synced}
        assert found == set(kinds), f"synced are {sorted(found)}"

    def do_networks(self, node: str, *networks: str) -> None:
        record = decode_node(node, self.sinks[Kind.NODES].wanted[node.encode()], cluster="c1", cluster_id=1)
        assert list(record.pod_cidrs) == list(networks), record.pod_cidrs

    def do_problems(self, *words: str) -> None:
        found = [problem.message for problem in self.problems.current()]
        if words:
            assert len(found) == 1, found
            assert " ".join(words) in found[0], found
        else:
            assert not found, found

    def _line(self, kind: str, key: bytes, value: bytes) -> str:
        if kind != Kind.ENDPOINT_SLICES:
            return f"{key.decode()} {value.decode()}"
        piece: Any = decode_slice(key.decode(), value, cluster="c1", cluster_id=1)
        ends = [f"{'+'.join(e.addresses)} ready={e.ready} serving={e.serving} zone={e.zone}" for e in piece.endpoints]
        return f"{key.decode()} {piece.service} {piece.address_type} {[p.name for p in piece.ports]} {'; '.join(ends)}"
