# SPDX-License-Identifier: Apache-2.0
"""The same question to every agent of one or several clusters, asked at once; who gives no answer is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec

import kube.resource as k
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.program_client import ProgramClient
from kube.errors import KubeError
from meshapi.installed import AGENT_SELECTOR
from meshkit.decoding import decode_as
from meshkit.refusal import read_refusal

AT_ONCE: Final = 16
_T = TypeVar("_T")


def agent_pods(programs: ProgramClient) -> list[tuple[str, str]]:
    """Node and pod of every agent, by node. Raises: KubeError."""
    pods: Iterable[dict[str, Any]] = programs.client.list(k.PODS, programs.namespace, AGENT_SELECTOR)
    return sorted((str(pod["spec"].get("nodeName", "")), str(pod["metadata"]["name"])) for pod in pods)


def chosen_agents(programs: ProgramClient, node: str | None) -> list[tuple[str, str]]:
    """Node and pod of every agent, or of the one that was named. Raises: CommandError where there is none."""
    found = agent_pods(programs)
    chosen = [pair for pair in found if node is None or pair[0] == node]
    if not chosen:
        there = ", ".join(name for name, _ in found) or "none; is the mesh enabled here?"
        raise CommandError(f"no agent{f' on node {node}' if node else ''}: there are {there}", ExitCode.DEGRADED)
    return chosen


def ask_agent(programs: ProgramClient, pod: str, path: str, answer: type[_T]) -> _T:
    """What one agent answers. Raises: CommandError (degraded) where it does not, or says no."""
    try:
        code, body = programs.get_agent(pod, path)
        if code != 200:
            raise CommandError(f"agent {pod} answered {code}: {read_refusal(body)}", ExitCode.DEGRADED)
        return decode_as(body, answer)
    except (KubeError, msgspec.DecodeError) as exc:
        raise CommandError(f"agent {pod} does not answer: {exc}", ExitCode.DEGRADED) from exc


def ask_all_agents(
    clusters: Mapping[str, ProgramClient], ask: Callable[[ProgramClient, str], _T]
) -> tuple[list[_T], list[str]]:
    """Answers, and a sentence for each agent or cluster without one."""
    found: list[_T] = []
    missing: list[str] = []
    places: list[tuple[ProgramClient, str, str]] = []
    for context, programs in clusters.items():
        try:
            pods = agent_pods(programs)
        except KubeError as exc:
            missing.append(f"{context}: {exc}")
            continue
        places += [(programs, node, pod) for node, pod in pods]
        if not pods:
            missing.append(f"{context}: there is no agent; is the mesh enabled there?")

    def one(place: tuple[ProgramClient, str, str]) -> _T | str:
        programs, node, pod = place
        try:
            return ask(programs, pod)
        except (CommandError, KubeError) as exc:
            return f"{node}: {exc}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for said in pool.map(one, places):
            if isinstance(said, str):
                missing.append(said)
            else:
                found.append(said)
    return found, missing
