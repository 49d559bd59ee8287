# SPDX-License-Identifier: Apache-2.0
"""Policy objects from Kubernetes, and what we have to say about each of them back to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.policy.compiler import PolicyCompiler
from agent.policy.condition import WITH_CONDITIONS, conditions_with
from agent.policy.shortfall import with_shortfall
from agent.tables import PolicyRow
from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from kube.events import emit_event
from kube.reflector import Change, Delete, Reflector, Synced, Upsert
from kube.resource import (
    KubeObject,
    Resource,
)
from meshapi.installed import AGENT
from meshkit.clock import Clock
from meshpolicy import PolicyRef
from meshpolicy.staged import STAGED_ANNOTATION

log = logging.getLogger(__name__)

REASON_INVALID = "InvalidPolicy"
REASON_PARTLY = "PolicyNotFullyEnforced"
MAX_PENDING_REPORTS = 1_000


class Report(NamedTuple):
    """What is to be said about one object: what `row` says, or which of our pods it is not enforced for as written."""

    resource: Resource
    document: KubeObject
    row: PolicyRow | None
    shortfall: str = ""


def strip_policy(item: KubeObject) -> KubeObject:
    """Only what the parser and the report need."""
    meta = item["metadata"]
    kept: KubeObject = {k: item[k] for k in ("apiVersion", "kind", "spec", "specs") if k in item}
    kept["metadata"] = {k: meta[k] for k in ("name", "namespace", "uid", "labels", "generation") if k in meta}
    if (staged := (meta.get("annotations") or {}).get(STAGED_ANNOTATION)) is not None:
        kept["metadata"]["annotations"] = {STAGED_ANNOTATION: staged}
    kept["status"] = {"conditions": (item.get("status") or {}).get("conditions") or []}
    return kept


class PolicySource:
    """One reflector per kind of policy. `on_change` is called after each batch; `reports` wait to be sent."""

    def __init__(
        self, client: KubeClient, compiler: PolicyCompiler, on_change: Callable[[], None], clock: Clock, node: str = ""
    ) -> None:
        self._node, self._shortfalls = node, dict[PolicyRef, str]()
        self._client, self._compiler, self._on_change, self._clock = client, compiler, on_change, clock
        self._documents: dict[PolicyRef, KubeObject] = {}
        self._reports: asyncio.Queue[Report] = asyncio.Queue(MAX_PENDING_REPORTS)
        self._said: dict[PolicyRef, tuple[bool, str]] = {}
        self._resources: dict[PolicyRef, Resource] = {}
        self.is_behind = False
        """Something was not told, because so much else waited to be."""

    async def run(self, resource: Resource, on_synced: Callable[[], None]) -> None:
        """Follow one kind until cancelled."""
        reflector = Reflector(self._client, resource, strip=strip_policy, optional=True)
        await reflector.run(lambda batch: self.take(resource, batch, on_synced))

    def take(self, resource: Resource, batch: Sequence[Change[KubeObject]], on_synced: Callable[[], None]) -> None:
        """Changes of one kind go to the compiler; then whoever waits for them is told."""
        is_synced = False
        for change in batch:
            if isinstance(change, Synced):
                is_synced = True
            elif isinstance(change, Upsert):
                self._set(resource, change.obj)
            elif isinstance(change, Delete):
                ref = _ref(resource, change.obj)
                self._documents.pop(ref, None)
                self._said.pop(ref, None)
                self._shortfalls.pop(ref, None)
                self._resources.pop(ref, None)
                self._compiler.remove_document(ref)
        self._on_change()
        if is_synced:
            on_synced()

    async def report(self) -> None:
        """Send reports as they come, until cancelled. A report that fails is logged; the object is still refused."""
        while True:
            report = await self._reports.get()
            try:
                await in_thread(self._send, report)
            except KubeError as exc:
                meta = report.document["metadata"]
                facts = {"policy": f"{meta.get('namespace', '')}/{meta['name']}", "error": str(exc)}
                log.warning("policy status could not be reported", extra=facts)

    def set_shortfalls(self, found: Mapping[PolicyRef, str]) -> None:
        """These policies, and no others, are not enforced for pods of this node as they are written."""
        for ref in self._shortfalls.keys() | found.keys():
            if (
                self._shortfalls.get(ref, "") != found.get(ref, "")
                and ref in self._documents
                and not self._reports.full()
            ):
                self._say_shortfall(ref, found.get(ref, ""))

    def _say_shortfall(self, ref: PolicyRef, text: str) -> None:
        self._shortfalls[ref] = text
        self._reports.put_nowait(Report(self._resources[ref], self._documents[ref], None, text))
        if not text:
            del self._shortfalls[ref]

    def _keep_shortfall(self, ref: PolicyRef) -> None:
        """What this node says stays on the object; what an earlier agent of it said goes when it is not so any more."""
        text, resource = self._shortfalls.get(ref, ""), self._resources[ref]
        if resource not in WITH_CONDITIONS or self._reports.full():
            return
        if with_shortfall(resource, self._documents[ref], self._node, text, 0.0) is not None:
            self._reports.put_nowait(Report(resource, self._documents[ref], None, text))

    def _set(self, resource: Resource, document: KubeObject) -> None:
        ref = _ref(resource, document)
        known = self._documents.get(ref)
        self._documents[ref], self._resources[ref] = document, resource
        self._keep_shortfall(ref)
        if known is not None and _meaning(known) == _meaning(document):
            return
        self._say(ref, self._compiler.set_document(document, ref))

    def say_again(self, rows: Iterable[PolicyRow]) -> None:
        """What these rows say is told where it was not: they may change with other policies than their own."""
        self.is_behind = False
        for row in rows:
            ref = PolicyRef(row.kind, row.namespace, row.name)
            if ref in self._documents:
                self._say(ref, row)

    def _say(self, ref: PolicyRef, row: PolicyRow) -> None:
        said, resource = (row.is_valid, row.message or "; ".join(row.problems)), self._resources[ref]
        if self._said.get(ref) == said:
            return
        if not row.is_valid:
            log.error("policy refused", extra={"policy": str(ref), "reason": row.message})
        elif row.problems:
            log.warning("policy accepted with problems", extra={"policy": str(ref), "reason": "; ".join(row.problems)})
        is_news = said != (True, "") or resource in WITH_CONDITIONS
        if is_news and self._reports.full():
            self.is_behind = True
            return
        self._said[ref] = said
        if is_news:
            self._reports.put_nowait(Report(resource, self._documents[ref], row))

    def _send(self, report: Report) -> None:
        """Blocks: a condition where the object has one, an Event where there is something to complain about."""
        row, document = report.row, report.document
        meta, now_s = document["metadata"], self._clock.wall()
        text = f"node {self._node}: {report.shortfall}" if report.shortfall else ""
        if row is not None:
            text = row.message or "; ".join(row.problems)
        if report.resource in WITH_CONDITIONS:
            if row is not None:
                conditions = conditions_with(report.resource, document, row, text, now_s)
            else:
                conditions = with_shortfall(report.resource, document, self._node, report.shortfall, now_s)
            if conditions is not None:
                self._client.patch_status(
                    report.resource, str(meta["name"]), {"conditions": conditions}, meta.get("namespace")
                )
        if text:
            reason = REASON_PARTLY if row is None or row.is_valid else REASON_INVALID
            emit_event(self._client, document, reason, text, wall_s=self._clock.wall(), component=AGENT)


def _meaning(document: KubeObject) -> tuple[object, ...]:
    """What decides about the policy: equal for objects that mean the same. Groups of addresses are selected by labels."""
    meta = document["metadata"]
    return (*(document.get(k) for k in ("apiVersion", "spec", "specs")), meta.get("annotations"), meta.get("labels"))


def _ref(resource: Resource, document: KubeObject) -> PolicyRef:
    meta = document["metadata"]
    return PolicyRef(resource.kind, meta.get("namespace", "") if resource.namespaced else "", meta["name"])
