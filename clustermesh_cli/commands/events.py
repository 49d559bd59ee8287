# SPDX-License-Identifier: Apache-2.0
"""`clustermesh events`: what the programs of one or several clusters kept, and what they wrote to Kubernetes, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlencode

import msgspec

import kube.resource as k
from clustermesh_cli.agent_answers import AT_ONCE, agent_pods
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.listed_rows import table_lines
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.told_events import HEAD, EventWish, ToldEvents, event_cells, from_kubernetes, read_lines
from kube.errors import KubeError
from meshapi.event import EventKind, MeshEvent, in_order
from meshapi.installed import APISERVER, CLUSTER_NAME_KEY
from meshkit.answer_form import AnswerForm
from meshkit.refusal import read_refusal

PATH: Final = "v1/events"
Ask = Callable[[], list[MeshEvent]]


def events(clusters: Mapping[str, ProgramClient], wish: EventWish, form: AnswerForm, console: Console) -> ExitCode:
    """Print what there is; degraded where a program does not tell."""
    found: list[MeshEvent] = []
    missing: list[str] = []
    asks = [pair for context, programs in clusters.items() for pair in _asks(context, programs, wish, missing)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for told in pool.map(lambda pair: _try(*pair), asks):
            if isinstance(told, str):
                missing.append(told)
            else:
                found += told
    answer = ToldEvents(items=in_order(found)[-wish.limit :] if wish.limit else [], missing=missing)
    print_answer(answer, table_lines((HEAD, [event_cells(event) for event in answer.items])), form, console)
    if form is AnswerForm.TABLE:
        for sentence in missing:
            console.fail(sentence)
    return ExitCode.DEGRADED if missing else ExitCode.OK


def _asks(context: str, programs: ProgramClient, wish: EventWish, missing: list[str]) -> Iterable[tuple[str, Ask]]:
    """Everybody in one cluster who may tell something. A cluster that does not answer is missing as a whole."""
    try:
        pods, name = agent_pods(programs), cluster_name(programs)
    except KubeError as exc:
        missing.append(f"{context}: {exc}")
        return
    path = f"{PATH}?{urlencode(wish.query())}"
    if wish.kind in ("", EventKind.OBJECT):
        yield f"{context}: Kubernetes Events", lambda: kubernetes_events(programs, name, wish)
    if wish.kind == EventKind.OBJECT:
        return
    yield f"{context}: {APISERVER}", lambda: _read(*programs.get_apiserver(path))
    for node, pod in pods:
        yield f"{context}: agent of {node}", lambda pod=pod: _read(*programs.get_agent(pod, path))  # type: ignore[misc]


def cluster_name(programs: ProgramClient) -> str:
    """What the cluster is called in the mesh. Raises: KubeError."""
    return read_config(programs.client, programs.namespace).get(CLUSTER_NAME_KEY, "")


def kubernetes_events(programs: ProgramClient, cluster: str, wish: EventWish) -> list[MeshEvent]:
    """What our programs wrote about objects of all namespaces. Raises: KubeError."""
    return [event for event in from_kubernetes(cluster, programs.client.list(k.EVENTS)) if wish.admits(event)]


def _read(code: int, body: bytes) -> list[MeshEvent]:
    if code != 200:
        raise CommandError(f"answered {code}: {read_refusal(body)}")
    return read_lines(body)


def _try(who: str, ask: Ask) -> list[MeshEvent] | str:
    try:
        return ask()
    except (CommandError, KubeError, msgspec.DecodeError) as exc:
        return f"{who}: {exc}"
