# SPDX-License-Identifier: Apache-2.0
"""Commands in pods, as far as both transports share it: what to run, where, and how its end is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError, bad_request, no_such_path
from lab.devkube.api.objects import Obj, items_of, metadata, name_of, part
from lab.devkube.api.routes import find_target
from lab.devkube.api.runtime import ExecRequest

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


@dataclass(frozen=True, slots=True)
class ExecCall:
    """A command and the pod it is meant for."""

    pod: Obj
    request: ExecRequest


def parse_exec(cluster: Cluster, path: str, query: Mapping[str, list[str]]) -> ExecCall:
    """Raises ApiError if the path names no running pod's exec, or the query no command."""
    target = find_target(cluster.catalog, path)
    if target.subresource != "exec":
        raise no_such_path()
    pod = cluster.find(target.resource, target.namespace or "", target.name)
    phase = part(pod, "status").get("phase")
    if phase in ("Succeeded", "Failed"):
        raise bad_request(f"cannot exec into a container in a completed pod; current phase is {phase}")
    if not part(pod, "spec").get("nodeName"):
        raise bad_request(f"pod {name_of(pod)} does not have a host assigned")
    command = tuple(query.get("command", ()))
    if not command:
        raise bad_request("you must specify at least one command for the container")

    def flag(name: str) -> bool:
        return query.get(name, ["false"])[-1].lower() in ("true", "1")

    container = container_of(pod, query.get("container", [""])[-1])
    return ExecCall(pod, ExecRequest(container, command, flag("tty"), flag("stdin"), flag("stdout"), flag("stderr")))


def container_of(pod: Obj, asked: str) -> str:
    """The container's name; the pod's default one if none is asked for. Raises ApiError 400 if there is no such one."""
    spec = part(pod, "spec")
    names = [str(c["name"]) for c in (*items_of(spec, "containers"), *items_of(spec, "initContainers"))]
    if not asked:
        marked = part(metadata(pod), "annotations").get(DEFAULT_CONTAINER)
        return marked if marked in names else names[0]
    if asked not in names:
        raise bad_request(f"container {asked} is not valid for pod {name_of(pod)}")
    return asked


def exit_status(code: int) -> Obj:
    """The Status object that ends a session; clients take the exit code from it."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failure_status(error: ApiError | OSError) -> Obj:
    """The Status object for a command that could not be started."""
    if isinstance(error, ApiError):
        return error.status()
    return ApiError(500, "InternalError", f"error executing command in container: {error}").status()
