# SPDX-License-Identifier: Apache-2.0
"""The life of one container: its image, its starts, its probes, its ends and what comes after them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lab.devkube.api.objects import Obj, name_of, namespace_of, part, uid_of
from lab.devkube.controllers.events import NORMAL, WARNING
from lab.devkube.kubelet.backoff import RestartDelays
from lab.devkube.kubelet.environment import MissingSourceError
from lab.devkube.kubelet.probe import ProbeOutcome, ProbeTarget, ask_once, watch
from lab.devkube.kubelet.process import ContainerProcess, Launch, start
from lab.devkube.kubelet.record import ContainerRecord, Running, Terminated, Waiting, should_restart
from lab.images.table import Image
from meshkit.task_group import TaskGroup

CONFIG_RETRY_S: Final = 1.0
PULL_RETRY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container needs of its pod. `launch` raises MissingSourceError while something it refers to is absent."""

    pod: Callable[[], Obj]
    find_image: Callable[[str], Image | None]
    launch: Callable[[ContainerRecord, Image], Launch]
    report: Callable[[], None]
    emit: Callable[[str, str, str], None]
    wall: Callable[[], float]
    address: str
    node_netns: str


class ContainerLife:
    """Runs one container according to its pod's restart policy. `process` is its present or last run."""

    def __init__(self, record: ContainerRecord, around: Surroundings, *, policy: str) -> None:
        self.record, self._around, self._policy = record, around, policy
        self.process: ContainerProcess | None = None
        self._image: Image | None = None
        self._delays = RestartDelays()

    async def run(self) -> None:
        """Returns when the container has ended and is not to be started again."""
        while True:
            process = await self._start()
            ended = await self._observe(process)
            self.record.ready = self.record.started = False
            self.record.state = ended
            if not should_restart(self._policy, ended.code):
                self._around.report()
                return
            await self._wait_before_restart(ended)

    async def stop(self, grace_s: float) -> None:
        """The container has ended, by itself if it managed within the grace period."""
        if self.process is None or not self.process.is_running:
            return
        self._emit("Killing", f"Stopping container {self.record.name}")
        before_s = asyncio.get_running_loop().time()
        await self._before_stop(grace_s)
        left_s = max(0.0, grace_s - (asyncio.get_running_loop().time() - before_s))
        name = self._image.stop_signal if self._image else "SIGTERM"
        await self.process.stop(left_s, signal.Signals[name])

    async def _before_stop(self, grace_s: float) -> None:
        hook = part(part(self.record.spec, "lifecycle"), "preStop")
        if "sleep" in hook:
            await asyncio.sleep(min(grace_s, float(hook["sleep"].get("seconds", 0))))
        elif hook and self.process is not None:
            target = ProbeTarget(self.process, self.record.spec, self._around.address, self._around.node_netns)
            await ask_once({**hook, "timeoutSeconds": max(1.0, grace_s)}, target)

    async def _start(self) -> ContainerProcess:
        image = self._image = await self._pull()
        while True:
            try:
                launch = self._around.launch(self.record, image)
                break
            except MissingSourceError as exc:
                self._wait("CreateContainerConfigError", str(exc))
                self._emit("Failed", f"Error: {exc}", WARNING)
                await asyncio.sleep(CONFIG_RETRY_S)
        self.record.runs += 1
        self._emit("Created", f"Created container: {self.record.name}")
        self.process = await start(launch)
        self._emit("Started", f"Started container {self.record.name}")
        self.record.state = Running(self._around.wall())
        self.record.started = "startupProbe" not in self.record.spec
        self.record.ready = self.record.started and "readinessProbe" not in self.record.spec
        self._around.report()
        return self.process

    async def _pull(self) -> Image:
        """The image; a name that is in no registry of ours is asked for again and again, as a kubelet does."""
        name = self.record.image
        while (image := self._around.find_image(name)) is None:
            why = f'failed to pull and resolve image "{name}": not found'
            self._emit("Pulling", f'Pulling image "{name}"')
            self._emit("Failed", f'Failed to pull image "{name}": {why}', WARNING)
            self._emit("Failed", "Error: ErrImagePull", WARNING)
            self._wait("ErrImagePull", why)
            await asyncio.sleep(CONFIG_RETRY_S)
            self._emit("BackOff", f'Back-off pulling image "{name}"')
            self._emit("Failed", "Error: ImagePullBackOff", WARNING)
            self._wait("ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {why}')
            await asyncio.sleep(PULL_RETRY_S)
        if not self.record.runs:
            self._emit("Pulled", f'Container image "{name}" already present on machine')
        return image

    async def _observe(self, process: ContainerProcess) -> Terminated:
        started_s = self._around.wall()
        async with TaskGroup() as group:
            probes = group.create_task(self._probe(process), name=f"probes-{self.record.name}")
            code = await process.wait()
            probes.cancel()
        return Terminated(code, started_s, self._around.wall())

    async def _wait_before_restart(self, ended: Terminated) -> None:
        delay_s = self._delays.next(ended.finished_s - ended.started_s)
        self.record.last = ended
        if delay_s:
            self._around.report()
            pod = self._around.pod()
            which = f"container={self.record.name} pod={name_of(pod)}_{namespace_of(pod)}({uid_of(pod)})"
            self._wait("CrashLoopBackOff", f"back-off {delay_s:g}s restarting failed {which}")
            name = f"{self.record.name} in pod {name_of(pod)}_{namespace_of(pod)}({uid_of(pod)})"
            self._emit("BackOff", f"Back-off restarting failed container {name}", WARNING)
            await asyncio.sleep(delay_s)
        self.record.restarts += 1

    async def _probe(self, process: ContainerProcess) -> None:
        spec = self.record.spec
        target = ProbeTarget(process, spec, self._around.address, self._around.node_netns)
        if "startupProbe" in spec:
            if not await self._watch("startupProbe", "Startup", target, verdict=False, gives_up=True):
                await self._kill(process, "failed startup probe, will be restarted")
                return
            self.record.started = True
            self.record.ready = "readinessProbe" not in spec
            self._around.report()
        async with TaskGroup() as group:
            if "readinessProbe" in spec:
                group.create_task(self._probe_readiness(target))
            if "livenessProbe" in spec:
                group.create_task(self._probe_liveness(process, target))

    async def _probe_readiness(self, target: ProbeTarget) -> None:
        while True:
            self.record.ready = await self._watch("readinessProbe", "Readiness", target, verdict=self.record.ready)
            self._around.report()

    async def _probe_liveness(self, process: ContainerProcess, target: ProbeTarget) -> None:
        await self._watch("livenessProbe", "Liveness", target, verdict=True)
        await self._kill(process, "failed liveness probe, will be restarted")

    async def _watch(
        self, field: str, word: str, target: ProbeTarget, *, verdict: bool, gives_up: bool = False
    ) -> bool:
        probe = self.record.spec[field]
        failures = 0

        def note(answer: ProbeOutcome) -> None:
            nonlocal failures
            failures = 0 if answer.ok else failures + 1
            # a program that is not listening yet is no news
            if not answer.ok and (verdict or failures > int(probe.get("failureThreshold", 3))):
                self._emit("Unhealthy", f"{word} probe failed: {answer.message}", WARNING)

        async def ask() -> ProbeOutcome:
            return await ask_once(probe, target)

        if not gives_up:
            return await watch(probe, ask, note, verdict=verdict, eager=field == "readinessProbe" and not verdict)
        limit_s = float(probe.get("initialDelaySeconds", 0)) + float(probe.get("periodSeconds", 10)) * int(
            probe.get("failureThreshold", 3)
        )
        try:
            async with asyncio.timeout(limit_s):
                return await watch(probe, ask, note, verdict=False, eager=True)
        except TimeoutError:
            return False

    async def _kill(self, process: ContainerProcess, why: str) -> None:
        self._emit("Killing", f"Container {self.record.name} {why}")
        await process.stop(float(self._around.pod()["spec"].get("terminationGracePeriodSeconds", 30)))

    def _wait(self, reason: str, message: str) -> None:
        self.record.state = Waiting(reason, message)
        self._around.report()

    def _emit(self, reason: str, message: str, kind: str = NORMAL) -> None:
        self._around.emit(reason, message, kind)
