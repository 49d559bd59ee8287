# SPDX-License-Identifier: Apache-2.0
"""`explain service`: what an agent says, whether its kernel does it, and what is said where nobody can say."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from connect_world import NS, WritableApi
from explain_world import listing

from clustermesh_cli.commands.explain_service import explain_service
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.program_client import ProgramClient
from kube.errors import Unreachable
from kube.transport import Query
from meshapi.row import encode
from meshapi.service import BackendStatus, RealizedFrontend, ServiceExplanation, ServiceStatus
from meshkit.answer_form import AnswerForm

FRONTEND = "10.0.0.1:80/TCP"
CHOSEN = BackendStatus(address="10.1.0.1", port=80, cluster="north", chosen=True, share=1.0, node="n1", zone="a")
OTHER = BackendStatus(address="10.2.0.9", port=80, cluster="south", reason="affinity local")


def explanation(*, matches: bool = True, problems: tuple[str, ...] = ()) -> ServiceExplanation:
    return ServiceExplanation(
        name="a/b",
        cluster="north",
        node="n2",
        rule="affinity local: local backends are available",
        frontends=[
            ServiceStatus(
                frontend=FRONTEND, type="ClusterIP", clients=["pods", "node"], name="a/b", backends=[CHOSEN, OTHER]
            )
        ],
        realized=[
            RealizedFrontend(frontend=FRONTEND, count=1, backends=["10.1.0.1:80"], realized=1.0, matches=matches)
        ],
        is_global=True,
        shared=True,
        problems=list(problems),
    )


@dataclass
class Agents(WritableApi):
    """North: the agent of n1 is silent, that of n2 knows a/b."""

    name: str = "north"
    answer: ServiceExplanation = field(default_factory=explanation)

    def __post_init__(self) -> None:
        super().__init__(self.name)
        pods = [
            {
                "metadata": {"name": f"agent-{n}", "labels": {"k8s-app": "clustermesh-agent"}},
                "spec": {"nodeName": f"n{n}"},
            }
            for n in (1, 2)
        ]
        self.answers[f"{NS}/pods"] = listing(*pods)
        self.answers[f"{NS}/pods/agent-2:9879/proxy/v1/services/a/b"] = encode(self.answer)

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: Any
    ) -> tuple[int, bytes]:
        if "/agent-1:" in path:
            raise Unreachable("GET", detail="timed out")
        return super().request(method, path, query=query, timeout_s=timeout_s, **given)


def run(
    service: str = "a/b", form: AnswerForm = AnswerForm.TABLE, node: str | None = None, api: Agents | None = None
) -> tuple[ExitCode, str]:
    stream = io.StringIO()
    programs = ProgramClient((api or Agents()).client("kind-north"), "kube-system")
    code = explain_service(programs, service, node, form, Console(plain=True, stream=stream))
    return code, stream.getvalue()


def test_every_backend_has_its_share_or_a_reason() -> None:
    code, text = run()
    assert code == ExitCode.OK
    assert text.splitlines() == [
        "service a/b of north, global, shared, from node n2",
        "rule    affinity local: local backends are available",
        "",
        "10.0.0.1:80/TCP (ClusterIP, for pods, node): 1 slot in the kernel, as decided",
        "BACKEND       CLUSTER   NODE   ZONE   STATE    SHARE    WHY NOT",
        "10.1.0.1:80   north     n1     a      active   100.0%   -",
        "10.2.0.9:80   south     -      -      active   -        affinity local",
    ]
    document = msgspec.json.decode(run(form=AnswerForm.JSON)[1])
    assert (document["schema"], document["node"], document["frontends"][0]["backends"][1]["reason"]) == (
        1, "n2", "affinity local",
    )  # fmt: skip


def test_a_kernel_that_does_something_else_and_a_problem_are_not_whole() -> None:
    code, text = run(api=Agents(answer=explanation(matches=False)))
    assert code == ExitCode.DEGRADED
    assert "1 slot in the kernel, NOT as decided: 10.1.0.1:80" in text
    code, text = run(api=Agents(answer=explanation(problems=("port 90/SCTP does not lead to other clusters",))))
    assert code == ExitCode.DEGRADED
    assert text.splitlines()[-1] == "WARN port 90/SCTP does not lead to other clusters"


@pytest.mark.parametrize(
    ("service", "node", "code", "said"),
    [
        ("b", None, ExitCode.USAGE, "expected namespace/name"),
        ("a/c", "n2", ExitCode.USAGE, "no service of that name is balanced here"),
        ("a/b", "n1", ExitCode.DEGRADED, "agent of n1 does not answer"),
        ("a/b", "n9", ExitCode.DEGRADED, "no agent on node n9: there are n1, n2"),
    ],
)
def test_what_nobody_can_say_is_an_error(service: str, node: str | None, code: ExitCode, said: str) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        run(service, node=node)
    assert caught.value.code == code
