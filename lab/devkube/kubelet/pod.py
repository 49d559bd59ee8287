# SPDX-License-Identifier: Apache-2.0
"""The life of one pod on its node: network, volumes, containers, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import shutil
from typing import Final

from lab import cgroup
from lab.devkube.api.error import ApiError
from lab.devkube.api.objects import Obj, copy_object, is_deleting, items_of, name_of, namespace_of, part, uid_of
from lab.devkube.controllers.desired import set_status
from lab.devkube.controllers.events import WARNING
from lab.devkube.kubelet.capabilities import kept_capabilities
from lab.devkube.kubelet.container_life import ContainerLife, Surroundings
from lab.devkube.kubelet.environment import DownwardFacts, MissingSourceError, container_environment, expand_all
from lab.devkube.kubelet.logs import log_file
from lab.devkube.kubelet.podvolumes import PodVolumes, source_names
from lab.devkube.kubelet.privileges import setpriv_words
from lab.devkube.kubelet.process import Launch
from lab.devkube.kubelet.record import ContainerRecord, PodPlace, Terminated, pod_status
from lab.devkube.kubelet.site import NodeSite, Site, hostname_of, hosts_file, resolv_conf
from lab.images.table import SYSTEM_PATH, Image, command_line
from lab.names import netns_path
from lab.pod_network import PodLink, attach_pod, detach_pod
from meshkit.task_group import TaskGroup

log = logging.getLogger(__name__)
VOLUME_RETRY_S: Final = 1.0


class PodLife:
    """One pod; `run` returns when the pod is gone from the machine and from the API server."""

    def __init__(self, site: Site, node: NodeSite, pod: Obj) -> None:
        self._site, self._node, self.pod = site, node, copy_object(pod)
        self.directory = node.directory(pod)
        self.inits = [ContainerRecord(spec) for spec in items_of(pod["spec"], "initContainers")]
        self.containers = [ContainerRecord(spec) for spec in items_of(pod["spec"], "containers")]
        self._lives: dict[str, ContainerLife] = {}
        self._link: PodLink | None = None
        self._place = PodPlace("", node.plan.address, site.wall())
        self._volumes = PodVolumes(site, node, self.directory)
        self._ending = asyncio.Event()
        self._sources = asyncio.Event()
        self._forced = False
        self.update(pod)

    # -- what the kubelet tells the pod

    def update(self, pod: Obj) -> None:
        """The pod's object changed; a deletion timestamp in it begins the end."""
        self.pod = copy_object(pod)
        if is_deleting(self.pod):
            self._ending.set()

    def vanish(self) -> None:
        """The pod's object is gone already: end without any grace."""
        self._forced = True
        self._ending.set()

    def note_source(self, plural: str, name: str) -> None:
        """A ConfigMap or Secret of the pod's namespace changed."""
        if (plural, name) in source_names(self.pod):
            self._sources.set()

    def life(self, container: str) -> ContainerLife | None:
        """The named container's life; without a name the first one's."""
        name = container or self.containers[0].name
        return self._lives.get(name)

    async def run(self) -> None:
        try:
            async with TaskGroup() as group:
                living = group.create_task(self._live(), name=f"pod-{name_of(self.pod)}")
                await self._ending.wait()
                living.cancel()
        finally:
            await self._end()

    # -- from nothing to running

    async def _live(self) -> None:
        await self._attach()
        await self._write_volumes()
        for record in self.inits:
            life = self._new_life(record, policy="OnFailure")
            if self.pod["spec"].get("restartPolicy") == "Never":
                life = self._new_life(record, policy="Never")
            await life.run()
            if isinstance(record.state, Terminated) and record.state.code:
                return
        async with TaskGroup() as group:
            group.create_task(self._refresh_volumes(), name="volumes")
            for record in self.containers:
                life = self._new_life(record, policy=self.pod["spec"].get("restartPolicy", "Always"))
                group.create_task(life.run(), name=f"container-{record.name}")

    async def _attach(self) -> None:
        if self.pod["spec"].get("hostNetwork"):
            address = self._node.plan.address
        else:
            address = self._node.addresses.take()
            loop = asyncio.get_running_loop()
            names = self._node.names.netns, self._site.lab.pod_netns(uid_of(self.pod))
            self._link = await loop.run_in_executor(
                self._site.network, attach_pod, *names, address, self._node.plan, self._site.cni
            )
        self._place = PodPlace(address, self._node.plan.address, self._place.started_s)
        self.report()

    async def _write_volumes(self) -> None:
        while True:
            self._sources.clear()
            try:
                self._volumes.write(self.pod, self._facts())
                return
            except MissingSourceError as exc:
                self._emit("FailedMount", f"MountVolume.SetUp failed: {exc}", WARNING)
            try:
                async with asyncio.timeout(VOLUME_RETRY_S):
                    await self._sources.wait()
            except TimeoutError:
                continue

    async def _refresh_volumes(self) -> None:
        while True:
            await self._sources.wait()
            await self._write_volumes()

    def _new_life(self, record: ContainerRecord, policy: str) -> ContainerLife:
        around = Surroundings(
            pod=lambda: self.pod,
            find_image=self._site.find_image,
            launch=self._launch,
            report=self.report,
            emit=self._emit,
            wall=self._site.wall,
            address=self._place.address,
            node_netns=self._node.names.netns,
        )
        life = self._lives[record.name] = ContainerLife(record, around, policy=policy)
        return life

    def _launch(self, record: ContainerRecord, image: Image) -> Launch:
        hostname = hostname_of(self.pod, self._node.plan)
        base = {"PATH": SYSTEM_PATH, "HOME": "/root", "HOSTNAME": hostname, **self._site.service_environment()}
        base |= image.environment
        environment = container_environment(self.pod, record.spec, base, self._facts(), self._site.find)
        spec = record.spec
        command = expand_all(spec.get("command") or [], environment)
        arguments = expand_all(spec.get("args") or [], environment)
        files = {
            **image.files,
            "/etc/resolv.conf": resolv_conf(self.pod, self._site.plan),
            "/etc/hosts": hosts_file(self.pod, self._place.address, hostname),
            "/etc/hostname": hostname + "\n",
        }
        mounts = self._volumes.mounts(self.pod, spec)
        started = command_line(image, command, arguments)
        if image.root:
            started = (*setpriv_words(self.pod, spec), *started)
        else:  # the machine's own programs, for which the pod is root
            mounts = [*self._site.machine_mounts, *mounts]
        return Launch(
            directory=self.directory / "containers" / record.name,
            hostname=hostname,
            netns=netns_path(self._link.netns if self._link else self._node.names.netns),
            cgroup=self._node.cgroup(self.pod),
            command=started,
            environment=environment,
            mounts=tuple(mounts),
            files=files,
            log=log_file(self.directory, record.name, record.runs + 1),
            working_directory=spec.get("workingDir") or "/",
            root=image.root,
            capabilities="" if image.root else kept_capabilities(spec),
        )

    def _facts(self) -> DownwardFacts:
        return DownwardFacts(self._place.address, self._place.host_address)

    # -- the end

    async def _end(self) -> None:
        """Stop what runs, tell the API server, remove what is left."""
        grace_s = 0.0 if self._forced else float(self.pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        async with TaskGroup() as group:
            for life in self._lives.values():
                group.create_task(life.stop(grace_s))
        self._site.cluster.remove("pods", name_of(self.pod), namespace_of(self.pod), uid=uid_of(self.pod))
        await asyncio.to_thread(cgroup.kill, self._node.cgroup(self.pod))
        await asyncio.to_thread(cgroup.remove, self._node.cgroup(self.pod))
        if self._link is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._site.network, detach_pod, self._node.names.netns, self._link)
            self._node.addresses.free(self._link.address)
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    # -- what the pod tells the world

    def report(self) -> None:
        """The pod's status is what is known now."""
        status = pod_status(self.pod, self._place, self.inits, self.containers, self._site.wall())
        try:
            self.pod["status"] = part(set_status(self._site.cluster, "pods", self.pod, status), "status")
        except ApiError as exc:
            log.warning("pod status not written", extra={"key": name_of(self.pod), "error": exc.message})

    def _emit(self, reason: str, message: str, kind: str = "Normal") -> None:
        self._node.events.emit(self.pod, reason, message, kind)
