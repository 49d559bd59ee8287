# SPDX-License-Identifier: Apache-2.0
"""Just enough of controllers and a kubelet for kubectl to have something to talk about.

Deployments keep a ReplicaSet per template, ReplicaSets keep pods, pods run at once; nothing of it is a process but the
commands of exec, which run on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator

import orjson

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError
from lab.devkube.api.objects import Obj, copy_object, is_deleting, name_of, namespace_of, part, timestamp, uid_of
from lab.devkube.api.runtime import ExecRequest, ExecSession, LogOptions, Output

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"


class FakeWorkloads:
    """Reconciles everything after every change, one round at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wake = asyncio.Event()
        self._address = 1
        cluster.create("nodes", {"metadata": {"name": "worker"}, "status": _node_status()})
        cluster.subscribe(lambda _event: self._wake.set())

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for reconcile in (self._deployments, self._replica_sets, self._pods):
                reconcile()
            await asyncio.sleep(0)

    def _deployments(self) -> None:
        for deployment in self._cluster.list("deployments", "apps"):
            with contextlib.suppress(ApiError):
                self._roll(deployment)

    def _roll(self, deployment: Obj) -> None:
        template = deployment["spec"]["template"]
        digest = hashlib.sha256(orjson.dumps(template, option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]
        owned = [r for r in self._cluster.list("replicasets", "apps") if _owner(r) == uid_of(deployment)]
        current = next((r for r in owned if r["metadata"]["labels"][HASH] == digest), None)
        newest = max((int(r["metadata"]["annotations"][REVISION]) for r in owned), default=0)
        if current is None:
            current = self._cluster.create("replicasets", _replica_set(deployment, digest, newest + 1), "apps")
        elif int(current["metadata"]["annotations"][REVISION]) < newest:
            current["metadata"]["annotations"][REVISION] = str(newest + 1)
        current["spec"]["replicas"] = deployment["spec"]["replicas"]
        current = self._cluster.update("replicasets", current, "apps")
        for old in owned:
            if uid_of(old) != uid_of(current):
                old["spec"]["replicas"] = 0
                self._cluster.update("replicasets", old, "apps")
        ready = part(current, "status").get("readyReplicas", 0)
        deployment["metadata"].setdefault("annotations", {})[REVISION] = current["metadata"]["annotations"][REVISION]
        deployment = self._cluster.update("deployments", deployment, "apps")
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": part(current, "status").get("replicas", 0),
            "updatedReplicas": part(current, "status").get("replicas", 0),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ],
        }
        self._cluster.update("deployments", deployment, "apps", "status")

    def _replica_sets(self) -> None:
        for replica_set in self._cluster.list("replicasets", "apps"):
            pods = [p for p in self._cluster.list("pods") if _owner(p) == uid_of(replica_set) and not is_deleting(p)]
            wanted = replica_set["spec"]["replicas"]
            for _ in range(wanted - len(pods)):
                with contextlib.suppress(ApiError):
                    self._cluster.create("pods", _pod(replica_set))
            for pod in pods[wanted:]:
                self._cluster.delete("pods", name_of(pod), namespace_of(pod))
            ready = sum(part(p, "status").get("phase") == "Running" for p in pods[:wanted])
            replica_set["status"] = {
                "replicas": wanted,
                "readyReplicas": ready,
                "availableReplicas": ready,
                "observedGeneration": replica_set["metadata"]["generation"],
            }
            with contextlib.suppress(ApiError):
                self._cluster.update("replicasets", replica_set, "apps", "status")

    def _pods(self) -> None:
        for pod in self._cluster.list("pods"):
            if is_deleting(pod):
                self._cluster.remove("pods", name_of(pod), namespace_of(pod))
            elif part(pod, "status").get("phase") != "Running":
                self._run(pod)

    def _run(self, pod: Obj) -> None:
        pod["spec"]["nodeName"] = "worker"
        bound = self._cluster.update("pods", pod)
        self._address += 1
        bound["status"] = _pod_status(bound, f"10.9.0.{self._address}", timestamp(self._cluster.wall()))
        self._cluster.update("pods", bound, subresource="status")


class FakeRuntime:
    """Commands run on this machine, logs are two lines, connections go to this machine's loopback."""

    async def exec(self, _pod: Obj, request: ExecRequest, stdout: Output, stderr: Output) -> ExecSession:
        if request.command[0] == "absent":
            raise ApiError(500, "InternalError", 'exec: "absent": executable file not found in $PATH')
        return await LocalProcess.start(request, stdout, stderr)

    async def logs(self, pod: Obj, options: LogOptions) -> AsyncIterator[bytes]:
        lines = [b"started\n", f"hello from {name_of(pod)}/{options.container}\n".encode()]
        for line in lines[-options.tail_lines :] if options.tail_lines else lines:
            yield line
        if options.follow:
            yield b"and on\n"

    async def open_connection(self, _host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port)


