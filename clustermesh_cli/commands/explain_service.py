# SPDX-License-Identifier: Apache-2.0
"""`clustermesh explain service`: where a service's connections go from one node, why, and whether its kernel does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from clustermesh_cli.agent_answers import chosen_agents
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.listed_rows import table_lines
from clustermesh_cli.program_client import ProgramClient
from kube.errors import KubeError
from meshapi.service import RealizedFrontend, ServiceExplanation, ServiceStatus
from meshkit.answer_form import AnswerForm
from meshkit.decoding import decode_as
from meshkit.refusal import read_refusal
from meshmodel.address import place_of
from meshmodel.errors import ModelError
from meshmodel.names import ServiceName

HEAD: Final = ("BACKEND", "CLUSTER", "NODE", "ZONE", "STATE", "SHARE", "WHY NOT")


def explain_service(
    programs: ProgramClient, service: str, node: str | None, form: AnswerForm, console: Console
) -> ExitCode:
    """Print what one agent says; degraded while its maps hold something else, or the service asks for what is not done.

    Raises: CommandError (usage) for what is no service's name, and for one that the cluster does not have.
    """
    try:
        name = ServiceName.parse(service)
    except ModelError as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from None
    found = _ask(programs, name, node)
    print_answer(found, _lines(found), form, console)
    if form is AnswerForm.TABLE:
        for problem in found.problems:
            console.warn(problem)
    is_whole = all(realized.matches for realized in found.realized) and not found.problems
    return ExitCode.OK if is_whole else ExitCode.DEGRADED


def _ask(programs: ProgramClient, name: ServiceName, node: str | None) -> ServiceExplanation:
    """The first agent that answers decides: all of them know the same services."""
    import msgspec

    said = ""
    for where, pod in chosen_agents(programs, node):
        try:
            code, body = programs.get_agent(pod, f"v1/services/{name}")
            if code == 200:
                return decode_as(body, ServiceExplanation)
        except (KubeError, msgspec.DecodeError) as exc:
            said = f"agent of {where} does not answer: {exc}"
            continue
        if code == 404:
            what = "no service of that name is balanced here; headless and ExternalName ones are DNS only"
            raise CommandError(f"{name}: {what}", ExitCode.USAGE)
        said = f"agent of {where} answered {code}: {read_refusal(body)}"
    raise CommandError(said, ExitCode.DEGRADED)


def _lines(found: ServiceExplanation) -> Iterator[str]:
    kind = f"global, {'shared' if found.shared else 'not shared'}" if found.is_global else "not global"
    yield f"service {found.name} of {found.cluster}, {kind}, from node {found.node}"
    yield f"rule    {found.rule}"
    realized = {row.frontend: row for row in found.realized}
    for frontend in found.frontends:
        yield ""
        clients = f", for {', '.join(frontend.clients)}" if frontend.clients else ""
        yield f"{frontend.frontend} ({frontend.type}{clients}): {_kernel_text(realized.get(frontend.frontend))}"
        yield from table_lines((HEAD, _cells(frontend))) if frontend.backends else ("no backend in any cluster",)


def _cells(frontend: ServiceStatus) -> list[tuple[str, ...]]:
    return [
        (
            place_of(b.address, b.port),
            b.cluster,
            b.node or "-",
            b.zone or "-",
            b.state,
            f"{b.share:.1%}" if b.chosen else "-",
            b.reason or "-",
        )
        for b in frontend.backends
    ]


def _kernel_text(realized: RealizedFrontend | None) -> str:
    if realized is None or (not realized.count and not realized.realized):
        return "the kernel of the node does not have it"
    slots = f"{realized.count} slot{'' if realized.count == 1 else 's'} in the kernel"
    return f"{slots}, as decided" if realized.matches else f"{slots}, NOT as decided: {', '.join(realized.backends)}"
