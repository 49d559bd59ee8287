# SPDX-License-Identifier: Apache-2.0
"""What the kubelet knows about one container, and the pod status that follows from it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lab.devkube.api.objects import Obj, items_of, part, timestamp
from lab.devkube.controllers.desired import condition


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not running yet, or not running again yet."""

    reason: str = "ContainerCreating"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    started_s: float


@dataclass(frozen=True, slots=True)
class Terminated:
    """Ended. `code` counts as a shell does: 128 and the signal's number where a signal ended it."""

    code: int
    started_s: float
    finished_s: float
    reason: str = ""


State: TypeAlias = Waiting | Running | Terminated


@dataclass(slots=True)
class ContainerRecord:
    """One container of a pod as it goes through its restarts. `ready` and `started` are the probes' verdicts."""

    spec: Obj
    state: State = field(default_factory=Waiting)
    last: Terminated | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    runs: int = 0

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def image(self) -> str:
        return str(self.spec["image"])


@dataclass(frozen=True, slots=True)
class PodPlace:
    """Where a pod is: its address (empty before it has one) and its node's."""

    address: str
    host_address: str
    started_s: float


def should_restart(policy: str, code: int) -> bool:
    """Whether a container that ended with this code is started again."""
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def phase(pod: Obj, inits: Sequence[ContainerRecord], containers: Sequence[ContainerRecord]) -> str:
    """The pod's phase: one word for all of its containers."""
    policy = pod["spec"].get("restartPolicy", "Always")
    if any(
        isinstance(r.state, Terminated) and r.state.code and not should_restart(policy, r.state.code) for r in inits
    ):
        return "Failed"
    if any(not isinstance(record.state, Terminated) for record in inits):
        return "Pending"
    ended = [record.state for record in containers if isinstance(record.state, Terminated)]
    if len(ended) == len(containers) and not any(should_restart(policy, state.code) for state in ended):
        return "Failed" if any(state.code for state in ended) else "Succeeded"
    started = any(record.runs for record in containers)
    return "Running" if started else "Pending"


def pod_status(
    pod: Obj, place: PodPlace, inits: Sequence[ContainerRecord], containers: Sequence[ContainerRecord], now_s: float
) -> Obj:
    """The whole status object of the pod."""
    before = part(pod, "status")
    now_phase = phase(pod, inits, containers)
    initialized = all(isinstance(record.state, Terminated) and record.state.code == 0 for record in inits)
    unready = [record.name for record in containers if not record.ready]
    gates = [gate["conditionType"] for gate in items_of(pod["spec"], "readinessGates")]
    held = [c.get("type") for c in items_of(before, "conditions") if c.get("status") == "True"]
    ready = not unready and all(gate in held for gate in gates)
    why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
    if now_phase in ("Succeeded", "Failed"):
        why = {"reason": "PodCompleted" if now_phase == "Succeeded" else "PodFailed"}
    conditions = [
        condition(before, "PodScheduled", now_s, holds=True),
        condition(before, "Initialized", now_s, holds=initialized),
        condition(before, "ContainersReady", now_s, holds=not unready, **({} if not unready else why)),
        condition(before, "Ready", now_s, holds=ready, **({} if ready else why)),
    ]
    own = {entry["type"] for entry in conditions}
    conditions += [entry for entry in items_of(before, "conditions") if entry["type"] not in own]
    status = {
        "phase": now_phase,
        "conditions": conditions,
        "hostIP": place.host_address,
        "hostIPs": [{"ip": place.host_address}],
        "podIP": place.address,
        "podIPs": [{"ip": place.address}] if place.address else [],
        "startTime": timestamp(place.started_s),
        "qosClass": before.get("qosClass"),
        "initContainerStatuses": [_container_status(record) for record in inits],
        "containerStatuses": [_container_status(record) for record in containers],
    }
    return {key: value for key, value in status.items() if value not in (None, "", [])}


def _container_status(record: ContainerRecord) -> Obj:
    return {
        "name": record.name,
        "image": record.image,
        "imageID": f"lab://{record.image}" if record.runs else "",
        "containerID": f"process://{record.name}/{record.runs}" if record.runs else "",
        "ready": record.ready,
        "started": record.started,
        "restartCount": record.restarts,
        "state": _state(record.state),
        "lastState": _state(record.last) if record.last else {},
    }


def _state(state: State) -> Obj:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        case Running(started_s):
            return {"running": {"startedAt": timestamp(started_s)}}
        case Terminated(code, started_s, finished_s, reason):
            return {
                "terminated": {
                    "exitCode": code,
                    "reason": reason or ("Completed" if code == 0 else "Error"),
                    "startedAt": timestamp(started_s),
                    "finishedAt": timestamp(finished_s),
                }
            }
