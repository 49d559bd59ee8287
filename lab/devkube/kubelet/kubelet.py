# SPDX-License-Identifier: Apache-2.0
"""All kubelets of one cluster: a task per pod that is bound to a node, and the way in for exec and logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from lab.devkube.api.error import ApiError, bad_request
from lab.devkube.api.objects import Obj, name_of, namespace_of, uid_of
from lab.devkube.api.runtime import ExecRequest, ExecSession, LogOptions, Output
from lab.devkube.api.store import ObjectEvent, ObjectEventType
from lab.devkube.kubelet.container_life import ContainerLife
from lab.devkube.kubelet.entering import open_session
from lab.devkube.kubelet.logs import log_file, read_log
from lab.devkube.kubelet.pod import PodLife
from lab.devkube.kubelet.record import ContainerRecord, Running
from lab.devkube.kubelet.site import NodeSite, Site
from lab.netns import socket_inside
from meshkit.task_group import TaskGroup

log = logging.getLogger(__name__)
PODS: Final = ("", "pods")
SOURCES: Final = (("", "configmaps"), ("", "secrets"))
RETRY_S: Final = 1.0


class Kubelets:
    """Runs the pods of a cluster's nodes; implements `lab.devkube.api.runtime.Runtime` for the API server."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._nodes: dict[str, NodeSite] = {plan.name: site.node(plan) for plan in site.plan.nodes}
        self._pods: dict[str, PodLife] = {}
        self._group: TaskGroup | None = None

    async def run(self) -> None:
        """Never returns; ends by cancellation, which ends the pods' tasks but not their processes."""
        unsubscribe = self._site.cluster.subscribe(self._note)
        try:
            async with TaskGroup() as group:
                self._group = group
                for pod in self._site.cluster.list("pods"):
                    self._see(pod)
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            unsubscribe()

    # -- from the API server's changes to pods' lives

    def _note(self, event: ObjectEvent) -> None:
        if event.resource.key == PODS:
            if event.type is ObjectEventType.DELETED:
                if life := self._pods.get(uid_of(event.object)):
                    life.vanish()
            else:
                self._see(event.object)
        elif event.resource.key in SOURCES:
            for life in self._pods.values():
                if namespace_of(life.pod) == namespace_of(event.object):
                    life.note_source(event.resource.plural, name_of(event.object))

    def _see(self, pod: Obj) -> None:
        uid = uid_of(pod)
        if life := self._pods.get(uid):
            life.update(pod)
        elif (node := self._nodes.get(pod["spec"].get("nodeName", ""))) and self._group is not None:
            life = self._pods[uid] = PodLife(self._site, node, pod)
            self._group.create_task(self._live(uid, life), name=f"pod-{name_of(pod)}")

    async def _live(self, uid: str, life: PodLife) -> None:
        """One pod's trouble stays with that pod."""
        try:
            await life.run()
        except* (OSError, ApiError, LookupError) as group:
            errors = "; ".join(repr(exc) for exc in group.exceptions)
            log.error("pod ended by an error", extra={"key": name_of(life.pod), "error": errors[:256]})
        finally:
            self._pods.pop(uid, None)

    # -- what the API server asks for

    async def exec(self, pod: Obj, request: ExecRequest, stdout: Output, stderr: Output) -> ExecSession:
        _, process_of = self._container(pod, request.container)
        process = process_of.process
        if process is None or not process.is_running:
            raise bad_request(f"container {process_of.record.name} of pod {name_of(pod)} is not running")
        return await open_session(process, request, stdout, stderr)

    def logs(self, pod: Obj, options: LogOptions) -> AsyncIterator[bytes]:
        """Raises: ApiError 400 at once where there is no log."""
        life, container = self._container(pod, options.container)
        record = container.record
        run = record.runs - (1 if options.previous else 0)
        if run < 1:
            what = "previous terminated " if options.previous else ""
            raise bad_request(f'{what}container "{record.name}" in pod "{name_of(pod)}" not found or waiting to start')
        path = log_file(life.directory, record.name, run)
        return read_log(path, options, lambda: _is_in_run(record, run))

    async def open_connection(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        node = self._nodes[self._site.plan.nodes[0].name]
        connection = socket_inside(node.names.netns)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
            return await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    def _container(self, pod: Obj, name: str) -> tuple[PodLife, ContainerLife]:
        life = self._pods.get(uid_of(pod))
        known = [record.name for record in life.containers] if life else []
        if name and life and name not in known and name not in [record.name for record in life.inits]:
            raise bad_request(f"container {name} is not valid for pod {name_of(pod)}")
        container = life.life(name) if life else None
        if life is None or container is None:
            which = name or (known[0] if known else "")
            raise bad_request(f'container "{which}" in pod "{name_of(pod)}" is waiting to start: ContainerCreating')
        return life, container


def _is_in_run(record: ContainerRecord, run: int) -> bool:
    return record.runs == run and isinstance(record.state, Running)