class LocalProcess:
    """An exec session on this machine."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int | None) -> None:
        self._process, self._terminal = process, terminal
        self._copies: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, request: ExecRequest, stdout: Output, stderr: Output) -> LocalProcess:
        pipe = asyncio.subprocess.PIPE
        if request.tty:
            terminal, inner = pty.openpty()
            process = await asyncio.create_subprocess_exec(
                "setsid", "--ctty", "--wait", *request.command, stdin=inner, stdout=inner, stderr=inner
            )
            os.close(inner)
            session = cls(process, terminal)
            session._copies = [asyncio.create_task(session._copy_terminal(stdout))]
            return session
        stdin = pipe if request.stdin else asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*request.command, stdin=stdin, stdout=pipe, stderr=pipe)
        session = cls(process, None)
        assert process.stdout is not None
        assert process.stderr is not None
        pairs = ((process.stdout, stdout), (process.stderr, stderr))
        session._copies = [asyncio.create_task(_copy(source, sink)) for source, sink in pairs]
        return session

    async def write(self, data: bytes) -> None:
        if self._terminal is not None:
            await asyncio.to_thread(os.write, self._terminal, data)
        elif self._process.stdin is not None:
            self._process.stdin.write(data)
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.drain()

    async def close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def resize(self, width: int, height: int) -> None:
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await asyncio.gather(*self._copies)
        code = await self._process.wait()
        if self._terminal is not None:
            os.close(self._terminal)
        return code if code >= 0 else 128 - code

    async def _copy_terminal(self, sink: Output) -> None:
        assert self._terminal is not None
        while True:
            try:
                data = await asyncio.to_thread(os.read, self._terminal, 65536)
            except OSError:  # the other side is closed
                return
            if not data:
                return
            await sink(data)


async def _copy(source: asyncio.StreamReader, sink: Output) -> None:
    while data := await source.read(65536):
        await sink(data)


def _owner(obj: Obj) -> str:
    references = obj["metadata"].get("ownerReferences") or [{}]
    return str(references[0].get("uid"))


def _reference(owner: Obj) -> Obj:
    named = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name_of(owner), "uid": uid_of(owner)}
    return named | {"controller": True, "blockOwnerDeletion": True}


def _replica_set(deployment: Obj, digest: str, revision: int) -> Obj:
    template, selector = copy_object(deployment["spec"]["template"]), copy_object(deployment["spec"]["selector"])
    template["metadata"].setdefault("labels", {})[HASH] = digest
    selector.setdefault("matchLabels", {})[HASH] = digest
    meta = {
        "name": f"{name_of(deployment)}-{digest}",
        "namespace": namespace_of(deployment),
        "labels": template["metadata"]["labels"],
        "annotations": {REVISION: str(revision)},
        "ownerReferences": [_reference(deployment)],
    }
    replicas = deployment["spec"]["replicas"]
    return {"metadata": meta, "spec": {"replicas": replicas, "selector": selector, "template": template}}


def _pod(replica_set: Obj) -> Obj:
    template = replica_set["spec"]["template"]
    meta = {
        "generateName": f"{name_of(replica_set)}-",
        "namespace": namespace_of(replica_set),
        "labels": template["metadata"]["labels"],
        "ownerReferences": [_reference(replica_set)],
    }
    return {"metadata": meta, "spec": template["spec"]}


def _pod_status(pod: Obj, address: str, now: str) -> Obj:
    conditions = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    containers = pod["spec"]["containers"]
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "172.18.0.3",
        "startTime": now,
        "conditions": [{"type": name, "status": "True", "lastTransitionTime": now} for name in conditions],
        "containerStatuses": [
            {"name": c["name"], "image": c["image"], "imageID": "", "ready": True, "started": True, "restartCount": 0}
            | {"state": {"running": {"startedAt": now}}}
            for c in containers
        ],
    }


def _node_status() -> Obj:
    return {
        "addresses": [{"type": "InternalIP", "address": "172.18.0.3"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        "nodeInfo": {"kubeletVersion": "v1.32.0-dev", "osImage": "Debian", "kernelVersion": "6"},
        "capacity": {"cpu": "2", "memory": "8Gi", "pods": "110"},
        "allocatable": {"cpu": "2", "memory": "8Gi", "pods": "110"},
    }
